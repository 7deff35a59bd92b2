"""What every engine must answer when keys were deleted: rows of theirs that were known by then are
as if they had never been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US, Erased, Latest
from featurestore.dtypes import INT64
from featurestore.engines.base import Engine
from featurestore.testing.compare import (
    LEFT,
    as_of_expected,
    as_of_input,
    as_of_rel,
    check_same_rows,
    run,
    scan,
    stamped,
)
from featurestore.testing.data import (
    Case,
    Choose,
    make_case,
    parquet_files,
    seeded,
    to_array,
    write_case,
    write_parquet,
)
from featurestore.testing.oracle import Key, Row, erase, latest

UNTIL = "until us"
PARTS, SEEDS = 4, range(60)
Deletion = tuple[tuple[Key, ...], int]


def deletions_of(choose: Choose, case: Case) -> list[Deletion]:
    """Some keys of the case, deleted just when a row became known, or 1 µs beside."""
    rows = case.settled()
    keys = sorted({row.key for row in rows}, key=repr)
    instants = sorted({row.known_us for row in rows}) or [0]
    found = []
    for _ in range(choose((1, 1, 2))):
        chosen = tuple(key for key in keys if choose((True, False)))
        found.append((chosen, choose(instants) + choose((0, 0, 1, -1))))
    return found


def erased(folder: Path, case: Case, deletions: Sequence[Deletion]) -> Erased:
    """The deletions as files, one each."""
    names = case.shape.keys
    dtypes = {name: case.dtypes[name] for name in names} | {UNTIL: INT64}
    paths = []
    for number, (keys, until_us) in enumerate(deletions):
        columns = {
            name: to_array([key[position] for key in keys], case.dtypes[name])
            for position, name in enumerate(names)
        }
        columns[UNTIL] = to_array([until_us] * len(keys), INT64)
        paths.append(write_parquet(folder / f"deleted-{number}.parquet", columns))
    return Erased(rows=scan(parquet_files(paths, dtypes), dtypes), keys=names, known_until_us=UNTIL)


def left_of(case: Case, deletions: Sequence[Deletion]) -> list[Row]:
    """The case's rows after the deletions, by the oracle."""
    rows = case.settled()
    for keys, at_us in deletions:
        rows = erase(rows, keys, at_us)
    return rows


class DeletionsContract:
    """Rows of deleted keys. Subclasses give the fixture `engine`."""

    @pytest.mark.parametrize("part", range(PARTS))
    def test_deleted_keys_agree_with_the_oracle(
        self, engine: Engine, tmp_path: Path, part: int
    ) -> None:
        erasing = 0
        for seed in SEEDS[part::PARTS]:
            choose = seeded(seed)
            case = make_case(choose)
            if not case.shape.keys:
                continue
            deletions = deletions_of(choose, case)
            rows = left_of(case, deletions)
            erasing += len(rows) < len(case.settled())
            files, gone = write_case(case, tmp_path), erased(tmp_path, case, deletions)
            join = as_of_rel(case, files)
            join = replace(join, right=replace(join.right, erased=(gone,)))
            found = run(engine, join, inputs={LEFT: as_of_input(case)})
            check_same_rows(found, as_of_expected(case, rows), (case, deletions))
            source = replace(stamped(scan(files, case.dtypes), case.shape), erased=(gone, gone))
            expected = [
                {**r.values, EVENT_US: r.event_us, CREATED_US: r.created_us, DELETED: r.deleted}
                for r in latest(rows, **case.bounds).values()
            ]
            newest = run(engine, Latest(input=source, **case.bounds))
            check_same_rows(newest, expected, (case, deletions))
        assert erasing, "some deletion must have deleted something"

    def test_a_part_of_a_composite_key(self, engine: Engine, tmp_path: Path) -> None:
        """Deleting by one column of two takes every key that holds it."""
        for seed in range(200):
            case = make_case(seeded(seed), rows_max=40)
            if len(case.shape.keys) == 2 and len(case.settled()) > 9:
                break
        rows, files = case.settled(), write_case(case, tmp_path)
        part, until_us = rows[0].key[0], max(row.known_us for row in rows[:5])
        name = case.shape.keys[0]
        columns = {name: to_array([part], case.dtypes[name]), UNTIL: to_array([until_us], INT64)}
        path = write_parquet(tmp_path / "deleted.parquet", columns)
        dtypes = {name: case.dtypes[name], UNTIL: INT64}
        gone = Erased(
            rows=scan(parquet_files([path], dtypes), dtypes), keys=(name,), known_until_us=UNTIL
        )
        source = replace(stamped(scan(files, case.dtypes), case.shape), erased=(gone,))
        left = [row for row in rows if row.key[0] != part or row.known_us > until_us]
        assert len(left) < len(rows)
        assert len(run(engine, source)) == len(left)

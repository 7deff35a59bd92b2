"""The oracle must be able to fail: each planted bug is caught by a comparison of the contract.

A bug is a rewriting of the relation (or of its input) before a right engine runs it, as if the
engine had translated it wrongly. The cases are the very ones that `EngineContract` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore.compiler.rel import (
    AsOfJoin,
    Derive,
    Filter,
    Latest,
    Project,
    Rel,
    Scan,
    Stamped,
)
from featurestore.config import OfflineSettings
from featurestore.definitions.expression import Call, Case, Column, Expression, Literal
from featurestore.dtypes import BOOL, INT64, TIMESTAMP, DType
from featurestore.engines.base import BATCH_ROWS, Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.testing.compare import compare_as_of, compare_latest
from featurestore.testing.data import make_case, seeded
from featurestore.testing.engine_joins import AS_OF_SEEDS
from featurestore.testing.engine_latest import LATEST_SEEDS

Tables = Mapping[str, pa.Table] | None


class BuggedEngine:
    """`engine`, but every relation and input is rewritten first."""

    def __init__(
        self,
        engine: Engine,
        *,
        rewrite: Callable[[Any], Rel] = lambda rel: rel,
        data: Callable[[pa.Table], pa.Table] = lambda table: table,
    ) -> None:
        self._engine = engine
        self._rewrite = rewrite
        self._data = data

    def stream(
        self, rel: Rel, *, inputs: Tables = None, batch_rows: int = BATCH_ROWS
    ) -> pa.RecordBatchReader:
        changed = {name: self._data(table) for name, table in (inputs or {}).items()}
        bugged = Project(input=self._rewrite(rel), columns={name: name for name in rel.schema})
        return self._engine.stream(bugged, inputs=changed, batch_rows=batch_rows)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("spill")
    with DuckDBEngine.open(OfflineSettings(threads=1), temp_directory=str(folder)) as opened:
        yield opened


# --- ways to be wrong -----------------------------------------------------------------------------


def right(**changes: Any) -> Callable[[AsOfJoin | Latest], Rel]:
    """Other facts about the source's rows."""

    def rewrite(rel: AsOfJoin | Latest) -> Rel:
        if isinstance(rel, AsOfJoin):
            return replace(rel, right=replace(rel.right, **changes))
        return replace(rel, input=replace(rel.input, **changes))

    return rewrite


def on_source(change: Callable[[Stamped], Stamped]) -> Callable[[AsOfJoin | Latest], Rel]:
    """Other rows of the source."""

    def rewrite(rel: AsOfJoin | Latest) -> Rel:
        if isinstance(rel, AsOfJoin):
            return replace(rel, right=change(rel.right))
        return replace(rel, input=change(rel.input))

    return rewrite


def moved(**by_us: int) -> Callable[[Any], Rel]:
    """Bounds (where they are given) moved by so many µs."""

    def rewrite(rel: Any) -> Rel:
        given = {name: getattr(rel, name) for name in by_us}
        changes = {n: value + by_us[n] for n, value in given.items() if value is not None}
        return replace(rel, **changes)  # type: ignore[no-any-return]

    return rewrite


def asked(by_us: int) -> Callable[[AsOfJoin], Rel]:
    """The request time moved by so many µs."""

    def rewrite(rel: AsOfJoin) -> Rel:
        time = Call("add", (Column(rel.left_time), Literal(by_us, INT64)))
        left = Derive(input=rel.left, columns={"moved": (time, INT64)})
        return replace(rel, left=left, left_time="moved")

    return rewrite


def only(predicate: Callable[[Stamped], Expression | None]) -> Callable[[AsOfJoin | Latest], Rel]:
    """Only the source's rows for which a predicate is true."""

    def change(rows: Stamped) -> Stamped:
        wanted = predicate(rows)
        return (
            rows
            if wanted is None
            else replace(rows, input=Filter(input=rows.input, predicate=wanted))
        )

    return on_source(change)


def has_created_time(rows: Stamped) -> Expression | None:
    if rows.created_time is None:
        return None
    return Call("not", (Call("is_null", (Column(rows.created_time),)),))


def is_no_tombstone(rows: Stamped) -> Expression | None:
    if rows.op is None:
        return None
    op = Call("coalesce", (Column(rows.op), Literal("U", rows.schema[rows.op])))
    return Call("ne", (op, Literal("D", rows.schema[rows.op])))


def null_is_highest(rows: Stamped) -> Stamped:
    nulls = {f"null {name}": name for name in rows.tiebreak}
    columns: dict[str, tuple[Expression, DType]] = {
        null: (Call("is_null", (Column(name),)), BOOL) for null, name in nulls.items()
    }
    tiebreak = tuple(part for pair in nulls.items() for part in pair)
    return replace(rows, input=Derive(input=rows.input, columns=columns), tiebreak=tiebreak)


def created_time_only_delays(rows: Stamped) -> Stamped:
    """Rows become known at the created time, but equal event times are not ordered by it."""
    if rows.created_time is None:
        return rows
    event, created = Column(rows.event_time), Column(rows.created_time)
    known = Case(((Call("gt", (created, event)), created),), event)
    derived = Derive(input=rows.input, columns={"known at": (known, TIMESTAMP)})
    return replace(rows, input=derived, created_time="known at")


def without_last_key(rel: AsOfJoin) -> Rel:
    if len(rel.keys) < 2:
        return rel
    kept = dict(list(rel.keys.items())[:-1])
    return replace(rel, keys=kept, right=replace(rel.right, keys=tuple(kept.values())))


def first_file_only(rows: Stamped) -> Stamped:
    assert isinstance(rows.input, Scan)
    files = replace(rows.input.files, paths=rows.input.files.paths[:1])
    return replace(rows, input=replace(rows.input, files=files))


def ttl_as_grace(rel: AsOfJoin) -> Rel:
    return replace(rel, grace_us=rel.ttl_us)


def without_repetitions(table: pa.Table) -> pa.Table:
    return table.group_by(table.column_names).aggregate([])


def without_null_keys(table: pa.Table) -> pa.Table:
    return table.drop_null()


SOURCE_BUGS: dict[str, Callable[[Any], Rel]] = {
    "the created time is ignored": right(created_time=None),
    "ties are not broken": right(tiebreak=()),
    "NULL is the highest in a tie": on_source(null_is_highest),
    "tiebreak columns are read backwards": on_source(
        lambda rows: replace(rows, tiebreak=rows.tiebreak[::-1])
    ),
    "tombstones are rows": right(op=None),
    "tombstones are dropped": only(is_no_tombstone),
    "rows without a created time are dropped": only(has_created_time),
    "only the first file is read": on_source(first_file_only),
    "the created time does not order equal event times": on_source(created_time_only_delays),
}
AS_OF_BUGS = SOURCE_BUGS | {
    "the ttl is not checked": lambda rel: replace(rel, ttl_us=None, grace_us=None),
    "the ttl excludes its end": moved(ttl_us=-1, grace_us=1),
    "the ttl is 1 µs too long": moved(ttl_us=1, grace_us=-1),
    "the grace excludes its end": moved(grace_us=-1),
    "the grace is 1 µs too long": moved(grace_us=1),
    "the grace is forgotten": lambda rel: replace(rel, grace_us=0 if rel.ttl_us else None),
    "the grace is always the ttl": ttl_as_grace,
    "the request time is excluded": asked(-1),
    "the request time is 1 µs too late": asked(1),
    "late rows leak": lambda rel: replace(rel, as_of="event"),
    "late rows never leak": lambda rel: replace(rel, as_of="known"),
    "known_until is ignored": lambda rel: replace(rel, known_until_us=None),
    "known_until excludes its end": moved(known_until_us=-1),
    "known_until is 1 µs too late": moved(known_until_us=1),
    "a part of the key is forgotten": without_last_key,
}
INPUT_BUGS = {
    "repeated requests are lost": without_repetitions,
    "requests with NULL keys are lost": without_null_keys,
}
LATEST_BUGS = SOURCE_BUGS | {
    "known_after includes its end": moved(known_after_us=-1),
    "known_after is 1 µs too late": moved(known_after_us=1),
    "known_until excludes its end": moved(known_until_us=-1),
    "known_until is 1 µs too late": moved(known_until_us=1),
    "event_from excludes its end": moved(event_from_us=1),
    "event_from is 1 µs too early": moved(event_from_us=-1),
    "event_to includes its end": moved(event_to_us=1),
    "event_to is 1 µs too early": moved(event_to_us=-1),
}


# --- and to be found out --------------------------------------------------------------------------


def compare_all_as_of(engine: Any, folder: Path) -> None:
    for seed in AS_OF_SEEDS:
        compare_as_of(engine, make_case(seeded(seed)), folder)


def compare_all_latest(engine: Any, folder: Path) -> None:
    for seed in LATEST_SEEDS:
        compare_latest(engine, make_case(seeded(seed)), folder)


@pytest.mark.parametrize("bug", AS_OF_BUGS)
def test_a_wrong_as_of_join_is_caught(engine: Engine, tmp_path: Path, bug: str) -> None:
    with pytest.raises(AssertionError):
        compare_all_as_of(BuggedEngine(engine, rewrite=AS_OF_BUGS[bug]), tmp_path)


@pytest.mark.parametrize("bug", INPUT_BUGS)
def test_a_lost_request_is_caught(engine: Engine, tmp_path: Path, bug: str) -> None:
    with pytest.raises(AssertionError):
        compare_all_as_of(BuggedEngine(engine, data=INPUT_BUGS[bug]), tmp_path)


@pytest.mark.parametrize("bug", LATEST_BUGS)
def test_wrong_latest_rows_are_caught(engine: Engine, tmp_path: Path, bug: str) -> None:
    with pytest.raises(AssertionError):
        compare_all_latest(BuggedEngine(engine, rewrite=LATEST_BUGS[bug]), tmp_path)


@pytest.mark.slow
def test_an_unbugged_engine_is_not_accused(engine: Engine, tmp_path: Path) -> None:
    unbugged: Any = BuggedEngine(engine)
    compare_all_as_of(unbugged, tmp_path)
    compare_all_latest(unbugged, tmp_path)

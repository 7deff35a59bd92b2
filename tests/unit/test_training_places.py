"""Winners are fetched by their place in the files: right whatever the files look like."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, Feature, FeatureView, FileSource
from featurestore.compiler.resolve import resolve
from featurestore.config import OfflineSettings
from featurestore.definitions.repo import collect
from featurestore.engines import duckdb_winners
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.jobs.project import files_of
from featurestore.jobs.training import retrieve

KEYS, FILES, FILE_ROWS = 5, 6, 40
INSTANT = pa.timestamp("us", tz="UTC")
RESERVED = ["file_row_number", "file_index", "filename", "rowid", "FILE_ROW_NUMBER"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckDBEngine]:
    with DuckDBEngine.open(OfflineSettings(), temp_directory=str(tmp_path / "spill")) as opened:
        yield opened


def source_rows(seed: int, file: int, *, key: int | None = None) -> dict[str, Any]:
    """The rows of one file: few instants, so that keys and times are shared within and across
    files, and a value that names the row."""
    rng = np.random.default_rng([seed, file])
    at = rng.integers(0, 60, FILE_ROWS)
    return {
        "key": rng.integers(0, KEYS, FILE_ROWS) if key is None else np.full(FILE_ROWS, key),
        "at": at,
        "known": at + rng.integers(0, 20, FILE_ROWS),
        "value": file * 1_000 + np.arange(FILE_ROWS),
    }


def to_table(rows: dict[str, Any]) -> pa.Table:
    instants = {name: pa.array(rows[name], INSTANT) for name in ("at", "known") if name in rows}
    return pa.table({**rows, **instants})


def expected(found: list[dict[str, Any]], frame: list[tuple[int, int]]) -> list[int | None]:
    """Per row of the frame the value of the greatest (event time, created time, value)."""
    rows = [
        row
        for columns in found
        for row in zip(*(columns[n].tolist() for n in ("key", "at", "known", "value")), strict=True)
    ]
    answers = []
    for key, at in frame:
        seen = [row[1:] for row in rows if row[0] == key and max(row[1:3]) <= at]
        answers.append(max(seen)[2] if seen else None)
    return answers


def values(
    root: Path,
    engine: DuckDBEngine,
    path: str,
    frame: list[tuple[int, int]],
    *,
    column: str = "value",
    key_type: str = "int64",
) -> list[int | None]:
    """The values of a training set about `frame`."""
    key = Entity("key", join_keys={"key": key_type})
    source = FileSource("source", path, "at", "known")
    view = FeatureView(
        "view",
        entities=[key],
        source=source,
        features=[Feature("value", f'"{column}"', dtype="int64")],
    )
    schemas = {"source": files_of(source, root).schema}
    repo = resolve(collect([key, source, view]), schemas, project="places")
    keys, times = zip(*frame, strict=True)
    asked = pa.table(
        {
            "key": [f"k{key}" for key in keys] if key_type == "string" else list(keys),
            "event_timestamp": pa.array(times, INSTANT),
        }
    )
    job = retrieve(asked, ["view"], repo=repo, root=root, engine=engine)
    found: list[int | None] = job.to_arrow().column("value").to_pylist()
    return found


def frames() -> dict[str, list[tuple[int, int]]]:
    """Few rows of each key, for which a range join is made, many, which are put into
    one order, and one row."""
    rng = np.random.default_rng(1)
    made = {
        name: list(zip(*(rng.integers(0, n, rows).tolist() for n in (KEYS, 80)), strict=True))
        for name, rows in (("few", 20), ("many", 2_000))
    }
    return {**made, "one": [(3, 70)]}


@pytest.mark.parametrize("asked", ["few", "many", "one"])
def test_files_of_different_row_groups(tmp_path: Path, engine: DuckDBEngine, asked: str) -> None:
    rows = [source_rows(1, file) for file in range(FILES)]
    (tmp_path / "rows").mkdir()
    for file, columns in enumerate(rows):
        path = tmp_path / "rows" / f"{file}.parquet"
        pq.write_table(to_table(columns), path, row_group_size=1 + 7 * file)
    frame = frames()[asked]
    assert values(tmp_path, engine, "rows/*.parquet", frame) == expected(rows, frame)


@pytest.mark.parametrize("asked", ["few", "many", "one"])
def test_files_of_different_types(tmp_path: Path, engine: DuckDBEngine, asked: str) -> None:
    """Files of one type are read together, so their numbers begin anew."""
    rows = [source_rows(2, file) for file in range(FILES)]
    (tmp_path / "rows").mkdir()
    for file, columns in enumerate(rows):
        table = to_table(columns)
        if file % 2:
            table = table.set_column(2, "known", table["known"].cast(pa.timestamp("ms", tz="UTC"),
                                                                     safe=False))  # fmt: skip
            columns["known"] = columns["known"] // 1_000 * 1_000
        pq.write_table(table, tmp_path / "rows" / f"{file}.parquet", row_group_size=16)
    frame = frames()[asked]
    assert values(tmp_path, engine, "rows/*.parquet", frame) == expected(rows, frame)


@pytest.mark.parametrize("asked", ["few", "many", "one"])
@pytest.mark.parametrize(
    ("by", "key_type"), [("key", "int64"), ("key", "string"), ("day", "int64")]
)
def test_partitions(
    tmp_path: Path, engine: DuckDBEngine, by: str, key_type: str, asked: str
) -> None:
    """A key in the folders' names lets DuckDB skip files; those that stay keep their numbers."""
    keyed = by == "key"
    rows = [source_rows(3, n, key=n % KEYS if keyed else None) for n in range(FILES)]
    for file, columns in enumerate(rows):
        value = f"{'k' * (key_type == 'string')}{file % KEYS if keyed else file}"
        folder = tmp_path / "rows" / f"{by}={value}"
        folder.mkdir(parents=True, exist_ok=True)
        inside = {name: column for name, column in columns.items() if name != by}
        pq.write_table(to_table(inside), folder / f"{file}.parquet", row_group_size=5 + file)
    frame = frames()[asked]
    found = values(tmp_path, engine, "rows/**/*.parquet", frame, key_type=key_type)
    assert found == expected(rows, frame)


@pytest.mark.parametrize("asked", ["few", "many"])
@pytest.mark.parametrize("name", RESERVED)
def test_columns_that_duckdb_has_names_for(
    tmp_path: Path, engine: DuckDBEngine, name: str, asked: str
) -> None:
    """A column that hides DuckDB's own is read as what it is."""
    rows = [source_rows(4, file) for file in range(2)]
    (tmp_path / "rows").mkdir()
    for file, columns in enumerate(rows):
        table = to_table({**columns, name: columns["value"]})
        pq.write_table(table, tmp_path / "rows" / f"{file}.parquet", row_group_size=16)
    frame = frames()[asked]
    assert values(tmp_path, engine, "rows/*.parquet", frame, column=name) == expected(rows, frame)


def test_a_hot_key_in_a_regular_order(tmp_path: Path, engine: DuckDBEngine) -> None:
    """Every second row is of one key, which also most entity rows ask about: 4 · 10⁹ pairs. The
    other rows alone, or each 16th row, would look harmless."""
    rows, asked = 400_000, 20_000
    number = np.arange(rows)
    key = np.where(number % 2 == 1, 7, 1_000 + number)
    columns = {"key": key, "at": number, "known": number, "value": number}
    pq.write_table(to_table(columns), tmp_path / "rows.parquet", row_group_size=50_000)
    times = np.random.default_rng(5).integers(1, rows, asked)
    frame = [(7, at) for at in times.tolist()] + [(1_000, rows)]
    begun = time.process_time()
    found = values(tmp_path, engine, "rows.parquet", frame)
    assert found == [*((times - 1) // 2 * 2 + 1).tolist(), 0]
    assert time.process_time() - begun < 10  # one second; all pairs take half a minute


def test_hot_keys_by_order_and_by_as_of_join(
    tmp_path: Path, engine: DuckDBEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both forms of the search agree on rows of many threads' shares, before and after 1970, known
    late, with ties of two and more; one key has a single event time, known again and again."""
    rng, rows, asked = np.random.default_rng(6), 300_000, 30_000
    key = rng.integers(0, 4, rows)
    at = rng.integers(-100_000, 100_000, rows)
    at[key == 3] = 5
    columns = {"key": key, "at": at, "known": at + rng.integers(0, 5_000, rows)}
    columns["value"] = rng.permutation(rows)
    pq.write_table(to_table(columns), tmp_path / "rows.parquet", row_group_size=30_000)
    times = rng.integers(-100_000, 110_000, asked)
    frame = list(zip(rng.integers(0, 4, asked).tolist(), times.tolist(), strict=True))
    begun = time.process_time()
    by_order = values(tmp_path, engine, "rows.parquet", frame)
    assert time.process_time() - begun < 20  # one second
    asked_of = []
    monkeypatch.setattr(duckdb_winners, "packing_of", lambda *_: asked_of.append(1))
    assert values(tmp_path, engine, "rows.parquet", frame) == by_order
    assert asked_of
    assert len(set(by_order)) > 5_000

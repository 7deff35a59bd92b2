"""What filling a table will read, as footers tell it; held against what is really there."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.buckets import S3Options
from featurestore.compiler.backfill import Part, backfill
from featurestore.compiler.change_plan import Backfill
from featurestore.compiler.rel import DataFiles
from featurestore.definitions.source import FileSource
from featurestore.errors import SnapshotMissing
from featurestore.stores.offline import footers
from featurestore.stores.offline.footers import Wanted, parts_of
from featurestore.stores.offline.parquet import CsvFiles, ParquetFiles
from featurestore.timeline import DAY_US

UTC = pa.timestamp("us", tz="UTC")
WANTED = Wanted(event_time="at", created_time="known", columns={"at", "known", "a"})


def part(rows: int = 10, least: int | None = 0, greatest: int | None = 99, **more: Any) -> Part:
    values: dict[str, Any] = {"known_us": greatest, "nulls": 0} | more
    return Part(rows=rows, bytes=1000, least_us=least, greatest_us=greatest, **values)


def found(*parts: Part, start: int | None = None, end: int = 99) -> tuple[int, int, bool]:
    made = backfill(parts, start_us=start, end_us=end)
    return made.rows, made.bytes, made.exact


# --- arithmetic -----------------------------------------------------------------------------------


def test_what_lies_within_is_exact() -> None:
    assert found(part(), part()) == (20, 2000, True)
    assert found(part(), start=0) == (10, 1000, True)
    assert found() == (0, 0, True)


def test_what_lies_outside_is_exactly_nothing() -> None:
    assert found(part(), start=100, end=200) == (0, 0, True)
    assert found(part(least=200, greatest=300)) == (0, 0, True)


def test_what_lies_across_a_bound_counts_by_its_share() -> None:
    assert found(part(), start=50) == (5, 500, False)
    assert found(part(), end=24) == (2, 250, False)
    assert found(part(least=5, greatest=5), start=5, end=5) == (10, 1000, True)


def test_what_nobody_says_counts_whole_and_is_an_estimate() -> None:
    assert found(part(least=None, greatest=None)) == (10, 1000, False)
    assert found(part(known_us=None)) == (10, 1000, False)
    assert found(part(nulls=None)) == (10, 1000, False)
    assert found(part(counted=False)) == (10, 1000, False)
    made = backfill([part()], start_us=None, end_us=99, exact=False)
    assert made == Backfill(start_us=None, end_us=99, rows=10, bytes=1000, exact=False)


def test_rows_known_later_may_not_count_yet() -> None:
    assert found(part(known_us=100)) == (10, 1000, False)


def test_rows_without_a_time_do_not_count() -> None:
    assert found(part(nulls=4)) == (6, 1000, True)
    assert found(part(nulls=10, least=None, greatest=None)) == (0, 0, True)
    assert found(part(rows=0, least=None, greatest=None)) == (0, 0, True)


# --- footers --------------------------------------------------------------------------------------


def write(path: Path, at: list[Any], kind: pa.DataType = UTC, **columns: Any) -> Path:
    table = pa.table(
        {"at": pa.array(at, kind), "known": pa.array(at, kind), "a": range(len(at)), **columns}
    )
    pq.write_table(table, path, row_group_size=100)
    return path


def parquet(root: Path, path: str = "*.parquet") -> DataFiles:
    return ParquetFiles().resolve(FileSource("s", path, event_time="at"), root=root)


@pytest.mark.parametrize(
    ("kind", "per_us"), [("ms", 1 / 1000), ("us", 1), ("ns", 1000)], ids=["ms", "us", "ns"]
)
def test_times_of_every_unit(tmp_path: Path, kind: str, per_us: float) -> None:
    at = [int(n * 1_000_000 * per_us) for n in range(250)]
    write(tmp_path / "a.parquet", at, pa.timestamp(kind))
    parts, whole = parts_of(parquet(tmp_path), WANTED, arrived="x")
    assert whole
    assert [(p.rows, p.least_us, p.greatest_us, p.known_us, p.nulls) for p in parts] == [
        (100, 0, 99_000_000, 99_000_000, 0),
        (100, 100_000_000, 199_000_000, 199_000_000, 0),
        (50, 200_000_000, 249_000_000, 249_000_000, 0),
    ]


def test_dates_stand_for_the_start_or_the_end_of_their_day(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [date(1970, 1, 2), None, date(1970, 1, 5)], pa.date32())
    (start,), _ = parts_of(parquet(tmp_path), WANTED, arrived="x")
    assert (start.least_us, start.greatest_us, start.nulls) == (DAY_US, 4 * DAY_US, 1)
    at_end = Wanted(event_time="at", created_time=None, at_end=True)
    (end,), _ = parts_of(parquet(tmp_path), at_end, arrived="x")
    assert (end.least_us, end.greatest_us) == (2 * DAY_US, 5 * DAY_US)


def test_only_the_columns_that_are_read_have_bytes(tmp_path: Path) -> None:
    wide = [f"{n} {'x' * 50}" for n in range(100)]
    write(tmp_path / "a.parquet", list(range(100)), wide=wide, list=[[n] for n in range(100)])
    files = parquet(tmp_path)
    (narrow,), _ = parts_of(files, WANTED, arrived="x")
    everything = Wanted(event_time="at", created_time="known")
    (every,), _ = parts_of(files, everything, arrived="x")
    lists = Wanted(event_time="at", created_time="known", columns={*(WANTED.columns or ()), "list"})
    (with_list,), _ = parts_of(files, lists, arrived="x")
    assert narrow.bytes < with_list.bytes < every.bytes
    assert every.bytes < (tmp_path / "a.parquet").stat().st_size


def test_footers_without_statistics_say_only_how_many(tmp_path: Path) -> None:
    table = pa.table({"at": pa.array([1, 2], UTC), "known": pa.array([1, 2], UTC), "a": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    (one,), _ = parts_of(parquet(tmp_path), WANTED, arrived="x")
    assert (one.rows, one.least_us, one.nulls) == (2, None, None)
    nowhere = Wanted(event_time="elsewhere", created_time="nor here")
    (other,), _ = parts_of(parquet(tmp_path), nowhere, arrived="x")
    assert (other.least_us, other.known_us) == (None, None)


def test_times_as_text_are_no_times(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["a", "b"], pa.string())
    (one,), _ = parts_of(parquet(tmp_path), WANTED, arrived="x")
    assert (one.rows, one.least_us, one.nulls) == (2, None, 0)


def test_of_very_many_files_some_speak_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(10):
        write(tmp_path / f"{n}.parquet", list(range(7)))
    files = parquet(tmp_path)
    assert sum(p.rows for p in parts_of(files, WANTED, arrived="x")[0]) == 70
    monkeypatch.setattr(footers, "FOOTERS_READ_MAX", 5)
    parts, whole = parts_of(files, WANTED, arrived="x")
    assert (sum(p.rows for p in parts), whole) == (70, False)


def test_what_was_pushed_counts_by_when_it_arrived(tmp_path: Path) -> None:
    write(tmp_path / "own.parquet", [1, 2])
    pushed = tmp_path / "pushed.parquet"
    rows = {"at": pa.array([3], UTC), "a": [1], "__arrived": pa.array([9], UTC)}
    pq.write_table(pa.table(rows), pushed)
    files = DataFiles(
        format="parquet", paths=(str(tmp_path / "own.parquet"),), schema={}, pushed=(str(pushed),)
    )
    untimed = Wanted(event_time="at", created_time=None)
    own, later = parts_of(files, untimed, arrived="__arrived")[0]
    assert (own.known_us, later.known_us, later.rows) == (2, 9, 1)


def test_a_file_that_went_away_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [1])
    files = parquet(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(SnapshotMissing, match="can't be read any more"):
        parts_of(files, WANTED, arrived="x")
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(SnapshotMissing):
        parts_of(files, WANTED, arrived="x", s3=S3Options())


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_csv_are_guessed(tmp_path: Path, packed: bool) -> None:
    lines = ["at,a", *(f"2024-01-01T00:00:{n % 60:02},{n:06}" for n in range(20_000))]
    name = "a.csv.gz" if packed else "a.csv"
    with pa.output_stream(tmp_path / name, compression="gzip" if packed else None) as out:
        out.write("\n".join(lines).encode())
    files = CsvFiles().resolve(FileSource("s", name, event_time="at"), root=tmp_path)
    (one,), whole = parts_of(files, WANTED, arrived="x")
    assert whole
    assert one.rows == pytest.approx(20_000, rel=0.35 if packed else 0.01)
    assert one.bytes == (tmp_path / name).stat().st_size
    assert not one.counted


def test_a_csv_file_with_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,a\n")
    files = CsvFiles().resolve(FileSource("s", "a.csv", event_time="at"), root=tmp_path)
    assert parts_of(files, WANTED, arrived="x")[0][0].rows == 0

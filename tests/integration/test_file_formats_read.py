"""What the file formats resolve, DuckDB reads: the same rows from Parquet, CSV and Delta."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from featurestore.compiler.rel import DataFiles, Scan
from featurestore.config import OfflineSettings
from featurestore.definitions.source import FileSource
from featurestore.engines.base import Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.stores.offline.delta import DeltaFiles
from featurestore.stores.offline.parquet import CsvFiles, ParquetFiles

ROWS = [
    {
        "id": 2**53 + 1,
        "day": date(1969, 12, 31),
        "at": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        "x": -0.5,
        "ok": True,
        "text": "größe, \"quoted\"\nand 'more'",
        "part": "a b/c",
    },
    {
        "id": 7,
        "day": None,
        "at": datetime(2024, 3, 10, 2, 30, tzinfo=UTC),
        "x": None,
        "ok": None,
        "text": None,
        "part": None,
    },
]
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "day": pa.date32(),
        "at": pa.timestamp("us", "UTC"),
        "x": pa.float64(),
        "ok": pa.bool_(),
        "text": pa.string(),
        "part": pa.string(),
    }
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with DuckDBEngine.open(OfflineSettings(), temp_directory=str(tmp_path / "spill")) as engine:
        yield engine


def read(engine: Engine, files: DataFiles) -> list[Mapping[str, Any]]:
    columns = {name: name for name in files.schema}
    scan = Scan(source="s", files=files, columns=columns, dtypes=files.schema)
    rows = engine.stream(scan).read_all().to_pylist()
    return sorted(rows, key=lambda row: -row["id"])


def wanted(*left_out: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in left_out} for row in ROWS]


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS, schema=SCHEMA)


def source(path: str, **options: Any) -> FileSource:
    return FileSource("s", path, "at", **options)


@pytest.mark.parametrize("folder", ["d", "it's [1] *", "größe 🤦"])
def test_parquet_with_hive_partitions(engine: Engine, tmp_path: Path, folder: str) -> None:
    for name, row in zip(["a%20b%2Fc", "__HIVE_DEFAULT_PARTITION__"], ROWS, strict=True):
        path = tmp_path / folder / f"part={name}" / "x'[2].parquet"
        path.parent.mkdir(parents=True)
        one = pa.Table.from_pylist([row], schema=SCHEMA).drop_columns(["part"])
        pq.write_table(one, path)
    files = ParquetFiles().resolve(source(folder), root=tmp_path)
    assert read(engine, files) == wanted()


def test_parquet_widened_and_united(engine: Engine, tmp_path: Path) -> None:
    first = pa.table({"id": pa.array([1], pa.int32()), "at": pa.array([1], pa.timestamp("ns"))})
    second = pa.table({"id": [2], "at": pa.array([1], pa.timestamp("s", "UTC")), "x": [0.5]})
    for name, part in {"1": first, "2": second}.items():
        pq.write_table(part, tmp_path / f"{name}.parquet")
    files = ParquetFiles().resolve(source("*.parquet"), root=tmp_path)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert read(engine, files) == [
        {"id": 2, "at": epoch.replace(second=1), "x": 0.5},
        {"id": 1, "at": epoch, "x": None},
    ]


def test_delta(engine: Engine, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", table(), partition_by=["part", "day"])
    files = DeltaFiles().resolve(source("t"), root=tmp_path)
    assert read(engine, files) == wanted()


CSV = """\
id;day;at;x;ok;text
9007199254740993;1969-12-31;1969-12-31 23:59:59.999999;-0.5;true;"größe, ""quoted""
and 'more'"
7;;2024-03-10T02:30:00;NA;NA;
"""


@pytest.mark.parametrize("name", ["a.csv", "it's [1].csv.gz"])
def test_csv(engine: Engine, tmp_path: Path, name: str) -> None:
    data = CSV.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    files = CsvFiles().resolve(source(name, delimiter=";", null_text="NA"), root=tmp_path)
    assert read(engine, files) == wanted("part")


def test_csv_without_header_and_with_zones(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("2,007,2024-01-01T02:00:00+02:00\n1,,2024-01-01T00:00:00Z\n")
    types = {"id": "int64", "code": "string", "at": "timestamp"}
    files = CsvFiles().resolve(source("a.csv", header=False, column_types=types), root=tmp_path)
    midnight = datetime(2024, 1, 1, tzinfo=UTC)
    assert read(engine, files) == [
        {"id": 2, "code": "007", "at": midnight},
        {"id": 1, "code": None, "at": midnight},
    ]


def test_csv_files_of_different_columns(engine: Engine, tmp_path: Path) -> None:
    for part, text in {"1": "id,x\n1,2\n", "2": "y,id\n2024-01-01,2.0\n"}.items():
        (tmp_path / f"d/p={part}").mkdir(parents=True)
        (tmp_path / f"d/p={part}/x.csv").write_text(text)
    files = CsvFiles().resolve(source("d", format="csv"), root=tmp_path)
    assert read(engine, files) == [
        {"id": 2.0, "x": None, "y": date(2024, 1, 1), "p": 2},
        {"id": 1.0, "x": 2, "y": None, "p": 1},
    ]

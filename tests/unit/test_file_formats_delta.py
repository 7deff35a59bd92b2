"""Delta tables: live files, partition values, versions, and what is refused."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from featurestore.compiler.rel import DataFiles
from featurestore.definitions.source import FileSource
from featurestore.errors import SourceMissing, SourceSchemaChanged, UnsupportedByEngine
from featurestore.stores.offline.delta import DeltaFiles, partition_text


def resolve(root: Path, path: str = "t") -> DataFiles:
    return DeltaFiles().resolve(FileSource("weather", path, "t"), root=root)


def shown(files: DataFiles) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in files.schema.items()}


def values(files: DataFiles, column: str) -> list[Any]:
    return sorted(
        v for path in files.paths for v in pq.ParquetFile(path).read()[column].to_pylist()
    )


def test_versions_and_live_files(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_deltalake(path, pa.table({"v": [1, 2], "t": pa.array([1, 2], pa.timestamp("us", "UTC"))}))
    first = resolve(tmp_path)
    assert first.format == "parquet"
    assert first.pin == {"kind": "delta", "version": 0}
    assert shown(first) == {"v": "int64", "t": "timestamp"}
    assert first.partitions == ()
    write_deltalake(
        path, pa.table({"v": [3], "t": pa.array([3], pa.timestamp("us", "UTC"))}), mode="append"
    )
    second = resolve(tmp_path)
    assert second.pin == {"kind": "delta", "version": 1}
    assert values(second, "v") == [1, 2, 3]
    DeltaTable(path).delete("v < 3")
    third = resolve(tmp_path)
    assert third.pin == {"kind": "delta", "version": 2}
    assert values(third, "v") == [3]
    assert values(first, "v") == [1, 2], "the files of an older version stay"


def test_added_columns_belong_to_the_schema(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"v": [1]}))
    wider = pa.table({"v": [2], "w": ["x"]})
    write_deltalake(tmp_path / "t", wider, mode="append", schema_mode="merge")
    files = resolve(tmp_path)
    assert shown(files) == {"v": "int64", "w": "string"}
    assert len(files.paths) == 2


def test_partitions_with_hostile_names_and_values(tmp_path: Path) -> None:
    keys = ["a b", "c/d", "ü%41", None, "x=y", "it's", "[*]"]
    table = pa.table({"key": keys, "v": list(range(len(keys)))})
    write_deltalake(tmp_path / "t", table, partition_by=["key"])
    (tmp_path / "t").rename(tmp_path / "ta ble ü [1]")
    files = resolve(tmp_path, "ta ble ü [1]")
    assert shown(files) == {"key": "string", "v": "int64"}
    assert all(Path(path).is_file() for path in files.paths)
    found = {
        partition["key"]: pq.ParquetFile(path).read()["v"].to_pylist()
        for path, partition in zip(files.paths, files.partitions, strict=True)
    }
    assert found == {key: [i] for i, key in enumerate(keys)}


def test_typed_partitions_are_text(tmp_path: Path) -> None:
    table = pa.table(
        {
            "year": pa.array([2013, None], pa.int32()),
            "day": pa.array([dt.date(1969, 12, 31)] * 2),
            "v": [1, 2],
        }
    )
    write_deltalake(tmp_path / "t", table, partition_by=["year", "day"])
    files = resolve(tmp_path)
    assert shown(files) == {"year": "int32", "day": "date", "v": "int64"}
    assert sorted(files.partitions, key=str) == [
        {"year": "2013", "day": "1969-12-31"},
        {"year": None, "day": "1969-12-31"},
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (True, "true"),
        (False, "false"),
        (-7, "-7"),
        ("a", "a"),
        (decimal.Decimal("1.50"), "1.50"),
        (dt.date(2024, 1, 1), "2024-01-01"),
        (dt.datetime(2024, 1, 1, 10, tzinfo=dt.UTC), "2024-01-01 10:00:00"),
        (
            dt.datetime(2024, 1, 1, 10, tzinfo=dt.timezone(dt.timedelta(hours=2))),
            "2024-01-01 08:00:00",
        ),
    ],
)
def test_partition_text(value: object, text: str | None) -> None:
    assert partition_text(value) == text


def test_naive_timestamps_are_utc(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"t": pa.array([1], pa.timestamp("us"))}))
    assert shown(resolve(tmp_path)) == {"t": "timestamp"}


def test_column_mapping_is_refused(tmp_path: Path) -> None:
    configuration = {"delta.columnMapping.mode": "name"}
    write_deltalake(tmp_path / "t", pa.table({"v": [1]}), configuration=configuration)
    with pytest.raises(UnsupportedByEngine, match=r"maps column names.*Rewrite it without"):
        resolve(tmp_path)


def _inline_deletion_vector(row: int) -> dict[str, object]:
    """A deletion vector of one row, as the Delta protocol writes it into the log."""
    bitmap = struct.pack("<IIHHIH", 12346, 1, 0, 0, 16, row)
    data = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    padded = data + b"\0" * (-len(data) % 4)
    python = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = base64.b85encode(padded).decode().translate(str.maketrans(python, z85))
    return {
        "storageType": "i",
        "pathOrInlineDv": text,
        "sizeInBytes": len(data),
        "cardinality": 1,
    }


def test_deletion_vectors_are_refused_once_there_are_some(tmp_path: Path) -> None:
    configuration = {"delta.enableDeletionVectors": "true"}
    write_deltalake(tmp_path / "t", pa.table({"v": [1, 2, 3]}), configuration=configuration)
    assert values(resolve(tmp_path), "v") == [1, 2, 3]
    log = tmp_path / "t/_delta_log"
    lines = (log / f"{0:020}.json").read_text().splitlines()
    [add] = [json.loads(line)["add"] for line in lines if '"add"' in line]
    gone = {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}
    again = {**add, "deletionVector": _inline_deletion_vector(1)}
    actions = [{"remove": gone}, {"add": again}]
    (log / f"{1:020}.json").write_text("\n".join(map(json.dumps, actions)) + "\n")
    with pytest.raises(UnsupportedByEngine, match=r"deletion vectors.*REORG TABLE"):
        resolve(tmp_path)


def test_no_table(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(SourceMissing, match=r"is no Delta table.*Correct `path` or `format`"):
        resolve(tmp_path)


def test_a_column_of_our_name(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"v": [1], "__file": ["x"]}))
    with pytest.raises(SourceSchemaChanged, match="has a column '__file', a name of our own"):
        resolve(tmp_path)


def test_a_broken_log(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"v": [1]}))
    (tmp_path / "t/_delta_log" / f"{0:020}.json").write_text("garbage")
    with pytest.raises(SourceMissing, match=r"/t can't be read"):
        resolve(tmp_path)


def test_a_vacuumed_file(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"v": [1]}))
    [path] = resolve(tmp_path).paths
    shutil.move(path, tmp_path / "away")
    with pytest.raises(SourceMissing, match=r"is gone \(vacuumed\?\)"):
        resolve(tmp_path)

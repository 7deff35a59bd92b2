"""Parquet files: listing, partitions, united schemas, pins, and errors that name the file."""

from __future__ import annotations

import datetime as dt
import decimal
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.compiler.rel import FILE_COLUMN, DataFiles
from featurestore.definitions.source import FileSource
from featurestore.dtypes import from_arrow, parse
from featurestore.engines import duckdb_scans
from featurestore.errors import SourceMissing, SourceSchemaChanged
from featurestore.stores.offline.parquet import ParquetFiles
from tests.conftest import MakeRepo


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def resolve(root: Path, path: str | Path) -> DataFiles:
    source = FileSource("weather", path, "t")
    return ParquetFiles().resolve(source, root=root)


def names(files: DataFiles, root: Path) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in files.paths]


def shown(files: DataFiles) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in files.schema.items()}


# --- listing --------------------------------------------------------------------------------------


def test_one_file(tmp_path: Path) -> None:
    write(tmp_path / "data/w.parquet", t=pa.array([1]), x=pa.array([1.5]))
    files = resolve(tmp_path, "data/w.parquet")
    assert files.format == "parquet"
    assert files.paths == (str(tmp_path / "data/w.parquet"),)
    assert shown(files) == {"t": "int64", "x": "float64"}
    assert files.partitions == ()
    assert files.csv_options == {}
    assert resolve(Path("/elsewhere"), tmp_path / "data/w.parquet").paths == files.paths
    assert resolve(tmp_path, f"file://{tmp_path}/data/w.parquet").paths == files.paths


def test_a_file_may_have_any_suffix(tmp_path: Path) -> None:
    write(tmp_path / "w.pq", t=[1])
    assert names(resolve(tmp_path, "w.pq"), tmp_path) == ["w.pq"]


def test_a_folder_is_read_recursively_without_hidden_files(tmp_path: Path) -> None:
    for name in ["b.parquet", "a.parquet", "sub/deep/c.PARQUET", ".hidden/x.parquet"]:
        write(tmp_path / "d" / name, t=[1])
    write(tmp_path / "d/_temporary/0/x.parquet", t=[1])
    write(tmp_path / "d/.x.parquet", t=[1])
    write(tmp_path / "d/_x.parquet", t=[1])
    (tmp_path / "d/_SUCCESS").touch()
    (tmp_path / "d/readme.txt").write_text("no data")
    expected = ["d/a.parquet", "d/b.parquet", "d/sub/deep/c.PARQUET"]
    assert names(resolve(tmp_path, "d"), tmp_path) == expected
    assert names(resolve(tmp_path, "d/"), tmp_path) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/*.parquet", ["d/a.parquet", "d/b.parquet"]),
        ("d/[a].parquet", ["d/a.parquet"]),
        ("d/?.parquet", ["d/a.parquet", "d/b.parquet"]),
        ("d/**/*.parquet", ["d/a.parquet", "d/b.parquet", "d/s/c.parquet", "d/s/u/e.parquet"]),
        ("d/*", ["d/a.parquet", "d/b.parquet", "d/s/c.parquet", "d/s/u/e.parquet"]),
        ("*/s", ["d/s/c.parquet", "d/s/u/e.parquet"]),
        ("./d/../d/a.*", ["d/a.parquet"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for name in ["a.parquet", "b.parquet", "s/c.parquet", "s/u/e.parquet", "s/.h.parquet"]:
        write(tmp_path / "d" / name, t=[1])
    (tmp_path / "d/_SUCCESS").touch()
    files = resolve(tmp_path, pattern)
    assert [Path(p).resolve().relative_to(tmp_path).as_posix() for p in files.paths] == expected


@pytest.mark.parametrize(
    "name",
    [
        "a b.parquet",
        "it's.parquet",
        'qu"ote.parquet',
        "größe🤦.parquet",
        "x[1].parquet",
        "*.parquet",
    ],
)
def test_names_are_literal_where_they_exist(tmp_path: Path, name: str) -> None:
    write(tmp_path / "data [x]" / name, t=[1])
    write(tmp_path / "data [x]" / "other.parquet", t=[1])
    assert names(resolve(tmp_path, f"data [x]/{name}"), tmp_path) == [f"data [x]/{name}"]


def test_a_glob_below_a_folder_with_glob_characters(tmp_path: Path) -> None:
    write(tmp_path / "data [1]" / "a.parquet", t=[1])
    write(tmp_path / "data [1]" / "b[2].parquet", t=[1])
    expected = ["data [1]/a.parquet", "data [1]/b[2].parquet"]
    assert names(resolve(tmp_path, "data [1]/*.parquet"), tmp_path) == expected


@pytest.mark.parametrize(
    "path", ["nope.parquet", "no/such/folder", "d", "d/*.parquet", "d/[", "**/x"]
)
def test_no_file(tmp_path: Path, path: str) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(SourceMissing) as caught:
        resolve(tmp_path, path)
    assert "Source 'weather'" in caught.value.message
    assert path.split("/", maxsplit=1)[0] in caught.value.message
    assert "Correct `path`" in caught.value.message


def test_another_machine(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="gs://bucket/x can't be read"):
        resolve(tmp_path, "gs://bucket/x")


# --- files that are not what they should be -------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "empty"), (b"PAR1", "not a Parquet file"), (b"hello, world", "not a Parquet file")],
)
def test_unreadable(tmp_path: Path, content: bytes, why: str) -> None:
    write(tmp_path / "d/a.parquet", t=[1])
    (tmp_path / "d/bad.parquet").write_bytes(content)
    with pytest.raises(SourceMissing) as caught:
        resolve(tmp_path, "d")
    assert f"{tmp_path}/d/bad.parquet can't be read" in caught.value.message
    assert why in caught.value.message


def test_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", t=list(range(1000)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceMissing, match=r"a\.parquet can't be read"):
        resolve(tmp_path, "a.parquet")


# --- schemas --------------------------------------------------------------------------------------


def test_every_type(tmp_path: Path) -> None:
    arrays = {
        "b": pa.array([True]),
        "i8": pa.array([1], pa.int8()),
        "i32": pa.array([1], pa.int32()),
        "u32": pa.array([1], pa.uint32()),
        "i64": pa.array([1]),
        "f32": pa.array([1], pa.float32()),
        "f64": pa.array([1.0]),
        "money": pa.array([decimal.Decimal("1.50")], pa.decimal128(12, 2)),
        "s": pa.array(["a"]),
        "cat": pa.array(["a"]).dictionary_encode(),
        "raw": pa.array([b"a"]),
        "day": pa.array([dt.date(2024, 1, 1)]),
        "tags": pa.array([["a", None]]),
    }
    files = resolve(tmp_path, write(tmp_path / "a.parquet", **arrays))
    assert shown(files) == {
        "b": "bool",
        "i8": "int32",
        "i32": "int32",
        "u32": "int64",
        "i64": "int64",
        "f32": "float32",
        "f64": "float64",
        "money": "decimal(12,2)",
        "s": "string",
        "cat": "string",
        "raw": "bytes",
        "day": "date",
        "tags": "list<string>",
    }
    assert files.schema["tags"] == from_arrow(pa.list_(pa.string()))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_every_timestamp_reads_the_same(tmp_path: Path, unit: str, zone: str | None) -> None:
    stamps = pa.array([0], pa.timestamp(unit, zone))
    write(tmp_path / "d/a.parquet", t=stamps)
    write(tmp_path / "d/b.parquet", t=pa.array([0], pa.timestamp("us")))
    assert shown(resolve(tmp_path, "d")) == {"t": "timestamp"}
    path = tmp_path / "int96.parquet"
    pq.write_table(pa.table({"t": stamps}), path, use_deprecated_int96_timestamps=True)
    assert shown(resolve(tmp_path, path)) == {"t": "timestamp"}


def test_columns_that_no_feature_can_have_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        t=[1],
        point=pa.array([{"x": 1}]),
        big=pa.array([2**64 - 1], pa.uint64()),
        pairs=pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        nothing=pa.nulls(1),
    )
    assert shown(resolve(tmp_path, "a.parquet")) == {"t": "int64"}


def test_files_are_united_by_name_and_widened(tmp_path: Path) -> None:
    write(tmp_path / "d/1.parquet", a=pa.array([1], pa.int32()), b=pa.array([1.0]), n=pa.nulls(1))
    write(tmp_path / "d/2.parquet", c=["x"], a=pa.array([1]), n=pa.array([1.5]))
    write(tmp_path / "d/3.parquet", b=pa.array([1], pa.float32()), a=pa.array([1], pa.int32()))
    files = resolve(tmp_path, "d")
    assert shown(files) == {"a": "int64", "b": "float64", "c": "string", "n": "float64"}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"x": pa.array([1])}, {"x": pa.array(["a"])}),
        ({"x": pa.array([1])}, {"x": pa.array([1.5])}),
        ({"x": pa.array([1], pa.timestamp("us"))}, {"x": pa.array([1], pa.date32())}),
        ({"x": pa.array([[1]])}, {"x": pa.array([1])}),
        (
            {"x": pa.array([1], pa.decimal128(12, 2))},
            {"x": pa.array([1], pa.decimal128(12, 3))},
        ),
    ],
)
def test_types_that_do_not_unite(
    tmp_path: Path, left: Mapping[str, Any], right: Mapping[str, Any]
) -> None:
    write(tmp_path / "d/1.parquet", **left)
    write(tmp_path / "d/2.parquet", **right)
    with pytest.raises(SourceSchemaChanged) as caught:
        resolve(tmp_path, "d")
    message = caught.value.message
    types = [str(from_arrow(side["x"].type)) for side in (left, right)]
    for part in ["'weather'", "'x'", "d/1.parquet", "d/2.parquet", *types]:
        assert part in message


def test_columns_that_differ_in_case_only(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", Temp=[1], temp=[1])
    with pytest.raises(SourceSchemaChanged, match="'Temp' and 'temp' differ in case only"):
        resolve(tmp_path, "a.parquet")


def test_a_column_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceSchemaChanged, match=r"a\.parquet has more than one column 'a'"):
        resolve(tmp_path, "a.parquet")


@pytest.mark.parametrize("name", ["__file", "__FILE"])
def test_a_column_of_our_name(tmp_path: Path, name: str) -> None:
    """With partitions (or a cast that fails) DuckDB adds a column of it beside the files' own."""
    assert FILE_COLUMN == duckdb_scans._FILE
    write(tmp_path / "day=1" / "a.parquet", **{"v": [1], name: ["x"]})
    with pytest.raises(
        SourceSchemaChanged, match=r"a\.parquet has a column '__\w+', a name of our"
    ):
        resolve(tmp_path, ".")


def test_columns_that_look_like_ours_are_read(make_repo: MakeRepo) -> None:
    folder = make_repo(
        """
        from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

        key = Entity("key")
        source = FileSource("source", "data", event_time="at")
        view = FeatureView(
            "view", [key], source, features=[Feature("v"), Feature("w", "v / day")]
        )
        service = FeatureService("service", features=[view])
        """
    )
    odd = ["__row", "__file_row", "file_row_number", "file_index", "filename", "rowid", "p0", "f"]
    odd += ["number", "feature:v", "undefined:w", "time", "key:key", "out:v"]
    at = pa.array([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)] * 2, pa.timestamp("us", "UTC"))
    for day in (1, 2):
        columns = {
            "key": ["a", "b"],
            "at": at,
            "v": [1, day],
            **dict.fromkeys(odd, pa.array(["x", "y"])),
        }
        write(folder / "data" / f"day={day}" / "a.parquet", **columns)
    frame = pa.table({"key": ["b", "a"], "event_timestamp": at})
    with FeatureStore(folder) as fs:
        found = fs.get_historical_features(frame, "service").to_arrow()
    assert found.select(["v", "w"]).to_pydict() == {"v": [2, 1], "w": [1.0, 0.5]}


def test_a_file_without_rows_counts_with_its_schema(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", t=pa.array([], pa.int64()))
    assert shown(resolve(tmp_path, "a.parquet")) == {"t": "int64"}


# --- hive partitions ------------------------------------------------------------------------------


def test_hive_partitions(tmp_path: Path) -> None:
    for folder in ["year=2013/kind=a%2Fb", "year=2014/kind=__HIVE_DEFAULT_PARTITION__"]:
        write(tmp_path / "d" / folder / "x.parquet", t=[1])
    for path in ["d", "d/*/*/*.parquet", "d/**/x.parquet"]:
        files = resolve(tmp_path, path)
        assert shown(files) == {"t": "int64", "year": "int64", "kind": "string"}
        assert files.partitions == (
            {"year": "2013", "kind": "a/b"},
            {"year": "2014", "kind": None},
        )


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["1", "02", "-3"], "int64"),
        (["1", "x"], "string"),
        (["2024-01-01"], "string"),
        (["1.5"], "string"),
        (["99999999999999999999"], "string"),
        (["", "1"], "string"),
        (["1", "__HIVE_DEFAULT_PARTITION__"], "int64"),
        (["__HIVE_DEFAULT_PARTITION__"], "string"),
    ],
)
def test_types_of_partitions(tmp_path: Path, values: list[str], dtype: str) -> None:
    for value in values:
        write(tmp_path / f"d/p={value}/x.parquet", t=[1])
    assert resolve(tmp_path, "d").schema["p"] == parse(dtype)


def test_a_partition_hides_a_column_of_its_name(tmp_path: Path) -> None:
    write(tmp_path / "d/p=1/x.parquet", t=[1], p=["text"])
    assert shown(resolve(tmp_path, "d")) == {"t": "int64", "p": "int64"}


def test_a_partition_may_begin_with_an_underscore(tmp_path: Path) -> None:
    write(tmp_path / "d/_p=1/x.parquet", t=[1])
    assert shown(resolve(tmp_path, "d")) == {"t": "int64", "_p": "int64"}


def test_folders_above_the_source_are_no_partitions(tmp_path: Path) -> None:
    write(tmp_path / "run=7/d/p=1/x.parquet", t=[1])
    assert shown(resolve(tmp_path, "run=7/d")) == {"t": "int64", "p": "int64"}
    assert shown(resolve(tmp_path, "run=7/d/p=1/x.parquet")) == {"t": "int64"}


def test_files_in_different_partitions(tmp_path: Path) -> None:
    write(tmp_path / "d/p=1/x.parquet", t=[1])
    write(tmp_path / "d/q=1/x.parquet", t=[1])
    with pytest.raises(SourceSchemaChanged, match=r"lies in partitions \['q'\]"):
        resolve(tmp_path, "d")


# --- pins -----------------------------------------------------------------------------------------


def test_the_pin_names_the_state_of_the_files(tmp_path: Path) -> None:
    first = write(tmp_path / "d/1.parquet", t=[1])
    before = resolve(tmp_path, "d").pin
    assert before["kind"] == "files"
    assert before["files"] == 1
    assert resolve(tmp_path, "d/*.parquet").pin == before
    stat = first.stat()
    write(first, t=[2])
    os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert resolve(tmp_path, "d").pin != before, "the footer holds the statistics"
    write(first, t=[1])
    os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert resolve(tmp_path, "d").pin == before
    os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert resolve(tmp_path, "d").pin != before
    write(tmp_path / "d/2.parquet", t=[1])
    assert resolve(tmp_path, "d").pin["files"] == 2


def test_the_pin_does_not_depend_on_where_the_repository_lies(tmp_path: Path) -> None:
    pins = []
    for home in ["one", "two"]:
        path = write(tmp_path / home / "d/1.parquet", t=[1])
        os.utime(path, ns=(1, 1))
        pins.append(resolve(tmp_path / home, "d").pin)
    assert pins[0] == pins[1]

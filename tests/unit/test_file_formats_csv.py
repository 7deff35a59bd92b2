"""CSV files: types from texts, NULLs, headers, and options that read back the same."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from featurestore.compiler.rel import DataFiles
from featurestore.definitions.source import FileSource
from featurestore.errors import SourceMissing, SourceSchemaChanged
from featurestore.stores.offline import parquet
from featurestore.stores.offline.parquet import CsvFiles


def resolve(root: Path, path: str = "a.csv", **options: Any) -> DataFiles:
    return CsvFiles().resolve(FileSource("weather", path, "t", **options), root=root)


def shown(files: DataFiles) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in files.schema.items()}


def types_of(root: Path, *texts: str, **options: Any) -> str:
    """The type of a column of these texts."""
    (root / "a.csv").write_text("\n".join(["x,y", *(f"{text},1" for text in texts)]) + "\n")
    return shown(resolve(root, **options))["x"]


@pytest.mark.parametrize(
    ("texts", "dtype"),
    [
        (["1", "-2", ""], "int64"),
        (["9007199254740993", ""], "int64"),
        (["1", "2.5"], "float64"),
        (["1e3", "-0.5"], "float64"),
        (["9223372036854775808"], "float64"),
        (["true", "False", ""], "bool"),
        (["2024-01-01", ""], "date"),
        (["2024-01-01 10:00:00"], "timestamp"),
        (["2024-01-01T10:00:00.123456"], "timestamp"),
        (["2024-01-01T10:00:00Z"], "timestamp"),
        (["2024-01-01 10:00:00+02:00"], "timestamp"),
        (["10:00:00"], "string"),
        (["a", "1"], "string"),
        (["1", "true"], "string"),
        (["NA", "1"], "string"),
        (["größe"], "string"),
        (["", ""], "string"),
        (["007"], "int64"),
    ],
)
def test_types_come_from_all_texts(tmp_path: Path, texts: list[str], dtype: str) -> None:
    assert types_of(tmp_path, *texts) == dtype


def test_null_text(tmp_path: Path) -> None:
    assert types_of(tmp_path, "NA", "", "1", null_text="NA") == "int64"
    options = resolve(tmp_path, null_text="NA").csv_options
    assert json.loads(options["null_texts"]) == ["", "NA"]
    assert json.loads(resolve(tmp_path).csv_options["null_texts"]) == [""]


def test_column_types_override_what_the_texts_look_like(tmp_path: Path) -> None:
    assert types_of(tmp_path, "007", column_types={"x": "string"}) == "string"
    assert types_of(tmp_path, "1", column_types={"x": "decimal(12,2)"}) == "decimal(12,2)"
    assert shown(resolve(tmp_path, column_types={"x": "float64"})) == {
        "x": "float64",
        "y": "int64",
    }
    with pytest.raises(SourceSchemaChanged, match=r"names 'z', which is not in the files"):
        resolve(tmp_path, column_types={"z": "string"})


def test_zoned_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,z\n2024-01-01 00:00:00,2024-01-01T00:00:00Z\n")
    files = resolve(tmp_path)
    assert shown(files) == {"n": "timestamp", "z": "timestamp"}
    assert json.loads(files.csv_options["zoned"]) == ["z"]


def test_delimiter_quotes_and_newlines_in_fields(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a;b\n"x;""y""\nz";1\n"";2\n')
    files = resolve(tmp_path, delimiter=";")
    assert shown(files) == {"a": "string", "b": "int64"}
    assert files.csv_options["delimiter"] == ";"


def test_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,a\n2,b\n")
    files = resolve(tmp_path, header=False)
    assert shown(files) == {"column0": "int64", "column1": "string"}
    assert files.csv_options["header"] == "false"
    named = resolve(tmp_path, header=False, column_types={"id": "string", "name": "string"})
    assert shown(named) == {"id": "string", "name": "string"}
    assert json.loads(named.csv_options["names"]) == [["id", "name"]]


def test_many_files_are_united_by_name(tmp_path: Path) -> None:
    for folder, text in {"p=1": "a,b\n1,2\n", "p=2": "c,a\n2024-01-01,1.5\n"}.items():
        (tmp_path / "d" / folder).mkdir(parents=True)
        (tmp_path / "d" / folder / "x.csv").write_text(text)
    files = resolve(tmp_path, "d", format="csv")
    assert shown(files) == {"a": "float64", "b": "int64", "c": "date", "p": "int64"}
    assert json.loads(files.csv_options["names"]) == [["a", "b"], ["c", "a"]]
    assert files.partitions == ({"p": "1"}, {"p": "2"})
    assert resolve(tmp_path, "d/**/*.csv").schema == files.schema


def test_texts_that_do_not_agree_across_files_are_text(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2024-01-01\n")
    (tmp_path / "2.csv").write_text("a,b\nx,2024-01-01 10:00:00\n")
    assert shown(resolve(tmp_path, "*.csv")) == {"a": "string", "b": "timestamp"}


def test_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    assert shown(resolve(tmp_path, "a.csv.gz")) == {"a": "int64"}


def test_only_the_beginning_of_a_large_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "CSV_SAMPLE_BYTES_MAX", 1000)
    (tmp_path / "a.csv").write_text("a,b\n" + '1,"x\ny"\n' * 1000 + "late,1\n")
    assert shown(resolve(tmp_path)) == {"a": "int64", "b": "string"}


def test_only_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    assert shown(resolve(tmp_path)) == {"a": "string", "b": "string"}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"", "it is empty"),
        ("a.csv", b"\n\n", "it is empty"),
        ("a.csv", b"\n\nx,y\n1,2\n", "its first line is blank; it must be the header"),
        ("a.csv", b"\xef\xbb\xbf\r\nx,y\r\n", "its first line is blank; it must be the header"),
        ("a.csv", b"a,b\n1,2\n3\n", "can't be read"),
        ("a.csv", b"a,a\n1,2\n", "names a column twice"),
        ("a.csv.gz", b"not gzip", "can't be read"),
    ],
)
def test_unreadable(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceMissing, match=why) as caught:
        resolve(tmp_path, name)
    assert f"{tmp_path}/{name}" in caught.value.message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="Correct `path`"):
        resolve(tmp_path)


def test_the_pin_sees_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    before = resolve(tmp_path).pin
    assert before == resolve(tmp_path).pin
    assert before["kind"] == "files"
    path.write_text("a\n2\n")
    assert resolve(tmp_path).pin["hash"] != before["hash"]

"""`Scan` as DuckDB text: Parquet and CSV files, their directory columns, and the types we read.

Files whose columns have one set of DuckDB types are read together; groups that differ (a timestamp
in ns here, in µs there) are read apart, so that no value passes through a common type that cannot
hold it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featurestore.compiler.rel import DataFiles, Scan
from featurestore.dtypes import DType
from featurestore.engines import duckdb_values as values
from featurestore.engines.sql import literal, quote, sql_type
from featurestore.errors import SourceSchemaChanged

_FILE, _FILE_ROW = "__file", "file_row_number"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGroup:
    """Files of one source whose columns have the same DuckDB types (`types`, by name)."""

    paths: tuple[str, ...]
    types: Mapping[str, str]


Describe = Callable[[Scan], Sequence[FileGroup]]
"""Looks at the Parquet files of a scan."""


def scan_sql(scan: Scan, names: Mapping[str, str], describe: Describe) -> str:
    """The rows of `scan`; `names` are the identifiers of its output columns.

    Raises `SourceSchemaChanged` for a column that is gone or has a type that does not read as the
    wanted one.
    """
    for column in scan.columns.values():
        if column not in scan.files.schema:
            raise gone(scan, column)
    if scan.files.format == "csv":
        return "\nUNION ALL\n".join(_csv(scan, names))
    return "\nUNION ALL\n".join(_parquet(scan, group, names) for group in describe(scan))


def gone(scan: Scan, column: str) -> SourceSchemaChanged:
    """The error for a column that no file has any more."""
    return SourceSchemaChanged(
        f"Source {scan.source!r} has no column {column!r} any more. "
        "Bring it back, or change and apply the definitions."
    )


def glob_literal(paths: Sequence[str]) -> str:
    """A DuckDB list of paths, none of which is taken for a glob."""
    escaped = ("".join(f"[{c}]" if c in "*?[" else c for c in path) for path in paths)
    return f"[{', '.join(map(literal, escaped))}]"


def _parquet(scan: Scan, group: FileGroup, names: Mapping[str, str]) -> str:
    partitions = _partitions(scan.files)
    items, checked = [], False
    for name, column in scan.columns.items():
        wanted = scan.dtypes[name]
        if column in partitions:
            value = _partition(scan, column, partitions, wanted)
        elif column in group.types:
            value = _file_column(scan, column, group.types[column], wanted)
        else:
            value = _null(wanted)
        checked = checked or _FILE_ROW in value
        items.append(f"{value} AS {names[name]}")
    options = ["union_by_name = true", "hive_partitioning = false"]
    options += [f"filename = {literal(_FILE)}"] if partitions or checked else []
    options += ["file_row_number = true"] if checked else []
    source = f"FROM read_parquet({glob_literal(group.paths)}, {', '.join(options)}) AS f"
    beside = _partition_join(scan.files, group.paths, partitions)
    return f"SELECT {', '.join(items)}\n{source}{beside}"


def _file_column(scan: Scan, column: str, found: str, wanted: DType) -> str:
    if not values.readable(found, wanted):
        raise SourceSchemaChanged(
            f"Column {column!r} of source {scan.source!r} is {found} in the files now, which does "
            f"not read as {wanted}. Correct the files, or apply the definitions again."
        )
    place = f" || ', row ' || f.{_FILE_ROW} || ' of ' || f.{quote(_FILE)}"
    return values.read(f"f.{quote(column)}", found, wanted, what=_where(scan, column) + place)


def _csv(scan: Scan, names: Mapping[str, str]) -> list[str]:
    """All fields are read as text, by position, and cast here: DuckDB would read 1.7 as BIGINT 2,
    and files of one source may order their columns differently."""
    files, partitions = scan.files, _partitions(scan.files)
    texts = []
    for columns, paths in by_columns(files).items():
        items = []
        for name, column in scan.columns.items():
            wanted = scan.dtypes[name]
            if column in partitions:
                value = _partition(scan, column, partitions, wanted)
            elif column in columns:
                field = f"f.{quote(f'c{columns.index(column)}')}"
                value = values.read_text(field, wanted, what=_where(scan, column))
            else:
                value = _null(wanted)
            items.append(f"{value} AS {names[name]}")
        options = ", ".join(csv_options(files, len(columns)))
        options += f", filename = {literal(_FILE)}" if partitions else ""
        source = f"FROM read_csv({glob_literal(paths)}, {options}) AS f"
        beside = _partition_join(files, paths, partitions)
        texts.append(f"SELECT {', '.join(items)}\n{source}{beside}")
    return texts


def by_columns(files: DataFiles) -> dict[tuple[str, ...], list[str]]:
    """CSV files by the names of their fields, in order."""
    names = json.loads(files.csv_options["names"]) if "names" in files.csv_options else None
    plain = [name for name in files.schema if name not in _partitions(files)]
    groups: dict[tuple[str, ...], list[str]] = {}
    for path, columns in zip(files.paths, names or [plain] * len(files.paths), strict=True):
        groups.setdefault(tuple(columns), []).append(path)
    return groups


def csv_options(files: DataFiles, width: int) -> list[str]:
    """How DuckDB reads the files: `width` fields of text, named `c0` and so on."""
    given = files.csv_options
    nulls = json.loads(given.get("null_texts", '[""]'))
    fields = ", ".join(f"{literal(f'c{number}')}: 'VARCHAR'" for number in range(width))
    return [
        "auto_detect = false",
        f"columns = {{{fields}}}",
        f"delim = {literal(given.get('delimiter', ','))}",
        f"header = {given.get('header', 'true')}",
        f"nullstr = [{', '.join(map(literal, nulls))}]",
        "quote = '\"'",
        "escape = '\"'",
        "hive_partitioning = false",
    ]


def _where(scan: Scan, column: str) -> str:
    return literal(f"column {column!r} of source {scan.source!r}")


def _null(dtype: DType) -> str:
    return f"CAST(NULL AS {sql_type(dtype)})"


def _partitions(files: DataFiles) -> dict[str, str]:
    """Identifiers of the columns that stand in directory names."""
    found = sorted({name for partition in files.partitions for name in partition})
    return {name: quote(f"p{number}") for number, name in enumerate(found)}


def _partition(scan: Scan, column: str, partitions: Mapping[str, str], wanted: DType) -> str:
    return values.read_text(f"p.{partitions[column]}", wanted, what=_where(scan, column))


def _partition_join(files: DataFiles, paths: Sequence[str], partitions: Mapping[str, str]) -> str:
    if not partitions:
        return ""
    by_path = dict(zip(files.paths, files.partitions, strict=True))
    rows = []
    for path in paths:
        texts = [by_path[path].get(name) for name in partitions]
        cells = [literal(path), *(f"CAST({literal(text)} AS VARCHAR)" for text in texts)]
        rows.append(f"({', '.join(cells)})")
    file = quote(_FILE)
    columns = ", ".join([file, *partitions.values()])
    return f"\nJOIN (VALUES {', '.join(rows)}) AS p({columns}) ON p.{file} = f.{file}"

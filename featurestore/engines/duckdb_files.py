"""What DuckDB sees in the Parquet files of a scan, at the moment of the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featurestore.compiler.rel import Rel, Scan, walk
from featurestore.engines.duckdb_errors import unreadable
from featurestore.engines.duckdb_scans import (
    Commits,
    FileGroup,
    by_columns,
    csv_options,
    glob_literal,
    gone,
)
from featurestore.engines.duckdb_values import MISREAD_NANOSECONDS
from featurestore.errors import SourceSchemaChanged

if TYPE_CHECKING:
    import duckdb

_NULL = "NullType()"
_ZONED_NANOSECONDS = "TimestampType(isAdjustedToUTC=1%NANOS=NanoSeconds()%"


@dataclass(frozen=True, slots=True)
class _Shape:
    """What files have in common: `nulls` are columns that hold nothing but NULL, `zoned` are
    timestamps with a zone in nanoseconds."""

    signature: str
    nulls: frozenset[str]
    zoned: frozenset[str]


def describe(cursor: duckdb.DuckDBPyConnection, scan: Scan) -> tuple[FileGroup, ...]:
    """The files of `scan`, grouped by the types of their columns.

    Raises `SourceMissing` for a file that is gone or unreadable, `SourceSchemaChanged` for a
    column that no file has.
    """
    import duckdb

    try:
        groups = _groups(cursor, scan)
    except duckdb.Error as error:
        raise unreadable([scan], str(error)) from error
    if scan.files.format == "csv" or not groups:
        return groups
    known = {name for partition in scan.files.partitions for name in partition}
    known.update(name for group in groups for name in group.types)
    for column in scan.columns.values():
        if column not in known:
            raise gone(scan, column)
    return groups


def _groups(cursor: duckdb.DuckDBPyConnection, scan: Scan) -> tuple[FileGroup, ...]:
    own = () if scan.files.format == "csv" else scan.files.paths
    pushed: dict[Commits | None, list[str]] = {}
    for path in scan.files.pushed:
        pushed.setdefault(scan.files.counted.get(path), []).append(path)
    every = [(own, False, None), *((paths, True, counted) for counted, paths in pushed.items())]
    return tuple(
        FileGroup(
            paths=tuple(alike),
            types=_types(cursor, alike, shape),
            pushed=is_pushed,
            counted=counted,
        )
        for paths, is_pushed, counted in every
        if paths
        for shape, alike in _alike(cursor, paths).items()
    )


def check_headers(cursor: duckdb.DuckDBPyConnection, rel: Rel) -> None:
    """Whether CSV files begin as they did when they were looked at: their fields are read by
    position, and another order of columns would be read in silence.

    Raises `SourceSchemaChanged` for another header, `SourceMissing` for a file that is empty.
    """
    scans = {node.source: node for node in walk(rel) if isinstance(node, Scan)}
    for scan in scans.values():
        options = scan.files.csv_options
        if (
            scan.files.format == "csv"
            and "names" in options
            and options.get("header", "true") == "true"
        ):
            for names, paths in by_columns(scan.files).items():
                for path in paths:
                    _check_header(cursor, scan, path, names)


def _check_header(
    cursor: duckdb.DuckDBPyConnection, scan: Scan, path: str, names: Sequence[str]
) -> None:
    headless = replace(scan.files, csv_options={**scan.files.csv_options, "header": "false"})
    options = ", ".join(csv_options(headless, len(names)))
    query = f"SELECT * FROM read_csv({glob_literal([path])}, {options}) LIMIT 1"
    first = cursor.execute(query).fetchall()
    if not first:
        raise unreadable([scan], f"{path} is empty")
    # A name that is a text for NULL is not seen.
    if any(one is not None and one != name for one, name in zip(first[0], names, strict=True)):
        raise SourceSchemaChanged(
            f"Source {scan.source!r}: the header of {path} is not the one it had a moment ago. "
            "Ask again to read the file as it is now."
        )


def _alike(cursor: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> dict[_Shape, list[str]]:
    query = f"""
        SELECT file_name, list(concat_ws(' ', name, type, logical_type) ORDER BY name)::VARCHAR,
            list(name) FILTER (logical_type = '{_NULL}'),
            list(name) FILTER (logical_type LIKE '{_ZONED_NANOSECONDS}')
        FROM parquet_schema({glob_literal(paths)}) GROUP BY file_name
    """
    by_path = {
        path: _Shape(signature, frozenset(nulls or ()), frozenset(zoned or ()))
        for path, signature, nulls, zoned in cursor.execute(query).fetchall()
    }
    groups: dict[_Shape, list[str]] = {}
    for path in paths:
        groups.setdefault(by_path[path], []).append(path)
    return groups


def _types(
    cursor: duckdb.DuckDBPyConnection, paths: Sequence[str], shape: _Shape
) -> dict[str, str]:
    query = (
        f"DESCRIBE SELECT * FROM read_parquet({glob_literal(paths)}, "
        "union_by_name = true, hive_partitioning = false)"
    )
    found = {name: kind for name, kind, *_ in cursor.execute(query).fetchall()}
    for name, kind in found.items():
        if name in shape.nulls and kind == "INTEGER":
            found[name] = '"NULL"'  # as DuckDB 2 says it
        if name in shape.zoned and not kind.endswith("_NS"):
            found[name] = MISREAD_NANOSECONDS
    return found

"""What DuckDB sees in the Parquet files of a scan, at the moment of the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.compiler.rel import Scan
from featurestore.engines.duckdb_errors import unreadable
from featurestore.engines.duckdb_scans import FileGroup, glob_literal, gone
from featurestore.engines.duckdb_values import MISREAD_NANOSECONDS

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
        groups = tuple(
            FileGroup(paths=tuple(paths), types=_types(cursor, paths, shape))
            for shape, paths in _alike(cursor, scan.files.paths).items()
        )
    except duckdb.Error as error:
        raise unreadable([scan], str(error)) from error
    known = {name for partition in scan.files.partitions for name in partition}
    known.update(name for group in groups for name in group.types)
    for column in scan.columns.values():
        if column not in known:
            raise gone(scan, column)
    return groups


def _alike(cursor: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> dict[_Shape, list[str]]:
    query = f"""
        SELECT file_name, list(concat_ws(' ', name, type, logical_type) ORDER BY name)::VARCHAR,
            list(name) FILTER (logical_type = '{_NULL}'),
            list(name) FILTER (logical_type LIKE '{_ZONED_NANOSECONDS}')
        FROM parquet_schema({glob_literal(paths)}) GROUP BY file_name
    """
    by_path = {
        path: _Shape(signature, frozenset(nulls or ()), frozenset(zoned or ()))
        for path, signature, nulls, zoned in cursor.sql(query).fetchall()
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
    found = {name: kind for name, kind, *_ in cursor.sql(query).fetchall()}
    for name, kind in found.items():
        if name in shape.nulls and kind == "INTEGER":
            found[name] = '"NULL"'  # as DuckDB 2 says it
        if name in shape.zoned and not kind.endswith("_NS"):
            found[name] = MISREAD_NANOSECONDS
    return found

"""`Scan` as DuckDB text: Parquet and CSV files, their directory columns, and the types we read.

Files whose columns have one set of DuckDB types are read together; groups that differ (a timestamp
in ns here, in µs there) are read apart, so that no value passes through a common type that cannot
hold it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from featurestore.compiler.rel import COMMITTED, DataFiles, Scan
from featurestore.dtypes import DType
from featurestore.engines import duckdb_values as values
from featurestore.engines.sql import literal, quote, sql_type
from featurestore.errors import SourceSchemaChanged
from featurestore.timeline import INSTANT_US_MAX, INSTANT_US_MIN

_FILE, _FILE_ROW, _FILE_INDEX = "__file", "file_row_number", "file_index"
_FILE_NUMBER = "number"
_CHECKED = f"' of ' || f.{quote(_FILE)}"
Commits = tuple[tuple[int, int], ...]
"""Commits of the push log: after the first instant, up to and with the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGroup:
    """Files of one source whose columns have the same DuckDB types (`types`, by name); `pushed`
    ones have no columns in directory names, and perhaps not all of their commits count."""

    paths: tuple[str, ...]
    types: Mapping[str, str]
    pushed: bool = False
    counted: Commits | None = None


Describe = Callable[[Scan], Sequence[FileGroup]]
"""Looks at the Parquet files of a scan."""


@dataclass(frozen=True, slots=True)
class Within:
    """Only rows whose instant in the output column `column` is in this interval, both ends
    included, are of interest."""

    column: str
    from_us: int
    to_us: int


def groups_of(scan: Scan, describe: Describe) -> Sequence[FileGroup]:
    """What `describe` finds in Parquet files; of other formats, in those of the push log.

    Raises `SourceSchemaChanged` for a column that is gone.
    """
    for column in scan.columns.values():
        if column not in scan.files.schema:
            raise gone(scan, column)
    return describe(scan)


def place_width(scan: Scan, groups: Sequence[FileGroup]) -> int:
    """How many columns say where a row stands: two (file, row in the file), one where there is but
    one file, none where DuckDB can't say it: for CSV, or as a column of the files has the name."""
    if scan.files.format == "csv" or _taken(groups) & {_FILE_ROW, _FILE_INDEX}:
        return 0
    return min(2, sum(len(group.paths) for group in groups))


def _taken(groups: Sequence[FileGroup]) -> set[str]:
    return {name.casefold() for group in groups for name in group.types}


def scan_sql(
    scan: Scan,
    names: Mapping[str, str],
    groups: Sequence[FileGroup],
    *,
    place: Sequence[str] = (),
    within: Within | None = None,
) -> str:
    """The rows of `scan`; `names` are the identifiers of its output columns, `place` those of the
    columns, as many as `place_width`, that say where a row stands: the number of the row in its
    file, and the number of the file.

    Raises `SourceSchemaChanged` for a type that does not read as the wanted one.
    """
    texts, first_file = _csv(scan, names) if scan.files.format == "csv" else [], 0
    for group in groups:
        # Of files that it skips by name DuckDB 2 counts none: those have a number of ours.
        file = f"p.{_FILE_NUMBER}" if _own_partitions(scan, group) else f"f.{_FILE_INDEX}"
        values = (f"f.{_FILE_ROW}", f"{first_file} + {file}")
        items = [f"{value} AS {name}" for value, name in zip(values, place, strict=False)]
        conditions = [*_bounds(scan, group, within), *_counted(group)]
        where = f"\nWHERE {' AND '.join(conditions)}" if conditions else ""
        texts.append(_parquet(scan, group, names, items) + where)
        first_file += len(group.paths)
    return "\nUNION ALL\n".join(texts or [_nothing(scan, names)])


def can_bound(scan: Scan, groups: Sequence[FileGroup], within: Within) -> bool:
    """Whether the files hold the instants in a type that is compared as it stands, so that DuckDB
    skips by the files' own statistics."""
    column = scan.columns[within.column]
    if scan.files.format == "csv" or not groups or column in _partitions(scan.files):
        return False
    return all(group.types.get(column) in _MICROSECONDS for group in groups)


def _bounds(scan: Scan, group: FileGroup, within: Within | None) -> list[str]:
    if within is None:
        return []
    column = scan.columns[within.column]
    zoned = _MICROSECONDS[group.types[column]]
    ends = (">=", within.from_us), ("<=", within.to_us)
    return [
        f"f.{quote(column)} {comparison} {zoned} '{_iso(us)}+00'"
        for comparison, us in ends
        if INSTANT_US_MIN <= us <= INSTANT_US_MAX
    ]


def _counted(group: FileGroup) -> list[str]:
    if group.counted is None:
        return []
    commit = f"f.{quote(COMMITTED)}"
    spans = [f"{commit} > {after} AND {commit} <= {upto}" for after, upto in group.counted]
    return [f"({' OR '.join(spans)})"]


_MICROSECONDS = {"TIMESTAMP": "TIMESTAMP", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _iso(us: int) -> str:
    return (_EPOCH + timedelta(microseconds=us)).replace(tzinfo=None).isoformat(sep=" ")


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


def _parquet(scan: Scan, group: FileGroup, names: Mapping[str, str], place: Sequence[str]) -> str:
    partitions = _own_partitions(scan, group)
    numbered = not _taken([group]) & {_FILE_ROW}
    items, checked = [], False
    for name, column in scan.columns.items():
        wanted = scan.dtypes[name]
        if column in partitions:
            value = _partition(scan, column, partitions, wanted)
        elif column in group.types:
            value = _file_column(scan, column, group.types[column], wanted, numbered=numbered)
        else:
            value = _null(wanted)
        checked = checked or _CHECKED in value
        items.append(f"{value} AS {names[name]}")
    options = ["union_by_name = true", "hive_partitioning = false"]
    options += [f"filename = {literal(_FILE)}"] if partitions or checked else []
    options += ["file_row_number = true"] if checked and numbered else []
    source = f"FROM read_parquet({glob_literal(group.paths)}, {', '.join(options)}) AS f"
    beside = _partition_join(scan.files, group.paths, partitions)
    return f"SELECT {', '.join([*items, *place])}\n{source}{beside}"


def _file_column(scan: Scan, column: str, found: str, wanted: DType, *, numbered: bool) -> str:
    """The values of a column; where one doesn't read as `wanted`, the error says its row where
    the rows are `numbered`."""
    if not values.readable(found, wanted):
        raise SourceSchemaChanged(
            f"Column {column!r} of source {scan.source!r} is {found} in the files now, which does "
            f"not read as {wanted}. Correct the files, or apply the definitions again."
        )
    row = f" || ', row ' || f.{_FILE_ROW}" if numbered else ""
    place = f"{row} || {_CHECKED}"
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


def _own_partitions(scan: Scan, group: FileGroup) -> dict[str, str]:
    return {} if group.pushed else _partitions(scan.files)


def _nothing(scan: Scan, names: Mapping[str, str]) -> str:
    """The rows of a source that has no file yet."""
    items = ", ".join(f"{_null(scan.dtypes[name])} AS {names[name]}" for name in scan.columns)
    return f"SELECT {items} WHERE false"


def _partition(scan: Scan, column: str, partitions: Mapping[str, str], wanted: DType) -> str:
    return values.read_text(f"p.{partitions[column]}", wanted, what=_where(scan, column))


def _partition_join(files: DataFiles, paths: Sequence[str], partitions: Mapping[str, str]) -> str:
    if not partitions:
        return ""
    by_path = dict(zip(files.paths, files.partitions, strict=True))
    rows = []
    for number, path in enumerate(paths):
        texts = [by_path[path].get(name) for name in partitions]
        cells = [
            literal(path),
            str(number),
            *(f"CAST({literal(text)} AS VARCHAR)" for text in texts),
        ]
        rows.append(f"({', '.join(cells)})")
    file = quote(_FILE)
    columns = ", ".join([file, _FILE_NUMBER, *partitions.values()])
    return f"\nJOIN (VALUES {', '.join(rows)}) AS p({columns}) ON p.{file} = f.{file}"

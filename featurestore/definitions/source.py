"""Sources: where rows come from, and which of their columns tell the time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from featurestore.definitions.names import (
    Definition,
    check_duration,
    check_mapping,
    check_name,
    check_texts,
    locate,
    read_dtype,
    report,
    set_field,
)
from featurestore.dtypes import DType
from featurestore.errors import DuplicateName, TypeMismatch, UnknownReference, suggest
from featurestore.timeline import parse_duration

FileFormatName = Literal["parquet", "csv", "delta", "stream"]
"""`stream` is that of a `StreamSource`'s own source, which has no files."""
DayEdge = Literal["start", "end"]

FILE_FORMATS: tuple[FileFormatName, ...] = ("parquet", "csv", "delta")
LATENESS_DEFAULT = "1h"


@dataclass(frozen=True, slots=True)
class _Source(Definition):
    """What file and SQL sources share.

    `event_time_is` says which instant of the day a DATE event time means. `tiebreak` are the
    columns that order rows of equal event and created time (default: all, in name order). `op` is
    the column that holds `U` (row) or `D` (tombstone). `lateness` is how long after its known time
    a row may still turn up in the source.
    """

    kind: ClassVar[str] = "source"

    _: KW_ONLY
    event_time_is: DayEdge | None = None
    tiebreak: str | Sequence[str] = ()
    op: str | None = None
    event_id: str | None = None
    lateness: str | timedelta = LATENESS_DEFAULT
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def lateness_us(self) -> int:
        """`lateness` in µs."""
        return parse_duration(self.lateness, zero=True)

    @property
    def tiebreak_columns(self) -> tuple[str, ...]:
        """The columns declared as `tiebreak`, in order."""
        return (self.tiebreak,) if isinstance(self.tiebreak, str) else tuple(self.tiebreak)


@dataclass(frozen=True, slots=True)
class FileSource(_Source):
    """Rows in Parquet files, CSV files or a Delta table.

    `path` is a file, a glob or a directory (hive partitions become columns) of this machine,
    relative to the repository's folder, or on S3 (`s3://bucket/key`). `field_mapping` renames
    columns: name in the files → our name; all other arguments use our names. `format` is inferred
    where it is left out (`file_format`). `delimiter`, `header`, `null_text` and `column_types` are
    for CSV only.

    Raises `InvalidName`, `DuplicateName`, `TypeMismatch` and plain `DefinitionError`; while a
    repository is loaded these are gathered.
    """

    name: str
    path: str | Path
    event_time: str
    created_time: str | None = None
    _: KW_ONLY
    field_mapping: Mapping[str, str] = field(default_factory=dict, hash=False)
    format: FileFormatName | None = None
    delimiter: str = ","
    header: bool = True
    null_text: str = ""
    column_types: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_name(self, self.name)
        if isinstance(self.path, Path):
            set_field(self, "path", str(self.path))
        check_texts(self, "path", "delimiter", "null_text")
        check_mapping(self, "field_mapping", "column_types")
        _check_source(self, self.event_time)
        _check_field_mapping(self)
        _check_format(self)

    @property
    def csv_dtypes(self) -> dict[str, DType]:
        """`column_types`, parsed: column as it stands in the files → type."""
        found = {c: read_dtype(self, t, what=c) for c, t in self.column_types.items()}
        return {column: dtype for column, dtype in found.items() if dtype is not None}


@dataclass(frozen=True, slots=True)
class SqlSource(_Source):
    """The rows of a query (DuckDB's SQL) over other sources, which it names as tables.

    Raises `InvalidName`, `TypeMismatch` and plain `DefinitionError`; while a repository is loaded
    these are gathered. What the query reads is checked when the repository is resolved.
    """

    name: str
    query: str
    event_time: str
    created_time: str | None = None

    def __post_init__(self) -> None:
        locate(self)
        check_name(self, self.name)
        check_texts(self, "query")
        _check_source(self, self.event_time)


Source = FileSource | SqlSource


def file_format(source: FileSource, root: Path) -> FileFormatName:
    """The format declared, else `delta` for a directory with a `_delta_log`, `csv` for a path that
    ends in `.csv` (or `.csv.gz`), else `parquet`. `root` is the repository's folder."""
    if source.format is not None:
        return source.format
    path = str(source.path)
    # os.path's answer for a path that can't be (too long) is no, pathlib's an OSError.
    if os.path.isdir(root / path / "_delta_log"):  # noqa: PTH112
        return "delta"
    return "csv" if path.lower().endswith((".csv", ".csv.gz")) else "parquet"


def our_names(source: FileSource, schema: Mapping[str, DType]) -> dict[str, DType]:
    """The columns of the files (`schema`) under the names that `field_mapping` gives them.

    Raises `UnknownReference` for a mapped column that the files do not have, `DuplicateName` where
    two columns come to have one name.
    """
    for column in source.field_mapping:
        if column not in schema:
            close = suggest(column, schema)
            raise UnknownReference(f"field_mapping names {column!r}, not in the files.{close}")
    named: dict[str, DType] = {}
    for column, dtype in schema.items():
        name = source.field_mapping.get(column, column)
        if name in named:
            raise DuplicateName(f"field_mapping makes a second column {name!r}; map that one too")
        named[name] = dtype
    return named


def _check_source(source: _Source, event_time: object) -> None:
    check_texts(source, "created_time", "op", "event_id", "description", "owner")
    check_mapping(source, "tags")
    if not isinstance(event_time, str) or not event_time:
        report(source, f"event_time must name a column, not {event_time!r}", TypeMismatch)
    edge: Any = source.event_time_is
    if edge not in (None, "start", "end"):
        report(source, f'event_time_is is "start" or "end", not {edge!r}')
    check_duration(source, "lateness", zero=True)
    lateness: Any = source.lateness
    if lateness is None:
        set_field(source, "lateness", LATENESS_DEFAULT)
    tiebreak: Any = source.tiebreak
    columns = (tiebreak,) if not isinstance(tiebreak, list | tuple) else tuple(tiebreak)
    if not all(isinstance(column, str) and column for column in columns):
        report(source, f"tiebreak must name columns, not {tiebreak!r}", TypeMismatch)
        columns = ()
    set_field(source, "tiebreak", columns)


def _check_field_mapping(source: FileSource) -> None:
    ours = list(source.field_mapping.values())
    for name in sorted({name for name in ours if ours.count(name) > 1}):
        report(source, f"field_mapping gives two columns the name {name!r}", DuplicateName)
    if "" in ours:
        report(source, "field_mapping gives a column an empty name")


def _check_format(source: FileSource) -> None:
    declared: Any = source.format
    if declared not in (None, *FILE_FORMATS):
        report(source, f"format is one of {', '.join(FILE_FORMATS)}, not {declared!r}")
    header: Any = source.header
    if not isinstance(header, bool):
        report(source, f"header is True or False, not {header!r}", TypeMismatch)
    if len(str(source.delimiter)) > 1:
        report(source, f"delimiter is one character, not {source.delimiter!r}")
    for column, text in source.column_types.items():
        read_dtype(source, text, what=f"column_types[{column!r}]")

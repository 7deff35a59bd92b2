"""What all file formats share: hive partitions, one schema of many files, and a pin."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from featurestore.buckets import is_s3
from featurestore.compiler.rel import FILE_COLUMN
from featurestore.definitions.source import FileSource
from featurestore.dtypes import INT64, STRING, DType, widens
from featurestore.errors import SourceMissing, SourceSchemaChanged
from featurestore.fingerprint import fingerprint
from featurestore.stores.offline.listing import FoundFile, Listing

if TYPE_CHECKING:
    import pyarrow as pa

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
EDGE_BYTES = 65_536
"""How much of the beginning and of the end of a file enters its pin, where it has no footer."""

_INTEGER = re.compile(r"[+-]?\d{1,18}")


def unreadable(source: FileSource, path: Path | str, why: str) -> SourceMissing:
    """The error for a file that is there but is not what it should be."""
    reason = why.strip().splitlines()[0] if why.strip() else "unknown reason"
    return SourceMissing(
        f"Source {source.name!r}: {path} can't be read: {reason}. Write the file again or remove it"
    )


def check_own_names(source: FileSource, where: str, columns: Iterable[str]) -> None:
    """Refuse Parquet columns that stand in the way of ours. Raises `SourceSchemaChanged`."""
    for column in columns:
        if column.casefold() == FILE_COLUMN:
            raise SourceSchemaChanged(
                f"Source {source.name!r}: {where} has a column {column!r}, a name of our own; "
                "rename it in the files"
            )


# --- partitions -----------------------------------------------------------------------------------


def partition_values(file: FoundFile) -> dict[str, str | None]:
    """The values of `key=value` folders between the source's folder and the file."""
    values: dict[str, str | None] = {}
    for part in file.folders:
        key, equals, value = part.partition("=")
        if equals and key:
            values[unquote(key)] = None if value == HIVE_NULL else unquote(value)
    return values


def partitions_of(
    source: FileSource, listing: Listing
) -> tuple[tuple[Mapping[str, str | None], ...], dict[str, DType]]:
    """Each file's partition values (empty where there are none at all) and the columns' types:
    int64 where all values are whole numbers, else string.

    Raises `SourceSchemaChanged` where files lie in different partition columns.
    """
    values = [partition_values(file) for file in listing.files]
    keys = list(values[0])
    for file, found in zip(listing.files, values, strict=True):
        if list(found) != keys:
            raise SourceSchemaChanged(
                f"Source {source.name!r}: {file.url} lies in partitions {list(found)}, "
                f"{listing.files[0].url} in {keys}; all files must lie in the same"
            )
    if not keys:
        return (), {}
    columns = {key: [row[key] for row in values if row[key] is not None] for key in keys}
    types = {
        key: INT64 if texts and all(_INTEGER.fullmatch(t or "") for t in texts) else STRING
        for key, texts in columns.items()
    }
    return tuple(values), types


# --- schemas --------------------------------------------------------------------------------------


def unite(
    source: FileSource,
    schemas: Iterable[tuple[str, Mapping[str, DType]]],
    join: Callable[[DType, DType], DType | None] | None = None,
) -> dict[str, DType]:
    """The columns of all files by name, each with the widest type that it has (`join` of two).

    Raises `SourceSchemaChanged`, naming file, column and both types, where there is none.
    """
    join = join or _wider
    united: dict[str, DType] = {}
    seen_in: dict[str, str] = {}
    for path, schema in schemas:
        for column, dtype in schema.items():
            before = united.get(column, dtype)
            wide = join(before, dtype)
            if wide is None:
                raise SourceSchemaChanged(
                    f"Source {source.name!r}: column {column!r} is {dtype} in {path}, "
                    f"but {before} in {seen_in[column]}. Rewrite the files with one type"
                )
            if column not in united or wide != before:
                seen_in[column] = path
            united[column] = wide
    _check_case(source, united)
    return united


def _wider(left: DType, right: DType) -> DType | None:
    if widens(left, right):
        return right
    return left if widens(right, left) else None


def _check_case(source: FileSource, columns: Iterable[str]) -> None:
    """SQL engines take `a` and `A` for one column."""
    seen: dict[str, str] = {}
    for column in columns:
        other = seen.setdefault(column.casefold(), column)
        if other != column:
            raise SourceSchemaChanged(
                f"Source {source.name!r}: columns {other!r} and {column!r} differ in case only; "
                "rename one of them in the files"
            )


# --- pins -----------------------------------------------------------------------------------------


def pin_files(root: Path, listing: Listing, marks: Sequence[str]) -> dict[str, object]:
    """The pin of a file list: how many files, and a hash over path (below `root` where it is
    there), size, modification time (ns) and content mark of each."""
    states = [
        [_shown(root, file.url), file.size, file.mtime_ns, mark]
        for file, mark in zip(listing.files, marks, strict=True)
    ]
    return {"kind": "files", "hash": fingerprint(states), "files": len(states)}


def marks_of(listing: Listing, marks: Sequence[str]) -> tuple[str, ...]:
    """What tells one state of each file from another: size, modification time, content mark."""
    pairs = zip(listing.files, marks, strict=True)
    return tuple(f"{file.size} {file.mtime_ns} {mark}" for file, mark in pairs)


def _shown(root: Path, url: str) -> str:
    path, absolute = Path(url), root.absolute()
    if is_s3(url) or not path.is_relative_to(absolute):
        return url
    return path.relative_to(absolute).as_posix()


def edge_mark(file: pa.NativeFile) -> str:
    """A hash of the first and the last `EDGE_BYTES` of a file."""
    digest = hashlib.sha256(file.read(EDGE_BYTES))
    file.seek(max(file.size() - EDGE_BYTES, 0))
    digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def footer_mark(file: pa.NativeFile) -> str:
    """A hash of a Parquet file's footer, which holds the schema, and statistics and offsets of
    all columns. The file must be known to be Parquet."""
    file.seek(file.size() - 8)
    length = int.from_bytes(file.read(4), "little")
    file.seek(file.size() - 8 - length)
    return hashlib.sha256(file.read(length)).hexdigest()

"""What all file formats share: from a source's path to a file list, hive partitions and a pin."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from featurestore.definitions.source import FileSource
from featurestore.dtypes import INT64, STRING, DType, widens
from featurestore.errors import SourceMissing, SourceSchemaChanged
from featurestore.fingerprint import fingerprint

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
EDGE_BYTES = 65_536
"""How much of the beginning and of the end of a file enters its pin, where it has no footer."""

_MAGIC = re.compile(r"[*?\[]")
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source, absolute and in path order. `key=value` folders below `base` are
    hive partitions."""

    base: Path
    paths: tuple[Path, ...]


def list_files(source: FileSource, root: Path, suffixes: Sequence[str]) -> Listing:
    """The files that `source.path` means: a file, a folder (all files below it that end in one of
    `suffixes`) or a glob (`**` is any number of folders).

    What exists under the very name is meant literally, so that names may hold `[`, `*` and `?`.
    Files and folders that begin with `.` or `_` are left out, as other tools do, but for
    partitions. Raises `SourceMissing` where nothing is found.
    """
    base, rest = _literal_part(_local_path(source), root)
    if not rest:
        if base.is_file():
            return Listing(base.parent, (base,))
        return _found(source, base, _below(base, suffixes), f"no *{suffixes[0]} file below")
    paths: list[Path] = []
    if _MAGIC.search("/".join(rest)):
        # Path.glob reads `**` and symbolic links differently from one Python to the next
        for match in glob.glob("/".join(rest), root_dir=base, recursive=True):  # noqa: PTH207
            path = base / match
            if path.is_dir():
                paths += _below(path, suffixes)
            elif not _is_hidden(path.name):
                paths.append(path)
    return _found(source, base, paths, "nothing at", base.joinpath(*rest))


def _local_path(source: FileSource) -> str:
    path = str(source.path).removeprefix("file://")
    if _SCHEME.match(path):
        raise SourceMissing(
            f"Source {source.name!r}: {path} can't be read: sources are files of this machine; "
            "copy or mount them and give that path"
        )
    return path


def _literal_part(path: str, root: Path) -> tuple[Path, tuple[str, ...]]:
    """The longest beginning of the path that exists as written, and the parts after it."""
    full = root.absolute() / path
    base, parts = Path(full.anchor), full.parts[1:]
    while parts and (base / parts[0]).exists():
        base, parts = base / parts[0], parts[1:]
    return base, parts


def _below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        found += [
            Path(where, name)
            for name in names
            if name.lower().endswith(tuple(suffixes)) and not _is_hidden(name)
        ]
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _found(
    source: FileSource, base: Path, paths: Iterable[Path], missing: str, at: Path | None = None
) -> Listing:
    unique = sorted(set(paths), key=lambda path: path.as_posix())
    if not unique:
        raise SourceMissing(
            f"Source {source.name!r}: {missing} {at or base}. Correct `path` (relative paths are "
            "relative to the repository's folder), or write the files first"
        )
    return Listing(base, tuple(unique))


def unreadable(source: FileSource, path: Path, why: str) -> SourceMissing:
    """The error for a file that is there but is not what it should be."""
    reason = why.strip().splitlines()[0] if why.strip() else "unknown reason"
    return SourceMissing(
        f"Source {source.name!r}: {path} can't be read: {reason}. Write the file again or remove it"
    )


# --- partitions -----------------------------------------------------------------------------------


def partition_values(listing: Listing, path: Path) -> dict[str, str | None]:
    """The values of `key=value` folders between the source's folder and the file."""
    values: dict[str, str | None] = {}
    for part in path.relative_to(listing.base).parts[:-1]:
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
    values = [partition_values(listing, path) for path in listing.paths]
    keys = list(values[0])
    for path, found in zip(listing.paths, values, strict=True):
        if list(found) != keys:
            raise SourceSchemaChanged(
                f"Source {source.name!r}: {path} lies in partitions {list(found)}, "
                f"{listing.paths[0]} in {keys}; all files must lie in the same"
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
    schemas: Iterable[tuple[Path, Mapping[str, DType]]],
    join: Callable[[DType, DType], DType | None] | None = None,
) -> dict[str, DType]:
    """The columns of all files by name, each with the widest type that it has (`join` of two).

    Raises `SourceSchemaChanged`, naming file, column and both types, where there is none.
    """
    join = join or _wider
    united: dict[str, DType] = {}
    seen_in: dict[str, Path] = {}
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


def pin_files(root: Path, paths: Sequence[Path], marks: Sequence[str]) -> dict[str, object]:
    """The pin of a file list: how many files, and a hash over path (below `root` where it is
    there), size, modification time (ns) and content mark of each."""
    states = []
    for path, mark in zip(paths, marks, strict=True):
        stat = path.stat()
        states.append([_shown(root, path), stat.st_size, stat.st_mtime_ns, mark])
    return {"kind": "files", "hash": fingerprint(states), "files": len(states)}


def _shown(root: Path, path: Path) -> str:
    absolute = root.absolute()
    below = path.relative_to(absolute) if path.is_relative_to(absolute) else path
    return below.as_posix()


def edge_mark(path: Path) -> str:
    """A hash of the first and the last `EDGE_BYTES` of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(EDGE_BYTES))
        file.seek(max(path.stat().st_size - EDGE_BYTES, 0))
        digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def footer_mark(path: Path) -> str:
    """A hash of a Parquet file's footer, which holds the schema, and statistics and offsets of
    all columns. The file must be known to be Parquet."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return hashlib.sha256(file.read(length)).hexdigest()

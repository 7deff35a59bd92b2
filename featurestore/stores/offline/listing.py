"""From a source's path to its files, on this machine or on S3."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from featurestore.buckets import REMOTE_THREADS, SCHEME, S3Options, bucket_path, is_s3, translated
from featurestore.definitions.source import FileSource
from featurestore.errors import SourceMissing

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, S3FileSystem

T = TypeVar("T")

_MAGIC = re.compile(r"[*?\[]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of a source. `url` is its absolute path, or `s3://bucket/key`; `folders` are the
    folders between the source's folder and the file; `open()` gives a random-access file."""

    url: str
    folders: tuple[str, ...]
    size: int
    mtime_ns: int
    open: Callable[[], pa.NativeFile]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source in path order. `key=value` among their `folders` are hive
    partitions."""

    files: tuple[FoundFile, ...]
    remote: bool

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(file.url for file in self.files)

    def each(self, look: Callable[[FoundFile], T]) -> list[T]:
        """What `look` says of each file, in order."""
        if not self.remote or len(self.files) == 1:
            return [look(file) for file in self.files]
        with ThreadPoolExecutor(REMOTE_THREADS, thread_name_prefix="s3") as threads:
            return list(threads.map(look, self.files))


def list_files(
    source: FileSource, root: Path, suffixes: Sequence[str], s3: S3Options | None = None
) -> Listing:
    """The files that `source.path` means: a file, a folder (all files below it that end in one of
    `suffixes`) or a glob (`**` is any number of folders).

    What exists under the very name is meant literally, so that names may hold `[`, `*` and `?`.
    Files and folders that begin with `.` or `_` are left out, as other tools do, but for
    partitions. Raises `SourceMissing` where nothing is found, and for S3 `StoreAccessDenied`,
    `StoreUnavailable`, `StoreTimeout`.
    """
    if is_s3(source.path):
        return _list_s3(source, suffixes, (s3 or S3Options()).client())
    base, rest = _literal_part(_local_path(source), root)
    if not rest:
        if base.is_file():
            return Listing((_local_file(source, base, base.parent),), remote=False)
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


# --- on this machine ------------------------------------------------------------------------------


def _local_path(source: FileSource) -> str:
    path = str(source.path).removeprefix("file://")
    if _SCHEME.match(path):
        raise SourceMissing(
            f"Source {source.name!r}: {path} can't be read: sources are files of this machine or "
            f"on S3 ({SCHEME}…); copy or mount them and give that path"
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


def _local_file(source: FileSource, path: Path, base: Path) -> FoundFile:
    try:
        stat = path.stat()
    except OSError as error:
        raise SourceMissing(
            f"Source {source.name!r}: {path} can't be read: {error.strerror}. "
            "Write the file again or remove it"
        ) from error
    return FoundFile(
        url=str(path),
        folders=path.relative_to(base).parts[:-1],
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        open=lambda: pa.OSFile(str(path)),
    )


def _found(
    source: FileSource, base: Path, paths: Iterable[Path], missing: str, at: Path | None = None
) -> Listing:
    unique = sorted(set(paths), key=lambda path: path.as_posix())
    if not unique:
        raise _nothing(source, f"{missing} {at or base}")
    return Listing(tuple(_local_file(source, path, base) for path in unique), remote=False)


def _nothing(source: FileSource, what: str) -> SourceMissing:
    return SourceMissing(
        f"Source {source.name!r}: {what}. Correct `path` (relative paths are "
        "relative to the repository's folder), or write the files first"
    )


# --- on S3 ----------------------------------------------------------------------------------------


def _list_s3(source: FileSource, suffixes: Sequence[str], client: S3FileSystem) -> Listing:
    from pyarrow.fs import FileType

    url = str(source.path)
    path = bucket_path(url)
    if not path or path.startswith("/"):
        raise SourceMissing(f"Source {source.name!r}: {url} names no bucket: {SCHEME}bucket/key")
    with translated(f"Source {source.name!r}"):
        files, base = _look(client, path, suffixes)
        bucket = path.partition("/")[0]
        if not files and client.get_file_info([bucket])[0].type is FileType.NotFound:
            raise SourceMissing(
                f"Source {source.name!r}: there is no bucket {bucket!r}. Correct the path"
            )
    if not files:
        raise _nothing(source, f"nothing at {url}")
    return Listing(tuple(_s3_file(client, info, base) for info in files), remote=True)


def _look(
    client: S3FileSystem, path: str, suffixes: Sequence[str]
) -> tuple[list[FileInfo], PurePosixPath]:
    """The objects that `path` means, and the folder that their partitions are counted from."""
    from pyarrow.fs import FileType

    whole = PurePosixPath(path)
    [info] = client.get_file_info([path])
    if info.type is FileType.File:
        return [info], whole.parent
    if info.type is FileType.Directory:
        return _chosen(_walk(client, path), whole, (), suffixes), whole
    parts = whole.parts
    literal = next((n for n, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
    if literal == len(parts):
        return [], whole
    base = PurePosixPath(*parts[:literal])
    return _chosen(_walk(client, str(base)), base, parts[literal:], suffixes), base


def _walk(client: S3FileSystem, folder: str) -> list[FileInfo]:
    from pyarrow.fs import FileSelector, FileType

    selector = FileSelector(folder, recursive=True, allow_not_found=True)
    found = client.get_file_info(selector)
    files = [info for info in found if info.type is FileType.File]
    return sorted(files, key=lambda info: str(info.path))


def _chosen(
    files: Sequence[FileInfo],
    base: PurePosixPath,
    pattern: tuple[str, ...],
    suffixes: Sequence[str],
) -> list[FileInfo]:
    """Those that `pattern` matches, and those with one of `suffixes` below a folder that it
    matches (the empty pattern matches `base`)."""
    chosen = []
    for info in files:
        parts = PurePosixPath(info.path).relative_to(base).parts
        named = bool(pattern) and _matches(parts, pattern) and not _is_hidden(parts[-1])
        if named or (parts[-1].lower().endswith(tuple(suffixes)) and _is_below(parts, pattern)):
            chosen.append(info)
    return chosen


def _is_below(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether some folder on the way is what `pattern` means, and nothing below it is hidden."""
    return any(
        _matches(parts[:depth], pattern) and not any(map(_is_hidden, parts[depth:]))
        for depth in range(len(parts))
    )


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(
            _matches(parts[n:], pattern[1:])
            for n in range(len(parts) + 1)
            if not any(part.startswith(".") for part in parts[:n])
        )
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _s3_file(client: S3FileSystem, info: FileInfo, base: PurePosixPath) -> FoundFile:
    path = str(info.path)
    return FoundFile(
        url=f"{SCHEME}{path}",
        folders=PurePosixPath(path).relative_to(base).parts[:-1],
        size=int(info.size),
        mtime_ns=int(info.mtime_ns or 0),
        open=lambda: client.open_input_file(path),
    )

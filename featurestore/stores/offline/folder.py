"""The folder that is ours: `offline.path`, on this machine or on S3. It holds what jobs keep
offline beside the users' own files. Every file appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from featurestore.buckets import SCHEME, S3Options, bucket_path, is_s3, translated
from featurestore.errors import FileNotWritten, SourceMissing

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 65_536
UPLOAD_BYTES = 8 * 1024 * 1024
"""What is sent to S3 at a time."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of the folder: its name below it, and what tells one state of it from another."""

    name: str
    url: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineFolder:
    """`base` is an absolute path or `s3://bucket/key`; `s3` says where S3 is, also for sources;
    `wal` is this machine's folder of the write-ahead log of pushed rows, where there may be one."""

    base: str
    s3: S3Options
    wal: Path | None = None

    @classmethod
    def at(cls, path: str, root: Path, s3: S3Options, *, wal: str = "") -> OfflineFolder:
        """The folder `path`, which is relative to `root` unless it is absolute or on S3; so is
        `wal`, which is always on this machine."""
        base = path.rstrip("/") if is_s3(path) else str((root / path).resolve())
        return cls(base=base, s3=s3, wal=(root / wal).resolve() if wal else None)

    def url(self, name: str) -> str:
        """Where the file `name` stands."""
        return f"{self.base}/{name}"

    def list(self, below: str, *, ending: str = ".parquet") -> tuple[KeptFile, ...]:
        """The files below the folder `below` whose names end so, in name order. Raises what S3
        does."""
        remote = is_s3(self.base)
        found = self._list_s3(below, ending) if remote else self._list_local(below, ending)
        return tuple(sorted(found, key=lambda file: file.name))

    def _list_local(self, below: str, ending: str) -> Iterable[KeptFile]:
        base = Path(self.base)
        for path in (base / below).rglob(f"*{ending}"):
            if not path.name.startswith(".") and path.is_file():
                stat = path.stat()
                name = path.relative_to(base).as_posix()
                yield KeptFile(name, str(path), stat.st_size, stat.st_mtime_ns)

    def _list_s3(self, below: str, ending: str) -> Iterable[KeptFile]:
        from pyarrow.fs import FileSelector, FileType

        base = bucket_path(self.base)
        with translated(f"Folder {self.base}"):
            selector = FileSelector(f"{base}/{below}", recursive=True, allow_not_found=True)
            infos = self.s3.client().get_file_info(selector)
        for info in infos:
            if info.type is FileType.File and info.path.endswith(ending):
                name = PurePosixPath(info.path).relative_to(base).as_posix()
                yield KeptFile(name, f"{SCHEME}{info.path}", info.size, info.mtime_ns or 0)

    def size(self, name: str) -> int | None:
        """How many bytes a file has; None where there is none. Raises what S3 does."""
        if not is_s3(self.base):
            path = Path(self.url(name))
            return path.stat().st_size if path.is_file() else None
        from pyarrow.fs import FileType

        with translated(f"Folder {self.base}"):
            [info] = self.s3.client().get_file_info([bucket_path(self.url(name))])
        return int(info.size) if info.type is FileType.File else None

    @contextmanager
    def beside(self, name: str) -> Iterator[Path]:
        """Where to write, on this machine, what `adopt` makes the file `name`; it is gone after the
        block. Raises `FileNotWritten`."""
        if is_s3(self.base):
            with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:
                yield Path(folder) / "part"
            return
        path = Path(self.url(name))
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def adopt(self, part: Path, name: str) -> None:
        """Make `part`, a whole file written where `beside` said, the file `name`, in place of one
        of that name. Raises `FileNotWritten`, what S3 does."""
        if not is_s3(self.base):
            path = Path(self.url(name))
            with writable(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                part.replace(path)
            return
        with (
            translated(f"Folder {self.base}"),
            part.open("rb") as file,
            self.s3.client().open_output_stream(bucket_path(self.url(name))) as out,
        ):
            shutil.copyfileobj(file, out, UPLOAD_BYTES)

    def open(self, name: str) -> pa.NativeFile:
        """A file to read from at random. Raises `OSError` for one that is gone."""
        import pyarrow as pa

        if is_s3(self.base):
            return self.s3.client().open_input_file(bucket_path(self.url(name)))
        return pa.OSFile(self.url(name))

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All of a file, or these columns. Raises what S3 does, and `OSError` for a file that is
        gone."""
        from pyarrow import parquet

        listed = None if columns is None else list(columns)
        if not is_s3(self.base):
            return parquet.read_table(self.url(name), partitioning=None, columns=listed)
        with translated(f"Folder {self.base}"):
            return parquet.read_table(
                bucket_path(self.url(name)),
                filesystem=self.s3.client(),
                partitioning=None,
                columns=listed,
            )

    def write(
        self,
        name: str,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        *,
        group_rows: int = ROW_GROUP_ROWS,
    ) -> None:
        """Write a file, in place of one of that name, in row groups of `group_rows` (where the
        batches have as many). Raises `FileNotWritten`, what S3 does, and what `batches` raise."""
        if not is_s3(self.base):
            _write_whole(Path(self.url(name)), schema, batches, group_rows)
            return
        with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:
            part = Path(folder) / "part.parquet"
            _write_whole(part, schema, batches, group_rows)
            self.adopt(part, name)

    def touch(self, name: str) -> None:
        """Make a file look as if it was written now; on S3 it stays as it is."""
        if not is_s3(self.base):
            with suppress(FileNotFoundError):
                os.utime(self.url(name))

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is fine. Raises what S3 does."""
        if not is_s3(self.base):
            Path(self.url(name)).unlink(missing_ok=True)
            return
        with suppress(SourceMissing), translated(f"Folder {self.base}"):
            self.s3.client().delete_file(bucket_path(self.url(name)))


def _write_whole(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], group_rows: int
) -> None:
    from pyarrow import parquet

    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                with parquet.ParquetWriter(file, schema) as writer:
                    for batch in batches:
                        writer.write_batch(batch, row_group_size=group_rows)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Raises `FileNotWritten` for what keeps `path` from being written."""
    try:
        yield
    except OSError as error:
        raise FileNotWritten(
            f"{path} can't be written: {error.strerror or error}. Free some disk space, or "
            "check the folder's permissions; what was there before is untouched."
        ) from error

"""The write-ahead log of pushed rows: what is acknowledged is on this machine's disk.

A folder holds one file for each process that writes; its name is never used again. A file is a run
of records: magic, checksum and length (4 bytes each, little endian), then the name of a table and
the bytes that belong to it. Appending returns when the record is on the disk; appends of several
threads share an `fsync`. What a crash left half written is cut off when the file is adopted.

A writer holds a lock on its file for as long as it lives. A file that can be locked by another
process is an orphan: whoever locks it is its new owner. Anybody may read records at any time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from featurestore.errors import CorruptLog, FileNotWritten, LimitExceeded

SUFFIX = ".wal"
RECORD_BYTES_MAX = 1 << 30
_MAGIC = b"FSW1"
_HEAD = struct.Struct("<4sII")
_NAME = struct.Struct("<H")
_READ_BYTES = 1 << 20


class Entry(NamedTuple):
    """One record: the table that it is of, its bytes, and where it ends in its file."""

    table: str
    data: bytes
    end: int


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of the log as it stands in its folder."""

    name: str
    path: Path
    size: int


def log_files(folder: Path) -> list[LogFile]:
    """The files of the log, in name order; none where there is no folder."""
    found = []
    with suppress(FileNotFoundError):
        for path in sorted(folder.iterdir()):
            if path.name.endswith(SUFFIX):
                with suppress(FileNotFoundError):  # its owner has just removed it
                    found.append(LogFile(path.name, path, path.stat().st_size))
    return found


def read_entries(path: Path, start: int = 0) -> Iterator[Entry]:
    """The whole records from the place `start` (the end of another one) on. What follows the last
    whole one is a record that is being written, or was when its writer died.

    Raises `CorruptLog` where a record is damaged that others follow.
    """
    with path.open("rb") as file:
        file.seek(start)
        place = start
        while (entry := _read(file.read, place)) is not None:
            place = entry.end
            yield entry
        _check_tail(path, place)


def _read(read: Callable[[int], bytes], place: int) -> Entry | None:
    head = read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, checksum, length = _HEAD.unpack(head)
    if magic != _MAGIC or length > RECORD_BYTES_MAX:
        return None
    body = read(length)
    if len(body) < length or zlib.crc32(body, length) != checksum:
        return None
    (name_bytes,) = _NAME.unpack_from(body)
    name = body[_NAME.size : _NAME.size + name_bytes].decode()
    return Entry(name, body[_NAME.size + name_bytes :], place + _HEAD.size + length)


def _check_tail(path: Path, place: int) -> None:
    """A tail that was torn has nothing behind it; damage in the middle must not pass for one."""
    with path.open("rb") as file:
        file.seek(place + 1)
        base, rest = place + 1, b""
        while chunk := file.read(_READ_BYTES):
            data, found = rest + chunk, -1
            while (found := data.find(_MAGIC, found + 1)) >= 0:
                at = base + found
                # Looked at again, for it may have been in the middle of being written.
                if _whole_at(path, at) and not _whole_at(path, place):
                    raise CorruptLog(
                        f"The push log {path} is damaged at byte {place:,}, and whole records "
                        "follow. Restore it from a backup, or move it away and push again what "
                        "it held; rows that were drained before are safe."
                    )
            keep = len(_MAGIC) - 1
            base, rest = base + len(data) - len(data[-keep:]), data[-keep:]


def _whole_at(path: Path, place: int) -> bool:
    with path.open("rb") as file:
        file.seek(place)
        return _read(file.read, place) is not None


class WalWriter:
    """One file of the log, ours while it is open. Appending is safe in several threads.

    Make one with `create` or, for an orphan, `adopt`.
    """

    def __init__(self, path: Path, descriptor: int, end: int) -> None:
        self.path = path
        self.name = path.name
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._sync = threading.Lock()
        self._end = self._synced = end
        self._broken = False

    @classmethod
    def create(cls, folder: Path) -> Self:
        """A new file in `folder`. Raises `FileNotWritten`."""
        name = f"{os.getpid()}-{uuid.uuid4().hex}{SUFFIX}"
        part = folder / f".{name}.new"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            # Nobody sees it without its lock.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            part.rename(folder / name)
            _sync_folder(folder)
        except OSError as error:
            raise _not_written(folder, error) from error
        return cls(folder / name, descriptor, 0)

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """The file of a writer that is gone, its torn end cut off; None where its writer lives, or
        somebody else was faster. Raises `CorruptLog`, `FileNotWritten`."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _not_written(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Removed between open and lock?
            if os.fstat(descriptor).st_nlink == 0:
                raise BlockingIOError
            end = 0
            for entry in read_entries(path):
                end = entry.end
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, end)

    @property
    def end(self) -> int:
        """Where the last whole record ends."""
        return self._end

    @property
    def usable(self) -> bool:
        """Whether it takes records; after an error of the disk it takes none any more."""
        return not self._broken

    def append(self, records: Sequence[tuple[str, bytes]]) -> int:
        """Append all the records (table, bytes), or none; they are on the disk when this returns.
        Returns where they end. Raises `FileNotWritten`, `LimitExceeded`."""
        data = b"".join(_encoded(table, body) for table, body in records)
        with self._lock:
            if self._broken:
                raise FileNotWritten(f"{self.path} takes no more rows after an error of the disk.")
            start = self._end
            try:
                _write_all(self._descriptor, data, start)
            except OSError as error:
                self._cut(start)
                raise _not_written(self.path, error) from error
            mine = self._end = start + len(data)
        self._await_sync(mine)
        return mine

    def _await_sync(self, mine: int) -> None:
        with self._sync:
            if self._synced >= mine:
                return
            with self._lock:
                upto = self._end
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                # What the kernel has dropped it does not write again: a second attempt would lie.
                self._broken = True
                raise _not_written(self.path, error) from error
            self._synced = upto

    def _cut(self, place: int) -> None:
        try:
            os.ftruncate(self._descriptor, place)
        except OSError:
            self._broken = True

    def remove(self) -> None:
        """Remove the file and let it go. Its rows must be everywhere where they belong."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let it go; others may adopt it."""
        with self._sync, self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
                self._broken = True


def _encoded(table: str, body: bytes) -> bytes:
    name = table.encode()
    payload = b"".join((_NAME.pack(len(name)), name, body))
    if len(payload) > RECORD_BYTES_MAX:
        raise LimitExceeded("RECORD_BYTES_MAX", asked=len(payload), allowed=RECORD_BYTES_MAX)
    checksum = zlib.crc32(payload, len(payload))
    return _HEAD.pack(_MAGIC, checksum, len(payload)) + payload


def _write_all(descriptor: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        view, place = view[written:], place + written


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> FileNotWritten:
    return FileNotWritten(
        f"The push log {path} can't be written: {error.strerror or error}. Free some disk space, "
        "or check the folder's permissions ([push] path); nothing of these rows was taken."
    )

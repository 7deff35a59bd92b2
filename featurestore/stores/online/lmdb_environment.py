"""One open LMDB environment per folder and process, shared by all stores on it.

LMDB locks files by process: opening one twice in a process corrupts it, and an environment must not
be used across `fork`. So there is one registry of what is open, for the process (the one piece of
global state here, because LMDB's own is), with a count of users; a forked child closes its copies
and opens anew at first use.

The map grows by itself. Growing replaces it under the feet of every open transaction, so reads of
one process hold a mutex (0.1 µs; they hold the interpreter's lock in any case).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import lmdb

from featurestore.errors import (
    FeatureStoreError,
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
)

T = TypeVar("T")
Txn: TypeAlias = "lmdb.Transaction[bytes]"

READERS_MAX: Final = 1024
DATA_FILE = "data.mdb"
# A page that was written in part is EIO to LMDB.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_DENIED = (errno.EACCES, errno.EPERM)


class SharedEnvironment:
    """The environment of one folder in this process. Get it by `acquire`, give it back by
    `release`."""

    def __init__(self, folder: Path, map_bytes: int) -> None:
        self.folder = folder
        self.users = 0
        self._map_bytes = map_bytes
        self._env: lmdb.Environment | None = None
        self._map_lock = threading.Lock()
        self._write_lock = threading.Lock()

    def read(self, work: Callable[[Txn], T], *, timeout_ms: int) -> T | None:
        """`work` in a read transaction; None while no writer has made the files. Raises
        `StoreTimeout` where other threads' reads take that long."""
        lock = self._map_lock
        # Asking without a timeout first costs a third of asking with one.
        if not lock.acquire(blocking=False) and not lock.acquire(timeout=timeout_ms / 1000):
            raise StoreTimeout(f"the online store in {self.folder} is busy for {timeout_ms} ms")
        try:
            env = self._env or self._open_if_there()
            if env is None:
                return None
            try:
                txn = env.begin()
            except lmdb.MapResizedError:
                # Another process has grown the map: take its size.
                env.set_mapsize(0)
                txn = env.begin()
            with txn:
                return work(txn)
        except (lmdb.Error, OSError) as error:
            raise self._translate(error) from error
        finally:
            lock.release()

    def write(self, work: Callable[[Txn], T], *, bytes_more: int = 0) -> T:
        """`work` in a write transaction, durable when it returns. It may run more than once: when
        the map is full, it grows (by at least `bytes_more`) and the work begins anew."""
        with self._write_lock:
            try:
                return self._write(work, bytes_more)
            except (lmdb.Error, OSError) as error:
                raise self._translate(error) from error

    def _write(self, work: Callable[[Txn], T], bytes_more: int) -> T:
        while True:
            with self._map_lock:
                env = self._env or self._open()
            try:
                with env.begin(write=True) as txn:
                    return work(txn)
            except lmdb.MapResizedError:
                with self._map_lock:
                    env.set_mapsize(0)
            except lmdb.MapFullError:
                with self._map_lock:
                    size = env.info()["map_size"]
                    env.set_mapsize(size + max(size, 2 * bytes_more))

    def exists(self) -> bool:
        """Whether a writer has made the files."""
        return (self.folder / DATA_FILE).exists()

    def _open_if_there(self) -> lmdb.Environment | None:
        return self._open() if self.exists() else None

    def _open(self) -> lmdb.Environment:
        data = self.folder / DATA_FILE
        new = not data.exists()
        if new:
            self.folder.mkdir(parents=True, exist_ok=True)
        # Readers open for writing too where they may: a store that writes can then share the
        # environment. Size 0 takes the size that the last writer chose.
        frozen = not new and not os.access(data, os.W_OK)
        env = lmdb.Environment(
            str(self.folder),
            map_size=self._map_bytes if new else 0,
            readonly=frozen,
            max_readers=READERS_MAX,
            # A cached read transaction would keep its slot across a fork.
            max_spare_txns=0,
        )
        if not frozen:
            _fill_up(env, data)
            if env.info()["map_size"] < self._map_bytes:
                env.set_mapsize(self._map_bytes)
        self._env = env
        return env

    def close(self) -> None:
        """Wait for what is under way, then close the files."""
        with self._write_lock, self._map_lock:
            if self._env is not None:
                self._env.close()
                self._env = None

    def _translate(self, error: lmdb.Error | OSError) -> FeatureStoreError:
        code = error.errno if isinstance(error, OSError) else error.code
        where = f"the online store in {self.folder}"
        if isinstance(error, lmdb.ReadonlyError) or code == errno.EROFS:
            return StoreReadOnly(f"{where} may only be read: {error}")
        if code in _DENIED:
            return StoreAccessDenied(f"{where} is not ours to open: {error}. Check its permissions")
        if code in _NO_ROOM:
            return StoreFull(f"{where} cannot be written: {error}. Free some disk space")
        if isinstance(error, lmdb.ReadersFullError):
            return StoreUnavailable(f"{where} has more than {READERS_MAX:,} readers at once")
        if isinstance(error, (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError)):
            return StoreError(
                f"{where} is damaged, or no LMDB: {error}. "
                "Move the folder away and write it anew: featurestore materialize --replace"
            )
        return StoreUnavailable(f"{where}: {error}")

    # --- fork -------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Before a fork: let no transaction be open."""
        self._write_lock.acquire()
        self._map_lock.acquire()

    def resume(self) -> None:
        """After it, in the parent."""
        self._map_lock.release()
        self._write_lock.release()

    def reset(self) -> None:
        """After it, in the child: close the inherited files; the next use opens them anew."""
        if self._env is not None:
            self._env.close()
            self._env = None
        self.resume()


def _fill_up(env: lmdb.Environment, data: Path) -> None:
    """Make the file as long as its pages are said to reach. One that was cut off would end the
    process with SIGBUS where it is read beyond its end; zeros are found to be no page."""
    reach = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    size = data.stat().st_size
    if size < reach:
        with data.open("r+b") as file:
            # Never shortens, whatever another process writes meanwhile.
            os.posix_fallocate(file.fileno(), size, reach - size)


_registry: dict[Path, SharedEnvironment] = {}
_registry_lock = threading.Lock()


def acquire(folder: Path, map_bytes: int) -> SharedEnvironment:
    """The environment of `folder`, opened at first use; `map_bytes` is the least size of its map.
    Each `acquire` needs one `release`."""
    folder = folder.resolve()
    with _registry_lock:
        shared = _registry.get(folder)
        if shared is None:
            shared = _registry[folder] = SharedEnvironment(folder, map_bytes)
        shared.users += 1
        return shared


def release(shared: SharedEnvironment) -> None:
    """Close the environment after its last user."""
    with _registry_lock:
        shared.users -= 1
        if shared.users == 0:
            del _registry[shared.folder]
            shared.close()


def _before_fork() -> None:
    _registry_lock.acquire()
    for shared in _registry.values():
        shared.hold()


def _after_fork_in_parent() -> None:
    for shared in _registry.values():
        shared.resume()
    _registry_lock.release()


def _after_fork_in_child() -> None:
    for shared in _registry.values():
        shared.reset()
    _registry_lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)

"""What the stores of Redis's protocol have in common, whether one server, a cluster, or what
Sentinel names: how they are opened, what they refuse, how a read is written down, and how keys are
swept and listed by SCAN."""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from featurestore.config import OnlineSettings
from featurestore.errors import StoreReadOnly
from featurestore.stores.online.base import (
    Capabilities,
    KeyFields,
    OnlineStore,
    RowBatch,
    Swap,
    WriteResult,
)
from featurestore.stores.online.checks import check_batch, check_field, check_keys, check_swaps
from featurestore.stores.online.redis_writes import expiry_argument
from featurestore.stores.online.resp import Command

SCAN_KEYS = 500
"""Keys that one step of a sweep looks at, about."""
_GLOB = re.compile(rb"([\\*?\[\]])")

T = TypeVar("T")


class RedisFamilyStore(OnlineStore):
    """A store of Redis's protocol at a URL. Connects when first used."""

    capabilities: ClassVar[Capabilities] = Capabilities(expires="field", shared=True)

    def __init__(self, url: str, *, timeout_ms: int = 1000, read_only: bool = False) -> None:  # noqa: ARG002 (subclasses read it)
        self._timeout_ms = timeout_ms
        self._read_only = read_only

    @classmethod
    def open(cls, settings: OnlineSettings, *, root: Path, read_only: bool = False) -> Self:  # noqa: ARG003 (no files)
        """Raises `InvalidSettings` for a malformed URL."""
        return cls(settings.url, timeout_ms=settings.timeout_ms, read_only=read_only)

    @property
    @abstractmethod
    def shown(self) -> str:
        """The URL without credentials and options."""

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise StoreReadOnly(f"the online store {self.shown} was opened read-only")


class ScannedStore(RedisFamilyStore):
    """A store that talks to the servers itself: checked writes, and sweeps and scans by SCAN."""

    @abstractmethod
    def _write(self, batch: RowBatch) -> WriteResult:
        """`write`, checked."""

    @abstractmethod
    def _replace(self, key: bytes, arguments: tuple[bytes, ...]) -> bool:
        """`replace`, checked, by the arguments of the script."""

    @abstractmethod
    def _swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        """`swap`, checked."""

    @abstractmethod
    def _pages(self, pattern: bytes) -> Iterator[list[bytes]]:
        """The keys that match, about `SCAN_KEYS` looked at in each step."""

    @abstractmethod
    def _each(self, commands: Sequence[tuple[bytes, ...]]) -> list[Any]:
        """The replies to commands of one key (their second word) each. Raises for refusals."""

    def write(self, batch: RowBatch) -> WriteResult:
        """Write the newer rows. `timeout_ms` is for each call under way, not for the batch. A row
        that was written again after a server failed may count as `same` instead of `written`."""
        self._refuse_if_read_only()
        check_batch(batch)
        return self._write(batch)

    def replace(
        self, field: bytes, key: bytes, *, expected: bytes, row: bytes, expire_at_us: int | None
    ) -> bool:
        """Compare-and-set inside the server that has the key. After a failure, False may mean that
        it was done."""
        self._refuse_if_read_only()
        check_field(field)
        check_keys([key])
        return self._replace(key, (field, expected, row, expiry_argument(expire_at_us)))

    def swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        """Compare-and-swap by revision inside the servers that have the keys."""
        self._refuse_if_read_only()
        check_swaps(fields, swaps)
        return self._swap(fields, swaps)

    def sweep(
        self,
        prefix: bytes,
        *,
        keep: Iterable[bytes],
        older_than_us: int | None = None,  # noqa: ARG002 (the servers have freed those)
    ) -> Iterator[int]:
        """Free rows of other fields than `keep`; expired ones are the servers' to free.

        A key that moves from node to node meanwhile may be left for the next sweep.
        """
        self._refuse_if_read_only()
        return self._steps(prefix, frozenset(keep))

    def _steps(self, prefix: bytes, keep: frozenset[bytes]) -> Iterator[int]:
        for keys in self._pages(pattern_of(prefix)):
            fields = self._each([(b"HKEYS", key) for key in keys])
            stale = [
                (b"HDEL", key, *gone)
                for key, found in zip(keys, fields, strict=True)
                if (gone := [name for name in found if name not in keep])
            ]
            yield sum(self._each(stale))

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        """The keys that begin with `prefix`, some at a time."""
        return self._pages(pattern_of(prefix))


def pages(pattern: bytes, ask: Callable[[Command], Any]) -> Iterator[list[bytes]]:
    """The keys of one server that match, as `ask` has it answer SCAN."""
    cursor = b"0"
    while True:
        cursor, keys = ask((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_KEYS))
        yield keys
        if cursor == b"0":
            return


def pattern_of(prefix: bytes) -> bytes:
    """The pattern of SCAN for the keys that begin with `prefix`."""
    return _GLOB.sub(rb"\\\1", prefix) + b"*"


def of_new_loop(
    known: dict[asyncio.AbstractEventLoop, T], make: Callable[[asyncio.AbstractEventLoop], T]
) -> T:
    """What the running loop has from now on; what loops had that have ended is let go."""
    loop = asyncio.get_running_loop()
    for ended in [one for one in known if one.is_closed()]:
        del known[ended]
    known[loop] = made = make(loop)
    return made


# --- reads ----------------------------------------------------------------------------------------


def spread(reads: Sequence[KeyFields], answers: list[Any]) -> list[list[bytes | None]]:
    """The answers in the order of `reads`, of which those of no fields were not asked."""
    found = iter(answers)
    return [next(found) if read.fields else [] for read in reads]


def pack_read(read: KeyFields) -> bytes:
    """The packed command of one read."""
    key, fields = read
    return b"".join((before_key(len(fields), len(key)), key, after_key(fields)))


@lru_cache(maxsize=4096)
def before_key(fields: int, key_bytes: int) -> bytes:
    """`HMGET` up to its key. What surrounds keys is the same in nearly all reads: putting it there
    takes a third of the time that packing the command does."""
    return b"*%d\r\n$5\r\nHMGET\r\n$%d\r\n" % (2 + fields, key_bytes)


@lru_cache(maxsize=4096)
def after_key(fields: tuple[bytes, ...]) -> bytes:
    """What follows the key of `HMGET`."""
    return b"".join((b"\r\n", *(b"$%d\r\n%s\r\n" % (len(field), field) for field in fields)))

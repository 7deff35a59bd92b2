"""The online store on a server that speaks Redis's protocol: Redis, Valkey and their kin.

A store key is a hash; below it one field of 8 bytes holds one row. Reads are one HMGET for each
entity key, all in one round trip. Writes are scripts that compare times inside the server, many
keys per call, a few calls under way at once. Every key that a script touches stands in KEYS, and
`rows_per_call=1` makes them one key per call, which a cluster asks for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from hiredis import ReplyError

from featurestore.config import OnlineSettings
from featurestore.errors import StoreReadOnly
from featurestore.stores.online.base import (
    Capabilities,
    KeyFields,
    OnlineStore,
    RowBatch,
    ServerFacts,
    Swap,
    WriteResult,
)
from featurestore.stores.online.checks import check_batch, check_field, check_keys, check_swaps
from featurestore.stores.online.redis_async import AsyncClient
from featurestore.stores.online.redis_blocking import Connection, Pool, deadline_in
from featurestore.stores.online.redis_facts import server_facts
from featurestore.stores.online.redis_replication import await_replica
from featurestore.stores.online.redis_scripts import KEY_MODE
from featurestore.stores.online.redis_swaps import swap_on
from featurestore.stores.online.redis_writes import ROWS_PER_CALL, Writer, expiry_argument
from featurestore.stores.online.resp import Command, Target, parse_target, refusal

SCAN_KEYS = 500
"""Keys that one step of a sweep looks at, about."""
_GLOB = re.compile(rb"([\\*?\[\]])")


class RedisStore(OnlineStore):
    """The store at a `redis://` or `rediss://` URL. Connects when first used.

    `expires="key"` lets rows expire with their whole key even where the server could do better.
    With `replicated`, writes return when a replica has them, if the server has one.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(expires="field", shared=True)

    def __init__(
        self,
        url: str | Target,
        *,
        timeout_ms: int = 1000,
        read_only: bool = False,
        rows_per_call: int = ROWS_PER_CALL,
        expires: Literal["field", "key"] = "field",
        replicated: bool = False,
    ) -> None:
        self._target = url if isinstance(url, Target) else parse_target(url)
        self._timeout_ms = timeout_ms
        self._read_only = read_only
        self._replicated = replicated
        self._pool = Pool(self._target)
        self._clients: dict[asyncio.AbstractEventLoop, AsyncClient] = {}
        self._writer = Writer(
            target=self._target,
            timeout_ms=timeout_ms,
            rows_per_call=rows_per_call,
            mode=KEY_MODE if expires == "key" else None,
        )

    @classmethod
    def open(cls, settings: OnlineSettings, *, root: Path, read_only: bool = False) -> Self:  # noqa: ARG003 (no files)
        """Raises `InvalidSettings` for a malformed URL."""
        return cls(settings.url, timeout_ms=settings.timeout_ms, read_only=read_only)

    # --- reads ------------------------------------------------------------------------------------

    def read(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """Row bytes in the order asked; None where absent. One round trip."""
        payload, count = _read_commands(reads)
        if not count:
            return [[] for _ in reads]
        deadline = deadline_in(timeout_ms or self._timeout_ms)
        connection = self._pool.take(deadline)
        try:
            connection.send(payload, deadline)
            replies = connection.replies(count, deadline)
        except BaseException:
            connection.close()
            raise
        self._pool.give(connection)
        return self._rows(reads, replies)

    async def read_async(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """The same without blocking the loop; shares its round trip with other callers."""
        payload, count = _read_commands(reads)
        if not count:
            return [[] for _ in reads]
        client = self._clients.get(asyncio.get_running_loop()) or self._new_client()
        replies = await client.call(payload, count, timeout_ms or self._timeout_ms)
        return self._rows(reads, replies)

    def _rows(self, reads: Sequence[KeyFields], replies: list[Any]) -> list[list[bytes | None]]:
        for reply in replies:
            if reply.__class__ is not list:
                raise refusal(self._target, reply)
        if len(replies) == len(reads):
            return replies
        answers = iter(replies)
        return [next(answers) if read.fields else [] for read in reads]

    def _new_client(self) -> AsyncClient:
        loop = asyncio.get_running_loop()
        for ended in [known for known in self._clients if known.is_closed()]:
            del self._clients[ended]
        client = AsyncClient(self._target, loop, connect_timeout_ms=self._timeout_ms)
        self._clients[loop] = client
        return client

    # --- writes -----------------------------------------------------------------------------------

    def write(self, batch: RowBatch) -> WriteResult:
        """Write the newer rows. `timeout_ms` is for each call under way, not for the batch."""
        self._refuse_if_read_only()
        check_batch(batch)
        with self._pool.connection(deadline_in(self._timeout_ms)) as connection:
            result = self._writer.write(connection, batch)
            self._await_replica(connection)
        return result

    def replace(
        self, field: bytes, key: bytes, *, expected: bytes, row: bytes, expire_at_us: int | None
    ) -> bool:
        """Compare-and-set inside the server."""
        self._refuse_if_read_only()
        check_field(field)
        check_keys([key])
        arguments = (field, expected, row, expiry_argument(expire_at_us))
        with self._pool.connection(deadline_in(self._timeout_ms)) as connection:
            replaced = self._writer.replace(connection, key, arguments)
            self._await_replica(connection)
        return replaced

    def swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        """Compare-and-swap by revision inside the server, many keys per call."""
        self._refuse_if_read_only()
        check_swaps(fields, swaps)
        with self._pool.connection(deadline_in(self._timeout_ms)) as connection:
            swapped = swap_on(self._writer, connection, fields, swaps)
            self._await_replica(connection)
        return swapped

    def _await_replica(self, connection: Connection) -> None:
        if self._replicated:
            await_replica(connection, timeout_ms=self._timeout_ms)

    def sweep(
        self,
        prefix: bytes,
        *,
        keep: Iterable[bytes],
        older_than_us: int | None = None,  # noqa: ARG002 (the server has freed those)
    ) -> Iterator[int]:
        """Free rows of other fields than `keep`; expired ones are the server's to free."""
        self._refuse_if_read_only()
        return self._steps(prefix, frozenset(keep))

    def _steps(self, prefix: bytes, keep: frozenset[bytes]) -> Iterator[int]:
        pattern = pattern_of(prefix)
        cursor = b"0"
        while True:
            scan = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_KEYS)
            ((cursor, keys),) = self._call([scan])
            fields = self._call([(b"HKEYS", key) for key in keys])
            stale = [
                (b"HDEL", key, *gone)
                for key, found in zip(keys, fields, strict=True)
                if (gone := [name for name in found if name not in keep])
            ]
            yield sum(self._call(stale))
            if cursor == b"0":
                return

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        """The keys that begin with `prefix`, some at a time."""
        pattern, cursor = pattern_of(prefix), b"0"
        while True:
            command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_KEYS)
            ((cursor, keys),) = self._call([command])
            yield keys
            if cursor == b"0":
                return

    def _call(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        replies = self._pool.call(commands, deadline_in(self._timeout_ms))
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise refusal(self._target, reply)
        return replies

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise StoreReadOnly(f"the online store {self._target.shown} was opened read-only")

    def ping(self, *, timeout_ms: int | None = None) -> None:
        """Return if the server answers."""
        (reply,) = self._pool.call([(b"PING",)], deadline_in(timeout_ms or self._timeout_ms))
        if isinstance(reply, ReplyError):
            raise refusal(self._target, reply)

    def facts(self, now_us: Callable[[], int]) -> ServerFacts:
        """What the server says of itself; what our user may not ask is None."""
        return server_facts(self._pool, deadline_in(self._timeout_ms), now_us)

    def close(self) -> None:
        """Close all connections, of every event loop too."""
        self._pool.close()
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def pattern_of(prefix: bytes) -> bytes:
    """The pattern of SCAN for the keys that begin with `prefix`."""
    return _GLOB.sub(rb"\\\1", prefix) + b"*"


def _read_commands(reads: Sequence[KeyFields]) -> tuple[bytes, int]:
    """The packed commands of a read, and how many they are (a read of no fields is none)."""
    pieces, count = list[bytes](), 0
    for key, fields in reads:
        if fields:
            pieces += (_before_key(len(fields), len(key)), key, _after_key(fields))
            count += 1
    return b"".join(pieces), count


def pack_read(read: KeyFields) -> bytes:
    """The packed command of one read."""
    key, fields = read
    return b"".join((_before_key(len(fields), len(key)), key, _after_key(fields)))


@lru_cache(maxsize=4096)
def _before_key(fields: int, key_bytes: int) -> bytes:
    """`HMGET` up to its key. What surrounds keys is the same in nearly all reads: putting it there
    takes a third of the time that packing the command does."""
    return b"*%d\r\n$5\r\nHMGET\r\n$%d\r\n" % (2 + fields, key_bytes)


@lru_cache(maxsize=4096)
def _after_key(fields: tuple[bytes, ...]) -> bytes:
    return b"".join((b"\r\n", *(b"$%d\r\n%s\r\n" % (len(field), field) for field in fields)))

"""The online store on a server that speaks Redis's protocol: Redis, Valkey and their kin.

A store key is a hash; below it one field of 8 bytes holds one row. Reads are one HMGET for each
entity key, all in one round trip. Writes are scripts that compare times inside the server, many
keys per call, a few calls under way at once. Every key that a script touches stands in KEYS, and
`rows_per_call=1` makes them one key per call, which a cluster asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from hiredis import ReplyError

from featurestore.stores.online.base import (
    KeyFields,
    RowBatch,
    Rows,
    ServerFacts,
    Swap,
    Waiter,
    WriteResult,
)
from featurestore.stores.online.redis_async import AsyncClient, Call
from featurestore.stores.online.redis_blocking import Connection, Pool, deadline_in
from featurestore.stores.online.redis_common import (
    ScannedStore,
    after_key,
    before_key,
    of_new_loop,
    pages,
    spread,
)
from featurestore.stores.online.redis_facts import server_facts
from featurestore.stores.online.redis_replication import await_replica
from featurestore.stores.online.redis_scripts import KEY_MODE
from featurestore.stores.online.redis_swaps import swap_on
from featurestore.stores.online.redis_writes import ROWS_PER_CALL, Writer
from featurestore.stores.online.resp import Command, Target, parse_target, refusal


class _Rows(Call):
    """Reads that are under way; the waiter gets rows, or what the server refused."""

    __slots__ = ("_target",)

    def __init__(
        self,
        waiter: Waiter[Rows],
        count: int,
        deadline: float,
        target: Target,
    ) -> None:
        super().__init__(waiter, count, deadline)
        self._target = target

    def answered(self) -> None:
        """All rows are here."""
        if self.waiter.done():
            return
        for reply in self.replies:
            if reply.__class__ is not list:
                self.waiter.set_exception(refusal(self._target, reply))
                return
        self.waiter.set_result(self.replies)


class RedisStore(ScannedStore):
    """The store at a `redis://` or `rediss://` URL. Connects when first used.

    `expires="key"` lets rows expire with their whole key even where the server could do better.
    With `replicated`, writes return when a replica has them, if the server has one.
    """

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
        super().__init__(self._target.shown, timeout_ms=timeout_ms, read_only=read_only)
        self._replicated = replicated
        self._pool = Pool(self._target)
        self._clients: dict[asyncio.AbstractEventLoop, AsyncClient] = {}
        self._writer = Writer(
            target=self._target,
            timeout_ms=timeout_ms,
            rows_per_call=rows_per_call,
            mode=KEY_MODE if expires == "key" else None,
        )

    @property
    def shown(self) -> str:
        """The URL without credentials and options."""
        return self._target.shown

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

    def read_soon(
        self,
        reads: Sequence[KeyFields],
        waiter: Waiter[Rows],
        *,
        timeout_ms: int,
    ) -> bool:
        """`read_async` without a task, once the connection of the running loop is there."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            return False
        payload, count = _read_commands(reads)
        if count != len(reads):
            return False
        deadline = loop.time() + timeout_ms / 1000
        return client.call_soon(payload, _Rows(waiter, count, deadline, self._target))

    def _rows(self, reads: Sequence[KeyFields], replies: list[Any]) -> list[list[bytes | None]]:
        for reply in replies:
            if reply.__class__ is not list:
                raise refusal(self._target, reply)
        if len(replies) == len(reads):
            return replies
        return spread(reads, replies)

    def _new_client(self) -> AsyncClient:
        return of_new_loop(
            self._clients,
            lambda loop: AsyncClient(self._target, loop, connect_timeout_ms=self._timeout_ms),
        )

    # --- writes -----------------------------------------------------------------------------------

    def _write(self, batch: RowBatch) -> WriteResult:
        with self._pool.connection(deadline_in(self._timeout_ms)) as connection:
            result = self._writer.write(connection, batch)
            self._await_replica(connection)
        return result

    def _replace(self, key: bytes, arguments: tuple[bytes, ...]) -> bool:
        with self._pool.connection(deadline_in(self._timeout_ms)) as connection:
            replaced = self._writer.replace(connection, key, arguments)
            self._await_replica(connection)
        return replaced

    def _swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        with self._pool.connection(deadline_in(self._timeout_ms)) as connection:
            swapped = swap_on(self._writer, connection, fields, swaps)
            self._await_replica(connection)
        return swapped

    def _await_replica(self, connection: Connection) -> None:
        if self._replicated:
            await_replica(connection, timeout_ms=self._timeout_ms)

    def _pages(self, pattern: bytes) -> Iterator[list[bytes]]:
        return pages(pattern, lambda command: self._each([command])[0])

    def _each(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        replies = self._pool.call(commands, deadline_in(self._timeout_ms))
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise refusal(self._target, reply)
        return replies

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


def _read_commands(reads: Sequence[KeyFields]) -> tuple[bytes, int]:
    """The packed commands of a read, and how many they are (a read of no fields is none)."""
    pieces, count = list[bytes](), 0
    for key, fields in reads:
        if fields:
            pieces += (before_key(len(fields), len(key)), key, after_key(fields))
            count += 1
    return b"".join(pieces), count

"""The online store on the master that Redis Sentinel names.

All calls go to the store of one server, which is asked for its role when a connection is made. When
it does not answer, or is a replica, the sentinels are asked again. Replication is asynchronous: a
write returns when a replica has it, if the master has one, so that a failover loses no row of a run
that the ledger knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from featurestore.errors import StoreError, StoreReadOnly, StoreTimeout, StoreUnavailable
from featurestore.stores.online.base import KeyFields, RowBatch, ServerFacts, Swap, WriteResult
from featurestore.stores.online.redis import RedisStore
from featurestore.stores.online.redis_blocking import deadline_in
from featurestore.stores.online.redis_common import RedisFamilyStore, of_new_loop
from featurestore.stores.online.redis_hosts import parse_sentinel
from featurestore.stores.online.redis_master import Master
from featurestore.stores.online.redis_shared import SharedWork
from featurestore.stores.online.resp import Target

PAUSES_S = (0.0, 0.01, 0.03, 0.06)
"""Before each further attempt of one call."""

T = TypeVar("T")


class RedisSentinelStore(RedisFamilyStore):
    """The store at a `redis+sentinel://` or `rediss+sentinel://` URL. Connects when first used."""

    def __init__(self, url: str, *, timeout_ms: int = 1000, read_only: bool = False) -> None:
        super().__init__(url, timeout_ms=timeout_ms, read_only=read_only)
        self._hosts = parse_sentinel(url)
        self._master = Master(self._hosts, self._open_at, timeout_ms=timeout_ms)
        self._lookups: dict[asyncio.AbstractEventLoop, SharedWork[RedisStore]] = {}

    @property
    def shown(self) -> str:
        """The URL without credentials and options."""
        return self._hosts.shown

    def _open_at(self, target: Target) -> RedisStore:
        return RedisStore(target, timeout_ms=self._timeout_ms, replicated=True)

    # --- reads ------------------------------------------------------------------------------------

    def read(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """Row bytes in the order asked; None where absent. One round trip to the master."""
        deadline = deadline_in(timeout_ms or self._timeout_ms)
        return self._attempt(
            lambda store: store.read(reads, timeout_ms=_left_ms(deadline)), deadline
        )

    async def read_async(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """The same without blocking the loop; shares its round trip with other callers."""
        deadline = deadline_in(timeout_ms or self._timeout_ms)
        store = self._master.store
        error: StoreError = self._master.late()
        for pause_s in (*PAUSES_S, None):
            try:
                if store is None:
                    store = await self._located(deadline)
                return await store.read_async(reads, timeout_ms=_left_ms(deadline))
            except StoreUnavailable as failed:
                error, store = failed, None
                self._master.doubt()
            except StoreTimeout:
                self._master.doubt()
                raise
            if pause_s is None or time.monotonic() + pause_s >= deadline:
                break
            await asyncio.sleep(pause_s)
        raise error

    async def _located(self, deadline: float) -> RedisStore:
        lookup = self._lookups.get(asyncio.get_running_loop()) or self._new_lookup()
        found = await lookup.result(deadline)
        if found is None:
            raise self._master.late()
        return found

    def _new_lookup(self) -> SharedWork[RedisStore]:
        def locate() -> RedisStore:
            return self._master.locate(deadline_in(self._timeout_ms))

        return of_new_loop(self._lookups, lambda loop: SharedWork(loop, locate))

    # --- writes -----------------------------------------------------------------------------------

    def write(self, batch: RowBatch) -> WriteResult:
        """Write the newer rows. `timeout_ms` is for each call under way, not for the batch. A row
        that was written again after a failure may count as `same` instead of `written`."""
        self._refuse_if_read_only()
        self._master.look_again()
        return self._attempt(lambda store: store.write(batch))

    def replace(
        self, field: bytes, key: bytes, *, expected: bytes, row: bytes, expire_at_us: int | None
    ) -> bool:
        """Compare-and-set inside the server. After a failure, False may mean that it was done."""
        self._refuse_if_read_only()
        self._master.look_again()
        return self._attempt(
            lambda store: store.replace(
                field, key, expected=expected, row=row, expire_at_us=expire_at_us
            )
        )

    def swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        """Compare-and-swap by revision inside the server."""
        self._refuse_if_read_only()
        self._master.look_again()
        return self._attempt(lambda store: store.swap(fields, swaps))

    def sweep(
        self, prefix: bytes, *, keep: Iterable[bytes], older_than_us: int | None = None
    ) -> Iterator[int]:
        """Free rows of other fields than `keep`; expired ones are the server's to free. A failover
        ends it."""
        self._refuse_if_read_only()
        return self._steps(prefix, frozenset(keep), older_than_us)

    def _steps(
        self, prefix: bytes, keep: frozenset[bytes], older_than_us: int | None
    ) -> Iterator[int]:
        store = self._master.locate(deadline_in(self._timeout_ms))
        try:
            yield from store.sweep(prefix, keep=keep, older_than_us=older_than_us)
        except StoreError:
            self._master.doubt()
            raise

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        """The keys that begin with `prefix`, some at a time. A failover ends it."""
        store = self._master.locate(deadline_in(self._timeout_ms))
        try:
            yield from store.scan(prefix)
        except StoreError:
            self._master.doubt()
            raise

    def ping(self, *, timeout_ms: int | None = None) -> None:
        """Return if the master answers."""
        deadline = deadline_in(timeout_ms or self._timeout_ms)
        self._attempt(lambda store: store.ping(timeout_ms=_left_ms(deadline)), deadline)

    def facts(self, now_us: Callable[[], int]) -> ServerFacts:
        """What the master says of itself."""
        return self._attempt(lambda store: store.facts(now_us))

    def _attempt(self, call: Callable[[RedisStore], T], deadline: float | None = None) -> T:
        """The call's result from the master, or from its successor."""
        for pause_s in (*PAUSES_S, None):
            until = deadline or deadline_in(self._timeout_ms)
            try:
                return call(self._master.locate(until))
            except StoreReadOnly as refused:
                error = StoreUnavailable(refused.message)
            except StoreUnavailable as failed:
                if not failed.retryable:
                    raise
                error = failed
            except StoreTimeout:
                self._master.doubt()
                raise
            self._master.doubt()
            if pause_s is None or time.monotonic() + pause_s >= until:
                break
            time.sleep(pause_s)
        raise error

    def close(self) -> None:
        """Close all connections, of every event loop too."""
        self._master.close()
        self._lookups.clear()


def _left_ms(deadline: float) -> int:
    return max(1, round(1_000 * (deadline - time.monotonic())))

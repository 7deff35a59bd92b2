"""Reads of many callers on one connection to a server: those that wait for company, and those
without a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
from patience import WAITS_S_MAX
from redis_servers import RedisServer, valkey_binary

from featurestore.errors import StoreError, StoreTimeout, StoreUnavailable
from featurestore.stores.online.base import KeyFields, RowBatch
from featurestore.stores.online.redis import RedisStore
from featurestore.testing.online_rows import FIELD, PREFIX, numbered, rows

KEYS = numbered(100)
VALUES = rows([(i, i, f"text {i}") for i in range(len(KEYS))])


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    with RedisStore(server.url, timeout_ms=30_000) as store:
        store.write(RowBatch(field=FIELD, keys=KEYS, rows=VALUES))
        await store.read_async(read(0))
        yield store


def read(i: int) -> list[KeyFields]:
    return [KeyFields(KEYS[i % len(KEYS)], (FIELD,))]


def row(i: int) -> list[list[bytes | None]]:
    return [[VALUES[i % len(KEYS)]]]


class Counted:
    """A transport that counts what is written to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._transport.write(data)

    def abort(self) -> None:
        self._transport.abort()


def counted(store: RedisStore) -> Counted:
    """The connection of this loop, with its writes counted."""
    link = store._clients[asyncio.get_running_loop()]._link
    assert link is not None
    assert link._transport is not None
    transport = Counted(link._transport)
    link._transport = cast("asyncio.Transport", transport)
    return transport


async def one_by_one(store: RedisStore, count: int) -> list[asyncio.Task[list[list[bytes | None]]]]:
    """So many readers, of which each turn of the loop begins one."""
    tasks = []
    for i in range(count):
        tasks.append(asyncio.create_task(store.read_async(read(i))))
        await asyncio.sleep(0)
    return tasks


async def test_many_callers_who_come_one_by_one_share_writes(store: RedisStore) -> None:
    transport = counted(store)
    tasks = await one_by_one(store, 2_000)
    assert await asyncio.gather(*tasks) == [row(i) for i in range(2_000)]
    assert transport.writes < 1_000


async def test_a_lone_caller_waits_for_nobody(store: RedisStore) -> None:
    transport = counted(store)
    link = store._clients[asyncio.get_running_loop()]._link
    assert link is not None
    for i in range(500):
        answer = asyncio.create_task(store.read_async(read(i)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert link._held is None
        assert await answer == row(i)
    assert transport.writes == 500


async def test_callers_who_give_up_leave_the_others_in_order(store: RedisStore) -> None:
    tasks = await one_by_one(store, 500)
    for task in tasks[::3]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    for i, answer in enumerate(found):
        assert answer == row(i) or (i % 3 == 0 and isinstance(answer, asyncio.CancelledError))


async def test_short_and_long_deadlines_side_by_side(store: RedisStore) -> None:
    async def ask(i: int) -> bool:
        try:
            return await store.read_async(read(i), timeout_ms=5 if i % 2 else 30_000) == row(i)
        except StoreTimeout:
            return bool(i % 2)

    tasks = []
    for i in range(500):
        tasks.append(asyncio.create_task(ask(i)))
        await asyncio.sleep(0)
    assert all(await asyncio.gather(*tasks))


async def is_back(store: RedisStore) -> bool:
    try:
        return await store.read_async(read(1)) == [[None]]
    except StoreUnavailable:
        await asyncio.sleep(0.02)
        return False


async def test_what_waits_when_the_server_dies_fails(
    server: RedisServer, store: RedisStore
) -> None:
    server.pause()
    tasks = await one_by_one(store, 50)
    server.kill()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(WAITS_S_MAX):
        while not await is_back(store):
            pass


# --- without a task -------------------------------------------------------------------------------


async def soon(store: RedisStore, reads: list[KeyFields], timeout_ms: int = 30_000) -> object:
    answer: asyncio.Future[list[list[bytes | None]]] = asyncio.get_running_loop().create_future()
    assert store.read_soon(reads, answer, timeout_ms=timeout_ms)
    return await answer


async def test_reads_without_a_task(store: RedisStore) -> None:
    found = await asyncio.gather(*(soon(store, read(i)) for i in range(300)))
    assert found == [row(i) for i in range(300)]


async def test_without_a_connection_nothing_is_taken(server: RedisServer) -> None:
    answer: asyncio.Future[list[list[bytes | None]]] = asyncio.get_running_loop().create_future()
    with RedisStore(server.url, timeout_ms=30_000) as store:
        assert not store.read_soon(read(0), answer, timeout_ms=30_000)
        await store.read_async(read(0))
        assert not store.read_soon([KeyFields(KEYS[0], ())], answer, timeout_ms=30_000)
        assert store.read_soon(read(0), answer, timeout_ms=30_000)
        assert await answer == [[None]]


async def test_what_the_server_refuses_is_an_error(server: RedisServer, store: RedisStore) -> None:
    server.command("SET", PREFIX.decode(), "text")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await soon(store, [KeyFields(PREFIX, (FIELD,))])
    assert await soon(store, read(3)) == row(3)


async def test_a_server_that_hangs_and_dies(server: RedisServer, store: RedisStore) -> None:
    server.pause()
    late, lost = (asyncio.create_task(soon(store, read(0), ms)) for ms in (50, 30_000))
    with pytest.raises(StoreTimeout):
        await late
    server.kill()
    with pytest.raises(StoreUnavailable):
        await lost

"""The load of the fault tests can fail: it notices a store that loses, mixes up or ages rows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from patience import wait_for
from redis_servers import RedisServer, valkey_binary
from store_load import under_load

from featurestore.stores.online.base import KeyFields, RowBatch, WriteResult
from featurestore.stores.online.redis import RedisStore


class LosesAcknowledged(RedisStore):
    """Acknowledges some batches without writing them."""

    def write(self, batch: RowBatch) -> WriteResult:
        if random.random() < 0.1:
            return WriteResult(written=len(batch.keys), same=0, older=0)
        return super().write(batch)


class MixesUp(RedisStore):
    """Gives the rows of a request in another order."""

    def read(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        return super().read(reads[::-1], timeout_ms=timeout_ms)


class SaysAbsent(RedisStore):
    """Answers `absent` now and then."""

    async def read_async(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        found = await super().read_async(reads, timeout_ms=timeout_ms)
        return [[None] for _ in found] if random.random() < 0.1 else found


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as running:
        yield running


def test_a_store_that_works(valkey: RedisServer) -> None:
    valkey.command("FLUSHALL")
    with under_load(lambda: RedisStore(valkey.url, timeout_ms=30_000), writers=2) as load:
        load.settle(0.5)


@pytest.mark.parametrize("store", [LosesAcknowledged, MixesUp, SaysAbsent])
def test_a_store_that_does_not(valkey: RedisServer, store: type[RedisStore]) -> None:
    valkey.command("FLUSHALL")
    with (
        pytest.raises(AssertionError),
        under_load(lambda: store(valkey.url, timeout_ms=30_000)) as load,
    ):
        wait_for(lambda: bool(load.wrong) or load.broken is not None)

"""A Redis-protocol server goes away, hangs, pauses, fills up or refuses writes, under mixed load:
no wrong answer, typed errors within the deadline, and all is well within a second of its return."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from patience import promised
from redis_faults import FAULTS, LASTS_S
from redis_servers import RedisServer, redis_binary, valkey_binary
from store_load import under_load

from featurestore.stores.online.redis import RedisStore

pytestmark = pytest.mark.slow

TIMEOUT_MS = 700


CASES = [
    *(("valkey", name) for name in FAULTS),
    *(("redis", name) for name in ("killed", "hangs", "full")),
]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, RedisServer]]:
    with (
        RedisServer(valkey_binary(), "--appendonly", "yes") as valkey,
        RedisServer(redis_binary(), "--appendonly", "yes") as redis,
    ):
        yield {"valkey": valkey, "redis": redis}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_fault_under_load(servers: dict[str, RedisServer], kind: str, name: str) -> None:
    server, fault = servers[kind], FAULTS[name]
    server.command("FLUSHALL")
    with under_load(lambda: RedisStore(server.url, timeout_ms=TIMEOUT_MS)) as load:
        load.settle(0.3)
        fault.begin(server)
        time.sleep(LASTS_S)
        fault.end(server)
        assert load.wait_for_success(time.monotonic()) < promised(1.0)
        load.settle(0.3)
    assert load.raised("write") <= fault.writes
    assert load.raised("read") | load.raised("async") <= fault.reads
    assert load.errors("write")
    assert load.slowest_s() < promised(TIMEOUT_MS / 1_000 + 1.0)

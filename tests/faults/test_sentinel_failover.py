"""The master that Sentinel watches is killed, or hangs, under mixed load: no wrong answer, typed
errors within the deadline, and reads and writes again within a second of the promotion."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cluster_servers import is_master, wait_for
from sentinel_servers import SentinelServers
from store_load import under_load

from featurestore.errors import StoreTimeout, StoreUnavailable
from featurestore.stores.online.redis_sentinel import RedisSentinelStore

pytestmark = pytest.mark.slow

TIMEOUT_MS = 1_000


@pytest.fixture
def watched() -> Iterator[SentinelServers]:
    with SentinelServers() as running:
        yield running


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_failover_under_load(watched: SentinelServers, fault: str) -> None:
    victim, successor = watched.first_pair
    with under_load(lambda: RedisSentinelStore(watched.url, timeout_ms=TIMEOUT_MS)) as load:
        load.settle(0.5)
        if fault == "kill":
            victim.kill()
        else:
            victim.pause()
        wait_for(lambda: is_master(successor))
        promoted = time.monotonic()
        assert load.wait_for_success(promoted, within_s=10) < 1.0
        load.settle(0.5)
        if fault == "hang":
            # For some seconds it takes itself for the master still.
            victim.resume()
            load.settle(1.0)
    assert {type(error) for error in load.errors()} <= {StoreUnavailable, StoreTimeout}
    assert load.errors() != []
    assert load.slowest_s() < TIMEOUT_MS / 1_000 + 1.5

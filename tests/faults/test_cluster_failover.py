"""A master of the cluster is killed, or hangs, under mixed load: no wrong answer, typed errors
within the deadline, and reads and writes again within a second of its successor's election."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cluster_servers import RedisCluster, is_master, wait_for
from store_load import under_load

from featurestore.errors import StoreTimeout, StoreUnavailable
from featurestore.stores.online.redis_cluster import RedisClusterStore

pytestmark = pytest.mark.slow

TIMEOUT_MS = 1_000


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as running:
        yield running


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_failover_under_load(cluster: RedisCluster, fault: str) -> None:
    victim, successor = cluster.first_pair
    with under_load(lambda: RedisClusterStore(cluster.url, timeout_ms=TIMEOUT_MS)) as load:
        load.settle(0.5)
        if fault == "kill":
            victim.kill()
        else:
            victim.pause()
        wait_for(lambda: is_master(successor))
        elected = time.monotonic()
        assert load.wait_for_success(elected, within_s=10) < 1.0
        load.settle(0.5)
        if fault == "kill":
            victim.start()
        else:
            victim.resume()
        wait_for(lambda: not is_master(victim))
        load.settle(0.5)
    assert {type(error) for error in load.errors()} <= {StoreUnavailable, StoreTimeout}
    assert load.errors() != []
    assert load.slowest_s() < TIMEOUT_MS / 1_000 + 1.5

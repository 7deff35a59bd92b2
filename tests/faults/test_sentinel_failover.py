"""The master that Sentinel watches is killed, or hangs, under mixed load: no wrong answer, typed
errors within the deadline, and reads and writes again within a second of the promotion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from cluster_servers import is_master
from failover import TIMEOUT_MS, fail_over_under_load
from patience import wait_for
from sentinel_servers import SentinelServers
from store_load import Load

from featurestore.errors import StoreError, StoreUnavailable
from featurestore.stores.online.redis_master import LOOK_INTERVAL_S
from featurestore.stores.online.redis_sentinel import RedisSentinelStore
from featurestore.testing.online_rows import PREFIX, get, put, row

pytestmark = pytest.mark.slow


@pytest.fixture
def watched() -> Iterator[SentinelServers]:
    with SentinelServers() as running:
        yield running


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_failover_under_load(watched: SentinelServers, fault: str) -> None:
    victim, _ = watched.first_pair

    def afterwards(load: Load) -> None:
        if fault == "hang":
            # For some seconds it takes itself for the master still.
            victim.resume()
            load.settle(1.0)

    fail_over_under_load(
        lambda: RedisSentinelStore(watched.url, timeout_ms=TIMEOUT_MS),
        watched.first_pair,
        fault,
        afterwards=afterwards,
    )


def test_a_writer_that_was_idle_does_not_believe_the_old_master(watched: SentinelServers) -> None:
    victim, successor = watched.first_pair
    with RedisSentinelStore(watched.url) as idle, RedisSentinelStore(watched.url) as other:
        put(idle, PREFIX, row(1))
        victim.pause()
        wait_for(lambda: is_master(successor))
        wait_for(lambda: succeeds(lambda: put(other, PREFIX, row(2))))
        victim.resume()
        assert is_master(victim)
        assert put(idle, PREFIX, row(3)).written == 1
        assert get(other, PREFIX) == row(3)


def test_sentinels_that_are_all_gone_do_no_harm_while_the_master_is_well(
    watched: SentinelServers,
) -> None:
    with RedisSentinelStore(watched.url) as store:
        put(store, PREFIX, row(1))
        for sentinel in watched.sentinels:
            sentinel.kill()
        time.sleep(LOOK_INTERVAL_S)
        put(store, PREFIX, row(2))
        assert get(store, PREFIX) == row(2)
        with (
            RedisSentinelStore(watched.url) as late,
            pytest.raises(StoreUnavailable, match="not reachable"),
        ):
            late.ping()


def test_a_name_that_the_sentinels_do_not_know(watched: SentinelServers) -> None:
    url = watched.url.replace("/features/", "/featrues/")
    with RedisSentinelStore(url) as store, pytest.raises(StoreError, match="no master 'featrues'"):
        store.ping()


def succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except StoreError:
        return False
    return True

"""The master that Sentinel watches is killed, or hangs, under mixed load: no wrong answer, typed
errors within the deadline, and reads and writes again within a second of the promotion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from cluster_servers import is_master
from failover import TIMEOUT_MS, fail_over_under_load
from patience import wait_for
from redis_servers import RedisServer, valkey_binary
from sentinel_servers import NAME, SentinelServers
from store_load import Load

from featurestore.errors import StoreError, StoreTimeout, StoreUnavailable
from featurestore.stores.online.redis_master import LOOK_INTERVAL_S
from featurestore.stores.online.redis_sentinel import RedisSentinelStore
from featurestore.testing.online_rows import PREFIX, get, put, row

pytestmark = pytest.mark.slow
STORE_IS_AWAY = (StoreUnavailable, StoreTimeout)


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


def test_who_opens_in_the_middle_of_a_failover_waits_for_its_end(
    watched: SentinelServers,
) -> None:
    victim, successor = watched.first_pair
    with RedisSentinelStore(watched.url) as store:
        put(store, PREFIX, row(1))
    victim.kill()
    with RedisSentinelStore(watched.url, timeout_ms=60_000) as late:
        assert get(late, PREFIX) == row(1)
    assert is_master(successor)
    # One that can't wait is told so in time.
    for each in (successor, *watched.sentinels[1:]):
        each.kill()
    with RedisSentinelStore(watched.url, timeout_ms=200) as late, pytest.raises(STORE_IS_AWAY):
        get(late, PREFIX)


def test_one_sentinel_that_is_behind_is_not_believed(watched: SentinelServers) -> None:
    """It names a server that takes itself for the master, like one that hung and was replaced."""
    with (
        RedisServer(valkey_binary()) as former,
        RedisServer(valkey_binary(), sentinel=True) as behind,
    ):
        words = ["MONITOR", NAME, former.host, str(former.port), "3"]
        assert behind.command("SENTINEL", *words) == b"+OK\r\n"
        hosts = f"{behind.host}:{behind.port}"
        asked = [f"{hosts},{one.host}:{one.port}" for one in watched.sentinels]
        url = watched.url.replace("://", f"://{hosts},")
        for number in range(1, 9):
            # Most name the master.
            with RedisSentinelStore(url) as store:
                put(store, PREFIX, row(number))
                assert get(store, PREFIX) == row(number)
        assert former.command("DBSIZE") == b":0\r\n"
        assert watched.sentinels[0].command("SENTINEL", "FAILOVER", NAME) == b"+OK\r\n"
        _, successor = watched.first_pair
        wait_for(lambda: all(names(one, successor) for one in watched.sentinels))
        for number in range(9, 17):
            # As many name the former one; but they know of no failover.
            url = f"redis+sentinel://{asked[number % len(asked)]}/{NAME}/0"
            with RedisSentinelStore(url) as store:
                put(store, PREFIX, row(number))
                assert get(store, PREFIX) == row(number)
        assert former.command("DBSIZE") == b":0\r\n"


def names(sentinel: RedisServer, server: RedisServer) -> bool:
    """Whether that is the master to a sentinel."""
    told = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
    return f"\r\n{server.port}\r\n".encode() in told


def succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except StoreError:
        return False
    return True

"""Windows are pushed and ingested while the master that has some of them, and the stream, is killed
or hangs: afterwards no event is lost or counted twice, online and offline."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster_servers import RedisCluster, is_master
from patience import wait_for
from redis_servers import RedisServer
from sentinel_servers import SentinelServers
from window_load import STREAM, WindowLoad

from featurestore.stores.online.redis_slots import key_slot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

FAULT_ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))
FAULTS = [("cluster", "kill"), ("sentinel", "hang")]
if FAULT_ROUNDS:
    FAULTS += [("cluster", "hang"), ("sentinel", "kill")]


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_no_event_is_lost_or_counts_twice(tmp_path: Path, kind: str, fault: str) -> None:
    with ExitStack() as opened:
        servers: RedisCluster | SentinelServers = opened.enter_context(
            RedisCluster() if kind == "cluster" else SentinelServers()
        )
        victim, successor = servers.first_pair
        pair = [victim, successor]

        def master() -> RedisServer:
            """Who has the stream, as far as one can see from outside."""
            if isinstance(servers, RedisCluster):
                return servers.owner_of(key_slot(STREAM.encode()))
            return next(one for one in reversed(pair) if one.is_alive and is_master(one))

        load = WindowLoad(tmp_path / "repo", servers.url, master)
        with load.running():
            for _ in range(max(1, FAULT_ROUNDS)):
                fail_over(load, servers, *pair, fault)
                pair.reverse()
        assert load.errors, "somebody noticed"
        load.check()


def fail_over(
    load: WindowLoad,
    servers: RedisCluster | SentinelServers,
    victim: RedisServer,
    successor: RedisServer,
    fault: str,
) -> None:
    """And back to a pair of a master and a replica, with load before, meanwhile and after."""
    progress(load)
    if fault == "kill":
        victim.kill()
    else:
        victim.pause()
    wait_for(lambda: is_master(successor))
    time.sleep(0.5)
    if fault == "kill":
        victim.start()
    else:
        victim.resume()
    if isinstance(servers, SentinelServers):
        # For some seconds both take themselves for the master; then the sentinels would do this.
        time.sleep(1.5)
        victim.command("REPLICAOF", successor.host, str(successor.port))
    wait_for(lambda: not is_master(victim))
    servers.wait_until_whole()
    progress(load)


def progress(load: WindowLoad) -> None:
    """Wait for pushes and messages that are taken."""
    pushes, messages = load.pushes + 10, load.messages + 10
    wait_for(lambda: (load.pushes >= pushes and load.messages >= messages) or bool(load.failures))
    assert load.failures == []

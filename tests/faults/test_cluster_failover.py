"""A master of the cluster is killed, or hangs, under mixed load: no wrong answer, typed errors
within the deadline, and reads and writes again within a second of its successor's election."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cluster_servers import RedisCluster, is_master
from failover import TIMEOUT_MS, fail_over_under_load
from patience import STEADY_MS, wait_for
from redis_servers import RedisServer
from store_load import KEYS, Load, store_key, under_load

from featurestore.stores.online.redis_cluster import RedisClusterStore
from featurestore.stores.online.redis_slots import key_slot

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as running:
        yield running


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_failover_under_load(cluster: RedisCluster, fault: str) -> None:
    victim, _ = cluster.first_pair

    def afterwards(load: Load) -> None:
        if fault == "kill":
            victim.start()
        else:
            victim.resume()
        wait_for(lambda: not is_master(victim))
        load.settle(0.5)

    fail_over_under_load(
        lambda: RedisClusterStore(cluster.url, timeout_ms=TIMEOUT_MS),
        cluster.first_pair,
        fault,
        afterwards=afterwards,
    )


def test_slots_that_move_under_load() -> None:
    """Slots of the load move from their masters to others, in the three steps that a
    resharding takes, and nobody notices."""
    with (
        RedisCluster(replicas=False, silence_ms=STEADY_MS) as cluster,
        under_load(lambda: RedisClusterStore(cluster.url, timeout_ms=30_000)) as load,
    ):

        def load_met_both() -> bool:
            """Keys asked for where they were, and while they were on their way."""
            told = b"".join(node.command("INFO", "errorstats") for node in cluster.nodes)
            return b"errorstat_ASK:" in told and b"errorstat_MOVED:" in told

        def move_all() -> bool:
            for slot in {key_slot(store_key(number)) for number in range(0, KEYS, 4)}:
                source = cluster.owner_of(slot)
                receiver = cluster.nodes[(cluster.nodes.index(source) + 1) % len(cluster.nodes)]
                move_slot(slot, source, receiver, pause_s=0.02)
            return load_met_both()

        wait_for(move_all)
        load.settle(0.3)
    assert load.errors() == []


def move_slot(
    slot: int,
    source: RedisServer,
    receiver: RedisServer,
    *,
    pause_s: float,
    prefix: str = "fs/",
) -> None:
    """As redis-cli does it, with a pause in which some keys are here and some are there."""
    source_id, receiver_id = (
        node.command("CLUSTER", "MYID").split(b"\r\n")[1].decode() for node in (source, receiver)
    )
    set_slot(receiver, slot, "IMPORTING", source_id)
    set_slot(source, slot, "MIGRATING", receiver_id)
    time.sleep(pause_s)
    found = source.command("CLUSTER", "GETKEYSINSLOT", str(slot), "100").decode().split("\r\n")
    for key in (word for word in found if word.startswith(prefix)):
        answer = source.command("MIGRATE", receiver.host, str(receiver.port), key, "0", "5000")
        assert answer in (b"+OK\r\n", b"+NOKEY\r\n")
    time.sleep(pause_s)
    for node in (receiver, source):
        set_slot(node, slot, "NODE", receiver_id)


def set_slot(node: RedisServer, slot: int, *words: str) -> None:
    assert node.command("CLUSTER", "SETSLOT", str(slot), *words) == b"+OK\r\n"

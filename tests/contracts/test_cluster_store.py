"""The store on a cluster: the contract on six real nodes, and what only a cluster can do to us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_servers import RedisCluster
from free_ports import free_port
from patience import STEADY_MS
from redis_servers import RedisServer, valkey_binary

from featurestore.errors import StoreError, StoreUnavailable
from featurestore.stores.online.base import KeyFields, RowBatch, WriteResult
from featurestore.stores.online.redis_cluster import RedisClusterStore
from featurestore.stores.online.redis_slots import key_slot
from featurestore.testing.online_rows import FIELD, PREFIX, get, numbered, put, row
from featurestore.testing.online_store import OnlineStoreContract, OnlineStoreOpener

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(silence_ms=STEADY_MS) as running:
        yield running


@pytest.fixture
def cluster_url(cluster: RedisCluster) -> str:
    cluster.flush()
    return cluster.url


class TestRedisCluster(OnlineStoreContract):
    """Redis Cluster of six nodes"""

    @pytest.fixture
    def opener(self, cluster_url: str, tmp_path: Path) -> OnlineStoreOpener:
        return OnlineStoreOpener(RedisClusterStore, cluster_url, tmp_path)


@pytest.mark.parametrize("key", ["", "{", "}{a}", "a{}b", "x{{y}}z", "fs/shop/e/ü{é}", "{a}{b}"])
def test_slots_are_those_of_the_servers(cluster: RedisCluster, key: str) -> None:
    answer = cluster.nodes[0].command("CLUSTER", "KEYSLOT", key)
    assert answer == b":%d\r\n" % key_slot(key.encode())


def test_scripts_that_someone_flushes_are_sent_again(
    cluster: RedisCluster, cluster_url: str
) -> None:
    keys = numbered(600)
    with RedisClusterStore(cluster_url, timeout_ms=30_000) as store:
        store.write(RowBatch(field=FIELD, keys=keys, rows=[row(1)] * len(keys)))
        for node in cluster.masters():
            node.command("SCRIPT", "FLUSH")
        result = store.write(RowBatch(field=FIELD, keys=keys, rows=[row(2)] * len(keys)))
        assert result == WriteResult(written=len(keys), same=0, older=0)


def test_one_living_seed_is_enough(cluster: RedisCluster, cluster_url: str) -> None:
    dead = f"127.0.0.1:{free_port()}"
    url = f"redis+cluster://{dead},{cluster.nodes[-1].host}:{cluster.nodes[-1].port}"
    with RedisClusterStore(cluster_url) as writer, RedisClusterStore(url) as store:
        put(writer, PREFIX, row(1))
        assert get(store, PREFIX) == row(1)
        assert asyncio.run(store.read_async([KeyFields(PREFIX, (FIELD,))])) == [[row(1)]]


def test_opening_needs_no_cluster() -> None:
    with RedisClusterStore(f"redis+cluster://127.0.0.1:{free_port()}") as store:
        for call in calls(store):
            with pytest.raises(StoreUnavailable, match="not reachable"):
                call()


def test_a_server_that_is_no_node_of_a_cluster() -> None:
    with (
        RedisServer(valkey_binary()) as single,
        RedisClusterStore(single.url.replace("redis:", "redis+cluster:")[:-2]) as store,
    ):
        for call in calls(store):
            with pytest.raises(StoreError, match="write redis://"):
                call()


def test_a_cluster_that_nobody_gave_slots_to() -> None:
    with (
        RedisServer(valkey_binary(), "--cluster-enabled", "yes") as node,
        RedisClusterStore(node.url.replace("redis:", "redis+cluster:")[:-2]) as store,
    ):
        for call in calls(store):
            with pytest.raises(StoreUnavailable, match="no slots"):
                call()


def test_what_the_servers_say_of_themselves(cluster: RedisCluster, cluster_url: str) -> None:
    small = cluster.masters()[1]
    small.command("CONFIG", "SET", "maxmemory", "100mb")
    with RedisClusterStore(cluster_url) as store:
        facts = store.facts(lambda: 0)
        assert (facts.product, facts.eviction) == ("valkey", "noeviction")
        assert facts.limit_bytes == 100 * 1024 * 1024
        small.command("CONFIG", "SET", "maxmemory", "0")
        cluster.masters()[2].command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        assert store.facts(lambda: 0).eviction == "allkeys-lru"
    cluster.masters()[2].command("CONFIG", "SET", "maxmemory-policy", "noeviction")


def calls(store: RedisClusterStore) -> list[Callable[[], object]]:
    """One call of each kind."""
    return [
        lambda: get(store, PREFIX),
        lambda: put(store, PREFIX, row(1)),
        lambda: asyncio.run(store.read_async([KeyFields(PREFIX, (FIELD,))])),
        store.ping,
        lambda: list(store.sweep(b"fs/other/", keep=[])),
    ]

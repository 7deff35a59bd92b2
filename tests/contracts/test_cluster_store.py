"""The store on a cluster: the contract on six real nodes, and what only a cluster can do to us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_servers import RedisCluster

from featurestore.stores.online.redis_cluster import RedisClusterStore
from featurestore.stores.online.redis_slots import key_slot
from featurestore.testing.online_store import OnlineStoreContract, OnlineStoreOpener

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as running:
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

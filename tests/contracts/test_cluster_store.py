"""The store on a cluster: the contract on six real nodes, and what only a cluster can do to us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_servers import RedisCluster

from featurestore.stores.online.redis_cluster import RedisClusterStore
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
    @pytest.fixture
    def opener(self, cluster_url: str, tmp_path: Path) -> OnlineStoreOpener:
        return OnlineStoreOpener(RedisClusterStore, cluster_url, tmp_path)

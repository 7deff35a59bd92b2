"""The stores on a cluster and behind Sentinel of the Redis that Debian ships: 7.0, which expires
only whole keys, spoken to over TLS in all directions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_servers import RedisCluster, is_master
from patience import STEADY_MS, wait_for
from redis_servers import debian_redis_binary
from sentinel_servers import SentinelServers
from tls_files import TlsFiles

from featurestore.errors import StoreError, StoreUnavailable
from featurestore.stores.online.base import KeyFields
from featurestore.stores.online.redis_cluster import RedisClusterStore
from featurestore.stores.online.redis_sentinel import RedisSentinelStore
from featurestore.testing.online_rows import FIELD, PREFIX, get, put, row
from featurestore.testing.online_store import OnlineStoreContract, OnlineStoreOpener

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return TlsFiles.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def cluster(certificates: TlsFiles) -> Iterator[RedisCluster]:
    options = [*certificates.server_options, "--tls-cluster", "yes", "--tls-replication", "yes"]
    binary, context = debian_redis_binary(), certificates.context
    with RedisCluster(*options, binary=binary, silence_ms=STEADY_MS, tls=context) as running:
        yield running


def with_tls(url: str, certificates: TlsFiles) -> str:
    return url.replace("redis+", "rediss+") + certificates.query


class TestRedis7ClusterOverTls(OnlineStoreContract):
    """Debian's Redis 7.0 as a cluster, over TLS"""

    @pytest.fixture
    def opener(
        self, cluster: RedisCluster, certificates: TlsFiles, tmp_path: Path
    ) -> OnlineStoreOpener:
        cluster.flush()
        url = with_tls(cluster.url, certificates)
        return OnlineStoreOpener(RedisClusterStore, url, tmp_path)


def test_who_does_not_speak_tls_is_refused(cluster: RedisCluster) -> None:
    with RedisClusterStore(cluster.url, timeout_ms=2_000) as store:
        for call in (store.ping, lambda: put(store, PREFIX, row(1))):
            with pytest.raises(StoreUnavailable):
                call()
        with pytest.raises(StoreUnavailable):
            asyncio.run(store.read_async([KeyFields(PREFIX, (FIELD,))]))


def test_sentinel_over_tls_and_its_failover(certificates: TlsFiles) -> None:
    options = [*certificates.server_options, "--tls-replication", "yes"]
    binary, context = debian_redis_binary(), certificates.context
    with SentinelServers(*options, binary=binary, tls=context) as watched:
        victim, successor = watched.first_pair
        with RedisSentinelStore(with_tls(watched.url, certificates)) as store:
            put(store, PREFIX, row(1))
            assert get(store, PREFIX) == row(1)
            assert asyncio.run(store.read_async([KeyFields(PREFIX, (FIELD,))])) == [[row(1)]]
            victim.kill()
            wait_for(lambda: is_master(successor) and answers(store))
            assert get(store, PREFIX) == row(1)
            assert put(store, PREFIX, row(2)).written == 1


def answers(store: RedisSentinelStore) -> bool:
    try:
        store.ping()
    except StoreError:
        return False
    return True

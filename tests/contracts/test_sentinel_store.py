"""The store behind Redis Sentinel: the contract on real servers and sentinels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import STEADY_MS
from sentinel_servers import SentinelServers

from featurestore.stores.online.redis_sentinel import RedisSentinelStore
from featurestore.testing.online_store import OnlineStoreContract, OnlineStoreOpener

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def watched() -> Iterator[SentinelServers]:
    with SentinelServers(silence_ms=STEADY_MS) as running:
        yield running


@pytest.fixture
def sentinel_url(watched: SentinelServers) -> str:
    watched.flush()
    return watched.url


class TestRedisSentinel(OnlineStoreContract):
    """Redis behind Sentinel"""

    @pytest.fixture
    def opener(self, sentinel_url: str, tmp_path: Path) -> OnlineStoreOpener:
        return OnlineStoreOpener(RedisSentinelStore, sentinel_url, tmp_path)


def test_what_the_server_says_of_itself(sentinel_url: str) -> None:
    with RedisSentinelStore(sentinel_url) as store:
        facts = store.facts(lambda: 0)
    assert (facts.product, facts.eviction) == ("valkey", "noeviction")

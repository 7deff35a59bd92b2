"""The rights that the guide adds in a cluster and behind Sentinel are enough, and not too many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from cluster_servers import RedisCluster
from patience import STEADY_MS
from redis_access import (
    KEY,
    PASSWORD,
    add_user,
    denied_to,
    documented_extras,
    documented_rules,
)
from sentinel_servers import SentinelServers

from featurestore.errors import StoreAccessDenied
from featurestore.stores.online.base import KeyFields
from featurestore.stores.online.redis_cluster import RedisClusterStore
from featurestore.stores.online.redis_sentinel import RedisSentinelStore
from featurestore.stores.online.redis_slots import key_slot
from featurestore.testing.online_rows import FIELD, get, put, row

pytestmark = pytest.mark.slow

READER = documented_rules("fs_reader")
WRITER = documented_rules("fs_writer", knows="hsetex")
IN_CLUSTER = documented_extras("in a cluster")
BEHIND_SENTINEL = documented_extras("behind Sentinel")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(silence_ms=STEADY_MS) as running:
        yield running


@pytest.fixture(scope="module")
def watched() -> Iterator[SentinelServers]:
    with SentinelServers(silence_ms=STEADY_MS) as running:
        for sentinel in running.sentinels:
            add_user(sentinel, "fs_sentinel", documented_rules("fs_sentinel"))
        yield running


def as_user(url: str, name: str) -> str:
    return url.replace("://", f"://{name}:{PASSWORD}@")


def denied_in(cluster: RedisCluster, rules: list[str]) -> bytes:
    """What a user with these rules is denied, while the key of the calls moves to another node."""
    for node in cluster.nodes:
        add_user(node, "user", rules)
        node.command("ACL", "LOG", "RESET")
    slot = key_slot(KEY)
    owner = cluster.owner_of(slot)
    other = next(node for node in cluster.masters() if node is not owner)
    ids = [n.command("CLUSTER", "MYID").split(b"\r\n")[1].decode() for n in (owner, other)]
    other.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[0])
    owner.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[1])
    try:
        url = as_user(cluster.url, "user")
        denied = denied_to(owner, url, store_type=RedisClusterStore)
    finally:
        for node in (owner, other):
            node.command("CLUSTER", "SETSLOT", str(slot), "STABLE")
    others = [node.command("ACL", "LOG") for node in cluster.nodes if node is not owner]
    return b"".join([denied, *others]).replace(b"*0\r\n", b"")


def test_the_writer_is_denied_nothing_in_a_cluster(cluster: RedisCluster) -> None:
    assert denied_in(cluster, [*WRITER, *IN_CLUSTER[0], *IN_CLUSTER[1]]) == b""


@pytest.mark.parametrize("right", [*IN_CLUSTER[0], *IN_CLUSTER[1]])
def test_the_writer_needs_each_right_in_a_cluster(cluster: RedisCluster, right: str) -> None:
    rules = [rule for rule in [*WRITER, *IN_CLUSTER[0], *IN_CLUSTER[1]] if rule != right]
    assert b"\r\n%b\r\n" % right[1:].encode() in denied_in(cluster, rules)


def test_the_reader_of_a_cluster_reads_and_nothing_else(cluster: RedisCluster) -> None:
    for node in cluster.nodes:
        add_user(node, "user", [*WRITER, *IN_CLUSTER[0], *IN_CLUSTER[1]])
        add_user(node, "reader", [*READER, *IN_CLUSTER[0]])
    with (
        RedisClusterStore(as_user(cluster.url, "user")) as writer,
        RedisClusterStore(as_user(cluster.url, "reader")) as reader,
    ):
        put(writer, KEY, row(9))
        reader.ping()
        assert get(reader, KEY) == row(9)
        assert asyncio.run(reader.read_async([KeyFields(KEY, (FIELD,))])) == [[row(9)]]
        with pytest.raises(StoreAccessDenied):
            put(reader, KEY, row(10))


@pytest.mark.parametrize("who", [":wrong-secret@", "no:wrong-secret@"])
def test_wrong_credentials_are_denied_and_never_shown(
    cluster: RedisCluster, watched: SentinelServers, who: str
) -> None:
    stores = (
        RedisClusterStore(cluster.url.replace("://", f"://{who}")),
        RedisSentinelStore(watched.url.replace("://", f"://{who}")),
        RedisSentinelStore(watched.url + "?sentinel_password=wrong-secret"),
    )
    for store in stores:
        with store:
            for call in (store.ping, lambda s=store: get(s, KEY), lambda s=store: read(s)):
                with pytest.raises(StoreAccessDenied) as caught:
                    call()
                assert "secret" not in str(caught.value)


def read(store: RedisClusterStore | RedisSentinelStore) -> object:
    return asyncio.run(store.read_async([KeyFields(KEY, (FIELD,))]))


class TestSentinel:
    @pytest.fixture
    def url(self, watched: SentinelServers) -> str:
        watched.flush()
        query = f"?sentinel_username=fs_sentinel&sentinel_password={PASSWORD}"
        return as_user(watched.url, "user") + query

    def test_the_writer_is_denied_nothing(self, watched: SentinelServers, url: str) -> None:
        add_user(watched.master, "user", [*WRITER, *BEHIND_SENTINEL[0], *BEHIND_SENTINEL[1]])
        for sentinel in watched.sentinels:
            sentinel.command("ACL", "LOG", "RESET")
        denied = denied_to(watched.master, url, store_type=RedisSentinelStore)
        assert denied == b"*0\r\n"
        assert all(s.command("ACL", "LOG") == b"*0\r\n" for s in watched.sentinels)

    @pytest.mark.parametrize("right", [*BEHIND_SENTINEL[0], *BEHIND_SENTINEL[1]])
    def test_the_writer_needs_each_right(
        self, watched: SentinelServers, url: str, right: str
    ) -> None:
        rules = [*WRITER, *BEHIND_SENTINEL[0], *BEHIND_SENTINEL[1]]
        add_user(watched.master, "user", [rule for rule in rules if rule != right])
        denied = denied_to(watched.master, url, store_type=RedisSentinelStore)
        assert b"\r\n%b\r\n" % right[1:].encode() in denied

    def test_the_reader_reads_and_nothing_else(self, watched: SentinelServers, url: str) -> None:
        add_user(watched.master, "user", [*WRITER, *BEHIND_SENTINEL[0], *BEHIND_SENTINEL[1]])
        add_user(watched.master, "reader", [*READER, *BEHIND_SENTINEL[0]])
        with (
            RedisSentinelStore(url) as writer,
            RedisSentinelStore(url.replace("user:", "reader:", 1)) as reader,
        ):
            put(writer, KEY, row(9))
            reader.ping()
            assert get(reader, KEY) == row(9)
            assert read(reader) == [[row(9)]]
            with pytest.raises(StoreAccessDenied):
                put(reader, KEY, row(10))

"""URLs that name several servers, and the slots of a cluster."""

from __future__ import annotations

import pytest
from hiredis import ReplyError

from featurestore.errors import InvalidSettings, StoreError, StoreUnavailable
from featurestore.stores.online.redis_hosts import parse_cluster, parse_sentinel
from featurestore.stores.online.redis_slots import SLOTS, Routing, SlotMap, key_slot
from featurestore.stores.online.resp import Target

HERE = ("10.0.0.1", 7000)
TARGET = Target(host="10.0.0.1", port=7000)


def test_a_cluster_has_any_number_of_seeds() -> None:
    hosts = parse_cluster("redis+cluster://me:p%40ss%2F@h1:1,h2,[::1]:3/")
    assert hosts.seeds == (
        Target(host="h1", port=1, username="me", password="p@ss/"),
        Target(host="h2", port=6379, username="me", password="p@ss/"),
        Target(host="::1", port=3, username="me", password="p@ss/"),
    )
    assert hosts.shown == "redis+cluster://h1:1,h2:6379,[::1]:3"


def test_options_hold_for_each_host() -> None:
    tls = {"ssl_ca_certs": "/ca.pem"}
    hosts = parse_cluster("rediss+cluster://h1:1,h2:2?ssl_ca_certs=/ca.pem")
    assert [seed.tls for seed in hosts.seeds] == [tls, tls]
    assert hosts.shown == "rediss+cluster://h1:1,h2:2"
    watched = parse_sentinel("rediss+sentinel://s1/m?ssl_ca_certs=/ca.pem&sentinel_password=x")
    assert watched.server.tls == watched.sentinels[0].tls == tls


def test_sentinels_have_a_password_of_their_own() -> None:
    hosts = parse_sentinel("redis+sentinel://me:pw@s1,[::1]:2/the%20one/3?sentinel_password=s%40")
    assert hosts.sentinels == (
        Target(host="s1", port=26379, password="s@"),
        Target(host="::1", port=2, password="s@"),
    )
    assert (hosts.name, hosts.server.db) == ("the one", 3)
    assert (hosts.server.username, hosts.server.password) == ("me", "pw")
    assert hosts.server.master
    assert hosts.shown == "redis+sentinel://s1:26379,[::1]:2/the one/3"


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://:secret@",
        "redis+cluster://:secret@h1,,h2",
        "redis+cluster://:secret@h1:1,h2:port",
        "redis+cluster://:secret@h1/3",
        "redis+cluster://:secret@h1?timeout=3",
        "redis+cluster://:secret@h1?ssl_cert_reqs=none",
        "redis+cluster://:secret@h1?db",
        "redis+sentinel://:secret@s1",
        "redis+sentinel://:secret@s1/",
        "redis+sentinel://:secret@s1/name/x",
        "redis+sentinel://:secret@s1:port/name",
        "redis+sentinel://s1/name?sentinel_passwrd=secret",
    ],
)
def test_malformed_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        (parse_cluster if "cluster" in url else parse_sentinel)(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        # From the specification of Redis Cluster; the contract asks real servers about others.
        (b"", 0),
        (b"123456789", 12739),
        (b"{user1000}.following", 3443),
        (b"fs/shop/{user1000}", 3443),
        (b"foo{}{bar}", 8363),
        (b"foo{{bar}}zap", 4015),
        (b"foo{bar}{zap}", 5061),
    ],
)
def test_slots(key: bytes, slot: int) -> None:
    assert key_slot(key) == slot


def slot_map() -> SlotMap:
    reply = [
        [0, 99, [b"10.0.0.2", 1, b"id"], [b"10.0.0.9", 9, b"id"]],
        [100, 199, [None, 2, b"id"]],
        [200, SLOTS - 1, [b"", 3, b"id", []]],
    ]
    return SlotMap.read(reply, HERE)


def test_a_map_as_a_node_tells_it() -> None:
    found = slot_map()
    assert (found.owners[99], found.owners[100], found.owners[SLOTS - 1]) == (
        ("10.0.0.2", 1),
        ("10.0.0.1", 2),
        ("10.0.0.1", 3),
    )
    assert len(found.masters) == 3
    assert SlotMap.read([], HERE).masters == set()


def test_commands_go_to_the_owners_and_come_back_in_order() -> None:
    routing, known = Routing([150, 5, 300, 6]), slot_map()
    groups = routing.groups(known)
    assert groups == {
        (("10.0.0.1", 2), False): [0],
        (("10.0.0.2", 1), False): [1, 3],
        (("10.0.0.1", 3), False): [2],
    }
    for indexes in groups.values():
        routing.settle(TARGET, indexes, [f"answer {i}" for i in indexes], known)
    assert routing.is_done
    assert routing.answers == [f"answer {i}" for i in range(4)]


def test_what_moved_is_asked_there_for_good_and_what_moves_once() -> None:
    routing, known = Routing([5, 6]), slot_map()
    routing.groups(known)
    moved, ask = ReplyError("MOVED 5 10.0.0.7:77"), ReplyError("ASK 6 :88")
    routing.settle(TARGET, [0, 1], [moved, ask], known)
    assert not routing.is_done
    assert (routing.outdated, routing.at_once) == (True, True)
    assert routing.groups(known) == {
        (("10.0.0.7", 77), False): [0],
        (("10.0.0.1", 88), True): [1],
    }
    assert known.owners[6] == ("10.0.0.2", 1)


@pytest.mark.parametrize("text", ["TRYAGAIN x", "CLUSTERDOWN x", "READONLY x", "LOADING x"])
def test_what_may_pass_is_tried_again_and_then_unavailable(text: str) -> None:
    routing, known = Routing([5]), slot_map()
    routing.groups(known)
    routing.settle(TARGET, [0], [ReplyError(text)], known)
    assert (routing.todo, routing.outdated, routing.at_once) == ([0], True, False)
    assert type(routing.reason) is StoreUnavailable


def test_what_does_not_pass_ends_the_request() -> None:
    routing, known = Routing([5]), slot_map()
    routing.groups(known)
    routing.settle(TARGET, [0], [ReplyError("WRONGTYPE x")], known)
    with pytest.raises(StoreError, match="WRONGTYPE"):
        _ = routing.is_done


def test_slots_without_a_node() -> None:
    routing = Routing([5])
    assert routing.groups(SlotMap.read([], HERE)) == {}
    assert routing.outdated
    assert "slot 5" in str(routing.reason)

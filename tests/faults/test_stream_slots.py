"""A stream of a cluster whose slot moves while it is read: nothing is lost, nothing comes twice."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
from cluster_servers import RedisCluster
from test_cluster_failover import move_slot

from featurestore.errors import InvalidSettings, StoreError
from featurestore.stores.online.redis_slots import key_slot
from featurestore.stores.streams.redis import RedisStream

pytestmark = pytest.mark.slow

STREAM, MESSAGES = "orders", 400


def test_a_slot_that_moves_while_its_stream_is_read() -> None:
    slot = key_slot(STREAM.encode())
    with RedisCluster(replicas=False) as cluster:
        ended = threading.Event()

        def move() -> None:
            """From node to node."""
            for _ in range(3):
                source = cluster.owner_of(slot)
                receiver = cluster.nodes[(cluster.nodes.index(source) + 1) % len(cluster.nodes)]
                move_slot(slot, source, receiver, pause_s=0.1, prefix=STREAM)
                time.sleep(0.1)
            ended.set()

        def send(number: int) -> bool:
            """While the slot is between two nodes nobody takes a message."""
            words = ("XADD", STREAM, "*", "json", str(number))
            return cluster.owner_of(slot).command(*words)[:1] == b"$"

        found: list[bytes] = []
        mover = threading.Thread(target=move)
        url = f"{cluster.url}/{STREAM}"
        with closing(RedisStream(url, group="shop", claim_idle_ms=60_000)) as reader:
            number = 0
            while len(found) < MESSAGES:
                if number < MESSAGES and send(number):
                    number += 1
                if number == MESSAGES // 4 and mover.ident is None:
                    mover.start()
                if number % 20 == 0 or number == MESSAGES:
                    messages = reader.read(wait_ms=20)
                    reader.done(messages)
                    found += [
                        message.data for message in messages if isinstance(message.data, bytes)
                    ]
            mover.join()
            assert ended.is_set()
            assert reader.lag() == 0
            assert reader.read(wait_ms=10) == []
        assert found == [str(one).encode() for one in range(MESSAGES)]


def test_what_is_no_cluster_or_no_sentinel_is_said() -> None:
    with pytest.raises(InvalidSettings, match="a cluster has number 0 only"):
        RedisStream("redis+cluster://h:6379,i:6379/3/orders", group="g")
    with pytest.raises(InvalidSettings, match="what the sentinels call the master"):
        RedisStream("redis+sentinel://h:26379/orders", group="g")
    with RedisCluster(replicas=False) as cluster:
        url = f"redis://127.0.0.1:{cluster.nodes[0].port}/0"
        for stream in ("orders", "other", "third"):
            if cluster.owner_of(key_slot(stream.encode())) is not cluster.nodes[0]:
                with (
                    closing(RedisStream(f"{url}/{stream}", group="g")) as reader,
                    pytest.raises(StoreError, match=r"write redis\+cluster://"),
                ):
                    reader.read(wait_ms=1)

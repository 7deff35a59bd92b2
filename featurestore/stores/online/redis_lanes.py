"""Blocking calls of a cluster: many commands of one key each, all nodes at work at once.

Each node has a lane: one connection, on which chunks of commands are under way. One thread serves
all lanes in turn, so that no node waits for another, and a slow one slows the producer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from featurestore.errors import StoreError
from featurestore.stores.online.redis_blocking import Connection
from featurestore.stores.online.redis_nodes import Nodes
from featurestore.stores.online.redis_slots import Group, Routing, SlotMap, after_asking
from featurestore.stores.online.resp import pack_one

CHUNKS_IN_FLIGHT = 4
"""Chunks sent to one node and not answered: enough to keep it busy, and no more memory."""
PAUSES_S = (0.0, 0.01, 0.03, 0.06)
"""Before each further round, where no node said at once where to go."""
ASKING = pack_one((b"ASKING",))


class Work(Protocol):
    """Commands of one key each; `slots` are the slots of their keys."""

    slots: Sequence[int]
    chunk_commands: int
    chunk_bytes: int

    def deadline(self) -> float:
        """The deadline of what is sent now."""

    def open(self, connection: Connection) -> None:
        """Prepare a connection that has nothing under way."""

    def pack(self, connection: Connection, indexes: Sequence[int]) -> Iterable[bytes]:
        """The commands of these indexes, one by one."""

    def close(self, connection: Connection) -> None:
        """After the last reply: what remains to be said on the connection."""


def run(nodes: Nodes, work: Work) -> list[Any]:
    """The replies to all commands, in their order.

    What a node sends elsewhere goes there, what a failed node had goes to its successor as soon as
    there is one. Raises the typed error of the first thing that cannot be done.
    """
    routing = Routing(work.slots)
    slot_map = nodes.map(work.deadline())
    for pause_s in (*PAUSES_S, None):
        lanes = [
            _Lane(nodes, slot_map, group, indexes, work)
            for group, indexes in routing.groups(slot_map).items()
        ]
        _serve(nodes, lanes, routing)
        if routing.is_done:
            return routing.answers
        if pause_s is None or time.monotonic() + pause_s >= work.deadline():
            break
        if not routing.at_once:
            time.sleep(pause_s)
        if routing.outdated:
            slot_map = nodes.refresh(work.deadline())
    raise routing.reason


def _serve(nodes: Nodes, lanes: Sequence[_Lane], routing: Routing) -> None:
    """Serve all lanes until each is done or has failed."""
    turns = deque(lanes)
    try:
        while turns:
            lane = turns.popleft()
            try:
                is_done = lane.step(routing)
            except StoreError as error:
                lane.abort()
                nodes.note(lane.address, error)
                # All of it again: what was answered may not have reached a replica.
                routing.failed(lane.indexes, error)
            except BaseException:
                lane.abort()
                raise
            else:
                if not is_done:
                    turns.append(lane)
    finally:
        for lane in turns:
            lane.abort()


@dataclass(slots=True)
class _Chunk:
    indexes: Sequence[int]
    deadline: float


class _Lane:
    """What one node is asked in one round."""

    def __init__(
        self,
        nodes: Nodes,
        slot_map: SlotMap,
        group: Group,
        indexes: Sequence[int],
        work: Work,
    ) -> None:
        self.address, self._asking = group
        self._nodes = nodes
        self.indexes = indexes
        self._work = work
        self._map = slot_map
        self._sent = self._settled = 0
        self._under_way: deque[_Chunk] = deque()
        self._connection: Connection | None = None

    def step(self, routing: Routing) -> bool:
        """Send one more chunk, or wait for the oldest one's replies. True when all is done.

        Raises the typed error of a connection that broke.
        """
        if self._connection is None:
            self._connection = self._nodes.pool(self.address).take(self._work.deadline())
            self._work.open(self._connection)
        if self._sent < len(self.indexes) and len(self._under_way) < CHUNKS_IN_FLIGHT:
            self._send(self._connection)
            return False
        if self._under_way:
            self._receive(self._connection, routing)
        if self._settled < len(self.indexes):
            return False
        self._work.close(self._connection)
        self._nodes.pool(self.address).give(self._connection)
        self._nodes.note(self.address)
        return True

    def _send(self, connection: Connection) -> None:
        work, first, size = self._work, self._sent, 0
        commands = []
        for command in work.pack(connection, self.indexes[first : first + work.chunk_commands]):
            commands.append(command)
            size += len(command)
            if size >= work.chunk_bytes:
                break
        payload = (ASKING if self._asking else b"").join([b"", *commands])
        chunk = _Chunk(self.indexes[first : first + len(commands)], self._work.deadline())
        connection.send(payload, chunk.deadline)
        self._sent += len(commands)
        self._under_way.append(chunk)

    def _receive(self, connection: Connection, routing: Routing) -> None:
        chunk = self._under_way.popleft()
        count = len(chunk.indexes)
        if self._asking:
            replies = after_asking(connection.replies(2 * count, chunk.deadline))
        else:
            replies = connection.replies(count, chunk.deadline)
        routing.settle(connection.target, chunk.indexes, replies, self._map)
        if routing.forgotten:
            connection.mode, routing.forgotten = b"", False
        self._settled += count

    def abort(self) -> None:
        """Close the connection: replies may still come."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

"""Asyncio reads of a cluster: one auto-pipelined connection per node and event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from featurestore.errors import StoreError, StoreUnavailable
from featurestore.stores.online.redis_async import AsyncClient
from featurestore.stores.online.redis_lanes import ASKING, PAUSES_S
from featurestore.stores.online.redis_nodes import Nodes
from featurestore.stores.online.redis_shared import SharedWork
from featurestore.stores.online.redis_slots import Address, Group, Routing, SlotMap, after_asking


class AsyncNodes:
    """The connections of one event loop to the nodes."""

    def __init__(
        self, nodes: Nodes, loop: asyncio.AbstractEventLoop, *, connect_timeout_ms: int
    ) -> None:
        self._nodes = nodes
        self._loop = loop
        self._timeout_ms = connect_timeout_ms
        self._clients: dict[Address, AsyncClient] = {}
        self._reading = SharedWork(loop, self._read)

    async def call_one(self, slot: int, command: bytes, deadline: float) -> Any:
        """The reply to one command by `deadline` (of `time.monotonic`), if the node that we know of
        answers it; None if it must go through `call`."""
        slot_map = self._nodes.known_map
        if slot_map is None or self._nodes.suspects:
            return None
        address = slot_map.owners[slot]
        client = None if address is None else self._clients.get(address)
        if address is None or client is None:
            return None
        try:
            (reply,) = await client.call(command, 1, _left_ms(deadline))
        except StoreUnavailable:
            return None
        except StoreError as error:
            self._nodes.note(address, error)
            raise
        return reply

    async def call(
        self, slots: Sequence[int], commands: Sequence[bytes], deadline: float
    ) -> list[Any]:
        """The replies to commands of one key each, in order, by `deadline`."""
        routing = Routing(slots)
        slot_map = await self._map(deadline)
        for pause_s in (*PAUSES_S, None):
            calls = [
                self._ask(routing, slot_map, part, commands, deadline)
                for part in routing.groups(slot_map).items()
            ]
            await asyncio.gather(*calls)
            if routing.is_done:
                return routing.answers
            if pause_s is None or time.monotonic() + pause_s >= deadline:
                break
            if not routing.at_once:
                await asyncio.sleep(pause_s)
            if routing.outdated:
                slot_map = await self._refreshed(deadline)
        raise routing.reason

    async def _ask(
        self,
        routing: Routing,
        slot_map: SlotMap,
        part: tuple[Group, Sequence[int]],
        commands: Sequence[bytes],
        deadline: float,
    ) -> None:
        (address, asking), indexes = part
        payload = (ASKING if asking else b"").join([b"", *(commands[i] for i in indexes)])
        count = len(indexes) * (2 if asking else 1)
        try:
            replies = await self._client(address).call(payload, count, _left_ms(deadline))
        except StoreError as error:
            self._nodes.note(address, error)
            routing.failed(indexes, error)
            return
        self._nodes.note(address)
        target = self._nodes.target(address)
        routing.settle(target, indexes, after_asking(replies) if asking else replies, slot_map)

    def _client(self, address: Address) -> AsyncClient:
        client = self._clients.get(address)
        if client is None:
            target = self._nodes.target(address)
            client = AsyncClient(target, self._loop, connect_timeout_ms=self._timeout_ms)
            self._clients[address] = client
        return client

    async def _map(self, deadline: float) -> SlotMap:
        """The map. While a node is suspect, it is read again beside the call."""
        known = self._nodes.known_map
        if known is None:
            return await self._refreshed(deadline)
        if self._nodes.suspects and self._nodes.is_due:
            self._reading.begin()
        return known

    async def _refreshed(self, deadline: float) -> SlotMap:
        found = await self._reading.result(deadline) or self._nodes.known_map
        if found is None:
            raise self._nodes.late()
        for address in [known for known in self._clients if known not in found.masters]:
            self._clients.pop(address).close()
        return found

    def _read(self) -> SlotMap:
        return self._nodes.refresh(time.monotonic() + self._timeout_ms / 1000)

    def close(self) -> None:
        """Close the connections, from any thread."""
        for client in list(self._clients.values()):
            client.close()
        self._clients.clear()


def _left_ms(deadline: float) -> int:
    return max(1, round(1_000 * (deadline - time.monotonic())))

"""The online store on a cluster of Redis or Valkey servers.

What each node does is what a single server does for the store `redis://`; commands of one key each
go to the node that has the key, one pipeline per node. The keys of a project are spread over all
nodes: project names have no braces, so nothing of ours is a hash tag but what a key's bytes hold.

Nodes replicate asynchronously. A write returns when a replica of each master has its rows, if the
master has one; so a failover loses no row of a run that the ledger knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from featurestore.errors import StoreError
from featurestore.stores.online.base import KeyFields, RowBatch, ServerFacts, Swap, WriteResult
from featurestore.stores.online.redis_blocking import Connection, deadline_in
from featurestore.stores.online.redis_cluster_async import AsyncNodes
from featurestore.stores.online.redis_cluster_writes import Replacement, write_batch
from featurestore.stores.online.redis_common import (
    ScannedStore,
    of_new_loop,
    pack_read,
    pages,
    spread,
)
from featurestore.stores.online.redis_facts import neediest, server_facts
from featurestore.stores.online.redis_hosts import parse_cluster
from featurestore.stores.online.redis_lanes import run
from featurestore.stores.online.redis_nodes import Nodes
from featurestore.stores.online.redis_slots import Address, key_slot
from featurestore.stores.online.redis_swaps import Swaps, is_swapped
from featurestore.stores.online.resp import Command, pack_one


class RedisClusterStore(ScannedStore):
    """The store at a `redis+cluster://` or `rediss+cluster://` URL. Connects when first used."""

    def __init__(self, url: str, *, timeout_ms: int = 1000, read_only: bool = False) -> None:
        super().__init__(url, timeout_ms=timeout_ms, read_only=read_only)
        self._nodes = Nodes(parse_cluster(url), timeout_ms=timeout_ms)
        self._loops: dict[asyncio.AbstractEventLoop, AsyncNodes] = {}

    @property
    def shown(self) -> str:
        """The URL without credentials and options."""
        return self._nodes.shown

    # --- reads ------------------------------------------------------------------------------------

    def read(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """Row bytes in the order asked; None where absent. One round trip, to all nodes at once."""
        slots, commands = _read_commands(reads)
        if not commands:
            return [[] for _ in reads]
        deadline = deadline_in(timeout_ms or self._timeout_ms)
        return _rows(reads, run(self._nodes, _Reads(slots, commands, deadline)))

    async def read_async(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """The same without blocking the loop; shares its round trips with other callers."""
        slots, commands = _read_commands(reads)
        if not commands:
            return [[] for _ in reads]
        deadline = deadline_in(timeout_ms or self._timeout_ms)
        nodes = self._loops.get(asyncio.get_running_loop()) or self._new_loop()
        if len(commands) == 1:
            reply = await nodes.call_one(slots[0], commands[0], deadline)
            if reply.__class__ is list:
                return _rows(reads, [reply])
        return _rows(reads, await nodes.call(slots, commands, deadline))

    def _new_loop(self) -> AsyncNodes:
        return of_new_loop(
            self._loops,
            lambda loop: AsyncNodes(self._nodes, loop, connect_timeout_ms=self._timeout_ms),
        )

    # --- writes -----------------------------------------------------------------------------------

    def _write(self, batch: RowBatch) -> WriteResult:
        return write_batch(self._nodes, batch, timeout_ms=self._timeout_ms)

    def _replace(self, key: bytes, arguments: tuple[bytes, ...]) -> bool:
        (reply,) = run(self._nodes, Replacement(key, arguments, timeout_ms=self._timeout_ms))
        return bool(reply)

    def _swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        if not swaps:
            return []
        work = Swaps(fields, swaps, timeout_ms=self._timeout_ms)
        return list(map(is_swapped, run(self._nodes, work)))

    def _pages(self, pattern: bytes) -> Iterator[list[bytes]]:
        for address in sorted(self._nodes.map(self._deadline()).masters):
            yield from pages(pattern, partial(self._ask, address))

    def _ask(self, address: Address, command: Command) -> Any:
        return self._nodes.call(address, command, self._deadline())

    def _each(self, commands: Sequence[tuple[bytes, ...]]) -> list[Any]:
        if not commands:
            return []
        slots = [key_slot(command[1]) for command in commands]
        return run(self._nodes, _Reads(slots, list(map(pack_one, commands)), self._deadline()))

    def _deadline(self) -> float:
        return deadline_in(self._timeout_ms)

    def ping(self, *, timeout_ms: int | None = None) -> None:
        """Return if every slot has a master that answers."""
        deadline = deadline_in(timeout_ms or self._timeout_ms)
        slot_map = self._nodes.map(deadline)
        for last in (False, True):
            try:
                for address in slot_map.masters:
                    self._nodes.call(address, (b"PING",), deadline)
                return
            except StoreError as error:
                if last or not error.retryable or time.monotonic() >= deadline:
                    raise
                slot_map = self._nodes.refresh(deadline)

    def facts(self, now_us: Callable[[], int]) -> ServerFacts:
        """What the master to worry about most says of itself."""
        masters = sorted(self._nodes.map(self._deadline()).masters)
        return neediest(
            server_facts(self._nodes.pool(address), self._deadline(), now_us) for address in masters
        )

    def close(self) -> None:
        """Close all connections, of every event loop too."""
        self._nodes.close()
        for nodes in self._loops.values():
            nodes.close()
        self._loops.clear()


def _read_commands(reads: Sequence[KeyFields]) -> tuple[list[int], list[bytes]]:
    """The slots and the packed commands of a read (a read of no fields is none)."""
    asked = [read for read in reads if read.fields]
    return [key_slot(read.key) for read in asked], list(map(pack_read, asked))


def _rows(reads: Sequence[KeyFields], answers: list[Any]) -> list[list[bytes | None]]:
    if len(answers) == len(reads):
        return answers
    return spread(reads, answers)


class _Reads:
    """Packed commands that change nothing that a failover could lose, in one chunk per node."""

    def __init__(self, slots: Sequence[int], commands: Sequence[bytes], deadline: float) -> None:
        self.slots = slots
        self.chunk_commands = self.chunk_bytes = 1 << 62
        self._commands = commands
        self._deadline = deadline

    def deadline(self) -> float:
        """One for all."""
        return self._deadline

    def open(self, connection: Connection) -> None:
        """Nothing to prepare."""

    def pack(self, connection: Connection, indexes: Sequence[int]) -> Iterator[bytes]:  # noqa: ARG002
        """They are packed."""
        return map(self._commands.__getitem__, indexes)

    def close(self, connection: Connection) -> None:
        """Nothing more to say."""

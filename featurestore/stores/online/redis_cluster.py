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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from featurestore.config import OnlineSettings
from featurestore.errors import StoreError, StoreReadOnly
from featurestore.stores.online.base import (
    Capabilities,
    KeyFields,
    OnlineStore,
    RowBatch,
    ServerFacts,
    Swap,
    WriteResult,
)
from featurestore.stores.online.checks import check_batch, check_field, check_keys, check_swaps
from featurestore.stores.online.redis import SCAN_KEYS, pack_read, pattern_of
from featurestore.stores.online.redis_blocking import Connection, deadline_in
from featurestore.stores.online.redis_cluster_async import AsyncNodes
from featurestore.stores.online.redis_cluster_writes import Replacement, write_batch
from featurestore.stores.online.redis_facts import neediest, server_facts
from featurestore.stores.online.redis_hosts import parse_cluster
from featurestore.stores.online.redis_lanes import Work, run
from featurestore.stores.online.redis_nodes import Nodes
from featurestore.stores.online.redis_slots import key_slot
from featurestore.stores.online.redis_swaps import Swaps, is_swapped
from featurestore.stores.online.redis_writes import expiry_argument
from featurestore.stores.online.resp import pack_one


class RedisClusterStore(OnlineStore):
    """The store at a `redis+cluster://` or `rediss+cluster://` URL. Connects when first used."""

    capabilities: ClassVar[Capabilities] = Capabilities(expires="field", shared=True)

    def __init__(self, url: str, *, timeout_ms: int = 1000, read_only: bool = False) -> None:
        self._nodes = Nodes(parse_cluster(url), timeout_ms=timeout_ms)
        self._timeout_ms = timeout_ms
        self._read_only = read_only
        self._loops: dict[asyncio.AbstractEventLoop, AsyncNodes] = {}

    @classmethod
    def open(cls, settings: OnlineSettings, *, root: Path, read_only: bool = False) -> Self:  # noqa: ARG003 (no files)
        """Raises `InvalidSettings` for a malformed URL."""
        return cls(settings.url, timeout_ms=settings.timeout_ms, read_only=read_only)

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
        loop = asyncio.get_running_loop()
        for ended in [known for known in self._loops if known.is_closed()]:
            del self._loops[ended]
        made = AsyncNodes(self._nodes, loop, connect_timeout_ms=self._timeout_ms)
        self._loops[loop] = made
        return made

    # --- writes -----------------------------------------------------------------------------------

    def write(self, batch: RowBatch) -> WriteResult:
        """Write the newer rows. `timeout_ms` is for each chunk under way, not for the batch. A row
        that was written again after a node failed may count as `same` instead of `written`."""
        self._refuse_if_read_only()
        check_batch(batch)
        return write_batch(self._nodes, batch, timeout_ms=self._timeout_ms)

    def replace(
        self, field: bytes, key: bytes, *, expected: bytes, row: bytes, expire_at_us: int | None
    ) -> bool:
        """Compare-and-set inside the node that has the key. After a failure, False may mean that
        it was done."""
        self._refuse_if_read_only()
        check_field(field)
        check_keys([key])
        arguments = (field, expected, row, expiry_argument(expire_at_us))
        (reply,) = self._run(Replacement(key, arguments, timeout_ms=self._timeout_ms))
        return bool(reply)

    def swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        """Compare-and-swap by revision inside the nodes that have the keys."""
        self._refuse_if_read_only()
        check_swaps(fields, swaps)
        work = Swaps(fields, swaps, timeout_ms=self._timeout_ms)
        return list(map(is_swapped, self._run(work)))

    def sweep(
        self,
        prefix: bytes,
        *,
        keep: Iterable[bytes],
        older_than_us: int | None = None,  # noqa: ARG002 (the servers have freed those)
    ) -> Iterator[int]:
        """Free rows of other fields than `keep`, on all masters; expired ones are theirs to free.

        A key that moves from node to node meanwhile may be left for the next sweep.
        """
        self._refuse_if_read_only()
        return self._steps(pattern_of(prefix), frozenset(keep))

    def _steps(self, pattern: bytes, keep: frozenset[bytes]) -> Iterator[int]:
        for address in sorted(self._nodes.map(self._deadline()).masters):
            cursor = b"0"
            while True:
                scan = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_KEYS)
                cursor, keys = self._nodes.call(address, scan, self._deadline())
                yield self._free(keys, keep)
                if cursor == b"0":
                    break

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        """The keys that begin with `prefix`, some at a time, of all masters."""
        pattern = pattern_of(prefix)
        for address in sorted(self._nodes.map(self._deadline()).masters):
            cursor = b"0"
            while True:
                command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_KEYS)
                cursor, keys = self._nodes.call(address, command, self._deadline())
                yield keys
                if cursor == b"0":
                    break

    def _free(self, keys: Sequence[bytes], keep: frozenset[bytes]) -> int:
        slots = [key_slot(key) for key in keys]
        commands = [pack_one((b"HKEYS", key)) for key in keys]
        fields = self._run(_Reads(slots, commands, self._deadline()))
        stale = [
            (slot, pack_one((b"HDEL", key, *gone)))
            for slot, key, found in zip(slots, keys, fields, strict=True)
            if (gone := [name for name in found if name not in keep])
        ]
        slots, commands = [slot for slot, _ in stale], [command for _, command in stale]
        return sum(self._run(_Reads(slots, commands, self._deadline())))

    def _run(self, work: Work) -> list[Any]:
        if not work.slots:
            return []
        return run(self._nodes, work)

    def _deadline(self) -> float:
        return deadline_in(self._timeout_ms)

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise StoreReadOnly(f"the online store {self._nodes.shown} was opened read-only")

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
    found = iter(answers)
    return [next(found) if read.fields else [] for read in reads]


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

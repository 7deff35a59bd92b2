"""Conditional writes of a cluster: one key per call, of the scripts of a single server, or of the
commands that write only where nothing is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from featurestore.stores.online.base import RowBatch, WriteResult
from featurestore.stores.online.redis_blocking import Connection, deadline_in
from featurestore.stores.online.redis_lanes import run
from featurestore.stores.online.redis_nodes import Nodes
from featurestore.stores.online.redis_replication import await_replica
from featurestore.stores.online.redis_scripts import REPLACE, WRITE
from featurestore.stores.online.redis_slots import key_slot
from featurestore.stores.online.redis_writes import (
    NEW_ROWS_MIN,
    Tally,
    Writer,
    expiry_argument,
    writes_new,
)
from featurestore.stores.online.resp import pack_one

CHUNK_COMMANDS = 500
CHUNK_BYTES = 1024 * 1024
"""Where a chunk ends, in commands and in bytes."""
PROBE_ROWS = 100
"""Rows of a batch that are tried first to find out whether they are new."""

_WRITTEN = [b"w"]


class Scripts:
    """Calls of scripts: a connection knows them before the first, and afterwards it is waited until
    a replica has what they wrote."""

    chunk_commands = CHUNK_COMMANDS
    chunk_bytes = CHUNK_BYTES

    def __init__(self, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms

    def deadline(self) -> float:
        """One for each chunk."""
        return deadline_in(self._timeout_ms)

    def open(self, connection: Connection) -> None:
        """Load the scripts, once for each connection."""
        writer = Writer(
            target=connection.target, timeout_ms=self._timeout_ms, rows_per_call=1, mode=None
        )
        writer.prepare(connection)

    def close(self, connection: Connection) -> None:
        """Wait for a replica."""
        await_replica(connection, timeout_ms=self._timeout_ms)


class Writes(Scripts):
    """Rows of a batch by their indexes, each by a call of its own; replies are those of `WRITE`.

    With `new`, nodes that can do it are told to write only where nothing is, which costs them less
    than half as much: there the reply is 1, or 0 where something is.
    """

    def __init__(
        self, batch: RowBatch, indexes: Sequence[int], *, new: bool, timeout_ms: int
    ) -> None:
        super().__init__(timeout_ms)
        keys = batch.keys
        self.slots: Sequence[int] = [key_slot(keys[index]) for index in indexes]
        self._batch = batch
        self._indexes = indexes
        self._new = new

    def pack(self, connection: Connection, indexes: Sequence[int]) -> Iterator[bytes]:
        """The calls. Of their eight or nine words, two to four differ from row to row."""
        mine = [self._indexes[index] for index in indexes]
        if self._new and writes_new(connection.mode, self._batch):
            return self._pack_new(mine)
        return self._pack_scripts(connection.mode, mine)

    def _pack_scripts(self, mode: bytes, indexes: Sequence[int]) -> Iterator[bytes]:
        keys, rows, expiries = self._batch.keys, self._batch.rows, self._batch.expire_at_us
        head = _words(8, b"EVALSHA", WRITE.sha, b"1")
        shared = _word(self._batch.field) + _word(mode)
        expiry = b""
        for index in indexes:
            key, row = keys[index], rows[index]
            if expiries is not None:
                expiry = expiry_argument(int(expiries[index]))
            yield b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
                head,
                len(key),
                key,
                shared,
                len(row),
                row,
                len(expiry),
                expiry,
            )

    def _pack_new(self, indexes: Sequence[int]) -> Iterator[bytes]:
        keys, rows, expiries = self._batch.keys, self._batch.rows, self._batch.expire_at_us
        field = _word(self._batch.field)
        forever, mortal = _words(4, b"HSETNX"), _words(9, b"HSETEX")
        until, one = _word(b"FNX") + _word(b"PXAT"), _word(b"FIELDS") + _word(b"1") + field
        expiry = b""
        for index in indexes:
            key, row = keys[index], rows[index]
            if expiries is not None:
                expiry = expiry_argument(int(expiries[index]))
            yield b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (
                mortal if expiry else forever,
                len(key),
                key,
                b"%b$%d\r\n%b\r\n%b" % (until, len(expiry), expiry, one) if expiry else field,
                len(row),
                row,
            )


def write_batch(nodes: Nodes, batch: RowBatch, *, timeout_ms: int) -> WriteResult:
    """Write the newer rows: those of which the cluster has nothing without a comparison, as long as
    the beginning of the batch, and then the rest of it, consists of such."""
    tally, count = Tally(), len(batch.keys)
    left: list[int] = []
    parts: list[Sequence[int]] = []
    if count >= NEW_ROWS_MIN:
        # In the batch's order, for the sake of keys that come twice.
        parts = [range(PROBE_ROWS), range(PROBE_ROWS, count)]
    for place, part in enumerate(parts):
        replies = run(nodes, Writes(batch, part, new=True, timeout_ms=timeout_ms))
        there = _tally_new(tally, part, replies)
        left += there
        if len(there) > len(part) // 2:
            left += [index for rest in parts[place + 1 :] for index in rest]
            break
    rest = sorted(left) if parts else range(count)
    if rest:
        replies = run(nodes, Writes(batch, rest, new=False, timeout_ms=timeout_ms))
        for index, reply in zip(rest, replies, strict=True):
            tally.add((index, index + 1), reply)
    return tally.result()


def _tally_new(tally: Tally, indexes: Sequence[int], replies: Sequence[Any]) -> list[int]:
    """Count what was written; returns the indexes of rows where something is stored."""
    there = []
    for index, reply in zip(indexes, replies, strict=True):
        if reply == 1:
            tally.add((index, index + 1), _WRITTEN)
        elif reply == 0:
            there.append(index)
        else:
            tally.add((index, index + 1), reply)
    return there


class Replacement(Scripts):
    """One compare-and-set; `arguments` are the field, the expected row, the new row, its expiry.
    The reply is that of `REPLACE`."""

    def __init__(self, key: bytes, arguments: tuple[bytes, ...], *, timeout_ms: int) -> None:
        super().__init__(timeout_ms)
        self.slots: Sequence[int] = [key_slot(key)]
        self._key = key
        self._arguments = arguments

    def pack(self, connection: Connection, indexes: Sequence[int]) -> Iterator[bytes]:  # noqa: ARG002
        """The one call."""
        field, *rest = self._arguments
        yield pack_one((b"EVALSHA", REPLACE.sha, 1, self._key, field, connection.mode, *rest))


def _word(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _words(count: int, *first: bytes) -> bytes:
    """The beginning of a command of `count` words."""
    return b"*%d\r\n%b" % (count, b"".join(map(_word, first)))

"""Conditional writes of a cluster: the scripts of a single server, one key per call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from featurestore.stores.online.base import RowBatch
from featurestore.stores.online.redis_blocking import Connection, deadline_in
from featurestore.stores.online.redis_replication import await_replica
from featurestore.stores.online.redis_scripts import REPLACE, WRITE
from featurestore.stores.online.redis_slots import key_slot
from featurestore.stores.online.redis_writes import Writer, expiry_argument
from featurestore.stores.online.resp import pack_one

CHUNK_COMMANDS = 500
CHUNK_BYTES = 1024 * 1024
"""Where a chunk ends, in commands and in bytes."""


class _Scripts:
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


class Writes(_Scripts):
    """The rows of a batch, each by a call of its own; the replies are those of `WRITE`."""

    def __init__(self, batch: RowBatch, *, timeout_ms: int) -> None:
        super().__init__(timeout_ms)
        self.slots: Sequence[int] = list(map(key_slot, batch.keys))
        self._batch = batch

    def pack(self, connection: Connection, indexes: Sequence[int]) -> Iterator[bytes]:
        """EVALSHA with eight words, of which four differ from row to row."""
        keys, rows, expiries = self._batch.keys, self._batch.rows, self._batch.expire_at_us
        head = b"*8\r\n%b%b%b" % (_word(b"EVALSHA"), _word(WRITE.sha), _word(b"1"))
        shared = _word(self._batch.field) + _word(connection.mode)
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


class Replacement(_Scripts):
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

"""Conditional writes over one blocking connection: script calls, a few under way at once.

A slow server slows the producer: no more than `CALLS_IN_FLIGHT` calls are encoded at any time, and
each must be answered by its own deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hiredis import ReplyError

from featurestore.stores.online.base import RowBatch, Tie, WriteResult
from featurestore.stores.online.redis_blocking import Connection, deadline_in
from featurestore.stores.online.redis_scripts import (
    EXPIRY_MS_MAX,
    KEY_MODE,
    MODES,
    REPLACE,
    WRITE,
)
from featurestore.stores.online.resp import Command, Target, pack, refusal

ROWS_PER_CALL = 500
"""Rows in one script call: the server serves nobody else for about as many microseconds."""
CALL_BYTES_MAX = 4 * 1024 * 1024
CALLS_IN_FLIGHT = 4
"""Script calls sent and not answered: enough to keep the server busy, and no more memory."""

_SCRIPTS = (WRITE, REPLACE)
_ATTEMPTS = 3

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """How to write to one server. `mode` is how rows expire there, or None to ask it."""

    target: Target
    timeout_ms: int
    rows_per_call: int
    mode: bytes | None

    def write(self, connection: Connection, batch: RowBatch) -> WriteResult:
        """Write the newer rows of a batch."""
        mode = self.prepare(connection)
        expiries = [b""] * len(batch.keys)
        if batch.expire_at_us is not None:
            expiries = [expiry_argument(int(at_us)) for at_us in batch.expire_at_us]
        tally = Tally()
        todo = list(_spans(batch, self.rows_per_call))
        for _ in range(_ATTEMPTS):
            todo = self._send_all(connection, batch, (mode, expiries), todo, tally)
            if not todo:
                return tally.result()
            # Someone emptied the server's script cache.
            self._load(connection)
        raise refusal(self.target, ReplyError("NOSCRIPT the server forgets its scripts at once"))

    def replace(self, connection: Connection, key: bytes, arguments: tuple[bytes, ...]) -> bool:
        """Compare-and-set; `arguments` are the field, the expected row, the new row, its expiry."""
        mode = self.prepare(connection)
        field, *rest = arguments
        command: Command = (b"EVALSHA", REPLACE.sha, 1, key, field, mode, *rest)
        for _ in range(_ATTEMPTS):
            (reply,) = self._call(connection, [command])
            if not is_forgotten(reply):
                break
            self._load(connection)
        return bool(self._checked(reply))

    def prepare(self, connection: Connection) -> bytes:
        """Load the scripts, once for each connection; returns how rows expire on its server."""
        if not connection.mode:
            self._load(connection)
            connection.mode = self.mode or self._ask_mode(connection)
        return connection.mode

    def _load(self, connection: Connection) -> None:
        loads: list[Command] = [(b"SCRIPT", b"LOAD", script.text) for script in _SCRIPTS]
        for reply in self._call(connection, loads):
            self._checked(reply)

    def _ask_mode(self, connection: Connection) -> bytes:
        names = [name for name, _ in MODES]
        (reply,) = self._call(connection, [(b"COMMAND", b"INFO", *names)])
        if isinstance(reply, list):
            for known, (_, mode) in zip(reply, MODES, strict=True):
                if known:
                    return mode
        # It knows neither, or does not let us ask.
        return KEY_MODE

    def _send_all(
        self,
        connection: Connection,
        batch: RowBatch,
        shared: tuple[bytes, Sequence[bytes]],
        todo: Sequence[Span],
        tally: Tally,
    ) -> list[Span]:
        """Send all calls; returns those that the server refused for want of the script."""
        forgotten: list[Span] = []
        in_flight: deque[tuple[Span, float]] = deque()

        def settle() -> None:
            span, deadline = in_flight.popleft()
            (reply,) = connection.replies(1, deadline)
            if is_forgotten(reply):
                forgotten.append(span)
            else:
                tally.add(span, self._checked(reply))

        for span in todo:
            deadline = deadline_in(self.timeout_ms)
            connection.send(pack([_write_command(batch, shared, span)]), deadline)
            in_flight.append((span, deadline))
            if len(in_flight) == CALLS_IN_FLIGHT:
                settle()
        while in_flight:
            settle()
        return forgotten

    def _call(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        deadline = deadline_in(self.timeout_ms)
        connection.send(pack(commands), deadline)
        return connection.replies(len(commands), deadline)

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, ReplyError):
            raise refusal(self.target, reply)
        return reply


class Tally:
    """Counts what the calls answered."""

    def __init__(self) -> None:
        self._codes: list[bytes] = []
        self._ties: list[Tie] = []

    def add(self, span: Span, reply: list[bytes]) -> None:
        codes, *stored = reply
        self._codes.append(codes)
        places = [span[0] + i for i, code in enumerate(codes) if code == ord("t")]
        self._ties.extend(map(Tie, places, stored))

    def result(self) -> WriteResult:
        codes = b"".join(self._codes)
        return WriteResult(
            written=codes.count(b"w"),
            same=codes.count(b"s"),
            older=codes.count(b"o"),
            ties=tuple(sorted(self._ties, key=lambda tie: tie.index)),
        )


def expiry_argument(at_us: int | None) -> bytes:
    """An expiry as the scripts take it: ms since 1970, rounded up; empty for never."""
    if at_us is None:
        return b""
    at_ms = max(1, -(-at_us // 1000))
    return b"" if at_ms > EXPIRY_MS_MAX else b"%d" % at_ms


def _spans(batch: RowBatch, rows_max: int) -> Iterator[Span]:
    """The batch in runs of at most `rows_max` rows and `CALL_BYTES_MAX` bytes (or one row)."""
    start, size = 0, 0
    for index, (key, row) in enumerate(zip(batch.keys, batch.rows, strict=True)):
        more = len(key) + len(row)
        if index - start == rows_max or (size + more > CALL_BYTES_MAX and index > start):
            yield start, index
            start, size = index, 0
        size += more
    if batch.keys:
        yield start, len(batch.keys)


def _write_command(batch: RowBatch, shared: tuple[bytes, Sequence[bytes]], span: Span) -> Command:
    mode, expiries = shared
    start, stop = span
    pairs: list[bytes] = [b""] * (2 * (stop - start))
    pairs[0::2] = batch.rows[start:stop]
    pairs[1::2] = expiries[start:stop]
    keys = batch.keys[start:stop]
    return (b"EVALSHA", WRITE.sha, stop - start, *keys, batch.field, mode, *pairs)


def is_forgotten(reply: Any) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")

"""Conditional writes over one blocking connection: calls with many rows, a few under way at once.

A script compares times, which costs the server more than the write itself. Rows of which the store
has nothing need no comparison: as long as a large batch consists of such, its rows are written by
commands that write only where nothing is (`HSETNX`, `HSETEX … FNX`); the others go to the script.

A slow server slows the producer: no more than `CALLS_IN_FLIGHT` calls are encoded at any time, and
each must be answered by its own deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    SETEX_MODE,
    SWAP,
    WRITE,
)
from featurestore.stores.online.resp import Command, Target, pack, refusal

ROWS_PER_CALL = 500
"""Rows in one script call: the server serves nobody else for about as many microseconds."""
CALL_BYTES_MAX = 4 * 1024 * 1024
CALLS_IN_FLIGHT = 4
"""Script calls sent and not answered: enough to keep the server busy, and no more memory."""

NEW_ROWS_MIN = 1_000
"""Rows of a batch that is worth finding out whether its rows are new."""
PROBE_ROWS = 50
"""Rows that are written first to find out."""

_SCRIPTS = (WRITE, REPLACE, SWAP)
ATTEMPTS = 3
"""How often a call is sent anew that the server refused because it did not know the script."""

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
        left: Sequence[int] = range(len(batch.keys))
        if len(left) >= NEW_ROWS_MIN and writes_new(mode, batch):
            left = self._put_new(connection, batch, expiries, tally)
            batch, expiries = _part(batch, left), [expiries[index] for index in left]
        todo = list(_spans(batch, self.rows_per_call))
        for _ in range(ATTEMPTS):
            todo = self._compare(connection, batch, (mode, expiries), todo, tally)
            if not todo:
                return tally.result(left)
            # Someone emptied the server's script cache.
            self._load(connection)
        raise refusal(self.target, ReplyError("NOSCRIPT the server forgets its scripts at once"))

    def replace(self, connection: Connection, key: bytes, arguments: tuple[bytes, ...]) -> bool:
        """Compare-and-set; `arguments` are the field, the expected row, the new row, its expiry."""
        mode = self.prepare(connection)
        field, *rest = arguments
        command: Command = (b"EVALSHA", REPLACE.sha, 1, key, field, mode, *rest)
        for _ in range(ATTEMPTS):
            (reply,) = self._call(connection, [command])
            if not is_forgotten(reply):
                break
            self._load(connection)
        return bool(self.checked(reply))

    def prepare(self, connection: Connection) -> bytes:
        """Load the scripts, once for each connection; returns how rows expire on its server."""
        if not connection.mode:
            self._load(connection)
            connection.mode = self.mode or self._ask_mode(connection)
        return connection.mode

    def _load(self, connection: Connection) -> None:
        loads: list[Command] = [(b"SCRIPT", b"LOAD", script.text) for script in _SCRIPTS]
        for reply in self._call(connection, loads):
            self.checked(reply)

    def _ask_mode(self, connection: Connection) -> bytes:
        names = [name for name, _ in MODES]
        (reply,) = self._call(connection, [(b"COMMAND", b"INFO", *names)])
        if isinstance(reply, list):
            for known, (_, mode) in zip(reply, MODES, strict=True):
                if known:
                    return mode
        # It knows neither, or does not let us ask.
        return KEY_MODE

    def _put_new(
        self, connection: Connection, batch: RowBatch, expiries: Sequence[bytes], tally: Tally
    ) -> list[int]:
        """Write rows of which the store has nothing, until most are not of that kind. Returns the
        indexes of all that were not written, for whatever reason: the script will tell."""
        left: list[int] = []
        spans = deque([(0, PROBE_ROWS), *_spans(batch, ROWS_PER_CALL, first=PROBE_ROWS)])

        def send(span: Span) -> tuple[bytes, int]:
            return pack(_new_commands(batch, expiries, span)), span[1] - span[0]

        def settle(span: Span, replies: Sequence[Any]) -> None:
            there = [span[0] + i for i, reply in enumerate(replies) if reply != 1]
            tally.count_written(len(replies) - len(there))
            left.extend(there)
            if len(there) > len(replies) // 2:
                left.extend(index for span in spans for index in range(*span))
                spans.clear()

        self.pipeline(connection, [spans.popleft()], send, settle)
        self.pipeline(connection, _drained(spans), send, settle)
        return sorted(left)

    def _compare(
        self,
        connection: Connection,
        batch: RowBatch,
        shared: tuple[bytes, Sequence[bytes]],
        todo: Sequence[Span],
        tally: Tally,
    ) -> list[Span]:
        """Call the script for all spans; returns those that the server refused for want of it."""
        forgotten: list[Span] = []

        def send(span: Span) -> tuple[bytes, int]:
            return pack([_write_command(batch, shared, span)]), 1

        def settle(span: Span, replies: Sequence[Any]) -> None:
            (reply,) = replies
            if is_forgotten(reply):
                forgotten.append(span)
            else:
                tally.add(span, self.checked(reply))

        self.pipeline(connection, todo, send, settle)
        return forgotten

    def pipeline(
        self,
        connection: Connection,
        spans: Iterable[Span],
        send: Callable[[Span], tuple[bytes, int]],
        settle: Callable[[Span, Sequence[Any]], None],
    ) -> None:
        """Send what `send` makes of each span, and give `settle` as many replies as it says, with
        `CALLS_IN_FLIGHT` under way."""
        in_flight: deque[tuple[Span, int, float]] = deque()

        def receive() -> None:
            span, count, deadline = in_flight.popleft()
            settle(span, connection.replies(count, deadline))

        for span in spans:
            deadline = deadline_in(self.timeout_ms)
            payload, count = send(span)
            connection.send(payload, deadline)
            in_flight.append((span, count, deadline))
            if len(in_flight) == CALLS_IN_FLIGHT:
                receive()
        while in_flight:
            receive()

    def _call(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        deadline = deadline_in(self.timeout_ms)
        connection.send(pack(commands), deadline)
        return connection.replies(len(commands), deadline)

    def checked(self, reply: Any) -> Any:
        """The reply. Raises the typed error of what is one."""
        if isinstance(reply, ReplyError):
            raise refusal(self.target, reply)
        return reply


class Tally:
    """Counts what the calls answered."""

    def __init__(self) -> None:
        self._written = 0
        self._codes: list[bytes] = []
        self._ties: list[Tie] = []

    def count_written(self, rows: int) -> None:
        """Count rows that were written without a comparison."""
        self._written += rows

    def add(self, span: Span, reply: list[bytes]) -> None:
        codes, *stored = reply
        self._codes.append(codes)
        places = [span[0] + i for i, code in enumerate(codes) if code == ord("t")]
        self._ties.extend(map(Tie, places, stored))

    def result(self, indexes: Sequence[int] | None = None) -> WriteResult:
        """What was counted; `indexes` are those of the compared rows in the caller's batch."""
        codes = b"".join(self._codes)
        ties = sorted(self._ties, key=lambda tie: tie.index)
        if indexes is not None:
            ties = [Tie(indexes[tie.index], tie.stored) for tie in ties]
        return WriteResult(
            written=self._written + codes.count(b"w"),
            same=codes.count(b"s"),
            older=codes.count(b"o"),
            ties=tuple(ties),
        )


def expiry_argument(at_us: int | None) -> bytes:
    """An expiry as the scripts take it: ms since 1970, rounded up; empty for never."""
    if at_us is None:
        return b""
    at_ms = max(1, -(-at_us // 1000))
    return b"" if at_ms > EXPIRY_MS_MAX else b"%d" % at_ms


def _spans(batch: RowBatch, rows_max: int, *, first: int = 0) -> Iterator[Span]:
    """The batch from row `first` on in runs of at most `rows_max` rows and `CALL_BYTES_MAX` bytes
    (or one row)."""
    keys, rows = batch.keys, batch.rows
    for begin in range(first, len(keys), rows_max):
        end = min(begin + rows_max, len(keys))
        start, size = begin, 0
        longest = max(map(len, rows[begin:end])) + max(map(len, keys[begin:end]))
        # One look at the longest is cheaper than adding up.
        if longest * (end - begin) > CALL_BYTES_MAX:
            for index in range(begin, end):
                more = len(keys[index]) + len(rows[index])
                if size + more > CALL_BYTES_MAX and index > start:
                    yield start, index
                    start, size = index, 0
                size += more
        yield start, end


def _drained(spans: deque[Span]) -> Iterator[Span]:
    """What is left of `spans` whenever the next one is asked for."""
    while spans:
        yield spans.popleft()


def writes_new(mode: bytes, batch: RowBatch) -> bool:
    """Whether the server has commands that write such rows, with their expiry, where nothing is."""
    return mode == SETEX_MODE or (mode != KEY_MODE and batch.expire_at_us is None)


def _new_commands(batch: RowBatch, expiries: Sequence[bytes], span: Span) -> Iterator[Command]:
    field = batch.field
    for index in range(*span):
        key, row, expiry = batch.keys[index], batch.rows[index], expiries[index]
        if expiry:
            yield b"HSETEX", key, b"FNX", b"PXAT", expiry, b"FIELDS", b"1", field, row
        else:
            yield b"HSETNX", key, field, row


def _part(batch: RowBatch, indexes: Sequence[int]) -> RowBatch:
    """These rows of the batch, without their expiries."""
    return RowBatch(
        field=batch.field,
        keys=[batch.keys[index] for index in indexes],
        rows=[batch.rows[index] for index in indexes],
    )


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

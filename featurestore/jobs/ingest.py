"""Streams into their sources: read a batch, push it, acknowledge it; for ever. While one is pushed
the next is read, where the reader allows it.

A message is acknowledged when its row is in the write-ahead log and in the online store. Killed
anywhere, the messages come again and their rows are written again, the very same (their arrival is
the message's own time), which changes nothing. What is no row of the source goes to the dead
letters; a store or a disk that is away is waited for, and meanwhile nothing is read.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from featurestore import plugins
from featurestore.dtypes import Kind, to_arrow
from featurestore.errors import FeatureStoreError, InvalidRows, RequestError, StoreError
from featurestore.jobs.ahead import one_ahead
from featurestore.jobs.ingest_lines import read_lines
from featurestore.jobs.push_letters import letters_of
from featurestore.jobs.push_rows import read_rows
from featurestore.stores.streams.base import READ_BYTES_MAX, Message, StreamReader, bytes_of

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedSource, TypedStream
    from featurestore.jobs.push import Pusher
    from featurestore.timeline import Clock

WAIT_MS = 1_000
"""How long a read waits for messages."""
PAUSE_S_MAX = 5.0
"""The longest pause before what failed is tried again."""
IDLE_READS_MAX = 30
"""Reads without a message after which a stream whose lag is unknown counts as empty."""
LAG_EVERY_S = 5.0
"""How often the lag is asked for, also while something is away."""


class IngestObserver(Protocol):
    """Who counts what streams bring."""

    def read(self, stream: str, messages: int, newest_us: int) -> None:
        """Messages were taken; the newest is of that instant."""

    def lag(self, stream: str, messages: int) -> None:
        """So many messages are not acknowledged."""

    def waiting(self, stream: str, error: FeatureStoreError) -> None:
        """The stream, the store or the disk is away; it is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What one stream has brought: messages read, rows taken, dead letters."""

    stream: str
    messages: int = 0
    rows: int = 0
    dead: int = 0


def open_reader(stream: TypedStream, group: str) -> StreamReader:
    """The consumer of a stream. Raises `InvalidSettings` for a scheme that nobody registered."""
    kind = plugins.load("featurestore.streams", plugins.scheme_of(stream.url))
    reader: StreamReader = kind.open(stream.url, group=group)
    return reader


@dataclass(slots=True)
class Ingest:
    """One stream into its source. `run` it in a thread of its own."""

    stream: TypedStream
    reader: StreamReader
    pusher: Pusher
    clock: Clock
    observer: IngestObserver
    stop: threading.Event = field(default_factory=threading.Event)
    messages: int = 0
    rows: int = 0
    dead: int = 0
    _lag_at: float = float("-inf")

    def run(self, *, until_empty: bool = False) -> Ingested:
        """Take messages until told to stop; with `until_empty`, until none comes.

        Raises what trying again does not help against: a stream that refuses us, definitions that
        were not applied.
        """
        batches = self._batches(until_empty)
        for batch in one_ahead(batches) if self.reader.reads_ahead else batches:
            try:
                self._take(batch)
            except BaseException:
                # Whoever reads ahead is waited for.
                self.stop.set()
                raise
        return Ingested(
            stream=self.stream.name, messages=self.messages, rows=self.rows, dead=self.dead
        )

    def _batches(self, until_empty: bool) -> Iterator[_Batch]:
        """What comes; all that was read is given."""
        idle = 0
        while not self.stop.is_set():
            self._watch_lag()
            messages = self._patiently(lambda: self.reader.read(wait_ms=WAIT_MS))
            idle = 0 if messages else idle + 1
            for some in _portions(messages):
                source = self.pusher.source(self.stream.source)
                yield _Batch(some, source, self._part(source, some))
            # A consumer that has just joined may have been given nothing yet.
            if (
                until_empty
                and idle
                and (self._patiently(self._tell_lag) == 0 or idle >= IDLE_READS_MAX)
            ):
                break

    def _take(self, batch: _Batch) -> None:
        part, messages = batch.part, batch.messages
        result = self._patiently(
            lambda: self.pusher.push_table(
                batch.source, part.rows, part.at_us, dead=part.letters, origin=self.stream.name
            )
        )
        self.rows += result.rows
        self.dead += result.dead_count + part.dead
        self._patiently(lambda: self.reader.done(messages))
        self.messages += len(messages)
        self.observer.read(self.stream.name, len(messages), max(m.at_us for m in messages))

    def _part(self, source: TypedSource, messages: Sequence[Message]) -> _Part:
        """What is to be pushed, and the letters of what is no row."""
        if (rows := _all_lines(source, messages)) is not None:
            return _Part(rows, np.array([m.at_us for m in messages], np.int64), None, 0)
        decoded: Sequence[Any] | None = _all_decoded(messages)
        places, bad = list(range(len(messages))), dict[int, str]()
        if decoded is None:
            decoded = [_decoded(message, source) for message in messages]
            places = [n for n, row in enumerate(decoded) if isinstance(row, dict)]
            bad = {n: str(row) for n, row in enumerate(decoded) if not isinstance(row, dict)}
            decoded = [decoded[n] for n in places]
        rows, kept = _read(source, list(decoded), places, bad)
        at_us = np.array([messages[n].at_us for n in kept], np.int64)
        letters = None
        if bad:
            chosen = sorted(bad)
            letters = letters_of(
                [_text(messages[n]) for n in chosen],
                [(InvalidRows.code, bad[n]) for n in chosen],
                at_us=self.clock.now_us(),
                origins=[f"{self.stream.name} {messages[n].place}" for n in chosen],
            )
            self.pusher.count_dead(source, InvalidRows.code, len(bad))
        return _Part(rows, at_us, letters, len(bad))

    def _patiently(self, work: Callable[[], Any]) -> Any:
        """The answer, however often it takes; nothing where we are to stop."""
        pause_s = 0.05
        while True:
            try:
                return work()
            except FeatureStoreError as error:
                if not error.retryable:
                    raise
                self.observer.waiting(self.stream.name, error)
            self._watch_lag()
            if self.stop.wait(pause_s):
                raise Stopped(self.stream.name)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _watch_lag(self) -> None:
        now = time.monotonic()
        if now - self._lag_at >= LAG_EVERY_S:
            self._lag_at = now
            # Where the stream is away, somebody waits for it already.
            with suppress(StoreError):
                self._tell_lag()

    def _tell_lag(self) -> int | None:
        lag = self.reader.lag()
        if lag is not None:
            self.observer.lag(self.stream.name, lag)
        return lag


class Stopped(Exception):
    """We were told to stop while something was away; the messages come again."""


@dataclass(frozen=True, slots=True)
class _Part:
    rows: pa.Table
    at_us: Any
    letters: pa.Table | None
    dead: int


@dataclass(frozen=True, slots=True)
class _Batch:
    messages: Sequence[Message]
    source: TypedSource
    part: _Part


def _portions(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages in parts of at most `READ_BYTES_MAX`, or one message."""
    if len(messages) < 2 or bytes_of(messages) <= READ_BYTES_MAX:
        yield from [messages] if messages else []
        return
    half = len(messages) // 2
    yield from _portions(messages[:half])
    yield from _portions(messages[half:])


def _read(
    source: TypedSource, rows: list[Any], places: list[int], bad: dict[int, str]
) -> tuple[pa.Table, list[int]]:
    """The rows as a table, and the places of those that are in it; the others go into `bad`.

    Rows of one shape are read together; where one is wrong, the halves are, down to the row.
    """
    if not rows:
        return read_nothing(source), []
    try:
        return read_rows(source, rows, rows_max=len(rows), from_json=True), places
    except RequestError as error:
        if len(rows) == 1:
            bad[places[0]] = error.message
            return read_nothing(source), []
    half = len(rows) // 2
    first, here = _read(source, rows[:half], places[:half], bad)
    second, there = _read(source, rows[half:], places[half:], bad)
    return pa.concat_tables([first, second]), [*here, *there]


def read_nothing(source: TypedSource) -> pa.Table:
    """A table of the source without rows."""
    return pa.schema([(c.name, to_arrow(c.dtype)) for c in source.columns]).empty_table()


def _all_lines(source: TypedSource, messages: Sequence[Message]) -> pa.Table | None:
    """The rows of all messages, read as columns; None where they have to be read one by one."""
    found = [m.data for m in messages if isinstance(m.data, bytes)]
    table = read_lines(source, found) if len(found) == len(messages) else None
    if table is None:
        return None
    try:
        return read_rows(source, table, rows_max=len(found), from_json=True)
    except RequestError:
        return None


def _all_decoded(messages: Sequence[Message]) -> list[dict[str, Any]] | None:
    """The columns of all messages, read at once; None where one of them is something else.

    Every part begins like an object, so none can be a part of another one: what is left open in one
    makes the whole no JSON, and what is more than one makes it too long.
    """
    from pydantic_core import from_json

    parts = [m.data for m in messages if isinstance(m.data, bytes)]
    if len(parts) < len(messages) or not all(part[:1] == b"{" for part in parts):
        return None
    try:
        found: list[dict[str, Any]] = from_json(b"[%b]" % b",".join(parts), allow_inf_nan=False)
    except ValueError:
        return None
    return found if len(found) == len(messages) else None


def _decoded(message: Message, source: TypedSource) -> dict[str, Any] | str:
    """The columns of a message, or why it has none."""
    data = message.data
    if data is None:
        return "the message is empty"
    if not isinstance(data, bytes):
        return {name: _from_text(text, name, source) for name, text in data.items()}
    from pydantic_core import from_json

    try:
        found = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        return f"the message is not JSON: {error}"
    if not isinstance(found, dict):
        return f"the message is a JSON {type(found).__name__}, not an object"
    return found


def _from_text(text: str, column: str, source: TypedSource) -> Any:
    """A column that came as text: itself where that is what the column holds, else JSON."""
    kinds = {c.name: c.dtype.kind for c in source.columns}
    if kinds.get(column) in (Kind.STRING, Kind.BYTES, Kind.TIMESTAMP, Kind.DATE, Kind.DECIMAL):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _text(message: Message) -> str:
    data = message.data
    if not isinstance(data, bytes):
        text = json.dumps(data, ensure_ascii=False)
        data = text.encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "backslashreplace")


def ingest(
    streams: Sequence[TypedStream],
    pusher: Pusher,
    *,
    group: str,
    clock: Clock,
    observer: IngestObserver,
    stop: threading.Event,
    until_empty: bool = False,
) -> tuple[Ingested, ...]:
    """Run all streams, each in a thread and a consumer group of its own (`group` and the stream's
    name), until `stop` is set (or they are empty). Where one fails
    for good, all end, and its error is raised."""
    with ExitStack() as opened, ThreadPoolExecutor(len(streams), "ingest") as threads:
        opened.callback(stop.set)
        runs = [
            Ingest(
                stream=stream,
                reader=opened.enter_context(open_reader(stream, f"{group}-{stream.name}")),
                pusher=pusher,
                clock=clock,
                observer=observer,
                stop=stop,
            )
            for stream in streams
        ]
        futures = [threads.submit(_run, one, until_empty) for one in runs]
        wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.done() and future.exception() is not None for future in futures):
            stop.set()
        return tuple(future.result() for future in futures)


def _run(one: Ingest, until_empty: bool) -> Ingested:
    try:
        return one.run(until_empty=until_empty)
    except Stopped:
        return Ingested(stream=one.stream.name, messages=one.messages, rows=one.rows, dead=one.dead)

"""Push: rows that are in the online store when the call returns, and offline for ever after.

    validated → write-ahead log (on the disk) → online store → acknowledged
                         │
                         └── drained, a commit per second, → push log, which offline reads take

Whatever is killed in between, the log has the row: the next process that pushes (or materializes)
adopts the file and writes its rows again, which changes nothing where they have been written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import pyarrow as pa

from featurestore.config import PushSettings
from featurestore.errors import FeatureStoreError, InvalidRequest, ServerOverloaded
from featurestore.jobs.push_letters import dead_letters, not_due
from featurestore.jobs.push_rows import pushed_source, read_rows
from featurestore.jobs.push_segments import Segment, Segments
from featurestore.jobs.push_tables import from_log, known_us, to_log, with_arrival
from featurestore.jobs.push_views import Seen, Sink, Views, look
from featurestore.stores.offline import push_log
from featurestore.stores.offline.wal import log_files, read_entries
from featurestore.wire.pushes import Dead, PushResult

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from featurestore.compiler.typed import TypedSource
    from featurestore.jobs.materialize import Context

LOOK_S = 1.0
"""How long what the registry said is believed."""
CATCH_UP_US = 60_000_000
"""How far back rows are written again into an online table that has just appeared."""
RETRY_S = 1.0
"""Pause before rows that the store did not take are tried again."""


class Observer(Protocol):
    """Who counts what happens here."""

    def pushed(self, source: str, rows: int, seconds: float) -> None:
        """Rows were acknowledged."""

    def dead(self, source: str, reason: str, rows: int) -> None:
        """Rows went to the dead letters."""

    def drained(self, rows: int, seconds: float, backlog: int) -> None:
        """The log was drained; so many rows wait now."""

    def failed(self, error: FeatureStoreError) -> None:
        """What was tried beside the pushes failed, and is tried again."""


class Unobserved:
    """Counts nothing."""

    def pushed(self, source: str, rows: int, seconds: float) -> None: ...

    def dead(self, source: str, reason: str, rows: int) -> None: ...

    def drained(self, rows: int, seconds: float, backlog: int) -> None: ...

    def failed(self, error: FeatureStoreError) -> None: ...


class Pusher:
    """Takes rows of the sources of one environment; one per process, for all its threads.

    Beside the pushes a thread drains the log, tries again what the store did not take, and adopts
    what dead processes left. Use as a context manager, or call `close`.

    Args:
        load: makes the context; called again when the environment's definitions move.
        settings: limits, and how often the log is drained.
        observer: who counts.
    """

    def __init__(
        self,
        load: Callable[[], Context],
        settings: PushSettings,
        *,
        observer: Observer | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._load = load
        self._settings = settings
        self._observer = observer or Unobserved()
        self._sleep = sleep
        self._context = load()
        offline = self._context.offline
        if offline is None or offline.wal is None:
            raise InvalidRequest("a push needs an offline folder, and a folder for its log")
        self._offline, self._folder = offline, offline.wal
        self._segments = Segments(self._folder)
        self._views = Views()
        self._seen: Seen | None = None
        self._views_lock = threading.Lock()
        self._looked = float("-inf")
        self._retries: list[_Retry] = []
        self._retries_lock = threading.Lock()
        self._tick_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._committer: threading.Thread | None = None

    def push(self, source: str, rows: object, *, from_json: bool = False) -> PushResult:
        """Take rows of `source`; when this returns they can be read. See `FeatureStore.push`."""
        typed = pushed_source(self._context.repo, source)
        table = read_rows(
            typed, rows, rows_max=self._settings.rows_per_push_max, from_json=from_json
        )
        return self.push_table(typed, table, self._context.clock.now_us())

    def push_table(
        self,
        source: TypedSource,
        rows: pa.Table,
        arrived_us: int | npt.NDArray[np.int64],
        *,
        dead: pa.Table | None = None,
        origin: str = "push",
    ) -> PushResult:
        """Take rows that `read_rows` has read, which arrived at that instant (µs; or one each), and
        `dead` letters along with them."""
        started = time.perf_counter()
        sinks = self._sinks(source)
        self._check_backlog()
        rows = with_arrival(source, rows, arrived_us)
        now_us = self._context.clock.now_us()
        known = known_us(source, rows)
        late_us = now_us + self._settings.clock_skew_ms_max * 1_000
        letters = not_due(known, late_us)
        taken = rows.filter(pa.array(known <= late_us)) if letters else rows
        dead_rows = self._dead(source, rows, letters, origin=origin, more=dead)
        segment = self._log(source, taken, dead_rows)
        refused = self._apply_or_keep(segment, sinks, taken, known[known <= late_us])
        if refused:
            self._bury(source, taken, refused, origin=origin)
        self._observer.pushed(source.name, taken.num_rows, time.perf_counter() - started)
        lost = (*letters, *refused)
        return PushResult(
            source=source.name,
            rows=taken.num_rows - len(refused),
            dead=lost,
            dead_count=len(lost),
            waiting_views=self._views.waiting(source),
        )

    def source(self, name: str) -> TypedSource:
        """A source as it is defined now. Raises `UnknownSource`."""
        return pushed_source(self._context.repo, name)

    def count_dead(self, source: TypedSource, reason: str, rows: int) -> None:
        """Letters that somebody else has written, and pushes along with rows."""
        self._observer.dead(source.name, reason, rows)

    def look_again(self) -> None:
        """The next push sees what the registry says then, not what it said a moment ago."""
        self._looked = float("-inf")

    def prepare(self) -> None:
        """Do now what the first push would have to wait for, and adopt what dead processes left.
        Raises what `recover` does."""
        self._start()
        self.recover()

    def drain(self) -> None:
        """Bring all that was acknowledged into the push log now. Raises what that raises."""
        began = time.perf_counter()
        drained = push_log.drain(self._offline, now_us=self._context.clock.now_us())
        self._segments.tidy(push_log.drained_places(self._offline))
        rows = sum(drained.rows.values())
        if rows:
            self._observer.drained(rows, time.perf_counter() - began, self._segments.backlog())

    def recover(self) -> None:
        """Adopt what dead processes left, and write it where it belongs. Raises what the store and
        the disk raise."""
        self._look_if_due()
        for segment in self._segments.adopt():
            self._retry_later(segment, partial(self._replay, segment))
        self._try_again()
        self.drain()

    def close(self) -> None:
        """Drain what can be drained, and end the thread. What is left over stays in the log."""
        self._closing = True
        self._wake.set()
        if self._committer is not None:
            self._committer.join()
        # Also into a table that appeared a moment ago.
        self.look_again()
        self._tick()
        try:
            drained = push_log.drained_places(self._offline)
        except FeatureStoreError as error:
            self._observer.failed(error)
            drained = {}
        self._segments.close(drained)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one push ---------------------------------------------------------------------------------

    def _sinks(self, source: TypedSource) -> Sequence[Sink]:
        self._look_if_due()
        self._start()
        return self._views.of(source)

    def _check_backlog(self) -> None:
        """A store, or a disk, that falls behind slows those who push."""
        with self._retries_lock:
            waiting = sum(retry.rows for retry in self._retries)
        most = self._settings.backlog_rows_max
        if max(waiting, self._segments.backlog()) >= most:
            self._wake.set()
            raise ServerOverloaded("backlog_rows_max", allowed=most, what="rows that wait")

    def _log(self, source: TypedSource, rows: pa.Table, dead: pa.Table | None) -> Segment:
        records = []
        if rows.num_rows:
            records.append((push_log.rows_table(source.name), to_log(source, rows)))
        if dead is not None:
            records.append((push_log.dead_table(source.name), push_log.encoded(dead)))
        segment = self._segments.append(records, rows.num_rows)
        if self._segments.backlog() >= self._settings.commit_rows_max:
            self._wake.set()
        return segment

    def _apply_or_keep(
        self, segment: Segment, sinks: Sequence[Sink], rows: pa.Table, known: Any
    ) -> tuple[Dead, ...]:
        """Write rows into the store, those that are due first. What it does not take is tried again
        later; the caller is told, since it can't be read yet."""
        try:
            refused = self._apply(sinks, rows, known)
        except FeatureStoreError as error:
            if not error.retryable:
                # It will not get better by itself; materialize reads it from the push log.
                self._segments.done(segment)
                raise
            self._retry_later(segment, lambda: self._write(sinks, rows), rows.num_rows)
            raise
        self._segments.done(segment)
        return refused

    def _apply(self, sinks: Sequence[Sink], rows: pa.Table, known: Any) -> tuple[Dead, ...]:
        now_us = self._context.clock.now_us()
        due = known <= now_us
        if due.all():
            return self._write(sinks, rows)
        refused = self._write(sinks, rows.filter(pa.array(due)), due.nonzero()[0].tolist())
        self._sleep((int(known.max()) - now_us) / 1e6)
        held = ~due
        more = self._write(sinks, rows.filter(pa.array(held)), held.nonzero()[0].tolist())
        return (*refused, *more)

    @staticmethod
    def _write(
        sinks: Sequence[Sink], rows: pa.Table, places: Sequence[int] | None = None
    ) -> tuple[Dead, ...]:
        if not rows.num_rows:
            return ()
        refused = {dead.row: dead for sink in sinks for dead in sink.write(rows)}
        return tuple(
            dead if places is None else dead.at(places[dead.row]) for dead in refused.values()
        )

    def _dead(
        self,
        source: TypedSource,
        rows: pa.Table,
        letters: Sequence[Dead],
        *,
        origin: str,
        more: pa.Table | None = None,
    ) -> pa.Table | None:
        for letter in letters:
            self._observer.dead(source.name, letter.reason, 1)
        tables = [] if more is None else [more]
        if letters:
            at_us = self._context.clock.now_us()
            tables.append(dead_letters(rows, letters, at_us=at_us, origin=origin))
        return pa.concat_tables(tables) if tables else None

    def _bury(
        self, source: TypedSource, rows: pa.Table, refused: Sequence[Dead], *, origin: str
    ) -> None:
        """Rows that were logged and that a view refused: they are dead letters, too."""
        table = self._dead(source, rows, refused, origin=origin)
        if table is not None:
            self._segments.done(self._log(source, rows.slice(0, 0), table))

    # --- beside the pushes ------------------------------------------------------------------------

    def _start(self) -> None:
        if self._committer is None and not self._closing:
            self._committer = threading.Thread(target=self._commit, name="push", daemon=True)
            self._committer.start()

    def _commit(self) -> None:
        interval_s = self._settings.commit_interval_ms / 1_000
        while not self._closing:
            self._wake.wait(interval_s)
            self._wake.clear()
            self._tick()

    def _tick(self) -> None:
        try:
            with self._tick_lock:
                self.recover()
        except FeatureStoreError as error:
            self._observer.failed(error)

    def _look_if_due(self) -> None:
        if time.monotonic() - self._looked > LOOK_S:
            self._look()

    def _look(self) -> None:
        """See what the registry says, and load the definitions where they have moved. Rows of the
        last minute are written into tables that have just appeared."""
        with self._views_lock:
            before, context = self._seen, self._context
            seen = look(context.registry, context.environment)
            if seen != before:
                if before is not None and seen.environment != before.environment:
                    context = self._context = self._load()
                news = self._views.refresh(context)
                for sink in news if before is not None else ():
                    sink.catch_up(context.clock.now_us() - CATCH_UP_US)
                self._seen = seen
            self._looked = time.monotonic()

    def _retry_later(self, segment: Segment, write: Callable[[], object], rows: int = 0) -> None:
        with self._retries_lock:
            self._retries.append(_Retry(segment, write, rows))

    def _try_again(self) -> None:
        with self._retries_lock:
            todo, self._retries = self._retries, []
        for number, retry in enumerate(todo):
            try:
                retry.write()
            except FeatureStoreError as error:
                if error.retryable:
                    with self._retries_lock:
                        self._retries = [*todo[number:], *self._retries]
                    raise
                self._observer.failed(error)
            self._segments.done(retry.segment)

    def _replay(self, segment: Segment) -> None:
        """Write the rows of an adopted file; those that were written before change nothing."""
        sources = self._context.repo.sources
        for entry in read_entries(segment.writer.path):
            kind, _, name = entry.table.partition("/")
            source = sources.get(name)
            if kind != push_log.ROWS or source is None:
                continue  # dead letters; or a source that is gone, whose rows are in the push log
            rows = from_log(source, entry.data)
            self._apply(self._views.of(source), rows, known_us(source, rows))


def recover(context: Context) -> None:
    """Write what processes that are gone had logged and perhaps not written; see `Pusher`."""
    offline = context.offline
    if offline is not None and offline.wal is not None and log_files(offline.wal):
        with Pusher(lambda: context, PushSettings()) as pusher:
            pusher.recover()


@dataclass(frozen=True, slots=True)
class _Retry:
    """What the store did not take."""

    segment: Segment
    write: Callable[[], object]
    rows: int

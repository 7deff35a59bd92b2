"""The metric points of one run on their way to the registry.

`put` is a check and an append; a thread writes what has come every `FLUSH_S`, and says at least
every `BEAT_S` that the run lives. Nothing is dropped: while the registry is away points stay here,
in order, and whoever logs more than `POINTS_HELD_MAX` of them waits. A batch keeps its number until
it is written, so that one whose answer was lost counts once.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError, ServerOverloaded
from featurestore.stores.registry.run_words import PointRow

if TYPE_CHECKING:
    from featurestore.stores.registry.runs import RunKey, RunTables
    from featurestore.timeline import Clock

FLUSH_S = 0.5
"""What was logged longer ago survives the process."""
BEAT_S = 5.0
POINTS_HELD_MAX = 500_000
POINTS_PER_BATCH = 50_000
WAIT_S_MAX = 60.0
"""How long whoever logs, or ends a run, waits for a registry that is away."""
RETRY_S = 0.25


class RunBuffer:
    """Between those who log, from any thread, and the registry. `close` writes the rest."""

    def __init__(self, tables: RunTables, key: RunKey, clock: Clock) -> None:
        self._tables, self._key, self._clock = tables, key, clock
        self._forked = False
        self._begin()

    def _begin(self) -> None:
        """Also in a forked child, which has none of its parent's threads, and must not write the
        parent's points again."""
        self._points: deque[PointRow] = deque()
        self._batch: list[PointRow] = []
        self._number = 0
        self._writer = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._refused: FeatureStoreError | None = None
        self._heard_s = time.monotonic()

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self._begin()
        self._forked = True

    def put(self, point: PointRow) -> None:
        """Take a point. Raises what the registry said to earlier ones that it refused, and
        `ServerOverloaded` where it has been away for too long."""
        points = self._points
        points.append(point)
        if self._thread is None:
            self.start()
        if len(points) > POINTS_HELD_MAX or self._refused is not None:
            self._hold()

    def start(self) -> None:
        """Begin to write and to say that the run lives."""
        with self._lock:
            if self._thread is None and not self._closing:
                name = f"featurestore run {self._key.run}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
                if self._forked and "multiprocessing.util" in sys.modules:
                    _close_with_child(self)

    def flush(self) -> None:
        """Write all that was put until now. Raises as `put` does; the points stay."""
        give_up = time.monotonic() + WAIT_S_MAX
        while not self._flushed():
            if time.monotonic() >= give_up:
                raise self._overloaded()
            time.sleep(RETRY_S)

    def close(self) -> None:
        """Write the rest and stop. Raises as `flush` does."""
        with self._lock:
            self._closing = True
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None:
            thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._wake.wait(FLUSH_S):
            if self._flushed() and time.monotonic() - self._heard_s >= BEAT_S:
                self._beat()

    def _flushed(self) -> bool:
        """Write batch by batch until nothing is left; False where the registry is away."""
        with self._lock:
            while self._batch or self._points:
                if not self._batch:
                    count = min(len(self._points), POINTS_PER_BATCH)
                    self._batch = [self._points.popleft() for _ in range(count)]
                    self._number += 1
                if not self._written():
                    return False
            return True

    def _written(self) -> bool:
        try:
            self._tables.log_points(
                self._key, self._writer, self._number, self._batch, now_us=self._clock.now_us()
            )
        except FeatureStoreError as error:
            if error.retryable:
                return False
            # It will never be taken; whoever logs or ends the run is told.
            self._refused = error
        self._batch = []
        self._heard_s = time.monotonic()
        return True

    def _beat(self) -> None:
        try:
            self._tables.beat(self._key, self._clock.now_us())
        except FeatureStoreError as error:
            if not error.retryable:
                self._refused = error
        self._heard_s = time.monotonic()

    def _hold(self) -> None:
        """Wait until there is room."""
        give_up = time.monotonic() + WAIT_S_MAX
        while len(self._points) > POINTS_HELD_MAX and self._refused is None:
            if time.monotonic() >= give_up:
                raise self._overloaded()
            time.sleep(RETRY_S / 25)
        self.check()

    def check(self) -> None:
        """Raises what the registry said to points that it refused."""
        if (refused := self._refused) is not None:
            self._refused = None
            raise refused

    def _overloaded(self) -> ServerOverloaded:
        return ServerOverloaded(
            "POINTS_HELD_MAX", allowed=POINTS_HELD_MAX, what="metric points that wait for it"
        )


def _close_with_child(buffer: RunBuffer) -> None:
    """Children of multiprocessing leave without `atexit`; they have this instead, and forget what
    was registered before they began."""
    from multiprocessing.util import Finalize

    Finalize(buffer, buffer.close, exitpriority=10)

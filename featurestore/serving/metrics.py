"""What a server counts, in Prometheus' words.

With several workers every process writes its own memory-mapped files below
`PROMETHEUS_MULTIPROC_DIR` (set by the supervisor before they start), and whichever worker is asked
for `/metrics` adds them all up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
    multiprocess,
)

from featurestore.serving.push_metrics import PushMetrics
from featurestore.serving.tallies import BatchedHistogram, HistogramTally
from featurestore.statuses import Status

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
_LATENCY_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_KEYS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
FLUSH_S = 0.2
"""By how much the counts of the other workers may lag behind."""
_PATTERN_BYTES_MAX, _PATTERNS_MAX = 64, 1_000
"""Answers of few statuses are counted by their statuses as a whole, of so many kinds at a time."""


class Metrics:
    """The counters of one process. Creating a second set in one process is fine."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.push = PushMetrics(registry)
        self._requests = Counter(
            "featurestore_requests",
            "Requests answered, by door (grpc, http) and status code",
            ["door", "code"],
            registry=registry,
        )
        self._seconds = BatchedHistogram(
            "featurestore_request_seconds",
            "Time from a request's arrival to its answer",
            ["door"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._shed = Counter(
            "featurestore_requests_shed",
            "Requests turned away unread because the server was busy, by door",
            ["door"],
            registry=registry,
        )
        self._store_seconds = BatchedHistogram(
            "featurestore_store_seconds",
            "Time that the online store took per request",
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._keys = BatchedHistogram(
            "featurestore_request_keys",
            "Entity keys per request",
            buckets=_KEYS,
            registry=registry,
        )
        self._statuses = Counter(
            "featurestore_view_statuses",
            "Rows looked up, by view and status",
            ["view", "status"],
            registry=registry,
        )
        self._lost = Counter(
            "featurestore_on_demand_nulls",
            "Values of on-demand views that are NULL for want of a result (undefined: ÷ 0, "
            "overflow) or because a Python function failed (failed), by view",
            ["view", "reason"],
            registry=registry,
        )
        self._reloads = Counter(
            "featurestore_plan_reloads",
            "Serving plans loaded after an alias moved, and attempts that failed",
            ["result"],
            registry=registry,
        )
        self._plans = Gauge(
            "featurestore_plans",
            "Feature services served",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._told = Counter(
            "featurestore_online_uses",
            "Last uses of services and views told to the registry, and those that it did not take",
            ["result"],
            registry=registry,
        )
        self._ready = Gauge(
            "featurestore_ready",
            "1 while the online store answers and the server is not draining",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._request_of: dict[tuple[str, str], Counter] = {}
        self._status_of: dict[str, list[tuple[int, Counter]]] = {}
        self._latency = {
            door: HistogramTally(self._seconds.labels(door), _LATENCY_S)
            for door in ("grpc", "http")
        }
        self._store_latency = HistogramTally(self._store_seconds, _LATENCY_S)
        self._key_counts = HistogramTally(self._keys, _KEYS)
        self._answered: dict[tuple[str, str], int] = {}
        self._patterns: dict[tuple[tuple[str, ...], bytes], int] = {}

    def request(self, door: str, code: str, seconds: float) -> None:
        """One request was answered with `code` after `seconds`."""
        answered = self._answered
        answered[door, code] = answered.get((door, code), 0) + 1
        self._latency[door].observe(seconds)

    def shed(self, door: str) -> None:
        """A request was turned away because the server was busy."""
        self._shed.labels(door).inc()

    def lookup(self, views: tuple[str, ...], statuses: bytes, count: int, seconds: float) -> None:
        """`count` entities were looked up, in `seconds` of the store's time; `statuses` has a byte
        per entity × view, entity by entity."""
        self._store_latency.observe(seconds)
        self._key_counts.observe(count)
        if len(statuses) > _PATTERN_BYTES_MAX:
            self._add_statuses(views, statuses, 1)
            return
        patterns = self._patterns
        patterns[views, statuses] = patterns.get((views, statuses), 0) + 1
        if len(patterns) >= _PATTERNS_MAX:
            self._flush_patterns()

    def lost(self, lost: Mapping[str, tuple[int, int]]) -> None:
        """By view, values that are NULL for want of a result, and because a function failed."""
        for view, (undefined, failed) in lost.items():
            self._lost.labels(view, "undefined").inc(undefined)
            self._lost.labels(view, "failed").inc(failed)

    def flush(self) -> None:
        """Add to the metrics what was counted since the last time."""
        for tally in (*self._latency.values(), self._store_latency, self._key_counts):
            tally.flush()
        answered, self._answered = self._answered, {}
        for (door, code), count in answered.items():
            child = self._request_of.get((door, code))
            if child is None:
                child = self._request_of[door, code] = self._requests.labels(door, code)
            child.inc(count)
        self._flush_patterns()

    async def keep_flushing(self) -> None:
        """Flush for ever, for the other workers' expositions; cancel to stop."""
        while True:
            await asyncio.sleep(FLUSH_S)
            self.flush()

    def _flush_patterns(self) -> None:
        patterns, self._patterns = self._patterns, {}
        for (views, statuses), times in patterns.items():
            self._add_statuses(views, statuses, times)

    def _add_statuses(self, views: tuple[str, ...], statuses: bytes, times: int) -> None:
        for index, view in enumerate(views):
            own = statuses[index :: len(views)]
            for status, child in self._children(view):
                if found := own.count(status):
                    child.inc(found * times)

    def reloaded(self, changed: int, failed: int, served: int) -> None:
        """A look at the serving aliases found `changed` plans and could not load `failed`."""
        if changed:
            self._reloads.labels("loaded").inc(changed)
        if failed:
            self._reloads.labels("failed").inc(failed)
        self._plans.set(served)

    def uses_told(self, count: int, *, failed: bool) -> None:
        """The registry was told of `count` last uses, or could not be."""
        self._told.labels("failed" if failed else "noted").inc(count)

    def ready(self, ready: bool) -> None:
        """Whether this process takes requests."""
        self._ready.set(int(ready))

    def exposition(self) -> tuple[bytes, str]:
        """The text for Prometheus, of all workers together, and its content type."""
        self.flush()
        registry = self._registry
        if os.environ.get(MULTIPROCESS_DIR):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def _children(self, view: str) -> list[tuple[int, Counter]]:
        children = self._status_of.get(view)
        if children is None:
            children = [(int(s), self._statuses.labels(view, s.name)) for s in Status]
            self._status_of[view] = children
        return children


def forget_process(pid: int, folder: str) -> None:
    """Drop the gauges of a worker that ended; what it counted stays in the sums."""
    multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]

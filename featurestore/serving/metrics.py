"""What a server counts, in Prometheus' words.

With several workers every process writes its own memory-mapped files below
`PROMETHEUS_MULTIPROC_DIR` (set by the supervisor before they start), and whichever worker is asked
for `/metrics` adds them all up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from featurestore.statuses import Status

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
_LATENCY_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_KEYS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)


class Metrics:
    """The counters of one process. Creating a second set in one process is fine."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "featurestore_requests",
            "Requests answered, by door (grpc, http) and status code",
            ["door", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
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
        self._store_seconds = Histogram(
            "featurestore_store_seconds",
            "Time that the online store took per request",
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._keys = Histogram(
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
        self._ready = Gauge(
            "featurestore_ready",
            "1 while the online store answers and the server is not draining",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._latency_of = {door: self._seconds.labels(door) for door in ("grpc", "http")}
        self._request_of: dict[tuple[str, str], Counter] = {}
        self._status_of: dict[str, list[tuple[int, Counter]]] = {}

    def request(self, door: str, code: str, seconds: float) -> None:
        """One request was answered with `code` after `seconds`."""
        child = self._request_of.get((door, code))
        if child is None:
            child = self._request_of[door, code] = self._requests.labels(door, code)
        child.inc()
        self._latency_of[door].observe(seconds)

    def shed(self, door: str) -> None:
        """A request was turned away because the server was busy."""
        self._shed.labels(door).inc()

    def lookup(self, views: Iterable[str], statuses: bytes, count: int, seconds: float) -> None:
        """`count` entities were looked up, in `seconds` of the store's time; `statuses` has a byte
        per entity × view, entity by entity."""
        self._store_seconds.observe(seconds)
        self._keys.observe(count)
        views = tuple(views)
        for index, view in enumerate(views):
            own = statuses[index :: len(views)]
            for status, child in self._children(view):
                if found := own.count(status):
                    child.inc(found)

    def reloaded(self, changed: int, failed: int, served: int) -> None:
        """A look at the serving aliases found `changed` plans and could not load `failed`."""
        if changed:
            self._reloads.labels("loaded").inc(changed)
        if failed:
            self._reloads.labels("failed").inc(failed)
        self._plans.set(served)

    def ready(self, ready: bool) -> None:
        """Whether this process takes requests."""
        self._ready.set(int(ready))

    def exposition(self) -> tuple[bytes, str]:
        """The text for Prometheus, of all workers together, and its content type."""
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

"""What is counted of pushes, in Prometheus' words; the `Observer` of servers and of `ingest`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from featurestore.serving.logs import logger

if TYPE_CHECKING:
    from featurestore.errors import FeatureStoreError

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class PushMetrics:
    """Counts pushes, dead letters and drains. Safe in several threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = Counter(
            "featurestore_pushed_rows",
            "Rows that were pushed and acknowledged, by source",
            ["source"],
            registry=registry,
        )
        self._seconds = Histogram(
            "featurestore_push_seconds",
            "Time from a push's arrival until its rows could be read",
            ["source"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._dead = Counter(
            "featurestore_dead_letters",
            "Rows that could not be taken, by source and reason",
            ["source", "reason"],
            registry=registry,
        )
        self._drained = Counter(
            "featurestore_push_log_rows", "Rows drained into the push log", registry=registry
        )
        self._drain_seconds = Histogram(
            "featurestore_push_drain_seconds",
            "Time that a drain of the write-ahead log took",
            buckets=_SECONDS,
            registry=registry,
        )
        self._backlog = Gauge(
            "featurestore_push_backlog_rows",
            "Rows that wait for the push log",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._ready = Gauge(
            "featurestore_push_ready",
            "1 when what pushes need is open: the first one is as quick as the next",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._failures = Counter(
            "featurestore_push_failures",
            "Drains and later attempts to write that failed, by code",
            ["code"],
            registry=registry,
        )

    def opened(self) -> None:
        """What pushes need is open."""
        self._ready.set(1)

    def pushed(self, source: str, rows: int, seconds: float) -> None:
        """Rows were acknowledged."""
        self._rows.labels(source).inc(rows)
        self._seconds.labels(source).observe(seconds)

    def dead(self, source: str, reason: str, rows: int) -> None:
        """Rows went to the dead letters."""
        self._dead.labels(source, reason).inc(rows)
        logger().warning("dead letters", source=source, reason=reason, rows=rows)

    def drained(self, rows: int, seconds: float, backlog: int) -> None:
        """The log was drained; so many rows wait now."""
        self._drained.inc(rows)
        self._drain_seconds.observe(seconds)
        self._backlog.set(backlog)

    def failed(self, error: FeatureStoreError) -> None:
        """What was tried beside the pushes failed, and is tried again."""
        self._failures.labels(error.code).inc()
        logger().error("push log behind", code=error.code, reason=str(error))

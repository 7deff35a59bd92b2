"""What `featurestore ingest` counts, in Prometheus' words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from featurestore.errors import AddressUnavailable
from featurestore.serving.addresses import parse_address
from featurestore.serving.logs import logger
from featurestore.serving.push_metrics import PushMetrics

if TYPE_CHECKING:
    from featurestore.errors import FeatureStoreError


class IngestMetrics:
    """Counts what streams bring; `push` counts what is pushed of it. Safe in several threads."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.push = PushMetrics(registry)
        self._messages = Counter(
            "featurestore_stream_messages",
            "Messages taken from streams and acknowledged, by stream",
            ["stream"],
            registry=registry,
        )
        self._lag = Gauge(
            "featurestore_stream_lag_messages",
            "Messages that are not acknowledged, by stream",
            ["stream"],
            registry=registry,
        )
        self._lag_seconds = Gauge(
            "featurestore_stream_lag_seconds",
            "Age of the newest message of the last batch when it was acknowledged, by stream",
            ["stream"],
            registry=registry,
        )
        self._waits = Counter(
            "featurestore_stream_waits",
            "How often a stream, the store or the disk was waited for, by stream and code",
            ["stream", "code"],
            registry=registry,
        )

    def serve(self, address: str) -> None:
        """Answer `/metrics` on `host:port`. Raises `AddressUnavailable`, `InvalidSettings`."""
        at = parse_address(address, key="metrics")
        if at is None:
            return
        try:
            start_http_server(at.port, at.host, registry=self._registry)
        except OSError as error:
            raise AddressUnavailable(f"cannot listen on {address}: {error.strerror}") from error

    def read(self, stream: str, messages: int, newest_us: int) -> None:
        """Messages were taken; the newest is of that instant."""
        self._messages.labels(stream).inc(messages)
        self._lag_seconds.labels(stream).set(max(0.0, time.time() - newest_us / 1e6))

    def lag(self, stream: str, messages: int) -> None:
        """So many messages are not acknowledged."""
        self._lag.labels(stream).set(messages)

    def waiting(self, stream: str, error: FeatureStoreError) -> None:
        """The stream, the store or the disk is away; it is tried again."""
        self._waits.labels(stream, error.code).inc()
        logger().warning("stream waits", stream=stream, code=error.code, reason=str(error))

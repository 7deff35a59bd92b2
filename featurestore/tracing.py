"""OpenTelemetry traces (extra `otel`): what took how long, in the server and in jobs, sent over
OTLP/HTTP to a collector. Where `tracing.otlp_endpoint` is empty nothing of this is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError, InvalidSettings

if TYPE_CHECKING:
    from featurestore.config import TracingSettings

Attributes = Mapping[str, str | int | float | bool]
CARRIED = ("traceparent", "tracestate")
"""The headers (W3C Trace Context) by which a caller says whose child a request is."""
REQUEST_KEY = "featurestore.request_id"
"""The attribute that leads from a trace to the log."""
_EXPORT_TIMEOUT_S = 5


class Tracing:
    """Makes spans and sends them from a thread of its own; whoever made it closes it. Spans that
    the collector does not take in time are lost; nobody waits for them."""

    def __init__(self, settings: TracingSettings, *, service: str, attributes: Attributes) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service, **attributes}),
            sampler=ParentBasedTraceIdRatio(settings.sample_percent / 100),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("featurestore")
        self._carried = TraceContextTextMapPropagator()

    @contextmanager
    def request(
        self, name: str, carrier: Mapping[str, str], attributes: Attributes
    ) -> Iterator[None]:
        """A span of kind SERVER, child of the caller's; what is done within are its children.
        Whoever answers says how it ended (`ended`)."""
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            name,
            context=self._carried.extract(carrier) if carrier else None,
            kind=SpanKind.SERVER,
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ):
            yield

    def ended(self, attributes: Attributes, *, failed: str = "") -> None:
        """How the current span ends: more attributes, and our code where it failed."""
        from opentelemetry.trace import Status, StatusCode, get_current_span

        span = get_current_span()
        span.set_attributes(dict(attributes))
        if failed:
            span.set_attribute("error.type", failed)
            span.set_status(Status(StatusCode.ERROR))

    @contextmanager
    def job(self, name: str, attributes: Attributes) -> Iterator[None]:
        """A span of a job; one of our errors ends it as failed."""
        with self._tracer.start_as_current_span(
            name, attributes=dict(attributes), record_exception=False
        ):
            try:
                yield
            except FeatureStoreError as error:
                self.ended({}, failed=error.code)
                raise

    def step(self, name: str, began_ns: int, ended_ns: int, attributes: Attributes) -> None:
        """A span that is over, child of the current one; instants as of `time.time_ns`."""
        span = self._tracer.start_span(name, start_time=began_ns, attributes=dict(attributes))
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._provider.shutdown()


def open_tracing(
    settings: TracingSettings, *, service: str, attributes: Attributes
) -> Tracing | None:
    """Tracing by the settings, or None where they name no endpoint.

    Raises `InvalidSettings` where the extra is not installed or the endpoint is no URL.
    """
    if not settings.otlp_endpoint:
        return None
    if not settings.otlp_endpoint.startswith(("http://", "https://")):
        raise InvalidSettings(
            f"[tracing] otlp_endpoint = {settings.otlp_endpoint!r}: write http://host:4318"
        )
    try:
        return Tracing(settings, service=service, attributes=attributes)
    except ModuleNotFoundError as error:
        raise InvalidSettings(
            f"[tracing] otlp_endpoint needs the package {error.name!r}: "
            "pip install 'featurestore[otel]'"
        ) from error


def job_span(
    tracing: Tracing | None, name: str, attributes: Attributes
) -> AbstractContextManager[None]:
    """The span of a job, or nothing."""
    return nullcontext() if tracing is None else tracing.job(name, attributes)


def now_ns() -> int:
    """The instant at which a step begins or ends."""
    return time.time_ns()

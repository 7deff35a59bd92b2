"""Telling others what happened, in OpenLineage's words: to a file of one JSON event per line, or
to an HTTP endpoint (Marquez, DataHub, …).

What is told never stops what was done: a failure is logged and counted, and the rest of that job's
events are given up, so that an endpoint that is away costs one time-out per job.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from featurestore.errors import FeatureStoreError, InvalidSettings
from featurestore.lifecycle.openlineage import Dataset, Event, Reading
from featurestore.masking import mask, mask_url
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent
    from openlineage.client.transport.transport import Transport

ENDPOINT = "api/v1/lineage"
"""Where an endpoint listens whose URL has no path."""
TIMEOUT_S = 5.0
RETRIES = 1
PRODUCER = "https://pypi.org/project/featurestore"

_log = logging.getLogger("featurestore.openlineage")


@dataclass(slots=True)
class Tally:
    """Events of this process that arrived, and those that did not."""

    sent: int = 0
    failed: int = 0


class OpenLineage:
    """Sends events to one place. `tally` counts them."""

    def __init__(self, transport: Transport, shown: str) -> None:
        self._transport = transport
        self._shown = shown
        self.tally = Tally()

    @classmethod
    def open(cls, target: str, *, token: str, root: Path) -> OpenLineage:
        """To `file:PATH` (relative to `root`) or `http(s)://…`. Raises `InvalidSettings` for any
        other target, and where the package is not installed."""
        try:
            return cls(_transport(target, token, root), mask_url(target))
        except ModuleNotFoundError as error:
            raise InvalidSettings(
                f"[lineage] openlineage needs the package {error.name!r}: "
                "pip install 'featurestore[openlineage]'"
            ) from error

    @contextmanager
    def telling(self, job: str) -> Iterator[list[Event]]:
        """A list to be filled with the events of `job`, sent at the end of the block. What goes
        wrong while they are made or sent is logged and counted, never raised."""
        events, failed = list[Event](), self.tally.failed
        try:
            yield events
            self.send(events)
        # A RuntimeError is what the library makes of a file that can't be written.
        except (FeatureStoreError, OSError, ValueError, LookupError, RuntimeError) as error:
            # Events that could not even be made count as one.
            self.tally.failed += self.tally.failed == failed
            self._note(job, error)

    def send(self, events: Sequence[Event]) -> None:
        """Send in order. Raises what the transport does at the first that fails; that one and the
        rest have failed then."""
        sent = 0
        try:
            for event in events:
                self._transport.emit(told(event))
                sent += 1
        finally:
            self.tally.sent += sent
            self.tally.failed += len(events) - sent

    def close(self) -> None:
        """Close connections."""
        self._transport.close()

    def _note(self, job: str, error: BaseException) -> None:
        text = mask(f"{type(error).__name__}: {error}").splitlines()[0]
        _log.warning("OpenLineage was not told of %s at %s: %s", job, self._shown, text)


def _transport(target: str, token: str, root: Path) -> Transport:
    parts = urlsplit(target)
    if parts.scheme == "file" and parts.path:
        from openlineage.client.transport.file import FileConfig, FileTransport

        path = (root / parts.path).resolve()
        return FileTransport(FileConfig(log_file_path=str(path), append=True))
    if parts.scheme in ("http", "https") and parts.netloc:
        from openlineage.client.transport.http import HttpConfig, HttpTransport

        endpoint = parts.path.strip("/") or ENDPOINT
        return HttpTransport(
            HttpConfig.from_dict(
                {
                    "url": f"{parts.scheme}://{parts.netloc}",
                    "endpoint": f"{endpoint}?{parts.query}" if parts.query else endpoint,
                    "timeout": TIMEOUT_S,
                    "auth": {"type": "api_key", "apiKey": token} if token else {},
                    "retry": {"total": RETRIES, "connect": RETRIES, "read": RETRIES},
                }
            )
        )
    raise InvalidSettings(
        f"[lineage] openlineage must be file:PATH or http(s)://HOST:PORT, not {mask_url(target)!r}"
    )


def told(event: Event) -> RunEvent:
    """An event as the library's classes, which check it."""
    from openlineage.client import event_v2, facet_v2

    facets: dict[str, Any] = {}
    if event.query:
        facets["sql"] = facet_v2.sql_job.SQLJobFacet(query=event.query, producer=PRODUCER)
    return event_v2.RunEvent(
        eventType=event_v2.RunState[event.state],
        eventTime=format_instant(event.at_us),
        run=event_v2.Run(runId=event.run_id),
        job=event_v2.Job(namespace=event.namespace, name=event.job, facets=facets),
        inputs=[
            event_v2.InputDataset(namespace=d.namespace, name=d.name, facets=_facets(d))
            for d in event.inputs
        ],
        outputs=[
            event_v2.OutputDataset(
                namespace=d.namespace, name=d.name, facets=_facets(d), outputFacets=_counted(d)
            )
            for d in event.outputs
        ],
        producer=PRODUCER,
    )


def _facets(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client import facet_v2

    schema, source = facet_v2.schema_dataset, facet_v2.datasource_dataset
    lineage = facet_v2.column_lineage_dataset
    found: dict[str, Any] = {}
    if dataset.columns:
        fields = [
            schema.SchemaDatasetFacetFields(name=c.name, type=c.dtype or None)
            for c in dataset.columns
        ]
        found["schema"] = schema.SchemaDatasetFacet(fields=fields, producer=PRODUCER)
    if dataset.uri:
        found["dataSource"] = source.DatasourceDatasetFacet(
            name=dataset.namespace, uri=dataset.uri, producer=PRODUCER
        )
    told_of = {c.name: c.readings for c in dataset.columns if c.readings}
    if told_of or dataset.readings:
        found["columnLineage"] = lineage.ColumnLineageDatasetFacet(
            fields={
                name: lineage.Fields(inputFields=_inputs(readings))
                for name, readings in told_of.items()
            },
            dataset=_inputs(dataset.readings),
            producer=PRODUCER,
        )
    return found


def _inputs(readings: Iterable[Reading]) -> list[Any]:
    """Each column once, with all ways in which it enters."""
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage

    ways: dict[tuple[str, str, str], list[Any]] = {}
    for r in readings:
        way = lineage.Transformation(type=r.transformation, subtype=r.subtype)
        known = ways.setdefault((r.namespace, r.dataset, r.column), [])
        if way not in known:
            known.append(way)
    return [
        lineage.InputField(namespace=namespace, name=name, field=column, transformations=found)
        for (namespace, name, column), found in ways.items()
    ]


def _counted(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    if dataset.rows is None:
        return {}
    facet = statistics.OutputStatisticsOutputDatasetFacet(rowCount=dataset.rows, producer=PRODUCER)
    return {"outputStatistics": facet}

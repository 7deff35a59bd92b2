"""`featurestore ingest`: the streams of a repository into its stores, counted."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from featurestore.errors import InvalidRequest, UnknownSource
from featurestore.jobs.ingest import Ingested, ingest
from featurestore.jobs.project import load_repo
from featurestore.jobs.push import Pusher
from featurestore.serving.ingest_metrics import IngestMetrics

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo, TypedStream
    from featurestore.config import Settings
    from featurestore.jobs.materialize import Context


def streams_of(repo: TypedRepo, sources: Sequence[str] | None) -> list[TypedStream]:
    """The streams that feed these sources. Raises `UnknownSource`, `InvalidRequest`."""
    for name in sources or ():
        if name not in repo.sources:
            raise UnknownSource(name, known=repo.sources)
    wanted = None if sources is None else set(sources)
    found = [s for s in repo.streams.values() if wanted is None or s.source in wanted]
    without = (wanted or set()) - {stream.source for stream in found}
    if without or not found:
        named = ", ".join(sorted(without)) or "any source"
        raise InvalidRequest(f"no StreamSource feeds {named}; define one in the repository")
    return found


def run(
    streams: Sequence[TypedStream],
    context: Context,
    settings: Settings,
    *,
    stop: threading.Event | None = None,
    until_empty: bool = False,
    metrics: IngestMetrics | None = None,
) -> tuple[Ingested, ...]:
    """Take messages until told to stop. All that was acknowledged is drained when it returns."""
    counted, project = metrics or IngestMetrics(), settings.project
    contexts = iter([context])

    def load() -> Context:
        """The context we were given; later, with the definitions as they are then."""
        first = next(contexts, None)
        return first or replace(context, repo=load_repo(settings, context.engine))

    with Pusher(load, settings.push, observer=counted.push) as pusher:
        return ingest(
            streams,
            pusher,
            group=f"featurestore-{project.name}-{project.environment}",
            clock=context.clock,
            observer=counted,
            stop=stop or threading.Event(),
            until_empty=until_empty,
        )

"""What in a source's rows takes no part, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurestore.compiler.rel import Sql
from featurestore.compiler.scans import Files, source_rel
from featurestore.compiler.typed import TypedRepo, TypedView, ViewUse
from featurestore.dtypes import INT64
from featurestore.engines.base import Engine
from featurestore.engines.sql import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """Rows of a view's source. Those with a NULL event time or a NULL key are skipped; a NULL
    created time counts as the event time."""

    view: str
    source: str
    rows: int
    null_event_times: int
    null_keys: int
    null_created_times: int


def report_sources(
    uses: Sequence[ViewUse], *, repo: TypedRepo, files: Files, engine: Engine
) -> tuple[SourceReport, ...]:
    """One report for each view, in the order of use."""
    views = {use.view.name: use.view for use in uses}
    return tuple(_report(view, repo, files, engine) for view in views.values())


def _report(view: TypedView, repo: TypedRepo, files: Files, engine: Engine) -> SourceReport:
    source = view.source
    key_is_null = " OR ".join(f"{quote(key.name)} IS NULL" for key in view.keys) or "false"
    created = f"{quote(source.created_time)} IS NULL" if source.created_time else "false"
    counts = {
        "null_event_times": f"{quote(source.event_time)} IS NULL",
        "null_keys": key_is_null,
        "null_created_times": created,
    }
    items = [f"count(*) FILTER ({condition}) AS {name}" for name, condition in counts.items()]
    rel = Sql(
        query=f"SELECT count(*) AS rows, {', '.join(items)} FROM source",
        inputs={"source": source_rel(source, repo, files)},
        dtypes=dict.fromkeys(["rows", *counts], INT64),
    )
    (row,) = engine.stream(rel).read_all().to_pylist()
    return SourceReport(view=view.name, source=source.name, **row)

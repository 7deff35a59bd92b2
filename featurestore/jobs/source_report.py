"""What in a source's rows takes no part, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from featurestore.compiler.rel import Derive, Project, Sql
from featurestore.compiler.scans import Files, source_rel, undefined_conditions
from featurestore.compiler.typed import TypedRepo, TypedView, ViewUse
from featurestore.dtypes import BOOL, INT64
from featurestore.engines.base import Engine
from featurestore.engines.sql import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """Rows of a view's source. Those with a NULL event time or a NULL key are `skipped`; a NULL
    created time counts as the event time. `undefined_values` are, by feature, the rows in which its
    value is NULL for want of a result (a division by zero, an overflow); features that always have
    one are left out."""

    view: str
    source: str
    rows: int
    null_event_times: int
    null_keys: int
    null_created_times: int
    skipped: int
    undefined_values: Mapping[str, int] = field(default_factory=dict)


class NullCreatedTimeWarning(UserWarning):
    """Rows whose source does not say when it knew them; they count as known when they happened."""


def report_sources(
    uses: Sequence[ViewUse], *, repo: TypedRepo, files: Files, engine: Engine
) -> tuple[SourceReport, ...]:
    """One report for each view, in the order of use."""
    views = {use.view.name: use.view for use in uses}
    reports = []
    for view in views.values():
        report = report_source(view, repo, files, engine)
        counts = _undefined_values(view, repo, files, engine)
        reports.append(replace(report, undefined_values=counts))
    return tuple(reports)


def _undefined_values(
    view: TypedView, repo: TypedRepo, files: Files, engine: Engine
) -> dict[str, int]:
    conditions = undefined_conditions(view)
    if not conditions:
        return {}
    # Numbered, so that no feature's name meets one of the source's columns.
    columns = {f"u{n}": (found, BOOL) for n, found in enumerate(conditions.values())}
    rows = Derive(input=source_rel(view.source, repo, files), columns=columns)
    items = [f"count(*) FILTER ({name}) AS {name}" for name in columns]
    rel = Sql(
        query=f"SELECT {', '.join(items)} FROM source",
        inputs={"source": Project(input=rows, columns={name: name for name in columns})},
        dtypes=dict.fromkeys(columns, INT64),
    )
    (row,) = engine.stream(rel).read_all().to_pylist()
    return {name: row[f"u{n}"] for n, name in enumerate(conditions)}


def report_source(view: TypedView, repo: TypedRepo, files: Files, engine: Engine) -> SourceReport:
    """What takes no part in the rows of one view."""
    source = view.source
    key_is_null = " OR ".join(f"{quote(key.name)} IS NULL" for key in view.keys) or "false"
    created = f"{quote(source.created_time)} IS NULL" if source.created_time else "false"
    event_is_null = f"{quote(source.event_time)} IS NULL"
    counts = {
        "null_event_times": event_is_null,
        "null_keys": key_is_null,
        "null_created_times": created,
        "skipped": f"{event_is_null} OR {key_is_null}",
    }
    items = [f"count(*) FILTER ({condition}) AS {name}" for name, condition in counts.items()]
    rel = Sql(
        query=f"SELECT count(*) AS rows, {', '.join(items)} FROM source",
        inputs={"source": source_rel(source, repo, files)},
        dtypes=dict.fromkeys(["rows", *counts], INT64),
    )
    (row,) = engine.stream(rel).read_all().to_pylist()
    return SourceReport(view=view.name, source=source.name, **row)

"""What in a source's rows takes no part, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US, Derive, Project, Sql
from featurestore.compiler.scans import Files, source_rel, undefined_conditions, view_rel
from featurestore.compiler.typed import TypedRepo, TypedView, ViewUse
from featurestore.compiler.window_inputs import version_order
from featurestore.dtypes import BOOL, INT64
from featurestore.engines.base import Engine
from featurestore.engines.sql import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """Rows of a view's source. Those with a NULL event time or a NULL key are `skipped`; a NULL
    created time counts as the event time. `undefined_values` are, by feature, the rows in which its
    value is NULL for want of a result (a division by zero, an overflow); features that always have
    one are left out. In windowed views rows with a NULL event id are skipped, too, and
    `dead_letters` are corrections that came later than the view's correction horizon allows."""

    view: str
    source: str
    rows: int
    null_event_times: int
    null_keys: int
    null_created_times: int
    skipped: int
    undefined_values: Mapping[str, int] = field(default_factory=dict)
    null_event_ids: int = 0
    dead_letters: int = 0


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
        dead = _dead_letters(view, repo, files, engine)
        reports.append(replace(report, undefined_values=counts, dead_letters=dead))
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
    event_id = source.definition.event_id if view.is_windowed else None
    id_is_null = "false" if event_id is None else f"{quote(event_id)} IS NULL"
    counts = {
        "null_event_times": event_is_null,
        "null_keys": key_is_null,
        "null_created_times": created,
        "null_event_ids": id_is_null,
        "skipped": f"{event_is_null} OR {key_is_null} OR {id_is_null}",
    }
    items = [f"count(*) FILTER ({condition}) AS {name}" for name, condition in counts.items()]
    rel = Sql(
        query=f"SELECT count(*) AS rows, {', '.join(items)} FROM source",
        inputs={"source": source_rel(source, repo, files)},
        dtypes=dict.fromkeys(["rows", *counts], INT64),
    )
    (row,) = engine.stream(rel).read_all().to_pylist()
    return SourceReport(view=view.name, source=source.name, **row)


def _dead_letters(view: TypedView, repo: TypedRepo, files: Files, engine: Engine) -> int:
    """Rows that come more than the correction horizon after the row that they would replace, and
    those that follow them."""
    event_id = view.source.definition.event_id
    if event_id is None or not view.is_windowed:
        return 0
    by = ", ".join(quote(name) for name in (*(key.name for key in view.keys), event_id))
    event, created = quote(EVENT_US), quote(CREATED_US)
    ties = "".join(f", {quote(name)} NULLS FIRST" for name in version_order(view))
    turn = f"PARTITION BY {by} ORDER BY k, {created}, {event}, {quote(DELETED)}{ties}"
    there = f"{quote(event_id)} IS NOT NULL"
    known = f"SELECT *, greatest({event}, {created}) AS k FROM source WHERE {there}"
    late = f"k - lag(k) OVER ({turn}) > {view.correction_horizon_us}"
    # By known times alone: rows that are the same may stand in another order in each window.
    dead = f"sum(CAST(late AS INTEGER)) OVER (PARTITION BY {by} ORDER BY k)"
    query = (
        f"SELECT count(*) AS dead FROM (SELECT {dead} AS dead FROM "
        f"(SELECT *, coalesce({late}, false) AS late FROM ({known}))) WHERE dead > 0"
    )
    rows = view_rel(view, repo, files)
    rel = Sql(query=query, inputs={"source": rows}, dtypes={"dead": INT64})
    (row,) = engine.stream(rel).read_all().to_pylist()
    return int(row["dead"])

"""What is read of runs: lists, one in full, the points of a metric."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from featurestore.errors import AmbiguousRecord, LimitExceeded, RecordNotFound
from featurestore.stores.registry import run_sql, schema, writes
from featurestore.stores.registry.run_query import Query
from featurestore.stores.registry.run_schema import (
    metric_point,
    run,
    run_artifact,
    run_metric,
    run_note,
    run_param,
    run_tag,
)
from featurestore.stores.registry.run_words import (
    Metric,
    Note,
    Point,
    RunArtifact,
    RunFacts,
    StoredValue,
)

POINTS_PER_READ_MAX = 10_000_000
RUN_ID_CHARS_MIN = 4
_RUN_REF = re.compile(rf"[0-9a-f]{{{RUN_ID_CHARS_MIN},32}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetails:
    """A run in full. `children` are the ids of runs nested in it."""

    facts: RunFacts
    notes: tuple[Note, ...]
    artifacts: tuple[RunArtifact, ...]
    children: tuple[str, ...]


def key_of(connection: Connection, project: str, run_id: str) -> int | None:
    """The numeric key of a run by its whole id."""
    query = sa.select(run.c.run).where(run.c.project == project, run.c.run_id == run_id)
    key: int | None = connection.scalar(query)
    return key


def resolve(connection: Connection, project: str, ref: str) -> tuple[int, str]:
    """Key and experiment of the run that `ref` means: its id, the beginning of it, or its record's
    id. Raises `RecordNotFound`, `AmbiguousRecord`."""
    run_id = ref.removeprefix("run:").rpartition("@")[0].rpartition("/")[2] if "@" in ref else ref
    query = sa.select(run.c.run, run.c.experiment, run.c.run_id).where(run.c.project == project)
    if _RUN_REF.fullmatch(run_id):
        begins = sa.func.substr(run.c.run_id, 1, len(run_id)) == run_id
        found = connection.execute(query.where(begins).limit(9)).all()
        if len(found) > 1:
            raise AmbiguousRecord(ref, found=[row.run_id for row in found])
        if found:
            return found[0].run, found[0].experiment
    newest = connection.execute(query.order_by(run.c.run.desc()).limit(100)).all()
    raise RecordNotFound(f"run {ref}", known=[row.run_id for row in newest])


def find(
    connection: Connection, project: str, query: Query, *, now_us: int, limit: int
) -> list[RunFacts]:
    """The runs that a search finds, at most `limit`."""
    where: list[sa.ColumnElement[bool]] = [run.c.project == project]
    dialect = connection.dialect.name
    if query.where is not None:
        where.append(run_sql.condition(query.where, dialect=dialect, now_us=now_us))
    if query.run_ids is not None:
        where.append(run.c.run_id.in_(query.run_ids))
    order = [
        column
        for each in query.order
        for column in run_sql.sorting(each, dialect=dialect, now_us=now_us)
    ]
    newest = [run.c.started_at_us.desc(), run.c.run.desc()]
    return _facts(connection, sa.and_(*where), [*order, *newest], now_us=now_us, limit=limit)


def details(connection: Connection, project: str, ref: str, *, now_us: int) -> RunDetails:
    """One run in full. Raises as `resolve` does."""
    key, _ = resolve(connection, project, ref)
    [facts] = _facts(connection, run.c.run == key, [], now_us=now_us, limit=1)
    notes = sa.select(run_note).where(run_note.c.run == key).order_by(run_note.c.seq)
    kept = sa.select(run_artifact).where(run_artifact.c.run == key).order_by(run_artifact.c.path)
    children = sa.select(run.c.run_id).where(run.c.parent == key).order_by(run.c.run)
    return RunDetails(
        facts=facts,
        notes=tuple(Note(row.at_us, row.author, row.text) for row in connection.execute(notes)),
        artifacts=tuple(
            RunArtifact(row.path, row.digest, row.kind, row.size, row.at_us)
            for row in connection.execute(kept)
        ),
        children=tuple(connection.scalars(children)),
    )


def points(connection: Connection, project: str, ref: str, key: str) -> list[Point]:
    """The points of a metric by step, then time. Raises as `resolve` does, `LimitExceeded`."""
    of_run, _ = resolve(connection, project, ref)
    here = sa.and_(run_metric.c.run == of_run, run_metric.c.key == key)
    metric = connection.execute(sa.select(run_metric).where(here)).first()
    if metric is None:
        return []
    if metric.points > POINTS_PER_READ_MAX:
        raise LimitExceeded("POINTS_PER_READ_MAX", asked=metric.points, allowed=POINTS_PER_READ_MAX)
    query = (
        sa.select(metric_point.c.step, metric_point.c.at_us, metric_point.c.value)
        .where(metric_point.c.metric == metric.metric)
        .order_by(metric_point.c.step, metric_point.c.at_us, metric_point.c.seq)
    )
    return [
        Point(key, step, at_us, _value(value)) for step, at_us, value in connection.execute(query)
    ]


def _value(stored: float | None) -> float:
    return math.nan if stored is None else stored


def _facts(
    connection: Connection,
    where: sa.ColumnElement[bool],
    order: Sequence[Any],
    *,
    now_us: int,
    limit: int,
) -> list[RunFacts]:
    parent, record = run_sql.PARENT, schema.record
    query = (
        sa.select(
            run.c.run,
            run.c.run_id,
            run.c.record,
            run.c.experiment,
            run.c.name,
            run.c.user,
            run.c.error,
            run.c.started_at_us,
            record.c.id.label("record_id"),
            parent.c.run_id.label("parent_id"),
            run_sql.status(now_us).label("stands"),
            run_sql.ended(now_us).label("ended"),
        )
        .join_from(run, record, run.c.record == record.c.seq)
        .join(parent, run.c.parent == parent.c.run, isouter=True)
        .where(where)
        .order_by(*order)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    about = _About.of(connection, rows)
    return [
        RunFacts(
            run_id=row.run_id,
            record_id=row.record_id,
            experiment=row.experiment,
            name=row.name,
            status=row.stands,
            started_at_us=row.started_at_us,
            ended_at_us=row.ended,
            user=row.user,
            error=row.error,
            parent=row.parent_id,
            params=about.params[row.run],
            metrics=about.metrics[row.run],
            tags=about.tags[row.run],
            training_sets=tuple(about.training_sets[row.record]),
        )
        for row in rows
    ]


@dataclass(frozen=True)
class _About:
    """What lists show of runs, by their numeric keys (training sets: by that of the record)."""

    params: Mapping[int, dict[str, Any]]
    metrics: Mapping[int, dict[str, Metric]]
    tags: Mapping[int, dict[str, str]]
    training_sets: Mapping[int, list[str]]

    @classmethod
    def of(cls, connection: Connection, rows: Sequence[Any]) -> _About:
        about = cls(defaultdict(dict), defaultdict(dict), defaultdict(dict), defaultdict(list))
        for some in writes.chunks([row.run for row in rows]):
            for row in _of(connection, run_param, some):
                stored = StoredValue(row.kind, row.text, row.number)
                about.params[row.run][row.key] = stored.value()
            for row in _of(connection, run_metric, some):
                about.metrics[row.run][row.key] = Metric(
                    _value(row.value), row.step, row.at_us, row.least, row.greatest, row.points
                )
            for row in _of(connection, run_tag, some):
                about.tags[row.run][row.key] = row.text
        edge, parent = schema.edge, schema.record.alias("parent")
        for some in writes.chunks([row.record for row in rows]):
            query = (
                sa.select(edge.c.child, parent.c.id)
                .join_from(edge, parent, edge.c.parent == parent.c.seq)
                .where(edge.c.child.in_(some), edge.c.role == run_sql.TRAINING_SET)
                .order_by(edge.c.child, edge.c.position)
            )
            for child, training_set in connection.execute(query):
                about.training_sets[child].append(training_set)
        return about


def _of(connection: Connection, table: sa.Table, keys: Sequence[int]) -> Iterable[sa.Row[Any]]:
    query = sa.select(table).where(table.c.run.in_(keys)).order_by(table.c.run, table.c.key)
    return connection.execute(query)

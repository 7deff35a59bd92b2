"""Runs as the registry keeps them: one transaction per thing that is told of a run.

Writers of one run take turns (a lock of the run on Postgres, the file's on SQLite). Whoever writes
needs a grant for the experiment, asked in the same transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from featurestore.errors import InvalidRequest, LimitExceeded, RecordNotFound
from featurestore.permissions import TRACKS, Need
from featurestore.records import Record
from featurestore.stores.registry import run_reads, writes
from featurestore.stores.registry.run_query import Query
from featurestore.stores.registry.run_reads import RunDetails
from featurestore.stores.registry.run_schema import (
    run,
    run_artifact,
    run_metric,
    run_note,
    run_param,
    run_tag,
    run_writer,
)
from featurestore.stores.registry.run_words import (
    METRICS_PER_RUN_MAX,
    PARAMS_PER_RUN_MAX,
    Point,
    PointRow,
    RunArtifact,
    RunFacts,
    RunStart,
    Status,
    StoredValue,
    check_key,
    check_text,
)


class Committing(Protocol):
    """A transaction that writes, of somebody who may: it needs `needs`, alone under `lock`."""

    def __call__(
        self, needs: Sequence[Need], *, reason: str, lock: str | None = None
    ) -> AbstractContextManager[tuple[Connection, writes.Author]]: ...


class RunKey(NamedTuple):
    """A run as its writers name it: the numeric key, and the experiment that grants are for."""

    run: int
    experiment: str


@dataclass(frozen=True, slots=True)
class RunTables:
    """The runs of one project. All methods raise `StoreUnavailable` while the database is away,
    those that write `Unauthenticated` and `PermissionDenied` where access control is on."""

    project: str
    reading: Callable[[], AbstractContextManager[Connection]]
    committing: Committing

    def start(
        self, start: RunStart, *, records: Sequence[Record], blobs: Sequence[bytes] = ()
    ) -> RunKey:
        """Commit the run's record (the last of `records`; what it needs before it) and the run, in
        one transaction. A run that is there already stays as it is.

        Raises `InvalidRecord` for unknown parents, `RecordNotFound` for an unknown parent run.
        """
        with self._writing(start.experiment, None) as (connection, by):
            writes.insert_blobs(connection, self.project, blobs)
            writes.insert_records(connection, by, records)
            seqs = writes.sequences(connection, self.project, [records[-1].id])
            key = run_reads.key_of(connection, self.project, start.run_id)
            if key is not None:
                return RunKey(key, start.experiment)
            parent = self._parent(connection, start.parent)
            values = {
                "project": self.project,
                "run_id": start.run_id,
                "record": seqs[records[-1].id],
                "parent": parent,
                "experiment": start.experiment,
                "name": start.name,
                "user": start.user,
                "status": start.status,
                "error": "",
                "started_at_us": start.started_at_us,
                "ended_at_us": start.ended_at_us,
                "heartbeat_at_us": by.at_us if start.beats else None,
            }
            key = connection.execute(sa.insert(run).returning(run.c.run), values).scalar_one()
            _insert_params(connection, key, start.params)
            _set_tags(connection, key, start.tags)
            return RunKey(key, start.experiment)

    def relate(self, key: RunKey, record: Record) -> None:
        """Give the run another record, which names more parents than the one before."""
        with self._writing(key.experiment, None) as (connection, by):
            writes.insert_records(connection, by, [record])
            seqs = writes.sequences(connection, self.project, [record.id])
            connection.execute(_at(run, key), {"record": seqs[record.id]})

    def log_points(
        self, key: RunKey, writer: str, batch: int, points: Sequence[PointRow], *, now_us: int
    ) -> None:
        """Append points; the same batch of the same writer again is a no-op. It is a heartbeat.

        Raises `LimitExceeded` for more than `METRICS_PER_RUN_MAX` metrics.
        """
        with self._writing(key.experiment, key) as (connection, _):
            if not _first_time(connection, key, writer, batch):
                return
            known = _metrics(connection, key, points)
            _insert_points(connection, {name: row.metric for name, row in known.items()}, points)
            _sum_up(connection, known, points)
            _beat(connection, key, now_us)

    def set_params(self, key: RunKey, params: Mapping[str, Any]) -> None:
        """Set parameters, once each. Raises `InvalidRequest` for another value of one that is set,
        `LimitExceeded`."""
        with self._writing(key.experiment, key) as (connection, _):
            _insert_params(connection, key.run, params)

    def set_tags(self, key: RunKey, tags: Mapping[str, str | None]) -> None:
        """Set tags, in place of those of the same names; None removes one."""
        with self._writing(key.experiment, key) as (connection, _):
            _set_tags(connection, key.run, tags)

    def add_note(self, key: RunKey, text: str) -> None:
        """Add a remark."""
        text = check_text(text, "note")
        with self._writing(key.experiment, key) as (connection, by):
            values = {"run": key.run, "at_us": by.at_us, "author": by.name, "text": text}
            connection.execute(sa.insert(run_note), values)

    def add_artifacts(self, key: RunKey, artifacts: Sequence[RunArtifact]) -> None:
        """Note what the run kept, in place of what stood at the same paths."""
        with self._writing(key.experiment, key) as (connection, _):
            paths = [artifact.path for artifact in artifacts]
            for some in writes.chunks(paths):
                there = sa.and_(run_artifact.c.run == key.run, run_artifact.c.path.in_(some))
                connection.execute(sa.delete(run_artifact).where(there))
            rows = [
                {
                    "run": key.run,
                    "path": artifact.path,
                    "digest": artifact.digest,
                    "kind": artifact.kind,
                    "size": artifact.size,
                    "at_us": artifact.at_us,
                }
                for artifact in artifacts
            ]
            for some_rows in writes.chunks(rows):
                connection.execute(sa.insert(run_artifact), some_rows)

    def set_status(
        self,
        key: RunKey,
        status: Status,
        *,
        ended_at_us: int | None,
        error: str = "",
        beat_us: int | None = None,
    ) -> None:
        """How the run stands. `beat_us` says that somebody works on it now."""
        values = {
            "status": status,
            "ended_at_us": ended_at_us,
            "error": error,
            "heartbeat_at_us": beat_us,
        }
        with self._writing(key.experiment, key) as (connection, _):
            connection.execute(_at(run, key), values)

    def beat(self, key: RunKey, now_us: int) -> None:
        """Say that the run lives."""
        with self._writing(key.experiment, key) as (connection, _):
            _beat(connection, key, now_us)

    def key(self, run_id: str) -> RunKey:
        """The run of that id, or of one that begins so. Raises `RecordNotFound`,
        `AmbiguousRecord`."""
        with self.reading() as connection:
            found, experiment = run_reads.resolve(connection, self.project, run_id)
        return RunKey(found, experiment)

    def find(self, query: Query, *, now_us: int, limit: int) -> list[RunFacts]:
        """The runs that a search finds, in its order."""
        with self.reading() as connection:
            return run_reads.find(connection, self.project, query, now_us=now_us, limit=limit)

    def details(self, run_id: str, *, now_us: int) -> RunDetails:
        """All of one run but its points. Raises as `key` does."""
        with self.reading() as connection:
            return run_reads.details(connection, self.project, run_id, now_us=now_us)

    def points(self, run_id: str, key: str) -> list[Point]:
        """The points of a metric by step, then time; none where there is no such metric. Raises as
        `key` does, `LimitExceeded`."""
        with self.reading() as connection:
            return run_reads.points(connection, self.project, run_id, key)

    @contextmanager
    def _writing(
        self, experiment: str, key: RunKey | None
    ) -> Iterator[tuple[Connection, writes.Author]]:
        lock = None if key is None else f"featurestore run {self.project} {key.run}"
        with self.committing([(TRACKS, experiment)], reason="track", lock=lock) as opened:
            yield opened

    def _parent(self, connection: Connection, run_id: str | None) -> int | None:
        if run_id is None:
            return None
        parent = run_reads.key_of(connection, self.project, run_id)
        if parent is None:
            raise RecordNotFound(f"run {run_id}")
        return parent


def _at(table: sa.Table, key: RunKey) -> sa.Update:
    return sa.update(table).where(table.c.run == key.run)


def _beat(connection: Connection, key: RunKey, now_us: int) -> None:
    living = _at(run, key).where(run.c.heartbeat_at_us.is_not(None))
    connection.execute(living, {"heartbeat_at_us": now_us})


def _first_time(connection: Connection, key: RunKey, writer: str, batch: int) -> bool:
    here = sa.and_(run_writer.c.run == key.run, run_writer.c.writer == writer)
    last = connection.scalar(sa.select(run_writer.c.batch).where(here))
    if last is None:
        values = {"run": key.run, "writer": writer, "batch": batch}
        connection.execute(sa.insert(run_writer), values)
    elif last < batch:
        connection.execute(sa.update(run_writer).where(here), {"batch": batch})
    return last is None or last < batch


# --- metrics --------------------------------------------------------------------------------------


def _metrics(
    connection: Connection, key: RunKey, points: Sequence[PointRow]
) -> dict[str, sa.Row[Any]]:
    """The rows of the points' metrics; those that are new are made."""
    names = {point[0] for point in points}
    query = sa.select(run_metric).where(run_metric.c.run == key.run)
    known = {row.key: row for row in connection.execute(query)}
    new = sorted(names - known.keys())
    if not new:
        return {name: known[name] for name in names}
    if len(known) + len(new) > METRICS_PER_RUN_MAX:
        raise LimitExceeded(
            "METRICS_PER_RUN_MAX", asked=len(known) + len(new), allowed=METRICS_PER_RUN_MAX
        )
    rows = [{"run": key.run, "key": name, "step": 0, "at_us": 0, "points": 0} for name in new]
    for some in writes.chunks(rows):
        connection.execute(sa.insert(run_metric), some)
    known = {row.key: row for row in connection.execute(query)}
    return {name: known[name] for name in names}


def _insert_points(
    connection: Connection, metrics: Mapping[str, int], points: Sequence[PointRow]
) -> None:
    # NaN differs from itself; it is NULL in the tables, as SQLite would have it anyway.
    rows = [
        (metrics[key], step, at_us, value if value == value else None)  # noqa: PLR0124
        for key, step, at_us, value in points
    ]
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(
            "INSERT INTO metric_point (metric, step, at_us, value) VALUES (?, ?, ?, ?)", rows
        )
        return
    columns = [list(column) for column in zip(*rows, strict=True)]
    connection.execute(
        sa.text(
            "INSERT INTO metric_point (metric, step, at_us, value) SELECT * FROM unnest("
            "CAST(:m AS bigint[]), CAST(:s AS bigint[]), CAST(:t AS bigint[]), "
            "CAST(:v AS double precision[]))"
        ),
        dict(zip("mstv", columns, strict=True)),
    )


def _sum_up(
    connection: Connection, known: Mapping[str, sa.Row[Any]], points: Sequence[PointRow]
) -> None:
    """Bring what is known of each metric up to date with its new points."""
    by_key = defaultdict[str, list[PointRow]](list)
    for point in points:
        by_key[point[0]].append(point)
    changes = [_merged(known[key], some) for key, some in by_key.items()]
    here = sa.update(run_metric).where(run_metric.c.metric == sa.bindparam("here"))
    connection.execute(here, changes)


def _merged(row: sa.Row[Any], points: Sequence[PointRow]) -> dict[str, Any]:
    # The latest of equal steps counts, of equal times the one that was logged last: `max` keeps
    # the first that it meets.
    _, last_step, last_at_us, last_value = max(reversed(points), key=itemgetter(1, 2))
    values = [value for *_, value in points if value == value]  # noqa: PLR0124
    bounds = [bound for bound in (row.least, row.greatest) if bound is not None]
    value, step, at_us = row.value, row.step, row.at_us
    if row.points == 0 or (last_step, last_at_us) >= (step, at_us):
        value, step, at_us = last_value, last_step, last_at_us
    return {
        "here": row.metric,
        "value": value if value == value else None,  # noqa: PLR0124
        "step": step,
        "at_us": at_us,
        "least": min([*values, *bounds], default=None),
        "greatest": max([*values, *bounds], default=None),
        "points": row.points + len(points),
    }


# --- parameters and tags --------------------------------------------------------------------------


def _insert_params(connection: Connection, key: int, params: Mapping[str, Any]) -> None:
    wanted = {check_key(name, "parameter"): StoredValue.of(v) for name, v in params.items()}
    if not wanted:
        return
    here = sa.select(run_param).where(run_param.c.run == key)
    there = {
        row.key: StoredValue(row.kind, row.text, row.number) for row in connection.execute(here)
    }
    if len(there | wanted) > PARAMS_PER_RUN_MAX:
        raise LimitExceeded(
            "PARAMS_PER_RUN_MAX", asked=len(there | wanted), allowed=PARAMS_PER_RUN_MAX
        )
    for name in wanted.keys() & there.keys():
        if wanted[name][:2] != there[name][:2]:
            raise InvalidRequest(
                f"parameter {name!r} of this run is {there[name].text[:80]} already; a parameter "
                "is set once. Log what changes as a metric or a tag"
            )
    rows = [
        {"run": key, "key": name, **value._asdict()}
        for name, value in wanted.items()
        if name not in there
    ]
    for some in writes.chunks(rows):
        connection.execute(sa.insert(run_param), some)


def _set_tags(connection: Connection, key: int, tags: Mapping[str, str | None]) -> None:
    names = [check_key(name, "tag") for name in tags]
    rows = [
        {"run": key, "key": name, "text": check_text(text, "tag")}
        for name, text in tags.items()
        if text is not None
    ]
    for some in writes.chunks(names):
        there = sa.and_(run_tag.c.run == key, run_tag.c.key.in_(some))
        connection.execute(sa.delete(run_tag).where(there))
    for some_rows in writes.chunks(rows):
        connection.execute(sa.insert(run_tag), some_rows)

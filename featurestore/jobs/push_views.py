"""Pushed rows into the online tables of the views that their source feeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compiler.rel import ARRIVED, CREATED_US, EVENT_US, Latest, Sql
from featurestore.compiler.scans import source_rel, view_rel
from featurestore.compiler.window_rows import window_rel
from featurestore.definitions.source import SqlSource
from featurestore.errors import InvalidRequest, NotApplied
from featurestore.jobs.environments import current_repo, environment_alias
from featurestore.jobs.online_tables import online_tables
from featurestore.jobs.project import current_files
from featurestore.jobs.push_erased import Erasure
from featurestore.jobs.push_stamp import Stamper, newest
from featurestore.jobs.row_writer import RowWriter, stored_rows
from featurestore.jobs.window_writer import WindowWriter
from featurestore.wire.pushes import Dead

if TYPE_CHECKING:
    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.typed import TypedRepo, TypedSource, TypedView
    from featurestore.jobs.materialize import Context
    from featurestore.jobs.online_tables import OnlineTable
    from featurestore.records import Alias
    from featurestore.stores.registry.base import Registry

_PUSHED = "pushed_rows"
_NUMBER = "__row_number"
BATCH_ROWS = 20_000
TOO_LATE = "too-late"
"""The reason of a correction that comes after the correction horizon."""
ARRIVED_LATE = "arrived-late"
"""The reason of a correction that comes after the horizon and was known before: it may have been
known in time. Then it counts offline at once, and online after the next materialization."""
ARRIVED_LATE_US = 1_000_000
"""How much earlier than it comes it was known then, at least."""


class Sink(ABC):
    """Writes the pushed rows of one view into one online table."""

    def __init__(self, context: Context, view: TypedView) -> None:
        self._context = context
        self._view = view
        self._stamper = Stamper(view)
        self._erasure = Erasure(context, view)

    @abstractmethod
    def write(self, rows: pa.Table) -> tuple[Dead, ...]:
        """Write rows (the source's columns, and `ARRIVED`), and return those that do not count.
        Raises what the store raises; writing them again changes nothing."""

    def catch_up(self, since_us: int) -> None:
        """Write what arrived after that instant (µs) and stands in the push log: whoever pushed it
        may not have known of this table."""
        context, source = self._context, self._view.source
        files, _ = self._source()
        if files[source.name].pushed:
            pushed = replace(files[source.name], format="parquet", paths=(), partitions=())
            rel = source_rel(source, context.repo, {source.name: pushed}, with_arrival=True)
            recent = f"SELECT * FROM p WHERE epoch_us({ARRIVED}) >= {since_us}"
            query = Sql(query=recent, inputs={"p": rel}, dtypes=rel.schema)
            self.write(context.engine.stream(query).read_all())

    def _source(self) -> tuple[Mapping[str, DataFiles], int]:
        """The whole source, pushed rows included: what settles rows of equal times."""
        context = self._context
        files = current_files(context.repo, [self._view.source], context.root, context.offline)
        return files, context.clock.now_us()


class LatestSink(Sink):
    """Of each key the newest row, unless a newer one is there."""

    def __init__(self, context: Context, view: TypedView, table: OnlineTable) -> None:
        super().__init__(context, view)
        self._writer = RowWriter(context, view, table.field, self._source)

    def write(self, rows: pa.Table) -> tuple[Dead, ...]:
        """See `Sink`; no row of such a view is dead."""
        kept = self._erasure.kept(rows)
        batch = newest(self._view, self._stamper.stamp(kept)[0])
        if batch is None:
            self._query(kept)
        elif batch.num_rows:
            self._writer.write(batch, self._writer.encode(batch))
        return ()

    def _query(self, rows: pa.Table) -> None:
        """The same where the tiebreak has to decide between rows of one push."""
        context, view = self._context, self._view
        stamped = view_rel(view, context.repo, {}, pushed=_PUSHED)
        rel = stored_rows(view, Latest(input=stamped), ordered=False)
        with context.engine.stream(rel, inputs={_PUSHED: rows}, batch_rows=BATCH_ROWS) as reader:
            for batch in reader:
                self._writer.write(batch, self._writer.encode(batch))


class WindowSink(Sink):
    """Every row, once by its event id, into the states of a windowed view."""

    def __init__(self, context: Context, view: TypedView, table: OnlineTable) -> None:
        super().__init__(context, view)
        self._writer = WindowWriter(context, view, table.field)
        self._columns = window_rel(view, context.repo, {}, pushed=_PUSHED).columns

    def write(self, rows: pa.Table) -> tuple[Dead, ...]:
        """See `Sink`; corrections beyond the horizon are dead."""
        numbered = rows.append_column(_NUMBER, pa.array(range(rows.num_rows), pa.int64()))
        batch, places = self._stamper.stamp(self._erasure.kept(numbered), _NUMBER)
        if not batch.num_rows:
            return ()
        arrays = [batch.column(name) for name in self._columns.values()]
        inputs = pa.RecordBatch.from_arrays(arrays, names=list(self._columns))
        report = self._writer.write(inputs)
        if not report.rejected:
            return ()
        early_us = self._context.clock.now_us() - ARRIVED_LATE_US
        known = pc.max_element_wise(batch.column(EVENT_US), batch.column(CREATED_US)).to_pylist()
        return tuple(
            _dead(places[one.index], one.reason, late=known[one.index] < early_us)
            for one in report.rejected
        )


def _dead(row: int, why: str, *, late: bool) -> Dead:
    if not late:
        return Dead(row=row, reason=TOO_LATE, message=why)
    more = "; it was known earlier: if in time, it counts offline, and online after a materialize"
    return Dead(row=row, reason=ARRIVED_LATE, message=why + more)


class Seen(NamedTuple):
    """What the registry said: which online tables there are, and what the environment has."""

    online: Mapping[str, Alias]
    environment: Mapping[str, Alias]


def look(registry: Registry, environment: str) -> Seen:
    """What decides where pushed rows go; it has changed exactly when this has."""
    return Seen(registry.aliases("online/"), registry.aliases(environment_alias(environment)))


class Views:
    """Which online tables the rows of a source go to."""

    def __init__(self) -> None:
        self._sinks: dict[str, dict[bytes, Sink]] = {}
        self._stale: dict[str, str] = {}
        self._countless: dict[str, str] = {}
        self._waiting: dict[str, tuple[str, ...]] = {}
        self._environment = ""

    def refresh(self, context: Context) -> list[Sink]:
        """Read the registry; returns where rows go that went nowhere before."""
        views = list(context.repo.views.values())
        tables = online_tables(context.registry, views)
        known = {field for sinks in self._sinks.values() for field in sinks}
        found: dict[str, dict[bytes, Sink]] = {}
        for view in views:
            # A view that was never materialized has no table: the first run reads the push log. Of
            # a query only a run can tell what has changed.
            table = tables.get(view.storage_hash)
            if table is not None and not isinstance(view.source.definition, SqlSource):
                kind = WindowSink if view.is_windowed else LatestSink
                sink = kind(context, view, table)
                found.setdefault(view.source.name, {})[table.field] = sink
        self._stale = _differences(context)
        self._countless = {
            view.source.name: view.name
            for view in views
            if view.is_windowed and view.source.definition.event_id is None
        }
        self._waiting = _over_queries(context.repo)
        self._environment = context.environment
        self._sinks = found
        every = {field: sink for sinks in found.values() for field, sink in sinks.items()}
        return [sink for field, sink in every.items() if field not in known]

    def of(self, source: TypedSource) -> list[Sink]:
        """Where rows of `source` go. Raises `NotApplied` where what the environment serves from
        this source is not what the repository says, `InvalidRequest` for windows without ids."""
        if source.name in self._stale:
            raise NotApplied(
                f"{self._stale[source.name]}: the definition in the repository is not the one that "
                f"environment {self._environment!r} has. Run: featurestore apply"
            )
        if source.name in self._countless:
            raise InvalidRequest(
                f"source {source.name!r} has no event_id, so rows can't be pushed into the windows "
                f"of {self._countless[source.name]!r}: a row that came twice would count twice. "
                "Give the source an event_id, or materialize"
            )
        return list(self._sinks.get(source.name, {}).values())

    def waiting(self, source: TypedSource) -> tuple[str, ...]:
        """The views over queries that read `source`: only a run can tell what of them has changed,
        so they have its rows after the next one."""
        return self._waiting.get(source.name, ())


def _over_queries(repo: TypedRepo) -> dict[str, tuple[str, ...]]:
    """By source, the views over queries that read it."""
    found: dict[str, list[str]] = {}
    for view in repo.views.values():
        read = list(view.source.inputs)
        for name in read:
            read += [one for one in repo.sources[name].inputs if one not in read]
            found.setdefault(name, []).append(view.name)
    return {name: tuple(sorted(views)) for name, views in found.items()}


def _differences(context: Context) -> dict[str, str]:
    """By source, a view that the repository and the environment know differently."""
    records = current_repo(context.registry, context.environment).get("view", {})
    bodies = {name: stored.record.body for name, stored in records.items()}
    applied = {name: (body["source"], body["version"]) for name, body in bodies.items()}
    ours = {view.name: (view.source.name, view.version) for view in context.repo.views.values()}
    found: dict[str, str] = {}
    for name in sorted(applied.keys() | ours.keys()):
        if applied.get(name) != ours.get(name):
            for entry in (applied.get(name), ours.get(name)):
                if entry is not None:
                    found.setdefault(str(entry[0]), name)
    return found

"""Pushed rows into the online tables of the views that their source feeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from featurestore.compiler.rel import ARRIVED, Latest, Sql
from featurestore.compiler.scans import source_rel, view_rel
from featurestore.errors import NotApplied
from featurestore.jobs.environments import current_repo, environment_alias
from featurestore.jobs.online_tables import online_tables
from featurestore.jobs.project import current_files, deletion_files
from featurestore.jobs.push_stamp import Stamper, newest
from featurestore.jobs.push_tables import known_us
from featurestore.jobs.row_writer import RowWriter, stored_rows

if TYPE_CHECKING:
    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.typed import TypedSource, TypedView
    from featurestore.jobs.materialize import Context
    from featurestore.records import Alias
    from featurestore.stores.registry.base import Registry
    from featurestore.wire.pushes import Dead

_PUSHED = "pushed_rows"
BATCH_ROWS = 20_000


class LatestSink:
    """Writes pushed rows of one view that answers with the newest row of each key."""

    def __init__(self, context: Context, view: TypedView, table_field: bytes) -> None:
        self._context = context
        self._view = view
        self._writer = RowWriter(context, view, table_field, self._source)
        self._stamper = Stamper(view)

    def write(self, rows: pa.Table) -> tuple[Dead, ...]:
        """Write rows (the source's columns, and `ARRIVED`): of each key the newest, unless a newer
        one is there. Raises what the store raises; none are dead for such a view."""
        batch = self._newest(rows)
        if batch is None:
            self._query(rows)
        elif batch.num_rows:
            self._writer.write(batch, self._writer.encode(batch))
        return ()

    def _newest(self, rows: pa.Table) -> pa.RecordBatch | None:
        """The newest rows, found without a query; None where that is not so simple."""
        if self._may_be_deleted(rows):
            return None
        return newest(self._view, self._stamper.stamp(rows))

    def _may_be_deleted(self, rows: pa.Table) -> bool:
        """Only what was known before it came can have been deleted by then."""
        source = self._view.source
        arrived = rows[ARRIVED].cast(pa.int64()).to_numpy()
        return bool((known_us(source, rows) < arrived).any() and self._deletions())

    def _query(self, rows: pa.Table) -> None:
        context, view = self._context, self._view
        stamped = view_rel(view, context.repo, self._deletions(), pushed=_PUSHED)
        rel = stored_rows(view, Latest(input=stamped), ordered=False)
        with context.engine.stream(rel, inputs={_PUSHED: rows}, batch_rows=BATCH_ROWS) as reader:
            for batch in reader:
                self._writer.write(batch, self._writer.encode(batch))

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

    def _deletions(self) -> Mapping[str, DataFiles]:
        """What was deleted: a row that was known by then, and comes now, stays deleted."""
        offline = self._context.offline
        return {} if offline is None else deletion_files(self._context.repo, offline)

    def _source(self) -> tuple[Mapping[str, DataFiles], int]:
        """The whole source, pushed rows included: what settles rows of equal times."""
        context = self._context
        files = current_files(context.repo, [self._view.source], context.root, context.offline)
        return files, context.clock.now_us()


Sink = LatestSink


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
        self._environment = ""

    def refresh(self, context: Context) -> list[Sink]:
        """Read the registry; returns where rows go that went nowhere before."""
        views = list(context.repo.views.values())
        tables = online_tables(context.registry, views)
        known = {field for sinks in self._sinks.values() for field in sinks}
        found: dict[str, dict[bytes, Sink]] = {}
        for view in views:
            # A view that was never materialized has no table: the first run reads the push log.
            if (table := tables.get(view.storage_hash)) is not None:
                sink = LatestSink(context, view, table.field)
                found.setdefault(view.source.name, {})[table.field] = sink
        self._stale = _differences(context)
        self._environment = context.environment
        self._sinks = found
        every = {field: sink for sinks in found.values() for field, sink in sinks.items()}
        return [sink for field, sink in every.items() if field not in known]

    def of(self, source: TypedSource) -> list[Sink]:
        """Where rows of `source` go. Raises `NotApplied` where what the environment serves from
        this source is not what the repository says."""
        if source.name in self._stale:
            raise NotApplied(
                f"{self._stale[source.name]}: the definition in the repository is not the one that "
                f"environment {self._environment!r} has. Run: featurestore apply"
            )
        return list(self._sinks.get(source.name, {}).values())


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

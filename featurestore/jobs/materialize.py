"""Materialization: the newest row per key from the sources into the online store.

Writes are conditional (an older row never replaces a newer one) and idempotent; the ledger row and
the watermark are committed after them. Killed anywhere and run again, a run ends in the same state.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from featurestore.compiler.changes import online_alias
from featurestore.compiler.materialization import RunPlan, plan_run, table_state
from featurestore.compiler.online import events_field
from featurestore.compiler.rel import Latest
from featurestore.compiler.scans import view_rel
from featurestore.errors import NotApplied, UnknownView
from featurestore.jobs import store_identity
from featurestore.jobs.ahead import one_ahead
from featurestore.jobs.deletions import erase_since
from featurestore.jobs.environments import current_views
from featurestore.jobs.online_tables import (
    SERVED_LATELY_US,
    OnlineTable,
    add_generation,
    drop_unused_tables,
    ensure_online_tables,
    fields_in_use,
    fields_lately_served,
    pinned_plans,
)
from featurestore.jobs.project import current_files
from featurestore.jobs.publish import publish
from featurestore.jobs.row_writer import RowWriter, counted_columns, stored_rows
from featurestore.jobs.snapshot import Snapshot
from featurestore.jobs.source_report import NullCreatedTimeWarning, report_source
from featurestore.jobs.window_runs import WindowRun
from featurestore.records import AliasIs, LedgerRow
from featurestore.stores.online.base import RowBatch
from featurestore.wire.keys import project_prefix

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.typed import TypedRepo, TypedView
    from featurestore.engines.base import Engine
    from featurestore.stores.offline.folder import OfflineFolder
    from featurestore.stores.online.base import OnlineStore
    from featurestore.stores.registry.base import Registry
    from featurestore.timeline import Clock

BATCH_ROWS_MAX = 20_000
"""Rows read, encoded and written at a time; one batch is written while the next is made. What
bounds a run's memory."""

_MENDS = "Run it again: that mends what was written; until then nothing counts as done."

Progress = Callable[[str, int], None]
"""Called with a view's name and the rows written to the store so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a job works with: the typed repository and its back ends."""

    repo: TypedRepo
    root: Path
    engine: Engine
    store: OnlineStore
    registry: Registry
    environment: str
    clock: Clock
    offline: OfflineFolder | None = None


@dataclass(slots=True)
class _Counts:
    read: int = 0
    written: int = 0
    skipped: int = 0
    undefined: int = 0


def materialize(
    context: Context,
    views: Sequence[str] | None = None,
    *,
    now_us: int,
    start_us: int | None = None,
    end_us: int | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    begin: Callable[[], None] = lambda: None,
) -> tuple[LedgerRow, ...]:
    """Write the named views (all, by default); see `FeatureStore.materialize`.

    Everything that can be refused is refused before the first row is written; then `begin` is
    called. Services whose views are complete afterwards are published.
    """
    chosen = _applied_views(context, views)
    store_id = store_identity.identify(
        context.store,
        context.registry,
        project=context.repo.project,
        environment=context.environment,
    )
    tables = ensure_online_tables(context.registry, chosen)
    ledgers = {
        view.name: store_identity.ledger_of(
            context.registry, context.environment, tables[view.storage_hash].field
        )
        for view in chosen
    }
    bounded = start_us is not None or end_us is not None
    outdated = set() if bounded else _outdated(context, chosen, tables, ledgers)
    plans = {
        view.name: plan_run(
            view,
            table_state(ledgers[view.name]),
            now_us=now_us,
            start_us=start_us,
            end_us=end_us,
            replace=replace or view.name in outdated,
        )
        for view in chosen
    }
    _recover_pushes(context)
    sources = [view.source for view in chosen]
    files = current_files(context.repo, sources, context.root, context.offline)
    begin()
    done = []
    for view in chosen:
        run = _Run(
            context, view, files, tables[view.storage_hash], store_id=store_id, now_us=now_us
        )
        done.append(run.execute(plans[view.name], progress or (lambda _view, _rows: None)))
        publish(context.repo, context.registry, context.environment)
    return tuple(done)


def _outdated(
    context: Context,
    views: Sequence[TypedView],
    tables: Mapping[str, OnlineTable],
    ledgers: Mapping[str, Sequence[LedgerRow]],
) -> set[str]:
    """The views whose tables may hold rows that count no more, since what was pushed to their
    sources was restored: no run by known time would take them away."""
    from featurestore.jobs.pushed_restore import restored_at, sources_of

    restored, found = restored_at(context), set()
    for view in views:
        for source in sources_of(context.repo, view.source.name) & restored.keys():
            ledger = ledgers[view.name]
            # A table that no run has filled holds what was pushed since it is there.
            table = tables[view.storage_hash].record_id
            since_us = ledger[0].end_us if ledger else context.registry.record(table).created_at_us
            if since_us <= restored[source]:
                found.add(view.name)
    return found


def _recover_pushes(context: Context) -> None:
    """What a process had logged when it died is written by whoever comes next."""
    from featurestore.jobs.push import recover

    recover(context)


def sweep(context: Context, *, now_us: int) -> int:
    """Free rows of online tables that nothing needs any more, and rows that expired. What was
    served until lately stays for the servers that have not seen yet that it no longer is.

    Returns the number of rows freed.
    """
    # What a model in use has come to pin since the last publication must not be given up, and what
    # none pins any more stays until the next sweep: servers may still answer from it.
    pinned = {
        lookup.field
        for plan in pinned_plans(context.registry, context.environment)
        for lookup in plan.lookups
    }
    publish(None, context.registry, context.environment)
    drop_unused_tables(context.registry)
    keep = fields_in_use(context.registry) | pinned | {store_identity.FIELD}
    keep |= fields_lately_served(context.registry, since_us=now_us - SERVED_LATELY_US)
    keep |= set(map(events_field, keep))
    prefix = project_prefix(context.repo.project)
    return sum(context.store.sweep(prefix, keep=keep, older_than_us=now_us))


def _applied_views(context: Context, names: Sequence[str] | None) -> list[TypedView]:
    """The views to write. Raises `UnknownView`, and `NotApplied` where the environment has another
    version: what is served must be what was reviewed."""
    known = context.repo.views
    # One name alone is a sequence of names, too: its letters.
    names = [names] if isinstance(names, str) else names
    for name in names or ():
        if name not in known:
            raise UnknownView(name, known=known)
    applied = current_views(context.registry, context.environment)
    chosen = [known[name] for name in dict.fromkeys(known if names is None else names)]
    changed = [view.name for view in chosen if applied.get(view.name) != view.version]
    if changed:
        raise NotApplied(
            f"{', '.join(changed)}: the definition in the repository is not the one that "
            f"environment {context.environment!r} has. Run: featurestore apply"
        )
    return chosen


class _Run:
    """One view, one run."""

    def __init__(
        self,
        context: Context,
        view: TypedView,
        files: Mapping[str, DataFiles],
        table: OnlineTable,
        *,
        store_id: str,
        now_us: int,
    ) -> None:
        self._context = context
        self._view = view
        self._files = files
        self._table = table
        self._store_id = store_id
        self._now_us = now_us

    def execute(self, plan: RunPlan, progress: Progress) -> LedgerRow:
        context, counts = self._context, _Counts()
        offline = context.offline
        started_at_us = context.clock.now_us()
        serving = self._table
        if plan.mode == "replace":
            self._table = add_generation(context.registry, self._view)
        counts.skipped = self._count_skipped()
        snapshot = Snapshot.of(self._read_files(), None if offline is None else offline.s3)
        if self._view.is_windowed:
            self._rebuild_windows(plan, counts, progress)
        else:
            self._write_newest(plan, counts, progress)
        # Winners are found first and fetched later, by their place: in a file that was rewritten
        # in between, another row stands there.
        snapshot.check(to_do=_MENDS)
        erase_since(context, self._view, self._files)
        return self._commit(plan, counts, serving, started_at_us=started_at_us)

    def _read_files(self) -> dict[str, DataFiles]:
        """Of all sources that the view reads."""
        found: dict[str, DataFiles] = {}
        todo = [self._view.source]
        while todo:
            source = todo.pop()
            if source.name in self._files:
                found[source.name] = self._files[source.name]
            todo.extend(self._context.repo.sources[name] for name in source.inputs)
        return found

    def _rebuild_windows(self, plan: RunPlan, counts: _Counts, progress: Progress) -> None:
        run = WindowRun(self._context, self._view, self._files, self._table, self._now_us)
        for selection in plan.passes:
            for read, written in run.rebuilt(selection):
                counts.read += read
                counts.written += written
                progress(self._view.name, counts.written)

    def _write_newest(self, plan: RunPlan, counts: _Counts, progress: Progress) -> None:
        rows = view_rel(self._view, self._context.repo, self._files, with_undefined=True)
        counted = counted_columns(self._view)
        writer = RowWriter(
            self._context, self._view, self._table.field, lambda: (self._files, self._now_us)
        )
        for selection in plan.passes:
            with (
                closing(self._encoded(writer, selection.of(rows))) as made,
                closing(one_ahead(made)) as batches,
            ):
                for batch, encoded in batches:
                    counts.read += batch.num_rows
                    counts.undefined += sum(batch.column(name).true_count for name in counted)
                    counts.written += writer.write(batch, encoded)
                    progress(self._view.name, counts.written)

    def _count_skipped(self) -> int:
        """Rows of the source that no run can read: their event time or a key is NULL."""
        context, source = self._context, self._view.source
        report = report_source(self._view, context.repo, self._files, context.engine)
        if report.null_created_times:
            warnings.warn(
                f"{report.null_created_times:,} of {report.rows:,} rows of source {source.name!r} "
                f"have no {source.created_time!r}; they count as known at {source.event_time!r}",
                NullCreatedTimeWarning,
                stacklevel=2,
            )
        return report.skipped

    def _encoded(
        self, writer: RowWriter, latest: Latest
    ) -> Generator[tuple[pa.RecordBatch, RowBatch]]:
        ordered = self._context.store.capabilities.ordered_writes
        rel = stored_rows(self._view, latest, ordered=ordered)
        with self._context.engine.stream(rel, batch_rows=BATCH_ROWS_MAX) as reader:
            for batch in reader:
                yield batch, writer.encode(batch)

    def _commit(
        self, plan: RunPlan, counts: _Counts, serving: OnlineTable, *, started_at_us: int
    ) -> LedgerRow:
        """The ledger row, and for a new generation the alias that makes it the current one, in one
        commit after all writes."""
        alias = online_alias(self._view)
        replaced = plan.mode == "replace"
        row = LedgerRow(
            run_id=uuid.uuid4().hex,
            view=self._view.name,
            view_version=self._view.version,
            table=store_identity.table_name(self._store_id, self._table.field),
            generation=self._table.generation,
            mode=plan.mode,
            start_us=plan.start_us,
            end_us=plan.end_us,
            watermark_us=plan.watermark_us,
            reach_us=plan.reach_us,
            rows_read=counts.read,
            rows_written=counts.written,
            rows_skipped=counts.skipped,
            started_at_us=started_at_us,
            finished_at_us=self._context.clock.now_us(),
            values_undefined=counts.undefined,
        )
        self._context.registry.commit(
            requires=[AliasIs(alias, serving.record_id)],
            aliases={alias: self._table.record_id} if replaced else {},
            ledger=[row],
            reason=f"materialize {self._view.name}",
        )
        return row

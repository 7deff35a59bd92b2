"""How much a materialization will read to fill a table: estimates from footers, for plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featurestore.compiler.backfill import Part, backfill
from featurestore.compiler.change_plan import Backfill, Build, ChangePlan
from featurestore.compiler.rel import ARRIVED, DataFiles
from featurestore.definitions.expression import columns_of
from featurestore.definitions.source import FileSource
from featurestore.errors import SourceMissing, SourceSchemaChanged, StoreError
from featurestore.jobs.online_tables import online_tables
from featurestore.jobs.project import current_files, with_logged
from featurestore.jobs.store_identity import table_states
from featurestore.stores.offline import push_log
from featurestore.stores.offline.footers import Wanted, parts_of

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.compiler.typed import TypedRepo, TypedSource, TypedView
    from featurestore.stores.offline.folder import OfflineFolder
    from featurestore.stores.registry.base import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """Where estimates come from: the repository's folder, the offline folder, and the time at which
    the tables would be filled."""

    root: Path
    offline: OfflineFolder
    now_us: int


def with_estimates(
    plan: ChangePlan, repo: TypedRepo, registry: Registry, of: Estimates
) -> ChangePlan:
    """The plan with the tables that are there but must reach further back, and with what filling
    each table reads. Reads footers, never rows."""
    builds = [*plan.builds, *_longer(plan, repo, registry)]
    files = _Files(repo, of)
    return replace(
        plan,
        builds=tuple(
            replace(build, backfill=files.estimate(repo.views[build.view])) for build in builds
        ),
    )


def _longer(plan: ChangePlan, repo: TypedRepo, registry: Registry) -> Iterator[Build]:
    """Tables of changed views that hold rows already, but not as old as the view looks back."""
    building = {build.view for build in plan.builds}
    changed = {change.name for change in plan.changes if change.kind == "view"} - building
    views = [view for view in repo.views.values() if view.name in changed]
    if not views:
        return
    tables = online_tables(registry, views)
    fields = [table.field for table in tables.values()]
    states = table_states(registry, plan.environment, fields)
    for view in views:
        state = states[tables[view.storage_hash].field]
        if state.watermark_us is not None and not state.covers(view.reach_us):
            yield Build(view=view.name, storage_hash=view.storage_hash, is_new=False)


class _Files:
    """The files of sources, each source looked at once."""

    def __init__(self, repo: TypedRepo, of: Estimates) -> None:
        self._repo = repo
        self._of = of
        self._found: dict[str, Mapping[str, DataFiles]] = {}

    def estimate(self, view: TypedView) -> Backfill | None:
        """None where the source can't be read now."""
        start_us = None if view.reach_us is None else self._of.now_us - view.reach_us
        try:
            files = self._files(view.source)
            parts, whole = [], isinstance(view.source.definition, FileSource)
            for name, data in files.items():
                some, every = self._parts(self._repo.sources[name], data, view)
                parts += some
                # Footers do not say how many of a file's rows count.
                whole = whole and every and not data.counted
        except (StoreError, SourceMissing, SourceSchemaChanged):
            return None
        return backfill(parts, start_us=start_us, end_us=self._of.now_us, exact=whole)

    def _files(self, source: TypedSource) -> Mapping[str, DataFiles]:
        if source.name not in self._found:
            files = current_files(
                self._repo, [source], self._of.root, self._of.offline, pushed=False
            )
            logged = push_log.logged_files(self._of.offline)
            self._found[source.name] = {
                name: with_logged(data, logged.get(push_log.rows_table(name), ()), self._of.offline)
                for name, data in files.items()
                if name in self._repo.sources
            }
        return self._found[source.name]

    def _parts(
        self, source: TypedSource, data: DataFiles, view: TypedView
    ) -> tuple[list[Part], bool]:
        definition = source.definition
        mapping = definition.field_mapping if isinstance(definition, FileSource) else {}
        in_files = {ours: theirs for theirs, ours in mapping.items()}
        own = source.name == view.source.name
        created = source.created_time
        wanted = Wanted(
            # What a query makes of the rows that it reads, no footer says.
            event_time=in_files.get(source.event_time, source.event_time) if own else "",
            created_time=None if created is None else in_files.get(created, created),
            at_end=source.event_time_is == "end",
            columns={in_files.get(name, name) for name in _columns(view)} if own else None,
        )
        return parts_of(data, wanted, arrived=ARRIVED, s3=self._of.offline.s3)


def _columns(view: TypedView) -> set[str]:
    """The columns of its source that a view reads."""
    source = view.source
    names = {source.event_time, *source.definition.tiebreak_columns}
    names |= {key.name for key in view.keys}
    names |= {name for name in (source.created_time, source.op) if name is not None}
    for feature in view.features:
        names |= set(columns_of(feature.expression))
    for aggregation in view.aggregations:
        for tree in (aggregation.argument, aggregation.where, aggregation.by):
            names |= set() if tree is None else set(columns_of(tree))
    event_id = source.definition.event_id
    return names | ({event_id} if event_id is not None else set())

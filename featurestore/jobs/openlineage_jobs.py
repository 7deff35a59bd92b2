"""The OpenLineage events of our jobs, made from what is on record once a job is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.jobs.environments import applied_in
from featurestore.jobs.openlineage import OpenLineage, Tally
from featurestore.lifecycle.openlineage import Dataset, Event, State, Teller
from featurestore.records import LedgerRow, Record

if TYPE_CHECKING:
    from featurestore.compiler.change_plan import ChangePlan
    from featurestore.config import Settings
    from featurestore.jobs.training_sets import TrainingSet
    from featurestore.stores.registry.base import Registry

DEFINED = ("source", "view", "on_demand_view", "service")
"""Kinds that an apply tells of; features are the columns of their views."""
_STATES: Mapping[str, State] = {"FINISHED": "COMPLETE", "FAILED": "FAIL", "KILLED": "ABORT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """Tells OpenLineage of the jobs of one store; of nothing where it has no `exporter`. `root` is
    the repository's folder, absolute."""

    exporter: OpenLineage | None
    registry: Callable[[], Registry]
    project: str
    environment: str
    root: str

    @property
    def tally(self) -> Tally:
        """Events of this process that arrived, and those that did not."""
        return self.exporter.tally if self.exporter else Tally()

    def applied(self, plan: ChangePlan, *, at_us: int) -> None:
        """An apply is done."""
        if self.exporter:
            with self.exporter.telling("apply") as events:
                events.extend(apply_events(self.registry(), plan, root=self.root, at_us=at_us))

    def materialized(self, rows: Sequence[LedgerRow]) -> None:
        """A materialization is done."""
        if self.exporter:
            with self.exporter.telling("materialize") as events:
                events.extend(
                    materialize_events(
                        self.registry(),
                        rows,
                        project=self.project,
                        environment=self.environment,
                        root=self.root,
                    )
                )

    def trained_on(self, made: TrainingSet, *, started_us: int) -> None:
        """A training set is made."""
        if self.exporter:
            with self.exporter.telling(made.name) as events:
                events.extend(
                    training_events(
                        made, project=self.project, root=self.root, started_us=started_us
                    )
                )

    def ended(self, record_id: str, status: str, *, ended_us: int) -> None:
        """A run of an experiment is over: FINISHED, FAILED or KILLED."""
        if self.exporter:
            with self.exporter.telling(record_id) as events:
                events.extend(
                    run_events(
                        self.registry(),
                        record_id,
                        project=self.project,
                        root=self.root,
                        state=_STATES.get(status, "ABORT"),
                        ended_us=ended_us,
                    )
                )

    def close(self) -> None:
        """Close connections."""
        if self.exporter:
            self.exporter.close()


def open_telling(settings: Settings, registry: Callable[[], Registry]) -> Telling:
    """What `[lineage] openlineage` asks for. Raises `InvalidSettings`."""
    wanted = settings.lineage
    exporter = None
    if wanted.openlineage:
        token = wanted.openlineage_token
        exporter = OpenLineage.open(wanted.openlineage, token=token, root=settings.root)
    return Telling(
        exporter=exporter,
        registry=registry,
        project=settings.project.name,
        environment=settings.project.environment,
        root=str(settings.root),
    )


def apply_events(registry: Registry, plan: ChangePlan, *, root: str, at_us: int) -> list[Event]:
    """An apply: each SQL source, view and service that it changed, with what its columns come
    from."""
    applied = applied_in(registry, plan.environment)
    if applied is None or plan.is_empty:
        return []
    by_id = {stored.id: stored.record for stored in applied.records}
    teller = Teller(plan.project, root, by_id)
    changed = {(change.kind, change.name) for change in plan.changes}
    views = {name.partition(".")[0] for kind, name in changed if kind == "feature"}
    return [
        event
        for record in by_id.values()
        if record.kind in DEFINED
        and ((record.kind, record.name) in changed or (_is_view(record) and record.name in views))
        for event in teller.defined(record, at_us=at_us)
    ]


def materialize_events(
    registry: Registry, rows: Sequence[LedgerRow], *, project: str, environment: str, root: str
) -> list[Event]:
    """Materialization: a run of `materialize/<view>` for each ledger row, which reads what the view
    reads and writes its online table."""
    applied = applied_in(registry, environment)
    if applied is None:
        return []
    by_id = {stored.id: stored.record for stored in applied.records}
    teller = Teller(project, root, by_id)
    views = {record.name: record for record in by_id.values() if record.kind == "view"}
    events = list[Event]()
    for row in rows:
        if row.view in views:
            events += teller.materialized(views[row.view], row, environment=environment)
    return events


def training_events(made: TrainingSet, *, project: str, root: str, started_us: int) -> list[Event]:
    """The making of a training set: from the views whose features it holds, to its files."""
    record, registry = made.record.record, made.store.registry
    by_id = _above(registry, record)
    teller = Teller(project, root, by_id)
    features = {str(one["column"]): str(one["feature"]) for one in made.request["columns"]}
    schema = [(field.name, str(field.type)) for field in made.schema]
    uri = f"{made.store.offline.base}/{made.body['location']}"
    uri = uri if "://" in uri else f"file://{uri}"
    return list(
        teller.run(
            f"training_set/{record.name}",
            key=record.hash,
            started_us=started_us,
            ended_us=max(started_us, made.record.created_at_us),
            inputs=teller.views_of(record),
            outputs=[teller.training_set(record, schema, features, uri=uri)],
        )
    )


def run_events(
    registry: Registry,
    record_id: str,
    *,
    project: str,
    root: str,
    state: State,
    ended_us: int,
) -> list[Event]:
    """A run of an experiment that is over: the training sets that it read, the models that it
    made."""
    stored = registry.record(record_id)
    by_id = _above(registry, stored.record)
    teller = Teller(project, root, by_id)
    sets = [by_id[e.parent] for e in stored.record.parents if e.parent.startswith("training_set:")]
    below = registry.walk(record_id, direction="down", depth_max=1)
    ids = [link.child for link in below if link.child.startswith("model:")]
    models = [found.record for found in registry.records(ids=ids)]
    experiment, _, run_id = stored.record.name.rpartition("/")
    return list(
        teller.run(
            f"run/{experiment}",
            key=f"{run_id}/{ended_us}",
            started_us=stored.created_at_us,
            ended_us=max(ended_us, stored.created_at_us),
            inputs=_datasets(teller, sets),
            outputs=_datasets(teller, models),
            state=state,
        )
    )


def _is_view(record: Record) -> bool:
    return record.kind in ("view", "on_demand_view")


def _datasets(teller: Teller, records: Iterable[Record]) -> list[Dataset]:
    return [teller.dataset(record) for record in records]


def _above(registry: Registry, record: Record) -> Mapping[str, Record]:
    """A record's parents."""
    ids = sorted({edge.parent for edge in record.parents})
    return {stored.id: stored.record for stored in registry.records(ids=ids)}

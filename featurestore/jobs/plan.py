"""A plan: what a change means, decided from records, and all that lies downstream of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from featurestore.compiler.change_plan import Affected, Category, ChangePlan
from featurestore.compiler.changes import compare, objects_of
from featurestore.compiler.definition_records import definition_records
from featurestore.compiler.impact import Roots, roots_of
from featurestore.jobs.backfills import Estimates, with_estimates
from featurestore.jobs.environments import applied_in, environment_alias
from featurestore.jobs.lineage import downstream
from featurestore.jobs.uncollected import uncollected
from featurestore.lifecycle.changes import in_use
from featurestore.records import Record

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.records import Transformation
    from featurestore.stores.registry.base import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan and the records of the repository that it leads to, its repo record last."""

    plan: ChangePlan
    records: tuple[Record, ...]


def plan_repository(
    repo: TypedRepo,
    registry: Registry,
    environment: str,
    *,
    estimates: Estimates | None = None,
    records: tuple[Record, ...] | None = None,
) -> Planned:
    """What bringing `environment` to `repo` would change. `records` are those of the repository,
    where the caller has made them. Raises `InvalidRecord`, and what reading the graph raises."""
    with uncollected():
        records = definition_records(repo) if records is None else records
        plan = plan_records(records, registry, environment, project=repo.project)
    if estimates is not None and not plan.is_empty:
        plan = with_estimates(plan, repo, registry, estimates)
    return Planned(plan=plan, records=records)


def plan_records(
    target: Sequence[Record], registry: Registry, environment: str, *, project: str
) -> ChangePlan:
    """The same for a repo record and its parents, in any order."""
    wanted = next(record.id for record in target if record.kind == "repo")
    alias = environment_alias(environment)
    has = registry.aliases(alias).get(alias)
    current: Sequence[Record] = target  # of what it has already nothing needs to be read
    if has is None or has.target != wanted:
        applied = applied_in(registry, environment)
        current = () if applied is None else [stored.record for stored in applied.records]
    plan = compare(
        current,
        target,
        project=project,
        environment=environment,
        online_aliases=registry.aliases("online/"),
    )
    if plan.is_empty:
        return plan
    roots = roots_of(plan.changes, objects_of(current), objects_of(target))
    return replace(plan, affected=affected_by(roots, registry))


def affected_by(roots: Roots, registry: Registry) -> tuple[Affected, ...]:
    """What lies downstream of where changes begin, models first."""
    found: dict[str, Affected] = {}
    walks: tuple[tuple[list[str], Category, Transformation | None], ...] = (
        (roots.indirect, Category.BREAKING, "INDIRECT"),
        (roots.direct, Category.BREAKING, None),
        (roots.removed, Category.REMOVAL, None),
    )
    for starts, category, transformation in walks:
        for hit in downstream(registry, starts).every if starts else ():
            how = transformation or hit.transformation
            before = found.get(hit.id)
            if before is not None and before.transformation == "DIRECT":
                how = "DIRECT"
            found[hit.id] = Affected(
                kind=hit.kind,
                name=hit.name,
                label=hit.label,
                id=hit.id,
                transformation=how,
                category=category,
                aliases=in_use(hit.aliases) if hit.kind == "model" else hit.aliases,
            )
    above = _roots_above(list(found), roots, registry)
    order = {"model": 0, "service": 1, "training_set": 2, "run": 3}
    return tuple(
        replace(one, through=_named(above.get(one.id, set()), one))
        for one in sorted(
            found.values(), key=lambda one: (order[one.kind], not one.aliases, one.name, one.label)
        )
    )


def _roots_above(
    ids: Sequence[str], roots: Roots, registry: Registry
) -> Mapping[str, set[tuple[str, bool]]]:
    """By the id of what is affected: the beginnings of the change among its ancestors, each by its
    name and whether it is removed."""
    if not ids:
        return {}
    removed = set(registry.twins(roots.removed))
    starts = removed | set(registry.twins([*roots.direct, *roots.indirect]))
    parents = defaultdict[str, list[str]](list)
    for link in registry.walk(ids, direction="up"):
        parents[link.child].append(link.parent)
    above: dict[str, set[tuple[str, bool]]] = {}
    for record_id in TopologicalSorter(parents).static_order():
        own = {(_name_of(record_id), record_id in removed)} if record_id in starts else set()
        above[record_id] = own.union(*(above[parent] for parent in parents.get(record_id, ())))
    return above


def _named(above: set[tuple[str, bool]], one: Affected) -> tuple[str, ...]:
    """Of what loses something only that which it loses."""
    names = {name for name, gone in above if gone or one.category != Category.REMOVAL}
    return tuple(sorted(names - ({one.name} if one.kind == "service" else set())))


def _name_of(record_id: str) -> str:
    return record_id.partition(":")[2].rpartition("@")[0]

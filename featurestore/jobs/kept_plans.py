"""Serving plans that were made before: what lets an environment serve a version without anybody
having its definitions at hand.

Every plan that was ever served is a record. One whose tables are still there serves again: after a
rollback, in another environment, or for a model that pins an older version of its service.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from featurestore import windows
from featurestore.compiler.changes import table_alias
from featurestore.errors import CorruptPlan
from featurestore.jobs.online_tables import OnlineTable, current_tables, fields_in_use
from featurestore.jobs.store_identity import table_states
from featurestore.records import AliasIs, Edge, Record
from featurestore.wire.plan_parts import cut, merged
from featurestore.wire.plans import ALL_VIEWS, Lookup, ServingPlan

if TYPE_CHECKING:
    from featurestore.records import StoredRecord
    from featurestore.stores.registry.base import Registry

PLANS_SEARCHED_MAX = 32
"""Plans of one service, or of all views, that are looked at, the newest first."""
VERSION_DIGITS = 16
"""Of a service's version in the alias of a pinned plan."""


def plan_record(plan: ServingPlan, of: StoredRecord) -> Record:
    """The record of a serving plan; `of` is the service's record, of all views the repo's."""
    return Record(
        kind="serving_plan",
        name=plan.service,
        body={"blob": plan.hash, "service_version": plan.service_version},
        parents=(Edge(parent=of.id, role=of.record.kind),),
    )


def pinned_alias(environment: str, service: str, version: str) -> str:
    """`pinned/prod/delay_model/0123456789abcdef`."""
    return f"pinned/{environment}/{service}/{version[:VERSION_DIGITS]}"


class KeptPlans:
    """The plans that the registry remembers, as one environment may use them. Reads when asked."""

    def __init__(self, registry: Registry, environment: str) -> None:
        self._registry = registry
        self._environment = environment

    def service(self, name: str, version: str) -> ServingPlan | None:
        """A plan of this version of a service, on the current tables, if all rows that it needs are
        in the online store that the environment serves from."""
        for plan in self._plans(name, version):
            current = self._on_current_tables(plan)
            if current is not None and self._are_complete(current.lookups):
                return current
        return None

    def views(self, versions: Mapping[str, str]) -> ServingPlan | None:
        """The same for views (and on-demand views) by name and version: a plan of all of them that
        are complete; None where none is."""
        found: ServingPlan | None = None
        missing = dict(versions)
        for plan in self._plans_of_all_views():
            current = self._on_current_tables(plan)
            if current is None:
                continue
            for use in current.sent:
                if missing.get(use.name) != use.view_version:
                    continue
                part = cut(current, [use.name])
                if self._are_complete(part.lookups):
                    found = part if found is None else merged(found, part)
                    del missing[use.name]
            if not missing:
                break
        return found

    def pinned(
        self, served: Mapping[str, ServingPlan], models: Iterable[StoredRecord]
    ) -> dict[str, tuple[ServingPlan, StoredRecord]]:
        """By alias: the serving plans of the service versions that these model versions pin in the
        environment, each with its service's record; those that are `served` anyway are among them.
        A version whose rows are gone has none."""
        found = {}
        for service in self._pinned_services(models):
            name, version = service.record.name, str(service.record.body["version"])
            plan = served.get(name)
            if plan is None or plan.service_version != version:
                there = map(self._still_there, self._plans(name, version))
                plan = next((one for one in there if one is not None), None)
            if plan is not None:
                found[pinned_alias(self._environment, name, version)] = plan, service
        return found

    def _pinned_services(self, models: Iterable[StoredRecord]) -> list[StoredRecord]:
        """The service records of the models; where a model names none, those of the training sets
        that it was trained on."""
        services = list[str]()
        for model in models:
            parents = {edge.role: edge.parent for edge in model.record.parents}
            if "service" not in parents and "training_set" in parents:
                training_set = self._registry.record(parents["training_set"])
                parents |= {edge.role: edge.parent for edge in training_set.record.parents}
            services += [parents["service"]] if "service" in parents else []
        return self._registry.records(ids=sorted(set(services))) if services else []

    def _plans(self, name: str, version: str) -> Iterator[ServingPlan]:
        """Of a version of a service, the newest first."""
        stored = reversed(self._records[name])
        yield from self._read(
            one for one in stored if one.record.body.get("service_version") == version
        )

    def _plans_of_all_views(self) -> Iterator[ServingPlan]:
        """Those that environments serve, then those that this one has served, the newest first."""
        served = self._registry.aliases("serving/")
        ids = [a.target for name, a in served.items() if name.endswith(f"/{ALL_VIEWS}")]
        moves = self._registry.history(f"serving/{self._environment}/{ALL_VIEWS}")
        ids += [move.target for move in reversed(moves) if move.target is not None]
        wanted = list(dict.fromkeys(ids))[:PLANS_SEARCHED_MAX]
        stored = {one.id: one for one in self._registry.records(ids=wanted)}
        yield from self._read(stored[one] for one in wanted)

    def _read(self, stored: Iterable[StoredRecord]) -> Iterator[ServingPlan]:
        """Those that can't be read help nobody."""
        for one in islice(stored, PLANS_SEARCHED_MAX):
            with suppress(CorruptPlan):
                yield ServingPlan.from_bytes(self._registry.blob(str(one.record.body["blob"])))

    def tables_of(self, plans: Iterable[ServingPlan]) -> list[AliasIs]:
        """What a commit believes that lets these plans be served: that their tables are there."""
        names = {
            table_alias(lookup.view, lookup.storage_hash)
            for plan in plans
            for lookup in plan.lookups
        }
        return [AliasIs(n, self._tables[n].record_id) for n in sorted(names & self._tables.keys())]

    def _still_there(self, plan: ServingPlan) -> ServingPlan | None:
        """The plan as it is while nobody freed its tables, else on the current ones."""
        if all(lookup.field in self._fields for lookup in plan.lookups):
            return plan
        return self._on_current_tables(plan)

    def _on_current_tables(self, plan: ServingPlan) -> ServingPlan | None:
        """None where a table was given up."""
        lookups = []
        for lookup in plan.lookups:
            table = self._tables.get(table_alias(lookup.view, lookup.storage_hash))
            if table is None:
                return None
            lookups.append(replace(lookup, generation=table.generation, field=table.field))
        return replace(plan, lookups=tuple(lookups))

    def _are_complete(self, lookups: Sequence[Lookup]) -> bool:
        fields = [lookup.field for lookup in lookups]
        states = table_states(self._registry, self._environment, fields)
        return all(states[lookup.field].covers(reach_us(lookup)) for lookup in lookups)

    @cached_property
    def _records(self) -> Mapping[str, list[StoredRecord]]:
        found: dict[str, list[StoredRecord]] = defaultdict(list)
        for stored in self._registry.records(kind="serving_plan"):
            found[stored.record.name].append(stored)
        return found

    @cached_property
    def _tables(self) -> Mapping[str, OnlineTable]:
        return current_tables(self._registry)

    @cached_property
    def _fields(self) -> set[bytes]:
        return fields_in_use(self._registry)


def reach_us(lookup: Lookup) -> int | None:
    """How old a row may be and still change an answer; None is unbounded."""
    if lookup.windows is not None:
        return windows.reach_us(lookup.windows.outputs)
    if lookup.ttl_us is None:
        return None
    return lookup.ttl_us + (lookup.grace_us or 0)

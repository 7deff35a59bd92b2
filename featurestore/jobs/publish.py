"""Which services are served, and how: the serving aliases of an environment.

`serving/<environment>/<service>` moves to a new plan only when the rows of all its views are
there, so a change never makes a live service answer NOT_FOUND. The plan of all views (`*`), from
which lists of features are cut, has each view in its newest version whose rows are there.
`pinned/<environment>/<service>/<version>` keeps the plan of a version that a model in use pins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featurestore.compiler.changes import online_alias
from featurestore.compiler.online import compile_serving_plan
from featurestore.compiler.program import program_of
from featurestore.compiler.selection import named
from featurestore.compiler.typed import TypedRepo, TypedView, Use
from featurestore.errors import CommitConflict, CorruptPlan
from featurestore.fingerprint import fingerprint
from featurestore.jobs.environments import Applied, applied_in, live_models, stages_seen
from featurestore.jobs.kept_plans import KeptPlans, plan_record
from featurestore.jobs.online_tables import OnlineTable, ensure_online_tables
from featurestore.jobs.store_identity import table_states
from featurestore.records import Alias, AliasIs, Record
from featurestore.wire.plan_parts import cut, merged
from featurestore.wire.plans import ALL_VIEWS, ServingPlan

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

PUBLISH_ATTEMPTS_MAX = 32
"""How often publishing starts anew while others move the same aliases."""


def publish(
    repo: TypedRepo | None, registry: Registry, environment: str, *, serve_now: bool = False
) -> dict[str, bool]:
    """Move the serving aliases of what is complete, and remove those of services that are gone.

    Only what the environment has is published: services and views whose definition in `repo` is
    another one stay as they are. Without a repository (None) they are served by plans that were
    made before, where there are some. `serve_now` publishes what is not complete yet, too.

    Returns, for each service of the environment, whether its present version is served now. Raises
    `CommitConflict` where others keep moving the same aliases.
    """
    for _ in range(PUBLISH_ATTEMPTS_MAX - 1):
        with suppress(CommitConflict):
            return _publish_once(repo, registry, environment, serve_now)
    return _publish_once(repo, registry, environment, serve_now)


def _publish_once(
    repo: TypedRepo | None, registry: Registry, environment: str, serve_now: bool
) -> dict[str, bool]:
    applied = applied_in(registry, environment)
    if applied is None:
        return {}
    repo = _NOTHING if repo is None else repo
    kept = KeptPlans(registry, environment)
    return _Publication(repo, registry, environment, applied, serve_now, kept).run()


_NOTHING = TypedRepo(project="", entities={}, sources={}, views={}, services={}, version="")


@dataclass(frozen=True, slots=True)
class _Publication:
    """One attempt. What it read is what its commit requires."""

    repo: TypedRepo
    registry: Registry
    environment: str
    applied: Applied
    serve_now: bool
    kept: KeptPlans

    def run(self) -> dict[str, bool]:
        views = {
            view.name: view
            for view in self.repo.views.values()
            if self.applied.version("view", view.name) == view.version
        }
        tables = ensure_online_tables(self.registry, list(views.values()))
        fields = [tables[view.storage_hash].field for view in views.values()]
        states = table_states(self.registry, self.environment, fields)

        def is_complete(view: TypedView) -> bool:
            """Whether all rows that can change an answer were written to the online store that the
            environment serves from."""
            return states[tables[view.storage_hash].field].covers(view.reach_us)

        complete = {
            name: view for name, view in views.items() if self.serve_now or is_complete(view)
        }
        served = self.registry.aliases(self._alias(""))
        plans = self._services(complete, tables)
        if self.repo is _NOTHING:
            plans |= self._kept_services(served)
        everything = self._all_views(complete, tables, served.get(self._alias(ALL_VIEWS)))
        if everything.sent:
            plans[ALL_VIEWS] = everything
        self._commit(plans, served, {name: tables[v.storage_hash] for name, v in complete.items()})
        return self._state(plans, served)

    def _services(
        self, complete: Mapping[str, TypedView], tables: Mapping[str, OnlineTable]
    ) -> dict[str, ServingPlan]:
        return {
            service.name: self._compile(service.name, service.version, service.uses, tables)
            for service in self.repo.services.values()
            if self.applied.version("service", service.name) == service.version
            and all(use.view.name in complete for use in program_of(service.uses).joined)
        }

    def _kept_services(self, served: Mapping[str, Alias]) -> dict[str, ServingPlan]:
        """Plans that were made before, of services that are not served in the environment's
        version."""
        found = dict[str, ServingPlan]()
        for name, stored in self.applied.objects.get("service", {}).items():
            if not self._is_current(name, served.get(self._alias(name))):
                plan = self.kept.service(name, str(stored.record.body["version"]))
                found |= {} if plan is None else {name: plan}
        return found

    def _all_views(
        self,
        complete: Mapping[str, TypedView],
        tables: Mapping[str, OnlineTable],
        served: Alias | None,
    ) -> ServingPlan:
        uses = [named(view, view.features) for view in complete.values()]
        computed = [
            named(view, view.features)
            for view in self.repo.on_demand.values()
            if self.applied.version("on_demand_view", view.name) == view.version
        ]
        uses += [
            u for u in computed if all(j.view.name in complete for j in program_of([u]).joined)
        ]
        plan = self._compile(ALL_VIEWS, "", tuple(uses), tables)
        older = cut(plan, [])
        if served is not None:
            blob = str(self.registry.record(served.target).record.body["blob"])
            # What can't be read can't be kept; the servers report it, and a new plan helps.
            with suppress(CorruptPlan):
                older = ServingPlan.from_bytes(self.registry.blob(blob))
        whole = merged(plan, plan)
        if self.repo is _NOTHING:
            exact = self.kept.views(self._missing(whole))
            whole = whole if exact is None else merged(whole, exact)
        if stays := sorted(self._missing(whole).keys() & {use.name for use in older.sent}):
            whole = merged(whole, cut(older, stays))
        return replace(whole, service_version=_version(whole))

    def _missing(self, plan: ServingPlan) -> dict[str, str]:
        """The versions of the environment's views that a plan does not send, by name."""
        there = {use.name for use in plan.sent}
        kinds = (self.applied.objects.get(kind, {}) for kind in ("view", "on_demand_view"))
        return {
            name: str(stored.record.body["version"])
            for named in kinds
            for name, stored in named.items()
            if name not in there
        }

    def _compile(
        self,
        name: str,
        version: str,
        uses: tuple[Use, ...],
        tables: Mapping[str, OnlineTable],
    ) -> ServingPlan:
        return compile_serving_plan(
            name,
            version,
            uses,
            project=self.applied.repo.record.name,
            tables={h: (table.generation, table.field) for h, table in tables.items()},
        )

    def _commit(
        self,
        plans: Mapping[str, ServingPlan],
        served: Mapping[str, Alias],
        complete: Mapping[str, OnlineTable],
    ) -> None:
        """Blobs and records first, aliases last, in one commit; none where nothing moves."""
        stages = stages_seen(self.registry, self.environment)
        pinned = self.kept.pinned(plans, live_models(self.registry, self.environment))
        records = {self._alias(name): self._record(plan) for name, plan in plans.items()}
        records |= {alias: plan_record(plan, of) for alias, (plan, of) in pinned.items()}
        there = {**served, **self.registry.aliases(f"pinned/{self.environment}/")}
        targets: dict[str, str | None] = {alias: record.id for alias, record in records.items()}
        targets |= {alias: None for alias in there if self._is_gone(alias, plans, pinned)}
        moves = {
            alias: target
            for alias, target in targets.items()
            if target != (there[alias].target if alias in there else None)
        }
        if not moves:
            return
        now = {alias: there[alias].target if alias in there else None for alias in moves}
        every = [*((self._alias(name), plan) for name, plan in plans.items())]
        every += [(alias, plan) for alias, (plan, _) in pinned.items()]
        lets_go = any(to is None and alias.startswith("pinned/") for alias, to in moves.items())
        self.registry.commit(
            requires=[
                AliasIs(self.applied.alias, self.applied.repo.id),
                *(stages if lets_go else ()),
                *(AliasIs(alias, target) for alias, target in now.items()),
                *(
                    AliasIs(online_alias(self.repo.views[name]), table.record_id)
                    for name, table in complete.items()
                ),
                *self.kept.tables_of(plan for alias, plan in every if alias in moves),
            ],
            records=[records[alias] for alias in moves if alias in records],
            blobs=[plan.to_bytes() for alias, plan in every if alias in moves],
            aliases=moves,
            reason="serve now" if self.serve_now else "complete",
        )

    def _is_gone(
        self, alias: str, plans: Mapping[str, ServingPlan], pinned: Collection[str]
    ) -> bool:
        if alias.startswith("pinned/"):
            return alias not in pinned
        name = alias.removeprefix(self._alias(""))
        if name == ALL_VIEWS:
            return name not in plans
        return name not in self.applied.objects.get("service", {})

    def _record(self, plan: ServingPlan) -> Record:
        everything = plan.service == ALL_VIEWS
        of = self.applied.repo if everything else self.applied.objects["service"][plan.service]
        return plan_record(plan, of)

    def _state(
        self, plans: Mapping[str, ServingPlan], served: Mapping[str, Alias]
    ) -> dict[str, bool]:
        """Whether each service's present version is served; what was not published in this attempt
        may have been before, from this version of its definition."""
        state = {}
        for name in sorted(self.applied.objects.get("service", {})):
            state[name] = name in plans or self._is_current(name, served.get(self._alias(name)))
        return state

    def _is_current(self, service: str, alias: Alias | None) -> bool:
        """Whether what is served of a service is the version that the environment has."""
        if alias is None:
            return False
        body = self.registry.record(alias.target).record.body
        return body.get("service_version") == self.applied.version("service", service)

    def _alias(self, service: str) -> str:
        return f"serving/{self.environment}/{service}"


def _version(plan: ServingPlan) -> str:
    """Of the plan of all views: it moves when one of them does."""
    return fingerprint(sorted([use.name, use.view_version] for use in plan.sent))

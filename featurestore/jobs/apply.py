"""Plan and apply: bring an environment to what the repository says, and serve what is complete.

Records and the environment's alias move in one commit that states what it believed, so of two
applies at once exactly one wins. What follows (online tables, serving aliases) is idempotent and
done by every apply, also by one that finds nothing to change: killed anywhere and run again, it
ends in the same state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.compiler.changes import ChangePlan, online_alias
from featurestore.compiler.definition_records import function_blobs
from featurestore.compiler.online import compile_serving_plan
from featurestore.errors import StalePlan
from featurestore.jobs.environments import (
    Applied,
    applied_in,
    current_repo,
    current_views,
    environment_alias,
)
from featurestore.jobs.moves import move
from featurestore.jobs.online_tables import (
    OnlineTable,
    add_generation,
    drop_unused_tables,
    ensure_online_tables,
    fields_in_use,
    online_tables,
    serving_plans,
)
from featurestore.jobs.plan import plan_repository
from featurestore.jobs.publish import publish
from featurestore.records import show_id

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.jobs.backfills import Estimates
    from featurestore.stores.registry.base import Registry

__all__ = [
    "Applied",
    "ApplyResult",
    "OnlineTable",
    "add_generation",
    "applied_in",
    "apply",
    "current_repo",
    "current_views",
    "drop_unused_tables",
    "ensure_online_tables",
    "environment_alias",
    "fields_in_use",
    "online_alias",
    "online_tables",
    "plan",
    "publish",
    "serving_plans",
]

APPLY_ATTEMPTS_MAX = 32
"""How often an apply without a given plan makes a new one while others move the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyResult:
    """What an apply did: the plan that it carried out, the repo record that the environment has
    since, and for each service whether its present version is served."""

    plan: ChangePlan
    repo: str
    serving: dict[str, bool]


def plan(
    repo: TypedRepo,
    registry: Registry,
    environment: str,
    *,
    estimates: Estimates | None = None,
) -> ChangePlan:
    """What `apply` would change; changes nothing. `estimates`: also say what filling the tables
    will read. Raises `InvalidRecord`."""
    return plan_repository(repo, registry, environment, estimates=estimates).plan


def apply(
    repo: TypedRepo,
    registry: Registry,
    environment: str,
    *,
    plan: ChangePlan | None = None,
    serve_now: bool = False,
    allow_production_impact: str | None = None,
) -> ApplyResult:
    """Carry out `plan`, or else whatever it takes to bring the environment to `repo`: without a
    plan, an apply that another one beat makes a new plan and tries again. `serve_now`: serve new
    versions before their rows are there. `allow_production_impact` is the reason for a change below
    a model in production.

    Raises `StalePlan` where the given plan is of another environment or repository, where the
    environment has moved since, or where others keep moving it; `DestructiveChange`,
    `ProductionImpact`; `InvalidRecord`, `TypeMismatch`.
    """
    for service in repo.services.values():
        # What can't be served must fail now, not when the definitions are there already.
        compile_serving_plan(
            service.name, service.version, service.uses, project=repo.project, tables={}
        )
    done = _commit(repo, registry, environment, plan, allow_production_impact)
    ensure_online_tables(registry, list(repo.views.values()))
    serving = publish(repo, registry, environment, serve_now=serve_now)
    return ApplyResult(plan=done, repo=done.target, serving=serving)


def _commit(
    repo: TypedRepo,
    registry: Registry,
    environment: str,
    plan: ChangePlan | None,
    allow_production_impact: str | None,
) -> ChangePlan:
    """Records and the environment's alias in one commit; the plan that was carried out."""
    attempts = 1 if plan is not None else APPLY_ATTEMPTS_MAX
    for attempts_left in reversed(range(attempts)):
        found = plan_repository(repo, registry, environment)
        if plan is not None:
            _check_fits(plan, found.plan)
        try:
            move(
                registry,
                found.plan,
                records=found.records,
                blobs=function_blobs(repo),
                action="apply",
                allow_production_impact=allow_production_impact,
            )
        except StalePlan:
            if attempts_left:
                continue
            raise
        return plan or found.plan
    raise AssertionError("the last attempt returns or raises")


def _check_fits(plan: ChangePlan, now: ChangePlan) -> None:
    """Whether `plan` is the one that would be made `now`."""
    if (plan.project, plan.environment) != (now.project, now.environment):
        raise StalePlan(
            f"The plan is for environment {plan.environment!r} of project {plan.project!r}, not "
            f"for {now.environment!r} of {now.project!r}"
        )
    if plan.target != now.target:
        raise StalePlan(
            f"The plan leads to {show_id(plan.target)}, but the repository is "
            f"{show_id(now.target)}: its definitions changed after the plan was made. Make a new "
            "plan"
        )
    if plan.base != now.base:
        raise StalePlan(
            f"Environment {plan.environment!r} is at {now.base or 'nothing'}, the plan begins at "
            f"{plan.base or 'nothing'}: another apply was first. Make a new plan"
        )

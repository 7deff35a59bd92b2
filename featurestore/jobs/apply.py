"""Plan and apply: bring an environment to what the repository says, and serve what is complete.

Records and the environment's alias move in one commit that states what it believed, so of two
applies at once exactly one wins. What follows (online tables, serving aliases) is idempotent and
done by every apply, also by one that finds nothing to change: killed anywhere and run again, it
ends in the same state.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.compiler.changes import ChangePlan, online_alias, plan_changes
from featurestore.compiler.definition_records import definition_records, function_blobs
from featurestore.compiler.online import compile_serving_plan
from featurestore.errors import CommitConflict, StalePlan
from featurestore.jobs.environments import (
    Applied,
    applied_in,
    current_repo,
    current_views,
    environment_alias,
)
from featurestore.jobs.online_tables import (
    OnlineTable,
    add_generation,
    drop_unused_tables,
    ensure_online_tables,
    fields_in_use,
    online_tables,
    serving_plans,
)
from featurestore.jobs.publish import publish
from featurestore.records import AliasIs, show_id

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.stores.registry.base import Registry

__all__ = [
    "Applied",
    "ApplyResult",
    "OnlineTable",
    "add_generation",
    "applied_in",
    "apply",
    "apply_changes",
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


def plan(repo: TypedRepo, registry: Registry, environment: str) -> ChangePlan:
    """What `apply` would change; changes nothing. Raises `InvalidRecord`."""
    applied = applied_in(registry, environment)
    return plan_changes(
        applied.records if applied else None,
        repo,
        environment=environment,
        online_aliases=registry.aliases("online/"),
    )


def apply(
    repo: TypedRepo,
    registry: Registry,
    environment: str,
    *,
    plan: ChangePlan | None = None,
    serve_now: bool = False,
) -> ApplyResult:
    """Carry out `plan`, or else whatever it takes to bring the environment to `repo`: without a
    plan, an apply that another one beat makes a new plan and tries again.

    Raises `StalePlan` where the given plan no longer fits, or where others keep moving the
    environment; `InvalidRecord`, `TypeMismatch`.
    """
    if plan is not None:
        return apply_changes(plan, repo, registry, environment, serve_now=serve_now)
    for _ in range(APPLY_ATTEMPTS_MAX - 1):
        with suppress(StalePlan):
            fresh = _plan(repo, registry, environment)
            return apply_changes(fresh, repo, registry, environment, serve_now=serve_now)
    fresh = _plan(repo, registry, environment)
    return apply_changes(fresh, repo, registry, environment, serve_now=serve_now)


_plan = plan


def apply_changes(
    plan: ChangePlan,
    repo: TypedRepo,
    registry: Registry,
    environment: str,
    *,
    serve_now: bool = False,
) -> ApplyResult:
    """Carry out `plan`: records and the environment's alias in one commit, then the online tables
    that are missing, then the serving aliases of what is complete (`serve_now`: of everything).

    Raises `StalePlan` where the plan is of another environment, where the repository is no longer
    the one planned, or where the environment has moved since.
    """
    records = definition_records(repo)
    _check_fits(plan, repo, environment, target=records[-1].id)
    for service in repo.services.values():
        # What can't be served must fail now, not when the definitions are there already.
        compile_serving_plan(
            service.name, service.version, service.uses, project=repo.project, tables={}
        )
    alias = environment_alias(environment)
    try:
        registry.commit(
            requires=[AliasIs(alias, plan.base)],
            records=() if plan.is_empty else records,
            blobs=() if plan.is_empty else function_blobs(repo),
            aliases={} if plan.is_empty else {alias: plan.target},
            reason="apply",
        )
    except CommitConflict as error:
        raise StalePlan(
            f"Environment {environment!r} is at {error.found or 'nothing'}, the plan begins at "
            f"{error.expected or 'nothing'}: another apply was first. Make a new plan"
        ) from error
    ensure_online_tables(registry, list(repo.views.values()))
    serving = publish(repo, registry, environment, serve_now=serve_now)
    return ApplyResult(plan=plan, repo=plan.target, serving=serving)


def _check_fits(plan: ChangePlan, repo: TypedRepo, environment: str, *, target: str) -> None:
    if (plan.project, plan.environment) != (repo.project, environment):
        raise StalePlan(
            f"The plan is for environment {plan.environment!r} of project {plan.project!r}, not "
            f"for {environment!r} of {repo.project!r}"
        )
    if plan.target != target:
        raise StalePlan(
            f"The plan leads to {show_id(plan.target)}, but the repository is {show_id(target)}: "
            "its definitions changed after the plan was made. Make a new plan"
        )

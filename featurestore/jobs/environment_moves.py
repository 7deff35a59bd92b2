"""Environments as a whole: what there is, how two differ, promote, roll back, delete.

An environment is a set of aliases. Bringing one to where another one is, or back to where it was,
moves pointers: `env/<environment>` in one commit with the same refusals as an apply, then the
serving aliases, by plans that were made before. No row is read or written. What is served is what
the online store has; whatever it lacks, the next materialization brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.config import NAME_PATTERN
from featurestore.errors import DestructiveChange, InvalidRequest
from featurestore.jobs.environments import (
    Applied,
    applied_in,
    environment_alias,
    environment_aliases,
    live_models,
    stages_seen,
)
from featurestore.jobs.moves import commit_or_stale, move
from featurestore.jobs.plan import plan_records
from featurestore.jobs.publish import publish
from featurestore.lifecycle.changes import model_prefix, stages_in
from featurestore.records import AliasIs, show_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurestore.compiler.change_plan import ChangePlan
    from featurestore.records import AliasEvent, Record
    from featurestore.stores.registry.base import Registry

DIGITS_MIN = 4
"""Of a repo record's hash that is to be found in a history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What an environment has: its repo record since `at_us` (µs), who moved it there and why, how
    many views and services, and how many of the services are served in this very version."""

    name: str
    repo: str
    at_us: int
    author: str
    reason: str
    views: int
    services: int
    served: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What moving an environment did: the plan that was carried out, and for each service whether
    its version is served (the others wait to be materialized)."""

    action: str
    plan: ChangePlan
    serving: dict[str, bool]


def list_environments(registry: Registry) -> tuple[Environment, ...]:
    """All environments, by name."""
    return tuple(_described(registry, name) for name in sorted(environment_aliases(registry)))


def diff(registry: Registry, source: str, target: str) -> ChangePlan:
    """What promoting `source` to `target` would change. Raises `InvalidRequest` where there is no
    environment `source`."""
    return _plan_to(registry, _applied(registry, source), target)


def promote(
    registry: Registry,
    source: str,
    target: str,
    *,
    reason: str = "",
    allow_production_impact: str | None = None,
) -> Moved:
    """Bring `target` (a new environment, perhaps) to the repository that `source` has.

    A new environment serves from the online store of the one that it was made of, until it is
    materialized into another one. Raises `InvalidRequest`; `DestructiveChange`, `ProductionImpact`;
    `StalePlan` where one of the two moved meanwhile.
    """
    _check_name(target)
    if source == target:
        raise InvalidRequest(f"{source!r} is promoted to itself; name another environment")
    applied = _applied(registry, source)
    plan = _plan_to(registry, applied, target)
    stores = registry.aliases("store/")
    store = stores.get(f"store/{source}")
    adopted = {} if store is None or plan.base is not None else {f"store/{target}": store.target}
    return _moved(
        registry,
        plan,
        f"promote {source}",
        reason,
        allow_production_impact,
        requires=[AliasIs(applied.alias, applied.repo.id)],
        aliases={name: to for name, to in adopted.items() if name not in stores},
    )


def rollback(
    registry: Registry,
    environment: str,
    *,
    to: str | None = None,
    reason: str = "",
    allow_production_impact: str | None = None,
) -> Moved:
    """Bring an environment back to the repository that it had before the last move, or to that one
    of its history that `to` names (`repo:shop@1a2b3c4d`, `1a2b3c4d`).

    Raises `InvalidRequest` where it never had another one, or not that one; `DestructiveChange`,
    `ProductionImpact`; `StalePlan` where it moved meanwhile.
    """
    now = _applied(registry, environment)
    wanted = _earlier(registry.history(now.alias), now.repo.id, environment, to)
    plan = plan_records(
        _repository(registry, wanted),
        registry,
        environment,
        project=now.repo.record.name,
    )
    return _moved(registry, plan, "rollback", reason, allow_production_impact)


def delete(registry: Registry, environment: str, *, reason: str = "") -> Environment:
    """Remove the aliases of an environment: nothing is served from it any more, and the next sweep
    frees online tables that nothing else needs. Its records and its history stay.

    Raises `InvalidRequest` where there is none, `DestructiveChange` while models are in use in it,
    `StalePlan` where it moved meanwhile.
    """
    now = _applied(registry, environment)
    stages = stages_seen(registry, environment)
    found = _described(registry, environment)
    if models := live_models(registry, environment):
        prefix = model_prefix(environment)
        names = [n for n in registry.aliases(prefix) if stages_in([n], environment)]
        raise DestructiveChange(
            f"Environment {environment!r} has models in use: {', '.join(sorted(names))}. "
            "Archive them first",
            models=[show_id(model.id) for model in models],
        )
    gone = {now.alias: now.repo.id}
    for kind in ("serving", "pinned"):
        for name, alias in registry.aliases(f"{kind}/{environment}/").items():
            gone[name] = alias.target
    store = f"store/{environment}"
    gone |= {name: a.target for name, a in registry.aliases(store).items() if name == store}
    commit_or_stale(
        registry,
        requires=[*(AliasIs(name, target) for name, target in gone.items()), *stages],
        aliases=dict.fromkeys(gone),
        reason=f"delete: {reason}" if reason else "delete",
    )
    return found


def _moved(
    registry: Registry,
    plan: ChangePlan,
    action: str,
    reason: str,
    allow_production_impact: str | None,
    *,
    requires: Sequence[AliasIs] = (),
    aliases: dict[str, str] | None = None,
) -> Moved:
    move(
        registry,
        plan,
        action=action,
        reason=reason,
        allow_production_impact=allow_production_impact,
        requires=requires,
        aliases=aliases,
    )
    return Moved(action=action, plan=plan, serving=publish(None, registry, plan.environment))


def _plan_to(registry: Registry, applied: Applied, target: str) -> ChangePlan:
    records = [stored.record for stored in applied.records]
    return plan_records(records, registry, target, project=applied.repo.record.name)


def _repository(registry: Registry, repo: str) -> list[Record]:
    """A repo record and its parents."""
    stored = registry.record(repo)
    ids = [edge.parent for edge in stored.record.parents]
    return [stored.record, *(one.record for one in registry.records(ids=ids))]


def _earlier(history: Sequence[AliasEvent], now: str, environment: str, to: str | None) -> str:
    """The repo record to go back to."""
    there = [event.target for event in reversed(history)]
    earlier = [target for target in dict.fromkeys(there) if target is not None and target != now]
    known = ", ".join(show_id(target) for target in earlier[:8])
    if to is None:
        previous = history[-1].previous
        if previous is None:
            raise InvalidRequest(
                f"Environment {environment!r} has had no repository before this one, "
                f"{show_id(now)}, to which it could go back"
            )
        return previous
    digits = to.rpartition("@")[2]
    found = [target for target in earlier if target.rpartition("@")[2].startswith(digits)]
    if len(digits) < DIGITS_MIN:
        found = []
    if len(found) != 1:
        raise InvalidRequest(
            f"Environment {environment!r} has never had {to!r}"
            + (f"; it had {known}" if known else "")
        )
    return found[0]


def _applied(registry: Registry, environment: str) -> Applied:
    applied = applied_in(registry, environment)
    if applied is None:
        known = ", ".join(sorted(environment_aliases(registry))) or "none"
        raise InvalidRequest(f"There is no environment {environment!r}; there is: {known}")
    return applied


def _check_name(environment: str) -> None:
    if not NAME_PATTERN.fullmatch(environment):
        raise InvalidRequest(
            f"{environment!r} is not an environment's name: 1 to 63 letters, digits, _ and -, "
            "beginning with a letter or digit"
        )


def _described(registry: Registry, environment: str) -> Environment:
    applied = _applied(registry, environment)
    last = registry.history(environment_alias(environment))[-1]
    services = applied.objects.get("service", {})
    served = registry.aliases(f"serving/{environment}/")
    plans = registry.records(ids=sorted({alias.target for alias in served.values()}))
    versions = {(p.record.name, p.record.body.get("service_version")) for p in plans}
    return Environment(
        name=environment,
        repo=applied.repo.id,
        at_us=last.at_us,
        author=last.author,
        reason=last.reason,
        views=sum(len(applied.objects.get(kind, {})) for kind in ("view", "on_demand_view")),
        services=len(services),
        served=sum((name, applied.version("service", name)) in versions for name in services),
    )

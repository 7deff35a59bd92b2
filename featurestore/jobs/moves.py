"""One move of an environment to another repo record: refused, or allowed and recorded, and then one
commit that states what it believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from featurestore.errors import CommitConflict, StalePlan
from featurestore.jobs.environments import environment_alias, stages_seen
from featurestore.lifecycle.changes import check_allowed, impact_record
from featurestore.records import AliasIs, Record

if TYPE_CHECKING:
    from featurestore.compiler.change_plan import ChangePlan
    from featurestore.stores.registry.base import Registry


def move(
    registry: Registry,
    plan: ChangePlan,
    *,
    action: str,
    reason: str = "",
    allow_production_impact: str | None = None,
    records: Sequence[Record] = (),
    blobs: Sequence[bytes] = (),
    requires: Sequence[AliasIs] = (),
    aliases: Mapping[str, str | None] | None = None,
) -> None:
    """Bring the plan's environment from its base to its target.

    Args:
        action, reason: what is done (`apply`) and why, for the history of the aliases.
        allow_production_impact: why a change below a model in production is meant.
        records, blobs: what the target needs, where it may be new.
        requires, aliases: what else the commit believes and moves.

    Raises `DestructiveChange`, `ProductionImpact`; `StalePlan` where the environment is not (or no
    longer) at the plan's base, a model downstream came into or left a stage since the plan was
    made, or something else moved that the commit requires.
    """
    alias = environment_alias(plan.environment)
    live = check_allowed(plan.affected, plan.environment, reason=allow_production_impact)
    why = "; ".join(filter(None, (reason, allow_production_impact if live else "")))
    moved: dict[str, str | None] = {alias: plan.target} if plan.moves else {}
    kept = list(records) if plan.moves else []
    if live:
        kept.append(
            impact_record(
                plan.environment,
                plan.target,
                live,
                reason=allow_production_impact or "",
                action=action,
            )
        )
    commit_or_stale(
        registry,
        requires=[AliasIs(alias, plan.base), *_stages_checked(registry, plan), *requires],
        records=kept,
        blobs=blobs if plan.moves else (),
        aliases={**moved, **(aliases or {})},
        reason=f"{action}: {why}" if why else action,
    )


def _stages_checked(registry: Registry, plan: ChangePlan) -> list[AliasIs]:
    """In which stages the models downstream were when the plan was made, for that is what decided
    whether it is allowed."""
    models = {one.id: one for one in plan.affected if one.kind == "model"}
    if not models:
        return []
    checked = {alias: one.id for one in models.values() for alias in one.aliases}
    seen = stages_seen(registry, plan.environment, {one.name for one in models.values()})
    # One of them that stands in a stage now and did not then has come there since.
    return [
        AliasIs(now.alias, checked.get(now.alias, None if now.target in models else now.target))
        for now in seen
    ]


def commit_or_stale(
    registry: Registry,
    *,
    requires: Sequence[AliasIs],
    aliases: Mapping[str, str | None],
    reason: str,
    records: Sequence[Record] = (),
    blobs: Sequence[bytes] = (),
) -> None:
    """A commit of something that was decided before. Raises `StalePlan` where it no longer fits."""
    try:
        registry.commit(
            requires=requires, records=records, blobs=blobs, aliases=aliases, reason=reason
        )
    except CommitConflict as error:
        raise StalePlan(
            f"{error.alias} is at {error.found or 'nothing'}, the plan begins at "
            f"{error.expected or 'nothing'}: another change was first. Make a new plan"
        ) from error

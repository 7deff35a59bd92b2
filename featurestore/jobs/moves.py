"""One move of an environment to another repo record: refused, or allowed and recorded, and then one
commit that states what it believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from featurestore.errors import CommitConflict, StalePlan
from featurestore.jobs.environments import environment_alias
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
    longer) at the plan's base, or something else moved that the commit requires.
    """
    alias = environment_alias(plan.environment)
    live = check_allowed(plan.affected, plan.environment, reason=allow_production_impact)
    why = "; ".join(filter(None, (reason, allow_production_impact if live else "")))
    moved: dict[str, str | None] = {} if plan.is_empty else {alias: plan.target}
    kept = [] if plan.is_empty else list(records)
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
        requires=[AliasIs(alias, plan.base), *requires],
        records=kept,
        blobs=() if plan.is_empty else blobs,
        aliases={**moved, **(aliases or {})},
        reason=f"{action}: {why}" if why else action,
    )


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

"""Keep what models in use read: `pinned/<environment>/<service>/<version>`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from featurestore.errors import CommitConflict
from featurestore.jobs.kept_plans import KeptPlans, plan_record
from featurestore.records import AliasIs

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

PIN_ATTEMPTS_MAX = 32
"""How often pinning starts anew while others move the same aliases."""


def pin(registry: Registry, environment: str) -> None:
    """Pin the serving plans of the service versions that the models in use of `environment` were
    trained on, and let go of the others; publishing does the same. What comes into use is so kept
    from the next sweep.

    Raises `CommitConflict` where others keep moving the same aliases.
    """
    for _ in range(PIN_ATTEMPTS_MAX - 1):
        with suppress(CommitConflict):
            return _pin_once(registry, environment)
    return _pin_once(registry, environment)


def _pin_once(registry: Registry, environment: str) -> None:
    kept = KeptPlans(registry, environment)
    pinned = kept.pinned({})
    records = {alias: plan_record(plan, of) for alias, (plan, of) in pinned.items()}
    there = {name: a.target for name, a in registry.aliases(f"pinned/{environment}/").items()}
    wanted: dict[str, str | None] = {
        **dict.fromkeys(there),
        **{a: r.id for a, r in records.items()},
    }
    moves = {name: to for name, to in wanted.items() if to != there.get(name)}
    if not moves:
        return
    plans = [plan for alias, (plan, _) in pinned.items() if alias in moves]
    registry.commit(
        requires=[
            *(AliasIs(name, there.get(name)) for name in moves),
            *kept.tables_of(plans),
        ],
        records=[records[name] for name in moves if name in records],
        blobs=[plan.to_bytes() for plan in plans],
        aliases=moves,
        reason="models in use",
    )

"""Keep what a model reads from the commit on that brings it into use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featurestore.jobs.kept_plans import KeptPlans, plan_record
from featurestore.records import AliasIs, Record

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What a commit that pins serving plans says besides: arguments of `Registry.commit`."""

    requires: tuple[AliasIs, ...] = ()
    records: tuple[Record, ...] = ()
    blobs: tuple[bytes, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


def pins_for(registry: Registry, environment: str, model: str) -> Pins:
    """The pin of the service version that a model version (its record's id) was trained on; nothing
    where its rows are gone or were never written. What others pinned stays: letting go is for the
    next publication, which looks at all models in use."""
    kept = KeptPlans(registry, environment)
    there = registry.aliases(f"pinned/{environment}/")
    pinned = kept.pinned({}, registry.records(ids=[model]))
    records = {alias: plan_record(plan, service) for alias, (plan, service) in pinned.items()}
    now = {alias: there[alias].target if alias in there else None for alias in pinned}
    # One that is there is not replaced: servers answer from it already.
    new = [alias for alias in pinned if now[alias] is None]
    plans = [pinned[alias][0] for alias in new]
    return Pins(
        requires=(*(AliasIs(name, to) for name, to in now.items()), *kept.tables_of(plans)),
        records=tuple(records[alias] for alias in new),
        blobs=tuple(plan.to_bytes() for plan in plans),
        aliases={alias: records[alias].id for alias in new},
    )

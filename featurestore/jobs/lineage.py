"""What lies downstream of records: services, training sets, runs and models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from featurestore.lifecycle.lineage import Blast, Hit, label_of, reached
from featurestore.records import Transformation

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

LEAVES = ("repo",)
"""Kinds that a walk does not go past: a repo record has every definition as parent."""

_KINDS = ("service", "training_set", "run", "model")


def downstream(registry: Registry, record_ids: Iterable[str], *, at_us: int | None = None) -> Blast:
    """What depends on these records, or on others that say the same (`Registry.twins`): services
    of the environments, training sets, runs, and models with their stages. Ids that the registry
    does not have are left out: nothing depends on them.

    `at_us`: as it stood then. Raises `LimitExceeded`, `StoreUnavailable`.
    """
    with registry.session():
        starts = registry.twins(list(record_ids))
        if not starts:
            return Blast()
        links = registry.walk(starts, direction="down", at_us=at_us, past=LEAVES)
        return blast_of(registry, reached(starts, links), at_us=at_us)


def blast_of(
    registry: Registry,
    how: Mapping[str, Transformation],
    *,
    at_us: int | None = None,
    homes: Mapping[str, tuple[str, ...]] | None = None,
) -> Blast:
    """Those of the records reached that people ask for, with their labels and aliases. `homes` are
    the environments of the services, where the caller has asked for them."""
    found = {kind: [i for i in how if i.startswith(f"{kind}:")] for kind in _KINDS}
    if homes is None:
        homes = environments_of(registry, found["service"], at_us=at_us)
    others = [*found["training_set"], *found["run"], *found["model"]]
    names = aliases_of(registry, others, at_us=at_us)
    models = registry.glances(ids=found["model"], with_parents=False) if found["model"] else ()
    numbers = {model.id: model.body.get("number") for model in models}

    def hits(kind: str, aliases: Mapping[str, tuple[str, ...]]) -> tuple[Hit, ...]:
        made = (
            Hit(
                kind=kind,
                name=(name := name_of(record_id)),
                id=record_id,
                transformation=how[record_id],
                label=label_of(kind, name, record_id, number=numbers.get(record_id)),
                aliases=aliases.get(record_id, ()),
            )
            for record_id in found[kind]
        )
        return tuple(sorted(made, key=lambda hit: (hit.name, len(hit.label), hit.label, hit.id)))

    return Blast(
        services=tuple(hit for hit in hits("service", homes) if hit.aliases),
        training_sets=hits("training_set", names),
        runs=hits("run", names),
        models=hits("model", names),
    )


def name_of(record_id: str) -> str:
    """The name in a record id."""
    return record_id.partition(":")[2].rpartition("@")[0]


def aliases_of(
    registry: Registry, ids: Iterable[str], *, at_us: int | None = None
) -> dict[str, tuple[str, ...]]:
    """By record id: the aliases that point to it."""
    return registry.pointing(list(ids), at_us=at_us)


def environments_of(
    registry: Registry, ids: Iterable[str], *, at_us: int | None = None
) -> dict[str, tuple[str, ...]]:
    """By the id of a definition's record: the environments (`env/prod`) that have it."""
    found = registry.pointing(list(ids), through_child=True, at_us=at_us)
    homes = {i: tuple(n for n in names if _is_environment(n)) for i, names in found.items()}
    return {record_id: names for record_id, names in homes.items() if names}


def _is_environment(alias: str) -> bool:
    """What stands below an environment's name is an alias of its own, of a model."""
    return alias.startswith("env/") and alias.count("/") == 1

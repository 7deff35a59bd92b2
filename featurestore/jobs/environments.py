"""What an environment has: the repo record that `env/<environment>` names, and all its parents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featurestore.lifecycle.changes import model_prefix, stages_in
from featurestore.lifecycle.models import MODEL, TARGETS, model_alias
from featurestore.records import AliasIs

if TYPE_CHECKING:
    from featurestore.records import Alias, StoredRecord
    from featurestore.stores.registry.base import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The definitions of one environment: `objects` by kind and name."""

    alias: str
    repo: StoredRecord
    objects: Mapping[str, Mapping[str, StoredRecord]] = field(default_factory=dict)

    def version(self, kind: str, name: str) -> str | None:
        """The version of an object; None where the environment does not have it."""
        found = self.objects.get(kind, {}).get(name)
        return None if found is None else str(found.record.body["version"])

    @property
    def records(self) -> list[StoredRecord]:
        """All records, the repo record first."""
        return [self.repo, *(s for named in self.objects.values() for s in named.values())]


def environment_alias(environment: str) -> str:
    """`env/prod`."""
    return f"env/{environment}"


def environment_aliases(registry: Registry) -> dict[str, Alias]:
    """The aliases of all environments, by environment; what else begins with `env/` left out."""
    aliases = registry.aliases("env/")
    names = {name: name.removeprefix("env/") for name in aliases}
    return {names[name]: alias for name, alias in aliases.items() if "/" not in names[name]}


def live_models(registry: Registry, environment: str) -> list[StoredRecord]:
    """The model versions that are in use in an environment."""
    aliases = registry.aliases(model_prefix(environment))
    ids = {a.target for name, a in aliases.items() if stages_in([name], environment)}
    return registry.records(ids=sorted(ids)) if ids else []


def model_names(registry: Registry) -> list[str]:
    """The names of all models."""
    below = (alias.partition("/")[2] for alias in registry.aliases(f"{MODEL}/"))
    return sorted({name for name in below if "/" not in name})


def stages_seen(
    registry: Registry, environment: str, names: Iterable[str] | None = None
) -> list[AliasIs]:
    """Which versions of these models (None: of all) are in use in an environment, and of which none
    is: what a commit believes that was decided by it. Read it before what it decides."""
    wanted = model_names(registry) if names is None else sorted(set(names))
    there = registry.aliases(model_prefix(environment))
    stages = (model_alias(name, stage, environment) for name in wanted for stage in TARGETS)
    return [AliasIs(name, there[name].target if name in there else None) for name in stages]


def applied_in(registry: Registry, environment: str) -> Applied | None:
    """The definitions that were last applied to an environment; None where none ever were."""
    alias = environment_alias(environment)
    found = registry.aliases(alias).get(alias)
    if found is None:
        return None
    repo = registry.record(found.target)
    objects: dict[str, dict[str, StoredRecord]] = {}
    for stored in registry.records(ids=[edge.parent for edge in repo.record.parents]):
        objects.setdefault(stored.record.kind, {})[stored.record.name] = stored
    return Applied(alias=alias, repo=repo, objects=objects)


def current_repo(registry: Registry, environment: str) -> dict[str, dict[str, StoredRecord]]:
    """The same as plain mappings: `current_repo(registry, "prod")["view"]["weather"]`."""
    applied = applied_in(registry, environment)
    if applied is None:
        return {}
    return {kind: dict(named) for kind, named in applied.objects.items()}


def current_views(registry: Registry, environment: str) -> dict[str, str]:
    """The version of each view that the environment has, by name."""
    views = current_repo(registry, environment).get("view", {})
    return {name: str(stored.record.body["version"]) for name, stored in views.items()}

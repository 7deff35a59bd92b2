"""What `apply` would change: the repository against what an environment has.

`plan_changes` decides and touches nothing; its result can be printed (`str(plan)`), stored as JSON,
reviewed, and applied later, as long as neither the environment nor the repository has moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from featurestore.compiler.change_details import describe_change
from featurestore.compiler.change_plan import (
    Affected,
    Backfill,
    Build,
    Category,
    Change,
    ChangePlan,
)
from featurestore.compiler.definition_records import definition_records
from featurestore.compiler.typed import TypedRepo, TypedView
from featurestore.records import Record, StoredRecord

__all__ = [
    "Affected",
    "Backfill",
    "Build",
    "Category",
    "Change",
    "ChangePlan",
    "compare",
    "definition_records",
    "objects_of",
    "online_alias",
    "plan_changes",
    "table_alias",
]

_KINDS = (
    "entity",
    "source",
    "request_source",
    "view",
    "on_demand_view",
    "feature",
    "service",
)

Objects = Mapping[tuple[str, str], Record]


def online_alias(view: TypedView) -> str:
    """The alias of the current online table of a view: `online/weather/0123456789abcdef`."""
    return table_alias(view.name, view.storage_hash)


def table_alias(view: str, storage_hash: str) -> str:
    """The same from a view's name and its storage hash."""
    return f"online/{view}/{storage_hash[:16]}"


def plan_changes(
    current: Sequence[StoredRecord] | None,
    wanted: TypedRepo,
    *,
    environment: str,
    online_aliases: Collection[str] = (),
) -> ChangePlan:
    """Compare a repository with what an environment has.

    Args:
        current: the environment's repo record and its parents, in any order; None or empty where
            nothing was ever applied.
        wanted: the repository.
        environment: the name of the environment.
        online_aliases: the names of the online tables that exist.

    Raises `InvalidRecord` for a definition too large for a record.
    """
    return compare(
        [stored.record for stored in current or ()],
        definition_records(wanted),
        project=wanted.project,
        environment=environment,
        online_aliases=online_aliases,
    )


def compare(
    current: Sequence[Record],
    target: Sequence[Record],
    *,
    project: str,
    environment: str,
    online_aliases: Collection[str] = (),
) -> ChangePlan:
    """The same for records: a repo record and its parents each, in any order; `current` may be
    empty."""
    old, new = objects_of(current), objects_of(target)
    base = next((record.id for record in current if record.kind == "repo"), None)
    wanted = next(record.id for record in target if record.kind == "repo")
    return ChangePlan(
        project=project,
        environment=environment,
        base=base,
        target=wanted,
        changes=() if base == wanted else _changes(old, new),
        builds=tuple(_builds(old, new, online_aliases)),
    )


def objects_of(records: Iterable[Record]) -> Objects:
    """Definitions by kind and name."""
    return {(r.kind, r.name): r for r in records if r.kind in _KINDS}


def _builds(old: Objects, new: Objects, online_aliases: Collection[str]) -> Iterator[Build]:
    """The tables that are missing, in the order of their views' names."""
    for kind, name in sorted(key for key in new if key[0] == "view"):
        wanted = str(new[kind, name].body["storage_hash"])
        if table_alias(name, wanted) in online_aliases:
            continue
        had = str(old[kind, name].body["storage_hash"]) if (kind, name) in old else None
        yield Build(view=name, storage_hash=wanted, beside=None if had == wanted else had)


def _changes(old: Objects, new: Objects) -> tuple[Change, ...]:
    found = {key: describe_change(key, old, new) for key in old.keys() | new.keys()}
    downstream = _services_below(old), _services_below(new)
    services = {key: {name for below in downstream for name in below.get(key, ())} for key in found}
    for key, change in found.items():
        if key[0] == "feature" and change is not None and change[0] != "METADATA":
            # A service that uses some features of a view is below those, not below the view.
            view = key[1].partition(".")[0]
            for kind in ("view", "on_demand_view"):
                if (kind, view) in services:
                    services[kind, view] |= services[key]
    changes = []
    computed = {name for kind, name in found if kind == "on_demand_view"}
    for key in sorted(found, key=lambda key: _place(key, computed)):
        change = found[key]
        if change is None:
            continue
        category, details = change
        changes.append(
            Change(
                kind=key[0],
                name=key[1],
                category=Category(category),
                details=details,
                services=tuple(sorted(services[key])),
            )
        )
    return tuple(changes)


def _place(key: tuple[str, str], computed: Collection[str]) -> tuple[int, str, int, str]:
    """Entities, sources, views with their features below them, on-demand views (`computed`)
    likewise, services; each in name order."""
    kind, name = key
    view = name.partition(".")[0] if kind == "feature" else name
    group = kind
    if kind == "feature":
        group = "on_demand_view" if view in computed else "view"
    return _KINDS.index(group), view, _KINDS.index(kind), name


def _services_below(objects: Objects) -> dict[tuple[str, str], set[str]]:
    """The services that depend on each object."""
    by_id = {record.id: key for key, record in objects.items()}
    found: dict[tuple[str, str], set[str]] = {}
    for (kind, name), service in objects.items():
        todo = [service] if kind == "service" else []
        seen = set[tuple[str, str]]()
        while todo:
            for edge in todo.pop().parents:
                parent = by_id[edge.parent]
                if parent not in seen:
                    seen.add(parent)
                    todo.append(objects[parent])
        for key in seen:
            found.setdefault(key, set()).add(name)
    return found

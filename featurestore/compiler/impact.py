"""Where a change begins: the records from which a walk down the graph reaches all that it touches.

A change travels: a source that is replaced re-versions its features, those the services that use
them. Each walk begins where values really change: at features whose own definition or source is
another one (DIRECT), or whose ages, keys or filter are (INDIRECT), at what is gone, and at services
that are put together otherwise. What merely follows is reached from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from featurestore.compiler.change_plan import Category, Change
from featurestore.compiler.changes import Objects
from featurestore.records import Record, Transformation

_OF_A_VALUE = ("tree", "dtype", "function", "window_us", "delay_us", "hop_us", "parameters", "by")
"""Of a feature's body: what its value follows from, besides its source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Ids of the records that the environment has, as they were."""

    removed: list[str] = field(default_factory=list)
    direct: list[str] = field(default_factory=list)
    indirect: list[str] = field(default_factory=list)

    @property
    def every(self) -> list[str]:
        """All of them."""
        return [*self.removed, *self.direct, *self.indirect]


def roots_of(changes: Iterable[Change], old: Objects, new: Objects) -> Roots:
    """Where the changes begin that change or take away values."""
    roots = Roots()
    for change in changes:
        key = change.kind, change.name
        if change.kind not in ("feature", "service"):
            continue  # their features say what becomes of them
        if change.category == Category.REMOVAL:
            roots.removed.append(old[key].id)
        elif change.category == Category.BREAKING:
            match _how(old[key], new[key], old, new):
                case "DIRECT":
                    roots.direct.append(old[key].id)
                case "INDIRECT":
                    roots.indirect.append(old[key].id)
                case None:
                    pass
    return roots


def _how(before: Record, after: Record, old: Objects, new: Objects) -> Transformation | None:
    """How an object's own change touches its values; None where it only follows another one."""
    if before.kind == "service":
        return "DIRECT" if before.body["data_hash"] != after.body["data_hash"] else None
    if any(before.body.get(name) != after.body.get(name) for name in _OF_A_VALUE):
        return "DIRECT"
    views = _view_of(before, old), _view_of(after, new)
    if views[0].kind != views[1].kind:
        return "DIRECT"
    if views[0].kind == "on_demand_view":
        # Other inputs or keys are its own change, another version of what it reads is not.
        names = after.body["columns"]
        reads = [{name: dict(view.body["reads"].get(name, {})) for name in names} for view in views]
        if reads[0] == reads[1]:
            return None
        keys = [[read.pop("join_key_map", None) for read in of.values()] for of in reads]
        return "INDIRECT" if reads[0] == reads[1] and keys[0] != keys[1] else "DIRECT"
    moved = _source_of(before, old).body["version"] != _source_of(after, new).body["version"]
    by_value = any(e.role == "source" and e.transformation == "DIRECT" for e in before.parents)
    if by_value and (moved or _types(before, old) != _types(after, new)):
        return "DIRECT"
    return "INDIRECT"


def _view_of(feature: Record, objects: Objects) -> Record:
    view = str(feature.body["view"])
    return objects.get(("view", view)) or objects["on_demand_view", view]


def _source_of(feature: Record, objects: Objects) -> Record:
    return objects["source", str(_view_of(feature, objects).body["source"])]


def _types(feature: Record, objects: Objects) -> dict[str, str | None]:
    """The types of the columns that a feature reads by value."""
    columns = _source_of(feature, objects).body.get("columns", {})
    names = (*feature.body["columns"], *feature.body.get("by_columns", ()))
    return {name: columns.get(name) for name in names}

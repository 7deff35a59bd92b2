"""What `apply` would change: the repository against what an environment has.

`plan_changes` decides and touches nothing; its result can be printed (`str(plan)`), stored as JSON,
reviewed, and applied later, as long as neither the environment nor the repository has moved.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from featurestore.compiler.change_details import describe_change
from featurestore.compiler.definition_records import definition_records
from featurestore.compiler.typed import TypedRepo, TypedView
from featurestore.errors import InvalidRequest
from featurestore.fingerprint import short
from featurestore.records import Record, StoredRecord, show_id

__all__ = [
    "Build",
    "Category",
    "Change",
    "ChangePlan",
    "definition_records",
    "online_alias",
    "plan_changes",
    "render",
]

PLAN_FORMAT = 1
FEATURES_SHOWN_MAX = 20
"""Of one view, in the text for people."""

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


class Category(StrEnum):
    """How much a change matters: METADATA describes, ADDITIVE brings something new and leaves all
    values alone, BREAKING changes the values of something that exists, REMOVAL takes it away."""

    METADATA = "METADATA"
    ADDITIVE = "ADDITIVE"
    BREAKING = "BREAKING"
    REMOVAL = "REMOVAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One object's change. A feature's `name` is `view.feature`. `details` say what changed, each
    in a few words (`ttl 7d → 3d`); `services` are the feature services downstream of it."""

    kind: str
    name: str
    category: Category
    details: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A view whose rows need an online table that does not exist yet, beside the old one if there
    is one."""

    view: str
    storage_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """What would happen to `environment`.

    `base` is the repo record that the environment has (None: nothing was ever applied), `target`
    the one that it would get.
    """

    project: str
    environment: str
    base: str | None
    target: str
    changes: tuple[Change, ...] = ()
    builds: tuple[Build, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the environment has this very repository already."""
        return self.base == self.target

    def to_json(self) -> str:
        """The plan as JSON text, for a file, a review or a program."""
        return json.dumps({"format": PLAN_FORMAT, **asdict(self)}, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ChangePlan:
        """The plan that `to_json` wrote. Raises `InvalidRequest` for any other text."""
        try:
            values = json.loads(text)
            if values.pop("format") != PLAN_FORMAT:
                raise ValueError("it has another format")
            changes = tuple(_change(change) for change in values.pop("changes"))
            builds = tuple(Build(**build) for build in values.pop("builds"))
            return cls(changes=changes, builds=builds, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidRequest(
                f"This is not a plan of ours ({error}). "
                "Make one with: featurestore plan --output plan.json"
            ) from error

    def __str__(self) -> str:
        return render(self)


def online_alias(view: TypedView) -> str:
    """The alias of the current online table of a view: `online/weather/0123456789abcdef`."""
    return f"online/{view.name}/{view.storage_hash[:16]}"


def plan_changes(
    current: Sequence[StoredRecord] | None,
    wanted: TypedRepo,
    *,
    environment: str,
    online_aliases: Collection[str] = (),
) -> ChangePlan:
    """Compare.

    Args:
        current: the environment's repo record and its parents, in any order; None or empty where
            nothing was ever applied.
        wanted: the repository.
        environment: the name of the environment.
        online_aliases: the names of the online tables that exist.

    Raises `InvalidRecord` for a definition too large for a record.
    """
    records = definition_records(wanted)
    old = _objects(stored.record for stored in current or ())
    new = _objects(records)
    base = next((stored.id for stored in current or () if stored.record.kind == "repo"), None)
    return ChangePlan(
        project=wanted.project,
        environment=environment,
        base=base,
        target=records[-1].id,
        changes=_changes(old, new),
        builds=tuple(
            Build(view=view.name, storage_hash=view.storage_hash)
            for view in wanted.views.values()
            if online_alias(view) not in online_aliases
        ),
    )


def render(plan: ChangePlan) -> str:
    """The plan for people: a line per object, its features below each view, what will be built,
    and a count per category."""
    since = f"since {show_id(plan.base)}" if plan.base else "for the first time"
    if plan.is_empty:
        return f"No changes: environment {plan.environment!r} has this repository already."
    lines = [f"Changes to environment {plan.environment!r} of {plan.project}, {since}:"]
    lines += _lines(plan.changes)
    if plan.builds:
        lines.append("New online tables, to be filled by: featurestore materialize")
        lines += [f"    {build.view} ({short(build.storage_hash)})" for build in plan.builds]
    counts = Counter(change.category for change in plan.changes)
    total = ", ".join(f"{counts[name]} {name}" for name in Category if counts[name])
    lines.append(f"In all: {total or 'nothing that has a category'}.")
    return "\n".join(lines)


_SIGNS = {
    Category.METADATA: ".",
    Category.ADDITIVE: "+",
    Category.BREAKING: "!",
    Category.REMOVAL: "-",
}


def _lines(changes: Iterable[Change]) -> Iterator[str]:
    shown = Counter[str]()
    for change in changes:
        view = change.name.partition(".")[0] if change.kind == "feature" else ""
        shown[view] += 1
        if not view or shown[view] <= FEATURES_SHOWN_MAX:
            yield _line(change)
        elif shown[view] == FEATURES_SHOWN_MAX + 1:
            yield f"      … more features of {view}; --json lists them all"


def _line(change: Change) -> str:
    indent = "      " if change.kind == "feature" else "  "
    kind = change.kind.replace("_", " ").replace("on demand", "on-demand")
    head = f"{indent}{_SIGNS[change.category]} {change.category:<8} {kind} {change.name}"
    details = f": {'; '.join(change.details)}" if change.details else ""
    hit = ""
    if change.services and change.category in (Category.BREAKING, Category.REMOVAL):
        hit = f" [services: {', '.join(change.services)}]"
    return f"{head}{details}{hit}"


def _change(values: dict[str, Any]) -> Change:
    return Change(
        kind=values["kind"],
        name=values["name"],
        category=Category(values["category"]),
        details=tuple(values["details"]),
        services=tuple(values["services"]),
    )


def _objects(records: Iterable[Record]) -> Objects:
    return {(r.kind, r.name): r for r in records if r.kind in _KINDS}


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

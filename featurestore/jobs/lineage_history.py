"""`history` of an alias, and `diff`: what lies between two of its instants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from featurestore.compiler.change_details import describe_change
from featurestore.errors import RecordNotFound
from featurestore.fingerprint import short
from featurestore.jobs.lineage import name_of
from featurestore.records import AliasEvent, show_id
from featurestore.stores.registry.base import WALK_DEPTH_MAX

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

FIELDS_SHOWN_MAX = 100
"""Differing fields of one record that are told."""
VALUE_CHARS_MAX = 120
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One object that differs: `change` is a plan's category (METADATA, ADDITIVE, BREAKING,
    REMOVAL) in a repository, else ADDED, REMOVED or CHANGED; `details` say what, in words."""

    kind: str
    name: str
    change: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What differs between what `alias` named at `from_us` and at `to_us` (record ids; None:
    nothing). `events` are the moves in between; `fields` what differs in the record itself
    (`metrics.auc: 0.81 → 0.83`), `objects` in what it was made of."""

    alias: str
    from_us: int
    to_us: int
    before: str | None
    after: str | None
    events: tuple[AliasEvent, ...]
    fields: tuple[str, ...] = ()
    objects: tuple[Moved, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it named the same record at both instants."""
        return self.before == self.after


def history(registry: Registry, alias: str, *, at_us: int | None = None) -> list[AliasEvent]:
    """The moves of an alias up to an instant, oldest first. Raises `RecordNotFound`."""
    events = registry.history(alias)
    if not events:
        raise RecordNotFound(alias, known=registry.aliases())
    return [event for event in events if at_us is None or event.at_us <= at_us]


def diff(registry: Registry, alias: str, *, from_us: int, to_us: int) -> Diff:
    """What moved between two instants. Raises `RecordNotFound` for an alias that never was."""
    with registry.session():
        return _diff(registry, alias, from_us, to_us)


def _diff(registry: Registry, alias: str, from_us: int, to_us: int) -> Diff:
    events = history(registry, alias)
    before, after = named_at(events, from_us), named_at(events, to_us)
    same = before == after
    return Diff(
        alias=alias,
        from_us=from_us,
        to_us=to_us,
        before=before,
        after=after,
        events=tuple(event for event in events if from_us < event.at_us <= to_us),
        fields=() if same else tuple(_fields(_body(registry, before), _body(registry, after))),
        objects=() if same else tuple(_objects(registry, before, after)),
    )


def named_at(events: Iterable[AliasEvent], at_us: int) -> str | None:
    """Where an alias with this history pointed at an instant."""
    target = None
    for event in events:
        if event.at_us <= at_us:
            target = event.target
    return target


def _body(registry: Registry, record_id: str | None) -> Mapping[str, Any]:
    return {} if record_id is None else registry.record(record_id).record.body


Materials: TypeAlias = dict[tuple[str, str], str]
"""What something was made of: record ids by kind and name."""


def _materials(registry: Registry, record_id: str | None) -> Materials:
    """What a record was made of: a repository of its definitions, anything else of all that is
    above it, of each name the nearest."""
    if record_id is None:
        return {}
    depth_max = 1 if _is_repo(record_id) else WALK_DEPTH_MAX
    found: Materials = {}
    for link in registry.walk(record_id, direction="up", depth_max=depth_max):
        found.setdefault((link.parent.partition(":")[0], name_of(link.parent)), link.parent)
    return found


def _is_repo(record_id: str) -> bool:
    return record_id.startswith("repo:")


def _objects(registry: Registry, before: str | None, after: str | None) -> Iterator[Moved]:
    old, new = _materials(registry, before), _materials(registry, after)
    moved = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if any(record_id is not None and not _is_repo(record_id) for record_id in (before, after)):
        yield from _moved(registry, moved, old, new)
        return
    ids = [*old.values(), *new.values()] if moved else []
    by_id = {stored.id: stored.record for stored in registry.records(ids=ids)}
    told = [{name: by_id[i] for name, i in materials.items()} for materials in (old, new)]
    for kind, name in moved:
        if found := describe_change((kind, name), *told):
            yield Moved(kind=kind, name=_shown(kind, name), change=found[0], details=found[1])


def _moved(
    registry: Registry, moved: Sequence[tuple[str, str]], old: Materials, new: Materials
) -> Iterator[Moved]:
    both = [of[one] for one in moved if one in old and one in new for of in (old, new)]
    bodies = {glance.id: glance.body for glance in registry.glances(ids=both, with_parents=False)}
    for kind, name in moved:
        before, after = old.get((kind, name)), new.get((kind, name))
        shown = _shown(kind, name)
        if before is None or after is None:
            yield Moved(kind=kind, name=shown, change="ADDED" if before is None else "REMOVED")
        else:
            yield from _changed(kind, shown, (before, bodies[before]), (after, bodies[after]))


def _shown(kind: str, name: str) -> str:
    return name.replace(".", ":", 1) if kind == "feature" else name


def _changed(
    kind: str,
    name: str,
    before: tuple[str, Mapping[str, Any]],
    after: tuple[str, Mapping[str, Any]],
) -> Iterator[Moved]:
    """A definition whose version stands still is the same for whom it is a material."""
    (old_id, old), (new_id, new) = before, after
    if old.get("version") is not None and old.get("version") == new.get("version"):
        return
    details = tuple(_fields(old, new)) or (f"{show_id(old_id)} → {show_id(new_id)}",)
    yield Moved(kind=kind, name=name, change="CHANGED", details=details)


def _fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    left, right = dict(_flat(before)), dict(_flat(after))
    differing = [
        name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)
    ]
    for name in differing[:FIELDS_SHOWN_MAX]:
        yield f"{name}: {_value(left.get(name))} → {_value(right.get(name))}"
    if len(differing) > FIELDS_SHOWN_MAX:
        yield f"… {len(differing) - FIELDS_SHOWN_MAX} more fields"


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{above}{name}.")
        else:
            yield f"{above}{name}", item


def _value(value: Any) -> str:
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return short(value)
    text = "none" if value is None else " ".join(str(value).split())
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[: VALUE_CHARS_MAX - 1]}…"

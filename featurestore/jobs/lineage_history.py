"""`history` of an alias, and `diff`: what lies between two of its instants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.compiler.change_details import describe_change
from featurestore.errors import RecordNotFound
from featurestore.fingerprint import short
from featurestore.records import AliasEvent, Record, show_id
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


def _materials(registry: Registry, record_id: str | None) -> dict[tuple[str, str], Record]:
    """What a record was made of: a repository of its definitions, anything else of all that is
    above it, of each name the nearest."""
    if record_id is None:
        return {}
    depth_max = 1 if record_id.startswith("repo:") else WALK_DEPTH_MAX
    links = registry.walk(record_id, direction="up", depth_max=depth_max)
    ids = list(dict.fromkeys(link.parent for link in links))
    by_id = {stored.id: stored.record for stored in registry.records(ids=ids)}
    found: dict[tuple[str, str], Record] = {}
    for parent in ids:
        found.setdefault((by_id[parent].kind, by_id[parent].name), by_id[parent])
    return found


def _objects(registry: Registry, before: str | None, after: str | None) -> Iterator[Moved]:
    old, new = _materials(registry, before), _materials(registry, after)
    if any(
        record_id is not None and not record_id.startswith("repo:") for record_id in (before, after)
    ):
        yield from _moved(old, new)
        return
    for kind, name in sorted(old.keys() | new.keys()):
        if found := describe_change((kind, name), old, new):
            yield Moved(kind=kind, name=_shown(kind, name), change=found[0], details=found[1])


def _moved(
    old: Mapping[tuple[str, str], Record], new: Mapping[tuple[str, str], Record]
) -> Iterator[Moved]:
    for kind, name in sorted(old.keys() | new.keys()):
        before, after = old.get((kind, name)), new.get((kind, name))
        shown = _shown(kind, name)
        if before is None or after is None:
            yield Moved(kind=kind, name=shown, change="ADDED" if before is None else "REMOVED")
        elif before.hash != after.hash:
            yield from _changed(kind, shown, before, after)


def _shown(kind: str, name: str) -> str:
    return name.replace(".", ":", 1) if kind == "feature" else name


def _changed(kind: str, name: str, before: Record, after: Record) -> Iterator[Moved]:
    """A definition whose version stands still is the same for whom it is a material."""
    versions = before.body.get("version"), after.body.get("version")
    if versions[0] is not None and versions[0] == versions[1]:
        return
    details = tuple(_fields(before.body, after.body)) or (
        f"{show_id(before.id)} → {show_id(after.id)}",
    )
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

"""How one object differs from what it was: a category, and in words what changed.

An object's `version` covers all that can change its values. Where it moved, the object's own
settings, its members and its parents say why; where it stands still, whatever differs describes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from featurestore.records import Record
from featurestore.timeline import format_duration

CategoryName = Literal["METADATA", "ADDITIVE", "BREAKING", "REMOVAL"]
Key = tuple[str, str]
"""Kind and name of an object; a feature's name is `view.feature`."""
Objects = Mapping[Key, Record]

VALUE_CHARS_MAX = 120
NAMES_SHOWN_MAX = 8

_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "entity": ("join_keys",),
    "source": (
        "path",
        "format",
        "query",
        "field_mapping",
        "csv",
        "event_time",
        "event_time_is",
        "created_time",
        "tiebreak",
        "op",
        "event_id",
    ),
    "view": ("source", "entities", "join_keys", "ttl_us", "grace_us", "correction_horizon_us"),
    "feature": ("expression", "dtype", "delay_us", "hop_us"),
    "request_source": (),
    "on_demand_view": ("inputs", "function"),
    "service": (),
}
_DESCRIBING: Mapping[str, tuple[str, ...]] = {
    "source": ("lateness_us", "columns", "columns_hash", "description", "owner", "tags"),
}
_DESCRIBING_DEFAULT = ("description", "owner", "tags")
_MAPPINGS = {"columns": "column", "tags": "tag", "field_mapping": "field mapping", "csv": "csv"}
_DURATIONS = {
    "ttl_us": "ttl",
    "grace_us": "grace",
    "lateness_us": "lateness",
    "correction_horizon_us": "correction horizon",
    "delay_us": "delay",
    "hop_us": "hop",
}


def describe_change(
    key: Key, old: Objects, new: Objects
) -> tuple[CategoryName, tuple[str, ...]] | None:
    """The category and the details of one object's change; None where nothing of its own changed.

    `old` and `new` are all objects of both repositories.
    """
    if key not in old:
        return "ADDITIVE", (_summary(key, new),)
    if key not in new:
        return "REMOVAL", ()
    kind, before, after = key[0], old[key].body, new[key].body
    describing = list(_fields(_DESCRIBING.get(kind, _DESCRIBING_DEFAULT), before, after))
    if before["version"] == after["version"]:
        # A query of the same version is laid out otherwise at most.
        names = [name for name in _SETTINGS[kind] if name != "query"]
        found = (*_fields(names, before, after), *describing)
        return ("METADATA", found) if found else None
    settings = list(_fields(_SETTINGS[kind], before, after))
    added, causes = _members(key, old, new)
    details = (*settings, *causes, *added, *describing)
    if added and not settings and not causes:
        return "ADDITIVE", details
    return "BREAKING", details or ("definition changed",)


def _summary(key: Key, new: Objects) -> str:
    kind, name = key
    body = new[key].body
    if kind == "entity":
        return f"keys {_value(body['join_keys'])}"
    if kind == "source":
        return str(body.get("path") or f"query over {_listed(body['inputs']) or 'no source'}")
    if kind == "view":
        count = len(_features(name, new))
        return f"{count} feature{'' if count == 1 else 's'} from {body['source']}"
    if kind == "request_source":
        return ", ".join(f"{column} {dtype}" for column, dtype in body["columns"].items())
    if kind == "on_demand_view":
        count = len(_features(name, new))
        return f"{count} feature{'' if count == 1 else 's'} from {_listed(body['inputs'])}"
    if kind == "feature":
        return f"{_value(body['expression'])} ({body['dtype']})"
    return _listed([use["name"] for use in body["uses"]])


def _members(key: Key, old: Objects, new: Objects) -> tuple[list[str], list[str]]:
    """What was added to an object, and why else its version moved."""
    kind, name = key
    if kind in ("view", "on_demand_view"):
        return _view_members(name, old, new)
    if kind == "request_source":
        left, right = old[key].body["columns"], new[key].body["columns"]
        entries = list(_entries("column", left, right))
        added = [f"column {n} added: {_value(right[n])}" for n in sorted(right) if n not in left]
        return added, [entry for entry in entries if entry not in added]
    if kind == "service":
        return _service_members(old[key], new[key], old, new)
    if kind == "feature":
        return [], list(_feature_causes(old[key].body, new[key].body, old, new))
    return [], list(_moved_of("source", new[key].body.get("inputs", ()), old, new))


def _view_members(view: str, old: Objects, new: Objects) -> tuple[list[str], list[str]]:
    before, after = _features(view, old), _features(view, new)
    kept = [name for name in before if name in after]
    added = [f"feature {name} added" for name in after if name not in before]
    causes = [f"feature {name} removed" for name in before if name not in after]
    moved = [name for name in kept if before[name].body["version"] != after[name].body["version"]]
    if moved:
        causes.append(f"changes the values of {_listed(moved)}")
    if kept != [name for name in after if name in before]:
        causes.append("features in another order")
    return added, causes


def _service_members(
    before: Record, after: Record, old: Objects, new: Objects
) -> tuple[list[str], list[str]]:
    left = {use["name"]: use for use in before.body["uses"]}
    right = {use["name"]: use for use in after.body["uses"]}
    added = [f"view {name} added" for name in right if name not in left]
    causes = [f"view {name} removed" for name in left if name not in right]
    for name in [name for name in left if name in right]:
        more, other = _use_members(left[name], right[name], old, new)
        added += more
        causes += other
    if not added and not causes:
        causes.append("views or features in another order")
    return added, causes


def _use_members(
    before: Mapping[str, Any], after: Mapping[str, Any], old: Objects, new: Objects
) -> tuple[list[str], list[str]]:
    """The same for one view of a service."""
    name, left, right = before["name"], before["features"], after["features"]
    added = [f"feature {name}.{f} added" for f in right if f not in left]
    causes = [f"feature {name}.{f} removed" for f in left if f not in right]
    for field in ("view", "join_key_map"):
        if before[field] != after[field]:
            change = f"{_value(before[field])} → {_value(after[field])}"
            causes.append(f"{name}: {field.replace('_', ' ')} {change}")
    features = [(f, ("feature", f"{before['view']}.{f}")) for f in left if f in right]
    moved = [f for f, key in features if _moved(key, old, new)]
    if moved:
        causes.append(f"changes the values of {name}: {_listed(moved)}")
    return added, causes


def _feature_causes(
    before: Mapping[str, Any], after: Mapping[str, Any], old: Objects, new: Objects
) -> Iterator[str]:
    """Why a feature's version moved apart from its own expression: its view's source, keys, ages,
    and the types of the columns that it reads; of an on-demand feature, what it reads."""
    if ("on_demand_view", after["view"]) in new:
        yield from _on_demand_causes(before, after, old, new)
        return
    if ("view", before["view"]) not in old:
        return
    left, right = old["view", before["view"]].body, new["view", after["view"]].body
    yield from _fields(_SETTINGS["view"], left, right)
    yield from _moved_of("source", [right["source"]], old, new)
    yield from _moved_of("entity", right["entities"], old, new)
    types = [
        {column: _dtype(view["source"], column, objects) for column in after["columns"]}
        for view, objects in ((left, old), (right, new))
    ]
    yield from _entries("column", *types)


def _on_demand_causes(
    before: Mapping[str, Any], after: Mapping[str, Any], old: Objects, new: Objects
) -> Iterator[str]:
    key = ("on_demand_view", after["view"])
    if key not in old:
        return
    left, right = old[key].body, new[key].body
    if left.get("blob") != right.get("blob"):
        yield "the function's text changed"
    names = [name for name in after["columns"] if name in before["columns"]]
    for name in names:
        was, reads = left["reads"].get(name), right["reads"].get(name)
        if was is None or reads is None:
            continue
        yield from _entries(name, was, reads)
        if "view" in reads and _moved(("feature", f"{reads['view']}.{reads['feature']}"), old, new):
            yield f"feature {reads['view']}.{reads['feature']} changed"


def _dtype(source: str, column: str, objects: Objects) -> str | None:
    found: str | None = objects["source", source].body.get("columns", {}).get(column)
    return found


def _moved_of(kind: str, names: Iterable[str], old: Objects, new: Objects) -> Iterator[str]:
    return (f"{kind} {name} changed" for name in names if _moved((kind, name), old, new))


def _moved(key: Key, old: Objects, new: Objects) -> bool:
    return key in old and key in new and old[key].body["version"] != new[key].body["version"]


def _features(view: str, objects: Objects) -> dict[str, Record]:
    """A view's features by name, in its order."""
    kind = "view" if ("view", view) in objects else "on_demand_view"
    heads = [e.parent.rpartition("@")[0] for e in objects[kind, view].parents]
    keys = [("feature", head.removeprefix("feature:")) for head in heads]
    return {key[1].partition(".")[2]: objects[key] for key in keys if key in objects}


def _fields(
    names: Iterable[str], before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[str]:
    """Those of the named fields that differ, in words."""
    for name in names:
        left, right = before.get(name), after.get(name)
        if left == right:
            continue
        if name in _MAPPINGS:
            yield from _entries(_MAPPINGS[name], left or {}, right or {})
        elif name in _DURATIONS:
            yield f"{_DURATIONS[name]} {_duration(left)} → {_duration(right)}"
        elif name == "query" and str(left).split() == str(right).split():
            yield "query laid out anew"
        else:
            yield f"{name.replace('_', ' ')} {_value(left)} → {_value(right)}"


def _entries(what: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(left.keys() | right.keys()):
        if name not in left:
            yield f"{what} {name} added: {_value(right[name])}"
        elif name not in right:
            yield f"{what} {name} removed"
        elif left[name] != right[name]:
            yield f"{what} {name} {_value(left[name])} → {_value(right[name])}"


def _duration(duration_us: int | None) -> str:
    return "none" if duration_us is None else format_duration(duration_us)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join([*names[:NAMES_SHOWN_MAX], *([f"{more} more"] if more > 0 else [])])


def _value(value: Any) -> str:
    """A value in a few words, on one line."""
    if value is None or value in ("", [], {}):
        text = "none"
    elif isinstance(value, str):
        text = " ".join(value.split())
    elif isinstance(value, list) and isinstance(value[0], Mapping):
        text = ", ".join(f"{item['name']} {item['dtype']}" for item in value)
    elif isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[: VALUE_CHARS_MAX - 1]}…"

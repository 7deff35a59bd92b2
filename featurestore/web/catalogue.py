"""What an environment has, ready to be listed and searched: made once for each state of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.jobs.environments import Applied
    from featurestore.records import StoredRecord

KINDS = ("view", "on_demand_view", "feature", "service", "source", "request_source", "entity")
"""In the order in which a search shows them."""
_READ = ("view", "on_demand_view", "feature")
RESULTS_MAX = 200
TERMS_MAX = 8
TERM_CHARS_MAX = 100


@dataclass(frozen=True, slots=True)
class Item:
    """One object: its text is what a search looks at."""

    kind: str
    name: str
    stored: StoredRecord
    text: str

    @property
    def body(self) -> Mapping[str, Any]:
        """What the record says."""
        return self.stored.record.body

    @property
    def view(self) -> str:
        """Of a feature: its view."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, best first, and how many there were."""

    items: tuple[Item, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The objects of an environment; `features` are by view, `users` the services that read a view,
    on-demand view or feature."""

    items: Mapping[str, Mapping[str, Item]]
    features: Mapping[str, Sequence[Item]]
    users: Mapping[str, frozenset[str]]
    ids: Mapping[str, Item] = field(repr=False)

    def of(self, kind: str) -> list[Item]:
        """All of a kind, in name order."""
        return list(self.items.get(kind, {}).values())

    def get(self, kind: str, name: str) -> Item | None:
        """One object; None where the environment does not have it."""
        return self.items.get(kind, {}).get(name)

    def search(self, text: str, *, kind: str = "") -> Found:
        """The objects that hold every word of `text` in their name, description, owner, tags or
        expression; names that begin with it come first."""
        terms = [term[:TERM_CHARS_MAX] for term in text.lower().split()[:TERMS_MAX]]
        hits = [
            item
            for each in KINDS
            if kind in ("", each)
            for item in self.items.get(each, {}).values()
            if all(term in item.text for term in terms)
        ]
        if terms:
            hits.sort(key=lambda item: _rank(item, terms[0]))
        return Found(tuple(hits[:RESULTS_MAX]), len(hits))


def catalogue_of(applied: Applied | None) -> Catalogue:
    """The catalogue of what was applied; an empty one where nothing was."""
    objects = applied.objects if applied is not None else {}
    items = {
        kind: {
            name: Item(kind, name, stored, _text(stored))
            for name, stored in sorted(objects.get(kind, {}).items())
        }
        for kind in KINDS
    }
    features: dict[str, list[Item]] = {}
    for item in items["feature"].values():
        features.setdefault(item.view, []).append(item)
    ids = {item.stored.id: item for named in items.values() for item in named.values()}
    return Catalogue(items, features, _users(items["service"], ids), ids)


def _users(services: Mapping[str, Item], ids: Mapping[str, Item]) -> dict[str, frozenset[str]]:
    """By view, on-demand view or `view.feature`: the services that read it, themselves or through
    on-demand views."""
    found: dict[str, set[str]] = {}
    for name, service in services.items():
        todo, seen = [service], set[str]()
        while todo:
            for edge in todo.pop().stored.record.parents:
                parent = ids.get(edge.parent)
                if parent is None or parent.stored.id in seen:
                    continue
                seen.add(parent.stored.id)
                todo.append(parent)
                if parent.kind in _READ:
                    found.setdefault(parent.name, set()).add(name)
                if parent.kind == "feature":
                    found.setdefault(parent.view, set()).add(name)
    return {name: frozenset(users) for name, users in found.items()}


def _rank(item: Item, term: str) -> tuple[int, int, int, str]:
    name = item.name.lower()
    last = name.rpartition(".")[2]
    near = 0 if term in (name, last) else 1 if name.startswith(term) or last.startswith(term) else 2
    return near, 0 if term in name else 1, KINDS.index(item.kind), name


def _text(stored: StoredRecord) -> str:
    body = stored.record.body
    tags = body.get("tags") or {}
    parts = [stored.record.name, body.get("description"), body.get("owner"), body.get("expression")]
    parts += [f"{key}:{value}" for key, value in tags.items()]
    parts += [body.get("path"), body.get("source")]
    return " ".join(str(part) for part in parts if part).lower()

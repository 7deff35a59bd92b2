"""What edges mean: who is reached from where, and whether by value (DIRECT) or as a filter, key,
order or age limit (INDIRECT)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from featurestore.lifecycle.models import TARGETS
from featurestore.records import Link, Transformation, show_id

Direction = Literal["up", "down"]


def reached(
    starts: Collection[str], links: Iterable[Link], *, direction: Direction = "down"
) -> dict[str, Transformation]:
    """How each record that `links` reach from `starts` is reached, nearest first, without the
    starts themselves. DIRECT: on some path every edge is DIRECT; INDIRECT otherwise."""
    following = defaultdict[str, list[tuple[str, Transformation]]](list)
    for link in links:
        near, far = (link.child, link.parent) if direction == "up" else (link.parent, link.child)
        following[near].append((far, link.transformation))
    direct = _closure(
        starts, {n: [f for f, how in fs if how == "DIRECT"] for n, fs in following.items()}
    )
    every = _closure(starts, {near: [far for far, _ in fars] for near, fars in following.items()})
    return {
        found: "DIRECT" if found in direct else "INDIRECT" for found in every if found not in starts
    }


def _closure(starts: Iterable[str], following: Mapping[str, Sequence[str]]) -> dict[str, None]:
    found, todo = dict.fromkeys(starts), deque(starts)
    while todo:
        for far in following.get(todo.popleft(), ()):
            if far not in found:
                found[far] = None
                todo.append(far)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A record that something touches, and how. `label` is its name as people say it (`delay v3`);
    `aliases` are the names that point to it: for a service the environments that have it
    (`env/prod`), for a model its stages (`model/delay/production`)."""

    kind: str
    name: str
    id: str
    transformation: Transformation
    label: str
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.label} ({', '.join(self.aliases)})" if self.aliases else self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Blast:
    """What lies downstream: the feature services that an environment has, and all training sets,
    runs and models, each in the order of their names."""

    services: tuple[Hit, ...] = ()
    training_sets: tuple[Hit, ...] = ()
    runs: tuple[Hit, ...] = ()
    models: tuple[Hit, ...] = ()

    @property
    def every(self) -> tuple[Hit, ...]:
        """All of them."""
        return (*self.services, *self.training_sets, *self.runs, *self.models)

    def only(self, transformation: Transformation) -> Blast:
        """What is reached in that way."""

        def some(hits: Iterable[Hit]) -> tuple[Hit, ...]:
            return tuple(hit for hit in hits if hit.transformation == transformation)

        return Blast(
            services=some(self.services),
            training_sets=some(self.training_sets),
            runs=some(self.runs),
            models=some(self.models),
        )

    @property
    def models_in_stage(self) -> tuple[Hit, ...]:
        """The models that are in staging or in production now, whatever the environment."""
        return tuple(hit for hit in self.models if any(map(_is_live_stage, hit.aliases)))


def _is_live_stage(alias: str) -> bool:
    """Of `model/delay/production`, but neither of `model/delay`, the newest version, nor of
    `model/delay/archived`."""
    model, _, stage = alias.rpartition("/")
    return "/" in model and stage in TARGETS


def label_of(kind: str, name: str, record_id: str, *, number: object = None) -> str:
    """A record as people say it: `delay v3`, `weather:temp`, `landings`, and with a digest where
    one name has many: `delays@1a2b3c4d`."""
    match kind:
        case "model" if number is not None:
            return f"{name} v{number}"
        case "feature":
            return name.replace(".", ":", 1)
        case "training_set" | "snapshot" | "model" | "view_profile":
            return show_id(record_id).partition(":")[2]
        case _:
            return name

"""What the lineage graph is drawn of: an environment's definitions and the newest of what was made
of them, or else all that lies above and below one thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import RecordNotFound
from featurestore.jobs.lineage import LEAVES, name_of
from featurestore.records import Link
from featurestore.web import graph
from featurestore.web.graph import Graph

if TYPE_CHECKING:
    from featurestore.records import Edge
    from featurestore.stores.registry.base import Registry
    from featurestore.web.catalogue import Catalogue

RECENT_MAX = 100
"""Training sets, runs and models, each, that are drawn without a focus: the newest."""
_MADE = ("training_set", "run", "model")
_VIEWS = ("view", "on_demand_view")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a drawing shows: `features` as nodes of their own, `direct` links only, some `kinds` of
    nodes only (none: all), and of what lies around a focus that which is at most `depth` links
    away."""

    features: bool = False
    direct: bool = False
    kinds: frozenset[str] = frozenset()
    depth: int | None = None


def overview(registry: Registry, catalogue: Catalogue, defined: Graph, wanted: Wanted) -> Graph:
    """The environment's definitions (`defined`, as `definitions` makes it), with the newest
    training sets, runs and models."""
    with registry.session():
        made = [one for kind in _MADE for one in registry.glances(kind=kind, newest=RECENT_MAX)]
    recent = graph.graph_of(
        (link for one in made for link in _links(one.id, one.parents)),
        [one.id for one in made],
        on_demand=catalogue.items["on_demand_view"],
        with_features=wanted.features,
    )
    whole = graph.joined(defined, recent)
    return graph.overview(graph.chosen(whole, kinds=wanted.kinds, direct=wanted.direct))


def definitions(catalogue: Catalogue, *, features: bool) -> Graph:
    """The definitions of an environment."""
    items = [item.stored for named in catalogue.items.values() for item in named.values()]
    return graph.graph_of(
        (link for one in items for link in _links(one.id, one.record.parents)),
        [one.id for one in items if features or one.record.kind != "feature"],
        on_demand=catalogue.items["on_demand_view"],
        with_features=features,
    )


def _links(child: str, parents: Iterable[Edge]) -> Iterator[Link]:
    return (Link(child, edge.parent, edge.role, edge.transformation) for edge in parents)


def around(registry: Registry, catalogue: Catalogue, focus: str, wanted: Wanted) -> Graph:
    """All that lies above and below the records of that name (`kind:name`, `view:feature`, or a
    bare name of the catalogue). Raises `RecordNotFound`."""
    kind, name = named(catalogue, focus)
    features = wanted.features or kind == "feature"
    beside: list[str] = []
    with registry.session():
        starts = [one.id for one in registry.glances(kind=kind, name=name, with_parents=False)]
        if not starts:
            raise RecordNotFound(focus, known=_known(catalogue))
        if kind in _VIEWS:
            # Who reads some features of a view names those, and the view stands for them.
            links = registry.walk(starts, direction="up", depth_max=1)
            beside = list(dict.fromkeys(link.parent for link in links if link.role == "feature"))
        up = registry.walk(starts, direction="up")
        down = registry.walk([*starts, *beside], direction="down", past=LEAVES)
    above, below = (
        graph.chosen(
            graph.graph_of(
                links, on_demand=catalogue.items["on_demand_view"], with_features=features
            ),
            kinds=wanted.kinds | {kind} if wanted.kinds else (),
            direct=wanted.direct,
        )
        for links in (up, down)
    )
    also = [f"feature:{name_of(record_id)}" for record_id in beside] if features else []
    return graph.around(f"{kind}:{name}", above, below, also=also, depth=wanted.depth)


def named(catalogue: Catalogue, focus: str) -> tuple[str, str]:
    """The kind and name that a text means."""
    kind, colon, name = focus.strip().partition(":")
    if not colon:
        found = (each for each in graph.KINDS if catalogue.get(each, kind) is not None)
        return next(found, "view"), kind
    if kind not in graph.KINDS and catalogue.get("feature", f"{kind}.{name}") is not None:
        return "feature", f"{kind}.{name}"
    return kind, name


def _known(catalogue: Catalogue) -> list[str]:
    return [f"{kind}:{name}" for kind, items in catalogue.items.items() for name in items]

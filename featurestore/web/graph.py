"""The lineage graph as nodes and links for a drawing: one node for each name of any version.

Features stand for themselves or are folded into their views. What lies above and below a node in
focus is found by walking links one way at a time, so that siblings stay out.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from featurestore.errors import RecordNotFound

if TYPE_CHECKING:
    from featurestore.records import StoredRecord, Transformation

NODES_MAX = 2_000
"""A drawing of more says so and shows those nearest to the focus."""
FOLDED = ("view", "on_demand_view")


@dataclass(frozen=True, slots=True)
class Node:
    """A thing of the graph; `id` is `kind:name`."""

    id: str
    kind: str
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Link:
    """`target` was made of `source`. DIRECT where any value of it went in."""

    source: str
    target: str
    transformation: Transformation


@dataclass(frozen=True, slots=True)
class Graph:
    """What is drawn; `hidden` nodes were too many."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    hidden: int = 0


def graph_of(records: Iterable[StoredRecord], *, with_features: bool) -> Graph:
    """The graph of these records and the links among them."""
    stored = {one.id: one for one in records if one.record.kind != "repo"}
    views = _views_of_features(stored.values())
    names: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    for one in stored.values():
        kind, name = one.record.kind, one.record.name
        if kind == "feature" and not with_features:
            kind, name = views.get(name, "view"), name.partition(".")[0]
        names[one.id] = f"{kind}:{name}"
        nodes[f"{kind}:{name}"] = Node(f"{kind}:{name}", kind, name, url_of(kind, name))
    links: dict[tuple[str, str], Transformation] = {}
    for one in stored.values():
        for edge in one.record.parents:
            ends = names.get(edge.parent), names[one.id]
            if ends[0] is not None and ends[0] != ends[1]:
                pair = (ends[0], ends[1])
                if links.get(pair) != "DIRECT":
                    links[pair] = edge.transformation
    made = tuple(Link(source, target, how) for (source, target), how in sorted(links.items()))
    return Graph(tuple(sorted(nodes.values(), key=lambda node: node.id)), made)


def _views_of_features(stored: Iterable[StoredRecord]) -> dict[str, str]:
    """By `view.feature`: whether its view is computed on demand."""
    kinds = {one.record.name: one.record.kind for one in stored if one.record.kind in FOLDED}
    features = (one.record.name for one in stored if one.record.kind == "feature")
    return {name: kinds.get(name.partition(".")[0], "view") for name in features}


def focused(graph: Graph, focus: str, *, depth: int | None = None) -> Graph:
    """What lies above and below `focus` (`kind:name`), at most `depth` links away. Raises
    `RecordNotFound`."""
    known = {node.id for node in graph.nodes}
    if focus not in known:
        raise RecordNotFound(focus, known=known)
    up, down = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for link in graph.links:
        up[link.target].append(link.source)
        down[link.source].append(link.target)
    near = _walk(focus, up, depth) | _walk(focus, down, depth)
    return _only(graph, sorted(near, key=lambda name: (near[name], name)))


def drawn(graph: Graph, *, kinds: Iterable[str] = (), direct: bool = False) -> Graph:
    """The graph without links that are INDIRECT (`direct`) and of some kinds only, cut to
    `NODES_MAX` nodes."""
    wanted = set(kinds)
    links = tuple(one for one in graph.links if not direct or one.transformation == "DIRECT")
    kept = [node.id for node in graph.nodes if not wanted or node.kind in wanted]
    return _only(Graph(graph.nodes, links, graph.hidden), kept)


def _only(graph: Graph, wanted: list[str]) -> Graph:
    kept = set(wanted[:NODES_MAX])
    return Graph(
        tuple(node for node in graph.nodes if node.id in kept),
        tuple(link for link in graph.links if link.source in kept and link.target in kept),
        graph.hidden + len(wanted) - len(kept),
    )


def _walk(start: str, ways: Mapping[str, list[str]], depth: int | None) -> dict[str, int]:
    """How far each node is that can be reached."""
    found, todo = {start: 0}, deque([start])
    while todo:
        here = todo.popleft()
        if depth is not None and found[here] >= depth:
            continue
        for there in ways.get(here, ()):
            if there not in found:
                found[there] = found[here] + 1
                todo.append(there)
    return found


_PAGES = {
    "view": "views",
    "on_demand_view": "views",
    "source": "sources",
    "request_source": "sources",
    "entity": "entities",
    "service": "services",
    "training_set": "training-sets",
    "run": "runs",
    "model": "models",
}


def url_of(kind: str, name: str) -> str:
    """The page of a thing. Names are quoted where they are put into a URL's path."""
    if kind == "feature":
        view, _, feature = name.partition(".")
        return f"/views/{quote(view, safe='')}#{quote(feature, safe='')}"
    if kind == "snapshot":
        return f"/sources/{quote(name, safe='')}"
    if kind == "run":
        return f"/runs/{quote(name.rpartition('/')[2], safe='')}"
    page = _PAGES.get(kind)
    return f"/{page}/{quote(name, safe='')}" if page else "/"

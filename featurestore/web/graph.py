"""The lineage graph as nodes and links for a drawing: one node for each name of any version.

Features stand for themselves or are folded into their views. What lies above and below a node in
focus comes as two graphs, walked one way each, so that siblings stay out.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from featurestore import records
from featurestore.fingerprint import short
from featurestore.records import Transformation

NODES_MAX = 150
"""More than that nobody can read, and a browser lays out for seconds. Of a larger graph those
nearest to the focus are drawn, without a focus those with most links; the rest is counted."""
LABEL_CHARS_MAX = 40
KINDS = (
    "source",
    "request_source",
    "entity",
    "view",
    "on_demand_view",
    "feature",
    "service",
    "training_set",
    "run",
    "model",
)
"""What is drawn, in the order in which data flows."""


@dataclass(frozen=True, slots=True)
class Node:
    """A thing of the graph; `id` is `kind:name`, `label` what is written on it."""

    id: str
    kind: str
    name: str
    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Link:
    """`target` was made of `source`. DIRECT where any value of it went in."""

    source: str
    target: str
    transformation: Transformation


@dataclass(frozen=True, slots=True)
class Graph:
    """What is drawn; `hidden` nodes were too many; `focus` is the node that it is about."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    hidden: int = 0
    focus: str = ""


def graph_of(
    links: Iterable[records.Link],
    alone: Iterable[str] = (),
    *,
    on_demand: Collection[str] = (),
    with_features: bool,
) -> Graph:
    """The graph of links between records, and of records `alone` that may have none (ids).
    `on_demand` are the names of views that are computed on request."""
    named: dict[str, str | None] = {}

    def node_of(record_id: str) -> str | None:
        if record_id not in named:
            named[record_id] = _node_of(record_id, on_demand, with_features=with_features)
        return named[record_id]

    nodes = {node: None for record_id in alone if (node := node_of(record_id)) is not None}
    found: dict[tuple[str, str], Transformation] = {}
    for link in links:
        source, target = node_of(link.parent), node_of(link.child)
        if source is None or target is None:
            continue
        nodes |= {source: None, target: None}
        if source != target and found.get((source, target)) != "DIRECT":
            found[source, target] = link.transformation
    return Graph(
        tuple(_node(name) for name in sorted(nodes)),
        tuple(Link(source, target, how) for (source, target), how in sorted(found.items())),
    )


def _node_of(record_id: str, on_demand: Collection[str], *, with_features: bool) -> str | None:
    kind, _, rest = record_id.partition(":")
    name = rest.rpartition("@")[0]
    if kind == "feature" and not with_features:
        name = name.partition(".")[0]
        kind = "on_demand_view" if name in on_demand else "view"
    return f"{kind}:{name}" if kind in KINDS else None


def _node(node: str) -> Node:
    kind, _, name = node.partition(":")
    return Node(node, kind, name, label_of(kind, name), url_of(kind, name))


def label_of(kind: str, name: str) -> str:
    """A name, short enough to be drawn: of a run its experiment and the beginning of its id."""
    if kind == "run":
        experiment, _, run_id = name.rpartition("/")
        name = f"{experiment}/{short(run_id)}"
    return name if len(name) <= LABEL_CHARS_MAX else f"{name[: LABEL_CHARS_MAX - 1]}…"


def joined(*graphs: Graph) -> Graph:
    """Several graphs as one."""
    nodes = {node.id: node for graph in graphs for node in graph.nodes}
    links: dict[tuple[str, str], Link] = {}
    for link in (link for graph in graphs for link in graph.links):
        before = links.get((link.source, link.target))
        if before is None or before.transformation != "DIRECT":
            links[link.source, link.target] = link
    return Graph(tuple(nodes.values()), tuple(links.values()))


def chosen(graph: Graph, *, kinds: Collection[str] = (), direct: bool = False) -> Graph:
    """The graph without links that are INDIRECT (`direct`), and of some kinds only (all, by
    default). What had such links alone goes with them."""
    nodes = tuple(node for node in graph.nodes if not kinds or node.kind in kinds)
    left = {node.id for node in nodes}
    links = tuple(
        link
        for link in graph.links
        if (not direct or link.transformation == "DIRECT") and {link.source, link.target} <= left
    )
    if direct:
        lost = _ends(graph.links) - _ends(links)
        nodes = tuple(node for node in nodes if node.id not in lost)
    return replace(graph, nodes=nodes, links=links)


def _ends(links: Iterable[Link]) -> set[str]:
    return {end for link in links for end in (link.source, link.target)}


def around(
    focus: str,
    above: Graph,
    below: Graph,
    *,
    also: Iterable[str] = (),
    depth: int | None = None,
) -> Graph:
    """What lies above and below the node `focus`, at most `depth` links away, cut to `NODES_MAX`
    nodes, the nearest first. `also` are nodes from which the way down begins, too."""
    up, down = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for link in above.links:
        up[link.target].append(link.source)
    for link in below.links:
        down[link.source].append(link.target)
    far = _walk({**dict.fromkeys(also, 1), focus: 0}, down, depth) | _walk({focus: 0}, up, depth)
    near = sorted(far, key=lambda node: (far[node], node))
    return replace(_cut(joined(Graph((_node(focus),), ()), above, below), near), focus=focus)


def overview(graph: Graph) -> Graph:
    """The graph, cut to `NODES_MAX` nodes, those with most links first."""
    links = Counter(end for link in graph.links for end in (link.source, link.target))
    ids = [node.id for node in graph.nodes]
    return _cut(graph, sorted(ids, key=lambda node: (-links[node], node)))


def _cut(graph: Graph, wanted: Sequence[str]) -> Graph:
    kept = set(wanted[:NODES_MAX])
    return Graph(
        tuple(node for node in graph.nodes if node.id in kept),
        tuple(link for link in graph.links if link.source in kept and link.target in kept),
        len(wanted) - len(kept),
    )


def _walk(
    starts: Mapping[str, int], ways: Mapping[str, list[str]], depth: int | None
) -> dict[str, int]:
    """How far each node is that can be reached, from starts that are so far away."""
    found, todo = dict(starts), deque(sorted(starts, key=starts.__getitem__))
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

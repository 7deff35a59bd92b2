"""`lineage`: what something was made of (up), or what was made of it (down), as a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import InvalidRequest, LimitExceeded
from featurestore.jobs.lineage import LEAVES, aliases_of, environments_of, name_of
from featurestore.jobs.lineage_impact import column_records
from featurestore.jobs.lineage_refs import Target, find
from featurestore.lifecycle.columns import (
    ANY,
    ROWS,
    column_node,
    source_column,
    split_node,
    value_links,
)
from featurestore.lifecycle.lineage import Direction, label_of, reached
from featurestore.records import Glance, Link, Transformation

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

NODES_MAX = 10_000
"""Nodes of one answer; beyond, ask for fewer levels (`depth`)."""

_WITHOUT_COLUMNS = ("source", "request_source", "entity", "snapshot", "repo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A record, or a column of a source: `id` is the record's, or `<record id>#<column>`. `label`
    is its name as people say it, `aliases` what points to it, `transformation` how it is reached
    from what was asked for (None: it is that)."""

    id: str
    kind: str
    label: str
    aliases: tuple[str, ...] = ()
    transformation: Transformation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The graph above or below `root` (a node's id), nearest first: `links` are child, parent, role
    and transformation by the ids of `nodes`."""

    target: str
    direction: Direction
    root: str
    at_us: int | None
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]


def lineage(
    registry: Registry,
    target: str,
    *,
    direction: Direction,
    depth: int | None = None,
    at_us: int | None = None,
) -> Lineage:
    """What `target` was made of (`up`) or what was made of it (`down`), at most `depth` links away.

    A name means the record that an environment has, else the newest. Features are followed to the
    columns that they read; a whole source, entity or snapshot record by record.

    Raises `RecordNotFound`, `AmbiguousRecord`, `LimitExceeded`, `InvalidRequest`.
    """
    if depth is not None and depth < 1:
        raise InvalidRequest(f"a depth is 1 or more, not {depth}")
    with registry.session():
        return _lineage(registry, target, direction, depth, at_us)


def _lineage(
    registry: Registry, target: str, direction: Direction, depth: int | None, at_us: int | None
) -> Lineage:
    asked = find(registry, target, at_us=at_us)
    stored = current(registry, asked, at_us=at_us)
    links = registry.walk(
        stored.id, direction=direction, at_us=at_us, past=LEAVES if direction == "down" else ()
    )
    root = stored.id
    if asked.column is not None:
        root = column_node(stored.id, source_column(stored, asked.column) or asked.column)
    if asked.column is not None or (direction == "up" and asked.kind not in _WITHOUT_COLUMNS):
        ids = {stored.id, *(link.child for link in links), *(link.parent for link in links)}
        links = value_links(links, column_records(registry, ids))
        if asked.column is not None and "inputs" in stored.body:
            # A column has its rows' origin, too; features have links of their own to that.
            rows = column_node(stored.id, ROWS)
            links = [*links, Link(root, rows, "rows", "INDIRECT")]
    # Every definition is in a repository; that says nothing about where it goes.
    links = [link for link in links if not link.child.startswith("repo:") or direction == "up"]
    links = _from(root, links, direction, depth)
    return Lineage(
        target=target,
        direction=direction,
        root=root,
        at_us=at_us,
        nodes=_nodes(registry, root, links, direction, at_us),
        links=tuple(links),
    )


def current(registry: Registry, asked: Target, *, at_us: int | None = None) -> Glance:
    """Of the records that a name means: the newest one that an environment has, else the newest."""
    homes = environments_of(registry, asked.ids, at_us=at_us)
    living = [stored for stored in asked.records if stored.id in homes]
    return (living or list(asked.records))[-1]


def _from(root: str, links: Iterable[Link], direction: Direction, depth: int | None) -> list[Link]:
    """The links that lie on paths from `root`, nearest first, none further than `depth`."""
    leaving: dict[str, list[Link]] = {}
    for link in links:
        leaving.setdefault(link.child if direction == "up" else link.parent, []).append(link)
    found, seen, level, steps = list[Link](), {root}, [root], 0
    while level and (depth is None or steps < depth):
        following, steps = list[str](), steps + 1
        for near in level:
            for link in leaving.get(near, ()):
                found.append(link)
                far = link.parent if direction == "up" else link.child
                if far not in seen:
                    seen.add(far)
                    following.append(far)
        level = following
        if len(seen) > NODES_MAX:
            raise LimitExceeded("NODES_MAX", asked=len(seen), allowed=NODES_MAX)
    return found


def _nodes(
    registry: Registry, root: str, links: list[Link], direction: Direction, at_us: int | None
) -> tuple[Node, ...]:
    how = reached([root], links, direction=direction)
    ids = {split_node(node)[0] for node in (root, *how)}
    models = [record_id for record_id in ids if record_id.startswith("model:")]
    numbers = {
        model.id: model.body.get("number")
        for model in registry.glances(ids=models, with_parents=False)
    }
    kinds = ("training_set:", "run:", "model:", "repo:")
    names = aliases_of(registry, [i for i in ids if i.startswith(kinds)], at_us=at_us)
    services = [record_id for record_id in ids if record_id.startswith("service:")]
    names |= environments_of(registry, services, at_us=at_us)
    return tuple(_node(node, how, names, numbers) for node in (root, *how))


def _node(
    node: str,
    how: Mapping[str, Transformation],
    names: Mapping[str, tuple[str, ...]],
    numbers: Mapping[str, object],
) -> Node:
    record_id, column = split_node(node)
    kind, name = record_id.partition(":")[0], name_of(record_id)
    if column is None:
        label = label_of(kind, name, record_id, number=numbers.get(record_id))
    else:
        kind = "column"
        label = {ROWS: f"rows of {name}", ANY: f"any column of {name}"}.get(
            column, f"{name}.{column}"
        )
    return Node(
        id=node,
        kind=kind,
        label=label,
        aliases=() if column is not None else names.get(record_id, ()),
        transformation=how.get(node),
    )

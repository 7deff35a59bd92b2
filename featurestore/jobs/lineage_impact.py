"""`impact`: what a change of a column, a source, a feature or any other record would touch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featurestore.jobs.lineage import LEAVES, blast_of, environments_of, name_of
from featurestore.jobs.lineage_refs import Target, find
from featurestore.lifecycle.columns import (
    ANY,
    UNRESOLVED,
    column_node,
    source_column,
    split_node,
    unresolved_of,
    value_links,
)
from featurestore.lifecycle.lineage import Blast, reached
from featurestore.records import Glance, Link, Transformation

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

_PAST_SOURCES = (*LEAVES, "feature", "view", "snapshot", "service")
"""Kinds that a walk through sources does not go past."""
_OF_COLUMNS = ("source:", "request_source:", "feature:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """A feature, as `view:feature`, that is touched: how, in which roles it reads what is touched
    (`value`, `where`, `key`, …), and in which environments it stands now (none: in the past)."""

    name: str
    transformation: Transformation
    roles: tuple[str, ...]
    environments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A column of a query (`*`: its rows) that may read what was asked for: it can't be told."""

    source: str
    column: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """What a change of `target` would touch, as of `at_us` (None: now).

    `blast` are services, training sets, runs and models. Where a query can't be looked through,
    `doubts` say so, and `maybe` is what lies behind it and may be touched, too.
    """

    target: str
    at_us: int | None = None
    features: tuple[Touched, ...] = ()
    blast: Blast = field(default_factory=Blast)
    doubts: tuple[Doubt, ...] = ()
    maybe: Blast = field(default_factory=Blast)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is touched for all that is known."""
        return not (self.features or self.blast.every or self.doubts)


def impact(registry: Registry, target: str, *, at_us: int | None = None) -> Impact:
    """What a change of `target` would touch: `source.column`, `source`, `view:feature`, or whatever
    else `find` understands. Versions of the past count, for models that were trained on them may
    live. Raises `RecordNotFound`, `AmbiguousRecord`, `LimitExceeded`."""
    with registry.session():
        return impact_of(registry, find(registry, target, at_us=at_us), at_us=at_us)


def impact_of(registry: Registry, asked: Target, *, at_us: int | None) -> Impact:
    """The same of what was found already."""
    starts = registry.twins(asked.ids)
    if asked.column is None:
        links = registry.walk(starts, direction="down", at_us=at_us, past=LEAVES)
        return _of_records(registry, asked, starts, links, at_us)
    # Through the sources first, column by column; then on from those features alone that read it.
    above = registry.walk(starts, direction="down", at_us=at_us, past=_PAST_SOURCES)
    by_id = column_records(registry, [*starts, *(link.child for link in above)])
    columns = value_links((), by_id)
    nodes, any_column = _nodes(asked, by_id)
    readers = [
        node for node in reached([*nodes, *any_column], columns) if node.startswith("feature:")
    ]
    below = registry.walk(readers, direction="down", at_us=at_us, past=LEAVES)
    graph = [*columns, *below]
    told = [link for link in graph if link.role != UNRESOLVED]
    how = reached(nodes, told)
    anyhow = how if len(told) == len(graph) else reached([*nodes, *any_column], graph)
    doubtful: dict[str, Transformation] = {node: "INDIRECT" for node in anyhow if node not in how}
    homes = _homes(registry, how, at_us)
    return Impact(
        target=asked.text,
        at_us=at_us,
        features=_touched(homes, how, told, nodes),
        blast=blast_of(registry, how, at_us=at_us, homes=homes),
        doubts=_doubts(graph, by_id, {*nodes, *any_column, *anyhow}) if doubtful else (),
        maybe=blast_of(registry, doubtful, at_us=at_us) if doubtful else Blast(),
    )


def _of_records(
    registry: Registry, asked: Target, starts: list[str], links: list[Link], at_us: int | None
) -> Impact:
    how = reached(starts, links)
    homes = _homes(registry, how, at_us)
    return Impact(
        target=asked.text,
        at_us=at_us,
        features=_touched(homes, how, links, starts),
        blast=blast_of(registry, how, at_us=at_us, homes=homes),
    )


def _homes(
    registry: Registry, how: Iterable[str], at_us: int | None
) -> Mapping[str, tuple[str, ...]]:
    """The environments of the features and services among what is reached."""
    ids = [record_id for record_id in how if record_id.startswith(("feature:", "service:"))]
    return environments_of(registry, ids, at_us=at_us)


def column_records(registry: Registry, ids: Iterable[str]) -> dict[str, Glance]:
    """The sources and features among `ids`, and their parents, by id."""
    wanted = {record_id for record_id in ids if record_id.startswith(_OF_COLUMNS)}
    by_id = {found.id: found for found in registry.glances(ids=sorted(wanted))}
    parents = {edge.parent for found in by_id.values() for edge in found.parents}
    more = sorted(parents - by_id.keys())
    return by_id | {found.id: found for found in registry.glances(ids=more)}


def _nodes(asked: Target, by_id: Mapping[str, Glance]) -> tuple[list[str], list[str]]:
    """The nodes of the column asked for; and, of sources whose columns are not recorded, those
    that stand for any of their columns."""
    nodes, any_column = list[str](), list[str]()
    for record_id, record in by_id.items():
        if (record.kind, record.name) == (asked.kind, asked.newest.name):
            column = source_column(record, asked.column or "")
            if column is not None:
                nodes.append(column_node(record_id, column))
                any_column += [] if "columns" in record.body else [column_node(record_id, ANY)]
    return nodes, any_column


def _touched(
    homes: Mapping[str, tuple[str, ...]],
    how: Mapping[str, Transformation],
    links: Iterable[Link],
    starts: Collection[str],
) -> tuple[Touched, ...]:
    found = [record_id for record_id in how if record_id.startswith("feature:")]
    ways, places = (defaultdict[str, set[str]](set) for _ in range(2))
    above = defaultdict[str, list[Link]](list)
    for link in links:
        if link.child in how and (link.parent in how or link.parent in starts):
            above[link.child].append(link)
    by_name = defaultdict[str, set[str]](set)
    for record_id in found:
        name = name_of(record_id).replace(".", ":", 1)
        by_name[name] |= _roles(record_id, how[record_id], above)
        ways[name].add(how[record_id])
        places[name] |= set(homes.get(record_id, ()))
    return tuple(
        Touched(
            name=name,
            transformation="DIRECT" if "DIRECT" in ways[name] else "INDIRECT",
            roles=tuple(sorted(by_name[name])),
            environments=tuple(sorted(places[name])),
        )
        for name in sorted(by_name)
    )


def _roles(node: str, how: Transformation, above: Mapping[str, Sequence[Link]]) -> set[str]:
    """The roles in which a feature reads what is touched. Of what reaches it INDIRECT, by links of
    its own that are all DIRECT, also the roles further up that make it so."""
    roles = {link.role for link in above[node]}
    todo, seen = [node], {node}
    while todo and how == "INDIRECT":
        links = [link for near in todo for link in above.get(near, ())]
        if indirect := {link.role for link in links if link.transformation == "INDIRECT"}:
            return roles | indirect
        todo = list({link.parent for link in links} - seen)
        seen.update(todo)
    return roles


def _doubts(
    graph: Iterable[Link], by_id: Mapping[str, Glance], touched: Collection[str]
) -> tuple[Doubt, ...]:
    found = dict[tuple[str, str], Doubt]()
    for link in graph:
        record_id, column = split_node(link.child)
        if link.role == UNRESOLVED and link.parent in touched and column not in (None, ANY):
            record = by_id[record_id]
            why = unresolved_of(record).get(str(column), "its columns were not recorded")
            doubt = Doubt(source=record.name, column=str(column), why=why)
            found[doubt.source, doubt.column] = doubt
    return tuple(found[key] for key in sorted(found))

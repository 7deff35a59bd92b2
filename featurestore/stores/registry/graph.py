"""How a registry answers questions about its graph: who is reachable, which records say the same,
where aliases pointed. Queries only; each is one statement over integer keys.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from featurestore.errors import LimitExceeded
from featurestore.records import AliasEvent, Edge, Glance, Link
from featurestore.stores.registry import schema, writes

WALK_EDGES_MAX = 1_000_000
"""Edges that one walk may answer with."""
DEPTH_COUNTED_MAX = 16
"""Up to this depth the database counts levels itself and leaves deeper records unread. Counting
visits a record once per level on which it stands, so deep walks are cut afterwards instead."""

ROWS_STREAMED = 1_000
_BY_INDEX = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
"""For this transaction. Without statistics (a new or restored database) Postgres takes what is
reached for a large part of the graph, and reads all of it at every step: 400 ms instead of 1."""
_TOLD = "featurestore_by_index"
"""Where a connection notes the transaction in which it was told that."""
_MENTIONED = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{32})(?![0-9a-f])")
_MENTIONED_BYTES = re.compile(_MENTIONED.pattern.encode())

Direction = Literal["up", "down"]


def walk(
    connection: Connection,
    project: str,
    starts: Sequence[str],
    *,
    direction: Direction,
    depth_max: int,
    at_us: int | None = None,
    past: Sequence[str] = (),
) -> list[Link]:
    """The edges reachable from the records with the ids `starts`, nearest first; none from ids that
    are not there.

    `past`: records of these kinds are reached, but not walked past. Raises `LimitExceeded`.
    """
    _search_by_index(connection)
    leaving = defaultdict[str, list[Link]](list)
    counted = depth_max <= DEPTH_COUNTED_MAX
    query = _reachable(direction, counted, at_us is not None, bool(past))
    given: dict[str, Any] = {"project": project} | ({"depth_max": depth_max} if counted else {})
    given |= {} if at_us is None else {"at_us": at_us}
    given |= {"past": list(past)} if past else {}
    count, read = 0, set[str]()
    for some in writes.chunks(starts):
        found = defaultdict[str, list[Link]](list)
        # All rows at once: SQLAlchemy hands them over more cheaply than one by one.
        for row in connection.execute(query, {"starts": list(some), **given}).all():
            link = Link(*row)
            near = link.child if direction == "up" else link.parent
            if near not in read:
                found[near].append(link)
                count += 1
        if count > WALK_EDGES_MAX:
            raise LimitExceeded("WALK_EDGES_MAX", asked=count, allowed=WALK_EDGES_MAX)
        read |= found.keys()
        leaving.update(found)
    return _nearest_first(starts, leaving, direction, depth_max)


def _search_by_index(connection: Connection) -> None:
    """Once in a transaction, where the database has to be told."""
    if connection.dialect.name != "postgresql":
        return
    transaction = connection.get_transaction()
    if connection.info.get(_TOLD) is not transaction:
        connection.exec_driver_sql(_BY_INDEX)
        connection.info[_TOLD] = transaction


@lru_cache
def _reachable(direction: Direction, counted: bool, dated: bool, passing: bool) -> sa.Select[Any]:
    """The edges that leave the records reachable from the ids `:starts`, by the end that they leave
    from. (Making the statement takes as long as running it, so each is made once.)"""
    edge, child, parent = schema.edge, schema.record.alias("c"), schema.record.alias("p")
    near, far = edge.c.child, edge.c.parent
    if direction == "down":
        near, far = far, near
    at_us = sa.bindparam("at_us", type_=sa.BigInteger())
    starts = sa.bindparam("starts", expanding=True, type_=sa.String())
    begin = sa.select(
        schema.record.c.seq.label("seq"), *([sa.literal(0).label("depth")] if counted else [])
    ).where(schema.record.c.project == sa.bindparam("project"), schema.record.c.id.in_(starts))
    reached = begin.cte("reached", recursive=True)
    step = sa.select(far, *([reached.c.depth + 1] if counted else []))
    step = step.select_from(reached).join(edge, near == reached.c.seq)
    if counted:
        step = step.where(reached.c.depth < sa.bindparam("depth_max", type_=sa.Integer()) - 1)
    if dated or passing:
        other = schema.record.alias("other")
        step = step.join(other, other.c.seq == far)
        step = step.where(*([other.c.created_at_us <= at_us] if dated else []))
        kinds = sa.bindparam("past", expanding=True, type_=sa.String())
        step = step.where(*([other.c.kind.not_in(kinds)] if passing else []))
    # UNION drops what was reached before, which ends cycles and visits each record once; one that
    # stands on several levels is there once per level, but its edges are wanted once.
    reached = reached.union(step)
    keys = sa.select(reached.c.seq).distinct().subquery("keys")
    return (
        sa.select(child.c.id, parent.c.id, edge.c.role, edge.c.transformation)
        .select_from(keys)
        .join(edge, near == keys.c.seq)
        .join(child, edge.c.child == child.c.seq)
        .join(parent, edge.c.parent == parent.c.seq)
        .where(*([child.c.created_at_us <= at_us] if dated else []))
        .order_by(near, edge.c.child, edge.c.position)
        .limit(WALK_EDGES_MAX + 1)
    )


def _nearest_first(
    starts: Iterable[str],
    leaving: Mapping[str, Sequence[Link]],
    direction: Direction,
    depth_max: int,
) -> list[Link]:
    level = list(dict.fromkeys(starts))
    edges, seen = list[Link](), set(level)
    for _ in range(depth_max):
        following = list[str]()
        for near in level:
            for link in leaving.get(near, ()):
                edges.append(link)
                far = link.parent if direction == "up" else link.child
                if far not in seen:
                    seen.add(far)
                    following.append(far)
        if not following:
            break
        level = following
    return edges


def twins(connection: Connection, project: str, ids: Sequence[str]) -> list[str]:
    """The records that say the same of the same: those of `ids`, and all of their kind and name
    whose body has the same `version`. Oldest first."""
    query, found = _twins(connection.dialect.name), dict[int, str]()
    for some in writes.chunks(ids):
        rows = connection.execute(query, {"project": project, "ids": list(some)})
        found.update((seq, record_id) for seq, record_id in rows)
    return [found[seq] for seq in sorted(found)]


@lru_cache
def _twins(dialect: str) -> sa.Select[Any]:
    one, other = schema.record.alias("one"), schema.record.alias("other")

    def version(body: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
        if dialect == "postgresql":
            parsed: sa.ColumnElement[str] = sa.cast(body, sa.JSON)["version"].as_string()
            return parsed
        found: sa.ColumnElement[str] = sa.func.json_extract(body, "$.version", type_=sa.String())
        return found

    same = sa.and_(
        other.c.project == one.c.project,
        other.c.kind == one.c.kind,
        other.c.name == one.c.name,
        sa.or_(other.c.seq == one.c.seq, version(other.c.body) == version(one.c.body)),
    )
    ids = sa.bindparam("ids", expanding=True, type_=sa.String())
    return (
        sa.select(other.c.seq, other.c.id)
        .join_from(one, other, same)
        .where(one.c.project == sa.bindparam("project"), one.c.id.in_(ids))
    )


def glances(
    connection: Connection,
    project: str,
    *,
    kinds: Sequence[str] | None,
    name: str | None,
    ids: Sequence[str] | None,
    with_parents: bool = True,
) -> list[Glance]:
    """Records by kind, name or ids with their parents, oldest first, as they are stored."""
    rows, edges = _glances(kinds is not None, name is not None, ids is not None)
    given = {"project": project, "kinds": kinds, "name": name}
    asked = {key: value for key, value in given.items() if value is not None}
    parents, found = defaultdict[int, list[Edge]](list), list[Any]()
    for some in [None] if ids is None else writes.chunks(sorted(set(ids))):
        values = asked if some is None else {**asked, "ids": list(some)}
        found += connection.execute(rows, values).all()
        if not with_parents:
            continue
        for child, parent, role, transformation in connection.execute(edges, values):
            parents[child].append(Edge(parent=parent, role=role, transformation=transformation))
    return [
        Glance(
            id=row.id,
            kind=row.kind,
            name=row.name,
            body=json.loads(row.body),
            parents=tuple(parents[row.seq]),
            created_at_us=row.created_at_us,
            author=row.author,
        )
        for row in sorted(found, key=lambda row: row.seq)
    ]


@lru_cache
def _glances(kinds: bool, name: bool, ids: bool) -> tuple[sa.Select[Any], sa.Select[Any]]:
    record, edge, parent = schema.record, schema.edge, schema.record.alias("parent")
    where = [record.c.project == sa.bindparam("project")]
    where += [record.c.kind.in_(sa.bindparam("kinds", expanding=True))] if kinds else []
    where += [record.c.name == sa.bindparam("name")] if name else []
    wanted = sa.bindparam("ids", expanding=True, type_=sa.String())
    where += [record.c.id.in_(wanted)] if ids else []
    c = record.c
    edges = (
        sa.select(edge.c.child, parent.c.id, edge.c.role, edge.c.transformation)
        .join_from(record, edge, edge.c.child == record.c.seq)
        .join(parent, edge.c.parent == parent.c.seq)
        .where(*where)
        .order_by(edge.c.child, edge.c.position)
    )
    shown = sa.select(c.seq, c.id, c.kind, c.name, c.body, c.created_at_us, c.author)
    return shown.where(*where), edges


def newest(
    connection: Connection,
    project: str,
    *,
    kinds: Sequence[str] | None,
    name: str | None,
    ids: Sequence[str] | None,
    count: int,
) -> list[str]:
    """The ids of the youngest `count` of such records."""
    record = schema.record
    where = [record.c.project == project]
    where += [record.c.kind.in_(kinds)] if kinds is not None else []
    where += [record.c.name == name] if name is not None else []
    where += [record.c.id.in_(ids)] if ids is not None else []
    query = sa.select(record.c.id).where(*where).order_by(record.c.seq.desc()).limit(count)
    return list(connection.scalars(query))


def moves(connection: Connection, project: str, which: sa.ColumnElement[bool]) -> list[AliasEvent]:
    """The moves of those aliases of `alias_event`, by name, oldest first."""
    event = schema.alias_event
    previous, target = schema.record.alias(), schema.record.alias()
    query = (
        sa.select(event, previous.c.id.label("previous_id"), target.c.id.label("target_id"))
        .join_from(event, previous, event.c.previous == previous.c.seq, isouter=True)
        .join(target, event.c.target == target.c.seq, isouter=True)
        .where(event.c.project == project, which)
        .order_by(event.c.name, event.c.serial)
    )
    return [
        AliasEvent(
            name=row.name,
            serial=row.serial,
            previous=row.previous_id,
            target=row.target_id,
            at_us=row.at_us,
            author=row.author,
            reason=row.reason,
        )
        for row in connection.execute(query)
    ]


def pointing(
    connection: Connection, project: str, ids: Sequence[str], at_us: int | None
) -> dict[str, tuple[str, ...]]:
    """The aliases that point to each of these records."""
    return _pointing(connection, project, ids, at_us, through_child=False)


def pointing_through(
    connection: Connection, project: str, ids: Sequence[str], at_us: int | None
) -> dict[str, tuple[str, ...]]:
    """The aliases that point to a record which has one of these as parent."""
    return _pointing(connection, project, ids, at_us, through_child=True)


def _pointing(
    connection: Connection,
    project: str,
    ids: Sequence[str],
    at_us: int | None,
    *,
    through_child: bool,
) -> dict[str, tuple[str, ...]]:
    query = _aliases_to(through_child, at_us is not None)
    given = {"project": project} | ({} if at_us is None else {"at_us": at_us})
    found = defaultdict[str, set[str]](set)
    for some in writes.chunks(ids):
        for record_id, name in connection.execute(query, {**given, "ids": list(some)}):
            found[record_id].add(name)
    return {record_id: tuple(sorted(names)) for record_id, names in found.items()}


@lru_cache
def _aliases_to(through_child: bool, dated: bool) -> sa.Select[Any]:
    record, edge = schema.record, schema.edge
    pointers = _as_of() if dated else sa.select(schema.alias.c.name, schema.alias.c.target)
    if not dated:
        pointers = pointers.where(schema.alias.c.project == sa.bindparam("project"))
    alias = pointers.subquery("pointers")
    query = sa.select(record.c.id, alias.c.name)
    if through_child:
        query = query.join_from(alias, edge, edge.c.child == alias.c.target)
        query = query.join(record, edge.c.parent == record.c.seq)
    else:
        query = query.join_from(alias, record, alias.c.target == record.c.seq)
    wanted = sa.bindparam("ids", expanding=True, type_=sa.String())
    return query.where(record.c.project == sa.bindparam("project"), record.c.id.in_(wanted))


def targets_at(
    connection: Connection, project: str, prefix: str, at_us: int
) -> list[tuple[str, str, int]]:
    """Name, record id and serial of the aliases that begin with `prefix`, as they stood then."""
    event, record = _as_of().subquery("event"), schema.record
    query = (
        sa.select(event.c.name, record.c.id, event.c.serial)
        .join_from(event, record, event.c.target == record.c.seq)
        .where(sa.func.substr(event.c.name, 1, len(prefix)) == prefix)
    )
    rows = connection.execute(query, {"project": project, "at_us": at_us})
    return [(name, target, serial) for name, target, serial in rows]


def _as_of() -> sa.Select[Any]:
    """Where the aliases of `:project` pointed at `:at_us`: each one's last move by then."""
    event, later = schema.alias_event, schema.alias_event.alias("later")
    newest = (
        sa.select(sa.func.max(later.c.serial))
        .where(
            later.c.project == event.c.project,
            later.c.name == event.c.name,
            later.c.at_us <= sa.bindparam("at_us", type_=sa.BigInteger()),
        )
        .scalar_subquery()
    )
    return sa.select(event.c.name, event.c.target, event.c.serial).where(
        event.c.project == sa.bindparam("project"), event.c.serial == newest
    )


def mentions(connection: Connection) -> frozenset[str]:
    """The digests and builds that bodies, blobs, and tables with a column `digest` name. Of any
    project, for projects may share the folder whose files these are."""
    found = set[str]()
    streamed = connection.execution_options(yield_per=ROWS_STREAMED)
    for (body,) in streamed.execute(sa.select(schema.record.c.body)):
        found.update(_MENTIONED.findall(body))
    for (data,) in streamed.execute(sa.select(schema.blob.c.data)):
        found.update(text.decode() for text in _MENTIONED_BYTES.findall(data))
    inspector = sa.inspect(connection)
    for name in inspector.get_table_names():
        columns = {column["name"] for column in inspector.get_columns(name)}
        if "digest" in columns and name != schema.blob.name:
            digest = sa.column("digest", sa.String())
            found.update(connection.scalars(sa.select(digest).select_from(sa.table(name))))
    return frozenset(found)

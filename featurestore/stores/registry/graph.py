"""How a registry answers questions about its graph: who is reachable, which records say the same,
where aliases pointed. Queries only; each is one statement over integer keys.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from featurestore.errors import LimitExceeded
from featurestore.records import Link
from featurestore.stores.registry import schema, writes

WALK_EDGES_MAX = 1_000_000
"""Edges that one walk may answer with."""
DEPTH_COUNTED_MAX = 16
"""Up to this depth the database counts levels itself and leaves deeper records unread. Counting
visits a record once per level on which it stands, so deep walks are cut afterwards instead."""

ROWS_STREAMED = 1_000
_MENTIONED = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{32})(?![0-9a-f])")
_MENTIONED_BYTES = re.compile(_MENTIONED.pattern.encode())

Direction = Literal["up", "down"]
Leaving = Mapping[int, Sequence[tuple[int, Link]]]
"""By record key: the edges that leave it in the walk's direction, each with the other end's key."""


def walk(
    connection: Connection,
    starts: Sequence[int],
    *,
    direction: Direction,
    depth_max: int,
    at_us: int | None = None,
    past: Sequence[str] = (),
) -> list[Link]:
    """The edges reachable from the records with the keys `starts`, nearest first.

    `past`: records of these kinds are reached, but not walked past. Raises `LimitExceeded`.
    """
    leaving = defaultdict[int, list[tuple[int, Link]]](list)
    count, read = 0, set[int]()
    for some in writes.chunks(starts):
        query = _reachable(some, direction, depth_max, at_us, past).limit(WALK_EDGES_MAX + 1)
        found = defaultdict[int, list[tuple[int, Link]]](list)
        for near, far, *shown in connection.execute(query):
            if near not in read:
                found[near].append((far, Link(*shown)))
                count += 1
        if count > WALK_EDGES_MAX:
            raise LimitExceeded("WALK_EDGES_MAX", asked=count, allowed=WALK_EDGES_MAX)
        read |= found.keys()
        leaving.update(found)
    return _nearest_first(starts, leaving, depth_max)


def _reachable(
    starts: Sequence[int],
    direction: Direction,
    depth_max: int,
    at_us: int | None,
    past: Sequence[str],
) -> sa.Select[Any]:
    """The edges that leave the records reachable from `starts`, each with the key of the end that
    it leaves from, that of the other end, and what the caller wants to know of it."""
    edge, child, parent = schema.edge, schema.record.alias("c"), schema.record.alias("p")
    near, far = edge.c.child, edge.c.parent
    if direction == "down":
        near, far = far, near
    reached = _reached(starts, near, far, depth_max=depth_max, at_us=at_us, past=past)
    # Who stands on several levels is there once per level; its edges are wanted once.
    keys = sa.select(reached.c.seq).distinct().subquery("keys")
    return (
        sa.select(near, far, child.c.id, parent.c.id, edge.c.role, edge.c.transformation)
        .select_from(keys)
        .join(edge, near == keys.c.seq)
        .join(child, edge.c.child == child.c.seq)
        .join(parent, edge.c.parent == parent.c.seq)
        .where(*([] if at_us is None else [child.c.created_at_us <= at_us]))
        .order_by(near, edge.c.child, edge.c.position)
    )


def _reached(
    starts: Sequence[int],
    near: sa.Column[int],
    far: sa.Column[int],
    *,
    depth_max: int,
    at_us: int | None,
    past: Sequence[str],
) -> sa.CTE:
    """The keys of `starts` and of what is reachable from them, without the last level."""
    counted = depth_max <= DEPTH_COUNTED_MAX
    begin = sa.select(
        schema.record.c.seq.label("seq"), *([sa.literal(0).label("depth")] if counted else [])
    ).where(schema.record.c.seq.in_(starts))
    reached = begin.cte("reached", recursive=True)
    step = sa.select(far, *([reached.c.depth + 1] if counted else []))
    step = step.select_from(reached).join(schema.edge, near == reached.c.seq)
    if counted:
        step = step.where(reached.c.depth < depth_max - 1)
    if at_us is not None or past:
        other = schema.record.alias("other")
        step = step.join(other, other.c.seq == far)
        step = step.where(*([] if at_us is None else [other.c.created_at_us <= at_us]))
        step = step.where(*([other.c.kind.not_in(past)] if past else []))
    # UNION drops what was reached before, which ends cycles and visits each record once.
    return reached.union(step)


def _nearest_first(starts: Iterable[int], leaving: Leaving, depth_max: int) -> list[Link]:
    level = list(dict.fromkeys(starts))
    edges, seen = list[Link](), set(level)
    for _ in range(depth_max):
        following = list[int]()
        for near in level:
            for far, link in leaving.get(near, ()):
                edges.append(link)
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
    one, other = schema.record.alias("one"), schema.record.alias("other")
    same = sa.and_(
        other.c.project == one.c.project,
        other.c.kind == one.c.kind,
        other.c.name == one.c.name,
        sa.or_(
            other.c.seq == one.c.seq,
            _version(connection, other.c.body) == _version(connection, one.c.body),
        ),
    )
    found = dict[int, str]()
    for some in writes.chunks(ids):
        query = (
            sa.select(other.c.seq, other.c.id)
            .join_from(one, other, same)
            .where(one.c.project == project, one.c.id.in_(some))
        )
        found.update(connection.execute(query).all())
    return [found[seq] for seq in sorted(found)]


def _version(connection: Connection, body: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    if connection.dialect.name == "postgresql":
        parsed: sa.ColumnElement[str] = sa.cast(body, sa.JSON)["version"].as_string()
        return parsed
    found: sa.ColumnElement[str] = sa.func.json_extract(body, "$.version", type_=sa.String())
    return found


def targets_at(
    connection: Connection, project: str, prefix: str, at_us: int
) -> list[tuple[str, str, int]]:
    """Name, record id and serial of the aliases that begin with `prefix`, as they stood then."""
    event, later, record = schema.alias_event, schema.alias_event.alias("later"), schema.record
    newest = (
        sa.select(sa.func.max(later.c.serial))
        .where(
            later.c.project == event.c.project,
            later.c.name == event.c.name,
            later.c.at_us <= at_us,
        )
        .scalar_subquery()
    )
    query = (
        sa.select(event.c.name, record.c.id, event.c.serial)
        .join_from(event, record, event.c.target == record.c.seq)
        .where(
            event.c.project == project,
            sa.func.substr(event.c.name, 1, len(prefix)) == prefix,
            event.c.serial == newest,
        )
    )
    return [(name, target, serial) for name, target, serial in connection.execute(query)]


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

"""What one commit does inside its transaction: check, insert, move. Nothing here opens or ends one.

The caller holds the project's lock, so that what is read stays true until the end. Alias moves
still name the serial that they saw, so that even without the lock the second of two racers fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from featurestore.errors import CommitConflict, InvalidRecord, LimitExceeded, RecordNotFound
from featurestore.fingerprint import canonical_json, fingerprint_bytes
from featurestore.records import AliasIs, Record, show_id
from featurestore.stores.registry import schema

T = TypeVar("T")

VALUES_PER_QUERY_MAX = 500
BLOB_BYTES_MAX = 64 * 1024 * 1024


class Author(NamedTuple):
    """Who commits in which project, when (µs) and why."""

    project: str
    name: str
    at_us: int
    reason: str


class Pointer(NamedTuple):
    """Where an alias points: the record's key and id, and the alias's serial."""

    seq: int
    id: str
    serial: int


def check_beliefs(connection: Connection, project: str, requires: Sequence[AliasIs]) -> None:
    """Raises `CommitConflict` for the first belief that is wrong."""
    for belief in requires:
        found = pointer(connection, project, belief.alias)
        if (found.id if found else None) != belief.target:
            raise _conflict(belief.alias, belief.target, found.id if found else None)


def insert_blobs(connection: Connection, project: str, blobs: Sequence[bytes]) -> None:
    """Store what is not there yet. Raises `LimitExceeded`."""
    by_digest = {fingerprint_bytes(data): data for data in blobs}
    for data in by_digest.values():
        if len(data) > BLOB_BYTES_MAX:
            raise LimitExceeded("BLOB_BYTES_MAX", asked=len(data), allowed=BLOB_BYTES_MAX)
    table = schema.blob
    for digest, data in by_digest.items():
        there = sa.select(table.c.digest).where(
            table.c.project == project, table.c.digest == digest
        )
        if connection.scalar(there) is None:
            connection.execute(
                sa.insert(table), {"project": project, "digest": digest, "data": data}
            )


def insert_records(connection: Connection, by: Author, records: Sequence[Record]) -> None:
    """Store what is not there yet, with its edges.

    Raises `InvalidRecord` where a parent neither exists nor is in `records`, and for a kind, name
    or role that the tables can't hold.
    """
    wanted = {record.id: record for record in records}
    parents = {edge.parent for record in wanted.values() for edge in record.parents}
    known = sequences(connection, by.project, wanted.keys() | parents)
    there = known.keys() | wanted.keys()
    for record in wanted.values():
        _check(record, there)
    new = {record_id: record for record_id, record in wanted.items() if record_id not in known}
    for chunk in chunks(list(new)):
        rows = [_record_row(new[record_id], record_id, by) for record_id in chunk]
        connection.execute(sa.insert(schema.record), rows)
    known |= sequences(connection, by.project, new)
    edges = [
        {
            "project": by.project,
            "child": known[record_id],
            "position": position,
            "parent": known[edge.parent],
            "role": edge.role,
            "transformation": edge.transformation,
        }
        for record_id, record in new.items()
        for position, edge in enumerate(record.parents)
    ]
    for some in chunks(edges):
        connection.execute(sa.insert(schema.edge), some)


def move_aliases(connection: Connection, by: Author, aliases: Mapping[str, str | None]) -> None:
    """Point each alias to its record id, or remove it (None), and note that it happened.

    An alias that is there already stays as it is. Raises `RecordNotFound`, `CommitConflict`.
    """
    targets = sequences(connection, by.project, [t for t in aliases.values() if t is not None])
    for name, target in sorted(aliases.items()):
        if not 1 <= len(name) <= schema.ALIAS_NAME_CHARS_MAX or "@" in name or "\0" in name:
            raise InvalidRecord(
                f"{name!r} is not an alias name: "
                f"1 to {schema.ALIAS_NAME_CHARS_MAX} characters, no @"
            )
        if target is not None and target not in targets:
            raise RecordNotFound(target)
        found = pointer(connection, by.project, name)
        if (found.id if found else None) == target:
            continue
        seq = None if target is None else targets[target]
        try:
            _move(connection, by, name, found, seq)
        except exc.IntegrityError as error:
            raise _conflict(name, found.id if found else None, "another record") from error


def delete_unreferenced(connection: Connection, project: str, *, kind: str, before_us: int) -> int:
    """Delete the records of a kind that were written before then, but for those that something
    points to; returns how many."""
    record, edge, alias, moved = schema.record, schema.edge, schema.alias, schema.alias_event
    pointers = (edge.c.child, edge.c.parent, alias.c.target, moved.c.target, moved.c.previous)
    gone = sa.delete(record).where(
        record.c.project == project,
        record.c.kind == kind,
        record.c.created_at_us < before_us,
        *(~sa.exists().where(pointer == record.c.seq) for pointer in pointers),
    )
    return connection.execute(gone).rowcount


def sequences(connection: Connection, project: str, ids: Iterable[str]) -> dict[str, int]:
    """The numeric keys of those of `ids` that exist."""
    table, found = schema.record, dict[str, int]()
    for chunk in chunks(sorted(set(ids))):
        query = sa.select(table.c.id, table.c.seq).where(
            table.c.project == project, table.c.id.in_(chunk)
        )
        found.update(connection.execute(query).all())
    return found


def pointer(connection: Connection, project: str, name: str) -> Pointer | None:
    """Where an alias points now, or None."""
    alias, record = schema.alias, schema.record
    query = (
        sa.select(record.c.seq, record.c.id, alias.c.serial)
        .join_from(alias, record, alias.c.target == record.c.seq)
        .where(alias.c.project == project, alias.c.name == name)
    )
    row = connection.execute(query).first()
    return None if row is None else Pointer(*row)


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """`items` in pieces that fit one statement."""
    for start in range(0, len(items), VALUES_PER_QUERY_MAX):
        yield items[start : start + VALUES_PER_QUERY_MAX]


def _move(
    connection: Connection, by: Author, name: str, found: Pointer | None, target: int | None
) -> None:
    alias, event = schema.alias, schema.alias_event
    here = sa.and_(alias.c.project == by.project, alias.c.name == name)
    serial = _last_serial(connection, by.project, name) + 1
    if found is None:
        values = {"project": by.project, "name": name, "target": target, "serial": serial}
        connection.execute(sa.insert(alias), values)
    else:
        seen = sa.and_(here, alias.c.serial == found.serial)
        change = (
            sa.delete(alias).where(seen)
            if target is None
            else sa.update(alias).where(seen).values(target=target, serial=serial)
        )
        if connection.execute(change).rowcount != 1:
            raise _conflict(name, found.id, "another record")
    connection.execute(
        sa.insert(event),
        {
            "project": by.project,
            "name": name,
            "serial": serial,
            "previous": found.seq if found else None,
            "target": target,
            "at_us": by.at_us,
            "author": by.name,
            "reason": by.reason,
        },
    )


def _last_serial(connection: Connection, project: str, name: str) -> int:
    """Of all moves, so that an alias that was removed and made again keeps counting."""
    event = schema.alias_event
    query = sa.select(sa.func.max(event.c.serial)).where(
        event.c.project == project, event.c.name == name
    )
    return connection.scalar(query) or 0


def _record_row(record: Record, record_id: str, by: Author) -> dict[str, Any]:
    return {
        "project": by.project,
        "id": record_id,
        "kind": record.kind,
        "name": record.name,
        "hash": record_id.rpartition("@")[2],
        "body": canonical_json(record.body),
        "created_at_us": by.at_us,
        "author": by.name,
    }


def _check(record: Record, known: Iterable[str]) -> None:
    head = f"{record.kind}:{record.name}"
    if len(record.kind) > schema.KIND_CHARS_MAX or "\0" in record.name:
        raise InvalidRecord(
            f"{head!r}: a kind has at most {schema.KIND_CHARS_MAX} characters, a name no NUL"
        )
    for edge in record.parents:
        if edge.parent not in known:
            raise InvalidRecord(
                f"{head} names the parent {show_id(edge.parent)}, which neither exists nor is in "
                "this commit; write the parents first"
            )
        if not 1 <= len(edge.role) <= schema.ROLE_CHARS_MAX:
            raise InvalidRecord(
                f"{head}: the role {edge.role!r} must have 1 to {schema.ROLE_CHARS_MAX} characters"
            )


def _conflict(alias: str, expected: str | None, found: str | None) -> CommitConflict:
    return CommitConflict(
        alias,
        expected=show_id(expected) if expected else None,
        found=show_id(found) if found and "@" in found else found,
    )

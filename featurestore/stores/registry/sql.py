"""The registry on an SQL database: SQLite by default, Postgres by URL."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from featurestore.errors import (
    AmbiguousRecord,
    CorruptRow,
    PermissionDenied,
    RecordNotFound,
    Unauthenticated,
)
from featurestore.fingerprint import fingerprint_bytes
from featurestore.permissions import Identity, Need, needs_of_commit
from featurestore.records import (
    Alias,
    AliasEvent,
    AliasIs,
    Edge,
    Glance,
    LedgerRow,
    Link,
    OnlineUse,
    Record,
    StoredRecord,
    show_id,
)
from featurestore.stores.registry import graph, online_uses, schema, writes
from featurestore.stores.registry import ledger as ledgers
from featurestore.stores.registry.access import (
    AUDIT,
    POLICY_ALIAS,
    TOKEN_PREFIX,
    audit_record,
    policy_of,
)
from featurestore.stores.registry.base import WALK_DEPTH_MAX, Registry
from featurestore.stores.registry.database import Database, server_facts
from featurestore.stores.registry.runs import RunTables
from featurestore.stores.registry.schema import SCHEMA_REVISION
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.timeline import Clock

_REF = re.compile(r"(?P<kind>[a-z][a-z_]*):(?P<name>[^@]+)@(?P<hash>[0-9a-f]{4,64})")


class SqlRegistry(Registry):
    """The records of one project in an SQL database. Safe to share between threads."""

    def __init__(self, database: Database, *, project: str, clock: Clock, author: str) -> None:
        self._database = database
        self._project = project
        self._clock = clock
        self.identity = Identity(author=author)

    @classmethod
    def open(cls, url: str, *, project: str, root: Path, clock: Clock, author: str) -> Self:
        """Connect, and create or migrate the schema. A relative SQLite path is below `root`.

        Raises `InvalidSettings` for a URL that names no database of ours, `SchemaTooNew`,
        `StoreUnavailable`, `StoreAccessDenied`, `StoreReadOnly`.
        """
        database = Database.open(url, root=root)
        return cls(database, project=project, clock=clock, author=author)

    def commit(
        self,
        *,
        requires: Sequence[AliasIs] = (),
        records: Sequence[Record] = (),
        blobs: Sequence[bytes] = (),
        aliases: Mapping[str, str | None] | None = None,
        ledger: Sequence[LedgerRow] = (),
        reason: str = "",
    ) -> None:
        aliases = aliases or {}
        named = {(record.kind, record.name) for record in records}
        needs = needs_of_commit(aliases, named, blobs=bool(blobs), ledger=bool(ledger))
        with self._committing(needs, reason=reason) as (connection, by):
            writes.check_beliefs(connection, self._project, requires)
            writes.insert_blobs(connection, self._project, blobs)
            writes.insert_records(connection, by, records)
            writes.move_aliases(connection, by, aliases)
            ledgers.insert(connection, self._project, ledger)

    def note_uses(self, environment: str, uses: Mapping[str, int]) -> None:
        # A lock of its own, so that no commit waits for servers; no audit of what they do unasked.
        with self._database.writing(f"featurestore uses {self._project}") as connection:
            self._check_access(connection, [(("info",), None)], self._clock.now_us())
            online_uses.note(connection, self._project, environment, uses)

    def last_uses(self, names: Collection[str], *, at_us: int | None = None) -> list[OnlineUse]:
        with self._database.reading() as connection:
            return online_uses.last(connection, self._project, names, at_us)

    @cached_property
    def runs(self) -> RunTables:
        return RunTables(self._project, self._database.reading, self._committing)

    @contextmanager
    def _committing(
        self, needs: Sequence[Need], *, reason: str, lock: str | None = None
    ) -> Iterator[tuple[Connection, writes.Author]]:
        """A transaction of somebody who may, alone under `lock` (by default the project's)."""
        now_us = self._clock.now_us()
        try:
            with self._database.writing(lock or self._lock) as connection:
                who = self._check_access(connection, needs, now_us)
                yield connection, writes.Author(self._project, who, now_us, reason)
        except (Unauthenticated, PermissionDenied) as error:
            self._note_denied(error, reason or "commit")
            raise

    @property
    def _lock(self) -> str:
        return f"featurestore project {self._project}"

    def prune_audit(self, *, before_us: int, reason: str = "") -> int:
        with self._committing([(("admin",), AUDIT)], reason="prune") as (connection, by):
            gone = writes.delete_unreferenced(
                connection, self._project, kind=AUDIT, before_us=before_us
            )
            detail = f"{gone} entries from before {format_instant(before_us)}; {reason}"
            entry = audit_record(
                self.identity, by.name, "prune", resource=AUDIT, outcome="allowed", detail=detail
            )
            writes.insert_records(connection, by, [entry])
            return gone

    def _check_access(self, connection: Connection, needs: Sequence[Need], now_us: int) -> str:
        """Who commits, by the access control that stands in this very transaction."""
        if not needs or writes.pointer(connection, self._project, POLICY_ALIAS) is None:
            return self.identity.author
        aliases = self._aliases(connection, POLICY_ALIAS)
        aliases |= self._aliases(connection, TOKEN_PREFIX)
        ids = [alias.target for alias in aliases.values()]
        seqs = writes.sequences(connection, self._project, ids).values()
        stored = [
            found
            for chunk in writes.chunks(sorted(seqs))
            for found in self._select(connection, schema.record.c.seq.in_(chunk))
        ]
        policy = policy_of(aliases, stored)
        if not policy.enforced:
            return self.identity.author
        principal = policy.principal(self.identity.token, now_us=now_us)
        principal.check_any(needs, self._project)
        return principal.name

    def _note_denied(self, error: Unauthenticated | PermissionDenied, action: str) -> None:
        who = getattr(error, "principal", "") or "unknown"
        resource = getattr(error, "grant", "") or None
        entry = audit_record(
            self.identity, who, action, resource=resource, outcome="denied", detail=error.code
        )
        self.commit(records=[entry])

    def record(self, ref: str) -> StoredRecord:
        table = schema.record
        with self._database.reading() as connection:
            if parts := _REF.fullmatch(ref):
                digits = len(parts["hash"])
                found = self._select(
                    connection,
                    table.c.kind == parts["kind"],
                    table.c.name == parts["name"],
                    sa.func.substr(table.c.hash, 1, digits) == parts["hash"],
                )
                if len(found) > 1:
                    raise AmbiguousRecord(ref, found=[show_id(r.id) for r in found])
                if not found:
                    same = sa.select(table.c.id).where(
                        table.c.project == self._project, table.c.kind == parts["kind"]
                    )
                    known = connection.scalars(same).all()
                    raise RecordNotFound(ref, known=[show_id(record_id) for record_id in known])
                return found[0]
            alias = writes.pointer(connection, self._project, ref)
            if alias is None:
                raise RecordNotFound(ref, known=self._aliases(connection))
            return self._select(connection, table.c.seq == alias.seq)[0]

    def records(
        self, *, kind: str | None = None, name: str | None = None, ids: Sequence[str] | None = None
    ) -> list[StoredRecord]:
        table = schema.record
        where = [
            column == value
            for column, value in ((table.c.kind, kind), (table.c.name, name))
            if value is not None
        ]
        with self._database.reading() as connection:
            if ids is None:
                return self._select(connection, *where)
            seqs = sorted(writes.sequences(connection, self._project, ids).values())
            return [
                stored
                for chunk in writes.chunks(seqs)
                for stored in self._select(connection, table.c.seq.in_(chunk), *where)
            ]

    def glances(
        self,
        *,
        kind: str | Sequence[str] | None = None,
        name: str | None = None,
        ids: Sequence[str] | None = None,
        newest: int | None = None,
        with_parents: bool = True,
    ) -> list[Glance]:
        kinds = [kind] if isinstance(kind, str) else kind
        with self._database.reading() as connection:
            if newest is not None:
                ids = graph.newest(
                    connection, self._project, kinds=kinds, name=name, ids=ids, count=newest
                )
            return graph.glances(
                connection,
                self._project,
                kinds=kinds,
                name=name,
                ids=ids,
                with_parents=with_parents,
            )

    def pointing(
        self, ids: Sequence[str], *, through_child: bool = False, at_us: int | None = None
    ) -> dict[str, tuple[str, ...]]:
        if not ids:
            return {}
        with self._database.reading() as connection:
            find = graph.pointing_through if through_child else graph.pointing
            return find(connection, self._project, sorted(set(ids)), at_us)

    def session(self) -> AbstractContextManager[None]:
        return self._database.session()

    def aliases(self, prefix: str = "", *, at_us: int | None = None) -> dict[str, Alias]:
        with self._database.reading() as connection:
            if at_us is None:
                return self._aliases(connection, prefix)
            rows = sorted(graph.targets_at(connection, self._project, prefix, at_us))
            return {name: Alias(name=name, target=to, serial=n) for name, to, n in rows}

    def history(self, alias: str) -> list[AliasEvent]:
        with self._database.reading() as connection:
            name = schema.alias_event.c.name
            return graph.moves(connection, self._project, name == alias)

    def histories(self, prefix: str) -> dict[str, list[AliasEvent]]:
        found = defaultdict[str, list[AliasEvent]](list)
        with self._database.reading() as connection:
            begins = sa.func.substr(schema.alias_event.c.name, 1, len(prefix)) == prefix
            for event in graph.moves(connection, self._project, begins):
                found[event.name].append(event)
        return dict(found)

    def walk(
        self,
        record_id: str | Sequence[str],
        *,
        direction: Literal["up", "down"],
        depth_max: int = WALK_DEPTH_MAX,
        at_us: int | None = None,
        past: Sequence[str] = (),
    ) -> list[Link]:
        ids = [record_id] if isinstance(record_id, str) else list(dict.fromkeys(record_id))
        with self._database.reading() as connection:
            links = graph.walk(
                connection,
                self._project,
                ids,
                direction=direction,
                depth_max=depth_max,
                at_us=at_us,
                past=past,
            )
            # Whoever has links is there; to look for the others alone saves a question.
            linked = {link.child if direction == "up" else link.parent for link in links}
            doubtful = [wanted for wanted in ids if wanted not in linked]
            known = writes.sequences(connection, self._project, doubtful) if doubtful else {}
        for wanted in doubtful:
            if wanted not in known:
                raise RecordNotFound(wanted)
        return links

    def twins(self, ids: Sequence[str]) -> list[str]:
        with self._database.reading() as connection:
            return graph.twins(connection, self._project, sorted(set(ids)))

    def mentions(self) -> frozenset[str]:
        with self._database.reading() as connection:
            return graph.mentions(connection)

    def blob(self, digest: str) -> bytes:
        table = schema.blob
        query = sa.select(table.c.data).where(
            table.c.project == self._project, table.c.digest == digest
        )
        with self._database.reading() as connection:
            data: bytes | None = connection.scalar(query)
        if data is None:
            raise RecordNotFound(f"blob {digest}")
        if fingerprint_bytes(data) != digest:
            raise CorruptRow(f"Blob {digest} in {self._database.shown} is not what was stored")
        return data

    def ledger(self, *, table: str | None = None, view: str | None = None) -> list[LedgerRow]:
        with self._database.reading() as connection:
            return ledgers.read(connection, self._project, table=table, view=view)

    def last_runs(
        self,
        by: Literal["table", "view"],
        names: Sequence[str],
        *,
        with_watermark: bool = False,
        at_us: int | None = None,
    ) -> dict[str, LedgerRow]:
        with self._database.reading() as connection:
            return ledgers.last(
                connection, self._project, by, names, with_watermark=with_watermark, at_us=at_us
            )

    def facts(self, now_us: Callable[[], int]) -> dict[str, Any]:
        """What the database says of itself, for `featurestore doctor`: `product`, `version`,
        `schema`, `clock_us` as of `asked_us` of our clock (Postgres). Takes the writer's lock, so
        that it raises what a commit would."""
        with self._database.writing("doctor") as connection:
            began = now_us()
            product, version, clock_us = server_facts(connection)
            return {
                "product": product,
                "version": version,
                "schema": SCHEMA_REVISION,
                "asked_us": (began + now_us()) // 2,
                "clock_us": clock_us,
            }

    def close(self) -> None:
        self._database.close()

    def _aliases(self, connection: Connection, prefix: str = "") -> dict[str, Alias]:
        alias, record = schema.alias, schema.record
        # Not LIKE: SQLite's ignores case, and names hold `_`, a wildcard there.
        query = (
            sa.select(alias.c.name, record.c.id, alias.c.serial)
            .join_from(alias, record, alias.c.target == record.c.seq)
            .where(
                alias.c.project == self._project,
                sa.func.substr(alias.c.name, 1, len(prefix)) == prefix,
            )
        )
        rows = sorted(connection.execute(query).all())
        return {name: Alias(name=name, target=to, serial=serial) for name, to, serial in rows}

    def _select(self, connection: Connection, *where: sa.ColumnElement[bool]) -> list[StoredRecord]:
        """Records with their parents, oldest first."""
        table, edge = schema.record, schema.edge
        parent = table.alias("parent")
        condition = sa.and_(table.c.project == self._project, *where)
        edges = (
            sa.select(edge.c.child, parent.c.id, edge.c.role, edge.c.transformation)
            .join_from(edge, table, edge.c.child == table.c.seq)
            .join(parent, edge.c.parent == parent.c.seq)
            .where(condition)
            .order_by(edge.c.child, edge.c.position)
        )
        parents = defaultdict[int, list[Edge]](list)
        for child, parent_id, role, transformation in connection.execute(edges):
            parents[child].append(Edge(parent=parent_id, role=role, transformation=transformation))
        rows = connection.execute(sa.select(table).where(condition).order_by(table.c.seq))
        return [self._stored(row, parents[row.seq]) for row in rows]

    def _stored(self, row: sa.Row[Any], parents: Sequence[Edge]) -> StoredRecord:
        record = Record(
            kind=row.kind, name=row.name, body=json.loads(row.body), parents=tuple(parents)
        )
        if record.id != row.id:
            raise CorruptRow(
                f"{show_id(row.id)} in {self._database.shown} is not what was stored under its hash"
            )
        return StoredRecord(
            id=row.id, record=record, created_at_us=row.created_at_us, author=row.author
        )

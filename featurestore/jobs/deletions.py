"""Deleting entities: offline for all times and materializations, and online at once.

Files first (from then on no job that begins reads the rows), then a record of who deleted what kind
of thing when, then the online rows. A materialization that began before looks once more when it has
written. Killed anywhere and run again, it ends in the same state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.compiler.deletions import DELETED_AT_US, deleting, deletions_name, reaches
from featurestore.compiler.online import events_field
from featurestore.compiler.rel import Input, Project, Sql
from featurestore.compiler.scans import view_rel
from featurestore.dtypes import INT64, to_arrow
from featurestore.engines.sql import quote
from featurestore.errors import (
    CorruptRow,
    InvalidJoinKey,
    InvalidRequest,
    LimitExceeded,
    MissingJoinKey,
    StoreUnavailable,
    suggest,
)
from featurestore.fingerprint import fingerprint
from featurestore.jobs.project import DELETIONS_FOLDER, current_files, deletion_files
from featurestore.jobs.window_runs import rows_of
from featurestore.jobs.window_writer import WindowWriter
from featurestore.records import Record
from featurestore.stores.online.base import KeyFields, Swap, revision_of
from featurestore.wire.entities import read_entities
from featurestore.wire.keys import encode_keys, key_prefix
from featurestore.wire.rows import row_head

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.typed import TypedEntity, TypedView
    from featurestore.jobs.materialize import Context

KEYS_PER_DELETION_MAX = 10_000
ROWS_PER_READ = 1_000
"""Online keys that are looked at in one round trip."""
ATTEMPTS_MAX = 100
"""How often a row is looked at anew while others write it."""
RECORD_KIND = "deletion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What was deleted: `keys` keys of `entity`, as of `at_us`; `rows_removed` are online rows."""

    entity: str
    keys: int
    at_us: int
    rows_removed: int


def delete_entity(context: Context, entity: str, keys: object, *, now_us: int) -> Deletion:
    """Delete `keys` (a dict, dicts, or a table) of `entity`; see `FeatureStore.delete_entity`."""
    typed = _entity(context, entity)
    table = _table(typed, keys, now_us)
    offline = context.offline
    if offline is None:
        raise InvalidRequest("a deletion needs an offline folder to be kept in")
    digest = fingerprint([sorted(map(repr, row.items())) for row in _plain(table)])
    name = f"{DELETIONS_FOLDER}/{entity}/{digest}.parquet"
    offline.write(name, table.schema, table.to_batches())
    body = {"entity": entity, "keys": table.num_rows, "deleted_at_us": now_us, "file": name}
    record = Record(kind=RECORD_KIND, name=entity, body=body)
    context.registry.commit(records=[record], reason=f"delete {table.num_rows} of {entity}")
    views = [view for view in context.repo.views.values() if reaches(typed, view)]
    sources = [view.source for view in views if _is_wider(view, typed)]
    files = current_files(context.repo, sources, context.root, offline)
    removed = sum(_erase(context, view, typed, table, files) for view in views)
    return Deletion(entity=entity, keys=table.num_rows, at_us=now_us, rows_removed=removed)


def keys_table(
    context: Context, entity: str, keys: object, now_us: int
) -> tuple[TypedEntity, pa.Table]:
    """The entity, and the keys that `delete_entity` would delete: a column for each join key, in
    the entity's types, each key once. Raises as that does."""
    typed = _entity(context, entity)
    return typed, _table(typed, keys, now_us)


def erase_since(context: Context, view: TypedView, files: Mapping[str, DataFiles]) -> None:
    """Remove from the store what was deleted after a run had resolved its `files`: it may have
    written such rows."""
    if context.offline is None:
        return
    now = deletion_files(context.repo, context.offline)
    for entity in deleting(view, context.repo, now):
        name = deletions_name(entity.name)
        before = files[name].pin if name in files else None
        if now[name].pin != before:
            for kept in context.offline.list(f"{DELETIONS_FOLDER}/{entity.name}"):
                _erase(context, view, entity, context.offline.read(kept.name), files)


# --- what is asked for ----------------------------------------------------------------------------


def _entity(context: Context, name: str) -> TypedEntity:
    known = context.repo.entities
    if name not in known:
        raise InvalidRequest(f"there is no entity {name!r}.{suggest(str(name), known)}")
    return known[name]


def _table(entity: TypedEntity, keys: object, at_us: int) -> pa.Table:
    """The keys in the types of the entity, each once, with the instant of their deletion."""
    import pyarrow as pa

    given = read_entities([keys] if _is_one(keys) else keys)
    names = [key.name for key in entity.keys]
    for name in given.columns:
        if name not in names:
            raise InvalidJoinKey(name, f"{entity.name} has no such join key.{suggest(name, names)}")
    for name in names:
        if name not in given.columns:
            raise MissingJoinKey(name, needed_by=entity.name, known=list(given.columns))
    if given.count > KEYS_PER_DELETION_MAX:
        raise LimitExceeded(
            "KEYS_PER_DELETION_MAX",
            asked=given.count,
            allowed=KEYS_PER_DELETION_MAX,
            hint="Delete in parts.",
        )
    if not given.count:
        raise InvalidRequest("no keys to delete are given")
    columns = {}
    for key in entity.keys:
        values = given.columns[key.name].as_dtype(key.dtype)
        if None in values:
            raise InvalidJoinKey(key.name, "a key to delete has no NULL in it")
        columns[key.name] = values
    rows = list(dict.fromkeys(zip(*columns.values(), strict=True)))
    arrays = {
        key.name: pa.array([row[n] for row in rows], to_arrow(key.dtype))
        for n, key in enumerate(entity.keys)
    }
    return pa.table(arrays | {DELETED_AT_US: pa.array([at_us] * len(rows), pa.int64())})


def _is_one(keys: object) -> bool:
    """One key as `{"tailnum": "N1"}`, rather than a dict of columns."""
    return isinstance(keys, Mapping) and not any(
        isinstance(value, Sequence) and not isinstance(value, str | bytes)
        for value in keys.values()
    )


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.drop_columns([DELETED_AT_US]).to_pylist()
    return sorted(rows, key=repr)


# --- online ---------------------------------------------------------------------------------------


def _is_wider(view: TypedView, entity: TypedEntity) -> bool:
    return len(view.keys) > len(entity.keys)


def _erase(
    context: Context,
    view: TypedView,
    entity: TypedEntity,
    deletions: pa.Table,
    files: Mapping[str, DataFiles],
) -> int:
    """Remove the rows of `view`, in every generation, that were known by their key's deletion."""
    fields, windows = _fields(context)
    prefix, removed = key_prefix(context.repo.project, view.key_space), 0
    for batch in _keys(context, view, entity, deletions, files):
        keys = encode_keys([batch.column(key.name) for key in view.keys], prefix)
        pairs = list(zip(keys, batch.column(DELETED_AT_US).to_pylist(), strict=True))
        for start in range(0, len(pairs), ROWS_PER_READ):
            until_us = dict(pairs[start : start + ROWS_PER_READ])
            removed += _remove(context, fields, until_us)
            part = batch.slice(start, ROWS_PER_READ)
            for field in windows.get(view.storage_hash, ()):
                removed += _forget(context, view, field, part, until_us)
    return removed


def _fields(context: Context) -> tuple[tuple[bytes, ...], Mapping[str, list[bytes]]]:
    """Of all tables that there ever were (old generations may not have been swept yet), and by
    storage hash of those that hold windows of today's views."""
    windowed = {v.storage_hash: list[bytes]() for v in context.repo.views.values() if v.is_windowed}
    fields = dict[bytes, None]()
    for stored in context.registry.records(kind="online_table"):
        field = bytes.fromhex(stored.record.body["field"])
        if (mine := windowed.get(str(stored.record.body["storage_hash"]))) is not None:
            mine.append(field)
        else:
            fields[field] = None
    return tuple(fields), windowed


def _forget(
    context: Context,
    view: TypedView,
    field: bytes,
    batch: pa.RecordBatch,
    until_us: Mapping[bytes, int],
) -> int:
    """Make the windows of keys anew from what is known since their deletion."""
    files = current_files(context.repo, [view.source], context.root, context.offline)
    now_us = context.clock.now_us()
    rows = rows_of(context, view, files, batch, known_until_us=now_us)
    return WindowWriter(context, view, field).forget(rows, until_us, now_us=now_us)


def _keys(
    context: Context,
    view: TypedView,
    entity: TypedEntity,
    deletions: pa.Table,
    files: Mapping[str, DataFiles],
) -> Iterator[pa.RecordBatch]:
    """The keys of `view` that hold a deleted key: itself, or what the source has around it."""
    if not _is_wider(view, entity):
        yield from deletions.to_batches(max_chunksize=ROWS_PER_READ)
        return
    own = {key.name: key.dtype for key in entity.keys}
    rows = view_rel(view, context.repo, files, features=(), with_deleted=True)
    listed = ", ".join(f"v.{quote(key.name)}" for key in view.keys)
    same = " AND ".join(f"v.{quote(name)} = d.{quote(name)}" for name in own)
    rel = Sql(
        query=f"SELECT {listed}, max(d.{DELETED_AT_US}) AS {DELETED_AT_US} "
        f"FROM v JOIN d ON {same} GROUP BY {listed}",
        inputs={
            "v": Project(input=rows, columns={key.name: key.name for key in view.keys}),
            "d": Input(name="deleted", dtypes=own | {DELETED_AT_US: INT64}),
        },
        dtypes={key.name: key.dtype for key in view.keys} | {DELETED_AT_US: INT64},
    )
    yield from context.engine.stream(rel, inputs={"deleted": deletions})


def _remove(context: Context, fields: tuple[bytes, ...], until_us: Mapping[bytes, int]) -> int:
    """Remove the rows below the keys that were known by then. A row that someone writes meanwhile
    is looked at again."""
    removed, todo = 0, list(until_us)
    for _ in range(ATTEMPTS_MAX):
        again = []
        found = context.store.read([KeyFields(key, fields) for key in todo])
        for key, rows in zip(todo, found, strict=True):
            for field, row in zip(fields, rows, strict=True):
                if row is not None and _is_known(row, until_us[key]):
                    gone = _take_away(context, field, key, row)
                    removed += gone
                    again += [] if gone else [key]
        if not again:
            return removed
        todo = list(dict.fromkeys(again))
    raise StoreUnavailable("other writers kept rewriting the rows to delete; run it again")


def _take_away(context: Context, field: bytes, key: bytes, row: bytes) -> bool:
    """Whether the row, or the state of windows that no view of today reads, is gone now."""
    if not revision_of(row):
        return context.store.delete(field, key, expected=row)
    swap = Swap(key, revision_of(row), (b"", b""))
    return context.store.swap((field, events_field(field)), [swap])[0]


def _is_known(row: bytes, until_us: int) -> bool:
    try:
        return max(row_head(row)) <= until_us
    except CorruptRow:
        return True  # nobody can read it

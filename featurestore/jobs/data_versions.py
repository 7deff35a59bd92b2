"""Versions of the data that we keep: training sets by name, with a log, differences, tags and a way
back; and Delta tables vacuumed of what no training set has read.

Nothing is rewritten: each version stays where it was written, `restore` and `tag` move aliases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.buckets import is_s3
from featurestore.definitions.source import FileSource
from featurestore.errors import InvalidRequest, SnapshotMissing, UnknownSource
from featurestore.jobs import set_files, training_sets
from featurestore.jobs.row_digest import row_lanes
from featurestore.jobs.row_hash import finished, hashes
from featurestore.lifecycle.versions import Change, changes, check_tag, settings_of
from featurestore.records import AliasIs

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.typed import TypedRepo
    from featurestore.jobs.training_sets import SetStore, TrainingSet
    from featurestore.records import StoredRecord

COMPARED_ROWS = 65_536
DIFF_ROWS_MAX = 200_000_000
"""Rows of both sets that are compared one by one; a hash of each is held in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a training set: `number` counts from 1 by age, `current` is the one that the
    name means."""

    number: int
    id: str
    at_us: int
    author: str
    rows: int
    bytes: int
    row_digest: str
    current: bool
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDiff:
    """What differs between two training sets.

    `rows_only_then` and `rows_only_now` count rows by the columns that both have, repetitions
    included. `columns_changed` are those of them that have other values for the same rows of the
    entity frame; None where the frames differ.
    """

    then: str
    now: str
    same_rows: bool
    rows: tuple[int, int]
    rows_only_then: int
    rows_only_now: int
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    columns_changed: tuple[str, ...] | None
    features: tuple[Change, ...]
    sources: tuple[Change, ...]
    settings: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacuumed:
    """What a vacuum removed (or would): `files` below the table's folder; `kept_versions` are those
    that training sets have read."""

    source: str
    files: tuple[str, ...]
    kept_versions: tuple[int, ...]
    removed: bool


def log(name: str, store: SetStore) -> tuple[Version, ...]:
    """The versions of a training set, newest first. Raises `RecordNotFound`."""
    newest = training_sets.find(name, store.registry)
    own = newest.record.name
    aliases = store.registry.aliases(f"{training_sets.KIND}/{own}")
    tags: dict[str, list[str]] = {}
    prefix = f"{training_sets.KIND}/{own}/"
    for alias, found in aliases.items():
        if alias.startswith(prefix):
            tags.setdefault(found.target, []).append(alias.removeprefix(prefix))
    current = aliases[f"{training_sets.KIND}/{own}"].target
    versions = [
        Version(
            number=number,
            id=stored.id,
            at_us=stored.created_at_us,
            author=stored.author,
            rows=stored.record.body["rows"],
            bytes=stored.record.body["bytes"],
            row_digest=stored.record.body["row_digest"],
            current=stored.id == current,
            tags=tuple(sorted(tags.get(stored.id, ()))),
        )
        for number, stored in enumerate(_versions(own, store), 1)
    ]
    return tuple(reversed(versions))


def _versions(name: str, store: SetStore) -> Sequence[StoredRecord]:
    return store.registry.records(kind=training_sets.KIND, name=name)


def restore(ref: str, store: SetStore, *, reason: str = "") -> TrainingSet:
    """Make the name mean this version again. Raises `RecordNotFound`, `SnapshotMissing` (files of
    it are gone), `CommitConflict`."""
    found = training_sets.TrainingSet(record=training_sets.find(ref, store.registry), store=store)
    for file in found.files.files:
        if store.offline.size(file.name) != file.size:
            raise SnapshotMissing(
                f"{store.offline.url(file.name)}, a file of {found.id}, is gone or changed. "
                "Restore it from a backup, or create the set anew"
            )
    alias = f"{training_sets.KIND}/{found.name}"
    now = store.registry.aliases(alias)[alias].target
    if now != found.id:
        store.registry.commit(
            requires=[AliasIs(alias, now)],
            aliases={alias: found.id},
            reason=reason or "restore",
        )
    return found


def tag(ref: str, name: str, store: SetStore, *, move: bool = False) -> TrainingSet:
    """Give a version a tag, by which `name/tag` finds it. Raises `RecordNotFound`, and
    `InvalidRequest` for a tag that another version has, unless it is to `move`."""
    stored = training_sets.find(ref, store.registry)
    alias = f"{training_sets.KIND}/{stored.record.name}/{check_tag(name)}"
    found = store.registry.aliases(alias).get(alias)
    if found is not None and found.target != stored.id and not move:
        raise InvalidRequest(
            f"tag {name!r} stands at {found.target}; move it with move=True (--move), or take "
            "another one"
        )
    target = None if found is None else found.target
    if target != stored.id:
        store.registry.commit(
            requires=[AliasIs(alias, target)], aliases={alias: stored.id}, reason="tag"
        )
    return training_sets.TrainingSet(record=stored, store=store)


# --- differences ----------------------------------------------------------------------------------


def diff(then_ref: str, now_ref: str, store: SetStore) -> DataDiff:
    """What differs between two training sets: what they were made of, and their rows.

    Raises `RecordNotFound`, `SnapshotMissing`, and `InvalidRequest` over `DIFF_ROWS_MAX`.
    """
    registry = store.registry
    then, now = (
        training_sets.TrainingSet(record=training_sets.find(ref, registry), store=store)
        for ref in (then_ref, now_ref)
    )
    if then.rows + now.rows > DIFF_ROWS_MAX:
        raise InvalidRequest(
            f"{then.rows + now.rows:,} rows are over DIFF_ROWS_MAX = {DIFF_ROWS_MAX:,}; compare "
            "their profiles"
        )
    old, new = set(then.schema.names), set(now.schema.names)
    shared = [name for name in then.schema.names if name in new]
    frames = then.body["entity_frame"], now.body["entity_frame"]
    same_frame = frames[0]["digest"] == frames[1]["digest"]
    left, right = (_sides(one, shared, same_frame) for one in (then, now))
    only_then, only_now = _only(left.rows, right.rows)
    changed = None
    if same_frame:
        changed = tuple(name for name in shared if left.columns[name] != right.columns[name])
    return DataDiff(
        then=then.id,
        now=now.id,
        same_rows=then.row_digest == now.row_digest,
        rows=(then.rows, now.rows),
        rows_only_then=only_then,
        rows_only_now=only_now,
        columns_added=tuple(n for n in now.schema.names if n not in old),
        columns_removed=tuple(n for n in then.schema.names if n not in new),
        columns_changed=changed,
        features=changes(*({c["feature"]: c["version"] for c in one.request["columns"]}
                           for one in (then, now))),
        sources=changes(*(_pins(one) for one in (then, now))),
        settings=changes(settings_of(then.body), settings_of(now.body)),
    )  # fmt: skip


def _pins(one: TrainingSet) -> dict[str, Any]:
    ids = [e.parent for e in one.record.record.parents if e.role == "snapshot"]
    snapshots = one.store.registry.records(ids=ids)
    return {stored.record.name: stored.record.body["pin"] for stored in snapshots}


@dataclass(slots=True)
class _Side:
    """A hash of each row, and of each column beside the entity frame the sum of its hashes."""

    rows: Any
    columns: dict[str, int]


def _sides(one: TrainingSet, shared: Sequence[str], same_frame: bool) -> _Side:
    parts = [np.empty(0, np.uint64)]
    columns = dict.fromkeys(shared, 0)
    listed = one.body["entity_frame"]["columns"]
    frame = [n for n in (listed if isinstance(listed, list) else ()) if n in shared]
    for batch in _batches(one, shared):
        parts.append(row_lanes(batch))
        if same_frame:
            first = np.zeros(batch.num_rows, np.uint64)
            for name in frame:
                first += hashes(batch[name], name)[0]
            for name in shared:
                lane = finished(first, hashes(batch[name], name)[0])[0]
                columns[name] = (columns[name] + int(lane.sum())) % (1 << 64)
    return _Side(np.concatenate(parts), columns)


def _batches(one: TrainingSet, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return set_files.read_rows(
        one.store.offline, one.files, batch_rows=COMPARED_ROWS, columns=columns
    )


def _only(left: Any, right: Any) -> tuple[int, int]:
    """How many of each are not among the other, repetitions counted."""
    values, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    ours = np.bincount(places[: len(left)], minlength=len(values))
    theirs = np.bincount(places[len(left) :], minlength=len(values))
    more = ours - theirs
    return int(more[more > 0].sum()), int(-more[more < 0].sum())


# --- Delta tables ---------------------------------------------------------------------------------


def vacuum(
    source: str, store: SetStore, repo: TypedRepo, *, older_than_us: int, dry_run: bool
) -> Vacuumed:
    """Remove the files of a source's Delta table that its present version does not have, that are
    older than a time, and that no training set on record has read, by whatever source.

    Raises `UnknownSource`, `InvalidRequest` (no Delta table; a version that a training set has read
    is not in its log any more), and what S3 does.
    """
    from featurestore.stores.offline.delta import vacuum_table

    if source not in repo.sources:
        raise UnknownSource(source, known=repo.sources)
    definition = repo.sources[source].definition
    if not isinstance(definition, FileSource):
        raise InvalidRequest(f"source {source!r} is a query; name a Delta table")
    kept = _versions_read(definition, store)
    files = vacuum_table(
        definition, store.root, store.offline.s3, kept, older_than_us=older_than_us, dry_run=dry_run
    )
    return Vacuumed(
        source=source, files=tuple(files), kept_versions=tuple(kept), removed=not dry_run
    )


def _versions_read(definition: FileSource, store: SetStore) -> list[int]:
    """The versions of a Delta table that training sets have read. The table is what its path says:
    sources are renamed, several may read one table, and one may come to read another."""
    registry = store.registry
    snapshots = [
        s.record for s in registry.records(kind="snapshot") if s.record.body["kind"] == "delta"
    ]
    parents = {edge.parent for one in snapshots for edge in one.parents if edge.role == "source"}
    table = _table_of(str(definition.path), store)
    same = {
        stored.id
        for stored in registry.records(ids=sorted(parents))
        if _table_of(str(stored.record.body.get("path", "")), store) == table
    }
    return sorted(
        {
            int(one.body["pin"]["version"])
            for one in snapshots
            if any(edge.parent in same for edge in one.parents)
        }
    )


def _table_of(path: str, store: SetStore) -> str:
    path = path.removeprefix("file://")
    return path.rstrip("/") if is_s3(path) else str((store.root / path).resolve())

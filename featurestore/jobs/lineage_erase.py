"""`erase`: which training sets hold a key of an entity, what was made of those, and its deletion.

Training sets are scanned, for they keep no list of their keys: personal data stands in their rows
and nowhere else. The rows of a set are never rewritten; a set that holds an erased key is named, so
that it can be made anew without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore.errors import FeatureStoreError, RecordNotFound
from featurestore.jobs import set_files
from featurestore.jobs.deletions import Deletion, delete_entity, keys_table
from featurestore.jobs.lineage import blast_of
from featurestore.jobs.training_sets import KIND, SetStore, TrainingSet
from featurestore.lifecycle.lineage import Blast, reached

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.typed import TypedEntity
    from featurestore.jobs.materialize import Context

SCANNED_ROWS = 131_072
"""Rows of a training set that are looked at together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """A training set that holds one of the keys: in so many rows, or (None) it can't be told, for
    the reason in `problem`."""

    id: str
    name: str
    rows: int | None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """`sets` hold one of the `keys` keys of `entity`, out of `scanned` training sets; `blast` are
    the runs and models made of those. `deletion` is what was deleted (None: nothing, it was only
    asked)."""

    entity: str
    keys: int
    scanned: int
    sets: tuple[Holds, ...] = ()
    blast: Blast = field(default_factory=Blast)
    deletion: Deletion | None = None


def erase(
    context: Context,
    sets: SetStore,
    entity: str,
    keys: object,
    *,
    dry_run: bool,
    now_us: int,
    at_us: int | None = None,
) -> Erasure:
    """Find the training sets with these keys of an entity, then delete the keys, online and
    offline (`dry_run`: only find, among those that there were at `at_us`).

    Raises as `delete_entity` does; nothing is deleted before all sets were looked at.
    """
    typed, table = keys_table(context, entity, keys, now_us)
    registry = context.registry
    every = [
        stored
        for stored in registry.records(kind=KIND)
        if at_us is None or stored.created_at_us <= at_us
    ]
    found = list[Holds]()
    for stored in every:
        made = TrainingSet(record=stored, store=sets)
        holds = _holds(made, typed, table)
        if holds is not None:
            found.append(holds)
    ids = [holds.id for holds in found if holds.rows]
    how = reached(ids, registry.walk(ids, direction="down", at_us=at_us)) if ids else {}
    deletion = None if dry_run else delete_entity(context, entity, keys, now_us=now_us)
    return Erasure(
        entity=entity,
        keys=table.num_rows,
        scanned=len(every),
        sets=tuple(found),
        blast=blast_of(registry, how, at_us=at_us),
        deletion=deletion,
    )


def _holds(made: TrainingSet, entity: TypedEntity, keys: pa.Table) -> Holds | None:
    try:
        columns = list(_key_columns(made, entity))
        rows = _rows_with(made, columns, entity, keys) if columns else 0
    except FeatureStoreError as error:
        return Holds(id=made.id, name=made.name, rows=None, problem=error.message)
    return Holds(id=made.id, name=made.name, rows=rows) if rows else None


def _key_columns(made: TrainingSet, entity: TypedEntity) -> Iterator[tuple[str, ...]]:
    """The columns of a set that hold keys of the entity, once for each way in which its views were
    asked for: by the entity's own names, or by those that `join_key_map` gave them."""
    names = tuple(key.name for key in entity.keys)
    there, maps = set(made.schema.names), list[Mapping[str, Any]]([{}])
    # A set whose request is gone is still known by the entity's own names.
    with suppress(RecordNotFound):
        maps += [use.get("join_key_map", {}) for use in made.request["uses"]]
    for columns in dict.fromkeys(tuple(m.get(n, n) for n in names) for m in maps):
        if there.issuperset(columns):
            yield columns


def _rows_with(
    made: TrainingSet, columns: Sequence[tuple[str, ...]], entity: TypedEntity, keys: pa.Table
) -> int:
    names = [key.name for key in entity.keys]
    wanted = {
        tuple(map(str, row)) for row in zip(*(keys[n].to_pylist() for n in names), strict=True)
    }
    needed = sorted({column for group in columns for column in group})
    rows = 0
    for batch in set_files.read_rows(
        made.store.offline, made.files, batch_rows=SCANNED_ROWS, columns=needed
    ):
        there = set[int]()
        for group in columns:
            there |= _places(batch, group, wanted)
        rows += len(there)
    return rows


def _places(
    batch: pa.RecordBatch, columns: Sequence[str], wanted: set[tuple[str, ...]]
) -> set[int]:
    """The rows whose columns are one of the keys. Keys are compared as text, so that the types of
    the frame (an integer of another width, a dictionary) do not matter; those whose first column
    is none of the wanted are passed over in bulk."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [_text(batch.column(name)) for name in columns]
    first = pc.is_in(texts[0], pa.array(sorted({key[0] for key in wanted}), pa.string()))
    places = pc.indices_nonzero(first).to_pylist()
    if len(columns) == 1:
        return set(places)
    return {i for i in places if tuple(text[i].as_py() for text in texts) in wanted}


def _text(column: pa.Array) -> pa.Array:
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_floating(column.type):
        # Whole numbers that passed through a frame with NULLs.
        with suppress(pa.ArrowInvalid):
            column = column.cast(pa.int64())
    return column.cast(pa.string())

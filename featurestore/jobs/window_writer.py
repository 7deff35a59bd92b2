"""Writing the states of windowed views: read, fold, compare-and-swap, and again where another
writer was faster. No update is lost, none counts twice."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.compiler.online import events_field
from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US
from featurestore.compiler.window_inputs import version_order
from featurestore.compiler.window_rows import (
    EVENT_ID,
    bucket_column,
    counts_column,
    input_column,
    tie_column,
    window_layout,
)
from featurestore.dtypes import DType, Kind
from featurestore.errors import CorruptRow, InvalidRequest, StoreUnavailable
from featurestore.jobs.ahead import one_ahead
from featurestore.jobs.window_fold import ADDED, REPEATED, TOO_LATE, Folded, fold, nothing
from featurestore.jobs.window_recent import Recent, together
from featurestore.jobs.window_turns import tie_bytes_of
from featurestore.stores.online.base import KeyFields, Swap, revision_of
from featurestore.value_bytes import map_types
from featurestore.wire.keys import encode_keys, key_prefix
from featurestore.wire.tile_decode import decode_states, parse_state
from featurestore.wire.tiles import Decoded, Events, Mask, objects
from featurestore.wire.window_layout import EVER_US, NEVER_US, WindowLayout

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedView
    from featurestore.jobs.materialize import Context
    from featurestore.wire.tiles import Column

KEYS_PER_SWAP_MAX = 2_000
"""Keys whose states are in memory at a time while they are made anew."""
KEYS_PER_ROUND = 500
"""Keys that are folded while as many others are written."""
ATTEMPTS_MAX = 100
"""How often a state is folded anew while other writers change it."""

Pair = tuple[bytes | None, bytes | None]
"""What the store has of a key: what serving reads, and what writers read."""

NO_ID, LATE = "no event id", "later than the correction horizon after the row that it corrects"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Row `index` of a batch does not count, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReport:
    """Of the rows of a batch, `added` count now, `repeated` stood there already, and the
    `rejected` are for the dead letters; `keys` are the keys that were written."""

    added: int
    repeated: int
    rejected: tuple[Rejected, ...]
    keys: int


@dataclass(frozen=True, slots=True)
class _Round:
    """What is to be written of some keys (the `owners` of events, which stand at `places`), of
    which so many were `recent`."""

    owners: Sequence[int]
    places: Column
    swaps: Sequence[Swap]
    revisions: Sequence[int]
    folded: Folded
    recent: int


@dataclass(frozen=True, slots=True)
class _Rebuild:
    """A writer's time, and by when it knows all that the source had."""

    now_us: int
    known_until_us: int


class WindowWriter:
    """Folds rows into the states of one windowed view below the field of one online table."""

    def __init__(self, context: Context, view: TypedView, field: bytes) -> None:
        self.layout = window_layout(view)
        self._tie_dtypes = [view.source.dtype(name) for name in version_order(view)]
        self._context = context
        self._view = view
        self._prefix = key_prefix(context.repo.project, view.key_space)
        self._fields = (field, events_field(field))
        self._recent = Recent(self.layout)

    def write(self, batch: pa.RecordBatch, *, now_us: int | None = None) -> WriteReport:
        """Fold rows in (the columns of `window_rel`), exactly once by their event id.

        `now_us` is the writer's time (default: the clock's). A row that is written again changes
        nothing. Raises `InvalidRequest` for a source without event ids, `LimitExceeded` for
        `EVENTS_PER_KEY_MAX`, and `StoreUnavailable` where other writers keep changing the same
        keys; what was written by then stays, and writing the batch again completes it.
        """
        if self.layout.id_dtype is None:
            raise InvalidRequest(
                f"source {self._view.source.name!r} has no event_id, so rows can't be written into "
                f"the windows of {self._view.name!r} one by one: a row that came twice would count "
                "twice. Give the source an event_id, or materialize"
            )
        ids = batch.column(EVENT_ID)
        rejected = [Rejected(n, NO_ID) for n in _nulls(ids)]
        places = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
        rows = batch.take(pa.array(places)) if rejected else batch
        keys, owners = self._keys(rows)
        events = events_of(self.layout, rows, owners, self._tie_dtypes)
        now_us = self._context.clock.now_us() if now_us is None else now_us
        outcomes = self._fold_in(keys, events, now_us)
        rejected += [Rejected(int(places[n]), LATE) for n in np.flatnonzero(outcomes == TOO_LATE)]
        return WriteReport(
            added=int((outcomes == ADDED).sum()),
            repeated=int((outcomes == REPEATED).sum()),
            rejected=tuple(sorted(rejected, key=lambda one: one.index)),
            keys=len(keys),
        )

    def rebuild(self, batch: pa.RecordBatch | pa.Table, *, now_us: int, known_until_us: int) -> int:
        """Make the states of the batch's keys anew from all their rows, which it has, known by
        `known_until_us`. Of what was there, what was written one by one and is not in the batch
        (yet) stays. Keys that a later run rebuilt are left alone.

        Returns the number of keys written.
        """
        keys, owners = self._keys(batch)
        events = events_of(self.layout, batch, owners, self._tie_dtypes)
        by = _Rebuild(now_us, known_until_us)
        return self._rebuild(keys, events, by, [EVER_US] * len(keys))

    def forget(
        self, batch: pa.RecordBatch | pa.Table, until_us: Mapping[bytes, int], *, now_us: int
    ) -> int:
        """Remove from the states of these store keys what was known by these instants; `batch` has
        the rows that the source has left of them. Returns the number of keys written."""
        keys, owners = self._keys(batch)
        events = events_of(self.layout, batch, owners, self._tie_dtypes)
        keys = list(dict.fromkeys([*keys, *until_us]))
        by = _Rebuild(now_us, now_us)
        return self._rebuild(keys, events, by, [until_us.get(key, EVER_US) for key in keys])

    def _keys(self, batch: pa.RecordBatch | pa.Table) -> tuple[list[bytes], Column]:
        """The different store keys of the rows, and for each row the index of its own."""
        found = encode_keys([batch.column(key.name) for key in self._view.keys], self._prefix)
        if not self._view.keys:
            found = [self._prefix] * batch.num_rows
        keys = list(dict.fromkeys(found))
        index = dict(zip(keys, range(len(keys)), strict=True))
        return keys, np.fromiter(map(index.__getitem__, found), np.int64, len(found))

    # --- read, fold, swap -------------------------------------------------------------------------

    def _fold_in(self, keys: Sequence[bytes], events: Events, now_us: int) -> Column:
        """Fold events in, and say what became of them. While some keys are written, the next ones
        are read and folded."""
        outcomes = np.zeros(len(events), np.uint8)
        todo: Sequence[int] = range(len(keys))
        for attempt in range(ATTEMPTS_MAX):
            parts = [todo[n : n + KEYS_PER_ROUND] for n in range(0, len(todo), KEYS_PER_ROUND)]
            rounds = (self._round(keys, events, part, now_us, attempt) for part in parts)
            lost: list[int] = []
            for one in rounds if len(parts) == 1 else one_ahead(rounds):
                swapped = self._swap(one.swaps)
                self._remember(one, swapped)
                outcomes[one.places] = one.folded.outcomes
                lost += [n for n, done in zip(one.owners, swapped, strict=True) if not done]
            if not lost:
                return outcomes
            todo = lost
        raise self._crossed()

    def _round(
        self,
        keys: Sequence[bytes],
        events: Events,
        owners: Sequence[int],
        now_us: int,
        attempt: int,
    ) -> _Round:
        """The next states of these keys: from what was written last, or what the store has."""
        wanted = [keys[n] for n in owners]
        expected, old = self._recent.find(wanted)
        missing = [n for n, revision in enumerate(expected) if revision is None]
        if missing:
            unknown = [wanted[n] for n in missing]
            # Both fields have one revision, unless one of them was damaged.
            fields = self._fields if attempt else self._fields[1:]
            stored = self._context.store.read([KeyFields(key, fields) for key in unknown])
            read = decode_states(self.layout, [row[-1] for row in stored])
            old = together(old, read, missing)
            for n, row in zip(missing, stored, strict=True):
                expected[n] = revision_of(row[0])
        mine, places = _of_owners(events, owners)
        revisions = _revisions(len(wanted))
        folded = fold(self.layout, old, mine, now_us=now_us, revisions=revisions)
        swaps = _swaps(wanted, [one or b"" for one in expected], folded)
        return _Round(owners, places, swaps, revisions, folded, len(wanted) - len(missing))

    def _swap(self, swaps: Sequence[Swap]) -> list[bool]:
        """For each key whether it is written, or another writer was faster."""
        return self._context.store.swap(self._fields, swaps)

    def _remember(self, one: _Round, swapped: Sequence[bool]) -> None:
        kept = [done and state != b"" for done, state in zip(swapped, one.folded.kept, strict=True)]
        revisions = [revision.to_bytes(8, "little") for revision in one.revisions]
        self._recent.keep([swap.key for swap in one.swaps], revisions, one.folded.states, kept)
        if one.recent and 2 * swapped.count(False) > one.recent:
            self._recent.rest()

    def _rebuild(
        self, keys: Sequence[bytes], events: Events, by: _Rebuild, forget_until_us: Sequence[int]
    ) -> int:
        written = 0
        for start in range(0, len(keys), KEYS_PER_SWAP_MAX):
            todo = list(range(start, min(start + KEYS_PER_SWAP_MAX, len(keys))))
            for _ in range(ATTEMPTS_MAX):
                stored = self._read([keys[n] for n in todo])
                stale = [
                    (n, pair)
                    for n, pair in zip(todo, stored, strict=True)
                    if rebuilt_until(self.layout, pair[0]) <= by.known_until_us
                ]
                todo, stored = [n for n, _ in stale], [pair for _, pair in stale]
                mine, _ = _of_owners(events, todo)
                old = self._pushed(stored, [forget_until_us[n] for n in todo], by.known_until_us)
                revisions = _revisions(len(todo))
                folded = fold(self.layout, old, mine, now_us=by.now_us, revisions=revisions)
                expected = [revision_of(served) for served, _ in stored]
                swapped = self._swap(_swaps([keys[n] for n in todo], expected, folded))
                written += sum(swapped)
                todo = [n for n, done in zip(todo, swapped, strict=True) if not done]
                if not todo:
                    break
            else:
                raise self._crossed()
        return written

    def _pushed(
        self, stored: Sequence[Pair], forget_until_us: Sequence[int], known_until_us: int
    ) -> Decoded:
        """Of the states' events those that may have come by themselves: the source need not have
        them yet."""
        old = nothing(self.layout, len(stored))
        events = old.events
        if self.layout.id_dtype is not None:
            events = self._readable([kept for _, kept in stored]).events
            limits = np.array(forget_until_us, np.int64)
            events = events.take(events.known_us > limits[events.owner])
        return replace(old, events=events, rebuilt_until_us=[known_until_us] * len(stored))

    def _readable(self, states: Sequence[bytes | None]) -> Decoded:
        """What the states hold; a damaged one, which is made anew, holds nothing."""
        try:
            return decode_states(self.layout, states)
        except CorruptRow:
            sound: list[bytes | None] = []
            for state in states:
                try:
                    decode_states(self.layout, [state])
                except CorruptRow:
                    sound.append(None)
                else:
                    sound.append(state)
            return decode_states(self.layout, sound)

    def _read(self, keys: Sequence[bytes]) -> list[Pair]:
        found = self._context.store.read([KeyFields(key, self._fields) for key in keys])
        return [(served, kept) for served, kept in found]

    def _crossed(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._view.name}: other writers kept changing the same keys; run it again"
        )


def _swaps(keys: Sequence[bytes], expected: Sequence[bytes], folded: Folded) -> list[Swap]:
    values = zip(folded.served, folded.kept, strict=True)
    return list(map(Swap, keys, expected, values, folded.expire_at_us))


def events_of(
    layout: WindowLayout,
    batch: pa.RecordBatch | pa.Table,
    owners: Column,
    tie_dtypes: Sequence[DType],
) -> Events:
    """The rows of `window_rel` as events."""
    count = batch.num_rows
    event_us, created_us = _integers(batch.column(EVENT_US)), _integers(batch.column(CREATED_US))
    present: list[Mask] = []
    values: list[Column | None] = []
    names = set(batch.schema.names)
    for n, one in enumerate(layout.inputs):
        counts = np.ones(count, bool)
        if counts_column(n) in names:
            counts = _booleans(batch.column(counts_column(n)))
        for name in (input_column(n), bucket_column(n)):
            if name in names:
                counts = counts & batch.column(name).is_valid().to_numpy(zero_copy_only=False)
        present.append(counts)
        values.append(_input_values(one.dtype, batch, n))
    ids = ties = None
    if layout.id_dtype is not None:
        ids = _values(layout.id_dtype, batch.column(EVENT_ID))
        columns = [(dtype, batch.column(tie_column(n))) for n, dtype in enumerate(tie_dtypes)]
        ties = tie_bytes_of(columns, count)
    return Events(
        owners,
        event_us,
        created_us,
        np.full(count, NEVER_US, np.int64),
        _booleans(batch.column(DELETED)),
        ids,
        ties,
        tuple(present),
        tuple(values),
    )


def _input_values(dtype: DType | None, batch: pa.RecordBatch | pa.Table, n: int) -> Column | None:
    """What rows bring in for input `n`; anything where they do not count."""
    if dtype is None or dtype.kind is not Kind.MAP:
        return None if dtype is None else _values(dtype, batch.column(input_column(n)))
    key, value = map_types(dtype)
    buckets = _values(key, batch.column(bucket_column(n))).tolist()
    if key.kind is Kind.BOOL:
        buckets = list(map(bool, buckets))
    brought: Sequence[Any] = [True] * len(buckets)
    if input_column(n) in batch.schema.names:
        column = batch.column(input_column(n))
        if value.kind is not Kind.BOOL or pa.types.is_boolean(column.type):
            brought = _values(value, column).tolist()
    pairs = zip(buckets, brought, strict=True)
    return objects([{bucket: one} for bucket, one in pairs])


def rebuilt_until(layout: WindowLayout, state: bytes | None) -> int:
    """By when the materialization that made a state knew all; long ago where none did, or where
    nobody can read it."""
    if state is None:
        return EVER_US
    try:
        message = parse_state(layout, state)
    except CorruptRow:
        return EVER_US
    return message.rebuilt_until_us if message.HasField("rebuilt_until_us") else EVER_US


def _values(dtype: DType, column: pa.Array | pa.ChunkedArray) -> Column:
    """Values as rows carry them; anything where there is none."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    match dtype.slot:
        case "doubles":
            found: Column = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
            return found
        case "integers":
            return _integers(column)
        case _:
            return objects(column.to_pylist())


def _integers(column: pa.Array | pa.ChunkedArray) -> Column:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    elif pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz))
    found: Column = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return found


def _booleans(column: pa.Array | pa.ChunkedArray) -> Mask:
    found: Mask = column.fill_null(False).to_numpy(zero_copy_only=False)
    return found


def _nulls(column: pa.Array) -> list[int]:
    found: list[int] = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist()
    return found


def _of_owners(events: Events, owners: Sequence[int]) -> tuple[Events, Column]:
    """The events of these keys, numbered by their place in `owners`, and where they stood."""
    top = int(events.owner.max(initial=-1)) + 1
    place = np.full(max(top, max(owners, default=-1) + 1), -1, np.int64)
    place[list(owners)] = np.arange(len(owners))
    mine = np.flatnonzero(place[events.owner] >= 0)
    chosen = events.take(mine)
    return replace(chosen, owner=place[chosen.owner]), mine


def _revisions(count: int) -> list[int]:
    """Numbers that no other writer takes."""
    data = secrets.token_bytes(8 * count)
    return [int.from_bytes(data[8 * n : 8 * n + 8], "little") for n in range(count)]

"""The codec of windowed states: columns over many keys ⇄ the bytes of each.

There is one encoder, so equal states are equal bytes (but for the revision, which is the writer's).
Values are numpy columns; those that have no fixed size (texts, decimals, partials) are arrays of
objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from featurestore.dtypes import DType
from featurestore.errors import CorruptRow
from featurestore.value_bytes import Reader, value_bytes
from featurestore.wire.window_layout import NEVER_US, Group, WindowLayout
from featurestore.wire.window_state_pb2 import (
    WindowEvents,
    WindowState,
    WindowTiles,
    WindowValues,
)

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Events:
    """Versions of events, in columns. `owner` is the index of the key. `ids` are integers or texts,
    `ties` say which version of one id takes its turn last where all times are equal (both None:
    the source has no ids). For each input `present` says where an event counts, `values` what it
    brings in (None where that is nothing; anything where it does not count)."""

    owner: Int64
    event_us: Int64
    created_us: Int64
    until_us: Int64
    deleted: Mask
    ids: Column | None
    ties: Column | None
    present: tuple[Mask, ...]
    values: tuple[Column | None, ...]

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def known_us(self) -> Int64:
        """When each became known."""
        return np.maximum(self.event_us, self.created_us)

    def take(self, which: Any) -> Events:
        """Those at these places, or where a mask is true."""
        return Events(
            self.owner[which],
            self.event_us[which],
            self.created_us[which],
            self.until_us[which],
            self.deleted[which],
            None if self.ids is None else self.ids[which],
            None if self.ties is None else self.ties[which],
            tuple(column[which] for column in self.present),
            tuple(None if column is None else column[which] for column in self.values),
        )

    @classmethod
    def join(cls, parts: Sequence[Events]) -> Events:
        """All rows of some."""
        first, count = parts[0], len(parts[0].present)
        with_ids = first.ids is not None
        return cls(
            np.concatenate([p.owner for p in parts]),
            np.concatenate([p.event_us for p in parts]),
            np.concatenate([p.created_us for p in parts]),
            np.concatenate([p.until_us for p in parts]),
            np.concatenate([p.deleted for p in parts]),
            np.concatenate([_there(p.ids) for p in parts]) if with_ids else None,
            np.concatenate([_there(p.ties) for p in parts]) if with_ids else None,
            tuple(np.concatenate([p.present[n] for p in parts]) for n in range(count)),
            tuple(
                None
                if first.values[n] is None
                else np.concatenate([_there(p.values[n]) for p in parts])
                for n in range(count)
            ),
        )


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of one group, in columns, ordered by key and start: `integers` and `doubles` have a row
    for each lane, `partials` an array of states."""

    owner: Int64
    starts: Int64
    integers: Int64
    doubles: Float64
    partials: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, which: Any) -> Tiles:
        """Those at these places, or where a mask is true."""
        return Tiles(
            self.owner[which],
            self.starts[which],
            self.integers[:, which],
            self.doubles[:, which],
            tuple(lane[which] for lane in self.partials),
        )

    @classmethod
    def join(cls, parts: Sequence[Tiles]) -> Tiles:
        """All tiles of some, in their order."""
        return cls(
            np.concatenate([p.owner for p in parts]),
            np.concatenate([p.starts for p in parts]),
            np.concatenate([p.integers for p in parts], axis=1),
            np.concatenate([p.doubles for p in parts], axis=1),
            tuple(
                np.concatenate([p.partials[n] for p in parts])
                for n in range(len(parts[0].partials))
            ),
        )


Part = tuple[Tiles, Int64]
"""The tiles of one group, and for each key how many of its own are sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """The states of `count` keys, for serving or for writers.

    One per key: the head's times and revision, the newest of the events that are not in `events`
    (None: none), whether `stable` differs from `tiles`, hashes of settled ids, and by when a
    materialization had seen all that was known. `tiles`, `stable` (empty: no key's differ) and
    `ends_us` go by group.
    """

    count: int
    for_writers: bool
    event_us: Sequence[int]
    created_us: Sequence[int]
    revisions: Sequence[int]
    written_us: int
    tiles: Sequence[Part]
    stable: Sequence[Part]
    ends_us: Sequence[int]
    events: Events
    newest_us: Sequence[int | None]
    late: Sequence[bool]
    settled_ids: Sequence[bytes]
    rebuilt_until_us: Sequence[int | None]


def no_events(layout: WindowLayout) -> Events:
    """Columns without a row."""
    none = np.zeros(0, np.int64)
    ids: Column | None = None
    if layout.id_dtype is not None:
        ids = none if layout.id_dtype.slot == "integers" else np.zeros(0, object)
    return Events(
        none,
        none,
        none,
        none,
        np.zeros(0, bool),
        ids,
        None if ids is None else np.zeros(0, object),
        tuple(np.zeros(0, bool) for _ in layout.inputs),
        tuple(value_column(i.dtype, ()) for i in layout.inputs),
    )


def no_tiles(group: Group) -> Tiles:
    """Columns without a tile."""
    return Tiles(
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros((len(group.integers), 0), np.int64),
        np.zeros((len(group.doubles), 0), np.float64),
        tuple(np.zeros(0, object) for _ in group.partials),
    )


def value_column(dtype: DType | None, values: Iterable[Any]) -> Column | None:
    """Values of a type as a column; None for what has no values."""
    if dtype is None:
        return None
    match dtype.slot:
        case "doubles":
            return np.array([*values], np.float64)
        case "integers":
            return np.array([*values], np.int64)
        case _:
            return objects([*values])


def objects(values: Sequence[Any]) -> Column:
    """An array of objects, whatever they are."""
    found = np.empty(len(values), object)
    found[:] = values
    return found


# --- encoding -------------------------------------------------------------------------------------


def encode_states(layout: WindowLayout, states: States) -> list[bytes]:
    """The bytes of each key's state."""
    keys = np.arange(states.count + 1)
    events, event_at = states.events, np.searchsorted(states.events.owner, keys).tolist()
    tables = [_Table(layout, states, n, part) for n, part in enumerate(states.tiles)]
    stable = [_Table(layout, states, n, part) for n, part in enumerate(states.stable)]
    blobs = _blobs(layout, events)
    found = []
    for key in range(states.count):
        state = WindowState(
            event_time_us=states.event_us[key],
            created_time_us=states.created_us[key],
            view_tag=layout.tag,
            revision=states.revisions[key],
            written_us=states.written_us,
            folded_newest_us=states.newest_us[key],
            settled_ids=states.settled_ids[key],
            rebuilt_until_us=states.rebuilt_until_us[key],
        )
        state.tiles.extend(tiles.of_key(key) for tiles in tables)
        if stable and states.late[key]:
            state.stable.extend(tiles.of_key(key) for tiles in stable)
        start, stop = event_at[key], event_at[key + 1]
        if start < stop:
            state.events.CopyFrom(
                _events(events, blobs, slice(start, stop), with_ties=states.for_writers)
            )
        found.append(state.SerializeToString(deterministic=True))
    return found


class _Table:
    """The tiles of one group, ready to be cut up by key."""

    def __init__(self, layout: WindowLayout, states: States, group: int, part: Part) -> None:
        tiles, sealed = part
        self._tiles = tiles
        self._end_us = states.ends_us[group]
        self._sealed = sealed.tolist()
        self._at = np.searchsorted(tiles.owner, np.arange(states.count + 1)).tolist()
        self._partials = [
            list(map(layout.partial(lane).encode, column))
            for lane, column in zip(layout.groups[group].partials, tiles.partials, strict=True)
        ]

    def of_key(self, key: int) -> WindowTiles:
        """Those of one key."""
        start, stop = self._at[key], self._at[key + 1]
        return WindowTiles(
            end_us=self._end_us,
            sealed=self._sealed[key],
            starts_us=self._tiles.starts[start:stop].tobytes(),
            integers=self._tiles.integers[:, start:stop].tobytes(),
            doubles=self._tiles.doubles[:, start:stop].tobytes(),
            partials=[blob for lane in self._partials for blob in lane[start:stop]],
        )


def _blobs(layout: WindowLayout, events: Events) -> list[list[bytes] | None]:
    """The values of inputs that are no numbers, as bytes."""
    found: list[list[bytes] | None] = []
    for one, present, values in zip(layout.inputs, events.present, events.values, strict=True):
        dtype = one.dtype
        if dtype is None or values is None or dtype.slot != "blobs":
            found.append(None)
        else:
            pairs = zip(values, present.tolist(), strict=True)
            found.append([value_bytes(v, dtype) if there else b"" for v, there in pairs])
    return found


def _events(
    events: Events, blobs: Sequence[list[bytes] | None], of: slice, *, with_ties: bool
) -> WindowEvents:
    until, deleted = events.until_us[of], events.deleted[of]
    message = WindowEvents(
        event_times_us=events.event_us[of].tobytes(),
        created_us=events.created_us[of].tobytes(),
        until_us=until.tobytes() if (until != NEVER_US).any() else b"",
        deleted=deleted.tobytes() if deleted.any() else b"",
    )
    if events.ids is not None and events.ids.dtype == object:
        message.text_ids.extend(events.ids[of])
    elif events.ids is not None:
        message.integer_ids = events.ids[of].tobytes()
    if events.ties is not None and with_ties:
        message.ties.extend(events.ties[of])
    for present, values, texts in zip(events.present, events.values, blobs, strict=True):
        there = present[of]
        column = message.values.add(present=there.tobytes())
        if texts is not None:
            column.blobs.extend(texts[of])
        elif values is not None:
            # What does not count is not told apart.
            cleared = np.where(there, values[of], 0)
            if values.dtype == np.float64:
                column.doubles = cleared.tobytes()
            else:
                column.integers = cleared.tobytes()
    return message


# --- decoding -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What some keys' states hold: as in `States`."""

    tiles: list[Tiles]
    events: Events
    newest_us: list[int | None]
    settled_ids: list[bytes]
    rebuilt_until_us: list[int | None]


def parse_state(layout: WindowLayout, state: bytes) -> WindowState:
    """The message. Raises `CorruptRow` for bytes that are no state of this view."""
    layout.check_head(state)
    try:
        message = WindowState.FromString(state)
    except DecodeError as error:
        raise layout.corrupt(state, str(error)) from error
    if len(message.tiles) != len(layout.groups):
        raise layout.corrupt(state, f"it has {len(message.tiles)} groups of tiles")
    return message


def decode_states(layout: WindowLayout, states: Sequence[bytes | None]) -> Decoded:
    """What the writers' states of some keys hold. Raises `CorruptRow`."""
    owners, messages = [], []
    newest: list[int | None] = [None] * len(states)
    settled = [b""] * len(states)
    rebuilt: list[int | None] = [None] * len(states)
    for owner, state in enumerate(states):
        if state is not None:
            message = parse_state(layout, state)
            _check_lengths(layout, state, message)
            owners.append(owner)
            messages.append(message)
            if message.HasField("folded_newest_us"):
                newest[owner] = message.folded_newest_us
            if message.HasField("rebuilt_until_us"):
                rebuilt[owner] = message.rebuilt_until_us
            settled[owner] = message.settled_ids
    try:
        tiles = [_tiles(layout, n, owners, messages) for n in range(len(layout.groups))]
        events = _decoded_events(layout, owners, messages)
    except (ValueError, CorruptRow) as error:
        raise CorruptRow(
            f"A stored state of view {layout.view!r} cannot be read: {error}. "
            "Write its view anew: featurestore materialize --replace"
        ) from error
    return Decoded(
        tiles=tiles, events=events, newest_us=newest, settled_ids=settled, rebuilt_until_us=rebuilt
    )


def _check_lengths(layout: WindowLayout, state: bytes, message: WindowState) -> None:
    """Raises `CorruptRow` where columns of one table have different lengths."""
    for group, tiles in zip(layout.groups, message.tiles, strict=True):
        size = len(tiles.starts_us)
        if (
            size % 8
            or len(tiles.integers) != size * len(group.integers)
            or len(tiles.doubles) != size * len(group.doubles)
            or 8 * len(tiles.partials) != size * len(group.partials)
            or 8 * tiles.sealed > size
        ):
            raise layout.corrupt(state, "the columns of its tiles have different lengths")
    events = message.events
    count, rest = divmod(len(events.event_times_us), 8)
    wanted = [len(events.created_us) == 8 * count, rest == 0]
    wanted += [len(events.until_us) in (0, 8 * count), len(events.deleted) in (0, count)]
    if layout.id_dtype is not None:
        ids = events.integer_ids if layout.id_dtype.slot == "integers" else events.text_ids
        wanted.append(len(ids) == count * (8 if layout.id_dtype.slot == "integers" else 1))
        wanted.append(len(events.ties) == count)
    if count:
        wanted.append(len(events.values) == len(layout.inputs))
        for one, column in zip(layout.inputs, events.values, strict=False):
            wanted.append(len(column.present) == count)
            if one.dtype is not None:
                stored = getattr(column, one.dtype.slot)
                wanted.append(len(stored) == count * (1 if one.dtype.slot == "blobs" else 8))
    if not all(wanted):
        raise layout.corrupt(state, "the columns of its events have different lengths")


def _tiles(
    layout: WindowLayout, n: int, owners: Sequence[int], messages: Sequence[WindowState]
) -> Tiles:
    group = layout.groups[n]
    mine = [message.tiles[n] for message in messages]
    counts = [len(tiles.starts_us) // 8 for tiles in mine]
    return Tiles(
        np.repeat(np.array(owners, np.int64), counts),
        np.frombuffer(b"".join(tiles.starts_us for tiles in mine), np.int64),
        _lanes([tiles.integers for tiles in mine], counts, len(group.integers), np.int64),
        _lanes([tiles.doubles for tiles in mine], counts, len(group.doubles), np.float64),
        tuple(
            objects(
                [
                    state
                    for tiles, count in zip(mine, counts, strict=True)
                    for state in map(
                        layout.partial(lane).decode, tiles.partials[k * count : (k + 1) * count]
                    )
                ]
            )
            for k, lane in enumerate(group.partials)
        ),
    )


def _lanes(parts: Sequence[bytes], counts: Sequence[int], lanes: int, dtype: Any) -> Column:
    """Each part has its lanes one after the other; the result has one row for each lane."""
    if not lanes or not parts:
        return np.zeros((lanes, sum(counts)), dtype)
    blocks = [np.frombuffer(part, dtype).reshape(lanes, -1) for part in parts]
    return np.concatenate(blocks, axis=1)


def _decoded_events(
    layout: WindowLayout, owners: Sequence[int], messages: Sequence[WindowState]
) -> Events:
    mine = [
        (owner, message.events)
        for owner, message in zip(owners, messages, strict=True)
        if message.events.event_times_us
    ]
    if not mine:
        return no_events(layout)
    counts = [len(events.event_times_us) // 8 for _, events in mine]

    def whole(of: Callable[[WindowEvents], bytes], dtype: Any) -> Column:
        return np.frombuffer(b"".join(of(events) for _, events in mine), dtype)

    never = np.int64(NEVER_US).tobytes()
    until = [e.until_us or never * count for (_, e), count in zip(mine, counts, strict=True)]
    deleted = [e.deleted or bytes(count) for (_, e), count in zip(mine, counts, strict=True)]
    ids: Column | None = None
    if layout.id_dtype is not None and layout.id_dtype.slot == "integers":
        ids = whole(lambda e: e.integer_ids, np.int64)
    elif layout.id_dtype is not None:
        ids = objects([text for _, events in mine for text in events.text_ids])
    ties: Column | None = None
    if ids is not None:
        ties = objects([tie for _, events in mine for tie in events.ties])
    return Events(
        np.repeat(np.array([owner for owner, _ in mine], np.int64), counts),
        whole(lambda e: e.event_times_us, np.int64),
        whole(lambda e: e.created_us, np.int64),
        np.frombuffer(b"".join(until), np.int64),
        np.frombuffer(b"".join(deleted), bool),
        ids,
        ties,
        tuple(
            np.frombuffer(b"".join(e.values[n].present for _, e in mine), bool)
            for n in range(len(layout.inputs))
        ),
        tuple(
            decoded_values(i.dtype, [e.values[n] for _, e in mine])
            for n, i in enumerate(layout.inputs)
        ),
    )


def decoded_values(dtype: DType | None, columns: Sequence[WindowValues]) -> Column | None:
    """The values of one input."""
    if dtype is None:
        return None
    match dtype.slot:
        case "doubles":
            return np.frombuffer(b"".join(column.doubles for column in columns), np.float64)
        case "integers":
            return np.frombuffer(b"".join(column.integers for column in columns), np.int64)
        case _:
            read = value_reader(dtype)
            return objects([read(blob) for column in columns for blob in column.blobs])


def value_reader(dtype: DType) -> Callable[[bytes], Any]:
    """What reads a value that `value_bytes` wrote (empty: None). Raises `CorruptRow`."""

    def read(blob: bytes) -> Any:
        if not blob:
            return None
        reader = Reader(blob)
        try:
            value = reader.value(dtype)
        except UnicodeDecodeError as error:
            raise CorruptRow(f"a text is damaged: {error}") from error
        reader.end()
        return value

    return read


def _there(column: Column | None) -> Column:
    if column is None:
        raise TypeError("parts of different layouts")
    return column

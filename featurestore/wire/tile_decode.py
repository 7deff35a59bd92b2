"""Decoding of windowed states: the bytes of many keys → columns over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from featurestore.dtypes import DType
from featurestore.errors import CorruptRow
from featurestore.value_bytes import Reader
from featurestore.wire.tiles import Column, Decoded, Events, Int64, Tiles, no_events, objects
from featurestore.wire.window_layout import NEVER_US, Group, WindowLayout
from featurestore.wire.window_state_pb2 import (
    WindowEvents,
    WindowState,
    WindowTiles,
    WindowValues,
)

_NEVER = np.int64(NEVER_US).tobytes()


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
    tables = [_TileParts(group) for group in layout.groups]
    events = _EventParts(layout)
    owners: list[int] = []
    newest: list[int | None] = [None] * len(states)
    settled = [b""] * len(states)
    rebuilt: list[int | None] = [None] * len(states)
    for owner, state in enumerate(states):
        if state is None:
            continue
        message = parse_state(layout, state)
        owners.append(owner)
        for table, tiles in zip(tables, message.tiles, strict=True):
            table.add(tiles)
        events.add(message.events)
        if message.HasField("folded_newest_us"):
            newest[owner] = message.folded_newest_us
        if message.HasField("rebuilt_until_us"):
            rebuilt[owner] = message.rebuilt_until_us
        settled[owner] = message.settled_ids
    for wrong in (*(table.first_wrong() for table in tables), events.first_wrong()):
        if wrong is not None:
            damaged = states[owners[wrong]] or b""
            raise layout.corrupt(damaged, "columns of one table have different lengths")
    try:
        return Decoded(
            tiles=[table.joined(layout, owners) for table in tables],
            events=events.joined(owners),
            newest_us=newest,
            settled_ids=settled,
            rebuilt_until_us=rebuilt,
        )
    except (ValueError, CorruptRow) as error:
        raise CorruptRow(
            f"A stored state of view {layout.view!r} cannot be read: {error}. "
            "Write its view anew: featurestore materialize --replace"
        ) from error


def _lengths(parts: Iterable[Any]) -> Int64:
    return np.fromiter(map(len, parts), np.int64)


def _first(wrong: Iterable[Column]) -> int | None:
    """The first place that is wrong in one way."""
    found = np.flatnonzero(np.logical_or.reduce(list(wrong)))
    return int(found[0]) if len(found) else None


# --- tiles ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _TileParts:
    """The columns of one group of tiles, key by key."""

    group: Group
    starts: list[bytes] = field(default_factory=list)
    integers: list[bytes] = field(default_factory=list)
    doubles: list[bytes] = field(default_factory=list)
    partials: list[Sequence[bytes]] = field(default_factory=list)
    sealed: list[int] = field(default_factory=list)

    def add(self, tiles: WindowTiles) -> None:
        """Add those of one key."""
        self.starts.append(tiles.starts_us)
        self.integers.append(tiles.integers)
        self.doubles.append(tiles.doubles)
        self.partials.append(tiles.partials)
        self.sealed.append(tiles.sealed)

    def first_wrong(self) -> int | None:
        """The first key whose columns have different lengths."""
        group, size = self.group, _lengths(self.starts)
        return _first(
            [
                size % 8 != 0,
                _lengths(self.integers) != size * len(group.integers),
                _lengths(self.doubles) != size * len(group.doubles),
                8 * _lengths(self.partials) != size * len(group.partials),
                8 * np.array(self.sealed, np.int64) > size,
            ]
        )

    def joined(self, layout: WindowLayout, owners: Sequence[int]) -> Tiles:
        """All keys' tiles."""
        counts = _lengths(self.starts) // 8
        return Tiles(
            np.repeat(np.array(owners, np.int64), counts),
            _whole(self.starts, np.int64),
            _lanes(_whole(self.integers, np.int64), counts, len(self.group.integers)),
            _lanes(_whole(self.doubles, np.float64), counts, len(self.group.doubles)),
            tuple(
                self._partials_of(layout.partial(lane).decode, k, counts.tolist())
                for k, lane in enumerate(self.group.partials)
            ),
        )

    def _partials_of(self, decode: Callable[[bytes], Any], k: int, counts: Sequence[int]) -> Column:
        pairs = zip(self.partials, counts, strict=True)
        return objects(
            [decode(blob) for blobs, count in pairs for blob in blobs[k * count : (k + 1) * count]]
        )


def _lanes(values: Column, counts: Int64, lanes: int) -> Column:
    """Each key has its lanes one after the other; the result has one row for each lane."""
    if lanes < 2:
        return values.reshape(lanes, -1) if lanes else np.zeros((0, counts.sum()), values.dtype)
    begins, step = np.cumsum(counts) - counts, np.repeat(counts, counts)
    place = np.arange(len(step)) + (lanes - 1) * np.repeat(begins, counts)
    return np.array([values[place + lane * step] for lane in range(lanes)])


def _whole(parts: Iterable[bytes], dtype: Any) -> Column:
    return np.frombuffer(b"".join(parts), dtype)


# --- events ---------------------------------------------------------------------------------------


class _EventParts:
    """The columns of events, key by key."""

    def __init__(self, layout: WindowLayout) -> None:
        self._layout = layout
        self._messages: list[WindowEvents] = []
        self._times: list[bytes] = []

    def add(self, events: WindowEvents) -> None:
        """Add those of one key."""
        self._messages.append(events)
        self._times.append(events.event_times_us)

    def first_wrong(self) -> int | None:
        """The first key whose columns have different lengths."""
        layout, messages, size = self._layout, self._messages, _lengths(self._times)
        count = size // 8
        optional = [
            (_lengths(e.until_us for e in messages), size),
            (_lengths(e.deleted for e in messages), count),
        ]
        wrong = [size % 8 != 0, _lengths(e.created_us for e in messages) != size]
        wrong += [(there != 0) & (there != wanted) for there, wanted in optional]
        if layout.id_dtype is not None:
            if layout.id_dtype.slot == "integers":
                wrong.append(_lengths(e.integer_ids for e in messages) != size)
            else:
                wrong.append(_lengths(e.text_ids for e in messages) != count)
            wrong.append(_lengths(e.ties for e in messages) != count)
        inputs = _lengths(e.values for e in messages)
        wrong.append((count > 0) & (inputs != len(layout.inputs)))
        if (found := _first(wrong)) is not None:
            return found
        filled = [n for n, events in enumerate(count.tolist()) if events]
        for n, one in enumerate(layout.inputs):
            columns = [messages[place].values[n] for place in filled]
            wanted = count[filled]
            differs = [_lengths(c.present for c in columns) != wanted]
            if one.dtype is not None:
                width = 1 if one.dtype.slot == "blobs" else 8
                stored = [getattr(column, one.dtype.slot) for column in columns]
                differs.append(_lengths(stored) != width * wanted)
            if (found := _first(differs)) is not None:
                return filled[found]
        return None

    def joined(self, owners: Sequence[int]) -> Events:
        """All keys' events. Raises `CorruptRow`, `ValueError` for values that can't be read."""
        layout = self._layout
        counts = _lengths(self._times) // 8
        filled = [events for events in self._messages if events.event_times_us]
        if not filled:
            return no_events(layout)
        sizes = counts[counts > 0].tolist()
        pairs = list(zip(filled, sizes, strict=True))
        until = [events.until_us or _NEVER * count for events, count in pairs]
        deleted = [events.deleted or bytes(count) for events, count in pairs]
        ids: Column | None = None
        ties: Column | None = None
        if layout.id_dtype is not None:
            if layout.id_dtype.slot == "integers":
                ids = _whole((e.integer_ids for e in filled), np.int64)
            else:
                ids = objects([text for events in filled for text in events.text_ids])
            ties = objects([tie for events in filled for tie in events.ties])
        values = [[events.values[n] for events in filled] for n in range(len(layout.inputs))]
        return Events(
            np.repeat(np.array(owners, np.int64), counts),
            _whole(self._times, np.int64),
            _whole((e.created_us for e in filled), np.int64),
            _whole(until, np.int64),
            _whole(deleted, bool),
            ids,
            ties,
            tuple(_whole((c.present for c in columns), bool) for columns in values),
            tuple(
                decoded_values(one.dtype, columns)
                for one, columns in zip(layout.inputs, values, strict=True)
            ),
        )


def decoded_values(dtype: DType | None, columns: Sequence[WindowValues]) -> Column | None:
    """The values of one input."""
    if dtype is None:
        return None
    match dtype.slot:
        case "doubles":
            return _whole((column.doubles for column in columns), np.float64)
        case "integers":
            return _whole((column.integers for column in columns), np.int64)
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

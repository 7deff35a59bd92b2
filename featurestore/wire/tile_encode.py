"""Encoding of windowed states: columns over many keys → the bytes of each.

The bytes are those of the message `WindowState`, joined from slices of whole columns: a message for
each key costs several times as much. Fields stand in the order of their numbers and what is empty
is left out, as protobuf has it (`tests/property/test_window_states.py` compares).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa

from featurestore.value_bytes import value_bytes
from featurestore.wire import binary
from featurestore.wire.layout import varint
from featurestore.wire.tiles import Column, Events, Part, States
from featurestore.wire.window_layout import NEVER_US, Group, WindowLayout

# Field tags: number << 3 | wire type. Of `WindowState`:
_WRITTEN, _TILES, _EVENTS, _NEWEST, _STABLE, _SETTLED, _REBUILT = 41, 50, 58, 65, 74, 82, 89
# Of `WindowTiles`:
_END, _SEALED, _STARTS, _INTEGERS, _DOUBLES, _PARTIAL = 9, 16, 26, 34, 42, 50
# Of `WindowEvents`:
_TIMES, _CREATED, _UNTIL, _DELETED, _IDS, _TEXT_ID, _VALUES, _TIE = 10, 18, 26, 34, 42, 50, 58, 66
# Of `WindowValues`:
_PRESENT, _VALUE_INTEGERS, _VALUE_DOUBLES, _VALUE_BLOB = 10, 18, 26, 34

_INSTANT = struct.Struct("<Bq")
_HEADS_CACHED = 1 << 14

Pieces = list[bytes]


def encode_states(layout: WindowLayout, states: States) -> list[bytes]:
    """The bytes of each key's state."""
    keys = np.arange(states.count + 1)
    tables = _tables(layout, states, states.tiles, _TILES)
    stable = _tables(layout, states, states.stable, _STABLE)
    events = _events(layout, states, np.searchsorted(states.events.owner, keys).tolist())
    written = _INSTANT.pack(_WRITTEN, states.written_us)
    found = []
    for key in range(states.count):
        head = layout.head(states.event_us[key], states.created_us[key], states.revisions[key])
        pieces = [head, written]
        for put in tables:
            put(pieces, key)
        events(pieces, key)
        newest, rebuilt = states.newest_us[key], states.rebuilt_until_us[key]
        if newest is not None:
            pieces.append(_INSTANT.pack(_NEWEST, newest))
        if states.late[key]:
            for put in stable:
                put(pieces, key)
        if settled := states.settled_ids[key]:
            pieces += (_head(_SETTLED, len(settled)), settled)
        if rebuilt is not None:
            pieces.append(_INSTANT.pack(_REBUILT, rebuilt))
        found.append(b"".join(pieces))
    return found


@lru_cache(_HEADS_CACHED)
def _head(tag: int, length: int) -> bytes:
    """The head of a field of so many bytes."""
    return bytes([tag]) + varint(length)


Put = Callable[[Pieces, int], None]
"""Adds a key's part to the pieces of its state."""


# --- tiles ----------------------------------------------------------------------------------------


def _tables(layout: WindowLayout, states: States, parts: Sequence[Part], tag: int) -> list[Put]:
    return [
        _tiles(layout, group, part, (tag, end_us, states.count))
        for group, part, end_us in zip(layout.groups, parts, states.ends_us, strict=False)
    ]


def _tiles(layout: WindowLayout, group: Group, part: Part, about: tuple[int, int, int]) -> Put:
    """The tiles of one group, as field `tag`, which end at `end_us`, of so many keys."""
    tag, end_us, count = about
    tiles, sealed_column = part
    sealed = sealed_column.tolist()
    at = np.searchsorted(tiles.owner, np.arange(count + 1))
    starts, places = tiles.starts.tobytes(), at.tolist()
    integers, doubles = (_by_key(block, at) for block in (tiles.integers, tiles.doubles))
    wide, long = 8 * len(group.integers), 8 * len(group.doubles)
    partials = [
        Repeated(_PARTIAL, list(map(layout.partial(lane).encode, column)))
        for lane, column in zip(group.partials, tiles.partials, strict=True)
    ]
    heads: dict[tuple[int, int], tuple[bytes, bytes, bytes, int]] = {}

    def heads_of(size: int, sealed: int) -> tuple[bytes, bytes, bytes, int]:
        first = _INSTANT.pack(_END, end_us) if end_us else b""
        if sealed:
            first += bytes([_SEALED]) + varint(sealed)
        first += _head(_STARTS, 8 * size) if size else b""
        second = _head(_INTEGERS, wide * size) if wide * size else b""
        third = _head(_DOUBLES, long * size) if long * size else b""
        inside = len(first) + len(second) + len(third) + (8 + wide + long) * size
        found = heads[size, sealed] = first, second, third, inside
        return found

    def put(pieces: Pieces, key: int) -> None:
        start, stop = places[key], places[key + 1]
        shape = stop - start, sealed[key]
        first, second, third, size = heads.get(shape) or heads_of(*shape)
        more = [lane.of(start, stop) for lane in partials] if partials else ()
        pieces += (
            _head(tag, size + sum(map(len, more)) if more else size),
            first,
            starts[8 * start : 8 * stop],
            second,
            integers[wide * start : wide * stop],
            third,
            doubles[long * start : long * stop],
            *more,
        )

    return put


def _by_key(block: Column, at: Column) -> bytes:
    """Lanes over all tiles as bytes in which those of each key stand one after the other."""
    lanes = len(block)
    if lanes < 2:
        return block.tobytes()
    counts = np.diff(at)
    place = np.arange(block.shape[1]) + (lanes - 1) * np.repeat(at[:-1], counts)
    step = np.repeat(counts, counts)
    found = np.empty(block.size, block.dtype)
    for lane, row in enumerate(block):
        found[place + lane * step] = row
    return found.tobytes()


# --- events ---------------------------------------------------------------------------------------


class Repeated:
    """Values of a repeated field of bytes, each behind its head."""

    def __init__(self, tag: int, values: Sequence[bytes]) -> None:
        column = pa.array(values, pa.large_binary())
        heads = binary.length_headers(tag, binary.lengths_of(column))
        joined = binary.join(heads, column)
        self._at = binary.offsets_of(joined).tolist()
        self._data = joined.buffers()[2].to_pybytes() if len(joined) else b""

    def of(self, start: int, stop: int) -> bytes:
        """Those from `start` to `stop`."""
        return self._data[self._at[start] : self._at[stop]]


class Flat:
    """A field of bytes that holds values of one width; left out for keys that are not `among`."""

    def __init__(self, tag: int, values: Column, among: frozenset[int] | None = None) -> None:
        self._tag = tag
        self._width = values.itemsize
        self._data = values.tobytes()
        self.among = among

    def put(self, pieces: Pieces, start: int, stop: int) -> None:
        """Add those from `start` to `stop`."""
        width = self._width
        pieces += (
            _head(self._tag, width * (stop - start)),
            self._data[width * start : width * stop],
        )


def _events(layout: WindowLayout, states: States, at: Sequence[int]) -> Put:
    """The events of each key, from `at[key]` on."""
    events = states.events
    first = [Flat(_TIMES, events.event_us), Flat(_CREATED, events.created_us)]
    first.append(Flat(_UNTIL, events.until_us, _owners(events, events.until_us != NEVER_US)))
    first.append(Flat(_DELETED, events.deleted, _owners(events, events.deleted)))
    texts = ties = None
    if events.ids is not None and events.ids.dtype == object:
        texts = Repeated(_TEXT_ID, [one.encode() for one in events.ids])
    elif events.ids is not None:
        first.append(Flat(_IDS, events.ids))
    first = [column for column in first if column.among is None or column.among]
    values = _values(layout, events)
    if events.ties is not None and states.for_writers:
        ties = Repeated(_TIE, events.ties.tolist())

    def put(pieces: Pieces, key: int) -> None:
        start, stop = at[key], at[key + 1]
        if start == stop:
            return
        inside: Pieces = []
        for column in first:
            if column.among is None or key in column.among:
                column.put(inside, start, stop)
        if texts is not None:
            inside.append(texts.of(start, stop))
        for flats, blobs in values:
            mine: Pieces = []
            for column in flats:
                column.put(mine, start, stop)
            if blobs is not None:
                mine.append(blobs.of(start, stop))
            inside.append(_head(_VALUES, sum(map(len, mine))))
            inside += mine
        if ties is not None:
            inside.append(ties.of(start, stop))
        pieces.append(_head(_EVENTS, sum(map(len, inside))))
        pieces += inside

    return put


def _owners(events: Events, which: Column) -> frozenset[int]:
    return frozenset(events.owner[which].tolist())


def _values(layout: WindowLayout, events: Events) -> list[tuple[list[Flat], Repeated | None]]:
    """What each input brings in."""
    found: list[tuple[list[Flat], Repeated | None]] = []
    for one, present, values in zip(layout.inputs, events.present, events.values, strict=True):
        flats, blobs = [Flat(_PRESENT, present)], None
        dtype = one.dtype
        if dtype is not None and values is not None:
            if dtype.slot == "blobs":
                pairs = zip(values, present.tolist(), strict=True)
                listed = [value_bytes(v, dtype) if there else b"" for v, there in pairs]
                blobs = Repeated(_VALUE_BLOB, listed)
            else:
                # What does not count is not told apart.
                cleared = np.where(present, values, values.dtype.type(0))
                is_double = values.dtype == np.float64
                flats.append(Flat(_VALUE_DOUBLES if is_double else _VALUE_INTEGERS, cleared))
        found.append((flats, blobs))
    return found

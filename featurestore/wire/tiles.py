"""Windowed states as columns over many keys, which `tile_encode` and `tile_decode` turn into the
bytes of each and back.

There is one encoder, so equal states are equal bytes (but for the revision, which is the writer's).
Values are numpy columns; those that have no fixed size (texts, decimals, partials) are arrays of
objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.dtypes import DType
from featurestore.wire.window_layout import Group, WindowLayout

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

    def take(self, which: Column) -> Events:
        """Those at these places, or where a mask is true."""
        if which.dtype == bool and which.all():
            return self
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

    def take(self, which: Column) -> Tiles:
        """Those at these places, or where a mask is true."""
        if which.dtype == bool and which.all():
            return self
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What some keys' states hold: as in `States`."""

    tiles: list[Tiles]
    events: Events
    newest_us: list[int | None]
    settled_ids: list[bytes]
    rebuilt_until_us: list[int | None]


def _there(column: Column | None) -> Column:
    if column is None:
        raise TypeError("parts of different layouts")
    return column

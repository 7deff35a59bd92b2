"""States that this process has just written, as columns: whose keys come again soon need not be
read and decoded again. Nothing depends on it: a compare-and-swap on the revision that was written
tells where another writer was faster, and then the store is read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from featurestore.jobs.window_fold import nothing
from featurestore.wire.tiles import Decoded, Events, Int64, Tiles
from featurestore.wire.window_layout import WindowLayout

KEYS_MIN = 32
"""Keys that are written together and are worth being remembered."""
ROWS_MAX = 500_000
"""Events and tiles that are remembered of one view, about 100 bytes each."""
TABLES_MAX = 16
"""Writes of which something is remembered."""
REST_WRITES = 50
"""So long nothing is remembered after other writers have changed most of it."""


@dataclass(frozen=True, eq=False)
class _Table:
    """What the states of keys hold that were written together."""

    keys: Sequence[bytes]
    revisions: Sequence[bytes]
    states: Decoded

    @property
    def rows(self) -> int:
        return len(self.states.events) + sum(map(len, self.states.tiles))

    @cached_property
    def _events_at(self) -> Int64:
        return np.searchsorted(self.states.events.owner, np.arange(len(self.keys) + 1))

    @cached_property
    def _tiles_at(self) -> list[Int64]:
        keys = np.arange(len(self.keys) + 1)
        return [np.searchsorted(tiles.owner, keys) for tiles in self.states.tiles]

    def events_of(self, places: Int64, owners: Int64) -> Events:
        """Those of the keys at `places`, as `owners`."""
        which, counts = _ranges(self._events_at, places)
        return replace(self.states.events.take(which), owner=np.repeat(owners, counts))

    def tiles_of(self, group: int, places: Int64, owners: Int64) -> Tiles:
        """Those of the keys at `places`, as `owners`."""
        which, counts = _ranges(self._tiles_at[group], places)
        return replace(self.states.tiles[group].take(which), owner=np.repeat(owners, counts))


def _ranges(at: Int64, places: Int64) -> tuple[Int64, Int64]:
    """The rows of these keys, one key after the other, and how many each has."""
    starts, counts = at[places], at[places + 1] - at[places]
    skipped = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts - skipped, counts), counts


class Recent:
    """The states that were written last. Safe in several threads."""

    def __init__(self, layout: WindowLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._places: dict[bytes, tuple[_Table, int]] = {}
        self._tables: dict[_Table, int] = {}
        """How many keys are looked up in each; the oldest first."""
        self._resting = 0

    def find(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], Decoded]:
        """For each key the revision that it was written with (None: not known), and what the
        states of those that are known hold."""
        revisions: list[bytes | None] = [None] * len(keys)
        found: dict[_Table, tuple[list[int], list[int]]] = {}
        old = nothing(self._layout, len(keys))
        if len(keys) < KEYS_MIN:
            return revisions, old
        with self._lock:
            there = [*map(self._places.get, keys)]
        for owner, known in enumerate(there):
            if known is not None:
                table, place = known
                revisions[owner] = table.revisions[place]
                places, owners = found.setdefault(table, ([], []))
                places.append(place)
                owners.append(owner)
                old.newest_us[owner] = table.states.newest_us[place]
                old.settled_ids[owner] = table.states.settled_ids[place]
                old.rebuilt_until_us[owner] = table.states.rebuilt_until_us[place]
        if not found:
            return revisions, old
        chosen = [(table, np.array(p), np.array(o)) for table, (p, o) in found.items()]
        tiles = [
            by_owner(Tiles.join([table.tiles_of(g, p, o) for table, p, o in chosen]))
            for g in range(len(self._layout.groups))
        ]
        events = Events.join([table.events_of(p, o) for table, p, o in chosen])
        return revisions, replace(old, tiles=tiles, events=events)

    def keep(
        self,
        keys: Sequence[bytes],
        revisions: Sequence[bytes],
        states: Decoded,
        written: Sequence[bool],
    ) -> None:
        """Remember those of these states that were `written`; what was known of the keys before is
        forgotten. Too few are not worth it."""
        with self._lock:
            for key in keys:
                self._drop(key)
            if len(keys) < KEYS_MIN:
                return
            if self._resting:
                self._resting -= 1
                return
            table = _Table(keys, revisions, states)
            mine = {key: (table, place) for place, key in enumerate(keys) if written[place]}
            self._places |= mine
            if mine:
                self._tables[table] = len(mine)
            while len(self._tables) > TABLES_MAX or sum(t.rows for t in self._tables) > ROWS_MAX:
                for key in (oldest := next(iter(self._tables))).keys:
                    if self._places.get(key, (None, 0))[0] is oldest:
                        self._drop(key)

    def rest(self) -> None:
        """Other writers are faster mostly: remember nothing for a while."""
        with self._lock:
            self._resting = REST_WRITES
            self._tables.clear()
            self._places.clear()

    def _drop(self, key: bytes) -> None:
        there = self._places.pop(key, None)
        if there is not None:
            table = there[0]
            self._tables[table] -= 1
            if not self._tables[table]:
                del self._tables[table]


def together(known: Decoded, read: Decoded, owners: Sequence[int]) -> Decoded:
    """What is `known` of some keys, and what was `read` of the others, which are these `owners`."""
    if len(owners) == len(known.newest_us):
        return read
    for place, owner in enumerate(owners):
        known.newest_us[owner] = read.newest_us[place]
        known.settled_ids[owner] = read.settled_ids[place]
        known.rebuilt_until_us[owner] = read.rebuilt_until_us[place]
    number = np.array(owners, np.int64)
    tiles = [
        by_owner(Tiles.join([one, replace(more, owner=number[more.owner])]))
        for one, more in zip(known.tiles, read.tiles, strict=True)
    ]
    more = replace(read.events, owner=number[read.events.owner])
    return replace(known, tiles=tiles, events=Events.join([known.events, more]))


def by_owner(tiles: Tiles) -> Tiles:
    """The tiles in the order of their keys."""
    if (tiles.owner[1:] >= tiles.owner[:-1]).all():
        return tiles
    return tiles.take(np.argsort(tiles.owner, kind="stable"))

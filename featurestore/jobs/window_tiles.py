"""Events into tiles, in columns over many keys: cut by time, merged, dropped when no window reaches
them any more, and made into what serving looks up. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from featurestore.wire.tiles import Column, Events, Int64, Tiles, objects
from featurestore.wire.window_layout import (
    EVER_US,
    NEVER_US,
    Group,
    Lane,
    PartialLane,
    WindowLayout,
)

_LOW_32 = 0xFFFF_FFFF
_INT_MAX, _INT_MIN = 2**63 - 1, -(2**63)
_UFUNCS = {"add": np.add, "min": np.minimum, "max": np.maximum}


class ByTime:
    """Events by key and time: every hop cuts them into tiles where they stand."""

    def __init__(self, events: Events) -> None:
        if not _is_by_time(events):
            events = events.take(np.lexsort((events.event_us, events.owner)))
        self.events = events
        self._lanes: dict[Lane, Column] = {}
        self.owner = events.owner
        self.event_us = events.event_us

    def lane(self, lane: Lane, of: Callable[[Events, Lane], Column]) -> Column:
        """What the events bring into a lane, which groups may have in common."""
        if lane not in self._lanes:
            self._lanes[lane] = of(self.events, lane)
        return self._lanes[lane]


def _is_by_time(events: Events) -> bool:
    """Whether they stand so already: they come by id, and newer events mostly have greater ids."""
    owner, event_us = events.owner, events.event_us
    same = owner[1:] == owner[:-1]
    return bool(np.where(same, event_us[1:] >= event_us[:-1], owner[1:] > owner[:-1]).all())


def tiles_of(
    layout: WindowLayout, group: Group, events: ByTime, end_us: int = NEVER_US
) -> tuple[Tiles, Tiles]:
    """The events in tiles of the group's hop: those before `end_us`, and the others."""
    starts = events.event_us - events.event_us % group.hop_us
    after = events.event_us >= end_us
    new = np.ones(len(starts), bool)
    new[1:] = (events.owner[1:] != events.owner[:-1]) | (starts[1:] != starts[:-1])
    new[1:] |= after[1:] != after[:-1]
    begins = np.flatnonzero(new)
    tiles = Tiles(
        events.owner[begins],
        starts[begins],
        _reduced([events.lane(lane, _integers) for lane in group.integers], group.integers, begins),
        _reduced([events.lane(lane, _doubles) for lane in group.doubles], group.doubles, begins)
        if group.doubles
        else np.zeros((0, len(begins)), np.float64),
        tuple(_added(layout, lane, events.events, begins) for lane in group.partials),
    )
    return tiles.take(~after[begins]), tiles.take(after[begins])


def merged(layout: WindowLayout, group: Group, parts: Sequence[Tiles]) -> Tiles:
    """The tiles of all parts, those of one key and start made into one."""
    there = [part for part in parts if len(part)]
    if len(there) < 2:
        return there[0] if there else parts[0]
    return _combined(layout, group, Tiles.join(there))


def _combined(layout: WindowLayout, group: Group, tiles: Tiles) -> Tiles:
    tiles = tiles.take(np.lexsort((tiles.starts, tiles.owner)))
    begins = _begins(tiles.owner, tiles.starts)
    if len(begins) == len(tiles):
        return tiles
    ends = [*begins[1:].tolist(), len(tiles)]
    spans = list(zip(begins.tolist(), ends, strict=True))
    return Tiles(
        tiles.owner[begins],
        tiles.starts[begins],
        _reduced(list(tiles.integers), group.integers, begins),
        _reduced(list(tiles.doubles), group.doubles, begins)
        if group.doubles
        else np.zeros((0, len(begins)), np.float64),
        tuple(
            objects([layout.partial(lane).merge_all(states[slice(*s)]) for s in spans])
            for lane, states in zip(group.partials, tiles.partials, strict=True)
        ),
    )


def _begins(owner: Int64, starts: Int64) -> Int64:
    """Where another key or tile begins."""
    new = np.ones(len(owner), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (starts[1:] != starts[:-1])
    return np.flatnonzero(new)


def _reduced(rows: Sequence[Column], lanes: Sequence[Lane], begins: Int64) -> Column:
    if not len(begins):
        return np.zeros((len(lanes), 0), rows[0].dtype if rows else np.int64)
    return np.array(
        [_UFUNCS[lane.op].reduceat(r, begins) for r, lane in zip(rows, lanes, strict=True)]
    )


def _integers(events: Events, lane: Lane) -> Int64:
    present = events.present[lane.input]
    if lane.part == "count":
        return present.astype(np.int64)
    values = _values(events, lane)
    match lane.part:
        case "low":
            return np.where(present, values & _LOW_32, 0)
        case "high":
            return np.where(present, values >> 32, 0)
        case _:
            return np.where(present, values, _INT_MAX if lane.op == "min" else _INT_MIN)


def _doubles(events: Events, lane: Lane) -> Column:
    other = {"add": 0.0, "min": np.inf, "max": -np.inf}[lane.op]
    return np.where(events.present[lane.input], _values(events, lane), other)


def _values(events: Events, lane: Lane | PartialLane) -> Column:
    values = events.values[lane.input]
    if values is None:
        raise TypeError(f"input {lane.input} has no values")
    return values


def _added(layout: WindowLayout, lane: PartialLane, events: Events, begins: Int64) -> Column:
    """The partial of each tile."""
    partial = layout.partial(lane)
    states = [partial.identity() for _ in begins]
    counting = np.flatnonzero(events.present[lane.input])
    tile = (np.searchsorted(begins, counting, side="right") - 1).tolist()
    values = _values(events, lane)[counting].tolist()
    times = events.event_us[counting].tolist()
    ids = [None] * len(times) if events.ids is None else events.ids[counting].tolist()
    for n, value, event_us, one in zip(tile, values, times, ids, strict=True):
        states[n] = partial.add(states[n], value, (event_us, one))
    return objects(states)


def unexpired(layout: WindowLayout, group: Group, tiles: Tiles, now_us: int) -> Tiles:
    """Without the tiles that no window reaches any more; for a lifetime they become one."""
    old = tiles.starts < group.begin_us(now_us) if group.hop_us else np.zeros(0, bool)
    if not old.any():
        return tiles
    if not group.lifetime:
        return tiles.take(~old)
    starts = np.where(old, EVER_US, tiles.starts)
    return _combined(layout, group, replace(tiles, starts=starts))


def suffixes(layout: WindowLayout, group: Group, folded: Tiles, open_: Tiles) -> Tiles:
    """Each tile made into what it and all that follow it in its key's part make together."""
    tiles = Tiles.join([folded, open_])
    part = np.repeat([0, 1], [len(folded), len(open_)])
    order = np.lexsort((part, tiles.owner))
    tiles, part = tiles.take(order), part[order]
    segment = 2 * tiles.owner + part
    integers, doubles = tiles.integers.copy(), tiles.doubles.copy()
    reach = 1
    longest = int(np.bincount(segment).max()) if len(segment) else 0
    while reach < longest:
        same = segment[reach:] == segment[:-reach]
        for block, lanes in ((integers, group.integers), (doubles, group.doubles)):
            for row, lane in zip(block, lanes, strict=True):
                joined = _UFUNCS[lane.op](row[:-reach], row[reach:])
                np.copyto(row[:-reach], joined, where=same)
        reach *= 2
    partials = [
        _partial_suffixes(layout, lane, states, segment) if lane.scalar else states
        for lane, states in zip(group.partials, tiles.partials, strict=True)
    ]
    return Tiles(tiles.owner, tiles.starts, integers, doubles, tuple(partials))


def _partial_suffixes(
    layout: WindowLayout, lane: PartialLane, states: Column, segment: Int64
) -> Column:
    partial = layout.partial(lane)
    made = list(states)
    for place in range(len(made) - 2, -1, -1):
        if segment[place] == segment[place + 1]:
            # The later one is read again: `merge` may change its first state only.
            made[place] = partial.merge(
                partial.merge(partial.identity(), made[place]), made[place + 1]
            )
    return objects(made)

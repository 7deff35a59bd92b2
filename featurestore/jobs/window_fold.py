"""Folding rows into the states of windowed views, many keys at once, in columns.

Pure: what some keys' states held, and rows that are new, become what their states hold now.

Of the versions of an event (rows of one id) each counts from its known time until that of the next;
one that comes more than the correction horizon after the one before does not count, nor do those
after it. What may still be corrected, or be cut by the right end of a window, stays as it is; the
rest is in tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import LimitExceeded
from featurestore.jobs.window_tiles import ByTime, merged, suffixes, tiles_of, unexpired
from featurestore.sketches import hash64
from featurestore.wire.tile_encode import encode_states
from featurestore.wire.tiles import (
    Column,
    Decoded,
    Events,
    Int64,
    Mask,
    Part,
    States,
    Tiles,
    no_events,
    no_tiles,
)
from featurestore.wire.window_layout import (
    BEHIND_US,
    EVER_US,
    NEVER_US,
    Group,
    WindowLayout,
)

EVENTS_PER_KEY_MAX = 100_000
"""Events of one key that are kept as they are: those of an `exact` window, those younger than the
correction horizon, those near the right end of a window."""
SETTLED_IDS_MAX = 10_000
"""Ids per key that are remembered beyond the correction horizon, to know a repeat from a late
row."""

ADDED, REPEATED, TOO_LATE = 0, 1, 2
"""What became of a row: it counts; it stood there already; it corrects a row that is older than the
correction horizon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Per key what serving reads and what writers read (both empty: nothing is left), and when the
    store may forget it; per row what became of it. `states` is what `kept` holds."""

    served: list[bytes]
    kept: list[bytes]
    expire_at_us: list[int | None]
    outcomes: Column
    states: Decoded


def nothing(layout: WindowLayout, count: int) -> Decoded:
    """What `count` keys hold of which the store has nothing."""
    return Decoded(
        tiles=[no_tiles(group) for group in layout.groups],
        events=no_events(layout),
        newest_us=[None] * count,
        settled_ids=[b""] * count,
        rebuilt_until_us=[None] * count,
    )


def fold(
    layout: WindowLayout,
    old: Decoded,
    rows: Events,
    *,
    now_us: int,
    revisions: Sequence[int],
) -> Folded:
    """The states of as many keys as there are `revisions`, which `rows` name by their `owner`.

    `now_us` is the writer's time. Raises `LimitExceeded` for `EVENTS_PER_KEY_MAX`.
    """
    count = len(revisions)
    versions, outcomes, settled = _versions(layout, old, rows, now_us)
    tiles, newest, ids = list(old.tiles), list(old.newest_us), old.settled_ids
    if settled is not None and settled.any():
        gone = versions.take(settled)
        versions = versions.take(~settled)
        ids = _remembered(ids, gone)
        counting = gone.take(~gone.deleted & (gone.until_us == NEVER_US))
        newest, leaving = _newer(newest, counting), ByTime(counting)
        for n, group in enumerate(layout.groups):
            if group.hop_us:
                tiles[n] = merged(layout, group, [tiles[n], tiles_of(layout, group, leaving)[0]])
    tiles = [unexpired(layout, g, t, now_us) for g, t in zip(layout.groups, tiles, strict=True)]
    counting = versions.take(versions.until_us != EVER_US)
    created = _latest(counting.known_us, counting.owner, count)
    held = _Held(tiles, newest, versions, created, old.rebuilt_until_us)
    served = _served(layout, held, now_us, revisions)
    kept = [b""] * count
    if layout.id_dtype is not None:
        kept = encode_states(
            layout,
            States(
                count=count,
                for_writers=True,
                event_us=served.event_us,
                created_us=served.created_us,
                revisions=revisions,
                written_us=now_us,
                tiles=[(one, np.zeros(count, np.int64)) for one in tiles],
                stable=[],
                ends_us=[0] * len(tiles),
                events=versions,
                newest_us=newest,
                late=[False] * count,
                settled_ids=ids,
                rebuilt_until_us=old.rebuilt_until_us,
            ),
        )
    _check_limit(layout, versions, served.events, count)
    empty = _empty(served, versions)
    return Folded(
        served=[b"" if e else s for e, s in zip(empty, encode_states(layout, served), strict=True)],
        kept=[b"" if e else s for e, s in zip(empty, kept, strict=True)],
        expire_at_us=_expiries(layout, served),
        outcomes=outcomes,
        states=Decoded(
            tiles=tiles,
            events=versions,
            newest_us=newest,
            settled_ids=[*ids],
            rebuilt_until_us=[*old.rebuilt_until_us],
        ),
    )


# --- versions -------------------------------------------------------------------------------------


def _versions(
    layout: WindowLayout, old: Decoded, rows: Events, now_us: int
) -> tuple[Events, Column, Mask | None]:
    """All versions with their ends, ordered by key; what became of each of `rows`; and which
    versions are settled (None: there are no ids, so nothing is kept for writers)."""
    outcomes = np.zeros(len(rows), np.uint8)
    if layout.id_dtype is None:
        events = Events.join([old.events, rows])
        order = np.lexsort((events.created_us, events.event_us, events.owner))
        return events.take(order), outcomes, None
    known_before = _is_settled(old, rows)
    outcomes[known_before] = TOO_LATE
    source = np.concatenate([np.full(len(old.events), -1), np.flatnonzero(~known_before)])
    events = Events.join([old.events, rows.take(~known_before)])
    order, same = _order(events)
    events, source = events.take(order), source[order]
    late = np.zeros(len(events), bool)
    if same.any():
        repeated = same & _same_row(events)
        first, is_new = ~repeated, source >= 0
        late = _late(same[first], events.known_us[first], layout.correction_horizon_us)
        outcomes[source[repeated & is_new]] = REPEATED
        # A row that repeats one that is late is late, too.
        outcomes[source[late[np.cumsum(first) - 1] & is_new]] = TOO_LATE
        events, same = events.take(first), same[first]
    events = replace(events, until_us=_ends(events.known_us, same, late))
    stable_us = min(now_us - layout.correction_horizon_us, now_us - BEHIND_US + 1)
    is_over = _greatest(same, np.where(late, EVER_US, events.known_us)) < stable_us
    newest_us = _greatest(same, np.where(late, EVER_US, events.event_us))
    settled = is_over & (newest_us < _kept_from_us(layout, now_us))
    # Until then one may come that is between a late version and those that count.
    kept = ~(late & is_over)
    return events.take(kept), outcomes, settled[kept]


def _ends(known_us: Int64, same: Mask, late: Mask) -> Int64:
    """Until when each version counts; a late one does not."""
    until = np.full(len(known_us), NEVER_US, np.int64)
    replaced = same[1:] & ~late[1:]
    until[:-1][replaced] = known_us[1:][replaced]
    until[late] = EVER_US
    return until


def _kept_from_us(layout: WindowLayout, now_us: int) -> int:
    """Events from here on must be kept as they are: a window may be cut among them."""
    return min(_raw_from_us(group, now_us) for group in layout.groups)


def _raw_from_us(group: Group, now_us: int) -> int:
    if group.hop_us:
        return group.end_us(now_us)
    return EVER_US if group.lifetime else group.begin_us(now_us)


def _order(events: Events) -> tuple[Int64, Mask]:
    """By key and id, then in the order in which versions take their turn; and where a version in
    this order is of the event of the one before it."""
    codes = _codes(events.ids)
    order = np.lexsort((codes, events.owner))
    owner, code = events.owner[order], codes[order]
    same = np.zeros(len(order), bool)
    same[1:] = (owner[1:] == owner[:-1]) & (code[1:] == code[:-1])
    if same.any():
        places = np.flatnonzero(same | np.append(same[1:], False))
        chosen = order[places]
        order[places] = chosen[_turns(events.take(chosen), codes[chosen])]
    return order, same


def _turns(events: Events, codes: Int64) -> Int64:
    """The order of versions of some events: known time, created time, event time, tombstones last,
    `ties`."""
    known_us = events.known_us
    turn = (events.deleted, events.event_us, events.created_us, known_us, codes, events.owner)
    order = np.lexsort(turn)
    in_order, code = events.take(order), codes[order]
    twice = _same_turn(in_order)
    twice[1:] &= (code[1:] == code[:-1]) & (in_order.owner[1:] == in_order.owner[:-1])
    if events.ties is None or not twice.any():
        return order
    return np.lexsort((_places(events.ties), *turn))


def _same_turn(events: Events) -> Mask:
    """Where a row has the times of the one before it, and is a tombstone if that is one."""
    same = np.zeros(len(events), bool)
    same[1:] = events.created_us[1:] == events.created_us[:-1]
    same[1:] &= events.event_us[1:] == events.event_us[:-1]
    same[1:] &= events.deleted[1:] == events.deleted[:-1]
    return same


def _codes(ids: Column | None) -> Int64:
    """Integers that compare as the ids do."""
    if ids is None:
        return np.zeros(0, np.int64)
    if ids.dtype != object:
        return ids
    return _places(ids)


def _places(values: Column) -> Int64:
    """For texts, or bytes, integers that compare as they do: UTF-8 compares as its texts."""
    ranks = pc.rank(pa.array(values, pa.large_binary()), tiebreaker="dense")
    found: Int64 = ranks.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _same_row(events: Events) -> Mask:
    """Where a row equals the one before it in all but key and id."""
    same = _same_turn(events)
    if events.ties is not None:
        same[1:] &= np.asarray(events.ties[1:] == events.ties[:-1], bool)
    return same


def _late(same: Mask, known_us: Int64, horizon_us: int) -> Mask:
    """Versions that come more than the horizon after the one before, and all after such a one."""
    if not len(same):
        return same
    places = np.arange(len(same))
    gap = np.zeros(len(same), bool)
    gap[1:] = same[1:] & (known_us[1:] - known_us[:-1] > horizon_us)
    begins = np.maximum.accumulate(np.where(same, 0, places))
    return np.maximum.accumulate(np.where(gap, places, -1)) >= begins


def _greatest(same: Mask, values: Int64) -> Int64:
    """For each version the greatest of the values of its event's versions."""
    if not same.any():
        return values
    begins = np.flatnonzero(~same)
    counts = np.diff(np.append(begins, len(same)))
    return np.repeat(np.maximum.reduceat(values, begins), counts)


def _is_settled(old: Decoded, rows: Events) -> Mask:
    """Rows whose event is in tiles only."""
    found = np.zeros(len(rows), bool)
    if rows.ids is None or not len(rows) or not any(old.settled_ids):
        return found
    hashes = _hashes(rows.ids)
    settled = np.frombuffer(b"".join(old.settled_ids), np.uint64)
    # Few rows have such an id, of whatever key; and there are many more ids than rows.
    ours = np.sort(hashes)
    place = np.minimum(np.searchsorted(ours, settled), len(ours) - 1)
    known = settled[ours[place] == settled]
    for row in np.flatnonzero(np.isin(hashes, known)) if len(known) else ():
        of_key = np.frombuffer(old.settled_ids[rows.owner[row]], np.uint64)
        found[row] = hashes[row] in of_key
    return found


def _hashes(ids: Column) -> Column:
    if ids.dtype != object:
        return _scattered(ids.view(np.uint64))
    return np.array([hash64(one.encode()) for one in ids], np.uint64)


def _scattered(ids: Column) -> Column:
    """Integers as other ones, one to one, so that neighbours have nothing in common."""
    with np.errstate(over="ignore"):
        mixed = ids * np.uint64(0x9E37_79B9_7F4A_7C15)
        mixed ^= mixed >> np.uint64(32)
        return mixed * np.uint64(0xBF58_476D_1CE4_E5B9)


def _remembered(ids: Sequence[bytes], leaving: Events) -> list[bytes]:
    found = list(ids)
    if leaving.ids is None:
        return found
    order = np.lexsort((leaving.known_us, leaving.owner))
    owners = leaving.owner[order]
    hashes = _hashes(leaving.ids[order])
    keys, begins = np.unique(owners, return_index=True)
    for owner, mine in zip(keys.tolist(), np.split(hashes, begins[1:]), strict=True):
        more = b"".join(dict.fromkeys(one.tobytes() for one in mine))
        found[owner] = (found[owner] + more)[-8 * SETTLED_IDS_MAX :]
    return found


# --- what serving reads ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """What keys hold: tiles of what is settled, the newest event of those, and all versions of the
    others; `created_us` is the latest known time."""

    tiles: Sequence[Tiles]
    newest_us: Sequence[int | None]
    versions: Events
    created_us: Int64
    rebuilt_until_us: Sequence[int | None]


def _served(layout: WindowLayout, held: _Held, now_us: int, revisions: Sequence[int]) -> States:
    count, stable_us = len(revisions), now_us - BEHIND_US
    versions = held.versions
    versions = versions.take(~versions.deleted & (versions.until_us > stable_us))
    final = versions.until_us == NEVER_US
    stable = final & (versions.known_us <= stable_us)
    raw = ~stable | (versions.event_us >= _kept_from_us(layout, now_us))
    late = np.zeros(count, bool)
    for group in layout.groups:
        if group.hop_us:
            unstable = ~stable & (versions.event_us < group.end_us(now_us))
            late[versions.owner[unstable]] = True
    everything = ByTime(versions.take(final))
    tiles = [_parts(layout, g, held, everything, now_us) for g in range(len(layout.groups))]
    settled: list[Part] = []
    if late.any():
        known = ByTime(versions.take(stable))
        settled = [_parts(layout, g, held, known, now_us) for g in range(len(layout.groups))]
    newest = _newer(held.newest_us, versions.take(final))
    return States(
        count=count,
        for_writers=False,
        event_us=[EVER_US if one is None else one for one in newest],
        created_us=held.created_us.tolist(),
        revisions=revisions,
        written_us=now_us,
        tiles=tiles,
        stable=settled,
        ends_us=[_raw_from_us(group, now_us) for group in layout.groups],
        events=versions.take(raw),
        newest_us=_newer(held.newest_us, versions.take(~raw)),
        late=late.tolist(),
        settled_ids=[b""] * count,
        rebuilt_until_us=held.rebuilt_until_us,
    )


def _parts(layout: WindowLayout, g: int, held: _Held, events: ByTime, now_us: int) -> Part:
    """The tiles of a group with these events: those before its end, and the others."""
    group, count = layout.groups[g], len(held.newest_us)
    if not group.hop_us:
        return no_tiles(group), np.zeros(count, np.int64)
    folded, open_ = tiles_of(layout, group, events, group.end_us(now_us))
    folded = unexpired(layout, group, merged(layout, group, [held.tiles[g], folded]), now_us)
    sealed = np.bincount(folded.owner, minlength=count)
    return suffixes(layout, group, folded, open_), sealed


def _latest(values: Int64, owner: Int64, count: int) -> Int64:
    found = np.full(count, EVER_US, np.int64)
    np.maximum.at(found, owner, values)
    return found


def _newer(newest: Sequence[int | None], events: Events) -> list[int | None]:
    """The newest of these events and what was the newest before."""
    before = [EVER_US if one is None else one for one in newest]
    latest = _latest(events.event_us, events.owner, len(newest)).tolist()
    both = map(max, before, latest)
    return [None if one == EVER_US else one for one in both]


def _empty(served: States, versions: Events) -> list[bool]:
    """Keys of which nothing is left to keep."""
    there = np.zeros(served.count, bool)
    there[versions.owner] = True
    return [
        event_us == EVER_US and not kept
        for event_us, kept in zip(served.event_us, there.tolist(), strict=True)
    ]


def _expiries(layout: WindowLayout, served: States) -> list[int | None]:
    """When no request finds anything any more, and no correction is accepted."""
    reach_us = layout.reach_us
    if reach_us is None:
        return [None] * served.count
    horizon_us = layout.correction_horizon_us if layout.id_dtype is not None else 0
    return [
        max(event_us + reach_us, created_us + horizon_us) + BEHIND_US
        for event_us, created_us in zip(served.event_us, served.created_us, strict=True)
    ]


def _check_limit(layout: WindowLayout, versions: Events, served: Events, count: int) -> None:
    kept = served if layout.id_dtype is None else versions
    most = int(np.bincount(kept.owner, minlength=max(count, 1)).max())
    if most > EVENTS_PER_KEY_MAX:
        raise LimitExceeded(
            "EVENTS_PER_KEY_MAX",
            asked=most,
            allowed=EVENTS_PER_KEY_MAX,
            hint=f"Give the windows of view {layout.view!r} a hop, or a shorter delay or "
            "correction horizon.",
        )

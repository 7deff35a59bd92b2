"""Merging over ranges without ever taking anything off: two structures over arrays.

`RangeTable` answers "the rows from here to there" of a fixed sequence in a constant number of
merges; `stabbed` answers "all whose range holds this place". Both work for any merge that is
associative and commutative; a state is a tuple of arrays, one place for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
State = tuple[npt.NDArray[Any], ...]

BLOCK = 16
"""Rows per block: prefixes and suffixes within one; over blocks, a table of both at each level."""


@dataclass(frozen=True, slots=True)
class Monoid:
    """A merge of states and its neutral element."""

    identity: tuple[Any, ...]
    merge: Callable[[State, State], State]

    def empty(self, size: int, like: State) -> State:
        """`size` neutral elements of the types of `like`."""
        pairs = zip(self.identity, like, strict=True)
        return tuple(np.full(size, value, dtype=one.dtype) for value, one in pairs)


def _moments(left: State, right: State) -> State:
    """(n, mean, M2), as `partials.Variance` merges them."""
    n, m = left[0], right[0]
    both = n + m
    share = m / np.where(both == 0, 1, both)
    delta = right[1] - left[1]
    return both, left[1] + delta * share, left[2] + right[2] + delta * (delta * (n * share))


ADD = Monoid((0.0,), lambda a, b: (a[0] + b[0],))
MOMENTS = Monoid((0.0, 0.0, 0.0), _moments)


def least(greatest_value: float) -> Monoid:
    """The least; `greatest_value` is not less than any."""
    return Monoid((greatest_value,), lambda a, b: (np.minimum(a[0], b[0]),))


def greatest(least_value: float) -> Monoid:
    """The greatest; `least_value` is not greater than any."""
    return Monoid((least_value,), lambda a, b: (np.maximum(a[0], b[0]),))


def _take(state: State, index: Any) -> State:
    return tuple(one[index] for one in state)


def _put(state: State, index: Any, values: State) -> None:
    for one, value in zip(state, values, strict=True):
        one[index] = value


class RangeTable:
    """Merges of any range `[low, high)` of `rows`: within a block row by row, else the rest of the
    first block, whole blocks, the beginning of the last. Memory is some four times the rows."""

    def __init__(self, rows: State, monoid: Monoid) -> None:
        self._monoid = monoid
        size = len(rows[0])
        blocks = -(-size // BLOCK)
        padded = monoid.empty(blocks * BLOCK, rows)
        _put(padded, slice(0, size), rows)
        self._rows = padded
        grid = tuple(one.reshape(blocks, BLOCK) for one in padded)
        before, after = (tuple(one.copy() for one in grid) for _ in range(2))
        for n in range(1, BLOCK):
            column = (slice(None), n)
            _put(
                before,
                column,
                monoid.merge(_take(before, (slice(None), n - 1)), _take(grid, column)),
            )
            column = (slice(None), BLOCK - 1 - n)
            _put(
                after,
                column,
                monoid.merge(_take(grid, column), _take(after, (slice(None), BLOCK - n))),
            )
        self._before = tuple(one.reshape(-1) for one in before)
        self._after = tuple(one.reshape(-1) for one in after)
        self._blocks = blocks
        self._up, self._down = self._levels(_take(before, (slice(None), BLOCK - 1)))

    def _levels(self, blocks: State) -> tuple[State, State]:
        """For each level s, within aligned groups of 2^s blocks: the merge from the group's
        beginning to each block, and from each block to the group's end. Level after level."""
        ups, downs = [blocks], [blocks]
        index = np.arange(self._blocks)
        level = 0
        while (1 << level) < self._blocks:
            up, down = (tuple(one.copy() for one in s) for s in (ups[-1], downs[-1]))
            right = index[(index >> level) & 1 == 1]
            left_end = (right >> level << level) - 1
            _put(up, right, self._monoid.merge(_take(ups[-1], left_end), _take(ups[-1], right)))
            left = index[(index >> level) & 1 == 0]
            right_start = ((left >> level) + 1) << level
            left, right_start = (a[right_start < self._blocks] for a in (left, right_start))
            merged = self._monoid.merge(_take(downs[-1], left), _take(downs[-1], right_start))
            _put(down, left, merged)
            ups.append(up)
            downs.append(down)
            level += 1
        return _flat(ups), _flat(downs)

    def over(self, low: Ints, high: Ints) -> State:
        """The merge of each range; the neutral element of those that are empty."""
        found = self._monoid.empty(len(low), self._rows)
        first, last = low // BLOCK, (high - 1) // BLOCK
        short = np.flatnonzero((low < high) & (first == last))
        self._add_short(found, short, low[short], high[short])
        index = np.flatnonzero((low < high) & (first < last))
        if len(index):
            ends = self._monoid.merge(
                _take(self._after, low[index]), _take(self._before, high[index] - 1)
            )
            _put(found, index, ends)
            self._add_blocks(found, index, first[index] + 1, last[index] - 1)
        return found

    def _add_short(self, found: State, index: Ints, low: Ints, high: Ints) -> None:
        while len(index):
            _put(found, index, self._monoid.merge(_take(found, index), _take(self._rows, low)))
            low = low + 1
            kept = low < high
            index, low, high = index[kept], low[kept], high[kept]

    def _add_blocks(self, found: State, index: Ints, first: Ints, last: Ints) -> None:
        some = first <= last
        index, first, last = index[some], first[some], last[some]
        # The level at which both ends are in neighbouring groups: the highest bit that differs.
        level = np.frexp((first ^ last).astype(np.float64))[1].astype(np.int64) - 1
        one = level < 0
        level = np.maximum(level, 0)
        down = _take(self._down, level * self._blocks + first)
        up = _take(self._up, level * self._blocks + last)
        both = self._monoid.merge(down, up)
        middle = tuple(np.where(one, d, b) for d, b in zip(down, both, strict=True))
        _put(found, index, self._monoid.merge(_take(found, index), middle))


def _flat(levels: Sequence[State]) -> State:
    return tuple(np.concatenate(arrays) for arrays in zip(*levels, strict=True))


# --- ranges that hold a place ---------------------------------------------------------------------


class Nodes:
    """Ranges `[first, last)` of `size` places, cut into nodes of a binary tree over the places: at
    most two of each level. `rows` and `nodes` say which range has which node; node 1 is the root,
    the children of i are 2i and 2i + 1, place p is node `width + p`."""

    def __init__(self, first: Ints, last: Ints, size: int) -> None:
        self.size = size
        self.depth = max(size - 1, 0).bit_length()
        self.width = 1 << self.depth
        rows, nodes = [], []
        index = np.flatnonzero(first < last)
        low, high = first[index] + self.width, last[index] + self.width
        while len(index):
            odd = low & 1 == 1
            rows.append(index[odd])
            nodes.append(low[odd])
            low = (low + 1) >> 1
            odd = high & 1 == 1
            rows.append(index[odd])
            nodes.append(high[odd] - 1)
            high = high >> 1
            kept = low < high
            index, low, high = index[kept], low[kept], high[kept]
        empty = np.zeros(0, dtype=np.int64)
        self.rows: Ints = np.concatenate(rows) if rows else empty
        self.nodes: Ints = np.concatenate(nodes) if nodes else empty

    def stabbed(self, rows: State, monoid: Monoid) -> State:
        """For each place the merge of all `rows` whose range holds it."""
        tree = monoid.empty(2 * self.width, rows)
        self._gather(tree, rows, monoid)
        for level in range(self.depth):
            parents = slice(1 << level, 2 << level)
            children = slice(2 << level, 4 << level)
            down = tuple(np.repeat(one[parents], 2) for one in tree)
            _put(tree, children, monoid.merge(_take(tree, children), down))
        return _take(tree, slice(self.width, self.width + self.size))

    def _gather(self, tree: State, rows: State, monoid: Monoid) -> None:
        """Merge the rows of each node: pairs of neighbours, until there is one of each node."""
        order = np.argsort(self.nodes, kind="stable")
        nodes, state = self.nodes[order], _take(rows, self.rows[order])
        while len(nodes):
            starts = np.flatnonzero(np.r_[True, nodes[1:] != nodes[:-1]])
            place = np.arange(len(nodes)) - np.repeat(starts, np.diff(np.r_[starts, len(nodes)]))
            if len(starts) == len(nodes):
                break
            even = np.flatnonzero(place % 2 == 0)
            partner = np.minimum(even + 1, len(nodes) - 1)
            paired = (even + 1 < len(nodes)) & (nodes[partner] == nodes[even])
            merged = monoid.merge(_take(state, even), _take(state, partner))
            alone = _take(state, even)
            state = tuple(np.where(paired, m, a) for m, a in zip(merged, alone, strict=True))
            nodes = nodes[even]
        _put(tree, nodes, state)

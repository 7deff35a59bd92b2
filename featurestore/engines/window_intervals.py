"""Functions over the different values of a window, from the ranges of requests that see each event:
exact and approximate counts of them, quantiles and the most frequent ones.

A value is in the windows of those requests that see one of its events: a union of ranges. Where the
ranges of one value are disjoint, counting values is counting ranges. A HyperLogLog is counted the
same way: how many registers have a rank of at least r is how many different registers the events
with such a rank have. Nothing here is larger than events and requests.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore import sketches

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def count_ranges(first: Ints, last: Ints, size: int) -> Ints:
    """For each of `size` places how many ranges `[first, last)` hold it."""
    begins = np.bincount(first, minlength=size + 1)
    ends = np.bincount(last, minlength=size + 1)
    return np.cumsum(begins - ends)[:size]


def sum_ranges(first: Ints, last: Ints, values: Ints, size: int) -> Ints:
    """For each of `size` places the sum of `values` of the ranges that hold it."""
    steps = np.zeros(size + 1, dtype=np.int64)
    np.add.at(steps, first, values)
    np.subtract.at(steps, last, values)
    return np.cumsum(steps)[:size]


def count_distinct(codes: Ints, first: Ints, last: Ints, size: int) -> Ints:
    """For each place how many different `codes` have a range that holds it."""
    if len(codes) == 0:
        return np.zeros(size, dtype=np.int64)
    width = size + 1
    begins, ends = codes * width + first, codes * width + last
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], ends[order]
    # The end of what began before, of the same code: ends of other codes are out of reach.
    reach = np.maximum.accumulate(ends)
    new = np.r_[True, begins[1:] > reach[:-1]]
    starts = np.flatnonzero(new)
    stops = np.r_[starts[1:], len(begins)] - 1
    return count_ranges(begins[starts] % width, reach[stops] % width, size)


def approx_distinct(
    hashes: npt.NDArray[np.uint64], first: Ints, last: Ints, *, size: int, precision: int
) -> Ints:
    """For each place the estimate of a HyperLogLog over the hashes whose range holds it."""
    rest_bits = sketches.HASH_BITS - precision
    registers = (hashes >> np.uint64(rest_bits)).astype(np.int64)
    rest = hashes & np.uint64((1 << rest_bits) - 1)
    ranks = rest_bits - _bit_length(rest) + 1
    at_least = [np.full(size, 1 << precision, dtype=np.int64)]
    for rank in range(1, rest_bits + 2):
        kept = ranks >= rank
        registers, first, last, ranks = (a[kept] for a in (registers, first, last, ranks))
        at_least.append(count_distinct(registers, first, last, size))
    histogram = [a - b for a, b in itertools.pairwise(at_least)]
    return _estimates([*histogram, at_least[-1]], precision)


def _bit_length(values: npt.NDArray[np.uint64]) -> Ints:
    """Of up to 60 bits: the two halves are exact as floats."""
    high, low = (values >> np.uint64(32)), values & np.uint64(0xFFFFFFFF)
    of_high = np.frexp(high.astype(np.float64))[1].astype(np.int64)
    of_low = np.frexp(low.astype(np.float64))[1].astype(np.int64)
    return np.where(high > 0, of_high + 32, of_low)


def _estimates(histogram: list[Ints], precision: int) -> Ints:
    """`sketches.estimate`, operation by operation, over arrays."""
    registers = 1 << precision
    counts = [column.astype(np.float64) for column in histogram]
    z = registers * _tau(1.0 - counts[-1] / registers)
    for count in reversed(counts[1:-1]):
        z = 0.5 * (z + count)
    empty = counts[0] == registers
    z = z + registers * _sigma(np.where(empty, 0.0, counts[0] / registers))
    z = np.where(empty, 1.0, z)
    full = z == 0.0
    found = np.rint(sketches.ALPHA_INFINITE * registers * registers / np.where(full, 1.0, z))
    return np.where(full, sketches.ESTIMATE_MAX, np.where(empty, 0.0, found).astype(np.int64))


def _sigma(x: Floats) -> Floats:
    """For 0 ≤ x < 1. Each value has settled when its last step changed nothing; more steps do
    not change it either."""
    y, z = 1.0, x
    while True:
        x = x * x
        before = z
        z = z + x * y
        y += y
        if (z == before).all():
            return z


def _tau(x: Floats) -> Floats:
    ends = (x == 0.0) | (x == 1.0)
    y, z = 1.0, 1.0 - x
    while True:
        x = np.sqrt(x)
        before = z
        y *= 0.5
        z = z - (1.0 - x) * (1.0 - x) * y
        if (z == before).all():
            return np.where(ends, 0.0, z / 3.0)


def buckets(values: Floats, width: float) -> Ints:
    """`sketches.bucket_of` over an array."""
    mantissa, exponent = np.frexp(np.abs(values))
    octaves = exponent + (mantissa + mantissa - 1.0)
    codes = np.where(np.isfinite(values), np.floor(octaves / width), 0.0).astype(np.int64)
    codes += sketches.CODE_ZERO
    codes[np.isinf(values)] = sketches.CODE_INFINITE
    return np.where(values == 0.0, 0, np.where(values > 0.0, codes, -codes))


def quantiles(
    codes: Ints, first: Ints, last: Ints, *, size: int, quantile: float
) -> tuple[Ints, Ints]:
    """For each place the code at rank ⌊quantile · (n − 1)⌋ of the n whose range holds it, and n.

    All places descend the binary digits of the codes together; at each the events whose code has
    the digits so far are counted."""
    count = count_ranges(first, last, size)
    rank = (quantile * (count - 1).astype(np.float64)).astype(np.int64)
    places, found = np.arange(size), np.zeros(size, dtype=np.int64)
    bits = int(codes.max()).bit_length() if len(codes) else 0
    width = size + 1
    for bit in range(bits - 1, -1, -1):
        prefixes = (codes >> bit) * width
        begins, ends = np.sort(prefixes + first), np.sort(prefixes + last)
        at = (found << 1) * width + places
        lower = np.searchsorted(begins, at, side="right") - np.searchsorted(ends, at, side="right")
        right = rank >= lower
        rank = np.where(right, rank - lower, rank)
        found = (found << 1) | right
    return found, count


def most_frequent(codes: Ints, first: Ints, last: Ints, *, size: int, n: int) -> list[list[int]]:
    """For each place the `n` codes that most ranges which hold it have; of two alike the lesser.

    One pass over the places, each event entering and leaving once: a heap of (count, code), in
    which what is out of date is thrown away when it comes up."""
    by_first = np.argsort(first, kind="stable")
    by_last = np.argsort(last, kind="stable")
    entering = list(zip(first[by_first].tolist(), codes[by_first].tolist(), strict=True))
    leaving = list(zip(last[by_last].tolist(), codes[by_last].tolist(), strict=True))
    counts: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    answers: list[list[int]] = []
    enter = leave = 0
    for place in range(size):
        changed: set[int] = set()
        while enter < len(entering) and entering[enter][0] <= place:
            code = entering[enter][1]
            counts[code] = counts.get(code, 0) + 1
            changed.add(code)
            enter += 1
        while leave < len(leaving) and leaving[leave][0] <= place:
            code = leaving[leave][1]
            counts[code] -= 1
            changed.add(code)
            leave += 1
        for code in changed:
            if counts[code]:
                heapq.heappush(heap, (-counts[code], code))
        answers.append(_top(heap, counts, n))
    return answers


def _top(heap: list[tuple[int, int]], counts: dict[int, int], n: int) -> list[int]:
    top: list[tuple[int, int]] = []
    while heap and len(top) < n:
        entry = heapq.heappop(heap)
        if -entry[0] == counts.get(entry[1], 0) and (not top or entry != top[-1]):
            top.append(entry)
    for entry in top:
        heapq.heappush(heap, entry)
    return [code for _, code in top]


def hashes_of(values: Any, dtype: Any) -> npt.NDArray[np.uint64]:
    """The hash of each of a list of different values."""
    from featurestore.value_bytes import value_bytes

    found = [sketches.hash64(value_bytes(value, dtype)) for value in values]
    return np.array(found, dtype=np.uint64)

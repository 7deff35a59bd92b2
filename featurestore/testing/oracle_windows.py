"""Windows said again as loops over rows: slow, obvious, and independent of engines and partials.

A window at T is computed from nothing but the list of all rows: which of them were known by T,
which of those had been replaced by then, which lie in the window; and then the function over the
list of their values. Only what a sketch says is left to its partial, being defined by it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

from featurestore.aggregates import BUCKETS_PER_KEY_MAX
from featurestore.dtypes import DType
from featurestore.partials import partial_of
from featurestore.statuses import Status
from featurestore.testing.oracle import Answer, AsOf, Key, Row, Value, rank, same

TOLERANCE = 1e-9
"""Of Σ|x|, the one tolerance of float sums."""
_INT64 = 2**63
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowed:
    """One windowed feature: `function` over the column `value` (None: over the rows), of the rows
    for which the bool column `condition` is true. `hop_us` 0 is exact, `window_us` None a
    lifetime. With a column `bucket` it is a map from each value of it to the function over the rows
    that have it."""

    function: str
    value: str | None = None
    dtype: DType | None = None
    condition: str | None = None
    window_us: int | None
    delay_us: int = 0
    hop_us: int = 0
    parameters: Mapping[str, int | float] = field(default_factory=dict)
    bucket: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The rows of a windowed view's source, and how one replaces another.

    `event_id` is the column of ids (None: every row counts). Between rows of one id with equal
    times the tombstone wins, then the greater `Row.tie`, which holds what the view's
    `version_order` names.
    """

    rows: Sequence[Row]
    event_id: str | None = None
    correction_horizon_us: int = 0
    as_of: AsOf = "known"
    known_until_us: int | None = None

    def known(self, at_us: int) -> list[Row]:
        """The rows that were known at `at_us`; by event time, all."""
        return [
            row
            for row in self.rows
            if (self.as_of == "event" or row.known_us <= at_us)
            and (self.known_until_us is None or row.known_us <= self.known_until_us)
        ]

    def events(self, key: Key, at_us: int) -> list[Row]:
        """What had happened to `key`, as it was known at `at_us`: one row for each event that was
        not removed."""
        rows = [row for row in self.known(at_us) if row.key == key and None not in key]
        column = self.event_id
        if column is None:
            return [row for row in rows if not row.deleted]
        ids = {row.values[column] for row in rows} - {None}
        last = [self.versions([r for r in rows if r.values[column] == one])[-1] for one in ids]
        return [row for row in last if not row.deleted]

    def versions(self, rows: Iterable[Row]) -> list[Row]:
        """The rows of one event that took their turn, in the order in which they did. One that
        comes more than the horizon after the row that it corrects is a dead letter, and so are all
        that follow it."""
        ordered = sorted(rows, key=_turn)
        taken = ordered[:1]
        for row in ordered[1:]:
            if row.known_us - taken[-1].known_us > self.correction_horizon_us:
                break
            taken.append(row)
        return taken

    def dead_letters(self) -> list[Row]:
        """The corrections that came too late to count."""
        column = self.event_id
        if column is None:
            return []
        dead = []
        for one in {(row.key, row.values[column]) for row in self.rows}:
            rows = [r for r in self.rows if (r.key, r.values[column]) == one]
            taken = self.versions(rows)
            dead += [row for row in rows if not any(row is other for other in taken)]
        return dead


def _turn(row: Row) -> tuple[Any, ...]:
    _, _, *tie = rank(row)
    return row.known_us, row.created_us, row.event_us, row.deleted, *tie


def in_window(row: Row, at_us: int, window: Windowed) -> bool:
    """Whether the row's event time is in the window at `at_us`."""
    end = at_us - window.delay_us
    if row.event_us >= end:
        return False
    if window.window_us is None:
        return True
    start = end - window.window_us
    if window.hop_us:
        start = start // window.hop_us * window.hop_us
    return start <= row.event_us


def rows_of(events: Iterable[Row], at_us: int, window: Windowed) -> list[Row]:
    """The rows that count for the function at `at_us`."""
    return [
        row
        for row in events
        if in_window(row, at_us, window)
        and (window.condition is None or row.values[window.condition] is True)
        and (window.value is None or row.values[window.value] is not None)
        and (window.bucket is None or row.values[window.bucket] is not None)
    ]


def inputs_of(
    events: Iterable[Row], at_us: int, window: Windowed, event_id: str | None
) -> list[Value]:
    """The values that the function is over, in the order of the window; into buckets, pairs of a
    bucket and a value."""
    rows = rows_of(events, at_us, window)
    column, bucket = window.value, window.bucket
    if column is not None and window.function != "count":
        order = column if event_id is None else event_id
        rows.sort(key=lambda row: (row.event_us, row.values[order]))
    values = [None if column is None else row.values[column] for row in rows]
    if bucket is None:
        return values
    return [(row.values[bucket], value) for row, value in zip(rows, values, strict=True)]


def value_over(values: Sequence[Any], window: Windowed) -> Value:  # noqa: PLR0911 - one per function
    """The function over a list of values, none of them NULL; into buckets, over pairs of a bucket
    and a value."""
    if window.bucket is not None:
        plain = replace(window, bucket=None)
        buckets = sorted({bucket for bucket, _ in values})
        if len(buckets) > BUCKETS_PER_KEY_MAX:
            return None
        return {one: value_over([v for b, v in values if b == one], plain) for one in buckets}
    count, function = len(values), window.function
    if function == "count":
        return count
    if function == "count_distinct":
        return len(set(values))
    if function in ("approx_count_distinct", "approx_quantile"):
        return _sketched(values, window)
    if not values:
        return None
    n = int(window.parameters.get("n", 0))
    if function in ("sum", "mean", "var", "std"):
        return _number(values, window)
    if function == "min":
        return min(values)
    if function == "max":
        return max(values)
    if function == "first":
        return values[0]
    if function == "last":
        return values[-1]
    if function == "first_n":
        return list(values[:n])
    if function == "last_n":
        return list(values[-n:])
    if function == "top_k":
        counts = Counter(values)
        return sorted(counts, key=lambda value: (-counts[value], value))[:n]
    raise ValueError(f"the oracle has no {function}")


def _number(values: Sequence[Any], window: Windowed) -> Value:
    if any(isinstance(value, float) and math.isinf(value) for value in values):
        return None
    exact = [Fraction(value) for value in values]
    total, count = sum(exact, Fraction(0)), len(exact)
    if window.function == "sum":
        return _sum(total, values[0], window)
    mean = total / count
    variance = sum((value - mean) ** 2 for value in exact) / count
    found = mean if window.function == "mean" else variance
    try:
        number = float(found)
    except OverflowError:
        return None
    return math.sqrt(number) if window.function == "std" else number


def _sum(total: Fraction, example: Any, window: Windowed) -> Value:
    if isinstance(example, Decimal):
        scale = (window.dtype.scale if window.dtype is not None else 0) or 0
        whole = int(total * 10**scale)
        if abs(whole) >= 10**38:
            return None
        return Decimal((int(whole < 0), tuple(map(int, str(abs(whole)))), -scale))
    if isinstance(example, int):
        return int(total) if -_INT64 <= total < _INT64 else None
    try:
        return float(total)
    except OverflowError:
        return None


def _sketched(values: Sequence[Any], window: Windowed) -> Value:
    partial = partial_of(window.function, window.dtype, window.parameters)
    state = partial.identity()
    for value in values:
        days = (value - _EPOCH).days if isinstance(value, date) else value
        state = partial.add(state, days, (0, None))
    found: Value = partial.result(state)
    return found


def found_at(events: Iterable[Row], at_us: int, windows: Iterable[Windowed]) -> bool:
    """Whether the key has an event that is young enough to be in the longest window, delay and hop
    included."""
    newest = max((row.event_us for row in events if row.event_us <= at_us), default=None)
    if newest is None:
        return False
    spans = [None if w.window_us is None else w.window_us + w.delay_us + w.hop_us for w in windows]
    return any(span is None or newest >= at_us - span for span in spans)


def window_answer(
    history: History, key: Key, at_us: int, windows: Mapping[str, Windowed]
) -> Answer:
    """What a windowed view says for `key` at `at_us`; `windows` are all of its features."""
    events = history.events(key, at_us)
    status = Status.PRESENT if found_at(events, at_us, windows.values()) else Status.NOT_FOUND
    values = {
        name: value_over(inputs_of(events, at_us, window, history.event_id), window)
        for name, window in windows.items()
    }
    return Answer(status, values)


def counted(
    history: History, key: Key, at_us: int, windows: Iterable[Windowed], *, with_status: bool
) -> list[Any]:
    """Which rows (themselves, not their values) count at `at_us`, by window; `with_status`, and
    whether the key is found."""
    events, windows = history.events(key, at_us), list(windows)
    found: list[Any] = [sorted(map(id, rows_of(events, at_us, one))) for one in windows]
    return [*found, found_at(events, at_us, windows)] if with_status else found


def window_changes(
    history: History,
    key: Key,
    windows: Sequence[Windowed],
    *,
    start_us: int,
    end_us: int,
    with_status: bool = True,
) -> list[int]:
    """The instants of `[start_us, end_us)` at which other rows count for `key` than 1 µs before;
    `with_status`, or it is found and was not, or the other way round."""
    maybe = set[int]()
    for row in history.rows:
        for window in windows:
            length, hop = window.window_us or 0, max(window.hop_us, 1)
            ends = [row.event_us + window.delay_us, row.event_us + window.delay_us + length]
            maybe |= {row.known_us, row.event_us, *ends, ends[1] + window.hop_us}
            maybe.add((row.event_us // hop + 1) * hop + window.delay_us + length)
    return [
        at
        for at in sorted({instant + beside for instant in maybe for beside in (0, 1)})
        if start_us <= at < end_us
        and counted(history, key, at, windows, with_status=with_status)
        != counted(history, key, at - 1, windows, with_status=with_status)
    ]


def agrees(found: Value, expected: Value, inputs: Sequence[Any], window: Windowed) -> bool:
    """Whether a value is right: exactly, but floats of sums within `TOLERANCE · Σ|x|` (a mean
    within that by n, a variance within it times the greatest |x|)."""
    if window.bucket is not None:
        return _maps_agree(found, expected, inputs, replace(window, bucket=None))
    function, dtype = window.function, window.dtype
    is_float = function in ("mean", "var", "std")
    is_float |= function == "sum" and dtype is not None and dtype.is_float
    if not is_float or found is None or expected is None:
        return _overflows(inputs, is_float) or same(found, expected)
    if not isinstance(found, float):
        return False
    sizes = [abs(float(value)) for value in inputs]
    room = TOLERANCE * math.fsum(sizes)
    if function == "mean":
        room /= len(sizes)
    if function in ("var", "std"):
        room *= max(sizes) / len(sizes)
    if function == "std":
        return bool(abs(found * found - expected * expected) <= room)
    return bool(abs(found - expected) <= room)


def _maps_agree(found: Value, expected: Value, inputs: Sequence[Any], window: Windowed) -> bool:
    """Whether all buckets are there, in ascending order, and right."""
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return found is expected is None
    if list(map(repr, found)) != list(map(repr, expected)):
        return False
    return all(
        agrees(found[one], expected[one], [v for b, v in inputs if b == one], window)
        for one in expected
    )


def _overflows(inputs: Sequence[Any], is_float: bool) -> bool:
    """Whether a sum may be infinite in one order of adding and finite in another."""
    if not is_float:
        return False
    try:
        largest = max((abs(float(value)) for value in inputs), default=0.0)
    except OverflowError:
        return True
    return math.isfinite(largest) and largest > 1e150

"""The functions of windows over whole columns: for each request the merge of its plain events, a
range of the sorted ones, and of the special events that it sees.

Each says over arrays what its `Partial` says of one value after the other. Counts and sums of
integers and decimals are differences of running sums, which are exact; all others are merged and
nothing is ever taken off. Order within a window is (event time, event id), or (event time, value)
where events have no id.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore import sketches
from featurestore.compiler.rel import WindowFunction
from featurestore.dtypes import DType, Kind
from featurestore.engines import window_intervals as intervals
from featurestore.engines.window_ranges import (
    ADD,
    MOMENTS,
    Monoid,
    Nodes,
    RangeTable,
    State,
    greatest,
    least,
)
from featurestore.engines.window_rows import Span, Windows
from featurestore.engines.window_values import (
    Values,
    arrow_type,
    as_int64,
    carried,
    decimal_sums,
    python_ints,
)
from featurestore.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_INT_MIN, _INT_MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Columns:
    """The columns of one part's events, read as they are asked for.

    `table` holds them by name, in the order in which the events came; `event_id` (if any) is one
    of them.
    """

    def __init__(
        self,
        windows: Windows,
        table: Mapping[str, pa.ChunkedArray],
        dtypes: Mapping[str, DType],
        event_id: str | None,
    ) -> None:
        self.windows = windows
        self._table = table
        self._dtypes = dtypes
        self._event_id = event_id
        self.overflows = 0
        self._values: dict[str, Values] = {}
        self._masks: dict[tuple[str | None, str | None], Bools | None] = {}
        self._selected: dict[tuple[str | None, str | None], Selected] = {}

    def values(self, name: str) -> Values:
        """A column."""
        if name not in self._values:
            column = self._table[name]
            self._values[name] = Values(column, self._dtypes[name], self.windows.order)
        return self._values[name]

    def selected(self, function: WindowFunction) -> Selected:
        """The events that count for a function, and what is known of their values: one object for
        all windows and functions over the same."""
        key = (function.value, function.condition)
        if key not in self._selected:
            self._selected[key] = Selected(self, *key)
        return self._selected[key]

    def selected_rows(self) -> Selected:
        """All events."""
        return self._selected.setdefault((None, None), Selected(self, None, None))

    def order_codes(self, value: str) -> npt.NDArray[Any]:
        """What decides between events of one time."""
        return self.values(value if self._event_id is None else self._event_id).ranked


class Selected:
    """The events for which a condition is true and a value is not NULL."""

    def __init__(self, columns: Columns, value: str | None, condition: str | None) -> None:
        self._columns = columns
        self._windows = columns.windows
        self._name = value
        self._condition = condition
        self._tables: dict[str, RangeTable] = {}
        self._nodes: dict[Span, Nodes] = {}

    @property
    def values(self) -> Values:
        """The values' column."""
        if self._name is None:
            raise InternalError("a function over values has no column")
        return self._columns.values(self._name)

    @cached_property
    def mask(self) -> Bools | None:
        """Which events count; None: all."""
        found = None if self._name is None else self.values.valid
        if self._condition is None:
            return found
        condition = self._columns.values(self._condition)
        true: Bools = condition.integers != 0
        if condition.valid is not None:
            true &= condition.valid
        return true if found is None else true & found

    @cached_property
    def _plain_mask(self) -> Bools | None:
        return None if self.mask is None else self.mask[self._windows.plain]

    @cached_property
    def special(self) -> Bools | None:
        """Which special events count; None: none of them does."""
        if len(self._windows.special) == 0:
            return None
        if self.mask is None:
            return np.ones(len(self._windows.special), dtype=bool)
        found = self.mask[self._windows.special]
        return found if found.any() else None

    def seen(self, span: Span) -> tuple[Ints, Ints, Ints]:
        """The special events that count, by index, and the range of the requests that see them."""
        kept = self.special
        assert kept is not None  # noqa: S101 - callers have asked
        first, last = self._windows.seen(span)
        return self._windows.special[kept], first[kept], last[kept]

    def all_seen(self, span: Span) -> tuple[Ints, Ints, Ints]:
        """The same of all events."""
        index, first, last = self._windows.all_seen(span)
        if self.mask is None:
            return index, first, last
        kept = self.mask[index]
        return index[kept], first[kept], last[kept]

    # --- merging ----------------------------------------------------------------------------------

    @cached_property
    def _running_count(self) -> Ints:
        return _running(self._plain_mask.astype(np.int64) if self._plain_mask is not None else None)

    def count(self, span: Span) -> Ints:
        """How many events count for each request."""
        low, high = self._windows.ranges(span)
        if self._plain_mask is None:
            found = high - low
        else:
            found = self._running_count[high] - self._running_count[low]
        if self.special is None:
            return found
        _, first, last = self.seen(span)
        return found + intervals.count_ranges(first, last, len(found))

    @cached_property
    def _running_limbs(self) -> list[Ints]:
        return [_running(self._masked(limb, 0)[self._windows.plain]) for limb in self.values.limbs]

    def sums(self, span: Span) -> list[Ints]:
        """The exact sum of each request's values, in carried limbs."""
        low, high = self._windows.ranges(span)
        found = [running[high] - running[low] for running in self._running_limbs]
        if self.special is not None:
            index, first, last = self.seen(span)
            for place, limb in enumerate(self.values.limbs):
                special = intervals.sum_ranges(first, last, limb[index], len(low))
                found[place] = found[place] + special
        return carried(found)

    def merged(self, name: str, monoid: Monoid, rows: Callable[[], State], span: Span) -> State:
        """The merge of each request's states; `rows` gives those of all events, with the neutral
        element for those that do not count. `name` is the same for the same rows and merge."""
        if name not in self._tables:
            states = tuple(one[self._windows.plain] for one in rows())
            self._tables[name] = RangeTable(states, monoid)
        found = self._tables[name].over(*self._windows.ranges(span))
        if self.special is None:
            return found
        index, first, last = self.seen(span)
        if span not in self._nodes:
            self._nodes[span] = Nodes(first, last, len(found[0]))
        states = tuple(one[index] for one in rows())
        return monoid.merge(found, self._nodes[span].stabbed(states, monoid))

    def _masked(self, values: npt.NDArray[Any], other: Any) -> npt.NDArray[Any]:
        return values if self.mask is None else np.where(self.mask, values, other)

    def float_sum(self, span: Span) -> Floats:
        """The sum of floats."""
        rows = lambda: (self._masked(self.values.floats, 0.0),)  # noqa: E731
        (found,) = self.merged("sum", ADD, rows, span)
        return found

    def moments(self, span: Span) -> State:
        """Count, mean and M2."""

        def rows() -> State:
            values = self._masked(self.values.floats, 0.0)
            ones = self._masked(np.ones(len(values)), 0.0)
            return ones, values, np.zeros(len(values))

        return self.merged("moments", MOMENTS, rows, span)

    def extreme(self, span: Span, *, largest: bool) -> npt.NDArray[Any]:
        """The least or the greatest value, in numbers that `Values.unranked` takes."""
        ranked = self.values.ranked
        low, high = (-np.inf, np.inf) if ranked.dtype.kind == "f" else (_INT_MIN, _INT_MAX)
        monoid = greatest(low) if largest else least(high)
        rows = lambda: (self._masked(ranked, monoid.identity[0]),)  # noqa: E731
        (found,) = self.merged("max" if largest else "min", monoid, rows, span)
        return found

    # --- order ------------------------------------------------------------------------------------

    @cached_property
    def ordered(self) -> Ints:
        """All events in the order of windows. It differs from the order of the arrays between
        events of one key and time only, so that ranges of plain events stay what they are."""
        windows = self._windows
        size = len(windows.events)
        same = (windows.events[1:] == windows.events[:-1]) & (
            windows.groups[1:] == windows.groups[:-1]
        )
        if self._name is None or not same.any():
            return np.arange(size)
        runs = np.cumsum(np.r_[False, ~same])
        return np.lexsort((self._columns.order_codes(self._name), runs))

    @cached_property
    def places(self) -> Ints:
        """The place of each event in `ordered`."""
        found = np.empty(len(self.ordered), dtype=np.int64)
        found[self.ordered] = np.arange(len(found))
        return found

    @cached_property
    def counting(self) -> tuple[Ints, Ints]:
        """The places of the plain events that count, ascending, and for each position in the order
        of plain events how many of them are before it."""
        kept = np.ones(len(self.ordered), dtype=bool)
        if not self._windows.all_plain:
            kept = np.zeros(len(self.ordered), dtype=bool)
            kept[self.places[self._windows.plain]] = True
        plain = np.flatnonzero(kept)
        counts = None if self.mask is None else self.mask[self.ordered[plain]]
        running = _running(counts.astype(np.int64) if counts is not None else None, len(plain))
        return plain if counts is None else plain[counts], running

    def edge(self, span: Span, *, newest: bool) -> tuple[Ints, Bools]:
        """The index of the first or last event of each request, and whether there is none."""
        low, high = self._windows.ranges(span)
        places, running = self.counting
        begin, end = running[low], running[high]
        none = begin >= end
        at = np.where(none, 0, end - 1 if newest else begin)
        missing = -1 if newest else _INT_MAX
        found = np.where(none, missing, places[at] if len(places) else missing)
        if self.special is not None:
            index, first, last = self.seen(span)
            monoid = greatest(-1) if newest else least(_INT_MAX)
            nodes = Nodes(first, last, len(low))
            (special,) = nodes.stabbed((self.places[index],), monoid)
            (found,) = monoid.merge((found,), (special,))
        none = found == missing
        return self.ordered[np.where(none, 0, found)] if len(self.ordered) else found, none

    def edges(self, span: Span, n: int, *, newest: bool) -> tuple[Ints, Ints]:
        """The indices of the up to `n` first or last events of each request, oldest first, request
        after request, and how many each has."""
        low, high = self._windows.ranges(span)
        places, running = self.counting
        begin, end = running[low], running[high]
        begin, end = (
            (np.maximum(begin, end - n), end) if newest else (begin, np.minimum(end, begin + n))
        )
        size = np.maximum(end - begin, 0)
        requests = np.repeat(np.arange(len(low)), size)
        found = places[np.repeat(begin, size) + _counted(size)]
        if self.special is not None:
            index, first, last = self.seen(span)
            other = _stabbing(first, last, self.places[index], len(low), n, newest=newest)
            requests = np.concatenate([requests, other[0]])
            found = np.concatenate([found, other[1]])
            requests, found = _outermost(requests, found, n, newest=newest)
        return self.ordered[found], np.bincount(requests, minlength=len(low))


def _running(values: Ints | None, size: int = 0) -> Ints:
    """The sum of all values before each position, and of all."""
    if values is None:
        return np.arange(size + 1)
    found = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=found[1:])
    return found


def _counted(sizes: Ints) -> Ints:
    """0, 1, … for each size."""
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes, sizes)


def _outermost(groups: Ints, places: Ints, n: int, *, newest: bool) -> tuple[Ints, Ints]:
    """The up to `n` least or greatest places of each group, both ascending."""
    order = np.lexsort((places, groups))
    groups, places = groups[order], places[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else groups
    sizes = np.diff(np.r_[starts, len(groups)])
    at = _counted(sizes)
    kept = at >= np.repeat(sizes, sizes) - n if newest else at < n
    return groups[kept], places[kept]


def _stabbing(
    first: Ints, last: Ints, places: Ints, size: int, n: int, *, newest: bool
) -> tuple[Ints, Ints]:
    """For each of `size` requests up to `n` places of each node above it, as pairs: those that are
    wanted are among them."""
    nodes = Nodes(first, last, size)
    owners, held = _outermost(nodes.nodes, places[nodes.rows], n, newest=newest)
    requests, found = [], []
    leaves = np.arange(size) + nodes.width
    for level in range(nodes.depth + 1):
        at = leaves >> level
        begin, end = np.searchsorted(owners, at), np.searchsorted(owners, at, side="right")
        counts = end - begin
        requests.append(np.repeat(np.arange(size), counts))
        found.append(held[np.repeat(begin, counts) + _counted(counts)])
    return np.concatenate(requests), np.concatenate(found)


# --- results --------------------------------------------------------------------------------------


def evaluate(function: WindowFunction, columns: Columns) -> pa.Array:
    """The values of a function for each request, in their order. Sums of integers and decimals
    that are NULL because they do not fit are counted in `columns`."""
    import pyarrow as pa

    selected, span = columns.selected(function), Span.of(function)
    name, dtype = function.function, function.dtype
    match name:
        case "count":
            return pa.array(selected.count(span), pa.int64())
        case "sum" | "mean":
            found = _sum(selected, span, dtype, mean=name == "mean")
            if name == "sum" and not selected.values.dtype.is_float:
                columns.overflows += found.null_count - int((selected.count(span) == 0).sum())
            return found
        case "var" | "std":
            return _spread(selected, span, root=name == "std")
        case "min" | "max":
            missing = selected.count(span) == 0
            extreme = selected.extreme(span, largest=name == "max")
            return selected.values.unranked(np.where(missing, 0, extreme), missing)
        case "first" | "last":
            return selected.values.take(*selected.edge(span, newest=name == "last"))
        case "first_n" | "last_n":
            n = int(function.parameters["n"])
            index, sizes = selected.edges(span, n, newest=name == "last_n")
            items = selected.values.take(index, np.zeros(len(index), dtype=bool))
            return _lists(items, sizes, dtype)
        case _:
            return _of_different(function, selected, span)


def _sum(selected: Selected, span: Span, dtype: DType, *, mean: bool) -> pa.Array:
    import pyarrow as pa

    count = selected.count(span)
    missing = count == 0
    argument = selected.values.dtype
    if argument.is_float:
        found = selected.float_sum(span)
        return _finite(found / np.where(missing, 1, count) if mean else found, missing)
    limbs = selected.sums(span)
    if mean:
        value, misfit = as_int64(limbs)
        found = value.astype(np.float64)
        large = np.flatnonzero(misfit)
        found[large] = [float(whole) for whole in python_ints(limbs, large)]
        if argument.kind is Kind.DECIMAL:
            found = found / float(10 ** (argument.scale or 0))
        return _finite(found / np.where(missing, 1, count), missing)
    if argument.kind is Kind.DECIMAL:
        return decimal_sums(limbs, missing, dtype)
    value, misfit = as_int64(limbs)
    return pa.array(value, pa.int64(), mask=missing | misfit)


def _spread(selected: Selected, span: Span, *, root: bool) -> pa.Array:
    count, _, squares = selected.moments(span)
    missing = count == 0
    variance = squares / np.where(missing, 1.0, count)
    return _finite(np.sqrt(variance) if root else variance, missing)


def _finite(values: Floats, missing: Bools) -> pa.Array:
    import pyarrow as pa

    return pa.array(values + 0.0, pa.float64(), mask=missing | ~np.isfinite(values))


def _of_different(function: WindowFunction, selected: Selected, span: Span) -> pa.Array:
    import pyarrow as pa

    index, first, last = selected.all_seen(span)
    size = len(selected.count(span))
    values, parameters = selected.values, function.parameters
    if function.function == "approx_quantile":
        width = sketches.bucket_width(parameters["error"])
        found, codes = np.unique(
            intervals.buckets(values.floats[index], width), return_inverse=True
        )
        at, count = intervals.quantiles(codes, first, last, size=size, quantile=parameters["q"])
        middles = np.array([sketches.value_of(int(code), width) for code in found] or [0.0])
        return pa.array(middles[np.where(count > 0, at, 0)], pa.float64(), mask=count == 0)
    different, codes = values.distinct
    codes = codes[index]
    if function.function == "count_distinct":
        return pa.array(intervals.count_distinct(codes, first, last, size), pa.int64())
    if function.function == "approx_count_distinct":
        hashes = intervals.hashes_of(_plain_values(different, values.dtype), values.dtype)
        precision = sketches.precision_of(parameters["error"])
        of_rows = hashes[codes] if len(hashes) else hashes
        return pa.array(
            intervals.approx_distinct(of_rows, first, last, size=size, precision=precision),
            pa.int64(),
        )
    if function.function != "top_k":
        raise InternalError(f"no engine has {function.function}")
    tops = intervals.most_frequent(codes, first, last, size=size, n=int(parameters["n"]))
    sizes = np.array([len(top) for top in tops], dtype=np.int64)
    items = different.take(pa.array([code for top in tops for code in top], pa.int64()))
    return _lists(items, sizes, function.dtype)


def _plain_values(different: pa.Array, dtype: DType) -> list[Any]:
    """As partials see them: times as µs, dates as days."""
    import pyarrow as pa

    if dtype.kind is Kind.TIMESTAMP:
        different = different.cast(pa.int64())
    if dtype.kind is Kind.DATE:
        different = different.cast(pa.int32())
    found: list[Any] = different.to_pylist()
    return found


def _lists(items: pa.Array, sizes: Ints, dtype: DType) -> pa.Array:
    """Lists of so many items each; NULL for those of none."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(sizes)])
    kind = arrow_type(dtype)
    empty = pa.array(sizes == 0)
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), items.cast(kind.value_type), type=kind, mask=empty
    )

"""Functions bucket by bucket: each bucket of a key is a key of its own, and what they yield is
gathered into a map for each request.

A request asks for all buckets that its key ever had, so that the work is the sum over the requests
of the buckets of their keys; it is done for `PAIRS_AT_ONCE` of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featurestore.aggregates import BUCKETS_PER_KEY_MAX
from featurestore.compiler.rel import WindowFunction
from featurestore.dtypes import INT64, DType
from featurestore.engines.window_functions import Columns, evaluate
from featurestore.engines.window_rows import Requests, Windows
from featurestore.engines.window_values import Values, arrow_type
from featurestore.value_bytes import map_types

if TYPE_CHECKING:
    import pyarrow as pa

PAIRS_AT_ONCE = 2_000_000
"""So many pairs of a request and a bucket of its key are in memory at a time, or those of one
request."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """Events, in whatever order: group, event time, known time, and until when each counts (None:
    for good)."""

    groups: Ints
    events: Ints
    known: Ints
    until: Ints | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """Events by bucket. `cells` are the pairs of group and bucket that occur, ordered by both:
    `firsts` says for each group (and one more) where its cells begin, `codes` which bucket each is.
    `index` are the events with a bucket, `cell` where each belongs."""

    buckets: pa.Array
    firsts: Ints
    codes: Ints
    index: Ints
    cell: Ints


class Bucketed:
    """The requests and events of one part, for functions with a bucket. `overflows` counts the sums
    that are NULL because they do not fit their type, `crowded` the maps that are NULL because they
    would have too many entries."""

    def __init__(
        self,
        asked: Requests,
        happened: Happened,
        table: Mapping[str, pa.ChunkedArray],
        dtypes: Mapping[str, DType],
        event_id: str | None,
    ) -> None:
        self._asked = asked
        self._happened = happened
        self._table = table
        self._dtypes = dtypes
        self._event_id = event_id
        self._splits: dict[str, _Split] = {}
        self.overflows = 0
        self.crowded = 0

    def evaluate(self, function: WindowFunction) -> pa.Array:
        """The map of each request."""
        import pyarrow as pa

        name = function.bucket or ""
        if name not in self._splits:
            self._splits[name] = self._split(name)
        split = self._splits[name]
        parts = [self._part(function, split, *span) for span in self._spans(split)]
        kind = arrow_type(function.dtype)
        found: pa.Array = pa.chunked_array(parts, kind).combine_chunks()
        return found

    def _split(self, name: str) -> _Split:
        everything = np.arange(len(self._happened.groups))
        values = Values(self._table[name], self._dtypes[name], everything)
        buckets, codes = values.distinct
        index = everything if values.valid is None else np.flatnonzero(values.valid)
        width = max(len(buckets), 1)
        cells, cell = np.unique(
            self._happened.groups[index] * width + codes[index], return_inverse=True
        )
        groups = np.arange(self._asked.group_count + 1) * width
        return _Split(
            buckets=buckets,
            firsts=np.searchsorted(cells, groups).astype(np.int64),
            codes=cells % width,
            index=index,
            cell=cell.astype(np.int64),
        )

    def _spans(self, split: _Split) -> Iterator[tuple[int, int]]:
        """Ranges of requests with so many pairs, at least one request in each."""
        groups = self._asked.groups
        ends = np.cumsum(split.firsts[groups + 1] - split.firsts[groups])
        start = 0
        while start < len(groups):
            done = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right"))
            yield start, max(stop, start + 1)
            start = max(stop, start + 1)

    def _part(self, function: WindowFunction, split: _Split, start: int, stop: int) -> pa.Array:
        """The maps of requests `start` to `stop`, which are sorted by (group, time)."""
        import pyarrow as pa

        groups, times = self._asked.groups[start:stop], self._asked.times[start:stop]
        low, high = split.firsts[groups[0]], split.firsts[groups[-1] + 1]
        mine = np.flatnonzero((split.cell >= low) & (split.cell < high))
        sizes = split.firsts[groups + 1] - split.firsts[groups]
        request = np.repeat(np.arange(len(groups)), sizes)
        within = np.arange(len(request)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        cell = split.firsts[groups][request] + within
        key, value = map_types(function.dtype)
        plain = replace(function, dtype=value, bucket=None)
        kept, values = request[:0], pa.nulls(0, arrow_type(value))
        if len(request) and len(mine):
            pairs = Requests.sorted(cell - low, times[request], np.arange(len(request)))
            index = split.index[mine]
            read = self._columns(pairs, index, split.cell[mine] - low, function)
            counting = replace(plain, function="count", dtype=INT64, parameters={})
            count = np.asarray(evaluate(counting, read))
            # Back into the order of the requests, within each that of the buckets.
            order = np.argsort(pairs.rows)
            order = order[count[order] > 0]
            kept = pairs.rows[order]
            values = evaluate(plain, read).take(pa.array(order))
            self.overflows += read.overflows
        per_request = np.bincount(request[kept], minlength=len(groups))
        fits = per_request <= BUCKETS_PER_KEY_MAX
        self.crowded += int((~fits).sum())
        fitting = fits[request[kept]]
        keys = split.buckets.take(pa.array(split.codes[cell[kept[fitting]]]))
        values = values.filter(pa.array(fitting))
        offsets = np.concatenate([[0], np.cumsum(np.where(fits, per_request, 0))])
        # An offset that is NULL makes its map NULL.
        missing = np.append(~fits, False)
        return pa.MapArray.from_arrays(
            pa.array(offsets, pa.int32(), mask=missing),
            keys.cast(arrow_type(key)),
            values.cast(arrow_type(value)),
        )

    def _columns(
        self, pairs: Requests, index: Ints, cells: Ints, function: WindowFunction
    ) -> Columns:
        import pyarrow as pa

        happened = self._happened
        windows = Windows(
            pairs,
            groups=cells,
            events=happened.events[index],
            known=happened.known[index],
            until=None if happened.until is None else happened.until[index],
            delays_us=(function.delay_us,),
        )
        names = (function.value, function.condition, self._event_id)
        places = pa.array(index)
        table = {name: self._table[name].take(places) for name in names if name is not None}
        return Columns(windows, table, self._dtypes, self._event_id)

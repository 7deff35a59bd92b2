"""Counting that costs a request next to nothing.

One observation of a prometheus_client histogram takes over a microsecond, and a memory-mapped one
more. So requests count in plain numbers of their own, which are added to the metrics from time to
time (`Metrics.flush`). Lives in one loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import Histogram


class BatchedHistogram(Histogram):
    """A histogram that takes many observations at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """`counts` observations per bucket (the last is for what is above all bounds), whose sum
        is `total`."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class HistogramTally:
    """Observations that wait to be added to a histogram with the bucket bounds `bounds`."""

    __slots__ = ("_bounds", "_counts", "_into", "_total")

    def __init__(self, into: BatchedHistogram, bounds: Sequence[float]) -> None:
        self._into = into
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, amount: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._total += amount

    def flush(self) -> None:
        """Add them."""
        if any(self._counts):
            self._into.add(self._counts, self._total)
            self._counts = [0] * len(self._counts)
            self._total = 0.0

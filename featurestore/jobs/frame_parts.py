"""Long entity frames in parts: a join holds its answer for all rows of its left side at once, so
what is too long for memory is joined part by part. Each row's answer depends on that row alone, so
the parts of the answer are the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from featurestore.jobs.entity_frame import EntityFrame, Rows

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.jobs.training import RetrievalJob

CELLS_AT_ONCE = 60_000_000
"""Feature values that one query computes: half a gigabyte of numbers."""
ROWS_AT_ONCE_MIN = 250_000
"""Parts are no shorter, however many features there are: each reads the sources again."""


def batches_in_parts(job: RetrievalJob, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of `job`, as its `to_batches` gives them. Raises what that does."""
    most = max(CELLS_AT_ONCE // max(len(job.features), 1), ROWS_AT_ONCE_MIN)
    with job.frame.opened() as rows:
        for start in range(0, max(rows.rows, 1), most):
            count = min(most, rows.rows - start)
            part = Rows(count, partial(_between, rows, start, count))
            frame = EntityFrame(job.frame.schema, count, _opened(part))
            yield from replace(job, frame=frame).to_batches(batch_rows)


def _opened(part: Rows) -> Callable[[], AbstractContextManager[Rows]]:
    return lambda: nullcontext(part)


def _between(rows: Rows, start: int, count: int) -> Iterator[pa.RecordBatch]:
    """The rows from `start` on, `count` of them."""
    at = 0
    for batch in rows.batches():
        first, last = max(start - at, 0), min(start + count - at, batch.num_rows)
        if first < last:
            yield batch.slice(first, last - first)
        at += batch.num_rows
        if at >= start + count:
            return

"""A part's requests and events as Arrow tables in, the answers as Arrow arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from featurestore.aggregates import empty_value
from featurestore.compiler.rel import WindowFunction, WindowJoin
from featurestore.dtypes import DType
from featurestore.engines.window_buckets import Bucketed, Happened
from featurestore.engines.window_functions import Columns, evaluate
from featurestore.engines.window_rows import FOREVER, Requests, Span, Windows
from featurestore.engines.window_values import arrow_type
from featurestore.statuses import Status

if TYPE_CHECKING:
    import pyarrow as pa

Ints = npt.NDArray[np.int64]
_ALWAYS = np.iinfo(np.int64).min
_ID = "event id"


class Lost(NamedTuple):
    """How many sums do not fit their type, and how many maps would have too many entries."""

    sums: int
    maps: int


def answer(
    rel: WindowJoin,
    requests: pa.Table,
    events: pa.Table,
    *,
    columns: Mapping[str, tuple[str, DType]],
    event_id: tuple[str, DType] | None,
) -> tuple[list[pa.Array], Lost]:
    """The left row (column `r` of `requests`), the value of each function and the status, for each
    request; and how many values are NULL because they do not fit.

    `requests` has the int64 columns `r`, `g` (the number of the key) and `t`; `events` has `g`,
    `e` and `k` (event and known time), `u` (until when the row counts, NULL: for good), and the
    columns named in `columns` and `event_id`, with their types.
    """
    import pyarrow as pa

    asked = Requests.sorted(*(_ints(requests, name) for name in ("g", "t", "r")))
    rows = pa.array(asked.rows, pa.int64())
    if events.num_rows == 0:
        found = [empty(function, len(asked)) for function in rel.functions.values()]
        return [rows, *found, _statuses(np.zeros(len(asked), dtype=bool))], Lost(0, 0)
    present = Span(None if rel.reach_us is None else rel.reach_us + 1, -1, 0)
    delays = {present.delay_us, *(f.delay_us for f in rel.functions.values())}
    known = _ints(events, "k")
    if rel.as_of == "event":
        known = np.full_like(known, _ALWAYS)
    happened = Happened(
        groups=_ints(events, "g"), events=_ints(events, "e"), known=known, until=_until(events)
    )
    windows = Windows(
        asked,
        groups=happened.groups,
        events=happened.events,
        known=happened.known,
        until=happened.until,
        delays_us=tuple(delays),
    )
    table = {name: events.column(short) for name, (short, _) in columns.items()}
    dtypes = {name: dtype for name, (_, dtype) in columns.items()}
    if event_id is not None:
        table[_ID], dtypes[_ID] = events.column(event_id[0]), event_id[1]
    id_column = None if event_id is None else _ID
    read = Columns(windows, table, dtypes, id_column)
    by_bucket = Bucketed(asked, happened, table, dtypes, id_column)
    # What is infinite or not a number is NULL in the end; numpy need not warn on the way.
    with np.errstate(all="ignore"):
        found = [
            evaluate(function, read) if function.bucket is None else by_bucket.evaluate(function)
            for function in rel.functions.values()
        ]
    there = read.selected_rows().count(present) > 0
    lost = Lost(read.overflows + by_bucket.overflows, by_bucket.crowded)
    return [rows, *found, _statuses(there)], lost


def empty(function: WindowFunction, size: int) -> pa.Array:
    """`size` times the value over no rows."""
    import pyarrow as pa

    value = empty_value(function.function, function.dtype)
    kind = arrow_type(function.dtype)
    return pa.nulls(size, kind) if value is None else pa.array([value] * size, kind)


def _ints(table: pa.Table, name: str) -> Ints:
    return np.asarray(table.column(name)).astype(np.int64, copy=False)


def _until(events: pa.Table) -> Ints | None:
    import pyarrow.compute as pc

    column = events.column("u")
    if column.null_count == len(column):
        return None
    return np.asarray(pc.fill_null(column, FOREVER)).astype(np.int64, copy=False)


def _statuses(there: npt.NDArray[np.bool_]) -> pa.Array:
    import pyarrow as pa

    found = np.where(there, int(Status.PRESENT), int(Status.NOT_FOUND))
    return pa.array(found.astype(np.int32), pa.int32())

"""Materialization of windowed views: the states of the keys that a run touches are made anew from
all their rows.

A run reads by known time, as for other views, but only to learn which keys have news. What a state
then holds is what the source says by the run's end, so that rows which are read again count once,
with event ids or without, and a run that was killed anywhere and began again ends in the same
state. Rows that were written one by one meanwhile, and that the source does not have yet, stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compiler.rel import CREATED_US, EVENT_US, Input, Sql
from featurestore.compiler.window_rows import (
    rebuilt_rows,
    window_rel,
)
from featurestore.dtypes import INT64
from featurestore.engines.sql import quote
from featurestore.jobs.window_writer import WindowWriter
from featurestore.wire.window_layout import BEHIND_US

if TYPE_CHECKING:
    from featurestore.compiler.materialization import Selection
    from featurestore.compiler.rel import DataFiles, Project, Rel
    from featurestore.compiler.typed import TypedView
    from featurestore.dtypes import DType
    from featurestore.jobs.materialize import Context
    from featurestore.jobs.online_tables import OnlineTable

_KNOWN = f"greatest({EVENT_US}, {CREATED_US})"
ROWS_PER_BATCH = 50_000
"""Rows read at a time; the rows of one key are in memory together."""


@dataclass(frozen=True, slots=True)
class WindowRun:
    """One windowed view in one run; `now_us` is the run's time."""

    context: Context
    view: TypedView
    files: Mapping[str, DataFiles]
    table: OnlineTable
    now_us: int

    def rebuilt(self, selection: Selection) -> Iterator[tuple[int, int]]:
        """Rebuild the keys that the selection touches, some at a time; yields rows read and keys
        written."""
        reach_us = self.view.reach_us
        from_us = None if reach_us is None else self.now_us - reach_us - BEHIND_US
        rows = window_rel(self.view, self.context.repo, self.files, with_arrival=True)
        rel = rebuilt_rows(self.view, rows, selection, from_us=from_us)
        writer = WindowWriter(self.context, self.view, self.table.field)
        with self.context.engine.stream(rel, batch_rows=ROWS_PER_BATCH) as reader:
            for table in whole_keys(reader, [key.name for key in self.view.keys]):
                written = writer.rebuild(
                    table, now_us=self.now_us, known_until_us=selection.known_until_us
                )
                yield table.num_rows, written


def rows_of(
    context: Context,
    view: TypedView,
    files: Mapping[str, DataFiles],
    keys: pa.RecordBatch,
    *,
    known_until_us: int,
) -> pa.Table:
    """All rows of these keys (columns named as the view's join keys) known by an instant, as the
    states of windows are made of them."""
    rows = window_rel(view, context.repo, files)
    query = f"SELECT r.* FROM rows r {_wanted(view)} WHERE {_KNOWN} <= {known_until_us:d}"
    return _read(context, keys, _of_keys(view, rows, query, rows.schema))


def newest_events(
    context: Context,
    view: TypedView,
    files: Mapping[str, DataFiles],
    keys: pa.RecordBatch,
    *,
    known_until_us: int,
) -> pa.Table:
    """The times of the newest row of each of `keys`, known by an instant."""
    rows = window_rel(view, context.repo, files)
    listed = ", ".join(f"r.{quote(key.name)}" for key in view.keys)
    times = f"max({EVENT_US}) AS {EVENT_US}, max({CREATED_US}) AS {CREATED_US}"
    query = f"SELECT {listed + ', ' if listed else ''}{times} FROM rows r {_wanted(view)} "
    query += f"WHERE {_KNOWN} <= {known_until_us:d} {'GROUP BY ' + listed if listed else ''}"
    dtypes = {key.name: key.dtype for key in view.keys} | {EVENT_US: INT64, CREATED_US: INT64}
    return _read(context, keys, _of_keys(view, rows, query, dtypes))


def _wanted(view: TypedView) -> str:
    """What leaves the rows `r` of the wanted keys."""
    same = " AND ".join(f"r.{quote(k.name)} = w.{quote(k.name)}" for k in view.keys)
    return f"SEMI JOIN wanted w ON {same}" if same else ""


def _of_keys(view: TypedView, rows: Project, query: str, dtypes: Mapping[str, DType]) -> Sql:
    inputs: dict[str, Rel] = {"rows": rows}
    if view.keys:
        keys = {key.name: key.dtype for key in view.keys}
        inputs["wanted"] = Input(name="wanted_keys", dtypes=keys)
    return Sql(query=query, inputs=inputs, dtypes=dtypes)


def _read(context: Context, keys: pa.RecordBatch, rel: Sql) -> pa.Table:
    inputs = {}
    if (wanted := rel.inputs.get("wanted")) is not None:
        inputs["wanted_keys"] = pa.Table.from_batches([keys.select(list(wanted.schema))])
    return context.engine.stream(rel, inputs=inputs).read_all()


def whole_keys(batches: Iterator[pa.RecordBatch], keys: Sequence[str]) -> Iterator[pa.Table]:
    """Rows that are ordered by key, in tables that end where a key ends."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        if held and not _same_key(held[-1], batch, keys):
            yield pa.Table.from_batches(held)
            held = []
        begins = _last_key_begins(batch, keys)
        if begins:
            yield pa.Table.from_batches([*held, batch.slice(0, begins)])
            held = []
        held.append(batch.slice(begins))
    if held:
        yield pa.Table.from_batches(held)


def _last_key_begins(batch: pa.RecordBatch, keys: Sequence[str]) -> int:
    """The first row of the batch's last key."""
    other = np.zeros(batch.num_rows, bool)
    for name in keys:
        column = batch.column(name)
        last = column.take(pa.array([batch.num_rows - 1] * batch.num_rows))
        other |= ~(pc.equal(column, last).to_numpy(zero_copy_only=False))
    places = np.flatnonzero(other)
    return int(places[-1]) + 1 if len(places) else 0


def _same_key(left: pa.RecordBatch, right: pa.RecordBatch, keys: Sequence[str]) -> bool:
    """Whether the last row of one batch and the first of the next have one key."""
    return all(left.column(n)[left.num_rows - 1] == right.column(n)[0] for n in keys)

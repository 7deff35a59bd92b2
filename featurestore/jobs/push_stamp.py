"""Pushed rows as a view reads them, without a query: what `view_rel` says, in this process.

A query takes ten milliseconds to be planned. Rows are looked at by the view's generated function
instead, whose values are those of the engine (`tests/property` holds one against the other).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import exprlib
from featurestore.compiler.pysource import python_batch
from featurestore.compiler.rel import ARRIVED, CREATED_US, DELETED, EVENT_US
from featurestore.compiler.scans import derived_columns
from featurestore.definitions.expression import Column, columns_of
from featurestore.dtypes import DType, Kind, to_arrow
from featurestore.jobs.push_tables import event_us

if TYPE_CHECKING:
    import numpy.typing as npt

    from featurestore.compiler.typed import TypedView

_FUNCTION = "push_view"


class Stamper:
    """Reads pushed rows (the source's columns, and `ARRIVED`) as rows of `view`."""

    def __init__(self, view: TypedView) -> None:
        source = view.source
        self._source = source
        self._keys = [key.name for key in view.keys]
        derived = derived_columns(view)
        self._dtypes = {name: dtype for name, (_, dtype) in derived.items()}
        self._bare = {n: e.name for n, (e, _) in derived.items() if isinstance(e, Column)}
        computed = {n: e for n, (e, _) in derived.items() if not isinstance(e, Column)}
        self._computed = list(computed)
        used = dict.fromkeys(c for e in computed.values() for c in columns_of(e))
        self._used = {name: source.dtype(name) for name in used}
        outputs = [(name, tree, self._dtypes[name]) for name, tree in computed.items()]
        self._function: Any = None
        if computed:
            text = python_batch(_FUNCTION, self._used, outputs)
            self._function = exprlib.load(text, _FUNCTION)

    def stamp(self, rows: pa.Table, number: str = "") -> tuple[pa.RecordBatch, list[int]]:
        """The source's columns, keys and features (or what windows read) as `view_rel` names them,
        `EVENT_US`, `CREATED_US` and `DELETED`. Rows with a NULL key are left out; the column
        `number`, where there is one, says which are there."""
        rows = self._with_keys(rows)
        numbers = rows[number].to_pylist() if number else []
        events = event_us(self._source, rows)
        created = rows[self._source.created_time or ARRIVED].cast(pa.int64())
        columns: dict[str, Any] = dict(zip(rows.column_names, rows.columns, strict=True))
        for name, column in self._bare.items():
            columns[name] = rows[column].cast(to_arrow(self._dtypes[name]))
        columns |= self._compute(rows)
        columns[EVENT_US] = pa.array(events)
        columns[CREATED_US] = pc.coalesce(created, pa.array(events))
        op = self._source.op
        columns[DELETED] = (
            pa.array(np.zeros(rows.num_rows, dtype=bool))
            if op is None
            else pc.fill_null(pc.equal(rows[op], "D"), False)
        )
        del columns[ARRIVED]
        batches = pa.table(columns).combine_chunks().to_batches()
        return (batches[0] if batches else _empty(columns)), numbers

    def _with_keys(self, rows: pa.Table) -> pa.Table:
        for name in self._keys:
            if rows[name].null_count:
                rows = rows.filter(pc.is_valid(rows[name]))
        return rows

    def _compute(self, rows: pa.Table) -> Mapping[str, pa.Array]:
        if self._function is None:
            return {}
        given = [_plain(rows[name], dtype) for name, dtype in self._used.items()]
        values = self._function(0, rows.num_rows, *given)
        return {
            name: pa.array(found, to_arrow(self._dtypes[name]))
            for name, found in zip(self._computed, values, strict=True)
        }


def newest(view: TypedView, batch: pa.RecordBatch) -> pa.RecordBatch | None:
    """Of each key the row of the greatest event and created time; None where two rows of a key have
    the same, which the source's tiebreak has to settle."""
    key = _key_codes([batch.column(key.name) for key in view.keys], batch.num_rows)
    event_us, created_us = (
        batch.column(n).cast(pa.int64()).to_numpy() for n in (EVENT_US, CREATED_US)
    )
    order = np.lexsort((created_us, event_us, key))
    key, event_us, created_us = key[order], event_us[order], created_us[order]
    same = key[1:] == key[:-1]
    newest = np.append(~same, True)[: len(order)]
    tied = same & (event_us[1:] == event_us[:-1]) & (created_us[1:] == created_us[:-1])
    if (tied & newest[1:]).any():
        return None
    return batch if newest.all() else batch.take(pa.array(np.sort(order[newest])))


def _key_codes(columns: Sequence[pa.Array], count: int) -> npt.NDArray[np.int64]:
    """Numbers that are equal where the keys are."""
    codes = np.zeros(count, np.int64)
    for column in columns:
        encoded = column.dictionary_encode()
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
        if len(columns) > 1:
            # Numbered anew, so that the product of many columns can't overflow.
            _, codes = np.unique(codes, return_inverse=True)
    return codes


def _empty(columns: Mapping[str, Any]) -> pa.RecordBatch:
    schema = pa.schema([(name, column.type) for name, column in columns.items()])
    return pa.RecordBatch.from_pylist([], schema)


def _plain(column: pa.ChunkedArray, dtype: DType) -> list[Any]:
    """Values as generated functions take them: instants as µs, days as numbers."""
    if dtype.kind is Kind.TIMESTAMP:
        column = column.cast(pa.int64())
    elif dtype.kind is Kind.DATE:
        column = column.cast(pa.int32())
    found: list[Any] = column.to_pylist()
    return found

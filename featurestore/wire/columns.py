"""Rows to Arrow columns: the fixed part by numpy, blobs by one walk per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.dtypes import DType, Kind, to_arrow
from featurestore.timeline import DAY_US, INSTANT_US_MAX, INSTANT_US_MIN
from featurestore.wire.decode import MALFORMED, blob_bounds, converter, is_tombstone, row_decoder
from featurestore.wire.encode import fixed_dtype
from featurestore.wire.layout import HEAD, RowLayout

# What no Python value could show; the encoder writes none. Unit in µs, by kind.
_CALENDAR = {Kind.TIMESTAMP: 1, Kind.DATE: DAY_US}


def decode_columns(layout: RowLayout, rows: Sequence[bytes | None]) -> list[pa.Array]:
    """See `featurestore.wire.rows.decode_columns`."""
    places = [i for i, row in enumerate(rows) if row is not None and not is_tombstone(row)]
    live = [row for row in rows if row is not None and not is_tombstone(row)]
    named = _fixed_parts(layout, rows, live)
    columns: dict[int, pa.Array] = {}
    for slot, index in enumerate(layout.doubles):
        columns[index] = _plain(layout, index, named["doubles"][:, slot], _nulls(named, index))
    for slot, index in enumerate(layout.integers):
        columns[index] = _plain(layout, index, named["integers"][:, slot], _nulls(named, index))
    if layout.blobs:
        columns |= _blob_columns(layout, live, {i: _nulls(named, i) for i in layout.blobs})
    else:
        for row in live:
            if len(row) != layout.fixed_bytes:
                raise layout.corrupt(row, "bytes follow its end")
    ordered = [columns[i] for i in range(len(layout.features))]
    if len(live) == len(rows):
        return ordered
    gaps = np.full(len(rows), -1, dtype=np.int64)
    gaps[places] = np.arange(len(places))
    spread = pa.array(gaps, mask=gaps < 0)
    return [column.take(spread) for column in ordered]


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column in Python, maps as dicts."""
    values: list[Any] = column.to_pylist()
    if pa.types.is_map(column.type):
        return [None if value is None else dict(value) for value in values]
    return values


def python_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a table as dicts, maps in them as dicts too."""
    columns = {name: python_values(table.column(name)) for name in table.schema.names}
    if not columns:
        return [{} for _ in range(table.num_rows)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _fixed_parts(
    layout: RowLayout, rows: Sequence[bytes | None], live: Sequence[bytes]
) -> npt.NDArray[Any]:
    """The fixed parts as one structured array, after comparing every constant byte."""
    size, decode = layout.fixed_bytes, row_decoder(layout)
    if len(live) != len(rows):
        for row in rows:
            if row is not None and is_tombstone(row):
                decode(row)
    for row in live:
        if len(row) < size:
            raise layout.corrupt(row)
    block = np.frombuffer(b"".join([row[:size] for row in live]), dtype=np.uint8)
    block = block.reshape(len(live), size)
    template = np.frombuffer(layout.template, dtype=np.uint8)
    wrong = (block[:, _constant(layout)] != template[_constant(layout)]).any(axis=1)
    if wrong.any():
        raise layout.corrupt(live[int(np.argmax(wrong))])
    return block.view(fixed_dtype(layout)).reshape(len(live))


def _constant(layout: RowLayout) -> npt.NDArray[np.bool_]:
    """Which bytes of the fixed part are the same in all rows."""
    same = np.ones(layout.fixed_bytes, dtype=bool)
    widths = (layout.null_bytes, 8 * len(layout.doubles), 8 * len(layout.integers))
    same[1:9] = same[10 : HEAD.size - 5] = False
    for start, width in zip(layout.offsets, widths, strict=True):
        same[start : start + width] = False
    return same


def _nulls(named: npt.NDArray[Any], index: int) -> npt.NDArray[np.bool_]:
    bits: npt.NDArray[np.bool_] = (named["nulls"][:, index // 8] >> (index % 8) & 1).astype(bool)
    return bits


def _plain(
    layout: RowLayout, index: int, stored: npt.NDArray[Any], nulls: npt.NDArray[np.bool_]
) -> pa.Array:
    dtype = layout.features[index][1]
    unit_us = _CALENDAR.get(dtype.kind)
    if unit_us is not None:
        first, last = INSTANT_US_MIN // unit_us, INSTANT_US_MAX // unit_us
        if (((stored < first) | (stored > last)) & ~nulls).any():
            raise layout.corrupt(b"", f"a {dtype} is outside the years 1 to 9999")
    column = pa.array(np.ascontiguousarray(stored), mask=nulls)
    try:
        narrow = column.cast(pa.int32()) if dtype.kind is Kind.DATE else column
        return narrow.cast(to_arrow(dtype))
    except pa.ArrowInvalid as error:
        raise layout.corrupt(b"", f"a value is no {dtype} ({error})") from error


def _blob_columns(
    layout: RowLayout, live: Sequence[bytes], nulls: dict[int, npt.NDArray[np.bool_]]
) -> dict[int, pa.Array]:
    found: list[list[bytes]] = [[] for _ in layout.blobs]
    size, count = layout.fixed_bytes, len(layout.blobs)
    for row in live:
        try:
            bounds = blob_bounds(row, size, count)
        except MALFORMED as error:
            raise layout.corrupt(row, str(error)) from error
        for values, (_, start, stop) in zip(found, bounds, strict=True):
            values.append(row[start:stop])
    columns = {}
    for index, values in zip(layout.blobs, found, strict=True):
        dtype = layout.features[index][1]
        try:
            columns[index] = _blob_column(dtype, values, nulls[index])
        except MALFORMED as error:
            raise layout.corrupt(_culprit(layout, live), f"a value is no {dtype}") from error
    return columns


def _blob_column(dtype: DType, values: list[bytes], nulls: npt.NDArray[np.bool_]) -> pa.Array:
    given: list[Any] = list(values)
    for index in np.flatnonzero(nulls):
        given[index] = None
    if dtype.kind is Kind.BYTES:
        return pa.array(given, pa.binary())
    if dtype.kind is Kind.STRING:
        return pa.array(given, pa.binary()).cast(pa.string())
    convert = converter(dtype) or bytes
    return pa.array([None if v is None else convert(v) for v in given], to_arrow(dtype))


def _culprit(layout: RowLayout, live: Sequence[bytes]) -> bytes:
    """The first row; raises for the first that does not decode by itself."""
    decode = row_decoder(layout)
    for row in live:
        decode(row)
    return live[0]

"""Which of two versions of an event takes its turn last when their times are equal: columns of the
source as bytes that compare as their values do, NULL lowest."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.dtypes import DType, Kind
from featurestore.value_bytes import unscaled
from featurestore.wire.tiles import Column, objects

_DOUBLE, _BITS = struct.Struct(">d"), struct.Struct(">Q")
_SIGN = 1 << 63
_DECIMAL_ZERO = 1 << 127
_NULL, _VALUE, _ITEM = b"\0", b"\1", b"\2"


def tie_bytes_of(columns: Sequence[tuple[DType, pa.Array | pa.ChunkedArray]], count: int) -> Column:
    """For each of `count` rows the bytes of these columns, in this order."""
    parts = [_part(dtype, column) for dtype, column in columns]
    if not parts:
        return objects([b""] * count)
    return objects([b"".join(row) for row in zip(*parts, strict=True)])


def _part(dtype: DType, column: pa.Array | pa.ChunkedArray) -> list[bytes]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if dtype.slot == "integers":
        if pa.types.is_date32(column.type):
            column = column.cast(pa.int32())
        whole = column.cast(pa.int64())
        bits = whole.fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64) ^ np.uint64(_SIGN)
        return _fixed(bits, column)
    if dtype.slot == "doubles":
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0
        raw = values.view(np.uint64)
        negative = raw >> np.uint64(63) == 1
        return _fixed(np.where(negative, ~raw, raw | np.uint64(_SIGN)), column)
    sortable = _sortable(dtype)
    return [_NULL if value is None else sortable(value) for value in column.to_pylist()]


def _fixed(bits: Column, column: pa.Array) -> list[bytes]:
    data = bits.astype(">u8").tobytes()
    found = [_VALUE + data[at : at + 8] for at in range(0, len(data), 8)]
    if column.null_count:
        for place in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
            found[place] = _NULL
    return found


def _sortable(dtype: DType) -> Callable[[Any], bytes]:
    match dtype.kind:
        case Kind.FLOAT32 | Kind.FLOAT64:
            return _float
        case Kind.STRING:
            return lambda text: _text(text.encode())
        case Kind.BYTES:
            return _text
        case Kind.DECIMAL:
            scale = dtype.scale or 0
            return lambda value: (
                _VALUE + (unscaled(value, scale) + _DECIMAL_ZERO).to_bytes(16, "big")
            )
        case _ if dtype.item is not None:
            item = _sortable(dtype.item)
            return lambda values: (
                _VALUE + b"".join(_ITEM + (_NULL if v is None else item(v)) for v in values) + _NULL
            )
        case _:
            return lambda value: _VALUE + _BITS.pack(int(value) + _SIGN)


def _float(value: float) -> bytes:
    (bits,) = _BITS.unpack(_DOUBLE.pack(value + 0.0))
    return _VALUE + _BITS.pack(bits ^ (2**64 - 1) if bits & _SIGN else bits | _SIGN)


def _text(raw: bytes) -> bytes:
    return _VALUE + raw.replace(b"\0", b"\0\xff") + b"\0\1"

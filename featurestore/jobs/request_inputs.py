"""Request inputs in training: columns of the entity frame, read in the types that the request
sources declare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.dtypes import FLOAT32, FLOAT64, INT32, INT64, DType, Kind, from_arrow, to_arrow
from featurestore.errors import InvalidEntityFrame
from featurestore.jobs.entity_values import plain_type, plain_values

if TYPE_CHECKING:
    import pyarrow as pa

_READ_AS = {
    (INT32, INT64),
    (INT64, INT32),
    (INT32, FLOAT64),
    (INT64, FLOAT64),
    (INT32, FLOAT32),
    (INT64, FLOAT32),
    (FLOAT32, FLOAT64),
    (FLOAT64, FLOAT32),
    (FLOAT64, INT32),
    (FLOAT64, INT64),
    (FLOAT32, INT32),
    (FLOAT32, INT64),
}
"""Pairs of types in which a frame may have an input that is declared as the second."""


def check_input_type(column: str, arrow: pa.DataType, dtype: DType, *, needed_by: str) -> None:
    """Raises `InvalidEntityFrame`, which names both types, where no value of `arrow` is one of
    `dtype`."""
    from pyarrow import types

    arrow = plain_type(arrow)
    if types.is_null(arrow):
        return
    try:
        found = from_arrow(arrow)
    except ValueError:
        found = None
    if found is None or not _fits(found, dtype):
        raise InvalidEntityFrame(
            f"Column {column!r} of the entity frame holds {arrow}; {needed_by} reads it as {dtype}."
            " Cast the column."
        )


def input_values(column: str, values: pa.Array, dtype: DType, *, offset: int) -> pa.Array:
    """The values in the Arrow type of `dtype`; NaN is NULL and -0.0 is 0.0, naive timestamps are
    UTC and nanoseconds are floored.

    Raises `InvalidEntityFrame` (with the row) for a value that does not fit.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    values, wanted = plain_values(values), to_arrow(dtype)
    if types.is_timestamp(values.type):
        values = _instants(values)
    try:
        found = values.cast(wanted, safe=dtype != FLOAT32)
    except pa.ArrowInvalid as error:
        row = next(i for i in range(len(values)) if not _casts(values.slice(i, 1), wanted))
        raise InvalidEntityFrame(
            f"Column {column!r} in row {offset + row}: {values[row].as_py()!r} does not fit {dtype}"
        ) from error
    if dtype.is_float:
        found = pc.if_else(pc.is_nan(found), pa.scalar(None, wanted), found)
        found = pc.add(found, pa.scalar(0.0, wanted))
    return found


def _fits(found: DType, dtype: DType) -> bool:
    if found == dtype or (found, dtype) in _READ_AS:
        return True
    if found.item is not None and dtype.item is not None:
        return _fits(found.item, dtype.item)
    return found.kind is Kind.DECIMAL and dtype.kind is Kind.DECIMAL


def _casts(value: pa.Array, wanted: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        value.cast(wanted)
    except pa.ArrowInvalid:
        return False
    return True


def _instants(values: pa.Array) -> pa.Array:
    """Timestamps of any unit as µs in UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = values.cast(pa.timestamp(values.type.unit))
    if values.type.unit == "ns":
        plain = pc.floor_temporal(plain, unit="microsecond").cast(pa.timestamp("us"), safe=False)
    return plain.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.timestamp("us", tz="UTC"))

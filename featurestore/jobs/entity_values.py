"""An entity frame's request times as int64 µs, and its join keys in the types of the views.

All functions work on one batch; `offset` is the position of its first row in the frame, so that
errors name rows of the frame, counted from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from featurestore.dtypes import BYTES, INT64, STRING, DType, to_arrow
from featurestore.errors import InvalidEntityFrame, InvalidJoinKey, InvalidRequest
from featurestore.timeline import INSTANT_US_MAX, INSTANT_US_MIN, to_us

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

FLOAT_KEY_MAX = 2**53
"""Up to here a float64 holds every integer."""


# --- times ----------------------------------------------------------------------------------------


def check_time_type(column: str, arrow: pa.DataType) -> None:
    """Raises `InvalidEntityFrame` for a column that holds no instants."""
    from pyarrow import types

    arrow = plain_type(arrow)
    if types.is_timestamp(arrow) or is_text(arrow) or types.is_null(arrow):
        return
    if types.is_date(arrow):
        raise InvalidEntityFrame(
            f"{column!r} holds dates, and a date is no instant: is the row asked about at the "
            "beginning of its day or at the end? Make timestamps of them."
        )
    raise InvalidEntityFrame(
        f"{column!r} holds {arrow}; request times are timestamps or ISO 8601 texts. "
        "Name another column with event_timestamp=…"
    )


def times_us(column: str, values: pa.Array, *, offset: int) -> pa.Array:
    """Request times, none of them NULL, as int64 µs: naive ones are UTC, ns are floored.

    Raises `InvalidEntityFrame` for texts that are no instants and for instants outside the years 1
    to 9999.
    """
    import pyarrow as pa

    values = plain_values(values)
    if len(values) == 0:
        return pa.array([], pa.int64())
    if is_text(values.type):
        return _instants_of_texts(column, values, offset)
    found = _in_us(values)
    outside = (found < INSTANT_US_MIN) | (found > INSTANT_US_MAX)
    if outside.any():
        raise InvalidEntityFrame(
            f"{column!r} in row {offset + int(outside.argmax())} is outside the years 1 to 9999"
        )
    return pa.array(found)


def null_times(column: str, count: int, row: int) -> InvalidEntityFrame:
    """The error for NULL request times; `row` is the first of them."""
    rows = "1 row has" if count == 1 else f"{count:,} rows have"
    return InvalidEntityFrame(
        f"{rows} no request time: {column!r} is NULL, first in row {row}. Leave such rows out."
    )


def instant_us(value: Any) -> int | None:
    """An instant of a Python object in µs, None for a missing one.

    Raises `InvalidRequest` for what is no instant, a date among it.
    """
    if value is None or value != value:  # noqa: PLR0124 - NaN and NaT differ from themselves
        return None
    if hasattr(value, "as_unit"):  # a pandas Timestamp; its ns would be lost as a datetime
        return int(value.as_unit("ns").value) // 1_000
    if isinstance(value, date) and not isinstance(value, datetime):
        raise InvalidRequest(f"{value!r} is a date, not an instant")
    if isinstance(value, datetime | str):
        return to_us(value)
    raise InvalidRequest(f"{value!r} is not an instant")


def _in_us(values: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    import numpy as np
    import pyarrow as pa

    unit = values.type.unit
    raw = np.asarray(values.cast(pa.timestamp(unit)).cast(pa.int64()), dtype=np.int64)
    if unit == "ns":
        return np.floor_divide(raw, 1_000)
    factor = {"s": 1_000_000, "ms": 1_000, "us": 1}[unit]
    # What would overflow is outside the years 1 to 9999 anyway.
    limit = np.iinfo(np.int64).max // factor
    return np.clip(raw, -limit, limit) * factor


def _instants_of_texts(column: str, values: pa.Array, offset: int) -> pa.Array:
    """Texts may carry different zones, or none; each distinct one is read once."""
    import pyarrow as pa

    encoded = values.dictionary_encode()
    found: list[int] = []
    for number, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            found.append(to_us(text))
        except InvalidRequest as error:
            row = offset + encoded.indices.to_pylist().index(number)
            raise InvalidEntityFrame(f"{column!r} in row {row}: {error.message}") from None
    return pa.array(found, pa.int64()).take(encoded.indices)


# --- keys -----------------------------------------------------------------------------------------


def check_key_type(column: str, arrow: pa.DataType, dtype: DType, *, needed_by: str) -> None:
    """Raises `InvalidJoinKey`, which names both types, where no value of `arrow` is a key of
    `dtype`."""
    from pyarrow import types

    arrow = plain_type(arrow)
    fits: dict[DType, Callable[[pa.DataType], bool]] = {
        INT64: lambda a: types.is_integer(a) or types.is_floating(a),
        STRING: is_text,
        BYTES: is_bytes,
    }
    if types.is_null(arrow) or fits[dtype](arrow):
        return
    raise InvalidJoinKey(
        column, f"the entity frame has {arrow}, {needed_by} needs {dtype}. Cast the column."
    )


def key_values(column: str, values: pa.Array, dtype: DType, *, offset: int) -> pa.Array:
    """Keys in the Arrow type of `dtype`. NaN counts as NULL.

    Raises `InvalidJoinKey` (with the row) for a float that is not an integer or is beyond
    `FLOAT_KEY_MAX`, and for an integer that int64 does not hold.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    values = plain_values(values)
    if len(values) == 0:
        return pa.array([], to_arrow(dtype))
    if types.is_floating(values.type):
        values = _whole_numbers(column, values, offset)
    try:
        return values.cast(to_arrow(dtype))
    except pa.ArrowInvalid:
        too_large = pc.greater(values, pa.scalar(2**63 - 1, pa.uint64()))
        row = offset + too_large.to_pylist().index(True)
        raise InvalidJoinKey(column, f"the value in row {row} does not fit int64") from None


def _whole_numbers(column: str, values: pa.Array, offset: int) -> pa.Array:
    """pandas makes floats of integers that stand beside NULLs."""
    import numpy as np
    import pyarrow as pa

    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    missing = np.isnan(numbers)
    whole = missing | ((np.trunc(numbers) == numbers) & (np.abs(numbers) <= FLOAT_KEY_MAX))
    if not whole.all():
        row = int((~whole).argmax())
        small = abs(numbers[row]) <= FLOAT_KEY_MAX
        why = "is not a whole number" if small else "is too large to be exact as a float"
        raise InvalidJoinKey(
            column, f"{float(numbers[row])!r} in row {offset + row} {why}; use int64"
        )
    return pa.array(np.where(missing, 0, numbers).astype(np.int64), mask=missing)


# --- types ----------------------------------------------------------------------------------------


def plain_type(arrow: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary, else the type itself."""
    from pyarrow import types

    return arrow.value_type if types.is_dictionary(arrow) else arrow


def plain_values(values: pa.Array) -> pa.Array:
    """The values of a dictionary array, else the array itself."""
    from pyarrow import types

    return values.dictionary_decode() if types.is_dictionary(values.type) else values


def is_text(arrow: pa.DataType) -> bool:
    """Any of Arrow's string types."""
    from pyarrow import types

    return bool(
        types.is_string(arrow) or types.is_large_string(arrow) or types.is_string_view(arrow)
    )


def is_bytes(arrow: pa.DataType) -> bool:
    """Any of Arrow's binary types."""
    from pyarrow import types

    plain = types.is_binary(arrow) or types.is_large_binary(arrow)
    return bool(plain or types.is_binary_view(arrow) or types.is_fixed_size_binary(arrow))

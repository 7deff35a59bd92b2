"""Plain Python values ⇄ the values that rows carry, by type.

Rows carry timestamps as int µs in UTC and dates as int days since 1970; all else is what it is in
Python. What callers send, what Python functions return and what they are given passes through here,
so that all of them have one idea of what fits a type.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, assert_never

from featurestore.dtypes import DType, Kind
from featurestore.timeline import INSTANT_US_MAX, INSTANT_US_MIN

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_FLOAT32 = struct.Struct("<f")
_MICROSECOND = timedelta(microseconds=1)

_WRITTEN = (Kind.TIMESTAMP, Kind.DATE, Kind.DECIMAL)
"""Kinds that JSON, which has none of them, holds as texts."""

Read = Callable[[Any], Any]


def reader(dtype: DType) -> Read:
    """A function from a plain value (not None) to what a row of `dtype` carries: None for NaN, 0.0
    for -0.0, ints as floats where floats are wanted and they stay exact, numpy's scalars as what
    they hold, naive datetimes as UTC.

    It raises `ValueError`, which says what is wrong with the value, where it does not fit.
    """
    strict = _strict(dtype)

    def read(value: Any) -> Any:
        try:
            return strict(value)
        except ValueError:
            plain = _unwrapped(value)
            if plain is value:
                raise
            return None if plain is None else strict(plain)

    return read


def showing(dtype: DType) -> Read | None:
    """A function from what a row carries to the plain value, or None where they are the same."""
    if dtype.item is not None:
        inner = showing(dtype.item)
        if inner is None:
            return None
        return lambda items: [None if item is None else inner(item) for item in items]
    if dtype.value is not None:
        of_value = showing(dtype.value)
        if of_value is None:
            return dict  # a copy, which is the caller's to change
        return lambda entries: {
            key: None if value is None else of_value(value) for key, value in entries.items()
        }
    if dtype.kind is Kind.TIMESTAMP:
        return lambda instant_us: _EPOCH + timedelta(microseconds=instant_us)
    if dtype.kind is Kind.DATE:
        return lambda days: date.fromordinal(_EPOCH_DAY + days)
    return None


def from_text(dtype: DType) -> Read:
    """A function from JSON's form of a value, where that is a text, to what a row carries:
    timestamps and dates in ISO 8601, decimals as their digits. Raises `ValueError`."""
    match dtype.kind:
        case Kind.TIMESTAMP:
            return lambda text: _timestamp(datetime.fromisoformat(text))
        case Kind.DATE:
            return lambda text: _date(date.fromisoformat(text))
        case Kind.DECIMAL:
            return _decimal_of_text(dtype)
        case _:
            return reader(dtype)


def converting(found: DType, wanted: DType) -> Read | None:
    """A function from what a row of type `found` carries (not None) to what one of `wanted` does,
    or None where values of the one are none of the other. It raises `ValueError` for a value that
    would lose something: ints are read as floats where they stay exact, whole floats as ints."""
    if found == wanted:
        return _same
    if found.item is not None and wanted.item is not None:
        inner = converting(found.item, wanted.item)
        if inner is None:
            return None
        return lambda items: [None if item is None else inner(item) for item in items]
    if found.kind is Kind.STRING:
        return from_text(wanted) if wanted.kind in _WRITTEN else None
    if found.is_float and wanted.is_integer:
        whole = _strict(wanted)
        return lambda value: whole(int(value) if value.is_integer() else value)
    numbers = found.is_numeric and wanted.is_numeric
    exact = found.is_integer or (found.is_float and wanted.is_float)
    exact = exact or found.kind is wanted.kind is Kind.DECIMAL
    return _strict(wanted) if numbers and exact else None


def _same(value: Any) -> Any:
    return value


def _unwrapped(value: Any) -> Any:
    """A scalar of numpy or pandas as a plain one; None for their NULLs."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return item()
    return value


def _strict(dtype: DType) -> Read:  # noqa: PLR0911 - one per kind
    if dtype.item is not None:
        return _list(dtype, dtype.item)
    match dtype.kind:
        case Kind.BOOL:
            return _bool
        case Kind.INT32:
            return _integer(dtype, 31)
        case Kind.INT64:
            return _integer(dtype, 63)
        case Kind.FLOAT32:
            return _float32
        case Kind.FLOAT64:
            return _float64
        case Kind.DECIMAL:
            return _decimal(dtype)
        case Kind.STRING:
            return _string
        case Kind.BYTES:
            return _bytes
        case Kind.TIMESTAMP:
            return _timestamp
        case Kind.DATE:
            return _date
        case Kind.LIST:
            raise ValueError("a list type without an item type")
        case Kind.MAP:
            raise ValueError(f"{dtype}: only aggregations with by make maps")
        case _:
            assert_never(dtype.kind)


def _wrong(value: Any, wanted: object) -> ValueError:
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:59]}…"
    return ValueError(f"{shown} ({type(value).__name__}), not {wanted}")


def _bool(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise _wrong(value, "bool")


def _integer(dtype: DType, bits: int) -> Read:
    least, greatest = -(2**bits), 2**bits - 1

    def read(value: Any) -> int:
        if isinstance(value, int) and value.__class__ is not bool and least <= value <= greatest:
            return int(value)
        raise _wrong(value, dtype)

    return read


def _float64(value: Any) -> float | None:
    if isinstance(value, float):
        return None if value != value else float(value) + 0.0  # noqa: PLR0124 - NaN
    if isinstance(value, int) and value.__class__ is not bool:
        try:
            exact = float(value)
        except OverflowError:
            raise _wrong(value, "float64") from None
        if exact == value:
            return exact
    raise _wrong(value, "float64")


def _float32(value: Any) -> float | None:
    wide = _float64(value)
    if wide is None or math.isinf(wide):
        return wide
    try:
        narrow: float = _FLOAT32.unpack(_FLOAT32.pack(wide))[0]
    except OverflowError:
        raise _wrong(value, "float32") from None
    return narrow + 0.0


def _decimal(dtype: DType) -> Read:
    scale, precision = dtype.scale or 0, dtype.precision or 0
    step, limit = Decimal(1).scaleb(-scale), 10 ** (precision - scale)

    def read(value: Any) -> Decimal | None:
        if isinstance(value, Decimal) and value.is_nan():
            return None
        if isinstance(value, Decimal | int) and value.__class__ is not bool:
            number = Decimal(value)
            try:
                if number.is_finite() and abs(number) < limit:
                    exact = number.quantize(step, rounding=ROUND_HALF_EVEN)
                    if exact == number:
                        return exact + 0
            except InvalidOperation:
                pass
        raise _wrong(value, dtype)

    return read


def _decimal_of_text(dtype: DType) -> Read:
    read = _decimal(dtype)

    def of_text(text: Any) -> Any:
        try:
            return read(Decimal(text) if isinstance(text, str) else text)
        except InvalidOperation:
            raise _wrong(text, dtype) from None

    return of_text


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _wrong(value, "valid Unicode") from None
    return str(value)


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise _wrong(value, "bytes")


def _timestamp(value: Any) -> int | None:
    if not isinstance(value, datetime):
        raise _wrong(value, "timestamp")
    if value != value:  # noqa: PLR0124 - NaT
        return None
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    instant_us = (aware - _EPOCH) // _MICROSECOND
    if not INSTANT_US_MIN <= instant_us <= INSTANT_US_MAX:
        raise _wrong(value, "an instant of the years 1 to 9999")
    return int(instant_us)


def _date(value: Any) -> int:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.toordinal() - _EPOCH_DAY
    raise _wrong(value, "date")


def _list(dtype: DType, item: DType) -> Read:
    read = reader(item)

    def read_list(values: Any) -> list[Any]:
        if not isinstance(values, list | tuple):
            raise _wrong(values, dtype)
        return [None if value is None else read(value) for value in values]

    return read_list

"""Values and counts as bytes that are the same wherever they are written: what states of partials
are made of, and what sketches hash.

Values are plain Python, as rows carry them: timestamps as µs, dates as days, decimals as `Decimal`.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

from featurestore.dtypes import DType, Kind
from featurestore.errors import CorruptRow

_DOUBLE = struct.Struct("<d")
_MORE = 0x80


def unscaled(value: Decimal, scale: int) -> int:
    """`value · 10^scale`, exactly, whatever the decimal context."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{value} is not a number")
    whole, shift = int("".join(map(str, digits))), exponent + scale
    whole *= int(10 ** max(shift, 0))
    if shift < 0:
        whole, rest = divmod(whole, int(10**-shift))
        if rest:
            raise ValueError(f"{value} has more than {scale} digits behind the point")
    return -whole if sign else whole


def scaled(whole: int, scale: int) -> Decimal:
    """`whole · 10^−scale`, exactly."""
    return Decimal((int(whole < 0), tuple(map(int, str(abs(whole)))), -scale))


def put_count(out: bytearray, count: int) -> None:
    """Append a count ≥ 0: seven bits per byte, the lowest first."""
    while count >= _MORE:
        out.append(count & (_MORE - 1) | _MORE)
        count >>= 7
    out.append(count)


def put_int(out: bytearray, value: int) -> None:
    """Append an integer of any size and sign."""
    put_count(out, value << 1 if value >= 0 else (-value << 1) - 1)


def put_float(out: bytearray, value: float) -> None:
    """Append a float; −0.0 is written as 0.0."""
    out += _DOUBLE.pack(value + 0.0)


def put_value(out: bytearray, value: Any, dtype: DType) -> None:
    """Append a value that is not NULL."""
    match dtype.kind:
        case Kind.FLOAT32 | Kind.FLOAT64:
            put_float(out, value)
        case Kind.DECIMAL:
            put_int(out, unscaled(value, dtype.scale or 0))
        case Kind.STRING:
            raw = value.encode()
            put_count(out, len(raw))
            out += raw
        case Kind.BYTES:
            put_count(out, len(value))
            out += value
        case Kind.MAP:
            key_of, value_of = map_types(dtype)
            put_count(out, len(value))
            for key in sorted(value):
                put_value(out, key, key_of)
                put_value(out, value[key], value_of)
        case _:
            put_int(out, int(value))


def map_types(dtype: DType) -> tuple[DType, DType]:
    """The types of a map's keys and values. Raises `TypeError` for what is no map."""
    if dtype.key is None or dtype.value is None:
        raise TypeError(f"{dtype} is no map")
    return dtype.key, dtype.value


def value_bytes(value: Any, dtype: DType) -> bytes:
    """The bytes of one value: equal exactly for equal values of the type."""
    out = bytearray()
    put_value(out, value, dtype)
    return bytes(out)


class Reader:
    """Reads in order what the `put_…` functions wrote. Raises `CorruptRow` past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise CorruptRow(f"a state of {len(self._data)} bytes ends within a value")
        found = self._data[self._at : end]
        self._at = end
        return found

    def count(self) -> int:
        """A count."""
        found = shift = 0
        while True:
            (byte,) = self.take(1)
            found |= (byte & (_MORE - 1)) << shift
            if byte < _MORE:
                return found
            shift += 7

    def int(self) -> int:
        """An integer."""
        raw = self.count()
        return -((raw + 1) >> 1) if raw & 1 else raw >> 1

    def float(self) -> float:
        """A float."""
        found: float
        (found,) = _DOUBLE.unpack(self.take(_DOUBLE.size))
        return found

    def value(self, dtype: DType) -> Any:
        """A value of `dtype`."""
        match dtype.kind:
            case Kind.FLOAT32 | Kind.FLOAT64:
                return self.float()
            case Kind.DECIMAL:
                return scaled(self.int(), dtype.scale or 0)
            case Kind.STRING:
                return self.take(self.count()).decode()
            case Kind.BYTES:
                return self.take(self.count())
            case Kind.BOOL:
                return bool(self.int())
            case Kind.MAP:
                key_of, value_of = map_types(dtype)
                return {self.value(key_of): self.value(value_of) for _ in range(self.count())}
            case _:
                return self.int()

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._data):
            raise CorruptRow(f"a state has {len(self._data) - self._at} bytes too many")

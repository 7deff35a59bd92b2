"""Counts, sums, means and variances."""

# ruff: noqa: ARG002 - one signature for all functions

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from featurestore.aggregates import Parameters
from featurestore.dtypes import DECIMAL_PRECISION_MAX, DType, Kind
from featurestore.partials.base import Order, Partial, read_state
from featurestore.value_bytes import Reader, put_count, put_float, put_int, scaled, unscaled

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
_DECIMAL_END = 10**DECIMAL_PRECISION_MAX


class Count(Partial[int]):
    """How many rows."""

    def identity(self) -> int:
        return 0

    def add(self, state: int, value: Any, order: Order) -> int:
        return state + 1

    def merge(self, left: int, right: int) -> int:
        return left + right

    def result(self, state: int) -> int:
        return state

    def encode(self, state: int) -> bytes:
        out = bytearray()
        put_count(out, state)
        return bytes(out)

    def decode(self, data: bytes) -> int:
        return read_state(data, Reader.count)


Total = tuple[int, int | float]
"""How many values, and their sum: of decimals, in units of their last digit."""


class _Totals(Partial[Total]):
    def __init__(self, dtype: DType | None, parameters: Parameters) -> None:
        super().__init__(dtype, parameters)
        self._scale = self._of.scale or 0
        self._is_decimal = self._of.kind is Kind.DECIMAL
        self._is_float = self._of.is_float

    def identity(self) -> Total:
        return 0, 0.0 if self._is_float else 0

    def add(self, state: Total, value: Any, order: Order) -> Total:
        if self._is_decimal:
            value = unscaled(value, self._scale)
        return state[0] + 1, state[1] + value

    def merge(self, left: Total, right: Total) -> Total:
        return left[0] + right[0], left[1] + right[1]

    def encode(self, state: Total) -> bytes:
        out = bytearray()
        put_count(out, state[0])
        (put_float if self._is_float else put_int)(out, state[1])  # type: ignore[arg-type]
        return bytes(out)

    def decode(self, data: bytes) -> Total:
        return read_state(data, lambda r: (r.count(), r.float() if self._is_float else r.int()))


class Sum(_Totals):
    """Of integers int64, of decimals with all 38 digits; beyond, NULL."""

    def result(self, state: Total) -> int | float | Decimal | None:
        count, total = state
        if count == 0:
            return None
        if isinstance(total, float):
            return total + 0.0 if math.isfinite(total) else None
        if self._is_decimal:
            return scaled(total, self._scale) if abs(total) < _DECIMAL_END else None
        return total if INT64_MIN <= total <= INT64_MAX else None


class Mean(_Totals):
    """The sum, rounded to a float, by the count."""

    def result(self, state: Total) -> float | None:
        count, total = state
        if count == 0:
            return None
        found = float(total)
        if self._is_decimal:
            found /= float(10**self._scale)
        found /= count
        return found + 0.0 if math.isfinite(found) else None


Moments = tuple[int, float, float]
"""How many values, their mean, and the sum of squares of their distances to it."""


class Variance(Partial[Moments]):
    """Of the population. Merged as Chan, Golub and LeVeque do."""

    def identity(self) -> Moments:
        return 0, 0.0, 0.0

    def add(self, state: Moments, value: Any, order: Order) -> Moments:
        number = float(value)
        # An infinite value alone has no variance either.
        return self.merge(state, (1, number, 0.0 if math.isfinite(number) else math.inf))

    def merge(self, left: Moments, right: Moments) -> Moments:
        n, m = left[0], right[0]
        if n == 0 or m == 0:
            return left if m == 0 else right
        both = n + m
        delta = right[1] - left[1]
        mean = left[1] + delta * (m / both)
        return both, mean, left[2] + right[2] + delta * (delta * (n * (m / both)))

    def result(self, state: Moments) -> float | None:
        if state[0] == 0:
            return None
        found = state[2] / state[0]
        return found if math.isfinite(found) else None

    def encode(self, state: Moments) -> bytes:
        out = bytearray()
        put_count(out, state[0])
        put_float(out, state[1])
        put_float(out, state[2])
        return bytes(out)

    def decode(self, data: bytes) -> Moments:
        return read_state(data, lambda r: (r.count(), r.float(), r.float()))


class Deviation(Variance):
    """The root of the variance."""

    def result(self, state: Moments) -> float | None:
        variance = super().result(state)
        return None if variance is None else math.sqrt(variance)

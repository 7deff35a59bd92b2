"""Numbers: what Python's own operators and `math` do otherwise than the expression language.

A float function returns NaN where it has no value; who ends a chain of float operations makes NULL
of it. An int function returns an int of any size; who calls it checks the range. `math` and DuckDB
call the same C library, so that the same host gives the same bits (numpy brings its own and does
not).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

FLOAT_MAX = 1.7976931348623157e308
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
NAN = math.nan
PI = math.pi

radians = math.radians
degrees = math.degrees
atan = math.atan
atan2 = math.atan2
cbrt = math.cbrt
absolute = abs
to_float = float
is_finite = math.isfinite


def _or_nan(function: Callable[[float], float]) -> Callable[[float], float]:
    def guarded(x: float) -> float:
        try:
            return function(x)
        except (ValueError, OverflowError):
            return NAN

    guarded.__name__ = function.__name__
    guarded.__doc__ = f"`math.{function.__name__}`, NaN where that has no value."
    return guarded


sqrt = _or_nan(math.sqrt)
ln = _or_nan(math.log)
log10 = _or_nan(math.log10)
log2 = _or_nan(math.log2)
exp = _or_nan(math.exp)
sin = _or_nan(math.sin)
cos = _or_nan(math.cos)
tan = _or_nan(math.tan)
asin = _or_nan(math.asin)
acos = _or_nan(math.acos)


def power(x: float, y: float) -> float:
    """x to the power of y; NaN where that is none or infinite."""
    try:
        return math.pow(x, y)
    except (ValueError, OverflowError):
        return NAN


def modulo(x: float, y: float) -> float:
    """The remainder with the sign of x; NaN for a divisor of 0, or of what is infinite."""
    return math.fmod(x, y) if y and math.isfinite(x) else NAN


def remainder(a: int, b: int) -> int:
    """The integer remainder with the sign of a; b is not 0."""
    rest = abs(a) % abs(b)
    return -rest if a < 0 else rest


def quotient(a: int, b: int) -> int:
    """The integer quotient, cut toward 0; b is not 0."""
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def round_away(x: float) -> float:
    """To the nearest whole number, halves away from 0."""
    rest, whole = math.modf(x)
    if rest >= 0.5:
        return whole + 1.0
    return whole - 1.0 if rest <= -0.5 else whole


def round_digits(x: float, scale: float) -> float:
    """To digits after the point, of which `scale` is the power of ten."""
    scaled = x * scale
    return round_away(scaled) / scale if math.isfinite(scaled) else x


def round_tens(x: float, scale: float) -> float:
    """To a multiple of `scale`, a power of ten; NaN where that is infinite."""
    return round_away(x / scale) * scale


def cut(x: float) -> float:
    """Without the part after the point."""
    return math.modf(x)[1]


def greatest(*values: Any) -> Any:
    """The greatest of those that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return max(known) if known else None


def least(*values: Any) -> Any:
    """The least of those that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return min(known) if known else None


def decimal_float(value: Decimal, scale: int) -> float:
    """A decimal as float64, as DuckDB computes it: exact integers up to 2**53 divided by the power
    of ten, greater ones as whole part plus fraction."""
    return unscaled_float(int(value.scaleb(scale)), scale)


def unscaled_float(unscaled: int, scale: int) -> float:
    """As `decimal_float`, of the integer that a decimal of `scale` is held as."""
    if scale == 0 or -(2**53) <= unscaled <= 2**53:
        return unscaled / _TENS[scale]
    whole = quotient(unscaled, 10**scale)
    return float(whole) + float(unscaled - whole * 10**scale) / _TENS[scale]


_TENS = [float(10**n) for n in range(39)]

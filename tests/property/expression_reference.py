"""Every function of the table said again as obvious Python, with texts and arguments to try.

A reference gets arguments that are not NULL (unless `nulls=True`) and returns the value; what it
raises for division by zero, domain or overflow means NULL, as do infinities, NaN and integers
beyond int64.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from featurestore.dtypes import (
    BOOL,
    DATE,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
)

Reference = Callable[..., Any]


def naive(*parts: int) -> datetime:
    """A UTC instant as engine SQL holds it: without a zone."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


INTS = [None, 0, 1, -1, 2, -3, 7, 100, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
INT32S = [None, 0, 1, -1, 2**31 - 1, -(2**31)]
FLOATS = [None, 0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -3.7, 1e-300, 5e-324, 1e17, 1e308, -1e308]
TEXTS = [
    None,
    "",
    "a",
    "abc",
    "größe ß",
    " \tx ",
    "\u00a0é\u2003",
    "ÀİǆΣᾀ",
    "🤦a",
    "a%b_c",
    "x\0y'",
]
BOOLS = [None, True, False]
INSTANTS = [
    None,
    naive(1970, 1, 1),
    naive(1969, 12, 31, 23, 59, 59, 999999),
    naive(1, 1, 1),
    naive(9999, 12, 31, 23, 59, 59, 999999),
    naive(2024, 2, 29, 12, 30, 15, 1),
    naive(2023, 12, 31),
    naive(1582, 10, 10, 1),
]
DATES = [None, date(1970, 1, 1), date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29)]
VALUES: dict[DType, list[Any]] = {
    INT64: INTS,
    INT32: INT32S,
    FLOAT64: FLOATS,
    FLOAT32: [None, 0.0, 0.5, -2.5, 3.4028234663852886e38],
    STRING: TEXTS,
    BOOL: BOOLS,
    TIMESTAMP: INSTANTS,
    DATE: DATES,
}


@dataclass(frozen=True)
class Trial:
    """`text` over columns a, b, c of `types`; `exact` where every bit must agree."""

    function: str
    text: str
    types: tuple[DType, ...]
    reference: Reference
    nulls: bool = False
    exact: bool = True

    def expected(self, row: tuple[Any, ...]) -> Any:
        if not self.nulls and None in row:
            return None
        try:
            return settle(self.reference(*row))
        except (ZeroDivisionError, OverflowError, ValueError):
            return None


def settle(value: Any) -> Any:
    """What has no value of our types is NULL; there is one zero."""
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -(2**63) <= value < 2**63 else None
    return value


# --- references -----------------------------------------------------------------------------------


def intdiv(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def remainder(a: int, b: int) -> int:
    return a - b * intdiv(a, b)


def away_from_zero(x: float) -> float:
    whole = math.floor(abs(x))
    return math.copysign(whole + 1 if abs(x) - whole >= 0.5 else whole, x)


def round_to(digits: int) -> Reference:
    def reference(x: float) -> float:
        scale = 10.0 ** abs(digits)
        if digits < 0:
            return away_from_zero(x / scale) * scale
        rounded = x * scale
        return away_from_zero(rounded) / scale if math.isfinite(rounded) else x

    return reference


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def lower(s: str) -> str:
    return "".join("i" if c == "İ" else c.lower() for c in s)


def upper(s: str) -> str:
    def one(c: str) -> str:
        if c == "ß":
            return "ẞ"
        return next((up for up in (c.upper(), c.title()) if len(up) == 1), c)

    return "".join(map(one, s))


def _strip(s: str, left: bool, right: bool, drop: Callable[[str], bool]) -> str:
    start, end = 0, len(s)
    while left and start < end and drop(s[start]):
        start += 1
    while right and start < end and drop(s[end - 1]):
        end -= 1
    return s[start:end]


def trimmer(left: bool, right: bool) -> Reference:
    def reference(s: str, characters: str | None = None) -> str:
        def drop(c: str) -> bool:
            return unicodedata.category(c) == "Zs" if characters is None else c in characters

        return _strip(s, left, right, drop)

    return reference


def fits_offset(*offsets: int) -> None:
    if any(abs(offset) > 2**32 - 1 for offset in offsets):
        raise OverflowError


def substring(s: str, offset: int, length: int = 2**32 - 1) -> str:
    fits_offset(offset, length)
    start = offset - 1 if offset >= 0 else len(s) + offset
    low, high = sorted((start, start + length))
    return s[max(low, 0) : max(high, 0)]


def left(s: str, n: int) -> str:
    fits_offset(n)
    return s[:n] if n >= 0 else s[: max(len(s) + n, 0)]


def right(s: str, n: int) -> str:
    fits_offset(n)
    return s[max(len(s) - n, 0) :] if n >= 0 else s[min(-n, len(s)) :]


def like(s: str, pattern: str) -> bool:
    parts = {"%": ".*", "_": "."}
    return bool(re.fullmatch("".join(parts.get(c, re.escape(c)) for c in pattern), s, re.DOTALL))


def both(a: bool | None, b: bool | None) -> bool | None:
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def either(a: bool | None, b: bool | None) -> bool | None:
    if a is True or b is True:
        return True
    return None if a is None or b is None else False


def between(a: Any, low: Any, high: Any) -> bool | None:
    return both(
        None if a is None or low is None else a >= low,
        None if a is None or high is None else a <= high,
    )


def among(*items: Any) -> Reference:
    def reference(a: Any) -> bool | None:
        if a is None:
            return None
        if any(a == item for item in items if item is not None):
            return True
        return None if None in items else False

    return reference


def known(choose: Callable[[list[Any]], Any]) -> Reference:
    def reference(*values: Any) -> Any:
        present = [v for v in values if v is not None]
        return choose(present) if present else None

    return reference


def nullif(a: Any, b: Any) -> Any:
    return None if a == b else a


def or_zero(a: float | None, b: float | None) -> float:
    """coalesce(a / b, 0)"""
    quotient = settle(a / b) if a is not None and b else None
    return 0.0 if quotient is None else quotient


_UNITS_US = {
    "microsecond": 1,
    "millisecond": 10**3,
    "second": 10**6,
    "minute": 60 * 10**6,
    "hour": 3600 * 10**6,
    "day": 86400 * 10**6,
}


def instant_us(t: date) -> int:
    moment = t if isinstance(t, datetime) else naive(t.year, t.month, t.day)
    return (moment - naive(1970, 1, 1)) // timedelta(microseconds=1)


def date_trunc(unit: str) -> Reference:
    def reference(t: date) -> datetime:
        day = naive(t.year, t.month, t.day)
        match unit:
            case "year":
                return day.replace(month=1, day=1)
            case "quarter":
                return day.replace(month=(t.month - 1) // 3 * 3 + 1, day=1)
            case "month":
                return day.replace(day=1)
            case "week":
                return day - timedelta(days=day.weekday())
        step = _UNITS_US[unit]
        return naive(1970, 1, 1) + timedelta(microseconds=instant_us(t) // step * step)

    return reference


def date_diff(unit: str) -> Reference:
    def ordinal(t: date) -> int:
        match unit:
            case "year":
                return t.year
            case "quarter":
                return t.year * 4 + (t.month - 1) // 3
            case "month":
                return t.year * 12 + t.month
            case "week":
                return (instant_us(t) // _UNITS_US["day"] + 3) // 7
        return instant_us(t) // _UNITS_US[unit]

    return lambda a, b: ordinal(b) - ordinal(a)


REQUEST_TIME = naive(2013, 7, 1, 12, 0, 0, 123456)


def since_request(t: datetime) -> int:
    return instant_us(t) - instant_us(REQUEST_TIME)


# --- the trials -----------------------------------------------------------------------------------


def _numbers(function: str, text: str, reference: Reference, **options: Any) -> list[Trial]:
    """One text over ints, over floats, and over an int32 beside a float."""
    count = len(set(re.findall(r"\b[abc]\b", text)))
    columns = [(INT64,) * count, (FLOAT64,) * count]
    if count == 2:
        columns.append((INT32, FLOAT64))
        columns.append((INT32, INT32))
    return [Trial(function, text, types, reference, **options) for types in columns]


def _comparable(function: str, text: str, reference: Reference, **options: Any) -> list[Trial]:
    count = len(set(re.findall(r"\b[abc]\b", text)))
    kinds = (INT64, FLOAT64, STRING, BOOL, TIMESTAMP, DATE)
    return [Trial(function, text, (kind,) * count, reference, **options) for kind in kinds]


def _both_kinds(of_int: Reference, of_float: Reference) -> Reference:
    return lambda *row: (of_int if all(isinstance(v, int) for v in row) else of_float)(*row)


def _texts(function: str, text: str, reference: Reference, **options: Any) -> Trial:
    count = len(set(re.findall(r"\b[abc]\b", text)))
    return Trial(function, text, (STRING,) * count, reference, **options)


def _moments(function: str, text: str, reference: Reference) -> list[Trial]:
    count = len(set(re.findall(r"\b[abc]\b", text)))
    return [Trial(function, text, (kind,) * count, reference) for kind in (TIMESTAMP, DATE)]


_FLOAT_ONE = (FLOAT64,)
UNITS = ("year", "quarter", "month", "week", *reversed(_UNITS_US))

TRIALS: list[Trial] = [
    *_numbers("add", "a + b", lambda a, b: a + b),
    *_numbers("sub", "a - b", lambda a, b: a - b),
    *_numbers("mul", "a * b", lambda a, b: a * b),
    *_numbers("div", "a / b", lambda a, b: float(a) / float(b)),
    Trial("intdiv", "a // b", (INT64, INT64), intdiv),
    *_numbers("mod", "a % b", _both_kinds(remainder, math.fmod)),
    *_numbers("neg", "-a", lambda a: -a),
    Trial("add", "a + a", (FLOAT32,), lambda a: a + a),
    *_comparable("eq", "a = b", lambda a, b: a == b),
    *_comparable("ne", "a <> b", lambda a, b: a != b),
    *_comparable("lt", "a < b", lambda a, b: a < b),
    *_comparable("le", "a <= b", lambda a, b: a <= b),
    *_comparable("gt", "a > b", lambda a, b: a > b),
    *_comparable("ge", "a >= b", lambda a, b: a >= b),
    Trial("eq", "a = b", (INT64, FLOAT64), lambda a, b: float(a) == b),
    Trial("lt", "a < b", (DATE, TIMESTAMP), lambda a, b: instant_us(a) < instant_us(b)),
    Trial("and", "a AND b", (BOOL, BOOL), both, nulls=True),
    Trial("or", "a OR b", (BOOL, BOOL), either, nulls=True),
    Trial("not", "NOT a", (BOOL,), lambda a: not a),
    *_comparable("is_null", "a IS NULL", lambda a: a is None, nulls=True),
    *_comparable("between", "a BETWEEN b AND c", between, nulls=True),
    Trial("in", "a IN (1, -3, 2)", (INT64,), among(1, -3, 2), nulls=True),
    Trial("in", "a IN (1, 2.5)", (INT64,), among(1, 2.5), nulls=True),
    Trial("in", "a IN ('a', NULL, '🤦a')", (STRING,), among("a", None, "🤦a"), nulls=True),
    _texts("like", "a LIKE b", like),
    _texts("like", "a LIKE '%ß%'", lambda a: "ß" in a),
    *_comparable("coalesce", "coalesce(a, b)", known(lambda v: v[0]), nulls=True),
    Trial("coalesce", "coalesce(a / b, 0)", (FLOAT64,) * 2, or_zero, nulls=True),
    *_comparable("nullif", "nullif(a, b)", nullif, nulls=True),
    *_comparable("greatest", "greatest(a, b)", known(max), nulls=True),
    *_comparable("least", "least(a, b)", known(min), nulls=True),
    *_numbers("abs", "abs(a)", abs),
    *_numbers("round", "round(a)", _both_kinds(lambda a: a, away_from_zero)),
    *(Trial("round", f"round(a, {n})", _FLOAT_ONE, round_to(n)) for n in (-2, 0, 1, 2, 15)),
    Trial("round", "round(a, 2)", (INT64,), lambda a: round_to(2)(float(a))),
    *_numbers("floor", "floor(a)", _both_kinds(lambda a: a, lambda a: float(math.floor(a)))),
    *_numbers("ceil", "ceil(a)", _both_kinds(lambda a: a, lambda a: float(math.ceil(a)))),
    *_numbers("sign", "sign(a)", sign),
    *_numbers("sqrt", "sqrt(a)", math.sqrt),
    *_numbers("ln", "ln(a)", lambda a: math.log(float(a)), exact=False),
    *_numbers("log10", "log10(a)", lambda a: math.log10(float(a)), exact=False),
    *_numbers("log2", "log2(a)", lambda a: math.log2(float(a)), exact=False),
    *_numbers("exp", "exp(a)", math.exp, exact=False),
    *_numbers("power", "power(a, b)", math.pow, exact=False),
    _texts("lower", "lower(a)", lower),
    _texts("upper", "upper(a)", upper),
    _texts("length", "length(a)", len),
    _texts("trim", "trim(a)", trimmer(True, True)),
    _texts("trim", "trim(a, b)", trimmer(True, True)),
    _texts("ltrim", "ltrim(a)", trimmer(True, False)),
    _texts("ltrim", "ltrim(a, b)", trimmer(True, False)),
    _texts("rtrim", "rtrim(a)", trimmer(False, True)),
    _texts("rtrim", "rtrim(a, b)", trimmer(False, True)),
    Trial("substring", "substring(a, b)", (STRING, INT64), substring),
    Trial("substring", "substring(a, b, c)", (STRING, INT64, INT64), substring),
    Trial("substring", "substring(a, 2, 3)", (STRING,), lambda a: substring(a, 2, 3)),
    Trial("left", "left(a, b)", (STRING, INT64), left),
    Trial("left", "left(a, -1)", (STRING,), lambda a: left(a, -1)),
    Trial("right", "right(a, b)", (STRING, INT32), right),
    _texts("concat", "concat(a, b, c)", lambda *v: "".join(t for t in v if t), nulls=True),
    _texts("join_text", "a || b", lambda a, b: a + b),
    _texts("replace", "replace(a, b, c)", lambda a, b, c: a.replace(b, c) if b else a),
    _texts("starts_with", "starts_with(a, b)", lambda a, b: a.startswith(b)),
    _texts("ends_with", "ends_with(a, b)", lambda a, b: a.endswith(b)),
    _texts("contains", "contains(a, b)", lambda a, b: b in a),
    *_moments("year", "year(a)", lambda a: a.year),
    *_moments("month", "month(a)", lambda a: a.month),
    *_moments("day", "day(a)", lambda a: a.day),
    *_moments("hour", "hour(a)", lambda a: getattr(a, "hour", 0)),
    *_moments("minute", "minute(a)", lambda a: getattr(a, "minute", 0)),
    *_moments("second", "second(a)", lambda a: getattr(a, "second", 0)),
    *_moments("dayofweek", "dayofweek(a)", lambda a: a.isoweekday() % 7),
    *_moments("dayofyear", "dayofyear(a)", lambda a: a.timetuple().tm_yday),
    *_moments("epoch", "epoch(a)", lambda a: float(instant_us(a)) / 1e6),
    *(t for u in UNITS for t in _moments("date_trunc", f"date_trunc('{u}', a)", date_trunc(u))),
    Trial(
        "request_time", "date_diff('microsecond', request_time(), a)", (TIMESTAMP,), since_request
    ),
    *(t for u in UNITS for t in _moments("date_diff", f"date_diff('{u}', a, b)", date_diff(u))),
]

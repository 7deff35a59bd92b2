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
    parse,
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
INT_LIST, TEXT_LIST = parse("list<int64>"), parse("list<string>")
VALUES: dict[DType, list[Any]] = {
    INT_LIST: [None, [], [1], [None, 2**63 - 1, -3], [0, 0, None]],
    TEXT_LIST: [None, [], ["a", None, "größe ß"], ["", "🤦a"]],
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


def pad(on_left: bool) -> Reference:
    def reference(s: str, count: int, fill: str) -> str:
        if not 0 <= count <= 10_000 or not fill:
            raise ValueError
        filling = ""
        while len(s) + len(filling) < count:
            filling += fill[len(filling) % len(fill)]
        return filling + s if filling and on_left else (s + filling)[:count]

    return reference


def split_part(s: str, separator: str, index: int) -> str:
    if not separator or abs(index) > 2**31 - 1:
        raise ValueError
    parts = s.split(separator)
    numbered = dict(enumerate(parts, 1)) | dict(enumerate(reversed(parts), 1) if index < 0 else [])
    return numbered.get(abs(index), "")


def date_add(unit: str) -> Reference:
    def reference(n: int, t: date) -> datetime:
        moment = t if isinstance(t, datetime) else naive(t.year, t.month, t.day)
        if unit in ("year", "quarter", "month"):
            index = t.year * 12 + t.month - 1 + n * {"year": 12, "quarter": 3, "month": 1}[unit]
            for day in range(moment.day, moment.day - 4, -1):
                try:
                    return moment.replace(year=index // 12, month=index % 12 + 1, day=day)
                except ValueError:
                    continue
            raise OverflowError
        us = 7 * _UNITS_US["day"] if unit == "week" else _UNITS_US[unit]
        return moment + timedelta(microseconds=n * us)

    return reference


def last_day(t: date) -> date:
    day = date(t.year, t.month, t.day)
    while day != date.max and (day + timedelta(days=1)).month == t.month:
        day += timedelta(days=1)
    return day


def item(items: list[Any], index: int) -> Any:
    numbered = dict(enumerate(items if index > 0 else reversed(items), 1))
    return numbered.get(abs(index))


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
    *_comparable("is_distinct", "a IS DISTINCT FROM b", lambda a, b: a != b, nulls=True),
    *_numbers("trunc", "trunc(a)", _both_kinds(lambda a: a, lambda a: float(math.trunc(a)))),
    *_numbers("cbrt", "cbrt(a)", lambda a: math.cbrt(float(a)), exact=False),
    *_numbers("sin", "sin(a)", lambda a: math.sin(float(a)), exact=False),
    *_numbers("cos", "cos(a)", lambda a: math.cos(float(a)), exact=False),
    *_numbers("tan", "tan(a)", lambda a: math.tan(float(a)), exact=False),
    *_numbers("asin", "asin(a)", lambda a: math.asin(float(a)), exact=False),
    *_numbers("acos", "acos(a)", lambda a: math.acos(float(a)), exact=False),
    *_numbers("atan", "atan(a)", lambda a: math.atan(float(a)), exact=False),
    *_numbers("atan2", "atan2(a, b)", lambda a, b: math.atan2(float(a), float(b)), exact=False),
    *_numbers("radians", "radians(a)", lambda a: float(a) * (math.pi / 180), exact=False),
    *_numbers("degrees", "degrees(a)", lambda a: float(a) * (180 / math.pi), exact=False),
    Trial("lpad", "lpad(a, b, c)", (STRING, INT64, STRING), pad(True)),
    Trial("rpad", "rpad(a, b, c)", (STRING, INT64, STRING), pad(False)),
    _texts("strpos", "strpos(a, b)", lambda a, b: a.find(b) + 1),
    Trial("split_part", "split_part(a, b, c)", (STRING, STRING, INT64), split_part),
    Trial(
        "split_part", "split_part(a, '-', b)", (STRING, INT64), lambda a, b: split_part(a, "-", b)
    ),
    _texts(
        "concat_ws",
        "concat_ws(a, b, c)",
        lambda a, *v: None if a is None else a.join(t for t in v if t is not None),
        nulls=True,
    ),
    Trial("list_contains", "list_contains(a, b)", (INT_LIST, INT64), lambda a, b: b in a),
    Trial("list_contains", "list_contains(a, b)", (TEXT_LIST, STRING), lambda a, b: b in a),
    Trial("list_contains", "list_contains(a, b // 1)", (INT_LIST, INT64), lambda a, b: b in a),
    Trial("list_extract", "list_extract(a, b)", (INT_LIST, INT64), item),
    Trial("list_extract", "list_extract(a, b)", (TEXT_LIST, INT64), item),
    Trial("length", "length(a)", (TEXT_LIST,), len),
    *_moments("quarter", "quarter(a)", lambda a: (a.month + 2) // 3),
    *_moments("week", "week(a)", lambda a: a.isocalendar().week),
    *_moments("isodow", "isodow(a)", lambda a: a.isoweekday()),
    *_moments("epoch_ms", "epoch_ms(a)", lambda a: instant_us(a) // 1000),
    *_moments("epoch_us", "epoch_us(a)", instant_us),
    *_moments("dayname", "dayname(a)", lambda a: f"{a:%A}"),
    *_moments("monthname", "monthname(a)", lambda a: f"{a:%B}"),
    *_moments("last_day", "last_day(a)", last_day),
    Trial("make_date", "make_date(a, b, c)", (INT64, INT64, INT64), date),
    Trial("make_date", "make_date(2024, a, b)", (INT64, INT32), lambda a, b: date(2024, a, b)),
    Trial(
        "make_timestamp",
        "make_timestamp(a)",
        (INT64,),
        lambda a: naive(1970, 1, 1) + timedelta(microseconds=a),
    ),
    *(
        Trial("date_add", f"date_add('{u}', a, b)", (INT64, kind), date_add(u))
        for u in UNITS
        for kind in (TIMESTAMP, DATE)
    ),
    Trial(
        "request_time", "date_diff('microsecond', request_time(), a)", (TIMESTAMP,), since_request
    ),
    *(t for u in UNITS for t in _moments("date_diff", f"date_diff('{u}', a, b)", date_diff(u))),
]

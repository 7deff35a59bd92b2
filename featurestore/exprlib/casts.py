"""CAST between the types of the expression language; None where a value does not fit or a text
can't be read. Which texts are read is said by the patterns below, which SQL checks too."""

from __future__ import annotations

import math
import re
import struct
from datetime import date
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation

from featurestore.exprlib.instants import DAY_US, INSTANT_MAX, INSTANT_MIN
from featurestore.exprlib.numbers import NAN, round_away

WHITE = " \t\n\v\f\r"
SPACE = r"[ \t\n\v\f\r]*"
"""What may stand around a number, a truth value or an instant."""

INTEGER_TEXT = SPACE + r"[+-]?([0-9]{1,38}([.][0-9]{0,38})?|[.][0-9]{1,38})" + SPACE
"""Texts that are read as int or decimal: no exponent, no hexadecimal, no separators."""

FLOAT_TEXT = (
    SPACE + r"[+-]?([0-9]{1,400}([.][0-9]{0,400})?|[.][0-9]{1,400})([eE][+-]?[0-9]{1,9})?" + SPACE
)
"""Texts that are read as float; neither inf nor nan."""

INSTANT_TEXT = (
    SPACE + r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
    r"([ T]([01]?[0-9]|2[0-3]):[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?"
    r"( ?(Z|[+-][0-9]{2}(:?[0-9]{2})?))?)?" + SPACE
)
"""Texts that are read as timestamp or date: ISO 8601, UTC where no offset is written."""

TRUE_TEXTS = ("true", "t", "yes", "y", "1")
FALSE_TEXTS = ("false", "f", "no", "n", "0")

_integer = re.compile(INTEGER_TEXT).fullmatch
_float = re.compile(FLOAT_TEXT).fullmatch
_instant = re.compile(
    SPACE + r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:[ T]([01]?[0-9]|2[0-3]):([0-9]{2})(?::([0-9]{2})(?:[.]([0-9]{1,9}))?)?"
    r"(?: ?(Z|[+-][0-9]{2}(?::?[0-9]{2})?))?)?" + SPACE
).fullmatch
_WIDE = Context(prec=100)
_BOOLS = dict.fromkeys(TRUE_TEXTS, True) | dict.fromkeys(FALSE_TEXTS, False)
_EPOCH_ORDINAL = 719_163
_BEYOND = 2**64
"""An integer that no type of ours holds."""


def int_of_float(value: float) -> int:
    """To the nearest integer, halves to the even one; what is infinite fits none."""
    return round(value) if math.isfinite(value) else _BEYOND


def int_of_text(text: str) -> int | None:
    """Halves away from 0; any size."""
    if not _integer(text):
        return None
    return int(Decimal(text.strip(WHITE)).to_integral_value(ROUND_HALF_UP, _WIDE))


def int_of_decimal(value: Decimal) -> int:
    """Halves away from 0."""
    return int(value.to_integral_value(ROUND_HALF_UP, _WIDE))


def float_of_text(text: str) -> float:
    """NaN where the text is no number."""
    return float(text) if _float(text) else NAN


def bool_of_text(text: str) -> bool | None:
    return _BOOLS.get(text.lower())


def float32(value: float) -> float:
    """The nearest float32; NaN beyond its range."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return NAN


def float32_of_int(value: int) -> float:
    """The nearest float32 of an int64, rounded once (by way of float64 it would be twice)."""
    extra = abs(value).bit_length() - 24
    if extra > 0:
        whole, rest = divmod(abs(value), 1 << extra)
        half = 1 << (extra - 1)
        whole += rest > half or (rest == half and whole & 1)
        value = (whole << extra) * (1 if value > 0 else -1)
    return float(value)


def decimal_of(value: Decimal | int, precision: int, scale: int) -> Decimal | None:
    """A decimal or int as another decimal, halves away from 0."""
    try:
        found = Decimal(value).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, _WIDE)
    except InvalidOperation:
        return None
    return found if found.adjusted() < precision - scale or not found else None


def decimal_of_float(value: float, precision: int, scale: int) -> Decimal | None:
    """The nearest after multiplication by the power of ten, halves away from 0."""
    scaled = round_away(value * 10.0**scale)
    if not -(10.0**precision) < scaled < 10.0**precision:
        return None
    return Decimal(int(scaled)).scaleb(-scale, _WIDE)


def decimal_of_text(text: str, precision: int, scale: int) -> Decimal | None:
    """As `decimal_of`, of a text."""
    return decimal_of(Decimal(text.strip(WHITE)), precision, scale) if _integer(text) else None


def text_of_bool(value: bool) -> str:
    return "true" if value else "false"


def text_of_float32(value: float) -> str:
    """The shortest text that reads as the same float32."""
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if float32(float(text)) == value:
            break
    return repr(float(text))


def text_of_decimal(value: Decimal, precision: int, scale: int) -> str:
    """All digits of the scale; no 0 before the point where the type has no digits there."""
    text = f"{value.quantize(Decimal(1).scaleb(-scale), context=_WIDE):f}"
    return text.replace("0.", ".", 1) if precision == scale else text


def text_of_date(days: int) -> str:
    return date.fromordinal(days + _EPOCH_ORDINAL).isoformat()


def text_of_instant(instant: int) -> str:
    """`2024-02-29 12:30:15.25`: the fraction without zeros at its end."""
    days, rest = divmod(instant, DAY_US)
    seconds, fraction = divmod(rest, 1_000_000)
    text = f"{text_of_date(days)} {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


def instant_of_text(text: str) -> int | None:
    """Microseconds since 1970; a text without an offset is UTC, digits after the microsecond are
    cut."""
    found = _instant(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH_ORDINAL
    except ValueError:
        return None
    hours, minutes, seconds = int(hour or 0), int(minute or 0), int(second or 0)
    if minutes > 59 or seconds > 59:
        return None
    instant = days * DAY_US + (hours * 3600 + minutes * 60 + seconds) * 1_000_000
    instant += int(f"{fraction or '':0<6}"[:6]) - _offset_us(zone)
    return instant if INSTANT_MIN <= instant <= INSTANT_MAX else None


def _offset_us(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
    return (hours * 60 + minutes) * 60_000_000 * (-1 if zone[0] == "-" else 1)


def date_of_text(text: str) -> int | None:
    """The UTC date of the instant that the text says."""
    instant = instant_of_text(text)
    return None if instant is None else instant // DAY_US


text_of_int = str
text_of_float = repr

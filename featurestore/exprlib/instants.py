"""Instants: int microseconds since 1970 in UTC, dates: int days since 1970.

Division is floor division, so that all is right before 1970 too.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable
from datetime import date

DAY_US = 86_400_000_000
INSTANT_MIN, INSTANT_MAX = -62_135_596_800_000_000, 253_402_300_799_999_999
"""0001-01-01 00:00:00 and 9999-12-31 23:59:59.999999."""

DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTH_NAMES = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

_EPOCH_ORDINAL = 719_163
_of = date.fromordinal


def year(instant: int) -> int:
    """The year."""
    return _of(instant // DAY_US + _EPOCH_ORDINAL).year


def month(instant: int) -> int:
    """The month, 1 to 12."""
    return _of(instant // DAY_US + _EPOCH_ORDINAL).month


def day(instant: int) -> int:
    """The day of the month, 1 to 31."""
    return _of(instant // DAY_US + _EPOCH_ORDINAL).day


def dayofyear(instant: int) -> int:
    """The day of the year, 1 to 366."""
    return _of(instant // DAY_US + _EPOCH_ORDINAL).timetuple().tm_yday


def week(instant: int) -> int:
    """The week of the year by ISO 8601, 1 to 53."""
    return _of(instant // DAY_US + _EPOCH_ORDINAL).isocalendar().week


def last_day(instant: int) -> int:
    """The last day of the month, as a date."""
    found = _of(instant // DAY_US + _EPOCH_ORDINAL)
    return instant // DAY_US + monthrange(found.year, found.month)[1] - found.day


def make_date(year: int, month: int, day: int) -> int | None:
    """The date; None where there is none."""
    try:
        return date(year, month, day).toordinal() - _EPOCH_ORDINAL
    except (ValueError, OverflowError):
        return None


def add_us(instant: int, microseconds: int) -> int | None:
    """The instant moved; None outside years 1 to 9999."""
    moved = instant + microseconds
    return moved if INSTANT_MIN <= moved <= INSTANT_MAX else None


def add_months(instant: int, count: int, each: int) -> int | None:
    """The instant moved by `count` times `each` months, to the end of the month where that is
    shorter; None outside years 1 to 9999."""
    days, rest = divmod(instant, DAY_US)
    found = _of(days + _EPOCH_ORDINAL)
    year, month = divmod(found.year * 12 + found.month - 1 + count * each, 12)
    if not 1 <= year <= 9999:
        return None
    last = monthrange(year, month + 1)[1]
    moved = date(year, month + 1, min(found.day, last))
    return (moved.toordinal() - _EPOCH_ORDINAL) * DAY_US + rest


def quarters(instant: int) -> int:
    """Quarters since the year 0."""
    found = _of(instant // DAY_US + _EPOCH_ORDINAL)
    return found.year * 4 + (found.month - 1) // 3


def months(instant: int) -> int:
    """Months since the year 0."""
    found = _of(instant // DAY_US + _EPOCH_ORDINAL)
    return found.year * 12 + found.month - 1


def start_of_months(months: int) -> int:
    """The instant at which month `months` since the year 0 begins."""
    return (date(months // 12, months % 12 + 1, 1).toordinal() - _EPOCH_ORDINAL) * DAY_US


def trunc_year(instant: int) -> int:
    """The start of the year."""
    return start_of_months(months(instant) // 12 * 12)


def trunc_quarter(instant: int) -> int:
    """The start of the quarter."""
    return start_of_months(months(instant) // 3 * 3)


def trunc_month(instant: int) -> int:
    """The start of the month."""
    return start_of_months(months(instant))


def trunc_week(instant: int) -> int:
    """The start of the week, a Monday (1970-01-01 was a Thursday)."""
    days = instant // DAY_US
    return (days - (days + 3) % 7) * DAY_US


CALENDAR_TRUNC: dict[str, Callable[[int], int]] = {
    "year": trunc_year,
    "quarter": trunc_quarter,
    "month": trunc_month,
    "week": trunc_week,
}
"""By unit, for units without a fixed length (and weeks, which begin on Mondays)."""

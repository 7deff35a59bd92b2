"""Instants and durations: int64 microseconds, UTC, floor division (also before 1970).

Time is an argument everywhere: what needs "now" takes a `Clock` in its constructor.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Protocol

from featurestore.errors import InvalidRequest

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

# Arrow's and DuckDB's timestamp[us] range is wider than what Python's datetime can show; instants
# outside year 1..9999 are refused where they enter.
INSTANT_US_MIN = -62_135_596_800 * SECOND_US
INSTANT_US_MAX = 253_402_300_800 * SECOND_US - 1
DURATION_US_MAX = 3_652_500 * DAY_US

_UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND_US,
    "m": MINUTE_US,
    "h": HOUR_US,
    "d": DAY_US,
    "w": 7 * DAY_US,
}
_DURATION = re.compile(r"(\d+)\s*(us|ms|s|m|h|d|w)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Where "now" comes from."""

    def now_us(self) -> int:
        """The present instant in µs since 1970, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000


class ManualClock:
    """A clock that stands still until it is moved; for tests and replays."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance(self, by_us: int) -> None:
        """Move forward by `by_us` microseconds."""
        self._now_us += by_us


def parse_duration(value: str | timedelta, *, zero: bool = False) -> int:
    """A duration in µs from `"90s"`, `"15m"`, `"6h"`, `"7d"`, `"1h30m"` or a `timedelta`.

    Raises `ValueError` for anything else, for durations over `DURATION_US_MAX`, and for those that
    are not longer than 0 (with `zero`: shorter than 0).
    """
    if isinstance(value, timedelta):
        total_us = value // timedelta(microseconds=1)
    else:
        found = _read_duration(str(value))
        if found is None:
            raise ValueError(f'{value!r} is not a duration; write "90s", "15m", "6h" or "7d"')
        total_us = found
    if total_us < 0 or (total_us == 0 and not zero):
        raise ValueError(f"{value!r} is not longer than 0")
    if total_us > DURATION_US_MAX:
        raise ValueError(f"{value!r} is longer than 10,000 years")
    return total_us


@lru_cache(maxsize=1024)
def _read_duration(text: str) -> int | None:
    """A repository says few durations many times."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(re.split(r"\s+", text)) != "".join(n + u for n, u in parts):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def format_duration(duration_us: int) -> str:
    """`7d`, `1h30m`, `250ms`: the shortest text that `parse_duration` reads back."""
    if duration_us == 0:
        return "0s"
    rest, parts = abs(duration_us), []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return ("-" if duration_us < 0 else "") + "".join(parts)


def to_us(value: datetime | date | str | int) -> int:
    """An instant in µs from a `datetime` (naive is UTC), a `date` (its midnight, UTC), an ISO 8601
    text, or an int that is µs already.

    Raises `InvalidRequest` where `value` is none of these.
    """
    if isinstance(value, bool):
        raise InvalidRequest(f"{value!r} is not an instant")
    if isinstance(value, int):
        instant_us = value
    elif isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        instant_us = (aware - _EPOCH) // timedelta(microseconds=1)
    elif isinstance(value, date):
        instant_us = (value - _EPOCH.date()).days * DAY_US
    else:
        try:
            return to_us(datetime.fromisoformat(value))
        except (TypeError, ValueError):
            raise InvalidRequest(
                f"{value!r} is not an instant; write it as 2013-07-01T12:00:00Z"
            ) from None
    if not INSTANT_US_MIN <= instant_us <= INSTANT_US_MAX:
        raise InvalidRequest(f"{value!r} is outside the years 1 to 9999")
    return instant_us


def to_datetime(instant_us: int) -> datetime:
    """The instant as an aware `datetime` in UTC."""
    return _EPOCH + timedelta(microseconds=instant_us)


def format_instant(instant_us: int) -> str:
    """ISO 8601 in UTC: `2013-07-01T12:00:00Z`, with a fraction only where there is one."""
    return to_datetime(instant_us).isoformat().replace("+00:00", "Z")

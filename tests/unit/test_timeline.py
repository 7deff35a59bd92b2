"""Instants and durations: floor division, UTC, limits."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidRequest
from featurestore.timeline import (
    DAY_US,
    DURATION_US_MAX,
    HOUR_US,
    INSTANT_US_MAX,
    INSTANT_US_MIN,
    MINUTE_US,
    SECOND_US,
    ManualClock,
    SystemClock,
    format_duration,
    format_instant,
    parse_duration,
    to_datetime,
    to_us,
)


class TestDurations:
    @pytest.mark.parametrize(
        ("value", "duration_us"),
        [
            ("90s", 90 * SECOND_US),
            ("15m", 15 * MINUTE_US),
            ("6h", 6 * HOUR_US),
            ("7d", 7 * DAY_US),
            ("2w", 14 * DAY_US),
            ("250ms", 250_000),
            ("3us", 3),
            ("1h30m", 90 * MINUTE_US),
            (" 1h 30 m ", 90 * MINUTE_US),
            (timedelta(microseconds=5), 5),
            (timedelta(days=2), 2 * DAY_US),
        ],
    )
    def test_texts_and_timedeltas(self, value: Any, duration_us: int) -> None:
        assert parse_duration(value) == duration_us

    @pytest.mark.parametrize(
        "value", ["", "h", "5", "1.5h", "-1h", "1h-", "1 hour", "soon", 5, 1.5, None, "1hx", "h1"]
    )
    def test_other_values_are_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match="is not a duration"):
            parse_duration(value)

    @pytest.mark.parametrize("value", ["0s", "0h0m", timedelta(0)])
    def test_zero_only_where_it_is_allowed(self, value: Any) -> None:
        with pytest.raises(ValueError, match="is not longer than 0"):
            parse_duration(value)
        assert parse_duration(value, zero=True) == 0

    def test_negative_and_endless_durations_are_refused(self) -> None:
        with pytest.raises(ValueError, match="is not longer than 0"):
            parse_duration(timedelta(seconds=-1), zero=True)
        assert parse_duration("3652500d") == DURATION_US_MAX
        with pytest.raises(ValueError, match="longer than 10,000 years"):
            parse_duration("3652501d")

    @given(st.integers(min_value=1, max_value=DURATION_US_MAX))
    def test_a_formatted_duration_reads_back(self, duration_us: int) -> None:
        assert parse_duration(format_duration(duration_us)) == duration_us

    @pytest.mark.parametrize(
        ("duration_us", "text"),
        [(0, "0s"), (90 * MINUTE_US, "1h30m"), (7 * DAY_US, "7d"), (-SECOND_US, "-1s"), (1, "1us")],
    )
    def test_formatting(self, duration_us: int, text: str) -> None:
        assert format_duration(duration_us) == text


class TestInstants:
    @pytest.mark.parametrize(
        ("value", "instant_us"),
        [
            (datetime(1970, 1, 1, 0, 0, 1), SECOND_US),  # noqa: DTZ001 — naive is UTC
            (datetime(1970, 1, 1, tzinfo=UTC), 0),
            (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
            (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
            (date(1970, 1, 2), DAY_US),
            ("1970-01-01T00:00:01Z", SECOND_US),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1970-01-02", DAY_US),
            (5, 5),
            (INSTANT_US_MIN, INSTANT_US_MIN),
            (INSTANT_US_MAX, INSTANT_US_MAX),
        ],
    )
    def test_what_is_an_instant(self, value: Any, instant_us: int) -> None:
        assert to_us(value) == instant_us

    @pytest.mark.parametrize("value", [True, 1.5, None, "noon", "2013-13-01", [], b"2013-01-01"])
    def test_what_is_none(self, value: Any) -> None:
        with pytest.raises(InvalidRequest, match="is not an instant"):
            to_us(value)

    @pytest.mark.parametrize(
        "value",
        [
            INSTANT_US_MIN - 1,
            INSTANT_US_MAX + 1,
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
        ],
    )
    def test_instants_that_no_datetime_can_show_are_refused(self, value: Any) -> None:
        with pytest.raises(InvalidRequest, match="outside the years 1 to 9999"):
            to_us(value)

    @given(st.integers(min_value=INSTANT_US_MIN, max_value=INSTANT_US_MAX))
    def test_an_instant_reads_back(self, instant_us: int) -> None:
        assert to_us(to_datetime(instant_us)) == instant_us
        assert to_us(format_instant(instant_us)) == instant_us

    def test_formatting(self) -> None:
        assert format_instant(0) == "1970-01-01T00:00:00Z"
        assert format_instant(1) == "1970-01-01T00:00:00.000001Z"


class TestClocks:
    def test_the_system_clock_is_now(self) -> None:
        before = time.time_ns() // 1_000
        assert before <= SystemClock().now_us() <= time.time_ns() // 1_000

    def test_a_manual_clock_stands_still_until_it_is_moved(self) -> None:
        clock = ManualClock(5)
        assert (clock.now_us(), clock.now_us()) == (5, 5)
        clock.advance(SECOND_US)
        assert clock.now_us() == 5 + SECOND_US

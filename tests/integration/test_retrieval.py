"""Training sets through the facade: entity frames of every form, names, types, errors, and random
repositories beside the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from case_repository import (
    TIME,
    arrow_frame,
    as_defined,
    entity_rows,
    frame_dtypes,
    uses_of,
    write_data,
    write_definitions,
)
from pyarrow import parquet

from featurestore import FeatureStore
from featurestore.errors import (
    FeatureStoreError,
    InvalidEntityFrame,
    InvalidJoinKey,
    InvalidRequest,
    MissingJoinKey,
    NameClash,
    SourceMissing,
    UnknownFeature,
    UnknownService,
    UnknownView,
)
from featurestore.jobs.known_time import KnownTimeWarning
from featurestore.statuses import Status
from featurestore.testing.compare import check_same_rows
from featurestore.testing.data import make_case, seeded, to_rows
from featurestore.testing.oracle import training_rows
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

BIG = 2**53 + 1
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource, SqlSource

airport = Entity("airport")
route = Entity("route", join_keys={"origin": "string", "dest": "string"})
gate = Entity("gate", join_keys={"number": "int64"})

weather = FileSource("weather", "data/weather.parquet", "observed_at", "published_at", op="op")
hot = SqlSource("hot", "SELECT * FROM weather WHERE temp > 25", "observed_at", "published_at")
delays = FileSource("delays", "data/delays.parquet", "at")
gates = FileSource("gates", "data/gates.parquet", "at")
world = FileSource("world", "data/world.parquet", "at")

sky = FeatureView("sky", airport, weather, ttl="3h", grace="1h", features=[
    Feature("temp"), Feature("wind_kts", "wind * 0.868976"), Feature("events"),
])
heat = FeatureView("heat", airport, hot, features=[Feature("temp")])
route_delay = FeatureView("route_delay", route, delays, features=[Feature("delay")])
gate_state = FeatureView("gate_state", gate, gates, features=[Feature("state")])
globe = FeatureView("globe", source=world, features=[Feature("year"), Feature("event_timestamp")])

flight = FeatureService("flight", features=[
    sky.with_name("here").with_join_key_map({"airport": "origin"}),
    sky[["temp"]].with_join_key_map({"airport": "dest"}).with_name("there"),
    route_delay,
])
simple = FeatureService("simple", features=[sky[["temp", "events"]]])
"""


def at(hour: float, minute: int = 0) -> datetime:
    return utc(2024, 5, 1) + timedelta(hours=hour, minutes=minute)


def observation(
    airport: str | None, hour: float, known: float, temp: float | None, **more: Any
) -> dict[str, Any]:
    row = {"airport": airport, "observed_at": at(hour), "published_at": at(known), "temp": temp}
    return row | {"wind": 10.0, "events": BIG, "op": None} | more


@pytest.fixture
def airports(make_repo: MakeRepo) -> Iterator[FeatureStore]:
    folder = make_repo(DEFINITIONS)
    write_rows(
        folder / "data/weather.parquet",
        [
            observation("EWR", 10, 10.5, 20.0),
            observation("EWR", 11, 13, 22.0, events=None),
            observation("EWR", 12, 12, 24.0, wind=float("nan")),
            observation("JFK", 10, 10, 30.0),
            observation("JFK", 11, 11, None, op="D"),
            observation(None, 11, 11, 99.0),
        ],
        {
            "airport": pa.string(),
            "observed_at": INSTANT,
            "published_at": INSTANT,
            "temp": pa.float64(),
            "wind": pa.float64(),
            "events": pa.int64(),
            "op": pa.string(),
        },
    )
    write_rows(
        folder / "data/delays.parquet",
        [
            {"origin": "EWR", "dest": "JFK", "at": at(9), "delay": 5},
            {"origin": "JFK", "dest": "EWR", "at": at(9), "delay": 7},
        ],
        {"origin": pa.string(), "dest": pa.string(), "at": INSTANT, "delay": pa.int32()},
    )
    write_rows(
        folder / "data/gates.parquet",
        [{"number": BIG, "at": at(9), "state": "open"}, {"number": 3, "at": at(9), "state": "?"}],
        {"number": pa.int64(), "at": INSTANT, "state": pa.string()},
    )
    write_rows(
        folder / "data/world.parquet",
        [{"at": at(9), "year": 2024, "event_timestamp": 1}],
        {"at": INSTANT, "year": pa.int64(), "event_timestamp": pa.int64()},
    )
    with FeatureStore(folder) as store:
        yield store


def asked(*rows: tuple[Any, ...], names: tuple[str, ...] = ("airport", TIME)) -> pa.Table:
    """An Arrow frame of rows."""
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


HOURS = asked(
    ("EWR", at(12, 30)), ("EWR", at(10)), ("JFK", at(10)), ("EWR", at(12, 30)), ("SFO", at(12))
)
TEMPS = [24.0, None, 30.0, 24.0, None]


# --- forms of entity frames -----------------------------------------------------------------------


def parquet_path(frame: pa.Table, folder: Path) -> str:
    path = folder / "frame.parquet"
    parquet.write_table(frame, path)
    return str(path)


FORMS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "arrow": lambda frame, folder: frame,
    "batch": lambda frame, folder: frame.combine_chunks().to_batches()[0],
    "reader": lambda frame, folder: frame.to_reader(max_chunksize=2),
    "pandas": lambda frame, folder: frame.to_pandas(),
    "polars": lambda frame, folder: pl.from_arrow(frame),
    "lazy polars": lambda frame, folder: pl.DataFrame(pl.from_arrow(frame)).lazy(),
    "path": lambda frame, folder: Path(parquet_path(frame, folder)),
    "text path": parquet_path,
    "text times": lambda frame, folder: frame.set_column(
        1, TIME, pa.array([str(time.as_py()) for time in frame[TIME]])
    ),
    "nanoseconds": lambda frame, folder: frame.set_column(
        1, TIME, frame[TIME].cast(pa.timestamp("ns", tz="America/New_York"))
    ),
    "naive": lambda frame, folder: frame.set_column(1, TIME, frame[TIME].cast(pa.timestamp("us"))),
    "dictionary": lambda frame, folder: frame.set_column(
        0, "airport", frame["airport"].dictionary_encode()
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_entity_frame_gives_the_same(
    airports: FeatureStore, tmp_path: Path, form: str
) -> None:
    job = airports.get_historical_features(FORMS[form](HOURS, tmp_path), ["sky:temp"])
    found = job.to_arrow()
    assert found.column_names == ["airport", TIME, "temp"]
    assert found.column("airport").to_pylist() == HOURS.column("airport").to_pylist()
    assert found.column("temp").to_pylist() == TEMPS
    if form != "reader":
        assert job.to_arrow().equals(found)


def test_an_entity_frame_in_sql(airports: FeatureStore) -> None:
    query = """
        SELECT airport, observed_at + INTERVAL 1 HOUR AS event_timestamp, temp AS was
        FROM weather WHERE airport IS NOT NULL ORDER BY airport, observed_at
    """
    rows = airports.get_historical_features(query, ["sky:temp"]).to_arrow().to_pylist()
    assert [(row["airport"], row[TIME], row["was"], row["temp"]) for row in rows] == [
        ("EWR", at(11), 20.0, 20.0),
        ("EWR", at(12), 22.0, 24.0),
        ("EWR", at(13), 24.0, 24.0),
        ("JFK", at(11), 30.0, None),
        ("JFK", at(12), None, None),
    ]


def test_times_of_mixed_zones(airports: FeatureStore) -> None:
    newark = timezone(timedelta(hours=-4))
    times = [at(12, 30).astimezone(newark), at(10), at(10).replace(tzinfo=None)]
    for values in (times, [time.isoformat() for time in times]):
        frame = pd.DataFrame(
            {"airport": ["EWR", "JFK", "JFK"], TIME: pd.Series(values, dtype=object)}
        )
        found = airports.get_historical_features(frame, ["sky:temp"]).to_pandas()
        assert found["temp"].to_list() == [24.0, 30.0, 30.0]
        instants = pd.to_datetime(found[TIME], utc=True, format="ISO8601").to_list()
        assert instants == [at(12, 30), at(10), at(10)]


def test_a_frame_of_no_rows(airports: FeatureStore, tmp_path: Path) -> None:
    empty = HOURS.slice(0, 0)
    for form in ("arrow", "pandas", "polars", "path"):
        found = airports.get_historical_features(FORMS[form](empty, tmp_path), "simple").to_arrow()
        assert (found.num_rows, found.column_names) == (0, ["airport", TIME, "temp", "events"])


@pytest.mark.parametrize("frame", [42, None, [{"airport": "EWR"}], "no/such.parquet"], ids=str)
def test_what_is_no_entity_frame(airports: FeatureStore, frame: Any) -> None:
    with pytest.raises(InvalidEntityFrame):
        airports.get_historical_features(frame, "simple").to_arrow()


def test_another_time_column(airports: FeatureStore) -> None:
    frame = HOURS.rename_columns(["airport", "when"])
    job = airports.get_historical_features(frame, "simple", event_timestamp="when")
    assert job.to_arrow().column("temp").to_pylist() == TEMPS
    with pytest.raises(InvalidEntityFrame, match="event_timestamp"):
        airports.get_historical_features(frame, "simple")


def test_a_null_time_is_refused(airports: FeatureStore) -> None:
    job = airports.get_historical_features(asked(("EWR", at(12)), ("EWR", None)), "simple")
    with pytest.raises(InvalidEntityFrame, match="row 1"):
        job.to_arrow()


@pytest.mark.parametrize(
    "times",
    [pa.array([1, 2]), pa.array([datetime(2024, 5, 1, tzinfo=UTC).date()] * 2), ["noon", "2024"]],
    ids=["ints", "dates", "words"],
)
def test_times_that_are_none(airports: FeatureStore, times: Any) -> None:
    frame = pa.table({"airport": ["EWR", "EWR"], TIME: times})
    with pytest.raises(InvalidEntityFrame, match=TIME):
        airports.get_historical_features(frame, "simple").to_arrow()


# --- keys -----------------------------------------------------------------------------------------


def test_null_keys_are_not_found_and_keep_their_rows(airports: FeatureStore) -> None:
    frame = asked((None, at(12)), ("EWR", at(12)), (None, at(12)))
    job = airports.get_historical_features(frame, ["sky:temp", "globe:year"], include_status=True)
    found = job.to_arrow()
    assert found.column("temp").to_pylist() == [None, 24.0, None]
    assert found.column("year").to_pylist() == [2024, 2024, 2024]
    assert found.column("sky__status").to_pylist() == ["NOT_FOUND", "PRESENT", "NOT_FOUND"]


def test_a_missing_key(airports: FeatureStore) -> None:
    with pytest.raises(MissingJoinKey, match="'airport', needed by sky"):
        airports.get_historical_features(asked((at(12),), names=(TIME,)), "simple")
    with pytest.raises(MissingJoinKey, match="'origin'"):
        airports.get_historical_features(HOURS, "flight", full_feature_names=True)


@pytest.mark.parametrize("airport", [1, True, b"EWR", at(1)], ids=repr)
def test_a_key_of_another_type(airports: FeatureStore, airport: Any) -> None:
    with pytest.raises(InvalidJoinKey, match="airport"):
        airports.get_historical_features(asked((airport, at(12))), "simple")


def test_whole_floats_are_integer_keys(airports: FeatureStore) -> None:
    frame = pd.DataFrame({"number": [3.0, None, 4.0], TIME: [at(12)] * 3})
    found = airports.get_historical_features(frame, ["gate_state:state"]).to_arrow()
    assert found.column("state").to_pylist() == ["?", None, None]
    exact = pa.table({"number": pa.array([BIG, BIG - 1, None]), TIME: [at(12)] * 3})
    found = airports.get_historical_features(exact, ["gate_state:state"]).to_arrow()
    assert found.column("state").to_pylist() == ["open", None, None]


@pytest.mark.parametrize("number", [1.5, 2.0**54, float("inf")])
def test_floats_that_are_no_integers_are_no_keys(airports: FeatureStore, number: float) -> None:
    frame = asked((3.0, at(12)), (number, at(12)), names=("number", TIME))
    with pytest.raises(InvalidJoinKey, match="row 1"):
        airports.get_historical_features(frame, ["gate_state:state"]).to_arrow()


def test_composite_keys_and_aliases(airports: FeatureStore) -> None:
    names = ("origin", "dest", TIME)
    frame = asked(("EWR", "JFK", at(10, 45)), ("JFK", "EWR", at(10, 45)), names=names)
    job = airports.get_historical_features(
        frame, "flight", full_feature_names=True, include_status=True
    )
    assert job.to_arrow().drop_columns(list(names)).to_pylist() == [
        {
            "here__temp": 20.0,
            "here__wind_kts": pytest.approx(8.68976),
            "here__events": BIG,
            "there__temp": 30.0,
            "route_delay__delay": 5,
            "here__status": "PRESENT",
            "there__status": "PRESENT",
            "route_delay__status": "PRESENT",
        },
        {
            "here__temp": 30.0,
            "here__wind_kts": pytest.approx(8.68976),
            "here__events": BIG,
            "there__temp": 20.0,
            "route_delay__delay": 7,
            "here__status": "PRESENT",
            "there__status": "PRESENT",
            "route_delay__status": "PRESENT",
        },
    ]


# --- time -----------------------------------------------------------------------------------------


def temps(store: FeatureStore, *frame: tuple[str, datetime], **options: Any) -> list[Any]:
    found = store.get_historical_features(
        asked(*frame), ["sky:temp"], include_status=True, **options
    ).to_arrow()
    return list(zip(found["temp"].to_pylist(), found["sky__status"].to_pylist(), strict=True))


@pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning")
def test_known_time_event_time_and_known_until(airports: FeatureStore) -> None:
    present = "PRESENT"
    assert temps(airports, ("EWR", at(11, 30))) == [(20.0, present)]
    assert temps(airports, ("EWR", at(11, 30)), as_of="event") == [(22.0, present)]
    assert temps(airports, ("EWR", at(11, 30)), as_of="event", known_until=at(12)) == [
        (20.0, present)
    ]
    assert temps(airports, ("EWR", at(13)), known_until="2024-05-01T11:59:59Z") == [(20.0, present)]
    assert temps(airports, ("EWR", at(10, 29))) == [(None, "NOT_FOUND")]
    assert temps(airports, ("JFK", at(11))) == [(None, "NOT_FOUND")]


def test_ttl_and_grace(airports: FeatureStore) -> None:
    microsecond = timedelta(microseconds=1)
    assert temps(
        airports,
        ("EWR", at(15)),
        ("EWR", at(15) + microsecond),
        ("EWR", at(16)),
        ("EWR", at(16) + microsecond),
        ("EWR", at(12)),
    ) == [
        (24.0, "PRESENT"),
        (None, "OUTSIDE_MAX_AGE"),
        (None, "OUTSIDE_MAX_AGE"),
        (None, "NOT_FOUND"),
        (24.0, "PRESENT"),
    ]


def test_an_unknown_as_of(airports: FeatureStore) -> None:
    with pytest.raises(InvalidRequest, match='"known" or "event"'):
        airports.get_historical_features(HOURS, "simple", as_of="now")  # type: ignore[arg-type]


def test_a_history_loaded_in_bulk_is_warned_about(airports: FeatureStore) -> None:
    frame = asked(*[("EWR", at(10, minute)) for minute in range(20)])
    with pytest.warns(KnownTimeWarning, match=r"weather\.published_at"):
        airports.get_historical_features(frame, ["sky:temp"]).to_arrow()
    airports.get_historical_features(frame, ["sky:temp"], as_of="event").to_arrow()


# --- names ----------------------------------------------------------------------------------------


def test_a_service_a_view_and_references(airports: FeatureStore) -> None:
    for features, names in (
        ("simple", ["temp", "events"]),
        (["sky"], ["temp", "wind_kts", "events"]),
        (["sky:events", "sky:temp"], ["events", "temp"]),
        (["globe:year", "sky:temp"], ["year", "temp"]),
    ):
        job = airports.get_historical_features(HOURS, features)
        assert list(job.features) == names
        assert job.to_arrow().column_names == ["airport", TIME, *names]
        assert job.schema.names == ["airport", TIME, *names]


@pytest.mark.parametrize(
    ("features", "error"),
    [
        ("simpel", UnknownService),
        (["sky:tmp"], UnknownFeature),
        (["ski:temp"], UnknownView),
        ([], FeatureStoreError),
    ],
    ids=str,
)
def test_unknown_features(
    airports: FeatureStore, features: Any, error: type[FeatureStoreError]
) -> None:
    with pytest.raises(error):
        airports.get_historical_features(HOURS, features)


def test_names_that_clash(airports: FeatureStore) -> None:
    with pytest.raises(NameClash, match="temp"):
        airports.get_historical_features(HOURS, ["sky:temp", "heat:temp"])
    with pytest.raises(NameClash, match="temp"):
        airports.get_historical_features(HOURS.append_column("temp", [[0] * 5]), "simple")
    with pytest.raises(NameClash, match=TIME):
        airports.get_historical_features(HOURS, ["globe"])
    both = airports.get_historical_features(
        HOURS, ["sky:temp", "heat:temp", "globe:event_timestamp"], full_feature_names=True
    ).to_arrow()
    assert both.column_names[2:] == ["sky__temp", "heat__temp", "globe__event_timestamp"]
    assert both.column("heat__temp").to_pylist() == [None, None, 30.0, None, None]


# --- what comes out -------------------------------------------------------------------------------


def test_the_frame_comes_through_untouched(airports: FeatureStore) -> None:
    extra = {
        "rn": pa.array([BIG, None, 1, 2, 3]),
        "select": pa.array([[1], None, [], [None], [2]]),
        "row_id": pa.array([float("nan"), -0.0, 1.0, None, 2.0]),
        "größe": pa.array([{"a": 1}] * 5),
        "label": pa.array([True, None, False, True, True]),
    }
    frame = HOURS
    for name, values in extra.items():
        frame = frame.append_column(name, values)
    found = airports.get_historical_features(frame, "simple").to_arrow()
    own = found.select(frame.column_names)
    assert own.schema == frame.schema
    assert repr(own.to_pylist()) == repr(frame.to_pylist())


def test_integers_beside_nulls_stay_exact(airports: FeatureStore) -> None:
    frame = asked(("EWR", at(10, 45)), ("SFO", at(10, 45)))
    job = airports.get_historical_features(frame, ["sky:events", "sky:temp"])
    assert job.to_arrow().column("events").to_pylist() == [BIG, None]
    assert job.to_polars()["events"].to_list() == [BIG, None]
    pandas = job.to_pandas()
    assert str(pandas["events"].dtype) == "Int64"
    assert int(pandas["events"][0]) == BIG
    assert pandas["events"].isna().to_list() == [False, True]


def test_nan_reads_as_null(airports: FeatureStore) -> None:
    found = airports.get_historical_features(asked(("EWR", at(12))), ["sky:wind_kts", "sky:temp"])
    assert found.to_arrow().select(["wind_kts", "temp"]).to_pylist() == [
        {"wind_kts": None, "temp": 24.0}
    ]


def test_batches_and_files(airports: FeatureStore, tmp_path: Path) -> None:
    job = airports.get_historical_features(HOURS, "simple")
    batches = list(job.to_batches(2))
    assert [batch.num_rows for batch in batches] == [2, 2, 1]
    assert pa.Table.from_batches(batches).equals(job.to_arrow())
    job.to_parquet(tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").equals(job.to_arrow())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["out.parquet"]


def test_explain_and_pins(airports: FeatureStore) -> None:
    job = airports.get_historical_features(HOURS, ["heat:temp", "globe:year"])
    assert "ASOF" in job.explain()
    assert list(job.pins) == ["weather", "world"]


def test_the_source_report_counts_what_is_skipped(airports: FeatureStore) -> None:
    [report] = airports.get_historical_features(HOURS, "simple").source_report()
    assert report.source == "weather"
    assert report.null_keys == 1
    assert report.null_event_times == 0


def test_a_source_that_went_away(airports: FeatureStore) -> None:
    job = airports.get_historical_features(HOURS, "simple")
    (airports.settings.root / "data/weather.parquet").unlink()
    with pytest.raises(SourceMissing, match="weather"):
        job.to_arrow()


# --- random repositories beside the oracle --------------------------------------------------------


@pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning")
@pytest.mark.filterwarnings("ignore::featurestore.jobs.source_report.NullCreatedTimeWarning")
@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 20))]
)
def test_random_repositories_agree_with_the_oracle(tmp_path: Path, seed: int) -> None:
    choose = seeded(seed)
    cases = [as_defined(make_case(choose)) for _ in range(4)]
    write_definitions(tmp_path, cases)
    for number, case in enumerate(cases):
        write_data(tmp_path, number, case)
    rows = entity_rows(choose, cases, 40)
    frame = arrow_frame(rows, frame_dtypes(cases))
    uses = uses_of(cases, [case.settled() for case in cases])
    with FeatureStore(tmp_path) as store:
        for as_of in ("known", "event"):
            until_us = random.Random(seed).choice([None, rows[0][TIME]])
            job = store.get_historical_features(
                frame, "everything", as_of=as_of, known_until=until_us,
                full_feature_names=True, include_status=True,
            )  # fmt: skip
            found = to_rows(job.to_arrow())
            expected = training_rows(rows, uses, as_of=as_of, known_until_us=until_us)
            for one, other in zip(found, expected, strict=True):
                for number in range(len(cases)):
                    other[f"v{number}__status"] = Status(other[f"v{number}__status"]).name
                assert set(one) == set(other)
                check_same_rows([one], [other], seed)

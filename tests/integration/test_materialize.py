"""Materialization through the facade, on LMDB: what runs read, write and leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.errors import InvalidRequest, NotApplied, UnknownService, UnknownView
from featurestore.jobs.online_tables import SERVED_LATELY_US
from featurestore.jobs.source_report import NullCreatedTimeWarning
from featurestore.timeline import DAY_US, HOUR_US, ManualClock, SystemClock
from tests.conftest import INSTANT, MakeRepo, write_rows

# A whole hour near the present: Redis expires rows by its own clock, which the tests do not move.
NOON = SystemClock().now_us() // HOUR_US * HOUR_US
TYPES = {
    "driver": pa.string(),
    "at": INSTANT,
    "known_at": INSTANT,
    "trips": pa.int64(),
    "rating": pa.float64(),
    "op": pa.string(),
}
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

driver = Entity("driver")
trips = FileSource(
    "trips", path="data/*.parquet", event_time="at", created_time="known_at", op="op",
    lateness="2h",
)
stats = FeatureView(
    "stats", entities=[driver], source=trips, ttl="2d",
    features=[Feature("trips"), Feature("stars", "rating * 2")],
)
totals = FeatureView("totals", entities=[driver], source=trips, features=[Feature("trips")])
scoring = FeatureService("scoring", features=[stats])
both = FeatureService("both", features=[stats, totals.with_name("ever")[["trips"]]])
"""


def row(driver: str, at_us: int, trips: int | None, **more: Any) -> dict[str, Any]:
    return {"driver": driver, "at": at_us, "known_at": at_us, "trips": trips} | more


class Shop:
    """A repository of drivers, with a clock that the test moves."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.folder = folder
        self.clock = ManualClock(NOON)
        self.overrides = overrides
        self.files = 0
        self.fs = self.open()

    def open(self) -> FeatureStore:
        return FeatureStore(self.folder, clock=self.clock, overrides=self.overrides)

    def land(self, *rows: dict[str, Any]) -> None:
        self.files += 1
        write_rows(self.folder / "data" / f"{self.files}.parquet", rows, TYPES)

    def look(self, driver: str, service: str = "scoring") -> dict[str, tuple[Any, str]]:
        # A new store sees every alias as it is now.
        with self.open() as fs:
            answer = fs.get_online_features(service, [{"driver": driver}])
            values = answer.to_dict()
            return {name: (values[name][0], answer.statuses[name][0]) for name in answer.statuses}


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def shop(request: pytest.FixtureRequest, make_repo: MakeRepo) -> Iterator[Shop]:
    overrides = {}
    if request.param == "redis":
        valkey: RedisServer = request.getfixturevalue("valkey")
        valkey.command("FLUSHALL")
        overrides["online.url"] = valkey.url
    made = Shop(make_repo(DEFINITIONS), **overrides)
    made.land(
        row("ann", NOON - HOUR_US, 7, rating=4.5),
        row("bob", NOON - 3 * DAY_US, 5, rating=None),
        row("cyd", NOON - HOUR_US, None, rating=1.0),
    )
    yield made
    made.fs.close()


def test_the_first_run_serves_what_is_known_with_statuses(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    assert shop.look("ann") == {"trips": (7, "PRESENT"), "stars": (9.0, "PRESENT")}
    assert shop.look("bob") == {
        "trips": (None, "OUTSIDE_MAX_AGE"),
        "stars": (None, "OUTSIDE_MAX_AGE"),
    }
    assert shop.look("cyd") == {"trips": (None, "NULL_VALUE"), "stars": (2.0, "PRESENT")}
    assert shop.look("nobody")["trips"] == (None, "NOT_FOUND")


def test_statuses_follow_the_clock_without_another_run(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    shop.clock.advance(2 * DAY_US - HOUR_US)
    assert shop.look("ann")["trips"] == (7, "PRESENT"), "an age of exactly ttl is not too old"
    shop.clock.advance(1)
    assert shop.look("ann")["trips"] == (None, "OUTSIDE_MAX_AGE")
    shop.clock.advance(2 * DAY_US - 1)
    assert shop.look("ann")["trips"] == (None, "OUTSIDE_MAX_AGE")
    shop.clock.advance(1)
    assert shop.look("ann")["trips"] == (None, "NOT_FOUND")


def test_incremental_runs_take_late_rows_and_older_rows_never_win(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    shop.clock.advance(HOUR_US)
    shop.land(
        row("ann", NOON - 2 * HOUR_US, 1, rating=1.0, known_at=NOON + 1),
        row("dan", NOON - DAY_US, 3, rating=1.0, known_at=NOON + 1),
    )
    (stats, _) = shop.fs.materialize()
    assert stats.mode == "incremental"
    assert stats.start_us == NOON
    assert shop.look("ann")["trips"] == (7, "PRESENT")
    assert shop.look("dan")["trips"] == (3, "PRESENT")


def test_rows_that_are_not_known_yet_are_not_served(shop: Shop) -> None:
    shop.fs.apply()
    shop.land(row("ann", NOON - 1, 99, rating=5.0, known_at=NOON + HOUR_US))
    shop.fs.materialize()
    assert shop.look("ann")["trips"] == (7, "PRESENT")
    shop.clock.advance(HOUR_US)
    shop.fs.materialize()
    assert shop.look("ann")["trips"] == (99, "PRESENT")


def test_a_correction_with_a_greater_created_time_wins_and_a_tombstone_deletes(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    shop.clock.advance(HOUR_US)
    shop.land(
        row("ann", NOON - HOUR_US, 8, rating=4.5, known_at=NOON + 1),
        row("cyd", NOON - HOUR_US, None, known_at=NOON + 1, op="D"),
    )
    shop.fs.materialize()
    assert shop.look("ann")["trips"] == (8, "PRESENT")
    assert shop.look("cyd")["stars"] == (None, "NOT_FOUND")


def test_a_tie_that_lands_later_is_settled_by_the_tiebreak(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    shop.land(
        row("ann", NOON - HOUR_US, 7, rating=4.0),
        row("cyd", NOON - HOUR_US, 1, rating=0.5),
    )
    shop.fs.materialize()
    with_offline = shop.fs.verify()
    assert with_offline.rate == 1.0, with_offline.differences
    assert shop.look("ann")["stars"] == (9.0, "PRESENT"), "4.0 is less than 4.5: the old row stays"
    assert shop.look("cyd")["stars"] == (2.0, "PRESENT"), "0.5 is less than 1.0"
    shop.land(row("ann", NOON - HOUR_US, 7, rating=4.75))
    shop.fs.materialize()
    assert shop.look("ann")["stars"] == (9.5, "PRESENT")


def test_replace_repairs_rows_that_left_the_source(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    write_rows(
        shop.folder / "data" / "1.parquet", [row("ann", NOON - DAY_US, 2, rating=1.0)], TYPES
    )
    shop.fs.materialize()
    assert shop.look("ann")["trips"] == (7, "PRESENT")
    report = shop.fs.verify()
    assert report.rate < 1.0
    causes = {d.key["driver"]: d.cause.partition(":")[0] for d in report.differences}
    assert causes.pop("ann") == "online is newer"
    assert causes, "keys that have vanished from the source are looked at, too"
    assert set(causes.values()) == {"online only"}
    rows = shop.fs.materialize(replace=True)
    assert {r.generation for r in rows} == {1}
    assert shop.look("ann")["trips"] == (2, "PRESENT")
    assert shop.look("cyd")["trips"] == (None, "NOT_FOUND")
    assert shop.fs.verify().rate == 1.0


def test_a_sweep_waits_for_the_servers_to_swap(shop: Shop) -> None:
    """They answer from the plan before until they have seen that another one is in force."""
    shop.fs.apply()
    shop.fs.materialize()
    with shop.open() as server:
        ask = partial(server.get_online_features, "scoring", [{"driver": "ann"}])
        assert ask().to_dict()["trips"] == [7]
        shop.fs.materialize(replace=True)
        assert shop.fs.sweep() == 0
        assert ask().to_dict()["trips"] == [7]
    shop.clock.advance(SERVED_LATELY_US + 1)
    assert shop.fs.sweep() > 0
    assert shop.look("ann")["trips"] == (7, "PRESENT")


def test_an_interval_goes_by_event_time(shop: Shop) -> None:
    shop.fs.apply()
    (stats, _) = shop.fs.materialize(start=NOON - 2 * HOUR_US, end=NOON)
    assert (stats.mode, stats.watermark_us, stats.rows_written) == ("interval", None, 2)
    with pytest.raises(UnknownService):
        shop.look("ann")
    with pytest.raises(InvalidRequest, match="empty"):
        shop.fs.materialize(start=NOON, end=NOON)


def test_a_service_is_served_when_every_view_of_it_is_complete(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize(["stats"])
    assert shop.look("ann")["trips"] == (7, "PRESENT")
    with pytest.raises(UnknownService):
        shop.look("ann", "both")
    shop.fs.materialize(["totals"])
    with shop.open() as fs:
        answer = fs.get_online_features("both", [{"driver": "bob"}], full_feature_names=True)
    assert answer.to_dict()["ever__trips"] == [5]


def test_a_longer_ttl_is_not_served_before_its_reach_is_written(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    file = shop.folder / "definitions.py"
    file.write_text(file.read_text().replace('ttl="2d"', 'ttl="5d"'))
    with shop.open() as changed:
        changed.apply()
        assert shop.look("bob")["trips"] == (None, "OUTSIDE_MAX_AGE"), "still the old version"
        changed.materialize()
    assert shop.look("bob")["trips"] == (5, "PRESENT")


def test_what_is_not_applied_is_not_materialized(shop: Shop) -> None:
    with pytest.raises(NotApplied, match="stats, totals"):
        shop.fs.materialize()
    shop.fs.apply()
    with pytest.raises(UnknownView, match="Did you mean 'stats'"):
        shop.fs.materialize(["statz"])


def test_verify_is_exact_and_tells_the_lag(shop: Shop) -> None:
    shop.fs.apply()
    assert {view.note for view in shop.fs.verify().views} == {"not materialized"}
    shop.fs.materialize()
    shop.clock.advance(3 * HOUR_US)
    report = shop.fs.verify()
    assert (report.rate, report.values, report.differences) == (1.0, 9, ())
    assert {view.lag for view in report.views} == {"3h"}


def test_verify_of_a_store_that_holds_no_row(shop: Shop) -> None:
    (shop.folder / "data" / "1.parquet").unlink()
    shop.land(row("ann", NOON - 10 * DAY_US, 1))
    shop.fs.apply()
    shop.fs.materialize(["stats"])
    assert shop.fs.verify("scoring").rate == 1.0


def test_verify_names_the_cause_of_each_difference(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    shop.clock.advance(4 * HOUR_US)
    shop.fs.materialize()
    # A file lands later than the source's lateness allows, another is overwritten in place.
    shop.land(row("eve", NOON, 1, rating=1.0), row("bob", NOON, 6, rating=1.0))
    rows = [row("ann", NOON - HOUR_US, 70, rating=4.5), row("bob", NOON - 3 * DAY_US, 5)]
    write_rows(shop.folder / "data" / "1.parquet", rows, TYPES)
    shop.clock.advance(4 * HOUR_US)
    report = shop.fs.verify()
    causes = {
        (d.view, d.key["driver"], d.feature): d.cause.partition(":")[0]
        for d in report.differences
        if d.view == "totals"
    }
    assert causes == {
        ("totals", "ann", "trips"): "restated",
        ("totals", "bob", "trips"): "online is older",
        ("totals", "eve", "trips"): "offline only",
        ("totals", "cyd", "trips"): "online only",
    }
    assert report.equal < report.values


def test_a_store_of_another_url_starts_from_nothing(shop: Shop) -> None:
    shop.fs.apply()
    shop.fs.materialize()
    moved = Shop(shop.folder, **{"online.url": "lmdb:.featurestore/elsewhere"})
    (stats, _) = moved.fs.materialize()
    assert stats.rows_written == 3
    assert moved.look("ann")["trips"] == (7, "PRESENT")
    moved.fs.close()


def test_values_without_a_result_are_counted(shop: Shop) -> None:
    text = shop.folder / "definitions.py"
    text.write_text(
        text.read_text().replace(
            'Feature("stars", "rating * 2")',
            'Feature("per_trip", "rating / trips"), Feature("safe", "coalesce(1 / trips, 0)"), '
            'Feature("more", "trips + 9223372036854775807")',
        )
    )
    shop.fs = shop.open()
    shop.fs.apply()
    shop.land(
        row("ann", NOON - HOUR_US // 2, 0, rating=4.5),  # no result per trip
        row("dan", NOON - HOUR_US, 0, rating=None),  # NULL, as one is NULL
        row("eve", NOON - HOUR_US, 0, rating=1.0),  # no result per trip
        row("fay", NOON - HOUR_US, 1, rating=1.0),  # too many, as bob's are
    )
    (stats, totals) = shop.fs.materialize()
    assert (stats.values_undefined, totals.values_undefined) == (4, 0)
    assert shop.look("ann")["per_trip"] == (None, "NULL_VALUE")
    assert shop.fs.registry.ledger(view="stats")[-1].values_undefined == 4
    frame = pa.table({"driver": ["ann"], "event_timestamp": pa.array([NOON], INSTANT)})
    (report,) = shop.fs.get_historical_features(frame, "scoring").source_report()
    # Of all rows, so that ann's first one counts as well.
    assert report.undefined_values == {"per_trip": 2, "safe": 0, "more": 3}


def test_rows_without_times_or_keys_are_counted(shop: Shop) -> None:
    shop.fs.apply()
    shop.land(
        row("", NOON - HOUR_US, 1) | {"driver": None},
        row("fay", NOON - HOUR_US, 1) | {"at": None},
        row("gus", NOON - HOUR_US, 2) | {"known_at": None},
    )
    with pytest.warns(NullCreatedTimeWarning, match="1 of 6 rows of source 'trips'"):
        (stats, _) = shop.fs.materialize()
    assert stats.rows_skipped == 2
    assert shop.look("gus")["trips"] == (2, "PRESENT")

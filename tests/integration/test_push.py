"""Push through the facade: what is readable, what is kept, and what is refused whole."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.errors import (
    InvalidRequest,
    InvalidRows,
    LimitExceeded,
    NotApplied,
    ServerOverloaded,
    StoreTimeout,
    StoreUnavailable,
    UnknownSource,
)
from featurestore.jobs.push import Pusher, PushResult
from featurestore.stores.offline.wal import log_files
from featurestore.timeline import HOUR_US, MINUTE_US, SECOND_US, ManualClock, SystemClock
from tests.conftest import INSTANT, write_rows

pytestmark = pytest.mark.slow

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
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource, SqlSource

driver = Entity("driver")
trips = FileSource(
    "trips", path="data/trips/*.parquet", event_time="at", created_time="known_at", op="op",
    field_mapping={"ride": "trips"} if MAPPED else {},
)
plain = FileSource("plain", path="data/plain.csv", event_time="at", event_id="id")
many = SqlSource(
    "many", "SELECT * FROM trips WHERE trips > 5", event_time="at", created_time="known_at",
)
stats = FeatureView(
    "stats", entities=[driver], source=trips, ttl="2d",
    features=[Feature("trips"), Feature("stars", "rating * 2")],
)
seen = FeatureView("seen", entities=[driver], source=plain, features=[Feature("place")])
busy = FeatureView("busy", entities=[driver], source=many, features=[Feature("trips")])
scoring = FeatureService("scoring", features=[stats])
places = FeatureService("places", features=[seen])
"""

MORE = """
more = FeatureView("more", entities=[driver], source=trips, features=[Feature("trips")])
later = FeatureService("later", features=[more])
"""


class Shop:
    """A repository of drivers, materialized, with a clock that the test moves."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.folder = folder
        self.clock = ManualClock(NOON)
        self.overrides = overrides
        self.fs = self.open()
        self.fs.apply()
        self.fs.materialize()

    def open(self) -> FeatureStore:
        return FeatureStore(self.folder, clock=self.clock, overrides=self.overrides)

    def look(self, driver: str, service: str = "scoring") -> dict[str, tuple[Any, str]]:
        answer = self.fs.get_online_features(service, [{"driver": driver}])
        values = answer.to_dict()
        return {name: (values[name][0], answer.statuses[name][0]) for name in answer.statuses}

    def known(self, driver: str, at_us: int, service: str = "scoring") -> dict[str, Any]:
        """The offline answer at an instant."""
        # Ann beside, so that most values are there.
        keys, times = [driver, "ann", "ann"], pa.array([at_us, NOON, NOON], INSTANT)
        frame = pa.table({"driver": keys, "event_timestamp": times})
        row, *_ = self.fs.get_historical_features(frame, service).to_arrow().to_pylist()
        return {name: row[name] for name in row if name not in ("driver", "event_timestamp")}

    def counts(self, source: str = "trips") -> int:
        frame = self.fs.get_historical_features(
            f'SELECT driver, "at" AS event_timestamp FROM {source}', ["stats:trips"]
        )
        return frame.to_arrow().num_rows


def row(driver: str, at_us: int, trips: int | None, **more: Any) -> dict[str, Any]:
    return {"driver": driver, "at": at_us, "trips": trips, "rating": None} | more


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    overrides: dict[str, Any] = {"offline.threads": 1}
    if request.param == "redis":
        overrides["online.url"] = request.getfixturevalue("valkey").url
    made = make(tmp_path / "repo", **overrides)
    with made.fs:
        yield made


@pytest.fixture
def lmdb_shop(tmp_path: Path) -> Iterator[Shop]:
    made = make(tmp_path / "repo", **{"offline.threads": 1})
    with made.fs:
        yield made


def make(folder: Path, *, mapped: bool = False, **overrides: Any) -> Shop:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "drivers.py").write_text(f"MAPPED = {mapped}\n{DEFINITIONS}")
    (folder / "featurestore.toml").write_text(f'[project]\nname = "{uuid.uuid4().hex}"\n')
    column = "ride" if mapped else "trips"
    types = {column if name == "trips" else name: kind for name, kind in TYPES.items()}
    old = {
        "driver": "ann",
        "at": NOON - HOUR_US,
        "known_at": NOON - HOUR_US,
        column: 1,
        "rating": 1,
    }
    write_rows(folder / "data" / "trips" / "1.parquet", [old], types)
    (folder / "data" / "plain.csv").write_text(
        "driver,at,id,place\nann,2024-01-01T00:00:00Z,1,home\n"
    )
    return Shop(folder, **overrides)


FORMS = {
    "dicts": lambda rows: rows,
    "columns": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    "pandas": lambda rows: pd.DataFrame(rows).assign(
        at=lambda f: pd.to_datetime(f["at"], unit="us")
    ),
    "polars": lambda rows: pl.DataFrame(rows).with_columns(pl.col("at").cast(pl.Datetime("us"))),
    "arrow": pa.Table.from_pylist,
}


class TestWhatIsPushed:
    @pytest.mark.parametrize("form", FORMS)
    def test_is_readable_at_once_and_offline_from_its_arrival_on(
        self, lmdb_shop: Shop, form: str
    ) -> None:
        rows = [row("bob", NOON - MINUTE_US, 7, rating=1.5), row("cy", NOON - 2, 8, rating=2.0)]
        given = FORMS[form](rows)
        result = lmdb_shop.fs.push("trips", given)
        assert result == PushResult(source="trips", rows=2, waiting_views=("busy",))
        assert lmdb_shop.look("bob") == {"trips": (7, "PRESENT"), "stars": (3.0, "PRESENT")}
        assert lmdb_shop.known("bob", NOON) == {"trips": 7, "stars": 3.0}
        assert lmdb_shop.known("bob", NOON - 1) == {"trips": None, "stars": None}

    def test_is_in_either_store_and_older_rows_do_not_win(self, shop: Shop) -> None:
        shop.fs.push("trips", [row("ann", NOON, 5), row("ann", NOON - 2 * HOUR_US, 4)])
        shop.fs.push("trips", [row("ann", NOON - 3 * HOUR_US, 3)])
        assert shop.look("ann")["trips"] == (5, "PRESENT")
        assert shop.known("ann", NOON)["trips"] == 5
        assert shop.fs.materialize()[-1].rows_written == 0
        assert shop.look("ann")["trips"] == (5, "PRESENT")
        assert shop.fs.verify().differences == ()

    def test_a_correction_and_a_tombstone_win_by_their_created_time(self, shop: Shop) -> None:
        at = NOON - HOUR_US
        shop.fs.push("trips", [row("ann", at, 2, known_at=at + 1, op="U")])
        assert shop.look("ann")["trips"] == (2, "PRESENT")
        shop.fs.push("trips", [row("ann", at, None, op="D")])
        assert shop.look("ann")["trips"] == (None, "NOT_FOUND")
        assert shop.known("ann", NOON)["trips"] is None
        assert shop.known("ann", NOON - 1)["trips"] == 2

    def test_equal_times_are_settled_by_the_tiebreak_in_any_order(self, shop: Shop) -> None:
        for number in (4, 9, 6):
            shop.fs.push("trips", [row("ann", NOON, number, known_at=NOON)])
        assert shop.look("ann")["trips"] == (9, "PRESENT")
        assert shop.known("ann", NOON)["trips"] == 9

    def test_a_source_without_created_time_gets_the_arrival(self, lmdb_shop: Shop) -> None:
        lmdb_shop.fs.push("plain", [{"driver": "ann", "at": "2024-02-01", "id": 2, "place": "sea"}])
        assert lmdb_shop.look("ann", "places") == {"place": ("sea", "PRESENT")}
        assert lmdb_shop.known("ann", NOON, "places") == {"place": "sea"}
        assert lmdb_shop.known("ann", NOON - 1, "places") == {"place": "home"}

    def test_a_query_over_the_source_sees_it_and_its_view_after_the_next_run(
        self, lmdb_shop: Shop
    ) -> None:
        result = lmdb_shop.fs.push("trips", [row("ann", NOON, 50)])
        assert result.waiting_views == ("busy",)
        assert lmdb_shop.counts("many") == 1
        frame = pa.table({"driver": ["ann"], "event_timestamp": pa.array([NOON], INSTANT)})
        known = lmdb_shop.fs.get_historical_features(frame, ["busy:trips"]).to_arrow()
        assert known["trips"].to_pylist() == [50]
        ask = lmdb_shop.fs.get_online_features
        assert ask(["busy:trips"], [{"driver": "ann"}]).to_dict()["trips"] == [None]
        lmdb_shop.fs.materialize()
        assert ask(["busy:trips"], [{"driver": "ann"}]).to_dict()["trips"] == [50]
        place = {"driver": "ann", "at": NOON, "id": 9, "place": "here"}
        assert lmdb_shop.fs.push("plain", [place]).waiting_views == ()

    def test_pins_name_it(self, lmdb_shop: Shop) -> None:
        frame = pa.table({"driver": ["ann"], "event_timestamp": pa.array([NOON], INSTANT)})
        before = lmdb_shop.fs.get_historical_features(frame, "scoring").pins["trips"]
        lmdb_shop.fs.push("trips", [row("ann", NOON, 50)])
        after = lmdb_shop.fs.get_historical_features(frame, "scoring").pins["trips"]
        assert "pushed" not in before
        assert after["pushed"]["files"] == 1
        assert {k: v for k, v in after.items() if k != "pushed"} == before

    def test_mapped_columns_are_pushed_under_our_names(self, tmp_path: Path) -> None:
        shop = make(tmp_path / "repo", mapped=True)
        with shop.fs:
            shop.fs.push("trips", [row("ann", NOON, 5)])
            assert shop.look("ann")["trips"] == (5, "PRESENT")
            assert shop.known("ann", NOON)["trips"] == 5
            assert shop.known("ann", NOON - 1)["trips"] == 1

    def test_a_deleted_entity_stays_deleted(self, lmdb_shop: Shop) -> None:
        lmdb_shop.fs.delete_entity("driver", {"driver": "bob"})
        old = row("bob", NOON - HOUR_US, 7, known_at=NOON - HOUR_US)
        lmdb_shop.fs.push("trips", [old])
        assert lmdb_shop.look("bob")["trips"] == (None, "NOT_FOUND")
        assert lmdb_shop.known("bob", NOON)["trips"] is None
        lmdb_shop.clock.advance(1)
        lmdb_shop.fs.push("trips", [row("bob", NOON, 8)])
        assert lmdb_shop.look("bob")["trips"] == (8, "PRESENT")
        assert lmdb_shop.known("bob", NOON + 1)["trips"] == 8

    def test_a_view_that_was_never_materialized_gets_it_by_its_first_run(
        self, tmp_path: Path
    ) -> None:
        shop = make(tmp_path / "repo")
        with shop.fs:
            shop.fs.push("trips", [row("zoe", NOON, 5)])
        text = (shop.folder / "drivers.py").read_text()
        (shop.folder / "drivers.py").write_text(f"{text}{MORE}")
        with shop.open() as fs:
            with pytest.raises(NotApplied, match="more: the definition"):
                fs.push("trips", [row("zoe", NOON, 5)])
            fs.apply()
            fs.materialize(["more"])
            assert fs.get_online_features("later", [{"driver": "zoe"}]).to_dict()["trips"] == [5]


class TestRowsOfTheFuture:
    def test_are_held_until_they_are_due(self, tmp_path: Path) -> None:
        shop, slept = make(tmp_path / "repo"), list[float]()
        with shop.fs, Pusher(shop.fs._context, shop.fs.settings.push, sleep=slept.append) as pusher:
            rows = [row("ann", NOON, 2), row("ann", NOON + SECOND_US, 3)]
            assert pusher.push("trips", rows).rows == 2
            assert slept == [1.0]

    def test_are_dead_letters_beyond_the_skew(self, lmdb_shop: Shop) -> None:
        rows = [row("ann", NOON, 2), row("ann", NOON + SECOND_US + 1, 3)]
        result = lmdb_shop.fs.push("trips", rows)
        assert (result.rows, [dead.row for dead in result.dead]) == (1, [1])
        (letter,) = lmdb_shop.fs.dead_letters("trips")
        assert (letter["reason"], letter["origin"]) == ("not-due", "push")
        assert '"trips": 3' in letter["row"]
        lmdb_shop.clock.advance(HOUR_US)
        assert lmdb_shop.known("ann", NOON + HOUR_US)["trips"] == 2


@pytest.fixture(scope="module")
def bad_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = make(tmp_path_factory.mktemp("bad"))
    with made.fs:
        yield made


class TestBadPushes:
    WRONG: ClassVar = [
        ("trip", [row("ann", NOON, 1)], UnknownSource, "Did you mean 'trips'"),
        ("many", [row("ann", NOON, 1)], InvalidRequest, "is a query.*trips"),
        ("trips", [{"driver": "ann", "at": NOON}], InvalidRows, "lacks column 'rating'"),
        ("trips", [row("ann", NOON, 1), {"driver": "ann"}], InvalidRows, "row 1 .*no column 'at'"),
        ("trips", [row("ann", NOON, 1, tripz=2)], InvalidRows, "no column 'tripz'.*'trips'"),
        ("trips", [row("ann", NOON, 1), row("ann", NOON, 1.7)], InvalidRows, "row 1.*'trips'.*1.7"),
        ("trips", [row("ann", NOON, "x")], InvalidRows, "row 0.*'trips' is int64.*'x'"),
        ("trips", [row("ann", NOON, 2**63)], InvalidRows, "row 0.*'trips'"),
        ("trips", [row("ann", NOON, True)], InvalidRows, "row 0.*'trips'"),
        ("trips", [row(7, NOON, 1)], InvalidRows, "row 0.*'driver' is string"),
        ("trips", [row("\ud800", NOON, 1)], InvalidRows, "row 0.*'driver'"),
        ("trips", [row("ann", None, 1)], InvalidRows, "row 0.*'at'.*event time"),
        ("trips", [row("ann", "soon", 1)], InvalidRows, "row 0.*'at' is timestamp"),
        ("trips", [row("ann", NOON, 1, op="X")], InvalidRows, "op is U"),
        ("trips", [], InvalidRows, "no rows"),
        ("trips", [7], InvalidRows, "row 0"),
        ("trips", "rows", InvalidRequest, "not str"),
        ("trips", {"driver": ["a", "b"], "at": [1]}, InvalidRequest, "different lengths"),
        ("plain", [{"driver": "a", "at": 1, "id": None, "place": ""}], InvalidRows, "event id"),
        ("trips", [row("ann", 1, 1)] * 100_001, LimitExceeded, "rows_per_push_max = 100,000"),
    ]  # fmt: skip

    @pytest.mark.parametrize(("source", "rows", "error", "words"), WRONG)
    def test_say_what_is_wrong_and_leave_nothing(
        self, bad_shop: Shop, source: str, rows: Any, error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            bad_shop.fs.push(source, rows)
        assert bad_shop.look("ann")["trips"] == (1, "PRESENT")
        assert bad_shop.counts() == 1
        assert log_files(bad_shop.folder / ".featurestore" / "push") == []

    def test_a_day_is_no_instant(self, bad_shop: Shop) -> None:
        with pytest.raises(InvalidRows, match="is timestamp"):
            bad_shop.fs.push("trips", [row("ann", object(), 1)])


def test_values_that_json_has_are_read(lmdb_shop: Shop) -> None:
    rows = {"driver": ["ann"], "at": [datetime.now(UTC).isoformat()], "trips": [3], "rating": [2]}
    lmdb_shop.clock.advance(2 * HOUR_US)
    assert lmdb_shop.fs.push("trips", rows).rows == 1
    assert lmdb_shop.look("ann") == {"trips": (3, "PRESENT"), "stars": (4.0, "PRESENT")}


def test_while_the_store_is_away_rows_are_kept_then_refused_and_written_when_it_is_back(
    tmp_path: Path,
) -> None:
    with RedisServer(valkey_binary(), "--appendonly", "no") as server:
        limits = {"push.backlog_rows_max": 3, "push.commit_interval_ms": 60_000}
        url = {"online.url": server.url, "online.timeout_ms": 500}
        shop = make(tmp_path / "repo", **{"offline.threads": 1}, **limits, **url)
        with shop.fs:
            shop.fs.push("trips", [row("ann", NOON - 3, 2)])
            server.pause()
            for number in (3, 4):
                with pytest.raises((StoreTimeout, StoreUnavailable)):
                    shop.fs.push("trips", [row("ann", NOON - 3 + number, number)])
            with pytest.raises(ServerOverloaded, match="backlog_rows_max = 3"):
                shop.fs.push("trips", [row("ann", NOON, 5)])
            # What was logged is safe: offline has it already.
            assert shop.known("ann", NOON + MINUTE_US)["trips"] == 4
            server.resume()
            shop.clock.advance(MINUTE_US)
            shop.fs._pusher.recover()
            assert shop.look("ann")["trips"] == (4, "PRESENT")
            assert shop.known("ann", NOON + MINUTE_US)["trips"] == 4
            shop.fs.push("trips", [row("ann", NOON + MINUTE_US, 6)])
            assert shop.look("ann")["trips"] == (6, "PRESENT")


def test_partitions_take_pushed_rows_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "featurestore.toml").write_text('[project]\nname = "parts"\n')
    (folder / "definitions.py").write_text(
        """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

driver = Entity("driver")
rides = FileSource("rides", path="data", event_time="at")
last = FeatureView(
    "last", entities=[driver], source=rides, features=[Feature("city"), Feature("trips")]
)
scoring = FeatureService("scoring", features=[last])
"""
    )
    types = {"driver": pa.string(), "at": INSTANT, "trips": pa.int64()}
    old = {"driver": "ann", "at": NOON - HOUR_US, "trips": 1}
    for city in ("oslo", "rome"):
        write_rows(folder / "data" / f"city={city}" / "1.parquet", [old], types)
    shop = Shop(folder)
    with shop.fs as fs:
        fs.push("rides", [{"driver": "ann", "at": NOON, "trips": 5, "city": "bonn"}])
        wanted = {"city": ("bonn", "PRESENT"), "trips": (5, "PRESENT")}
        assert shop.look("ann") == wanted
        assert shop.known("ann", NOON) == {"city": "bonn", "trips": 5}
        assert shop.known("ann", NOON - 1) == {"city": "rome", "trips": 1}
        fs.optimize()
        assert shop.known("ann", NOON) == {"city": "bonn", "trips": 5}
        assert shop.known("ann", NOON - 1) == {"city": "rome", "trips": 1}
        fs.materialize(replace=True)
        assert shop.look("ann") == wanted

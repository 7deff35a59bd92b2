"""Windowed views from files to answers, on LMDB and Redis: what runs write, read again and leave
behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.timeline import DAY_US, HOUR_US, ManualClock, SystemClock
from tests.conftest import INSTANT, MakeRepo, write_rows

# A whole day near the present: Redis expires rows by its own clock, which the tests do not move.
NOON = SystemClock().now_us() // DAY_US * DAY_US
TYPES = {
    "plane": pa.string(),
    "at": INSTANT,
    "known_at": INSTANT,
    "delay": pa.float64(),
    "id": pa.int64(),
    "op": pa.string(),
}
DEFINITIONS = """
from featurestore import Aggregation, Entity, FeatureService, FeatureView, FileSource

plane = Entity("plane")
landings = FileSource(
    "landings", path="data/*.parquet", event_time="at", created_time="known_at", lateness="2h",
    EVENT_ID
)
history = FeatureView(
    "history", entities=[plane], source=landings,
    features=[
        Aggregation("*", "count", windows=["1h", "7d"]),
        Aggregation("delay", "mean", window="7d"),
        Aggregation("delay", "max", window="7d", where="delay > 15", name="worst"),
        Aggregation("delay", "last", window="lifetime"),
    ],
)
model = FeatureService("model", features=[history])
"""


def landing(plane: str, at_us: int, delay: float | None, n: int = 0, **more: Any) -> dict[str, Any]:
    return {"plane": plane, "at": at_us, "known_at": at_us, "delay": delay, "id": n} | more


class Airport:
    """A repository of landings, with a clock that the test moves."""

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

    def look(self, plane: str) -> tuple[dict[str, Any], set[str]]:
        # A new store sees every alias as it is now.
        with self.open() as fs:
            answer = fs.get_online_features("model", [{"plane": plane}])
            values = {name: column[0] for name, column in answer.to_dict().items()}
            del values["plane"]
            return values, {column[0] for column in answer.statuses.values()}


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def store(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "lmdb":
        return {}
    valkey: RedisServer = request.getfixturevalue("valkey")
    valkey.command("FLUSHALL")
    return {"online.url": valkey.url}


@pytest.fixture(params=["", 'event_id="id", op="op",'], ids=["no-ids", "ids"])
def airport(
    request: pytest.FixtureRequest, store: dict[str, Any], make_repo: MakeRepo
) -> Iterator[Airport]:
    made = Airport(make_repo(DEFINITIONS.replace("EVENT_ID", request.param)), **store)
    made.land(
        landing("N1", NOON - 1, 30.0, 1),
        landing("N1", NOON - HOUR_US - 1, 10.0, 2),
        landing("N1", NOON - 8 * DAY_US, 99.0, 3),
        landing("N2", NOON - 2 * DAY_US, None, 4),
        landing("N3", NOON, 5.0, 5),
    )
    yield made
    made.fs.close()


FIRST = {
    "count_1h": 1,
    "count_7d": 2,
    "delay_mean_7d": 20.0,
    "worst": 30.0,
    "delay_last_lifetime": 30.0,
}


def test_the_first_run_serves_what_is_known(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    assert airport.look("N1") == (FIRST, {"PRESENT"})
    values, statuses = airport.look("N2")
    assert (values["count_1h"], values["count_7d"], values["delay_mean_7d"]) == (0, 1, None)
    assert statuses == {"PRESENT", "NULL_VALUE"}
    values, _ = airport.look("N3")
    assert values["count_7d"] == 0, "a landing at T is not in its own window"
    assert airport.look("nobody") == (
        dict.fromkeys(FIRST) | {"count_1h": 0, "count_7d": 0},
        {"NOT_FOUND"},
    )

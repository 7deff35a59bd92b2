"""Aggregations with `by`, from files and pushes to maps: the same offline, online through every
door, and from the oracle."""

from __future__ import annotations

import json
import math
import random
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis_servers import RedisServer, valkey_binary
from typer.testing import CliRunner

from featurestore import FeatureClient, FeatureStore
from featurestore.aggregates import BUCKETS_PER_KEY_MAX
from featurestore.cli.main import app
from featurestore.config import load_settings
from featurestore.dtypes import DATE, FLOAT64, INT64
from featurestore.engines.base import BucketsExceededWarning
from featurestore.serving.serve import ServerProcess
from featurestore.testing.oracle import Row
from featurestore.testing.oracle_windows import History, Windowed, agrees, inputs_of, window_answer
from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US, ManualClock, SystemClock
from featurestore.wire.columns import python_rows
from tests.conftest import INSTANT, MakeRepo, write_rows

NOON = SystemClock().now_us() // DAY_US * DAY_US
"""Redis expires rows by its own clock."""
TYPES = {
    "buyer": pa.string(),
    "at": INSTANT,
    "known_at": INSTANT,
    "id": pa.int64(),
    "op": pa.string(),
    "amount": pa.float64(),
    "category": pa.string(),
    "shop": pa.int32(),
    "price": pa.decimal128(9, 2),
    "day": pa.date32(),
}
DEFINITIONS = """
from featurestore import (
    Aggregation, Entity, FeatureService, FeatureView, FileSource, on_demand_feature_view,
)

buyer = Entity("buyer")
orders = FileSource(
    "orders", path="data/*.parquet", event_time="at", created_time="known_at", lateness="2h",
    event_id="id", op="op",
)
spending = FeatureView(
    "spending", entities=[buyer], source=orders,
    features=[
        Aggregation("amount", "sum", windows=["1h", "7d"], by="category"),
        Aggregation("amount", "sum", window="7d", name="total"),
        Aggregation("*", "count", window="7d", by="shop", where="amount > 0"),
        Aggregation("amount", "mean", window="lifetime", by="amount >= 10", name="sizes"),
        Aggregation("price", "max", window="7d", by="upper(category)", name="dearest"),
        Aggregation("day", "last_n", n=2, window="7d", by="category", name="days"),
        Aggregation("at", "first", window="7d", by="category", hop="exact", name="began"),
        Aggregation("id", "count_distinct", window="7d", delay="1h", by="category", name="older"),
    ],
)


@on_demand_feature_view(inputs=[spending], schema={"share": "float64", "firsts": "string"})
def mix(amount_sum_by_category_7d, began, total):
    food = (amount_sum_by_category_7d or {}).get("food", 0.0)
    return {"share": food / total if total else None,
            "firsts": " ".join(f"{k} {began[k].isoformat()}" for k in began or {})}


model = FeatureService("model", features=[spending, mix])
"""


def order(n: int, age_us: int, amount: float | None, category: str | None, **more: Any) -> Any:
    at = NOON - age_us
    return {
        "buyer": "b1",
        "at": at,
        "known_at": at,
        "id": n,
        "op": None,
        "amount": amount,
        "category": category,
        "shop": n % 3,
        "price": None if amount is None else Decimal(str(amount)),
        "day": date(2026, 1, 1) + timedelta(days=n),
    } | more


ORDERS = (
    order(1, MINUTE_US, 5.0, "food"),
    order(2, 2 * HOUR_US, 20.0, "food"),
    order(3, 3 * HOUR_US, 1.5, "Ärger"),
    order(4, 4 * HOUR_US, None, "toys"),
    order(5, 5 * HOUR_US, 7.0, None),
    order(6, 8 * DAY_US, 99.0, "books"),
    order(7, 8 * DAY_US, 1.0, "food", buyer="b2"),
)
EXPECTED = {
    "amount_sum_by_category_1h": {"food": 5.0},
    "amount_sum_by_category_7d": {"food": 25.0, "Ärger": 1.5},
    "total": 33.5,
    "count_by_shop_7d": {0: 1, 1: 1, 2: 2},
    "sizes": {False: 4.5, True: 59.5},
    "dearest": {"FOOD": Decimal("20.00"), "ÄRGER": Decimal("1.50")},
    "days": {
        "food": [date(2026, 1, 3), date(2026, 1, 2)],
        "toys": [date(2026, 1, 5)],
        "Ärger": [date(2026, 1, 4)],
    },
    "older": {"food": 1, "toys": 1, "Ärger": 1},
    "share": 25.0 / 33.5,
}


class Shop:
    """A repository of orders, with a clock that the test moves."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.folder = folder
        self.clock = ManualClock(NOON)
        self.overrides = {"offline.threads": 1, **overrides}
        self.fs = self.open()

    def open(self) -> FeatureStore:
        return FeatureStore(self.folder, clock=self.clock, overrides=self.overrides)

    def land(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        write_rows(self.folder / "data" / f"{name}.parquet", rows, TYPES)

    def online(self, buyer: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Values and statuses; from the dict and from the Arrow table they are the same."""
        with self.open() as fs:
            answer = fs.get_online_features("model", [{"buyer": buyer}])
            values = {name: column[0] for name, column in answer.to_dict().items()}
            (row,) = python_rows(answer.to_arrow())
            assert row == values
            assert orders_of(row) == orders_of(values)
            return values, {name: column[0] for name, column in answer.statuses.items()}

    def offline(self, buyer: str) -> dict[str, Any]:
        at = pa.array([self.clock.now_us()], INSTANT)
        frame = pa.table({"buyer": [buyer], "event_timestamp": at})
        (row,) = python_rows(self.fs.get_historical_features(frame, "model").to_arrow())
        return {name: value for name, value in row.items() if name != "event_timestamp"}

    def agreed(self, buyer: str = "b1") -> dict[str, Any]:
        """The features, the same online and offline."""
        found, _ = self.online(buyer)
        wanted = self.offline(buyer)
        assert approximately(found) == approximately(wanted)
        assert orders_of(found) == orders_of(wanted)
        return found


def orders_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: [*value] for name, value in row.items() if isinstance(value, dict)}


def approximately(value: Any) -> Any:
    """Floats rounded, at any depth."""
    if isinstance(value, dict):
        return {key: approximately(one) for key, one in value.items()}
    return round(value, 6) if isinstance(value, float) and math.isfinite(value) else value


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def shop(request: pytest.FixtureRequest, make_repo: MakeRepo) -> Iterator[Shop]:
    overrides: dict[str, Any] = {}
    if request.param == "redis":
        valkey: RedisServer = request.getfixturevalue("valkey")
        valkey.command("FLUSHALL")
        overrides["online.url"] = valkey.url
    made = Shop(make_repo(DEFINITIONS), **overrides)
    made.land("first", ORDERS)
    made.fs.apply()
    made.fs.materialize()
    yield made
    made.fs.close()


def test_each_bucket_has_its_value(shop: Shop) -> None:
    found = shop.agreed()
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert [*found["amount_sum_by_category_7d"]] == ["food", "Ärger"], "in the order of the keys"
    assert found["began"]["food"] == datetime.fromtimestamp(NOON // 10**6, UTC) - timedelta(hours=2)
    assert "food 20" in found["firsts"]
    types = {
        field.name: str(field.type)
        for field in shop.fs.get_online_features("model", [{"buyer": "b1"}]).to_arrow().schema
    }
    assert types["amount_sum_by_category_7d"].startswith("map<string, double")
    assert types["count_by_shop_7d"].startswith("map<int64, int64")


def test_no_rows_are_an_empty_map(shop: Shop) -> None:
    found = shop.agreed("b2")
    assert (found["amount_sum_by_category_7d"], found["sizes"]) == ({}, {False: 1.0})
    _, statuses = shop.online("b2")
    assert statuses["amount_sum_by_category_7d"] == "PRESENT"
    found = shop.agreed("nobody")
    assert (found["amount_sum_by_category_7d"], found["sizes"], found["total"]) == ({}, {}, None)
    _, statuses = shop.online("nobody")
    assert statuses["sizes"] == "NOT_FOUND"


def test_pushes_corrections_and_deletes(shop: Shop) -> None:
    shop.clock.advance(60)
    rows = [order(20, -1, 4.0, "food"), order(21, -2, 8.0, "new")]
    for _ in range(2):
        shop.fs.push("orders", rows)
    assert shop.agreed()["amount_sum_by_category_1h"] == {"food": 9.0, "new": 8.0}
    moved = order(1, MINUTE_US, 6.0, "toys", known_at=NOON + 5)
    shop.fs.push("orders", [moved, order(21, -2, 8.0, "new", known_at=NOON + 6, op="D")])
    assert shop.agreed()["amount_sum_by_category_1h"] == {"food": 4.0, "toys": 6.0}
    shop.fs.materialize()
    shop.agreed()
    shop.clock.advance(40 * DAY_US)
    assert shop.agreed()["amount_sum_by_category_7d"] == {}
    report = shop.fs.verify()
    assert (report.rate, report.differences) == (1.0, ())


def test_maps_of_too_many_buckets_are_null(shop: Shop) -> None:
    """In both paths, whatever comes later; the other features of the view are not concerned."""
    rows = [order(100 + n, 2 * HOUR_US + n, 1.0, f"c{n:04}") for n in range(BUCKETS_PER_KEY_MAX)]
    shop.clock.advance(60)
    shop.fs.push("orders", rows[:-3])
    found = shop.agreed()
    assert len(found["days"]) == BUCKETS_PER_KEY_MAX
    assert len(found["amount_sum_by_category_7d"]) == BUCKETS_PER_KEY_MAX - 1, "toys were not paid"
    shop.fs.push("orders", rows[-3:])
    with pytest.warns(BucketsExceededWarning, match="more than 1,000 entries"):
        found = shop.agreed()
    assert (found["amount_sum_by_category_7d"], found["days"]) == (None, None)
    assert (found["amount_sum_by_category_1h"], found["total"]) == ({"food": 5.0}, 1033.5)
    _, statuses = shop.online("b1")
    assert statuses["amount_sum_by_category_7d"] == "NULL_VALUE"


def server_of(shop: Shop, door: str) -> ServerProcess:
    overrides = {
        **shop.overrides,
        "serving.grpc": "127.0.0.1:0",
        "serving.http": "127.0.0.1:0",
        "serving.grpc_door": door,
        "serving.workers": 1,
    }
    return ServerProcess.start(load_settings(shop.folder, overrides=overrides))


@pytest.mark.slow
@pytest.mark.parametrize("door", ["grpcio", "native"])
def test_every_door_sends_maps(make_repo: MakeRepo, door: str) -> None:
    shop = Shop(make_repo(DEFINITIONS))
    shop.land("first", ORDERS)
    with shop.fs as fs:
        fs.apply()
        fs.materialize()
    names = ["sizes", "count_by_shop_7d", "days", "dearest"]
    with server_of(shop, door) as server:
        with FeatureClient(server.grpc_target, timeout_ms=20_000) as client:
            answer = client.get_online_features("model", [{"buyer": "b1"}, {"buyer": "no"}])
            table = client.get_online_features("model", [{"buyer": "b1"}], full_feature_names=True)
        found = answer.to_dict()
        assert {name: found[name][0] for name in names} == {n: EXPECTED[n] for n in names}
        assert [found[name][1] for name in names] == [{}, {}, {}, {}]
        (row,) = python_rows(table.to_arrow())
        assert row["spending__sizes"] == EXPECTED["sizes"]
        body = {"feature_service": "model", "entities": [{"buyer": "b1"}, {"buyer": "no"}]}
        asked = urllib.request.Request(
            f"{server.http_url}/v1/online-features", json.dumps(body).encode()
        )
        with urllib.request.urlopen(asked, timeout=20) as reply:
            features = json.load(reply)["features"]
    assert {name: features[name]["values"] for name in names} == {
        "sizes": [{"false": 4.5, "true": 59.5}, {}],
        "count_by_shop_7d": [{"0": 1, "1": 1, "2": 2}, {}],
        "days": [
            {
                "food": ["2026-01-03", "2026-01-02"],
                "toys": ["2026-01-05"],
                "Ärger": ["2026-01-04"],
            },
            {},
        ],
        "dearest": [{"FOOD": "20.00", "ÄRGER": "1.50"}, {}],
    }


def test_maps_on_the_command_line_and_in_frames(make_repo: MakeRepo) -> None:
    shop = Shop(make_repo(DEFINITIONS))
    shop.land("first", ORDERS)
    with shop.fs as fs:
        fs.apply()
        fs.materialize()
        answer = fs.get_online_features("model", [{"buyer": "b1"}])
        (shown,) = answer.to_pandas()["amount_sum_by_category_7d"]
        assert dict(shown) == {"food": 25.0, "Ärger": 1.5}
        assert answer.to_polars()["sizes"].to_list() == [EXPECTED["sizes"]]
        frame = pa.table({"buyer": ["b1"], "event_timestamp": pa.array([NOON], INSTANT)})
        (shown,) = fs.get_historical_features(frame, "model").to_pandas()["sizes"]
        assert dict(shown) == EXPECTED["sizes"]
    command = ["get-online", "model", "--entity", "buyer=b1", "--repo", str(shop.folder)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "count(*) by" not in result.output
    assert "0: 1, 1: 1, 2: 2" in result.output
    result = CliRunner().invoke(app, [*command, "--json"])
    assert '"count_by_shop_7d": {' in result.output
    assert '"2": 2' in result.output


BUYERS = 16


def random_orders(chance: random.Random) -> list[dict[str, Any]]:
    """With ties, NULLs, late rows, corrections and tombstones."""
    rows = []
    for number in range(20 * BUYERS):
        buyer = number % BUYERS
        age_us = chance.choice((1, 2, 3, 11, 12, 13, 24, 100, 167, 168, 169, 200)) * HOUR_US
        row = order(
            1_000 * (buyer + 1) + chance.randrange(12),
            age_us - chance.choice((0, 0, 1)),
            chance.choice((None, 0.1, 2.5, -3.0, 1e6)),
            chance.choice((None, "", "a", "b", "é")),
            buyer=f"r{buyer}",
            known_at=NOON - age_us + chance.choice((0, 0, HOUR_US, 20 * HOUR_US)),
            op=chance.choice((None, None, None, "D")),
            shop=chance.randrange(3),
        )
        if row["known_at"] <= NOON:
            rows.append(row)
    return sorted(rows, key=lambda row: int(row["known_at"]))


def in_oracle(rows: Sequence[dict[str, Any]]) -> History:
    tie = ("amount", "category", "day", "price", "shop")
    return History(
        rows=[
            Row(
                key=(row["buyer"],),
                event_us=row["at"],
                created_us=row["known_at"],
                tie=tuple(row[name] for name in tie),
                deleted=row["op"] == "D",
                values={**row, "large": None if row["amount"] is None else row["amount"] >= 10},
            )
            for row in rows
        ],
        event_id="id",
        correction_horizon_us=DAY_US,
    )


HOURLY: dict[str, Any] = {"window_us": 7 * DAY_US, "hop_us": HOUR_US}
WINDOWS = {
    "amount_sum_by_category_1h": Windowed(
        function="sum", value="amount", dtype=FLOAT64, bucket="category", window_us=HOUR_US,
        hop_us=5 * MINUTE_US,
    ),
    "amount_sum_by_category_7d": Windowed(
        function="sum", value="amount", dtype=FLOAT64, bucket="category", **HOURLY
    ),
    "sizes": Windowed(
        function="mean", value="amount", dtype=FLOAT64, bucket="large", window_us=None,
        hop_us=DAY_US,
    ),
    "days": Windowed(
        function="last_n", value="day", dtype=DATE, bucket="category", parameters={"n": 2},
        **HOURLY,
    ),
    "older": Windowed(
        function="count_distinct", value="id", dtype=INT64, bucket="category",
        delay_us=HOUR_US, **HOURLY,
    ),
}  # fmt: skip


def test_files_pushes_and_oracle_agree(shop: Shop) -> None:
    """Some rows come in files, the others are pushed, some of them twice; the oracle has all."""
    chance = random.Random(7)
    rows = random_orders(chance)
    cut = next(n for n, row in enumerate(rows) if row["known_at"] >= NOON - 24 * HOUR_US)
    shop.land("second", rows[:cut])
    shop.fs.materialize(replace=True)
    for start in range(cut, len(rows), 40):
        shop.fs.push("orders", rows[max(cut, start - 5) : start + 40])
    history = in_oracle(rows)
    buyers = [f"r{n}" for n in range(BUYERS)]
    at = pa.array([shop.clock.now_us()] * BUYERS, INSTANT)
    frame = pa.table({"buyer": buyers, "event_timestamp": at})
    offline = python_rows(shop.fs.get_historical_features(frame, "model").to_arrow())
    with shop.open() as fs:
        asked = [{"buyer": buyer} for buyer in buyers]
        answer = fs.get_online_features("model", asked)
    online, statuses = answer.to_dict(), answer.statuses
    entries = 0
    for n, buyer in enumerate(buyers):
        wanted = window_answer(history, (buyer,), NOON, WINDOWS)
        events = history.events((buyer,), NOON)
        for name, window in WINDOWS.items():
            inputs = inputs_of(events, NOON, window, "id")
            for found in (offline[n][name], online[name][n]):
                assert agrees(found, wanted.values[name], inputs, window), (
                    buyer,
                    name,
                    offline[n][name],
                    online[name][n],
                    wanted.values[name],
                )
            assert statuses[name][n] == wanted.status.name
            entries += len(wanted.values[name])
    assert entries > 5 * BUYERS, "the maps say nothing"

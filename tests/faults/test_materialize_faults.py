"""Materialization under kill -9 and beside itself: the same rows in the end, nothing half done."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.timeline import DAY_US, SystemClock
from tests.conftest import INSTANT, MakeRepo

pytestmark = pytest.mark.slow

ROWS = 60_000
KILLS = 3
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

item = Entity("item", join_keys={"item": "int64"})
prices = FileSource("prices", path="data/*.parquet", event_time="at")
price = FeatureView("price", entities=[item], source=prices, features=[Feature("cents")])
shelf = FeatureService("shelf", features=[price])
"""
MATERIALIZE = """
import sys
from featurestore import FeatureStore

with FeatureStore(sys.argv[1]) as fs:
    fs.materialize(replace="replace" in sys.argv)
"""


def write(folder: Path, name: str, *, cents: int, rows: int = ROWS) -> None:
    at = SystemClock().now_us() - DAY_US
    table = pa.table(
        {
            "item": pa.array(range(rows), pa.int64()),
            "at": pa.array([at] * rows, INSTANT),
            "cents": pa.array([cents] * rows, pa.int64()),
        }
    )
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(table, folder / "data" / name)


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", MATERIALIZE, str(folder), *options])


def prices(folder: Path) -> set[tuple[int | None, str]]:
    with FeatureStore(folder) as fs:
        found = set()
        for first in range(0, ROWS, 10_000):
            answer = fs.get_online_features("shelf", {"item": range(first, first + 10_000)})
            found |= set(zip(answer.to_dict()["cents"], answer.statuses["cents"], strict=True))
        return found


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def folder(request: pytest.FixtureRequest, make_repo: MakeRepo, valkey: RedisServer) -> Path:
    valkey.command("FLUSHALL")
    url = "lmdb:.featurestore/online" if request.param == "lmdb" else valkey.url
    made = make_repo(DEFINITIONS, online={"url": url, "timeout_ms": 30_000})
    write(made, "1.parquet", cents=100)
    with FeatureStore(made) as fs:
        fs.apply()
    return made


def test_killed_at_any_time_and_run_again_it_ends_in_the_same_state(folder: Path) -> None:
    began = time.monotonic()
    assert start(folder).wait(120) == 0
    whole_s = time.monotonic() - began
    assert prices(folder) == {(100, "PRESENT")}
    chance = random.Random(7)
    for attempt in range(KILLS):
        cents = 200 + attempt
        write(folder, "1.parquet", cents=cents)
        process = start(folder, "replace")
        time.sleep(chance.uniform(0.3, 1.0) * whole_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        served = prices(folder)
        assert len(served) == 1, "a new generation is served whole or not at all"
        assert start(folder, "replace").wait(120) == 0
        assert prices(folder) == {(cents, "PRESENT")}
    with FeatureStore(folder) as fs:
        assert fs.verify(samples=500).rate == 1.0


def test_an_incremental_run_that_was_killed_is_caught_up(folder: Path) -> None:
    process = start(folder)
    time.sleep(1.5)
    process.kill()
    process.wait()
    assert start(folder).wait(120) == 0
    assert prices(folder) == {(100, "PRESENT")}
    with FeatureStore(folder) as fs:
        (view,) = fs.describe("views", "price")["online"]
        assert view["complete"]


def test_two_at_once_lose_nothing(folder: Path) -> None:
    both = [start(folder), start(folder)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert prices(folder) == {(100, "PRESENT")}
    with FeatureStore(folder) as fs:
        (view,) = fs.describe("views", "price")["online"]
        assert view["runs"] == 2

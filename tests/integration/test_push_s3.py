"""Pushes where the managed files are on S3 and the source is a Delta table there: what was pushed
is offline for every machine, counts once, and waits on its machine while S3 is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from redis_servers import RedisServer, valkey_binary
from s3_servers import BUCKET, KEY, SECRET, S3Server

from featurestore import FeatureStore
from featurestore.errors import StoreUnavailable
from featurestore.stores.offline.wal import log_files
from featurestore.timeline import HOUR_US, MINUTE_US, ManualClock, SystemClock
from tests.conftest import INSTANT

pytestmark = pytest.mark.slow

NOON = SystemClock().now_us() // HOUR_US * HOUR_US
TYPES = {
    "driver": pa.string(),
    "at": INSTANT,
    "known_at": INSTANT,
    "id": pa.int64(),
    "fare": pa.float64(),
}
DEFINITIONS = f"""
from featurestore import Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource

driver = Entity("driver")
rides = FileSource(
    "rides", path="s3://{BUCKET}/rides", format="delta", event_time="at", created_time="known_at",
    event_id="id",
)
last = FeatureView("last", entities=[driver], source=rides, features=[Feature("fare")])
day = FeatureView("day", entities=[driver], source=rides, features=[
    Aggregation("*", "count", window="1d"), Aggregation("fare", "sum", window="1d"),
])
model = FeatureService("model", features=[last, day])
"""


def ride(n: int, age_us: int, fare: float) -> dict[str, Any]:
    at = NOON - age_us
    return {"driver": "ann", "at": at, "known_at": at, "id": n, "fare": fare}


class Shop:
    """A repository with its managed files in a bucket; each of its machines has a folder of its
    own, with the same definitions, registry and online store."""

    def __init__(self, folder: Path, server: S3Server, valkey: RedisServer) -> None:
        self.folder, self.server, self.valkey = folder, server, valkey
        self.clock = ManualClock(NOON)
        self.options = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
        }

    def land(self, *rows: dict[str, Any]) -> None:
        table = pa.table(
            {name: pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()}
        )
        write_deltalake(f"s3://{BUCKET}/rides", table, mode="append", storage_options=self.options)

    def machine(self, name: str) -> FeatureStore:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "definitions.py").write_text(DEFINITIONS)
        (folder / "featurestore.toml").write_text(
            f'[project]\nname = "rides"\n'
            f'[registry]\nurl = "sqlite:///{self.folder}/registry.db"\n'
            f'[online]\nurl = "{self.valkey.url}"\n'
            f'[offline]\npath = "s3://{BUCKET}/ours"\ns3_endpoint = "{self.server.endpoint}"\n'
            "threads = 1\n"
        )
        return FeatureStore(folder, clock=self.clock)


def online(fs: FeatureStore) -> list[Any]:
    found = fs.get_online_features("model", [{"driver": "ann"}]).to_dict()
    return [found[name][0] for name in ("fare", "count_1d", "fare_sum_1d")]


def offline(fs: FeatureStore, at_us: int) -> list[Any]:
    frame = pa.table({"driver": ["ann"], "event_timestamp": pa.array([at_us], INSTANT)})
    (row,) = fs.get_historical_features(frame, "model").to_arrow().to_pylist()
    return [row[name] for name in ("fare", "count_1d", "fare_sum_1d")]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with S3Server() as server, RedisServer(valkey_binary()) as valkey:
        server.files()
        yield Shop(tmp_path, server, valkey)


def test_machines_push_beside_a_delta_table_and_outlive_s3(shop: Shop) -> None:
    shop.land(ride(1, 2 * HOUR_US, 10.0))
    with shop.machine("one") as one, shop.machine("two") as two:
        one.apply()
        one.materialize()
        one.push("rides", [ride(2, HOUR_US, 20.0)])
        two.push("rides", [ride(3, MINUTE_US, 30.0), ride(2, HOUR_US, 20.0)])
        assert online(one) == [30.0, 3, 60.0] == online(two)
        # Each has drained its own log; what the other has is in the bucket by then.
        assert offline(two, NOON)[0] == 30.0
        assert offline(one, NOON) == [30.0, 3, 60.0] == offline(two, NOON)
        # The pipeline lands in the table what was pushed, and more.
        shop.clock.advance(MINUTE_US)
        shop.land(ride(2, HOUR_US, 20.0), ride(3, MINUTE_US, 30.0), ride(4, 0, 40.0))
        two.materialize()
        assert online(one) == [40.0, 4, 100.0] == offline(one, NOON + MINUTE_US)
        frame = pa.table({"driver": ["ann"], "event_timestamp": pa.array([NOON], INSTANT)})
        assert one.get_historical_features(frame, "model").pins["rides"]["pushed"]["files"] >= 2
        assert one.verify().differences == ()
    assert [log_files(shop.folder / name / ".featurestore/push") for name in ("one", "two")] == [
        [], [],
    ]  # fmt: skip


def test_a_push_waits_in_the_log_of_its_machine_while_s3_is_away(shop: Shop) -> None:
    shop.land(ride(1, 2 * HOUR_US, 10.0))
    with shop.machine("one") as one:
        one.apply()
        one.materialize()
        one.push("rides", [ride(2, HOUR_US, 20.0)])
        shop.server.kill()
        for ask in (lambda: one.push("rides", [ride(3, MINUTE_US, 30.0)]), lambda: offline(one, 1)):
            with pytest.raises(StoreUnavailable, match="S3 can't be used now"):
                ask()
        assert online(one) == [20.0, 2, 30.0]
        # What is known only now can't have been deleted; so nobody has to look.
        fresh = {"driver": "ann", "at": NOON - 1, "id": 4, "fare": 40.0}
        assert one.push("rides", [fresh]).rows == 1
        assert online(one) == [40.0, 3, 70.0]
    assert log_files(shop.folder / "one" / ".featurestore/push") != []

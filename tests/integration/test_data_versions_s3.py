"""Versions of data where all of it is on S3: training sets, what two machines pushed, a Delta
table; logs, differences, tags, ways back, vacuums that keep tags and pins, and garbage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from s3_servers import BUCKET, KEY, SECRET, S3Server

from featurestore import FeatureStore
from featurestore.errors import SnapshotMissing
from featurestore.jobs.pushed_restore import OnlineDiffersWarning
from featurestore.lifecycle.datasets import Verdict
from featurestore.timeline import DAY_US, HOUR_US, SECOND_US, ManualClock, SystemClock
from tests.conftest import INSTANT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(f"ignore::{OnlineDiffersWarning.__module__}.OnlineDiffersWarning"),
]

NOON = SystemClock().now_us() // HOUR_US * HOUR_US + DAY_US
TYPES = {
    "driver": pa.string(),
    "at": INSTANT,
    "known": INSTANT,
    "id": pa.int64(),
    "fare": pa.float64(),
}
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

driver = Entity("driver")
rides = FileSource("rides", "s3://PLACE/rides/*.parquet", "at", "known", event_id="id")
tips = FileSource("tips", "s3://PLACE/tips", "at", "known", format="delta", event_id="id")
last = FeatureView("last", entities=[driver], source=rides, features=[Feature("fare")])
tipped = FeatureView("tipped", entities=[driver], source=tips, features=[Feature("tip", "fare")])
model = FeatureService("model", features=[last, tipped])
"""


def table(*fares: float) -> pa.Table:
    count = len(fares)
    at = [NOON - 5 * HOUR_US + int(fare) * SECOND_US for fare in fares]
    columns = {
        "driver": ["ann"] * count, "at": at, "known": at,
        "id": [int(fare) for fare in fares], "fare": list(fares),
    }  # fmt: skip
    return pa.table({name: pa.array(columns[name], kind) for name, kind in TYPES.items()})


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as started:
        started.files()
        yield started


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


class Lake:
    """Machines that share a place on S3 and a registry; each has a write-ahead log of its own."""

    def __init__(self, folder: Path, server: S3Server, clock: ManualClock) -> None:
        self.folder, self.server, self.clock = folder, server, clock
        self.files, self.place = server.files(), f"{BUCKET}/{uuid.uuid4().hex}"

    def machine(self, name: str) -> FeatureStore:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "definitions.py").write_text(DEFINITIONS.replace("PLACE", self.place))
        (folder / "featurestore.toml").write_text(
            f'[project]\nname = "rides"\n'
            f'[registry]\nurl = "sqlite:///{self.folder}/registry.db"\n'
            f'[online]\nurl = "lmdb:{self.folder}/online"\n'
            f'[offline]\npath = "s3://{self.place}/ours"\ns3_endpoint = "{self.server.endpoint}"\n'
            "threads = 1\n"
        )
        return FeatureStore(folder, clock=self.clock)

    def tip(self, *fares: float, mode: Any = "append") -> None:
        options = {"AWS_ENDPOINT_URL": self.server.endpoint, "AWS_ALLOW_HTTP": "true",
                   "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}  # fmt: skip
        write_deltalake(
            f"s3://{self.place}/tips", table(*fares), mode=mode, storage_options=options
        )

    def push(self, fs: FeatureStore, *fares: float) -> str:
        self.clock.advance(SECOND_US)
        fs.push("rides", table(*fares))
        return str(fs.data.log("pushed/rides")[0].id)


@pytest.fixture
def lake(
    tmp_path: Path, server: S3Server, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> Lake:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    lake = Lake(tmp_path, server, clock)
    pq.write_table(table(1.0), f"{lake.place}/rides/0.parquet", filesystem=lake.files)
    lake.tip(1.0)
    return lake


def frame() -> pa.Table:
    return pa.table({"driver": ["ann"], "event_timestamp": pa.array([NOON], INSTANT)})


def fare(fs: FeatureStore) -> float:
    (row,) = fs.get_historical_features(frame(), "model").to_arrow().to_pylist()
    return float(row["fare"])


def test_what_two_machines_pushed(lake: Lake) -> None:
    with lake.machine("one") as one, lake.machine("two") as two:
        one.apply()
        one.materialize()
        first = lake.push(one, 2.0)
        second = lake.push(two, 3.0, 4.0)
        third = lake.push(one, 5.0)
        assert [entry.id for entry in two.data.log("pushed/rides")] == [third, second, first]
        found = one.data.diff(first, "pushed/rides")
        assert (found.rows_added, found.keys_added, found.keys_changed) == (3, 3, 0)
        two.data.tag(second, "audited")
        made = one.create_training_set("set", frame(), "model")
        lake.clock.advance(SECOND_US)
        done = one.data.restore(first, reason="a bad feed")
        assert (done.rows_removed, done.to_materialize) == (3, ("last",))
        assert fare(one) == fare(two) == 2.0
        assert two.data.log("pushed/rides")[0].reason == "a bad feed"
        late = lake.push(two, 6.0)  # after the restore, by the other machine
        assert fare(one) == fare(two) == 6.0
        assert one.data.diff(done.id, late).rows_added == 1
        two.data.restore(done.id)
        lake.clock.advance(8 * DAY_US)
        asked = one.data.vacuum("pushed/rides")
        assert (asked.rows, asked.kept_tags, asked.removed) == (1, ("audited",), False)
        assert one.data.vacuum("pushed/rides", dry_run=False).rows == 1
        assert two.data.vacuum("pushed/rides", dry_run=False).rows == 1
        for fs in (one, two):
            lake.clock.advance(DAY_US)
            fs.sweep()
        with pytest.raises(SnapshotMissing, match="were vacuumed"):
            two.data.restore(third)
        two.data.restore("pushed/rides/audited")
        assert fare(one) == 4.0
        assert one.reproduce(made.id).verdict is Verdict.EXACT
        one.materialize()
        assert one.get_online_features("model", [{"driver": "ann"}]).to_dict()["fare"] == [4.0]


def test_sets_a_delta_table_and_garbage(lake: Lake) -> None:
    with lake.machine("one") as fs:
        made = fs.create_training_set("set", frame(), "model")
        fs.data.tag("set", "audited")
        for number in (2.0, 3.0, 4.0):
            lake.tip(number, mode="overwrite")
        lake.clock.advance(SECOND_US)
        fs.create_training_set("set", frame(), "model")
        assert [(v.number, v.current, v.tags) for v in fs.data.log("set")] == [
            (2, True, ()), (1, False, ("audited",)),
        ]  # fmt: skip
        found = fs.data.diff("set/audited", "set")
        assert found.columns_changed == ("tip",)
        assert fs.data.restore("set/audited").id == made.id
        asked = fs.data.vacuum("tips", older_than="1us")
        assert asked.kept_versions == (0, 3)
        assert len(asked.files) == 2
        assert fs.data.vacuum("tips", older_than="1us", dry_run=False).files == asked.files
        for ref in ("set/1", "set/2", "set/audited"):
            assert fs.reproduce(ref).verdict is Verdict.EXACT
        junk = "ours/training_sets/set/0123456789abcdef0123456789abcdef/part-00000.parquet"
        pq.write_table(table(1.0), f"{lake.place}/{junk}", filesystem=lake.files)
        lake.clock.advance(2 * DAY_US)
        listed = fs.lineage.gc(dry_run=True)
        assert ([file.name for file in listed.files], listed.removed) == (
            [junk.removeprefix("ours/")], 0,
        )  # fmt: skip
        done = fs.lineage.gc()
        assert (done.files, done.removed) == (listed.files, 1)
        assert fs.lineage.gc().files == ()
        for ref in ("set/1", "set/2", "set/audited"):
            assert fs.reproduce(ref).verdict is Verdict.EXACT

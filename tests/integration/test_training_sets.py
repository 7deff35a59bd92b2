"""Training sets that stay: written once, pinned, split, read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.errors import (
    FileNotWritten,
    InvalidEntityFrame,
    InvalidRequest,
    PermissionDenied,
    RecordNotFound,
    SnapshotMissing,
)
from featurestore.jobs import frame_parts, set_files, training_set_creation, training_sets
from featurestore.jobs.retrieved import forget_retrieved, last_retrieved
from featurestore.stores.offline import contents
from featurestore.timeline import DAY_US, ManualClock, to_us
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

DEFINITIONS = """
from featurestore import *

user = Entity("user", join_keys={"user_id": "int64"})
shop = Entity("shop")
visits = FileSource("visits", path="data/visits/*.parquet", event_time="seen", created_time="told")
prices = FileSource("prices", path="data/prices.csv", event_time="since",
                    column_types={"since": "timestamp"})
busy = SqlSource("busy", "SELECT user_id, seen, told, page FROM visits WHERE page <> 'home'",
                 event_time="seen", created_time="told")
chance = SqlSource("chance", "SELECT user_id, seen, random() AS luck FROM visits",
                   event_time="seen")
last_visit = FeatureView("last_visit", entities=[user], source=visits,
                         features=[Feature("page"), Feature("spent")])
visit_windows = FeatureView("visit_windows", entities=[user], source=visits,
                            features=[Aggregation("spent", "sum", window="7d")])
busy_visit = FeatureView("busy_visit", entities=[user], source=busy,
                         features=[Feature("busy_page", "page")])
shop_price = FeatureView("shop_price", entities=[shop], source=prices, features=[Feature("price")])
luck = FeatureView("luck", entities=[user], source=chance, features=[Feature("luck")])
asked = RequestSource("asked", schema={"budget": "float64"})
left = OnDemandFeatureView("left", inputs=[last_visit, asked],
                           features=[Feature("left", "budget - spent")])
model = FeatureService("model", features=[last_visit, visit_windows, busy_visit, left])
"""
VISITS = {"user_id": pa.int64(), "seen": INSTANT, "told": INSTANT, "page": pa.string(),
          "spent": pa.float64()}  # fmt: skip
NOW = to_us("2024-06-01T00:00:00Z")


def visit(user: int, day: int, *, spent: float = 1.0) -> dict[str, Any]:
    page = "home" if (user + day) % 3 else "cart"
    return {"user_id": user, "seen": utc(2024, 5, day), "told": utc(2024, 5, day, 6),
            "page": page, "spent": spent}  # fmt: skip


@pytest.fixture
def folder(make_repo: MakeRepo) -> Path:
    made = make_repo(DEFINITIONS)
    for part in range(3):
        rows = [visit(user, day) for user in range(8) for day in range(1 + part, 28, 3)]
        write_rows(made / "data" / "visits" / f"{part}.parquet", rows, VISITS)
    lines = [f"s{n},2024-05-0{n}T00:00:00Z,{n}.5" for n in range(1, 4)]
    (made / "data" / "prices.csv").write_text("\n".join(["shop,since,price", *lines]) + "\n")
    return made


@pytest.fixture
def fs(folder: Path) -> Iterator[FeatureStore]:
    forget_retrieved()
    with FeatureStore(folder, clock=ManualClock(NOW)) as opened:
        yield opened


def frame(rows: int = 60) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array([n % 10 for n in range(rows)], pa.int32()),
            "shop": [f"s{n % 4}" for n in range(rows)],
            "budget": [float(n) for n in range(rows)],
            "event_timestamp": [utc(2024, 5, 1 + n % 30, n % 24) for n in range(rows)],
            "label": pa.array([n % 2 == 0 for n in range(rows)]).dictionary_encode(),
        }
    )


def files_below(fs: FeatureStore) -> list[str]:
    base = fs.settings.root / ".featurestore/offline/training_sets"
    return sorted(path.name for path in base.rglob("part-*"))


def test_the_rows_are_those_of_the_job_in_their_own_types_and_order(fs: FeatureStore) -> None:
    made = fs.create_training_set("set", frame(), "model", label="label", include_status=True)
    job = fs.get_historical_features(frame(), "model", include_status=True, known_until=NOW)
    assert made.to_arrow().equals(job.to_arrow())
    assert made.schema == job.schema
    assert made.rows == 60
    assert made.features == job.features
    assert made.label == "label"
    assert made.splits == {}
    assert fs.training_set("set").id == made.id
    assert fs.training_set(made.id).to_pandas().equals(made.to_pandas())
    assert made.to_polars().height == 60
    made.to_parquet(fs.settings.root / "out.parquet")
    assert pq.read_table(fs.settings.root / "out.parquet").num_rows == 60


def test_what_is_on_record(fs: FeatureStore) -> None:
    made = fs.create_training_set("set", frame(), "model")
    body = made.body
    assert body["known_until_us"] == NOW
    assert body["entity_frame"]["keys"] == ["user_id"]
    assert body["service"]["name"] == "model"
    assert body["unpinned"] == []
    assert set(body["libraries"]) >= {"duckdb", "pyarrow", "python", "libc"}
    edges = {(fs.registry.record(e.parent).record.name, e.role) for e in made.record.record.parents}
    assert edges == {
        ("last_visit.page", "feature"), ("last_visit.spent", "feature"),
        ("visit_windows.spent_sum_7d", "feature"), ("busy_visit.busy_page", "feature"),
        ("left.left", "feature"), ("model", "service"), ("visits", "snapshot"),
        ("busy", "snapshot"),
    }  # fmt: skip
    versions = {one["column"]: one["version"] for one in made.request["columns"]}
    assert versions["page"] == fs.repo.views["last_visit"].feature("page").version
    # What was never applied is on record with it.
    found = {s.record.name for s in fs.registry.records(kind="view")}
    assert found == {"last_visit", "visit_windows", "busy_visit"}
    assert fs.registry.records(kind="on_demand_view")[0].record.name == "left"


def test_snapshots_name_every_file_by_its_bytes(fs: FeatureStore) -> None:
    fs.create_training_set("set", frame(), ["last_visit:page", "shop_price:price"])
    found = {s.record.name: s.record.body for s in fs.registry.records(kind="snapshot")}
    visits = found["visits"]
    assert (visits["pinned"], visits["rows"], visits["files"]) == (True, 8 * 27, 3)
    assert visits["min_event_time_us"] == to_us(utc(2024, 5, 1))
    assert visits["max_event_time_us"] == to_us(utc(2024, 5, 27))
    manifest = json.loads(fs.registry.blob(visits["manifest"]))
    first = manifest["files"][0]
    path = fs.settings.root / first["path"]
    assert first["path"] == "data/visits/0.parquet"
    assert first["sha256"] == contents.sha256_of(str(path), fs._sets().offline.s3)
    assert first["size"] == path.stat().st_size
    prices = found["prices"]
    assert (prices["rows"], prices["min_event_time_us"]) == (3, to_us("2024-05-01T00:00:00Z"))


def test_unchanged_files_are_hashed_once(fs: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = contents.sha256_of

    def counted(path: str, s3: Any) -> str:
        read.append(Path(path).name)
        return original(path, s3)

    monkeypatch.setattr(contents, "sha256_of", counted)
    monkeypatch.setattr(contents, "YOUNG_NS", -(10**18))  # as if the files were old
    for _ in range(2):
        fs.create_training_set("set", frame(), ["last_visit:page"])
    assert sorted(read) == ["0.parquet", "1.parquet", "2.parquet"]
    path = fs.settings.root / "data/visits/1.parquet"
    write_rows(path, [visit(1, 3, spent=9.0)], VISITS)
    fs.create_training_set("set", frame(), ["last_visit:page"])
    assert sorted(read) == ["0.parquet", "1.parquet", "1.parquet", "2.parquet"]


def test_a_file_that_changed_a_moment_ago_is_not_remembered(fs: FeatureStore) -> None:
    fs.create_training_set("set", frame(), ["last_visit:page"])
    assert fs._sets().offline.read(contents.MEMORY).num_rows == 0


def test_sources_that_cannot_be_pinned_are_named(fs: FeatureStore) -> None:
    made = fs.create_training_set("set", frame(), ["last_visit:page", "luck:luck"])
    assert made.unpinned == ("chance",)
    (found,) = fs.registry.records(kind="snapshot", name="chance")
    assert found.record.body["pinned"] is False
    assert found.record.body["why"] == "it asks rand()"


def test_rows_that_arrive_later_change_nothing(fs: FeatureStore, folder: Path) -> None:
    made = fs.create_training_set("set", frame(), ["last_visit"])
    before = made.to_arrow()
    late = [visit(user, 27, spent=99.0) for user in range(8)]
    write_rows(folder / "data/visits/9.parquet", late, VISITS)
    assert fs.training_set("set").to_arrow().equals(before)
    again = fs.create_training_set("set", frame(), ["last_visit"])
    assert again.row_digest != made.row_digest
    assert fs.training_set("set").id == again.id
    assert fs.training_set(made.id).to_arrow().equals(before)


def test_splits_by_entity_never_straddle(fs: FeatureStore) -> None:
    splits = {"train": 0.5, "valid": 0.25, "test": 0.25}
    made = fs.create_training_set("set", frame(400), ["last_visit:page"], splits=splits)
    users = {name: set(made.to_arrow(name)["user_id"].to_pylist()) for name in splits}
    assert sum(map(len, users.values())) == len(set.union(*users.values())) == 10
    assert sum(made.splits.values()) == 400
    assert made.splits == {name: made.to_arrow(name).num_rows for name in splits}
    # A float that pandas made of an integer is the same entity.
    other = frame(400).set_column(0, "user_id", frame(400)["user_id"].cast(pa.float64()))
    again = fs.create_training_set("set", other, ["last_visit:page"], splits=splits)
    for name in splits:
        assert set(again.to_arrow(name)["user_id"].to_pylist()) == users[name]


def test_splits_by_time(fs: FeatureStore) -> None:
    splits = {"train": "2024-05-10", "test": "2024-05-20"}
    made = fs.create_training_set("set", frame(), ["last_visit:page"], splits=splits)
    assert pc.max(made.to_arrow("train")["event_timestamp"]).as_py() < utc(2024, 5, 10)
    test = made.to_arrow("test")["event_timestamp"]
    assert pc.min(test).as_py() >= utc(2024, 5, 10)
    assert pc.max(test).as_py() < utc(2024, 5, 20)
    assert made.body["splits"]["rows"][""] == 60 - sum(made.splits.values()) > 0


def test_many_files_and_groups(fs: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fs.create_training_set("set", frame(500), ["last_visit"])
    monkeypatch.setattr(set_files, "FILE_ROWS", 64)
    monkeypatch.setattr(set_files, "GROUP_ROWS", 7)
    monkeypatch.setattr(training_set_creation, "BATCH_ROWS", 10)
    cut = fs.create_training_set("set", frame(500), ["last_visit"])
    assert len(cut.files.files) == 8
    assert cut.row_digest == whole.row_digest
    assert cut.to_arrow().equals(whole.to_arrow())


def test_no_rows(fs: FeatureStore) -> None:
    made = fs.create_training_set("set", frame(0), ["last_visit"])
    assert (made.rows, made.to_arrow().num_rows, len(made.files.files)) == (0, 0, 1)


def test_a_frame_from_sql(fs: FeatureStore) -> None:
    sql = "SELECT user_id, seen AS event_timestamp FROM visits"
    made = fs.create_training_set("set", sql, ["last_visit:spent"])
    assert made.rows == 216


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../x"}, "is not a training set's name"),
        ({"label": "lable"}, "no|have a column 'lable'"),
        ({"splits": {"train": 0.5}}, "make 1"),
        ({"splits": {"by": "label", "train": 1.0}}, "no join key"),
    ],
)
def test_bad_arguments_leave_nothing(fs: FeatureStore, change: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"name": "set", "entity_df": frame(), "features": "model"}
    with pytest.raises(InvalidRequest, match=says):
        fs.create_training_set(**given | change)
    assert fs.registry.aliases("training_set/") == {}
    assert files_below(fs) == []


def test_a_type_that_no_file_can_hold(fs: FeatureStore) -> None:
    odd = frame(2).append_column("odd", pa.array([(1, 2, 3), None], pa.month_day_nano_interval()))
    with pytest.raises(InvalidEntityFrame, match="odd"):
        fs.create_training_set("set", odd, "model")
    assert files_below(fs) == []


def test_files_that_change_under_way_are_reported_and_nothing_stays(
    fs: FeatureStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = set_files.Tally.add

    def rewriting(self: set_files.Tally, batch: pa.RecordBatch) -> None:
        write_rows(folder / "data/visits/0.parquet", [visit(1, 1, spent=5.0)], VISITS)
        original(self, batch)

    monkeypatch.setattr(set_files.Tally, "add", rewriting)
    with pytest.raises(SnapshotMissing, match=r"0\.parquet was rewritten"):
        fs.create_training_set("set", frame(), ["last_visit"])
    assert files_below(fs) == []
    assert fs.registry.aliases("training_set/") == {}


def test_a_folder_that_cannot_be_written(fs: FeatureStore, folder: Path) -> None:
    (folder / ".featurestore/offline").mkdir(parents=True)
    (folder / ".featurestore/offline/training_sets").write_text("in the way")
    with pytest.raises(FileNotWritten, match="can't be written"):
        fs.create_training_set("set", frame(), ["last_visit"])
    assert fs.registry.aliases("training_set/") == {}


def test_refs(fs: FeatureStore) -> None:
    made = fs.create_training_set("set", frame(), ["last_visit"])
    digest = made.id.rpartition("@")[2]
    assert fs.training_set(f"training_set:set@{digest[:8]}").id == made.id
    assert fs.training_set(f"set@{digest[:8]}").id == made.id
    assert fs.training_set("training_set/set").id == made.id
    with pytest.raises(RecordNotFound, match=r"no 'sat'\. Did you mean 'set'"):
        fs.training_set("sat")
    with pytest.raises(InvalidRequest, match="is a view, not a training set"):
        fs.training_set(fs.registry.records(kind="view")[0].id)
    with pytest.raises(InvalidRequest, match="has no splits"):
        made.to_arrow("train")


def test_files_that_are_gone(fs: FeatureStore) -> None:
    made = fs.create_training_set("set", frame(), ["last_visit"])
    Path(fs._sets().offline.url(made.files.files[0].name)).unlink()
    with pytest.raises(SnapshotMissing, match="a file of the training set, can't be read"):
        made.to_arrow()


def test_what_the_process_retrieved(fs: FeatureStore) -> None:
    fs.get_historical_features(frame(), "model")
    made = fs.create_training_set("set", frame(), ["last_visit:page"])
    fs.training_set("set")
    (first, second) = last_retrieved()
    assert (first.training_set, first.service, set(first.pins)) == (None, "model", {"visits"})
    assert (second.training_set, second.features) == (made.id, ("page",))
    assert set(second.pins) == {"visits"}


def test_garbage_is_swept_when_it_is_old(fs: FeatureStore) -> None:
    made = fs.create_training_set("set", frame(), ["last_visit"])
    offline = fs._sets().offline
    schema = pa.schema([("x", pa.int64())])
    offline.write("training_sets/set/dead/part-00000.parquet", schema, [])
    now_us = int(Path(offline.base).stat().st_mtime * 1e6)
    assert training_sets.sweep(fs._sets(), now_us=now_us) == 0
    assert training_sets.sweep(fs._sets(), now_us=now_us + 2 * DAY_US) == 1
    assert fs.training_set("set").to_arrow().num_rows == made.rows


def test_who_may_not_track(fs: FeatureStore, folder: Path) -> None:
    admin, _ = fs.create_token("admin", allow=["*:shop"])
    reader, _ = fs.create_token("reader", allow=["read:shop"])
    tracker, _ = fs.create_token("tracker", allow=["track:shop/set"])
    with FeatureStore(folder, overrides={"security.token": admin}) as owner:
        owner.set_access_control(True)
    with FeatureStore(folder, overrides={"security.token": reader}) as store:
        with pytest.raises(PermissionDenied, match="track:shop/set"):
            store.create_training_set("set", frame(), ["last_visit"])
        assert files_below(fs) == []
    with FeatureStore(folder, overrides={"security.token": tracker}) as store:
        store.create_training_set("set", frame(), ["last_visit"])
        assert store.reproduce("set").is_same
        with pytest.raises(PermissionDenied, match="track:shop/other"):
            store.create_training_set("other", frame(), ["last_visit"])


def test_a_set_that_was_beaten_to_its_name(fs: FeatureStore, folder: Path) -> None:
    """Two at once: both are on record, the name means the one that came last."""
    with ThreadPoolExecutor(2) as threads:
        sets = list(threads.map(lambda n: fs.create_training_set("set", frame(n), ["last_visit"]),
                                (20, 30)))  # fmt: skip
    assert fs.training_set("set").id in {one.id for one in sets}
    assert [fs.training_set(one.id).to_arrow().num_rows for one in sets] == [20, 30]
    assert len(fs.registry.history("training_set/set")) == 2


@pytest.mark.slow
def test_a_set_too_wide_for_a_record(fs: FeatureStore) -> None:
    """Long lists stand in blobs; the record says how long they are."""
    wide = frame(3)
    for number in range(700):
        wide = wide.append_column(f"{'column ' * 5}{number}", pa.array([number] * 3))
    made = fs.create_training_set("set", wide, ["last_visit:page"])
    assert made.body["columns"] == {"count": len(wide.schema) + 1}
    assert made.body["entity_frame"]["columns"] == {"count": len(wide.schema)}
    assert made.features == ("page",)
    assert len(made.profile["columns"]) == len(wide.schema) + 1
    assert fs.reproduce("set").is_same
    assert fs.data.diff("set", "set").same_rows


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "reader", "sql", "file"])
def test_long_frames_are_joined_in_parts(
    fs: FeatureStore, folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    pq.write_table(frame(500), folder / "frame.parquet", row_group_size=90)
    sql = "SELECT user_id, seen AS event_timestamp FROM visits ORDER BY user_id, seen"
    forms: dict[str, Any] = {
        "table": lambda: frame(500),
        "reader": lambda: frame(500).to_reader(70),
        "sql": lambda: sql,
        "file": lambda: str(folder / "frame.parquet"),
    }
    features = ["last_visit", "visit_windows"]
    whole = fs.create_training_set("set", forms[form](), features)
    monkeypatch.setattr(frame_parts, "CELLS_AT_ONCE", 1)
    monkeypatch.setattr(frame_parts, "ROWS_AT_ONCE_MIN", 64)
    parts = fs.create_training_set("set", forms[form](), features)
    assert parts.row_digest == whole.row_digest
    assert parts.to_arrow().equals(whole.to_arrow())
    assert fs.reproduce(whole.id).is_same

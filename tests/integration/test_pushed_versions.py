"""Versions of pushed rows: a log, differences, tags, a way back, a vacuum; and what online tables,
training sets and other machines see of it."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from featurestore import FeatureStore
from featurestore.cli.main import run
from featurestore.errors import (
    CommitConflict,
    InvalidRequest,
    PermissionDenied,
    RecordNotFound,
    SnapshotMissing,
    StreamWrites,
    UnknownSource,
)
from featurestore.jobs import pushed_restore
from featurestore.jobs.pushed_restore import LIVE_US, OnlineDiffersWarning
from featurestore.lifecycle.datasets import Verdict
from featurestore.stores.offline import push_log, push_manifest
from featurestore.timeline import (
    DAY_US,
    HOUR_US,
    SECOND_US,
    ManualClock,
    SystemClock,
    format_instant,
)
from featurestore.web.app import build_app
from featurestore.web.site import Site
from tests.conftest import INSTANT

pytestmark = pytest.mark.slow

NOON = SystemClock().now_us() // HOUR_US * HOUR_US + DAY_US
"""Later than the machine's own clock, by which reading the log may commit what was pushed."""
RIDES = {
    "driver": pa.string(),
    "at": INSTANT,
    "known": INSTANT,
    "id": pa.int64(),
    "fare": pa.float64(),
    "a": pa.string(),
}
AT_NOON = pa.table({"driver": ["ann"], "event_timestamp": pa.array([NOON], INSTANT)})
DEFINITIONS = """
from featurestore import Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource
from featurestore import SqlSource, StreamSource

driver = Entity("driver")
rides = FileSource("rides", "rides/*.parquet", "at", "known", event_id="id")
notes = FileSource("notes", "notes.parquet", "at", "known")
feed = StreamSource("redis://127.0.0.1:1/0/feed", source=notes)
dear = SqlSource("dear", "SELECT * FROM rides WHERE fare > 5", "at", created_time="known")
last = FeatureView("last", entities=[driver], source=rides, features=[Feature("fare")])
day = FeatureView("day", entities=[driver], source=rides, features=[
    Aggregation("*", "count", window="1d"), Aggregation("fare", "sum", window="1d"),
])
noted = FeatureView("noted", entities=[driver], source=notes, features=[Feature("fare")])
splurge = FeatureView("splurge", entities=[driver], source=dear, features=[Feature("fare")])
model = FeatureService("model", features=[last, day])
"""


def ride(number: int, fare: float, driver: str = "ann", age_us: int = HOUR_US) -> dict[str, Any]:
    at = NOON - age_us
    return {"driver": driver, "at": at, "known": at, "id": number, "fare": fare, "a": "x"}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.table({name: pa.array([r[name] for r in rows], t) for name, t in RIDES.items()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rides").mkdir()
    pq.write_table(table(ride(1, 1.0, age_us=5 * HOUR_US)), tmp_path / "rides" / "0.parquet")
    pq.write_table(table(ride(1, 1.0)), tmp_path / "notes.parquet")
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "rides"\n')
    return tmp_path


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def fs(folder: Path, clock: ManualClock) -> Iterator[FeatureStore]:
    with FeatureStore(folder, clock=clock) as opened:
        opened.apply()
        yield opened


def push(fs: FeatureStore, *rows: dict[str, Any], source: str = "rides") -> str:
    """Push rows in a commit of their own; the version that it made."""
    fs.clock.advance(SECOND_US)  # type: ignore[attr-defined]
    fs.push(source, table(*rows))
    return str(fs.data.log(f"pushed/{source}")[0].id)


def fares(fs: FeatureStore) -> list[float]:
    sql = 'SELECT driver, "at" AS event_timestamp, id, fare FROM rides'
    frame = fs.get_historical_features(sql, ["last:fare"], full_feature_names=True).to_pandas()
    return sorted(frame["fare"])


def restored(fs: FeatureStore, ref: str, **how: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OnlineDiffersWarning)
        return fs.data.restore(ref, **how)


def online(fs: FeatureStore, view: str = "last", driver: str = "ann") -> dict[str, Any]:
    names = {"last": ["last:fare"], "day": ["day:count_1d", "day:fare_sum_1d"]}[view]
    return {
        name: values[0]
        for name, values in fs.get_online_features(names, [{"driver": driver}]).to_dict().items()
        if name != "driver"
    }


def test_log(fs: FeatureStore) -> None:
    first = push(fs, ride(2, 2.0), ride(3, 3.0))
    second = push(fs, ride(4, 4.0))
    push(fs, ride(1, 1.0), source="notes")
    found = fs.data.log("pushed/rides")
    assert [(one.id, one.operation, one.rows_added, one.current) for one in found] == [
        (second, "push", 1, True), (first, "push", 2, False),
    ]  # fmt: skip
    assert found[0].at_us > found[1].at_us
    assert found[0].author
    assert len(fs.data.log("pushed/rides", limit=1)) == 1
    with pytest.raises(UnknownSource, match="Did you mean 'rides'"):
        fs.data.log("pushed/ride")
    for wrong in ("pushed/rides/none", "pushed/rides/", "pushed/rides/2026-99-01"):
        if wrong.endswith("/"):
            assert fs.data.diff(wrong, second).rows_added == 0
        else:
            with pytest.raises(RecordNotFound, match=wrong):
                fs.data.diff(wrong, second)


def test_the_log_outlives_manifests_and_merged_files(
    fs: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_manifest, "COMMITS_LISTED_MAX", 3)
    monkeypatch.setattr(push_log, "FILES_PER_TIER_MAX", 4)
    ids = [push(fs, ride(n, float(n))) for n in range(2, 13)]
    assert [one.id for one in fs.data.log("pushed/rides")] == ids[::-1]
    offline = fs._sets().offline
    assert len(push_log.logged_files(offline)["rows/rides"]) < 6
    push_log.sweep(offline, now_us=fs.clock.now_us() + 2 * DAY_US)
    assert [one.id for one in fs.data.log("pushed/rides")] == ids[::-1]
    for place, version in enumerate(ids):
        found = fs.data.diff(version, "pushed/rides")
        assert (found.rows_added, found.rows_removed) == (len(ids) - 1 - place, 0)
    restored(fs, ids[4])
    assert fares(fs) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    for n in range(20, 26):  # merged with what is hidden
        push(fs, ride(n, float(n)))
    assert fares(fs) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, *map(float, range(20, 26))]
    restored(fs, ids[-1])
    assert fares(fs) == [float(n) for n in range(1, 13)]


def test_diff(fs: FeatureStore) -> None:
    first = push(fs, ride(2, 2.0), ride(3, 3.0))
    second = push(fs, ride(2, 2.5), ride(4, 4.0), ride(5, 5.0, "bob"))
    found = fs.data.diff(first, second)
    assert found.key == ("id",)
    assert (found.rows_added, found.rows_removed) == (3, 0)
    assert (found.keys_added, found.keys_removed, found.keys_changed) == (2, 0, 1)
    fare = found.columns.index("fare")
    assert [(c.change, c.key, [row[fare] for row in c.now]) for c in found.changes] == [
        ("changed", (2,), [2.5]), ("added", (4,), [4.0]), ("added", (5,), [5.0]),
    ]  # fmt: skip
    back = fs.data.diff("pushed/rides", first, limit=1)
    assert (back.rows_removed, back.keys_removed, back.keys_changed) == (3, 2, 1)
    assert [(c.change, c.key) for c in back.changes] == [("changed", (2,))]
    before = format_instant(NOON - 2 * DAY_US)
    whole = fs.data.diff(f"pushed/rides/{before}", "pushed/rides")
    assert (whole.rows_added, whole.keys_added) == (5, 4)
    between = format_instant(fs.data.log("pushed/rides")[0].at_us - 1)
    assert fs.data.diff(f"pushed/rides/{between}", first).rows_added == 0
    push(fs, ride(1, 1.0), source="notes")
    with pytest.raises(InvalidRequest, match="not versions of one table"):
        fs.data.diff("pushed/notes", "pushed/rides")
    with pytest.raises(InvalidRequest, match="LISTED_MAX"):
        fs.data.diff(first, second, limit=-1)


def test_diff_without_an_event_id_goes_by_keys_and_event_time(fs: FeatureStore) -> None:
    first = push(fs, ride(1, 1.0), ride(1, 1.0), source="notes")
    second = push(fs, ride(1, 1.5), ride(1, 9.0, "bob"), source="notes")
    found = fs.data.diff(first, second)
    assert found.key == ("driver", "at")
    assert (found.rows_added, found.keys_added, found.keys_changed) == (2, 1, 1)
    assert fs.data.diff(f"pushed/notes/{format_instant(NOON - 2 * DAY_US)}", first).rows_added == 2


def test_a_deleted_key_is_in_no_version(fs: FeatureStore) -> None:
    first = push(fs, ride(2, 2.0, "ann"))
    push(fs, ride(3, 3.0, "bob"), ride(4, 4.0, "ann"))
    fs.delete_entity("driver", {"driver": "bob"})
    found = fs.data.diff(first, "pushed/rides")
    assert [c.key for c in found.changes] == [(4,)]
    assert (found.rows_added, found.keys_added) == (1, 1)
    fs.clock.advance(SECOND_US)  # type: ignore[attr-defined]
    restored(fs, first)
    restored(fs, fs.data.log("pushed/rides")[1].id)
    fs.materialize()
    assert online(fs, driver="bob") == {"fare": None}


def test_restore_and_back(fs: FeatureStore) -> None:
    first = push(fs, ride(2, 2.0))
    second = push(fs, ride(3, 3.0), ride(4, 4.0))
    done = restored(fs, first, reason="a bad feed")
    assert (done.target, done.rows_added, done.rows_removed) == (first, 0, 2)
    assert fares(fs) == [1.0, 2.0]
    newest = fs.data.log("pushed/rides")[0]
    assert (newest.id, newest.operation, newest.target, newest.reason, newest.current) == (
        done.id, "restore", first, "a bad feed", True,
    )  # fmt: skip
    assert fs.data.diff(done.id, first).rows_added == 0
    assert fs.data.diff(done.id, second).rows_added == 2  # history is all there
    third = push(fs, ride(5, 5.0))
    assert fares(fs) == [1.0, 2.0, 5.0]
    again = restored(fs, second)
    assert (again.rows_added, again.rows_removed) == (2, 1)
    assert fares(fs) == [1.0, 2.0, 3.0, 4.0]
    nothing = restored(fs, second)
    assert (nothing.id, nothing.rows_added, nothing.rows_removed) == ("pushed/rides", 0, 0)
    assert restored(fs, third).rows_added == 1
    assert fares(fs) == [1.0, 2.0, 5.0]
    before = f"pushed/rides/{format_instant(NOON - 2 * DAY_US)}"
    assert restored(fs, before).rows_removed == 2
    assert fares(fs) == [1.0]
    history = [event.reason for event in fs.registry.history("restored/pushed/rides")]
    assert history == ["a bad feed", "restore", "restore", "restore"]


def test_what_is_online_follows_with_the_next_materialize(fs: FeatureStore) -> None:
    fs.materialize()
    first = push(fs, ride(2, 2.0))
    push(fs, ride(3, 30.0, age_us=HOUR_US // 2), ride(4, 40.0, "bob"))
    fs.materialize()
    assert online(fs) == {"fare": 30.0}
    assert online(fs, "day") == {"count_1d": 3, "fare_sum_1d": 33.0}
    with pytest.warns(OnlineDiffersWarning, match="day, last, splurge hold what 'rides' was"):
        done = fs.data.restore(first)
    assert done.to_materialize == ("day", "last", "splurge")
    fs.clock.advance(SECOND_US)  # type: ignore[attr-defined]
    runs = {row.view: row.mode for row in fs.materialize()}
    assert runs == {
        "last": "replace",
        "day": "replace",
        "splurge": "replace",
        "noted": "incremental",
    }
    assert online(fs) == {"fare": 2.0}
    assert online(fs, "day") == {"count_1d": 2, "fare_sum_1d": 3.0}
    assert online(fs, driver="bob") == {"fare": None}
    assert fs.verify().rate == 1.0
    fs.clock.advance(SECOND_US)  # type: ignore[attr-defined]
    assert {row.mode for row in fs.materialize()} == {"incremental"}


def test_a_training_set_is_what_it_was(fs: FeatureStore) -> None:
    first = push(fs, ride(2, 2.0))
    push(fs, ride(3, 3.0))
    made = fs.create_training_set("one", AT_NOON, "model")
    restored(fs, first)
    other = fs.create_training_set("one", AT_NOON, "model")
    assert made.row_digest != other.row_digest
    push(fs, ride(9, 9.0))
    restored(fs, "pushed/rides/" + format_instant(NOON - 2 * DAY_US))
    for ref in ("one/1", "one/2"):
        assert fs.reproduce(ref).verdict is Verdict.EXACT
    changes = fs.data.diff("one/1", "one/2").sources
    assert [change.what for change in changes] == ["rides"]


def test_tags(fs: FeatureStore) -> None:
    first = push(fs, ride(2, 2.0))
    assert fs.data.tag("pushed/rides", "audited").id == "pushed/rides"
    fs.data.tag(first, "audited")
    second = push(fs, ride(3, 3.0))
    assert [one.tags for one in fs.data.log("pushed/rides")] == [(), ("audited",)]
    assert fs.data.diff("pushed/rides/audited", second).rows_added == 1
    with pytest.raises(InvalidRequest, match="stands at another version"):
        fs.data.tag(second, "audited")
    fs.data.tag(second, "audited", move=True)
    assert fs.data.diff("pushed/rides/audited", second).rows_added == 0
    with pytest.raises(InvalidRequest, match="is not a tag"):
        fs.data.tag(second, "2026")
    fs.data.tag(first, "old")
    restored(fs, "pushed/rides/old")
    fs.data.tag("pushed/rides", "again")
    restored(fs, second)
    assert fs.data.diff("pushed/rides/again", "pushed/rides/old").rows_added == 0
    assert fs.data.diff("pushed/rides/again", second).rows_added == 1


def test_two_restores_at_once(
    folder: Path, fs: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked at the same state; one wins, the other one is told, and nothing is lost."""
    first = push(fs, ride(2, 2.0))
    second = push(fs, ride(3, 3.0))
    push(fs, ride(4, 4.0))
    with FeatureStore(folder, clock=fs.clock) as other:
        from featurestore.jobs import push as jobs_push

        real = jobs_push.recover

        def between(context: Any) -> None:
            """The other one's restore, when ours has looked."""
            monkeypatch.setattr(jobs_push, "recover", real)
            restored(other, second)

        monkeypatch.setattr(jobs_push, "recover", between)
        with pytest.raises(CommitConflict):
            restored(fs, first)
        assert fares(fs) == [1.0, 2.0, 3.0]
        assert [one.operation for one in fs.data.log("pushed/rides")][:2] == ["restore", "push"]
        restored(fs, first)
        assert fares(other) == [1.0, 2.0]


def test_a_restore_that_was_killed_has_not_happened(
    fs: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On record, but not in force: nobody sees it, and the next one has a number of its own."""
    first = push(fs, ride(2, 2.0))
    second = push(fs, ride(3, 3.0))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pushed_restore, "write_restore", die)
        with pytest.raises(KeyboardInterrupt):
            fs.data.restore(first)
    assert fares(fs) == [1.0, 2.0, 3.0]
    assert [one.operation for one in fs.data.log("pushed/rides")] == ["push", "push"]
    assert restored(fs, first).rows_removed == 1
    assert fares(fs) == [1.0, 2.0]
    assert restored(fs, second).rows_added == 1
    offline = fs._sets().offline
    numbers = [one.number for one in push_manifest.PushLog.read(offline).restores("rows/rides")]
    assert numbers == [2, 3]


def test_pushes_during_restores_lose_nothing(folder: Path) -> None:
    """Real clocks, somebody who pushes all the time, restores beside it: whatever they hide, every
    row is in the version that its push made, and the last restore brings all of them back."""
    past_us = 2 * DAY_US
    with FeatureStore(folder) as fs, FeatureStore(folder) as other:
        fs.apply()
        fs.push("rides", table(ride(2, 2.0, age_us=past_us)))
        start = fs.data.log("pushed/rides")[0].id
        failed: list[BaseException] = []

        def pushing() -> None:
            try:
                for number in range(100, 120):
                    other.push("rides", table(ride(number, float(number), age_us=past_us)))
            except BaseException as error:
                failed.append(error)
                raise

        thread = threading.Thread(target=pushing)
        thread.start()
        while thread.is_alive():
            restored(fs, start)
        thread.join()
        assert not failed
        log = fs.data.log("pushed/rides")
        assert sum(one.rows_added for one in log if one.operation == "push") == 21
        seen: set[int] = set()
        for one in [one for one in log if one.operation == "push"]:
            found = fs.data.diff(f"pushed/rides/{format_instant(0)}", one.id, limit=100)
            seen |= {change.key[0] for change in found.changes}
        assert seen == {2, *range(100, 120)}


def test_a_live_stream(fs: FeatureStore) -> None:
    first = push(fs, ride(2, 2.0), source="notes")
    second = push(fs, ride(3, 3.0), source="notes")
    with pytest.raises(StreamWrites, match="Stream 'feed' brought rows of 'notes'") as caught:
        fs.data.restore(first)
    assert caught.value.stream == "feed"
    assert fs.data.log("pushed/notes")[0].operation == "push"
    assert restored(fs, first, live=True).rows_removed == 1
    fs.clock.advance(2 * LIVE_US)  # type: ignore[attr-defined]
    assert restored(fs, second).rows_added == 1


def test_vacuum_keeps_tags_late_states_and_training_sets(fs: FeatureStore) -> None:
    first = push(fs, ride(2, 2.0))
    second = push(fs, ride(3, 3.0), ride(4, 4.0))
    third = push(fs, ride(5, 5.0))
    fs.data.tag(second, "audited")
    fs.create_training_set("one", AT_NOON, "model")
    restored(fs, first)
    with pytest.raises(InvalidRequest, match="stays for 1h at least"):
        fs.data.vacuum("pushed/rides", older_than="1us")
    assert fs.data.vacuum("pushed/rides").rows == 0  # the restore is too young
    fs.clock.advance(8 * DAY_US)  # type: ignore[attr-defined]
    asked = fs.data.vacuum("pushed/rides")
    assert (asked.rows, asked.removed, asked.kept_tags) == (1, False, ("audited",))
    assert fs.data.diff(third, second).rows_removed == 1
    done = fs.data.vacuum("pushed/rides", dry_run=False)
    assert (done.rows, done.files, done.removed) == (1, asked.files, True)
    assert fs.data.vacuum("pushed/rides").rows == 0
    fs.sweep()
    fs.clock.advance(DAY_US)  # type: ignore[attr-defined]
    fs.sweep()
    with pytest.raises(SnapshotMissing, match="were vacuumed"):
        fs.data.diff(third, second)
    with pytest.raises(SnapshotMissing, match="were vacuumed"):
        fs.data.restore(third)
    assert fs.data.diff(first, "pushed/rides/audited").rows_added == 2
    assert [one.operation for one in fs.data.log("pushed/rides")][:2] == ["vacuum", "restore"]
    restored(fs, "pushed/rides/audited")
    assert fares(fs) == [1.0, 2.0, 3.0, 4.0]
    assert fs.reproduce("one").verdict is Verdict.EXACT  # its files stay


def test_rows_from_before_there_were_versions(fs: FeatureStore) -> None:
    """A log that an older version of ours has written: its rows are of one version."""
    push(fs, ride(2, 2.0))
    offline = fs._sets().offline
    log = push_manifest.PushLog.read(offline)
    ((writer, manifest),) = log.manifests.items()
    (file,) = manifest.tables["rows/rides"]
    old = offline.read(file.name).drop_columns(["__committed"])
    offline.write(file.name, old.schema, old.to_batches())
    about = {
        "tables": {"rows/rides": [[file.name, file.rows]]},
        "drained": dict(manifest.drained),
        "retired": [],
    }
    schema = pa.schema([], metadata={"featurestore": json.dumps(about)})
    offline.write(push_manifest.manifest_name(writer), schema, [])
    push(fs, ride(3, 3.0))
    assert [(one.at_us > 0, one.rows_added) for one in fs.data.log("pushed/rides")] == [
        (True, 1), (False, 1),
    ]  # fmt: skip
    assert fares(fs) == [1.0, 2.0, 3.0]
    restored(fs, fs.data.log("pushed/rides")[1].id)
    assert fares(fs) == [1.0, 2.0]
    restored(fs, fs.data.log("pushed/rides")[1].id)
    assert fares(fs) == [1.0, 2.0, 3.0]


def test_who_may(folder: Path, fs: FeatureStore, clock: ManualClock) -> None:
    first = push(fs, ride(2, 2.0))
    push(fs, ride(3, 3.0))
    admin, _ = fs.create_token("admin", allow=["*:rides"])
    pusher, _ = fs.create_token("pusher", allow=["push:rides/rides", "read:rides/model"])
    may = ["delete:rides/rides", "track:rides/rides", "read:rides/rides"]
    keeper, _ = fs.create_token("keeper", allow=may)
    as_: Callable[[str], FeatureStore] = lambda token: FeatureStore(  # noqa: E731
        folder, clock=clock, overrides={"security.token": token}
    )
    with as_(admin) as store:
        store.set_access_control(True)
    with as_(pusher) as store:
        for move, need in (
            (lambda: store.data.restore(first), "delete:rides/rides"),
            (lambda: store.data.tag(first, "mine"), "track:rides/rides"),
            (lambda: store.data.diff(first, "pushed/rides"), "read:rides/rides"),
            (lambda: store.data.vacuum("pushed/rides", dry_run=False), "delete:rides/rides"),
        ):
            with pytest.raises(PermissionDenied, match=need):
                move()
    with as_(keeper) as store:
        store.data.tag(first, "mine")
        assert store.data.diff(first, "pushed/rides").rows_added == 1
        restored(store, first)
        assert store.data.log("pushed/rides")[0].author == "token:keeper"


def test_the_commands(folder: Path, fs: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str, status: int = 0) -> str:
        assert run([*arguments, "--repo", str(folder)], debug=False) == status
        return capsys.readouterr().out

    first = push(fs, ride(2, 2.0))
    push(fs, ride(3, 3.0))
    logged = json.loads(call("data", "log", "pushed/rides", "--json"))
    assert [(one["operation"], one["rows_added"]) for one in logged] == [("push", 1), ("push", 1)]
    assert logged[1]["id"] == first
    found = json.loads(call("data", "diff", first, "pushed/rides", "--json"))
    assert (found["rows_added"], found["changes"][0]["key"]) == (1, [3])
    assert json.loads(call("data", "tag", first, "good", "--json")) == {"id": first, "tag": "good"}
    done = json.loads(call("data", "restore", "pushed/rides/good", "--json"))
    assert (done["rows_removed"], done["to_materialize"]) == (
        1, ["day", "last", "splurge"],
    )  # fmt: skip
    assert json.loads(call("data", "vacuum", "pushed/rides", "--json"))["rows"] == 0
    assert call("data", "restore", "pushed/rides/bad", status=1) == ""


@pytest.mark.filterwarnings(f"ignore::{OnlineDiffersWarning.__module__}.OnlineDiffersWarning")
def test_over_http(folder: Path, fs: FeatureStore, clock: ManualClock) -> None:
    first = push(fs, ride(2, 2.0))
    push(fs, ride(3, 3.0))
    with Site(fs.settings, clock=clock) as site:
        api = TestClient(build_app(site), base_url="http://127.0.0.1/api/data")
        logged = api.get("/log", params={"name": "pushed/rides", "limit": 1}).json()
        assert [(one["operation"], one["current"]) for one in logged] == [("push", True)]
        found = api.get("/diff", params={"then": first, "now": "pushed/rides"}).json()
        assert (found["rows_added"], found["changes"][0]["key"]) == (1, [3])
        asked = {"ref": first, "tag": "good"}
        assert api.post("/tag", params=asked, json={}).json() == {"id": first}
        why = {"reason": "a bad feed"}
        done = api.post("/restore", params={"ref": "pushed/rides/good"}, json=why).json()
        assert (done["rows_removed"], done["to_materialize"]) == (1, ["day", "last", "splurge"])
        assert api.get("/vacuum", params={"source": "pushed/rides"}).json()["kept_tags"] == ["good"]
        assert api.post("/vacuum", params={"source": "pushed/rides"}, json={}).json()["removed"]
        missing = api.get("/log", params={"name": "pushed/ride"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown-source")
        fs.create_training_set("one", AT_NOON, "model")
        assert [one["number"] for one in api.get("/log", params={"name": "one"}).json()] == [1]
        made = api.post("/tag", params={"ref": "one", "tag": "good"}, json={}).json()
        assert made["rows"] == 1
        assert api.post("/restore", params={"ref": "one/good"}, json={}).json() == made

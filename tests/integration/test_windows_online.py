"""Windowed views from files to answers, on LMDB and Redis: what runs write, read again and leave
behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pyarrow as pa
import pytest
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureClient, FeatureStore
from featurestore.compiler.online import events_field
from featurestore.compiler.rel import ARRIVED
from featurestore.compiler.window_rows import window_rel
from featurestore.config import load_settings
from featurestore.errors import CorruptRow, InvalidRequest, LimitExceeded, StoreUnavailable
from featurestore.jobs import deletions, window_fold, window_writer
from featurestore.jobs.online_tables import (
    SERVED_LATELY_US,
    ensure_online_tables,
    online_tables,
)
from featurestore.jobs.window_writer import WindowWriter
from featurestore.serving.serve import ServerProcess
from featurestore.stores.online.base import KeyFields, Swap, revision_of
from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US, ManualClock, SystemClock
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.serving_pb2_grpc import OnlineFeaturesStub
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


def test_what_is_read_again_counts_once(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    for _ in range(3):
        airport.clock.advance(1_000_000)
        airport.fs.materialize()
    values, _ = airport.look("N1")
    assert values == FIRST


def test_rows_that_land_late_are_counted_once(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    airport.clock.advance(HOUR_US)
    airport.land(
        landing("N1", NOON - 2 * DAY_US, 60.0, 6, known_at=NOON + 1),
        landing("N1", NOON + HOUR_US - 1, 1.0, 7),
        landing("N4", NOON + HOUR_US - 1, 1.0, 8),
    )
    for _ in range(2):
        airport.fs.materialize()
    values, _ = airport.look("N1")
    assert (values["count_1h"], values["count_7d"], values["worst"]) == (1, 4, 60.0)
    assert (values["delay_mean_7d"], values["delay_last_lifetime"]) == (25.25, 1.0)
    assert airport.look("N4")[0]["count_1h"] == 1


def test_windows_move_on_without_another_run(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    airport.clock.advance(HOUR_US + 5 * MINUTE_US)
    assert airport.look("N1")[0]["count_1h"] == 0
    assert airport.look("N1")[0]["count_7d"] == 2
    airport.clock.advance(7 * DAY_US)
    assert airport.look("N1")[0]["count_7d"] == 0
    assert airport.look("N1")[0]["delay_last_lifetime"] == 30.0


def test_a_row_ahead_of_its_time_waits_for_it(airport: Airport) -> None:
    airport.fs.apply()
    airport.land(landing("N2", NOON - 1, 7.0, 9, known_at=NOON + 5))
    airport.fs.materialize()
    assert airport.look("N2")[0]["count_1h"] == 0
    airport.clock.advance(5)
    airport.fs.materialize()
    assert airport.look("N2")[0]["count_1h"] == 1


@pytest.mark.parametrize("airport", ['event_id="id", op="op",'], indirect=True, ids=["ids"])
def test_corrections_and_removals(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    airport.clock.advance(HOUR_US)
    airport.land(
        landing("N1", NOON - 1, 40.0, 1, known_at=NOON + 10),
        landing("N1", NOON - HOUR_US - 1, None, 2, known_at=NOON + 10, op="D"),
        landing("N2", NOON, 1.0, None),
    )
    airport.fs.materialize()
    values, _ = airport.look("N1")
    assert (values["count_7d"], values["delay_mean_7d"], values["worst"]) == (1, 40.0, 40.0)
    assert airport.look("N2")[0]["count_7d"] == 1, "a row without an id does not count"
    airport.clock.advance(2 * DAY_US)
    airport.land(landing("N1", NOON - 1, 99.0, 1, known_at=NOON + DAY_US + HOUR_US))
    airport.fs.materialize()
    assert airport.look("N1")[0]["worst"] == 40.0, "a correction after the horizon is none"


def test_replace_makes_the_windows_anew_beside_the_old_ones(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    for file in (airport.folder / "data").iterdir():
        file.unlink()
    airport.land(landing("N1", NOON - 1, 3.0, 1))
    airport.fs.materialize(replace=True)
    values, _ = airport.look("N1")
    assert (values["count_7d"], values["delay_mean_7d"], values["worst"]) == (1, 3.0, None)
    assert airport.look("N2")[1] == {"NOT_FOUND"}
    airport.clock.advance(10 * SERVED_LATELY_US)
    assert airport.fs.sweep() > 0
    assert airport.look("N1")[0]["count_7d"] == 1


def test_a_sweep_leaves_what_is_needed(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    assert airport.fs.sweep() == 0
    airport.land(landing("N1", NOON - 5, 8.0, 2))
    airport.clock.advance(1)
    airport.fs.materialize()
    assert airport.look("N1")[0]["count_7d"] >= 2


def test_verify_compares_windows(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    report = airport.fs.verify()
    assert report.values == 3 * len(FIRST)
    assert report.rate == 1.0, report.differences
    for file in (airport.folder / "data").iterdir():
        file.unlink()
    airport.land(landing("N1", NOON - 1, 31.0, 1), landing("N2", NOON - 2 * DAY_US, None, 4))
    report = airport.fs.verify()
    assert report.rate < 1.0
    causes = {difference.cause.partition(":")[0] for difference in report.differences}
    assert causes <= {"online only", "restated"}


def test_a_deleted_entity_starts_anew(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    assert airport.fs.delete_entity("plane", {"plane": "N1"}).rows_removed == 1
    assert airport.look("N1")[1] == {"NOT_FOUND"}
    assert airport.look("N2")[0]["count_7d"] == 1
    airport.clock.advance(HOUR_US)
    airport.land(landing("N1", NOON + 5, 2.0, 10))
    airport.fs.materialize()
    values, _ = airport.look("N1")
    assert (values["count_7d"], values["delay_last_lifetime"]) == (1, 2.0)


def test_what_is_known_since_a_deletion_stays(airport: Airport) -> None:
    airport.fs.apply()
    airport.clock.advance(HOUR_US)
    airport.land(landing("N1", NOON + HOUR_US - 1, 2.0, 10))
    airport.fs.materialize()
    deletions.delete_entity(
        airport.fs._context(), "plane", {"plane": "N1"}, now_us=NOON + HOUR_US - 2
    )
    values, _ = airport.look("N1")
    assert (values["count_7d"], values["delay_last_lifetime"]) == (1, 2.0)


def test_damaged_states_are_reported_and_made_anew(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    with airport.open() as fs:
        store = fs._context().store
        (keys,) = list(store.scan(b"fs/shop/plane/"))
        key = next(key for key in keys if key.endswith(b"N1"))
        table = next(
            iter(online_tables(fs._context().registry, fs._context().repo.views.values()).values())
        )
        fields = (table.field, events_field(table.field))
        ((served, kept),) = store.read([KeyFields(key, fields)])
        assert served is not None
        damaged = served[:60] + b"\xff" * 20 + served[80:]
        swap = Swap(key, revision_of(served), (damaged, (kept or b"")[:40]))
        assert store.swap(fields, [swap]) == [True]
        with pytest.raises(CorruptRow, match="history"):
            fs.get_online_features("model", [{"plane": "N1"}]).to_dict()
    airport.land(landing("N1", NOON - 5, 30.0, 11))
    airport.clock.advance(1)
    airport.fs.materialize()
    assert airport.look("N1")[0]["count_7d"] == 3


def test_the_same_answers_in_columns_and_tables(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    with airport.open() as fs:
        answer = fs.get_online_features("model", [{"plane": p} for p in ("N1", "no", "N2", "N1")])
        table = answer.to_arrow().to_pydict()
        assert table == answer.to_dict()
        assert table["count_7d"] == [2, 0, 1, 2]
        one = fs.get_online_features(["history:count_7d", "history:worst"], [{"plane": "N1"}])
        assert one.to_dict() == {"plane": ["N1"], "count_7d": [2], "worst": [30.0]}


def test_over_grpc_and_http_as_in_process(make_repo: MakeRepo) -> None:
    """Rows, columns, a subset, and keys that are not found, whose counts are 0."""
    airport = Airport(make_repo(DEFINITIONS.replace("EVENT_ID", "")))
    now_us = SystemClock().now_us()
    airport.clock = ManualClock(now_us)
    airport.fs.close()
    airport.fs = airport.open()
    airport.land(landing("N1", now_us - 5, 30.0), landing("N2", now_us - 2 * DAY_US, None))
    airport.fs.apply()
    airport.fs.materialize()
    airport.fs.close()
    planes = ["N1", "nobody", "N2", "N1", "nobody"]
    settings = load_settings(
        airport.folder, overrides={"serving.grpc": "127.0.0.1:0", "serving.http": "127.0.0.1:0"}
    )
    with ServerProcess.start(settings) as server:
        with FeatureClient(server.grpc_target) as client:
            for asked in (planes, planes[:1], planes[1:2]):
                found = client.get_online_features("model", {"plane": asked})
                values = found.to_dict()
                wanted = {"N1": (1, 30.0), "N2": (1, None), "nobody": (0, None)}
                pairs = zip(values["count_7d"], values["delay_mean_7d"], strict=True)
                assert list(pairs) == [wanted[plane] for plane in asked]
                assert found.to_arrow().to_pydict() == values
            cut = client.get_online_features(
                ["history:worst", "history:count_7d"], {"plane": planes}
            )
            assert cut.to_dict()["count_7d"] == [1, 0, 1, 1, 0]
            assert cut.statuses["count_7d"][:3] == ["PRESENT", "NOT_FOUND", "PRESENT"]
        request = pb.GetOnlineFeaturesRequest(
            feature_service="model",
            keys=[pb.KeyColumn(name="plane", strings=pb.StringValues(values=planes))],
            options=pb.Options(columns=True),
        )
        with grpc.insecure_channel(server.grpc_target) as channel:
            columns = OnlineFeaturesStub(channel).GetOnlineFeatures(request).columns
        assert list(columns[1].integers.values) == [1, 0, 1, 1, 0]
        body = {"feature_service": "model", "entities": [{"plane": plane} for plane in planes]}
        answer = httpx.post(f"{server.http_url}/v1/online-features", json=body).json()
        assert answer["features"]["count_7d"]["values"] == [1, 0, 1, 1, 0]


def test_lists_are_counted(make_repo: MakeRepo) -> None:
    definitions = DEFINITIONS.replace("EVENT_ID", 'event_id="id", op="op",')
    folder = make_repo(
        definitions.replace('Aggregation("delay", "mean"', 'Aggregation("legs", "count"')
    )
    types = TYPES | {"legs": pa.list_(pa.int64())}
    rows = [landing("N1", NOON - n, 1.0, n, legs=legs) for n, legs in ((1, [7]), (2, None))]
    write_rows(folder / "data" / "1.parquet", rows, types)
    airport = Airport(folder)
    with airport.fs as fs:
        fs.apply()
        fs.materialize()
        fs.push("landings", [landing("N1", NOON - 3, 1.0, 3, legs=[], op=None)])
    assert airport.look("N1")[0]["legs_count_7d"] == 2


# --- rows one by one ------------------------------------------------------------------------------


def writer_of(airport: Airport) -> WindowWriter:
    context = airport.fs._context()
    view = context.repo.views["history"]
    (table,) = ensure_online_tables(context.registry, [view]).values()
    return WindowWriter(context, view, table.field)


def rows_of(airport: Airport, *rows: dict[str, Any]) -> pa.RecordBatch:
    """Rows as a query over the pushed ones gives them."""
    context = airport.fs._context()
    view = context.repo.views["history"]
    rel = window_rel(view, context.repo, {}, pushed="rows")
    columns = {name: [row.get(name) for row in rows] for name in TYPES}
    table = pa.table({name: pa.array(columns[name], TYPES[name]) for name in TYPES})
    arrived = pa.array([airport.clock.now_us()] * len(rows), INSTANT)
    table = table.append_column(ARRIVED, arrived)
    return context.engine.stream(rel, inputs={"rows": table}).read_all().to_batches()[0]


with_ids = pytest.mark.parametrize(
    "airport", ['event_id="id", op="op",'], indirect=True, ids=["ids"]
)


@with_ids
def test_what_becomes_of_each_row(airport: Airport) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    writer = writer_of(airport)
    airport.clock.advance(2 * DAY_US)
    now_us = airport.clock.now_us()
    batch = rows_of(
        airport,
        landing("N1", now_us - 9, 50.0, 20),
        landing("N1", now_us - 8, 60.0, None),
        landing("N1", NOON - 1, 70.0, 1, known_at=now_us - 7),
        landing("N9", now_us - 6, 80.0, 21),
        landing("N1", now_us - 9, 50.0, 20),
    )
    report = writer.write(batch)
    assert (report.added, report.repeated, report.keys) == (2, 1, 2)
    assert [one.index for one in report.rejected] == [1, 2]
    assert report.rejected[0].reason == "no event id"
    assert "correction horizon" in report.rejected[1].reason
    assert writer.write(batch).added == 0
    assert airport.look("N1")[0]["count_1h"] == 1
    assert airport.look("N9")[0]["worst"] == 80.0


@pytest.mark.parametrize("airport", [""], indirect=True, ids=["no-ids"])
def test_rows_without_ids_are_refused_one_by_one(airport: Airport) -> None:
    airport.fs.apply()
    with pytest.raises(InvalidRequest, match="event_id"):
        writer_of(airport).write(rows_of(airport, landing("N1", NOON - 1, 1.0)))


@with_ids
def test_limits_of_a_key_have_a_name(airport: Airport, monkeypatch: pytest.MonkeyPatch) -> None:
    airport.fs.apply()
    airport.fs.materialize()
    monkeypatch.setattr(window_fold, "EVENTS_PER_KEY_MAX", 3)
    many = [landing("N1", NOON - n, 1.0, 30 + n) for n in range(4)]
    with pytest.raises(LimitExceeded, match="EVENTS_PER_KEY_MAX"):
        writer_of(airport).write(rows_of(airport, *many))
    assert airport.look("N1") == (FIRST, {"PRESENT"}), "nothing is half written"


@with_ids
def test_a_writer_that_never_wins_says_so(
    airport: Airport, monkeypatch: pytest.MonkeyPatch
) -> None:
    airport.fs.apply()
    writer, batch = writer_of(airport), rows_of(airport, landing("N1", NOON - 1, 1.0, 1))
    swaps = []
    monkeypatch.setattr(window_writer, "ATTEMPTS_MAX", 3)
    monkeypatch.setattr(
        type(airport.fs._context().store),
        "swap",
        lambda _self, _fields, given: swaps.append(given) or [False] * len(given),
    )
    with pytest.raises(StoreUnavailable, match="other writers"):
        writer.write(batch)
    assert len(swaps) == 3

"""What users do wrong, through every door: the error says what, where and what to do, programs get
its class and code, and nothing is lost or half done."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import lmdb
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureClient, FeatureStore
from featurestore.cli.main import run
from featurestore.errors import (
    CorruptRow,
    FeatureStoreError,
    InvalidEntityFrame,
    InvalidJoinKey,
    InvalidRepository,
    InvalidRequest,
    InvalidSettings,
    InvalidValue,
    LimitExceeded,
    MissingJoinKey,
    NameClash,
    NotApplied,
    SourceMissing,
    SourceSchemaChanged,
    StalePlan,
    StoreAccessDenied,
    StoreError,
    StoreUnavailable,
    UnknownFeature,
    UnknownReference,
    UnknownService,
    UnknownView,
)
from featurestore.serving.serve import ServerProcess
from featurestore.timeline import HOUR_US, SystemClock, to_datetime
from tests.conftest import INSTANT, write_rows

NOW_US = SystemClock().now_us() // HOUR_US * HOUR_US
NOW = to_datetime(NOW_US)
TIME = "event_timestamp"
DEFINITIONS = """\
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource, SqlSource

driver = Entity("driver")
trips = FileSource("trips", "data/*.parquet", "at")
cars = FileSource("cars", "cars.parquet", "at")
stats = FeatureView("stats", driver, trips, features=[Feature("trips"), Feature("stars")])
car = FeatureView("car", driver, cars, features=[Feature("seats"), Feature("stars")])
scoring = FeatureService("scoring", features=[stats])
"""
TYPES = {"driver": pa.string(), "at": INSTANT, "trips": pa.int64(), "stars": pa.float64()}
EARLIER = NOW - timedelta(hours=1)
ROWS = [
    {"driver": "ann", "at": EARLIER, "trips": 7, "stars": 4.5},
    {"driver": "bob", "at": EARLIER, "trips": None, "stars": 2.0},
]
FRAME = pd.DataFrame({"driver": ["ann", "bob"], TIME: [NOW, NOW]})
TRIPS = "data/1.parquet"
ANN = [{"driver": "ann"}]


def write_repository(folder: Path, definitions: str = DEFINITIONS, settings: str = "") -> Path:
    """A repository of drivers, whose settings end with `settings`."""
    folder.mkdir(parents=True)
    (folder / "definitions.py").write_text(definitions, encoding="utf-8")
    (folder / "featurestore.toml").write_text(
        f'[project]\nname = "shop"\n[online]\nmap_size_mb = 16\n{settings}'
    )
    write_rows(folder / TRIPS, ROWS, TYPES)
    cars = {"driver": pa.string(), "at": INSTANT, "seats": pa.int64(), "stars": pa.float64()}
    write_rows(folder / "cars.parquet", [{"driver": "ann", "at": EARLIER, "seats": 4}], cars)
    return folder


def state_of(folder: Path) -> dict[str, str]:
    """What is worth keeping: the registry's rows, the online rows, the user's own files."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name == ".featurestore/registry.db":
            with closing(sqlite3.connect(path)) as registry:
                lines = [line for line in registry.iterdump() if "audit" not in line]
                found[name] = "\n".join(lines)
        elif name.endswith("lock.mdb") or "registry.db-" in name:
            continue
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextmanager
def refused(
    folder: Path, error: type[FeatureStoreError], *says: str, code: str | None = None
) -> Iterator[None]:
    """Within it, exactly this error is raised, and nothing changes."""
    before = state_of(folder)
    with pytest.raises(FeatureStoreError) as caught:
        yield
    assert type(caught.value) is error, repr(caught.value)
    assert code in (None, caught.value.code)
    for words in says:
        assert words in str(caught.value)
    assert state_of(folder) == before


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """A repository that is applied and materialized. Not to be changed."""
    folder = write_repository(tmp_path_factory.mktemp("served") / "repo")
    overrides = {"serving.grpc": "127.0.0.1:0", "serving.http": "127.0.0.1:0"}
    with FeatureStore(folder, overrides=overrides) as store:
        store.apply()
        store.materialize()
        yield store


@pytest.fixture(scope="module")
def server(served: FeatureStore) -> Iterator[ServerProcess]:
    with ServerProcess.start(served.settings) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repo")


@pytest.fixture
def shop(folder: Path) -> Iterator[FeatureStore]:
    """A repository of the test's own, applied and materialized."""
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize()
        yield store


# --- requests -------------------------------------------------------------------------------------

Call = Callable[[FeatureStore], Any]


def history(frame: Any = FRAME, features: Any = "scoring", **options: Any) -> Call:
    """Retrieval, run to its end."""
    return lambda store: store.get_historical_features(frame, features, **options).to_arrow()


def twice(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame[["driver"]]], axis=1)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (history(features="scorin"), UnknownService, ["'scorin'", "Did you mean 'scoring'"]),
        (history(features=["stat:trips"]), UnknownView, ["'stat'", "Did you mean 'stats'"]),
        (history(features=["stats:trip"]), UnknownFeature, ["stats", "Did you mean 'trips'"]),
        (history(features=[]), InvalidRequest, ["name a service"]),
        (history(features=None), InvalidRequest, ["view:feature"]),
        (
            history(features=["stats:stars", "car:stars"]),
            NameClash,
            ["'stars'", "full_feature_names"],
        ),
        (history(FRAME.assign(trips=1)), NameClash, ["'trips'", "full_feature_names=True"]),
        (
            history(FRAME.assign(stats__status=1), include_status=True),
            NameClash,
            ["'stats__status'", "include_status"],
        ),
        (history(FRAME[[TIME]]), MissingJoinKey, ["'driver'", "needed by stats"]),
        (history(FRAME.assign(driver=[1, 2])), InvalidJoinKey, ["int64", "string", "Cast"]),
        (history(FRAME.assign(driver=["a", 2])), InvalidEntityFrame, ["'driver'", "Convert"]),
        (history(FRAME[["driver"]]), InvalidEntityFrame, [TIME, "event_timestamp="]),
        (history(event_timestamp="at"), InvalidEntityFrame, ["'at'", "There is: driver"]),
        (history(event_timestamp=None), InvalidRequest, ["event_timestamp", "None"]),
        (history(FRAME.assign(**{TIME: [NOW, None]})), InvalidEntityFrame, ["row 1", "NULL"]),
        (history(twice(FRAME)), InvalidEntityFrame, ["more than one column 'driver'"]),
        (
            history(FRAME.assign(**{TIME: [date(2024, 1, 1)] * 2})),
            InvalidEntityFrame,
            ["dates", "beginning of its day"],
        ),
        (
            history(FRAME.assign(**{TIME: ["2024-01-01", "1/2/2024"]})),
            InvalidEntityFrame,
            ["row 1", "'1/2/2024'", "write it as"],
        ),
        (history("SELECT * FROM tripz"), InvalidEntityFrame, ["'tripz'", "'trips'"]),
        (history("SELECT driver FRM trips"), InvalidEntityFrame, ["not valid SQL", "line 1"]),
        (
            history("WITH x AS (SELECT 1) DELETE FROM trips"),
            InvalidEntityFrame,
            ["one SELECT statement"],
        ),
        (history("SELECT * FROM '/etc/passwd'"), InvalidEntityFrame, ["no source"]),
        (history("nowhere.parquet"), InvalidEntityFrame, ["nowhere.parquet"]),
        (history(known_until="soon"), InvalidRequest, ["'soon'", "write it as"]),
        (history(known_until=1.5), InvalidRequest, ["1.5"]),
        (history(as_of="now"), InvalidRequest, ['"known" or "event"']),
        (
            lambda store: list(store.get_historical_features(FRAME, "scoring").to_batches(0)),
            InvalidRequest,
            ["batch_rows", "positive"],
        ),
        (lambda store: store.materialize(["statz"]), UnknownView, ["Did you mean 'stats'"]),
        (lambda store: store.materialize(start="yesterday"), InvalidRequest, ["'yesterday'"]),
        (
            lambda store: store.materialize(start=NOW, end=EARLIER),
            InvalidRequest,
            ["is empty", "exclusive"],
        ),
        (
            lambda store: store.materialize(start=NOW + timedelta(days=1)),
            InvalidRequest,
            ["is empty", "never later than now"],
        ),
        (
            lambda store: store.materialize(start=EARLIER, replace=True),
            InvalidRequest,
            ["replace", "leave them out"],
        ),
        (lambda store: store.verify("scorin"), UnknownService, ["Did you mean 'scoring'"]),
        (lambda store: store.verify(samples=0), InvalidRequest, ["samples", "positive"]),
        (lambda store: store.describe("views", "statz"), UnknownReference, ["'stats'"]),
        (lambda store: store.describe("mice", "x"), InvalidRequest, ["'mice'", "views"]),
        (lambda store: store.list("view"), InvalidRequest, ["Did you mean 'views'"]),
    ],
)
def test_requests_in_python(
    served: FeatureStore, call: Call, error: type[FeatureStoreError], says: list[str]
) -> None:
    with refused(served.settings.root, error, *says):
        call(served)


Refusal = tuple[Any, Any, int, type[FeatureStoreError], list[str]]
REQUESTS: list[Refusal] = [
    ("scorin", ANN, 404, UnknownService, ["Did you mean 'scoring'", "materialized"]),
    (["stat:trips"], ANN, 404, UnknownView, ["Did you mean 'stats'", "materialized"]),
    (["stats:trip"], ANN, 404, UnknownFeature, ["stats", "Did you mean 'trips'"]),
    (["stats:stars", "car:stars"], ANN, 400, NameClash, ["'stars'", "full_feature_names"]),
    (["stats"], [{"drivr": "ann"}], 400, MissingJoinKey, ["'driver'", "Did you mean 'drivr'"]),
    ("scoring", [{}], 400, MissingJoinKey, ["'driver'", "needed by stats"]),
    ("scoring", [{"driver": 5}], 400, InvalidJoinKey, ["'driver'", "string", "int64"]),
    ("scoring", [{"driver": True}], 400, InvalidJoinKey, ["'driver'", "string"]),
    ("scoring", [*ANN, {"driver": 5}], 400, InvalidJoinKey, ["'driver'", "string"]),
    ("scoring", [*ANN, {}], 400, MissingJoinKey, ["'driver'", "entity 1"]),
    ("scoring", {"driver": ["a", "b"], "x": [1]}, 400, InvalidRequest, ["different lengths"]),
    ("scoring", {"driver": "ann"}, 400, InvalidRequest, ["list"]),
    (
        "scoring",
        {"driver": ["a"] * 10_001},
        400,
        LimitExceeded,
        ["10,001", "keys_per_request_max = 10,000", "several requests"],
    ),
    ([], ANN, 400, InvalidRequest, ["no feature"]),
]


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: f"{case[3].code} {case[4][0][:20]}")
def test_lookups_through_every_door(
    served: FeatureStore, server: ServerProcess, case: Refusal
) -> None:
    features, entities, status, error, says = case
    folder = served.settings.root
    with refused(folder, error, *says):
        served.get_online_features(features, entities)
    with refused(folder, error, *says), FeatureClient(server.grpc_target) as client:
        client.get_online_features(features, entities)
    what = {"feature_service": features} if isinstance(features, str) else {"features": features}
    answer = httpx.post(f"{server.http_url}/v1/online-features", json=what | {"entities": entities})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, error.code), problem
    for words in says:
        assert words in problem["message"]


def test_ten_thousand_keys_are_allowed(served: FeatureStore, server: ServerProcess) -> None:
    keys = {"driver": ["ann", None, *map(str, range(9_998))]}
    with FeatureClient(server.grpc_target) as client:
        for door in (served, client):
            found = door.get_online_features("scoring", keys)
            assert found.to_dict()["trips"][:2] == [7, None]
            assert len(found.statuses["trips"]) == 10_000


def test_what_is_not_applied_or_not_materialized(folder: Path) -> None:
    with FeatureStore(folder) as store:
        store.plan()
        with refused(folder, NotApplied, "stats", "Run: featurestore apply"):
            store.materialize()
        with refused(folder, UnknownService, "applied and its views are materialized"):
            store.get_online_features("scoring", ANN)
        store.apply()
        with refused(folder, UnknownService, "applied and its views are materialized"):
            store.get_online_features("scoring", ANN)
        with refused(folder, UnknownView, "applied and materialized"):
            store.get_online_features(["stats:trips"], ANN)


def test_an_end_in_the_future_is_now_and_one_name_is_one_view(shop: FeatureStore) -> None:
    (run_,) = shop.materialize("stats", start=EARLIER, end=NOW + timedelta(days=9))
    assert (run_.view, run_.rows_read) == ("stats", 2)
    assert run_.end_us <= SystemClock().now_us()
    assert len(shop.materialize(["stats", "stats"])) == 1
    assert shop.materialize([]) == ()


# --- definitions ----------------------------------------------------------------------------------


def defined(*lines: str) -> str:
    return DEFINITIONS + "\n".join(lines)


def feature(expression: str) -> str:
    return defined(f"v = FeatureView('v', driver, trips, features=[Feature('f', {expression!r})])")


@pytest.mark.parametrize(
    ("definitions", "code", "says"),
    [
        (
            defined("other = FeatureView('stats', driver, cars)"),
            "duplicate-name",
            ["definitions.py:9: ", "'stats'", "definitions.py:6", "rename"],
        ),
        (
            defined(
                "a = SqlSource('a', 'SELECT * FROM b', 'at')",
                "b = SqlSource('b', 'SELECT * FROM a', 'at')",
            ),
            "cyclic-reference",
            ["definitions.py:9: ", "a → b → a"],
        ),
        (feature("read_csv(stars)"), "invalid-expression", ["read_csv()", "Allowed are", "abs"]),
        (feature("sum(stars)"), "invalid-expression", ["sum()", "SqlSource"]),
        (feature("(SELECT 1)"), "invalid-expression", ["a query is not allowed"]),
        (feature("star * 2"), "invalid-expression", ["'star'", "Did you mean 'stars'"]),
        (feature("driver * 2"), "type-mismatch", ["must be a number, not string"]),
        (feature("((" * 999), "invalid-expression", ["'f'"]),
        (
            defined("v = FeatureView('v', driver, trips, features=[Feature('trip')])"),
            "unknown-reference",
            ["'trip'", "'trips'"],
        ),
        (
            defined("v = FeatureView('v', Entity('drive'), trips)"),
            "unknown-reference",
            ["definitions.py:9: ", "'drive'"],
        ),
        (
            defined("car_id = Entity('trips')", "v = FeatureView('v', car_id, trips)"),
            "type-mismatch",
            ["string", "int64", "'trips'"],
        ),
        (defined("raise SystemExit(0)"), "definition-error", ["definitions.py:9: ", "SystemExit"]),
        (defined("v = FeatureView("), "definition-error", ["definitions.py:9: ", "SyntaxError"]),
        (defined("import nothing_like_it"), "definition-error", ["nothing_like_it"]),
    ],
)
def test_definitions(tmp_path: Path, definitions: str, code: str, says: list[str]) -> None:
    folder = write_repository(tmp_path / "repo")
    with FeatureStore(folder) as store:
        store.apply()
    (folder / "definitions.py").write_text(definitions)
    with FeatureStore(folder) as store:
        for call in (store.plan, store.apply, store.materialize):
            with refused(folder, InvalidRepository, code, *says):
                call()


# --- files ----------------------------------------------------------------------------------------


def change(column: str, values: pa.Array | None) -> Callable[[Path], None]:
    """Write the trips with another column, or without it."""

    def spoil(folder: Path) -> None:
        table = parquet.read_table(folder / TRIPS)
        at = table.column_names.index(column)
        table = table.remove_column(at)
        if values is not None:
            table = table.add_column(at, column, values)
        parquet.write_table(table, folder / TRIPS)

    return spoil


def overwrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Write the trips' bytes anew."""
    return lambda folder: write_bytes(folder / TRIPS, change((folder / TRIPS).read_bytes()))


def write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def second_file(folder: Path) -> None:
    words = [{"driver": "cyd", "at": EARLIER, "trips": "many"}]
    write_rows(folder / "data/2.parquet", words, {**TYPES, "trips": pa.string()})


SPOILED: dict[str, tuple[Callable[[Path], None], type[FeatureStoreError], str]] = {
    "missing": (lambda folder: (folder / TRIPS).unlink(), SourceMissing, TRIPS),
    "no folder": (lambda folder: shutil.rmtree(folder / "data"), SourceMissing, "data"),
    "empty": (overwrite(lambda data: b""), SourceMissing, TRIPS),
    "truncated": (overwrite(lambda data: data[: len(data) // 2]), SourceMissing, TRIPS),
    "text": (overwrite(lambda data: b"driver,at\n" * 20), SourceMissing, TRIPS),
    "damaged": (overwrite(lambda data: data[:4] + b"\0" * 300 + data[304:]), SourceMissing, ""),
    "no feature": (change("trips", None), SourceSchemaChanged, "'trips'"),
    "no key": (change("driver", None), SourceSchemaChanged, "'driver'"),
    "no time": (change("at", None), SourceSchemaChanged, "'at'"),
    "texts": (change("trips", pa.array(["7", "x"])), SourceSchemaChanged, "'trips'"),
    "int keys": (change("driver", pa.array([1, 2])), SourceSchemaChanged, "'driver'"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_files_that_went_bad_after_loading(shop: FeatureStore, name: str) -> None:
    spoil, error, says = SPOILED[name]
    folder = shop.settings.root
    job = shop.get_historical_features(FRAME, "scoring")
    job.to_arrow()
    spoil(folder)
    for call in (
        job.to_arrow,
        lambda: job.to_parquet(folder / "out.parquet"),
        lambda: history()(shop),
        lambda: shop.materialize(["stats"], start=EARLIER),
        shop.verify,
    ):
        with refused(folder, error, "trips", says.removesuffix("1.parquet")):
            call()
    assert shop.get_online_features("scoring", ANN).to_dict()["trips"] == [7]


@pytest.mark.parametrize("name", SPOILED)
def test_files_that_are_bad_when_definitions_load(tmp_path: Path, name: str) -> None:
    folder = write_repository(tmp_path / "repo")
    SPOILED[name][0](folder)
    with FeatureStore(folder) as store:
        if name in ("damaged", "texts"):  # The footers are fine, and strings are features, too.
            assert not store.plan().is_empty
            return
        with refused(folder, InvalidRepository, "definitions.py:", "trips"):
            store.apply()


CSV = "driver,at,trips,miles\nann,2024-01-01T00:00:00Z,7,70\n"
SPOILED_CSV: dict[str, tuple[str, type[FeatureStoreError], list[str]]] = {
    "empty": ("", SourceMissing, ["rows.csv", "empty"]),
    "other order": (
        "driver,at,miles,trips\nann,2024-01-01T00:00:00Z,70,7\n",
        SourceSchemaChanged,
        ["header", "rows.csv"],
    ),
    "fewer": ("driver,at,trips\nann,2024-01-01T00:00:00Z,7\n", SourceSchemaChanged, ["rows"]),
    "words": (CSV.replace("7,", "many,"), InvalidValue, ["'trips'", "many", "int64"]),
    "fractions": (CSV.replace("7,", "7.5,"), InvalidValue, ["'trips'", "7.5", "int64"]),
    "no time": (CSV.replace("2024-01-01", "someday"), InvalidValue, ["'at'", "someday"]),
    "ragged": (CSV.replace("70", "70,700"), SourceSchemaChanged, ["rows", "Line: 2"]),
}


@pytest.mark.parametrize("name", SPOILED_CSV)
def test_csv_files_that_change_under_a_job(tmp_path: Path, name: str) -> None:
    text, error, says = SPOILED_CSV[name]
    definitions = defined(
        "rows = FileSource('rows', 'rows.csv', 'at')",
        "by_hand = FeatureView('by_hand', driver, rows)",
    )
    folder = write_repository(tmp_path / "repo", definitions)
    (folder / "rows.csv").write_text(CSV)
    with FeatureStore(folder) as store:
        job = store.get_historical_features(FRAME, ["by_hand"])
        assert job.to_arrow()["trips"].to_pylist() == [7, None]
        (folder / "rows.csv").write_text(text)
        with refused(folder, error, *says):
            job.to_arrow()


def test_a_second_file_of_another_type(shop: FeatureStore) -> None:
    folder = shop.settings.root
    second_file(folder)
    for call in (history(), FeatureStore.materialize, FeatureStore.verify):
        with refused(folder, SourceSchemaChanged, "'trips'", "2.parquet", "one type"):
            call(shop)


def test_files_with_more_columns_and_narrower_ones_are_fine(shop: FeatureStore) -> None:
    change("trips", pa.array([8, None], pa.int32()))(shop.settings.root)
    write_rows(
        shop.settings.root / "data/2.parquet",
        [{"driver": "cyd", "at": EARLIER, "more": 1}],
        {"driver": pa.string(), "at": INSTANT, "more": pa.int64()},
    )
    assert history()(shop)["trips"].to_pylist() == [8, None]
    shop.materialize(replace=True)
    found = shop.get_online_features("scoring", {"driver": ["ann", "cyd"]})
    assert found.to_dict()["trips"] == [8, None]
    assert found.statuses["trips"] == ["PRESENT", "NULL_VALUE"]


def test_a_file_that_goes_in_the_middle_of_a_run(shop: FeatureStore) -> None:
    folder = shop.settings.root
    kept = (folder / TRIPS).read_bytes()
    write_rows(folder / TRIPS, [ROWS[0] | {"trips": 8}], TYPES)

    def remove(view: str, _rows: int) -> None:
        assert view == "car", "views are written in name order"
        (folder / TRIPS).unlink()

    runs = len(shop.registry.ledger())
    with pytest.raises(SourceMissing, match="trips"):
        shop.materialize(["car", "stats"], replace=True, progress=remove)
    done = shop.registry.ledger()[runs:]
    assert [row.view for row in done] == ["car"], "what was complete stays, the rest is not begun"
    assert shop.get_online_features("scoring", ANN).to_dict()["trips"] == [7]
    write_bytes(folder / TRIPS, kept)
    shop.materialize(replace=True)
    assert shop.verify().rate == 1.0


def test_an_entity_frame_s_file_that_goes_or_is_damaged(
    served: FeatureStore, tmp_path: Path
) -> None:
    path = tmp_path / "frame.parquet"
    FRAME.to_parquet(path)
    good = path.read_bytes()
    job = served.get_historical_features(path, "scoring")
    assert job.to_arrow().num_rows == 2
    for bad in (good[:4] + b"\xff" * 200 + good[204:], good[: len(good) // 2], b""):
        path.write_bytes(bad)
        with refused(served.settings.root, InvalidEntityFrame, str(path)):
            job.to_parquet(tmp_path / "out.parquet")
    path.unlink()
    with refused(served.settings.root, InvalidEntityFrame, str(path)):
        job.to_arrow()
    assert list(tmp_path.iterdir()) == [], "no half-written file stays behind"


# --- back ends ------------------------------------------------------------------------------------


def test_redis_is_gone_and_comes_back(folder: Path) -> None:
    with RedisServer(valkey_binary()) as redis:
        overrides = {"online.url": redis.url, "online.timeout_ms": 500}
        with FeatureStore(folder, overrides=overrides) as store:
            store.apply()
            store.materialize()
            assert store.get_online_features("scoring", ANN).to_dict()["trips"] == [7]
            redis.kill()
            where = f"{redis.host}:{redis.port}"
            for call in (
                lambda: store.get_online_features("scoring", ANN),
                store.materialize,
                lambda: store.materialize(replace=True),
                store.verify,
                store.sweep,
            ):
                with refused(folder, StoreUnavailable, where, "not reachable"):
                    call()
            assert history()(store)["trips"].to_pylist() == [7, None], "offline goes on"
            assert where in str(store.info())
            redis.start()
            # It came back empty: the runs of the ledger wrote into something that is gone.
            store.materialize()
            assert store.get_online_features("scoring", ANN).to_dict()["trips"] == [7]


def test_redis_with_another_password(tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), "--requirepass", "open sesame") as redis:
        for number, secret in enumerate(["", ":wr0ng@"]):
            url = redis.url.replace("redis://", f"redis://{secret}")
            folder = write_repository(tmp_path / str(number))
            with FeatureStore(folder, overrides={"online.url": url}) as store:
                store.apply()
                with refused(folder, StoreAccessDenied, "user and password"):
                    store.materialize()
                with pytest.raises(StoreAccessDenied) as caught:
                    store.materialize()
                assert "wr0ng" not in str(caught.value)
        url = redis.url.replace("redis://", "redis://:open%20sesame@")
        with FeatureStore(folder, overrides={"online.url": url}) as store:
            store.materialize()
            assert store.get_online_features("scoring", ANN).to_dict()["trips"] == [7]


GARBAGE = [b"", b"\xff" * 7, b"\xff" * 25, b"\x00" * 200]


def spoil_lmdb(folder: Path, garbage: bytes) -> None:
    with (
        closing(lmdb.open(str(folder / ".featurestore/online"), map_size=2**24)) as environment,
        environment.begin(write=True) as transaction,
    ):
        keys = [key for key, _ in transaction.cursor() if key.startswith(b"fs/shop/driver/")]
        assert len(keys) == 3
        for key in keys:
            transaction.put(key, garbage)


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: f"{len(garbage)} bytes")
def test_damaged_rows_in_lmdb(folder: Path, garbage: bytes) -> None:
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize()
    spoil_lmdb(folder, garbage)
    with FeatureStore(folder) as store:
        check_damage_is_said_and_repaired(store)


@pytest.mark.parametrize(
    "garbage", [b"x", b"\xff" * 25, b"y" * 99], ids=lambda g: f"{len(g)} bytes"
)
def test_damaged_rows_in_redis(folder: Path, garbage: bytes) -> None:
    with (
        RedisServer(valkey_binary()) as redis,
        FeatureStore(folder, overrides={"online.url": redis.url}) as store,
    ):
        store.apply()
        store.materialize()
        for driver in ("ann", "bob"):
            key = f"fs/shop/driver/{driver}"
            fields = "redis.call('HKEYS', KEYS[1])"
            script = f"for _, f in ipairs({fields}) do redis.call('HSET', KEYS[1], f, ARGV[1]) end"
            answer = redis.command("EVAL", script, "1", key, garbage.decode("latin-1"))
            assert answer == b"$-1\r\n"
        check_damage_is_said_and_repaired(store)


def check_damage_is_said_and_repaired(store: FeatureStore) -> None:
    """Lookups and `verify` say it, other keys go on, and `replace` repairs."""
    folder = store.settings.root
    with refused(folder, CorruptRow, "'stats'", "featurestore materialize --replace"):
        store.get_online_features("scoring", ANN)
    found = store.get_online_features("scoring", [{"driver": "nobody"}])
    assert found.statuses["trips"] == ["NOT_FOUND"]
    report = store.verify()
    assert report.rate < 1.0
    assert any("--replace" in view.note for view in report.views)
    store.materialize(replace=True)
    assert store.get_online_features("scoring", ANN).to_dict()["trips"] == [7]
    assert store.verify().rate == 1.0
    store.sweep()
    assert store.get_online_features("scoring", ANN).to_dict()["trips"] == [7]


def test_two_applies_at_once(folder: Path) -> None:
    with FeatureStore(folder) as one, FeatureStore(folder) as other:
        mine, theirs = one.plan(), other.plan()
        one.apply(mine)
        with refused(folder, StalePlan, "another apply was first", "Make a new plan"):
            other.apply(theirs)
        other.apply()
        assert one.plan().is_empty
    (folder / "definitions.py").write_text(DEFINITIONS.replace('Feature("stars")', ""))
    with FeatureStore(folder) as changed:
        plan = changed.plan()
        text = (folder / "definitions.py").read_text()
        (folder / "definitions.py").write_text(text.replace('Feature("seats"),', ""))
        with FeatureStore(folder) as again, refused(folder, StalePlan):
            again.apply(plan)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"online.urls": "x"}, ["argument 'online.urls'", "Did you mean 'url'"]),
        ({"online.timeout_ms": "soon"}, ["timeout_ms must be int", "'soon'"]),
        ({"online.url": "dynamo://x"}, ["'dynamo'", "lmdb", "redis"]),
        ({"online.url": "nothing"}, ["'nothing'", "scheme", "lmdb:path"]),
        ({"online.url": "lmdb:"}, ["'lmdb:'", "lmdb:path/to/folder"]),
        ({"online.url": "redis://127.0.0.1:1/first"}, ["malformed", "redis://user:password"]),
        ({"registry.url": "mysql://x"}, ["'mysql'", "sqlite", "postgresql"]),
        ({"registry.url": "sqlite://"}, ["must name a file"]),
        ({"offline.engine": "spark"}, ["'spark'", "duckdb"]),
        ({"offline.memory_limit": "much"}, ["memory_limit", "'much'"]),
        ({"offline.path": "definitions.py"}, ["definitions.py", "[offline] path"]),
    ],
)
def test_settings(folder: Path, overrides: dict[str, Any], says: list[str]) -> None:
    with refused(folder, InvalidSettings, *says), FeatureStore(folder, overrides=overrides) as made:
        made.engine  # noqa: B018 — opens it
        made.online_store  # noqa: B018
        made.plan()


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ({"registry.url": "sqlite:///definitions.py"}, StoreError),
        ({"registry.url": "sqlite:///data"}, StoreUnavailable),
        ({"registry.url": "postgresql://127.0.0.1:1/x"}, StoreUnavailable),
        ({"online.url": "lmdb:definitions.py"}, StoreUnavailable),
        ({"online.url": "redis://127.0.0.1:1/0"}, StoreUnavailable),
    ],
)
def test_back_ends_that_are_none(
    folder: Path, overrides: dict[str, Any], error: type[FeatureStoreError]
) -> None:
    with FeatureStore(folder) as store:
        store.apply()
    with refused(folder, error), FeatureStore(folder, overrides=overrides) as store:
        store.materialize()


def test_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with refused(tmp_path, InvalidSettings, str(folder), "featurestore init"):
            FeatureStore(folder)


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["get-online", "scorin", "-e", "driver=ann"], "unknown-service"),
        (["get-online", "stats:trip", "-e", "driver=ann"], "unknown-feature"),
        (["get-online", "statz:trips", "-e", "driver=ann"], "unknown-view"),
        (["get-online", "stats:stars,car:stars", "-e", "driver=ann"], "name-clash"),
        (["get-online", "scoring", "-e", "drivr=ann"], "missing-join-key"),
        (["get-online", "scoring", "-e", "driver:=1"], "invalid-join-key"),
        (["materialize", "statz"], "unknown-view"),
        (["materialize", "--start", "2024-01-02", "--end", "2024-01-01"], "invalid-request"),
        (["materialize", "--end", "tomorrow"], "invalid-request"),
        (["describe", "views", "statz"], "unknown-reference"),
        (["verify", "scorin"], "unknown-service"),
        (["get-historical", "-e", "SELECT 1 AS x", "-f", "scoring"], "invalid-entity-frame"),
        (
            ["get-historical", "-e", "SELECT driver FROM trips", "-f", "scoring"],
            "invalid-entity-frame",
        ),
        (
            ["get-historical", "-e", f"SELECT now() AS {TIME}", "-f", "scoring"],
            "missing-join-key",
        ),
        (
            [
                *("get-historical", "-f", "scoring", "--known-until", "soon"),
                *("-e", f"SELECT driver, at AS {TIME} FROM trips"),
            ],
            "invalid-request",
        ),
    ],
)
def test_commands(
    served: FeatureStore, capsys: pytest.CaptureFixture[str], command: list[str], code: str
) -> None:
    folder = served.settings.root
    arguments = [*command, "--repo", str(folder)]
    before = state_of(folder)
    assert run(arguments, debug=False) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert f"[{code}]" in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert state_of(folder) == before
    with pytest.raises(FeatureStoreError) as caught:
        run(arguments, debug=True)
    assert caught.value.code == code


def test_commands_in_a_process_of_their_own(folder: Path) -> None:
    (folder / "definitions.py").write_text(feature("read_csv(stars)"))
    (folder / "more.py").write_text("\n1 / 0\n")
    for debug in (False, True):
        done = subprocess.run(
            [sys.executable, "-m", "featurestore", "plan", "-r", str(folder)] + ["--debug"] * debug,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "2 errors in the repository" in done.stderr
        assert "definitions.py:9: " in done.stderr
        assert "more.py:2: ZeroDivisionError" in done.stderr
        assert ("Traceback" in done.stderr) == debug

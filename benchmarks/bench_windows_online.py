"""Windows when they are asked for: 20 features (5 windows × 4 functions over 30 days) beside as
many plain features of the same keys, in process and over gRPC; a key with a million events; and how
fast events are folded into the states of a Redis server.

    python benchmarks/bench_windows_online.py [--quick] [--json FILE]

Both kinds are asked in turn, and the median of each counts.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_serving import BUSY, valkey
from echoes import METHOD
from load import GENERATOR, Load, ask
from results import RUNS, Result, parser, report

from featurestore import FeatureStore
from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US
from featurestore.compiler.window_rows import EVENT_ID, input_column
from featurestore.config import load_settings
from featurestore.jobs.online_tables import online_tables
from featurestore.jobs.window_writer import WindowWriter
from featurestore.serving.serve import ServerProcess
from featurestore.stores.online.base import RowBatch
from featurestore.timeline import DAY_US, HOUR_US, SystemClock
from featurestore.wire import serving_pb2 as pb

DEFINITIONS = """
from featurestore import Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource

plane = Entity("plane", join_keys={"plane": "int64"})
landings = FileSource("landings", path="landings.parquet", event_time="at", event_id="id")
numbers = FileSource("numbers", path="numbers.parquet", event_time="at")
WINDOWS = ["1h", "6h", "24h", "7d", "30d"]
history = FeatureView("history", entities=[plane], source=landings, features=[
    Aggregation("delay", function, windows=WINDOWS) for function in ("count", "sum", "min", "max")
])
plain = FeatureView("plain", entities=[plane], source=numbers,
    features=[Feature(f"n{i}") for i in range(20)])
hot = FeatureView("hot", entities=[plane], source=landings, features=[
    Aggregation("delay", function, window="30d", hop="1h")
    for function in ("count", "sum", "min", "max")
])
windows = FeatureService("windows", features=[history])
numbers_only = FeatureService("numbers_only", features=[plain])
hot_only = FeatureService("hot_only", features=[hot])
"""
KEYS = 100
HOT = KEYS
EVENTS_PER_KEY = 3_000
INSTANT = pa.timestamp("us", tz="UTC")


def write_data(folder: Path, *, hot_events: int) -> None:
    """Landings of 30 days: many of each plane, and `hot_events` of one more."""
    now_us = SystemClock().now_us()
    rng = np.random.default_rng(7)
    planes = np.repeat(np.arange(KEYS + 1), [EVENTS_PER_KEY] * KEYS + [hot_events])
    count = len(planes)
    at = now_us - rng.integers(HOUR_US // 60, 30 * DAY_US, count)
    landings = {
        "plane": planes,
        "at": pa.array(at, INSTANT),
        "id": np.arange(count),
        "delay": rng.normal(5, 20, count),
    }
    pq.write_table(pa.table(landings), folder / "landings.parquet")
    numbers = {f"n{i}": rng.random(KEYS) for i in range(20)}
    table = {"plane": np.arange(KEYS), "at": pa.array([now_us - HOUR_US] * KEYS, INSTANT)}
    pq.write_table(pa.table(table | numbers), folder / "numbers.parquet")


def make_repository(folder: Path, name: str, url: str, *, hot_events: int) -> Path:
    """A repository whose views are materialized into the store at `url`."""
    root = folder / name
    root.mkdir()
    (root / "featurestore.toml").write_text(
        f'[project]\nname = "bench"\n[online]\nurl = "{url}"\ntimeout_ms = 30000\n'
    )
    (root / "definitions.py").write_text(DEFINITIONS)
    write_data(root, hot_events=hot_events)
    with FeatureStore(root) as fs:
        fs.apply()
        fs.materialize()
    return root


# --- in process -----------------------------------------------------------------------------------


def times_us(call: Callable[[], object], seconds: float) -> list[float]:
    """How long calls take, in µs."""
    found = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        call()
        found.append((time.perf_counter() - started) * 1e6)
    return sorted(found)


def in_process(root: Path, store: str, seconds: float, hot_events: int) -> Iterator[Result]:
    """Lookups from dicts, windows beside plain features."""
    with FeatureStore(root) as fs:

        def asker(service: str, keys: int) -> Callable[[], object]:
            rows = [{"plane": n} for n in range(keys)]
            return lambda: fs.get_online_features(service, rows)

        for keys, limit in ((1, 80.0 if store == "LMDB" else None), (100, 5_000.0)):
            calls = [asker("windows", keys), asker("numbers_only", keys)]
            taken = [
                [statistics.median(times_us(call, seconds / RUNS)) for call in calls]
                for _ in range(RUNS)
            ]
            ours, floor = (statistics.median(column) for column in zip(*taken, strict=True))
            yield Result(
                job="in-process lookup of windows",
                setting=f"{store}, {keys} key{'s' * (keys > 1)} × 20 window features, p50",
                ours=ours,
                floor=floor,
                floor_name="20 plain features",
                unit="µs",
                higher_is_better=False,
                target=3.0 if keys == 1 else None,
                limit=limit,
                gates=False,
            )
        hot = times_us(lambda: fs.get_online_features("hot_only", [{"plane": HOT}]), seconds)
        yield Result(
            job="in-process lookup of windows",
            setting=f"{store}, a key with {hot_events:,} events in its window, hop 1 h, p99",
            ours=hot[len(hot) * 99 // 100] / 1e3,
            unit="ms",
            higher_is_better=False,
            limit=2.0,
            gates=False,
        )


# --- over gRPC ------------------------------------------------------------------------------------


def request(service: str, keys: int, schema_id: int = 0) -> bytes:
    return pb.GetOnlineFeaturesRequest(
        feature_service=service,
        keys=[pb.KeyColumn(name="plane", int64s=pb.Int64Values(values=range(keys)))],
        schema_id=schema_id,
    ).SerializeToString()


def over_grpc(root: Path, seconds: float) -> Iterator[Result]:
    """Requests per second of many callers."""
    for door in ("grpcio", "native"):
        overrides: Mapping[str, str] = {
            "serving.grpc_door": door,
            "serving.grpc": "127.0.0.1:0",
            "serving.http": "",
        }
        settings = load_settings(root, overrides=overrides)
        with ServerProcess.start(settings) as server:
            messages = {}
            for service in ("windows", "numbers_only"):
                with grpc.insecure_channel(server.grpc_target) as channel:
                    data = channel.unary_unary(METHOD)(request(service, 1))
                found = pb.GetOnlineFeaturesResponse.FromString(data)
                assert set(found.statuses) == {1}
                messages[service] = request(service, 1, found.schema_id)
            load = Load(**BUSY, seconds=seconds)
            rates: dict[str, list[float]] = {service: [] for service in messages}
            for _ in range(RUNS):
                for service, message in messages.items():
                    rates[service].append(ask(server.grpc_target, METHOD, [message], load).rate)
        yield Result(
            job="gRPC lookup of windows",
            setting=f"Redis, 1 key × 20 window features, {door}",
            ours=statistics.median(rates["windows"]),
            floor=statistics.median(rates["numbers_only"]),
            floor_name="20 plain features",
            unit="1/s",
            higher_is_better=True,
            target=0.5,
            gates=False,  # server, store and generator want more cores than there are
            note=GENERATOR,
        )


# --- writing --------------------------------------------------------------------------------------


def folding(root: Path, *, events: int, keys: int, runs: int) -> Iterator[Result]:
    """Events into states of a Redis server, beside as many plain rows; some of each key at once."""
    with FeatureStore(root) as fs:
        context = fs._context()  # noqa: SLF001 # a writer is no part of the facade
        view = context.repo.views["history"]
        (table,) = online_tables(context.registry, [view]).values()
        writer = WindowWriter(context, view, table.field)
        ours, floors = [], []
        for run in range(runs):
            now_us = SystemClock().now_us()
            at = np.full(events, now_us - 1) - np.arange(events)
            batch = pa.record_batch(
                {
                    "plane": pa.array(1_000 + np.arange(events) % keys, pa.int64()),
                    EVENT_ID: pa.array(np.arange(events) + (run + 10) * 10**9, pa.int64()),
                    **{f"tie:{n}": pa.array(np.ones(events)) for n in range(1)},
                    input_column(0): pa.array(np.arange(events, dtype=np.float64)),
                    EVENT_US: pa.array(at),
                    CREATED_US: pa.array(at),
                    DELETED: pa.array(np.zeros(events, bool)),
                }
            )
            begun = time.perf_counter()
            assert writer.write(batch, now_us=now_us).added == events
            ours.append(events / (time.perf_counter() - begun))
            rows = [b"\x09" + int(now_us + n).to_bytes(8, "little") + bytes(180) for n in at]
            names = [b"fs/bench/floor/%d" % (n % keys) for n in range(events)]
            begun = time.perf_counter()
            context.store.write(RowBatch(field=b"floor---", keys=names, rows=rows))
            floors.append(events / (time.perf_counter() - begun))
    yield Result(
        job="folding events into windows",
        setting=f"Redis, 20 window features, {keys:,} keys, {events:,} events at once",
        ours=statistics.median(ours),
        floor=statistics.median(floors),
        floor_name="conditional writes of plain rows",
        unit="events/s",
        higher_is_better=True,
        target=0.5,
        limit=50_000,
    )


def main() -> None:
    """Run and report."""
    asked = parser(__doc__).parse_args()
    quick = asked.quick
    seconds = 0.6 if quick else 1.5
    hot_events = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        address = stack.enter_context(valkey(folder))
        lmdb = make_repository(folder, "lmdb", "lmdb:online", hot_events=hot_events)
        redis = make_repository(folder, "redis", f"redis://{address}/0", hot_events=hot_events)
        results = [
            *in_process(lmdb, "LMDB", seconds, hot_events),
            *in_process(redis, "Redis", seconds, hot_events),
            *over_grpc(redis, seconds),
            *folding(redis, events=20_000, keys=1_000, runs=3 if quick else 9),
        ]
    report(results, asked)


if __name__ == "__main__":
    main()

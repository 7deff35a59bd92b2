"""What tests of hostile callers share: a served view, and proofs that the server is still well."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import WAITS_S_MAX, wait_for
from redis_servers import RedisServer, valkey_binary

from featurestore.client import FeatureClient
from featurestore.config import TracingSettings
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock

VIEW = ServedView(name="v", keys={"id": "int64"}, features={"a": "int64", "s": "string"})
PLAN = serving_plan("m", [VIEW])
KEYS = 100
BODY = {"feature_service": "m", "entities": [{"id": 7}]}


def value_of(key: int) -> int:
    """What the server must answer for a key."""
    return key * 3 + 1


@contextlib.contextmanager
def served(
    root: Path,
    *,
    online: str = "lmdb:online",
    door: str = "grpcio",
    store_timeout_ms: int = 1_000,
    tracing: TracingSettings | None = None,
    **serving: Any,
) -> Iterator[Served]:
    """A real server of `VIEW` with `KEYS` entities; `door` is what speaks gRPC."""
    settings = served_settings(root, online=online, grpc_door=door, **serving)
    store = replace(settings.online, timeout_ms=store_timeout_ms)
    settings = replace(settings, online=store, tracing=tracing or settings.tracing)
    with open_registry(settings, clock=SystemClock(), author="test") as registry:
        publish_plans(registry, PLAN)
    with open_online_store(settings.online, root=root) as store:
        rows = {(key,): {"a": value_of(key), "s": f"text {key}"} for key in range(KEYS)}
        VIEW.write(store, rows, event_us=1)
    with ServerProcess.start(settings) as process:
        yield Served(process, door)


def both_doors(**limits: Any) -> tuple[Any, Any, Any]:
    """The fixtures of a module, to be called `server` (which speaks gRPC by grpcio), `native` (by
    the native door) and `either` (the same test at both)."""

    def running(factory: pytest.TempPathFactory, door: str) -> Iterator[Served]:
        with served(factory.mktemp("served"), door=door, **limits) as found:
            found.answers_right()
            yield found

    @pytest.fixture(scope="module")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
        yield from running(tmp_path_factory, "grpcio")

    @pytest.fixture(scope="module")
    def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
        yield from running(tmp_path_factory, "native")

    @pytest.fixture(params=["server", "native"])
    def either(request: pytest.FixtureRequest) -> Served:
        found: Served = request.getfixturevalue(request.param)
        return found

    return server, native, either


def doors_before_valkey(**limits: Any) -> tuple[Any, Any]:
    """The fixtures of a module, to be called `valkey` and `server`: a store that a test may let
    hang for some seconds, and a server of it, which waits, once by each gRPC door."""
    limits = {"request_timeout_ms": 20_000, "store_timeout_ms": 20_000} | limits

    @pytest.fixture(scope="module")
    def valkey() -> Iterator[RedisServer]:
        with RedisServer(valkey_binary()) as found:
            yield found

    @pytest.fixture(scope="module", params=["grpcio", "native"])
    def server(
        tmp_path_factory: pytest.TempPathFactory,
        valkey: RedisServer,
        request: pytest.FixtureRequest,
    ) -> Iterator[Served]:
        root = tmp_path_factory.mktemp("served")
        with served(root, online=valkey.url, door=request.param, **limits) as found:
            found.answers_right()
            yield found

    return valkey, server


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: ServerProcess
    door: str

    @property
    def grpc(self) -> tuple[str, int]:
        host, _, port = self.process.grpc_target.rpartition(":")
        return host, int(port)

    @property
    def http(self) -> tuple[str, int]:
        host, _, port = self.process.http_url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def connect_http(self, timeout_s: float = 10.0) -> socket.socket:
        """A bare connection to the HTTP door."""
        return socket.create_connection(self.http, timeout_s)

    def connect_grpc(self, timeout_s: float = 10.0) -> socket.socket:
        """A bare connection to the gRPC door."""
        return socket.create_connection(self.grpc, timeout_s)

    def answers_right(self, *, within_s: float = WAITS_S_MAX) -> None:
        """Both doors give a new caller the right answer, and health says so."""
        with FeatureClient(self.process.grpc_target, timeout_ms=int(within_s * 1_000)) as client:
            found = client.get_online_features("m", {"id": [7, KEYS]}).to_dict()
            assert found["a"] == [value_of(7), None]
        answers: list[httpx.Response] = []

        def is_answered() -> bool:
            """Busy with others it says so; ask again, as the gRPC client does."""
            url = f"{self.process.http_url}/v1/online-features"
            answers.append(httpx.post(url, json=BODY, timeout=within_s))
            return answers[-1].status_code != 429

        wait_for(is_answered, within_s=within_s)
        assert answers[-1].status_code == 200, answers[-1].text
        assert answers[-1].json()["features"]["a"]["values"] == [value_of(7)]
        wait_for(self.is_ready, within_s=within_s)

    def is_ready(self) -> bool:
        """What the server says of itself."""
        return httpx.get(f"{self.process.http_url}/readyz", timeout=60).status_code == 200

    def metric(self, name: str, **labels: str) -> float:
        """The value of one time series, 0 where there is none yet."""
        text = httpx.get(f"{self.process.http_url}/metrics", timeout=60).text
        for line in text.splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                given = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if given.items() >= labels.items():
                    return float(found[3])
        return 0.0

    def memory_mb(self) -> float:
        """What the process holds of the machine's memory."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1_024  # type: ignore[index]

    def open_files(self) -> int:
        """How many descriptors the process has open."""
        return len(list(Path(f"/proc/{self.process.process.pid}/fd").iterdir()))

    def let_go(self, descriptors: int) -> None:
        """Wait until the process has no more open than `descriptors`."""
        wait_for(lambda: self.open_files() <= descriptors)

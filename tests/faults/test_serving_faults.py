"""A feature server under load while its store fails: what is answered is right, what is not is a
typed error within the deadline, and all is well within a second of the store's return."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_servers import RedisCluster, is_master
from patience import promised, wait_for
from redis_faults import FAULTS, LASTS_S, Fault
from redis_servers import RedisServer, valkey_binary
from sentinel_servers import SentinelServers
from store_load import Load, under_load

from featurestore.client import FeatureClient
from featurestore.config import Settings
from featurestore.errors import ServerTimeout, StoreTimeout, StoreUnavailable
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.serve import ServerProcess
from featurestore.stores.online.base import OnlineStore, RowBatch
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock

pytestmark = pytest.mark.slow

VIEW = ServedView(name="v", keys={"id": "int64"}, features={"version": "int64", "key": "int64"})
TIMEOUT_MS = 600
READ_ERRORS = {StoreUnavailable, StoreTimeout, ServerTimeout}


def put(store: OnlineStore, numbers: Sequence[int], versions: Sequence[int]) -> None:
    values = [{"version": v, "key": number} for number, v in zip(numbers, versions, strict=True)]
    store.write(
        RowBatch(
            field=VIEW.field,
            keys=VIEW.store_keys([(number,) for number in numbers]),
            rows=VIEW.rows(values, versions),
        )
    )


@contextmanager
def served(root: Path, url: str) -> Iterator[tuple[FeatureClient, Settings]]:
    """A server process on the store at `url`, and a client of it."""
    settings = served_settings(root, online=url, request_timeout_ms=TIMEOUT_MS)
    with open_registry(settings, clock=SystemClock(), author="test") as registry:
        publish_plans(registry, serving_plan("m", [VIEW]))
    with ServerProcess.start(settings) as server, FeatureClient(server.grpc_target) as client:
        yield client, settings


@contextmanager
def load_on(client: FeatureClient, settings: Settings) -> Iterator[Load]:
    """Clients that read from the server, and a writer to its store."""

    def read(numbers: Sequence[int]) -> list[int | None]:
        answer = client.get_online_features("m", {"id": numbers}, timeout_ms=TIMEOUT_MS)
        found = answer.to_dict()
        assert found["key"] == list(numbers)
        versions: list[int | None] = found["version"]
        return versions

    with under_load(
        lambda: open_online_store(settings.online, root=settings.root),
        write_row=put,
        other_reads={f"grpc{i}": read for i in range(3)},
        reads=False,
    ) as load:
        load.settle(0.3)
        yield load


def check_errors(load: Load) -> None:
    assert load.raised("grpc") <= READ_ERRORS
    assert load.slowest_s() < promised(1.0 + 1.5)


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary(), "--appendonly", "yes") as running:
        yield running


@pytest.fixture(scope="module")
def on_valkey(
    valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FeatureClient, Settings]]:
    with served(tmp_path_factory.mktemp("served"), valkey.url) as running:
        yield running


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_store(
    valkey: RedisServer, on_valkey: tuple[FeatureClient, Settings], fault: Fault
) -> None:
    valkey.command("FLUSHALL")
    with load_on(*on_valkey) as load:
        fault.begin(valkey)
        time.sleep(LASTS_S)
        fault.end(valkey)
        assert load.wait_for_success(time.monotonic()) < promised(1.0)
        load.settle(0.3)
    check_errors(load)
    if fault.reads:
        assert load.errors("grpc")
    else:
        assert load.raised("grpc") == set()


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_a_failover_of_the_store(tmp_path: Path, kind: str) -> None:
    with RedisCluster() if kind == "cluster" else SentinelServers() as servers:
        victim, successor = servers.first_pair
        with served(tmp_path, servers.url) as running, load_on(*running) as load:
            victim.kill()
            wait_for(lambda: is_master(successor))
            assert load.wait_for_success(time.monotonic()) < promised(1.0)
            load.settle(0.3)
        check_errors(load)
        assert load.errors("grpc")

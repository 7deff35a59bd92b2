"""The online store goes away, hangs, or refuses us: the server says so and recovers by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from patience import promised, wait_for
from redis_servers import RedisServer, valkey_binary

from featurestore.client import FeatureClient
from featurestore.errors import (
    CorruptRow,
    FeatureStoreError,
    StoreAccessDenied,
    StoreTimeout,
    StoreUnavailable,
)
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.serve import ServerProcess
from featurestore.stores.online.base import RowBatch
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock

VIEW = ServedView(name="v", keys={"id": "int64"}, features={"a": "int64"})
OTHER = ServedView(name="w", keys={"id": "int64"}, features={"b": "string"})

pytestmark = pytest.mark.slow


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, valkey: RedisServer) -> Iterator[ServerProcess]:
    with serve(tmp_path, valkey.url) as running:
        yield running


def serve(root: Path, url: str) -> ServerProcess:
    settings = served_settings(root, online=url)
    with open_registry(settings, clock=SystemClock(), author="test") as registry:
        publish_plans(registry, serving_plan("m", [VIEW, OTHER]))
    return ServerProcess.start(settings)


def fill(root: Path, url: str) -> None:
    settings = served_settings(root, online=url)
    with open_online_store(settings.online, root=root) as store:
        VIEW.write(store, {(1,): {"a": 7}}, event_us=0)


def is_ready(server: ServerProcess) -> bool:
    return httpx.get(f"{server.http_url}/readyz").status_code == 200


def is_healthy(server: ServerProcess) -> bool:
    with grpc.insecure_channel(server.grpc_target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=30
        )
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_a_store_that_dies_and_comes_back(
    server: ServerProcess, valkey: RedisServer, tmp_path: Path
) -> None:
    fill(tmp_path, valkey.url)
    with FeatureClient(server.grpc_target) as client:
        assert client.get_online_features("m", [{"id": 1}]).to_dict()["a"] == [7]
        assert is_ready(server)
        assert is_healthy(server)
        valkey.kill()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            client.get_online_features("m", [{"id": 1}], timeout_ms=20_000)
        assert time.monotonic() - started < promised(3)
        wait_for(lambda: not is_ready(server) and not is_healthy(server))
        assert httpx.get(f"{server.http_url}/healthz").status_code == 200
        answer = httpx.post(
            f"{server.http_url}/v1/online-features",
            json={"feature_service": "m", "entities": [{"id": 1}]},
        )
        assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
        valkey.start()
        fill(tmp_path, valkey.url)
        wait_for(lambda: is_ready(server) and is_healthy(server))
        assert client.get_online_features("m", [{"id": 1}]).to_dict()["a"] == [7]


def test_a_store_that_hangs_costs_no_more_than_the_deadline(
    server: ServerProcess, valkey: RedisServer, tmp_path: Path
) -> None:
    fill(tmp_path, valkey.url)
    with FeatureClient(server.grpc_target) as client:
        client.get_online_features("m", [{"id": 1}])
        valkey.pause()
        try:
            started = time.monotonic()
            with pytest.raises(StoreTimeout):
                client.get_online_features("m", [{"id": 1}], timeout_ms=60_000)
            assert time.monotonic() - started < promised(3)
            wait_for(lambda: not is_healthy(server))
        finally:
            valkey.resume()
        wait_for(lambda: is_healthy(server))
        assert client.get_online_features("m", [{"id": 1}]).to_dict()["a"] == [7]


def test_a_store_that_refuses_our_password(tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), "--requirepass", "secret") as locked:
        url = locked.url.replace("redis://", "redis://:wrong-word@")
        with serve(tmp_path, url) as server, FeatureClient(server.grpc_target) as client:
            with pytest.raises(StoreAccessDenied) as caught:
                client.get_online_features("m", [{"id": 1}])
            assert "wrong-word" not in str(caught.value)
            assert not is_ready(server)
            assert "wrong-word" not in httpx.get(f"{server.http_url}/readyz").text


def test_a_row_of_another_version_fails_its_request_and_no_other(
    server: ServerProcess, valkey: RedisServer, tmp_path: Path
) -> None:
    fill(tmp_path, valkey.url)
    settings = served_settings(tmp_path, online=valkey.url)
    with open_online_store(settings.online, root=tmp_path) as store:
        store.write(
            RowBatch(
                field=VIEW.field, keys=VIEW.store_keys([(2,)]), rows=OTHER.rows([{"b": "x"}], [0])
            )
        )
    with FeatureClient(server.grpc_target) as client:
        good: list[dict[str, Any]] = [{"id": 1}]
        for bad in ([{"id": 2}], [*good, {"id": 2}], [{"id": key} for key in range(10)]):
            with pytest.raises(CorruptRow, match="'v'"):
                client.get_online_features("m", bad)
            before, damaged, after = client.stream_online_features("m", [good, bad, good])
            assert isinstance(damaged, CorruptRow)
            for answer in (before, after):
                assert not isinstance(answer, FeatureStoreError)
                assert answer.to_dict()["a"] == [7]
        assert client.get_online_features("m", [{"id": 1}]).to_dict()["a"] == [7]


def test_a_server_starts_before_its_store(tmp_path: Path, valkey: RedisServer) -> None:
    url = valkey.url
    valkey.kill()
    with serve(tmp_path, url) as server:
        assert not is_ready(server)
        valkey.start()
        wait_for(lambda: is_ready(server))

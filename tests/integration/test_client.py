"""FeatureClient and AsyncFeatureClient against a real server."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from patience import promised

from featurestore.client import AsyncFeatureClient, FeatureClient
from featurestore.errors import (
    FeatureStoreError,
    InsecureSettings,
    InvalidJoinKey,
    InvalidRequest,
    LimitExceeded,
    MissingJoinKey,
    NameClash,
    ServerError,
    ServerTimeout,
    ServerUnavailable,
    UnknownFeature,
    UnknownService,
)
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.addresses import Address, reserve
from featurestore.serving.local import LocalServer
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.plans import ALL_VIEWS

ORDERS = ServedView(
    name="orders",
    keys={"shop": "string", "day": "int64"},
    features={"count": "int64", "top": "string"},
)
SHOPS = ServedView(name="shops", keys={"shop": "string"}, features={"city": "string"})
PLAN = serving_plan("model", [ORDERS, SHOPS])
ROWS = [{"shop": "A", "day": 1}, {"shop": "A", "day": 2}, {"shop": None, "day": 1}]
EXPECTED = {
    "shop": ["A", "A", None],
    "day": [1, 2, 1],
    "count": [2**53 + 1, None, None],
    "top": ["tea", None, None],
    "city": ["Køge", "Køge", None],
}
EVENT_US = 1_700_000_000_000_000


@pytest.fixture(scope="module", params=["grpcio", "native"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, LocalServer]]:
    root: Path = tmp_path_factory.mktemp("served")
    settings = served_settings(root, http="", grpc_door=request.param)
    with (
        open_registry(settings, clock=SystemClock(), author="test") as registry,
        open_online_store(settings.online, root=root) as store,
    ):
        publish_plans(registry, PLAN, dataclasses.replace(PLAN, service=ALL_VIEWS))
        ORDERS.write(store, {("A", 1): {"count": 2**53 + 1, "top": "tea"}}, event_us=EVENT_US)
        SHOPS.write(store, {("A",): {"city": "Køge"}}, event_us=EVENT_US)
        with ServerProcess.start(settings) as server:
            local = LocalServer(settings, registry, store, SystemClock())
            yield server.grpc_target, local


@pytest.fixture(scope="module")
def target(served: tuple[str, LocalServer]) -> str:
    return served[0]


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[FeatureClient]:
    with FeatureClient(target) as opened:
        yield opened


@pytest.fixture(params=["client", "local"])
def get(
    request: pytest.FixtureRequest, client: FeatureClient, served: tuple[str, LocalServer]
) -> Callable[..., Any]:
    """The same call over gRPC and within the process: whatever holds for one holds for both."""
    return (client if request.param == "client" else served[1]).get_online_features


def test_values_statuses_and_times(get: Callable[..., Any]) -> None:
    found = get("model", ROWS)
    assert found.to_dict() == EXPECTED
    assert found.statuses["count"] == ["PRESENT", "NOT_FOUND", "NOT_FOUND"]
    assert found.event_times == {
        "orders": [EVENT_US, None, None],
        "shops": [EVENT_US, EVENT_US, None],
    }
    assert found.plan_version == PLAN.hash
    assert abs(found.request_time_us - time.time_ns() // 1_000) < 60_000_000


def test_lists_of_features_and_tables(get: Callable[..., Any]) -> None:
    table = pa.Table.from_pylist(ROWS)
    found = get(["shops", "orders:count"], table, full_feature_names=True)
    assert found.feature_names == ("shops__city", "orders__count")
    assert found.to_arrow().column("orders__count").to_pylist() == EXPECTED["count"]
    assert found.to_arrow().column("orders__count").type == pa.int64()
    assert found.to_pandas()["orders__count"].tolist()[0] == 2**53 + 1
    assert found.to_polars()["shops__city"].to_list() == EXPECTED["city"]


def test_one_feature_alone(get: Callable[..., Any]) -> None:
    assert get("shops:city", {"shop": ["A"]}).to_dict() == {"shop": ["A"], "city": ["Køge"]}


def test_no_entities(get: Callable[..., Any]) -> None:
    assert get("model", []).to_dict() == {"count": [], "top": [], "city": []}
    assert len(get("model", {"shop": [], "day": []})) == 0


def test_other_columns_come_back_untouched(get: Callable[..., Any]) -> None:
    rows = {"shop": ["A"], "day": [1], "when": [1.5], "note": ["x"]}
    assert get(["shops:city"], rows).to_dict() == {**rows, "city": ["Køge"]}


@pytest.mark.parametrize(
    ("what", "rows", "error", "attributes"),
    [
        ("modle", ROWS, UnknownService, {"service": "modle"}),
        ("model@ffffffff", ROWS, UnknownService, {"service": "model@ffffffff"}),
        (["orders:cuont"], ROWS, UnknownFeature, {"feature": "cuont", "view": "orders"}),
        ([], ROWS, InvalidRequest, {}),
        ("model", [{"shop": "A"}], MissingJoinKey, {"key": "day"}),
        ("model", [{"shop": "A"}, {}], MissingJoinKey, {"key": "shop"}),
        ("model", [{"shop": "A", "day": "1"}], InvalidJoinKey, {"key": "day"}),
        ("model", [{"shop": "A", "day": 1.5}], InvalidJoinKey, {"key": "day"}),
        ("model", [{"shop": "A", "day": 2**63}], InvalidJoinKey, {"key": "day"}),
        ("model", [{"shop": "\ud800", "day": 1}], InvalidJoinKey, {"key": "shop"}),
        ("model", {"shop": ["A"], "day": []}, InvalidRequest, {}),
        ("model", "A", InvalidRequest, {}),
        ("model", {"shop": ["A"] * 10_001, "day": [1] * 10_001}, LimitExceeded, {"asked": 10_001}),
        ("model", {"shop": ["A"], "day": [1], "Count": [3]}, NameClash, {"names": ["Count"]}),
    ],
)
def test_errors_are_the_same_on_both_ways(
    get: Callable[..., Any],
    what: Any,
    rows: Any,
    error: type[FeatureStoreError],
    attributes: dict[str, Any],
) -> None:
    with pytest.raises(error) as caught:
        get(what, rows)
    assert type(caught.value) is error
    for name, value in attributes.items():
        assert getattr(caught.value, name) == value


async def test_the_async_client_does_the_same(target: str) -> None:
    async with AsyncFeatureClient(target, token="secret") as client:
        for _ in range(3):
            found = await client.get_online_features("model", ROWS)
            assert found.to_dict() == EXPECTED
        with pytest.raises(UnknownService, match="Did you mean 'model'"):
            await client.get_online_features("modle", ROWS)
        info = await client.get_serving_info()
        assert [service.name for service in info.services] == ["model"]


@pytest.mark.parametrize(
    ("away", "local"),
    [
        ("192.0.2.1:6566", "127.0.0.1:6566"),
        ("features.internal:6566", "localhost:6566"),
        ("dns:///features.internal:6566", "dns:///localhost:6566"),
        ("dns://127.0.0.1/features.internal:6566", "dns://192.0.2.1/localhost:6566"),
        ("dns:features.internal", "dns:localhost"),
        ("ipv4:127.0.0.1:6566,192.0.2.1:6566", "ipv4:127.0.0.1:6566,127.0.0.2:6566"),
        ("ipv6:[2001:db8::1]:6566", "ipv6:[::1]:6566"),
        ("[2001:db8::1]:6566", "[::1]:6566"),
        ("2001:db8::1", "::1"),
        ("0.0.0.0:6566", "unix:/run/features.sock"),
        ("localhost.evil.example:6566", "unix:///run/features.sock"),
        ("127.0.0.1.evil.example:6566", "unix-abstract:features"),
        ("xds:///localhost", "LOCALHOST"),
        ("unix", "127.8.8.8"),
    ],
)
async def test_a_token_does_not_leave_the_machine_in_plain_text(away: str, local: str) -> None:
    for client in (FeatureClient, AsyncFeatureClient):
        with pytest.raises(InsecureSettings, match=r"tls=True.*insecure=True") as caught:
            client(away, token="hunter2")
        assert "hunter2" not in str(caught.value)
    for arguments in ({"tls": True}, {"insecure": True}, {"token": None}):
        FeatureClient(away, **({"token": "hunter2"} | arguments)).close()
    FeatureClient(local, token="hunter2").close()
    await AsyncFeatureClient(local, token="hunter2").close()


def test_the_schema_travels_once(target: str) -> None:
    with FeatureClient(target) as client:
        answers = [client.get_online_features("model", ROWS) for _ in range(3)]
    sizes = [answer.received_bytes for answer in answers]
    assert sizes[0] > sizes[1] + 100
    assert sizes[1] == sizes[2]


def test_one_client_for_many_threads(client: FeatureClient) -> None:
    def ask(key: int) -> Any:
        names = bool(key % 2)
        found = client.get_online_features("model", ROWS, full_feature_names=names)
        return found.to_dict()["orders__top" if names else "top"]

    with ThreadPoolExecutor(8) as pool:
        assert all(top == ["tea", None, None] for top in pool.map(ask, range(200)))


def test_serving_info(client: FeatureClient) -> None:
    (service,) = client.get_serving_info().services
    assert list(service.features) == ["orders:count", "orders:top", "shops:city"]


def test_nobody_answers() -> None:
    held, address = reserve(Address("127.0.0.1", 0))
    with held, FeatureClient(str(address), timeout_ms=300) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            client.get_online_features("model", ROWS)
        assert time.monotonic() - started < promised(2)


def test_a_deadline_that_is_too_short(client: FeatureClient) -> None:
    rows = {"shop": ["A"] * 10_000, "day": [1] * 10_000}
    with pytest.raises(ServerTimeout):
        client.get_online_features("model", rows, timeout_ms=1)
    with pytest.raises(InvalidRequest, match="timeout_ms"):
        client.get_online_features("model", rows, timeout_ms=0)
    with pytest.raises(InvalidRequest, match="timeout_ms"):
        FeatureClient("localhost:1", timeout_ms=0)


def test_tls_against_a_plain_server_is_unavailable(target: str) -> None:
    with (
        FeatureClient(target, timeout_ms=300, tls=True) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.get_serving_info()


def test_what_answers_is_no_feature_server() -> None:
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with (
        FeatureClient(f"127.0.0.1:{port}") as client,
        pytest.raises(ServerError, match="no feature"),
    ):
        client.get_serving_info()
    other.stop(None)


def test_importing_the_client_loads_nothing_heavy() -> None:
    heavy = "pyarrow duckdb pandas polars redis lmdb numpy sqlalchemy sqlglot fastapi"
    check = (
        "import sys, featurestore.client; "
        f"print([name for name in {heavy!r}.split() if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True)
    assert found.stdout.decode().strip() == "[]"


def test_a_request_of_generated_code_is_what_the_client_sends(target: str) -> None:
    with FeatureClient(target) as client, grpc.insecure_channel(target) as channel:
        call = channel.unary_unary("/featurestore.v1.OnlineFeatures/GetServingInfo")
        raw = call(pb.GetServingInfoRequest().SerializeToString(), timeout=60)
        assert pb.GetServingInfoResponse.FromString(raw) == client.get_serving_info()

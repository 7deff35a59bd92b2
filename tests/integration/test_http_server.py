"""The HTTP door: JSON in, JSON out, health, metrics, OpenAPI."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import wait_for

from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock
from featurestore.wire.plans import ALL_VIEWS

VIEW = ServedView(
    name="things",
    keys={"id": "bytes"},
    features={
        "count": "int64",
        "price": "decimal(9,2)",
        "seen": "timestamp",
        "raw": "bytes",
        "ratio": "float64",
        "words": "list<string>",
    },
)
PLAN = serving_plan("shop", [VIEW])
KEY = b"\x00\xff"
SEEN = datetime(2024, 5, 1, 12, tzinfo=UTC)
EVENT_US = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root: Path = tmp_path_factory.mktemp("served")
    settings = served_settings(root, grpc="", message_bytes_max=10_000, workers=2)
    with open_registry(settings, clock=SystemClock(), author="test") as registry:
        publish_plans(registry, PLAN, dataclasses.replace(PLAN, service=ALL_VIEWS))
    row = {
        "count": 2**60 + 1,
        "price": Decimal("12.50"),
        "seen": SEEN,
        "raw": b"\x01\x02",
        "ratio": float("-inf"),
        "words": ["a", None],
    }
    with open_online_store(settings.online, root=root) as store:
        VIEW.write(store, {(KEY,): row}, event_us=EVENT_US)
    with (
        ServerProcess.start(settings) as server,
        httpx.Client(base_url=server.http_url, timeout=60) as opened,
    ):
        yield opened


def post(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/online-features", json=body)


def test_values_of_every_type_as_json(client: httpx.Client) -> None:
    id_ = base64.b64encode(KEY).decode()
    answer = post(client, feature_service="shop", entities=[{"id": id_}, {"id": ""}, {"id": None}])
    assert answer.status_code == 200
    body = answer.json()
    assert body["entities"] == {"id": [id_, "", None]}
    values = {name: column["values"][0] for name, column in body["features"].items()}
    assert values == {
        "count": 2**60 + 1,
        "price": "12.50",
        "seen": "2024-05-01T12:00:00Z",
        "raw": "AQI=",
        "ratio": "-Infinity",
        "words": ["a", None],
    }
    assert body["features"]["count"]["statuses"] == ["PRESENT", "NOT_FOUND", "NOT_FOUND"]
    assert body["event_times"] == {"things": ["2023-11-14T22:13:20Z", None, None]}
    assert body["plan_version"] == PLAN.hash
    assert datetime.fromisoformat(body["request_time"]).tzinfo is not None


def test_columns_and_feature_lists(client: httpx.Client) -> None:
    answer = post(
        client, features=["things:count"], entities={"id": ["AP8="]}, full_feature_names=True
    )
    assert answer.json()["features"] == {
        "things__count": {"values": [2**60 + 1], "statuses": ["PRESENT"]}
    }


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"feature_service": "shoop", "entities": []}, 404, "unknown-service"),
        ({"features": ["things:cuont"], "entities": []}, 404, "unknown-feature"),
        ({"feature_service": "shop", "entities": [{}]}, 400, "missing-join-key"),
        ({"feature_service": "shop", "entities": [{"id": 7}]}, 400, "invalid-join-key"),
        ({"feature_service": "shop", "entities": [{"id": "no base64"}]}, 400, "invalid-join-key"),
        ({"entities": []}, 400, "invalid-request"),
        ({"feature_service": "shop", "features": ["x"], "entities": []}, 400, "invalid-request"),
        ({"feature_service": "shop", "entities": 3}, 400, "invalid-request"),
        ({"feature_service": "shop", "entities": [], "ful": True}, 400, "invalid-request"),
        ({"feature_service": "x" * 11_000, "entities": []}, 400, "limit-exceeded"),
    ],
)
def test_problems_have_code_message_and_details(
    client: httpx.Client, body: dict[str, Any], status: int, code: str
) -> None:
    answer = post(client, **body)
    assert answer.status_code == status
    problem = answer.json()
    assert problem["code"] == code
    assert set(problem) == {"code", "message", "details"}


def test_paths_and_methods_that_are_none(client: httpx.Client) -> None:
    for answer in (client.get("/v2/nothing"), client.get("/v1/online-features")):
        assert answer.status_code in (404, 405)
        assert answer.json()["code"] == "http-error"


def test_a_body_that_is_not_json(client: httpx.Client) -> None:
    answer = client.post("/v1/online-features", content=b"{")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")


def test_services_say_what_to_send(client: httpx.Client) -> None:
    body = client.get("/v1/services").json()
    (service,) = body["services"]
    assert service["keys"] == {"id": "bytes"}
    assert service["features"][0] == "things:count"
    assert body["limits"]["message_bytes_max"] == 10_000


def test_health_and_readiness(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"ready": True, "reason": ""}


def test_metrics_are_those_of_all_workers(client: httpx.Client) -> None:
    def answered() -> float:
        lines = client.get("/metrics").text.splitlines()
        wanted = 'featurestore_requests_total{code="200",door="http"} '
        found = [line for line in lines if line.startswith(wanted)]
        return float(found[0].removeprefix(wanted)) if found else 0.0

    assert post(client, feature_service="shop", entities=[{"id": "AP8="}]).status_code == 200
    looked_up = 'featurestore_view_statuses_total{status="PRESENT",view="things"}'
    wait_for(lambda: looked_up in client.get("/metrics").text)
    before = answered()
    for _ in range(20):
        # A connection each, so that both workers get some.
        with httpx.Client(base_url=client.base_url) as other:
            assert other.get("/v1/services").status_code == 200
    wait_for(lambda: answered() >= before + 20)
    assert answered() < before + 40, "each is counted once"
    text = client.get("/metrics").text
    assert "featurestore_store_seconds_bucket" in text
    assert "featurestore_ready 1.0" in text


def test_openapi_describes_the_request(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    schema = paths["/v1/online-features"]["post"]["requestBody"]["content"]["application/json"]
    assert "full_feature_names" in schema["schema"]["properties"]

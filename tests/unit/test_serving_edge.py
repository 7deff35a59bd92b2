"""Errors at the edge, addresses, masked logs, settings on their way to a worker."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import grpc
import pytest
import structlog

from featurestore import errors
from featurestore.errors import (
    AddressUnavailable,
    FeatureStoreError,
    InvalidSettings,
    LimitExceeded,
    NameClash,
    StoreUnavailable,
    UnknownFeature,
)
from featurestore.masking import mask
from featurestore.serving.addresses import Address, listen, parse_address, reserve
from featurestore.serving.edge import codes_of, restore, to_grpc, to_json
from featurestore.serving.logs import configure, logger
from featurestore.serving.metrics import Metrics
from featurestore.serving.worker import settings_from_json, settings_to_json
from featurestore.testing.served import served_settings


@pytest.mark.parametrize(
    "error",
    [
        UnknownFeature("tmp", view="weather", known=["temp"]),
        LimitExceeded("keys_per_request_max", asked=11, allowed=10),
        NameClash(["a", "b"], hint="…"),
        StoreUnavailable("redis is gone"),
    ],
)
def test_errors_survive_the_wire(error: FeatureStoreError) -> None:
    code, text, details = to_grpc(error)
    back = restore(code, text, details)
    assert type(back) is type(error)
    assert (back.message, back.details) == (error.message, error.details)


def test_every_class_has_codes() -> None:
    todo = [FeatureStoreError]
    while todo:
        kind = todo.pop()
        todo.extend(kind.__subclasses__())
        error = kind.__new__(kind)
        Exception.__init__(error, "x")
        assert codes_of(error).http >= 400
    assert codes_of(errors.InvalidJoinKey("k", "…")).grpc is grpc.StatusCode.INVALID_ARGUMENT
    assert codes_of(errors.StoreTimeout("…")).http == 504


def test_what_cannot_travel_stays_at_home() -> None:
    error = NameClash(["x" * 3_000], hint="h" * 3_000)
    _, text, details = to_grpc(error)
    assert len(text) <= 1_001
    assert len(details) < 4_000
    assert to_json(error)["details"] == {}
    assert type(restore(grpc.StatusCode.INVALID_ARGUMENT, text, details)) is NameClash


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UNAVAILABLE", errors.ServerUnavailable),
        ("DEADLINE_EXCEEDED", errors.ServerTimeout),
        ("RESOURCE_EXHAUSTED", errors.LimitExceeded),
        ("PERMISSION_DENIED", errors.PermissionDenied),
        ("UNIMPLEMENTED", errors.ServerError),
        ("UNKNOWN", errors.InternalError),
    ],
)
def test_statuses_of_others(code: str, kind: type[FeatureStoreError]) -> None:
    for details in (None, b"\xff\xff"):
        assert type(restore(grpc.StatusCode[code], "text", details)) is kind


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:6566", Address("127.0.0.1", 6566)),
        ("[::1]:0", Address("::1", 0)),
        ("localhost:1", Address("localhost", 1)),
        ("", None),
    ],
)
def test_addresses(text: str, address: Address | None) -> None:
    assert parse_address(text, key="grpc") == address
    assert address is None or str(address) == text


@pytest.mark.parametrize("text", ["6566", ":6566", "host", "host:", "host:-1", "host:65536", "h:x"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidSettings, match="grpc"):
        parse_address(text, key="grpc")


def test_a_reserved_port_is_shared_with_our_own_only() -> None:
    held, real = reserve(Address("127.0.0.1", 0))
    with held:
        assert real.port > 0
        with listen(real), listen(real), pytest.raises(AddressUnavailable, match="listens there"):
            reserve(real)


def test_a_taken_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(AddressUnavailable, match="another process"):
            reserve(taken)
    with pytest.raises(AddressUnavailable):
        reserve(Address("192.0.2.1", 0))


def test_urls_lose_their_credentials() -> None:
    masked = mask("from rediss://me:pass@word@host:1/0 and redis://h/1")
    assert masked == "from rediss://***@host:1/0 and redis://h/1"
    assert mask("postgresql:///db?user=me&password=x&sslmode=on") == (
        "postgresql:///db?user=me&password=***&sslmode=on"
    )
    assert mask("redis+sentinel://u:p@s:1,t:2/m?sentinel_password=x") == (
        "redis+sentinel://***@s:1,t:2/m?sentinel_password=***"
    )


def test_logs_are_json_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        configure("json")
        logger().info("opened", url="postgresql://user:hunter2@db/x", count=3)
    finally:
        structlog.reset_defaults()
    line = json.loads(capsys.readouterr().err)
    assert line["url"] == "postgresql://***@db/x"
    assert (line["event"], line["count"], line["level"]) == ("opened", 3, "info")
    with pytest.raises(InvalidSettings, match="log_format"):
        configure("xml")


def test_settings_reach_a_worker_whole(tmp_path: Path) -> None:
    settings = served_settings(tmp_path, online="redis://:secret@host/0", workers=3)
    assert settings_from_json(settings_to_json(settings)) == settings


def test_metrics_count_statuses_per_view() -> None:
    metrics = Metrics()
    metrics.lookup(("a", "b"), bytes([1, 3, 1, 1, 4, 3]), 3, 0.001)
    metrics.request("grpc", "OK", 0.002)
    metrics.ready(True)
    text = metrics.exposition()[0].decode()
    assert 'featurestore_view_statuses_total{status="PRESENT",view="a"} 2.0' in text
    assert 'featurestore_view_statuses_total{status="OUTSIDE_MAX_AGE",view="a"} 1.0' in text
    assert 'featurestore_view_statuses_total{status="NOT_FOUND",view="b"} 2.0' in text
    assert 'featurestore_requests_total{code="OK",door="grpc"} 1.0' in text

"""OnlineResponse: answers that fit no request, and what features may be named by."""

from __future__ import annotations

from typing import Any

import pytest

from featurestore.definitions.entity import Entity
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.errors import InternalError, InvalidRequest
from featurestore.serving.local import what_of
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.entities import read_entities
from featurestore.wire.response import read_response
from featurestore.wire.serving_raw_pb2 import RawOnlineFeaturesResponse

SCHEMA = pb.Schema(
    views=[pb.ViewSchema(name="v", features=[pb.FeatureSchema(name="a", dtype="int64")])]
)
ONE = read_entities({"k": ["x"]})
SHOP = Entity("shop")
VIEW = FeatureView(
    "orders", SHOP, FileSource("orders", "orders.parquet", "at"), [Feature("a"), Feature("b")]
)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"\xff\xff", "not a response"),
        (RawOnlineFeaturesResponse(schema_id=3), "left out a schema"),
        (RawOnlineFeaturesResponse(schema=SCHEMA), "0 statuses came for 1 entities"),
        (RawOnlineFeaturesResponse(schema=SCHEMA, statuses=b"\x01"), "0 rows came"),
    ],
)
def test_answers_that_fit_no_request(raw: Any, match: str) -> None:
    data = raw if isinstance(raw, bytes) else raw.SerializeToString()
    with pytest.raises(InternalError, match=match):
        read_response(data, ONE)


def test_an_answer_without_event_times() -> None:
    raw = RawOnlineFeaturesResponse(schema=SCHEMA, statuses=b"\x03", plan_version="ab" * 32)
    found = read_response(raw.SerializeToString(), ONE)
    assert found.event_times == {"v": [None]}
    assert found.statuses == {"a": ["NOT_FOUND"]}
    assert repr(found) == "<OnlineResponse 1 entities × 1 features, plan abababab>"
    assert found.received_bytes == raw.ByteSize()


def test_columns_that_arrow_has_no_type_for() -> None:
    raw = RawOnlineFeaturesResponse(schema=SCHEMA, statuses=b"\x03")
    found = read_response(raw.SerializeToString(), read_entities({"k": [object()]}))
    with pytest.raises(InvalidRequest, match="'k' has no Arrow type"):
        found.to_arrow()


@pytest.mark.parametrize(
    ("features", "what"),
    [
        ("model", "model"),
        ("orders:a", ("orders:a",)),
        (FeatureService("model", [VIEW]), "model"),
        (VIEW, ("orders",)),
        (VIEW["a"], ("orders:a",)),
        ([VIEW[["b", "a"]], "shops", VIEW], ("orders:b", "orders:a", "shops", "orders")),
        (iter(["orders:a"]), ("orders:a",)),
    ],
)
def test_features_by_name_or_definition(features: Any, what: Any) -> None:
    assert what_of(features) == what


@pytest.mark.parametrize(
    "features",
    [3, None, [3], [VIEW.with_name("other")], VIEW.with_join_key_map({"shop": "seller"})],
)
def test_features_that_no_server_knows(features: Any) -> None:
    with pytest.raises(InvalidRequest):
        what_of(features)

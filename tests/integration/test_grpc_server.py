"""The gRPC server as other people's clients meet it: generated code, health, reflection, limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import (
    ServedView,
    narrowed,
    publish_plans,
    served_settings,
    serving_plan,
)
from featurestore.timeline import SystemClock
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.plans import ALL_VIEWS
from featurestore.wire.serving_pb2_grpc import OnlineFeaturesStub

WEATHER = ServedView(
    name="weather",
    keys={"airport": "string"},
    features={"temp": "float64", "sky": "string"},
    ttl_us=3_600_000_000,
)
PLANES = ServedView(name="planes", keys={"tailnum": "string"}, features={"seats": "int64"})
MODEL = narrowed(serving_plan("model", [WEATHER, PLANES]), {"weather": ["temp"]})
EVERYTHING = dataclasses.replace(serving_plan("x", [WEATHER, PLANES]), service=ALL_VIEWS)
LIMITS = {"keys_per_request_max": 100, "message_bytes_max": 20_000}


@pytest.fixture(scope="module", params=["grpcio", "native"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Both doors keep the same contract."""
    root: Path = tmp_path_factory.mktemp("served")
    settings = served_settings(root, http="", grpc_door=request.param, **LIMITS)
    with open_registry(settings, clock=SystemClock(), author="test") as registry:
        publish_plans(registry, MODEL, EVERYTHING)
    now_us = SystemClock().now_us()
    with open_online_store(settings.online, root=root) as store:
        WEATHER.write(store, {("EWR",): {"temp": 1.5, "sky": "fog"}}, event_us=now_us)
        PLANES.write(store, {("N1",): {"seats": 2**53 + 1}, ("N2",): {}}, event_us=now_us - 5)
    with ServerProcess.start(settings) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_target) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> OnlineFeaturesStub:
    return OnlineFeaturesStub(channel)


def texts(name: str, *values: str) -> pb.KeyColumn:
    return pb.KeyColumn(name=name, strings=pb.StringValues(values=values))


def refused(stub: OnlineFeaturesStub, request: pb.GetOnlineFeaturesRequest) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetOnlineFeatures(request, timeout=20)
    return caught.value


def info_of(error: grpc.RpcError) -> ErrorInfo:
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def test_generated_code_reads_a_service(stub: OnlineFeaturesStub) -> None:
    keys = [texts("airport", "EWR", "EWR"), texts("tailnum", "N1", "N2")]
    request = pb.GetOnlineFeaturesRequest(feature_service="model", keys=keys)
    found = stub.GetOnlineFeatures(request, timeout=20)
    assert list(found.statuses) == [1, 1, 1, 1]
    assert [view.name for view in found.schema.views] == ["weather", "planes"]
    weather, plane, _, unknown = found.rows
    assert list(weather.doubles) == [1.5]
    assert not weather.blobs
    assert (list(plane.integers), plane.nulls) == ([2**53 + 1], b"\x00")
    assert unknown.nulls == b"\x01"
    assert found.plan_version == MODEL.hash
    assert found.request_time_us > plane.event_time_us


def test_a_list_of_features_and_columns(stub: OnlineFeaturesStub) -> None:
    request = pb.GetOnlineFeaturesRequest(
        features=pb.FeatureRefs(refs=["planes:seats", "weather"]),
        keys=[texts("airport", "EWR", "JFK"), texts("tailnum", "N1", "")],
        options=pb.Options(columns=True, full_feature_names=True, event_times=True),
    )
    found = stub.GetOnlineFeatures(request, timeout=20)
    seats, temp, sky = found.columns
    assert list(seats.integers.values) == [2**53 + 1, 0]
    assert (list(temp.doubles.values), list(temp.statuses)) == ([1.5, 0.0], [1, 3])
    assert list(sky.strings.values) == ["fog", ""]
    assert [f.name for f in found.schema.views[1].features] == ["weather__temp", "weather__sky"]
    assert found.plan_version == EVERYTHING.hash
    assert found.event_times_us[3] == 0


def test_null_keys(stub: OnlineFeaturesStub) -> None:
    tails = texts("tailnum", "N1", "N1")
    tails.nulls.append(1)
    request = pb.GetOnlineFeaturesRequest(features=pb.FeatureRefs(refs=["planes"]), keys=[tails])
    assert list(stub.GetOnlineFeatures(request, timeout=20).statuses) == [1, 3]
    request.keys[0].nulls.append(7)
    assert refused(stub, request).code() is grpc.StatusCode.INVALID_ARGUMENT


def test_serving_info(stub: OnlineFeaturesStub) -> None:
    info = stub.GetServingInfo(pb.GetServingInfoRequest(), timeout=20)
    (service,) = info.services
    assert (service.name, service.plan_version) == ("model", MODEL.hash)
    assert list(service.features) == ["weather:temp", "planes:seats"]
    assert {key.name: key.dtype for key in service.keys} == {
        "airport": "string",
        "tailnum": "string",
    }
    assert info.limits["keys_per_request_max"] == 100
    assert info.project == "served"


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (pb.GetOnlineFeaturesRequest(), "INVALID_ARGUMENT", "invalid-request"),
        (
            pb.GetOnlineFeaturesRequest(features=pb.FeatureRefs()),
            "INVALID_ARGUMENT",
            "invalid-request",
        ),
        (pb.GetOnlineFeaturesRequest(feature_service="modl"), "NOT_FOUND", "unknown-service"),
        (
            pb.GetOnlineFeaturesRequest(feature_service="model@00000000"),
            "NOT_FOUND",
            "unknown-service",
        ),
        (
            pb.GetOnlineFeaturesRequest(features=pb.FeatureRefs(refs=["planes:seat"])),
            "NOT_FOUND",
            "unknown-feature",
        ),
        (
            pb.GetOnlineFeaturesRequest(features=pb.FeatureRefs(refs=["plane"])),
            "NOT_FOUND",
            "unknown-view",
        ),
        (
            pb.GetOnlineFeaturesRequest(feature_service="model", keys=[texts("airport", "EWR")]),
            "INVALID_ARGUMENT",
            "missing-join-key",
        ),
        (
            pb.GetOnlineFeaturesRequest(
                features=pb.FeatureRefs(refs=["planes"]),
                keys=[pb.KeyColumn(name="tailnum", int64s=pb.Int64Values(values=[1]))],
            ),
            "INVALID_ARGUMENT",
            "invalid-join-key",
        ),
        (
            pb.GetOnlineFeaturesRequest(feature_service="s" * 15_000),
            "NOT_FOUND",
            "unknown-service",
        ),
    ],
)
def test_errors_carry_our_code(
    stub: OnlineFeaturesStub, request_: pb.GetOnlineFeaturesRequest, code: str, reason: str
) -> None:
    error = refused(stub, request_)
    assert error.code().name == code
    assert info_of(error).reason == reason


def test_a_limit_is_named(stub: OnlineFeaturesStub) -> None:
    keys = [texts("tailnum", *["N1"] * 101)]
    features = pb.FeatureRefs(refs=["planes"])
    error = refused(stub, pb.GetOnlineFeaturesRequest(features=features, keys=keys))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).metadata["limit"] == '"keys_per_request_max"'
    keys = [texts("tailnum", "x" * 21_000)]
    error = refused(stub, pb.GetOnlineFeaturesRequest(features=features, keys=keys))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "message_bytes_max = 20,000" in error.details()


def test_bytes_that_are_no_request(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/featurestore.v1.OnlineFeatures/GetOnlineFeatures")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_other_versions_are_asked_for_by_name(stub: OnlineFeaturesStub) -> None:
    service = f"model@{MODEL.service_version[:8]}"
    keys = [texts("airport", "EWR"), texts("tailnum", "N1")]
    request = pb.GetOnlineFeaturesRequest(feature_service=service, keys=keys)
    assert stub.GetOnlineFeatures(request, timeout=20).plan_version == MODEL.hash


def test_the_standard_health_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "featurestore.v1.OnlineFeatures"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_describes_the_contract(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(
        file_containing_symbol="featurestore.v1.OnlineFeatures"
    )
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=20)
    files = [
        FileDescriptorProto.FromString(data)
        for data in answer.file_descriptor_response.file_descriptor_proto
    ]
    (service,) = files[0].service
    assert [method.name for method in service.method] == [
        "GetOnlineFeatures",
        "StreamOnlineFeatures",
        "Push",
        "StreamPush",
        "GetServingInfo",
    ]

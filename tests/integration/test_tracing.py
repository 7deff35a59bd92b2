"""Traces reach a collector as children of their callers; request ids are wherever one looks."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from hostile import BODY, VIEW, served
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from pyarrow import int64, string

from featurestore import FeatureClient, FeatureStore
from featurestore.config import TracingSettings
from featurestore.errors import FeatureStoreError, NotApplied, UnknownService
from featurestore.jobs.project import open_online_store
from featurestore.serving.serve import ServerProcess
from featurestore.stores.online.base import RowBatch
from featurestore.testing.served import ServedView, served_settings
from featurestore.wire import serving_pb2 as pb
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

GET = "/featurestore.v1.OnlineFeatures/GetOnlineFeatures"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
REQUEST = pb.GetOnlineFeaturesRequest(
    feature_service="m", keys=[pb.KeyColumn(name="id", int64s=pb.Int64Values(values=[7]))]
).SerializeToString()


class Collector:
    """A collector that speaks OTLP over HTTP and keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        spans, resources = self.spans, self.resources

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                    facts = sent.resource.attributes
                    resources.append({each.key: each.value.string_value for each in facts})
                    for scope in sent.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing to say."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def named(self, name: str) -> list[Span]:
        """The spans of a name so far."""
        return [span for span in self.spans if span.name == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def attributes(span: Span) -> dict[str, Any]:
    found = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        found[each.key] = getattr(each.value, str(kind))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("door", ["grpcio", "native"])
def test_requests_and_their_steps(tmp_path: Path, collector: Collector, door: str) -> None:
    with served(
        tmp_path, door=door, tracing=TracingSettings(otlp_endpoint=collector.url)
    ) as server:
        metadata = (("traceparent", TRACEPARENT), ("x-request-id", "mine"))
        with grpc.insecure_channel(server.process.grpc_target) as channel:
            channel.unary_unary(GET)(REQUEST, metadata=metadata)
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(GET)(b"\x0a\x01x")
        url = f"{server.process.http_url}/v1/online-features"
        assert httpx.post(url, json=BODY, headers={"traceparent": TRACEPARENT}).is_success
        assert httpx.get(f"{server.process.http_url}/healthz").is_success
    # Ending the server sends what is left.
    name = "featurestore.v1.OnlineFeatures/GetOnlineFeatures"
    fine, wrong = sorted(collector.named(name), key=lambda span: span.start_time_unix_nano)
    assert (fine.trace_id.hex(), fine.parent_span_id.hex()) == (TRACE, PARENT)
    assert fine.kind == Span.SPAN_KIND_SERVER
    assert (
        attributes(fine).items()
        >= {
            "rpc.method": "GetOnlineFeatures",
            "rpc.response.status_code": "OK",
            "featurestore.request_id": "mine",
        }.items()
    )
    assert attributes(wrong)["rpc.response.status_code"] == "NOT_FOUND"
    assert wrong.status.code == Status.STATUS_CODE_UNSET, "the caller's mistake is not our failure"
    (over_http,) = collector.named("POST /v1/online-features")
    assert over_http.trace_id.hex() == TRACE
    assert attributes(over_http)["http.response.status_code"] == 200
    for step in ("store read", "assemble"):
        found = collector.named(step)
        assert {span.parent_span_id for span in found} == {fine.span_id, over_http.span_id}
        for span in found:
            assert span.start_time_unix_nano <= span.end_time_unix_nano
            assert attributes(span) == {"featurestore.keys": 1}
    assert collector.resources[0]["service.name"] == "featurestore-server"
    assert collector.resources[0]["featurestore.project"] == "served"


@pytest.mark.slow
def test_a_collector_that_is_away_costs_nobody_anything(tmp_path: Path) -> None:
    with served(tmp_path, tracing=TracingSettings(otlp_endpoint="http://127.0.0.1:9")) as server:
        for _ in range(20):
            server.answers_right()


def test_jobs(make_repo: MakeRepo, collector: Collector) -> None:
    repo = make_repo(
        """
        from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource
        user = Entity("user", join_keys={"user": "string"})
        clicks = FileSource("clicks", path="clicks.parquet", event_time="at")
        view = FeatureView("view", entities=[user], source=clicks, features=[Feature("n")])
        service = FeatureService("service", features=[view])
        """,
        tracing={"otlp_endpoint": collector.url},
    )
    rows = [{"user": "a", "at": utc(2024, 5, 1), "n": 7}]
    write_rows(repo / "clicks.parquet", rows, {"user": string(), "at": INSTANT, "n": int64()})
    with FeatureStore(repo) as fs:
        with pytest.raises(NotApplied):
            fs.materialize()
        fs.apply()
        fs.materialize()
        frame = "SELECT 'a' AS \"user\", TIMESTAMPTZ '2024-06-01' AS event_timestamp"
        assert fs.get_historical_features(frame, "service").to_arrow().num_rows == 1
    failed, done = sorted(
        collector.named("materialize"), key=lambda span: span.start_time_unix_nano
    )
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == NotApplied.code
    assert done.status.code == Status.STATUS_CODE_UNSET
    assert len(collector.named("apply")) == 1
    (training,) = collector.named("training set")
    assert attributes(training) == {"featurestore.rows": 1, "featurestore.features": 1}


def test_an_endpoint_that_is_none(make_repo: MakeRepo) -> None:
    repo = make_repo("", tracing={"otlp_endpoint": "collector:4318"})
    with FeatureStore(repo) as fs, pytest.raises(FeatureStoreError, match="otlp_endpoint"):
        fs.apply()


@pytest.mark.slow
@pytest.mark.parametrize("door", ["grpcio", "native"])
def test_request_ids(tmp_path: Path, capfd: pytest.CaptureFixture[str], door: str) -> None:
    """They are given or made, sent back, and in every line of their request."""
    with served(tmp_path, door=door) as server:
        check_grpc_ids(server.process)
        check_http_ids(server.process)
        with open_online_store(served_settings(tmp_path).online, root=tmp_path) as store:
            keys = VIEW.store_keys([(1_000,)])
            store.write(RowBatch(field=VIEW.field, keys=keys, rows=[damaged()]))
        with grpc.insecure_channel(server.process.grpc_target) as channel:
            request = pb.GetOnlineFeaturesRequest.FromString(REQUEST)
            request.keys[0].int64s.values[:] = [1_000]
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(GET)(
                    request.SerializeToString(), metadata=(("x-request-id", "bad-1"),)
                )
        httpx.post(
            f"{server.process.http_url}/v1/online-features",
            json={"feature_service": "m", "entities": [{"id": 1_000}]},
            headers={"x-request-id": "bad-2"},
        )
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    failures = [line for line in lines if line["event"] == "request failed"]
    assert [line["request_id"] for line in failures] == ["bad-1", "bad-2"]
    others = [line for line in lines if line["event"] in ("serving", "stopped", "draining")]
    assert len(others) == 3
    assert not any("request_id" in line for line in others)


def check_grpc_ids(process: ServerProcess) -> None:
    with grpc.insecure_channel(process.grpc_target) as channel:
        call = channel.unary_unary(GET)
        _, given = call.with_call(REQUEST, metadata=(("x-request-id", "mine-1"),))
        assert dict(given.trailing_metadata())["x-request-id"] == "mine-1"
        made = set()
        for _ in range(3):
            _, free = call.with_call(REQUEST)
            made.add(dict(free.trailing_metadata())["x-request-id"])
        assert len(made) == 3
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff", metadata=(("x-request-id", "mine-2"),))
        assert dict(caught.value.trailing_metadata())["x-request-id"] == "mine-2"
    with FeatureClient(process.grpc_target) as client:
        with pytest.raises(UnknownService) as unknown:
            client.get_online_features("nobody", {"id": [1]})
        assert unknown.value.details["request_id"]


def check_http_ids(process: ServerProcess) -> None:
    url = process.http_url
    for path in ("/healthz", "/v1/services", "/nowhere"):
        answer = httpx.get(url + path, headers={"x-request-id": "mine-3"})
        assert answer.headers["x-request-id"] == "mine-3"
    answer = httpx.post(f"{url}/v1/online-features", json={**BODY, "feature_service": "n"})
    assert answer.json()["details"]["request_id"] == answer.headers["x-request-id"]
    # What is not fit for a log or a header is not taken.
    for unfit in (b"", b"a b", b"x" * 129, "é".encode(), b"{}", b"a;b"):
        answer = httpx.get(f"{url}/healthz", headers={b"x-request-id": unfit})
        assert answer.headers["x-request-id"].encode() not in (b"", unfit)


def damaged() -> bytes:
    """A row of another view."""
    other = ServedView(name="other", keys={"id": "int64"}, features={"a": "int64"})
    return other.rows([{"a": 1}], [1])[0]

"""Streams that mean ill: nonsense, callers that never read, floods. Others are answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hostile import Served, doors_before_valkey, value_of
from patience import wait_for
from redis_servers import RedisServer

from featurestore.wire import serving_pb2 as pb

STREAM = "/featurestore.v1.OnlineFeatures/StreamOnlineFeatures"
MOST = 8
ONE = pb.GetOnlineFeaturesRequest(
    feature_service="m", keys=[pb.KeyColumn(name="id", int64s=pb.Int64Values(values=[7]))]
)
REQUEST = pb.StreamOnlineFeaturesRequest(request=ONE).SerializeToString()

pytestmark = pytest.mark.slow


valkey, server = doors_before_valkey(concurrent_requests_max=MOST)


@pytest.fixture
def stream(server: Served) -> Iterator[grpc.StreamStreamMultiCallable[bytes, bytes]]:
    with grpc.insecure_channel(server.process.grpc_target) as channel:
        yield channel.stream_stream(STREAM)


def outcome(data: bytes) -> str:
    """The code of an answer's error, or OK for the right values."""
    answer = pb.StreamOnlineFeaturesResponse.FromString(data)
    if answer.WhichOneof("answer") == "features":
        assert list(answer.features.rows[0].integers) == [value_of(7)]
        return "OK"
    info = ErrorInfo()
    assert Status.FromString(answer.error).details[0].Unpack(info)
    return info.reason


@pytest.mark.parametrize(
    "nonsense", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x00" * 1_000, REQUEST[:-1]]
)
def test_nonsense_ends_its_own_stream_only(
    server: Served, stream: grpc.StreamStreamMultiCallable[bytes, bytes], nonsense: bytes
) -> None:
    fine = stream(iter([REQUEST]), timeout=60)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(iter([REQUEST, nonsense]), timeout=60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [outcome(data) for data in fine] == ["OK"]
    server.answers_right()


def test_many_streams_that_say_nothing(
    server: Served, stream: grpc.StreamStreamMultiCallable[bytes, bytes]
) -> None:
    stop = threading.Event()

    def silence() -> Iterator[bytes]:
        stop.wait(60)
        yield from ()

    calls = [stream(silence(), timeout=60) for _ in range(50)]
    server.answers_right()
    stop.set()
    assert [list(call) for call in calls] == [[]] * 50
    server.answers_right()


def test_who_never_reads_makes_us_hold_nothing(
    server: Served, stream: grpc.StreamStreamMultiCallable[bytes, bytes]
) -> None:
    memory, stop, sent = server.memory_mb(), threading.Event(), Counter[str]()

    def endless() -> Iterator[bytes]:
        while not stop.is_set():
            sent["requests"] += 1
            yield REQUEST

    calls = [stream(endless(), timeout=60) for _ in range(10)]
    until, before = time.monotonic() + 4, -1
    while sent["requests"] != before and time.monotonic() < until:
        before = sent["requests"]
        time.sleep(0.5)
    print(sent, server.memory_mb())
    server.answers_right()
    assert server.memory_mb() < memory + 100
    stop.set()
    for call in calls:
        call.cancel()
    server.answers_right()


def test_a_flood_in_streams_is_shed_request_by_request(
    server: Served, stream: grpc.StreamStreamMultiCallable[bytes, bytes], valkey: RedisServer
) -> None:
    def shed() -> float:
        return server.metric("featurestore_requests_shed_total", door="grpc")

    wanted = shed() + 40 - MOST
    with ThreadPoolExecutor(1) as pool:
        with valkey.hanging():
            asking = pool.submit(lambda: list(stream(iter([REQUEST] * 40), timeout=60)))
            wait_for(
                lambda: server.metric("featurestore_requests_shed_total", door="grpc") == wanted
            )
        answers = Counter(map(outcome, asking.result()))
    assert answers == {"OK": MOST, "server-overloaded": 40 - MOST}
    server.answers_right()

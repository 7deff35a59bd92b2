"""`StreamOnlineFeatures` on both doors: order, errors in their places, back-pressure, drain."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status as RpcStatus
from hostile import KEYS, PLAN, Served, served, value_of
from patience import promised, wait_for
from redis_servers import RedisServer, valkey_binary

from featurestore.client import AsyncFeatureClient, FeatureClient
from featurestore.errors import (
    FeatureStoreError,
    InvalidJoinKey,
    LimitExceeded,
    MissingJoinKey,
    ServerUnavailable,
    StoreTimeout,
    UnknownService,
)
from featurestore.serving.serve import ServerProcess
from featurestore.serving.stream_client import AHEAD_MAX
from featurestore.serving.streams import UNDER_WAY_MAX
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.serving_pb2_grpc import OnlineFeaturesStub

METHOD = "/featurestore.v1.OnlineFeatures/StreamOnlineFeatures"
LIMITS = {"keys_per_request_max": 100}


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as running:
        yield running


@pytest.fixture(scope="module", params=["grpcio", "native"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey: RedisServer
) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("served")
    with served(root, online=valkey.url, door=request.param, **LIMITS) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[FeatureClient]:
    with FeatureClient(server.process.grpc_target) as opened:
        yield opened


@pytest.fixture
def stub(server: Served) -> Iterator[OnlineFeaturesStub]:
    with grpc.insecure_channel(server.process.grpc_target) as channel:
        yield OnlineFeaturesStub(channel)


def values(found: Any) -> list[Any]:
    assert not isinstance(found, FeatureStoreError), found
    return found.to_dict()["a"]


def asked(*keys: int, service: str = "m", timeout_ms: int = 0) -> pb.StreamOnlineFeaturesRequest:
    key = pb.KeyColumn(name="id", int64s=pb.Int64Values(values=keys))
    request = pb.GetOnlineFeaturesRequest(feature_service=service, keys=[key])
    return pb.StreamOnlineFeaturesRequest(request=request, timeout_ms=timeout_ms)


def test_answers_come_in_the_order_of_the_batches(client: FeatureClient) -> None:
    batches = [[{"id": (7 * n + i) % KEYS} for i in range(n % 5 + 1)] for n in range(400)]
    found = list(client.stream_online_features("m", batches))
    assert [values(answer) for answer in found] == [
        [value_of(row["id"]) for row in batch] for batch in batches
    ]
    alone = client.get_online_features("m", batches[4])
    assert (found[4].to_dict(), found[4].statuses) == (alone.to_dict(), alone.statuses)
    assert found[4].plan_version == PLAN.hash
    # The schema travels with the first answers only.
    assert found[395].received_bytes < found[0].received_bytes


def test_no_batch_at_all(client: FeatureClient) -> None:
    assert list(client.stream_online_features("m", [])) == []


async def test_the_async_client_does_the_same(server: Served) -> None:
    async def batches() -> AsyncIterator[Any]:
        for key in range(200):
            await asyncio.sleep(0)
            yield {"id": [key % KEYS]} if key != 100 else {"wrong": [1]}

    async with AsyncFeatureClient(server.process.grpc_target) as client:
        found = [answer async for answer in client.stream_online_features("m", batches())]
        listed = [a async for a in client.stream_online_features("m", [[{"id": 3}]])]
    assert isinstance(found.pop(100), MissingJoinKey)
    expected = [[value_of(key % KEYS)] for key in range(200) if key != 100]
    assert [values(answer) for answer in found] == expected
    assert values(listed[0]) == [value_of(3)]


def test_an_error_stands_in_its_place_and_the_stream_goes_on(client: FeatureClient) -> None:
    good = [{"id": 5}]
    batches = [good, [{"id": "text"}], good, [{"id": 2**63}], good, [{"id": 1}] * 101, good, [{}]]
    found = list(client.stream_online_features("m", batches))
    kinds = [type(answer) for answer in found[1::2]]
    # One of them never leaves the client, and keeps its place all the same.
    assert kinds == [InvalidJoinKey, InvalidJoinKey, LimitExceeded, MissingJoinKey]
    assert [values(answer) for answer in found[::2]] == [[value_of(5)]] * 4
    assert found[5].allowed == 100
    unknown = list(client.stream_online_features("modle", [good, good]))
    assert [type(answer) for answer in unknown] == [UnknownService, UnknownService]


def test_generated_code_streams(stub: OnlineFeaturesStub) -> None:
    requests = [asked(1, 2), asked(1, service="x"), pb.StreamOnlineFeaturesRequest(), asked(3)]
    first, unknown, empty, last = stub.StreamOnlineFeatures(iter(requests), timeout=60)
    assert [row.integers[0] for row in first.features.rows] == [value_of(1), value_of(2)]
    assert RpcStatus.FromString(unknown.error).code == grpc.StatusCode.NOT_FOUND.value[0]
    assert RpcStatus.FromString(empty.error).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert last.features.rows[0].integers[0] == value_of(3)


def test_bytes_of_another_contract_end_the_stream(server: Served) -> None:
    good = asked(1).SerializeToString()
    with grpc.insecure_channel(server.process.grpc_target) as channel:
        answers = channel.stream_stream(METHOD)(iter([good, b"\xff\xff\xff", good]), timeout=60)
        assert pb.StreamOnlineFeaturesResponse.FromString(next(answers)).HasField("features")
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    server.answers_right()


def test_what_the_batches_raise_is_raised(client: FeatureClient) -> None:
    def batches() -> Iterator[Any]:
        yield [{"id": 1}]
        raise ZeroDivisionError("in the caller's iterator")

    stream = client.stream_online_features("m", batches())
    assert values(next(stream)) == [value_of(1)]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_a_question_may_depend_on_the_answer_before(client: FeatureClient) -> None:
    answered = threading.Semaphore(0)

    def batches() -> Iterator[Any]:
        for key in range(20):
            yield [{"id": key}]
            assert answered.acquire(timeout=60)

    for key, found in enumerate(client.stream_online_features("m", batches())):
        assert values(found) == [value_of(key)]
        answered.release()
    assert key == 19


def test_nobody_runs_ahead_of_a_caller_who_does_not_read(client: FeatureClient) -> None:
    taken = 0

    def batches() -> Iterator[Any]:
        nonlocal taken
        for taken in itertools.count(1):  # counts what was asked for
            yield [{"id": taken % KEYS}]

    stream = client.stream_online_features("m", batches())
    for key in range(1, 11):
        assert values(next(stream)) == [value_of(key)]
    wait_for(lambda: taken > 10)
    time.sleep(0.3)
    assert taken <= 10 + AHEAD_MAX + 1
    stream.close()  # type: ignore[attr-defined] # a generator, which ends the call


def test_the_server_stops_reading_for_a_caller_who_does_not(server: Served) -> None:
    """4,000 requests of 100 keys would be 12 MB of answers."""
    before = server.metric("featurestore_requests_total", door="grpc")
    message = asked(*range(KEYS)).SerializeToString()
    with grpc.insecure_channel(server.process.grpc_target) as channel:
        answers = channel.stream_stream(METHOD)(itertools.repeat(message, 4_000), timeout=60)
        next(answers)

        def seen() -> float:
            return server.metric("featurestore_requests_total", door="grpc") - before

        def stands_still() -> bool:
            now = seen()
            time.sleep(0.5)
            return UNDER_WAY_MAX <= now == seen()

        wait_for(stands_still)
        # What is under way, and what fits into the connection's buffers.
        assert seen() < 2_000
        rest = sum(1 for _ in answers)
    assert rest == 3_999


def test_a_slow_store_costs_single_answers_only(server: Served, valkey: RedisServer) -> None:
    requests = [asked(1, timeout_ms=5_000), asked(2, timeout_ms=60), asked(3)]
    assert valkey.command("CLIENT", "PAUSE", "400", "ALL").startswith(b"+OK")
    with grpc.insecure_channel(server.process.grpc_target) as channel:
        stub = OnlineFeaturesStub(channel)
        one, two, three = stub.StreamOnlineFeatures(iter(requests), timeout=60)
    assert one.features.rows[0].integers[0] == value_of(1)
    assert RpcStatus.FromString(two.error).code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert three.features.rows[0].integers[0] == value_of(3)
    with FeatureClient(server.process.grpc_target) as client:
        assert valkey.command("CLIENT", "PAUSE", "400", "ALL").startswith(b"+OK")
        (found,) = client.stream_online_features("m", [[{"id": 1}]], timeout_ms=50)
    assert isinstance(found, StoreTimeout)


@pytest.mark.slow
@pytest.mark.parametrize("door", ["grpcio", "native"])
def test_a_draining_server_answers_what_it_has_read(tmp_path: Path, door: str) -> None:
    with served(tmp_path, door=door) as running, FeatureClient(_target(running)) as client:
        answered: list[Any] = []
        busy = threading.Event()

        def ask() -> None:
            batches = ([{"id": n % KEYS}] for n in itertools.count())
            for found in client.stream_online_features("m", batches):
                answered.append(values(found))
                busy.set()

        def watch() -> None:
            with pytest.raises(ServerUnavailable):
                ask()

        asking = threading.Thread(target=watch)
        asking.start()
        with grpc.insecure_channel(_target(running)) as channel:
            # A stream on which nobody asks must not hold the server up.
            hold = threading.Event()
            idle = channel.stream_stream(METHOD)(_until(hold))
            assert busy.wait(60)
            time.sleep(0.3)
            started = time.monotonic()
            assert _stop(running.process) == 0
            assert time.monotonic() - started < promised(9)
            asking.join(60)
            with pytest.raises(grpc.RpcError) as caught:
                next(idle)
            hold.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert answered == [[value_of(n % KEYS)] for n in range(len(answered))]


def _target(running: Served) -> str:
    return running.process.grpc_target


def _stop(process: ServerProcess) -> int:
    return process.stop()


def _until(event: threading.Event) -> Iterator[bytes]:
    event.wait(60)
    yield from ()

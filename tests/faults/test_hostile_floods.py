"""Floods: what a server cannot answer it turns away at once, and the rest is unharmed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hostile import BODY, Served, doors_before_valkey, value_of
from patience import promised, until
from redis_servers import RedisServer

from featurestore.client import AsyncFeatureClient, FeatureClient
from featurestore.errors import ServerOverloaded
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.serving_pb2_grpc import OnlineFeaturesStub

MOST = 8
REQUEST = pb.GetOnlineFeaturesRequest(
    feature_service="m", keys=[pb.KeyColumn(name="id", int64s=pb.Int64Values(values=[7]))]
)

pytestmark = pytest.mark.slow


valkey, server = doors_before_valkey(concurrent_requests_max=MOST)


async def status_of(stub: OnlineFeaturesStub) -> str:
    try:
        found = await stub.GetOnlineFeatures(REQUEST, timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    assert list(found.rows[0].integers) == [value_of(7)]
    return "OK"


def answered(requests: Iterable[asyncio.Future[Any]]) -> int:
    return sum(request.done() for request in requests)


async def test_requests_past_the_limit_are_shed_at_once(
    server: Served, valkey: RedisServer
) -> None:
    shed = server.metric("featurestore_requests_shed_total", door="grpc")
    async with grpc.aio.insecure_channel(server.process.grpc_target) as channel:
        stub = OnlineFeaturesStub(channel)
        assert await status_of(stub) == "OK"
        with valkey.hanging():
            asked = [asyncio.ensure_future(status_of(stub)) for _ in range(5 * MOST)]
            await until(lambda: answered(asked) == 4 * MOST)
        answers = Counter(await asyncio.gather(*asked))
        assert answers == {"OK": MOST, "RESOURCE_EXHAUSTED": 4 * MOST}
    assert server.metric("featurestore_requests_shed_total", door="grpc") == shed + 4 * MOST


async def test_http_answers_429_and_health_is_never_shed(
    server: Served, valkey: RedisServer
) -> None:
    shed = server.metric("featurestore_requests_shed_total", door="http")
    limits = httpx.Limits(max_connections=100)
    async with (
        httpx.AsyncClient(base_url=server.process.http_url, limits=limits, timeout=60) as client,
        grpc.aio.insecure_channel(server.process.grpc_target) as channel,
    ):
        with valkey.hanging():
            posts = [
                asyncio.ensure_future(client.post("/v1/online-features", json=BODY))
                for _ in range(5 * MOST)
            ]
            await until(lambda: answered(posts) == 4 * MOST)
            for path in ("/healthz", "/metrics"):
                assert (await client.get(path)).status_code == 200
            # (The store hangs, so that the server may say that it is not ready; but it says it.)
            assert (await client.get("/readyz")).status_code in (200, 503)
            health = health_pb2_grpc.HealthStub(channel)
            await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        answers = await asyncio.gather(*posts)
        assert Counter(a.status_code for a in answers) == {200: MOST, 429: 4 * MOST}
        for answer in answers:
            if answer.status_code == 429:
                assert answer.json()["code"] == "server-overloaded"
                assert answer.headers["retry-after"] == "1"
            else:
                assert answer.json()["features"]["a"]["values"] == [value_of(7)]
    assert server.metric("featurestore_requests_shed_total", door="http") == shed + 4 * MOST


def test_the_client_knows_the_error_and_asks_again(server: Served, valkey: RedisServer) -> None:
    async def fill(client: AsyncFeatureClient) -> None:
        await asyncio.gather(
            *(client.get_online_features("m", {"id": [7]}) for _ in range(3 * MOST))
        )

    def shed() -> float:
        return server.metric("featurestore_requests_shed_total", door="grpc")

    async def flood() -> None:
        target, before = server.process.grpc_target, shed()
        async with AsyncFeatureClient(target, timeout_ms=60_000) as client:
            with FeatureClient(target) as other:
                with valkey.hanging():
                    filling = asyncio.ensure_future(fill(client))
                    await until(lambda: shed() >= before + 2 * MOST)
                    with pytest.raises(ServerOverloaded) as caught:
                        await asyncio.to_thread(
                            other.get_online_features, "m", {"id": [1]}, timeout_ms=1_000
                        )
                limit = (caught.value.limit, caught.value.allowed)
                assert caught.value.retryable
                assert limit == ("concurrent_requests_max", MOST)
                found = await asyncio.to_thread(
                    other.get_online_features, "m", {"id": [1]}, timeout_ms=60_000
                )
                assert found.to_dict()["a"] == [value_of(1)]
            await filling

    asyncio.run(flood())


async def test_under_a_flood_the_admitted_are_right_and_soon_answered(server: Served) -> None:
    """64 callers without manners, on 8 connections, for a second and a half and 50 answers; beside
    them one that waits and asks again, as our clients do."""
    since, answers, longest_s, polite = time.monotonic(), Counter[str](), 0.0, 0

    def goes_on() -> bool:
        return time.monotonic() < since + 1.5 or answers["OK"] <= 50 or polite < 2

    async def hammer(stub: OnlineFeaturesStub) -> None:
        nonlocal longest_s
        while goes_on():
            started = time.monotonic()
            answers[await status_of(stub)] += 1
            longest_s = max(longest_s, time.monotonic() - started)

    channels = [
        grpc.aio.insecure_channel(
            server.process.grpc_target, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(8)
    ]
    hammering = [
        asyncio.ensure_future(hammer(OnlineFeaturesStub(channel)))
        for channel in channels
        for _ in range(8)
    ]
    async with AsyncFeatureClient(server.process.grpc_target, timeout_ms=60_000) as client:
        while goes_on():
            found = await client.get_online_features("m", {"id": [polite % 90]})
            assert found.to_dict()["a"] == [value_of(polite % 90)]
            polite += 1
    await asyncio.gather(*hammering)
    for channel in channels:
        await channel.close()
    assert set(answers) <= {"OK", "RESOURCE_EXHAUSTED"}
    assert longest_s < promised(5)
    server.answers_right()

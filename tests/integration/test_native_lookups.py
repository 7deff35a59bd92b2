"""Lookups behind `pygrpc-native`, call by call: each ends once, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from patience import until
from redis_servers import RedisServer, valkey_binary

from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.gate import Gate
from featurestore.serving.grpc_server import GrpcDoor, Metadata
from featurestore.serving.metrics import Metrics
from featurestore.serving.native_lookups import LookupCall, Lookups
from featurestore.serving.native_server import _Context
from featurestore.serving.readiness import Readiness
from featurestore.serving.reload import PlanBook
from featurestore.serving.service import Collaborators, Lookup, OnlineService
from featurestore.serving.traffic import Traffic
from featurestore.stores.online.base import KeyFields, Rows
from featurestore.stores.online.redis import RedisStore
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock
from featurestore.wire import serving_pb2 as pb

VIEW = ServedView(name="v", keys={"id": "int64"}, features={"a": "int64"})
ADMITTED_MAX = 8


class Ends:
    """How each call ended, by its id. A second end of one fails."""

    def __init__(self) -> None:
        self.of: dict[int, str] = {}

    def _end(self, call_id: int, how: str) -> None:
        assert call_id not in self.of
        self.of[call_id] = how

    def respond(self, call_id: int, data: bytes, trailers: Metadata) -> None:
        assert [key for key, _ in trailers] == ["x-request-id"]
        found = pb.GetOnlineFeaturesResponse.FromString(data)
        self._end(call_id, f"statuses {list(found.statuses)}")

    def fail(
        self, call_id: int, code: grpc.StatusCode, details: str, trailers: Metadata = ()
    ) -> None:
        assert details
        assert trailers[-1][0] == "x-request-id"
        self._end(call_id, code.name)

    def broke(self, call_id: int) -> None:
        self._end(call_id, "broke")

    async def until(self, count: int) -> None:
        await until(lambda: len(self.of) >= count)


class Served:
    """A service on a server of its own, and calls of it."""

    def __init__(self, door: GrpcDoor, ends: Ends) -> None:
        self.door = door
        self.ends = ends
        self.lookups = Lookups(door, ends, asyncio.get_running_loop())

    def call(
        self, call_id: int, *, service: str = "m", remaining_s: float = 5.0, last: bool = True
    ) -> LookupCall:
        """Begin one; the `last` of a turn sends all of it."""
        ids = pb.Int64Values(values=[call_id])
        request = pb.GetOnlineFeaturesRequest(
            feature_service=service, keys=[pb.KeyColumn(name="id", int64s=ids)]
        )
        call = LookupCall(call_id, self.lookups)
        call.begin(request.SerializeToString(), _Context(((), "peer", remaining_s)))
        if last:
            self.lookups.send()
        return call

    @property
    def is_quiet(self) -> bool:
        """Whether nothing counts as under way."""
        traffic = self.door.traffic
        return not traffic._requests.under_way and not traffic.admission._admitted


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture
async def served(valkey: RedisServer, tmp_path: Path) -> AsyncIterator[Served]:
    settings = served_settings(tmp_path, online=valkey.url)
    clock, metrics = SystemClock(), Metrics()
    with (
        open_registry(settings, clock=clock, author="test") as registry,
        open_online_store(settings.online, root=settings.root) as store,
    ):
        publish_plans(registry, serving_plan("m", [VIEW]))
        VIEW.write(store, {(key,): {"a": key} for key in range(100)}, event_us=0)
        book = PlanBook(registry, settings.project.environment, features_max=1_000)
        book.refresh()
        parts = Collaborators(
            settings=settings,
            book=book,
            gate=Gate(settings, registry, clock),
            store=store,
            clock=clock,
            metrics=metrics,
            readiness=Readiness(store, metrics),
            traffic=Traffic(concurrent_requests_max=ADMITTED_MAX),
        )
        parts.gate.refresh()
        door = GrpcDoor(
            OnlineService(parts), metrics, parts.traffic, message_bytes_max=1 << 20, tracing=None
        )
        await store.read_async([KeyFields(b"fs/x", (b"12345678",))])
        served = Served(door, Ends())
        yield served
        assert served.is_quiet


async def test_calls_are_answered(served: Served) -> None:
    calls = [served.call(i, last=i % 5 == 4) for i in range(ADMITTED_MAX)]
    served.lookups.send()
    assert not any(call.done() for call in calls)
    assert all(call._task is None for call in calls)
    await served.ends.until(ADMITTED_MAX)
    assert set(served.ends.of.values()) == {"statuses [1]"}


async def test_what_is_refused_before_the_store_is_asked(served: Served) -> None:
    served.call(1, service="nobody")
    served.call(2, remaining_s=0.0)
    assert served.ends.of == {1: "NOT_FOUND", 2: "DEADLINE_EXCEEDED"}
    for i in range(10, 10 + ADMITTED_MAX + 2):
        served.call(i)
    assert served.ends.of[10 + ADMITTED_MAX] == "RESOURCE_EXHAUSTED"
    await served.ends.until(4 + ADMITTED_MAX)
    served.door.traffic.refusing = True
    served.call(3)
    assert served.ends.of[3] == "UNAVAILABLE"


async def test_callers_who_go_away(served: Served) -> None:
    gone, _ = served.call(1, last=False), served.call(2)
    gone.cancel()
    await served.ends.until(2)
    await asyncio.sleep(0.05)
    assert served.ends.of == {1: "broke", 2: "statuses [1]"}


async def test_a_store_that_hangs_and_dies(served: Served, valkey: RedisServer) -> None:
    valkey.pause()
    served.call(1, remaining_s=0.05)
    await served.ends.until(1)
    assert served.ends.of == {1: "DEADLINE_EXCEEDED"}
    served.call(20, last=False)
    served.call(21)
    valkey.kill()
    await served.ends.until(3)
    assert served.ends.of[20] == served.ends.of[21] == "UNAVAILABLE"
    # Without a connection a call costs a task, and ends like the others.
    call = served.call(3)
    assert call._task is not None
    await served.ends.until(4)
    assert served.ends.of[3] == "UNAVAILABLE"
    gone = served.call(4)
    gone.cancel()
    await served.ends.until(5)
    assert served.ends.of[4] == "broke"


async def test_the_deadlines_of_one_turn(served: Served, valkey: RedisServer) -> None:
    valkey.pause()
    for i in range(4):
        served.call(i, remaining_s=0.05 if i % 2 else 5.0, last=i == 3)
    await served.ends.until(2)
    assert served.ends.of == dict.fromkeys((1, 3), "DEADLINE_EXCEEDED")
    valkey.resume()
    await served.ends.until(4)
    assert served.ends.of[0] == served.ends.of[2] == "statuses [1]"


async def test_what_the_store_refuses_concerns_one_call(
    served: Served, valkey: RedisServer
) -> None:
    (key,) = VIEW.store_keys([(2,)])
    with RedisStore(valkey.url) as store:
        store._each([(b"SET", key, b"text")])
    for i in range(1, 4):
        served.call(i, last=i == 3)
    await served.ends.until(3)
    assert served.ends.of == {1: "statuses [1]", 2: "INTERNAL", 3: "statuses [1]"}


async def test_a_bug_of_ours_ends_one_call(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    finish: Callable[[Lookup, Rows], bytes] = served.door.finish_lookup
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(repr(context["exception"]))
    )

    def planted(lookup: Lookup, rows: Rows) -> bytes:
        if list(lookup.request.columns["id"].values) == [2]:
            raise RuntimeError("planted")
        return finish(lookup, rows)

    monkeypatch.setattr(served.door, "finish_lookup", planted)
    for i in range(1, 6):
        served.call(i, last=i == 5)
    await served.ends.until(5)
    assert served.ends.of == {i: "broke" if i == 2 else "statuses [1]" for i in range(1, 6)}
    assert reported == ["RuntimeError('planted')"]

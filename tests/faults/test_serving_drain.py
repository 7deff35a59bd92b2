"""SIGTERM under load: nobody's request fails."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import grpc
import httpx
import pytest
from patience import promised, wait_for

from featurestore.client import FeatureClient
from featurestore.config import Settings
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import ServedView, publish_plans, served_settings, serving_plan
from featurestore.timeline import SystemClock
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.serving_pb2_grpc import OnlineFeaturesStub

VIEW = ServedView(name="v", keys={"id": "int64"}, features={f"f{i}": "float64" for i in range(30)})
KEYS = 10_000
BIG = pb.GetOnlineFeaturesRequest(
    feature_service="m",
    keys=[pb.KeyColumn(name="id", int64s=pb.Int64Values(values=range(KEYS)))],
)

pytestmark = pytest.mark.slow


@pytest.fixture(params=["grpcio", "native"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    made = served_settings(tmp_path, workers=2, grpc_door=request.param, drain_timeout_ms=60_000)
    with open_registry(made, clock=SystemClock(), author="test") as registry:
        publish_plans(registry, serving_plan("m", [VIEW]))
    with open_online_store(made.online, root=tmp_path) as store:
        VIEW.write(store, {(k,): {"f0": k} for k in range(KEYS)}, event_us=0)
    return made


def workers_of(server: ServerProcess) -> list[int]:
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def terminate_one(server: ServerProcess) -> None:
    """Terminate a worker and wait until another one is there in its place."""
    before = set(workers_of(server))
    os.kill(min(before), signal.SIGTERM)
    wait_for(lambda: len(now := set(workers_of(server))) == len(before) and now != before)


def test_clients_see_no_failure_while_workers_are_terminated(settings: Settings) -> None:
    with ServerProcess.start(settings) as server:
        stop, asked = threading.Event(), [0] * 4

        def ask(number: int) -> None:
            while not stop.is_set():
                # A client each time too, so that connections meet listeners that go away.
                with FeatureClient(server.grpc_target, timeout_ms=20_000) as client:
                    for key in range(20):
                        found = client.get_online_features("m", {"id": [key]})
                        assert found.to_dict()["f0"] == [float(key)]
                    asked[number] += 1

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, number) for number in range(len(asked))]
            try:
                for round_number in range(3):
                    wait_for(lambda least=2 * round_number: min(asked) > least)
                    terminate_one(server)
            finally:
                stop.set()
            for future in asking:
                future.result()
        assert server.stop() == 0


def test_requests_under_way_finish(settings: Settings) -> None:
    with ServerProcess.start(settings) as server, ThreadPoolExecutor(20) as pool:
        options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(server.grpc_target, options=options) as channel:
            stub = OnlineFeaturesStub(channel)
            stub.GetServingInfo(pb.GetServingInfoRequest(), timeout=60)
            calls = [pool.submit(stub.GetOnlineFeatures, BIG, timeout=120) for _ in range(16)]
            posts = [
                pool.submit(
                    httpx.post,
                    f"{server.http_url}/v1/online-features",
                    json={"feature_service": "m", "entities": {"id": list(range(2_000))}},
                    timeout=120,
                )
                for _ in range(4)
            ]
            # Once one of each is answered, the others lie in the server's queues.
            for kind in (calls, posts):
                wait(kind, return_when=FIRST_COMPLETED)
            server.process.terminate()
            assert all(len(call.result().rows) == KEYS for call in calls)
            assert [post.result().status_code for post in posts] == [200] * 4
        assert server.stop() == 0


def test_one_process_drains_and_exits_zero(settings: Settings) -> None:
    alone = dataclasses.replace(settings, serving=dataclasses.replace(settings.serving, workers=1))
    with ServerProcess.start(alone) as server, FeatureClient(server.grpc_target) as client:
        assert len(client.get_online_features("m", {"id": [1]})) == 1
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < promised(5)


def test_workers_end_with_a_supervisor_that_was_killed(settings: Settings) -> None:
    with ServerProcess.start(settings) as server:
        workers = workers_of(server)
        assert len(workers) == 2
        server.process.kill()
        wait_for(lambda: all(map(_has_ended, workers)))


def _has_ended(pid: int) -> bool:
    """Also who is dead and not yet buried."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True

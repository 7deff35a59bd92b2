"""A server that dies right after it has acknowledged a push: the next one serves the rows, and
offline has them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import push_jobs
import pytest
from push_jobs import NEW, OLD

from featurestore import FeatureClient
from featurestore.config import load_settings
from featurestore.serving.serve import ServerProcess
from featurestore.stores.offline.wal import log_files
from featurestore.timeline import SECOND_US, SystemClock
from tests.conftest import MakeRepo

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(make_repo: MakeRepo) -> Path:
    made = make_repo("", online={"url": "lmdb:.featurestore/online", "map_size_mb": 1})
    push_jobs.prepare(made)
    return made


def test_killed_after_the_answer(folder: Path) -> None:
    settings = load_settings(
        folder,
        overrides={
            "serving.grpc": "127.0.0.1:0",
            "serving.http": "",
            "push.commit_interval_ms": 600_000,
        },
    )
    at = (SystemClock().now_us() - 60 * SECOND_US) // SECOND_US * SECOND_US
    rows = push_jobs.sales(200, at, first_id=push_jobs.ITEMS)
    with ServerProcess.start(settings) as server:
        with FeatureClient(server.grpc_target, timeout_ms=60_000) as client:
            assert client.push("sales", rows).rows == push_jobs.ITEMS
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    log = folder / ".featurestore" / "push"
    assert [file.size > 0 for file in log_files(log)] == [True]
    assert push_jobs.online(folder) == {NEW} != {OLD}
    assert push_jobs.offline(folder) == {NEW}
    # The next server takes over what the first has left, and says so by removing it.
    with ServerProcess.start(settings):
        deadline = time.monotonic() + 60
        while log_files(log) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert log_files(log) == []
    assert push_jobs.online(folder) == {NEW} == push_jobs.offline(folder)

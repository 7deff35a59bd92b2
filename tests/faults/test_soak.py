"""Mixed load for a long time: lookups through both doors, callers that come and go,
materialization, changed definitions. Every answer is right, and memory and file descriptors stay
where they were.

`SOAK_MINUTES=12` (as `make faults` sets it) is about two hours of a working day's load at ten times
its speed; without it, a few seconds show that the test itself works.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import kill_jobs
import pytest
from test_serving_drain import workers_of

from featurestore import FeatureStore
from featurestore.client import FeatureClient
from featurestore.serving.serve import ServerProcess
from tests.conftest import MakeRepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7_200)]

SOAK_S = 60 * float(os.environ.get("SOAK_MINUTES", "0")) or 15.0
SAMPLE_S = SOAK_S / 60
WARM_UP = 0.4
"""The share of the time after which caches are full and everything was loaded once."""
GROWTH_MAX = 1.15
FILES_MORE_MAX = 12
PRICES = {cents * factor for cents in range(100, 110) for factor in (1, 2)}


def memory_bytes(pid: int) -> int:
    """Resident memory that is the process's own."""
    fields = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in fields if line.startswith("Private"))


def files_open(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names alone, while they change


class Soak:
    """Everything that happens at once, each in a thread of its own, until the time is over."""

    def __init__(self, folder: Path, server: ServerProcess) -> None:
        self.folder = folder
        self.server = server
        self.ends = time.monotonic() + SOAK_S
        self.counts = {"grpc": 0, "http": 0, "materialized": 0, "applied": 0}
        self.memory: list[int] = []
        self.files: list[int] = []
        self.changing = threading.Lock()

    def until_the_end(self, work: Callable[[], None], pause_s: float) -> None:
        while time.monotonic() < self.ends:
            work()
            time.sleep(pause_s)

    def check(self, cents: list[int | None], labels: list[str | None], items: range) -> None:
        assert set(cents) <= PRICES
        assert all(str(label).endswith(f" of {n}") for n, label in zip(items, labels, strict=True))

    def ask_grpc(self) -> None:
        """As a caller that stays for a while."""
        with FeatureClient(self.server.grpc_target, timeout_ms=20_000) as client:
            for number in range(50):
                items = range(number % 30, number % 30 + 10)
                found = client.get_online_features("shelf", {"item": items}).to_dict()
                self.check(found["cents"], found["label"], items)
                self.counts["grpc"] += 1

    def ask_http(self) -> None:
        items = range(10)
        request = {"feature_service": "shelf", "entities": {"item": list(items)}}
        with httpx.Client(base_url=self.server.http_url, timeout=20) as client:
            for _ in range(20):
                answer = client.post("/v1/online-features", json=request)
                assert answer.status_code == 200
                self.counts["http"] += 1
            assert client.get("/metrics").status_code == 200

    def materialize(self) -> None:
        """News, or everything anew; in a process that stays, as a scheduler's may."""
        with self.changing, FeatureStore(self.folder) as fs:
            count = self.counts["materialized"]
            kill_jobs.write_prices(self.folder, "2.parquet", 100 + count % 10, age_us=1_000_000)
            fs.materialize(replace=count % 4 == 3)
            if count % 4 == 3:
                fs.sweep()
        self.counts["materialized"] += 1

    def apply(self) -> None:
        with self.changing:
            count = self.counts["applied"]
            kill_jobs.write_definitions(self.folder, "cents * 2" if count % 2 else "cents")
            kill_jobs.roll_out(self.folder)
        self.counts["applied"] += 1

    def sample(self) -> None:
        """The workers' together, so that one's gain is not another's loss."""
        pids = workers_of(self.server)
        self.memory.append(sum(map(memory_bytes, pids)))
        self.files.append(sum(map(files_open, pids)))


def test_mixed_load_leaves_nothing_behind(make_repo: MakeRepo) -> None:
    doors = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "workers": 2}
    folder = make_repo("", serving={**doors, "reload_interval_ms": 200})
    kill_jobs.write_definitions(folder)
    kill_jobs.write_prices(folder, "1.parquet", 100)
    kill_jobs.roll_out(folder)
    with FeatureStore(folder) as fs, ServerProcess.start(fs.settings) as server:
        soak = Soak(folder, server)
        works = [
            (soak.ask_grpc, 0.01),
            (soak.ask_grpc, 0.01),
            (soak.ask_http, 0.05),
            (soak.materialize, min(1.0, SOAK_S / 30)),
            (soak.apply, min(5.0, SOAK_S / 10)),
            (soak.sample, SAMPLE_S),
        ]
        with ThreadPoolExecutor(len(works)) as pool:
            for one in [pool.submit(soak.until_the_end, *work) for work in works]:
                one.result()
        assert server.stop() == 0
    print(soak.counts, soak.memory[:: max(1, len(soak.memory) // 12)], soak.files[-1])
    assert min(soak.counts.values()) > 0
    check_flat(soak)


def check_flat(soak: Soak) -> None:
    """The last third is where the part after the warm-up began."""
    first = slice(int(len(soak.memory) * WARM_UP), int(len(soak.memory) * (WARM_UP + 0.2)))
    last = slice(-max(3, len(soak.memory) // 5), None)
    for name, values, allowed in (
        ("memory", soak.memory, statistics.median(soak.memory[first]) * GROWTH_MAX),
        ("files", soak.files, statistics.median(soak.files[first]) + FILES_MORE_MAX),
    ):
        assert statistics.median(values[last]) <= allowed, (name, values)

"""The store fails in the middle of a materialization: the run ends with a typed error and leaves
the ledger alone; run again, it completes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster_servers import RedisCluster, is_master
from patience import promised, wait_for
from redis_faults import FAULTS, Fault
from redis_servers import RedisServer, valkey_binary
from sentinel_servers import SentinelServers
from store_load import LATE

from featurestore import FeatureStore
from featurestore.errors import StoreError
from featurestore.jobs.materialize import BATCH_ROWS_MAX
from featurestore.timeline import DAY_US, SystemClock
from tests.conftest import INSTANT, MakeRepo

pytestmark = pytest.mark.slow

ROWS = 2 * BATCH_ROWS_MAX + 1
TIMEOUT_MS = 1_000
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

item = Entity("item", join_keys={"item": "int64"})
prices = FileSource("prices", path="data/*.parquet", event_time="at")
price = FeatureView("price", entities=[item], source=prices, features=[Feature("cents")])
shelf = FeatureService("shelf", features=[price])
"""


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary(), "--appendonly", "yes") as server:
        yield server


def repository(make_repo: MakeRepo, url: str) -> Path:
    """An applied repository of one view, none of whose rows are online yet."""
    folder = make_repo(DEFINITIONS, online={"url": url, "timeout_ms": TIMEOUT_MS})
    at = SystemClock().now_us() - DAY_US
    columns = {
        "item": pa.array(range(ROWS), pa.int64()),
        "at": pa.array([at] * ROWS, INSTANT),
        "cents": pa.array(range(ROWS), pa.int64()),
    }
    (folder / "data").mkdir()
    pq.write_table(pa.table(columns), folder / "data" / "1.parquet")
    with FeatureStore(folder) as fs:
        fs.apply()
    return folder


def once(fault: Callable[[], object]) -> Callable[[str, int], None]:
    """A progress callback that lets the fault happen after the first batch."""
    pending = [fault]

    def progress(_view: str, _rows: int) -> None:
        if pending:
            pending.pop()()

    return progress


def store_answers(fs: FeatureStore) -> bool:
    """Whether it does; the sentinels name a new master a moment after it is one."""
    return bool(fs.info()["state"]["online"] == "ok")


def check_whole(fs: FeatureStore) -> None:
    """All rows are online, and each is its own."""
    for first in range(0, ROWS, 10_000):
        items = range(first, min(first + 10_000, ROWS))
        assert fs.get_online_features("shelf", {"item": items}).to_dict()["cents"] == list(items)
    (table,) = fs.describe("views", "price")["online"]
    assert table["complete"]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_in_the_middle(make_repo: MakeRepo, valkey: RedisServer, fault: Fault) -> None:
    valkey.command("FLUSHALL")
    folder = repository(make_repo, valkey.url)
    with FeatureStore(folder) as fs:
        began = time.monotonic()
        with pytest.raises(StoreError) as caught:
            fs.materialize(progress=once(lambda: fault.begin(valkey)))
        assert type(caught.value) in fault.writes | LATE
        assert time.monotonic() - began < promised(20)
        assert fs.describe("views", "price")["online"] == []
        # The same object goes on where it stopped.
        fault.end(valkey)
        wait_for(lambda: store_answers(fs))
        fs.materialize()
        check_whole(fs)


@pytest.mark.parametrize("servers", [RedisCluster, SentinelServers])
def test_a_failover_in_the_middle(
    make_repo: MakeRepo, servers: type[RedisCluster] | type[SentinelServers]
) -> None:
    with servers() as running:
        victim, successor = running.first_pair
        folder = repository(make_repo, running.url)
        with FeatureStore(folder) as fs:
            with pytest.raises(StoreError) as caught:
                fs.materialize(progress=once(victim.kill))
            assert caught.value.retryable
            assert fs.describe("views", "price")["online"] == []
            wait_for(lambda: is_master(successor) and store_answers(fs))
            fs.materialize()
            check_whole(fs)


def test_a_committed_run_outlives_its_master(make_repo: MakeRepo) -> None:
    """What the ledger knows is on a replica: a master that is killed the moment the run has ended
    takes nothing with it."""
    with RedisCluster() as running:
        victim, successor = running.first_pair
        with FeatureStore(repository(make_repo, running.url)) as fs:
            fs.materialize()
            victim.kill()
            wait_for(lambda: is_master(successor) and store_answers(fs))
            check_whole(fs)


def test_a_write_that_no_replica_takes_is_not_committed(make_repo: MakeRepo) -> None:
    """A replica that hangs keeps its master from being believed; once it is known to be gone, the
    master alone is."""
    with SentinelServers() as running:
        _, replica = running.first_pair
        with FeatureStore(repository(make_repo, running.url)) as fs:
            replica.pause()
            with pytest.raises(StoreError, match="no replica"):
                fs.materialize()
            assert fs.describe("views", "price")["online"] == []
            replica.kill()
            fs.materialize()
            check_whole(fs)

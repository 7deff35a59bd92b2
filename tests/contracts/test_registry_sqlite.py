"""The registry on SQLite: the contract, and what only a file can do."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

from featurestore.errors import (
    CorruptRow,
    InvalidSettings,
    SchemaTooNew,
    StoreError,
    StoreUnavailable,
)
from featurestore.records import Record
from featurestore.stores.registry.schema import SCHEMA_REVISION, metadata
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.testing.registry import RegistryContract, RegistryOpener, fact, run

FILE = "deep/er/registry.db"


@pytest.fixture
def opener(tmp_path: Path) -> RegistryOpener:
    return RegistryOpener(SqlRegistry, f"sqlite:///{FILE}", tmp_path)


def open_at(opener: RegistryOpener, start_at_s: float) -> int:
    time.sleep(max(0.0, start_at_s - time.time()))
    with opener.open() as registry:
        return len(registry.records())


class TestSqliteRegistry(RegistryContract):
    """SQLite"""

    @pytest.fixture
    def opener(self, tmp_path: Path) -> RegistryOpener:
        return RegistryOpener(SqlRegistry, f"sqlite:///{FILE}", tmp_path)


def test_a_relative_path_is_below_the_repository(opener: RegistryOpener) -> None:
    opener.open().close()
    assert (opener.root / FILE).is_file()


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    path = tmp_path / "absolute.db"
    RegistryOpener(SqlRegistry, f"sqlite:///{path}", Path("/nowhere")).open().close()
    assert path.is_file()


def test_an_existing_file_is_opened_again(opener: RegistryOpener) -> None:
    with opener.open() as registry:
        registry.commit(records=[fact("kept")])
    with opener.open() as registry:
        assert [stored.record.name for stored in registry.records()] == ["kept"]


def test_readers_do_not_wait_for_the_writer(opener: RegistryOpener) -> None:
    with opener.open() as registry, closing(sqlite3.connect(opener.root / FILE)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        assert registry.records() == []
        other.execute("ROLLBACK")


@pytest.mark.slow
def test_many_processes_may_open_a_new_file_at_once(opener: RegistryOpener) -> None:
    start_at_s = time.time() + 1.5
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(open_at, opener, start_at_s) for _ in range(4)]
        assert [job.result() for job in jobs] == [0] * 4


def test_the_tables_are_those_that_the_migrations_make(opener: RegistryOpener) -> None:
    import sqlalchemy as sa
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    opener.open().close()
    engine = sa.create_engine(f"sqlite:///{opener.root / FILE}")
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "featurestore_version"}
        )
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == SCHEMA_REVISION
    engine.dispose()


def test_a_ledger_of_the_first_schema_is_kept(opener: RegistryOpener) -> None:
    """What a registry looked like before runs counted values without a result."""
    with opener.open() as registry:
        registry.commit(ledger=[run("r1")])
    with closing(sqlite3.connect(opener.root / FILE)) as file, file:
        for table in ("online_use", "run_writer", "metric_point", "run_metric", "run_artifact",
                      "run_note", "run_tag", "run_param", "run"):  # fmt: skip
            file.execute(f"DROP TABLE {table}")
        file.execute("ALTER TABLE materialization DROP COLUMN values_undefined")
        file.execute("UPDATE featurestore_version SET version_num = '0001'")
    with opener.open() as registry:
        assert registry.ledger() == [run("r1")]
        registry.commit(ledger=[run("r1"), run("r2", values_undefined=2)])
        assert [run.values_undefined for run in registry.ledger()] == [0, 2]


def test_a_newer_schema_is_refused(opener: RegistryOpener) -> None:
    opener.open().close()
    with closing(sqlite3.connect(opener.root / FILE)) as file, file:
        file.execute("UPDATE featurestore_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew, match=r"'9999'.*pip install --upgrade"):
        opener.open()
    with closing(sqlite3.connect(opener.root / FILE)) as file:
        assert file.execute("SELECT * FROM featurestore_version").fetchall() == [("9999",)]


def test_a_locked_file_is_unavailable_after_the_timeout(opener: RegistryOpener) -> None:
    impatient = RegistryOpener(SqlRegistry, f"{opener.url}?timeout=0.1", opener.root)
    with impatient.open() as registry, closing(sqlite3.connect(opener.root / FILE)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="is locked by another process"):
            registry.commit(records=[fact("late")])
        other.execute("ROLLBACK")
        registry.commit(records=[fact("late")])
        assert len(registry.records()) == 1


def test_a_path_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in ("file/registry.db", "folder"):
        with pytest.raises(StoreUnavailable):
            RegistryOpener(SqlRegistry, f"sqlite:///{path}", tmp_path).open()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 1000)
    with pytest.raises(StoreError, match="no SQLite database"):
        RegistryOpener(SqlRegistry, "sqlite:///text.db", tmp_path).open()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
        "mysql://ann:hunter2@host/db",
        "postgresql://ann:hunter2@host:port/db",
        "nonsense hunter2",
    ],
)
def test_a_url_that_names_no_registry_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as raised:
        RegistryOpener(SqlRegistry, url, tmp_path).open()
    assert "hunter2" not in str(raised.value)


def test_a_record_that_was_changed_in_the_file_is_noticed(opener: RegistryOpener) -> None:
    record, blob = fact("a", n=1), b"plan"
    with opener.open() as registry:
        registry.commit(records=[record], blobs=[blob])
        with closing(sqlite3.connect(opener.root / FILE)) as file, file:
            file.execute("UPDATE record SET body = '{\"n\":2}'")
            digest = file.execute("UPDATE blob SET data = x'00' RETURNING digest").fetchone()[0]
        with pytest.raises(CorruptRow, match="fact:a@"):
            registry.record(record.id)
        with pytest.raises(CorruptRow, match=digest):
            registry.blob(digest)


def test_a_walk_ends_even_in_a_circle(opener: RegistryOpener) -> None:
    a = Record(kind="fact", name="a")
    b = fact("b", a)
    with opener.open() as registry:
        registry.commit(records=[a, b])
        with closing(sqlite3.connect(opener.root / FILE)) as file, file:
            file.execute(
                "INSERT INTO edge SELECT project, parent, 0, child, role, transformation FROM edge"
            )
        for direction in ("up", "down"):
            assert len(registry.walk(a.id, direction=direction)) == 2

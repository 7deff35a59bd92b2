"""Backups as docs/guides/production.md has them, taken while others write, are whole when they are
restored. (The guide's own commands, Postgres among them, run in test_docs.py.)"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import KEYS, PLAN, VIEW, value_of
from redis_servers import RedisServer, valkey_binary

from featurestore.config import Settings
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.records import Record
from featurestore.stores.online.base import KeyFields
from featurestore.testing.served import publish_plans, served_settings
from featurestore.timeline import SystemClock

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "production.md").read_text()

pytestmark = pytest.mark.slow


@contextmanager
def again_and_again(write: Callable[[int], None]) -> Iterator[None]:
    """`write(1)`, `write(2)`, … in a thread, while the block runs and at least once before."""
    stop, began = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        number = 0
        try:
            while not stop.is_set():
                write(number := number + 1)
                began.set()
        except BaseException as error:
            failed.append(error)
            began.set()
            raise

    thread = threading.Thread(target=work)
    thread.start()
    began.wait(30)
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed


def fill(settings: Settings, event_us: int = 1) -> None:
    with open_online_store(settings.online, root=settings.root) as store:
        rows = {(key,): {"a": value_of(key), "s": f"text {key}"} for key in range(KEYS)}
        VIEW.write(store, rows, event_us=event_us)


def stored(settings: Settings) -> list[list[bytes | None]]:
    with open_online_store(settings.online, root=settings.root, read_only=True) as store:
        keys = VIEW.store_keys([(key,) for key in range(KEYS)])
        return store.read([KeyFields(key, (VIEW.field,)) for key in keys])


def commands(*wanted: str) -> list[str]:
    """The guide's lines that begin with these words."""
    found = [line for line in GUIDE.splitlines() if line.startswith(wanted)]
    assert len(found) == len(wanted)
    return found


def test_sqlite_and_lmdb(tmp_path: Path) -> None:
    origin = served_settings(tmp_path / "origin", online="lmdb:.featurestore/online")
    registry = "sqlite:///.featurestore/registry.db"
    for folder in (origin.root / ".featurestore", origin.root / "backup"):
        folder.mkdir(parents=True)
    origin = _with_registry(origin, registry)
    fill(origin)
    with (
        open_registry(origin, clock=SystemClock(), author="test") as opened,
        open_online_store(origin.online, root=origin.root) as store,
    ):
        publish_plans(opened, PLAN)

        def write(number: int) -> None:
            opened.commit(records=[Record(kind="note", name=f"n{number}", body={"n": number})])
            VIEW.write(store, {(10_000 + number,): {"a": number}}, event_us=number)

        with again_and_again(write):
            for command in commands('python -c "import sqlite3', "python -m lmdb copy"):
                subprocess.run(
                    command.replace("python", sys.executable, 1),
                    shell=True,
                    check=True,
                    cwd=origin.root,
                )
    restored = _with_registry(
        served_settings(tmp_path / "restored", online="lmdb:.featurestore/online"), registry
    )
    shutil.copytree(origin.root / "backup", restored.root / ".featurestore")
    assert stored(restored) == stored(origin)
    with open_registry(restored, clock=SystemClock(), author="test") as opened:
        assert set(opened.aliases()) == {"serving/prod/m"}
        names = [each.record.name for each in opened.records(kind="note")]
        assert sorted(names) == sorted(f"n{number}" for number in range(1, len(names) + 1))
        assert names, "the backup has what was committed before it"
        # And it goes on from there.
        opened.commit(records=[Record(kind="note", name="later", body={})])
    fill(restored, event_us=2)
    assert stored(restored) != stored(origin)


def _with_registry(settings: Settings, url: str) -> Settings:
    return replace(settings, registry=replace(settings.registry, url=url))


def test_a_snapshot_of_valkey(tmp_path: Path) -> None:
    """What `redis-cli --rdb` fetches: the server's own snapshot."""
    assert "redis-cli --rdb" in GUIDE
    with RedisServer(valkey_binary()) as server:
        origin = served_settings(tmp_path, online=server.url)
        fill(origin)
        before = stored(origin)
        assert server.command("SAVE") == b"+OK\r\n"
        folder = re.search(rb"\r\n(/.*?)\r\n", server.command("CONFIG", "GET", "dir"))
        assert folder is not None
        copy = tmp_path / "online.rdb"
        shutil.copy(Path(folder[1].decode()) / "dump.rdb", copy)
    again = RedisServer(valkey_binary())
    shutil.copy(copy, again._folder / "dump.rdb")
    with again:
        restored = served_settings(tmp_path, online=again.url)
        assert stored(restored) == before

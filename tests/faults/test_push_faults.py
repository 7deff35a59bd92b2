"""`kill -9` between any two steps of a push: logged or not, written or not, drained or not. Whoever
comes next completes it; sent again, nothing counts twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import push_jobs
import pytest
from kill_points import run_and_die, survey
from push_jobs import NEW, OLD

from featurestore import FeatureStore
from featurestore.stores.offline.wal import log_files
from tests.conftest import MakeRepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

FAULT_ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))
KILLS = 4


@pytest.fixture
def before(make_repo: MakeRepo) -> Path:
    folder = make_repo("", online={"url": "lmdb:.featurestore/online", "map_size_mb": 1})
    push_jobs.prepare(folder)
    assert push_jobs.online(folder) == {OLD} == push_jobs.offline(folder)
    return folder


def test_killed_at_any_step(before: Path, tmp_path: Path) -> None:
    found = survey(push_jobs.push, copied(before, tmp_path / "survey"), exact=FAULT_ROUNDS > 0)
    steps = found.steps(at_length=FAULT_ROUNDS > 1)
    if not FAULT_ROUNDS:
        steps = steps[1 :: -(-len(steps) // KILLS)]
    killed = 0
    for step in steps:
        folder = copied(before, tmp_path / f"{step}")
        killed += run_and_die(push_jobs.push, folder, step)
        served, logged = push_jobs.online(folder), push_jobs.offline(folder)
        assert logged in ({OLD}, {NEW}), "a push is logged whole or not at all"
        if logged == {OLD}:
            assert served == {OLD}, "nothing is served that offline does not have"
        push_jobs.recover(folder)
        assert push_jobs.online(folder) == logged == push_jobs.offline(folder)
        push_jobs.push(folder)
        assert push_jobs.online(folder) == {NEW} == push_jobs.offline(folder)
        assert log_files(folder / ".featurestore" / "push") == []
        with FeatureStore(folder) as fs:
            assert fs.verify(samples=push_jobs.ITEMS).rate == 1.0
        shutil.rmtree(folder)
    assert killed == len(steps) >= KILLS - 1


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to

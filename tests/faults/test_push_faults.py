"""`kill -9` between any two steps of a push: logged or not, written or not, drained or not. Whoever
comes next completes it; sent again, nothing counts twice."""

from __future__ import annotations

from pathlib import Path

import push_jobs
import pytest
from kill_points import deaths
from push_jobs import NEW, OLD

from featurestore import FeatureStore
from featurestore.stores.offline.wal import log_files
from tests.conftest import MakeRepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

KILLS = 4


@pytest.fixture
def before(make_repo: MakeRepo) -> Path:
    folder = make_repo("", online={"url": "lmdb:.featurestore/online", "map_size_mb": 1})
    push_jobs.prepare(folder)
    assert push_jobs.online(folder) == {OLD} == push_jobs.offline(folder)
    return folder


def test_killed_at_any_step(before: Path, tmp_path: Path) -> None:
    for folder in deaths(push_jobs.push, before, tmp_path, kills=KILLS):
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

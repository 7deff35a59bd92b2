"""`kill -9` between any two steps of `delete-entity`: what was deleted is never read again offline
once the first step is done, and running it again ends in the same state."""

from __future__ import annotations

from pathlib import Path

import kill_jobs
import pytest
from kill_points import deaths

from featurestore import FeatureStore
from tests.conftest import MakeRepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

GONE = [{"item": number} for number in range(kill_jobs.ITEMS) if number % 3]
KILLS = 3


def delete(folder: Path) -> None:
    with FeatureStore(folder) as fs:
        fs.delete_entity("item", GONE)


def statuses(folder: Path) -> dict[int, str]:
    with FeatureStore(folder) as fs:
        found = fs.get_online_features("shelf", {"item": range(kill_jobs.ITEMS)})
    return dict(enumerate(found.statuses["cents"]))


def test_killed_at_any_step_and_run_again(make_repo: MakeRepo, tmp_path: Path) -> None:
    before = make_repo("", online={"url": "lmdb:.featurestore/online", "map_size_mb": 1})
    kill_jobs.write_definitions(before)
    kill_jobs.write_prices(before, "1.parquet", 100)
    kill_jobs.roll_out(before)
    end = {n: "NOT_FOUND" if n % 3 else "PRESENT" for n in range(kill_jobs.ITEMS)}
    for folder in deaths(delete, before, tmp_path, kills=KILLS):
        served = statuses(folder)
        assert all(served[n] == "PRESENT" for n in range(0, kill_jobs.ITEMS, 3))
        begun = any((folder / ".featurestore/offline/deletions").rglob("[!.]*.parquet"))
        assert begun or set(served.values()) == {"PRESENT"}, "files first"
        if begun:
            kill_jobs.replace(folder)
            assert statuses(folder) == end, "no run that begins now reads them"
        delete(folder)
        assert statuses(folder) == end
        kill_jobs.replace(folder)
        assert statuses(folder) == end
        with FeatureStore(folder) as fs:
            assert fs.verify(samples=kill_jobs.ITEMS).rate == 1.0

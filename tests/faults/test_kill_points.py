"""`kill -9` between any two steps of apply, materialize and the sweep, and within transactions of
LMDB and the registry: readers see the old or the new, and running again ends in the same state.

`make faults` kills at every step after which the disk holds something else and at every line inside
a transaction (`FAULT_ROUNDS=2`: at every line of the rooms that write); without it, at some.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kill_jobs
import pytest
from kill_points import Job, deaths

from featurestore import FeatureStore
from featurestore.timeline import HOUR_US
from tests.conftest import MakeRepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

KILLS = 4
OLD = (100, 100, "PRESENT", "PRESENT")
NEW = (200, 200, "PRESENT", "PRESENT")
DOUBLED = (100, 200, "PRESENT", "PRESENT")


def definitions_change(folder: Path) -> None:
    kill_jobs.write_definitions(folder, "cents * 2")


def staging_changes(folder: Path) -> None:
    definitions_change(folder)
    kill_jobs.roll_out_in(folder, "staging")


def a_file_lands(folder: Path) -> None:
    kill_jobs.write_prices(folder, "2.parquet", 200, age_us=HOUR_US)


def prices_are_restated(folder: Path) -> None:
    kill_jobs.write_prices(folder, "1.parquet", 200)


def restated_and_replaced(folder: Path) -> None:
    prices_are_restated(folder)
    kill_jobs.replace(folder)


CASES: dict[str, tuple[Job, Job, Any, bool]] = {
    "apply": (definitions_change, kill_jobs.roll_out, DOUBLED, True),
    "materialize": (a_file_lands, kill_jobs.materialize, NEW, False),
    "replace": (prices_are_restated, kill_jobs.replace, NEW, True),
    "promote": (staging_changes, kill_jobs.promote, DOUBLED, True),
    "sweep": (restated_and_replaced, kill_jobs.sweep, NEW, True),
}
"""What happens, the job that follows, the answer in the end, and whether all keys change at once.
"""


@pytest.fixture
def before(make_repo: MakeRepo) -> Path:
    """A repository whose old prices are served."""
    folder = make_repo("", online={"url": "lmdb:.featurestore/online", "map_size_mb": 1})
    kill_jobs.write_definitions(folder)
    kill_jobs.write_prices(folder, "1.parquet", 100)
    kill_jobs.roll_out(folder)
    assert kill_jobs.answers(folder) == {OLD}
    return folder


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_step_and_run_again(case: str, before: Path, tmp_path: Path) -> None:
    happens, job, end, at_once = CASES[case]
    happens(before)
    for folder in deaths(job, before, tmp_path, kills=KILLS):
        served = kill_jobs.answers(folder)
        assert served <= {OLD, end}, "what is served is the old or the new"
        assert len(served) == 1 or not at_once, "a new generation is served whole or not at all"
        job(folder)
        check_end(folder, end)


def check_end(folder: Path, end: Any) -> None:
    assert kill_jobs.answers(folder) == {end}
    with FeatureStore(folder) as fs:
        assert fs.plan().is_empty
        assert fs.verify(samples=kill_jobs.ITEMS).rate == 1.0
        assert any(table["complete"] for table in fs.describe("views", "price")["online"])

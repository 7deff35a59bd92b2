"""`kill -9` between any two steps of a windowed materialization: each key answers with the old or
the new windows, and running again counts nothing twice and loses nothing.

`make faults` kills at every step after which the disk holds something else.
"""

from __future__ import annotations

from pathlib import Path

import kill_windows
import pytest
from kill_points import Job, deaths

from featurestore import FeatureStore
from tests.conftest import MakeRepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

KILLS = 4
OLD, NEW = (2, 30), (3, 37)


def a_file_lands(folder: Path) -> None:
    kill_windows.write_landings(folder, "2.parquet", [7], age_us=kill_windows.NEW_AGE_US)


CASES: dict[str, tuple[Job, bool, bool]] = {
    "materialize": (kill_windows.materialize, False, False),
    "materialize-ids": (kill_windows.materialize, True, False),
    "replace-ids": (kill_windows.replace, True, True),
}
"""The job, whether events have ids, and whether all keys change at once."""


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_step_and_run_again(case: str, make_repo: MakeRepo, tmp_path: Path) -> None:
    job, with_ids, at_once = CASES[case]
    before = make_repo("", online={"url": "lmdb:.featurestore/online", "map_size_mb": 1})
    kill_windows.write_definitions(before, with_ids=with_ids)
    kill_windows.write_landings(before, "1.parquet", [10, 20], age_us=kill_windows.OLD_AGE_US)
    kill_windows.roll_out(before)
    assert kill_windows.answers(before) == {OLD}
    a_file_lands(before)
    for folder in deaths(job, before, tmp_path, kills=KILLS):
        served = kill_windows.answers(folder)
        assert served <= {OLD, NEW}, "what is served is the old or the new"
        assert len(served) == 1 or not at_once, "a new generation is served whole or not at all"
        job(folder)
        assert kill_windows.answers(folder) == {NEW}
        with FeatureStore(folder) as fs:
            assert fs.verify(samples=kill_windows.PLANES).rate == 1.0

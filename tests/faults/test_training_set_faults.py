"""`kill -9` between any two steps of `create_training_set`: a set is on record with all of its
rows, or not at all, and what is left over is swept."""

from __future__ import annotations

from pathlib import Path

import kill_jobs
import pyarrow as pa
import pytest
from kill_points import deaths

from featurestore import FeatureStore
from featurestore.jobs import training_sets
from featurestore.lifecycle.datasets import Verdict
from featurestore.timeline import DAY_US, SystemClock
from tests.conftest import MakeRepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

KILLS = 4
ROWS = 500


def create(folder: Path) -> None:
    now_us = SystemClock().now_us()
    frame = pa.table(
        {
            "item": [number % kill_jobs.ITEMS for number in range(ROWS)],
            "event_timestamp": pa.array([now_us] * ROWS, kill_jobs.INSTANT),
        }
    )
    with FeatureStore(folder) as fs:
        fs.create_training_set("kept", frame, "shelf", splits={"train": 0.5, "test": 0.5})


def test_killed_at_any_step_and_run_again(make_repo: MakeRepo, tmp_path: Path) -> None:
    before = make_repo("", online={"url": "lmdb:.featurestore/online", "map_size_mb": 1})
    kill_jobs.write_definitions(before)
    kill_jobs.write_prices(before, "1.parquet", 100)
    with FeatureStore(before) as fs:
        fs.apply()
    for folder in deaths(create, before, tmp_path, kills=KILLS, exact=False):
        with FeatureStore(folder) as fs:
            if fs.registry.aliases("training_set/"):
                assert fs.training_set("kept").to_arrow().num_rows == ROWS
                assert fs.reproduce("kept").verdict is Verdict.EXACT
        create(folder)
        with FeatureStore(folder) as fs:
            assert fs.reproduce("kept").verdict is Verdict.EXACT
            sets = training_sets.list_sets(fs.registry)
            training_sets.sweep(fs._sets(), now_us=SystemClock().now_us() + 2 * DAY_US)
            left = fs._sets().offline.list("training_sets")
            assert len(left) == len(sets) + 1  # a file each, and what is known of contents
            assert fs.training_set("kept").to_arrow().num_rows == ROWS

"""A training set is built from the files that its pins name, or not at all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.errors import SnapshotMissing
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

DEFINITIONS = """
from featurestore import Entity, Feature, FeatureView, FileSource

user = Entity("user")
visits = FileSource("visits", path="data/*.parquet", event_time="at")
last_visit = FeatureView("last_visit", entities=[user], source=visits, features=[Feature("page")])
"""
TYPES = {"user": pa.string(), "at": INSTANT, "page": pa.string()}


@pytest.fixture
def folder(make_repo: MakeRepo) -> Path:
    made = make_repo(DEFINITIONS)
    land(made, "1", "home")
    return made


def land(folder: Path, name: str, page: str) -> None:
    rows = [{"user": "ann", "at": utc(2024, 5, 1), "page": page}]
    write_rows(folder / "data" / f"{name}.parquet", rows, TYPES)


ASKED = pa.table({"user": ["ann"], "event_timestamp": [utc(2024, 5, 2)]})


def test_files_that_were_rewritten_are_reported_and_nothing_is_written(folder: Path) -> None:
    with FeatureStore(folder) as fs:
        job = fs.get_historical_features(ASKED, ["last_visit:page"])
        assert job.to_arrow().column("page").to_pylist() == ["home"]
        land(folder, "1", "a longer page")
        with pytest.raises(SnapshotMissing, match=r"'visits'.*1\.parquet was rewritten"):
            job.to_parquet(folder / "out.parquet")
        assert not (folder / "out.parquet").exists()
        again = fs.get_historical_features(ASKED, ["last_visit:page"])
        assert again.to_arrow().column("page").to_pylist() == ["a longer page"]
        assert again.pins != job.pins


def test_files_that_land_later_are_not_of_the_job(folder: Path) -> None:
    with FeatureStore(folder) as fs:
        job = fs.get_historical_features(ASKED, ["last_visit:page"])
        land(folder, "2", "cart")
        assert job.to_arrow().column("page").to_pylist() == ["home"]

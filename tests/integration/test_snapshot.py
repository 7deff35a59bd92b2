"""A training set is built from the files that its pins name, or not at all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.errors import SnapshotMissing
from featurestore.jobs import materialize
from featurestore.timeline import SystemClock
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


def now() -> int:
    return SystemClock().now_us() - 1_000_000


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


@pytest.mark.parametrize("replace", [False, True])
def test_a_run_over_files_that_are_rewritten_does_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    monkeypatch.setattr(materialize, "BATCH_ROWS_MAX", 10)
    users, at = [f"user{number:03}" for number in range(100)], now()

    def rewrite(page: str) -> None:
        rows = [{"user": user, "at": at, "page": f"{page} of {user}"} for user in users]
        write_rows(folder / "data" / "1.parquet", rows, TYPES)

    def at_once(_view: str, _rows: int) -> None:
        rewrite("new page")

    rewrite("old page")
    with FeatureStore(folder) as fs:
        fs.apply()
        if replace:
            fs.materialize()
        before = fs.registry.ledger()
        with pytest.raises(SnapshotMissing, match=r"1\.parquet was rewritten.* Run it again"):
            fs.materialize(progress=at_once, replace=replace)
        assert fs.registry.ledger() == before
        (run,) = fs.materialize(replace=replace)
        assert run.rows_read == len(users)
        found = fs.get_online_features(["last_visit:page"], {"user": users}).to_dict()
        assert found["page"] == [f"new page of {user}" for user in users]


def test_files_that_land_during_a_run_are_for_the_next(folder: Path) -> None:
    def at_once(_view: str, _rows: int) -> None:
        rows = [{"user": "bob", "at": now(), "page": "cart"}]
        write_rows(folder / "data" / "2.parquet", rows, TYPES)

    rows = [{"user": "ann", "at": now(), "page": "home"}]
    write_rows(folder / "data" / "1.parquet", rows, TYPES)
    with FeatureStore(folder) as fs:
        fs.apply()
        (first,) = fs.materialize(progress=at_once)
        assert (first.rows_read, first.rows_written) == (1, 1)
        (second,) = fs.materialize()
        assert second.rows_written == 1
        found = fs.get_online_features(["last_visit:page"], {"user": ["ann", "bob"]}).to_dict()
        assert found["page"] == ["home", "cart"]

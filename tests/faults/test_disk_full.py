"""A disk that is full: an error that says so, what was there before stays whole, and the same job
succeeds once there is room."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import disk_jobs
import kill_jobs
import pytest
from kill_points import forks

from featurestore import FeatureStore
from featurestore.errors import FeatureStoreError
from tests.conftest import MakeRepo

pytestmark = pytest.mark.slow

Job = Callable[[Path], Any]
MB = 1024 * 1024
CASES: dict[str, tuple[Job, str, Any]] = {
    "online store": (disk_jobs.materialize, "StoreFull", [0, disk_jobs.ROWS - 1]),
    "registry": (disk_jobs.apply, "StoreFull", disk_jobs.VIEWS + 1),
    "training set": (disk_jobs.training_set, "FileNotWritten", 3 * disk_jobs.ROWS),
    "kept training set": (disk_jobs.kept_set, "FileNotWritten", 3 * disk_jobs.ROWS),
    "entity frame": (disk_jobs.spool, "FileNotWritten", 3 * disk_jobs.ROWS),
    "spilling": (disk_jobs.spill, "MemoryExceeded", 1_500_000),
}
"""The job, the error that it meets, and what it gives when there is room."""


@pytest.fixture
def folder(make_repo: MakeRepo) -> Path:
    """A repository whose old prices are served."""
    made = make_repo("", online={"url": "lmdb:.featurestore/online", "map_size_mb": 1})
    kill_jobs.write_definitions(made)
    kill_jobs.write_prices(made, "1.parquet", 100)
    kill_jobs.roll_out(made)
    disk_jobs.write_many(made)
    return made


def check_old(folder: Path) -> None:
    assert kill_jobs.answers(folder) == {(100, 100, "PRESENT", "PRESENT")}
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("case", CASES)
def test_files_that_may_not_grow(case: str, folder: Path) -> None:
    job, error, wanted = CASES[case]
    ours, theirs = forks.Pipe(duplex=False)
    process = forks.Process(target=disk_jobs.with_small_files, args=(job, folder, MB, theirs))
    process.start()
    theirs.close()
    name, text = ours.recv()
    process.join()
    assert (name, process.exitcode) == (error, 0), text
    assert "free" in text.lower()
    assert "\n" not in text
    check_old(folder)
    assert job(folder) == wanted


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of 160 MB in memory; mounting it takes root's rights."""
    folder = Path(tempfile.mkdtemp(prefix="fs_disk_"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
def test_a_full_disk(case: str, folder: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, error, wanted = CASES[case]
    moved = Path(shutil.copytree(folder, disk / "repo"))
    (disk / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
    filler = disk / "filler"
    left = shutil.disk_usage(disk).free - MB // 2
    filler.write_bytes(b"\0" * left)
    with FeatureStore(moved) as reader:
        assert reader.get_online_features("shelf", {"item": [1]}).to_dict()["cents"] == [100]
        with pytest.raises(FeatureStoreError) as caught:
            job(moved)
        assert type(caught.value).__name__ == error
        assert "free" in str(caught.value).lower()
        assert reader.get_online_features("shelf", {"item": [2]}).to_dict()["cents"] == [100]
    filler.unlink()
    check_old(moved)
    assert job(moved) == wanted

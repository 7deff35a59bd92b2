"""Windows part by part, whose answers do not depend on how many events are in memory at a time, and
what several windowed views share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from featurestore.compiler.rel import DataFiles, Derive, Project, Rel, Scan, WindowJoin
from featurestore.config import OfflineSettings
from featurestore.engines import duckdb_windows, window_buckets
from featurestore.engines.base import Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.engines.duckdb_shared import shared_sources
from featurestore.testing.data import seeded
from featurestore.testing.window_data import compare_windows, make_window_case, window_rel


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    folder = str(tmp_path / "spill")
    with DuckDBEngine.open(OfflineSettings(), temp_directory=folder) as opened:
        yield opened


@pytest.mark.parametrize("at_once", [1, 5])
def test_in_parts(
    engine: Engine, tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duckdb_windows, "EVENTS_AT_ONCE", at_once)
    monkeypatch.setattr(window_buckets, "PAIRS_AT_ONCE", at_once)
    for seed in range(12):
        folder = tmp_path / str(seed)
        folder.mkdir()
        compare_windows(engine, make_window_case(seeded(seed), rows_max=40), folder)


def joined(tmp_path: Path, *paths: str) -> Rel:
    """Two windowed views of one source, which read other columns of it."""
    case = make_window_case(seeded(1))
    rel = window_rel(case, tmp_path)
    scan = rel.right.input
    assert isinstance(scan, Scan)
    found: Rel = rel.left
    for kept in (list(scan.columns)[:-1], list(scan.columns)[1:]):
        files = DataFiles(format="parquet", paths=paths, schema=scan.files.schema)
        columns = {name: scan.columns[name] for name in kept}
        dtypes = {name: scan.dtypes[name] for name in kept}
        narrow = replace(scan, files=files, columns=columns, dtypes=dtypes)
        right = replace(rel.right, input=Derive(input=narrow, columns={}))
        found = replace(rel, left=found, right=right)
    return found


def test_files_on_s3_are_read_once(tmp_path: Path) -> None:
    rel = joined(tmp_path, "s3://bucket/rows.parquet")
    assert isinstance(rel, WindowJoin)
    (shared,) = shared_sources(Project(input=rel, columns={})).values()
    scan = rel.right.input.input if isinstance(rel.right.input, Derive) else rel.right.input
    assert isinstance(shared.rel, Scan)
    assert isinstance(scan, Scan)
    assert set(shared.rel.columns) > set(scan.columns)
    assert shared.input.dtypes == shared.rel.dtypes


def test_files_of_this_machine_are_read_by_each(tmp_path: Path) -> None:
    assert not shared_sources(joined(tmp_path, "rows.parquet"))

"""Windows part by part: the answer does not depend on how many events are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.config import OfflineSettings
from featurestore.engines import duckdb_windows
from featurestore.engines.base import Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.testing.data import seeded
from featurestore.testing.window_data import compare_windows, make_window_case


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
    for seed in range(12):
        folder = tmp_path / str(seed)
        folder.mkdir()
        compare_windows(engine, make_window_case(seeded(seed), rows_max=40), folder)

"""DuckDB keeps the engine contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.config import OfflineSettings
from featurestore.engines.base import Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.testing.engine import EngineContract


class TestDuckDBEngine(EngineContract):
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Engine]:
        folder = str(tmp_path / "spill")
        with DuckDBEngine.open(OfflineSettings(), temp_directory=folder) as engine:
            yield engine

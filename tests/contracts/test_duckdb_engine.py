"""DuckDB keeps the engine contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from featurestore.config import OfflineSettings
from featurestore.engines.base import Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.errors import InvalidValue
from featurestore.testing.engine import EngineContract


class TestDuckDBEngine(EngineContract):
    """DuckDB 2.0; DuckDB 1.5 (`make test-full`)"""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Engine]:
        folder = str(tmp_path / "spill")
        with DuckDBEngine.open(OfflineSettings(), temp_directory=folder) as engine:
            yield engine

    @pytest.mark.xfail(
        duckdb.__version__ < "2",
        reason="DuckDB 1 rounds zoned nanoseconds before 1970 up, so they are refused",
        raises=InvalidValue,
    )
    def test_zoned_nanoseconds_before_1970(self, engine: Engine, tmp_path: Path) -> None:
        super().test_zoned_nanoseconds_before_1970(engine, tmp_path)

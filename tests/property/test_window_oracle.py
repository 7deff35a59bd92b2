"""Windows of random views over random rows, on every grid, are the oracle's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.config import OfflineSettings
from featurestore.engines.base import Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.testing.data import GRIDS_US
from featurestore.testing.window_data import compare_windows, make_window_case


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("spill")
    with DuckDBEngine.open(OfflineSettings(threads=1), temp_directory=str(folder)) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("grid_us", sorted(GRIDS_US))
@settings(max_examples=examples(40))
@given(data=st.data())
def test_windows(
    engine: Engine,
    tmp_path_factory: pytest.TempPathFactory,
    grid_us: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("case")
    case = make_window_case(lambda options: data.draw(st.sampled_from(options)), grid_us=grid_us)
    compare_windows(engine, case, Path(folder))

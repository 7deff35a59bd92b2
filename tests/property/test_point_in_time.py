"""Point-in-time retrieval on random data: the engine beside the oracle, and the oracle's own laws.

The data are drawn by the generator that the engine contract uses, so that a failure found here is
shrunk to its smallest form by hypothesis.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.config import OfflineSettings
from featurestore.engines.base import Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.statuses import Status
from featurestore.testing.compare import compare_as_of, compare_latest
from featurestore.testing.data import Case, make_case
from featurestore.testing.oracle import OnlineTable, answer, latest, rank, winner

T = TypeVar("T")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small cases: what breaks an engine needs few rows."""

    def choose(options: Sequence[T], /) -> T:
        return draw(st.sampled_from(options))

    return make_case(choose, rows_max=10, requests_max=8)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("spill")
    with DuckDBEngine.open(OfflineSettings(threads=1), temp_directory=str(folder)) as opened:
        yield opened


@given(case=cases())
def test_as_of_joins_agree_with_the_oracle(engine: Engine, tmp_path: Path, case: Case) -> None:
    compare_as_of(engine, case, tmp_path)


@given(case=cases())
def test_latest_rows_agree_with_the_oracle(engine: Engine, tmp_path: Path, case: Case) -> None:
    compare_latest(engine, case, tmp_path)


@given(case=cases(), seed=st.integers(0, 99))
def test_the_order_of_rows_and_requests_changes_nothing(case: Case, seed: int) -> None:
    rows = case.settled()
    shuffled = random.Random(seed).sample(rows, len(rows))
    for request in case.requests:
        one = winner(rows, request.key, request.at_us, as_of=case.as_of)
        other = winner(shuffled, request.key, request.at_us, as_of=case.as_of)
        assert (one and rank(one)) == (other and rank(other))


@given(case=cases())
def test_known_until_the_request_time_is_as_of_known(case: Case) -> None:
    rows = case.settled()
    for key, at_us in {(request.key, request.at_us) for request in case.requests}:
        assert winner(rows, key, at_us, as_of="known") == winner(
            rows, key, at_us, as_of="event", known_until_us=at_us
        )


@given(case=cases())
def test_the_latest_row_known_now_is_the_winner_now(case: Case) -> None:
    rows = case.settled()
    for request in case.requests:
        held = latest(rows, known_until_us=request.at_us)
        assert held.get(request.key) == winner(rows, request.key, request.at_us)


@given(case=cases(), data=st.data())
def test_online_answers_are_the_historical_ones(case: Case, data: st.DataObject) -> None:
    """Whatever runs there were, once a run ends at T the store answers at T like history does."""
    rows = case.settled()
    table = OnlineTable(ttl_us=case.ttl_us, grace_us=case.grace_us)
    times = sorted({request.at_us for request in case.requests})
    for at_us in times:
        kind = data.draw(st.sampled_from(["incremental", "replace", "interval"]))
        if kind == "interval":
            start_us = data.draw(st.sampled_from(times))
            table.interval(rows, at_us, start_us=start_us, end_us=at_us)
        if kind == "replace":
            table.replace(rows, at_us)
        table.incremental(rows, at_us)
        for request in case.requests:
            best = winner(rows, request.key, at_us)
            assert table.lookup(request.key, at_us, case.features) == answer(
                best, at_us, case.features, ttl_us=case.ttl_us, grace_us=case.grace_us
            )


@given(case=cases())
def test_a_ttl_changes_what_is_said_of_a_winner_not_the_winner(case: Case) -> None:
    rows = case.settled()
    for request in case.requests:
        best = winner(rows, request.key, request.at_us, as_of=case.as_of)
        ageless = answer(best, request.at_us, case.features, ttl_us=None)
        aging = answer(best, request.at_us, case.features, ttl_us=case.ttl_us)
        strict = answer(best, request.at_us, case.features, ttl_us=case.ttl_us, grace_us=0)
        assert aging.status in (ageless.status, Status.OUTSIDE_MAX_AGE, Status.NOT_FOUND)
        assert strict.status in (ageless.status, Status.NOT_FOUND)
        assert (strict.status is Status.PRESENT) == (aging.status is Status.PRESENT)

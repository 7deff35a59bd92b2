"""Backfill and push are one truth: rows come by files or are pushed, in any order and split, while
runs go on in between; the online answer is the historical one, and both are the oracle's."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest
from case_repository import arrow_frame, frame_dtypes, land, uses_of
from effort import FUZZ, examples, seeds
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis_servers import RedisServer, valkey_binary
from test_theorem import (
    YET_TO_COME_US,
    Life,
    begin,
    offline,
    online,
    with_status_names,
    with_value_statuses,
)

from featurestore import FeatureStore
from featurestore.testing.compare import check_same_rows
from featurestore.testing.data import ORIGINS_US, Choose, seeded
from featurestore.testing.oracle import Row, settle_all, training_rows
from featurestore.timeline import ManualClock

T = TypeVar("T")
PROJECTS = itertools.count()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.jobs.source_report.NullCreatedTimeWarning"),
]


@dataclass
class PushedLife(Life):
    """A life in which some rows are pushed: `arrived_us` says when, by case and position."""

    arrived_us: dict[tuple[int, int], int] = field(default_factory=dict)

    def rows(self) -> list[list[Row]]:
        """The rows that there are, as the oracle reads them."""
        return [
            [row for position in landed for row in self.settled(number, position)]
            for number, landed in enumerate(self.landed)
        ]

    def settled(self, number: int, position: int) -> list[Row]:
        case = self.cases[number]
        raw, arrived = dict(case.rows[position]), self.arrived_us.get((number, position))
        created = case.shape.created_time
        if arrived is not None and created is not None and raw[created] is None:
            raw[created] = arrived
        rows = replace(case, rows=(raw,)).settled()
        if arrived is not None and created is None:
            rows = [replace(row, created_us=arrived) for row in rows]
        return rows

    def arrive(self, store: FeatureStore, moment: int, *, pushing: bool) -> None:
        """Some rows that are not there: pushed, if they can be, or in a file."""
        now_us = self.moments_us[moment]
        for number, case in enumerate(self.cases):
            there = set(self.landed[number])
            chosen = [n for n in range(len(case.rows)) if n not in there and self.comes(n, number)]
            pushed = [n for n in chosen if pushing and self.may_be_pushed(number, n, now_us)]
            rest = [] if pushing else chosen
            if rest:
                land(self.folder, number, case, f"at-{moment}", rest)
            for part in self.parts(pushed):
                rows = [dict(case.rows[n]) for n in part]
                assert store.push(f"s{number}", rows).dead == ()
                if self.choose((True, False)):
                    store.push(f"s{number}", rows)
            self.arrived_us |= {(number, n): now_us for n in pushed}
            self.landed[number] += [*rest, *pushed]

    def comes(self, position: int, number: int) -> bool:
        return self.choose((True, False))

    def parts(self, positions: Sequence[int]) -> Iterator[list[int]]:
        """The positions in another order, in one push or several."""
        left = list(positions)
        while left:
            count = self.choose(range(1, len(left) + 1))
            part, left = left[:count], left[count:]
            yield part[::-1]

    def may_be_pushed(self, number: int, position: int, now_us: int) -> bool:
        case = self.cases[number]
        row = case.rows[position]
        known = settle_all([row], replace(case.shape, keys=()))
        op = None if case.shape.op is None else row[case.shape.op]
        return bool(known) and known[0].known_us <= now_us and op in (None, "U", "D")


def live(life: PushedLife) -> None:
    """Files land and runs go on; rows are pushed before, between and after."""
    life.begin()
    clock = ManualClock(life.moments_us[0])
    with FeatureStore(life.folder, clock=clock, overrides={"offline.threads": 1}) as store:
        store.apply()
        store.materialize()
        for moment, now_us in enumerate(life.moments_us):
            clock.advance(now_us - clock.now_us())
            life.arrive(store, moment, pushing=True)
            life.arrive(store, moment, pushing=False)
            store.materialize(replace=life.choose((True, False)))
            life.arrive(store, moment, pushing=True)
            if life.choose((True, False)):
                store.materialize()
            compare(life, store, now_us)


def compare(life: PushedLife, store: FeatureStore, now_us: int) -> None:
    frame = life.entity_rows(now_us)
    uses = uses_of(life.cases, life.rows())
    expected = with_status_names(training_rows(frame, uses), uses)
    check_same_rows(offline(store, frame, frame_dtypes(life.cases)), expected, life)
    check_same_rows(online(store, frame), with_value_statuses(expected, life.cases), life)
    assert arrow_frame(frame, frame_dtypes(life.cases)).num_rows == len(frame)


def pushed_life(
    choose: Choose, folder: Path, *, views: int, rows_max: int, origins_us: Sequence[int]
) -> PushedLife:
    life = begin(choose, folder, views=views, rows_max=rows_max, origins_us=origins_us)
    # Files may land however late: each run reads all.
    return PushedLife(life.folder, life.cases, life.choose, life.moments_us, lateness_us=10**17)


@settings(max_examples=examples(3), phases=tuple(Phase) if FUZZ else (Phase.generate,))
@given(data=st.data())
def test_online_is_offline_is_the_oracle(data: st.DataObject) -> None:
    def choose(options: Sequence[T], /) -> T:
        return data.draw(st.sampled_from(options))

    with tempfile.TemporaryDirectory() as folder:
        live(pushed_life(choose, Path(folder), views=1, rows_max=8, origins_us=ORIGINS_US))


@pytest.mark.parametrize("seed", seeds(2))
def test_larger_repositories(tmp_path: Path, seed: int) -> None:
    live(pushed_life(seeded(seed), tmp_path, views=2, rows_max=20, origins_us=ORIGINS_US))


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.mark.parametrize("seed", seeds(1))
def test_on_a_server_as_well(valkey: RedisServer, tmp_path: Path, seed: int) -> None:
    life = pushed_life(seeded(seed), tmp_path, views=2, rows_max=15, origins_us=YET_TO_COME_US)
    life.project = f"pushed-{next(PROJECTS)}"
    life.online = f'url = "{valkey.url}"\ntimeout_ms = 30_000'
    live(life)

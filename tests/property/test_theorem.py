"""The theorem: when every row known by T has reached the store, the online answer at T is the
historical one, value for value and status for status, and both are the oracle's.

A drawn repository lives through a sequence of moments. Before each, some rows land in its files
(none later than its source's lateness allows); at each, the views are materialized in one way or
another, and all keys are asked for in both ways.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest
from case_repository import (
    LMDB,
    TIME,
    Frame,
    arrow_frame,
    as_defined,
    frame_dtypes,
    land,
    uses_of,
    write_definitions,
)
from effort import FUZZ, examples, seeds
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.statuses import Status
from featurestore.testing.compare import check_same_rows
from featurestore.testing.data import (
    GRIDS_US,
    ORIGINS_US,
    VALUES,
    Case,
    Choose,
    make_case,
    seeded,
    to_rows,
)
from featurestore.testing.oracle import (
    OnlineTable,
    Row,
    Use,
    Value,
    same,
    settle_all,
    training_rows,
)
from featurestore.timeline import ManualClock

T = TypeVar("T")
PROJECTS = itertools.count()
YET_TO_COME_US = (max(ORIGINS_US),)
"""For a server that expires rows by its own clock: to it, all of 2013 has expired."""
MODES = ("incremental", "incremental", "replace", "interval")


@dataclass
class Life:
    """A repository of some cases, and what has happened to it."""

    folder: Path
    cases: Sequence[Case]
    choose: Choose
    moments_us: Sequence[int]
    lateness_us: int
    landed: list[list[int]] = field(default_factory=list)
    tables: list[OnlineTable] = field(default_factory=list)
    known_us: list[list[int | None]] = field(default_factory=list)
    declared_lateness_us: int | None = None
    project: str = "cases"
    online: str = LMDB

    def begin(self) -> None:
        declared = self.declared_lateness_us
        lateness_us = self.lateness_us if declared is None else declared
        write_definitions(
            self.folder,
            self.cases,
            lateness_us=lateness_us,
            name=self.project,
            online=self.online,
        )
        for number, case in enumerate(self.cases):
            land(self.folder, number, case, "none", [])
            self.landed.append([])
            self.known_us.append([known_us(case, position) for position in range(len(case.rows))])
            self.tables.append(
                OnlineTable(
                    ttl_us=case.ttl_us, grace_us=case.grace_us, lateness_us=self.lateness_us
                )
            )

    def land_before(self, moment: int) -> None:
        """What must be there at this moment (or would be too late at the next), and some more."""
        following = self.moments_us[moment]
        for number, case in enumerate(self.cases):
            there = set(self.landed[number])
            fresh = []
            for position, known in enumerate(self.known_us[number]):
                must = known is not None and known <= following - self.lateness_us
                if position not in there and (must or self.choose((True, False))):
                    fresh.append(position)
            if fresh:
                land(self.folder, number, case, f"at-{moment}", fresh)
                self.landed[number] += fresh

    def rows(self) -> list[list[Row]]:
        """The rows in the files, as the oracle reads them."""
        return [
            replace(case, rows=tuple(case.rows[position] for position in landed)).settled()
            for case, landed in zip(self.cases, self.landed, strict=True)
        ]

    def materialize(self, store: FeatureStore, now_us: int) -> None:
        """One or two runs, the last of which brings the store up to now."""
        mode = self.choose(MODES)
        if mode == "replace":
            store.materialize(replace=True)
        elif mode == "interval":
            start_us = self.choose(self.moments_us)
            if start_us < now_us:
                store.materialize(start=start_us, end=now_us)
                for table, rows in zip(self.tables, self.rows(), strict=True):
                    table.interval(rows, now_us, start_us=start_us, end_us=now_us)
            store.materialize()
        else:
            store.materialize()
        for table, rows in zip(self.tables, self.rows(), strict=True):
            table.replace(rows, now_us) if mode == "replace" else table.incremental(rows, now_us)

    def quiet_until(self, moment: int) -> list[int]:
        """This moment, and later ones at which nothing more has become known of what is there:
        rows only grow older."""
        now_us = self.moments_us[moment]
        reaches = {table.reach_us or 0 for table in self.tables}
        ttls = {table.ttl_us or 0 for table in self.tables}
        later = sorted({now_us + step + span for span in {*reaches, *ttls} for step in (0, 1)})
        end_us = self.moments_us[moment + 1] if moment + 1 < len(self.moments_us) else None
        coming = [row.known_us for rows in self.rows() for row in rows if row.known_us > now_us]
        limits = [*coming, *([] if end_us is None else [end_us])]
        return [now_us, *(us for us in later if now_us < us and all(us < end for end in limits))]

    def entity_rows(self, at_us: int) -> Frame:
        """All keys there are, and others, at one time."""
        wanted: list[dict[str, Value]] = []
        dtypes = frame_dtypes(self.cases)
        for case in self.cases:
            names = case.shape.keys
            keys = {request.key for request in case.requests}
            keys |= {tuple(row[name] for name in names) for row in case.rows}
            rest = dict.fromkeys(dtypes)
            wanted += [rest | dict(zip(names, key, strict=True)) for key in sorted(keys, key=repr)]
        distinct = {tuple(row.values()): row for row in wanted}
        return [row | {TIME: at_us} for row in distinct.values()]


def known_us(case: Case, position: int) -> int | None:
    """When a row is known; None where it is skipped."""
    rows = settle_all([case.rows[position]], case.shape)
    return rows[0].known_us if rows else None


def online(store: FeatureStore, frame: Frame) -> Frame:
    """The online answers, as rows of the oracle's training set."""
    keys = [{name: value for name, value in row.items() if name != TIME} for row in frame]
    response = store.get_online_features("everything", keys, full_feature_names=True)
    assert response.request_time_us == frame[0][TIME]
    features = to_rows(response.to_arrow().select(list(response.feature_names)))
    statuses = [
        {f"{name}__value_status": status[n] for name, status in response.statuses.items()}
        for n in range(len(frame))
    ]
    return [row | f | s for row, f, s in zip(frame, features, statuses, strict=True)]


def offline(store: FeatureStore, frame: Frame, dtypes: dict[str, object]) -> Frame:
    """The historical answers."""
    job = store.get_historical_features(
        arrow_frame(frame, dtypes), "everything", full_feature_names=True, include_status=True
    )
    return to_rows(job.to_arrow())


def with_status_names(rows: Frame, uses: Sequence[Use]) -> Frame:
    """Statuses by name, as training sets have them."""
    columns = [use.status for use in uses if use.status is not None]
    return [row | {name: Status(row[name]).name for name in columns} for row in rows]


def with_value_statuses(rows: Frame, cases: Sequence[Case]) -> Frame:
    """Statuses of values instead of views, as online answers have them."""
    out = []
    for row in rows:
        changed = {name: value for name, value in row.items() if not name.endswith("__status")}
        for number, case in enumerate(cases):
            for name in (f"v{number}__{feature}" for feature in case.features):
                status = row[f"v{number}__status"]
                null = status == Status.PRESENT.name and row[name] is None
                changed[f"{name}__value_status"] = "NULL_VALUE" if null else status
        out.append(changed)
    return out


def live(life: Life) -> None:
    """Live through all moments, and compare at each."""
    life.begin()
    clock = ManualClock(life.moments_us[0])
    with FeatureStore(life.folder, clock=clock) as store:
        store.apply()
        for moment, now_us in enumerate(life.moments_us):
            life.land_before(moment)
            clock.advance(now_us - clock.now_us())
            life.materialize(store, now_us)
            compare(life, store, clock, life.quiet_until(moment))


def compare(life: Life, store: FeatureStore, clock: ManualClock, instants: Sequence[int]) -> None:
    """Ask for all keys at ascending instants: online at each, historically at once."""
    frame = [row for at_us in instants for row in life.entity_rows(at_us)]
    uses = uses_of(life.cases, life.rows())
    expected = with_status_names(training_rows(frame, uses), uses)
    check_same_rows(offline(store, frame, frame_dtypes(life.cases)), expected, life)
    for at_us in instants:
        clock.advance(at_us - clock.now_us())
        answers = [row for row in expected if row[TIME] == at_us]
        asked = [row for row in frame if row[TIME] == at_us]
        check_same_rows(online(store, asked), with_value_statuses(answers, life.cases), life)
        check_tables(life, answers)


def check_tables(life: Life, answers: Frame) -> None:
    """The oracle's own online tables say the same."""
    for number, (case, table) in enumerate(zip(life.cases, life.tables, strict=True)):
        for row in answers:
            key = tuple(row[name] for name in case.shape.keys)
            held = table.lookup(key, row[TIME], case.features)
            assert held.status.name == row[f"v{number}__status"]
            assert all(same(row[f"v{number}__{name}"], v) for name, v in held.values.items())


def begin(
    choose: Choose,
    folder: Path,
    *,
    views: int,
    rows_max: int,
    origins_us: Sequence[int] = ORIGINS_US,
) -> Life:
    """A life on one grid, with moments just when rows become known."""
    grid_us, origin_us = choose(GRIDS_US), choose(origins_us)
    cases = []
    for _ in range(views):
        case = make_case(choose, rows_max=rows_max, grid_us=grid_us, origin_us=origin_us)
        if choose((True, False)):
            case = replace(case, ttl_us=None, grace_us=None)
        cases.append(with_rivals(choose, as_defined(case)))
    known = [row.known_us for case in cases for row in case.settled()]
    asked = [request.at_us for case in cases for request in case.requests]
    moments = {choose(known or asked) + choose((0, 1, -1)) for _ in range(4)} | {choose(asked)}
    lateness_us = choose((0, 2 * grid_us, 20 * grid_us))
    return Life(folder, cases, choose, sorted(moments), lateness_us)


def with_rivals(choose: Choose, case: Case) -> Case:
    """Beside some rows another one with the same key and times, which may land at another moment:
    only the tiebreak decides between them."""
    rivals = [
        {**row, **{name: choose(VALUES[case.dtypes[name]]) for name in case.features}}
        for row in case.rows
        if choose((True, False))
    ]
    return replace(case, rows=(*case.rows, *rivals))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.jobs.source_report.NullCreatedTimeWarning"),
]


@settings(
    max_examples=examples(6),
    # A life takes a second: shrinking one takes many, which only who fuzzes waits for.
    phases=tuple(Phase) if FUZZ else (Phase.generate,),
)
@given(data=st.data())
def test_online_is_offline_is_the_oracle(data: st.DataObject) -> None:
    def choose(options: Sequence[T], /) -> T:
        return data.draw(st.sampled_from(options))

    with tempfile.TemporaryDirectory() as folder:
        live(begin(choose, Path(folder), views=2, rows_max=8))


@pytest.mark.parametrize("seed", seeds(8))
def test_larger_repositories(tmp_path: Path, seed: int) -> None:
    live(begin(seeded(seed), tmp_path, views=3, rows_max=30))


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


def begin_on(valkey: RedisServer, choose: Choose, folder: Path, *, views: int, rows: int) -> Life:
    """A life on a server: in a project of its own, so that it finds nothing of the lives before."""
    life = begin(choose, folder, views=views, rows_max=rows, origins_us=YET_TO_COME_US)
    life.project = f"cases-{next(PROJECTS)}"
    life.online = f'url = "{valkey.url}"\ntimeout_ms = 30_000'
    return life


@settings(max_examples=examples(2), phases=tuple(Phase) if FUZZ else (Phase.generate,))
@given(data=st.data())
def test_on_a_server_as_well(valkey: RedisServer, data: st.DataObject) -> None:
    def choose(options: Sequence[T], /) -> T:
        return data.draw(st.sampled_from(options))

    with tempfile.TemporaryDirectory() as folder:
        live(begin_on(valkey, choose, Path(folder), views=2, rows=8))


@pytest.mark.parametrize("seed", seeds(4))
def test_larger_repositories_on_a_server(tmp_path: Path, valkey: RedisServer, seed: int) -> None:
    live(begin_on(valkey, seeded(seed), tmp_path, views=3, rows=30))
    stored = valkey.command("DBSIZE")
    assert int(stored[1:]) > 0, "the answers came from the server"


def test_rows_that_land_too_late_are_noticed(tmp_path: Path) -> None:
    """The comparison can fail: here rows land later than their sources allow."""
    for seed in range(20):
        life = begin(seeded(seed), tmp_path / str(seed), views=3, rows_max=30)
        life.folder.mkdir()
        life.declared_lateness_us = 0
        life.lateness_us = life.moments_us[-1] - life.moments_us[0]
        try:
            live(life)
        except AssertionError:
            return
    pytest.fail("no difference was noticed")

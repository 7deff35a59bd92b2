"""The comparison of all paths must be able to fail for windows, too: each bug, planted where pushed
rows and runs become states, or where states are evaluated, is noticed by one of the lives that
`test_theorem_windows` goes through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from mutants import Change, mutant
from test_theorem_windows import SEEDS
from window_life import make_life

from featurestore.compiler import online, window_rows
from featurestore.errors import FeatureStoreError
from featurestore.jobs import push_views, window_fold, window_writer
from featurestore.serving import compiled, windows
from featurestore.testing.data import GRIDS_US, seeded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.jobs.source_report.NullCreatedTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.engines.base.SumOverflowWarning"),
]


class Bug(NamedTuple):
    """A module, what is wrong in it, who uses which name of it, and a life (grid and seed) that is
    known to notice; the others are there should that change."""

    module: ModuleType
    changes: tuple[Change, ...]
    users: tuple[ModuleType, ...]
    name: str
    known: tuple[int, int]


def served(known: tuple[int, int], *changes: Change) -> Bug:
    return Bug(windows, changes, (compiled,), "window_evaluator", known)


def folded(known: tuple[int, int], *changes: Change) -> Bug:
    return Bug(window_fold, changes, (window_writer,), "fold", known)


def planned(known: tuple[int, int], *changes: Change) -> Bug:
    return Bug(window_rows, changes, (window_writer, online), "window_layout", known)


BUGS = {
    "the right end is closed": served(
        (1, 0),
        ("event_us[place] < end_us", "event_us[place] <= end_us"),
    ),
    "the left end is open": served(
        (1, 0),
        ("event_us[place] >= start_us", "event_us[place] > start_us"),
        ("bisect_left", "bisect_right"),
    ),
    "a tile is lost": folded(
        (300_000_000, 2),
        ("merged(layout, group, [tiles[n], tiles_of(layout, group, leaving)[0]])", "tiles[n]"),
    ),
    "a retry counts twice": folded(
        (1, 1),
        ("first, is_new = ~repeated,", "first, is_new = np.ones(len(same), bool),"),
        (
            "replaced = same[1:] & ~late[1:]",
            "replaced = same[1:] & ~late[1:] & (known_us[1:] > known_us[:-1])",
        ),
    ),
    "the event id is ignored": folded(
        (1, 1),
        (
            "same[1:] = (owner[1:] == owner[:-1]) & (code[1:] == code[:-1])",
            "same[1:] = False",
        ),
    ),
    "the delay is ignored": planned((1, 0), ("delay_us=one.delay_us", "delay_us=0")),
    "the hop is not floored": planned((1_000, 0), ("hop_us=one.hop_us", "hop_us=0")),
    "late rows are dropped": Bug(
        window_writer,
        (
            (
                "rows = batch.take(pa.array(places)) if rejected else batch",
                """at = batch.column(EVENT_US).to_numpy()[places]
        places = places[at >= self._context.clock.now_us() - 1]
        rows = batch.take(pa.array(places))""",
            ),
        ),
        (push_views,),
        "WindowWriter",
        (1_000, 1),
    ),
}


def lives(known: tuple[int, int]) -> Iterator[tuple[int, int]]:
    yield known
    yield from ((grid_us, seed) for seed in SEEDS for grid_us in sorted(GRIDS_US))


def noticing(folder: Path, known: tuple[int, int]) -> tuple[int, int] | None:
    """The first life that notices."""
    for number, (grid_us, seed) in enumerate(lives(known)):
        there = folder / str(number)
        there.mkdir()
        try:
            make_life(seeded(seed), there, grid_us=grid_us).live()
        except (AssertionError, ValueError, IndexError, FeatureStoreError):
            return grid_us, seed
    return None


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    planted = BUGS[bug]
    copy: Any = mutant(planted.module, *planted.changes)
    for user in planted.users:
        monkeypatch.setattr(user, planted.name, getattr(copy, planted.name))
    assert noticing(tmp_path, planted.known) is not None

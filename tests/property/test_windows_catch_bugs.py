"""The comparison with the oracle must be able to fail: each bug, planted in a copy of the code that
folds events into states or evaluates them, is noticed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from mutants import Change, mutant
from test_window_states import Case, Code, cases, in_batches

from featurestore.jobs import window_fold, window_tiles
from featurestore.serving import windows

pytestmark = pytest.mark.slow

EXAMPLES_MAX = 500
"""Drawn until one notices; the first hundred do, mostly."""

FOLD: dict[str, tuple[Change, ...]] = {
    "a repeat after the horizon counts twice": (("not any(old.settled_ids)", "True"),),
    "a version does not end": (("until[:-1][replaced] = ", "_ = "),),
    "a correction at the horizon is too late": (("> horizon_us)", ">= horizon_us)"),),
    "what follows a late correction counts": (
        ("np.maximum.accumulate(np.where(gap, places, -1)) >= begins", "gap"),
    ),
    "tombstones count": (("~versions.deleted & (versions.until_us", "(versions.until_us"),),
    "requests are never behind": (("now_us - BEHIND_US", "now_us"),),
    "what settles is forgotten": (("merged(layout, group, [held.tiles[g], folded])", "folded"),),
    "the newest event is the last one written": (("map(max, before, latest)", "latest"),),
}
TILES: dict[str, tuple[Change, ...]] = {
    "a tile is lost": (("return tiles.take(~old)", "return tiles.take(np.flatnonzero(~old)[1:])"),),
    "tiles that are merged replace one another": (
        ("_UFUNCS[lane.op].reduceat(r, begins)", "r[begins]"),
    ),
    "a tile does not make what follows it": (("joined, where=same)", "joined, where=~same)"),),
}
SERVE: dict[str, tuple[Change, ...]] = {
    "an event at T counts": (
        ("if event_us[place] < end_us and", "if event_us[place] <= end_us and"),
    ),
    "the right end is not looked at": (
        ("newest >= now - {delay_us}", "newest > now - {delay_us}"),
    ),
    "the left end is open": (("event_us[place] >= start_us", "event_us[place] > start_us"),),
    "the first tile is left out": (("bisect_left", "bisect_right"),),
    "the hop is not floored": (
        ("// {group.hop_us} * {group.hop_us}", ""),
        ("start_us -= start_us % group.hop_us if group.hop_us else 0", "pass"),
    ),
    "known at T is known too late": (("known <= now_us < until", "known < now_us < until"),),
    "a version lives too long": (("known <= now_us < until", "known <= now_us <= until"),),
    "what is not known yet counts": (("created > now or ", ""),),
    "the open tiles are left out": (
        ('joined = f"{first} + {second}" if lane.op == "add"', "joined = first if True"),
    ),
    "the sealed tiles are left out": (("self.at < self._sealed", "False"),),
    "what became known a moment ago is left out": ((" or place in unstable)", ")"),),
    "a key is found for too long": (
        ('f"newest < now - {reach_us}"', 'f"newest < now - {reach_us + 1}"'),
    ),
    "a key is lost too early": (('f"newest < now - {reach_us}"', 'f"newest <= now - {reach_us}"'),),
}


def noticed(code: Code) -> bool:
    @settings(max_examples=EXAMPLES_MAX, phases=(Phase.generate,), deadline=None, derandomize=True)
    @given(case=cases(with_ids=True))
    def run(case: Case) -> None:
        in_batches(case, code)

    try:
        run()
    except (AssertionError, ValueError, IndexError, TypeError):
        return True
    return False


@pytest.mark.parametrize("bug", FOLD)
def test_a_wrong_fold_is_noticed(bug: str) -> None:
    copy: Any = mutant(window_fold, *FOLD[bug])
    assert noticed(Code(fold=copy.fold))


@pytest.mark.parametrize("bug", TILES)
def test_wrong_tiles_are_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy: Any = mutant(window_tiles, *TILES[bug])
    for name in ("merged", "suffixes", "tiles_of", "unexpired"):
        monkeypatch.setattr(window_fold, name, getattr(copy, name))
    assert noticed(Code())


@pytest.mark.parametrize("bug", SERVE)
def test_a_wrong_evaluation_is_noticed(bug: str) -> None:
    copy: Any = mutant(windows, *SERVE[bug])
    assert noticed(Code(evaluator=copy.window_evaluator))

"""The comparison of all paths must be able to fail: each bug, planted in a copy of the code that
judges stored rows, or on their way, is noticed by the theorem's test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mutants import Change, mutant
from test_theorem import begin, live

from featurestore.serving import assemble, compiled, judge
from featurestore.statuses import Status
from featurestore.testing.data import seeded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.jobs.source_report.NullCreatedTimeWarning"),
]

SEEDS = (9, 23, *range(40))
"""The first two are known to notice all of the bugs; the others are there should that change."""
BUGS: dict[str, tuple[Change, ...]] = {
    "the ttl is not checked": (
        ("if ttl_us is None or now_us - event_us <= ttl_us:", "if True:"),
        ("_EVER_US if ttl_us is None else now_us - ttl_us", "_EVER_US"),
    ),
    "the ttl excludes its end": (
        ("now_us - event_us <= ttl_us:", "now_us - event_us < ttl_us:"),
        ("not oldest_us <= event_us", "not oldest_us < event_us"),
    ),
    "the grace is forgotten": (("<= ttl_us + grace_us", "<= ttl_us"),),
    "tombstones are rows": (("or len(row) == TOMBSTONE_BYTES:", "or False:"),),
}


def noticed(folder: Path) -> bool:
    for number, seed in enumerate(SEEDS):
        there = folder / str(number)
        there.mkdir()
        try:
            live(begin(seeded(seed), there, views=1, rows_max=12))
        except (AssertionError, ValueError, StopIteration):
            return True
    return False


@pytest.mark.parametrize("bug", BUGS)
def test_rows_that_are_judged_wrongly_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    copy: Any = mutant(judge, *BUGS[bug])
    monkeypatch.setattr(compiled, "judge_of", copy.judge_of)
    monkeypatch.setattr(compiled, "all_present_of", copy.all_present_of)
    assert noticed(tmp_path)


def test_present_for_missing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "_NOT_FOUND", int(Status.PRESENT))
    assert noticed(tmp_path)

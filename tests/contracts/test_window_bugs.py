"""The contract of windows must be able to fail: each bug, planted in a copy of a module of the
engine, is caught by one of its cases, those written out or a few of those compared with the oracle.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mutants import Change, mutant

from featurestore.config import OfflineSettings
from featurestore.engines import (
    duckdb_window_changes,
    duckdb_window_events,
    duckdb_windows,
    window_answers,
    window_buckets,
    window_functions,
    window_rows,
)
from featurestore.engines.base import Engine
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.testing.data import GRIDS_US, seeded
from featurestore.testing.engine_windows import WindowsContract
from featurestore.testing.window_data import compare_changes, compare_windows, make_window_case

SEEDS = range(60)
ROWS, SQL, ANSWERS, FUNCTIONS = window_rows, duckdb_window_events, window_answers, window_functions
BUCKETS, CHANGES = window_buckets, duckdb_window_changes
_PATCHED: dict[ModuleType, tuple[ModuleType, tuple[str, ...]]] = {
    ROWS: (window_answers, ("Windows",)),
    SQL: (duckdb_windows, ("Happened",)),
    CHANGES: (duckdb_window_changes, ("window_changes",)),
    ANSWERS: (window_answers, ("answer",)),
    FUNCTIONS: (window_answers, ("evaluate", "Columns")),
    BUCKETS: (window_answers, ("Bucketed",)),
}

BUGS: dict[str, tuple[ModuleType, Change]] = {
    "the right end is closed": (
        ROWS,
        ("high = places.at(asked.groups, ends)", "high = places.at(asked.groups, ends + 1)"),
    ),
    "the left end is open": (
        ROWS,
        ("low = places.at(asked.groups, starts)", "low = places.at(asked.groups, starts + 1)"),
    ),
    "the delay is ignored": (
        ROWS,
        ("ends = asked.times - span.delay_us", "ends = asked.times"),
    ),
    "the left end is not on a hop": (ROWS, ("starts -= starts % span.hop_us", "pass")),
    "the known time is ignored": (
        ROWS,
        (
            "late = self._known > self.events + (delays_us[0] + 1)",
            "late = np.zeros(len(self.events), dtype=bool)",
        ),
    ),
    "late rows enter an instant late": (
        ROWS,
        ("np.maximum(self._known[index], events", "np.maximum(self._known[index] + 1, events"),
    ),
    "late rows ignore the delay": (ROWS, ("events + span.delay_us + 1)", "events + 1)")),
    "late rows leave without a hop": (ROWS, ("hop = max(span.hop_us, 1)", "hop = 1")),
    "late rows leave an instant early": (ROWS, ("leaves = events - events % hop + (hop +",
                                               "leaves = events - events % hop + (hop - 1 +")),
    "replaced rows stay": (ROWS, ("last = self._dies(index)", "last = starts_after(self, index)")),
    "event ids are ignored": (SQL, ("HAVING count(*) > 1", "HAVING count(*) > 1000")),
    "the horizon is ignored": (SQL, ("WHERE dead = 0", "WHERE dead >= 0")),
    "the horizon is an instant short": (
        SQL,
        ("> {rel.correction_horizon_us}", ">= {rel.correction_horizon_us}"),
    ),
    "tombstones count": (SQL, ("WHERE last AND NOT d", "WHERE last")),
    "a tombstone does not win a tie": (
        SQL, ("ORDER BY k, c, e, d{ties}", "ORDER BY k, c, e{ties}")
    ),
    "rows without an id count": (
        SQL, ("rel.event_id)} IS NOT NULL", "rel.event_id)} IS NOT NULL OR true")
    ),
    "known_until is ignored": (
        SQL, ("else None, rel.known_until_us]", "else None, None]")
    ),
    "old rows are cut off": (
        SQL, ("self.first_us - rel.reach_us", "self.first_us - rel.reach_us + 1")
    ),
    "NOT_FOUND comes an instant early": (ANSWERS, ("rel.reach_us + 1", "rel.reach_us")),
    "rows after T are found": (ANSWERS, ("rel.reach_us + 1, -1, 0)", "rel.reach_us + 1, -2, 0)")),
    "conditions that are NULL count": (
        FUNCTIONS, ("true &= condition.valid", "true |= ~condition.valid")
    ),
    "sums wrap around": (FUNCTIONS, ("mask=missing | misfit", "mask=missing")),
    "ties are in any order": (
        FUNCTIONS, ("if self._name is None or not same.any():", "if True:")
    ),
    "buckets without rows stay": (BUCKETS, ("count[order] > 0", "count[order] >= 0")),
    "rows without a bucket count": (BUCKETS, ("np.flatnonzero(values.valid)", "everything")),
    "a bucket too many is allowed": (
        BUCKETS, ("per_request <= BUCKETS_PER_KEY_MAX", "per_request <= BUCKETS_PER_KEY_MAX + 1")
    ),
    "replaced rows stay in their buckets": (
        BUCKETS, ("None if happened.until is None else happened.until[index]", "None")
    ),
    "an entry is no change": (CHANGES, ("unnest([a, z]) AS t", "unnest([z]) AS t")),
    "leaving is no change": (CHANGES, ("unnest([a, z]) AS t", "unnest([a]) AS t")),
    "entries ignore the delay": (CHANGES, ("e + {function.delay_us + 1}", "e + 1")),
    "entries ignore the known time": (CHANGES, ("greatest({known}, e + {f", "greatest(e, e + {f")),
    "rows leave without a hop": (CHANGES, ("hop = max(function.hop_us, 1)", "hop = 1")),
    "hops before 1970 are cut": (CHANGES, ("((e % {hop}) + {hop}) % {hop}", "(e % {hop})")),
    "what is replaced leaves late": (CHANGES, ("least(u, {leaves})", "least(NULL, {leaves})")),
    "rows that count for nothing change something": (CHANGES, ("if counts else", "if False else")),
    "what just left is not read": (CHANGES, ("rel.start_us - 1", "rel.start_us + 1")),
    "the start is left out": (CHANGES, ("t >= {rel.start_us}", "t > {rel.start_us}")),
    "the end is in": (CHANGES, ("t < {_FOREVER if", "t <= {_FOREVER if")),
    "each newest row changes the status": (CHANGES, ("before < a\"", "before <= a\"")),
    "the status ends an instant early": (CHANGES, ("rel.reach_us + 1", "rel.reach_us")),
    "a row that is never in changes something": (CHANGES, ("{stay}\\n) WHERE a < z", "{stay}\\n)")),
}  # fmt: skip
HELP = """
def starts_after(self, index):
    return self._asked.starts[self.groups[index] + 1]
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("spill")
    with DuckDBEngine.open(OfflineSettings(threads=1), temp_directory=str(folder)) as opened:
        yield opened


def plant(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *changes: Change) -> None:
    # Dataclasses look their module up while they are made.
    monkeypatch.setitem(sys.modules, f"{module.__name__}_with_a_bug", module)
    copy: Any = mutant(module, *changes)
    if module is ROWS:
        exec(HELP, copy.__dict__)
    where, names = _PATCHED[module]
    for name in names:
        monkeypatch.setattr(where, name, getattr(copy, name))


def caught(engine: Engine, folder: Path, seeds: range) -> bool:
    """Whether one of the cases fails."""
    for name, test in inspect.getmembers(WindowsContract(), inspect.ismethod):
        plain = set(inspect.signature(test).parameters) == {"engine", "tmp_path"}
        if name.startswith("test_") and plain and "oracle" not in name:
            here = folder / name
            here.mkdir()
            try:
                test(engine, here)
            except AssertionError:
                return True
    for seed in seeds:
        here = folder / str(seed)
        here.mkdir()
        choose = seeded(seed)
        case = make_window_case(choose, grid_us=GRIDS_US[seed % len(GRIDS_US)])
        try:
            compare_windows(engine, case, here)
            compare_changes(engine, case, here, choose)
        except AssertionError:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_engine_is_caught(
    engine: Engine, tmp_path: Path, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, change = BUGS[bug]
    plant(monkeypatch, module, change)
    assert caught(engine, tmp_path, SEEDS)


def test_the_right_engine_is_not_accused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in _PATCHED:
        plant(monkeypatch, module)
    assert not caught(engine, tmp_path, range(20))

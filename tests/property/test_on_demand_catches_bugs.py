"""The comparison of all paths must be able to fail for features on demand, too: each bug, planted
where they are put in order, typed, computed or sent, is noticed by one of the lives that
`test_on_demand_theorem` goes through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from mutants import Change, mutant
from test_on_demand_theorem import live
from test_theorem import begin

from featurestore.compiler import derived, online, program, pyrows, pysource, training
from featurestore.engines import sql_expressions, sql_functions, sql_texts
from featurestore.errors import FeatureStoreError
from featurestore.jobs import training as retrieval
from featurestore.serving import compiled, derive
from featurestore.testing.data import seeded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::featurestore.jobs.known_time.KnownTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.jobs.source_report.NullCreatedTimeWarning"),
    pytest.mark.filterwarnings("ignore::featurestore.jobs.later_steps.FunctionWarning"),
]

SEEDS = range(20)
SHARED: Mapping[ModuleType, tuple[str, ...]] = {
    program: ("OfView", "OfRequest", "OfStep", "Step", "RequestInput", "Program"),
}
"""Classes that a copy has in common with the original, which others match by them."""


NOTICES = (
    AssertionError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    StopIteration,
    pa.ArrowException,
    FeatureStoreError,
)
"""A comparison that fails, or something that stumbles over values that can't be."""


class Bug(NamedTuple):
    """A module, what is wrong in it, who uses which name of it, and a life (its seed) that is known
    to notice; the others are there should that change."""

    module: ModuleType
    users: tuple[ModuleType, ...]
    name: str
    known: int
    changes: tuple[Change, ...]


def served(known: int, *changes: Change) -> Bug:
    return Bug(derive, (compiled,), "derivation_of", known, changes)


def ordered(known: int, *changes: Change) -> Bug:
    return Bug(program, (online, training, retrieval), "program_of", known, changes)


def trained(known: int, *changes: Change) -> Bug:
    return Bug(derived, (training,), "derived", known, changes)


def function_of_sql(known: int, *changes: Change) -> Bug:
    return Bug(sql_functions, (sql_expressions,), "FORMS", known, changes)


BUGS = {
    "a missing key is zero": served(
        0, ("return tuple(None for _ in features)", "return tuple(0 for _ in features)")
    ),
    "request inputs are swapped": served(
        3,
        ("values += inputs", "values += inputs[::-1]"),
    ),
    "a view is computed before its input": served(
        0, ("for step in self.steps:", "for step in self.steps[::-1]:")
    ),
    "another feature of the input is read": served(
        0, ("computed[origin.index] + origin.feature", "computed[origin.index]")
    ),
    "a missing input is PRESENT": served(
        0,
        ("found.append((status, event_us, None))", "found.append((_PRESENT, event_us, row))"),
        ("(statuses, event_times, kept)", "(bytes((_PRESENT,)) * count, event_times, kept)"),
    ),
    "rows that are not PRESENT are read": served(
        5,
        ("row is not None and status == _PRESENT\n", "row is not None\n"),
        ("row is None or status != _PRESENT else pick", "row is None else pick"),
    ),
    "steps are in another order than is said": ordered(
        0, ("steps=tuple(making.steps)", "steps=tuple(making.steps[::-1])")
    ),
    "a training set swaps request inputs": trained(
        3,
        (
            "return requests[name]",
            "return list(requests.values())[list(requests)[::-1].index(name)]",
        ),
    ),
    "a training set takes another request time": trained(
        2,
        (
            "import Column, Expression, with_request_time",
            "import Column, Expression, parse_expression, with_request_time",
        ),
        ("Column(instant))", "parse_expression(\"TIMESTAMP '2001-02-03 00:00:00'\"))"),
    ),
    "int64 overflows in SQL": function_of_sql(
        12, ("TRY_CAST({template} AS BIGINT)", "CAST({template} AS BIGINT)")
    ),
    "IS NULL is never true in SQL": function_of_sql(
        0, ("({0} IS NULL)", "({0} IS NULL AND false)")
    ),
    "infinity is a value in SQL": Bug(
        sql_texts, (sql_expressions,), "settled", 5, (('"isfinite({0})"', '"true"'),)
    ),
    "NULL is zero in Python": Bug(
        pyrows,
        (pysource,),
        "RowCode",
        0,
        (('self._emit(f"{target} = None")', 'self._emit(f"{target} = 0")'),),
    ),
}


def noticing(folder: Path, seeds: Iterable[int]) -> int | None:
    """The first life that notices."""
    for number, seed in enumerate(seeds):
        there = folder / str(number)
        there.mkdir()
        try:
            live(begin(seeded(seed), there, views=2, rows_max=12))
        except NOTICES:
            return seed
    return None


def plant(monkeypatch: pytest.MonkeyPatch, bug: Bug, *changes: Change) -> None:
    copy: Any = mutant(bug.module, *changes)
    for name in SHARED.get(bug.module, ()):
        setattr(copy, name, getattr(bug.module, name))
    for user in bug.users:
        monkeypatch.setattr(user, bug.name, getattr(copy, bug.name))


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    plant(monkeypatch, BUGS[bug], *BUGS[bug].changes)
    assert noticing(tmp_path, (BUGS[bug].known, *SEEDS)) is not None


def test_copies_without_a_bug_are_not_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bug in BUGS.values():
        plant(monkeypatch, bug)
    assert noticing(tmp_path, SEEDS[:2]) is None

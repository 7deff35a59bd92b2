"""`featurestore test`: examples beside the definitions, held against both paths."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from featurestore import dtypes
from featurestore.cli.main import run
from featurestore.errors import InvalidRequest
from featurestore.jobs import literal_rows
from tests.conftest import MakeRepo, utc, write_rows

DEFINITIONS = """
from featurestore import (
    Entity, Feature, FeatureService, FeatureTest, FeatureView, FileSource, SqlSource
)

plane = Entity("plane", join_keys={"tailnum": "string"})
flights = FileSource("flights", "data/flights.parquet", "at", CREATED)
query = '''
    SELECT date_trunc('day', known) + INTERVAL 1 DAY AS day_end, count(*) AS flown
    FROM flights GROUP BY ALL
'''
days = SqlSource("days", query, event_time="day_end")
late = Feature("late", "delay > 15")
last = FeatureView("last", [plane], flights, [Feature("delay"), late], ttl="1d")
network = FeatureView("network", source=days, features=[Feature("flown")])
model = FeatureService("model", features=[last, network])

ROW = {"tailnum": "N1", "at": "2024-05-01T10:00Z", "known": "2024-05-01T12:00Z", "delay": 20}
N1, N2 = {"tailnum": "N1"}, {"tailnum": "N2"}


def at(time, **expected):
    return {"event_timestamp": time, **expected}
"""

TESTS = """
tests = [
    FeatureTest("known when it has landed", last, rows={flights: [ROW]}, expect=[
        N1 | at("2024-05-01T11:59:59Z", last__status="NOT_FOUND", delay=None),
        N1 | at("2024-05-01T12:00Z", last__status="PRESENT", delay=20, late=True),
        N1 | at("2024-05-02T10:00:00.000001Z", last__status="OUTSIDE_MAX_AGE"),
        {"tailnum": None} | at("2024-05-01T12:00Z", last__status="NOT_FOUND"),
    ]),
    FeatureTest("days count what is known", "model", rows={"flights": [ROW, ROW | N2]}, expect=[
        N2 | at("2024-05-02T00:00Z", flown=2, last__delay=20),
    ]),
]
"""


@pytest.fixture
def project(make_repo: MakeRepo) -> Callable[..., Path]:
    """A repository with `tests` behind its definitions."""

    def make(tests: str = TESTS, *, created: str = '"known"') -> Path:
        folder = make_repo(DEFINITIONS.replace("CREATED", created) + tests)
        types = {
            "tailnum": dtypes.to_arrow(dtypes.STRING),
            "at": dtypes.to_arrow(dtypes.TIMESTAMP),
            "known": dtypes.to_arrow(dtypes.TIMESTAMP),
            "delay": dtypes.to_arrow(dtypes.INT64),
        }
        row = {"tailnum": "N9", "at": utc(2024, 1, 1), "known": utc(2024, 1, 1), "delay": 1}
        write_rows(folder / "data/flights.parquet", [row], types)
        return folder

    return make


def outcomes(
    folder: Path, capsys: pytest.CaptureFixture[str], *names: str
) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    status = run(["test", *names, "--json", "--repo", str(folder)], debug=False)
    return status, json.loads(capsys.readouterr().out)


def test_passing_tests(project: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, found = outcomes(project(), capsys)
    assert status == 0
    assert [(one["name"], one["passed"], one["values"]) for one in found] == [
        ("known when it has landed", True, 14),
        ("days count what is known", True, 4),
    ]
    assert run(["test", "--repo", str(project())], debug=False) == 0
    assert capsys.readouterr().out.endswith("2 passed, 0 failed; 18 values compared\n")


def test_a_leak_fails_in_both_paths(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same examples catch a definition that forgot the created time."""
    status, found = outcomes(project(created="None"), capsys, "landed")
    assert status == 1
    wrong = {(one["path"], one["number"], one["column"]) for one in found[0]["mismatches"]}
    assert wrong == {
        (path, 0, column)
        for path in ("offline", "online")
        for column in ("last__status", "last__delay")
    }
    assert run(["test", "landed", "--repo", str(project(created="None"))], debug=False) == 1
    out = capsys.readouterr().out
    assert "FAILED  known when it has landed  definitions.py:" in out
    assert "offline, expect[0] at 2024-05-01T11:59:59Z: last__delay is 20, expected NULL" in out


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ('rows={"flight": []}, expect=[X]', "no file source 'flight'. Did you mean 'flights'?"),
        ('rows={"days": []}, expect=[X]', "no file source 'days'"),
        ('rows={flights: [ROW | {"dely": 1}]}, expect=[X]', "no column 'dely'. Did you mean"),
        ('rows={flights: [ROW, ROW | {"delay": 1.5}]}, expect=[X]', "row 1, column 'delay': 1.5"),
        ('rows={flights: [ROW | {"at": "noon"}]}, expect=[X]', "'noon' is not of type timestamp"),
        ('expect=[X | {"dealy": 1}]', "expect[0]: 'dealy' is not asked for. Did you mean 'delay'"),
        ('expect=[X | {"late": "yes"}]', "expect[0], 'late': 'yes' is not of type bool"),
        ('expect=[{"event_timestamp": 0}]', "expect[0] lacks the join keys tailnum"),
    ],
)
def test_wrong_tests_are_errors(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str], test: str, says: str
) -> None:
    x = 'X = {"tailnum": "N1", "event_timestamp": "2024-05-02T00:00Z"}\n'
    status, found = outcomes(project(f'{x}wrong = FeatureTest("wrong", last, {test})\n'), capsys)
    assert status == 1
    assert says in found[0]["error"]


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("expect=[]", "expect is empty"),
        ('expect=[{"tailnum": "N1"}]', "expect[0] has no 'event_timestamp'"),
        ("rows=[ROW], expect=[{'event_timestamp': 0}]", "rows must map sources to their rows"),
        ("rows={days: []}, expect=[{'event_timestamp': 0}]", "rows are given for file sources"),
        (
            "rows={flights: [], 'flights': []}, expect=[{'event_timestamp': 0}]",
            "rows of 'flights' are given twice",
        ),
        ("rows={flights: 3}, expect=[{'event_timestamp': 0}]", "must be a list of dicts"),
        (
            "rows={flights: [{}] * 10_001}, expect=[{'event_timestamp': 0}]",
            "more than ROWS_PER_TEST_MAX = 10,000",
        ),
    ],
)
def test_malformed_tests_are_definition_errors(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str], test: str, says: str
) -> None:
    folder = project(f'wrong = FeatureTest("wrong", last, {test})\n')
    assert run(["test", "--repo", str(folder)], debug=False) == 1
    err = capsys.readouterr().err
    assert says in err
    assert "definitions.py:" in err


def test_which_tests_run(project: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = project()
    assert [one["name"] for one in outcomes(folder, capsys, "days")[1]] == [
        "days count what is known"
    ]
    assert run(["test", "dayz", "--repo", str(folder)], debug=False) == 1
    assert "no test has 'dayz' in its name" in capsys.readouterr().err
    assert run(["test", "--repo", str(project(""))], debug=False) == 0
    assert "there are no tests" in capsys.readouterr().err


def test_a_name_that_two_views_have_is_written_in_full(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tests = """
    two = [last, last.with_name("again")]
    asked = {"tailnum": "N1", "event_timestamp": "2024-05-01T12:00Z"}
    tests = [
        FeatureTest("short", two, rows={flights: [ROW]}, expect=[asked | {"delay": 20}]),
        FeatureTest("full", two, rows={flights: [ROW]}, expect=[asked | {"again__delay": 20}]),
    ]
    """
    _, found = outcomes(project(textwrap.dedent(tests)), capsys)
    assert "'delay' may be last__delay or again__delay" in found[0]["error"]
    assert found[1]["passed"]


def test_literals_of_every_type() -> None:
    rows = [
        {
            "decimal(9,2)": "1.50",
            "date": "2024-02-29",
            "bytes": b"\x00",
            "list<float64>": [1, None],
            "int32": 7,
            "float32": 0.5,
            "bool": True,
            "string": "é",
            "timestamp": utc(2024, 5, 1),
        },
        {},
    ]
    types = {name: dtypes.parse(name) for name in rows[0]}
    first, second = literal_rows.table(rows, types, what="rows").to_pylist()
    assert first["decimal(9,2)"] == Decimal("1.50")
    assert first["date"].isoformat() == "2024-02-29"
    assert first["list<float64>"] == [1.0, None]
    assert first["timestamp"] == utc(2024, 5, 1)
    assert set(second.values()) == {None}


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", 2**31),
        ("int64", True),
        ("float64", True),
        ("float64", "x"),
        ("decimal(4,1)", "one"),
        ("date", "yesterday"),
        ("date", utc(2024, 1, 1)),
        ("list<int64>", 3),
        ("bytes", "text"),
    ],
)
def test_literals_of_another_type(dtype: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match="row 0, column 'x'"):
        literal_rows.table([{"x": value}], {"x": dtypes.parse(dtype)}, what="rows")

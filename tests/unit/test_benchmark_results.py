"""The frame of the benchmarks: their common form, and what counts as fallen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import Result, machine, read, table, write

COMPARE = Path(__file__).parents[2] / "benchmarks" / "compare.py"


def rate(ours: float, *, floor: float | None = 100.0, gates: bool = True) -> Result:
    return Result(
        job="materialize",
        setting="LMDB",
        ours=ours,
        floor=floor,
        unit="rows/s",
        higher_is_better=True,
        target=0.5,
        gates=gates,
    )


def seconds(ours: float) -> Result:
    return Result(
        job="history",
        setting="uniform",
        ours=ours,
        floor=1.0,
        unit="s",
        higher_is_better=False,
        target=1.2,
    )


def compared(folder: Path, before: list[Result], after: list[Result]) -> tuple[int, str]:
    """The exit status and output of compare.py."""
    write(before, folder / "before.json")
    write(after, folder / "after.json")
    command = [sys.executable, COMPARE, folder / "before.json", folder / "after.json", "--fail"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def test_a_line_says_whether_its_target_is_met() -> None:
    assert rate(60).is_met is True
    assert rate(40).is_met is False
    assert seconds(1.1).is_met is True
    assert seconds(1.3).is_met is False
    assert rate(60, floor=None).is_met is None


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (rate(60), rate(41), 0),
        (rate(60), rate(39), 1),
        (seconds(1.0), seconds(1.45), 0),
        (seconds(1.0), seconds(1.55), 1),
        (seconds(1.0), seconds(0.2), 0),
        (rate(60, gates=False), rate(20, gates=False), 0),
        (rate(60), rate(20, floor=None), 0),
    ],
)
def test_compare_fails_where_a_ratio_lost_a_third(
    tmp_path: Path, before: Result, after: Result, status: int
) -> None:
    found, output = compared(tmp_path, [before], [after])
    assert found == status
    assert ("FALLEN" in output) is bool(status)


def test_compare_shows_lines_of_one_run_only(tmp_path: Path) -> None:
    status, output = compared(tmp_path, [rate(60)], [seconds(1.0)])
    assert status == 0
    assert output.splitlines()[2].endswith("new")
    assert output.splitlines()[3].endswith("gone")


def test_results_survive_their_file(tmp_path: Path) -> None:
    lines = [rate(60), seconds(1.1)]
    write(lines, tmp_path / "run.json")
    assert read(tmp_path / "run.json") == lines
    facts = json.loads((tmp_path / "run.json").read_text())["machine"]
    assert facts == machine()
    assert {"cpu", "cores", "memory_gb", "os", "python", "libraries"} <= facts.keys()
    assert facts["libraries"]["duckdb"]


def test_two_lines_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="materialize: LMDB"):
        write([rate(60), rate(61)], tmp_path / "run.json")


def test_the_table_shows_ratio_and_verdict() -> None:
    _, _, first, second = table([rate(1234567), seconds(1.234)]).splitlines()
    assert first.split()[:3] == ["materialize", "LMDB", "1,234,567"]
    assert "≥ 0.5 ×" in first
    assert " yes" in first
    assert "1.23" in second
    assert " NO" in second

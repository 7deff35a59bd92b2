"""What `featurestore ci` prints and writes for people, word for word (`--update-golden`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from model_repository import logistic, template, write_repository

from featurestore import FeatureStore
from featurestore.cli.main import run

GOLDEN = Path(__file__).parent / "cli"
DECLARED = """
from featurestore import FeatureTest, Gates

late_gates = Gates("late", size_bytes_max=10)
row = {"depot": 1, "at": "2026-05-01T00:00:00Z", "weight": 2.0, "count": 3, "far": True,
       "late": False}
example = FeatureTest("weight of the day before", load, rows={parcels: [row]},
    expect=[{"depot": 1, "event_timestamp": "2026-05-02T00:00:00Z", "weight": 2.5}])
"""


def check(name: str, text: str, request: pytest.FixtureRequest) -> None:
    text = re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{8})\b", "########", text)
    text = re.sub(r"\b\d[\d,.]* (k|M)?B\b", "<n> B", text)
    text = re.sub(r"\b[\d,]+ bytes", "<n> bytes", text)
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden", default=False):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_run_with_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    folder, pinned = template(tmp_path / "parcels", gates=DECLARED)
    with FeatureStore(folder) as store:
        store.models.register("late", logistic(), run=pinned.run)
    file = folder / "definitions.py"
    file.write_text(
        file.read_text().replace('Feature("weight")', 'Feature("weight", "weight * 1")')
    )
    arguments = ["ci", "late", "-o", str(tmp_path / "out"), "-r", str(folder)]
    assert run(arguments, debug=False) == 1
    check("ci", capsys.readouterr().out, request)
    check("ci_markdown", (tmp_path / "out" / "report.md").read_text(), request)


def test_definitions_that_are_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    folder = write_repository(tmp_path / "parcels")
    file = folder / "definitions.py"
    file.write_text(file.read_text().replace('Feature("weight")', 'Feature("wieght")'))
    assert run(["ci", "-r", str(folder)], debug=False) == 1
    check("ci_definitions", capsys.readouterr().out, request)

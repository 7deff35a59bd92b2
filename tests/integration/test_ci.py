"""`featurestore ci` and the pipelines that `init --ci` writes: their commands are run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from junitparser import Failure, JUnitXml, TestCase, TestSuite
from model_repository import logistic, open_store, pin, write_repository
from packaging.requirements import Requirement

from featurestore.cli import ci_report
from featurestore.cli.ci_report import Check, Report
from featurestore.cli.init import write_repository as write_shop
from featurestore.cli.main import run
from featurestore.timeline import SystemClock

GATES = """
from featurestore import FeatureTest, Gates

late_gates = Gates("late", size_bytes_max={limit})
example = FeatureTest("weight", load, rows={{parcels: [
    {{"depot": 1, "at": "2026-05-01T00:00:00Z", "weight": 2.0, "count": 3, "far": True,
      "late": False}}]}},
    expect=[{{"depot": 1, "event_timestamp": "2026-05-02T00:00:00Z", "weight": {weight}}}])
"""


def parcels(folder: Path, *, limit: int = 100_000, weight: float = 2.0) -> Path:
    write_repository(folder, gates=GATES.format(limit=limit, weight=weight))
    with open_store(folder) as store:
        store.apply()
        store.models.register("late", logistic(), run=pin(store).run)
    return folder


def check_junit(text: str) -> dict[str, list[TestCase]]:
    """What a reader of JUnit reports makes of one, whose counts must be those that the report
    gives; the cases by suite."""
    report = JUnitXml.fromstring(text.encode())
    declared = [_counts(report), *map(_counts, report)]
    report.update_statistics()
    assert declared == [_counts(report), *map(_counts, report)]
    for suite in report:
        assert datetime.fromisoformat(suite.timestamp).tzinfo is not None
        for case in suite:
            assert case.name
            assert case.classname
            assert all(isinstance(one, Failure) for one in case.result)
    return {suite.name: list(suite) for suite in report}


def _counts(suite: JUnitXml | TestSuite) -> tuple[int | float | None, ...]:
    return suite.tests, suite.failures, suite.errors, suite.skipped, round(suite.time, 3)


def run_ci(
    capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str, status: int
) -> dict[str, Any]:
    assert run(["ci", *arguments, "--repo", str(folder), "--json"], debug=False) == status
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    written = folder / ".featurestore" / "ci"
    assert json.loads((written / "report.json").read_text()) == printed
    suites = check_junit((written / "junit.xml").read_text())
    assert sum(map(len, suites.values())) == len(printed["checks"])
    assert printed["passed"] is (status == 0)
    return printed


def test_what_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = parcels(tmp_path / "repo")
    found = run_ci(capsys, folder, "late", status=0)
    assert {check["suite"] for check in found["checks"]} == {
        "definitions",
        "tests",
        "plan",
        "gates",
    }
    assert found["plan"]["environment"] == "prod"
    markdown = (folder / ".featurestore/ci/report.md").read_text()
    assert "✅ passed" in markdown
    assert "| gates | 2 | 0 |" in markdown
    assert run(["ci", "late/1", "-o", str(tmp_path / "out"), "-r", str(folder)], debug=False) == 0
    assert "5 passed, 0 failed" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "report.md", "junit.xml", "report.json",
    }  # fmt: skip
    dev = run_ci(capsys, folder, "--environment", "dev", status=0)
    assert dev["environment"] == "dev"


def test_what_fails_is_in_all_three_forms(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = parcels(tmp_path / "repo", limit=10, weight=3.0)
    found = run_ci(capsys, folder, "late", "nope", status=1)
    failed = [c for c in found["checks"] if not c["passed"]]
    assert [(c["suite"], c["group"]) for c in failed] == [
        ("tests", "definitions.py"), ("gates", "late/1"), ("gates", "nope"),
    ]  # fmt: skip
    assert "weight is 2, expected 3" in failed[0]["message"]
    assert "There is: late" in failed[2]["message"]
    markdown = (folder / ".featurestore/ci/report.md").read_text()
    assert "❌ failed" in markdown
    assert "weight is 2, expected 3" in markdown
    cases = check_junit((folder / ".featurestore/ci/junit.xml").read_text())
    (failure,) = cases["tests"][0].result
    assert (failure.type, failure.message) == ("tests", failed[0]["message"].splitlines()[0])
    assert "expected 3" in failure.text


def test_definitions_that_are_wrong_end_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = write_repository(tmp_path / "repo")
    file = folder / "definitions.py"
    file.write_text(file.read_text().replace('Feature("weight")', 'Feature("wieght")'))
    found = run_ci(capsys, folder, status=1)
    (check,) = found["checks"]
    assert (check["suite"], check["group"]) == ("definitions", "definitions.py")
    assert check["line"] > 1
    assert "weight" in check["message"]


HOSTILE = (
    'a|b <script>alert(1)</script> `x` \x1b[31m \x00 "]]>" & postgresql://u:hunter2@h/db \ud800'
)


def test_hostile_texts() -> None:
    check = Check(suite="gates", group=HOSTILE, name=HOSTILE, passed=False, message=HOSTILE * 3)
    report = Report(project="p", environment="prod", at_us=0, checks=(check,), plan="")
    junit = ci_report.to_junit(report)
    (case,) = check_junit(junit)["gates"]
    assert "<script>" in case.name
    markdown = ci_report.to_markdown(report)
    assert "<script>" not in markdown
    assert "\x1b" not in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| a"))
    assert row.replace("\\|", "").count("|") == 5
    for text in (junit, markdown, json.dumps(ci_report.to_json(report))):
        assert "hunter2" not in text
    many = [check] * 2_000
    long = Report(project="p", environment="prod", at_us=0, checks=tuple(many))
    assert len(ci_report.to_markdown(long)) < 61_000


# --- pipelines ------------------------------------------------------------------------------------


def steps_of(kind: str, text: str) -> dict[str, list[str]]:
    """The commands of each job of a pipeline, checked for what its service asks of the file."""
    found = yaml.safe_load(text)
    if kind == "github":
        # YAML 1.1 reads the key `on` as true, and so does every parser but GitHub's.
        assert set(found) == {"name", True, "permissions", "concurrency", "env", "jobs"}
        assert found[True]["push"] == {"branches": ["main"]}
        jobs = found["jobs"]
        for job in jobs.values():
            assert job["runs-on"]
            assert all(("run" in step) != ("uses" in step) for step in job["steps"])
        assert jobs["apply"]["needs"] == "check"
        return {
            name: [step["run"] for step in job["steps"] if "run" in step]
            for name, job in jobs.items()
        }
    stages = found.pop("stages")
    default = found.pop("default")
    assert set(found.pop("variables")) == {"FEATURESTORE_REPO", "PIP_CACHE_DIR"}
    assert [job["stage"] for job in found.values()] == stages == ["check", "apply"]
    (check, _) = found.values()
    assert check["artifacts"]["reports"]["junit"] == "ci-report/junit.xml"
    return {job["stage"]: [*default["before_script"], *job["script"]] for job in found.values()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "file"),
    [("github", ".github/workflows/featurestore.yml"), ("gitlab", ".gitlab-ci.yml")],
)
def test_a_pipeline_and_its_commands(
    kind: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top = tmp_path / "code"
    (top / ".git").mkdir(parents=True)
    assert run(["init", str(top / "shop"), "--ci", kind], debug=False) == 0
    assert f"Wrote {top / file}" in capsys.readouterr().out
    text = (top / file).read_text()
    jobs = steps_of(kind, text)
    assert '"shop"' in text
    copy = tmp_path / "checkout"
    shutil.copytree(top, copy)
    summary = tmp_path / "summary.md"
    requirements = (copy / "shop" / "requirements.txt").read_text().splitlines()
    assert requirements[-1] == f"featurestore[postgres]=={metadata.version('featurestore')}"
    machine = machine_with(requirements[-1], tmp_path / "machine")
    environment = {
        "PATH": f"{machine / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "FEATURESTORE_REPO": "shop",
        "GITHUB_STEP_SUMMARY": str(summary),
        # All that is asked for is there already; pip looks whether it is, and at no index.
        "PIP_NO_INDEX": "1",
    }
    ran = []
    for command in (*jobs["check"], *jobs["apply"]):
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            check=False, cwd=copy, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        if "pip install" in command:
            assert "does not provide the extra" not in done.stderr
            assert "Requirement already satisfied: psycopg" in done.stdout
        else:
            ran.append(command)
    assert ran[0] == "featurestore ci --output ci-report"
    assert ran[-2:] == ["featurestore apply", "featurestore materialize"]
    check_junit((copy / "ci-report" / "junit.xml").read_text())
    if kind == "github":
        assert "featurestore" in summary.read_text()


def machine_with(requirement: str, folder: Path) -> Path:
    """An environment that has what a requirement asks for and nothing else, as a fresh machine has
    after the installation: the distributions are those of this environment."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in {"pip", *needed_by(requirement)}:
        found = metadata.distribution(name)
        tops = {Path(file).parts[0] for file in found.files or () if ".." not in Path(file).parts}
        for top in tops - {"__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    script = folder / "bin" / "featurestore"
    script.write_text(f"#!{folder}/bin/python\nfrom featurestore.cli.main import main\nmain()\n")
    script.chmod(0o755)
    return folder


def needed_by(requirement: str) -> set[str]:
    """The distributions that a requirement comes to, with those that they need."""
    found, waiting = dict[tuple[str, str], None](), [Requirement(requirement)]
    while waiting:
        asked = waiting.pop()
        for extra in ("", *asked.extras):
            if (asked.name, extra) in found:
                continue
            found[asked.name, extra] = None
            needs = map(Requirement, metadata.requires(asked.name) or ())
            waiting += [
                one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in found}


@pytest.mark.parametrize(
    ("settings", "extras"),
    [
        ("", "postgres"),
        ('[online]\nurl = "rediss+cluster://redis:6379"\n', "postgres,redis"),
        ('[offline]\npath = "s3://bucket/x"\n[online]\nurl = "redis://r"\n', "postgres,redis,s3"),
    ],
)
def test_what_a_pipeline_installs_follows_from_the_settings(
    settings: str, extras: str, tmp_path: Path
) -> None:
    folder = write_repository(tmp_path / "repo", settings=settings)
    assert run(["init", str(folder), "--ci", "gitlab"], debug=False) == 0
    line = (folder / "requirements.txt").read_text().splitlines()[-1]
    assert Requirement(line).extras == set(extras.split(","))
    assert Requirement(line).extras <= set(
        metadata.metadata("featurestore").get_all("Provides-Extra", [])
    )


def test_a_pipeline_for_what_is_there_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shop(tmp_path / "shop", now_us=SystemClock().now_us())
    (tmp_path / "shop" / "requirements.txt").write_text("our-own\n")
    before = (tmp_path / "shop" / "features.py").read_text()
    assert run(["init", str(tmp_path / "shop"), "--ci", "gitlab", "--json"], debug=False) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == [str(tmp_path / "shop" / ".gitlab-ci.yml")]
    assert (tmp_path / "shop" / "features.py").read_text() == before
    assert (tmp_path / "shop" / "requirements.txt").read_text() == "our-own\n"
    assert run(["init", str(tmp_path / "shop"), "--ci", "gitlab"], debug=False) == 1
    assert "exists already; nothing was written" in capsys.readouterr().err

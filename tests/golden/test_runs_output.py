"""What `featurestore runs` prints of runs that were told by hand, word for word."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from test_cli_output import NOW_US, check

from featurestore import FeatureStore
from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from featurestore.records import Edge, Record
from featurestore.stores.registry.run_words import Point, RunArtifact, RunStart
from featurestore.timeline import SECOND_US

IDS = ("a1" * 16, "b2" * 16, "c3" * 16)
CODE = {"program": "train.py", "commit": "0123456789ab" * 3, "dirty": True}
ENVIRONMENT = {
    "python": "3.12.1", "packages": {"duckdb": "1.5.0", "numpy": "2.1.0"}, "host": "box",
    "lock": {"file": "uv.lock", "digest": "0" * 64}, "processors": 8,
    "memory_bytes": 16 * 2**30, "gpus": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked") / "my_shop"
    write_repository(folder, now_us=NOW_US)
    with FeatureStore(folder) as fs:
        sets = [
            Record(kind="training_set", name="trips", body={"rows": rows, "as_of": "known"})
            for rows in (1_000, 1_200)
        ]
        fs.registry.commit(records=sets)
        for number, run_id in enumerate(IDS):
            _run(fs, number, run_id, sets[number % 2])
    return folder


def _run(fs: FeatureStore, number: int, run_id: str, training_set: Record) -> None:
    packages = ENVIRONMENT["packages"] | ({"numpy": "2.2.0"} if number else {})  # type: ignore[operator]
    record = Record(
        kind="run",
        name=f"delay/{run_id}",
        body={
            "version": run_id,
            "code": CODE,
            "environment": {**ENVIRONMENT, "packages": packages},
        },
        parents=(Edge(parent=training_set.id, role="training_set"),),
    )
    start = RunStart(
        run_id=run_id, experiment="delay", name=("trees", "forest", run_id[:8])[number], user="ann",
        started_at_us=NOW_US + number * 3600 * SECOND_US, beats=False,
        params={"depth": 4 + 2 * number, "kind": "tree"}, tags={"team": "ops"},
        parent=IDS[0] if number == 2 else None,
    )  # fmt: skip
    runs = fs.registry.runs
    key = runs.start(start, records=[record])
    points = [
        Point(name, step, start.started_at_us + step, value)
        for step in range(3)
        for name, value in (("auc", 0.7 + number / 20 + step / 100), ("loss", math.nan))
    ]
    runs.log_points(key, "w", 1, points, now_us=NOW_US)
    if number == 0:
        kept = RunArtifact("model/weights.bin", "ab" * 32, "file", 12_345, start.started_at_us)
        runs.add_artifacts(key, [kept])
    if number < 2:
        ended_us = start.started_at_us + 95 * SECOND_US
        status, error = (("FINISHED", ""), ("FAILED", "ValueError: no luck"))[number]
        runs.set_status(key, status, ended_at_us=ended_us, error=error)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("runs_list", ["list"]),
        ("runs_search_json", ["list", "metrics.auc > 0.75 and depth = 6", "--json"]),
        ("runs_found", ["list", "metrics.auc > 0.75", "--order-by", "metrics.auc desc"]),
        ("runs_found_json", ["list", "params.depth = 6", "--json"]),
        ("runs_show", ["show", "a1a1"]),
        ("runs_show_json", ["show", "a1a1", "--json"]),
        ("runs_compare", ["compare", "a1a1", "b2b2"]),
        ("runs_compare_json", ["compare", "a1a1", "b2b2", "--json"]),
    ],
)
def test_printed(
    name: str,
    arguments: list[str],
    *,
    tracked: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    status = run(["runs", *arguments, "--repo", str(tracked)], debug=False)
    printed = capsys.readouterr()
    assert status == (1 if printed.err else 0)
    check(name, printed.out + printed.err, request)


def test_fetching_an_artifact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    folder, source = tmp_path / "shop", tmp_path / "weights.bin"
    write_repository(folder, now_us=NOW_US)
    source.write_bytes(b"w" * 1_000)
    with FeatureStore(folder) as fs, fs.start_run("delay") as started:
        started.log_artifact(source, "model/weights.bin")

    def fetch(path: str, to: str, *more: str) -> tuple[int, str]:
        asked = ["runs", "fetch", started.id, path, "--to", to, *more, "--repo", str(folder)]
        status = run(asked, debug=False)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    to = tmp_path / "copy.bin"
    status, said = fetch("model/weights.bin", str(to))
    assert (status, to.read_bytes()) == (0, source.read_bytes())
    assert said == f"model/weights.bin of run {started.id} is at {to}.\n"
    again = tmp_path / "again.bin"
    status, said = fetch("model/weights.bin", str(again), "--json")
    assert json.loads(said) == {"run": started.id, "path": "model/weights.bin", "to": str(again)}
    assert (status, again.read_bytes()) == (0, source.read_bytes())
    for path in ("model/weight.bin", "../../../etc/passwd", "/etc/passwd"):
        status, said = fetch(path, str(tmp_path / "none"))
        assert status == 1
        assert "model/weights.bin" in said or "path" in said
        assert not (tmp_path / "none").exists()

"""What the commands of training sets print, word for word (`--update-golden` renews it)."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from tests.golden.test_cli_output import GOLDEN, NOW_US

pytestmark = pytest.mark.slow

Run = Callable[..., str]
MASKS = (
    (r"\brows1:[0-9a-f]{32}\b", "rows1:################################"),
    (r"\b[0-9a-f]{8}([0-9a-f]{24})?([0-9a-f]{32})?\b", "########"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z by ", "INSTANT by "),
    (r"known after \S+", "known after INSTANT"),
    (r"(@########\s+)\d{4}-\S+Z", r"\1INSTANT"),
)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repos") / "my_shop"
    write_repository(folder, now_us=NOW_US)
    return folder


@pytest.fixture
def command(repo: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, status: int = 0) -> str:
        assert run([*arguments, "--repo", str(repo)], debug=False) == status
        return capsys.readouterr().out.replace(str(repo), "REPO")

    return call


def check(name: str, text: str, request: pytest.FixtureRequest) -> None:
    for pattern, shown in MASKS:
        text = re.sub(pattern, shown, text)
    text = text.replace(getpass.getuser(), "USER")
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden", default=False):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_commands(repo: Path, command: Run, request: pytest.FixtureRequest) -> None:
    visits = ["--entity", str(repo / "visits.csv"), "--features", "offer_model"]
    until = ["--known-until", "2026-11-23T08:00:00Z"]
    splits = ["--split", "train=0.8", "--split", "test=0.2"]
    made = command("training-set", "create", "refusals", *visits, *until, *splits)
    check("training_set_create", made, request)
    assert command("training-set", "show", "refusals") == made
    by_time = ["--split", "train=2026-10-01", "--split", "test="]
    shown = json.loads(command("training-set", "create", "late", *visits, *by_time, "--json"))
    assert shown["splits"]["kind"] == "time"
    assert shown["rows"] == shown["profile"]["rows"] > 0
    check("training_set_list", command("training-set", "list"), request)
    (only,) = json.loads(command("training-set", "list", "late", "--json"))
    assert only["id"] == shown["id"]
    out = repo / "test.parquet"
    said = command("training-set", "export", "refusals", "-o", str(out), "--split", "test")
    check("training_set_export", said, request)
    assert f"{pq.read_metadata(out).num_rows} rows" in said
    check("reproduce", command("reproduce", "refusals"), request)
    as_json = json.loads(command("reproduce", "refusals", "--json"))
    assert (as_json["verdict"], as_json["equal"]) == ("EXACT", True)
    source = repo / "data" / "orders.csv"
    source = source if source.exists() else next((repo / "data").rglob("*.*"))
    source.write_bytes(source.read_bytes() + b"\n")
    check("reproduce_expired", command("reproduce", "refusals", status=1), request)


def test_profiles_of_views(repo: Path, command: Run, request: pytest.FixtureRequest) -> None:
    span = ["--start", "2026-10-01", "--end", "2026-11-01"]
    check("profile", command("profile", "last_order", *span), request)
    (found,) = json.loads(command("profile", "last_order", *span, "--json"))
    assert found["known_until"] == "2026-11-01T00:00:00Z"
    assert found["columns"].keys() == found["versions"].keys()
    assert sum(found["columns"]["amount"]["histogram"]["counts"]) > 0


def test_bad_splits(command: Run, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    visits = ["--entity", str(repo / "visits.csv"), "--features", "offer_model"]
    for given, says in (
        (["--split", "train"], "write NAME=0.8"),
        (["--split-by", "customer_id"], "--split-by needs --split"),
        (["--split", "train=0.5"], "fractions of splits make 1"),
    ):
        assert run(["training-set", "create", "x", *visits, *given, "-r", str(repo)], debug=False)
        assert says in capsys.readouterr().err

"""What commands of versions of pushed rows print, word for word (`--update-golden` renews it)."""

from __future__ import annotations

import getpass
import json
import re
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.cli.main import run
from featurestore.timeline import HOUR_US, SystemClock
from tests.conftest import INSTANT
from tests.golden.test_cli_output import GOLDEN

pytestmark = pytest.mark.slow

DEFINITIONS = """
from featurestore import Entity, Feature, FeatureView, FileSource

driver = Entity("driver")
rides = FileSource("rides", "rides.parquet", "at", "known", event_id="id")
last = FeatureView("last", entities=[driver], source=rides, features=[Feature("fare")])
"""
LONG_AGO = SystemClock().now_us() // HOUR_US * HOUR_US - 48 * HOUR_US
TYPES = {
    "driver": pa.string(),
    "at": INSTANT,
    "known": INSTANT,
    "id": pa.int64(),
    "fare": pa.float64(),
}
MASKS = ((r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "INSTANT"), (r" {2,}", "  "))


def table(*rows: tuple[int, float]) -> pa.Table:
    columns = {"driver": ["ann"] * len(rows), "at": [LONG_AGO] * len(rows),
               "known": [LONG_AGO] * len(rows), "id": [number for number, _ in rows],
               "fare": [fare for _, fare in rows]}  # fmt: skip
    return pa.table({name: pa.array(columns[name], kind) for name, kind in TYPES.items()})


def check(name: str, text: str, request: pytest.FixtureRequest) -> None:
    for pattern, shown in MASKS:
        text = re.sub(pattern, shown, text)
    text = text.replace(socket.gethostname(), "HOST").replace(getpass.getuser(), "USER")
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden", default=False):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_commands(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a-machine-of-theirs")
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    pq.write_table(table((1, 1.0)), tmp_path / "rides.parquet")
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "rides"\n')

    def call(*arguments: str) -> str:
        assert run([*arguments, "--repo", str(tmp_path)], debug=False) == 0
        out, err = capsys.readouterr()
        return out + "".join(f"! {line}\n" for line in err.splitlines())

    with FeatureStore(tmp_path) as fs:
        fs.apply()
        fs.push("rides", table((2, 2.0), (3, 3.0)))
        first = fs.data.log("pushed/rides")[0].id
        fs.push("rides", table((3, 3.5), (4, 4.0), (5, 5.0)))
        second = fs.data.log("pushed/rides")[0].id
    check("pushed_tag", call("data", "tag", first, "checked"), request)
    check(
        "pushed_diff", call("data", "diff", "pushed/rides/checked", second, "--limit", "2"), request
    )
    check("pushed_diff_same", call("data", "diff", second, "pushed/rides"), request)
    said = call("data", "restore", "pushed/rides/checked", "--reason", "a bad feed")
    check("pushed_restore", said, request)
    check("pushed_log", call("data", "log", "pushed/rides"), request)
    check("pushed_vacuum", call("data", "vacuum", "pushed/rides"), request)
    shown = json.loads(call("data", "log", "pushed/rides", "--json", "--limit", "1"))
    assert (shown[0]["operation"], shown[0]["rows_removed"]) == ("restore", 3)

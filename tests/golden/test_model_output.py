"""What the commands about models print, word for word (`--update-golden` renews it)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from model_repository import logistic, open_store, pin, write_repository

from featurestore.cli.main import run

GOLDEN = Path(__file__).parent / "cli"
GATES = """
from featurestore import Gates

late_gates = Gates("late", size_bytes_max=100_000)
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = write_repository(tmp_path / "parcels", gates=GATES)
    import joblib

    joblib.dump(logistic(), folder / "model.joblib")
    (folder / "big.bin").write_bytes(b"x" * 100_001)
    with open_store(folder) as store:
        store.apply()
        (folder / "run.txt").write_text(pin(store).run)
    return folder


class Shell:
    def __init__(
        self, repo: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
    ) -> None:
        self._repo, self._capsys, self._request = repo, capsys, request

    def __call__(self, *arguments: str, status: int = 0, golden: str = "") -> str:
        given = ["models", *arguments, "--repo", str(self._repo)]
        assert run(given, debug=False) == status
        printed = self._capsys.readouterr()
        if golden:
            self._check(golden, printed.out or printed.err)
        return printed.out

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status))

    def _check(self, name: str, text: str) -> None:
        text = re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{10}|[0-9a-f]{8})\b", "########", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<instant>", text)
        text = re.sub(r"(?m)^libraries .*$", "libraries     …", text)
        text = re.sub(r"\b[\d,]+ bytes", "<n> bytes", text)
        # What a model is worth differs in the last digits between machines.
        text = re.sub(r"(?m)^((?:latency )?\w+) +\d[\d.e-]*$", r"\1 <number>", text)
        text = re.sub(r"(?m)^metric +value$", "metric value", text)
        path = GOLDEN / f"{name}.txt"
        if self._request.config.getoption("--update-golden", default=False):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")


@pytest.fixture
def shell(
    repo: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("LOGNAME", "ann")
    return Shell(repo, capsys, request)


def test_a_model_from_the_shell(shell: Shell, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(repo / "model.joblib")
    origin = ["--run", (repo / "run.txt").read_text(), "--training-set", "parcels"]
    shell("register", "late", model, *origin, "--metric", "auc=0.81", golden="models_register")
    second = ["--metric", "auc=0.84", "--metric", "brier=0.2", "--description", "Less weight"]
    made = shell.json("register", "late", model, *origin, *second)
    assert (made["ref"], made["lineage_complete"], made["missing"]) == ("late/2", True, [])
    assert re.fullmatch(r"\d{4}-.*Z", made["created_at"])
    shell("register", "late", str(repo / "big.bin"), *origin)
    shell("register", "loose", model, golden="models_register_loose")

    pending = shell("promote", "late/1", "--to", "production", "--reason", "The first one")
    shell._check("models_promote", pending)
    request = re.findall(r"^request +(\w{10})$", pending, re.MULTILINE)[0]
    shell("approve", request, status=1, golden="models_approve_own")
    monkeypatch.setenv("LOGNAME", "bob")
    shell("approve", request, "--reason", "Looks fine", golden="models_approve")
    assert shell.json("show", request)["state"] == "APPLIED"

    shell("promote", "late/2", "--to", "staging", "--reason", "Try it", golden="models_staging")
    failed = ["promote", "late/3", "--to", "production", "--reason", "Big"]
    shell(*failed, status=1, golden="models_promote_failed")
    assert shell.json(*failed, status=1)["gates"]["passed"] is False
    assert shell.json("gates", "late/3", status=1)["passed"] is False
    shell("gates", "late/2", golden="models_gates")
    shell("promote", "loose", "--to", "staging", "--reason", "x", status=1, golden="models_loose")

    second_request = shell.json("promote", "late/2", "--to", "production", "--reason", "Better")
    assert second_request["state"] == "PENDING_APPROVAL"
    assert len(second_request["evidence_hash"]) == 64
    refused = shell.json("reject", second_request["id"], "--reason", "Not now", "--by", "cem")
    assert refused["state"] == "REJECTED"
    third = shell.json("promote", "late/2", "--to", "production", "--reason", "Better")["id"]
    assert shell.json("withdraw", third)["state"] == "WITHDRAWN"

    shell("list", golden="models_list")
    assert [one["stage"] for one in shell.json("list", "late")] == [
        "production", "staging", "development",
    ]  # fmt: skip
    shell("show", "late/1", golden="models_show")
    assert shell.json("show", "late/production")["promotions"][0]["state"] == "APPLIED"
    shell("compare", "late/2", golden="models_compare")
    assert shell.json("compare", "late/2")["metrics"]["auc"] == {"champion": 0.81, "model": 0.84}
    shell("archive", "late/2", "--reason", "Enough", golden="models_archive")
    shell("history", "late", golden="models_history")
    assert shell.json("history", "late", "--at", "2020-01-01T00:00:00Z") == []
    assert Path(shell.json("download", "late/1", "--to", str(repo / "copy"))["path"]).is_file()


def test_the_last_steps_from_the_shell(
    shell: Shell, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = ["--run", (repo / "run.txt").read_text(), "--training-set", "parcels"]
    shell("register", "late", str(repo / "model.joblib"), *origin)
    shell(
        "evaluate", "late/1", "--on", "parcels/test", status=1, golden="models_evaluate_untrusted"
    )
    shell("evaluate", "late", "--on", "parcels/test", "--trust", golden="models_evaluate")
    judged = shell.json("evaluate", "late", "--on", "parcels", "--label", "late", "--trust")
    assert (judged["model"], judged["label"], judged["split"]) == ("late/1", "late", None)
    assert judged["metrics"].keys() == {"accuracy", "auc", "brier", "log_loss"}

    shell("register", "late", str(repo / "big.bin"), *origin)
    asked = ["promote", "late/2", "--to", "production", "--reason", "Bigger"]
    request = shell.json(*asked, status=1)["id"]
    shell("check", request, status=1, golden="models_check_failed")
    definitions = repo / "definitions.py"
    definitions.write_text(definitions.read_text().replace("100_000", "200_000"))
    shell("check", request, golden="models_check")
    assert shell.json("check", request)["gates"]["passed"] is True
    shell("apply", request, status=1, golden="models_apply_early")
    monkeypatch.setenv("LOGNAME", "bob")
    shell("approve", request, "--no-apply", golden="models_approve_no_apply")
    shell("apply", request, golden="models_apply")
    assert shell.json("apply", request)["state"] == "APPLIED"
    (move,) = shell.json("history", "late")
    assert (move["request"], move["requester"], move["by"]) == (request, "ann", "bob")
    assert [one["by"] for one in move["approvals"]] == ["bob"]
    assert move["evidence"] == move["approvals"][0]["evidence"]
    assert re.fullmatch(r"\d{4}-.*Z", move["approvals"][0]["at"])


def test_what_is_wrong_is_said(shell: Shell, repo: Path) -> None:
    shell("register", "late", str(repo / "model.joblib"))
    for arguments, words in (
        (["show", "nope"], "no 'model nope'"),
        (["promote", "late", "--to", "prod", "--reason", "x"], "staging or production"),
        (["register", "late", "nowhere.bin"], "is not there"),
        (["register", "late", str(repo / "model.joblib"), "--metric", "auc"], "name=value"),
    ):
        assert run(["models", *arguments, "--repo", str(repo)], debug=False) == 1
        assert words in shell._capsys.readouterr().err

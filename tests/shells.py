"""The command line, run within the tests' own process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from featurestore.timeline import SystemClock

TOKEN = "FEATURESTORE__SECURITY__TOKEN"


@dataclass(frozen=True)
class Printed:
    """What a command did: exit status and output."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def code(self) -> str:
        """Of the error that `--json` printed."""
        return str(json.loads(self.err.splitlines()[-1])["error"]["code"])


class Shell:
    """Runs commands in one repository, with or without a token."""

    def __init__(self, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.repo = repo
        self._capsys = capsys

    def __call__(self, *arguments: str, token: str = "") -> Printed:
        self._capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(TOKEN, token)
            status = run([*arguments, "--repo", str(self.repo)], debug=False)
        printed = self._capsys.readouterr()
        return Printed(status, printed.out, printed.err)


def applied_shop(folder: Path) -> Path:
    """A repository as `init` makes it, applied and materialized."""
    write_repository(folder, now_us=SystemClock().now_us())
    for command in ("apply", "materialize"):
        assert run([command, "--repo", str(folder)], debug=False) == 0
    return folder

"""The command line without a repository or before anything is applied: usage, errors, output."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from featurestore.cli import output
from featurestore.cli.data import read_entities
from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from featurestore.cli.online import entity_rows
from featurestore.cli.options import ask
from featurestore.errors import (
    InvalidEntityFrame,
    InvalidRequest,
    InvalidSettings,
    UnknownService,
    UnknownView,
)
from featurestore.timeline import to_us

COMMANDS = [
    *("init", "plan", "apply", "materialize", "serve", "get-online", "get-historical", "list"),
    *("describe", "verify", "sweep", "info", "demo", "version"),
]


def featurestore(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return execute(sys.executable, "-m", "featurestore", *arguments)


def execute(*command: str) -> subprocess.CompletedProcess[str]:
    """Run any command, whatever its exit status."""
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


class TestUsage:
    def test_help_names_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--help"], debug=False) == 0
        printed = capsys.readouterr().out
        assert all(f"  {name} " in printed for name in COMMANDS)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_command_has_help(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run([command, "--help"], debug=False) == 0
        assert f"Usage: featurestore {command}" in capsys.readouterr().out

    def test_no_arguments_print_the_help(self) -> None:
        done = featurestore()
        assert done.returncode == 0
        assert done.stdout.startswith("Usage: featurestore")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["plann"], "No such command 'plann'. Did you mean 'plan'?"),
            (["plan", "--frobnicate"], "No such option: --frobnicate"),
            (["describe", "views"], "Missing argument 'name'"),
            (["list", "vews"], "'vews' is none. Did you mean 'views'?"),
        ],
    )
    def test_wrong_usage_exits_1_because_2_means_changes(
        self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(arguments, debug=False) == 1
        printed = capsys.readouterr()
        assert said in printed.err
        assert "--help" in printed.err
        assert printed.out == ""

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["version"], debug=False) == 0
        assert capsys.readouterr().out.startswith("featurestore 0.")
        assert run(["version", "--json"], debug=False) == 0
        assert "version" in json.loads(capsys.readouterr().out)

    def test_words_are_completed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # What the script of `--install-completion` asks when the user presses Tab in bash.
        monkeypatch.setenv("_FEATURESTORE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "featurestore get")
        monkeypatch.setenv("COMP_CWORD", "1")
        assert featurestore().stdout.split() == ["get-historical", "get-online"]

    def test_help_loads_no_back_end(self) -> None:
        # The start of each command is what people wait for.
        code = (
            "import sys\nfrom featurestore.cli.main import run\nrun(['--help'], debug=False)\n"
            "heavy = {'pyarrow', 'duckdb', 'sqlalchemy', 'grpc', 'lmdb', 'sqlglot', 'rich'}\n"
            "sys.exit(','.join(sorted(heavy & set(sys.modules))))"
        )
        done = execute(sys.executable, "-c", code)
        assert done.stderr.strip() == ""


class TestErrors:
    def test_an_error_is_one_line_and_exit_status_1(self, tmp_path: Path) -> None:
        done = featurestore("plan", "--repo", str(tmp_path))
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert "featurestore init" in done.stderr
        assert "Traceback" not in done.stderr

    def test_as_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["list", "views", "--repo", str(tmp_path), "--json"], debug=False) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert json.loads(printed.err)["error"]["code"] == "invalid-settings"

    def test_debug_shows_the_traceback(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidSettings):
            run(["plan", "--repo", str(tmp_path)], debug=True)
        done = featurestore("plan", "--repo", str(tmp_path), "--debug")
        assert done.returncode == 1
        assert "Traceback" in done.stderr

    def test_an_unforeseen_error_is_one_line_too(self, tmp_path: Path) -> None:
        (tmp_path / "featurestore.toml").write_text('[project]\nname = "empty"\n')
        output = tmp_path / "no" / "such" / "folder" / "plan.json"
        done = featurestore("plan", "--repo", str(tmp_path), "--output", str(output))
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "--debug shows where" in done.stderr

    def test_the_reader_may_leave(self) -> None:
        command = f"{sys.executable} -m featurestore --help | head -c 1 && echo done"
        done = execute("bash", "-c", command)
        assert done.stderr == ""

    def test_interrupting_says_so(self, tmp_path: Path) -> None:
        # A repository whose definitions take their time to load.
        (tmp_path / "featurestore.toml").write_text('[project]\nname = "slow"\n')
        (tmp_path / "slow.py").write_text(
            "import time\nprint('here', flush=True)\ntime.sleep(60)\n"
        )
        command = [sys.executable, "-m", "featurestore", "list", "views", "--repo", str(tmp_path)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert errors.strip() == "interrupted"


class TestInit:
    def test_writes_a_repository(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "my shop"
        assert run(["init", str(folder)], debug=False) == 0
        assert "featurestore apply --repo" in capsys.readouterr().out
        assert 'name = "my_shop"' in (folder / "featurestore.toml").read_text()
        assert "{project}" not in (folder / "README.md").read_text()

    def test_overwrites_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "features.py").write_text("mine")
        assert run(["init", str(tmp_path)], debug=False) == 1
        assert "already has features.py; nothing was written" in capsys.readouterr().err
        assert [p.name for p in tmp_path.iterdir()] == ["features.py"]

    def test_a_folder_that_cannot_be_made(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        assert run(["init", str(tmp_path / "file" / "repo")], debug=False) == 1
        assert "can't be written" in capsys.readouterr().err

    def test_the_data_are_the_same_for_the_same_hour(self, tmp_path: Path) -> None:
        hour_us = to_us("2026-11-23T08:00:00Z")
        write_repository(tmp_path / "a", now_us=hour_us)
        write_repository(tmp_path / "b", now_us=hour_us + 59 * 60 * 1_000_000)
        for name in ("data/orders.csv", "data/customers.csv", "visits.csv"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_no_order_is_reported_in_the_future(self, tmp_path: Path) -> None:
        now = "2026-11-23T08:00:00Z"
        write_repository(tmp_path, now_us=to_us(now))
        lines = (tmp_path / "data/orders.csv").read_text().splitlines()[1:]
        assert len(lines) > 1_500
        assert all(line.split(",")[2] < line.split(",")[3] <= now for line in lines)


class TestEntityRows:
    def test_a_key_that_comes_again_begins_the_next_entity(self) -> None:
        pairs = ["origin=EWR", "dest=IAH", "origin=JFK", "dest=MIA"]
        assert entity_rows(pairs, None) == [
            {"origin": "EWR", "dest": "IAH"},
            {"origin": "JFK", "dest": "MIA"},
        ]

    def test_numbers_are_marked(self) -> None:
        assert entity_rows(["id:=1001", "name=1001"], None) == [{"id": 1001, "name": "1001"}]
        assert entity_rows(["id:=9007199254740993"], None) == [{"id": 2**53 + 1}]
        assert entity_rows(["tail="], None) == [{"tail": ""}]
        assert entity_rows(["tail=a=b"], None) == [{"tail": "a=b"}]
        assert entity_rows(["tail:=null"], None) == [{"tail": None}]

    @pytest.mark.parametrize(
        "text", ['[{"id": 1}, {"id": 2}]', '{"id": [1, 2]}', ' [ {"id":1},{"id":2} ] ']
    )
    def test_json_by_rows_or_columns(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "rows.json").write_text(text)
        assert entity_rows([], str(tmp_path / "rows.json")) == [{"id": 1}, {"id": 2}]

    @pytest.mark.parametrize("pairs", [["origin"], ["=EWR"], [":=1"], ["id:=1001x"], ["id:="], []])
    def test_malformed_pairs(self, pairs: list[str]) -> None:
        with pytest.raises(InvalidRequest, match="--entity"):
            entity_rows(pairs, None)

    @pytest.mark.parametrize("text", ["{", "3", '{"id": [1], "b": [1, 2]}', '{"id": 1}', "[1]"])
    def test_malformed_files(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "rows.json").write_text(text)
        with pytest.raises(InvalidRequest, match=r"rows\.json"):
            entity_rows([], str(tmp_path / "rows.json"))

    def test_a_missing_file_and_both_ways_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="can't be read"):
            entity_rows([], str(tmp_path / "none.json"))
        with pytest.raises(InvalidRequest, match="say whom"):
            entity_rows(["a=b"], "rows.json")


class TestEntityFrames:
    def test_csv_parquet_and_sql(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("id,event_timestamp\n1,2026-01-01T00:00:00Z\n")
        assert read_entities(str(tmp_path / "rows.csv")).num_rows == 1
        (tmp_path / "rows.parquet").write_bytes(b"")
        assert read_entities(str(tmp_path / "rows.parquet")) == str(tmp_path / "rows.parquet")
        sql = "SELECT 1 AS id FROM 'x.parquet'"
        assert read_entities(sql) == sql

    def test_missing_and_malformed(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidEntityFrame, match="there is no file"):
            read_entities(str(tmp_path / "none.csv"))
        (tmp_path / "bad.csv").write_text("a,b\n1\n")
        with pytest.raises(InvalidEntityFrame, match="not a readable CSV"):
            read_entities(str(tmp_path / "bad.csv"))


class TestAsk:
    """A lone name is a service, or else a view."""

    @staticmethod
    def answer(wanted: object) -> object:
        if isinstance(wanted, str):
            if wanted != "model":
                raise UnknownService(wanted, known=["model"])
        elif isinstance(wanted, list) and wanted[0].split(":")[0] != "view":
            raise UnknownView(wanted[0], known=["view"])
        return wanted

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("model", "model"),
            ("view", ["view"]),
            ("view:a", ["view:a"]),
            (" view:a , view:b ,", ["view:a", "view:b"]),
        ],
    )
    def test_what_is_asked(self, text: str, wanted: object) -> None:
        assert ask(self.answer, text) == wanted

    def test_neither_is_an_unknown_service(self) -> None:
        with pytest.raises(UnknownService, match="'modell'"):
            ask(self.answer, "modell")
        with pytest.raises(InvalidRequest, match="no features"):
            ask(self.answer, " , ")


class TestOutput:
    def test_json_has_only_what_json_has(self) -> None:
        value = {
            "nan": float("nan"),
            "at": datetime(2026, 1, 1, tzinfo=UTC),
            "naive": datetime(2026, 1, 1),  # noqa: DTZ001 — naive is UTC
            "day": date(2026, 1, 1),
            "bytes": b"\x00\xff",
            "money": Decimal("1.50"),
            "big": 2**53 + 1,
            "deep": [{"größe": None}, (True,)],
        }
        assert output.plain(value) == {
            "nan": None,
            "at": "2026-01-01T00:00:00Z",
            "naive": "2026-01-01T00:00:00Z",
            "day": "2026-01-01",
            "bytes": "AP8=",
            "money": "1.50",
            "big": 2**53 + 1,
            "deep": [{"größe": None}, [True]],
        }

    def test_a_plain_table_is_aligned(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.show_table(
            ["name", "rows", "seen"], [["a", 1, None], ["größer", 1000, True]], title="Tables"
        )
        assert capsys.readouterr().out.splitlines() == [
            "Tables",
            "name    rows  seen",
            "a          1  NULL",
            "größer  1000  true",
        ]

    def test_cells_are_one_short_line(self) -> None:
        assert output.cell("a\n  b") == "a b"
        assert output.cell("x" * 100) == "x" * 59 + "…"
        assert output.cell(0.1 + 0.2) == "0.3"
        assert output.cell({}) == "—"

    def test_no_rows(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.show_rows([], title="views")
        assert capsys.readouterr().out == "views: none\n"

    def test_progress_in_plain_text_is_a_line_per_part(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with output.counting("rows", total=2) as report:
            report("weather", 10)
            report("weather", 2000)
            report("flights", 5)
        assert capsys.readouterr().err == "weather: 2,000 rows\nflights: 5 rows\n"
        with output.counting("rows", quiet=True) as report:
            report("weather", 10)
        assert capsys.readouterr().err == ""

    def test_a_terminal_gets_drawn_tables_and_moving_progress(self) -> None:
        code = (
            "import time\nfrom featurestore.cli import output\n"
            "with output.working('thinking'): time.sleep(0.2)\n"
            "with output.counting('rows', total=1) as report: report('weather', 2000)\n"
            "output.show_table(['name'], [['[bold]größer']], title='Tables')\n"
            "output.show_table(['a', 'b'], [['x' * 50, 'y' * 50]], title='Wide')\n"
        )
        leader, follower = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        ) as process:
            os.close(follower)
            seen = b""
            try:
                while chunk := os.read(leader, 4096):
                    seen += chunk
            except OSError:  # Linux's way to say that the other side has closed
                pass
        os.close(leader)
        assert process.returncode == 0
        text = seen.decode()
        assert "thinking" in text
        assert "weather: 2,000 rows" in text
        assert "[bold]größer" in text
        assert "─" in text.partition("Wide")[0]
        # What does not fit is not cut in pieces.
        assert f"{'x' * 50}  {'y' * 50}" in text

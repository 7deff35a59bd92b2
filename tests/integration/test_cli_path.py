"""The command line on a repository that `init` made: the whole path, what each command prints, and
what bad input does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import csv, parquet
from shells import Shell, applied_shop

from featurestore.cli.demo.servers import feature_server, free_port
from featurestore.cli.init import write_repository
from featurestore.cli.options import complete_service, complete_view
from featurestore.timeline import SystemClock

CUSTOMER = "customer_id:=1001"


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as `init` makes it, applied and materialized. Not to be changed."""
    return applied_shop(tmp_path_factory.mktemp("repos") / "my_shop")


@pytest.fixture
def shell(applied: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(applied, capsys)


@pytest.fixture
def fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A repository of the test's own, nothing applied."""
    repo = tmp_path / "my_shop"
    write_repository(repo, now_us=SystemClock().now_us())
    return Shell(repo, capsys)


def test_the_path_of_a_new_user(fresh: Shell) -> None:
    planned = fresh("plan")
    assert planned.status == 2
    assert "ADDITIVE" in planned.out
    assert "offer_model" in planned.out

    assert fresh("get-online", "offer_model", "-e", CUSTOMER).status == 1

    done = fresh("apply")
    assert (done.status, done.err) == (0, "")
    assert "Applied to environment 'prod'." in done.out
    assert "Next: featurestore materialize" in done.out
    assert fresh("plan").status == 0
    assert "Nothing to apply." in fresh("apply").out

    written = fresh("materialize")
    assert written.status == 0
    assert re.search(r"^customer_profile +incremental +the beginning", written.out, re.MULTILINE)

    vector = fresh("get-online", "offer_model", "-e", CUSTOMER)
    assert vector.status == 0
    assert re.search(r"^country +\w\w +PRESENT$", vector.out, re.MULTILINE)

    rows = fresh("get-historical", "-e", str(fresh.repo / "visits.csv"), "-f", "offer_model")
    assert rows.status == 0
    assert rows.out.startswith("customer_id")
    assert len(rows.out.splitlines()) == 11
    assert "--output" in rows.err

    verified = fresh("verify", "offer_model")
    assert verified.status == 0, verified.out
    assert "(100.0000%)" in verified.out


class TestPlan:
    def test_json_and_a_file_that_apply_takes(self, fresh: Shell, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        planned = fresh("plan", "--json", "--output", str(path))
        assert planned.status == 2
        assert planned.json == json.loads(path.read_text())
        assert fresh("apply", str(path)).status == 0
        again = fresh("apply", str(path))
        assert again.status == 1
        assert "[stale-plan]" in again.err

    def test_a_file_that_is_no_plan(self, fresh: Shell, tmp_path: Path) -> None:
        (tmp_path / "plan.json").write_text("{}")
        assert "[invalid-request]" in fresh("apply", str(tmp_path / "plan.json")).err
        assert "can't be read" in fresh("apply", str(tmp_path / "none.json")).err

    def test_apply_json(self, fresh: Shell) -> None:
        done = fresh("apply", "--json").json
        assert isinstance(done, dict)
        assert done["environment"] == "prod"
        assert done["serving"] == {"offer_model": False}

    def test_all_errors_come_together_with_file_and_line(self, fresh: Shell) -> None:
        features = fresh.repo / "features.py"
        text = features.read_text().replace('Feature("amount")', 'Feature("amont")')
        features.write_text(text.replace('Feature("country")', 'Feature("upper(")'))
        failed = fresh("plan")
        assert failed.status == 1
        assert failed.out == ""
        assert len(re.findall(r"features\.py:\d+", failed.err)) >= 2
        assert "Did you mean 'amount'?" in failed.err
        as_json = json.loads(fresh("plan", "--json").err)["error"]
        assert as_json["code"] == "invalid-repository"
        assert len(as_json["details"]["errors"]) >= 2

    def test_a_missing_source_file(self, fresh: Shell) -> None:
        (fresh.repo / "data/orders.csv").unlink()
        failed = fresh("plan")
        assert failed.status == 1
        assert "data/orders.csv" in failed.err


class TestInventory:
    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            ("entities", "customer"),
            ("sources", "shop_days"),
            ("views", "last_order"),
            ("services", "offer_model"),
        ],
    )
    def test_list_and_describe(self, shell: Shell, kind: str, name: str) -> None:
        listed = shell("list", kind)
        assert listed.status == 0
        assert re.search(rf"^{name} ", listed.out, re.MULTILINE)
        rows = shell("list", kind, "--json").json
        assert isinstance(rows, list)
        assert name in [row["name"] for row in rows]
        described = shell("describe", kind, name)
        assert described.status == 0
        assert "features.py:" in described.out
        found = shell("describe", kind, name, "--json").json
        assert isinstance(found, dict)
        assert found["name"] == name

    def test_the_singular_is_understood(self, shell: Shell) -> None:
        assert shell("describe", "view", "shop").out == shell("describe", "views", "shop").out
        assert shell("list", "entity").out == shell("list", "entities").out

    def test_an_unknown_name(self, shell: Shell) -> None:
        failed = shell("describe", "views", "last_oder")
        assert failed.status == 1
        assert "Did you mean 'last_order'?" in failed.err

    def test_info(self, shell: Shell) -> None:
        assert "my_shop" in shell("info").out
        found = shell("info", "--json").json
        assert isinstance(found, dict)
        assert found["state"] == {"registry": "ok", "online": "ok"}

    def test_completion_knows_the_repository(self, shell: Shell) -> None:
        import typer

        command = typer.main.get_command(typer.Typer(callback=lambda: None))
        context = typer.Context(command)
        context.params["repo"] = str(shell.repo)
        assert complete_service(context, "off") == ["offer_model"]
        assert complete_view(context, "") == ["customer_profile", "last_order", "shop"]
        context.params["repo"] = str(shell.repo / "data")
        assert complete_view(context, "") == []


class TestGetOnline:
    def test_json_of_several_entities(self, shell: Shell) -> None:
        found = shell("get-online", "offer_model", "-e", CUSTOMER, "-e", "customer_id:=5", "--json")
        assert isinstance(found.json, dict)
        first, second = found.json["entities"]
        assert first["statuses"]["country"] == "PRESENT"
        assert second["entity"] == {"customer_id": 5}
        assert second["features"]["country"] is None
        assert second["statuses"]["country"] == "NOT_FOUND"
        assert second["statuses"]["refused_share"] == "PRESENT"
        assert found.json["event_times"]["customer_profile"][1] is None
        assert found.json["request_time"].endswith("Z")

    def test_features_of_views_and_full_names(self, shell: Shell) -> None:
        found = shell("get-online", "last_order:amount,shop", "-e", CUSTOMER, "--json").json
        assert isinstance(found, dict)
        assert list(found["entities"][0]["features"]) == ["amount", "refused_share"]
        full = shell("get-online", "shop", "-e", CUSTOMER, "--full-feature-names").out
        assert "shop__refused_share" in full

    def test_entities_of_a_file(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "rows.json").write_text('{"customer_id": [1001, 1002, null]}')
        found = shell(
            "get-online", "offer_model", "--entities", str(tmp_path / "rows.json"), "--json"
        ).json
        assert isinstance(found, dict)
        statuses = [entity["statuses"]["country"] for entity in found["entities"]]
        assert statuses == ["PRESENT", "PRESENT", "NOT_FOUND"]

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["offer_modell", "-e", CUSTOMER], "unknown-service"),
            (["last_order:amont", "-e", CUSTOMER], "unknown-feature"),
            (["nothing:amount", "-e", CUSTOMER], "unknown-view"),
            (["offer_model", "-e", "customer=1"], "missing-join-key"),
            (["offer_model", "-e", "customer_id=1001"], "invalid-join-key"),
            (["offer_model"], "invalid-request"),
        ],
    )
    def test_bad_input(self, shell: Shell, arguments: list[str], code: str) -> None:
        failed = shell("get-online", *arguments)
        assert (failed.status, failed.out) == (1, "")
        assert f"[{code}]" in failed.err
        assert "Traceback" not in failed.err

    def test_a_number_written_as_text_gets_a_hint(self, shell: Shell) -> None:
        failed = shell("get-online", "offer_model", "-e", "customer_id=1001")
        assert "hint: a number is written --entity customer_id:=1001" in failed.err

    def test_too_many_keys(self, shell: Shell, tmp_path: Path) -> None:
        (tmp_path / "rows.json").write_text(json.dumps({"customer_id": list(range(10_001))}))
        failed = shell("get-online", "offer_model", "--entities", str(tmp_path / "rows.json"))
        assert failed.status == 1
        assert "keys_per_request_max" in failed.err

    @pytest.mark.slow
    def test_no_server_at_the_target(self, shell: Shell) -> None:
        target = f"127.0.0.1:{free_port()}"
        failed = shell("get-online", "offer_model", "-e", CUSTOMER, "--target", target)
        assert failed.status == 1
        assert "[server-unavailable]" in failed.err

    @pytest.mark.slow
    def test_a_server_gives_the_same(self, shell: Shell, tmp_path: Path) -> None:
        here = shell("get-online", "offer_model", "-e", CUSTOMER, "--json").json
        with feature_server(shell.repo, {}, tmp_path / "server.log") as target:
            there = shell("get-online", "offer_model", "-e", CUSTOMER, "--json", "--target", target)
            failed = shell("get-online", "offer_modell", "-e", CUSTOMER, "--target", target)
        assert there.status == 0, there.err
        assert isinstance(here, dict)
        assert isinstance(there.json, dict)
        assert there.json["entities"] == here["entities"]
        assert "[unknown-service]" in failed.err


class TestGetHistorical:
    def test_to_a_file(self, shell: Shell, tmp_path: Path) -> None:
        visits = csv.read_csv(shell.repo / "visits.csv")
        target = tmp_path / "training.parquet"
        written = shell(
            *("get-historical", "--entity-df", str(shell.repo / "visits.csv")),
            *("--features", "offer_model", "--output", str(target)),
        )
        assert written.status == 0, written.err
        assert f"{visits.num_rows} rows, 9 columns" in written.out
        table = parquet.read_table(target)
        assert table["customer_id"].to_pylist() == visits["customer_id"].to_pylist()

    def test_sql_json_and_options(self, shell: Shell) -> None:
        sql = "SELECT customer_id, ordered_at AS at FROM orders LIMIT 3"
        found = shell(
            *("get-historical", "-e", sql, "-f", "last_order:amount", "--event-timestamp", "at"),
            *("--as-of", "event", "--full-feature-names", "--include-status", "--json"),
        )
        assert found.status == 0, found.err
        assert isinstance(found.json, list)
        assert len(found.json) == 3
        # With event times alone an order finds itself, at the very moment in which it is made.
        assert all(row["last_order__amount"] is not None for row in found.json)

    def test_without_an_entity_frame(self, shell: Shell) -> None:
        found = shell(
            *("get-historical", "--start", "2000-01-01", "-f", "last_order:amount", "--json"),
        )
        assert found.status == 0, found.err
        assert isinstance(found.json, list)
        assert found.json, "there are orders"
        assert list(found.json[0]) == ["customer_id", "event_timestamp", "amount"]
        empty = shell("get-historical", "--end", "1970-01-02", "-f", "last_order:amount")
        assert empty.out == "0 rows\n"
        neither = shell("get-historical", "-f", "last_order:amount")
        assert neither.status == 1
        assert "[invalid-entity-frame]" in neither.err

    def test_explain(self, shell: Shell) -> None:
        shown = shell(
            *("get-historical", "-e", str(shell.repo / "visits.csv")),
            *("-f", "offer_model", "--explain"),
        )
        assert shown.status == 0
        assert "SELECT" in shown.out.upper()

    @pytest.mark.parametrize(
        ("frame", "features", "code"),
        [
            ("visits.csv", "offer_modell", "unknown-service"),
            ("visits.csv", "last_order:amont", "unknown-feature"),
            ("none.csv", "offer_model", "invalid-entity-frame"),
            ("data/customers.csv", "last_order:amount", "invalid-entity-frame"),
            ("SELECT 1 AS id", "offer_model", "invalid-entity-frame"),
        ],
    )
    def test_bad_input(self, shell: Shell, frame: str, features: str, code: str) -> None:
        entity_df = str(shell.repo / frame) if frame.endswith(".csv") else frame
        failed = shell("get-historical", "-e", entity_df, "-f", features)
        assert (failed.status, failed.out) == (1, "")
        assert f"[{code}]" in failed.err


class TestMaterialize:
    def test_again_writes_nothing_new(self, shell: Shell) -> None:
        runs = shell("materialize", "--json").json
        assert isinstance(runs, list)
        assert {run["view"] for run in runs} == {"customer_profile", "last_order", "shop"}
        assert all(run["rows_written"] == 0 for run in runs)

    def test_one_view_anew(self, shell: Shell) -> None:
        done = shell("materialize", "shop", "--replace")
        assert done.status == 0, done.err
        assert re.search(r"^shop +replace", done.out, re.MULTILINE)
        assert "rows freed" in shell("sweep").out

    def test_bad_input(self, shell: Shell) -> None:
        assert "[unknown-view]" in shell("materialize", "shopp").err
        assert "[invalid-request]" in shell("materialize", "--start", "yesterday").err

    def test_not_before_it_is_applied(self, fresh: Shell) -> None:
        failed = fresh("materialize")
        assert failed.status == 1
        assert "featurestore apply" in failed.err


class TestVerify:
    def test_json(self, shell: Shell) -> None:
        found = shell("verify", "--json", "--samples", "50").json
        assert isinstance(found, dict)
        assert found["rate"] == 1.0

    def test_nothing_to_compare_is_an_error(self, fresh: Shell) -> None:
        assert fresh("apply").status == 0
        failed = fresh("verify")
        assert failed.status == 1
        assert "featurestore materialize" in failed.err


@pytest.mark.slow
def test_the_readme_s_commands_run(tmp_path: Path) -> None:
    """Each command of the new repository's README, as printed, in its folder."""
    repo = tmp_path / "my_shop"
    write_repository(repo, now_us=SystemClock().now_us())
    text = (repo / "README.md").read_text()
    block = re.findall(r"```\n(.*?)```", text, re.DOTALL)[0]
    commands = [line.partition("#")[0].split() for line in block.splitlines()]
    offline = [c for c in commands if c[1] != "serve" and "--target" not in c]
    assert len(offline) == 7
    for command in offline:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            check=False,
            cwd=repo,
            capture_output=True,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "FEATURESTORE_REPO"},
        )
        assert done.returncode == (2 if command[1] == "plan" else 0), done.stderr

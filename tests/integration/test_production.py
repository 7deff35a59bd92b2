"""The main job on production back ends: the registry on Postgres, the online store on Valkey, the
command line as an operator types it. Two environment variables are all that differs."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import wait_for
from postgres_servers import postgres_server
from redis_servers import RedisServer, valkey_binary

from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from featurestore.client import FeatureClient
from featurestore.errors import ServerUnavailable
from featurestore.timeline import SystemClock

CUSTOMERS = [1001, 1002, 1003, 999_999]
KEYS = [word for key in CUSTOMERS for word in ("-e", f"customer_id:={key}")]
SERVE = ("serve", "--workers", "2", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
STARTS_WITHIN_S = 60.0

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Operator:
    """Someone who types commands in a repository, with these variables in the environment."""

    repo: Path
    variables: Mapping[str, str]

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What the command prints; `status` is how it must end."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in self.variables.items():
                patch.setenv(name, value)
            ended = run([*arguments, "--repo", str(self.repo)], debug=False)
        assert ended == status, out.getvalue() + err.getvalue()
        return out.getvalue()

    @contextmanager
    def serving(self) -> Iterator[Server]:
        """`featurestore serve` with two workers; ended with the block if nobody did it before."""
        log = self.repo / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "featurestore", *SERVE, "--repo", str(self.repo)],
                env={**os.environ, **self.variables},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Server(process, grpc_address(process, log))
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    grpc: str


def grpc_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, from its log, once it does."""
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        for line in log.read_text().splitlines():
            told = json.loads(line)
            if told["event"] == "serving":
                return str(told["grpc"])
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def variables() -> Iterator[dict[str, str]]:
    """What makes any repository a production one."""
    with postgres_server() as postgres, RedisServer(valkey_binary()) as valkey:
        yield {
            "FEATURESTORE__REGISTRY__URL": postgres.get_uri(),
            "FEATURESTORE__ONLINE__URL": valkey.url,
        }


@pytest.fixture(scope="module")
def operator(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """An operator of a repository that was applied and materialized."""
    repo = tmp_path_factory.mktemp("production") / "shop"
    write_repository(repo, now_us=SystemClock().now_us())
    operator = Operator(repo, variables)
    assert "ADDITIVE" in operator("plan", status=2)
    assert "Applied to environment 'prod'." in operator("apply")
    operator("plan")
    operator("materialize")
    return operator


def test_the_answers_are_those_of_the_embedded_back_ends(
    operator: Operator, tmp_path: Path
) -> None:
    embedded = Operator(tmp_path / "shop", {})
    shutil.copytree(operator.repo, embedded.repo)
    left = [path for path in (embedded.repo / ".featurestore").rglob("*") if path.is_file()]
    assert not left, "production keeps no state beside the definitions"
    embedded("apply")
    embedded("materialize")

    lookup = ("get-online", "offer_model", *KEYS, "--json")
    entities = str(operator.repo / "visits.csv")
    training = ("get-historical", "-e", entities, "-f", "offer_model", "--json")
    for command in (lookup, training):
        found, expected = operator(*command), embedded(*command)
        assert values_of(found) == values_of(expected)
    assert "(100.0000%)" in operator("verify", "offer_model")

    info = json.loads(operator("info", "--json"))
    assert "postgresql" in json.dumps(info)
    assert "redis://" in json.dumps(info)


def test_a_running_server_follows_apply_and_materialize(operator: Operator) -> None:
    with operator.serving() as server, FeatureClient(server.grpc) as client:
        old = client.get_online_features("offer_model", {"customer_id": CUSTOMERS})
        assert old.to_dict()["customer_id"] == CUSTOMERS
        assert "amount_doubled" not in old.to_dict()

        definitions = operator.repo / "features.py"
        text = definitions.read_text()
        added = 'Feature("amount"),\n        Feature("amount_doubled", "amount * 2"),'
        text = text.replace('Feature("amount"),', added, 1)
        text = text.replace('last_order[["amount", ', 'last_order[["amount", "amount_doubled", ', 1)
        definitions.write_text(text)
        operator("plan", status=2)
        operator("apply")
        # Applied and not materialized: a live service goes on as it was.
        kept = client.get_online_features("offer_model", {"customer_id": CUSTOMERS})
        assert (kept.plan_version, kept.to_dict()) == (old.plan_version, old.to_dict())

        operator("materialize")

        def is_followed() -> bool:
            """By the worker that a new connection meets."""
            with FeatureClient(server.grpc) as fresh:
                new = fresh.get_online_features("offer_model", {"customer_id": CUSTOMERS})
            if new.plan_version == old.plan_version:
                return False
            amounts, doubled = new.to_dict()["amount"], new.to_dict()["amount_doubled"]
            assert any(amounts)
            assert doubled == [amount and 2 * amount for amount in amounts]
            return True

        wait_for(lambda: all(is_followed() for _ in range(8)))
        assert "(100.0000%)" in operator("verify", "offer_model")


def test_a_server_under_load_drains_and_exits_zero(operator: Operator) -> None:
    answers, ended_at = [0] * 8, list[float]()

    def ask(target: str, number: int) -> None:
        """Ask until the server is gone."""
        with FeatureClient(target, timeout_ms=10_000) as client:
            while True:
                began = time.monotonic()
                try:
                    found = client.get_online_features("offer_model", {"customer_id": CUSTOMERS})
                except ServerUnavailable:
                    ended_at.append(began)
                    return
                assert found.to_dict()["customer_id"] == CUSTOMERS
                answers[number] += 1

    with operator.serving() as server, ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, server.grpc, number) for number in range(len(answers))]
        wait_for(lambda: min(answers) > 10)
        terminated_at = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        for future in asking:
            future.result()
    assert min(ended_at) >= terminated_at, "a request that began before the signal failed"


def values_of(printed: str) -> object:
    """What a command printed, without what differs from call to call."""
    found = json.loads(printed)
    if isinstance(found, dict):
        for name in ("request_time", "request_time_us", "plan_version"):
            found.pop(name, None)
    return found

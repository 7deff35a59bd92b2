"""The last online use, from a live server: noted in the registry, counted in its metrics."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore import FeatureClient, FeatureStore
from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from featurestore.permissions import Identity
from featurestore.serving.serve import ServerProcess
from featurestore.timeline import SystemClock

pytestmark = pytest.mark.slow

KEY = [{"customer_id": 1001}]
WAIT_S = 120


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


def metric(server: ServerProcess, name: str, token: str = "") -> float:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asked = urllib.request.Request(f"{server.http_url}/metrics", headers=headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_who_uses_knows_the_last_online_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, began_us = tmp_path / "shop", SystemClock().now_us()
    write_repository(folder, now_us=began_us)
    overrides = {"serving.grpc": "127.0.0.1:0", "serving.http": "127.0.0.1:0"}
    with FeatureStore(folder, overrides=overrides) as fs:
        fs.apply()
        fs.materialize()
        amount, plan = "last_order:amount", "customer_profile:plan"
        assert fs.lineage.who_uses(amount).last_online == ()
        with ServerProcess.start(fs.settings) as server:
            with FeatureClient(server.grpc_target) as client:
                for _ in range(3):
                    client.get_online_features("offer_model", KEY)
                wait_until(lambda: bool(fs.lineage.who_uses(amount).last_online))
                (use,) = fs.lineage.who_uses(amount).last_online
                assert (use.environment, use.name) == ("prod", "offer_model")
                assert began_us < use.at_us <= SystemClock().now_us()
                assert fs.lineage.who_uses(amount, at=use.at_us - 1).last_online == ()
                assert fs.lineage.who_uses("service:offer_model").last_online == (use,)
                noted = 'featurestore_online_uses_total{result="noted"}'
                wait_until(lambda: metric(server, noted) == 1)

                # The same from the server's own counters.
                metrics = f"{server.http_url}/metrics"
                assert fs.lineage.who_uses(amount, metrics=metrics).lookups == 3
                asked = ["who-uses", amount, "--repo", str(folder)]
                assert run([*asked, "--metrics", metrics], debug=False) == 0
                printed = capsys.readouterr().out
                assert "3 rows since that server started" in printed
                assert "(service offer_model in prod)" in printed

                # A registry that this server may not write harms no request.
                token, _ = fs.create_token(
                    "reader", allow=["read:shop", "metrics:shop", "admin:shop"]
                )
                fs.registry.identity = Identity(author="ann", token=token)
                fs.set_access_control(True)
            with FeatureClient(server.grpc_target, token=token) as client:
                client.get_online_features([plan], KEY)
                failed = 'featurestore_online_uses_total{result="failed"}'
                wait_until(lambda: metric(server, failed, token) == 1)
                assert client.get_online_features([plan], KEY).to_dict()["plan"] == ["pro"]
        assert [use.name for use in fs.lineage.who_uses(plan).last_online] == ["offer_model"]
        # A view that is asked for by its features counts as well.
        fs.registry.note_uses("prod", {"views/customer_profile": use.at_us + 1})
        assert run(["who-uses", plan, "--repo", str(folder)], debug=False) == 0
        assert "(view customer_profile in prod and 1 more)" in capsys.readouterr().out

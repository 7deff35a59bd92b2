"""Push through every door of a running server: both gRPC servers, HTTP, clients, command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_push import make

from featurestore import AsyncFeatureClient, FeatureClient, FeatureStore
from featurestore.config import Settings, load_settings
from featurestore.errors import (
    InvalidRequest,
    InvalidRows,
    LimitExceeded,
    PermissionDenied,
    Unauthenticated,
    UnknownSource,
)
from featurestore.serving.serve import ServerProcess
from featurestore.timeline import SECOND_US, SystemClock
from featurestore.wire import serving_pb2 as pb

pytestmark = pytest.mark.slow


@dataclass
class Served:
    """A server of the repository of drivers, and who may push to it."""

    settings: Settings
    server: ServerProcess
    token: str

    def client(self, token: str | None = None) -> FeatureClient:
        target = self.server.grpc_target
        return FeatureClient(target, token=token or self.token, timeout_ms=20_000)

    def post(self, body: Any, token: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {token or self.token}"}
        url = f"{self.server.http_url}/v1/push"
        return httpx.post(url, json=body, headers=headers, timeout=20)

    def look(self, driver: str) -> Any:
        with self.client() as client:
            answer = client.get_online_features("scoring", [{"driver": driver}]).to_dict()
        return answer["trips"][0]


@pytest.fixture(scope="module")
def grpcio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two workers on grpcio."""
    with serve(tmp_path_factory.mktemp("grpcio"), "grpcio", workers=2) as found:
        yield found


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One process on the native door."""
    with serve(tmp_path_factory.mktemp("native"), "native", workers=1) as found:
        yield found


@pytest.fixture(scope="module", params=["grpcio", "native"])
def served(request: pytest.FixtureRequest) -> Served:
    found: Served = request.getfixturevalue(request.param)
    return found


@contextmanager
def serve(folder: Path, door: str, *, workers: int) -> Iterator[Served]:
    make(folder).fs.close()
    overrides = {
        "serving.grpc": "127.0.0.1:0",
        "serving.http": "127.0.0.1:0",
        "serving.grpc_door": door,
        "serving.workers": workers,
        "offline.threads": 1,
        "push.rows_per_push_max": 1_000,
    }
    with FeatureStore(folder) as fs:
        project = fs.settings.project.name
        root, _ = fs.create_token("root", allow=["*:*"])
        token, _ = fs.create_token("pusher", allow=[f"push:{project}/trips", f"read:{project}"])
    with FeatureStore(folder, overrides={"security.token": root}) as fs:
        fs.set_access_control(True)
    settings = load_settings(folder, overrides={**overrides, "security.token": root})
    with ServerProcess.start(settings) as server:
        found = Served(settings, server, token)
        wait_until_ready(found, root)
        yield found


def wait_until_ready(served: Served, root: str) -> None:
    """Until all workers have opened what pushes need, before anybody has pushed."""
    url, headers = f"{served.server.http_url}/metrics", {"authorization": f"Bearer {root}"}
    deadline = time.monotonic() + 60
    while True:
        text = httpx.get(url, headers=headers, timeout=20).text
        assert "featurestore_pushed_rows_total{" not in text
        if "featurestore_push_ready 1.0" in text:
            return
        assert time.monotonic() < deadline, text
        time.sleep(0.1)


def row(driver: str, trips: Any, **more: Any) -> dict[str, Any]:
    at = datetime.now(UTC).replace(microsecond=0)
    return {"driver": driver, "at": at, "trips": trips, "rating": 1.5} | more


class TestGrpc:
    @pytest.mark.parametrize("form", ["dicts", "columns", "pandas", "arrow"])
    def test_every_form_of_rows(self, served: Served, form: str) -> None:
        rows = [row(f"grpc-{form}", 7), row("other", None)]
        given: Any = {
            "dicts": rows,
            "columns": {name: [one[name] for one in rows] for name in rows[0]},
            "pandas": pd.DataFrame(rows),
            "arrow": pa.Table.from_pylist(rows),
        }[form]
        with served.client() as client:
            result = client.push("trips", given)
        assert (result.rows, result.dead, result.waiting_views) == (2, (), ("busy",))
        assert served.look(f"grpc-{form}") == 7

    async def test_the_client_for_asyncio(self, served: Served) -> None:
        async with AsyncFeatureClient(served.server.grpc_target, token=served.token) as client:
            assert (await client.push("trips", [row("async", 3)])).rows == 1
            batches = [[row("async", n)] for n in (4, 5)]
            answers = [a async for a in client.stream_push("trips", batches)]
        assert [answer.rows for answer in answers] == [1, 1]
        assert served.look("async") in (4, 5)

    def test_a_stream_answers_in_order_and_goes_on_after_errors(self, served: Served) -> None:
        batches: list[Any] = [[row("s", 1)], [row("s", "x")], [row("s", 2), row("t", 3)], [7]]
        with served.client() as client:
            answers = list(client.stream_push("trips", batches))
        assert [getattr(answer, "rows", type(answer)) for answer in answers] == [
            1, InvalidRows, 2, InvalidRows,
        ]  # fmt: skip

    def test_errors_come_as_they_are(self, served: Served) -> None:
        with served.client() as client:
            with pytest.raises(InvalidRows, match=r"row 1.*'trips' is int64") as caught:
                client.push("trips", [row("a", 1), row("a", 1.5)])
            assert (caught.value.source, caught.value.column, caught.value.row) == (
                "trips", "trips", 1,
            )  # fmt: skip
            with pytest.raises(LimitExceeded, match="rows_per_push_max = 1,000"):
                client.push("trips", [row("a", 1)] * 1_001)
            with pytest.raises(InvalidRequest, match="not int"):
                client.push("trips", 7)

    def test_permission_is_by_source(self, served: Served) -> None:
        with served.client() as client:
            with pytest.raises(PermissionDenied, match=r"push:.*/plain"):
                client.push("plain", [{"driver": "a", "at": 1, "id": 1, "place": "x"}])
            with pytest.raises(PermissionDenied):
                client.push("nothing", [{}])
        with served.client("fs_wrong") as client, pytest.raises(Unauthenticated):
            client.push("trips", [row("a", 1)])
        root = served.settings.security.token
        with served.client(root) as client, pytest.raises(UnknownSource, match="nothing"):
            client.push("nothing", [{}])

    def test_bytes_that_are_no_push(self, served: Served) -> None:
        with served.client() as client:
            for request, words in (
                (pb.PushRequest(source="trips"), "needs its rows"),
                (pb.PushRequest(source="trips", json=b"["), "not JSON"),
                (pb.PushRequest(source="trips", arrow=b"x"), "no Arrow IPC stream"),
            ):
                with pytest.raises(InvalidRequest, match=words):
                    client._call(client._push, request.SerializeToString(), None)


class TestHttp:
    def test_rows_and_dead_rows(self, served: Served) -> None:
        later = (SystemClock().now_us() + 60 * SECOND_US) // SECOND_US
        rows = [
            {"driver": "h", "at": "2026-01-01T00:00:00Z", "trips": 1, "rating": None},
            {"driver": "h", "at": datetime.fromtimestamp(later, UTC).isoformat(),
             "trips": 2, "rating": 0.5},
        ]  # fmt: skip
        answer = served.post({"source": "trips", "rows": rows})
        assert answer.status_code == 200
        body = answer.json()
        assert (body["rows"], body["dead_count"], body["dead"][0]["reason"]) == (1, 1, "not-due")
        assert body["waiting_views"] == ["busy"]

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"source": "trips", "rows": [{"driver": "a"}]}, 400, "invalid-rows"),
            ({"source": "trips"}, 400, "invalid-request"),
            ({"source": "trips", "rows": [], "more": 1}, 400, "invalid-request"),
            ({"source": "trips", "rows": [{}] * 1_001}, 400, "invalid-rows"),
            ({"source": "plain", "rows": [{"id": 1}]}, 403, "permission-denied"),
        ],
    )
    def test_errors(self, served: Served, body: Any, status: int, code: str) -> None:
        answer = served.post(body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)

    def test_metrics_and_audit(self, served: Served) -> None:
        served.post({"source": "trips", "rows": [{**row("m", 1), "at": "2026-01-01"}]})
        headers = {"authorization": f"Bearer {served.settings.security.token}"}
        text = httpx.get(f"{served.server.http_url}/metrics", headers=headers, timeout=20).text
        assert 'featurestore_pushed_rows_total{source="trips"}' in text
        assert 'featurestore_push_seconds_bucket{le="+Inf",source="trips"}' in text
        with FeatureStore(served.settings) as fs:
            noted = [entry for entry in fs.audit_log() if entry["action"] == "push"]
        assert {(entry["who"], entry["resource"]) for entry in noted} >= {("token:pusher", "trips")}


class TestCommandLine:
    def run(
        self, native: Served, *arguments: str, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "featurestore", *arguments]
        token = {"FEATURESTORE__SECURITY__TOKEN": native.settings.security.token}
        return subprocess.run(
            command, cwd=native.settings.root, input=text, text=True, capture_output=True,
            env={**os.environ, **token}, check=False,
        )  # fmt: skip

    def test_lines_from_standard_input(self, native: Served) -> None:
        at = datetime.now(UTC).isoformat()
        lines = [{"driver": f"cli{n}", "at": at, "trips": n, "rating": None} for n in (1, 2)]
        text = "\n".join(map(json.dumps, lines))
        done = self.run(native, "push", "trips", "-", text=text)
        assert (done.returncode, done.stdout) == (0, "2 rows pushed to trips\n"), done.stderr
        assert "busy will have them after: featurestore materialize" in done.stderr
        assert native.look("cli2") == 2

    def test_a_parquet_file_to_a_server_and_its_dead_letters(
        self, native: Served, tmp_path: Path
    ) -> None:
        late = datetime.now(UTC) + timedelta(days=365)
        table = pa.Table.from_pylist([row("file", 9), row("file", 10, at=late)])
        pq.write_table(table, tmp_path / "rows.parquet")
        target = ("--target", native.server.grpc_target, "--json")
        done = self.run(native, "push", "trips", str(tmp_path / "rows.parquet"), *target)
        told = {"source": "trips", "rows": 1, "dead": 1, "waiting_views": ["busy"]}
        assert json.loads(done.stdout) == told, done.stderr
        assert native.look("file") == 9
        shown = self.run(native, "dead-letters", "trips", "--newest", "1", "--json")
        (letter,) = json.loads(shown.stdout)
        assert (letter["reason"], json.loads(letter["row"])["trips"]) == ("not-due", 10)

    def test_what_is_wrong_is_said(self, native: Served, tmp_path: Path) -> None:
        done = self.run(native, "push", "trips", "-", text='{"driver": "a"}')
        assert done.returncode == 1
        assert "lacks column" in done.stderr
        done = self.run(native, "push", "trips", "-", text="{}\nnope")
        assert "line 2: not JSON" in done.stderr
        done = self.run(native, "push", "trips", str(tmp_path / "none.json"))
        assert "can't be read" in done.stderr


def test_offline_has_all_that_the_servers_acknowledged(served: Served) -> None:
    with served.client() as client:
        for number in range(20):
            client.push("trips", [row("every", number, known_at=None, rating=float(number))])
    with FeatureStore(served.settings) as fs:
        frame = fs.get_historical_features(
            "SELECT driver, TIMESTAMP '2999-01-01' AS event_timestamp FROM trips "
            "WHERE driver = 'every'",
            ["stats:trips"],
        )
        assert frame.to_arrow().num_rows == 20

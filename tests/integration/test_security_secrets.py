"""Planted secrets appear in nothing that we print, log, store, measure or answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import grpc
import httpx
import pytest
from patience import wait_for
from security_servers import Provider, lock, make_token, prepare

from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from featurestore.client import FeatureClient
from featurestore.config import OnlineSettings, SecuritySettings
from featurestore.errors import FeatureStoreError
from featurestore.serving.serve import ServerProcess
from featurestore.timeline import SystemClock

PLAIN = "Hunter2/p@ss:w?rd"
"""Has every character that means something in a URL."""
PASSWORD = quote(PLAIN, safe="")
TOKEN = "fs_PlantedTokenPlantedTokenPlantedTokenPlanted1"
AWS_KEY, AWS_SECRET = "AKIAPLANTEDPLANTED00", "PlantedS3SecretKey/0123456789+abcdefghij"
SECRETS = (PLAIN, PASSWORD, "Hunter2", TOKEN, TOKEN[3:], AWS_KEY, AWS_SECRET, "Planted")

ONLINE_URLS = (
    f"redis://me:{PASSWORD}@127.0.0.1:1/0",
    f"redis://:{PASSWORD}@127.0.0.1:1/0",
    f"rediss://me:{PASSWORD}@127.0.0.1:1/0?ssl_ca_certs=/nowhere.pem",
    f"redis+cluster://me:{PASSWORD}@127.0.0.1:1,127.0.0.1:2",
    f"redis+sentinel://me:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/main?sentinel_password={PASSWORD}",
    f"redis://me:{PLAIN}@127.0.0.1:1/0",  # not encoded, so that it is no URL
    f"nosuchstore://me:{PASSWORD}@h/0",
    f"me:{PASSWORD}@h/0",
    f"//me:{PASSWORD}@h/0",
)
REGISTRY_URLS = (
    f"postgresql://me:{PASSWORD}@127.0.0.1:1/db",
    f"postgresql://me@127.0.0.1:1/db?password={PASSWORD}",
    f"postgresql://me:{PASSWORD}@/db?host=127.0.0.1:1,127.0.0.1:2",
    f"postgresql://me:{PASSWORD}@127.0.0.1:1/db?sslmode=verify-full&sslpassword={PASSWORD}",
    f"postgresql://me:{PLAIN}@127.0.0.1:1/db",
    f"mysql://me:{PASSWORD}@127.0.0.1:1/db",
    f"nonsense://me:{PASSWORD}@h",
)

pytestmark = pytest.mark.slow


def told(text: str) -> list[str]:
    """The secrets in a text."""
    return [secret for secret in SECRETS if secret in text]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repos") / "my_shop"
    write_repository(folder, now_us=SystemClock().now_us())
    assert run(["apply", "--repo", str(folder)], debug=False) == 0
    return folder


LOOK_UP = ("get-online", "offer_model", "--entity", "customer_id:=1001")
COMMANDS = (("info", "--json"), (*LOOK_UP, "--debug"))


RUN_ALL = """
import contextlib, io, json, os, sys
from featurestore.cli.main import main
runs = json.loads(sys.stdin.read())
for environment, arguments in runs:
    os.environ.update(environment)
    try:
        main(arguments)
    except SystemExit as end:
        print("-- exit", end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for name in environment:
        del os.environ[name]
"""


def run_all(repo: Path, runs: Sequence[tuple[Mapping[str, str], Sequence[str]]]) -> str:
    """What these command lines print, each with its environment, in one process."""
    lines = [(environment, [*words, "--repo", str(repo)]) for environment, words in runs]
    planted = {
        "FEATURESTORE__SECURITY__TOKEN": TOKEN,
        "FEATURESTORE__ONLINE__TIMEOUT_MS": "100",
        "AWS_ACCESS_KEY_ID": AWS_KEY,
        "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
        input=json.dumps(lines),
        env=os.environ | planted,
    )
    return done.stdout + done.stderr


def test_no_command_tells_a_secret(repo: Path) -> None:
    online = [(url, command) for url in ONLINE_URLS for command in COMMANDS]
    online.append((ONLINE_URLS[0], ("materialize", "--json")))
    commands = (("info",), ("apply", "--debug"))
    registry = [(url, command) for url in REGISTRY_URLS for command in commands]
    runs = [({"FEATURESTORE__ONLINE__URL": url}, words) for url, words in online]
    runs += [({"FEATURESTORE__REGISTRY__URL": url}, words) for url, words in registry]
    printed = run_all(repo, runs)
    assert printed.count("-- exit 1") + printed.count("Traceback") >= len(runs) // 2
    assert [line for line in printed.splitlines() if told(line)] == []
    assert "***" in printed


BUCKET_DEFINITIONS = """
from featurestore import Entity, Feature, FeatureView, FileSource

customer = Entity("customer", join_keys={"customer_id": "int64"})
orders = FileSource("orders", path="s3://planted-bucket/orders.parquet", event_time="at")
order = FeatureView("order", entities=[customer], source=orders, features=[Feature("amount")])
"""


def test_no_key_of_a_bucket_is_told(tmp_path: Path) -> None:
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "shop"\n')
    (tmp_path / "definitions.py").write_text(BUCKET_DEFINITIONS)
    endpoints = ("http://127.0.0.1:1", f"http://me:{PASSWORD}@127.0.0.1:1")
    printed = run_all(
        tmp_path,
        [
            ({"FEATURESTORE__OFFLINE__S3_ENDPOINT": endpoint}, words)
            for endpoint in endpoints
            for words in (("plan", "--debug"), ("info", "--json"))
        ],
    )
    assert "127.0.0.1:1" in printed
    assert "holds no password" in printed or "credentials come from the environment" in printed
    assert [line for line in printed.splitlines() if told(line)] == []


def test_wrong_settings_are_refused_without_their_values(repo: Path) -> None:
    wrong = ({"FEATURESTORE__SECURITY__TOKENN": TOKEN}, {"FEATURESTORE__ONLINE__PASSWORD": PLAIN})
    printed = run_all(repo, [(environment, ("info", "--json")) for environment in wrong])
    assert printed.count("-- exit 1") == len(wrong)
    assert told(printed) == []


PATHS = ("/metrics", "/v1/services", "/readyz", "/healthz", "/docs", "/openapi.json")


@dataclass
class Running:
    server: ServerProcess
    root: str
    jwt: str
    folder: Path
    log: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose store is away, in processes of its own, with its log in a file."""
    folder = tmp_path_factory.mktemp("served")
    provider = Provider()
    (folder / "keys.json").write_text(provider.jwks())
    settings = prepare(folder, workers=2, log_format="json")
    root = lock(settings)
    settings = replace(
        settings,
        online=OnlineSettings(url=ONLINE_URLS[0], timeout_ms=200),
        security=SecuritySettings(
            token=TOKEN,
            log_reads=True,
            jwt_issuer="https://login.example.org/",
            jwt_audience="featurestore",
            jwt_jwks="keys.json",
        ),
    )
    log = folder / "log.jsonl"
    saved = os.dup(2)
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
        try:
            server = ServerProcess.start(settings)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    with server:
        yield Running(server, root, provider.sign(), folder, log)


def test_a_server_tells_no_secret(running: Running) -> None:
    answers = []
    url = running.server.http_url
    reader = make_token(prepare_settings(running), running.root, "reader", "read:served/model")
    bodies = [{"feature_service": "model", "entities": {"airport": ["EWR"]}}, {"x": TOKEN}]
    headers = [
        {},
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {running.root}"},
        {"authorization": f"Bearer {running.jwt}"},
        {"authorization": f"Bearer {running.jwt}x"},
        {"authorization": f"Bearer {reader}"},
    ]
    for header in headers:
        answers += [httpx.get(url + path, headers=header, timeout=30).text for path in PATHS]
        for body in bodies:
            path = "/v1/online-features"
            answers.append(httpx.post(url + path, json=body, headers=header, timeout=30).text)
    for token in (TOKEN, running.root, running.jwt, f"{running.jwt}x", reader):
        with FeatureClient(running.server.grpc_target, token=token, timeout_ms=5_000) as client:
            for call in (
                lambda client=client: client.get_online_features("model", {"airport": ["EWR"]}),
                lambda client=client: client.get_online_features([TOKEN], {"airport": ["EWR"]}),
                lambda client=client: client.get_serving_info(),
            ):
                try:
                    call()
                except FeatureStoreError as error:
                    answers += [str(error), json.dumps(error.details, default=str)]
                    cause = error.__cause__
                    assert isinstance(cause, grpc.RpcError)
                    answers.append(str(cause.code()))
    wait_for(lambda: '"event": "read"' in running.log.read_text())
    own = (running.root, running.jwt, reader, running.jwt.split(".")[2])
    shown = "\n".join(answers)
    assert told(shown) == []
    assert [token for token in own if token in shown] == []
    log = running.log.read_text()
    assert '"event": "request denied"' in log
    assert [token for token in own if token in log] == []
    assert told(log) == []


def prepare_settings(running: Running):  # type: ignore[no-untyped-def]
    from featurestore.testing.served import served_settings

    return served_settings(running.folder)


def test_no_process_has_a_secret_in_its_title_nor_the_registry_in_its_rows(
    running: Running,
) -> None:
    todo, titles = [running.server.process.pid], []
    while todo:
        pid = todo.pop()
        titles.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        for task in Path(f"/proc/{pid}/task").iterdir():
            todo += map(int, (task / "children").read_text().split())
    assert len(titles) == 3
    own = (*SECRETS, running.root)
    assert [secret for secret in own for title in titles if secret in title] == []
    stored = b"".join(path.read_bytes() for path in running.folder.glob("registry.db*"))
    assert [secret for secret in own if secret.encode() in stored] == []

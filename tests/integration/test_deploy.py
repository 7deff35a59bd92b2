"""What `docker-compose.yml` and `deploy/` say is so: their files, settings, commands and metrics
are there; and the same processes, without Docker, feed the dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from free_ports import free_port
from hostile import BODY, PLAN, VIEW, Served
from patience import wait_for
from postgres_servers import postgres_server
from redis_servers import RedisServer, valkey_binary

from featurestore.cli.main import app
from featurestore.config import ENVIRONMENT_PREFIX, Settings, load_settings
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.metrics import Metrics
from featurestore.serving.serve import ServerProcess
from featurestore.testing.served import publish_plans
from featurestore.timeline import SystemClock

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DASHBOARD: dict[str, Any] = json.loads(
    (DEPLOY / "grafana/dashboards/featurestore.json").read_text()
)
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
}


def series() -> dict[str, set[str]]:
    """The labels of every time series that we have, by its name."""
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    registry = Metrics()._registry
    for family in registry.collect():
        collector: Any = registry._names_to_collectors[family.name]
        ours = {*collector._labelnames, "job", "instance"}
        match family.type:
            case "counter":
                found[f"{family.name}_total"] = ours
            case "histogram":
                found |= {f"{family.name}_{part}": ours for part in ("sum", "count")}
                found[f"{family.name}_bucket"] = {*ours, "le"}
            case _:
                found[family.name] = ours
    return found


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_metrics_and_labels_are_ours(name: str) -> None:
    known, expression = series(), EXPRESSIONS[name]
    used = re.findall(r"\b(featurestore_\w+|up)\b(?:\{([^}]*)\})?", expression)
    assert used
    grouped = {
        label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")
    }
    for metric, selector in used:
        assert metric in known
        assert {*re.findall(r"(\w+)\s*=", selector), *grouped} <= known[metric]


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(EXPRESSIONS.values())
    for family in Metrics()._registry.collect():
        assert family.name in shown


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) > 8
    sources = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]
    assert sources[0]["url"] == "http://prometheus:9090"
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == sources[0]["uid"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    providers = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/featurestore.yml").read_text()
    )["providers"]
    assert (
        f"./deploy/grafana/dashboards:{providers[0]['options']['path']}:ro"
        in (SERVICES["grafana"]["volumes"])
    )


def test_every_alert_says_what_and_how_bad() -> None:
    assert len(RULES) > 5
    for rule in RULES:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize("name", SERVICES)
def test_services(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].rpartition(":")
    assert image
    assert tag != "latest"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "nothing is published to other machines"
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    for needed in service.get("depends_on", ()):
        assert needed in SERVICES


def test_the_server_s_settings_and_command_exist(tmp_path: Path) -> None:
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "shop"\n')
    server = SERVICES["server"]
    settings = load_settings(tmp_path, environ=server["environment"])
    assert settings.online.url == "redis://redis:6379/0"
    assert all(name.startswith(ENVIRONMENT_PREFIX) for name in server["environment"])
    command = re.search(r"exec featurestore (\w+)", server["command"][-1])
    assert command is not None
    root: Any = typer.main.get_command(app)
    assert command[1] in root.commands
    extras = re.search(r"/featurestore\[(.*?)\]", server["command"][-1])
    assert extras is not None
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in declared for extra in extras[1].split(","))
    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    port = settings.serving.http.rpartition(":")[2]
    assert job["static_configs"][0]["targets"] == [f"server:{port}"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The processes of docker-compose.yml on free ports: its variables, with real addresses."""
    root: Path = tmp_path_factory.mktemp("shop")
    (root / "featurestore.toml").write_text('[project]\nname = "served"\n')
    policy = SERVICES["redis"]["command"][1:]
    with postgres_server() as postgres, RedisServer(valkey_binary(), *policy) as valkey:
        environ = SERVICES["server"]["environment"] | {
            "FEATURESTORE__REGISTRY__URL": postgres.get_uri(),
            "FEATURESTORE__ONLINE__URL": valkey.url,
            "FEATURESTORE__SERVING__GRPC": "127.0.0.1:0",
            "FEATURESTORE__SERVING__HTTP": "127.0.0.1:0",
        }
        settings: Settings = load_settings(root, environ=environ)
        with open_registry(settings, clock=SystemClock(), author="test") as registry:
            publish_plans(registry, PLAN)
        with open_online_store(settings.online, root=root) as store:
            VIEW.write(store, {(7,): {"a": 22, "s": "x"}}, event_us=1)
        with ServerProcess.start(settings) as process:
            yield Served(process, "auto")


@pytest.mark.slow
def names_of_metrics(server: Served) -> set[str]:
    text = httpx.get(f"{server.process.http_url}/metrics").text
    return {line.partition("{")[0].partition(" ")[0] for line in text.splitlines()}


def test_the_same_processes_without_docker(running: Served) -> None:
    running.answers_right()
    # Nothing was shed, pushed or computed on demand, so that there is nothing of it to see yet.
    unseen = re.compile("up$|featurestore_(requests_shed|push|dead_letters|on_demand)")
    wanted = {name for name in series() if not unseen.match(name)}
    assert len(wanted) > 10
    wait_for(lambda: not wanted - names_of_metrics(running))  # a worker's counts come later
    check = SERVICES["server"]["healthcheck"]["test"][-1]
    path = re.search(r"127\.0\.0\.1:6567(/\w+)", check)
    assert path is not None
    assert httpx.get(running.process.http_url + path[1]).status_code == 200


@pytest.mark.full
class TestPrometheus:
    def binary(self, name: str) -> str:
        found = shutil.which(name)
        assert found, f"there is no {name}; install Debian's: apt-get install prometheus"
        return found

    def test_promtool_agrees(self) -> None:
        config = DEPLOY / "prometheus/prometheus.yml"
        for what in (["config", str(config)], ["rules", str(config.with_name("alerts.yml"))]):
            said = subprocess.run(
                [self.binary("promtool"), "check", *what],
                capture_output=True,
                text=True,
                check=False,
            )
            assert said.returncode == 0, said.stdout + said.stderr

    def test_it_scrapes_and_every_expression_has_an_answer(
        self, running: Served, tmp_path: Path
    ) -> None:
        shutil.copy(DEPLOY / "prometheus/alerts.yml", tmp_path)
        config = (DEPLOY / "prometheus/prometheus.yml").read_text()
        target = "{}:{}".format(*running.http)
        config = config.replace("server:6567", target).replace("15s", "1s")
        (tmp_path / "prometheus.yml").write_text(config)
        port = free_port()
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    self.binary("prometheus"),
                    f"--config.file={tmp_path / 'prometheus.yml'}",
                    f"--storage.tsdb.path={tmp_path / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
                env=os.environ,
            )
        try:
            self.ask_everything(running, f"http://127.0.0.1:{port}/api/v1", tmp_path / "log")
        finally:
            process.terminate()
            process.wait(20)

    def ask_everything(self, running: Served, api: str, log: Path) -> None:
        def value_of(expression: str) -> list[Any]:
            said = httpx.get(f"{api}/query", params={"query": expression})
            if said.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                return []  # it listens before it has opened its storage
            answer = said.json()
            assert answer["status"] == "success", (expression, answer)
            found: list[Any] = answer["data"]["result"]
            return found

        until = time.monotonic() + 60
        while True:
            httpx.post(f"{running.process.http_url}/v1/online-features", json=BODY)
            try:
                if value_of('rate(featurestore_requests_total{door="http",code="200"}[1m]) > 0'):
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        for expression in EXPRESSIONS.values():
            value_of(expression)
        (up,) = value_of('up{job="featurestore"}')
        assert up["value"][1] == "1"
        groups = httpx.get(f"{api}/rules").json()["data"]["groups"]
        rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
        assert set(rules) == {rule["alert"] for rule in RULES}
        assert rules["FeatureServerNotReady"]["state"] == "inactive"

"""What the command line prints for a new repository, word for word (`--update-golden` renews it).

Digests are masked: they say which definition it is, not how it is shown.
"""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import pytest

from featurestore.cli.init import write_repository
from featurestore.cli.main import run
from featurestore.store import FeatureStore
from featurestore.timeline import to_us

GOLDEN = Path(__file__).parent / "cli"
NOW_US = to_us("2026-11-23T08:00:00Z")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repos") / "my_shop"
    write_repository(folder, now_us=NOW_US)
    return folder


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("applied") / "my_shop"
    write_repository(folder, now_us=NOW_US)
    with FeatureStore(folder) as store:
        store.apply()
    return folder


def check(name: str, text: str, request: pytest.FixtureRequest) -> None:
    """Compare `text` with the golden file `name`."""
    text = re.sub(r"\b[0-9a-f]{8}([0-9a-f]{56})?\b", "########", text)
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden", default=False):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("plan", ["plan"], 2),
        ("plan_markdown", ["plan", "--markdown"], 2),
        ("list_entities", ["list", "entities"], 0),
        ("list_sources", ["list", "sources"], 0),
        ("list_views", ["list", "views"], 0),
        ("list_services", ["list", "services"], 0),
        ("describe_source", ["describe", "sources", "shop_days"], 0),
        ("describe_view", ["describe", "views", "last_order"], 0),
        ("describe_view_json", ["describe", "views", "last_order", "--json"], 0),
        ("describe_service", ["describe", "services", "offer_model"], 0),
    ],
)
def test_printed(
    name: str,
    arguments: list[str],
    status: int,
    *,
    repo: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    assert run([*arguments, "--repo", str(repo)], debug=False) == status
    check(name, capsys.readouterr().out, request)


def test_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    write_repository(tmp_path / "shop", now_us=NOW_US)
    features = tmp_path / "shop" / "features.py"
    text = features.read_text(encoding="utf-8").replace('Feature("amount")', 'Feature("amont")')
    features.write_text(text.replace('ttl="3d"', 'ttl="3 dayz"'), encoding="utf-8")
    assert run(["plan", "--repo", str(tmp_path / "shop")], debug=False) == 1
    check("errors", capsys.readouterr().err, request)


def test_a_training_set(
    repo: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    arguments = ["get-historical", "-e", str(repo / "visits.csv"), "-f", "offer_model"]
    options = ["--include-status", "--rows", "5", "--repo", str(repo)]
    assert run([*arguments, *options], debug=False) == 0
    check("get_historical", capsys.readouterr().out, request)


ENVIRONMENTS = (
    ("env_list", ["list"], 0),
    ("env_list_json", ["list", "--json"], 0),
    ("env_diff", ["diff", "prod", "pr-12"], 2),
    ("env_promote", ["promote", "prod", "pr-12", "--reason", "try it"], 0),
    ("env_promote_again_json", ["promote", "prod", "pr-12", "--json"], 0),
    ("env_rollback_nowhere", ["rollback", "pr-12"], 1),
    ("env_delete", ["delete", "pr-12"], 0),
)
"""In this order: one makes what the next one finds."""


def test_environments(
    applied: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    for name, arguments, status in ENVIRONMENTS:
        assert run(["env", *arguments, "--repo", str(applied)], debug=False) == status
        said = capsys.readouterr()
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<instant>", said.out or said.err)
        text = re.sub(r"(?<=\S) {2,}", "  ", text)  # a column is as wide as the user's name
        check(name, text.replace(getpass.getuser(), "<user>"), request)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("impact", ["impact", "orders.refused"]),
        ("impact_json", ["impact", "orders.refused", "--json"]),
        ("impact_nothing", ["impact", "orders.order_id"]),
        ("who_uses", ["who-uses", "last_order:amount"]),
        ("lineage_up", ["lineage", "offer_model"]),
        ("lineage_down", ["lineage", "orders.refused", "--down"]),
        ("lineage_json", ["lineage", "shop:refused_share", "--depth", "1", "--json"]),
        ("diff", ["diff", "env/prod@2020-01-01"]),
        ("history", ["history", "env/prod"]),
        ("blast", ["blast", "orders", "--start", "2026-11-01"]),
    ],
)
def test_lineage(
    name: str,
    arguments: list[str],
    *,
    applied: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    assert run([*arguments, "--repo", str(applied)], debug=False) == 0
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<instant>", capsys.readouterr().out)
    check(name, text.replace(getpass.getuser(), "<user>"), request)

"""The HTTP door is what its OpenAPI description says: schemathesis tries it on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import Served, served

EXAMPLES = os.environ.get("FEATURESTORE_TEST_OPENAPI_EXAMPLES", "40")
HOOKS = Path(__file__).with_name("openapi_hooks.py")
ALWAYS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("served")
    with served(root) as running:
        yield running


def schemathesis(server: Served, folder: Path, *options: str, **environment: str) -> str:
    command = Path(sys.executable).with_name("schemathesis")
    ended = subprocess.run(
        [
            *(command, "run", f"{server.process.http_url}/openapi.json", "--mode", "all"),
            *("--max-examples", EXAMPLES, "--seed", "1", "--no-color", "--request-timeout", "30"),
            *options,
        ],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_every_check_on_every_path(server: Served, tmp_path: Path) -> None:
    """Valid requests are taken, invalid ones refused, and both are answered as described."""
    said = schemathesis(server, tmp_path, "--checks", "all")
    assert "6 selected / 6 total" in said
    server.answers_right()


def test_requests_for_a_service_that_is_there(server: Served, tmp_path: Path) -> None:
    before = server.metric("featurestore_requests_total", door="http", code="200")
    schemathesis(server, tmp_path, "--checks", ALWAYS, SCHEMATHESIS_HOOKS=str(HOOKS))
    assert server.metric("featurestore_requests_total", door="http", code="200") > before + 3
    server.answers_right()

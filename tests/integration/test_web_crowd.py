"""What a page asks the registry does not grow with the repository: counted, so that no machine is
too slow for it. (`benchmarks/bench_page.py` takes the times, at 5,000 features.)"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from web_crowd import Size, crowd

from featurestore.config import load_settings
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.web.app import build_app
from featurestore.web.graph import NODES_MAX
from featurestore.web.site import Site

pytestmark = pytest.mark.slow

SMALL = Size(views=6, ledger_runs=2, sets=3, runs=3, models=3)
LARGE = Size(views=32, ledger_runs=40, sets=40, runs=20, models=30)
PATHS = (
    "/", "/?q=view1", "/?kind=feature", "/views/view1", "/services/service0", "/sources/source0",
    "/entities/user", "/lineage", "/training-sets", "/training-sets/set0", "/runs", "/models",
    "/models/model0", "/plan", "/api/search?q=view1", "/api/graph", "/api/graph?focus=view:view1",
    "/api/graph?features=true", "/api/freshness?service=service0", "/api/models", "/api/plan",
    "/api/training-sets", "/api/lineage?target=view1:view1_1", "/api/who-uses?target=view1:view1_1",
    "/api/impact?target=source0.number1", "/api/history?alias=env/prod", "/api/promotions",
)  # fmt: skip
MORE_MAX = 3
"""Statements that a larger repository may take more: ids go in chunks."""


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that is executed meanwhile."""
    said: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def counted(folder: Path) -> dict[str, int]:
    """The statements of each page, once it has been shown before."""
    found = {}
    with Site(load_settings(folder)) as site:
        client = TestClient(build_app(site, hosts=("*",)))
        for path in PATHS:
            client.get(path)
            with statements() as said:
                answer = client.get(path)
            assert answer.status_code == 200, path
            found[path] = len(said)
    return found


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crowd(tmp_path_factory.mktemp("large") / "repo", LARGE)


def test_pages_ask_as_often_in_a_large_repository(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(tmp_path / "repo", SMALL)
    # The whole ledger grows for ever; what pages want of it is the newest run of each table.
    monkeypatch.delattr(SqlRegistry, "ledger")
    monkeypatch.setattr(SqlRegistry, "__abstractmethods__", frozenset())
    few, many = counted(tmp_path / "repo"), counted(large)
    assert min(few.values()) > 0  # each asks who may come in
    grown = {path: (few[path], many[path]) for path in PATHS}
    assert {p: n for p, n in grown.items() if n[1] > n[0] + MORE_MAX} == {}


def test_a_large_graph_is_cut_and_says_so(large: Path) -> None:
    with Site(load_settings(large)) as site:
        client = TestClient(build_app(site, hosts=("*",)))
        graph = client.get("/api/graph", params={"features": True}).json()
        assert len(graph["nodes"]) == NODES_MAX
        features, others = 320, 32 + 4 + 4 + 1 + 4 + 21 + 10
        assert graph["hidden"] == features + others - NODES_MAX
        near = client.get("/api/graph", params={"focus": "view31"}).json()
        assert {"source:source3", "view:view31"} <= {node["id"] for node in near["nodes"]}
        assert near["hidden"] == 0

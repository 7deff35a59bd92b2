"""The page in a real Chromium (Debian's): no console errors, the graph, search, keys, an approval.

`SCREENSHOTS=folder` also keeps the pictures that the README shows.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect, sync_playwright
from web_servers import Filled, fill, served_page

from featurestore import FeatureStore
from featurestore.cli.demo.walk import prepare_data
from featurestore.example.location import copy_repository

pytestmark = [pytest.mark.full, pytest.mark.slow]

SCREENSHOTS = os.environ.get("SCREENSHOTS", "")


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium")
    assert found, "there is no chromium; install Debian's: apt-get install chromium"
    return found


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    """A page that fails the test for whatever its console says."""
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        made = browser.new_page(viewport={"width": 1280, "height": 860})
        made.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        made.on("pageerror", lambda error: said.append(f"error: {error}"))
        made.on("requestfailed", lambda request: said.extend(failed(request)))
        yield made
        browser.close()
    assert said == []


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return fill(tmp_path_factory.mktemp("page") / "repo")


def failed(request: Request) -> list[str]:
    """What a failed request says. One that its own page gave up, by leaving or closing, says
    nothing: a browser fetches the icon when it has time, which may be in the middle of a click."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"{request.failure}: {request.url}"]


@contextmanager
def served(page: Page, folder: Path) -> Iterator[str]:
    """The address of a repository's page, until the browser has closed it: a server that stopped
    earlier would refuse what the browser still fetches."""
    with served_page(folder) as url:
        yield url
        page.close()


def wait_until(page: Page, true: str) -> None:
    """Until an expression holds. (Playwright's own wait evaluates text inside the page, which the
    page's content security policy forbids.)"""
    until = time.monotonic() + 60
    while not page.evaluate(true):
        assert time.monotonic() < until, true
        time.sleep(0.1)


def shoot(page: Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


class TestPages:
    def test_every_page_opens_and_says_nothing_to_the_console(
        self, page: Page, filled: Filled
    ) -> None:
        with served(page, filled.folder) as url:
            page.goto(url)
            for name in ("Lineage", "Training sets", "Runs", "Models", "Plan", "Catalogue"):
                page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
                page.wait_for_load_state("networkidle")
                expect(page.get_by_role("heading", level=1)).to_have_text(name)
            for path in ("/views/load", "/views/pace", "/services/quick", "/sources/parcels",
                         "/entities/depot", "/training-sets/parcels", f"/runs/{filled.run}",
                         "/models/late"):  # fmt: skip
                answer = page.goto(url + path)
                assert answer is not None
                assert answer.ok, path
                page.wait_for_load_state("networkidle")
            shoot(page, "model")

    def test_search_follows_the_typing_by_keyboard_alone(self, page: Page, filled: Filled) -> None:
        with served(page, filled.folder) as url:
            page.goto(url)
            page.keyboard.press("/")
            expect(page.locator("#search")).to_be_focused()
            page.keyboard.type("per_hour")
            results = page.locator("#results tbody tr")
            expect(results).to_have_count(1)
            page.keyboard.press("Enter")
            expect(page.locator("#results")).to_contain_text("load__weight / hurry__hours")
            results.get_by_role("link").first.focus()
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", level=1)).to_contain_text("pace")
            # The hostile description is text: no element came of it, and nothing ran.
            assert page.locator("main img").count() == 0

    def test_an_approval_goes_through(self, page: Page, filled: Filled, tmp_path: Path) -> None:
        own = Path(shutil.copytree(filled.folder, tmp_path / "repo"))
        with served(page, own) as url:
            page.goto(f"{url}/models")
            page.get_by_role("link", name="late/2").click()
            request = page.locator(f"[id='{filled.request}']")
            request.get_by_label("As").fill("bob")
            request.get_by_label("Why").fill("it is better")
            request.get_by_role("button", name="Approve").click()
            expect(page.locator(f"[id='{filled.request}']")).to_contain_text("APPLIED")
        with FeatureStore(own) as store:
            assert store.models.get("late/production").ref == "late/2"

    def test_a_narrow_window_shows_all_of_a_page(self, page: Page, filled: Filled) -> None:
        page.set_viewport_size({"width": 600, "height": 860})
        with served(page, filled.folder) as url:
            for path in ("/", "/views/load", "/runs", "/models/late", "/training-sets/parcels"):
                page.goto(url + path)
                page.wait_for_load_state("networkidle")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path

    def test_everything_comes_from_the_page_s_own_server(self, page: Page, filled: Filled) -> None:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        with served(page, filled.folder) as url:
            for path in ("/", "/lineage", "/runs", "/models"):
                page.goto(url + path)
                page.wait_for_load_state("networkidle")
            assert len(asked) > 4
            assert [each for each in asked if not each.startswith(url)] == []

    def test_the_graph_is_filtered_by_kind_and_focused_by_keyboard(
        self, page: Page, filled: Filled
    ) -> None:
        with served(page, filled.folder) as url:
            page.goto(f"{url}/lineage")
            page.wait_for_selector("body[data-drawn]")
            runs = "drawing.nodes().filter((node) => node.data('kind') === 'run').length"
            assert page.evaluate(runs) == 2
            page.get_by_label("run", exact=True).uncheck()
            wait_until(page, f"{runs} === 0")
            page.get_by_label("Focus").focus()
            page.keyboard.type("late_mo")
            wait_until(page, "document.querySelector('#graph-names option') !== null")
            option = page.locator("#graph-names option").first
            assert option.get_attribute("value") == "service:late_model"
            page.keyboard.type("del")
            page.keyboard.press("Enter")
            wait_until(page, "drawing.nodes('.focus').length === 1")
            assert page.evaluate("drawing.nodes('.focus')[0].id()") == "service:late_model"


class TestExample:
    def test_the_graph_shows_the_example_repository(self, page: Page, tmp_path: Path) -> None:
        folder = tmp_path / "flights"
        copy_repository(folder)
        prepare_data(folder)
        with FeatureStore(folder) as store:
            store.apply()
            repo = store.repo
        with served(page, folder) as url:
            page.goto(url)
            shoot(page, "catalogue")
            page.goto(f"{url}/lineage")
            page.wait_for_selector("body[data-drawn]")
            drawn = set(page.evaluate("drawing.nodes().map((node) => node.id())"))
            assert {f"view:{name}" for name in repo.views} <= drawn
            assert {f"service:{name}" for name in repo.services} <= drawn
            assert {f"source:{name}" for name in repo.sources} <= drawn
            assert {f"on_demand_view:{name}" for name in repo.on_demand} <= drawn
            shoot(page, "lineage")
            zoom = page.evaluate("drawing.zoom()")
            page.get_by_role("button", name="Zoom in").click()
            assert page.evaluate("drawing.zoom()") > zoom
            links = page.evaluate("drawing.edges().length")
            page.get_by_label("DIRECT only").check()
            wait_until(page, f"drawing.edges().length < {links}")
            page.get_by_label("Focus").fill("service:gate_board")
            page.keyboard.press("Tab")
            wait_until(page, "drawing.getElementById('service:delay_model').empty()")
            view = next(iter(use.name for use in repo.services["gate_board"].uses))
            page.evaluate(f"drawing.getElementById('view:{view}').emit('tap')")
            expect(page.get_by_role("heading", level=1)).to_contain_text(view)

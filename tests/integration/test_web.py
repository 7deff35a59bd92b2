"""The page over HTTP: what it shows, what it escapes, who may come in and press buttons."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from web_servers import HOSTILE, Filled, fill, mark_of, served_page

from featurestore import FeatureStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return fill(tmp_path_factory.mktemp("page") / "repo")


@pytest.fixture(scope="module")
def page(filled: Filled) -> Iterator[httpx.Client]:
    with served_page(filled.folder) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def own(filled: Filled, tmp_path: Path) -> Path:
    """A copy of the repository, to change."""
    return Path(shutil.copytree(filled.folder, tmp_path / "repo"))


class TestShowing:
    @pytest.mark.parametrize(
        ("path", "holds"),
        [
            ("/", ["load", "pace", "ops@example.org", "team: ops", "late_model", "quick"]),
            ("/?q=weight", ["load.weight", "pace.per_hour", "load__weight / hurry__hours"]),
            ("/?q=nothing-like-it", ["Nothing here holds"]),
            ("/?kind=service", ["quick", "What a quick answer needs"]),
            ("/views/load", ["weight", "float64", "<svg", "Used by", "late_model", "Versions"]),
            ("/views/pace", ["per_hour", "hurry"]),
            ("/services/late_model", ["load", "weight, count, far"]),
            ("/sources/parcels", ["data/parcels.parquet", "Columns", "late"]),
            ("/entities/depot", ["int64", "load"]),
            ("/lineage", ["graph.js", "cytoscape"]),
            ("/training-sets", ["parcels", "600", "newest"]),
            ("/training-sets/parcels", ["Reproduce", "test", "Made of", "<svg", "weight"]),
            ("/runs", ["C1", "C2", "FINISHED", "auc"]),
            ("/models", ["Waiting for a decision", "late/2", "late/1"]),
            ("/models/late", ["Approve", "better", "production", "complete"]),
            ("/plan", ["The environment has what the repository says"]),
            ("/sign-in", ["Token"]),
        ],
    )
    def test_pages(self, page: httpx.Client, path: str, holds: list[str]) -> None:
        answer = page.get(path)
        assert answer.status_code == 200, answer.text
        for text in holds:
            assert text in answer.text, text

    def test_a_run_and_two_beside_each_other(self, page: httpx.Client, filled: Filled) -> None:
        answer = page.get(f"/runs/{filled.run}")
        assert answer.status_code == 200
        for text in ("FINISHED", "Learned from", "parcels", "<polyline", "loss"):
            assert text in answer.text
        runs = page.get("/api/runs").json()
        named = [one["run_id"] for one in runs]
        both = page.get("/runs-compared", params={"run": named})
        assert both.status_code == 200
        assert "Parameters" in both.text
        assert both.text.count("<polyline") == 2

    def test_searching_runs(self, page: httpx.Client) -> None:
        found = page.get("/runs", params={"search": "metrics.auc > 0.85"}).text
        assert "C2" in found
        assert "C1" not in found
        wrong = page.get("/runs", params={"search": "metrics.auc >> '; DROP TABLE run --"})
        assert wrong.status_code == 200
        assert 'role="alert"' in wrong.text
        assert len(page.get("/api/runs").json()) == 2

    @pytest.mark.parametrize(
        "path", ["/views/lod", "/models/x", "/runs/00", "/nowhere", "/training-sets/x"]
    )
    def test_what_is_not_there_is_404_with_a_page(self, page: httpx.Client, path: str) -> None:
        answer = page.get(path)
        assert answer.status_code == 404
        assert "To the catalogue" in answer.text

    def test_rebuilding_a_training_set(self, page: httpx.Client) -> None:
        mark = mark_of(page.get("/training-sets/parcels"))
        answer = page.post("/training-sets/parcels", data={"mark": mark})
        assert answer.status_code == 200
        assert "EXACT" in answer.text

    def test_the_graph(self, page: httpx.Client) -> None:
        graph = page.get("/api/graph").json()
        ids = {node["id"] for node in graph["nodes"]}
        assert {"source:parcels", "view:load", "on_demand_view:pace", "service:quick"} <= ids
        assert {"training_set:parcels", "model:late"} <= ids
        assert not any(node["kind"] == "feature" for node in graph["nodes"])
        links = {(one["source"], one["target"]): one["transformation"] for one in graph["links"]}
        assert links["source:parcels", "view:load"] == "DIRECT"
        assert links["entity:depot", "view:load"] == "INDIRECT"
        direct = page.get("/api/graph", params={"direct": True}).json()
        assert {one["transformation"] for one in direct["links"]} == {"DIRECT"}

    def test_siblings_never_leak_into_a_focus(self, page: httpx.Client) -> None:
        asked = {"focus": "service:late_model"}
        ids = {node["id"] for node in page.get("/api/graph", params=asked).json()["nodes"]}
        assert "view:load" in ids
        assert "training_set:parcels" in ids
        assert not ids & {"service:quick", "on_demand_view:pace"}
        wrong = page.get("/api/graph", params={"focus": "service:late_modl"})
        assert wrong.status_code == 404
        assert "late_model" in wrong.json()["error"]["message"]


class TestFolder:
    def test_freshness_is_that_of_the_environment(self, own: Path) -> None:
        online = "lmdb:.featurestore/staging"
        elsewhere = {"project.environment": "staging", "online.url": online}
        with FeatureStore(own, overrides=elsewhere) as store:
            store.apply(serve_now=True)
        settings = {
            "FEATURESTORE__PROJECT__ENVIRONMENT": "staging",
            "FEATURESTORE__ONLINE__URL": online,
        }
        for named, fresh in (({}, True), (settings, False)):
            with served_page(own, **named) as url, httpx.Client(base_url=url, timeout=60) as page:
                assert ("Fresh until" in page.get("/views/load").text) == fresh
                assert bool(re.search(r"<time[^>]*>\d+ \w+ ago<", page.get("/").text)) == fresh

    def test_the_plan_and_who_acts_see_what_the_folder_says_now(self, own: Path) -> None:
        with served_page(own) as url, httpx.Client(base_url=url, timeout=60) as page:
            assert "has what the repository says" in page.get("/plan").text
            definitions = own / "definitions.py"
            text = definitions.read_text()
            definitions.write_text(
                text.replace('Feature("far")', 'Feature("far"), Feature("late")')
            )
            assert "feature load.late" in page.get("/plan").text
            with FeatureStore(own) as store:
                store.apply()
            assert "has what the repository says" in page.get("/plan").text
            assert "late" in page.get("/views/load").text
            definitions.write_text(text + "\nraise ValueError('half written')\n")
            assert "half written" in page.get("/plan").text

    def test_what_learned_from_an_older_version_stays_in_the_graph(self, own: Path) -> None:
        definitions = own / "definitions.py"
        text = definitions.read_text()
        definitions.write_text(text.replace('Feature("weight")', 'Feature("weight", "weight * 2")'))
        with FeatureStore(own) as store:
            store.apply(allow_production_impact="it is meant")
        with served_page(own) as url, httpx.Client(base_url=url, timeout=60) as page:
            graph = page.get("/api/graph", params={"focus": "load", "kind": ["model"]}).json()
            assert {node["id"] for node in graph["nodes"]} == {"view:load"}
            graph = page.get("/api/graph", params={"focus": "load:weight"}).json()
            ids = {node["id"] for node in graph["nodes"]}
            assert {"feature:load.weight", "training_set:parcels", "model:late"} <= ids


class TestQuestions:
    @pytest.mark.parametrize(
        ("path", "asked", "holds"),
        [
            ("/api/impact", {"target": "parcels.weight"}, "late_model"),
            ("/api/who-uses", {"target": "load:weight"}, "quick"),
            ("/api/lineage", {"target": "model/late", "direction": "up"}, "source:parcels"),
            ("/api/freshness", {"service": "late_model"}, "watermark"),
            ("/api/history", {"alias": "env/prod"}, "apply"),
            ("/api/diff", {"alias": "env/prod", "start": "2020-01-01"}, "env/prod"),
            ("/api/training-sets", {}, "row_digest"),
            ("/api/models", {"name": "late"}, "production"),
            ("/api/models/late/history", {}, "requester"),
            ("/api/promotions", {}, "PENDING_APPROVAL"),
            ("/api/plan", {}, "changes"),
        ],
    )
    def test_json(self, page: httpx.Client, path: str, asked: dict[str, str], holds: str) -> None:
        answer = page.get(path, params=asked)
        assert answer.status_code == 200, answer.text
        assert holds in answer.text
        assert answer.headers["content-type"] == "application/json"

    def test_erasing_and_collecting(self, page: httpx.Client) -> None:
        asked = {"entity": "depot", "keys": [{"depot": 7}]}
        found = page.post("/api/erase", json=asked)
        assert found.status_code == 200, found.text
        assert "training_set:parcels" in found.text
        wrong = page.post("/api/erase", json=asked | {"entity": "dept"})
        assert wrong.status_code == 400
        unfit = page.post("/api/erase", json={"entity": 1})
        assert unfit.status_code == 400
        assert unfit.json()["error"]["code"] == "invalid-request"
        assert "entity: Input should be a valid string; keys: Field required" in unfit.text
        assert page.get("/api/gc").status_code == 200
        past = page.get("/api/gc", params={"at": "2020-01-01"})
        assert (past.status_code, past.json()["error"]["code"]) == (400, "invalid-request")
        for foreign in ({}, {"data": {"mark": "x"}}, {"content": b"{}"}):
            answer = page.post("/api/gc", params={"older_than": "1s"}, **foreign)
            assert answer.status_code == 403
            assert "content-type: application/json" in answer.json()["error"]["message"]
        refused = page.post("/api/gc?older_than=1s", json={})
        assert refused.status_code == 400

    @pytest.mark.parametrize(
        ("path", "says"),
        [
            ("/api/impact", "target: Field required"),
            ("/api/lineage?target=load&direction=sideways", "direction: Input should be 'up' or"),
            ("/api/lineage?target=load&depth=many", "depth: Input should be a valid integer"),
            ("/api/lineage?target=load&depth=0", "a depth is 1 or more, not 0"),
        ],
    )
    def test_a_wrong_question_is_an_error_like_any_other(
        self, page: httpx.Client, path: str, says: str
    ) -> None:
        answer = page.get(path)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid-request"
        assert says in answer.json()["error"]["message"]

    def test_as_it_stood_before_anything_was(self, page: httpx.Client) -> None:
        answer = page.get("/api/models", params={"at": "2020-01-01"})
        assert answer.json() == []
        wrong = page.get("/api/impact", params={"target": "load", "at": "yesterday"})
        assert wrong.status_code == 400


class TestEscaping:
    def test_names_and_texts_are_text(self, page: httpx.Client) -> None:
        for path in ("/", "/views/pace"):
            text = page.get(path).text
            assert "<img" not in text.replace('<img src="/static', "")
            assert "&lt;img src=x" in text

    def test_what_is_searched_comes_back_escaped(self, page: httpx.Client) -> None:
        answer = page.get("/", params={"q": HOSTILE})
        assert HOSTILE not in answer.text
        assert "onerror=&#34;" in answer.text

    def test_headers(self, page: httpx.Client) -> None:
        headers = page.get("/").headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


class TestForms:
    def test_a_form_of_another_site_is_refused(self, page: httpx.Client, filled: Filled) -> None:
        for data in ({}, {"mark": "0" * 64}, {"mark": "é"}):
            answer = page.post(f"/promotions/{filled.request}/approve", data=data)
            assert answer.status_code == 403
        stolen = mark_of(page.get("/models/late"))
        with httpx.Client(base_url=page.base_url) as other:
            answer = other.post(f"/promotions/{filled.request}/approve", data={"mark": stolen})
            assert answer.status_code == 403

    def test_a_large_form_and_another_host(self, page: httpx.Client) -> None:
        assert page.post("/sign-out", content=b"a=" + b"b" * 70_000).status_code == 400
        assert page.get("/", headers={"host": "evil.example"}).status_code == 400

    def test_approval_by_a_button(self, own: Path, filled: Filled) -> None:
        with (
            served_page(own) as url,
            httpx.Client(base_url=url, timeout=60, follow_redirects=True) as client,
        ):
            data = {"mark": mark_of(client.get("/models/late")), "by": "ann", "reason": "mine"}
            refused = client.post(f"/promotions/{filled.request}/approve", data=data)
            assert refused.status_code == 409
            assert "nobody approves their own request" in refused.text
            done = client.post(f"/promotions/{filled.request}/approve", data=data | {"by": "bob"})
            assert done.status_code == 200
            assert "APPLIED" in done.text
        with FeatureStore(own) as store:
            assert store.models.get("late/production").ref == "late/2"

    def test_rejection_by_json(self, own: Path, filled: Filled) -> None:
        with served_page(own) as url, httpx.Client(base_url=url, timeout=60) as client:
            path = f"/api/promotions/{filled.request}/reject"
            done = client.post(path, json={"reason": "too late", "by": "bob"})
            assert done.status_code == 200
            assert done.json()["state"] == "REJECTED"
            again = client.post(path, json={"reason": "too late", "by": "bob"})
            assert again.status_code == 409


class TestAccess:
    def test_nobody_comes_in_without_a_token(self, own: Path, filled: Filled) -> None:
        with FeatureStore(own) as store:
            root, _ = store.create_token("root", allow=["*:parcels"])
        with FeatureStore(own, overrides={"security.token": root}) as store:
            store.set_access_control(True)
            reader, _ = store.create_token("reader", allow=["read:parcels"])
            chief, _ = store.create_token("chief", allow=["approve:parcels"])
        with (
            served_page(own) as url,
            httpx.Client(base_url=url, timeout=60, follow_redirects=True) as client,
        ):
            assert client.get("/api/graph").status_code == 401
            assert client.get("/models/late").url.path == "/sign-in"
            assert client.get("/static/style.css").status_code == 200

            def sign_in(token: str) -> httpx.Response:
                mark = mark_of(client.get("/sign-in"))
                form = {"mark": mark, "token": token, "next": "//evil.example/"}
                return client.post("/sign-in", data=form)

            wrong = sign_in("fs_wrong")
            assert wrong.status_code == 401
            assert "fs_wrong" not in wrong.text
            assert sign_in(reader).url.path == "/"
            form = {"mark": mark_of(client.get("/models/late")), "by": "somebody", "reason": "x"}
            denied = client.post(f"/promotions/{filled.request}/approve", data=form)
            assert denied.status_code == 403
            client.post("/sign-out", data={"mark": form["mark"]})
            assert client.get("/models/late").url.path == "/sign-in"
            sign_in(chief)
            form = {"mark": mark_of(client.get("/models/late")), "by": "ann", "reason": "good"}
            done = client.post(f"/promotions/{filled.request}/approve", data=form)
            assert "APPLIED" in done.text, done.text
            assert "token:chief" in done.text
            bearer = {"authorization": f"Bearer {reader}"}
            with httpx.Client(base_url=url, timeout=60, headers=bearer) as program:
                assert program.get("/api/models").status_code == 200
        with FeatureStore(own) as store:
            assert store.models.history("late")[-1].by == "token:chief"

"""Names and values that try to be something else: paths, SQL, other keys, terminal commands."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from hostile import Served, served
from pyarrow import int64, string

from featurestore import FeatureClient, FeatureStore
from featurestore.cli.main import run
from featurestore.errors import FeatureStoreError, InvalidRepository, InvalidSettings, RequestError
from featurestore.jobs.project import open_online_store
from featurestore.testing.served import ServedView, served_settings
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

NASTY = (
    "../../etc/passwd",
    "a/b",
    "'; DROP TABLE records; --",
    '" OR 1=1 --',
    "a\x00b",
    "a\nb",
    "\x1b[2J\x1b[31m",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "%s%n%x",
    "*?[a-z]{x}",
    "fs/other/id/",
    "<script>alert(1)</script>",
    "\u202egnp.exe",
    "x" * 5_000,
)
IDS = [ascii(text[:20]) for text in NASTY]
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource
user = Entity("user", join_keys={{"user": "string"}})
clicks = FileSource("clicks", path={path!r}, event_time="at")
view = FeatureView("view", entities=[user], source=clicks, features=[Feature({feature!r})])
service = FeatureService("service", features=[view])
"""


@pytest.mark.parametrize("name", NASTY, ids=IDS)
class TestNames:
    def test_of_definitions(self, make_repo: MakeRepo, name: str) -> None:
        lines = f"from featurestore import Entity\nuser = Entity({name!r})\n"
        with pytest.raises(InvalidRepository) as caught, FeatureStore(make_repo(lines)) as fs:
            fs.plan()
        assert "\x1b" not in str(caught.value)

    def test_of_projects_and_environments(self, make_repo: MakeRepo, name: str) -> None:
        repo = make_repo("")
        for key in ("project.name", "project.environment"):
            with pytest.raises(InvalidSettings):
                FeatureStore(repo, overrides={key: name}).plan()

    def test_of_files(self, make_repo: MakeRepo, name: str) -> None:
        """A path is a path: what does not exist is missing, whatever characters it has."""
        repo = make_repo(DEFINITIONS.format(path=f"data/{name}.parquet", feature="n"))
        with pytest.raises(FeatureStoreError), FeatureStore(repo) as fs:
            fs.plan()
        assert {path.name for path in repo.parent.iterdir()} == {"repo"}

    def test_of_arguments(
        self, make_repo: MakeRepo, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        repo = str(make_repo("from featurestore import Entity\nuser = Entity('user')\n"))
        for arguments in (
            ["describe", "views", name],
            ["get-online", name, "-e", f"{name}=1"],
            ["get-historical", "--features", name, "--entity-df", name],
            ["materialize", name],
        ):
            assert run([*arguments, "--repo", repo], debug=False) == 1
            said = capsys.readouterr()
            assert "\x1b" not in said.out + said.err
            assert "\x00" not in said.out + said.err
            assert "Traceback" not in said.err


def test_a_file_whose_name_is_sql(make_repo: MakeRepo, tmp_path: Path) -> None:
    path = "data/it's; DROP TABLE x --.parquet"
    repo = make_repo(DEFINITIONS.format(path=path, feature="n"))
    rows = [{"user": "'; --", "at": utc(2024, 5, 1), "n": 7}]
    write_rows(repo / path, rows, {"user": string(), "at": INSTANT, "n": int64()})
    with FeatureStore(repo) as fs:
        fs.apply()
        fs.materialize()
        found = fs.get_online_features("service", {"user": ["'; --", "x"]}).to_dict()
    assert found["n"] == [7, None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Served:  # type: ignore[misc]
    with served(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.mark.slow
class TestRequests:
    @pytest.mark.parametrize("name", NASTY, ids=IDS)
    def test_services_views_features_and_keys(self, server: Served, name: str) -> None:
        with FeatureClient(server.process.grpc_target) as client:
            for features in (name, f"m@{name}", f"v:{name}", [f"{name}:a"], [name]):
                with pytest.raises(RequestError):
                    client.get_online_features(features, {"id": [1]})
            with pytest.raises(RequestError):
                client.get_online_features("m", {name: [1]})
            with pytest.raises(RequestError):
                client.get_online_features("m", {"id": [name]})
        for body in (
            {"feature_service": name, "entities": [{"id": 1}]},
            {"features": [name], "entities": [{"id": 1}]},
            {"feature_service": "m", "entities": [{name: 1}]},
            {"feature_service": "m", "entities": [{"id": name}]},
        ):
            url = f"{server.process.http_url}/v1/online-features"
            answer = httpx.post(url, json=body)
            assert answer.status_code in (400, 404)
            assert "\x1b" not in answer.text
        server.answers_right()

    def test_paths(self, server: Served) -> None:
        for path in (
            "/../../etc/passwd",
            "/v1/%2e%2e/%2e%2e/etc/passwd",
            "/v1/services/%00",
            "/metrics/../v1",
            "//etc/passwd",
            "/docs/../../x",
        ):
            answer = httpx.get(server.process.http_url + path)
            assert answer.status_code in (404, 405)
            assert "root:" not in answer.text


@pytest.mark.parametrize("kind", ["string", "bytes"])
def test_keys_that_want_to_be_other_keys(tmp_path: Path, kind: str) -> None:
    """Composite keys keep their parts apart, and projects theirs, whatever the keys hold."""
    settings = served_settings(tmp_path)
    parts = ["", "a", "a\x00", "\x00", ":", "/", "fs/p/", "a/b", "é", "\\", "*", "\x01a", "\r\n"]
    values = [text.encode() if kind == "bytes" else text for text in parts]
    pairs = [(left, right) for left in values for right in values]
    views = [
        ServedView(name="v", project=project, keys={"x": kind, "y": kind}, features={"n": "int64"})
        for project in ("p", "p2")
    ]
    with open_online_store(settings.online, root=tmp_path) as store:
        for number, view in enumerate(views):
            rows = {pair: {"n": 1_000 * number + index} for index, pair in enumerate(pairs)}
            view.write(store, rows, event_us=1)
        keys = [view.store_keys(pairs) for view in views]
    assert len({*keys[0], *keys[1]}) == 2 * len(pairs)


def test_what_a_terminal_would_obey_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    from featurestore.cli.output import note, say, show_json, show_table

    text = "\x1b]0;owned\x07 \x9b31m \u202e red\r\x08 fine\ttab"
    say(text)
    note(text)
    show_json({"a": text})
    show_table(["a"], [[text]])
    said = capsys.readouterr()
    assert not set("\x1b\x07\x9b\r\x08\u202e") & set(said.out + said.err)
    assert "\\u001b]0;owned\\u0007" in said.err
    assert json.loads(said.out[said.out.index("{") : said.out.index("}") + 1])["a"] == text

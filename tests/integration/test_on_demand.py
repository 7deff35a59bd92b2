"""On-demand views from definitions to answers: every door gives what a training set holds."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from redis_servers import RedisServer, valkey_binary
from trip_repository import DEFINITIONS, ENTITIES, EXPECTED, NOW, NOW_US, REQUEST, at, write_trips
from typer.testing import CliRunner

from featurestore import AsyncFeatureClient, FeatureClient, FeatureStore, RequestBatch
from featurestore.cli.main import app
from featurestore.config import load_settings
from featurestore.errors import (
    FeatureStoreError,
    InvalidEntityFrame,
    InvalidRequest,
    InvalidRequestInput,
    MissingRequestInput,
    NameClash,
)
from featurestore.jobs.training import FunctionWarning
from featurestore.serving.serve import ServerProcess
from featurestore.timeline import ManualClock
from featurestore.wire.response import OnlineResponse

HIDDEN = {"trip", "risk", "dest"}


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as running:
        yield running


@pytest.fixture(scope="module", params=["lmdb", "redis"])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey: RedisServer
) -> Path:
    """Applied and materialized, as of `NOW`."""
    root: Path = tmp_path_factory.mktemp("trips")
    online = {"lmdb": "lmdb:.featurestore/online", "redis": valkey.url}[request.param]
    with opened(write_trips(root / "repo", online=online)) as store:
        store.apply()
        store.materialize()
    return root / "repo"


def opened(folder: Path) -> FeatureStore:
    return FeatureStore(folder, clock=ManualClock(NOW_US))


@pytest.fixture
def store(folder: Path) -> Iterator[FeatureStore]:
    with opened(folder) as running:
        yield running


def frame(**columns: Any) -> pa.Table:
    rows = [e | r | {"event_timestamp": NOW} for e, r in zip(ENTITIES, REQUEST, strict=True)]
    table = pa.Table.from_pylist(rows)
    for name, values in columns.items():
        kept = [column for column in table.column_names if column != name]
        table = (
            table.select(kept) if values is None else table.select(kept).append_column(name, values)
        )
    return table


def features(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: values for name, values in found.items() if name in EXPECTED}


def expected_statuses() -> dict[str, list[str]]:
    found = {
        name: ["NULL_VALUE" if value is None else "PRESENT" for value in values]
        for name, values in EXPECTED.items()
    }
    return found | {
        "delay": ["PRESENT", "PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND", "PRESENT"],
    }


def check(response: OnlineResponse) -> None:
    assert list(response.feature_names) == list(EXPECTED)
    assert features(response.to_dict()) == EXPECTED
    assert response.statuses == expected_statuses()


def test_training_and_serving_give_one_answer(store: FeatureStore) -> None:
    online = store.get_online_features("model", ENTITIES, request=REQUEST)
    check(online)
    job = store.get_historical_features(frame(), "model", include_status=True)
    table = job.to_arrow()
    assert list(job.features) == list(EXPECTED)
    assert features(table.to_pydict()) == EXPECTED
    assert table.column("trip__status").to_pylist() == ["PRESENT"] * 5
    assert table.schema.field("asked").type == pa.timestamp("us", tz="UTC")
    assert online.to_arrow().select(list(EXPECTED)).equals(table.select(list(EXPECTED)))
    assert online.event_times["trip"] == [NOW_US] * 5
    one = store.get_online_features("model", ENTITIES[:1], request=REQUEST[:1])
    assert features(one.to_dict()) == {name: values[:1] for name, values in EXPECTED.items()}


def test_lists_of_features_need_what_they_read_and_no_more(store: FeatureStore) -> None:
    wanted = ["trip:warm", "weather:sky"]
    online = store.get_online_features(wanted, [{"to": "EWR", "airport": "SFO"}])
    assert online.to_dict() == {"to": ["EWR"], "airport": ["SFO"], "warm": [True], "sky": [None]}
    asked = pa.table({"to": ["EWR"], "airport": ["SFO"], "event_timestamp": [NOW]})
    offline = store.get_historical_features(asked, wanted).to_arrow()
    assert offline.select(["warm", "sky"]).to_pydict() == {"warm": [True], "sky": [None]}
    twice = store.get_online_features(
        ["after"], [{"tailnum": "N1"}], request={"distance": [100], "due": [None]}
    )
    assert twice.to_dict()["twice"] == [1.0]


def test_request_inputs_come_in_all_forms(store: FeatureStore) -> None:
    entity = [{"tailnum": "N1", "to": "EWR"}]
    for form in (
        [{"distance": 100, "due": at(15)}],
        {"distance": [100.0], "due": ["2100-01-01T16:00:00+01:00"]},
        pd.DataFrame({"distance": [100], "due": [pd.Timestamp(at(15))]}),
        pa.table({"distance": pa.array([100], pa.int8()), "due": [at(15).replace(tzinfo=None)]}),
        [{"distance": 100, "due": at(15), "nobody": object}],
    ):
        if isinstance(form, list) and "nobody" in form[0]:
            with pytest.raises(InvalidRequestInput, match="nobody"):
                store.get_online_features("model", entity, request=form)
            continue
        found = store.get_online_features("model", entity, request=form).to_dict()
        assert (found["per_mile"], found["hours"]) == ([0.25], [3])


@pytest.mark.parametrize(
    ("request_rows", "error", "says"),
    [
        (None, MissingRequestInput, "'distance', needed by trip, risk, is missing"),
        ([{"distence": 1.0, "due": None}], MissingRequestInput, "Did you mean 'distence'"),
        ([{"distance": "far", "due": None}], InvalidRequestInput, "must be float64.*string"),
        ([{"distance": True, "due": None}], InvalidRequestInput, "must be float64.*bool"),
        ([{"distance": 2**53 + 1, "due": None}], InvalidRequestInput, "not float64"),
        ([{"distance": 1.0, "due": 5}], InvalidRequestInput, "'due': must be timestamp"),
        ([{"distance": 1.0, "due": "soon"}], InvalidRequestInput, "'due': must be timestamp"),
        ([{"distance": 1.0, "due": None}] * 2, InvalidRequestInput, "one value for each entity"),
        ([{"distance": 1.0}, {"due": None}], MissingRequestInput, "needed by entity"),
        ({"distance": [1.0, "x"], "due": [None] * 2}, InvalidRequestInput, "different types"),
        (7, InvalidRequest, "list of dicts"),
        ([7], InvalidRequest, "must be a dict"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_read(
    store: FeatureStore,
    monkeypatch: pytest.MonkeyPatch,
    request_rows: Any,
    error: type[FeatureStoreError],
    says: str,
) -> None:
    store.get_online_features(["history"], ENTITIES)
    monkeypatch.setattr(store.online_store, "read", None)
    with pytest.raises(error, match=says):
        store.get_online_features("model", ENTITIES[:1], request=request_rows)


def test_wrong_entity_frames_are_refused(store: FeatureStore) -> None:
    with pytest.raises(InvalidEntityFrame, match=r"no column 'distance', a request input.*trip"):
        store.get_historical_features(frame(distance=None), "model")
    with pytest.raises(InvalidEntityFrame, match="'distance' of the entity frame holds string"):
        store.get_historical_features(frame(distance=pa.array(["1"] * 5)), "model")
    huge = pa.array([1, 2, 3, 2**53 + 1, 5])
    with pytest.raises(InvalidEntityFrame, match=r"'distance' in row 3: .* does not fit float64"):
        store.get_historical_features(frame(distance=huge), "model").to_arrow()
    with pytest.raises(NameClash, match="per_mile"):
        store.get_historical_features(frame(per_mile=pa.array([1] * 5)), "model")
    with pytest.raises(InvalidRequest, match="what a request brings"):
        store.get_historical_features(features="model", start=at(1))


def test_whole_numbers_are_read_as_floats(store: FeatureStore) -> None:
    table = frame(distance=pa.array([100, 0, None, -1, 25], pa.int32()))
    found = store.get_historical_features(table, ["trip:per_mile"]).to_arrow()
    assert found.column("per_mile").to_pylist() == [0.25, None, None, None, 1.0]


def test_verify_compares_what_it_can(store: FeatureStore) -> None:
    report = store.verify()
    by_view = {view.view: view for view in report.views}
    assert report.rate == 1.0
    assert (by_view["plain"].values, by_view["plain"].equal) == (3, 3)
    assert "distance" in by_view["trip"].note
    assert [view.view for view in store.verify("model").views] == [
        "history", "weather", "after", "plain", "risk", "trip",
    ]  # fmt: skip


def test_lists_and_descriptions(store: FeatureStore) -> None:
    assert [row["name"] for row in store.list("on_demand")] == ["after", "plain", "risk", "trip"]
    assert store.list("requests")[0]["columns"] == {"distance": "float64", "due": "timestamp"}
    described = store.describe("on_demand", "risk")
    assert described["function"].startswith("import math\n\n\ndef risk(per_mile, distance, ")
    assert described["request_inputs"] == {"distance": "float64"}
    service = store.describe("services", "model")
    assert service["request_inputs"] == {"distance": "float64", "due": "timestamp"}
    assert service["join_keys"] == ["tailnum", "to"]


def test_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["get-online", "trip:per_mile,trip:warm", "--repo", str(folder), "--json"]
    keys = ["--entity", "tailnum=N1", "--entity", "to=EWR"]
    monkeypatch.setattr("featurestore.facades.opened.SystemClock", lambda: ManualClock(NOW_US))
    done = CliRunner().invoke(app, [*asked, *keys, "--request", "distance=100"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["entities"][0]["features"]
    assert found == {"per_mile": 0.25, "warm": True}
    wrong = CliRunner().invoke(app, [*asked, *keys, "--request", "distance=far"])
    assert isinstance(wrong.exception, InvalidRequestInput)
    listed = CliRunner().invoke(app, ["list", "on-demand", "--repo", str(folder)])
    assert "history, booking, dest" in listed.output


# --- servers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["grpcio", "native"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server whose clock is the world's: rows without ttl stay, and inputs decide the rest."""
    root: Path = tmp_path_factory.mktemp("served") / "repo"
    write_trips(root, years_ago=100)
    definitions = DEFINITIONS.replace(', ttl="10h"', "")
    (root / "definitions.py").write_text(definitions)
    with FeatureStore(root) as store:
        store.apply()
        store.materialize()
    settings = load_settings(
        root,
        overrides={
            "serving.grpc": "127.0.0.1:0",
            "serving.http": "127.0.0.1:0",
            "serving.grpc_door": request.param,
        },
    )
    with ServerProcess.start(settings) as running:
        yield running


WANTED = ["trip:per_mile", "trip:warm", "risk:note", "after"]
ANSWER = {
    "per_mile": [0.25, None],
    "warm": [True, None],
    "note": ["25/100.0", "unknown"],
    "twice": [1.0, None],
}
ASKED = {"distance": [100, 0], "due": [None, at(1)]}


def test_the_grpc_doors(server: ServerProcess) -> None:
    with FeatureClient(server.grpc_target) as client:
        for _ in range(2):  # the second time without the schema
            found = client.get_online_features(WANTED, ENTITIES[:2], request=ASKED).to_dict()
            assert {name: found[name] for name in ANSWER} == ANSWER
        with pytest.raises(MissingRequestInput) as caught:
            client.get_online_features("model", ENTITIES[:1])
        assert (caught.value.name, caught.value.needed_by) == ("distance", "trip, risk")
        with pytest.raises(InvalidRequestInput, match="must be float64"):
            client.get_online_features("model", ENTITIES[:1], request=[{"distance": "x", "due": 1}])
        batches = [
            RequestBatch(ENTITIES[:2], ASKED),
            ENTITIES[:2],
            RequestBatch(ENTITIES[:2], ASKED),
        ]
        first, second, third = client.stream_online_features(WANTED, batches)
        assert isinstance(first, OnlineResponse)
        assert isinstance(third, OnlineResponse)
        assert first.to_dict() == third.to_dict() == found
        assert isinstance(second, MissingRequestInput)
        services = {s.name: s for s in client.get_serving_info().services}
        inputs = {one.name: one.dtype for one in services["model"].request_inputs}
        assert inputs == {"distance": "float64", "due": "timestamp"}
        assert "trip:per_mile" in services["model"].features

    async def ask() -> dict[str, list[Any]]:
        async with AsyncFeatureClient(server.grpc_target) as client:
            return (await client.get_online_features(WANTED, ENTITIES[:2], request=ASKED)).to_dict()

    assert asyncio.run(ask()) == found


def post(server: ServerProcess, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    asked = urllib.request.Request(
        f"{server.http_url}/v1/online-features", json.dumps(body).encode()
    )
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_http_door(server: ServerProcess) -> None:
    request = [{"distance": 100, "due": None}, {"distance": 0, "due": "2100-01-01T01:00:00Z"}]
    body = {"features": WANTED, "entities": ENTITIES[:2], "request": request}
    status, answer = post(server, body)
    assert status == 200, answer
    assert {name: answer["features"][name]["values"] for name in ANSWER} == ANSWER
    status, answer = post(server, {**body, "request": [{"distance": "x", "due": None}] * 2})
    assert (status, answer["code"]) == (400, "invalid-request-input")
    status, answer = post(server, {"features": WANTED, "entities": ENTITIES[:2]})
    assert (status, answer["code"]) == (400, "missing-request-input")
    url = f"{server.http_url}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    assert 'featurestore_on_demand_nulls_total{reason="undefined",view="trip"}' in text


# --- changes --------------------------------------------------------------------------------------


def test_an_edit_is_a_new_version_and_what_is_served_stays(tmp_path: Path) -> None:
    root = write_trips(tmp_path / "repo")
    with opened(root) as store:
        store.apply()
        store.materialize()
        assert store.plan().is_empty
    edited = DEFINITIONS.replace("math.sqrt(per_mile)", "per_mile + 1")
    (root / "definitions.py").write_text(edited)
    with opened(root) as store:
        changes = {(c.kind, c.name): c for c in store.plan().changes}
        assert changes["feature", "risk.risk"].details == ("the function's text changed",)
        assert "feature risk.risk changed" in changes["feature", "after.twice"].details
        assert ("feature", "trip.per_mile") not in changes
        assert changes["on_demand_view", "after"].services == ("model",)
        before = store.get_online_features("model", ENTITIES[:1], request=REQUEST[:1]).to_dict()
        assert before["twice"] == [1.0]
        store.apply()
        after = store.get_online_features("model", ENTITIES[:1], request=REQUEST[:1]).to_dict()
        assert after["twice"] == [2.5]
    upstream = edited.replace('Feature("delay")', 'Feature("delay", "delay + 1")')
    (root / "definitions.py").write_text(upstream)
    with opened(root) as store:
        changes = {(c.kind, c.name): c for c in store.plan().changes}
        assert "feature history.delay changed" in changes["feature", "trip.per_mile"].details
        assert changes["feature", "trip.per_mile"].category == "BREAKING"
        assert ("feature", "trip.warm") not in changes
        store.apply()
        answer = store.get_online_features("model", ENTITIES[:1], request=REQUEST[:1])
        assert answer.to_dict()["delay"] == [25]  # served until the new rows are there
        store.materialize()
        answer = store.get_online_features("model", ENTITIES[:1], request=REQUEST[:1])
        assert answer.to_dict()["per_mile"] == [0.26]
    moved = upstream.replace('"distance": "float64"', '"distance": "float64", "more": "string"')
    (root / "definitions.py").write_text(moved)
    with opened(root) as store:
        (change,) = store.plan().changes
        assert (change.kind, change.category) == ("request_source", "ADDITIVE")


POISON = """

@on_demand_feature_view(inputs=[history], schema={"whole": "int64", "text": "string"})
def poison(delay):
    if delay == 25:
        raise KeyError("boom")
    return {"whole": 0.5, "text": str(delay)}
"""


def test_a_function_that_fails_is_null_and_counted(tmp_path: Path) -> None:
    root = write_trips(tmp_path / "repo")
    (root / "definitions.py").write_text(DEFINITIONS + POISON)
    asked = frame()
    with opened(root) as store:
        store.apply()
        store.materialize()
        with pytest.warns(FunctionWarning, match=r"7 values of poison.*KeyError: 'boom'"):
            table = store.get_historical_features(asked, ["poison"]).to_arrow()
        expected = {"whole": [None] * 5, "text": [None, "-4", "None", "None", None]}
        assert table.select(["whole", "text"]).to_pydict() == expected
        online = store.get_online_features(["poison"], ENTITIES)
        assert {name: online.to_dict()[name] for name in expected} == expected


ODD = """
odd = OnDemandFeatureView("odd", [history, booking], [
    Feature("root", "sqrt(delay)"),
    Feature("share", "delay / (distance - 25)"),
    Feature("kept", "coalesce(1 / distance, 0)"),
    Feature("longer", "distance + 1"),
    Feature("inverse", "1 / (delay + 4)"),
])
odder = OnDemandFeatureView("odder", ["risk", odd], [
    Feature("of_risk", "1 / (risk - 0.5)"),
    Feature("of_share", "ln(share)"),
])
odds = FeatureService("odds", [odder, history])
"""


def test_values_without_a_result_are_counted_in_training_sets_as_online(tmp_path: Path) -> None:
    """By each feature on the way, also where a function stands between, and where nothing of it
    is asked for; not where a NULL comes of a NULL."""
    root = write_trips(tmp_path / "repo")
    (root / "definitions.py").write_text(DEFINITIONS + ODD)
    with opened(root) as store:
        store.apply()
        store.materialize()
        job = store.get_historical_features(frame(), "odds", include_status=True)
        found = job.undefined_values()
        assert found == {
            "trip:per_mile": 1,  # N2: -4 / 0
            "odd:share": 1,  # the last: 25 / 0
            "odder:of_risk": 1,  # N1: risk is 0.5
            "odder:of_share": 0,
        }
        assert job.undefined_values() == found, "each run counts anew"
        store.get_online_features("odds", ENTITIES, request=REQUEST)
        plan = store._local._book.compiled("odds", full_feature_names=False)
        assert plan.derivation is not None
        online = plan.derivation.take_lost()
        assert {view: count for view, (count, _) in online.items()} == {
            "trip": 1, "odd": 1, "odder": 1,
        }  # fmt: skip
        made = store.create_training_set("odd", frame(), "odds")
        assert made.profile["undefined"] == found
        names = list(made.features)
        assert made.to_arrow().select(names).equals(job.to_arrow().select(names))
        everything = store.get_historical_features(frame(), ["odd"], full_feature_names=True)
        assert everything.undefined_values() == {
            "odd:root": 1,  # N2: the root of -4
            "odd:share": 1,
            "odd:kept": 0,
            "odd:longer": 0,
            "odd:inverse": 1,  # N2: 1 / 0
        }
        plain = store.get_historical_features(frame(), ["history"])
        assert plain.undefined_values() == {}
    shown = CliRunner().invoke(app, ["training-set", "show", "odd", "--repo", str(root)])
    assert "undefined    1 values of odd:share have no result" in shown.output


def test_views_of_request_inputs_alone(tmp_path: Path) -> None:
    root = write_trips(tmp_path / "repo")
    lone = (
        '\nlone = OnDemandFeatureView("lone", [booking], [Feature("far", "distance > 50")])\n'
        'alone = FeatureService("alone", [lone.with_name("one"), lone.with_name("two")])\n'
    )
    (root / "definitions.py").write_text(DEFINITIONS + lone)
    with opened(root) as store:
        store.apply()
        assert store.get_online_features(
            "lone:far", [{}], request=[{"distance": 51}]
        ).to_dict() == {"far": [True]}
        times = [NOW, NOW - timedelta(days=9)]
        asked = pa.table({"distance": [51, None], "event_timestamp": times})
        found = store.get_historical_features(asked, "alone", full_feature_names=True).to_arrow()
        assert found.select(["one__far", "two__far"]).to_pylist() == [
            {"one__far": True, "two__far": True},
            {"one__far": None, "two__far": None},
        ]
        twice = store.get_online_features(
            "alone", [{}], request=[{"distance": 51}], full_feature_names=True
        )
        assert twice.to_dict() == {"one__far": [True], "two__far": [True]}


TESTED = """
from featurestore import FeatureTest

example = FeatureTest(
    "a late plane",
    features=[trip[["per_mile", "hours"]], risk, history],
    rows={landings: [{"tailnum": "N7", "at": "2100-01-01T08:00:00Z", "delay": 50}]},
    expect=[
        {"tailnum": "N7", "event_timestamp": "2100-01-01T09:00:00Z", "distance": 200,
         "due": "2100-01-01T11:30:00Z", "per_mile": 0.25, "hours": 2, "risk": 0.5,
         "trip__status": "PRESENT"},
        {"tailnum": "N7", "event_timestamp": "2100-01-01T07:00:00Z", "distance": None,
         "due": None, "note": "unknown", "delay": None, "history__status": "NOT_FOUND"},
    ],
)
"""


def test_feature_tests_bring_request_inputs(tmp_path: Path) -> None:
    root = write_trips(tmp_path / "repo")
    (root / "definitions.py").write_text(DEFINITIONS + TESTED)
    done = CliRunner().invoke(app, ["test", "--repo", str(root)])
    assert "1 passed, 0 failed" in done.output
    broken = TESTED.replace('"hours": 2', '"hours": 3').replace('"due": None, ', "")
    (root / "definitions.py").write_text(DEFINITIONS + broken)
    done = CliRunner().invoke(app, ["test", "--repo", str(root)])
    assert "lacks the request inputs due" in done.output

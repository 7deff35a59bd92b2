"""What OpenLineage is told: by a file, and by a real HTTP endpoint; the library's own classes read
every event again."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openlineage.client import event_v2, facet_v2

from featurestore.errors import InvalidSettings
from featurestore.records import Edge, Record
from featurestore.store import FeatureStore
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

DEFINITIONS = """
    from featurestore import (
        Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource,
        OnDemandFeatureView, RequestSource, SqlSource,
    )

    shop = Entity("shop", {"shop": "string"})
    orders = FileSource("orders", "orders.parquet", "ts", field_mapping={"AMT": "amount"})
    big = SqlSource("big", "SELECT shop, ts, amount * 2 AS twice FROM orders WHERE paid", "ts")
    now = FeatureView("now", [shop], orders, [Feature("amount"), Feature("rank", "amount + 1")])
    week = FeatureView("week", [shop], orders, [Aggregation("amount", "sum", "7d", where="paid")])
    above = FeatureView("above", [shop], big, [Feature("twice")])
    basket = RequestSource("basket", {"size": "int64"})
    total = Feature("total", "now__amount * basket__size")
    asked = OnDemandFeatureView("asked", [now, basket], [total])
    service = FeatureService("model", [now[["amount"]], week, asked])
"""


@pytest.fixture
def repo(make_repo: MakeRepo) -> Path:
    folder = make_repo(DEFINITIONS, lineage={"openlineage": "file:told.ndjson"})
    types = {"shop": pa.string(), "ts": INSTANT, "AMT": pa.float64(), "paid": pa.bool_()}
    rows = [{"shop": "a", "ts": utc(2024, 5, 1), "AMT": 3.0, "paid": True}]
    write_rows(folder / "orders.parquet", rows, types)
    return folder


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "told.ndjson").read_text().splitlines()]


def read_again(event: dict[str, Any]) -> event_v2.RunEvent:
    """The event by the library's classes, whose validators raise for what is no event."""
    return event_v2.RunEvent(
        eventType=event_v2.RunState[event["eventType"]],
        eventTime=event["eventTime"],
        run=event_v2.Run(**event["run"]),
        job=event_v2.Job(**event["job"]),
        inputs=[event_v2.InputDataset(**with_facets(d)) for d in event["inputs"]],
        outputs=[event_v2.OutputDataset(**with_facets(d)) for d in event["outputs"]],
        producer=event["producer"],
    )


def with_facets(dataset: dict[str, Any]) -> dict[str, Any]:
    facets = dict(dataset["facets"])
    lineage = facet_v2.column_lineage_dataset
    for name, facet in facets.items():
        values = {key: value for key, value in facet.items() if not key.startswith("_")}
        assert facet["_producer"]
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/")
        match name:
            case "schema":
                fields = [
                    facet_v2.schema_dataset.SchemaDatasetFacetFields(**f) for f in values["fields"]
                ]
                facets[name] = facet_v2.schema_dataset.SchemaDatasetFacet(fields=fields)
            case "dataSource":
                facets[name] = facet_v2.datasource_dataset.DatasourceDatasetFacet(**values)
            case "columnLineage":
                facets[name] = lineage.ColumnLineageDatasetFacet(
                    fields={
                        column: lineage.Fields(
                            inputFields=[input_field(f) for f in told["inputFields"]]
                        )
                        for column, told in values["fields"].items()
                    },
                    dataset=[input_field(f) for f in values["dataset"]],
                )
            case _:
                raise AssertionError(f"an unexpected facet {name}")
    return {**dataset, "facets": facets}


def input_field(values: dict[str, Any]) -> Any:
    lineage = facet_v2.column_lineage_dataset
    ways = [lineage.Transformation(**way) for way in values["transformations"]]
    assert {way.type for way in ways} <= {"DIRECT", "INDIRECT"}
    return lineage.InputField(**values | {"transformations": ways})


def jobs(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last event of each job."""
    return {event["job"]["name"]: event for event in events}


def lineage_of(event: dict[str, Any], column: str) -> set[tuple[str, str, str, str]]:
    (output,) = event["outputs"]
    fields = output["facets"]["columnLineage"]["fields"][column]["inputFields"]
    return {
        (Path(f["name"]).name, f["field"], way["type"], way["subtype"])
        for f in fields
        for way in f["transformations"]
    }


def test_apply_is_told_column_by_column(repo: Path) -> None:
    with FeatureStore(repo) as store:
        store.apply()
        assert (store.lineage.exported().sent, store.lineage.exported().failed) == (12, 0)
    events = told(repo)
    for event in events:
        read_again(event)
    found = jobs(events)
    assert set(found) == {
        "apply/source/big",
        "apply/view/above",
        "apply/view/now",
        "apply/view/week",
        "apply/on_demand_view/asked",
        "apply/service/model",
    }
    times = {
        ("orders.parquet", "ts", "INDIRECT", "WINDOW"),
        ("orders.parquet", "shop", "INDIRECT", "GROUP_BY"),
    }
    assert lineage_of(found["apply/view/now"], "amount") == times | {
        ("orders.parquet", "AMT", "DIRECT", "IDENTITY")
    }
    assert lineage_of(found["apply/view/now"], "rank") == times | {
        ("orders.parquet", "AMT", "DIRECT", "TRANSFORMATION")
    }
    assert lineage_of(found["apply/view/week"], "amount_sum_7d") == times | {
        ("orders.parquet", "AMT", "DIRECT", "AGGREGATION"),
        ("orders.parquet", "paid", "INDIRECT", "FILTER"),
    }
    assert lineage_of(found["apply/source/big"], "twice") == {
        ("orders.parquet", "AMT", "DIRECT", "TRANSFORMATION")
    }
    (output,) = found["apply/source/big"]["outputs"]
    assert [f["field"] for f in output["facets"]["columnLineage"]["dataset"]] == ["paid"]
    assert found["apply/source/big"]["job"]["facets"]["sql"]["query"].startswith("SELECT shop")
    assert ("big", "twice", "DIRECT", "IDENTITY") in lineage_of(found["apply/view/above"], "twice")
    assert lineage_of(found["apply/on_demand_view/asked"], "total") == {
        ("now", "amount", "DIRECT", "TRANSFORMATION"),
        ("basket", "size", "DIRECT", "TRANSFORMATION"),
    }
    assert lineage_of(found["apply/service/model"], "week__amount_sum_7d") == {
        ("week", "amount_sum_7d", "DIRECT", "IDENTITY")
    }
    (source,) = found["apply/view/now"]["inputs"]
    assert source["namespace"] == "file"
    assert source["facets"]["dataSource"]["uri"] == f"file://{repo / 'orders.parquet'}"
    assert {"name": "AMT", "type": "float64", "fields": []} in source["facets"]["schema"]["fields"]


def test_an_apply_of_nothing_new_tells_nothing(repo: Path) -> None:
    with FeatureStore(repo) as store:
        store.apply()
        sent = store.lineage.exported().sent
        store.apply()
        assert store.lineage.exported().sent == sent


def test_materialize_and_training_sets_are_told(repo: Path) -> None:
    with FeatureStore(repo) as store:
        store.apply()
        store.materialize()
        frame = pa.table({"shop": ["a"], "event_timestamp": pa.array([utc(2024, 5, 2)], INSTANT)})
        made = store.create_training_set("orders", frame, ["now:amount", "above:twice"])
    events = told(repo)
    for event in events:
        read_again(event)
    assert {e["eventType"] for e in events} == {"START", "COMPLETE"}
    runs = {(e["run"]["runId"], e["job"]["name"]) for e in events}
    assert len(runs) * 2 == len(events)
    found = jobs(events)
    (table,) = found["materialize/prod/now"]["outputs"]
    assert table["outputFacets"]["outputStatistics"]["rowCount"] == 1
    training = found["training_set/orders"]
    assert [d["name"] for d in training["inputs"]] == ["view/above", "view/now"]
    assert lineage_of(training, "twice") == {("above", "twice", "DIRECT", "IDENTITY")}
    (output,) = training["outputs"]
    assert [f["name"] for f in output["facets"]["schema"]["fields"]] == made.schema.names
    location = output["facets"]["dataSource"]["uri"].removeprefix("file://")
    assert list(Path(location).iterdir())


class _Endpoint(BaseHTTPRequestHandler):
    """Keeps what is posted; answers what the server's `answers` says, 200 by default."""

    server: _Server

    def do_POST(self) -> None:  # the library's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, self.headers.get("Authorization"), body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Endpoint)
        self.posted: list[tuple[str, str | None, bytes]] = []
        self.status = 200


@pytest.fixture
def endpoint() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_events_go_to_an_endpoint(repo: Path, endpoint: _Server) -> None:
    url = f"http://127.0.0.1:{endpoint.server_port}"
    settings = {"lineage.openlineage": url, "lineage.openlineage_token": "s3cret"}
    with FeatureStore(repo, overrides=settings) as store:
        store.apply()
    assert len(endpoint.posted) == 12
    assert {(path, token) for path, token, _ in endpoint.posted} == {
        ("/api/v1/lineage", "Bearer s3cret")
    }
    for _, _, body in endpoint.posted:
        read_again(json.loads(body))
    other = f"{url}/other/place?source=us"
    with FeatureStore(repo, overrides={"lineage.openlineage": other}) as store:
        store.materialize(["now"])
    assert endpoint.posted[-1][0] == "/other/place?source=us"


@pytest.mark.parametrize("status", [500, 401])
def test_an_endpoint_that_fails_stops_nothing(
    repo: Path, endpoint: _Server, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.status = status
    url = f"http://user:hidden@127.0.0.1:{endpoint.server_port}"
    with (
        caplog.at_level(logging.WARNING, "featurestore.openlineage"),
        FeatureStore(repo, overrides={"lineage.openlineage": url}) as store,
    ):
        assert store.apply().plan.changes
        assert (store.lineage.exported().sent, store.lineage.exported().failed) == (0, 12)
        assert store.materialize(["now"])
    assert len(caplog.messages) == 2
    assert "OpenLineage was not told of apply" in caplog.messages[0]
    assert "hidden" not in caplog.text


def test_an_endpoint_that_is_away_stops_nothing(repo: Path) -> None:
    with FeatureStore(repo, overrides={"lineage.openlineage": "http://127.0.0.1:1"}) as store:
        assert store.apply().plan.changes
        assert store.lineage.exported().failed == 12


def test_a_file_that_cannot_be_written_stops_nothing(repo: Path) -> None:
    target = "file:no_such_folder/told.ndjson"
    with FeatureStore(repo, overrides={"lineage.openlineage": target}) as store:
        assert store.apply().plan.changes
        assert store.lineage.exported().failed == 12


@pytest.mark.parametrize("target", ["ftp://host/x", "told.ndjson", "http://", "file:"])
def test_settings_that_name_no_place_stop_a_job_before_it_begins(repo: Path, target: str) -> None:
    with FeatureStore(repo, overrides={"lineage.openlineage": target}) as store:
        with pytest.raises(InvalidSettings, match=r"\[lineage\] openlineage must be"):
            store.apply()
        assert store.registry.aliases() == {}


def test_events_carry_the_instants_of_the_job(repo: Path) -> None:
    with FeatureStore(repo) as store:
        store.apply()
        (row,) = store.materialize(["now"])
    begun, ended = [e for e in told(repo) if e["job"]["name"] == "materialize/prod/now"]
    for event, instant_us in ((begun, row.started_at_us), (ended, row.finished_at_us)):
        seconds = datetime.fromisoformat(event["eventTime"]).timestamp()
        assert round(seconds * 1e6) == instant_us


def test_runs_are_told_when_they_are_over(repo: Path) -> None:
    with FeatureStore(repo) as store:
        store.apply()
        frame = pa.table({"shop": ["a"], "event_timestamp": pa.array([utc(2024, 5, 2)], INSTANT)})
        made = store.create_training_set("orders", frame, ["now:amount"])
        with store.start_run("delay", training_set=made) as run:
            edge = Edge(parent=run.id, role="run")
            record = Record(kind="model", name="m", body={"number": 1}, parents=(edge,))
            store.registry.commit(records=[record])
        with pytest.raises(ZeroDivisionError), store.start_run("delay"):
            1 / 0  # noqa: B018
        assert store.lineage.exported().failed == 0
    events = [event for event in told(repo) if event["job"]["name"] == "run/delay"]
    for event in events:
        read_again(event)
    assert [event["eventType"] for event in events] == ["START", "COMPLETE", "START", "FAIL"]
    assert [d["name"] for d in events[1]["inputs"]] == ["training_set/orders"]
    assert [d["name"] for d in events[1]["outputs"]] == ["model/m"]


def test_a_run_ends_though_nobody_can_be_told(repo: Path) -> None:
    with FeatureStore(repo, overrides={"lineage.openlineage": "http://127.0.0.1:1"}) as store:
        with store.start_run("delay") as run:
            pass
        assert store.registry.runs.details(
            run.run_id, now_us=store.clock.now_us()
        ).facts.status == ("FINISHED")
        assert store.lineage.exported().failed == 2

"""From a request to the bytes of its response, without a store: rows are handed in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from featurestore.errors import (
    CorruptRow,
    InvalidJoinKey,
    InvalidRequest,
    LimitExceeded,
    MissingJoinKey,
    NameClash,
)
from featurestore.serving.assemble import Limits, Prepared, Request, finish, prepare
from featurestore.serving.compiled import CompiledPlan, compile_plan
from featurestore.testing.served import ServedView, narrowed, serving_plan
from featurestore.wire.entities import read_entities
from featurestore.wire.plan_parts import cut
from featurestore.wire.response import OnlineResponse, ResponseSchema, read_response
from featurestore.wire.row_pb2 import Row
from featurestore.wire.serving_pb2 import GetOnlineFeaturesResponse

HOUR = 3_600_000_000
NOW = 1_700_000_000_000_000
LIMITS = Limits()

WEATHER = ServedView(
    name="weather",
    keys={"airport": "string"},
    features={"temp": "float64", "sky": "string", "obs": "int64"},
    ttl_us=3 * HOUR,
    grace_us=HOUR,
)
DELAYS = ServedView(name="delays", keys={"airport": "string"}, features={"mean": "float64"})
ROUTE = ServedView(
    name="route", keys={"origin": "string", "leg": "int64"}, features={"flights": "int32"}
)
WORLD = ServedView(name="world", keys={}, features={"load": "float32"})
PLAN = serving_plan("model", [WEATHER, DELAYS, ROUTE, WORLD])
COMPILED = compile_plan(PLAN)
SERVED = {view.name: view for view in (WEATHER, DELAYS, ROUTE, WORLD)}
ENTITIES = {"airport": ["EWR", "JFK"], "origin": ["EWR", "EWR"], "leg": [1, -1]}

Table = Mapping[tuple[bytes, bytes], bytes]


def table(*written: tuple[ServedView, tuple[Any, ...], Mapping[str, Any] | None, int]) -> Table:
    """What a store would hold: rows by (key, field)."""
    return {
        (view.store_keys([key])[0], view.field): view.rows([values], [event_us])[0]
        for view, key, values, event_us in written
    }


def ask(
    plan: CompiledPlan, rows: Any, held: Table, *, now_us: int = NOW, **options: Any
) -> tuple[bytes, Prepared]:
    entities = read_entities(rows)
    request = Request(count=entities.count, columns=entities.columns, **options)
    prepared = prepare(plan, request, LIMITS)
    found = [[held.get((read.key, f)) for f in read.fields] for read in prepared.reads]
    data, statuses = finish(plan, request, prepared, found, now_us)
    assert len(statuses) == entities.count * len(plan.uses)
    return data, prepared


def answer(plan: CompiledPlan, rows: Any, held: Table, **options: Any) -> OnlineResponse:
    data, _ = ask(plan, rows, held, event_times=True, **options)
    return read_response(data, read_entities(rows))


def test_one_read_per_entity_key_serves_all_views_of_a_key_space() -> None:
    _, prepared = ask(COMPILED, ENTITIES, {})
    assert [len(read.fields) for read in prepared.reads] == [2, 2, 1, 1, 1]
    assert prepared.reads[0].fields == (WEATHER.field, DELAYS.field)
    assert prepared.reads[0].key == WEATHER.store_keys([("EWR",)])[0]


def test_values_statuses_and_times() -> None:
    held = table(
        (WEATHER, ("EWR",), {"temp": 1.5, "sky": "klar ☀", "obs": 2**53 + 1}, NOW - HOUR),
        (WEATHER, ("JFK",), {"temp": None, "sky": "", "obs": 7}, NOW),
        (DELAYS, ("JFK",), {"mean": -0.0}, 0),
        (ROUTE, ("EWR", -1), {"flights": 12}, NOW - 1),
        (WORLD, (), {"load": 0.5}, -5),
    )
    found = answer(COMPILED, ENTITIES, held)
    assert found.to_dict() == {
        **ENTITIES,
        "temp": [1.5, None],
        "sky": ["klar ☀", ""],
        "obs": [2**53 + 1, 7],
        "mean": [None, 0.0],
        "flights": [None, 12],
        "load": [0.5, 0.5],
    }
    assert found.statuses["temp"] == ["PRESENT", "NULL_VALUE"]
    assert found.statuses["mean"] == ["NOT_FOUND", "PRESENT"]
    assert found.statuses["load"] == ["PRESENT", "PRESENT"]
    assert found.event_times == {
        "weather": [NOW - HOUR, NOW],
        "delays": [None, 0],
        "route": [None, NOW - 1],
        "world": [-5, -5],
    }
    assert found.request_time_us == NOW
    assert found.plan_version == PLAN.hash
    assert len(found) == 2


@pytest.mark.parametrize(
    ("age_us", "status"),
    [
        (0, "PRESENT"),
        (3 * HOUR, "PRESENT"),
        (3 * HOUR + 1, "OUTSIDE_MAX_AGE"),
        (4 * HOUR, "OUTSIDE_MAX_AGE"),
        (4 * HOUR + 1, "NOT_FOUND"),
        (-1, "NOT_FOUND"),
    ],
)
def test_the_ends_of_ttl_and_grace(age_us: int, status: str) -> None:
    held = table((WEATHER, ("EWR",), {"temp": 1.0, "obs": 1}, NOW - age_us))
    plan = compile_plan(serving_plan("model", [WEATHER]))
    found = answer(plan, [{"airport": "EWR"}], held)
    assert found.statuses["temp"] == [status]
    assert found.statuses["sky"] == ["NULL_VALUE" if status == "PRESENT" else status]
    assert found.to_dict()["temp"] == [1.0 if status == "PRESENT" else None]
    shown = status in ("PRESENT", "OUTSIDE_MAX_AGE")
    assert found.event_times["weather"] == [NOW - age_us if shown else None]


def test_tombstones_read_as_not_found() -> None:
    plan = compile_plan(serving_plan("model", [DELAYS]))
    found = answer(plan, [{"airport": "EWR"}], table((DELAYS, ("EWR",), None, NOW - 5)))
    assert found.statuses == {"mean": ["NOT_FOUND"]}


def test_a_null_key_is_not_found_for_its_views_alone_and_is_not_read() -> None:
    rows = [
        {"airport": None, "origin": "A", "leg": None},
        {"airport": "B", "origin": None, "leg": 1},
    ]
    held = table((DELAYS, ("B",), {"mean": 3.0}, 0), (WORLD, (), {"load": 1.0}, 0))
    data, prepared = ask(COMPILED, rows, held)
    assert [read.key for read in prepared.reads] == [
        *DELAYS.store_keys([("B",)]),
        *WORLD.store_keys([()]),
    ]
    found = read_response(data, read_entities(rows))
    assert found.to_dict()["mean"] == [None, 3.0]
    assert found.to_dict()["load"] == [1.0, 1.0]
    assert found.statuses["flights"] == ["NOT_FOUND", "NOT_FOUND"]


def test_duplicates_keep_their_places() -> None:
    plan = compile_plan(serving_plan("model", [DELAYS]))
    held = table((DELAYS, ("A",), {"mean": 1.0}, 0), (DELAYS, ("B",), {"mean": 2.0}, 0))
    found = answer(plan, {"airport": ["A", "B", "A", "C", "B"]}, held)
    assert found.to_dict()["mean"] == [1.0, 2.0, 1.0, None, 2.0]


def test_a_subset_never_carries_another_feature() -> None:
    plan = compile_plan(narrowed(PLAN, {"weather": ["obs", "temp"]}))
    held = table((WEATHER, ("A",), {"temp": 1.0, "sky": "secret", "obs": 2}, NOW))
    rows = [{"airport": "A", "origin": None, "leg": None}]
    data, _ = ask(plan, rows, held)
    assert b"secret" not in data
    found = read_response(data, read_entities(rows)).to_dict()
    assert (found["obs"], found["temp"]) == ([2], [1.0])
    assert "sky" not in found


def test_whole_rows_go_out_as_they_lie_in_the_store() -> None:
    held = table((WEATHER, ("EWR",), {"temp": 1.0, "sky": "x", "obs": 1}, NOW))
    data, _ = ask(compile_plan(serving_plan("m", [WEATHER])), [{"airport": "EWR"}], held)
    (row,) = held.values()
    assert row in data


def test_the_public_message_reads_the_same_bytes() -> None:
    held = table(
        (WEATHER, ("EWR",), {"temp": 1.5, "sky": "fog", "obs": 4}, NOW),
        (ROUTE, ("EWR", 1), {"flights": None}, NOW),
    )
    data, _ = ask(COMPILED, ENTITIES, held, event_times=True)
    public = GetOnlineFeaturesResponse.FromString(data)
    assert list(public.statuses) == [1, 3, 1, 3, 3, 3, 3, 3]
    assert [view.name for view in public.schema.views] == ["weather", "delays", "route", "world"]
    assert [f.name for f in public.schema.views[0].features] == ["temp", "sky", "obs"]
    assert list(public.event_times_us) == [NOW, 0, NOW, 0, 0, 0, 0, 0]
    weather, route = public.rows
    assert (weather.doubles[0], weather.blobs[0], weather.integers[0]) == (1.5, b"fog", 4)
    assert route == Row.FromString(next(iter(table((ROUTE, ("EWR", 1), {}, NOW)).values())))
    assert public.SerializeToString(deterministic=True) == data


def test_the_schema_is_sent_until_the_caller_has_it() -> None:
    first = GetOnlineFeaturesResponse.FromString(ask(COMPILED, ENTITIES, {})[0])
    again = ask(COMPILED, ENTITIES, {}, schema_id=first.schema_id)[0]
    second = GetOnlineFeaturesResponse.FromString(again)
    assert first.HasField("schema")
    assert not second.HasField("schema")
    assert second.schema_id == first.schema_id == COMPILED.schema_id
    schemas = {first.schema_id: ResponseSchema(first.schema)}
    assert read_response(again, read_entities(ENTITIES), schemas=schemas).feature_names == (
        "temp",
        "sky",
        "obs",
        "mean",
        "flights",
        "load",
    )


def test_full_names_and_clashes() -> None:
    full = compile_plan(PLAN, full_feature_names=True)
    assert full.schema.views[0].features[0].name == "weather__temp"
    assert full.schema_id != COMPILED.schema_id
    other = dataclasses.replace(WEATHER, name="other")
    with pytest.raises(NameClash):
        compile_plan(serving_plan("model", [WEATHER, other]))
    with pytest.raises(NameClash, match="'temp'"):
        answer(COMPILED, {**ENTITIES, "temp": [1, 2]}, {})


def test_columns_instead_of_rows() -> None:
    view = ServedView(
        name="all",
        keys={"id": "int64"},
        features={
            "f": "float32",
            "n": "int64",
            "s": "string",
            "b": "bytes",
            "t": "bool",
            "d": "decimal(9,2)",
        },
    )
    plan = compile_plan(serving_plan("m", [view, WORLD]))
    held = table((view, (1,), {"f": 0.5, "s": "ü", "b": b"\xff", "t": True}, 0))
    data, _ = ask(plan, {"id": [1, 2]}, held, as_columns=True)
    found = GetOnlineFeaturesResponse.FromString(data)
    assert not found.rows
    f, n, s, b, t, d, load = found.columns
    assert (list(f.doubles.values), list(f.statuses)) == ([0.5, 0.0], [1, 3])
    assert (list(n.integers.values), list(n.statuses)) == ([0, 0], [2, 3])
    assert (list(s.strings.values), list(s.statuses)) == (["ü", ""], [1, 3])
    assert (list(b.blobs.values), list(t.integers.values)) == ([b"\xff", b""], [1, 0])
    assert (list(d.blobs.values), list(load.statuses)) == ([b"", b""], [3, 3])


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ({"airport": ["A"], "origin": ["B"]}, MissingJoinKey, "'leg', needed by route"),
        ({"airport": [1], "origin": ["B"], "leg": [1]}, InvalidJoinKey, "'airport'.*int64"),
        ({"airport": ["A"], "origin": ["B"], "leg": [1.5]}, InvalidJoinKey, "'leg'.*float"),
        ({"airport": ["A"], "origin": ["B"], "leg": [True]}, InvalidJoinKey, "'leg'.*bool"),
    ],
)
def test_keys_that_cannot_be_read(rows: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        ask(COMPILED, rows, {})


def test_limits_name_themselves() -> None:
    entities = read_entities({"airport": ["A"] * 11})
    request = Request(count=11, columns=entities.columns)
    plan = compile_plan(serving_plan("m", [WEATHER]))
    with pytest.raises(LimitExceeded, match="keys_per_request_max = 10"):
        prepare(plan, request, Limits(keys_per_request_max=10))
    with pytest.raises(LimitExceeded, match="features_per_request_max = 2"):
        prepare(plan, request, Limits(features_per_request_max=2))


def test_no_entities_at_all() -> None:
    data, prepared = ask(COMPILED, [], {})
    assert prepared.reads == []
    found = read_response(data, read_entities([]))
    assert len(found) == 0
    assert found.to_dict()["temp"] == []
    assert found.to_arrow().num_rows == 0


def test_views_without_entities_need_no_columns() -> None:
    plan = compile_plan(serving_plan("m", [WORLD]))
    held = table((WORLD, (), {"load": 0.25}, 0))
    assert answer(plan, {}, held).to_dict() == {"load": [0.25]}
    assert answer(plan, [{}, {}], held).to_dict() == {"load": [0.25, 0.25]}


def test_columns_of_another_length_are_refused() -> None:
    entities = read_entities(ENTITIES)
    with pytest.raises(InvalidRequest, match="different lengths"):
        prepare(COMPILED, Request(count=3, columns=entities.columns), LIMITS)


@pytest.mark.parametrize("damage", [b"", b"\x09short", None])
def test_rows_of_another_version_are_corrupt(damage: bytes | None) -> None:
    plan = compile_plan(serving_plan("m", [DELAYS]))
    key = (DELAYS.store_keys([("A",)])[0], DELAYS.field)
    stranger = dataclasses.replace(DELAYS, features={"other": "float64"}).rows([{}], [0])[0]
    with pytest.raises(CorruptRow, match="delays"):
        ask(plan, {"airport": ["A"]}, {key: stranger if damage is None else damage})


def test_columns_refuse_rows_that_do_not_parse() -> None:
    plan = compile_plan(serving_plan("m", [WEATHER]))
    (key,), (row,) = WEATHER.store_keys([("A",)]), WEATHER.rows([{"sky": "x"}], [NOW])
    for damaged in (row[:-1], row + b"\x3a\x00", row[:-1] + b"\xff"):
        with pytest.raises(CorruptRow):
            ask(plan, {"airport": ["A"]}, {(key, WEATHER.field): damaged}, as_columns=True)


def test_every_type_comes_back_exactly() -> None:
    values: dict[str, tuple[str, Any]] = {
        "a": ("bool", True),
        "b": ("int32", -(2**31)),
        "c": ("int64", 2**63 - 1),
        "d": ("float32", 0.5),
        "e": ("float64", 0.1),
        "f": ("decimal(38,10)", Decimal("-12345678901234567890.0123456789")),
        "g": ("string", "naïve\x00"),
        "h": ("bytes", b"\x00\xff"),
        "i": ("timestamp", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        "j": ("date", date(1900, 2, 28)),
        "k": ("list<int64>", [1, None, -3]),
        "l": ("list<string>", []),
    }
    view = ServedView(
        name="types", keys={"id": "bytes"}, features={n: t for n, (t, _) in values.items()}
    )
    held = table((view, (b"\x00",), {name: value for name, (_, value) in values.items()}, 0))
    found = answer(compile_plan(serving_plan("m", [view])), {"id": [b"\x00", b""]}, held)
    expected = {name: [value, None] for name, (_, value) in values.items()}
    assert found.to_dict() == {"id": [b"\x00", b""], **expected}
    assert found.to_arrow().to_pydict() == found.to_dict()
    assert found.to_polars()["c"].to_list() == [2**63 - 1, None]
    frame = found.to_pandas()
    assert frame["c"].tolist()[0] == 2**63 - 1
    assert str(frame["c"].dtype) == "int64[pyarrow]"


def sequences() -> Sequence[Any]:
    import numpy as np
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    return [
        [{"k": 1}, {"k": None}],
        {"k": [1, None]},
        {"k": (1.0, float("nan"))},
        {"k": np.array([1.0, np.nan])},
        {"k": [np.int64(1), pd.NA]},
        pd.DataFrame({"k": [1.0, None]}),
        pd.DataFrame({"k": pd.array([1, None], dtype="Int64")}),
        pl.DataFrame({"k": [1, None]}),
        pa.table({"k": [1, None]}),
        pa.RecordBatch.from_pydict({"k": [1, None]}),
    ]


@pytest.mark.parametrize("rows", sequences(), ids=lambda rows: type(rows).__name__)
def test_entities_from_whatever_the_caller_holds(rows: Any) -> None:
    entities = read_entities(rows)
    assert entities.count == 2
    assert entities.columns["k"].kind == "int64"
    assert list(entities.columns["k"].values) == [1, None]


def test_a_repository_of_a_thousand_views_costs_a_lookup_nothing() -> None:
    """What is read and sent for two views does not depend on how many others there are."""
    others = [
        ServedView(name=f"other{n}", keys={"airport": "string"}, features={"x": "float64"})
        for n in range(1_000)
    ]
    among_many = compile_plan(
        cut(serving_plan("all", [*others, WEATHER, DELAYS]), ("weather", "delays"))
    )
    alone = compile_plan(serving_plan("two", [WEATHER, DELAYS]))
    held = table((WEATHER, ("EWR",), {"temp": 1.5}, NOW), (DELAYS, ("EWR",), {"mean": 2.5}, NOW))
    rows = [{"airport": "EWR"}]
    (_, many), (_, few) = (ask(plan, rows, held) for plan in (among_many, alone))
    assert (many.reads, many.slots) == (few.reads, few.slots)
    assert len(among_many.uses) == len(among_many.steps) == 2
    assert among_many.schema_id == alone.schema_id

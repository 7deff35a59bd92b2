"""What lies in stores and goes over the wire, byte for byte: these bytes must mean the same for
ever, and unless something is added (`--update-golden`) we write just them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from featurestore import dtypes
from featurestore.serving.assemble import Limits, Request, finish, prepare
from featurestore.serving.compiled import compile_plan
from featurestore.testing.served import ServedView, narrowed, serving_plan
from featurestore.user_functions import StepCode
from featurestore.wire.entities import read_entities
from featurestore.wire.inputs import Inputs, read_inputs, to_message
from featurestore.wire.keys import encode_key, key_prefix
from featurestore.wire.plans import (
    OnDemand,
    Origin,
    RequestInput,
    ServingPlan,
    StoredFeature,
)
from featurestore.wire.response import read_response

GOLDEN = Path(__file__).parent / "wire.json"
HOUR_US = 3_600_000_000
NOW_US = 1_700_000_000_000_000

WEATHER = ServedView(
    name="weather",
    keys={"airport": "string"},
    features={"temp": "float64", "sky": "string", "seen": "timestamp", "tags": "list<string>"},
    ttl_us=3 * HOUR_US,
    grace_us=HOUR_US,
)
ROUTE = ServedView(
    name="route", keys={"origin": "string", "leg": "int64"}, features={"flights": "int32"}
)
WORLD = ServedView(name="world", keys={}, features={"load": "float32", "price": "decimal(9,2)"})
PLAN = narrowed(serving_plan("model", [WEATHER, ROUTE, WORLD]), {"weather": ["temp", "tags"]})
COMPUTED = OnDemand(
    name="trip",
    view="trip",
    view_version="ab" * 32,
    code=StepCode(
        name="trip",
        source="def trip(temp, price, request_time):\n    return temp * price, str(request_time)\n",
        is_function=True,
        arguments=(("weather__temp", dtypes.FLOAT64), ("offer__offered", dtypes.FLOAT64)),
        parameters=(0, 1, None),
        outputs=(("product", dtypes.FLOAT64), ("asked", dtypes.STRING)),
    ),
    origins=(Origin("lookup", 0, 0), Origin("request", 0)),
    reads=((0, 1), (0, 1)),
    computed=(
        StoredFeature("product", dtypes.FLOAT64, "cd" * 32),
        StoredFeature("asked", dtypes.STRING, "ef" * 32),
    ),
    selected=(1, 0),
)
ON_DEMAND = replace(
    PLAN,
    request_inputs=(RequestInput("offered", dtypes.FLOAT64),),
    on_demand=(COMPUTED,),
    outputs=(3, 0, 1, 2),
)
INPUTS = {
    "offered": [2, None, 0.5],
    "due": [datetime(2013, 7, 1, tzinfo=UTC), None, None],
    "tags": [["a"], [], None],
}
ASKED = {"airport": ["EWR", "JFK", "Öland"], "origin": ["EWR"] * 3, "leg": [1, -1, 2**40]}
KEYS: dict[str, tuple[list[str], list[Any]]] = {
    "one string": (["string"], ["EWR"]),
    "one int64": (["int64"], [-1]),
    "bytes": (["bytes"], [b"\0:/"]),
    "composite": (["string", "int64", "string"], ["", 2**63 - 1, "größe"]),
    "no key": ([], []),
}


def key(name: str) -> bytes:
    kinds, values = KEYS[name]
    return encode_key(values, [dtypes.parse(kind) for kind in kinds], key_prefix("shop", "e"))


def response(serving: ServingPlan, inputs: Inputs | None = None) -> bytes:
    values = {"temp": 21.5, "sky": "clear", "seen": None, "tags": ["a", None, ""]}
    written = [
        (WEATHER, ("EWR",), values, NOW_US - HOUR_US),
        (WEATHER, ("Öland",), values, NOW_US - 4 * HOUR_US),
        (ROUTE, ("EWR", -1), {"flights": -7}, NOW_US),
        (ROUTE, ("EWR", 2**40), None, NOW_US),
        (WORLD, (), {"load": 0.5}, 0),
    ]
    held = {
        (view.store_keys([k])[0], view.field): view.rows([values], [event_us])[0]
        for view, k, values, event_us in written
    }
    plan, entities = compile_plan(serving), read_entities(ASKED)
    request = Request(
        count=entities.count, columns=entities.columns, event_times=True, inputs=inputs
    )
    prepared = prepare(plan, request, Limits())
    found = [[held.get((read.key, field)) for field in read.fields] for read in prepared.reads]
    return finish(plan, request, prepared, found, NOW_US)[0]


def written() -> dict[str, str]:
    keys = {f"key, {name}": key(name).hex() for name in KEYS}
    inputs = read_inputs(INPUTS)
    assert inputs is not None
    sent = {
        f"request input, {name}": to_message(column).SerializeToString().hex()
        for name, column in inputs.items()
    }
    return {
        **keys,
        "serving plan": PLAN.to_bytes().hex(),
        "response": response(PLAN).hex(),
        **sent,
        "serving plan, on demand": ON_DEMAND.to_bytes().hex(),
        "response, on demand": response(ON_DEMAND, inputs).hex(),
    }


def test_what_is_written(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden", default=False):
        GOLDEN.write_text(json.dumps(written(), indent=1) + "\n")
    assert written() == json.loads(GOLDEN.read_text())


def test_what_was_written_means_the_same() -> None:
    golden = {name: bytes.fromhex(text) for name, text in json.loads(GOLDEN.read_text()).items()}
    assert ServingPlan.from_bytes(golden["serving plan"]) == PLAN
    answer = read_response(golden["response"], read_entities(ASKED))
    assert answer.plan_version == PLAN.hash
    assert answer.request_time_us == NOW_US
    assert answer.to_dict() == {
        **ASKED,
        "temp": [21.5, None, None],
        "tags": [["a", None, ""], None, None],
        "flights": [None, -7, None],
        "load": [0.5] * 3,
        "price": [None] * 3,
    }
    assert answer.statuses == {
        "temp": ["PRESENT", "NOT_FOUND", "OUTSIDE_MAX_AGE"],
        "tags": ["PRESENT", "NOT_FOUND", "OUTSIDE_MAX_AGE"],
        "flights": ["NOT_FOUND", "PRESENT", "NOT_FOUND"],
        "load": ["PRESENT"] * 3,
        "price": ["NULL_VALUE"] * 3,
    }

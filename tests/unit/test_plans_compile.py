"""From typed views to serving plans."""

from __future__ import annotations

import hashlib

import pytest
from shop_definitions import shop

from featurestore import dtypes
from featurestore.compiler.online import (
    ALL_VIEWS,
    all_views_version,
    compile_serving_plan,
    field_id,
    row_tag,
)
from featurestore.compiler.resolve import select
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.service import FeatureService
from featurestore.definitions.view import FeatureView
from featurestore.errors import TypeMismatch
from featurestore.wire.plans import RequestKey, ServingPlan


def plan_of(repo: TypedRepo, tables: dict[str, tuple[int, bytes]] | None = None) -> ServingPlan:
    service = repo.services["delay_model"]
    return compile_serving_plan(
        service.name, service.version, service.uses, project=repo.project, tables=tables or {}
    )


def test_field_ids_follow_storage_hash_and_generation() -> None:
    storage_hash = "ab" * 32
    expected = hashlib.sha256(f"{storage_hash}:2".encode()).digest()[:8]
    assert field_id(storage_hash, 2) == expected
    assert field_id(storage_hash, 3) != expected
    assert row_tag(storage_hash) == 0xABABABAB


def test_a_service_down_to_fields() -> None:
    repo = shop()
    view = repo.views["origin_weather"]
    plan = plan_of(repo, {view.storage_hash: (4, b"12345678")})
    assert plan.request_keys == (RequestKey("airport", dtypes.STRING),)
    weather, days = plan.lookups
    assert (weather.name, weather.generation, weather.field) == ("origin_weather", 4, b"12345678")
    assert [f.name for f in weather.stored] == ["temp", "wind_kts"]
    assert [f.name for f in weather.features] == ["temp"]
    assert weather.ttl_us == weather.grace_us == 7 * 86_400_000_000
    assert weather.key_space == "airport"
    assert days.field == field_id(repo.views["hot_days"].storage_hash, 0)
    assert ServingPlan.from_bytes(plan.to_bytes()) == plan


def test_a_new_ttl_is_a_new_plan_over_the_same_rows() -> None:
    short, long = plan_of(shop(ttl="1d")), plan_of(shop(ttl="2d"))
    assert short.hash != long.hash
    assert [use.field for use in short.lookups] == [use.field for use in long.lookups]


def test_int32_keys_are_asked_for_as_int64() -> None:
    repo = shop(key_type="int32")
    assert plan_of(repo).request_keys == (RequestKey("airport", dtypes.INT64),)


def test_aliases_read_their_keys_from_other_columns() -> None:
    def services(view: FeatureView, days: FeatureView) -> list[FeatureService]:
        dest = view.with_name("dest").with_join_key_map({"airport": "to"})
        return [FeatureService("delay_model", [view, dest])]

    plan = plan_of(shop(services=services))
    assert [key.name for key in plan.request_keys] == ["airport", "to"]
    assert [(use.name, use.view, use.keys) for use in plan.lookups] == [
        ("origin_weather", "origin_weather", (0,)),
        ("dest", "origin_weather", (1,)),
    ]


def test_one_column_cannot_be_of_two_types() -> None:
    text, number = shop(), shop(key_type="int64")
    uses = [*select(text, ["origin_weather"]), *select(number, ["hot_days"])]
    with pytest.raises(TypeMismatch, match="'airport' would be string for one view and int64"):
        compile_serving_plan("m", "00" * 32, uses, project="shop", tables={})
    whole = compile_serving_plan(
        ALL_VIEWS, all_views_version(uses), uses, project="shop", tables={}
    )
    assert [use.keys for use in whole.lookups] == [(0,), (1,)]

"""ServingPlan: bytes and back, cutting, output names."""

from __future__ import annotations

import dataclasses

import pytest

from featurestore.dtypes import BYTES, FLOAT64, INT64, STRING, DType, Kind
from featurestore.errors import CorruptPlan, NameClash, UnknownFeature, UnknownView
from featurestore.wire.plan_parts import cut
from featurestore.wire.plans import (
    ALL_VIEWS,
    Lookup,
    RequestKey,
    ServingPlan,
    StoredFeature,
    output_columns,
    row_tag,
)

LIST = DType(Kind.LIST, item=DType(Kind.DECIMAL, precision=12, scale=2))


def feature(name: str, dtype: DType = FLOAT64) -> StoredFeature:
    return StoredFeature(name, dtype, "ab" * 32)


def lookup(name: str, *, keys: tuple[int, ...], features: tuple[str, ...]) -> Lookup:
    return Lookup(
        name=name,
        view=name,
        view_version="cd" * 32,
        storage_hash="0102030405" + "ef" * 27,
        key_space="-".join(str(key) for key in keys),
        keys=keys,
        field=b"\x00\x01\x02\x03\x04\x05\x06\x07",
        generation=3,
        ttl_us=None,
        grace_us=0,
        stored=tuple(feature(f) for f in features),
        selected=tuple(range(len(features))),
    )


PLAN = ServingPlan(
    project="flights",
    service=ALL_VIEWS,
    service_version="12" * 32,
    request_keys=(RequestKey("a", INT64), RequestKey("b", STRING), RequestKey("größe", BYTES)),
    lookups=(
        lookup("weather", keys=(1,), features=("temp", "select", "größe_cm")),
        lookup("route", keys=(2, 1), features=("temp", "rate")),
        lookup("world", keys=(), features=("load",)),
    ),
)


def test_bytes_and_back_is_the_same_plan() -> None:
    typed = dataclasses.replace(
        PLAN.lookups[0], ttl_us=3_600_000_000, stored=(feature("x", LIST),), selected=(0,)
    )
    plan = dataclasses.replace(PLAN, lookups=(typed, *PLAN.lookups))
    assert ServingPlan.from_bytes(plan.to_bytes()) == plan


def test_hash_is_stable_and_covers_everything() -> None:
    again = ServingPlan.from_bytes(PLAN.to_bytes())
    assert again.hash == PLAN.hash
    assert len(PLAN.hash) == 64
    newer = dataclasses.replace(PLAN.lookups[0], generation=4)
    assert dataclasses.replace(PLAN, lookups=(newer, *PLAN.lookups[1:])).hash != PLAN.hash


def test_no_ttl_differs_from_a_ttl_of_zero_grace() -> None:
    back = ServingPlan.from_bytes(PLAN.to_bytes()).lookups[0]
    assert back.ttl_us is None
    assert back.grace_us == 0


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x05ab", PLAN.to_bytes()[:-3]])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptPlan, match="not a serving plan"):
        ServingPlan.from_bytes(data)


def test_a_plan_that_points_outside_itself_is_refused() -> None:
    wrong = dataclasses.replace(PLAN, request_keys=PLAN.request_keys[:1])
    with pytest.raises(CorruptPlan, match="keys of weather: index 1 of 1"):
        ServingPlan.from_bytes(wrong.to_bytes())


def test_row_tag_is_little_endian() -> None:
    assert row_tag("01020304" + "00" * 28) == 0x04030201


def test_cut_keeps_the_order_asked_and_drops_other_keys() -> None:
    part = cut(PLAN, ["route:rate", "weather:temp", "route:temp", "route:rate"])
    assert [use.name for use in part.lookups] == ["route", "weather"]
    assert [f.name for f in part.lookups[0].features] == ["rate", "temp"]
    assert part.request_keys == (RequestKey("größe", BYTES), RequestKey("b", STRING))
    assert [use.keys for use in part.lookups] == [(0, 1), (1,)]


def test_cut_takes_a_whole_view() -> None:
    part = cut(PLAN, ["world", "weather:select", "weather"])
    assert [f.name for f in part.lookups[1].features] == ["select", "temp", "größe_cm"]
    assert part.lookups[0].keys == ()


def test_cut_suggests_what_there_is() -> None:
    with pytest.raises(UnknownView, match="Did you mean 'weather'"):
        cut(PLAN, ["wether:temp"])
    with pytest.raises(UnknownFeature, match="Did you mean 'temp'"):
        cut(PLAN, ["weather:tmp"])
    with pytest.raises(UnknownFeature):
        cut(PLAN, ["weather:"])


def test_output_columns_short_and_full() -> None:
    part = cut(PLAN, ["route:rate", "weather:temp"])
    assert output_columns(part, full_feature_names=False) == (("rate",), ("temp",))
    assert output_columns(part, full_feature_names=True) == (("route__rate",), ("weather__temp",))


def test_output_columns_clash() -> None:
    with pytest.raises(NameClash, match=r"'temp'.*full_feature_names=True"):
        output_columns(PLAN, full_feature_names=False)
    keyed = dataclasses.replace(PLAN, request_keys=(RequestKey("load", STRING),) * 3)
    with pytest.raises(NameClash, match="'load'"):
        output_columns(cut(keyed, ["world", "weather"]), full_feature_names=False)


def test_names_that_differ_only_in_case_clash() -> None:
    shouting = dataclasses.replace(PLAN, lookups=(lookup("a", keys=(), features=("Load", "load")),))
    with pytest.raises(NameClash, match="'a__Load', 'a__load'"):
        output_columns(shouting, full_feature_names=True)

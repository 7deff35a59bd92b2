"""What a plan says of a changed repository, and how definitions become records."""

from __future__ import annotations

import json

import pytest
from shop_definitions import shop

from featurestore import dtypes
from featurestore.compiler.change_text import render
from featurestore.compiler.changes import (
    Category,
    Change,
    ChangePlan,
    definition_records,
    online_alias,
    plan_changes,
)
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.service import FeatureService
from featurestore.definitions.view import Feature
from featurestore.errors import InvalidRequest
from featurestore.records import Record, StoredRecord

BREAKING, ADDITIVE = Category.BREAKING, Category.ADDITIVE
METADATA, REMOVAL = Category.METADATA, Category.REMOVAL


def stored(repo: TypedRepo) -> list[StoredRecord]:
    return [
        StoredRecord(id=record.id, record=record, created_at_us=0, author="ann")
        for record in definition_records(repo)
    ]


def planned(old: TypedRepo | None, new: TypedRepo) -> ChangePlan:
    aliases = [online_alias(view) for view in old.views.values()] if old else []
    return plan_changes(
        stored(old) if old else None, new, environment="prod", online_aliases=aliases
    )


def found(old: TypedRepo | None, new: TypedRepo) -> dict[str, Change]:
    return {f"{change.kind}:{change.name}": change for change in planned(old, new).changes}


def categories(old: TypedRepo | None, new: TypedRepo) -> dict[str, Category]:
    return {name: change.category for name, change in found(old, new).items()}


def records(repo: TypedRepo) -> dict[str, Record]:
    return {f"{record.kind}:{record.name}": record for record in definition_records(repo)}


# --- records --------------------------------------------------------------------------------------


def test_every_definition_becomes_a_record_after_its_parents() -> None:
    made = definition_records(shop())
    assert [f"{r.kind}:{r.name}" for r in made] == [
        "entity:airport",
        "source:weather",
        "source:hot",
        "feature:hot_days.temp",
        "feature:origin_weather.temp",
        "feature:origin_weather.wind_kts",
        "view:hot_days",
        "view:origin_weather",
        "service:delay_model",
        "repo:shop",
    ]
    seen = set[str]()
    for record in made:
        assert {edge.parent for edge in record.parents} <= seen
        seen.add(record.id)
    assert {edge.parent for edge in made[-1].parents} == seen - {made[-1].id}


def test_bodies_hold_what_lists_show() -> None:
    repo = shop(wind_about="Wind in knots", tags={"team": "ops"})
    made = records(repo)
    feature = made["feature:origin_weather.wind_kts"].body
    assert feature["expression"] == "(wind_speed * 0.868976)"
    assert feature["columns"] == ["wind_speed"]
    assert (feature["dtype"], feature["description"]) == ("float64", "Wind in knots")
    view = made["view:origin_weather"].body
    assert view["join_keys"] == [{"name": "airport", "dtype": "string"}]
    assert (view["owner"], view["tags"]) == ("ann", {"team": "ops"})
    assert view["version"] == repo.views["origin_weather"].version
    assert view["storage_hash"] == repo.views["origin_weather"].storage_hash
    assert made["source:weather"].body["columns"]["wind_speed"] == "int32"
    assert made["source:hot"].body["inputs"] == ["weather"]


def test_edges_tell_values_from_keys_and_times() -> None:
    made = records(shop(extra=[Feature("one", "1 + 0")]))
    source, entity = made["source:weather"].id, made["entity:airport"].id

    def parents(name: str) -> list[tuple[str, str, str]]:
        return [(e.parent, e.role, e.transformation) for e in made[name].parents]

    assert parents("feature:origin_weather.temp") == [
        (source, "source", "DIRECT"),
        (source, "time", "INDIRECT"),
        (entity, "entity", "INDIRECT"),
    ]
    assert parents("feature:origin_weather.one") == parents("feature:origin_weather.temp")[1:]
    used = {parent for parent, *_ in parents("service:delay_model")}
    assert used == {made["feature:origin_weather.temp"].id, made["view:hot_days"].id}


def test_a_very_wide_source_shows_the_number_of_its_columns() -> None:
    wide = {f"column_number_{n}": dtypes.parse("float64") for n in range(3000)}
    body = records(shop(schema=wide))["source:weather"].body
    assert "columns" not in body
    narrower = dict(list(wide.items())[:-1])
    assert categories(shop(schema=wide), shop(schema=narrower)) == {"source:weather": METADATA}


def test_where_a_definition_stands_changes_nothing() -> None:
    one, two = shop(), shop()
    assert definition_records(one) == definition_records(two)
    assert planned(one, two).is_empty


# --- categories -----------------------------------------------------------------------------------


def test_a_first_plan_is_all_additive() -> None:
    plan = planned(None, shop())
    assert plan.base is None
    assert not plan.is_empty
    assert {change.category for change in plan.changes} == {ADDITIVE}
    assert [f"{change.kind}:{change.name}" for change in plan.changes] == [
        "entity:airport",
        "source:hot",
        "source:weather",
        "view:hot_days",
        "feature:hot_days.temp",
        "view:origin_weather",
        "feature:origin_weather.temp",
        "feature:origin_weather.wind_kts",
        "service:delay_model",
    ]
    assert [build.view for build in plan.builds] == ["hot_days", "origin_weather"]


def test_descriptions_owners_and_tags_are_metadata() -> None:
    changes = found(
        shop(tags={"team": "ops", "a": "1"}),
        shop(owner="bob", wind_about="Wind", tags={"team": "data", "b": "2"}),
    )
    assert {name: change.category for name, change in changes.items()} == {
        "view:origin_weather": METADATA,
        "feature:origin_weather.wind_kts": METADATA,
    }
    assert changes["view:origin_weather"].details == (
        "owner ann → bob",
        "tag a removed",
        "tag b added: 2",
        "tag team ops → data",
    )
    assert changes["feature:origin_weather.wind_kts"].details == ("description none → Wind",)


@pytest.mark.parametrize(
    ("new", "detail"),
    [
        (shop(source={"lateness": "2h"}), "lateness 1h → 2h"),
        (shop(schema={"humidity": dtypes.parse("float64")}), "column humidity added: float64"),
    ],
)
def test_what_changes_no_value_is_metadata(new: TypedRepo, detail: str) -> None:
    changes = planned(shop(), new).changes
    assert [change.category for change in changes] == [METADATA]
    assert changes[0].details[0].startswith(detail)


def test_a_new_feature_adds_to_its_view_and_to_services_of_the_whole_view() -> None:
    def both(view: object, days: object) -> list[FeatureService]:
        return [FeatureService("whole", [view]), FeatureService("part", [view[["temp"]]])]  # type: ignore[list-item,index]

    old = shop(services=both)
    new = shop(services=both, extra=[Feature("temp_c", "(temp - 32) / 1.8")])
    changes = found(old, new)
    assert {name: change.category for name, change in changes.items()} == {
        "view:origin_weather": ADDITIVE,
        "feature:origin_weather.temp_c": ADDITIVE,
        "service:whole": ADDITIVE,
    }
    assert changes["view:origin_weather"].details == ("feature temp_c added",)
    assert changes["service:whole"].details == ("feature origin_weather.temp_c added",)
    assert [build.view for build in planned(old, new).builds] == ["origin_weather"]


def test_a_changed_expression_breaks_what_reads_it_and_nothing_beside() -> None:
    changes = found(shop(), shop(wind="wind_speed * 2"))
    assert {name: change.category for name, change in changes.items()} == {
        "view:origin_weather": BREAKING,
        "feature:origin_weather.wind_kts": BREAKING,
    }
    feature = changes["feature:origin_weather.wind_kts"]
    assert feature.details == (
        "expression (wind_speed * 0.868976) → (wind_speed * 2)",
        "dtype float64 → int64",
    )
    assert feature.services == ()
    assert changes["view:origin_weather"].details == ("changes the values of wind_kts",)


def test_a_new_layout_of_an_expression_changes_nothing() -> None:
    assert planned(shop(), shop(wind="(wind_speed)   *  0.868976")).is_empty


def test_a_new_layout_of_a_query_changes_nothing() -> None:
    """Its record is another one, for it shows the query as it is written."""
    query = "SELECT airport, -- where\n  observed_at, temp FROM weather WHERE temp>30"
    plan = planned(shop(), shop(query=query))
    assert plan.is_empty
    assert plan.moves
    assert plan.builds == ()
    assert str(plan) == "No changes: environment 'prod' has the same in other words."
    assert plan.to_markdown().endswith("No changes.\n")
    described = planned(shop(), shop(query=query, source={"lateness": "2h"}))
    assert [change.name for change in described.changes] == ["weather"]


def test_a_new_ttl_breaks_all_features_but_needs_no_new_table() -> None:
    plan = planned(shop(), shop(ttl="3d"))
    changes = {f"{change.kind}:{change.name}": change for change in plan.changes}
    assert {change.category for change in plan.changes} == {BREAKING}
    assert plan.builds == ()
    assert changes["view:origin_weather"].details[:2] == ("ttl 7d → 3d", "grace 7d → 3d")
    assert "ttl 7d → 3d" in changes["feature:origin_weather.temp"].details
    assert changes["view:origin_weather"].services == ("delay_model",)
    assert changes["service:delay_model"].details == ("changes the values of origin_weather: temp",)
    assert found(shop(), shop(ttl=None))["view:origin_weather"].details[0] == "ttl 7d → none"


def test_a_changed_source_breaks_all_that_is_downstream() -> None:
    changes = found(shop(), shop(source={"path": "other/*.parquet"}))
    assert {change.category for change in changes.values()} == {BREAKING}
    assert changes["source:weather"].details == ("path data/weather.parquet → other/*.parquet",)
    assert changes["source:weather"].services == ("delay_model",)
    assert changes["source:hot"].details == ("source weather changed",)
    assert changes["feature:hot_days.temp"].details == ("source hot changed",)
    assert "entity:airport" not in changes


def test_a_changed_key_and_a_changed_column_are_named() -> None:
    changes = found(shop(), shop(key_type="int64"))
    assert changes["entity:airport"].details == ("join keys airport string → airport int64",)
    assert changes["entity:airport"].category == BREAKING
    assert "entity airport changed" in changes["feature:hot_days.temp"].details
    changes = found(shop(), shop(schema={"wind_speed": dtypes.parse("int64")}))
    assert changes["source:weather"].category == METADATA
    assert changes["feature:origin_weather.wind_kts"].category == BREAKING
    assert changes["feature:origin_weather.wind_kts"].details == (
        "column wind_speed int32 → int64",
    )


def test_what_is_gone_is_a_removal() -> None:
    changes = found(shop(extra=[Feature("x", "temp + 1")]), shop(services=lambda *_: []))
    assert changes["feature:origin_weather.x"].category == REMOVAL
    assert changes["view:origin_weather"].category == BREAKING
    assert changes["view:origin_weather"].details == ("feature x removed",)
    assert changes["service:delay_model"].category == REMOVAL


@pytest.mark.parametrize(
    ("services", "category", "details"),
    [
        (
            lambda view, days: [FeatureService("delay_model", [view, days])],
            ADDITIVE,
            ("feature origin_weather.wind_kts added",),
        ),
        (
            lambda view, days: [FeatureService("delay_model", [view[["temp"]]])],
            BREAKING,
            ("view hot_days removed",),
        ),
        (
            lambda view, days: [FeatureService("delay_model", [view[["wind_kts"]], days])],
            BREAKING,
            ("feature origin_weather.temp removed", "feature origin_weather.wind_kts added"),
        ),
        (
            lambda view, days: [FeatureService("delay_model", [days, view[["temp"]]])],
            BREAKING,
            ("views or features in another order",),
        ),
        (
            lambda view, days: [
                FeatureService(
                    "delay_model",
                    [view[["temp"]].with_join_key_map({"airport": "origin"}), days],
                )
            ],
            BREAKING,
            ('origin_weather: join key map none → {"airport": "origin"}',),
        ),
        (
            lambda view, days: [
                FeatureService("delay_model", [view[["temp"]], days, view.with_name("dest")])
            ],
            ADDITIVE,
            ("view dest added",),
        ),
    ],
)
def test_a_service_may_grow_but_not_shrink(
    services: object, category: Category, details: tuple[str, ...]
) -> None:
    changes = found(shop(), shop(services=services))  # type: ignore[arg-type]
    assert {name: c.category for name, c in changes.items()} == {"service:delay_model": category}
    assert changes["service:delay_model"].details == details


# --- the plan as text and data --------------------------------------------------------------------


def test_a_plan_survives_json() -> None:
    for plan in (planned(None, shop()), planned(shop(), shop(ttl="3d")), planned(shop(), shop())):
        assert ChangePlan.from_json(plan.to_json()) == plan
    assert json.loads(planned(shop(), shop(ttl="3d")).to_json())["changes"][0]["details"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 3}', '{"format": 1, "changes": []}', "null", '{"format": 1'],
)
def test_another_text_is_no_plan(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a plan of ours"):
        ChangePlan.from_json(text)


def test_a_plan_reads_well() -> None:
    old, new = shop(), shop(ttl="3d", extra=[Feature("x", "temp + 1")])
    base = definition_records(old)[-1].hash[:8]
    had, storage = (repo.views["origin_weather"].storage_hash[:8] for repo in (old, new))
    assert render(planned(old, new)).splitlines() == [
        f"Changes to environment 'prod' of shop, since repo:shop@{base}:",
        (
            "  ! BREAKING view origin_weather: ttl 7d → 3d; grace 7d → 3d; "
            "changes the values of temp, wind_kts; feature x added [services: delay_model]"
        ),
        (
            "      ! BREAKING feature origin_weather.temp: ttl 7d → 3d; grace 7d → 3d "
            "[services: delay_model]"
        ),
        "      ! BREAKING feature origin_weather.wind_kts: ttl 7d → 3d; grace 7d → 3d",
        "      + ADDITIVE feature origin_weather.x: (temp + 1) (float64)",
        "  ! BREAKING service delay_model: changes the values of origin_weather: temp",
        "New online tables, to be filled by: featurestore materialize",
        f"    origin_weather ({storage}) beside ({had})",
        "In all: 1 ADDITIVE, 4 BREAKING.",
    ]
    assert str(planned(old, old)) == ("No changes: environment 'prod' has this repository already.")


def test_a_long_plan_is_cut_for_people_only() -> None:
    many = [Feature(f"f{n:03}", f"temp + {n}") for n in range(50)]
    plan = planned(None, shop(extra=many))
    text = render(plan)
    assert "feature origin_weather.f019" in text
    assert "feature origin_weather.f020" not in text
    assert text.count("… more features of origin_weather") == 1
    assert len([change for change in plan.changes if change.kind == "feature"]) == 53

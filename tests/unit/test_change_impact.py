"""Where a change begins, what lies downstream of it, and which changes are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shop_definitions import SCHEMA, shop

from featurestore import dtypes
from featurestore.compiler.change_plan import Affected, Category, ChangePlan
from featurestore.compiler.changes import definition_records, objects_of, plan_changes
from featurestore.compiler.impact import Roots, roots_of
from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.aggregation import Aggregation
from featurestore.definitions.entity import Entity
from featurestore.definitions.on_demand import OnDemandFeatureView, RequestSource
from featurestore.definitions.repo import collect
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.errors import DestructiveChange, ProductionImpact
from featurestore.jobs.apply import apply, plan
from featurestore.lifecycle.changes import check_allowed, impact_record, in_use, stages_in
from featurestore.records import Edge, Record, StoredRecord, Transformation
from featurestore.stores.registry.base import Registry
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.timeline import ManualClock

NOW_US = 1_700_000_000_000_000
PRODUCTION, STAGING = "model/delay/production", "model/delay/staging"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with SqlRegistry.open(
        "sqlite:///r.db", project="shop", root=tmp_path, clock=ManualClock(NOW_US), author="ann"
    ) as opened:
        yield opened


def roots(old: TypedRepo, new: TypedRepo) -> dict[str, list[str]]:
    """Where the change begins, by the names of the records."""
    before, after = definition_records(old), definition_records(new)
    stored = [StoredRecord(id=r.id, record=r, created_at_us=0, author="ann") for r in before]
    changes = plan_changes(stored, new, environment="prod").changes
    found = roots_of(changes, objects_of(before), objects_of(after))
    names = {
        how: [one.rpartition("@")[0] for one in getattr(found, how)]
        for how in ("removed", "direct", "indirect")
    }
    return {how: ids for how, ids in names.items() if ids}


# --- where it begins ------------------------------------------------------------------------------


def test_another_expression_changes_a_value() -> None:
    assert roots(shop(), shop(wind="wind_speed * 2")) == {
        "direct": ["feature:origin_weather.wind_kts"]
    }


def test_another_ttl_is_an_age_limit() -> None:
    assert roots(shop(), shop(ttl="3d")) == {
        "indirect": ["feature:origin_weather.temp", "feature:origin_weather.wind_kts"]
    }


def test_another_key_is_a_key() -> None:
    found = roots(shop(), shop(key_type="int64"))
    assert found.keys() == {"indirect"}
    assert "feature:hot_days.temp" in found["indirect"]


def test_another_source_changes_the_values_that_are_read_of_it() -> None:
    constant = [Feature("one", "1 + 0")]
    found = roots(shop(extra=constant), shop(extra=constant, source={"path": "other.parquet"}))
    assert found == {
        "direct": [
            "feature:hot_days.temp",
            "feature:origin_weather.temp",
            "feature:origin_weather.wind_kts",
        ],
        "indirect": ["feature:origin_weather.one"],
    }


def test_another_type_of_a_column_changes_values() -> None:
    found = roots(shop(), shop(schema={"wind_speed": dtypes.parse("int64")}))
    assert found == {"direct": ["feature:origin_weather.wind_kts"]}


def test_what_is_gone_is_removed() -> None:
    extra = [Feature("x", "temp + 1")]
    found = roots(shop(extra=extra), shop(services=lambda *_: []))
    assert found == {"removed": ["feature:origin_weather.x", "service:delay_model"]}


def test_a_service_begins_a_change_only_where_it_is_put_together_otherwise() -> None:
    narrower = shop(services=lambda view, _: [FeatureService("delay_model", [view[["temp"]]])])
    assert roots(shop(), narrower) == {"direct": ["service:delay_model"]}
    assert "service:delay_model" not in str(roots(shop(), shop(ttl="3d")))


def test_what_describes_or_is_added_touches_nothing() -> None:
    assert roots(shop(), shop(owner="bob", wind_about="Wind", extra=[Feature("x", "temp")])) == {}


def trips(
    *,
    ttl: str = "7d",
    distance: str = "float64",
    to: str = "to",
    per_mile: str = "temp / distance",
    computed: bool = True,
) -> TypedRepo:
    """View `weather` (temp), and `trip` (per_mile, warm), on demand of it or (`computed` false) a
    view of its own."""
    airport = Entity("airport", {"airport": "string"})
    source = FileSource("weather", path="weather.parquet", event_time="observed_at")
    weather = FeatureView("weather", [airport], source, [Feature("temp")], ttl=ttl)
    booking = RequestSource("booking", {"distance": distance})
    warm = Feature("warm", "temp > 10")
    trip: FeatureView | OnDemandFeatureView
    if computed:
        inputs = [weather.with_join_key_map({"airport": to}), booking]
        trip = OnDemandFeatureView("trip", inputs, [Feature("per_mile", per_mile), warm])
    else:
        trip = FeatureView("trip", [airport], source, [Feature("warm", "temp > 10")], ttl=ttl)
    made = [airport, source, weather, booking, trip, FeatureService("model", [trip])]
    schemas = {"weather": {name: SCHEMA[name] for name in ("airport", "observed_at", "temp")}}
    return resolve(collect(made), schemas, project="shop")


@pytest.mark.parametrize(
    ("new", "found"),
    [
        ({"ttl": "3d"}, {"indirect": ["feature:weather.temp"]}),
        ({"per_mile": "temp * distance"}, {"direct": ["feature:trip.per_mile"]}),
        ({"distance": "int64"}, {"direct": ["feature:trip.per_mile"]}),
        ({"to": "dest"}, {"indirect": ["feature:trip.per_mile", "feature:trip.warm"]}),
        (
            {"computed": False},
            {
                "removed": ["feature:trip.per_mile"],
                "direct": ["feature:trip.warm", "service:model"],
            },
        ),
    ],
    ids=["upstream", "expression", "input", "keys", "kind"],
)
def test_on_demand_features_begin_what_is_their_own(
    new: dict[str, Any], found: dict[str, list[str]]
) -> None:
    assert roots(trips(), trips(**new)) == found


def test_another_filter_is_a_filter() -> None:
    def counted(where: str, argument: str = "temp") -> TypedRepo:
        airport = Entity("airport", {"airport": "string"})
        source = FileSource("weather", path="weather.parquet", event_time="observed_at")
        mean = Aggregation(argument, "mean", window="1d", where=where, name="mean")
        rows = Aggregation("*", "count", window="1d", where=where, name="rows")
        view = FeatureView("windows", [airport], source, [mean, rows])
        columns = ("airport", "observed_at", "temp", "wind_speed")
        schemas = {"weather": {name: SCHEMA[name] for name in columns}}
        return resolve(collect([airport, source, view]), schemas, project="shop")

    features = ["feature:windows.mean", "feature:windows.rows"]
    assert roots(counted("temp > 1"), counted("temp > 2")) == {"indirect": features}
    found = roots(counted("temp > 1"), counted("temp > 1", "wind_speed"))
    assert found == {"direct": features[:1]}


def test_roots_of_all_kinds_together() -> None:
    found = Roots(removed=["a"], direct=["b"], indirect=["c"])
    assert found.every == ["a", "b", "c"]


# --- what lies downstream -------------------------------------------------------------------------


def made_of(
    registry: Registry,
    repo: TypedRepo,
    features: list[str],
    *,
    number: int = 1,
    service: str | None = None,
) -> Record:
    """A model, by a run on a training set of these features, all committed."""
    by_name = {f"{r.kind}:{r.name}": r for r in definition_records(repo)}
    parents = [Edge(parent=by_name[f"feature:{name}"].id, role="feature") for name in features]
    data = Record(
        kind="training_set", name="flights", body={"rows": number}, parents=tuple(parents)
    )
    run = Record(
        kind="run", name=f"x/{number}", parents=(Edge(parent=data.id, role="training_set"),)
    )
    uses = [Edge(parent=run.id, role="run"), Edge(parent=data.id, role="training_set")]
    if service is not None:
        uses.append(Edge(parent=by_name[f"service:{service}"].id, role="service"))
    model = Record(kind="model", name="delay", body={"number": number}, parents=tuple(uses))
    registry.commit(records=[data, run, model])
    return model


def affected(found: ChangePlan) -> dict[str, tuple[Any, ...]]:
    return {
        f"{one.kind}:{one.name}": (one.category, one.transformation, one.through)
        for one in found.affected
    }


def test_a_plan_names_all_that_is_downstream(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    model = made_of(registry, shop(), ["origin_weather.wind_kts"])
    registry.commit(aliases={PRODUCTION: model.id, "model/delay": model.id})
    found = plan(shop(wind="wind_speed * 2"), registry, "prod")
    through = ("origin_weather.wind_kts",)
    assert affected(found) == {
        "model:delay": (Category.BREAKING, "DIRECT", through),
        "training_set:flights": (Category.BREAKING, "DIRECT", through),
        "run:x/1": (Category.BREAKING, "DIRECT", through),
    }
    assert found.affected[0].label == "delay v1"
    assert found.affected[0].aliases == (PRODUCTION,)
    assert f"model delay v1 ({PRODUCTION}), through origin_weather.wind_kts" in str(found)
    assert ChangePlan.from_json(found.to_json()) == found


def test_an_age_limit_reaches_indirectly_and_a_value_outweighs_it(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    made_of(registry, shop(), ["origin_weather.temp", "origin_weather.wind_kts"])
    assert affected(plan(shop(ttl="3d"), registry, "prod"))["model:delay"] == (
        Category.BREAKING,
        "INDIRECT",
        ("origin_weather.temp", "origin_weather.wind_kts"),
    )
    both = plan(shop(ttl="3d", wind="wind_speed * 2"), registry, "prod")
    assert affected(both)["model:delay"][:2] == (Category.BREAKING, "DIRECT")
    assert affected(both)["service:delay_model"][:2] == (Category.BREAKING, "INDIRECT")


def test_what_is_described_otherwise_is_found_all_the_same(registry: Registry) -> None:
    """A record's id covers its parents' descriptions; what depends on its twin is touched too."""
    apply(shop(), registry, "prod")
    model = made_of(registry, shop(), ["origin_weather.wind_kts"])
    apply(shop(wind_about="Wind in knots"), registry, "prod")
    found = plan(shop(wind="wind_speed * 2"), registry, "prod")
    assert model.id in {one.id for one in found.affected}


def test_siblings_are_left_alone(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    made_of(registry, shop(), ["origin_weather.temp"])
    changed = shop(wind="wind_speed * 2", extra=[Feature("x", "temp + 1")])
    assert plan(changed, registry, "prod").affected == ()


# --- refusals -------------------------------------------------------------------------------------


def touched(
    category: Category = Category.BREAKING,
    *aliases: str,
    label: str = "delay v3",
    transformation: Transformation = "DIRECT",
) -> Affected:
    return Affected(
        kind="model",
        name="delay",
        label=label,
        id=f"model:delay@{label}",
        transformation=transformation,
        category=category,
        aliases=aliases,
        through=("landings.arr_delay",),
    )


def test_a_stage_is_of_one_environment() -> None:
    names = [PRODUCTION, "model/delay", "model/delay/archived", "env/test/model/delay/staging"]
    assert in_use(names) == (PRODUCTION, "env/test/model/delay/staging")
    assert stages_in(names, "prod") == ("production",)
    assert stages_in(names, "test") == ("staging",)
    assert in_use(["env/prod", "x", "model/production"]) == ()


def test_what_a_model_in_use_needs_is_not_removed() -> None:
    every = [touched(Category.REMOVAL, STAGING), touched(Category.REMOVAL, label="delay v1")]
    with pytest.raises(DestructiveChange) as caught:
        check_allowed(every, "prod", reason="we mean it")
    assert caught.value.models == ["delay v3"]
    assert "delay v3 (staging): landings.arr_delay" in str(caught.value)
    assert check_allowed(every, "test", reason=None) == ()


def test_a_change_below_production_takes_a_reason() -> None:
    every = [touched(Category.BREAKING, PRODUCTION), touched(Category.BREAKING, STAGING)]
    for reason in (None, "", "  "):
        with pytest.raises(ProductionImpact) as caught:
            check_allowed(every, "prod", reason=reason)
        assert caught.value.models == ["delay v3"]
        assert "--allow-production-impact" in str(caught.value)
    assert check_allowed(every, "prod", reason="retrained") == (every[0],)
    assert check_allowed(every, "test", reason=None) == ()
    assert check_allowed(every[1:], "prod", reason=None) == ()


def test_a_refusal_of_many_is_cut() -> None:
    every = [touched(Category.BREAKING, PRODUCTION, label=f"m v{n}") for n in range(60)]
    with pytest.raises(ProductionImpact, match=r"m v9 \(production\).*; 50 more\."):
        check_allowed(every, "prod", reason=None)
    kept = impact_record("prod", "repo:shop@0", every, reason="why", action="apply")
    assert len(kept.body["models"]) == 50
    assert len(kept.parents) == 61


def test_applying_below_production_is_refused_and_then_recorded(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    model = made_of(registry, shop(), ["origin_weather.wind_kts"])
    registry.commit(aliases={PRODUCTION: model.id})
    changed = shop(wind="wind_speed * 2")
    before = registry.record("env/prod").id
    reviewed = plan(changed, registry, "prod")
    for given in (None, reviewed):
        with pytest.raises(ProductionImpact, match=r"delay v1 \(production\)"):
            apply(changed, registry, "prod", plan=given)
    assert registry.record("env/prod").id == before
    done = apply(changed, registry, "prod", allow_production_impact="v2 is trained on it")
    assert registry.history("env/prod")[-1].reason == "apply: v2 is trained on it"
    (kept,) = registry.records(kind="production_impact")
    assert kept.record.body == {
        "action": "apply",
        "reason": "v2 is trained on it",
        "models": ["delay v1"],
        "through": ["origin_weather.wind_kts"],
    }
    assert {edge.parent for edge in kept.record.parents} == {done.repo, model.id}


def test_a_model_promoted_after_the_plan_counts(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    model = made_of(registry, shop(), ["origin_weather.wind_kts"])
    changed = shop(wind="wind_speed * 2")
    reviewed = plan(changed, registry, "prod")
    registry.commit(aliases={PRODUCTION: model.id})
    with pytest.raises(ProductionImpact):
        apply(changed, registry, "prod", plan=reviewed)


def test_a_removal_below_a_live_model_is_refused_until_it_is_archived(registry: Registry) -> None:
    extra = [Feature("x", "temp + 1")]
    apply(shop(extra=extra), registry, "prod")
    model = made_of(registry, shop(extra=extra), ["origin_weather.x"])
    registry.commit(aliases={STAGING: model.id})
    with pytest.raises(DestructiveChange, match=r"origin_weather\.x"):
        apply(shop(), registry, "prod", allow_production_impact="whatever")
    registry.commit(aliases={STAGING: None, "model/delay/archived": model.id})
    apply(shop(), registry, "prod")
    assert registry.records(kind="production_impact") == []


def test_models_of_another_environment_do_not_stand_in_the_way(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    apply(shop(), registry, "test")
    model = made_of(registry, shop(), ["origin_weather.wind_kts"])
    registry.commit(aliases={PRODUCTION: model.id})
    apply(shop(wind="wind_speed * 2"), registry, "test")
    registry.commit(aliases={"env/test/model/delay/production": model.id})
    with pytest.raises(ProductionImpact):
        apply(shop(wind="wind_speed * 3"), registry, "prod")

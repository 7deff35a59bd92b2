"""Applying to a real (SQLite) registry: commits, stale plans, online tables, what is served."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from shop_definitions import shop

from featurestore.compiler.changes import definition_records, online_alias
from featurestore.compiler.typed import TypedRepo, TypedView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.view import Feature, FeatureView
from featurestore.errors import StalePlan, TypeMismatch
from featurestore.jobs.apply import (
    OnlineTable,
    add_generation,
    apply,
    current_repo,
    current_views,
    drop_unused_tables,
    ensure_online_tables,
    fields_in_use,
    online_tables,
    plan,
    publish,
    serving_plans,
)
from featurestore.jobs.store_identity import table_name
from featurestore.records import AliasIs, LedgerRow, Record
from featurestore.stores.registry.base import Registry
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.timeline import DAY_US, ManualClock
from featurestore.wire.plans import ALL_VIEWS, ServingPlan

NOW_US = 1_700_000_000_000_000
STORE = "00112233aabbccdd"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_registry(tmp_path) as opened:
        yield opened


def open_registry(root: Path) -> Registry:
    return SqlRegistry.open(
        "sqlite:///r.db", project="shop", root=root, clock=ManualClock(NOW_US), author="ann"
    )


def whole(view: FeatureView, days: FeatureView) -> list[FeatureService]:
    return [FeatureService("delay_model", [view])]


def fill(
    registry: Registry, view: TypedView, *, reach_us: int | None = None, run_id: str = ""
) -> OnlineTable:
    """Say in the ledger that the current table of `view` has all rows up to `reach_us` old."""
    table = online_tables(registry, [view])[view.storage_hash]
    row = LedgerRow(
        run_id=run_id or f"{view.name} {view.version} {table.generation}",
        view=view.name,
        view_version=view.version,
        table=table_name(STORE, table.field),
        generation=table.generation,
        mode="incremental",
        start_us=None,
        end_us=NOW_US,
        watermark_us=NOW_US,
        reach_us=view.reach_us if reach_us is None else reach_us,
        rows_read=1,
        rows_written=1,
        rows_skipped=0,
        started_at_us=NOW_US,
        finished_at_us=NOW_US,
    )
    store = Record(kind="online_store", name="any", body={"id": STORE})
    aliases = {f"store/{environment}": store.id for environment in ("prod", "prod2")}
    registry.commit(ledger=[row], records=[store], aliases=aliases)
    return table


def fill_all(registry: Registry, repo: TypedRepo) -> dict[str, bool]:
    for view in repo.views.values():
        fill(registry, view)
    return publish(repo, registry, "prod")


def served(registry: Registry, service: str = "delay_model") -> ServingPlan:
    return serving_plans(registry, "prod")[f"serving/prod/{service}"]


def state(registry: Registry) -> dict[str, tuple[str, int]]:
    return {name: (a.target, a.serial) for name, a in registry.aliases().items()}


# --- plan and apply -------------------------------------------------------------------------------


def test_a_first_apply_writes_everything(registry: Registry) -> None:
    repo = shop()
    result = apply(repo, registry, "prod")
    assert result.repo == definition_records(repo)[-1].id
    assert result.serving == {"delay_model": False}
    assert registry.record("env/prod").id == result.repo
    views = current_views(registry, "prod")
    assert views == {name: view.version for name, view in repo.views.items()}
    assert set(current_repo(registry, "prod")) == {
        "entity",
        "source",
        "feature",
        "view",
        "service",
    }
    assert set(online_tables(registry, repo.views.values())) == {
        view.storage_hash for view in repo.views.values()
    }


def test_a_query_in_another_layout_goes_on_record_and_changes_nothing(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    tables = {name: at for name, at in state(registry).items() if name.startswith("online/")}
    laid_out = shop(query="SELECT airport, observed_at, temp\nFROM weather\nWHERE temp > 30")
    result = apply(laid_out, registry, "prod")
    assert result.plan.is_empty
    assert registry.record("env/prod").id == result.repo == definition_records(laid_out)[-1].id
    assert tables.items() <= state(registry).items()
    moved = state(registry)
    assert not apply(laid_out, registry, "prod").plan.moves
    assert state(registry) == moved


def test_a_plan_changes_nothing(registry: Registry) -> None:
    assert len(plan(shop(), registry, "prod").changes) == 9
    assert registry.records() == []
    assert current_repo(registry, "prod") == {}


def test_a_second_apply_changes_nothing(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    before = state(registry)
    result = apply(shop(), registry, "prod")
    assert result.plan.is_empty
    assert result.plan.changes == ()
    assert result.plan.builds == ()
    assert state(registry) == before


def test_versions_live_side_by_side(registry: Registry) -> None:
    first = apply(shop(), registry, "prod")
    second = apply(shop(ttl="3d"), registry, "prod")
    assert second.plan.base == first.repo
    assert registry.record(first.repo).record.body != registry.record(second.repo).record.body
    back = apply(shop(), registry, "prod")
    assert back.repo == first.repo
    assert [event.target for event in registry.history("env/prod")] == [
        first.repo,
        second.repo,
        first.repo,
    ]


def test_environments_are_apart(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    records = len(registry.records())
    apply(shop(), registry, "pr-7")
    assert len(registry.records()) == records
    apply(shop(ttl="3d"), registry, "pr-7")
    assert plan(shop(), registry, "prod").is_empty


def test_a_reviewed_plan_is_applied(registry: Registry) -> None:
    reviewed = plan(shop(), registry, "prod")
    assert apply(shop(), registry, "prod", plan=reviewed).plan == reviewed
    assert plan(shop(), registry, "prod").is_empty


def test_a_plan_whose_base_moved_is_stale(registry: Registry) -> None:
    reviewed = plan(shop(), registry, "prod")
    apply(shop(ttl="3d"), registry, "prod")
    before = state(registry)
    with pytest.raises(StalePlan, match="the plan begins at nothing: another apply was first"):
        apply(shop(), registry, "prod", plan=reviewed)
    assert state(registry) == before


def test_an_empty_plan_grows_stale_too(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    reviewed = plan(shop(), registry, "prod")
    apply(shop(ttl="3d"), registry, "prod")
    with pytest.raises(StalePlan, match="another apply was first"):
        apply(shop(), registry, "prod", plan=reviewed)


def test_a_plan_of_another_repository_is_stale(registry: Registry) -> None:
    reviewed = plan(shop(), registry, "prod")
    with pytest.raises(StalePlan, match="its definitions changed after the plan was made"):
        apply(shop(owner="bob"), registry, "prod", plan=reviewed)
    assert registry.records() == []


def test_a_plan_of_another_environment_is_stale(registry: Registry) -> None:
    reviewed = plan(shop(), registry, "prod")
    with pytest.raises(StalePlan, match="for environment 'prod' of project 'shop', not"):
        apply(shop(), registry, "test", plan=reviewed)
    with pytest.raises(StalePlan, match="of 'other'"):
        apply(replace(shop(), project="other"), registry, "prod", plan=reviewed)


def test_what_cannot_be_served_is_not_applied(registry: Registry) -> None:
    repo = shop()
    service = repo.services["delay_model"]
    first, second = service.uses
    keys = tuple(
        replace(key, dtype=repo.sources["weather"].dtype("temp")) for key in first.view.keys
    )
    wrong = replace(second, view=replace(second.view, keys=keys))
    broken = replace(repo, services={"delay_model": replace(service, uses=(first, wrong))})
    with pytest.raises(TypeMismatch):
        apply(broken, registry, "prod")
    assert registry.records() == []


def test_one_of_two_reviewed_plans_wins(registry: Registry, tmp_path: Path) -> None:
    repos = [shop(owner=f"owner {number}") for number in range(6)]
    reviewed = [plan(repo, registry, "prod") for repo in repos]

    def attempt(number: int) -> str | None:
        with open_registry(tmp_path) as own:
            try:
                return apply(repos[number], own, "prod", plan=reviewed[number]).repo
            except StalePlan:
                return None

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(attempt, range(6)))
    won = [result for result in results if result]
    assert len(won) == 1
    assert registry.record("env/prod").id == won[0]
    assert len(registry.history("env/prod")) == 1


def test_all_applies_without_a_plan_get_through(registry: Registry, tmp_path: Path) -> None:
    repos = [shop(owner=f"owner {number % 3}") for number in range(6)]

    def attempt(repo: TypedRepo) -> str:
        with open_registry(tmp_path) as own:
            return apply(repo, own, "prod").repo

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(attempt, repos))
    assert results == [definition_records(repo)[-1].id for repo in repos]
    assert registry.record("env/prod").id in results


# --- online tables --------------------------------------------------------------------------------


def test_a_storage_hash_gets_generation_0_once(registry: Registry) -> None:
    views = list(shop().views.values())
    assert online_tables(registry, views) == {}
    tables = ensure_online_tables(registry, views)
    assert {table.generation for table in tables.values()} == {0}
    assert ensure_online_tables(registry, views) == tables
    other = list(shop(wind="temp").views.values())
    assert len({*ensure_online_tables(registry, other).values()} | {*tables.values()}) == 3


def test_a_new_generation_stands_beside_the_current_one(registry: Registry) -> None:
    view = shop().views["origin_weather"]
    first = ensure_online_tables(registry, [view])[view.storage_hash]
    second = add_generation(registry, view)
    assert (second.generation, second.field == first.field) == (1, False)
    assert online_tables(registry, [view])[view.storage_hash] == first
    assert add_generation(registry, view).generation == 2
    alias = online_alias(view)
    registry.commit(requires=[AliasIs(alias, first.record_id)], aliases={alias: second.record_id})
    assert online_tables(registry, [view])[view.storage_hash] == second


def test_many_may_make_the_same_tables_at_once(registry: Registry, tmp_path: Path) -> None:
    views = list(shop().views.values())

    def make(_: int) -> dict[str, OnlineTable]:
        with open_registry(tmp_path) as own:
            return ensure_online_tables(own, views)

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(make, range(6)))
    assert all(tables == made[0] for tables in made)


def test_fields_in_use_are_current_newer_or_served(registry: Registry) -> None:
    repo = shop()
    view = repo.views["origin_weather"]
    apply(repo, registry, "prod")
    fill_all(registry, repo)
    first = online_tables(registry, [view])[view.storage_hash]
    days = online_tables(registry, [repo.views["hot_days"]])
    second, third = add_generation(registry, view), add_generation(registry, view)
    kept = {table.field for table in days.values()}
    assert fields_in_use(registry) == kept | {first.field, second.field, third.field}
    registry.commit(aliases={online_alias(view): third.record_id})
    assert fields_in_use(registry) == kept | {first.field, third.field}
    fill_all(registry, repo)
    assert fields_in_use(registry) == kept | {third.field}


def test_tables_that_nobody_needs_are_given_up_and_come_back_new(registry: Registry) -> None:
    old, new = shop(services=whole), shop(wind="temp", services=whole)
    view = old.views["origin_weather"]
    apply(old, registry, "prod")
    fill_all(registry, old)
    apply(new, registry, "prod")
    assert drop_unused_tables(registry) == []
    fill_all(registry, new)
    assert drop_unused_tables(registry) == [online_alias(view)]
    assert drop_unused_tables(registry) == []
    back = apply(old, registry, "prod")
    assert back.serving == {"delay_model": False}
    assert online_tables(registry, [view])[view.storage_hash].generation == 1


# --- publishing -----------------------------------------------------------------------------------


def test_a_service_is_served_when_all_its_views_are_complete(registry: Registry) -> None:
    repo = shop()
    apply(repo, registry, "prod")
    assert registry.aliases("serving/") == {}
    fill(registry, repo.views["origin_weather"])
    assert publish(repo, registry, "prod") == {"delay_model": False}
    assert list(registry.aliases("serving/")) == ["serving/prod/*"]
    assert [use.name for use in served(registry, ALL_VIEWS).lookups] == ["origin_weather"]
    table = fill(registry, repo.views["hot_days"])
    assert publish(repo, registry, "prod") == {"delay_model": True}
    plan_served = served(registry)
    assert plan_served.service_version == repo.services["delay_model"].version
    assert [lookup.name for lookup in plan_served.lookups] == ["origin_weather", "hot_days"]
    assert plan_served.lookups[1].field == table.field
    assert [use.name for use in served(registry, ALL_VIEWS).lookups] == [
        "hot_days",
        "origin_weather",
    ]
    record = registry.record("serving/prod/delay_model")
    assert registry.walk(record.id, direction="up")[0][1].startswith("service:delay_model@")


def test_publishing_again_moves_nothing(registry: Registry) -> None:
    repo = shop()
    apply(repo, registry, "prod")
    fill_all(registry, repo)
    before = state(registry)
    assert publish(repo, registry, "prod") == {"delay_model": True}
    assert apply(repo, registry, "prod").serving == {"delay_model": True}
    assert state(registry) == before


def test_rows_must_reach_back_far_enough(registry: Registry) -> None:
    repo = shop()
    apply(repo, registry, "prod")
    fill(registry, repo.views["hot_days"])
    fill(registry, repo.views["origin_weather"], reach_us=13 * DAY_US, run_id="short")
    assert publish(repo, registry, "prod") == {"delay_model": False}
    fill(registry, repo.views["origin_weather"], reach_us=14 * DAY_US, run_id="long")
    assert publish(repo, registry, "prod") == {"delay_model": True}


def test_rows_in_another_store_do_not_count(registry: Registry) -> None:
    repo = shop()
    apply(repo, registry, "prod")
    for view in repo.views.values():
        fill(registry, view)
    other = Record(kind="online_store", name="any", body={"id": "ff" * 8})
    registry.commit(records=[other], aliases={"store/prod": other.id})
    assert publish(repo, registry, "prod") == {"delay_model": False}


def test_the_old_version_is_served_until_the_new_one_is_complete(registry: Registry) -> None:
    old, new = shop(services=whole), shop(wind="temp", services=whole)
    apply(old, registry, "prod")
    fill_all(registry, old)
    before, everything = served(registry), served(registry, ALL_VIEWS)
    assert apply(new, registry, "prod").serving == {"delay_model": False}
    assert served(registry) == before
    assert served(registry, ALL_VIEWS) == everything
    assert fill_all(registry, new) == {"delay_model": True}
    assert served(registry).service_version == new.services["delay_model"].version
    versions = {use.view: use.view_version for use in served(registry, ALL_VIEWS).lookups}
    assert versions == {name: view.version for name, view in new.views.items()}


def test_a_shorter_ttl_is_served_at_once(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    fill_all(registry, shop())
    assert apply(shop(ttl="3d"), registry, "prod").serving == {"delay_model": True}
    assert served(registry).lookups[0].ttl_us == 3 * DAY_US


def test_a_longer_ttl_waits_for_its_rows(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    fill_all(registry, shop())
    assert apply(shop(ttl="9d"), registry, "prod").serving == {"delay_model": False}
    assert served(registry).lookups[0].ttl_us == 7 * DAY_US
    assert apply(shop(ttl="9d"), registry, "prod", serve_now=True).serving == {"delay_model": True}
    assert served(registry).lookups[0].ttl_us == 9 * DAY_US


def test_serve_now_serves_what_is_not_complete(registry: Registry) -> None:
    repo = shop()
    assert apply(repo, registry, "prod", serve_now=True).serving == {"delay_model": True}
    assert len(served(registry, ALL_VIEWS).lookups) == 2
    before = state(registry)
    assert publish(repo, registry, "prod") == {"delay_model": True}
    assert state(registry) == before


def test_a_new_generation_is_published(registry: Registry) -> None:
    repo = shop()
    view = repo.views["hot_days"]
    apply(repo, registry, "prod")
    fill_all(registry, repo)
    table = add_generation(registry, view)
    registry.commit(aliases={online_alias(view): table.record_id})
    assert publish(repo, registry, "prod") == {"delay_model": True}
    assert served(registry).lookups[1].generation == 0
    fill(registry, view)
    assert publish(repo, registry, "prod") == {"delay_model": True}
    assert served(registry).lookups[1].generation == 1


def test_services_and_views_that_are_gone_are_no_longer_served(registry: Registry) -> None:
    both = shop(
        services=lambda v, d: [FeatureService("delay_model", [v]), FeatureService("other", [d])]
    )
    apply(both, registry, "prod")
    assert fill_all(registry, both) == {"delay_model": True, "other": True}
    only = shop(services=whole)
    assert apply(only, registry, "prod").serving == {"delay_model": True}
    assert list(registry.aliases("serving/")) == ["serving/prod/*", "serving/prod/delay_model"]
    fewer = replace(only, views={"origin_weather": only.views["origin_weather"]})
    apply(fewer, registry, "prod")
    assert [use.view for use in served(registry, ALL_VIEWS).lookups] == ["origin_weather"]
    apply(replace(fewer, views={}, services={}), registry, "prod")
    assert registry.aliases("serving/") == {}


def test_only_what_was_applied_is_published(registry: Registry) -> None:
    repo = shop()
    assert publish(repo, registry, "prod") == {}
    apply(repo, registry, "prod")
    fill_all(registry, repo)
    before = state(registry)
    edited = shop(ttl="3d", extra=[Feature("x", "temp + 1")])
    assert publish(edited, registry, "prod") == {"delay_model": True}
    assert state(registry) == before


def test_environments_serve_apart(registry: Registry) -> None:
    repo = shop()
    apply(repo, registry, "prod")
    fill_all(registry, repo)
    assert apply(repo, registry, "prod2").serving == {"delay_model": True}
    apply(shop(services=lambda *_: []), registry, "prod")
    assert list(registry.aliases("serving/")) == [
        "serving/prod/*",
        "serving/prod2/*",
        "serving/prod2/delay_model",
    ]

"""`profile`: what the values of a view are like, on record, and on the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_repository import NOW_US, open_store, parcels, pin, write_repository

from featurestore import FeatureStore
from featurestore.errors import InvalidRequest, UnknownView
from featurestore.jobs.view_profiles import newest_profile
from featurestore.timeline import ManualClock
from featurestore.web.catalogue import catalogue_of
from featurestore.web.profiles import Profile, newest_profiles

MORE = """
from featurestore import Aggregation, OnDemandFeatureView, RequestSource
recent = FeatureView("recent", [depot], parcels, [Aggregation("weight", "max", window="1d")])
hurry = RequestSource("hurry", schema={"hours": "float64"})
pace = OnDemandFeatureView("pace", inputs=[load, hurry],
                           features=[Feature("an_hour", "weight / hours")])
twice = OnDemandFeatureView("twice", inputs=[load], features=[Feature("both", "weight + count")])
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_US)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> FeatureStore:
    folder = write_repository(tmp_path / "repo", gates=MORE)
    store = open_store(folder, clock)
    store.apply()
    return store


def shown(store: FeatureStore, view: str = "load") -> dict[str, Profile]:
    from featurestore.jobs.environments import applied_in

    catalogue = catalogue_of(applied_in(store.registry, "prod"))
    return newest_profiles(store.registry, view, catalogue.features[view])


def test_a_view_is_looked_at_and_put_on_record(store: FeatureStore) -> None:
    (made,) = store.profile(["load"])
    rows = parcels()
    weight = made.columns["weight"]
    assert (made.rows, weight["count"], weight["nulls"]) == (600, 600, 0)
    assert weight["min"] == min(rows["weight"].to_pylist())
    assert weight["mean"] == pytest.approx(sum(rows["weight"].to_pylist()) / 600)
    assert sum(weight["histogram"]["counts"]) == 600
    assert made.columns["far"]["distinct"] == 2
    # Neither keys nor instants: what is kept says nothing of a single depot.
    assert made.columns.keys() == {"weight", "count", "far"}
    stored = store.registry.record("view_profile/load")
    assert stored.id == made.id
    kinds = [edge.parent.partition("@")[0] for edge in stored.record.parents]
    assert kinds == ["view:load", "snapshot:parcels"]
    assert newest_profile(store.registry, "load") == (made, NOW_US)
    tree = store.lineage.of("load", up=False)
    assert made.id in {node.id for node in tree.nodes}


def test_windows_and_what_is_computed_of_views(store: FeatureStore) -> None:
    recent, twice = store.profile(["recent", "twice"])
    assert recent.columns["weight_max_1d"]["max"] == max(parcels()["weight"].to_pylist())
    assert twice.columns["both"]["count"] == 600


def test_all_views_between_two_instants(store: FeatureStore) -> None:
    start, end = "2026-05-02T00:00:00Z", "2026-05-03T00:00:00Z"
    found = {made.view: made for made in store.profile(start=start, end=end)}
    assert found.keys() == {"load", "recent"}
    assert found["load"].rows == 24
    with pytest.raises(InvalidRequest, match="empty"):
        store.profile("load", start=end, end=start)


def test_what_can_not_be_looked_at_is_said_before_anything_is(store: FeatureStore) -> None:
    with pytest.raises(UnknownView, match="load"):
        store.profile(["load", "laod"])
    with pytest.raises(InvalidRequest, match="hours"):
        store.profile("pace")
    assert store.registry.aliases("view_profile/") == {}


def test_the_page_shows_the_newest_of_either(store: FeatureStore, clock: ManualClock) -> None:
    assert shown(store) == {}
    pin(store)
    assert {one.of for one in shown(store).values()} == {"parcels"}
    clock.advance(1_000_000)
    store.profile("load", start="2026-05-02T00:00:00Z", end="2026-05-03T00:00:00Z")
    assert {(one.of, one.rows) for one in shown(store).values()} == {("this view", 24)}
    clock.advance(1_000_000)
    pin(store, name="again")
    assert {one.of for one in shown(store).values()} == {"again"}


def test_figures_of_another_version_are_not_shown(store: FeatureStore) -> None:
    store.profile("load")
    assert shown(store).keys() == {"weight", "count", "far"}
    definitions = store.settings.root / "definitions.py"
    text = definitions.read_text()
    definitions.write_text(text.replace('Feature("weight")', 'Feature("weight", "weight * 2")'))
    with open_store(store.settings.root) as later:
        later.apply()
        assert shown(later).keys() == {"count", "far"}

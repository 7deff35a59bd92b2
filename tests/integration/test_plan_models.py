"""From a training set and a model in production to the plan of the next change, with real ones of
each: who is named, what is refused, and what the model goes on reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_repository import NOW_US, logistic, open_store, pin, write_repository

from featurestore import FeatureStore
from featurestore.compiler.change_plan import Category
from featurestore.errors import DestructiveChange, ProductionImpact
from featurestore.timeline import DAY_US, ManualClock

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository whose model is in production, promoted in an emergency."""
    made = write_repository(tmp_path / "repo")
    with open_store(made) as fs:
        fs.apply()
        fs.materialize()
        version = fs.models.register("late", logistic(), run=pin(fs).run, metrics={"auc": 0.8})
        assert version.ref == "late/1"
        fs.models.promote("late/1", "production", reason="first", by="ann", break_glass=True)
    return made


@pytest.fixture
def store(folder: Path) -> Iterator[FeatureStore]:
    """The same with a week gone by."""
    with open_store(folder, ManualClock(NOW_US + 7 * DAY_US)) as fs:
        yield fs


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "definitions.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_change_below_production_names_all_that_was_made_of_it(
    folder: Path, store: FeatureStore
) -> None:
    edit(folder, 'Feature("weight")', 'Feature("weight", "weight * 2")')
    plan = store.plan()
    found = {one.kind: one for one in plan.affected}
    assert found.keys() == {"model", "service", "training_set", "run"}
    assert (found["model"].label, found["model"].aliases) == (
        "late v1",
        ("model/late/production",),
    )
    for one in found.values():
        assert (one.category, one.transformation) == (Category.BREAKING, "DIRECT")
        assert one.through == ("load.weight",)
    assert "> [!WARNING]" in plan.to_markdown()
    with pytest.raises(ProductionImpact) as caught:
        store.apply()
    assert caught.value.models == ["late v1"]

    old = store.repo.services["late_model"].version
    version = store.models.get("late/1").service_version
    assert version is not None
    assert version != old
    before = store.get_online_features("late_model", [{"depot": 3}]).to_dict()
    store.apply(allow_production_impact="late v2 reads kilograms")
    store.materialize()
    after = store.get_online_features("late_model", [{"depot": 3}]).to_dict()
    assert after["weight"] == [2 * before["weight"][0]]
    store.sweep()
    kept = store.get_online_features(f"late_model@{version[:16]}", [{"depot": 3}]).to_dict()
    assert kept == before
    assert store.lineage.history("env/prod")[-1].reason == "apply: late v2 reads kilograms"


def test_what_the_model_reads_goes_only_after_it(folder: Path, store: FeatureStore) -> None:
    edit(folder, ', Feature("far")', "")
    with pytest.raises(DestructiveChange, match=r"late v1 \(production\): load\.far"):
        store.apply(allow_production_impact="we mean it")
    store.models.archive("late/1", reason="nobody asks it", by="ann")
    store.apply()
    assert store.registry.record("env/prod").record.name == "parcels"


def test_another_ttl_reaches_it_indirectly(folder: Path, store: FeatureStore) -> None:
    edit(folder, "[depot], parcels,", "[depot], parcels, ttl='90d', features=")
    plan = store.plan()
    assert {(one.kind, one.transformation) for one in plan.affected if one.kind == "model"} == {
        ("model", "INDIRECT")
    }


def test_what_is_added_needs_no_reason(folder: Path, store: FeatureStore) -> None:
    edit(folder, 'Feature("far")]', 'Feature("far"), Feature("light", "weight < 1")]')
    assert store.plan().affected == ()
    store.apply()
    assert store.registry.records(kind="production_impact") == []

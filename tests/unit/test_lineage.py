"""What lies downstream of a record, and how it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shop_definitions import shop

from featurestore.compiler.changes import definition_records
from featurestore.compiler.typed import TypedRepo
from featurestore.jobs.apply import apply
from featurestore.jobs.lineage import downstream
from featurestore.lifecycle.lineage import Blast, Hit, reached
from featurestore.records import Edge, Link, Record
from featurestore.stores.registry.base import Registry
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.timeline import ManualClock

NOW_US = 1_700_000_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_US)


@pytest.fixture
def registry(tmp_path: Path, clock: ManualClock) -> Iterator[Registry]:
    with SqlRegistry.open(
        "sqlite:///r.db", project="shop", root=tmp_path, clock=clock, author="ann"
    ) as opened:
        yield opened


def ids(repo: TypedRepo) -> dict[str, str]:
    return {f"{record.kind}:{record.name}": record.id for record in definition_records(repo)}


def trained(
    registry: Registry, name: str, *features: str, stage: str | None = None, number: int = 1
) -> list[Record]:
    """A training set of `features` (record ids), a run and a model of it."""
    made = Record(
        kind="training_set",
        name=name,
        parents=tuple(Edge(parent=feature, role="feature") for feature in features),
    )
    edge = Edge(parent=made.id, role="training_set")
    run = Record(kind="run", name=f"{name}/r{number}", parents=(edge,))
    parents = (Edge(parent=run.id, role="run"), edge)
    model = Record(kind="model", name=name, body={"number": number}, parents=parents)
    aliases = {f"training_set/{name}": made.id}
    aliases |= {} if stage is None else {f"model/{name}/{stage}": model.id}
    registry.commit(records=[made, run, model], aliases=aliases)
    return [made, run, model]


def shown(blast: Blast) -> list[str]:
    return [
        f"{hit.transformation} {hit.kind} {hit.name} {', '.join(hit.aliases)}"
        for hit in blast.every
    ]


def test_direct_is_a_path_of_direct_edges_only() -> None:
    links = [
        Link("view", "temp", "feature", "DIRECT"),
        Link("view", "source", "source", "INDIRECT"),
        Link("temp", "source", "source", "DIRECT"),
        Link("temp", "source", "time", "INDIRECT"),
        Link("wind", "source", "time", "INDIRECT"),
        Link("model", "wind", "feature", "DIRECT"),
    ]
    assert reached(["source"], links) == {
        "view": "DIRECT",
        "temp": "DIRECT",
        "wind": "INDIRECT",
        "model": "INDIRECT",
    }
    assert reached(["model"], links, direction="up") == {"wind": "DIRECT", "source": "INDIRECT"}
    circle = [Link("a", "b", "fact", "DIRECT"), Link("b", "a", "fact", "DIRECT")]
    assert reached(["a"], circle) == {"b": "DIRECT"}


def test_downstream_of_a_feature(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    known = ids(shop())
    temp, wind = (known[f"feature:origin_weather.{name}"] for name in ("temp", "wind_kts"))
    trained(registry, "delay", temp, stage="production", number=2)
    trained(registry, "windy", wind)
    assert shown(downstream(registry, [temp])) == [
        "DIRECT service delay_model env/prod",
        "DIRECT training_set delay training_set/delay",
        "DIRECT run delay/r2 ",
        "DIRECT model delay model/delay/production",
    ]
    assert [hit.label for hit in downstream(registry, [temp]).models_in_stage] == ["delay v2"]
    windy = downstream(registry, [wind])
    assert [hit.name for hit in windy.models] == ["windy"]
    assert not windy.services
    assert not windy.models_in_stage


def test_downstream_splits_what_is_a_value_from_what_is_a_key(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    known = ids(shop())
    trained(registry, "delay", known["feature:origin_weather.temp"])
    by_key = downstream(registry, [known["entity:airport"]])
    assert {hit.transformation for hit in by_key.every} == {"INDIRECT"}
    assert by_key.only("DIRECT") == Blast()
    assert by_key.only("INDIRECT") == by_key
    by_value = downstream(registry, [known["source:weather"]])
    assert {hit.name: hit.transformation for hit in by_value.every} == {
        "delay_model": "DIRECT",
        "delay": "DIRECT",
        "delay/r1": "DIRECT",
    }


def test_twins_are_found_on_both_sides_of_a_new_description(registry: Registry) -> None:
    """Another owner makes other records of the same versions; models of both are hit."""
    old, new = shop(owner="ann", wind_about="old"), shop(owner="bob", wind_about="new")
    for repo, name in ((old, "before"), (new, "after")):
        apply(repo, registry, "prod")
        trained(registry, name, ids(repo)["feature:origin_weather.wind_kts"])
    for repo in (old, new):
        hit = downstream(registry, [ids(repo)["feature:origin_weather.wind_kts"]])
        assert [found.name for found in hit.models] == ["after", "before"]
    other = downstream(
        registry, [ids(shop(wind="wind_speed * 2"))["feature:origin_weather.wind_kts"]]
    )
    assert other == Blast()


def test_services_are_those_that_an_environment_has(registry: Registry) -> None:
    apply(shop(), registry, "prod")
    apply(shop(), registry, "staging")
    temp = ids(shop())["feature:origin_weather.temp"]
    (service,) = downstream(registry, [temp]).services
    assert service.aliases == ("env/prod", "env/staging")
    assert str(service) == "delay_model (env/prod, env/staging)"
    without = shop(services=lambda view, days: [])
    for environment in ("prod", "staging"):
        apply(without, registry, environment)
    assert downstream(registry, [temp]).services == ()


def test_a_model_is_in_a_stage_where_it_is_in_use() -> None:
    def live(*aliases: str) -> bool:
        hit = Hit(
            kind="model", name="m", id="m", transformation="DIRECT", label="m v1", aliases=aliases
        )
        return bool(Blast(models=(hit,)).models_in_stage)

    assert live("model/m", "model/m/production")
    assert live("env/eu/model/m/staging")
    assert not live("model/m", "model/m/archived", "env/eu/model/m/archived")
    assert not live("model/production")


def test_downstream_as_of_an_instant(registry: Registry, clock: ManualClock) -> None:
    apply(shop(), registry, "prod")
    temp = ids(shop())["feature:origin_weather.temp"]
    clock.advance(10)
    trained(registry, "delay", temp, stage="production")
    clock.advance(10)
    (_, _, model) = trained(registry, "delay", temp, stage="production", number=2)
    at = {us: downstream(registry, [temp], at_us=NOW_US + us) for us in (-1, 0, 10, 20)}
    assert shown(at[-1]) == []
    assert shown(at[0]) == ["DIRECT service delay_model env/prod"]
    assert [hit.label for hit in at[10].models_in_stage] == ["delay v1"]
    assert [hit.id for hit in at[20].models_in_stage] == [model.id]


def test_nothing_depends_on_what_is_not_there(registry: Registry) -> None:
    assert downstream(registry, ids(shop()).values()) == Blast()
    assert downstream(registry, []) == Blast()

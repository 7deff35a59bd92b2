"""Columns as record bodies tell of them, and what a change of one touches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore import dtypes
from featurestore.compiler import definition_records as made
from featurestore.compiler.changes import definition_records, online_alias, plan_changes
from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.aggregation import Aggregation
from featurestore.definitions.entity import Entity
from featurestore.definitions.expression import canonical, column_lineage, parse_expression
from featurestore.definitions.on_demand import OnDemandFeatureView, RequestSource
from featurestore.definitions.repo import collect
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource, SqlSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.errors import AmbiguousRecord, RecordNotFound
from featurestore.jobs.apply import apply
from featurestore.jobs.lineage_impact import Doubt, Impact, impact
from featurestore.jobs.lineage_refs import find
from featurestore.jobs.lineage_tree import lineage
from featurestore.lifecycle.columns import split_node, tree_lineage
from featurestore.records import Edge, Record, StoredRecord
from featurestore.stores.registry.base import Registry
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.timeline import ManualClock

NOW_US = 1_700_000_000_000_000
COLUMNS = {
    "shop": "string",
    "at": "timestamp",
    "known": "timestamp",
    "amount": "float64",
    "paid": "bool",
    "kind": "string",
    "note": "string",
    "seq": "int64",
}
QUERY = """
    SELECT shop, at, amount * 2 AS twice, CASE WHEN paid THEN kind END AS kind
    FROM orders WHERE seq > 3
"""


def repository(
    *, query: str = QUERY, expression: str = "orders_now__amount + basket__size"
) -> TypedRepo:
    """Orders from files, `big` by SQL over them, plain, windowed and on-demand features."""
    shop = Entity("shop", {"shop": "string"})
    orders = FileSource(
        "orders", "o.parquet", "at", "known", tiebreak="seq", field_mapping={"AMT": "amount"}
    )
    big = SqlSource("big", query, "at")
    now = FeatureView(
        "orders_now",
        [shop],
        orders,
        [Feature("amount"), Feature("kind", "CASE WHEN paid THEN kind ELSE 'none' END")],
        ttl="7d",
    )
    week = FeatureView(
        "orders_week",
        [shop],
        orders,
        [
            Aggregation("amount", "sum", "7d", where="paid"),
            Aggregation("amount", "mean", "7d", by="kind", name="mean_by_kind"),
        ],
    )
    above = FeatureView("above", [shop], big, [Feature("twice"), Feature("kind")])
    basket = RequestSource("basket", {"size": "int64", "label": "string"})
    asked = OnDemandFeatureView("asked", [now, basket], [Feature("total", expression)])
    services = [
        FeatureService("amounts", [now[["amount"]]]),
        FeatureService("kinds", [above[["kind"]], week]),
        FeatureService("asking", [asked]),
    ]
    schema = {name: dtypes.parse(dtype) for name, dtype in COLUMNS.items()}
    schemas = {
        "orders": schema,
        "big": {
            "shop": schema["shop"],
            "at": schema["at"],
            "twice": schema["amount"],
            "kind": schema["kind"],
        },
    }
    every = [shop, orders, big, now, week, above, basket, asked, *services]
    return resolve(collect(every), schemas, project="shop")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    clock = ManualClock(NOW_US)
    with SqlRegistry.open(
        "sqlite:///r.db", project="shop", root=tmp_path, clock=clock, author="ann"
    ) as opened:
        yield opened


def shown(found: Impact) -> list[str]:
    features = [f"{f.transformation} {f.name} ({', '.join(f.roles)})" for f in found.features]
    return features + [f"{hit.transformation} {hit.kind} {hit.label}" for hit in found.blast.every]


@pytest.mark.parametrize(
    ("target", "touched"),
    [
        (
            "orders.amount",
            [
                "DIRECT above:twice (value)",
                "DIRECT asked:total (feature)",
                "DIRECT orders_now:amount (value)",
                "DIRECT orders_week:amount_sum_7d (value)",
                "DIRECT orders_week:mean_by_kind (value)",
                "DIRECT service amounts",
                "DIRECT service asking",
                "DIRECT service kinds",
            ],
        ),
        (
            "orders.paid",
            [
                "INDIRECT above:kind (case, value)",
                "INDIRECT orders_now:kind (case)",
                "INDIRECT orders_week:amount_sum_7d (where)",
                "INDIRECT service kinds",
            ],
        ),
        (
            "orders.kind",
            [
                "DIRECT above:kind (value)",
                "DIRECT orders_now:kind (value)",
                "DIRECT orders_week:mean_by_kind (by)",
                "DIRECT service kinds",
            ],
        ),
        ("orders.note", []),
        ("big.twice", ["DIRECT above:twice (value)"]),
        ("basket.size", ["DIRECT asked:total (value)", "DIRECT service asking"]),
        ("basket.label", []),
        ("above:kind", ["DIRECT service kinds"]),
    ],
)
def test_what_a_change_touches(registry: Registry, target: str, touched: list[str]) -> None:
    apply(repository(), registry, "prod")
    found = impact(registry, target)
    assert shown(found) == touched
    assert found.doubts == ()
    assert found.is_empty == (not touched)


def test_keys_times_and_ties_touch_all_that_is_read_by_them(registry: Registry) -> None:
    apply(repository(), registry, "prod")
    every = {
        "above:kind",
        "above:twice",
        "asked:total",
        "orders_now:amount",
        "orders_now:kind",
        "orders_week:amount_sum_7d",
        "orders_week:mean_by_kind",
    }
    for column, role in (("shop", "key"), ("at", "time"), ("seq", "tie")):
        found = impact(registry, f"orders.{column}")
        assert {feature.transformation for feature in found.features} == {"INDIRECT"}
        assert {feature.name for feature in found.features} == every, column
        roles = {feature.name: feature.roles for feature in found.features}
        assert roles["orders_now:amount"] == (role,)
    rows = {feature.name: feature.roles for feature in impact(registry, "orders.seq").features}
    assert rows["above:twice"] == ("rows",)


def test_a_column_of_the_files_is_found_by_its_own_name(registry: Registry) -> None:
    apply(repository(), registry, "prod")
    assert shown(impact(registry, "orders.AMT")) == shown(impact(registry, "orders.amount"))


def test_what_is_indirect_further_up_says_how(registry: Registry) -> None:
    """A feature on demand by a feature whose value a condition has decided."""
    apply(repository(expression="concat(orders_now__kind, basket__label)"), registry, "prod")
    found = {feature.name: feature for feature in impact(registry, "orders.paid").features}
    assert found["asked:total"].transformation == "INDIRECT"
    assert found["asked:total"].roles == ("case", "feature")
    by_value = {feature.name: feature for feature in impact(registry, "orders.kind").features}
    assert by_value["asked:total"].roles == ("feature",)


def test_conditions_of_an_on_demand_feature_are_indirect(registry: Registry) -> None:
    expression = "CASE WHEN basket__size > 3 THEN orders_now__amount ELSE 0.0 END"
    apply(repository(expression=expression), registry, "prod")
    assert shown(impact(registry, "basket.size")) == [
        "INDIRECT asked:total (case)",
        "INDIRECT service asking",
    ]
    assert "DIRECT asked:total (feature)" in shown(impact(registry, "orders.amount"))


def test_what_a_query_hides_is_a_doubt_and_never_a_fact(registry: Registry) -> None:
    query = """
        WITH RECURSIVE more AS (
            SELECT shop, at, amount AS twice, kind, 0 AS n FROM orders
            UNION ALL SELECT shop, at, twice, kind, n + 1 FROM more WHERE n < 3
        ) SELECT shop, at, twice, kind FROM more
    """
    apply(repository(query=query), registry, "prod")
    found = impact(registry, "orders.note")
    assert found.features == ()
    assert found.blast.every == ()
    assert found.doubts == (Doubt(source="big", column="*", why="it has a recursive query"),)
    assert [hit.label for hit in found.maybe.services] == ["kinds"]
    assert not found.is_empty


def test_a_source_says_what_its_columns_come_from() -> None:
    records = {f"{r.kind}:{r.name}": r for r in definition_records(repository())}
    assert "column_lineage" not in records["source:orders"].body
    assert records["source:big"].body["column_lineage"] == {
        "columns": {
            "at": {"orders.at": "DIRECT"},
            "kind": {"orders.kind": "DIRECT", "orders.paid": "INDIRECT"},
            "shop": {"orders.shop": "DIRECT"},
            "twice": {"orders.amount": "DIRECT"},
        },
        "rows": ("orders.seq",),
        "unresolved": {},
    }


def test_column_lineage_changes_nothing_that_was_applied_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(made, "_column_lineage", lambda *_: {})
        before = [
            StoredRecord(id=record.id, record=record, created_at_us=0, author="ann")
            for record in definition_records(repository())
        ]
    aliases = [online_alias(view) for view in repository().views.values()]
    plan = plan_changes(before, repository(), environment="prod", online_aliases=aliases)
    assert plan.base != plan.target
    assert plan.is_empty
    assert plan.builds == ()


def test_old_records_say_that_their_columns_were_not_recorded(registry: Registry) -> None:
    records = {f"{r.kind}:{r.name}": r for r in definition_records(repository())}
    big = records["source:big"]
    body = {name: value for name, value in big.body.items() if name != "column_lineage"}
    old = Record(kind="source", name="big", body=body, parents=big.parents)
    feature = Record(
        kind="feature",
        name="above.twice",
        body=records["feature:above.twice"].body,
        parents=(Edge(parent=old.id, role="source"),),
    )
    registry.commit(records=[records["source:orders"], old, feature])
    found = impact(registry, "orders.amount")
    assert found.features == ()
    assert {doubt.why for doubt in found.doubts} == {"its columns were not recorded"}


@pytest.mark.parametrize(
    "expression",
    [
        "amount",
        "CASE WHEN paid THEN amount ELSE seq END",
        "nullif(amount, seq) + coalesce(amount, 1)",
        "CASE kind WHEN 'a' THEN 1 ELSE length(kind) END",
        "CAST(seq AS float64) / 2",
        "if(paid, amount, 0.0)",
        "1 + 1",
    ],
)
def test_a_stored_tree_reads_as_the_expression_does(expression: str) -> None:
    tree = parse_expression(expression)
    assert tree_lineage(canonical(tree)) == column_lineage(tree)


def test_lineage_up_ends_at_columns(registry: Registry) -> None:
    apply(repository(), registry, "prod")
    found = lineage(registry, "above:kind", direction="up")
    labels = {node.id: node.label for node in found.nodes}
    links = {(labels[link.child], labels[link.parent], link.role) for link in found.links}
    assert ("above:kind", "big.kind", "value") in links
    assert ("big.kind", "orders.paid", "case") in links
    assert ("above:kind", "rows of big", "rows") in links
    assert ("rows of big", "orders.seq", "rows") in links
    assert "big.twice" not in labels.values()
    assert "orders.amount" not in labels.values()
    how = {node.label: node.transformation for node in found.nodes}
    assert how["above:kind"] is None
    assert how["orders.kind"] == "DIRECT"
    assert how["orders.paid"] == "INDIRECT"


def test_lineage_down_of_a_column(registry: Registry) -> None:
    apply(repository(), registry, "prod")
    found = lineage(registry, "orders.amount", direction="down")
    kinds = {(node.kind, node.label) for node in found.nodes}
    assert ("column", "big.twice") in kinds
    assert ("service", "kinds") in kinds
    near = lineage(registry, "orders.amount", direction="down", depth=1)
    assert {node.kind for node in near.nodes} == {"column", "feature"}


def test_names_that_are_not_there_or_not_clear(registry: Registry) -> None:
    apply(repository(), registry, "prod")
    for target, hint in (
        ("orders.amont", "orders.amount"),
        ("orders_now:amont", "orders_now:amount"),
        ("ordrs", "orders"),
        ("env/prd", "env/prod"),
    ):
        with pytest.raises(RecordNotFound, match=hint):
            impact(registry, target)
    with pytest.raises(RecordNotFound) as caught:
        impact(registry, "nothing like it")
    assert "env/prod" in caught.value.message
    assert "online/" not in caught.value.message
    assert impact(registry, "source:orders").features
    double = Record(kind="model", name="orders", body={"number": 1})
    registry.commit(records=[double])
    with pytest.raises(AmbiguousRecord, match="source:orders"):
        impact(registry, "orders")


@pytest.mark.parametrize("target", ["orders.amount", "orders", "orders_now:amount", "env/prod"])
def test_what_came_later_is_said_to(registry: Registry, target: str) -> None:
    apply(repository(), registry, "prod")
    with pytest.raises(RecordNotFound) as caught:
        impact(registry, target, at_us=NOW_US - 1)
    before = f"The registry had no {target!r} yet at 2023-11-14T22:13:19.999999Z"
    assert caught.value.message == before
    with pytest.raises(RecordNotFound, match="The registry has no 'nowhere'"):
        impact(registry, "nowhere", at_us=NOW_US - 1)


def test_models_training_sets_and_runs_by_the_names_that_people_use(registry: Registry) -> None:
    sets = [Record(kind="training_set", name="rides", body={"rows": n}) for n in (1, 2)]
    models = [Record(kind="model", name="late", body={"number": n}) for n in (1, 2)]
    aliases = {"model/late": models[1].id, "model/late/production": models[0].id}
    registry.commit(records=[*sets, *models], aliases=aliases)
    named = {
        "late/1": models[0],
        "late/2": models[1],
        "late/latest": models[1],
        "late/production": models[0],
        "rides/1": sets[0],
        "rides/2": sets[1],
    }
    for text, record in named.items():
        assert find(registry, text).ids == [record.id], text
    for text in (
        "late/0",
        "late/3",
        "late/staging",
        "rides/0",
        "rides/3",
        "late/",
        "/1",
        "abcd1234",
    ):
        with pytest.raises(RecordNotFound):
            find(registry, text)
    registry.commit(records=[Record(kind="training_set", name="late", body={})])
    with pytest.raises(AmbiguousRecord, match=r"model:late@\w+, training_set:late@"):
        find(registry, "late/1")


def test_nodes_are_split_at_the_digest() -> None:
    assert split_node("source:a#b@0123#temp#x") == ("source:a#b@0123", "temp#x")
    assert split_node("source:a#b@0123") == ("source:a#b@0123", None)

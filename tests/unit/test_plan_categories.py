"""What a plan makes of each kind of edit: by the text that people edit, the category of each object
that changes. What a case does not name must have stayed as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore import dtypes
from featurestore.compiler.changes import ChangePlan, online_alias, plan_changes
from featurestore.compiler.definition_records import definition_records
from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.repo import load
from featurestore.dtypes import FLOAT64, INT64, STRING
from featurestore.records import StoredRecord

BASE = """
from featurestore import *

shop = Entity("shop", join_keys={"shop": "string"})
pair = Entity("pair", join_keys={"shop": "string", "item": "string"})
orders = FileSource("orders", path="orders.parquet", event_time="ts", created_time="known",
    event_id="oid", tiebreak="oid", lateness="1h", description="all orders")
days = SqlSource("days", query="SELECT shop, max(ts) AS day_end, sum(amount) AS total FROM orders "
    "GROUP BY ALL", event_time="day_end")
now = FeatureView("now", entities=[shop], source=orders, ttl="7d", features=[
    Feature("amount"), Feature("big", "amount > 10"), Feature("twice", "amount * 2")])
win = FeatureView("win", entities=[shop], source=orders, features=[
    Aggregation("amount", "sum", window="7d", name="spent"),
    Aggregation("*", "count", window="1d", where="amount > 3", name="many")])
pairs = FeatureView("pairs", entities=[pair], source=orders, features=[Feature("qty")])
daily = FeatureView("daily", entities=[shop], source=days, features=[Feature("total")])
basket = RequestSource("basket", schema={"size": "int64"})
ask = OnDemandFeatureView("ask", inputs=[now, basket], features=[
    Feature("per", "now__amount / basket__size"), Feature("flag", "basket__size > 2")])
score = OnDemandFeatureView("score", inputs=[ask, win], features=[
    Feature("all", "ask__per + win__spent")])
svc = FeatureService("svc", features=[now[["amount"]], win, daily])
deep = FeatureService("deep", features=[score, pairs])
"""
SCHEMAS = {
    "orders": {
        "shop": STRING,
        "item": STRING,
        "ts": dtypes.TIMESTAMP,
        "known": dtypes.TIMESTAMP,
        "oid": INT64,
        "other": INT64,
        "amount": FLOAT64,
        "qty": INT64,
    },
    "days": {"shop": STRING, "day_end": dtypes.TIMESTAMP, "total": FLOAT64},
}
OF_NOW = "view:now feature:now.amount feature:now.big feature:now.twice"
BELOW_AMOUNT = (
    "on_demand_view:ask feature:ask.per on_demand_view:score feature:score.all "
    "service:svc service:deep"
)
BELOW_SPENT = "on_demand_view:score feature:score.all service:svc service:deep"
OF_WIN = "view:win feature:win.spent feature:win.many"
OF_DAYS = "source:days view:daily feature:daily.total service:svc"
OF_PAIRS = "view:pairs feature:pairs.qty service:deep"
OF_ORDERS = f"source:orders {OF_DAYS} {OF_NOW} {BELOW_AMOUNT} {OF_WIN} {OF_PAIRS}"

# What is edited, to what, and what changes: categories with the objects that have them.
EDITS: dict[str, tuple[str, str, dict[str, str]]] = {
    "expression laid out anew": ('"amount * 2"', '"( amount )*2"', {}),
    "query laid out anew": ("sum(amount) AS total", "SUM( amount )  as total", {}),
    "ttl in other words": ('"7d", features=[\n    Feature', '"168h", features=[\n    Feature', {}),
    "window in other words": ('window="7d"', 'window="168h"', {}),
    "description of a source": ("all orders", "some", {"METADATA": "source:orders"}),
    "lateness": ('lateness="1h"', 'lateness="2h"', {"METADATA": "source:orders"}),
    "owner and tags": (
        'ttl="7d"',
        'ttl="7d", owner="ann", tags={"a": "b"}',
        {"METADATA": "view:now"},
    ),
    "description of a feature": (
        'Feature("twice", "amount * 2")',
        'Feature("twice", "amount * 2", description="x")',
        {"METADATA": "feature:now.twice"},
    ),
    "description of an entity": (
        '{"shop": "string"})',
        '{"shop": "string"}, description="x")',
        {"METADATA": "entity:shop"},
    ),
    "new feature": (
        'Feature("amount"),',
        'Feature("amount"), Feature("qty"),',
        {"ADDITIVE": "view:now feature:now.qty"},
    ),
    "new aggregation in a service's whole view": (
        'name="spent"),',
        'name="spent"), Aggregation("qty", "max", window="7d"),',
        {"ADDITIVE": "view:win feature:win.qty_max_7d service:svc"},
    ),
    "feature gone": (
        'Feature("big", "amount > 10"), ',
        "",
        {"BREAKING": "view:now", "REMOVAL": "feature:now.big"},
    ),
    "feature renamed": (
        'Feature("big"',
        'Feature("bigger"',
        {"BREAKING": "view:now", "REMOVAL": "feature:now.big", "ADDITIVE": "feature:now.bigger"},
    ),
    "expression": ("amount * 2", "amount * 3", {"BREAKING": "view:now feature:now.twice"}),
    "type": (
        'Feature("twice", "amount * 2")',
        'Feature("twice", "CAST(amount * 2 AS FLOAT)")',
        {"BREAKING": "view:now feature:now.twice"},
    ),
    "ttl": ('ttl="7d"', 'ttl="8d"', {"BREAKING": f"{OF_NOW} {BELOW_AMOUNT}"}),
    "no ttl": ('ttl="7d", ', "", {"BREAKING": f"{OF_NOW} {BELOW_AMOUNT}"}),
    "grace": ('ttl="7d"', 'ttl="7d", grace="1d"', {"BREAKING": f"{OF_NOW} {BELOW_AMOUNT}"}),
    "window": (
        'window="7d"',
        'window="8d"',
        {"BREAKING": f"view:win feature:win.spent {BELOW_SPENT}"},
    ),
    "hop": (
        'window="7d"',
        'window="7d", hop="1d"',
        {"BREAKING": f"view:win feature:win.spent {BELOW_SPENT}"},
    ),
    "function": (
        '"sum", window',
        '"max", window',
        {"BREAKING": f"view:win feature:win.spent {BELOW_SPENT}"},
    ),
    "filter": (
        "amount > 3",
        "amount > 4",
        {"BREAKING": "view:win feature:win.many service:svc"},
    ),
    "correction horizon": (
        'FeatureView("win", ',
        'FeatureView("win", correction_horizon="2d", ',
        {"BREAKING": f"{OF_WIN} {BELOW_SPENT}"},
    ),
    "path": ("orders.parquet", "others.parquet", {"BREAKING": OF_ORDERS}),
    "event time": ('event_time="ts"', 'event_time="known"', {"BREAKING": OF_ORDERS}),
    "no created time": ('created_time="known",', "", {"BREAKING": OF_ORDERS}),
    "event id": ('event_id="oid"', 'event_id="other"', {"BREAKING": OF_ORDERS}),
    "tiebreak": ('tiebreak="oid"', 'tiebreak="other"', {"BREAKING": OF_ORDERS}),
    "query": ("sum(amount)", "max(amount)", {"BREAKING": OF_DAYS}),
    "order of keys": (
        '{"shop": "string", "item": "string"}',
        '{"item": "string", "shop": "string"}',
        {"BREAKING": f"entity:pair {OF_PAIRS}"},
    ),
    "on-demand expression": (
        "now__amount / basket__size",
        "now__amount * basket__size",
        {
            "BREAKING": "on_demand_view:ask feature:ask.per on_demand_view:score "
            "feature:score.all service:deep"
        },
    ),
    "end of an on-demand chain": (
        "ask__per + win__spent",
        "ask__per - win__spent",
        {"BREAKING": "on_demand_view:score feature:score.all service:deep"},
    ),
    "request column": (
        '{"size": "int64"}',
        '{"size": "int64", "label": "string"}',
        {"ADDITIVE": "request_source:basket"},
    ),
    "service grows": ('now[["amount"]]', "now", {"ADDITIVE": "service:svc"}),
    "service shrinks": ("win, daily]", "win]", {"BREAKING": "service:svc"}),
    "service in another order": ("win, daily]", "daily, win]", {"BREAKING": "service:svc"}),
    "service under other keys": (
        "[score, pairs]",
        '[score, pairs.with_join_key_map({"item": "sku"})]',
        {"BREAKING": "service:deep"},
    ),
    "service renamed": (
        'FeatureService("deep"',
        'FeatureService("deeper"',
        {"REMOVAL": "service:deep", "ADDITIVE": "service:deeper"},
    ),
    "view renamed": (
        'FeatureView("pairs"',
        'FeatureView("couples"',
        {
            "REMOVAL": "view:pairs feature:pairs.qty",
            "ADDITIVE": "view:couples feature:couples.qty",
            "BREAKING": "service:deep",
        },
    ),
}

AGE_LIMITS = ("ttl", "no ttl", "grace")


def repository(folder: Path, file: str, text: str) -> TypedRepo:
    folder.mkdir()
    (folder / file).write_text(text)
    return resolve(load(folder), SCHEMAS, project="shop")


def planned(old: TypedRepo, new: TypedRepo) -> ChangePlan:
    current = [
        StoredRecord(id=record.id, record=record, created_at_us=0, author="ann")
        for record in definition_records(old)
    ]
    there = [online_alias(view) for view in old.views.values()]
    return plan_changes(current, new, environment="prod", online_aliases=there)


@pytest.mark.parametrize("edit", EDITS)
def test_what_an_edit_changes(edit: str, tmp_path: Path) -> None:
    before, after, expected = EDITS[edit]
    assert before in BASE
    old = repository(tmp_path / "old", "definitions.py", BASE)
    # In a file of another name, which is no change.
    new = repository(tmp_path / "new", "moved.py", BASE.replace(before, after, 1))
    plan = planned(old, new)
    found = {f"{change.kind}:{change.name}": str(change.category) for change in plan.changes}
    named = {name: category for category, names in expected.items() for name in names.split()}
    assert found == named
    assert plan.is_empty == (not expected)
    rebuilt = {f"view:{build.view}" for build in plan.builds}
    if edit in AGE_LIMITS:  # the rows are the same, more or fewer of them are used
        assert rebuilt == set()
    else:
        moved = {name for name, category in named.items() if category in ("BREAKING", "ADDITIVE")}
        assert rebuilt == {name for name in moved if name.startswith("view:")}

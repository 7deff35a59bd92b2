"""Definitions come back from their records in the very versions that they had."""

from __future__ import annotations

import json
from typing import Any

import pytest
from shop_definitions import shop

from featurestore.compiler.definition_records import definition_records, function_blobs
from featurestore.compiler.recorded import (
    differences,
    recorded_definitions,
    recorded_schemas,
    uses_of,
)
from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.expression import canonical, from_canonical, parse_expression
from featurestore.errors import CyclicReference, InternalError
from featurestore.fingerprint import fingerprint_bytes
from featurestore.records import Record

EXPRESSIONS = [
    "a + 1", "1.0 * a", "a > 1e300 AND NOT b", "CASE WHEN a = 1 THEN 'x''y' ELSE NULL END",
    "CAST(a AS decimal(10, 2))", "a IN (1, 2.5, NULL)", "coalesce(a, TRUE)", '"odd name" || s',
    "t - INTERVAL 3 HOURS > TIMESTAMP '2024-01-01T00:00:00Z'", "d = DATE '2024-02-29'",
]  # fmt: skip


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_trees_come_back(text: str) -> None:
    tree = parse_expression(text)
    assert from_canonical(json.loads(json.dumps(canonical(tree)))) == tree


@pytest.mark.parametrize("wrong", [None, [], ["column"], ["sum", 1], ["column", 3]])
def test_what_is_no_tree(wrong: Any) -> None:
    with pytest.raises(ValueError, match="is no expression"):
        from_canonical(wrong)


def rebuilt(repo: TypedRepo) -> TypedRepo:
    records = definition_records(repo)
    blobs = {fingerprint_bytes(data): data for data in function_blobs(repo)}
    definitions = recorded_definitions(records, blobs.__getitem__)
    return resolve(definitions, recorded_schemas(records), project=repo.project)


def versions(repo: TypedRepo) -> dict[str, str]:
    views = [*repo.views.values(), *repo.on_demand.values()]
    return {f"{v.name}.{f.name}": f.version for v in views for f in v.features}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ttl": None},
        {"wind": "CASE WHEN wind_speed > 3 THEN wind_speed * 1.0 ELSE NULL END"},
        {"source": {"tiebreak": ["temp"], "lateness": "3h", "format": "parquet"}},
        {"source": {"path": "s3://b/x.csv", "delimiter": ";", "header": False, "null_text": "-"}},
    ],
)
def test_versions_come_back(settings: dict[str, Any]) -> None:
    repo = shop(**settings)
    found = rebuilt(repo)
    assert versions(found) == versions(repo)
    assert {s.name: s.version for s in found.sources.values()} == {
        s.name: s.version for s in repo.sources.values()
    }
    assert found.sources["weather"].tiebreak == repo.sources["weather"].tiebreak
    request = [
        {"name": u.name, "kind": "view", "view": u.view.name,
         "features": [f.name for f in u.features], "join_key_map": {}}
        for u in repo.services["delay_model"].uses
    ]  # fmt: skip
    uses = uses_of(found, request)
    assert differences(uses, versions(repo)) == ()
    assert "origin_weather.temp" in differences(uses, versions(shop(ttl="1d")))


def test_records_that_do_not_name_each_other() -> None:
    records = [r for r in definition_records(shop()) if r.kind != "source"]
    with pytest.raises(InternalError, match=r"name source '(hot|weather)'"):
        recorded_definitions(records, lambda _: b"")
    records = [r for r in definition_records(shop()) if r.kind != "feature"]
    with pytest.raises(InternalError, match="is not among the records"):
        recorded_definitions(records, lambda _: b"")


def test_a_circle_of_records() -> None:
    def view(name: str, reads: str) -> Record:
        read = {"input": reads, "feature": "x", "dtype": "int64", "view": reads}
        return Record(kind="on_demand_view", name=name, body={"reads": {f"{reads}__x": read}})

    with pytest.raises(CyclicReference):
        recorded_definitions([view("a", "b"), view("b", "a")], lambda _: b"")
    with pytest.raises(InternalError, match="name view 'c'"):
        recorded_definitions([view("a", "c")], lambda _: b"")

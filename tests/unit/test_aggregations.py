"""Windowed views as they are defined, typed and versioned, and every way to get them wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from featurestore.compiler.definition_records import definition_records
from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import TypedRepo, TypedView
from featurestore.compiler.window_inputs import version_order, window_inputs
from featurestore.definitions.aggregation import Aggregation
from featurestore.definitions.entity import Entity
from featurestore.definitions.on_demand import RequestSource
from featurestore.definitions.repo import collect
from featurestore.definitions.source import FileSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.dtypes import FLOAT64, INT64, STRING, TIMESTAMP, parse
from featurestore.errors import (
    DefinitionError,
    DuplicateName,
    InvalidName,
    InvalidRepository,
    TypeMismatch,
    UnknownReference,
)
from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US

COLUMNS = {
    "tailnum": STRING,
    "at": TIMESTAMP,
    "known_at": TIMESTAMP,
    "flight": INT64,
    "op": STRING,
    "delay": FLOAT64,
    "fare": parse("decimal(9,2)"),
    "carrier": STRING,
}


def landings(**changes: Any) -> FileSource:
    arguments: dict[str, Any] = {"path": "l.parquet", "event_time": "at", "event_id": "flight"}
    return FileSource("landings", **(arguments | changes))


def repo_of(source: FileSource, *features: Aggregation | Feature, **changes: Any) -> TypedRepo:
    plane = Entity("plane", join_keys={"tailnum": "string"})
    view = FeatureView("history", [plane], source, features, **changes)
    return resolve(collect([plane, source, view]), {"landings": COLUMNS}, project="p")


def view_of(*features: Aggregation, source: FileSource | None = None, **changes: Any) -> TypedView:
    return repo_of(source or landings(), *features, **changes).views["history"]


class TestNames:
    def test_column_function_window(self) -> None:
        view = view_of(
            Aggregation("delay", "mean", window="7d"),
            Aggregation("*", "count", "24h", where="delay > 15"),
            Aggregation("delay", "max", timedelta(hours=36)),
            Aggregation("delay", "last", "lifetime"),
            Aggregation("*", "count", "24h", name="late"),
            Aggregation("fare", "sum", windows=["1h", "1 d"]),
            Aggregation("delay * 2", "sum", windows=["1h", "12d"], name="twice"),
        )
        assert [(f.name, str(f.dtype)) for f in view.features] == [
            ("delay_mean_7d", "float64"),
            ("count_24h", "int64"),
            ("delay_max_1d12h", "float64"),
            ("delay_last_lifetime", "float64"),
            ("late", "int64"),
            ("fare_sum_1h", "decimal(38,2)"),
            ("fare_sum_1d", "decimal(38,2)"),
            ("twice_1h", "float64"),
            ("twice_12d", "float64"),
        ]
        assert [a.hop_us for a in view.aggregations[:4]] == [HOUR_US, HOUR_US, HOUR_US, DAY_US]
        assert view.aggregations[5].hop_us == 5 * MINUTE_US
        assert view.reach_us is None

    def test_errors_say_which_aggregation(self) -> None:
        with pytest.raises(DefinitionError, match=r": aggregation mean of 'delay': window '1m' is"):
            Aggregation("delay", "mean", "1m")
        with pytest.raises(DefinitionError, match=r": aggregation 'late': window '1m' is"):
            Aggregation("*", "count", "1m", name="late")

    def test_an_expression_needs_a_name(self) -> None:
        with pytest.raises(InvalidName, match="give it a name="):
            Aggregation("delay * 2", "sum", "1h")

    def test_twice(self) -> None:
        with pytest.raises(DuplicateName, match="give one a name="):
            view_of(
                Aggregation("delay", "last_n", "1h", n=2), Aggregation("delay", "last_n", "1h", n=3)
            )


class TestInputs:
    def test_equal_expressions_are_one_column(self) -> None:
        view = view_of(
            Aggregation("delay", "mean", windows=["1h", "7d"]),
            Aggregation("*", "count", "1h", where="delay>15 and carrier = 'UA'"),
            Aggregation("delay", "sum", "1h", where="(delay > 15) AND carrier='UA'", name="x"),
        )
        inputs = window_inputs(view)
        assert inputs.values == ("value:0", "value:0", None, "value:0")
        assert inputs.conditions == (None, None, "where:1", "where:1")
        assert list(inputs.columns) == ["value:0", "where:1"]

    def test_what_decides_between_versions(self) -> None:
        source = landings(op="op", tiebreak="known_at")
        view = view_of(Aggregation("delay", "sum", "1h", where="carrier = 'UA'"), source=source)
        assert version_order(view) == ("known_at", "carrier", "delay")


class TestVersions:
    base: ClassVar[dict[str, Any]] = {"column": "delay", "function": "mean", "window": "7d"}

    @pytest.mark.parametrize(
        "change",
        [
            {"function": "sum"},
            {"window": "8d"},
            {"delay": "1h"},
            {"hop": "1d"},
            {"hop": "exact"},
            {"where": "delay > 0"},
            {"by": "carrier"},
            {"column": "delay + 0", "name": "delay_mean_7d"},
        ],
    )
    def test_all_that_changes_a_value_does(self, change: dict[str, Any]) -> None:
        before = view_of(Aggregation(**self.base))
        after = view_of(Aggregation(**(self.base | {"name": "delay_mean_7d"} | change)))
        assert before.features[0].version != after.features[0].version
        assert before.storage_hash != after.storage_hash

    def test_the_horizon_does(self) -> None:
        before = view_of(Aggregation(**self.base))
        after = view_of(Aggregation(**self.base), correction_horizon="2d")
        assert before.features[0].version != after.features[0].version
        assert before.storage_hash != after.storage_hash

    def test_descriptions_do_not(self) -> None:
        before = view_of(Aggregation(**self.base))
        after = view_of(Aggregation(**self.base, description="How late."), correction_horizon="24h")
        assert before.version == after.version

    def test_records(self) -> None:
        source = landings()
        records = definition_records(
            repo_of(source, Aggregation("delay", "mean", "7d", where="carrier = 'UA'"))
        )
        body = next(r.body for r in records if r.kind == "feature")
        assert body["expression"] == "mean(delay) over 7d where (carrier = 'UA')"
        assert (body["columns"], body["where_columns"]) == (["delay"], ["carrier"])
        assert "by" not in body

    def test_records_of_buckets(self) -> None:
        records = definition_records(
            repo_of(landings(), Aggregation("*", "count", "7d", by="upper(carrier)", name="x"))
        )
        feature = next(r for r in records if r.kind == "feature")
        assert feature.body["expression"] == "count(*) by upper(carrier) over 7d"
        assert feature.body["dtype"] == "map<string,int64>"
        assert feature.body["by_columns"] == ["carrier"]
        assert [edge.role for edge in feature.parents[:2]] == ["source", "time"]


Wrong = Callable[[], object]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            lambda: Aggregation("delay", "maen", "7d"),
            UnknownReference,
            r"no function 'maen'\. Did you mean 'mean'\?",
        ),
        (lambda: Aggregation("delay", "mean"), DefinitionError, "either window or windows"),
        (
            lambda: Aggregation("delay", "mean", "7d", windows=["1d"]),
            DefinitionError,
            "either window or windows",
        ),
        (lambda: Aggregation("delay", "mean", windows=[]), TypeMismatch, "1 to 32 durations"),
        (lambda: Aggregation("delay", "mean", windows="7d"), TypeMismatch, "1 to 32 durations"),
        (lambda: Aggregation("delay", "mean", "7 days"), DefinitionError, "not a duration"),
        (lambda: Aggregation("delay", "mean", "0s"), DefinitionError, "not longer than 0"),
        (
            lambda: Aggregation("delay", "mean", "1m"),
            DefinitionError,
            r"window '1m' is shorter than its hop of 5m; say hop=\"exact\"",
        ),
        (
            lambda: Aggregation("delay", "mean", "1d", hop="2d"),
            DefinitionError,
            "shorter than its hop of 2d",
        ),
        (
            lambda: Aggregation("delay", "mean", "1d", hop="1s"),
            DefinitionError,
            "86,400 hops of 1s, more than 10,000",
        ),
        (lambda: Aggregation("delay", "mean", "1d", hop="often"), DefinitionError, "hop is"),
        (lambda: Aggregation("delay", "mean", "1d", delay="-1h"), DefinitionError, "is negative"),
        (
            lambda: Aggregation("delay", "mean", "1d", delay=timedelta(hours=-1)),
            DefinitionError,
            "is negative",
        ),
        (lambda: Aggregation("delay", "mean", "1d", delay=-1), DefinitionError, "is negative"),
        (lambda: Aggregation("delay", "mean", "1d", delay=60), DefinitionError, "not a duration"),
        (lambda: Aggregation("delay", "last_n", "1d"), DefinitionError, "last_n needs n"),
        (lambda: Aggregation("delay", "last_n", "1d", n=0), DefinitionError, "n must be"),
        (lambda: Aggregation("delay", "mean", "1d", n=3), DefinitionError, "mean has no n"),
        (
            lambda: Aggregation("delay", "mean", "1d", by="delay > 1"),
            InvalidName,
            "give it a name=",
        ),
        (
            lambda: Feature("x", "carrier", dtype="list<map<string,int64>>"),
            TypeMismatch,
            "only an aggregation with by yields a map",
        ),
        (
            lambda: RequestSource("r", {"x": "map<string,int64>"}),
            TypeMismatch,
            "only an aggregation with by yields a map",
        ),
        (
            lambda: Aggregation("delay", "approx_quantile", "1d", q=2),
            DefinitionError,
            "q must be from 0 to 1",
        ),
        (
            lambda: Aggregation("delay", "approx_count_distinct", "1d", error=0.0001),
            DefinitionError,
            "error must be from 0.005",
        ),
        (
            lambda: view_of(Aggregation("delay", "mean", "1d"), ttl="1d"),
            DefinitionError,
            "no ttl",
        ),
        (
            lambda: repo_of(landings(), Aggregation("delay", "mean", "1d"), Feature("delay")),
            TypeMismatch,
            "make two views",
        ),
        (
            lambda: repo_of(landings(), Feature("delay"), correction_horizon="1d"),
            DefinitionError,
            "correction_horizon is for views of Aggregations",
        ),
        (
            lambda: view_of(Aggregation("delay", "mean", "1d"), correction_horizon="-1d"),
            DefinitionError,
            "correction_horizon",
        ),
    ],
)
def test_wrong_definitions(wrong: Wrong, error: type[DefinitionError], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


@pytest.mark.parametrize(
    ("feature", "source", "error", "message"),
    [
        (Aggregation("carrier", "sum", "1d"), landings(), TypeMismatch, "sum takes numbers"),
        (Aggregation("dely", "sum", "1d"), landings(), UnknownReference, "Did you mean 'delay'"),
        (
            Aggregation("*", "count", "1d", where="1 < dely"),
            landings(),
            DefinitionError,
            r"where: .*Did you mean 'delay'\? \(at character 4\)",
        ),
        (
            Aggregation("*", "count", "1d", where="delay"),
            landings(),
            TypeMismatch,
            "where must be true or false",
        ),
        (
            Aggregation("*", "count", "1d", by="carier"),
            landings(),
            DefinitionError,
            r"by: .*Did you mean 'carrier'\? \(at character 0\)",
        ),
        (
            Aggregation("delay * length(delay)", "sum", "1d", name="x"),
            landings(),
            TypeMismatch,
            r"\(at character 8\)",
        ),
        (
            Aggregation("*", "count", "1d", by="delay / 2", name="x"),
            landings(),
            TypeMismatch,
            "by must be a string, an integer or a bool, and this is float64",
        ),
        (
            Aggregation("delay", "sum", "1d", by="carrier", dtype="int64"),
            landings(),
            TypeMismatch,
            "yields map<string,float64> here, not int64",
        ),
        (Aggregation("*", "sum", "1d", name="x"), landings(), TypeMismatch, '"\\*" is for count'),
        (
            Aggregation("delay", "mean", "1d", dtype="int64"),
            landings(),
            TypeMismatch,
            "yields float64 here, not int64",
        ),
        (
            Aggregation("delay", "mean", "1d", name="tailnum"),
            landings(),
            DuplicateName,
            "name of a join key",
        ),
        (
            Aggregation("delay", "mean", "1d"),
            landings(op="op", event_id=None),
            DefinitionError,
            "has op but no event_id",
        ),
    ],
)
def test_what_does_not_fit_the_source(
    feature: Aggregation, source: FileSource, error: type[DefinitionError], message: str
) -> None:
    with pytest.raises(InvalidRepository) as caught:
        repo_of(source, feature)
    (found,) = caught.value.errors
    assert isinstance(found, error)
    with pytest.raises(error, match=message):
        raise found

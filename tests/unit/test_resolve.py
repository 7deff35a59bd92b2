"""Resolving: what the typed repository holds, and every way in which definitions do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from featurestore.compiler.resolve import resolve, source_order
from featurestore.compiler.typed import Column, TypedRepo
from featurestore.definitions import expression as tree
from featurestore.definitions.entity import Entity
from featurestore.definitions.repo import Definitions, collect, load
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource, SqlSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.dtypes import (
    BOOL,
    BYTES,
    DATE,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    Kind,
    parse,
)
from featurestore.errors import (
    CyclicReference,
    DefinitionError,
    DuplicateName,
    FeatureStoreError,
    InternalError,
    InvalidExpression,
    InvalidName,
    InvalidRepository,
    SourceMissing,
    TypeMismatch,
    UnknownReference,
)

Schemas = Mapping[str, Mapping[str, DType] | FeatureStoreError]

WEATHER_COLUMNS: dict[str, DType] = {
    "airport": STRING,
    "observed_at": TIMESTAMP,
    "published_at": TIMESTAMP,
    "temp": FLOAT64,
    "wind": INT32,
    "gusts": INT64,
    "note": STRING,
}


def weather(**changes: Any) -> FileSource:
    arguments: dict[str, Any] = {"path": "w.parquet", "event_time": "observed_at"}
    return FileSource("weather", **(arguments | changes))


def resolved(*objects: object, **schemas: Mapping[str, DType] | FeatureStoreError) -> TypedRepo:
    """The repository of `objects`; `weather` has `WEATHER_COLUMNS` unless told otherwise."""
    return resolve(collect(objects), {"weather": WEATHER_COLUMNS} | schemas, project="shop")


def errors_of(
    *objects: object, **schemas: Mapping[str, DType] | FeatureStoreError
) -> list[DefinitionError]:
    with pytest.raises(InvalidRepository) as caught:
        resolved(*objects, **schemas)
    return list(caught.value.errors)


def error_of(
    *objects: object, **schemas: Mapping[str, DType] | FeatureStoreError
) -> DefinitionError:
    (error,) = errors_of(*objects, **schemas)
    return error


def viewed(*features: Feature, source: FileSource | None = None, **changes: Any) -> list[object]:
    """A view of `features`, with what it needs."""
    airport = Entity("airport")
    source = source or weather()
    view = FeatureView("origin_weather", [airport], source, features, **changes)
    return [airport, source, view]


class TestTypedRepository:
    def test_a_whole_repository(self) -> None:
        airport, source, view = viewed(
            Feature("temp", description="Fahrenheit"), Feature("fast", "wind > 30"), ttl="3h"
        )
        service = FeatureService("delays", [view])  # type: ignore[list-item]
        repo = resolved(airport, source, view, service)
        assert repo.project == "shop"
        typed = repo.views["origin_weather"]
        assert typed.entities == ("airport",)
        assert typed.keys == (Column("airport", STRING),)
        assert [(f.name, f.dtype, f.description) for f in typed.features] == [
            ("temp", FLOAT64, "Fahrenheit"),
            ("fast", BOOL, ""),
        ]
        assert typed.features[0].expression == tree.Column("temp")
        assert typed.source is repo.sources["weather"]
        assert (typed.ttl_us, typed.grace_us, typed.reach_us) == (
            10_800_000_000,
            10_800_000_000,
            21_600_000_000,
        )
        assert repo.services["delays"].uses[0].features == typed.features
        assert typed.metadata.file == __file__

    def test_sources_know_their_columns_in_name_order(self) -> None:
        source = resolved(weather(created_time="published_at")).sources["weather"]
        assert [c.name for c in source.columns] == sorted(WEATHER_COLUMNS)
        assert source.tiebreak == tuple(sorted(WEATHER_COLUMNS))
        assert source.dtype("wind") == INT32
        assert source.created_time == "published_at"
        assert source.lateness_us == 3_600_000_000
        assert resolved(weather(tiebreak=["note", "temp"])).sources["weather"].tiebreak == (
            "note",
            "temp",
        )

    def test_keys_stand_by_entity_name_whatever_the_order_declared(self) -> None:
        columns = {"observed_at": TIMESTAMP, "a": STRING, "b": INT64, "c": BYTES, "x": INT64}
        source = weather()
        zone, area = Entity("zone", {"b": "int64", "a": "string"}), Entity("area", {"c": "bytes"})
        view = FeatureView("v", [zone, area], source)
        typed = resolved(source, zone, area, view, weather=columns).views["v"]
        assert [key.name for key in typed.keys] == ["c", "b", "a"]
        assert typed.key_space == "area+zone"
        assert [f.name for f in typed.features] == ["x"]

    def test_a_view_without_entities(self) -> None:
        source = weather()
        view = FeatureView("network", source=source)
        typed = resolved(source, view).views["network"]
        assert (typed.keys, typed.key_space) == ((), "-")
        assert [f.name for f in typed.features] == [
            "airport",
            "gusts",
            "note",
            "published_at",
            "temp",
            "wind",
        ]

    def test_left_out_features_are_all_other_columns(self) -> None:
        columns = WEATHER_COLUMNS | {"op": STRING, "id": INT64, "__index_level_0__": INT64}
        source = weather(created_time="published_at", op="op", event_id="id")
        repo = resolved(*viewed(source=source), weather=columns)
        names = [f.name for f in repo.views["origin_weather"].features]
        assert names == ["gusts", "note", "temp", "wind"]

    def test_names_that_are_words_of_sql(self) -> None:
        names = ("rn", "row_id", "x_y", "select", "order", "größe")
        columns = WEATHER_COLUMNS | dict.fromkeys(names, INT64)
        repo = resolved(*viewed(), weather=columns)
        assert {"rn", "row_id", "x_y", "select", "order", "größe"} <= {
            f.name for f in repo.views["origin_weather"].features
        }
        features = [Feature("select"), Feature("größe", '"order" + 1')]
        assert (
            resolved(*viewed(*features), weather=columns)
            .views["origin_weather"]
            .feature("größe")
            .dtype
            == INT64
        )

    def test_int32_columns_serve_int64_keys(self) -> None:
        source = weather()
        wind = Entity("wind", {"wind": "int32"})
        view = FeatureView("v", wind, source, [Feature("temp")])
        assert resolved(source, wind, view).views["v"].keys == (Column("wind", INT64),)

    def test_a_date_is_an_event_time_when_its_instant_is_said(self) -> None:
        columns = WEATHER_COLUMNS | {"observed_at": DATE}
        source = resolved(weather(event_time_is="end"), weather=columns).sources["weather"]
        assert source.event_time_is == "end"

    def test_an_empty_repository(self) -> None:
        repo = resolve(Definitions(), {}, project="shop")
        assert (dict(repo.views), dict(repo.sources)) == ({}, {})


class TestTypes:
    @pytest.mark.parametrize(
        ("column", "declared"),
        [
            (INT32, "int64"),
            (INT32, "float64"),
            (FLOAT32, "float64"),
            (parse("decimal(5,2)"), "decimal(8,3)"),
        ],
    )
    def test_a_wider_declared_type_becomes_a_cast(self, column: DType, declared: str) -> None:
        repo = resolved(
            *viewed(Feature("x", dtype=declared)), weather=WEATHER_COLUMNS | {"x": column}
        )
        feature = repo.views["origin_weather"].feature("x")
        assert feature.dtype == parse(declared)
        assert feature.expression == tree.Cast(tree.Column("x"), parse(declared))

    def test_the_declared_type_that_is_inferred_changes_nothing(self) -> None:
        plain = resolved(*viewed(Feature("temp"))).views["origin_weather"]
        declared = resolved(*viewed(Feature("temp", dtype="float64"))).views["origin_weather"]
        assert plain.features == declared.features

    @pytest.mark.parametrize(
        ("column", "declared"),
        [
            (INT64, "int32"),
            (INT64, "float64"),
            (FLOAT64, "float32"),
            (FLOAT64, "int64"),
            (STRING, "int64"),
            (BOOL, "int64"),
            (parse("decimal(5,2)"), "decimal(5,3)"),
            (parse("decimal(5,2)"), "decimal(5,1)"),
            (parse("list<int32>"), "list<int64>"),
        ],
    )
    def test_a_lossy_declared_type_is_refused(self, column: DType, declared: str) -> None:
        error = error_of(
            *viewed(Feature("x", dtype=declared)), weather=WEATHER_COLUMNS | {"x": column}
        )
        assert isinstance(error, TypeMismatch)
        assert f"is {column}, which does not fit {declared} without loss" in error.message
        assert "write CAST(x AS " in error.message

    def test_null_needs_a_declared_type(self) -> None:
        typed = resolved(*viewed(Feature("nothing", "NULL", dtype="int64")))
        assert typed.views["origin_weather"].feature("nothing").dtype == INT64
        assert isinstance(error_of(*viewed(Feature("nothing", "NULL"))), TypeMismatch)


class TestFeatureErrors:
    @pytest.mark.parametrize(
        ("feature", "error", "says"),
        [
            (
                Feature("tmp"),
                UnknownReference,
                "source 'weather' has no column 'tmp'. Did you mean 'temp'?",
            ),
            (
                Feature("x", "tmp + 1"),
                InvalidExpression,
                "feature 'x' of 'origin_weather': There is no column 'tmp'. Did you mean 'temp'?",
            ),
            (Feature("x", "note + 1"), TypeMismatch, "feature 'x' of 'origin_weather'"),
            (Feature("x", "temp +"), InvalidExpression, "feature 'x' of 'origin_weather'"),
            (Feature("x", "sum(temp)"), InvalidExpression, "feature 'x' of 'origin_weather'"),
            (Feature("airport"), DuplicateName, "has the name of a join key"),
            (Feature("Airport", "note"), DuplicateName, "has the name of a join key"),
        ],
    )
    def test_at_the_line_of_the_feature(
        self, feature: Feature, error: type[DefinitionError], says: str
    ) -> None:
        found = error_of(*viewed(feature))
        assert isinstance(found, error)
        assert says in found.message
        assert (found.file, found.line) == (feature.file, feature.line)

    def test_the_position_in_an_expression_is_kept(self) -> None:
        found = error_of(*viewed(Feature("x", "temp + sum(temp)")))
        assert isinstance(found, InvalidExpression)
        assert found.position == 7

    def test_several_features_are_reported_together(self) -> None:
        assert len(errors_of(*viewed(Feature("a"), Feature("b"), Feature("temp")))) == 2

    def test_default_features_need_names(self) -> None:
        columns = WEATHER_COLUMNS | {"wind speed": INT64, "a__b": INT64, "Temp": INT64}
        found = errors_of(*viewed(), weather=columns)
        assert {type(error) for error in found} == {InvalidName, DuplicateName}
        assert len(found) == 3
        assert all("rename it by field_mapping" in error.message for error in found)
        assert {error.line for error in found} != {0, None}

    def test_a_view_has_features(self) -> None:
        columns = {"airport": STRING, "observed_at": TIMESTAMP}
        message = error_of(*viewed(), weather=columns).message
        assert "has none that is not a key or a time" in message


class TestKeyErrors:
    def test_a_missing_join_key(self) -> None:
        columns = {k: v for k, v in WEATHER_COLUMNS.items() if k != "airport"}
        found = error_of(*viewed(Feature("temp")), weather=columns | {"airprt": STRING})
        assert isinstance(found, UnknownReference)
        assert found.message == (
            "feature view 'origin_weather': source 'weather' has no join key 'airport' of entity "
            "'airport'. Did you mean 'airprt'?"
        )

    @pytest.mark.parametrize("dtype", [INT64, FLOAT64, BYTES, DATE])
    def test_a_join_key_of_another_type_names_both(self, dtype: DType) -> None:
        found = error_of(*viewed(Feature("temp")), weather=WEATHER_COLUMNS | {"airport": dtype})
        assert isinstance(found, TypeMismatch)
        assert f"is string, and {dtype} in source 'weather'" in found.message


class TestReferences:
    def test_an_entity_must_stand_at_module_level(self) -> None:
        _, source, view = viewed(Feature("temp"))
        found = error_of(source, view)
        assert isinstance(found, UnknownReference)
        assert found.message == (
            "feature view 'origin_weather' uses entity 'airport', which is not at module level of "
            "any file; assign it to a name there"
        )

    def test_a_source_must_stand_at_module_level(self) -> None:
        airport, _, view = viewed(Feature("temp"))
        assert "uses source 'weather', which is not" in error_of(airport, view).message

    def test_a_view_of_a_service_must_stand_at_module_level(self) -> None:
        airport, source, view = viewed(Feature("temp"))
        service = FeatureService("s", [view])  # type: ignore[list-item]
        found = error_of(airport, source, service)
        assert "feature service 's' uses feature view 'origin_weather'" in found.message

    def test_a_copy_under_the_same_name_is_another_definition(self) -> None:
        _, source, view = viewed(Feature("temp"))
        found = error_of(Entity("airport"), source, view)
        assert "but not the one that stands at" in found.message

    def test_a_duplicate_is_reported_once(self) -> None:
        airport, source, view = viewed(Feature("temp"))
        found = error_of(Entity("airport"), airport, source, view)
        assert isinstance(found, DuplicateName)


class TestSourceErrors:
    @pytest.mark.parametrize(
        ("changes", "error", "says"),
        [
            ({"event_time": "observed"}, UnknownReference, "(event_time). Did you mean"),
            ({"created_time": "known_at"}, UnknownReference, "no column 'known_at' (created_time)"),
            ({"op": "operation"}, UnknownReference, "'operation' (op)"),
            ({"event_id": "id"}, UnknownReference, "'id' (event_id)"),
            ({"tiebreak": ["temp", "seq"]}, UnknownReference, "'seq' (tiebreak)"),
            ({"event_time": "note"}, TypeMismatch, "is string, not timestamp or date; convert it"),
            ({"event_time": "gusts"}, TypeMismatch, "is int64, not timestamp or date"),
            ({"created_time": "note"}, TypeMismatch, "is string, not timestamp; convert it"),
            ({"op": "gusts"}, TypeMismatch, "op 'gusts' is int64, not string"),
            ({"event_id": "temp"}, TypeMismatch, "event_id 'temp' is float64"),
            ({"event_time_is": "end"}, TypeMismatch, "event_time_is is for dates only"),
            ({"event_time": "note", "path": "w.csv"}, TypeMismatch, "; say so in column_types"),
        ],
    )
    def test_columns_fit_their_roles(
        self, changes: dict[str, Any], error: type[DefinitionError], says: str
    ) -> None:
        source = weather(**changes)
        found = error_of(source)
        assert isinstance(found, error)
        assert says in found.message
        assert (found.file, found.line) == (source.file, source.line)

    def test_a_date_must_say_which_instant_it_means(self) -> None:
        found = error_of(weather(), weather=WEATHER_COLUMNS | {"observed_at": DATE})
        assert isinstance(found, TypeMismatch)
        assert 'event_time_is="end" or "start"' in found.message

    def test_a_date_is_no_created_time(self) -> None:
        columns = WEATHER_COLUMNS | {"published_at": DATE}
        found = error_of(weather(created_time="published_at"), weather=columns)
        assert "is date, not timestamp" in found.message

    def test_our_own_column_names_are_refused(self) -> None:
        found = error_of(weather(), weather=WEATHER_COLUMNS | {"__event_us": INT64})
        assert isinstance(found, InvalidName)

    def test_an_unreadable_source_keeps_its_message_and_its_place(self) -> None:
        airport, source, view = viewed(Feature("temp"))
        service = FeatureService("s", [view])  # type: ignore[list-item]
        missing = SourceMissing("no file matches data/w.parquet")
        found = error_of(airport, source, view, service, weather=missing)
        assert found.message == (
            "source 'weather': no file matches data/w.parquet [source-missing]"
        )
        assert found.line == source.line  # type: ignore[attr-defined]

    def test_an_unreadable_source_is_named_once(self) -> None:
        missing = SourceMissing("Source 'weather': nothing at data/w.parquet")
        found = error_of(weather(), weather=missing)
        assert found.message == "Source 'weather': nothing at data/w.parquet [source-missing]"

    def test_an_unreadable_source_may_have_a_definition_error(self) -> None:
        found = error_of(weather(), weather=UnknownReference("field_mapping names 'x'"))
        assert isinstance(found, UnknownReference)
        assert found.message == "source 'weather': field_mapping names 'x'"

    def test_a_schema_that_nobody_read_is_our_bug(self) -> None:
        with pytest.raises(InternalError, match="no schema was read for source 'weather'"):
            resolve(collect([weather()]), {}, project="shop")


def query(name: str, text: str) -> SqlSource:
    return SqlSource(name, text, "t")


class TestSqlSources:
    def test_inputs_come_first(self) -> None:
        b = query("b", "select * from c join weather using (airport)")
        c = query("c", "with x as (select * from Weather) select * from x")
        a = query("a", "select * from b")
        schema = {"t": TIMESTAMP, "x": INT64}
        repo = resolved(a, b, c, weather(), a=schema, b=schema, c=schema)
        assert list(repo.sources) == ["weather", "c", "b", "a"]
        assert repo.sources["b"].inputs == ("c", "weather")
        assert repo.sources["c"].inputs == ("weather",)

    def test_a_query_reads_sources_only(self) -> None:
        found = error_of(weather(), query("days", "select * from wether"))
        assert isinstance(found, UnknownReference)
        assert found.message == (
            "source 'days' reads 'wether', which is no source. Did you mean 'weather'?"
        )

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("select a from weather where (", "not valid SQL at line 1, column 29"),
            ("select 'a", "not valid SQL"),
            ("select 1; select 2", "one SELECT"),
            ("create table x as select 1", "one SELECT"),
            ("  ", "one SELECT"),
            ("select * from read_parquet('x')", "reads from the function read_parquet"),
            ("select * from some_macro(3)", "reads from the function some_macro"),
            ("select * from other.weather", "plain name of a source"),
        ],
    )
    def test_a_query_is_one_select_over_plain_names(self, text: str, says: str) -> None:
        found = error_of(weather(), query("days", text))
        assert isinstance(found, InvalidExpression)
        assert says in found.message

    def test_a_file_name_is_no_source(self) -> None:
        found = error_of(query("days", "select * from 'x.parquet'"))
        assert found.message == "source 'days' reads 'x.parquet', which is no source."

    @pytest.mark.parametrize(
        ("text", "inputs"),
        [
            ("from weather", ("weather",)),
            ("select 1 as x, now() as t", ()),
            ("select * from weather a, weather b", ("weather",)),
            ("with weather as (select * from weather) select * from weather", ("weather",)),
            ("with w as (select 1) select * from (with w as (from weather) from w)", ("weather",)),
            ("with a as (from weather), b as (from a) from b", ("weather",)),
            ("with recursive r as (select 1 x union all select x + 1 from r) from r", ()),
            ("select (select max(temp) from weather) from range(3), unnest([1])", ("weather",)),
            ("select * from generate_series(1, 2) where exists (from weather)", ("weather",)),
            ("pivot weather on note using sum(temp)", ("weather",)),
            ("from weather union all by name from weather", ("weather",)),
        ],
    )
    def test_what_a_query_reads(self, text: str, inputs: tuple[str, ...]) -> None:
        days = query("days", text)
        repo = resolved(weather(), days, days={"t": TIMESTAMP, "x": INT64})
        assert repo.sources["days"].inputs == inputs

    @pytest.mark.parametrize(
        "text",
        [
            "select * from b union all select y, x, t from b",
            "select n.* from b as n(t, x)",
            "select t, x from (select * from b limit 3) as n(t, y, x)",
            "from b order by 1 limit 3",
        ],
    )
    def test_columns_are_not_taken_by_their_place_in_files(self, text: str) -> None:
        """Files that are written again with their columns in another order change no value."""
        b, schema = FileSource("b", "b.parquet", "t"), {"y": INT64, "x": INT64, "t": TIMESTAMP}
        found = error_of(b, query("q", text), b=schema, q=schema)
        assert isinstance(found, InvalidExpression)
        assert found.message == (
            "source 'q': its query takes the columns of a * by their places; name them, or use "
            "UNION BY NAME"
        )

    @pytest.mark.parametrize(
        "text",
        [
            "select * from b union all by name select y, x, t from b",
            "select y, x, t from b union all select y, x, t from b",
            "from b union all from b",
            "select x, t, y from b order by 1 limit 3",
        ],
    )
    def test_columns_may_be_taken_by_name(self, text: str) -> None:
        b, schema = FileSource("b", "b.parquet", "t"), {"y": INT64, "x": INT64, "t": TIMESTAMP}
        assert resolved(b, query("q", text), b=schema, q=schema).sources["q"].inputs == ("b",)

    def test_a_circle_is_reported_with_its_path(self) -> None:
        a, b, c = query("a", "from b"), query("b", "from c"), query("c", "from a")
        user = query("user", "from a")
        found = error_of(c, b, a, user)
        assert isinstance(found, CyclicReference)
        assert found.message == "source 'a' reads itself: a → b → c → a"
        assert (found.file, found.line) == (a.file, a.line)
        assert source_order(collect([a, b, c, user, weather()])) == [weather()]

    def test_two_circles_are_two_errors(self) -> None:
        a, b = query("a", "from a"), query("b", "from c")
        c, d = query("c", "from b"), query("d", "from weather, a")
        messages = [error.message for error in errors_of(a, b, c, d, weather())]
        assert messages == ["source 'a' reads itself: a → a", "source 'b' reads itself: b → c → b"]

    def test_what_hangs_on_a_wrong_source_is_not_reported_again(self) -> None:
        airport, source, _ = viewed()
        days = query("days", "from weather")
        view = FeatureView("v", airport, days)  # type: ignore[arg-type]
        service = FeatureService("s", [view["x"]])
        found = error_of(
            airport, source, days, view, service, weather=SourceMissing("gone"), days={}
        )
        assert "gone" in found.message

    def test_the_order_leaves_out_what_cannot_be_read(self) -> None:
        good = query("good", "from weather")
        bad = query("bad", "from nothing")
        after = query("after", "from bad")
        assert source_order(collect([after, bad, good, weather()])) == [weather(), good]


class TestServiceErrors:
    def test_unknown_features_and_join_keys_are_suggested(self) -> None:
        airport, source, view = viewed(Feature("temp"), Feature("wind"))
        assert isinstance(view, FeatureView)
        selection = view[["tmp", "wnd"]].with_join_key_map({"airprt": "dest"})
        found = errors_of(airport, source, view, FeatureService("s", [selection]))
        assert [error.message for error in found] == [
            "feature service 's': origin_weather has no feature 'tmp'. Did you mean 'temp'?",
            "feature service 's': origin_weather has no feature 'wnd'. Did you mean 'wind'?",
            (
                "feature service 's': Join key 'airprt': origin_weather has no such join key. "
                "Did you mean 'airport'?"
            ),
        ]
        assert all(isinstance(error, UnknownReference) for error in found)
        assert {error.line for error in found} == {selection.line}

    def test_one_column_cannot_be_two_keys_of_different_types(self) -> None:
        airport, source, view = viewed(Feature("temp"))
        assert isinstance(view, FeatureView)
        assert isinstance(source, FileSource)
        gusts = Entity("gusts", {"gusts": "int64"})
        other = FeatureView("other", gusts, source, [Feature("note")])
        service = FeatureService("s", [view, other.with_join_key_map({"gusts": "airport"})])
        found = error_of(airport, source, view, gusts, other, service)
        assert isinstance(found, TypeMismatch)
        assert found.message == (
            "feature service 's': Join key 'airport': origin_weather reads it as string and other "
            "as int64"
        )

    def test_a_service_uses_a_view_twice(self) -> None:
        airport, source, view = viewed(Feature("temp"))
        assert isinstance(view, FeatureView)
        dest = view.with_name("dest_weather").with_join_key_map({"airport": "dest"})
        service = FeatureService("s", [view, dest])
        uses = resolved(airport, source, view, service).services["s"].uses
        assert [(use.name, use.key_columns) for use in uses] == [
            ("origin_weather", ("airport",)),
            ("dest_weather", ("dest",)),
        ]


BROKEN = {
    "entities.py": """\
from featurestore import Entity

plane = Entity("plane", join_keys={"tailnum": "string"})
airport = Entity("air port", join_keys={"airport": "float64"})
""",
    "sources.py": """\
from featurestore import FileSource, SqlSource

landings = FileSource("landings", "data/landings.parquet", "landed_at", lateness="soon")
weather = FileSource("weather", "data/weather.parquet", "observed")
gone = FileSource("gone", "data/gone.parquet", "t")
one = SqlSource("one", "select * from two", "t")
two = SqlSource("two", "select * from one", "t")
three = SqlSource("three", "select * from wether", "t")
""",
    "views.py": """\
from entities import airport, plane
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource
from sources import landings, weather

stations = FileSource("stations", "data/stations.csv", "seen_at")
by_plane = FeatureView("by_plane", [plane], stations, [Feature("temp")])
network = FeatureView(
    "network",
    source=stations,
    features=[
        Feature("temp"),
        Feature("height", "elevaton / 2"),
        Feature("floors", "elevation", dtype="int32"),
    ],
)
plane = Entity("plane")
hidden = FeatureView("hidden", [Entity("carrier")], stations, [Feature("temp")])
fine = FeatureView("fine", source=stations, features=[Feature("temp")])
service = FeatureService("service", [fine["tmp"], hidden])
""",
    "zz.py": "import nothing_of_that_name\n",
}


def test_all_errors_at_once_golden(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for name, text in BROKEN.items():
        (tmp_path / name).write_text(text)
    definitions = load(tmp_path)
    schemas: Schemas = {
        "weather": WEATHER_COLUMNS,
        "stations": {"seen_at": TIMESTAMP, "temp": FLOAT64, "elevation": INT64},
        "gone": SourceMissing("no file matches data/gone.parquet"),
    }
    assert {source.name for source in source_order(definitions)} == schemas.keys()
    with pytest.raises(InvalidRepository) as caught:
        resolve(definitions, schemas, project="shop")
    golden = Path(__file__).parents[1] / "golden" / "invalid_repository.txt"
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(f"{caught.value}\n", encoding="utf-8")
    assert f"{caught.value}\n" == golden.read_text(encoding="utf-8")


def test_decimal_kinds_are_kept() -> None:
    repo = resolved(
        *viewed(Feature("price")), weather=WEATHER_COLUMNS | {"price": parse("decimal(9,2)")}
    )
    assert repo.views["origin_weather"].feature("price").dtype.kind is Kind.DECIMAL

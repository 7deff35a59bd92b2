"""Definitions: what is accepted, how it is read, and every way to be wrong."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from featurestore.definitions.entity import Entity
from featurestore.definitions.names import NAME_CHARS_MAX, Definition, gather
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource, SqlSource, file_format, our_names
from featurestore.definitions.view import Feature, FeatureSelection, FeatureView
from featurestore.dtypes import BYTES, FLOAT64, INT64, STRING, TIMESTAMP, DType, Kind
from featurestore.errors import (
    DefinitionError,
    DuplicateName,
    InvalidName,
    TypeMismatch,
    UnknownReference,
)
from featurestore.timeline import HOUR_US

AIRPORT = Entity("airport")
WEATHER = FileSource("weather", "data/weather.parquet", "observed_at")


def a_view(**changes: Any) -> FeatureView:
    arguments: dict[str, Any] = {
        "entities": [AIRPORT],
        "source": WEATHER,
        "features": [Feature("temp")],
    }
    return FeatureView("origin_weather", **(arguments | changes))


class TestNames:
    @pytest.mark.parametrize(
        "name", ["a", "_a", "rn", "row_id", "x_y", "select", "order", "größe", "温度", "a" * 128]
    )
    def test_identifiers_of_any_script_and_sql_words_are_names(self, name: str) -> None:
        assert Feature(name).name == name
        assert Entity(name).keys == {name: STRING}

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("", "is not a name"),
            ("1a", "is not a name"),
            ("a b", "is not a name"),
            ("a.b", "is not a name"),
            ("a-b", "is not a name"),
            ("a__b", "reserved for full names"),
            ("__a", "reserved for full names"),
            ("a" * (NAME_CHARS_MAX + 1), "at most 128 characters"),
            ("gro\u0308ße", "normal form C"),
            (None, "a name is text"),
            (5, "a name is text"),
        ],
    )
    def test_other_names_are_refused(self, name: Any, says: str) -> None:
        for make in (
            lambda: Entity(name, {"key": "string"}),
            lambda: FileSource(name, "p", "t"),
            lambda: SqlSource(name, "select 1", "t"),
            lambda: Feature(name),
            lambda: FeatureView(name, [AIRPORT], WEATHER),
            lambda: FeatureService(name, [a_view()]),
        ):
            with pytest.raises(InvalidName, match=says):
                make()

    def test_an_alias_is_a_name(self) -> None:
        with pytest.raises(InvalidName, match="'a b' is not a name"):
            a_view().with_name("a b")

    def test_the_place_is_the_line_of_the_caller(self) -> None:
        feature = Feature("temp")
        assert feature.file == __file__
        assert Path(__file__).read_text().splitlines()[feature.line - 1].strip().startswith("feat")

    def test_an_error_says_where_it_is(self) -> None:
        with pytest.raises(InvalidName) as caught:
            Entity("a b")
        assert caught.value.file == __file__
        assert str(caught.value).startswith(f"{__file__}:{caught.value.line}: entity 'a b': ")

    def test_definitions_compare_by_what_they_say_not_by_where_they_stand(self) -> None:
        one = a_view()
        other = a_view()
        assert one == other
        assert hash(one) == hash(other)
        assert a_view(ttl="1h") != one

    def test_errors_are_gathered_in_a_block_and_construction_goes_on(self) -> None:
        with gather(Path("/nowhere")) as errors:
            entity = Entity("a b", {"c d": "string", "e": "float64", "f": "int64"})
        assert not entity.valid
        assert entity.keys == {"f": INT64}
        assert [type(error) for error in errors] == [InvalidName, InvalidName, TypeMismatch]
        with pytest.raises(InvalidName):
            Entity("a b")

    def test_files_below_the_root_are_named_relative_to_it(self) -> None:
        with gather(Path(__file__).parent):
            assert Entity("a").file == Path(__file__).name

    def test_a_definition_is_frozen(self) -> None:
        with pytest.raises(AttributeError):
            AIRPORT.name = "other"  # type: ignore[misc]

    def test_a_copy_has_the_place_where_it_was_made(self) -> None:
        assert a_view()["temp"].with_name("other").file == __file__

    def test_kinds_have_names_for_messages(self) -> None:
        assert Definition.kind == "definition"
        assert FeatureSelection.kind == "selection of feature view"


class TestTexts:
    @pytest.mark.parametrize("field", ["description", "owner"])
    def test_descriptions_are_text(self, field: str) -> None:
        with pytest.raises(TypeMismatch, match=f"{field} must be text, not 5"):
            Entity("a", **{field: 5})  # type: ignore[arg-type]

    @pytest.mark.parametrize("tags", ["team", ["team"], {"team": 1}, {1: "team"}])
    def test_tags_map_text_to_text(self, tags: Any) -> None:
        with pytest.raises(TypeMismatch, match="tags must map text to text"):
            Feature("a", tags=tags)


class TestEntity:
    def test_the_join_key_is_a_string_column_of_its_name(self) -> None:
        assert Entity("plane").join_keys == {"plane": "string"}

    def test_a_list_of_join_keys_means_strings(self) -> None:
        assert Entity("route", ["origin", "dest"]).keys == {"origin": STRING, "dest": STRING}

    def test_key_types(self) -> None:
        keys = {"a": "int64", "b": "int32", "c": "string", "d": "bytes"}
        assert Entity("e", keys).keys == {"a": INT64, "b": INT64, "c": STRING, "d": BYTES}

    @pytest.mark.parametrize(
        ("keys", "error", "says"),
        [
            ({"k": "float64"}, TypeMismatch, "keys are int64, int32, string or bytes"),
            ({"k": "decimal(3,1)"}, TypeMismatch, "keys are int64"),
            ({"k": "text"}, TypeMismatch, "'text' is not a type"),
            ({"k": None}, TypeMismatch, "'None' is not a type"),
            ({"a b": "string"}, InvalidName, "join key: 'a b'"),
            ([5], InvalidName, "join key: a name is text"),
            ({}, DefinitionError, "join_keys is empty"),
            ([], DefinitionError, "join_keys is empty"),
            (["a", "a"], DefinitionError, "names a column twice"),
            ("plane", TypeMismatch, "must be a list of columns or a mapping"),
            (5, TypeMismatch, "must be a list of columns or a mapping"),
        ],
    )
    def test_wrong_join_keys(self, keys: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            Entity("plane", keys)

    def test_wrong_join_keys_are_left_out_while_loading(self) -> None:
        with gather(Path("/nowhere")) as errors:
            assert Entity("plane", 5).keys == {}  # type: ignore[arg-type]
            assert Entity("plane", {"a": "text", "b": "int64"}).keys == {"b": INT64}
            assert a_view().with_name("a b").valid is False
            assert a_view(entities=5, source=5, features=5).keyed_by == ()
        assert len(errors) == 6


class TestSources:
    def test_a_path_object_is_read_as_text(self) -> None:
        assert FileSource("s", Path("data") / "s.parquet", "t").path == "data/s.parquet"

    def test_durations_and_tiebreaks(self) -> None:
        source = FileSource("s", "p", "t", tiebreak="id", lateness=timedelta(hours=2))
        assert source.lateness_us == 2 * HOUR_US
        assert source.tiebreak_columns == ("id",)
        assert FileSource("s", "p", "t").lateness_us == HOUR_US
        assert FileSource("s", "p", "t", lateness="0s").lateness_us == 0
        assert SqlSource("s", "select 1", "t", tiebreak=["a", "b"]).tiebreak_columns == ("a", "b")

    def test_the_positions_of_the_main_arguments(self) -> None:
        assert FileSource("s", "p", "e", "c").created_time == "c"
        assert SqlSource("s", "select 1", "e", "c").created_time == "c"

    @pytest.mark.parametrize(
        ("arguments", "error", "says"),
        [
            ({"path": 5}, TypeMismatch, "path must be text, not 5"),
            ({"path": ""}, DefinitionError, "path is empty"),
            ({"event_time": None}, TypeMismatch, "event_time must name a column"),
            ({"event_time": ""}, TypeMismatch, "event_time must name a column"),
            ({"created_time": 3}, TypeMismatch, "created_time must be text"),
            ({"op": ""}, DefinitionError, "op is empty"),
            ({"event_time_is": "noon"}, DefinitionError, 'event_time_is is "start" or "end"'),
            ({"lateness": "soon"}, DefinitionError, "lateness: 'soon' is not a duration"),
            ({"lateness": timedelta(-1)}, DefinitionError, "lateness: .* not longer than 0"),
            ({"tiebreak": 5}, TypeMismatch, "tiebreak must name columns, not 5"),
            ({"tiebreak": ["a", 5]}, TypeMismatch, "tiebreak must name columns"),
            ({"format": "orc"}, DefinitionError, "format is one of parquet, csv, delta"),
            ({"header": "yes"}, TypeMismatch, "header is True or False"),
            ({"delimiter": ";;"}, DefinitionError, "delimiter is one character"),
            ({"delimiter": ""}, DefinitionError, "delimiter is empty"),
            ({"column_types": {"a": "text"}}, TypeMismatch, "'text' is not a type"),
            ({"field_mapping": ["a"]}, TypeMismatch, "field_mapping must map text to text"),
            ({"field_mapping": {"a": "x", "b": "x"}}, DuplicateName, "two columns the name 'x'"),
            ({"field_mapping": {"a": ""}}, DefinitionError, "an empty name"),
        ],
    )
    def test_wrong_arguments(
        self, arguments: dict[str, Any], error: type[Exception], says: str
    ) -> None:
        with pytest.raises(error, match=says):
            FileSource(**({"name": "s", "path": "p", "event_time": "t"} | arguments))

    def test_a_query_is_text(self) -> None:
        with pytest.raises(TypeMismatch, match="query must be text"):
            SqlSource("s", 5, "t")  # type: ignore[arg-type]
        with pytest.raises(DefinitionError, match="query is empty"):
            SqlSource("s", "", "t")

    def test_a_wrong_lateness_is_left_at_its_default_while_loading(self) -> None:
        with gather(Path("/nowhere")) as errors:
            source = FileSource("s", "p", "t", lateness="soon", tiebreak=5)  # type: ignore[arg-type]
        assert source.lateness_us == HOUR_US
        assert source.tiebreak_columns == ()
        assert len(errors) == 2

    def test_csv_types_are_parsed(self) -> None:
        source = FileSource("s", "p.csv", "t", column_types={"t": "timestamp"})
        assert source.csv_dtypes == {"t": TIMESTAMP}

    def test_the_format_follows_from_the_path(self, tmp_path: Path) -> None:
        (tmp_path / "table" / "_delta_log").mkdir(parents=True)
        (tmp_path / "folder").mkdir()

        def format_of(path: str, **arguments: Any) -> str:
            return file_format(FileSource("s", path, "t", **arguments), tmp_path)

        assert format_of("table") == "delta"
        assert format_of("folder") == "parquet"
        assert format_of("x/*.parquet") == "parquet"
        assert format_of("x/*.CSV") == "csv"
        assert format_of("x.csv.gz") == "csv"
        assert format_of("x.txt", format="csv") == "csv"

    def test_field_mapping_renames_columns(self) -> None:
        source = FileSource("s", "p", "t", field_mapping={"a": "b", "b": "a"})
        schema = {"a": INT64, "b": STRING, "c": FLOAT64}
        assert our_names(source, schema) == {"b": INT64, "a": STRING, "c": FLOAT64}

    def test_field_mapping_fits_the_files(self) -> None:
        source = FileSource("s", "p", "t", field_mapping={"a": "b"})
        with pytest.raises(UnknownReference, match=r"'a', not in the files. There is: b"):
            our_names(source, {"b": INT64})
        with pytest.raises(DuplicateName, match="second column 'b'"):
            our_names(source, {"a": INT64, "b": INT64})


class TestFeatureView:
    def test_one_entity_several_or_none(self) -> None:
        assert a_view(entities=AIRPORT).keyed_by == (AIRPORT,)
        assert a_view(entities=(AIRPORT, Entity("carrier"))).keyed_by[1].name == "carrier"
        assert a_view(entities=()).keyed_by == ()

    def test_ttl_and_grace(self) -> None:
        assert a_view().ttl_us is None
        assert a_view().grace_us is None
        assert a_view(ttl="3h").ttl_us == 3 * HOUR_US
        assert a_view(ttl=timedelta(hours=3)).grace_us == 3 * HOUR_US
        assert a_view(ttl="3h", grace="0s").grace_us == 0
        assert a_view(ttl="3h").ttl == "3h"

    @pytest.mark.parametrize(
        ("changes", "error", "says"),
        [
            ({"source": None}, TypeMismatch, "source is missing"),
            ({"source": "weather"}, TypeMismatch, "source cannot be 'weather'"),
            ({"entities": ["airport"]}, TypeMismatch, "must be Entity objects, not 'airport'"),
            ({"entities": "airport"}, TypeMismatch, "must be Entity objects, not 'airport'"),
            ({"entities": 5}, TypeMismatch, "must be Entity objects, not 5"),
            ({"entities": [AIRPORT, AIRPORT]}, DuplicateName, "a view needs each key once"),
            (
                {"entities": [AIRPORT, Entity("origin", ["airport"])]},
                DuplicateName,
                "'airport' is of entities 'airport' and 'origin'",
            ),
            ({"features": ["temp"]}, TypeMismatch, r"write Feature\('temp'\)"),
            ({"features": "temp"}, TypeMismatch, "must be Feature or Aggregation objects"),
            ({"features": [5]}, TypeMismatch, "must be Feature or Aggregation objects, not 5"),
            (
                {"features": [Feature("a"), Feature("a", "b")]},
                DuplicateName,
                "feature 'a' is defined twice",
            ),
            (
                {"features": [Feature("a"), Feature("A")]},
                DuplicateName,
                "'a' and 'A' differ in case only",
            ),
            ({"ttl": "soon"}, DefinitionError, "ttl: 'soon' is not a duration"),
            ({"ttl": "0s"}, DefinitionError, "ttl: '0s' is not longer than 0"),
            ({"ttl": timedelta(days=9_999_999)}, DefinitionError, "longer than 10,000 years"),
            ({"grace": "1h"}, DefinitionError, "grace needs a ttl"),
        ],
    )
    def test_wrong_arguments(
        self, changes: dict[str, Any], error: type[Exception], says: str
    ) -> None:
        with pytest.raises(error, match=says):
            a_view(**changes)

    def test_a_wrong_ttl_is_reported_once(self) -> None:
        with gather(Path("/nowhere")) as errors:
            view = a_view(ttl="soon", grace="1h", source="weather", entities="airport")
        assert len(errors) == 3
        assert view.ttl_us is None
        assert view.source is None
        assert view.keyed_by == ()


class TestFeature:
    def test_types_are_read_as_text_or_objects(self) -> None:
        assert Feature("a", dtype="float64").declared_dtype == FLOAT64
        assert Feature("a", dtype=DType(Kind.BOOL)).dtype == "bool"
        assert Feature("a").declared_dtype is None

    def test_wrong_arguments(self) -> None:
        with pytest.raises(TypeMismatch, match="dtype: 'double' is not a type; the types are"):
            Feature("a", dtype="double")
        with pytest.raises(TypeMismatch, match="expression must be text"):
            Feature("a", 5)  # type: ignore[arg-type]
        with pytest.raises(DefinitionError, match="expression is empty"):
            Feature("a", "")

    def test_a_wrong_type_is_left_to_be_inferred_while_loading(self) -> None:
        with gather(Path("/nowhere")) as errors:
            assert Feature("a", dtype="double").declared_dtype is None
        assert len(errors) == 1


class TestSelection:
    def test_projections_chain_in_any_order(self) -> None:
        view = a_view()
        one = view[["a", "b"]].with_name("dest").with_join_key_map({"airport": "dest"})
        other = view.with_join_key_map({"airport": "dest"}).with_name("dest")[["a", "b"]]
        assert one == other
        assert (one.name, one.features, dict(one.join_key_map)) == (
            "dest",
            ("a", "b"),
            {"airport": "dest"},
        )

    def test_one_name_selects_one_feature(self) -> None:
        selection = a_view()["temp"]
        assert selection.features == ("temp",)
        assert selection.name == "origin_weather"

    def test_a_selection_of_a_selection_narrows(self) -> None:
        assert a_view()[["a", "b"]]["b"].features == ("b",)
        with pytest.raises(UnknownReference, match=r"feature 'c' is not selected. There is: a, b"):
            a_view()[["a", "b"]]["c"]

    @pytest.mark.parametrize(
        ("features", "error", "says"),
        [
            ([], TypeMismatch, "select features by name"),
            ([5], TypeMismatch, "select features by name"),
            (["a", "a"], DuplicateName, "'a' is selected twice"),
        ],
    )
    def test_wrong_selections(self, features: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            a_view()[features]

    def test_a_join_key_map_maps_text_to_text(self) -> None:
        with pytest.raises(TypeMismatch, match="join_key_map must map text to text"):
            a_view().with_join_key_map(["airport"])  # type: ignore[arg-type]


class TestFeatureService:
    def test_views_and_selections(self) -> None:
        view = a_view()
        service = FeatureService("s", [view, view[["temp"]].with_name("other")])
        assert [use.name for use in service.uses] == ["origin_weather", "other"]
        assert service.uses[0].features is None
        assert service.uses[0].line == service.line
        assert FeatureService("s", view).uses == service.uses[:1]

    @pytest.mark.parametrize(
        ("features", "error", "says"),
        [
            ([], DefinitionError, "features is empty"),
            (["origin_weather"], TypeMismatch, "must be views or view"),
            ("origin_weather", TypeMismatch, "must be views or view"),
            (5, TypeMismatch, "must be views or view"),
            ([a_view(), a_view()["temp"]], DuplicateName, "two uses are named 'origin_weather'"),
        ],
    )
    def test_wrong_features(self, features: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            FeatureService("s", features)

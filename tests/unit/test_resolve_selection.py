"""What a caller asks for, and how output columns are named."""

from __future__ import annotations

from typing import Any

import pytest

from featurestore.compiler.resolve import output_names, resolve, select
from featurestore.compiler.typed import ViewUse
from featurestore.definitions.entity import Entity
from featurestore.definitions.repo import collect
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.dtypes import FLOAT64, INT64, STRING, TIMESTAMP
from featurestore.errors import (
    InvalidJoinKey,
    InvalidRequest,
    NameClash,
    UnknownFeature,
    UnknownService,
    UnknownView,
)

AIRPORT = Entity("airport")
WEATHER = FileSource("weather", "w", "observed_at")
HERE = FeatureView("here", AIRPORT, WEATHER, [Feature("temp"), Feature("wind"), Feature("Note")])
NUMBERS = FileSource("numbers", "n", "observed_at")
BY_NUMBER = FeatureView("by_number", Entity("number", {"airport": "int64"}), NUMBERS)
NETWORK = FeatureView("network", source=WEATHER, features=[Feature("temp")])
DEST = HERE[["temp"]].with_name("dest").with_join_key_map({"airport": "dest"})
MODEL = FeatureService("model", [HERE[["wind", "temp"]], DEST])
REPO = resolve(
    collect([AIRPORT, WEATHER, HERE, NUMBERS, *BY_NUMBER.keyed_by, BY_NUMBER, NETWORK, MODEL]),
    {
        "weather": {
            "airport": STRING,
            "observed_at": TIMESTAMP,
            "temp": FLOAT64,
            "wind": FLOAT64,
            "Note": STRING,
        },
        "numbers": {"airport": INT64, "observed_at": TIMESTAMP, "height": INT64},
    },
    project="shop",
)


def shown(uses: tuple[ViewUse, ...]) -> list[tuple[str, list[str], tuple[str, ...]]]:
    return [(use.name, [f.name for f in use.features], use.key_columns) for use in uses]


class TestSelect:
    @pytest.mark.parametrize("features", ["model", MODEL], ids=["name", "object"])
    def test_a_service(self, features: Any) -> None:
        assert shown(select(REPO, features)) == [
            ("here", ["wind", "temp"], ("airport",)),
            ("dest", ["temp"], ("dest",)),
        ]

    def test_a_service_that_is_not_in_the_repository(self) -> None:
        service = FeatureService("adhoc", [HERE])
        assert shown(select(REPO, service)) == [
            ("here", ["temp", "wind", "Note"], ("airport",)),
        ]

    @pytest.mark.parametrize("features", [HERE["wind"], [HERE["wind"]], "here:wind", ["here:wind"]])
    def test_one_feature(self, features: Any) -> None:
        assert shown(select(REPO, features)) == [("here", ["wind"], ("airport",))]

    @pytest.mark.parametrize("features", [HERE, ["here"], (HERE,)])
    def test_a_whole_view(self, features: Any) -> None:
        assert shown(select(REPO, features)) == [("here", ["temp", "wind", "Note"], ("airport",))]

    def test_references_to_one_view_are_one_use(self) -> None:
        asked = ["here:wind", "network:temp", "here:temp", "here:wind", DEST]
        assert shown(select(REPO, asked)) == [
            ("here", ["wind", "temp"], ("airport",)),
            ("network", ["temp"], ()),
            ("dest", ["temp"], ("dest",)),
        ]
        assert shown(select(REPO, ["here:wind", "here"])) == [
            ("here", ["wind", "temp", "Note"], ("airport",)),
        ]

    def test_an_unknown_service(self) -> None:
        with pytest.raises(UnknownService, match=r"Did you mean 'model'?"):
            select(REPO, "modle")
        with pytest.raises(UnknownService, match=r'For the whole view .here. ask for \["here"\]'):
            select(REPO, "here")

    def test_an_unknown_view(self) -> None:
        other = FeatureView("hre", AIRPORT, WEATHER)
        for features in (["hre"], ["hre:temp"], other, other["temp"]):
            with pytest.raises(UnknownView, match=r"Did you mean 'here'?"):
                select(REPO, features)

    def test_an_unknown_feature(self) -> None:
        for features in (["here:tmp"], HERE["tmp"], [HERE[["wind", "tmp"]]]):
            with pytest.raises(UnknownFeature, match=r"here has no feature 'tmp'. Did you mean"):
                select(REPO, features)
        with pytest.raises(UnknownFeature):
            select(REPO, ["here:"])

    def test_an_unknown_join_key(self) -> None:
        with pytest.raises(InvalidJoinKey, match=r"no such join key. Did you mean 'airport'?"):
            select(REPO, HERE.with_join_key_map({"airprt": "dest"}))

    def test_one_column_as_keys_of_two_types(self) -> None:
        with pytest.raises(InvalidJoinKey, match="here reads it as string and by_number as int64"):
            select(REPO, [HERE, BY_NUMBER])
        mapped = BY_NUMBER.with_join_key_map({"airport": "number"})
        assert len(select(REPO, [HERE, mapped])) == 2

    def test_two_uses_of_one_name_that_differ(self) -> None:
        with pytest.raises(NameClash, match="with_name"):
            select(REPO, [HERE, HERE.with_join_key_map({"airport": "dest"})])
        with pytest.raises(NameClash, match="with_name"):
            select(REPO, [HERE, NETWORK["temp"].with_name("here")])

    @pytest.mark.parametrize("features", [[], (), FeatureService])
    def test_nothing_or_something_else_is_asked_for(self, features: Any) -> None:
        with pytest.raises(InvalidRequest):
            select(REPO, features)

    @pytest.mark.parametrize("ref", [5, None, MODEL, ["here:temp"]])
    def test_a_list_names_features_only(self, ref: Any) -> None:
        with pytest.raises(InvalidRequest, match="names no features"):
            select(REPO, [ref])


class TestOutputNames:
    def test_plain_names(self) -> None:
        uses = select(REPO, ["here:wind", "network:temp"])
        names = output_names(uses, full_feature_names=False, taken=["airport", "event_timestamp"])
        assert names == {("here", "wind"): "wind", ("network", "temp"): "temp"}

    def test_full_names(self) -> None:
        names = output_names(select(REPO, "model"), full_feature_names=True)
        assert list(names.values()) == ["here__wind", "here__temp", "dest__temp"]

    def test_a_clash_says_the_way_out(self) -> None:
        with pytest.raises(NameClash, match="full_feature_names=True") as caught:
            output_names(select(REPO, "model"), full_feature_names=False)
        assert caught.value.names == ["temp"]

    def test_a_clash_with_a_column_that_is_taken(self) -> None:
        uses = select(REPO, ["here:wind"])
        with pytest.raises(NameClash, match="full_feature_names=True"):
            output_names(uses, full_feature_names=False, taken=["airport", "wind"])
        with pytest.raises(NameClash, match="Rename those columns"):
            output_names(uses, full_feature_names=True, taken=["here__wind"])

    def test_names_that_differ_in_case_only_clash(self) -> None:
        with pytest.raises(NameClash):
            output_names(select(REPO, ["here:Note"]), full_feature_names=False, taken=["note"])

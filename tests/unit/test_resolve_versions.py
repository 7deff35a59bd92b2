"""Versions: what changes them, what travels downstream, and what changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.entity import Entity
from featurestore.definitions.repo import collect, load
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource, SqlSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.dtypes import DATE, FLOAT32, FLOAT64, INT64, STRING, TIMESTAMP, DType

WEATHER: dict[str, DType] = {
    "airport": STRING,
    "observed_at": TIMESTAMP,
    "published_at": TIMESTAMP,
    "temp": FLOAT64,
    "wind": FLOAT32,
    "op": STRING,
}
DAYS: dict[str, DType] = {"airport": STRING, "day": TIMESTAMP, "mean": FLOAT64}
QUERY = "select airport, day, avg(temp) as mean from weather group by all"
REFORMATTED = """
    SELECT airport,   day, -- one row per day
           AVG(temp) mean
    FROM weather GROUP BY ALL
"""
FEATURES = (Feature("temp"), Feature("fast", "wind * 2 > 30"))


def repo(
    *,
    entity: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    view: Mapping[str, Any] | None = None,
    service: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    schema: Mapping[str, DType] = WEATHER,
    use: Callable[[FeatureView], Any] = lambda view: view["temp"],
) -> TypedRepo:
    """A repository of one object of each kind and an SQL source, with changes to each."""
    airport = Entity(**({"name": "airport"} | dict(entity or {})))
    weather = FileSource(
        **(
            {"name": "weather", "path": "w.parquet", "event_time": "observed_at"}
            | dict(source or {})
        )
    )
    days = SqlSource(**({"name": "days", "query": QUERY, "event_time": "day"} | dict(query or {})))
    here = FeatureView(
        **(
            {
                "name": "here",
                "entities": [airport],
                "source": weather,
                "features": FEATURES,
                "ttl": "3h",
            }
            | dict(view or {})
        )
    )
    daily = FeatureView("daily", [airport], days)
    model = FeatureService(
        **({"name": "model", "features": [use(here), daily]} | dict(service or {}))
    )
    definitions = collect([airport, weather, days, here, daily, model])
    return resolve(definitions, {"weather": schema, "days": DAYS}, project="shop")


def versions(found: TypedRepo) -> dict[str, str]:
    """All versions and storage hashes, by what they are of."""
    return {
        **{f"entity {e.name}": e.version for e in found.entities.values()},
        **{f"source {s.name}": s.version for s in found.sources.values()},
        **{
            f"feature {v.name}.{f.name}": f.version
            for v in found.views.values()
            for f in v.features
        },
        **{f"view {v.name}": v.version for v in found.views.values()},
        **{f"storage {v.name}": v.storage_hash for v in found.views.values()},
        **{f"service {s.name}": s.version for s in found.services.values()},
        "repo": found.version,
    }


def changed(**changes: Any) -> set[str]:
    """What has another version than in the plain repository."""
    before, after = versions(repo()), versions(repo(**changes))
    return {name for name in before.keys() & after.keys() if before[name] != after[name]}


ALL = set(versions(repo()))
PINNED = {
    "entity airport": "e267f22d",
    "source weather": "b51e6e11",
    "source days": "0d109622",
    "feature daily.mean": "1042aa3e",
    "feature here.temp": "3502896a",
    "feature here.fast": "059510f5",
    "view daily": "03bb4ad0",
    "view here": "98653674",
    "storage daily": "16e04ac7",
    "storage here": "d6bb74f3",
    "service model": "cf6e9865",
    "repo": "61330a4a",
}
VIEW = {"feature here.temp", "feature here.fast", "view here", "service model", "repo"}
DOWN_FROM_WEATHER = ALL - {"entity airport"}


class TestNothingChanges:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"entity": {"description": "An airport", "owner": "ops", "tags": {"a": "b"}}},
            {"source": {"description": "Hourly", "owner": "ops", "tags": {"a": "b"}}},
            {"view": {"description": "Weather", "owner": "ops", "tags": {"a": "b"}}},
            {"service": {"description": "Delays", "owner": "ops", "tags": {"a": "b"}}},
            {"query": {"description": "Daily"}},
            {"entity": {"join_keys": ["airport"]}},
            {"source": {"lateness": "6h"}},
            {"query": {"lateness": timedelta(days=1)}},
            {"view": {"ttl": timedelta(hours=3), "grace": "180m"}},
            {"query": {"query": REFORMATTED}},
        ],
        ids=str,
    )
    def test_metadata_layout_and_spelling(self, changes: Mapping[str, Any]) -> None:
        assert changed(**changes) == set()

    def test_the_layout_of_an_expression(self) -> None:
        features = (Feature("temp", '"temp"'), Feature("fast", "((WIND*2)) > 30".lower()))
        assert changed(view={"features": features}) == set()

    def test_a_renamed_file_and_other_lines(self, tmp_path: Path) -> None:
        text = (
            "from featurestore import Entity, FeatureView, FileSource\n"
            "airport = Entity('airport')\n"
            "weather = FileSource('weather', 'w', 'observed_at')\n"
            "here = FeatureView('here', airport, weather)\n"
        )
        found = []
        for name, lines_above in (("one", ""), ("two", "\n\n")):
            (tmp_path / name).mkdir()
            (tmp_path / name / f"{name}.py").write_text(lines_above + text)
            definitions = load(tmp_path / name)
            found.append(resolve(definitions, {"weather": WEATHER}, project="shop"))
        assert versions(found[0]) == versions(found[1])
        metadata = [each.views["here"].metadata for each in found]
        assert [(m.file, m.line) for m in metadata] == [("one.py", 4), ("two.py", 6)]

    def test_the_project(self) -> None:
        definitions = collect([Entity("plane")])
        one = resolve(definitions, {}, project="one")
        assert one.version == resolve(definitions, {}, project="two").version

    def test_a_column_added_to_the_files(self) -> None:
        assert changed(schema=WEATHER | {"gusts": FLOAT64}) == set()

    def test_a_type_that_no_feature_reads(self) -> None:
        assert changed(schema=WEATHER | {"op": INT64}) == set()

    def test_csv_options_at_their_defaults(self) -> None:
        assert changed(source={"delimiter": ",", "header": True, "null_text": ""}) == set()

    def test_the_declared_type_that_is_inferred(self) -> None:
        features = (Feature("temp", dtype="float64"), FEATURES[1])
        assert changed(view={"features": features}) == set()

    def test_entities_in_another_order(self) -> None:
        columns = WEATHER | {"plane": STRING}

        def of(*names: str) -> dict[str, str]:
            entities = {name: Entity(name) for name in sorted(names)}
            source = FileSource("weather", "w", "observed_at")
            view = FeatureView("v", [entities[n] for n in names], source, FEATURES)
            definitions = collect([*entities.values(), source, view])
            return versions(resolve(definitions, {"weather": columns}, project="shop"))

        assert of("airport", "plane") == of("plane", "airport")


class TestSiblings:
    def test_a_new_feature_leaves_its_siblings_alone(self) -> None:
        features = (*FEATURES, Feature("wind"))
        assert changed(view={"features": features}) == {"view here", "storage here", "repo"}

    def test_a_changed_feature_leaves_its_siblings_alone(self) -> None:
        features = (FEATURES[0], Feature("fast", "wind * 2 > 31"))
        assert changed(view={"features": features}) == {
            "feature here.fast",
            "view here",
            "storage here",
            "repo",
        }

    def test_a_service_of_the_whole_view_follows_it(self) -> None:
        before = versions(repo(use=lambda view: view))
        after = versions(
            repo(use=lambda view: view, view={"features": (*FEATURES, Feature("wind"))})
        )
        assert before["service model"] != after["service model"]

    def test_another_order_of_features_is_another_row(self) -> None:
        assert changed(view={"features": FEATURES[::-1]}) == {"view here", "storage here", "repo"}

    def test_a_new_view_changes_the_repository_only(self) -> None:
        before = repo()
        plane = Entity("plane")
        after = resolve(collect([plane]), {}, project="shop")
        assert before.version != after.version


class TestDownstream:
    def test_a_new_ttl_re_versions_features_but_keeps_their_stored_rows(self) -> None:
        assert changed(view={"ttl": "4h"}) == VIEW
        assert changed(view={"ttl": None}) == VIEW
        assert changed(view={"grace": "1h"}) == VIEW

    @pytest.mark.parametrize(
        "source",
        [
            {"path": "other.parquet"},
            {"format": "parquet"},
            {"format": "csv"},
            {"event_time": "published_at"},
            {"created_time": "published_at"},
            {"tiebreak": ["temp"]},
            {"tiebreak": ["wind"]},
            {"op": "op"},
            {"event_id": "op"},
            {"field_mapping": {"temperature": "temp"}},
            {"delimiter": ";"},
            {"header": False},
            {"null_text": "NA"},
            {"column_types": {"temp": "float64"}},
        ],
        ids=str,
    )
    def test_a_changed_source_re_versions_all_that_reads_it(
        self, source: Mapping[str, Any]
    ) -> None:
        assert changed(source=source) == DOWN_FROM_WEATHER

    def test_the_order_of_tiebreaks_counts(self) -> None:
        one = repo(source={"tiebreak": ["temp", "wind"]})
        other = repo(source={"tiebreak": ["wind", "temp"]})
        assert one.sources["weather"].version != other.sources["weather"].version

    def test_another_query_re_versions_its_readers(self) -> None:
        assert changed(query={"query": QUERY.replace("avg", "max")}) == {
            "source days",
            "feature daily.mean",
            "view daily",
            "storage daily",
            "service model",
            "repo",
        }

    def test_other_keys_re_version_all_that_they_are_keys_of(self) -> None:
        def of(**entity: Any) -> dict[str, str]:
            airport = Entity(**entity)
            source = FileSource("weather", "w", "observed_at")
            view = FeatureView("here", airport, source, [Feature("temp")])
            schema = WEATHER | {"plane": STRING, "number": INT64}
            definitions = collect([airport, source, view])
            return versions(resolve(definitions, {"weather": schema}, project="shop"))

        found = [
            of(name="airport"),
            of(name="place", join_keys=["airport"]),
            of(name="airport", join_keys=["plane"]),
            of(name="airport", join_keys=["airport", "plane"]),
            of(name="airport", join_keys=["plane", "airport"]),
            of(name="airport", join_keys={"number": "int64"}),
        ]
        for what in ("feature here.temp", "view here", "storage here", "repo"):
            assert len({versions[what] for versions in found}) == len(found)

    def test_a_new_type_of_a_column_re_versions_the_features_that_read_it(self) -> None:
        assert changed(schema=WEATHER | {"wind": FLOAT64}) == {
            "feature here.fast",
            "view here",
            "storage here",
            "repo",
        }

    def test_a_declared_type(self) -> None:
        before = versions(repo(view={"features": (Feature("wind"),)}, use=lambda view: view))
        after = versions(
            repo(view={"features": (Feature("wind", dtype="float64"),)}, use=lambda view: view)
        )
        assert before["feature here.wind"] != after["feature here.wind"]
        assert before["storage here"] != after["storage here"]

    def test_a_date_at_the_start_or_the_end_of_its_day(self) -> None:
        found = [
            resolve(
                collect([FileSource("s", "p", "day", event_time_is=edge)]),
                {"s": {"day": DATE}},
                project="shop",
            ).version
            for edge in ("start", "end")
        ]
        assert found[0] != found[1]


class TestServices:
    def test_selection_alias_and_map_count(self) -> None:
        uses: list[Callable[[FeatureView], Any]] = [
            lambda view: view,
            lambda view: view["temp"],
            lambda view: view["fast"],
            lambda view: view["temp"].with_name("there"),
            lambda view: view["temp"].with_join_key_map({"airport": "dest"}),
        ]
        found = {repo(use=use).services["model"].version for use in uses}
        assert len(found) == len(uses)
        assert {changed_name for use in uses for changed_name in changed(use=use)} == {
            "service model",
            "repo",
        }


class TestStorage:
    def test_two_views_with_equal_features_do_not_share_rows(self) -> None:
        airport = Entity("airport")
        source = FileSource("weather", "w", "observed_at")
        one = FeatureView("one", airport, source, FEATURES, ttl="1h")
        other = replace(one, name="other", ttl="9d")
        found = resolve(
            collect([airport, source, one, other]), {"weather": WEATHER}, project="shop"
        )
        assert found.views["one"].storage_hash != found.views["other"].storage_hash

    def test_hashes_are_64_hex_digits(self) -> None:
        assert all(len(v) == 64 and int(v, 16) >= 0 for v in versions(repo()).values())

    def test_versions_are_stable_across_releases(self) -> None:
        """A change here re-versions every deployed repository: it needs an entry in CHANGELOG."""
        assert {name: digest[:8] for name, digest in versions(repo()).items()} == PINNED

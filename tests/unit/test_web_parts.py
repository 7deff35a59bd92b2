"""Parts of the page that need no server: search, graph, charts, sessions."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from featurestore.compiler.definition_records import definition_records
from featurestore.errors import PermissionDenied
from featurestore.jobs.environments import Applied
from featurestore.records import Edge, Link, Record, StoredRecord
from featurestore.timeline import ManualClock
from featurestore.web import charts
from featurestore.web.catalogue import RESULTS_MAX, catalogue_of
from featurestore.web.graph import NODES_MAX, Graph, around, chosen, graph_of, overview, url_of
from featurestore.web.sessions import SESSION_LIFE_US, SESSIONS_MAX, Sessions
from tests.shop_definitions import shop


def stored(record: Record) -> StoredRecord:
    return StoredRecord(id=record.id, record=record, created_at_us=0, author="ann")


def applied(records: list[Record]) -> Applied:
    objects: dict[str, dict[str, StoredRecord]] = {}
    for record in records[:-1]:
        objects.setdefault(record.kind, {})[record.name] = stored(record)
    return Applied(alias="env/prod", repo=stored(records[-1]), objects=objects)


class TestCatalogue:
    def test_every_word_counts_and_names_come_first(self) -> None:
        found = catalogue_of(applied(list(definition_records(shop(wind_about="the temp of wind")))))
        hits = [item.name for item in found.search("temp").items]
        assert hits[:2] == ["hot_days.temp", "origin_weather.temp"]
        assert "origin_weather.wind_kts" in hits
        assert [item.name for item in found.search("temp WIND").items] == [
            "origin_weather.wind_kts"
        ]
        assert {item.kind for item in found.search("temp", kind="feature").items} == {"feature"}
        assert found.search("no such thing").count == 0

    def test_users_are_those_who_read_it(self) -> None:
        found = catalogue_of(applied(list(definition_records(shop()))))
        assert found.users["origin_weather.temp"] == {"delay_model"}
        assert found.users["hot_days.temp"] == {"delay_model"}
        assert "origin_weather.wind_kts" not in found.users
        assert "weather" not in found.users

    def test_thousands_of_features_are_cut_and_counted(self) -> None:
        records = [
            Record(kind="feature", name=f"v.f{number}", body={"version": "1", "dtype": "int64"})
            for number in range(5_000)
        ]
        found = catalogue_of(applied([*records, Record(kind="repo", name="shop")]))
        hits = found.search("f")
        assert (len(hits.items), hits.count) == (RESULTS_MAX, 5_000)

    def test_nothing_applied(self) -> None:
        assert catalogue_of(None).search("").items == ()


def links_of(records: Iterable[Record]) -> list[Link]:
    return [
        Link(one.id, edge.parent, edge.role, edge.transformation)
        for one in records
        for edge in one.parents
    ]


def child(kind: str, name: str, *parents: Record) -> Record:
    edges = tuple(Edge(parent=parent.id, role=parent.kind) for parent in parents)
    return Record(kind=kind, name=name, parents=edges)


class TestGraph:
    def test_features_fold_into_their_views(self) -> None:
        links = links_of(definition_records(shop()))
        folded = graph_of(links, with_features=False)
        ids = {node.id for node in folded.nodes}
        assert "view:origin_weather" in ids
        assert not any(node.kind in ("feature", "repo") for node in folded.nodes)
        found = {(link.source, link.target): link.transformation for link in folded.links}
        assert found["source:weather", "view:origin_weather"] == "DIRECT"
        assert found["entity:airport", "view:origin_weather"] == "INDIRECT"
        assert found["view:origin_weather", "service:delay_model"] == "DIRECT"
        with_features = graph_of(links, with_features=True)
        assert "feature:origin_weather.temp" in {node.id for node in with_features.nodes}
        on_demand = graph_of(links, on_demand=["origin_weather"], with_features=False)
        assert "on_demand_view:origin_weather" in {node.id for node in on_demand.nodes}

    def test_a_focus_goes_one_way_at_a_time(self) -> None:
        a, b = Record(kind="source", name="a"), Record(kind="source", name="b")
        x, y = child("view", "x", a), child("view", "y", a, b)
        s = child("service", "s", x)
        above = graph_of(links_of([x, s]), with_features=False)
        below = graph_of(links_of([y, s]), with_features=False)
        assert {n.id for n in around("view:x", above, below).nodes} == {
            "source:a",
            "view:x",
            "service:s",
        }
        down = graph_of(links_of([x, y, s]), with_features=False)
        assert {n.id for n in around("source:a", Graph((), ()), down, depth=1).nodes} == {
            "source:a",
            "view:x",
            "view:y",
        }

    def test_a_drawing_has_a_limit(self) -> None:
        source = Record(kind="source", name="s")
        views = [child("view", f"v{n}", source) for n in range(NODES_MAX + 4)]
        whole = graph_of(links_of(views), with_features=False)
        for made in (overview(whole), around("source:s", Graph((), ()), whole)):
            assert (len(made.nodes), made.hidden) == (NODES_MAX, 5)
            assert "source:s" in {node.id for node in made.nodes}

    def test_some_kinds_and_direct_links_only(self) -> None:
        whole = graph_of(links_of(definition_records(shop())), with_features=False)
        direct = chosen(whole, direct=True)
        assert {link.transformation for link in direct.links} == {"DIRECT"}
        assert "entity:airport" not in {node.id for node in direct.nodes}
        assert {n.kind for n in chosen(whole, kinds=["view", "service"]).nodes} == {
            "view",
            "service",
        }

    def test_urls_quote_names(self) -> None:
        assert url_of("view", "a/b?c") == "/views/a%2Fb%3Fc"
        assert url_of("feature", "v.f#1") == "/views/v#f%231"
        assert url_of("run", "exp/1a") == "/runs/1a"


class TestCharts:
    def test_bars(self) -> None:
        first, second = charts.bars([0, 1, 2], [5, 10])
        assert (first.height, second.height) == (50, 100)
        assert second.x == 50
        assert charts.bars([], []) == []
        assert charts.bars([0, 1], [0]) == []

    def test_lines_leave_out_what_is_not_finite(self) -> None:
        made = charts.plot([("a", [(0, 1.0), (1, math.nan), (2, 3.0)]), ("b", [])])
        assert made is not None
        assert [line.points for line in made.lines] == ["0.00,100.00 100.00,0.00"]
        assert (made.x_min, made.x_max, made.y_min, made.y_max) == (0, 2, 1, 3)
        assert charts.plot([("a", [(0, math.inf)])]) is None

    def test_thinning_keeps_peaks(self) -> None:
        points = [(float(n), 0.0) for n in range(100_000)]
        points[54_321] = (54_321.0, 9.0)
        kept = charts.thinned(points)
        assert len(kept) <= charts.POINTS_MAX
        assert (54_321.0, 9.0) in kept
        assert kept == sorted(kept)


class TestSessions:
    def test_they_end_and_are_bounded(self) -> None:
        clock = ManualClock(0)
        sessions = Sessions(clock)
        first = sessions.begin("secret")
        assert sessions.get(first.id) == first
        assert "secret" not in repr(first)
        clock.advance(SESSION_LIFE_US)
        assert sessions.get(first.id) is None
        kept = [sessions.begin() for _ in range(SESSIONS_MAX + 1)]
        assert sessions.get(kept[0].id) is None
        assert sessions.get(kept[-1].id) is not None
        sessions.end(kept[-1])
        assert sessions.get(kept[-1].id) is None

    def test_marks_are_of_one_session(self) -> None:
        sessions = Sessions(ManualClock(0))
        mine, yours = sessions.begin(), sessions.begin()
        sessions.check(mine, sessions.mark(mine))
        with pytest.raises(PermissionDenied):
            sessions.check(mine, sessions.mark(yours))

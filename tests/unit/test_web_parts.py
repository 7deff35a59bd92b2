"""Parts of the page that need no server: search, graph, charts, sessions."""

from __future__ import annotations

import math

import pytest

from featurestore.compiler.definition_records import definition_records
from featurestore.errors import PermissionDenied, RecordNotFound
from featurestore.jobs.environments import Applied
from featurestore.records import Edge, Record, StoredRecord
from featurestore.timeline import ManualClock
from featurestore.web import charts
from featurestore.web.catalogue import RESULTS_MAX, catalogue_of
from featurestore.web.graph import NODES_MAX, drawn, focused, graph_of, url_of
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


class TestGraph:
    def test_features_fold_into_their_views(self) -> None:
        records = [stored(record) for record in definition_records(shop())]
        folded = graph_of(records, with_features=False)
        ids = {node.id for node in folded.nodes}
        assert "view:origin_weather" in ids
        assert not any(node.kind in ("feature", "repo") for node in folded.nodes)
        links = {(link.source, link.target): link.transformation for link in folded.links}
        assert links["source:weather", "view:origin_weather"] == "DIRECT"
        assert links["entity:airport", "view:origin_weather"] == "INDIRECT"
        assert links["view:origin_weather", "service:delay_model"] == "DIRECT"
        with_features = graph_of(records, with_features=True)
        assert "feature:origin_weather.temp" in {node.id for node in with_features.nodes}

    def test_a_focus_goes_one_way_at_a_time(self) -> None:
        a, b = Record(kind="source", name="a"), Record(kind="source", name="b")
        x = Record(kind="view", name="x", parents=(Edge(parent=a.id, role="source"),))
        y = Record(
            kind="view",
            name="y",
            parents=(Edge(parent=a.id, role="source"), Edge(parent=b.id, role="source")),
        )
        s = Record(kind="service", name="s", parents=(Edge(parent=x.id, role="view"),))
        graph = graph_of([stored(one) for one in (a, b, x, y, s)], with_features=False)
        near = {node.id for node in focused(graph, "view:x").nodes}
        assert near == {"source:a", "view:x", "service:s"}
        assert {n.id for n in focused(graph, "source:a", depth=1).nodes} == {
            "source:a",
            "view:x",
            "view:y",
        }
        with pytest.raises(RecordNotFound, match=r"view:x"):
            focused(graph, "view:xx")

    def test_a_drawing_has_a_limit(self) -> None:
        many = [stored(Record(kind="source", name=f"s{n}")) for n in range(NODES_MAX + 5)]
        graph = drawn(graph_of(many, with_features=False))
        assert (len(graph.nodes), graph.hidden) == (NODES_MAX, 5)

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

"""Training sets without an entity frame: small histories written out, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.compiler import spans
from featurestore.definitions.repo import load
from featurestore.errors import (
    InvalidEntityFrame,
    InvalidRequest,
    LimitExceeded,
    NameClash,
    UnknownView,
)
from featurestore.jobs.training import RetrievalJob
from featurestore.timeline import ManualClock, to_us

DEFINITIONS = """
from featurestore import Aggregation, Entity, Feature, FeatureView, FileSource, SqlSource

plane = Entity("plane", join_keys={"plane": "string"})
route = Entity("route", join_keys={"plane": "string", "gate": "int64"})
landings = FileSource("landings", "landings.parquet", "at", "known", op="op")
total = SqlSource("total", 'SELECT max("at") AS latest, count(*) AS n FROM landings', "latest")
counts = SqlSource("counts", 'SELECT plane, "at", 1 AS one FROM landings', "at")
history = FeatureView("history", entities=[plane], source=landings, ttl="3h",
    features=[Feature("seats"), Feature("gate")])
when = FeatureView("when", entities=[plane], source=landings, features=[Feature("seats")])
ones = FeatureView("ones", entities=[plane], source=counts, features=[Feature("one")])
whole = FeatureView("whole", source=total, features=[Feature("n")])
arrivals = FileSource("arrivals", "landings.parquet", "at", "known")
landed = FeatureView("landed", entities=[plane], source=arrivals, features=[
    Aggregation("seats", "sum", window="2h", hop="1h"),
    Aggregation("*", "count", window="lifetime", delay="1h", name="ever")])
routes = FeatureView("routes", entities=[route], source=landings, features=[Feature("seats")])
"""


def at(hour: float) -> datetime:
    return datetime(2024, 5, 1, tzinfo=UTC) + timedelta(hours=hour)


ROWS = [  # plane, at, known, seats, op
    ("a", 1, 1, 10, "U"),
    ("a", 1, 1, 10, "U"),  # there twice
    ("a", 3, 5, 30, "U"),  # known late
    ("a", 2, 4, 20, "U"),  # older, and known before the one above
    ("a", 2.5, 6, 25, "U"),  # too late: a younger row is known
    ("a", 3, 7, 31, "U"),  # a correction
    ("a", 8, 8, None, "D"),
    ("a", 4, 20, 40, "U"),  # too late in every way
    ("b", 2, None, 7, "U"),
    ("b", 3, 9, 8, "U"),  # older than its ttl when it becomes known
    ("b", None, 9, 8, "U"),
    (None, 1, 1, 0, "U"),
]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    times = pa.timestamp("us", tz="UTC")
    columns = list(zip(*ROWS, strict=True))
    pq.write_table(
        pa.table(
            {
                "plane": columns[0],
                "at": pa.array([None if h is None else at(h) for h in columns[1]], times),
                "known": pa.array([None if h is None else at(h) for h in columns[2]], times),
                "seats": pa.array(columns[3], pa.int64()),
                "gate": pa.array([1] * len(ROWS), pa.int64()),
                "op": columns[4],
            }
        ),
        tmp_path / "landings.parquet",
    )
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "planes"\n')
    with FeatureStore(tmp_path, clock=ManualClock(to_us(at(12)))) as opened:
        yield opened


def shown(job: RetrievalJob) -> list[tuple[Any, ...]]:
    table = job.to_arrow()
    hours = [(t - at(0)) / timedelta(hours=1) for t in table["event_timestamp"].to_pylist()]
    others = [table[name].to_pylist() for name in table.column_names if name != "event_timestamp"]
    return list(zip(hours, *others, strict=True))


def table_rows(job: RetrievalJob) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = job.to_arrow().to_pylist()
    return rows


def test_the_values_as_they_became_known(store: FeatureStore) -> None:
    job = store.get_historical_features(
        features=["history:seats"], start=at(0), end=at(12), include_status=True
    )
    assert job.schema.names == ["plane", "event_timestamp", "seats", "history__status"]
    assert shown(job) == [
        (1, "a", 10, "PRESENT"),
        (2, "b", 7, "PRESENT"),
        (4, "a", 20, "PRESENT"),
        (5, "a", 30, "PRESENT"),
        (7, "a", None, "OUTSIDE_MAX_AGE"),
        (8, "a", None, "NOT_FOUND"),
        (9, "b", None, "OUTSIDE_MAX_AGE"),
    ]


def test_by_event_time_every_event_time_has_a_row(store: FeatureStore) -> None:
    job = store.get_historical_features(
        features=["history:seats"], start=at(2), end=at(8), as_of="event", known_until=at(8)
    )
    assert shown(job) == [(2, "a", 20), (2, "b", 7), (2.5, "a", 25), (3, "a", 31)]


def test_the_start_is_in_and_the_end_is_not(store: FeatureStore) -> None:
    def hours(**span: Any) -> list[float]:
        job = store.get_historical_features(features=["when"], **span)
        return [row[0] for row in shown(job) if row[1] == "a"]

    assert hours(start=at(4), end=at(8)) == [4, 5, 7]
    assert hours(start=to_us(at(4)) + 1, end=to_us(at(8)) + 1) == [5, 7, 8]
    assert hours(end=at(5)) == [1, 4]
    assert hours(start=at(6)) == [7, 8], "until now, which is 12 o'clock"
    assert hours(start=at(20), end=at(21)) == [], "known at 20, but of no consequence"
    assert hours(start=at(0), end=at(30), known_until=at(5)) == [1, 4, 5]


def test_views_of_one_key_change_side_by_side(store: FeatureStore) -> None:
    found = shown(store.get_historical_features(features=["when:seats", "ones"], end=at(3)))
    assert found == [(1, "a", 10, 1), (2, "a", 10, 1), (2, "b", 7, 1), (2.5, "a", 10, 1)]


def test_a_view_without_keys_has_instants_alone(store: FeatureStore) -> None:
    job = store.get_historical_features(features="whole:n", end=at(30), event_timestamp="n_at")
    assert job.to_arrow().to_pylist() == [{"n_at": at(8), "n": len(ROWS)}]


def test_an_alias_names_its_key(store: FeatureStore) -> None:
    when = next(view for view in load(store.settings.root).views if view.name == "when")
    refs = [when.with_join_key_map({"plane": "tail"}), "ones"]
    with pytest.raises(InvalidRequest, match=r"when has \(tail\) and ones \(plane\)"):
        store.get_historical_features(features=refs, end=at(9))
    job = store.get_historical_features(features=refs[:1], end=at(2))
    assert job.to_arrow().select(["tail", "seats"]).to_pylist() == [{"tail": "a", "seats": 10}]


def test_windows_change_when_a_row_enters_or_leaves(store: FeatureStore) -> None:
    """Just after it happened, or when it is known; and at the hop at which the left end passes it:
    what is known after that was never in."""
    job = store.get_historical_features(features=["landed:seats_sum_2h"], end=at(12))
    us = timedelta(microseconds=1)
    rows = [(r["plane"], r["event_timestamp"], r["seats_sum_2h"]) for r in table_rows(job)]
    assert rows == [
        ("a", at(1) + us, 20),
        ("b", at(2) + us, 7),
        ("a", at(4), 20),
        ("a", at(5), 30),
        ("b", at(5), None),
        ("a", at(6), None),
    ]
    job = store.get_historical_features(
        features=["when:seats", "landed:ever"], start=at(8), end=at(10), as_of="event"
    )
    rows = [(r["plane"], r["event_timestamp"], r["seats"], r["ever"]) for r in table_rows(job)]
    assert rows == [("a", at(8), None, 7), ("a", at(9) + us, None, 8)]


def test_a_status_of_windows_changes_where_it_is_asked_for(store: FeatureStore) -> None:
    def statuses(**options: Any) -> list[tuple[Any, ...]]:
        job = store.get_historical_features(
            features=["landed:ever"], start=at(2), end=at(4), **options
        )
        found = [r for r in table_rows(job) if r["plane"] == "b"]
        return [(r["event_timestamp"], r["ever"], r.get("landed__status")) for r in found]

    entered = at(3) + timedelta(microseconds=1)
    assert statuses() == [(entered, 1, None)]
    assert statuses(include_status=True) == [(at(2), 0, "PRESENT"), (entered, 1, "PRESENT")]


def test_changes_of_windows_have_a_limit(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "CHANGES_MAX", 5)
    job = store.get_historical_features(features=["landed:seats_sum_2h"], end=at(12))
    with pytest.raises(LimitExceeded, match=r"6 is over CHANGES_MAX = 5\. Ask for a shorter span"):
        job.to_arrow()
    assert len(shown(store.get_historical_features(features=["history:seats"], end=at(12)))) == 7


def test_what_it_does_not_take(store: FeatureStore) -> None:
    ask = store.get_historical_features
    with pytest.raises(InvalidEntityFrame, match="there is no entity_df"):
        ask(features=["when"])
    with pytest.raises(InvalidRequest, match="without an entity_df"):
        ask(pa.table({"plane": ["a"]}), ["when"], start=at(0))
    with pytest.raises(InvalidRequest, match="is empty"):
        ask(features=["when"], start=at(5), end=at(5))
    with pytest.raises(InvalidRequest, match="is empty"):
        ask(features=["when"], start=at(13))
    with pytest.raises(InvalidRequest, match="not an instant"):
        ask(features=["when"], start="yesterday")
    with pytest.raises(InvalidRequest, match="same keys"):
        ask(features=["when", "whole"], end=at(5))
    with pytest.raises(InvalidRequest, match="same keys"):
        ask(features=["when:seats", "routes:seats"], end=at(5), full_feature_names=True)
    with pytest.raises(InvalidRequest, match="no features"):
        ask(start=at(0))
    with pytest.raises(UnknownView):
        ask(features=["wen"], start=at(0))
    with pytest.raises(InvalidRequest, match="is a join key"):
        ask(features=["when"], start=at(0), event_timestamp="plane")
    with pytest.raises(InvalidRequest, match="name of a column"):
        ask(features=["when"], start=at(0), event_timestamp=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match='"known" or "event"'):
        ask(features=["when"], start=at(0), as_of="now")  # type: ignore[arg-type]
    with pytest.raises(NameClash):
        ask(features=["history", "when"], start=at(0))
    with pytest.raises(NameClash):
        ask(features=["when"], start=at(0), event_timestamp="seats")

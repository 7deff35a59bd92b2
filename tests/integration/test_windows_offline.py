"""Training sets of windowed views through the facade."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.engines.base import SumOverflowWarning
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

DEFINITIONS = """
from featurestore import Aggregation, Entity, Feature, FeatureService, FeatureView
from featurestore import FileSource, SqlSource

plane = Entity("plane", join_keys={"tailnum": "string"})
carrier = Entity("carrier", join_keys={"carrier": "string"})

landings = FileSource("landings", "data/landings.parquet", event_time="scheduled_at",
    created_time="landed_at", event_id="flight_id", op="op")

history = FeatureView("history", plane, landings, correction_horizon="6h", features=[
    Aggregation("arr_delay", "mean", windows=["3h", "7d"], hop="1h"),
    Aggregation("*", "count", "24h", where="arr_delay > 15", name="late_24h"),
    Aggregation("fare", "sum", "lifetime"),
    Aggregation("arr_delay / 60", "last_n", "24h", n=2, delay="1h", name="last_hours"),
])
carriers = FeatureView("carriers", carrier, landings, features=[
    Aggregation("tailnum", "count_distinct", "24h"),
    Aggregation("tailnum", "top_k", "24h", n=2),
])
clean = SqlSource("clean", "SELECT *, arr_delay > 15 AS late FROM landings WHERE tailnum <> ''",
    event_time="scheduled_at", created_time="landed_at", event_id="flight_id", op="op")
by_plane = FeatureView("by_plane", plane, clean, correction_horizon="6h", features=[
    Aggregation("*", "count", "24h", where="late", name="late_of_plane")])
by_carrier = FeatureView("by_carrier", carrier, clean, features=[
    Aggregation("arr_delay", "max", "24h", name="worst_of_carrier")])
large = FeatureView("large", plane, landings, features=[
    Aggregation("arr_delay * 0 + 4611686018427387904", "sum", "24h", name="large_sum")])
inverse = FeatureView("inverse", plane, landings, features=[
    Aggregation("1 / (arr_delay - 60)", "sum", windows=["3h", "24h"], name="inverse")])
newest = FeatureView("newest", plane, landings, features=[Feature("arr_delay")])
model = FeatureService("model", features=[
    newest, history, carriers, history[["late_24h"]].with_name("again"),
])
"""


def at(hour: float) -> datetime:
    return utc(2024, 5, 1) + timedelta(hours=hour)


def landing(
    flight: int, plane: str | None, scheduled: float, landed: float, delay: int, **more: Any
) -> dict[str, Any]:
    row = {"flight_id": flight, "tailnum": plane, "scheduled_at": at(scheduled)}
    row |= {"landed_at": at(landed), "arr_delay": delay, "carrier": "UA", "op": None}
    return row | {"fare": Decimal("100.10")} | more


@pytest.fixture
def store(make_repo: MakeRepo) -> Iterator[FeatureStore]:
    folder = make_repo(DEFINITIONS)
    write_rows(
        folder / "data/landings.parquet",
        [
            landing(1, "N1", 1, 1.5, 10),
            landing(2, "N1", 2, 3.5, 30),
            landing(3, "N1", 3, 3, 20),
            landing(3, "N1", 3, 5, 50),
            landing(4, "N2", 3, 4, 60),
            landing(4, "N2", 3, 6, 60, op="D"),
            landing(5, None, 3, 4, 60),
            landing(1, "N1", 1, 9, 1000),
        ],
        {
            "flight_id": pa.int64(),
            "tailnum": pa.string(),
            "scheduled_at": INSTANT,
            "landed_at": INSTANT,
            "arr_delay": pa.int64(),
            "carrier": pa.string(),
            "op": pa.string(),
            "fare": pa.decimal128(9, 2),
        },
    )
    with FeatureStore(folder) as opened:
        yield opened


def frame(*rows: tuple[str | None, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "tailnum": [tail for tail, _ in rows],
            "carrier": "UA",
            "event_timestamp": [at(hour) for _, hour in rows],
        }
    )


def ask(store: FeatureStore, features: Any, *rows: tuple[str | None, float], **options: Any) -> Any:
    job = store.get_historical_features(frame(*rows), features, **options)
    return job.to_arrow().to_pylist()


class TestTrainingSets:
    def test_windows_as_they_were_known(self, store: FeatureStore) -> None:
        rows = ask(store, ["history"], ("N1", 3), ("N1", 3.5), ("N1", 5), ("N1", 9), ("N3", 5))
        assert [row["arr_delay_mean_3h"] for row in rows] == [10.0, 20.0, 40.0, None, None]
        assert [row["arr_delay_mean_7d"] for row in rows] == [10.0, 20.0, 30.0, 30.0, None]
        assert [row["late_24h"] for row in rows] == [0, 2, 2, 2, 0]
        assert [row["fare_sum_lifetime"] for row in rows] == [
            Decimal("100.10"), Decimal("300.30"), Decimal("300.30"), Decimal("300.30"), None,
        ]  # fmt: skip
        assert rows[2]["last_hours"] == [0.5, 50 / 60]

    def test_by_event_time(self, store: FeatureStore) -> None:
        (row,) = ask(store, ["history"], ("N1", 3.5), as_of="event")
        assert (row["arr_delay_mean_3h"], row["late_24h"]) == (30.0, 2)
        (row,) = ask(store, ["history"], ("N1", 3.5), as_of="event", known_until=at(4))
        assert (row["arr_delay_mean_3h"], row["late_24h"]) == (20.0, 2)

    def test_a_service_of_both_kinds_with_statuses(self, store: FeatureStore) -> None:
        rows = ask(
            store, "model", ("N2", 4), ("N2", 6), (None, 6),
            full_feature_names=True, include_status=True,
        )  # fmt: skip
        assert [row["history__status"] for row in rows] == ["PRESENT", "NOT_FOUND", "NOT_FOUND"]
        assert [row["history__late_24h"] for row in rows] == [1, 0, 0]
        assert [row["again__late_24h"] for row in rows] == [1, 0, 0]
        assert [row["newest__status"] for row in rows] == ["PRESENT", "NOT_FOUND", "NOT_FOUND"]
        assert [row["newest__arr_delay"] for row in rows] == [60, None, None]
        assert [row["carriers__tailnum_count_distinct_24h"] for row in rows] == [2, 1, 1]
        assert rows[1]["carriers__tailnum_top_k_24h"] == ["N1"]
        assert list(rows[0])[3:6] == [
            "newest__arr_delay", "history__arr_delay_mean_3h", "history__arr_delay_mean_7d",
        ]  # fmt: skip

    def test_the_order_and_repetitions_of_rows_are_kept(self, store: FeatureStore) -> None:
        asked = [("N1", 5.0), ("N2", 4.0), ("N1", 5.0), (None, 1.0), ("N1", 3.0)]
        rows = ask(store, ["history:late_24h"], *asked)
        assert [row["late_24h"] for row in rows] == [2, 1, 2, 0, 0]

    def test_pandas_keeps_integers(self, store: FeatureStore) -> None:
        job = store.get_historical_features(frame(("N1", 5)), ["history"])
        assert str(job.to_pandas()["late_24h"].dtype) == "int64"

    def test_explain_shows_what_is_read(self, store: FeatureStore) -> None:
        text = store.get_historical_features(frame(("N1", 5)), ["history"]).explain()
        assert "landings.parquet" in text

    def test_without_an_entity_frame(self, store: FeatureStore) -> None:
        changes = store.get_historical_features(
            None, ["history"], start=at(0), end=at(9)
        ).to_arrow()
        asked = changes.select(["tailnum", "event_timestamp"])
        again = store.get_historical_features(asked, ["history"]).to_arrow()
        assert again.equals(changes)
        assert changes.num_rows > 1

    def test_what_takes_no_part_is_reported(self, store: FeatureStore) -> None:
        job = store.get_historical_features(frame(("N1", 5)), ["history"])
        (report,) = job.source_report()
        assert (report.rows, report.null_keys, report.dead_letters) == (8, 1, 1)

    def test_arguments_without_a_result_are_reported(self, store: FeatureStore) -> None:
        (report,) = store.get_historical_features(frame(("N1", 5)), ["inverse"]).source_report()
        assert report.undefined_values == {"inverse_3h": 3, "inverse_24h": 3}


class TestOverflow:
    def test_sums_that_do_not_fit_are_counted(self, store: FeatureStore) -> None:
        job = store.get_historical_features(frame(("N1", 3), ("N1", 3.5), ("N1", 5)), ["large"])
        with pytest.warns(SumOverflowWarning, match="2 sums .* do not fit"):
            found = job.to_arrow().to_pylist()
        assert [row["large_sum"] for row in found] == [2**62, None, None]


class TestSharedScans:
    def test_a_query_runs_once_for_several_views(self, store: FeatureStore) -> None:
        features = ["by_plane", "by_carrier", "history:late_24h"]
        rows = ask(store, features, ("N1", 5), ("N2", 4))
        assert [row["late_of_plane"] for row in rows] == [row["late_24h"] for row in rows] == [2, 1]
        assert [row["worst_of_carrier"] for row in rows] == [60, 60]
        text = store.get_historical_features(frame(), features).explain()
        assert text.count("tailnum <> ''") == 1


class TestChanges:
    def test_apply_and_materialize(self, store: FeatureStore) -> None:
        plan = store.plan()
        assert "mean(arr_delay) over 7d" in str(plan)
        store.apply()
        assert not store.plan().changes
        details = store.describe("views", "history")
        assert details["features"][2]["expression"] == "count(*) over 1d where (arr_delay > 15)"

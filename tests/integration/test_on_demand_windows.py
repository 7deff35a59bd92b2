"""On-demand views over windows: what is empty counts 0, in both paths."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from trip_repository import NOW, NOW_US, at

from featurestore import FeatureStore
from featurestore.timeline import ManualClock

DEFINITIONS = """\
from featurestore import (
    Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource, OnDemandFeatureView,
    RequestSource,
)

plane = Entity("plane", {"tailnum": "string"})
landings = FileSource("landings", path="data/landings.parquet", event_time="at", event_id="flight")
history = FeatureView("history", [plane], landings, [
    Aggregation("delay", "mean", window="7d"),
    Aggregation("*", "count", window="24h", where="delay > 15", name="late_24h"),
    Aggregation("delay", "max", window="2h", hop="exact"),
])
booking = RequestSource("booking", {"distance": "float64"})
trip = OnDemandFeatureView("trip", [history, booking], [
    Feature("delay_per_mile", "delay_mean_7d / distance"),
    Feature("often_late", "late_24h > 0"),
    Feature("late_and_one", "late_24h + 1"),
])
model = FeatureService("model", [history[["delay_max_2h"]], trip])
alone = FeatureService("alone", [trip[["late_and_one"]]])
"""
PLANES = ["N1", "N2", "N9", None]
EXPECTED = {
    "delay_max_2h": [25, None, None, None],
    "delay_per_mile": [0.2, -0.04, None, None],
    "often_late": [True, False, False, False],
    "late_and_one": [2, 1, 1, 1],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "windows"\n')
    rows = {
        "flight": ["a", "b", "c"],
        "tailnum": ["N1", "N1", "N2"],
        "at": [at(11), at(3), at(9)],
        "delay": [25, 15, -4],
    }
    parquet.write_table(pa.table(rows), tmp_path / "data" / "landings.parquet")
    return tmp_path


def test_windows_are_inputs(folder: Path) -> None:
    with FeatureStore(folder, clock=ManualClock(NOW_US)) as store:
        store.apply()
        store.materialize()
        keys = [{"tailnum": plane} for plane in PLANES]
        online = store.get_online_features("model", keys, request={"distance": [100.0] * 4})
        found = online.to_dict()
        assert {name: found[name] for name in EXPECTED} == EXPECTED
        assert online.statuses["late_and_one"] == ["PRESENT"] * 4
        assert online.statuses["delay_max_2h"][2:] == ["NOT_FOUND"] * 2
        one = store.get_online_features("alone", keys[:1]).to_dict()
        assert one["late_and_one"] == EXPECTED["late_and_one"][:1]
        frame = pa.table({"tailnum": PLANES, "event_timestamp": [NOW] * 4, "distance": [100.0] * 4})
        offline = store.get_historical_features(frame, "model").to_arrow()
        assert offline.select(list(EXPECTED)).to_pydict() == EXPECTED
        asked = store.get_online_features(["trip:often_late"], keys).to_dict()
        assert asked["often_late"] == EXPECTED["often_late"]

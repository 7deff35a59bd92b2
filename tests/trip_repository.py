"""A repository with request inputs and on-demand views of every kind, for tests of both paths."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

DEFINITIONS = '''\
from featurestore import (
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    RequestSource,
    on_demand_feature_view,
)

plane = Entity("plane", {"tailnum": "string"})
airport = Entity("airport", {"airport": "string"})
landings = FileSource("landings", path="data/landings.parquet", event_time="at")
observed = FileSource("observed", path="data/observed.parquet", event_time="at")
history = FeatureView(
    "history", [plane], landings, [Feature("delay"), Feature("legs", "delay * 2")], ttl="10h"
)
weather = FeatureView("weather", [airport], observed, [Feature("temp"), Feature("sky")])
booking = RequestSource("booking", {"distance": "float64", "due": "timestamp"})
trip = OnDemandFeatureView(
    "trip",
    [history, booking, weather.with_name("dest").with_join_key_map({"airport": "to"})],
    [
        Feature("per_mile", "delay / distance"),
        Feature("warm", "dest__temp > 10"),
        Feature("hours", "date_diff('hour', request_time(), due)"),
    ],
)


@on_demand_feature_view(
    inputs=[trip, booking, history],
    schema={"risk": "float64", "note": "string", "asked": "timestamp"},
    imports=["math"],
)
def risk(per_mile, distance, request_time, history__delay):
    """How risky a trip is."""
    if per_mile is None:
        return None, "unknown", request_time
    return {"risk": math.sqrt(per_mile), "note": f"{history__delay}/{distance}",
            "asked": request_time}


after = OnDemandFeatureView("after", ["risk"], [Feature("twice", "risk * 2")])
plain = OnDemandFeatureView("plain", [history], [Feature("late", "coalesce(delay, 0) > 15")])
model = FeatureService("model", [after, history[["delay"]], trip, risk[["note", "asked"]], plain])
'''
NOW = datetime(2100, 1, 1, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000


def at(hour: int) -> datetime:
    """An hour of the day that all is about."""
    return datetime(2100, 1, 1, hour, tzinfo=UTC)


ENTITIES = [
    {"tailnum": "N1", "to": "EWR"},
    {"tailnum": "N2", "to": "X"},
    {"tailnum": "N3", "to": None},
    {"tailnum": None, "to": "SFO"},
    {"tailnum": "N1", "to": "SFO"},
]
REQUEST: list[dict[str, Any]] = [
    {"distance": 100.0, "due": at(15)},
    {"distance": 0.0, "due": None},
    {"distance": float("nan"), "due": at(1)},
    {"distance": -1.5, "due": at(12)},
    {"distance": 25.0, "due": at(23)},
]
EXPECTED: dict[str, list[Any]] = {
    "twice": [1.0, None, None, None, 2.0],
    "delay": [25, -4, None, None, 25],
    "per_mile": [0.25, None, None, None, 1.0],
    "warm": [True, None, None, False, False],
    "hours": [3, None, -11, 0, 11],
    "note": ["25/100.0", "unknown", "unknown", "unknown", "25/25.0"],
    "asked": [NOW] * 5,
    "late": [True, False, False, False, True],
}
"""What `model` answers for `ENTITIES` and `REQUEST` at `NOW`; N3's row is too old by then."""


def write_trips(
    folder: Path, *, online: str = "lmdb:.featurestore/online", years_ago: int = 0
) -> Path:
    """Write definitions, settings and data, that of so many years before `NOW`."""
    (folder / "data").mkdir(parents=True)
    (folder / "definitions.py").write_text(DEFINITIONS)
    settings = f'[project]\nname = "trips"\n[online]\nurl = "{online}"\n'
    (folder / "featurestore.toml").write_text(settings)
    landings: dict[str, list[Any]] = {
        "tailnum": ["N1", "N2", "N3"],
        "at": [at(11), at(9), at(1)],
        "delay": [25, -4, 7],
    }
    observed: dict[str, list[Any]] = {
        "airport": ["EWR", "SFO"],
        "at": [at(1), at(2)],
        "temp": [20.5, 5.0],
    }
    observed["sky"] = ["fog", None]
    for name, columns in (("landings", landings), ("observed", observed)):
        columns["at"] = [instant.replace(year=2100 - years_ago) for instant in columns["at"]]
        parquet.write_table(pa.table(columns), folder / "data" / f"{name}.parquet")
    return folder

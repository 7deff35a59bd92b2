"""A small typed repository to vary, for tests of plans and applies (and of their processes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featurestore import dtypes
from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.entity import Entity
from featurestore.definitions.repo import collect
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource, SqlSource
from featurestore.definitions.view import Feature, FeatureView

SCHEMA = {
    "airport": dtypes.parse("string"),
    "observed_at": dtypes.parse("timestamp"),
    "published_at": dtypes.parse("timestamp"),
    "temp": dtypes.parse("float64"),
    "wind_speed": dtypes.parse("int32"),
}
WIND = "wind_speed * 0.868976"


def shop(
    *,
    ttl: str | None = "7d",
    wind: str = WIND,
    wind_about: str = "",
    extra: Sequence[Feature] = (),
    owner: str = "ann",
    tags: Mapping[str, str] | None = None,
    source: Mapping[str, Any] | None = None,
    schema: Mapping[str, dtypes.DType] | None = None,
    key_type: str = "string",
    query: str = "SELECT airport, observed_at, temp FROM weather WHERE temp > 30",
    services: Callable[[FeatureView, FeatureView], Sequence[FeatureService]] | None = None,
) -> TypedRepo:
    """Entity `airport`, sources `weather` (files) and `hot` (SQL over it), views `origin_weather`
    (temp, wind_kts) and `hot_days` (temp), service `delay_model` (origin_weather:temp, hot_days)
    and what the arguments change."""
    airport = Entity("airport", {"airport": key_type})
    declared: dict[str, Any] = {"path": "data/weather.parquet", "created_time": "published_at"}
    weather = FileSource("weather", event_time="observed_at", **declared | dict(source or {}))
    hot = SqlSource("hot", query, event_time="observed_at")
    features = [Feature("temp"), Feature("wind_kts", wind, description=wind_about), *extra]
    view = FeatureView(
        "origin_weather", [airport], weather, features, ttl=ttl, owner=owner, tags=tags or {}
    )
    days = FeatureView("hot_days", [airport], hot, [Feature("temp")])
    made = services or (lambda view, days: [FeatureService("delay_model", [view[["temp"]], days])])
    columns = {**SCHEMA, "airport": dtypes.parse(key_type), **(schema or {})}
    schemas = {
        "weather": columns,
        "hot": {name: columns[name] for name in ("airport", "observed_at", "temp")},
    }
    every = [airport, weather, hot, view, days, *made(view, days)]
    return resolve(collect(every), schemas, project="shop")

"""Statistics of features: the profile of the newest training set that has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.web.charts import Bar, bars
from featurestore.web.render import number

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

SETS_LOOKED_AT_MAX = 20


@dataclass(frozen=True, slots=True)
class Profile:
    """What a column is like: a histogram, a line of figures, and the set that it is of."""

    bars: Sequence[Bar]
    summary: str
    training_set: str


def newest_profiles(store: FeatureStore, view: str, features: Sequence[str]) -> dict[str, Profile]:
    """By feature; those in no training set are left out."""
    registry = store.registry
    found: dict[str, Profile] = {}
    aliases = registry.aliases("training_set/")
    targets = [alias.target for alias in aliases.values()]
    sets = registry.records(ids=targets) if targets else []
    sets.sort(key=lambda stored: stored.created_at_us, reverse=True)
    for stored in sets[:SETS_LOOKED_AT_MAX]:
        if not (found.keys() >= set(features)):
            columns = profile_of(store, stored.record.body)
            for name in features:
                column = columns.get(name) or columns.get(f"{view}__{name}")
                if column is not None and name not in found:
                    found[name] = Profile(*shown(column), stored.record.name)
    return found


def profile_of(store: FeatureStore, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of a training set's profile, by name; none where it has no profile."""
    digest = body.get("profile")
    if not digest:
        return {}
    columns: Mapping[str, Any] = json.loads(store.registry.blob(str(digest)))["columns"]
    return columns


def shown(column: Mapping[str, Any]) -> tuple[list[Bar], str]:
    """A column's histogram and its figures in a line."""
    histogram = column.get("histogram") or {}
    drawn = bars(histogram.get("edges", ()), histogram.get("counts", ()))
    parts = [
        f"{label} {number(column[name])}"
        for name, label in (("mean", "mean"), ("std", "σ"), ("min", "min"), ("max", "max"))
        if column.get(name) is not None
    ]
    nulls, rows = column.get("nulls"), column.get("count")
    if nulls and rows:
        parts.append(f"{100 * nulls / rows:.3g} % NULL")
    return drawn, ", ".join(parts) or "no numbers"

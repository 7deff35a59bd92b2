"""Statistics of features: the newest that are on record of their present versions, be it of a
training set or of the view itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.jobs.view_profiles import newest_profile
from featurestore.web.charts import Bar, bars
from featurestore.web.graph import url_of
from featurestore.web.render import WHOLE_FROM, number

if TYPE_CHECKING:
    from featurestore.records import Glance
    from featurestore.stores.registry.base import Registry
    from featurestore.web.catalogue import Item

SETS_LOOKED_AT_MAX = 5
"""Training sets whose profiles are read for one page."""
TOP_SHOWN_MAX = 3
END_CHARS_MAX = 10
"""Of the ends of a histogram: of an instant its day."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a column is like: a histogram with its ends, a line of figures, frequent values."""

    bars: Sequence[Bar]
    low: str
    high: str
    summary: str
    top: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Profile:
    """The figures of a feature, and what they are of: so many rows, of a training set (its page is
    `url`) or of the view itself."""

    figures: Figures
    rows: int
    of: str
    url: str
    at_us: int


def newest_profiles(registry: Registry, view: str, features: Sequence[Item]) -> dict[str, Profile]:
    """By the feature's name within its view; those that nothing is known of are left out."""
    wanted = {item.name.partition(".")[2]: str(item.body["version"]) for item in features}
    found: dict[str, Profile] = {}
    with registry.session():
        for profiles in _newest_first(registry, view, features, wanted):
            found = profiles | found
            if found.keys() >= wanted.keys():
                break
    return found


def _newest_first(
    registry: Registry, view: str, features: Sequence[Item], wanted: Mapping[str, str]
) -> Iterator[dict[str, Profile]]:
    own, sets = newest_profile(registry, view), _sets_of(registry, features)
    for one in sets:
        if own is not None and own[1] >= one.created_at_us:
            break
        yield _of_set(registry, one, view, wanted)
    if own is not None:
        made, at_us = own
        yield {
            name: Profile(figures(made.columns[name]), made.rows, "this view", "", at_us)
            for name, version in wanted.items()
            if made.versions.get(name) == version and name in made.columns
        }
        yield from (
            _of_set(registry, one, view, wanted) for one in sets if one.created_at_us <= at_us
        )


def _sets_of(registry: Registry, features: Sequence[Item]) -> list[Glance]:
    """The newest training sets that were made of these features, or of others that say the same;
    the newest first."""
    starts = registry.twins([item.stored.id for item in features])
    links = registry.walk(starts, direction="down", depth_max=1)
    ids = {link.child for link in links if link.child.startswith("training_set:")}
    found = registry.glances(ids=list(ids), newest=SETS_LOOKED_AT_MAX, with_parents=False)
    return found[::-1]


def _of_set(
    registry: Registry, one: Glance, view: str, wanted: Mapping[str, str]
) -> dict[str, Profile]:
    columns, url = profile_of(registry, one.body), url_of("training_set", one.name)
    named = json.loads(registry.blob(str(one.body["request"])))["columns"]
    found: dict[str, Profile] = {}
    for asked in named:
        of, _, name = str(asked["feature"]).partition(".")
        if of == view and wanted.get(name) == asked["version"] and asked["column"] in columns:
            shown = figures(columns[asked["column"]])
            found[name] = Profile(shown, int(one.body["rows"]), one.name, url, one.created_at_us)
    return found


def profile_of(registry: Registry, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of a training set's profile, by name; none where it has no profile."""
    digest = body.get("profile")
    if not digest:
        return {}
    columns: Mapping[str, Any] = json.loads(registry.blob(str(digest)))["columns"]
    return columns


def figures(column: Mapping[str, Any]) -> Figures:
    """A column of a profile, to be shown."""
    histogram = column.get("histogram") or {}
    edges = histogram.get("edges", ())
    parts = [
        f"{label} {_rounded(column[name])}"
        for name, label in (("mean", "mean"), ("std", "σ"), ("min", "min"), ("max", "max"))
        if column.get(name) is not None
    ]
    median = (column.get("quantiles") or {}).get("0.5")
    parts[1:1] = [f"median {_rounded(median)}"] if median is not None and parts else []
    nulls, rows, distinct = column.get("nulls"), column.get("count"), column.get("distinct")
    parts += [f"{number(distinct)} different"] if distinct is not None else []
    parts += [f"{100 * nulls / rows:.3g} % NULL"] if nulls and rows else []
    top = [(str(one["value"]), int(one["count"])) for one in column.get("top", ())]
    return Figures(
        bars=bars(edges, histogram.get("counts", ())),
        low=_rounded(edges[0])[:END_CHARS_MAX] if edges else "",
        high=_rounded(edges[-1])[:END_CHARS_MAX] if edges else "",
        summary=", ".join(parts),
        top=[] if edges else top[:TOP_SHOWN_MAX],
    )


def _rounded(value: object) -> str:
    """Four digits of a number are enough to see what a column is like."""
    if isinstance(value, float) and abs(value) < WHOLE_FROM:
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return number(value)

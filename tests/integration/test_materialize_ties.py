"""Rows of one key with the same times that reach the store in different runs: the source's
tiebreak decides, in whichever order they come."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.timeline import ManualClock, to_us
from tests.conftest import INSTANT, MakeRepo, utc, write_rows

NOON = utc(2024, 5, 1, 12)
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

meter = Entity("meter")
readings = FileSource("readings", "data/*.parquet", "at", tiebreak="revision")
by_meter = FeatureView("by_meter", meter, readings, features=[Feature("value")])
world = FeatureView("world", source=readings, features=[Feature("value")])
both = FeatureService("both", features=[by_meter, world])
"""
TYPES = {
    "meter": pa.string(),
    "at": INSTANT,
    "revision": pa.int64(),
    "value": pa.float64(),
}


def land(folder: Path, revision: int | None, value: float) -> None:
    row = {"meter": "a", "at": NOON, "revision": revision, "value": value}
    write_rows(folder / f"data/{revision}.parquet", [row], TYPES)


@pytest.mark.parametrize("order", [(None, 1, 2), (2, 1, None), (1, None, 2), (1, 2, None)], ids=str)
def test_the_greater_tiebreak_wins_in_any_order(
    make_repo: MakeRepo, order: tuple[int | None, ...]
) -> None:
    folder = make_repo(DEFINITIONS)
    values = {None: 9.0, 1: 5.0, 2: 1.0}
    clock = ManualClock(to_us(NOON))
    land(folder, order[0], values[order[0]])
    with FeatureStore(folder, clock=clock) as store:
        store.apply()
        store.materialize()
        for landed in range(2, len(order) + 1):
            land(folder, order[landed - 1], values[order[landed - 1]])
            clock.advance(1)
            store.materialize()
            best = max(order[:landed], key=lambda revision: revision or 0)
            found = store.get_online_features("both", [{"meter": "a"}], full_feature_names=True)
            assert found.to_dict() == {
                "meter": ["a"],
                "by_meter__value": [values[best]],
                "world__value": [values[best]],
            }

"""Pushes that are killed, and what must be true afterwards: importable by a fresh process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.timeline import DAY_US, SECOND_US, SystemClock

ITEMS = 20
INSTANT = pa.timestamp("us", tz="UTC")
DEFINITIONS = """
from featurestore import Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource

item = Entity("item", join_keys={"item": "int64"})
sales = FileSource(
    "sales", path="data/*.parquet", event_time="at", created_time="known_at", event_id="id",
)
price = FeatureView("price", entities=[item], source=sales, features=[Feature("cents")])
week = FeatureView("week", entities=[item], source=sales, features=[
    Aggregation("*", "count", window="7d"), Aggregation("cents", "sum", window="7d"),
])
shelf = FeatureService("shelf", features=[price, week])
"""
OLD = (100, 1, 100)
NEW = (200, 2, 300)


def prepare(folder: Path) -> None:
    """A repository in which each item was sold once."""
    at = (SystemClock().now_us() - DAY_US) // SECOND_US * SECOND_US
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(sales(100, at, first_id=0), folder / "data" / "1.parquet")
    with FeatureStore(folder) as fs:
        fs.apply()
        fs.materialize()


def sales(cents: int, at_us: int, *, first_id: int) -> pa.Table:
    return pa.table(
        {
            "item": pa.array(range(ITEMS), pa.int64()),
            "at": pa.array([at_us] * ITEMS, INSTANT),
            "known_at": pa.array([at_us] * ITEMS, INSTANT),
            "id": pa.array(range(first_id, first_id + ITEMS), pa.int64()),
            "cents": pa.array([cents] * ITEMS, pa.int64()),
        }
    )


def push(folder: Path) -> None:
    """Each item is sold again, at an instant that the folder remembers."""
    noted = folder / "at"
    if not noted.exists():
        noted.write_text(str((SystemClock().now_us() - 60 * SECOND_US) // SECOND_US * SECOND_US))
    with FeatureStore(folder) as fs:
        assert fs.push("sales", sales(200, int(noted.read_text()), first_id=ITEMS)).rows == ITEMS


def recover(folder: Path) -> None:
    """Whoever comes next writes what was logged."""
    with FeatureStore(folder) as fs:
        fs.materialize()


def online(folder: Path) -> set[tuple[Any, ...]]:
    """The distinct answers for all items."""
    with FeatureStore(folder) as fs:
        found = fs.get_online_features("shelf", {"item": list(range(ITEMS))}).to_dict()
    return set(zip(found["cents"], found["count_7d"], found["cents_sum_7d"], strict=True))


def offline(folder: Path) -> set[tuple[Any, ...]]:
    """The same from the files and the push log."""
    now = SystemClock().now_us()
    frame = pa.table(
        {
            "item": pa.array(range(ITEMS), pa.int64()),
            "event_timestamp": pa.array([now] * ITEMS, INSTANT),
        }
    )
    with FeatureStore(folder) as fs:
        found = fs.get_historical_features(frame, "shelf").to_arrow().to_pydict()
    return set(zip(found["cents"], found["count_7d"], found["cents_sum_7d"], strict=True))

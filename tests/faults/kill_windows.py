"""Jobs over a windowed view that are killed, and what must be true afterwards: importable by a
fresh process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.jobs import window_writer
from featurestore.timeline import DAY_US, HOUR_US, SystemClock

PLANES = 8
INSTANT = pa.timestamp("us", tz="UTC")
DEFINITIONS = """
from featurestore import Aggregation, Entity, FeatureService, FeatureView, FileSource

plane = Entity("plane", join_keys={{"plane": "int64"}})
landings = FileSource("landings", path="data/*.parquet", event_time="at", lateness="3d"{event_id})
history = FeatureView("history", entities=[plane], source=landings, features=[
    Aggregation("*", "count", window="7d"), Aggregation("delay", "sum", window="lifetime"),
])
model = FeatureService("model", features=[history])
"""


def write_definitions(folder: Path, *, with_ids: bool) -> None:
    event_id = ', event_id="id"' if with_ids else ""
    (folder / "definitions.py").write_text(DEFINITIONS.format(event_id=event_id))


def write_landings(folder: Path, name: str, delays: list[int], *, age_us: int) -> None:
    """One landing of each plane for each delay, at this age and an hour before."""
    at = (SystemClock().now_us() - age_us) // HOUR_US * HOUR_US
    rows = [(plane, delay, n) for n, delay in enumerate(delays) for plane in range(PLANES)]
    table = pa.table(
        {
            "plane": pa.array([plane for plane, _, _ in rows], pa.int64()),
            "at": pa.array([at - n * HOUR_US for _, _, n in rows], INSTANT),
            "delay": pa.array([delay for _, delay, _ in rows], pa.int64()),
            "id": pa.array([f"{name} {plane} {n}" for plane, _, n in rows]),
        }
    )
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(table, folder / "data" / name)


def roll_out(folder: Path) -> None:
    """Apply what the folder says, and materialize it."""
    with FeatureStore(folder) as fs:
        fs.apply()
        fs.materialize()


def materialize(folder: Path) -> None:
    """A few keys at a time, so that a kill finds the others untouched."""
    window_writer.KEYS_PER_SWAP_MAX = 3
    with FeatureStore(folder) as fs:
        fs.materialize()


def replace(folder: Path) -> None:
    window_writer.KEYS_PER_SWAP_MAX = 3
    with FeatureStore(folder) as fs:
        fs.materialize(replace=True)


def answers(folder: Path) -> set[tuple[Any, ...]]:
    """The different answers for all planes: how many landings, and the sum of their delays."""
    with FeatureStore(folder) as fs:
        found = fs.get_online_features("model", {"plane": range(PLANES)})
    values = found.to_dict()
    return set(zip(values["count_7d"], values["delay_sum_lifetime"], strict=True))


OLD_AGE_US, NEW_AGE_US = 2 * DAY_US, DAY_US

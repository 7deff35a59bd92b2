"""The jobs that are killed, and what must be true afterwards: importable by a fresh process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.errors import StalePlan
from featurestore.jobs.online_tables import SERVED_LATELY_US
from featurestore.timeline import DAY_US, SECOND_US, ManualClock, SystemClock

ITEMS = 40
INSTANT = pa.timestamp("us", tz="UTC")
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

item = Entity("item", join_keys={{"item": "int64"}})
prices = FileSource("prices", path="data/*.parquet", event_time="at", lateness="2d")
price = FeatureView("price", entities=[item], source=prices,
    features=[Feature("cents", "{cents}"), Feature("label")])
shelf = FeatureService("shelf", features=[price])
"""

Answers = list[tuple[Any, ...]]


def write_definitions(folder: Path, cents: str = "cents") -> None:
    (folder / "definitions.py").write_text(DEFINITIONS.format(cents=cents))


def write_prices(folder: Path, name: str, cents: int, *, age_us: int = DAY_US) -> None:
    at = (SystemClock().now_us() - age_us) // SECOND_US * SECOND_US
    table = pa.table(
        {
            "item": pa.array(range(ITEMS), pa.int64()),
            "at": pa.array([at] * ITEMS, INSTANT),
            "cents": pa.array([cents] * ITEMS, pa.int64()),
            "label": pa.array([f"{cents} of {number}" for number in range(ITEMS)]),
        }
    )
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(table, folder / "data" / name)


def roll_out(folder: Path) -> None:
    """Apply what the folder says, and materialize it."""
    with FeatureStore(folder) as fs:
        fs.apply()
        fs.materialize()


def apply(folder: Path) -> None:
    with FeatureStore(folder) as fs:
        fs.apply()


def roll_out_in(folder: Path, environment: str) -> None:
    """Apply what the folder says to another environment, and materialize it there."""
    with FeatureStore(folder, overrides={"project.environment": environment}) as fs:
        fs.apply()
        fs.materialize()


def promote(folder: Path, environment: str = "staging") -> None:
    """Bring `prod` to what another environment has, however often others are first."""
    with FeatureStore(folder) as fs:
        while True:
            with suppress(StalePlan):
                fs.environments.promote(environment, "prod", reason=environment)
                return


def materialize(folder: Path) -> None:
    with FeatureStore(folder) as fs:
        fs.materialize()


def replace(folder: Path) -> None:
    with FeatureStore(folder) as fs:
        fs.materialize(replace=True)


def sweep(folder: Path) -> None:
    """Some time later, when no server answers from what is swept."""
    clock = ManualClock(SystemClock().now_us() + SERVED_LATELY_US + SECOND_US)
    with FeatureStore(folder, clock=clock) as fs:
        fs.sweep()


def answers(folder: Path) -> set[tuple[Any, ...]]:
    """The distinct answers for all items: cents, whether the label fits, and the statuses. Labels
    are checked to be of the same row as the cents were before any expression."""
    with FeatureStore(folder) as fs:
        found = fs.get_online_features("shelf", {"item": range(ITEMS)})
    values, statuses = found.to_dict(), found.statuses
    rows = set()
    for number in range(ITEMS):
        label = values["label"][number]
        assert label is None or label.endswith(f" of {number}")
        written = None if label is None else int(label.split()[0])
        states = statuses["cents"][number], statuses["label"][number]
        rows.add((written, values["cents"][number], *states))
    return rows

"""A small repository about parcels, a training set of it and real scikit-learn models."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.records import Record
from featurestore.timeline import ManualClock, to_us

NOW_US = to_us("2026-06-01T00:00:00Z")
INSTANT = pa.timestamp("us", tz="UTC")
ROWS = 600
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

depot = Entity("depot", {"depot": "int64"})
parcels = FileSource("parcels", path="data/parcels.parquet", event_time="at")
load = FeatureView("load", [depot], parcels, [Feature("weight"), Feature("count"), Feature("far")])
late_model = FeatureService("late_model", [load])
"""


def write_repository(folder: Path, *, gates: str = "", settings: str = "") -> Path:
    """Definitions, settings and 600 rows of data, of which `late` follows from the features."""
    (folder / "data").mkdir(parents=True)
    (folder / "definitions.py").write_text(DEFINITIONS + textwrap.dedent(gates))
    (folder / "featurestore.toml").write_text(f'[project]\nname = "parcels"\n{settings}')
    pq.write_table(parcels(), folder / "data" / "parcels.parquet")
    return folder


def parcels() -> pa.Table:
    """One row per depot and hour, `late` with a chance that grows with weight and distance."""
    random = np.random.default_rng(5)
    weight, far = random.normal(10, 3, ROWS), random.random(ROWS) < 0.4
    chance = 1 / (1 + np.exp(-(weight - 10) - 2 * far + 1))
    hours = to_us("2026-05-01T00:00:00Z") + np.arange(ROWS) * 3_600_000_000
    return pa.table(
        {
            "depot": pa.array(np.arange(ROWS), pa.int64()),
            "at": pa.array(hours, pa.int64()).cast(INSTANT),
            "weight": weight,
            "count": pa.array(random.integers(1, 50, ROWS), pa.int64()),
            "far": far,
            "late": random.random(ROWS) < chance,
        }
    )


def features() -> Any:
    """The features as pandas has them."""
    return parcels().select(["weight", "count", "far"]).to_pandas()


def labels() -> Any:
    return parcels().column("late").to_numpy()


def logistic(**settings: Any) -> Any:
    """A logistic regression, really trained; `C=1e-9` makes one that has learnt nothing."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(**settings).fit(features(), labels())


@dataclass(frozen=True)
class Pinned:
    """The ids of what a version comes from."""

    run: str
    training_set: str


def entity_frame() -> pa.Table:
    """Each depot an hour after its row, and whether it was late."""
    rows = parcels()
    at = pa.array([us + 3_600_000_000 for us in rows["at"].cast(pa.int64()).to_pylist()])
    return pa.table(
        {"depot": rows["depot"], "event_timestamp": at.cast(INSTANT), "late": rows["late"]}
    )


def pin(store: FeatureStore, *, unpinned: tuple[str, ...] = (), name: str = "parcels") -> Pinned:
    """A training set, and a run of it, as a record. With `unpinned`, the set's record says that
    those sources could not be pinned."""
    made = store.create_training_set(
        name, entity_frame(), "late_model", label="late", splits={"train": 0.5, "test": 0.5}
    )
    training = made.record.record
    if unpinned:
        body = {**training.body, "unpinned": list(unpinned)}
        training = Record(kind="training_set", name=name, body=body, parents=training.parents)
    store.registry.commit(records=[training], aliases={f"training_set/{name}": training.id})
    with store.start_run("late", training_set=training.id) as run:
        run.log_metric("auc", 0.8)
    return Pinned(run.id, training.id)


def template(folder: Path, *, gates: str = "") -> tuple[Path, Pinned]:
    """A repository that is applied, with a training set and a run; to be copied for each test."""
    with open_store(write_repository(folder, gates=gates)) as store:
        store.apply()
        return folder, pin(store)


def open_store(folder: Path, clock: ManualClock | None = None, **overrides: Any) -> FeatureStore:
    return FeatureStore(folder, overrides=overrides, clock=clock or ManualClock(NOW_US))

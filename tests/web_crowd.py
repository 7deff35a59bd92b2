"""A repository of many views, with training sets, runs and models in numbers, for the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.jobs import store_identity
from featurestore.jobs.online_tables import online_tables
from featurestore.records import Edge, LedgerRow, Record, StoredRecord
from featurestore.stores.registry.run_words import RunStart
from featurestore.timeline import HOUR_US, to_us

FEATURES_PER_VIEW, VIEWS_PER_SOURCE, VIEWS_PER_SERVICE = 10, 10, 3
LEARNED_VIEWS = 5
"""Views that a training set has features of."""
STEPS = 1_000
"""Points of a run's metric."""
NOW_US = to_us("2026-06-01T00:00:00Z")
INSTANT = pa.timestamp("us", tz="UTC")
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

user = Entity("user", join_keys={{"user": "int64"}}, owner="people@example.org")
sources = [FileSource(f"source{{n}}", f"data/{{n}}.parquet", "at") for n in range({files})]
views = [
    FeatureView(
        f"view{{n}}", entities=[user], source=sources[n // {per_source}], ttl="7d",
        owner=f"team{{n % 20}}@example.org", description=f"What is known of users by source {{n}}",
        tags={{"team": f"team{{n % 20}}"}},
        features=[
            Feature(f"view{{n}}_{{i}}", f"number{{i}} * {{n}} + 1", description=f"Number {{i}}")
            for i in range({features})
        ],
    )
    for n in range({views})
]
services = [
    FeatureService(f"service{{n}}", features=views[n : n + {per_service}])
    for n in range(0, {views}, 10)
]
globals().update({{made.name: made for made in [*sources, *views, *services]}})
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of what: a model has three versions, a training set's name has ten."""

    views: int
    ledger_runs: int = 2
    sets: int = 10
    runs: int = 10
    models: int = 9


def crowd(folder: Path, size: Size) -> Path:
    """Applied and served, with a ledger, training sets, runs and models."""
    write_repository(folder, size)
    with FeatureStore(folder) as store:
        store.apply(serve_now=True)
        fill_ledger(store, size.ledger_runs)
        learned = learn(store, size)
        keep_runs(store, learned, size.runs)
        keep_models(store, learned, size.models)
    return folder


def write_repository(folder: Path, size: Size) -> None:
    """Definitions, and a file of ten rows for each source."""
    files = math.ceil(size.views / VIEWS_PER_SOURCE)
    (folder / "data").mkdir(parents=True)
    (folder / "featurestore.toml").write_text('[project]\nname = "crowd"\n')
    (folder / "definitions.py").write_text(
        DEFINITIONS.format(
            files=files, views=size.views, features=FEATURES_PER_VIEW,
            per_source=VIEWS_PER_SOURCE, per_service=VIEWS_PER_SERVICE,
        )
    )  # fmt: skip
    rows = pa.table(
        {
            "user": list(range(10)),
            "at": pa.array([NOW_US - n * HOUR_US for n in range(10)], pa.int64()).cast(INSTANT),
            **{f"number{i}": [float(n * i) for n in range(10)] for i in range(FEATURES_PER_VIEW)},
        }
    )
    for number in range(files):
        pq.write_table(rows, folder / "data" / f"{number}.parquet")


def fill_ledger(store: FeatureStore, runs: int) -> None:
    """So many hourly runs of each view in the environment's store."""
    environment, views = store.settings.project.environment, list(store.repo.views.values())
    store_id = store_identity.identify(
        store.online_store, store.registry, project=store.repo.project, environment=environment
    )
    tables = online_tables(store.registry, views)
    for number in range(runs):
        end_us = NOW_US - (runs - number) * HOUR_US
        store.registry.commit(
            ledger=[
                LedgerRow(
                    run_id=f"{view.name}-{number}", view=view.name, view_version=view.version,
                    table=store_identity.table_name(store_id, tables[view.storage_hash].field),
                    generation=0, mode="incremental", start_us=None, end_us=end_us,
                    watermark_us=end_us, reach_us=None, rows_read=10, rows_written=10,
                    rows_skipped=0, started_at_us=end_us, finished_at_us=end_us,
                )
                for view in views
            ]
        )  # fmt: skip


def learn(store: FeatureStore, size: Size) -> list[StoredRecord]:
    """One training set, really made, and others like it, of other views."""
    frame = pa.table(
        {
            "user": list(range(10)),
            "event_timestamp": pa.array([NOW_US] * 10, pa.int64()).cast(INSTANT),
        }
    )
    first = store.create_training_set("set0", frame, _features(0, size)).record
    ids = {one.record.name: one.id for one in store.registry.records(kind="feature")}
    snapshots = tuple(edge for edge in first.record.parents if edge.role == "snapshot")
    records = []
    for number in range(1, size.sets):
        names = _features(number, size)
        edges = [Edge(parent=ids[name.replace(":", ".")], role="feature") for name in names]
        body = {**first.record.body, "features": names, "known_until_us": number}
        parents = (*edges, *(snapshots if number % 50 == 0 else ()))
        records.append(Record(kind="training_set", name=f"set{number // 10}", body=body,
                              parents=parents))  # fmt: skip
    aliases = {f"training_set/{record.name}": record.id for record in records}
    store.registry.commit(records=records, aliases=aliases)
    return [first, *store.registry.records(ids=[record.id for record in records])]


def _features(number: int, size: Size) -> list[str]:
    """Those of some views in a row, others for each training set."""
    views = [f"view{(number * LEARNED_VIEWS + n) % size.views}" for n in range(LEARNED_VIEWS)]
    return [f"{view}:{view}_{i}" for view in dict.fromkeys(views) for i in range(FEATURES_PER_VIEW)]


def keep_runs(store: FeatureStore, learned: list[StoredRecord], count: int) -> None:
    """Runs of twenty experiments; the newest one has a metric of many points."""
    with store.start_run("experiment0", training_set=learned[0].id) as run:
        run.log_metric("loss", 1.0)
    made = store.registry.record(store.runs.get(run.id).facts.record_id).record
    for number in range(count):
        run_id = f"{number:032x}"
        begun_us = NOW_US + number * 1_000_000
        start = RunStart(
            run_id=run_id, experiment=f"experiment{number % 20}", name=f"run {number}", user="ann",
            started_at_us=begun_us, status="FINISHED", ended_at_us=begun_us + 500_000, beats=False,
            params={"depth": number % 7, "rate": 0.1},
        )  # fmt: skip
        record = Record(
            kind="run", name=f"{start.experiment}/{run_id}", body={**made.body, "version": run_id},
            parents=(Edge(parent=learned[number % len(learned)].id, role="training_set"),),
        )  # fmt: skip
        key = store.registry.runs.start(start, records=[record])
        steps = range(STEPS if number == count - 1 else 1)
        points = [("loss", step, begun_us, 1 / (step + 1)) for step in steps]
        store.registry.runs.log_points(key, "crowd", 0, points, now_us=begun_us)
        if number == count - 1:
            store.registry.runs.set_status(key, "FINISHED", ended_at_us=begun_us + 500_000)


def keep_models(store: FeatureStore, learned: list[StoredRecord], count: int) -> None:
    """One version, really registered, and others like it; three of each name."""
    artifact = store.settings.root / "model.txt"
    artifact.write_text("a model")
    made = store.models.register(
        "model0", artifact, training_set=learned[0].id, metrics={"auc": 0.7}
    )
    first = store.registry.record(made.id).record
    records = [
        Record(
            kind="model",
            name=f"model{number // 3}",
            body={**first.body, "number": 1 + number % 3},
            parents=(Edge(parent=learned[number % len(learned)].id, role="training_set"),),
        )
        for number in range(1, count)
    ]
    aliases = {f"model/{record.name}": record.id for record in records}
    store.registry.commit(records=records, aliases=aliases)

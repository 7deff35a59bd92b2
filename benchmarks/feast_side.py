"""Feast's part of `beside_feast.py`. Runs in Feast's own environment and prints one JSON line.

    python benchmarks/feast_side.py {historical|materialize} ROOT

ROOT holds `view0.parquet`, … and `frame.parquet`; `REDIS` in the environment is host:port.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

VIEWS, FEATURES = 3, 10
RUNS, ENOUGH_S = 3, 60
YAML = """project: bench
registry: {root}/registry.db
provider: local
offline_store:
    type: duckdb
online_store:
    type: redis
    connection_string: "{redis}"
entity_key_serialization_version: 3
"""


def opened(root: Path):
    """A feature store with the three views, applied."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64
    from feast.value_type import ValueType

    redis = os.environ.get("REDIS", "127.0.0.1:6379")
    (root / "feature_store.yaml").write_text(YAML.format(root=root, redis=redis))
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=f"view{number}",
            entities=[key],
            ttl=timedelta(days=7),
            schema=[Field(name=f"f{number}_{i}", dtype=Float64) for i in range(FEATURES)],
            source=FileSource(
                name=f"source{number}",
                path=str(root / f"view{number}.parquet"),
                timestamp_field="at",
                created_timestamp_column="known",
            ),
        )
        for number in range(VIEWS)
    ]
    store = FeatureStore(repo_path=str(root))
    store.apply([key, *views, FeatureService(name="bench", features=views)])
    return store


def historical(root: Path) -> dict[str, float]:
    import pandas as pd

    store = opened(root)
    frame = pd.read_parquet(root / "frame.parquet")
    features = [f"view{v}:f{v}_{i}" for v in range(VIEWS) for i in range(FEATURES)]
    times: list[float] = []
    while len(times) < RUNS and sum(times) < ENOUGH_S:
        begun = time.perf_counter()
        table = store.get_historical_features(frame, features, full_feature_names=True).to_arrow()
        times.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(times), "rows": table.num_rows}


def materialize(root: Path) -> dict[str, float]:
    store = opened(root)
    end = datetime.now(UTC)
    begun = time.perf_counter()
    store.materialize(end - timedelta(days=7), end)
    return {"seconds": time.perf_counter() - begun, "rows": 0}


def main() -> None:
    job, root = sys.argv[1], Path(sys.argv[2])
    found = {"historical": historical, "materialize": materialize}[job](root)
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    print(json.dumps({**found, "peak_mb": int(peak) / 1024}))


if __name__ == "__main__":
    main()

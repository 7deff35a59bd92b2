"""`get_historical_features` for few entities from sorted copies (`featurestore optimize`), beside
the same call on the sources' own files.

    python benchmarks/bench_managed.py [--quick] [--json FILE]

Three views of ten features, ttl 7 days, rows known up to an hour late; 100 entity rows × 10 million
feature rows per view. The calls take turns, everything from the call to the Arrow table counts, and
their answers are compared. The floor is the call without copies.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import RUNS, Result, parser, report

from featurestore import FeatureStore
from featurestore.timeline import DAY_US, HOUR_US

VIEWS, FEATURES, ENTITIES = 3, 10, 100
TARGET = 0.25
ROWS_PER_KEY = 100
INSTANT = pa.timestamp("us", tz="UTC")
DEFINITIONS = """
from featurestore import Entity, FeatureService, FeatureView, FileSource

key = Entity("key", join_keys={{"key": "int64"}})
sources = [FileSource(f"s{{n}}", f"view{{n}}.parquet", "at", "known") for n in range({views})]
s0, s1, s2 = sources
v0, v1, v2 = (FeatureView(f"v{{n}}", key, s, ttl="7d") for n, s in enumerate(sources))
everything = FeatureService("everything", features=[v0, v1, v2])
"""


def write(folder: Path, rows: int) -> pa.Table:
    """The repository and its files; returns the entity frame."""
    rng = np.random.default_rng(7)
    keys = rows // ROWS_PER_KEY
    for view in range(VIEWS):
        at = rng.integers(0, 30 * DAY_US, rows)
        columns = {
            "key": pa.array(rng.integers(0, keys, rows)),
            "at": pa.array(at, INSTANT),
            "known": pa.array(at + rng.integers(0, HOUR_US, rows), INSTANT),
            **{f"f{n}": rng.random(rows) for n in range(FEATURES)},
        }
        pq.write_table(pa.table(columns), folder / f"view{view}.parquet", row_group_size=122_880)
    (folder / "definitions.py").write_text(DEFINITIONS.format(views=VIEWS))
    (folder / "featurestore.toml").write_text('[project]\nname = "bench"\n')
    return pa.table(
        {
            "key": rng.integers(0, keys, ENTITIES),
            "event_timestamp": pa.array(rng.integers(0, 30 * DAY_US, ENTITIES), INSTANT),
        }
    )


def measure(rows: int) -> Result:
    """Both calls, in turn."""
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as name:
        folder = Path(name)
        frame = write(folder, rows)
        with FeatureStore(folder) as store:
            plain = FeatureStore(folder, overrides={"offline.path": ".featurestore/elsewhere"})
            begun = time.perf_counter()
            store.optimize()
            took_s = time.perf_counter() - begun
            times: dict[str, list[float]] = {"copy": [], "files": []}
            answers = {}
            with plain:
                for turn in range(RUNS + 1):  # the first one warms up
                    for form, asked in {"files": plain, "copy": store}.items():
                        begun = time.perf_counter()
                        job = asked.get_historical_features(
                            frame, "everything", full_feature_names=True, include_status=True
                        )
                        answers[form] = job.to_arrow()
                        if turn:
                            times[form].append(time.perf_counter() - begun)
        assert answers["copy"].equals(answers["files"])
        assert answers["copy"]["v0__f0"].null_count < ENTITIES
    return Result(
        job="get_historical_features, managed",
        setting=f"{ENTITIES} × {rows:,}, uniform",
        ours=float(np.median(times["copy"])),
        floor=float(np.median(times["files"])),
        floor_name="the unmanaged files",
        unit="s",
        higher_is_better=False,
        target=TARGET,
        note=f"optimize took {took_s:.1f} s",
    )


def main() -> None:
    asked = parser(__doc__ or "").parse_args()
    report([measure(1_000_000 if asked.quick else 10_000_000)], asked)


if __name__ == "__main__":
    main()

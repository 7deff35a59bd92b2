"""`create_training_set` beside the same query written to plain Parquet; `reproduce` beside both.

    python benchmarks/bench_training_sets.py [--quick] [--large] [--json FILE]

Five views of ten features, 2 million rows each with 10,000 keys, rows known up to an hour late; an
entity frame of a million rows from a Parquet file (`--large`: ten million, once, and the plain
Parquet in parts, as one query of so many rows does not fit the memory). The three calls take turns.
Creating reads and hashes the sources' files as well, which `YOUNG_NS` keeps from being remembered:
each turn pays for it.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import RUNS, Result, parser, report

from featurestore import FeatureStore
from featurestore.jobs.frame_parts import batches_in_parts
from featurestore.jobs.retrieval import write_parquet
from featurestore.jobs.training import ROW_GROUP_ROWS
from featurestore.lifecycle.datasets import Verdict
from featurestore.stores.offline import contents
from featurestore.timeline import DAY_US, HOUR_US, ManualClock

VIEWS, FEATURES, KEYS = 5, 10, 10_000
WRITE_TARGET, REPRODUCE_TARGET = 1.5, 1.3
LARGE_ROWS = 10_000_000
MEMORY_LIMIT_GB = 2
LARGE_RSS_GB_MAX = 4.0
"""The engine's limit, and as much again for Arrow, Parquet and Python."""
CHUNK_ROWS = 1_000_000
INSTANT = pa.timestamp("us", tz="UTC")
DEFINITIONS = """
from featurestore import Entity, FeatureService, FeatureView, FileSource

key = Entity("key", join_keys={{"key": "int64"}})
sources = [FileSource(f"s{{n}}", f"view{{n}}.parquet", "at", "known") for n in range({views})]
s0, s1, s2, s3, s4 = sources
v0, v1, v2, v3, v4 = (FeatureView(f"v{{n}}", key, s, ttl="7d") for n, s in enumerate(sources))
everything = FeatureService("everything", features=[v0, v1, v2, v3, v4])
"""
SETTINGS = f"""[project]
name = "bench"
[offline]
memory_limit = "{MEMORY_LIMIT_GB}GB"
"""


def write(folder: Path, rows: int, frame_rows: int) -> Path:
    """The repository, its files, and the entity frame's file."""
    rng = np.random.default_rng(7)
    for view in range(VIEWS):
        at = rng.integers(0, 30 * DAY_US, rows)
        columns = {
            "key": pa.array(rng.integers(0, KEYS, rows)),
            "at": pa.array(at, INSTANT),
            "known": pa.array(at + rng.integers(0, HOUR_US, rows), INSTANT),
            **{f"f{n}": rng.random(rows) for n in range(FEATURES)},
        }
        pq.write_table(pa.table(columns), folder / f"view{view}.parquet", row_group_size=122_880)
    schema = pa.schema([("key", pa.int64()), ("event_timestamp", INSTANT), ("label", pa.bool_())])
    path = folder / "frame.parquet"
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, frame_rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, frame_rows - start)
            at = rng.integers(7 * DAY_US, 30 * DAY_US, count)
            columns = {
                "key": pa.array(rng.integers(0, KEYS, count)),
                "event_timestamp": pa.array(at, INSTANT),
                "label": pa.array(rng.random(count) < 0.5),
            }
            writer.write_table(pa.table(columns, schema=schema))
    (folder / "definitions.py").write_text(DEFINITIONS.format(views=VIEWS))
    (folder / "featurestore.toml").write_text(SETTINGS)
    return path


def measure(rows: int, frame_rows: int, turns: int) -> list[Result]:
    """The three calls, in turn; of a single turn also the memory."""
    contents.YOUNG_NS = 10**18
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as name:
        folder = Path(name)
        frame = write(folder, rows, frame_rows)
        began_gb = peak_gb()
        times: dict[str, list[float]] = {"plain": [], "set": [], "again": []}
        with FeatureStore(folder, clock=ManualClock(40 * DAY_US)) as store:
            for turn in range(turns):
                begun = time.perf_counter()
                made = store.create_training_set(
                    f"set{turn}",
                    str(frame),
                    "everything",
                    label="label",
                    splits={"train": 0.8, "test": 0.2},
                    full_feature_names=True,
                )
                times["set"].append(time.perf_counter() - begun)
                begun = time.perf_counter()
                found = store.reproduce(made.id)
                times["again"].append(time.perf_counter() - begun)
                assert found.verdict is Verdict.EXACT, found
                assert made.rows == frame_rows
                for file in made.files.files:
                    (folder / ".featurestore" / "offline" / file.name).unlink()
                peak = peak_gb()
                begun = time.perf_counter()
                write_plain(store, frame, folder / "plain.parquet")
                times["plain"].append(time.perf_counter() - begun)
    written, again, plain = (float(np.median(times[form])) for form in ("set", "again", "plain"))
    setting = f"{frame_rows:,} × {VIEWS * FEATURES} features"
    lines = [
        line("create_training_set", setting, (written, plain), "plain Parquet", WRITE_TARGET),
        line("reproduce", setting, (again, written), "creating it", REPRODUCE_TARGET),
    ]
    if frame_rows == LARGE_ROWS:
        lines.append(
            Result(
                job="training sets, peak memory",
                setting=setting,
                ours=peak,
                unit="GB",
                higher_is_better=False,
                limit=LARGE_RSS_GB_MAX,
                gates=False,
                note=f"{began_gb:.1f} GB before; engine's limit {MEMORY_LIMIT_GB} GB",
            )
        )
    return lines


def write_plain(store: FeatureStore, frame: Path, path: Path) -> None:
    """The same query as plain Parquet; a frame that is long enough in parts, as sets are made."""
    job = store.get_historical_features(
        str(frame), "everything", full_feature_names=True, known_until=40 * DAY_US
    )
    write_parquet(path, job.schema, batches_in_parts(job, ROW_GROUP_ROWS))


def line(job: str, setting: str, times: tuple[float, float], name: str, target: float) -> Result:
    """One timing: ours, and the floor's."""
    ours, floor = times
    return Result(
        job=job,
        setting=setting,
        ours=ours,
        floor=floor,
        floor_name=name,
        unit="s",
        higher_is_better=False,
        target=target,
    )


def peak_gb() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / 1024


def main() -> None:
    asked = parser(__doc__ or "")
    asked.add_argument("--large", action="store_true", help="ten million rows, once")
    given = asked.parse_args()
    if given.large:
        found = measure(2_000_000, LARGE_ROWS, 1)
    elif given.quick:
        found = measure(200_000, 200_000, RUNS)
    else:
        found = measure(2_000_000, 1_000_000, RUNS)
    report(found, given)


if __name__ == "__main__":
    main()

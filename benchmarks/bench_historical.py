"""`get_historical_features` beside hand-written DuckDB queries of the same meaning, in one run.

    python benchmarks/bench_historical.py [--quick] [--large] [--json FILE]

Three views of ten features each, ttl 7 days, rows known up to an hour late, the winner by (event
time, created time, all columns); one row in fifty has the key and event time of another, a quarter
of those its created time too. The floor is the fastest of the forms in `historical_queries.py`;
those that take `TOO_SLOW` times as long as the fastest at first are not run again. All answers are
compared. Times are medians of three runs, ours and theirs in turn, after one to warm up. Peak
memory is that of a process that does nothing else, without what it had before the query. `--quick`
has small data, leaves the middle skew out and measures memory for uniform keys alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from historical_queries import FORMS, hand_written
from results import Result, parser, peak_mb, report

from featurestore import Entity, FeatureView, FileSource
from featurestore.compiler.resolve import resolve
from featurestore.config import OfflineSettings
from featurestore.definitions.repo import collect
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.jobs.project import files_of
from featurestore.jobs.training import RetrievalJob, retrieve
from featurestore.timeline import DAY_US, HOUR_US

VIEWS, FEATURES, RUNS = 3, 10, 3
TTL_US = 7 * DAY_US
SKEWS = {"uniform": 0.0, "Zipf 0.8": 0.8, "Zipf 1.2": 1.2}
INSTANT = pa.timestamp("us", tz="UTC")
COLUMNS = [f"f{number}" for number in range(FEATURES)]

QUICK_SKEWS = ("uniform", "Zipf 1.2")
TOO_SLOW = 1.5
FRAMES = {200_000: (20_000,), 1_000_000: (100_000,), 10_000_000: (100,)}
"""Feature rows of each view → entity rows asked about."""
LARGE_FRAME = 1_000_000


# --- data -----------------------------------------------------------------------------------------


def write_data(folder: Path, feature_rows: int, frames: tuple[int, ...], skew: float) -> None:
    """`view0.parquet`, … and `frame<rows>.parquet`: as many keys as a tenth of the feature rows."""
    rng = np.random.default_rng(7)
    keys = feature_rows // 10
    weights = 1 / np.arange(1, keys + 1) ** skew
    weights /= weights.sum()
    for view in range(VIEWS):
        key = rng.choice(keys, feature_rows, p=weights)
        at = rng.integers(0, 30 * DAY_US, feature_rows)
        known = at + rng.integers(0, HOUR_US, feature_rows)
        again, first = rng.integers(0, feature_rows, (2, feature_rows // 50))
        key[again], at[again] = key[first], at[first]
        known[again] = at[again] + rng.integers(0, HOUR_US, len(again))
        equal = len(again) // 4
        known[again[:equal]] = known[first[:equal]]
        table = pa.table(
            {
                "key": key,
                "at": pa.array(at, INSTANT),
                "known": pa.array(known, INSTANT),
                **{name: rng.random(feature_rows) for name in COLUMNS},
            }
        )
        pq.write_table(table, folder / f"view{view}.parquet", row_group_size=122_880)
    for rows in frames:
        frame = pa.table(
            {
                "key": rng.choice(keys, rows, p=weights),
                "event_timestamp": pa.array(rng.integers(0, 30 * DAY_US, rows), INSTANT),
            }
        )
        pq.write_table(frame, folder / f"frame{rows}.parquet")


# --- ours -----------------------------------------------------------------------------------------


def our_job(folder: Path, frame: Path, engine: DuckDBEngine) -> RetrievalJob:
    """The same three views as definitions."""
    key = Entity("key", join_keys={"key": "int64"})
    sources = [FileSource(f"s{n}", f"view{n}.parquet", "at", "known") for n in range(VIEWS)]
    views = [
        FeatureView(f"v{number}", entities=[key], source=source, ttl="7d")
        for number, source in enumerate(sources)
    ]
    schemas = {source.name: files_of(source, folder).schema for source in sources}
    repo = resolve(collect([key, *sources, *views]), schemas, project="bench")
    return retrieve(
        pq.read_table(frame),
        views,
        repo=repo,
        root=folder,
        engine=engine,
        full_feature_names=True,
    )


# --- measuring ------------------------------------------------------------------------------------


def runner(form: str, folder: Path, frame: Path) -> Callable[[], pa.Table]:
    """What runs one form, or `ours`, on an engine of its own."""
    if form == "ours":
        engine = DuckDBEngine.open(OfflineSettings(), temp_directory=str(folder / "spill"))
        our_job(folder, frame, engine)  # loads what is loaded when first needed
        return lambda: our_job(folder, frame, engine).to_arrow()
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    views = [folder / f"view{number}.parquet" for number in range(VIEWS)]
    query = hand_written(form, frame, views, COLUMNS, TTL_US)
    return lambda: connection.sql(query).to_arrow_table()


def measure(
    folder: Path, feature_rows: int, entity_rows: int, keys: str, *, with_memory: bool
) -> list[Result]:
    """The lines of time and memory. Raises `AssertionError` where the answers differ."""
    frame = folder / f"frame{entity_rows}.parquet"
    forms = [form for form in FORMS if form != "range" or keys == "uniform"]
    runs = {form: runner(form, folder, frame) for form in ["ours", *forms]}
    wanted, first = None, {}
    for form, run in runs.items():
        begun = time.perf_counter()
        found = run()
        first[form] = time.perf_counter() - begun
        wanted = found.select(found.column_names[-VIEWS * FEATURES :]) if wanted is None else wanted
        assert same(found.select(wanted.column_names), wanted), f"the answer of {form} differs"
    slow = TOO_SLOW * min(first[form] for form in forms)
    times: dict[str, list[float]] = {
        form: [] for form in runs if form == "ours" or first[form] <= slow
    }
    for _ in range(RUNS):
        for form, taken in times.items():
            begun = time.perf_counter()
            runs[form]()
            taken.append(time.perf_counter() - begun)
    medians = {form: statistics.median(taken) for form, taken in times.items()}
    ours_s = medians.pop("ours")
    floor = min(medians, key=lambda form: medians[form])
    setting = f"{entity_rows:,} × {feature_rows:,}, {keys}"
    others = ", ".join(f"{form} {taken:.2f}" for form, taken in medians.items() if form != floor)
    lines = [
        Result(job="get_historical_features", setting=setting, ours=ours_s, floor=medians[floor],
               floor_name=floor, unit="s", higher_is_better=False, target=1.2, note=others),
    ]  # fmt: skip
    if with_memory:
        ours_mb, floor_mb = (peak_of(form, folder, frame) for form in ("ours", floor))
        lines.append(
            Result(job="get_historical_features, memory", setting=setting, ours=ours_mb,
                   floor=floor_mb, floor_name=floor, unit="MB", higher_is_better=False, target=1.3,
                   gates=False)
        )  # fmt: skip
    return lines


def peak_of(form: str, folder: Path, frame: Path) -> float:
    """The memory that a run takes in a process of its own, in MB, the median of `RUNS`."""
    command = [sys.executable, __file__, "--peak", form, str(folder), str(frame)]

    def once() -> float:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=dict(os.environ)
        )
        return float(done.stdout.split()[-1])

    return statistics.median(once() for _ in range(RUNS))


def print_peak(form: str, folder: str, frame: str) -> None:
    """What `peak_of` runs."""
    run = runner(form, Path(folder), Path(frame))
    before = peak_mb()
    run()
    print(peak_mb() - before)


def same(left: pa.Table, right: pa.Table) -> bool:
    """Whether two tables hold the same values."""
    return bool(left.combine_chunks().equals(right.combine_chunks()))


def main() -> None:
    """Measure, print, write."""
    arguments = parser(__doc__)
    arguments.add_argument("--large", action="store_true", help="also 1 M × 10 M rows")
    arguments.add_argument("--peak", nargs=3, help="FORM FOLDER FRAME: print what one run takes")
    asked = arguments.parse_args()
    if asked.peak:
        print_peak(*asked.peak)
        return
    if asked.quick:
        shapes = [(200_000, keys) for keys in QUICK_SKEWS]
    else:
        shapes = [*((1_000_000, keys) for keys in SKEWS), (10_000_000, "uniform")]
    shapes += [(10_000_000, keys) for keys in SKEWS if asked.large and keys != "uniform"]
    found = []
    for feature_rows, keys in shapes:
        large = asked.large and feature_rows == 10_000_000
        frames = FRAMES[feature_rows] + ((LARGE_FRAME,) if large else ())
        with tempfile.TemporaryDirectory(prefix="fs_historical_") as name:
            write_data(Path(name), feature_rows, frames, SKEWS[keys])
            for entity_rows in frames:
                with_memory = keys == "uniform" or not asked.quick
                found += measure(
                    Path(name), feature_rows, entity_rows, keys, with_memory=with_memory
                )
    report(found, asked)


if __name__ == "__main__":
    main()

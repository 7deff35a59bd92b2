"""What tracking costs: the call that logs a metric, how many points a registry on SQLite takes, a
run's start and end, a search.

    python benchmarks/bench_runs.py [--quick] [--json FILE]

The floor of the points is Python's own sqlite3 with one `executemany` per batch into a table of the
same columns and index, which knows nothing of runs, metrics or who writes.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from results import RUNS, Result, parser, report

from featurestore import FeatureStore
from featurestore.cli.init import write_repository
from featurestore.jobs.run_buffer import POINTS_PER_BATCH
from featurestore.timeline import SystemClock

CALL_US_MAX = 5.0
POINTS_PER_S_MIN = 100_000.0
TABLE = """
PRAGMA journal_mode=WAL;
CREATE TABLE point (seq INTEGER PRIMARY KEY, metric INTEGER, step INTEGER, at INTEGER, value REAL);
CREATE INDEX point_step ON point (metric, step);
"""


def bare_points_s(folder: Path, number: int, count: int) -> float:
    with closing(sqlite3.connect(folder / f"bare{number}.db", isolation_level=None)) as file:
        file.executescript(TABLE)
        begun = time.perf_counter()
        for first in range(0, count, POINTS_PER_BATCH):
            rows = [(1, step, step, 1.0) for step in range(first, first + POINTS_PER_BATCH)]
            file.execute("BEGIN IMMEDIATE")
            file.executemany("INSERT INTO point (metric, step, at, value) VALUES (?,?,?,?)", rows)
            file.execute("COMMIT")
        return time.perf_counter() - begun


def our_points_s(fs: FeatureStore, count: int) -> float:
    """From the first call until all are in the registry."""
    with fs.start_run("points") as run:
        begun = time.perf_counter()
        for step in range(count):
            run.log_metric("loss", 1.0, step=step)
        run.flush()
        took = time.perf_counter() - begun
    assert fs.runs.get(run.run_id).facts.metrics["loss"].points == count
    return took


def bench_points(fs: FeatureStore, folder: Path, count: int) -> list[Result]:
    """Interleaved, so that another program's noise meets both."""
    ours, bare, calls = [], [], []
    for number in range(RUNS):
        bare.append(bare_points_s(folder, number, count))
        ours.append(our_points_s(fs, count))
        calls.append(call_us(fs, count // 10))
    return [
        Result(
            job="runs",
            setting="metric points into SQLite",
            ours=count / statistics.median(ours),
            floor=count / statistics.median(bare),
            floor_name="sqlite3 executemany",
            unit="points/s",
            higher_is_better=True,
            limit=POINTS_PER_S_MIN,
            gates=False,  # ours has two threads, the floor one: other work takes a core from one
        ),
        Result(
            job="runs",
            setting="a call of log_metric",
            ours=statistics.median(calls),
            unit="µs",
            higher_is_better=False,
            limit=CALL_US_MAX,
        ),
    ]


def call_us(fs: FeatureStore, count: int) -> float:
    """The call alone: the median over blocks of a hundred, since the thread that writes takes
    turns with the loop."""
    blocks = []
    with fs.start_run("calls") as run:
        for step in range(0, count, 100):
            begun = time.perf_counter()
            for one in range(step, step + 100):
                run.log_metric("loss", 1.0, step=one)
            blocks.append((time.perf_counter() - begun) * 1e4)
    return statistics.median(blocks)


def bench_life(fs: FeatureStore, count: int) -> list[Result]:
    """A run with five parameters and two metrics, from start to end; then finding some of them."""
    lives = []
    for number in range(count):
        begun = time.perf_counter()
        params = dict.fromkeys(("a", "b", "c", "d", "e"), number)
        with fs.start_run("life", params=params) as run:
            run.log_metrics({"auc": number / count, "loss": 1.0})
        lives.append(time.perf_counter() - begun)
    searches = []
    query = "metrics.auc > 0.5 and params.a >= 10 order by metrics.auc desc"
    for _ in range(20):
        begun = time.perf_counter()
        fs.runs.search(query, experiment="life", limit=20)
        searches.append(time.perf_counter() - begun)
    return [
        Result(
            job="runs",
            setting=setting,
            ours=statistics.median(times) * 1000,
            unit="ms",
            higher_is_better=False,
            gates=False,
        )
        for setting, times in (
            ("a run from start to end", lives),
            (f"a search among {count:,} runs", searches),
        )
    ]


def main() -> None:
    asked = parser(__doc__).parse_args()
    points, lives = (100_000, 20) if asked.quick else (500_000, 300)
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as name:
        folder = Path(name)
        write_repository(folder / "shop", now_us=SystemClock().now_us())
        with FeatureStore(folder / "shop") as fs:
            found = bench_points(fs, folder, points)
            found += bench_life(fs, lives)
    report(found, asked)


if __name__ == "__main__":
    main()

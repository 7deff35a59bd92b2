"""What starting costs: importing, the command line, and a repository of a thousand views.

    python benchmarks/bench_start.py [--quick] [--json FILE]

Processes are compared with an interpreter that does nothing. The repository has views of ten
features, a file and a service for every ten views. `lookup` is the same request in process, in that
repository and in one that has nothing but its three views.
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

import pyarrow as pa
import pyarrow.parquet as pq
from results import RUNS, Result, median_s, parser, report

from featurestore import FeatureStore
from featurestore.timeline import SystemClock

LOOKUPS = 2_000
PEAK = """
import featurestore
lines = open("/proc/self/status").read().splitlines()
print(*[line.split()[1] for line in lines if line.startswith("VmHWM:")])
"""
DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

user = Entity("user", join_keys={{"user": "int64"}})
sources = [FileSource(f"source{{n}}", f"{{n}}.parquet", "at") for n in range({files})]
views = [
    FeatureView(
        f"view{{n}}", entities=[user], source=sources[n % {files}], ttl="7d",
        features=[Feature(f"view{{n}}_{{i}}", f"number{{i}} * {{n}} + 1") for i in range(10)],
    )
    for n in range({views})
]
services = [
    FeatureService(f"service{{n}}", features=views[n : n + 3]) for n in range(0, {views}, 10)
]
globals().update({{made.name: made for made in [*sources, *views, *services]}})
"""


def process_s(*command: str) -> float:
    """The median time of a process, after one to warm up."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def run() -> None:
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    run()
    return median_s(run, 5)


def bench_processes() -> list[Result]:
    bare = process_s(sys.executable, "-c", "pass")
    ours = process_s(sys.executable, "-c", "import featurestore")
    help_s = process_s(sys.executable, "-m", "featurestore", "--help")
    peak = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True)
    lines = [("import featurestore", ours, 0.3), ("featurestore --help", help_s, 0.5)]
    return [
        *(
            Result(
                job="start",
                setting=setting,
                ours=seconds,
                floor=bare,
                floor_name="python -c pass",
                unit="s",
                higher_is_better=False,
                limit=limit,
            )
            for setting, seconds, limit in lines
        ),
        Result(
            job="start",
            setting="import featurestore, peak memory",
            ours=int(peak.stdout) / 1024,
            unit="MB",
            higher_is_better=False,
            limit=60,
        ),
    ]


def make_repository(root: Path, views: int) -> None:
    files = max(1, views // 10)
    root.mkdir()
    (root / "featurestore.toml").write_text(f'[project]\nname = "bench{views}"\n')
    (root / "views.py").write_text(DEFINITIONS.format(files=files, views=views))
    now_us = SystemClock().now_us()
    table = pa.table(
        {
            "user": range(100),
            "at": pa.array([now_us - 1_000_000] * 100, pa.timestamp("us", tz="UTC")),
            **{f"number{i}": [float(n) for n in range(100)] for i in range(10)},
        }
    )
    for number in range(files):
        pq.write_table(table, root / f"{number}.parquet")


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def bench_repository(folder: Path, views: int) -> list[Result]:
    """Applying repositories that are new each time, and planning what is unchanged."""
    applies, plans = [], []
    for run in range(RUNS):
        root = folder / f"run{run}"
        make_repository(root, views)
        with FeatureStore(root) as store:
            applies.append(timed(store.apply))
        with FeatureStore(root) as store:
            plans.append(timed(store.plan))
            assert not store.plan().changes
    limits = {"apply": 10, "plan, unchanged": 2} if views == 1_000 else {}
    return [
        Result(
            job=job,
            setting=f"{views:,} views",
            ours=statistics.median(times),
            unit="s",
            higher_is_better=False,
            limit=limits.get(job),
        )
        for job, times in (("apply", applies), ("plan, unchanged", plans))
    ]


def bench_lookups(folder: Path, views: int) -> Result:
    """The same lookups in the large repository and in a small one, by turns."""
    make_repository(folder / "small", 3)
    stores = [FeatureStore(folder / "run0"), FeatureStore(folder / "small")]
    request = {"user": [7]}
    times: list[list[float]] = [[], []]
    for store in stores:
        store.apply()
        store.materialize(["view0", "view1", "view2"])
        answer = store.get_online_features("service0", request).to_dict()
        assert answer["view2_1"] == [15.0]
    for _ in range(RUNS):
        for store, found in zip(stores, times, strict=True):
            get = store.get_online_features
            found.append(timed(lambda g=get: [g("service0", request) for _ in range(LOOKUPS)]))
    for store in stores:
        store.close()
    large, small = (statistics.median(found) / LOOKUPS * 1e6 for found in times)
    return Result(
        job="lookup, 1 key × 30 features",
        setting=f"in a repository of {views:,} views",
        ours=large,
        floor=small,
        floor_name="of 3 views",
        unit="µs",
        higher_is_better=False,
        target=1.1,
    )


def main() -> None:
    asked = parser(__doc__).parse_args()
    views = 100 if asked.quick else 1_000
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as name:
        folder = Path(name)
        found = bench_processes()
        found += bench_repository(folder, views)
        found.append(bench_lookups(folder, views))
    report(found, asked)


if __name__ == "__main__":
    main()

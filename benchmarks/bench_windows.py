"""Windows of a training set beside hand-written DuckDB queries of the same answer, in one run.

    python benchmarks/bench_windows.py [--quick] [--json FILE]

5 windows × 4 functions (count, sum, mean, max) over a year of events of 1,000 keys, left ends on
hops. The floor is the faster of two forms: a union of events and requests with `RANGE` frames, and
a join of each request with the events of its longest window. The other lines are ours on data that
neither form is made for: 5 % of the rows known up to two days late (the join is right there, too),
and one key that has all events; both are held against the floor of plain data. Answers are
compared. Times are medians of three runs, ours and theirs in turn, after one to warm up.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import Result, parser, report

from featurestore import Aggregation, Entity, FeatureView, FileSource
from featurestore.compiler.resolve import resolve
from featurestore.config import OfflineSettings
from featurestore.definitions.repo import collect
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.jobs.project import files_of
from featurestore.jobs.training import RetrievalJob, retrieve
from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US

RUNS = 3
KEYS, LATE = 1_000, 0.05
YEAR_US = 365 * DAY_US
INSTANT = pa.timestamp("us", tz="UTC")
WINDOWS = {"1h": 5 * MINUTE_US, "6h": 5 * MINUTE_US, "24h": HOUR_US, "7d": HOUR_US, "30d": DAY_US}
LENGTHS = {"1h": HOUR_US, "6h": 6 * HOUR_US, "24h": DAY_US, "7d": 7 * DAY_US, "30d": 30 * DAY_US}
FUNCTIONS = ("count", "sum", "mean", "max")


# --- data -----------------------------------------------------------------------------------------


def write_data(folder: Path, events: int, requests: int, *, keys: int, late: float) -> Path:
    """`events.parquet` and `frame.parquet` in a folder of their own."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    at = rng.integers(0, YEAR_US, events)
    known = at + np.where(rng.random(events) < late, rng.integers(0, 2 * DAY_US, events), 0)
    table = pa.table(
        {
            "key": rng.integers(0, keys, events),
            "at": pa.array(at, INSTANT),
            "known": pa.array(known, INSTANT),
            "v": rng.random(events),
        }
    )
    pq.write_table(table, folder / "events.parquet", row_group_size=122_880)
    frame = pa.table(
        {
            "key": rng.integers(0, keys, requests),
            "event_timestamp": pa.array(rng.integers(30 * DAY_US, YEAR_US, requests), INSTANT),
        }
    )
    pq.write_table(frame, folder / "frame.parquet")
    return folder


# --- ours -----------------------------------------------------------------------------------------


def our_job(folder: Path, engine: DuckDBEngine) -> RetrievalJob:
    """The windows as definitions."""
    key = Entity("key", join_keys={"key": "int64"})
    events = FileSource("events", "events.parquet", "at", "known")
    view = FeatureView(
        "view", [key], events, [Aggregation("v", f, windows=list(WINDOWS)) for f in FUNCTIONS]
    )
    repo = resolve(
        collect([key, events, view]), {"events": files_of(events, folder).schema}, project="bench"
    )
    frame = pq.read_table(folder / "frame.parquet")
    return retrieve(frame, view, repo=repo, root=folder, engine=engine)


# --- by hand --------------------------------------------------------------------------------------


def columns(value: Callable[[str, str], str]) -> str:
    """All features; `value` gives the text of a function over a window."""
    named = {"count": "count(v)", "sum": "sum(v)", "mean": "avg(v)", "max": "max(v)"}
    items = [f"{value(named[f], w)} AS v_{f}_{w}" for f in FUNCTIONS for w in WINDOWS]
    return ", ".join(items)


def start(at: str, window: str) -> str:
    """The left end of a window."""
    hop = WINDOWS[window]
    return f"(({at} - {LENGTHS[window]}) // {hop} * {hop})"


def frames(folder: Path) -> str:
    """The frames of a union of both sides."""
    named = ", ".join(
        f"w{w} AS (PARTITION BY key ORDER BY x RANGE BETWEEN x - {start('x', w)} PRECEDING "
        "AND 1 PRECEDING)"
        for w in WINDOWS
    )
    text = columns(lambda function, w: f"{function} OVER w{w}")
    return (
        f"SELECT rn, {text} FROM ("
        f"SELECT key, epoch_us(\"at\") AS x, v, NULL AS rn FROM '{folder}/events.parquet' "
        "UNION ALL SELECT key, epoch_us(event_timestamp), NULL, row_number() OVER () "
        f"FROM '{folder}/frame.parquet') WINDOW {named} QUALIFY rn IS NOT NULL ORDER BY rn"
    )


def pairs(folder: Path) -> str:
    """Every request with every event of its longest window."""
    text = columns(lambda function, w: f"{function} FILTER (e >= s{w})")
    text = text.replace("count(v)", "count(e)")
    starts = ", ".join(f"{start('t', w)} AS s{w}" for w in WINDOWS)
    return (
        f"WITH frame AS MATERIALIZED (SELECT *, {starts} FROM (SELECT row_number() OVER () AS rn, "
        f"key, epoch_us(event_timestamp) AS t FROM '{folder}/frame.parquet')), "
        'events AS MATERIALIZED (SELECT key, epoch_us("at") AS e, epoch_us(known) AS c, v '
        f"FROM '{folder}/events.parquet') "
        f"SELECT rn, {text} FROM frame LEFT JOIN events ON frame.key = events.key "
        "AND e >= s30d AND e < t AND c <= t GROUP BY rn ORDER BY rn"
    )


FORMS: Mapping[str, Callable[[Path], str]] = {"frames": frames, "pairs": pairs}


# --- measuring ------------------------------------------------------------------------------------


def runner(form: str, folder: Path) -> Callable[[], pa.Table]:
    """What runs one form, or `ours`, on an engine of its own."""
    if form == "ours":
        engine = DuckDBEngine.open(OfflineSettings(), temp_directory=str(folder / "spill"))
        return lambda: our_job(folder, engine).to_arrow()
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    query = FORMS[form](folder)
    return lambda: connection.sql(query).to_arrow_table()


def measure(runs: Mapping[str, Callable[[], pa.Table]]) -> dict[str, float]:
    """Median seconds of each, after a run in which their answers are compared."""
    wanted: pa.Table | None = None
    for form, run in runs.items():
        found = run()
        wanted = found if wanted is None else wanted
        check(found, wanted, form)
    times: dict[str, list[float]] = {form: [] for form in runs}
    for _ in range(RUNS):
        for form, taken in times.items():
            begun = time.perf_counter()
            runs[form]()
            taken.append(time.perf_counter() - begun)
    return {form: statistics.median(taken) for form, taken in times.items()}


def check(found: pa.Table, wanted: pa.Table, form: str) -> None:
    """Raise `AssertionError` where two answers differ by more than rounding."""
    for function in FUNCTIONS:
        for window in WINDOWS:
            name = f"v_{function}_{window}"
            left, right = (
                np.asarray(t.column(name).fill_null(-1.0 if function != "count" else -1))
                for t in (found, wanted)
            )
            assert np.allclose(left, right, rtol=1e-9, atol=1e-12), f"{name} of {form} differs"


def line(setting: str, ours: float, floor: tuple[str, float], target: float, note: str) -> Result:
    name, floor_s = floor
    return Result(
        job="windows of a training set",
        setting=setting,
        ours=ours,
        floor=floor_s,
        floor_name=name,
        unit="s",
        higher_is_better=False,
        target=target,
        note=note,
    )


def main() -> None:
    """Measure, print, write."""
    asked = parser(__doc__).parse_args()
    events, requests = (200_000, 20_000) if asked.quick else (1_000_000, 100_000)
    size = f"{events:,} × {requests:,}"
    with tempfile.TemporaryDirectory(prefix="fs_windows_") as name:
        plain = write_data(Path(name) / "plain", events, requests, keys=KEYS, late=0)
        late = write_data(Path(name) / "late", events, requests, keys=KEYS, late=LATE)
        hot = write_data(Path(name) / "hot", events, requests, keys=1, late=0)
        both = write_data(Path(name) / "both", events, requests, keys=1, late=LATE)
        found = measure({form: runner(form, plain) for form in ("ours", *FORMS)})
        ours = found.pop("ours")
        best = min(found, key=lambda form: found[form])
        floor = (best, found[best])
        others = ", ".join(f"{form} {taken:.2f}" for form, taken in found.items() if form != best)
        of_late = measure({form: runner(form, late) for form in ("ours", "pairs")})
        note = f"pairs on the same rows {of_late['pairs']:.2f}"
        lines = [
            line(f"{size}, {KEYS:,} keys", ours, floor, 1.3, others),
            line(f"{size}, 5 % late", of_late["ours"], floor, 2.0, note),
        ]
        for setting, folder in (("one key", hot), ("one key, 5 % late", both)):
            taken = measure({"ours": runner("ours", folder)})["ours"]
            lines.append(line(f"{size}, {setting}", taken, floor, 3.0, ""))
    report(lines, asked)


if __name__ == "__main__":
    main()

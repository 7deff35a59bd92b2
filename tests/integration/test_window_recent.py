"""What a writer remembers of the states that it has written: nothing is read twice, and nothing is
lost or counted twice where other writers come in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US
from featurestore.compiler.window_rows import EVENT_ID, input_column, tie_column
from featurestore.jobs import window_recent, window_writer
from featurestore.jobs.online_tables import ensure_online_tables
from featurestore.jobs.window_writer import WindowWriter
from featurestore.stores.online.base import KeyFields, OnlineStore
from featurestore.timeline import MINUTE_US, SystemClock

DEFINITIONS = """
from featurestore import Aggregation, Entity, FeatureService, FeatureView, FileSource

plane = Entity("plane", join_keys={"plane": "int64"})
landings = FileSource("landings", path="landings.parquet", event_time="at", event_id="id")
history = FeatureView("history", entities=[plane], source=landings, features=[
    Aggregation("delay", "sum", windows=["1h", "7d"]),
    Aggregation("delay", "last", window="7d"),
])
windows = FeatureService("windows", features=[history])
"""
KEYS = 40
NOW_US = SystemClock().now_us()


class Counting:
    """Counts the keys that are read."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self.keys = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, reads: Sequence[KeyFields]) -> list[list[bytes | None]]:
        self.keys += len(reads)
        return self._store.read(reads)


class World(NamedTuple):
    """Two writers of one view, the first of which is watched, and what a plane's windows hold."""

    watched: Counting
    mine: WindowWriter
    other: WindowWriter
    sums: Callable[[], list[float]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "shop"\n')
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    columns = {
        "plane": pa.array([], pa.int64()),
        "at": pa.array([], pa.timestamp("us", tz="UTC")),
        "id": pa.array([], pa.string()),
        "delay": pa.array([], pa.float64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "landings.parquet")
    with FeatureStore(tmp_path) as fs:
        fs.apply()
        fs.materialize()
        context = fs._context()
        view = context.repo.views["history"]
        (table,) = ensure_online_tables(context.registry, [view]).values()
        watched = Counting(context.store)

        def sums() -> list[float]:
            asked = [{"plane": n} for n in range(KEYS)]
            found: list[float] = fs.get_online_features("windows", asked).to_dict()["delay_sum_7d"]
            return found

        yield World(
            watched,
            WindowWriter(replace(context, store=watched), view, table.field),  # type: ignore[arg-type]
            WindowWriter(context, view, table.field),
            sums,
        )


def rows(number: int, planes: Sequence[int]) -> pa.RecordBatch:
    """One event of each plane."""
    count = len(planes)
    at = [NOW_US - MINUTE_US + number] * count
    delays = pa.array([float(number)] * count)
    return pa.record_batch(
        {
            "plane": pa.array(planes, pa.int64()),
            EVENT_ID: pa.array([f"{number}-{plane}" for plane in planes]),
            tie_column(0): delays,
            input_column(0): delays,
            EVENT_US: pa.array(at, pa.int64()),
            CREATED_US: pa.array(at, pa.int64()),
            DELETED: pa.array([False] * count),
        }
    )


ALL = range(KEYS)


def test_what_was_written_is_not_read(world: World) -> None:
    for number in (1, 2, 4):
        assert world.mine.write(rows(number, ALL), now_us=NOW_US).added == KEYS
    assert world.watched.keys == KEYS
    assert world.mine.write(rows(4, ALL[::-1]), now_us=NOW_US).repeated == KEYS
    assert world.watched.keys == KEYS
    assert world.sums() == [7.0] * KEYS


def test_other_writers_in_between(world: World) -> None:
    world.mine.write(rows(1, ALL), now_us=NOW_US)
    world.other.write(rows(2, ALL[:5]), now_us=NOW_US)
    world.mine.write(rows(4, ALL), now_us=NOW_US)
    assert world.watched.keys == KEYS + 5
    # The five were written again by themselves, which is too few to be remembered.
    world.mine.write(rows(8, ALL), now_us=NOW_US)
    assert world.watched.keys == KEYS + 10
    assert world.sums() == [15.0] * 5 + [13.0] * (KEYS - 5)


def test_a_key_that_is_written_alone_is_read_again(world: World) -> None:
    world.mine.write(rows(1, ALL), now_us=NOW_US)
    world.mine.write(rows(2, [3]), now_us=NOW_US)
    world.mine.write(rows(4, ALL), now_us=NOW_US)
    assert world.watched.keys == KEYS + 2
    assert world.sums() == [5.0] * 3 + [7.0] + [5.0] * (KEYS - 4)


def test_it_rests_where_others_are_faster(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_recent, "REST_WRITES", 2)
    world.mine.write(rows(1, ALL), now_us=NOW_US)
    world.other.write(rows(2, ALL), now_us=NOW_US)
    world.mine.write(rows(4, ALL), now_us=NOW_US)
    assert world.watched.keys == 2 * KEYS
    world.mine.write(rows(8, ALL), now_us=NOW_US)
    assert world.watched.keys == 3 * KEYS
    for number in (16, 32):
        world.mine.write(rows(number, ALL), now_us=NOW_US)
    assert world.watched.keys == 4 * KEYS
    assert world.sums() == [63.0] * KEYS


def test_several_rounds_and_tables(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_writer, "KEYS_PER_ROUND", 7)
    monkeypatch.setattr(window_recent, "KEYS_MIN", 4)
    monkeypatch.setattr(window_recent, "TABLES_MAX", 4)
    for number, planes in enumerate((ALL, ALL[::-1], ALL[::2], [*ALL[10:], *ALL[:10]])):
        world.mine.write(rows(1 << number, planes), now_us=NOW_US)
    assert world.sums() == [15.0 if n % 2 == 0 else 11.0 for n in ALL]
    # What is beyond the limit has been forgotten and is read.
    assert KEYS < world.watched.keys < 3 * KEYS
    monkeypatch.setattr(window_recent, "ROWS_MAX", 0)
    world.mine.write(rows(16, ALL), now_us=NOW_US)
    read = world.watched.keys
    world.mine.write(rows(32, ALL), now_us=NOW_US)
    assert world.watched.keys == read + KEYS

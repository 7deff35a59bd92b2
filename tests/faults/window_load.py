"""Windows that are written while servers fail over: pushes of several stores at once, and a stream
that is ingested, events corrected and removed now and then; and what the oracle says of them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from cluster_servers import MASTERS, slot_ranges
from redis_servers import RedisServer

from featurestore import FeatureStore
from featurestore.dtypes import INT64
from featurestore.errors import StoreError, StoreTimeout, StoreUnavailable
from featurestore.stores.online.redis_slots import key_slot
from featurestore.testing.data import to_rows
from featurestore.testing.oracle import RowShape, settle_all
from featurestore.testing.oracle_windows import (
    History,
    Windowed,
    agrees,
    inputs_of,
    window_answer,
)
from featurestore.timeline import DAY_US, SystemClock, format_instant

PLANES, GATES = 12, 3
HORIZON_US = DAY_US
WEEK_US, HOUR_US = 7 * DAY_US, 3_600_000_000
STREAM = next(
    name for name in map("landings{}".format, range(1_000))
    if key_slot(name.encode()) <= slot_ranges(MASTERS)[0][1]
)  # fmt: skip
"""A stream that a cluster has on its first master."""
DEFINITIONS = """
from featurestore import Aggregation, Entity, FeatureService, FeatureView, StreamSource

plane = Entity("plane", join_keys={{"plane": "int64"}})
landings = StreamSource(
    "{url}/{stream}", name="landings", event_time="at", created_time="known_at", event_id="id",
    op="op", schema={{"plane": "int64", "at": "timestamp", "known_at": "timestamp", "id": "string",
                     "op": "string", "delay": "int64", "gate": "int64"}},
)
history = FeatureView(
    "history", entities=[plane], source=landings, correction_horizon="1d",
    features=[
        Aggregation("*", "count", window="7d"),
        Aggregation("delay", "sum", window="7d"),
        Aggregation("delay", "last", window="7d", hop="exact", name="newest"),
        Aggregation("delay", "sum", window="7d", by="gate", name="by_gate"),
    ],
)
model = FeatureService("model", features=[history])
"""
WINDOWS = {
    "count_7d": Windowed(function="count", window_us=WEEK_US, hop_us=HOUR_US),
    "delay_sum_7d": Windowed(
        function="sum", value="delay", dtype=INT64, window_us=WEEK_US, hop_us=HOUR_US
    ),
    "newest": Windowed(function="last", value="delay", dtype=INT64, window_us=WEEK_US),
    "by_gate": Windowed(
        function="sum", value="delay", dtype=INT64, window_us=WEEK_US, hop_us=HOUR_US, bucket="gate"
    ),
}
SHAPE = RowShape(
    keys=("plane",), event_time="at", created_time="known_at", op="op", tiebreak=("delay", "gate")
)


class WindowLoad:
    """A repository whose online store and stream are at `url`, and all rows that anybody was told
    to be taken (`rows`: of pushes those that were acknowledged, of the stream those that a replica
    has)."""

    def __init__(self, folder: Path, url: str, master: Callable[[], RedisServer]) -> None:
        self.folder = folder
        self.url = url
        self.master = master
        self.rows: list[dict[str, Any]] = []
        self.errors: list[StoreError] = []
        self.pushes = self.messages = 0
        self.clock = SystemClock()
        self._stop = threading.Event()
        self.failures: list[BaseException] = []
        folder.mkdir(exist_ok=True)
        (folder / "definitions.py").write_text(DEFINITIONS.format(url=url, stream=STREAM))
        (folder / "featurestore.toml").write_text(
            f'[project]\nname = "load"\n[online]\nurl = "{url}"\ntimeout_ms = 1000\n'
            "[offline]\nthreads = 1\n"
        )

    def open(self) -> FeatureStore:
        """A store with a write-ahead log of its own."""
        return FeatureStore(self.folder)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Writers push and send for as long as the block runs; then what was not acknowledged is
        sent until it is, and the stream is read to its end."""
        with self.open() as one, self.open() as other, self.open() as reader:
            one.apply()
            one.materialize()
            works = [
                lambda: self._push(one, "a"), lambda: self._push(one, "b"),
                lambda: self._push(other, "c"), self._send,
            ]  # fmt: skip
            threads = [threading.Thread(target=self._noted, args=(work,)) for work in works]
            ended = threading.Event()
            ingest = threading.Thread(
                target=self._noted, args=(lambda: reader.ingest(["landings"], stop=ended),)
            )
            for thread in (*threads, ingest):
                thread.start()
            try:
                yield
            finally:
                self._stop.set()
                for thread in threads:
                    thread.join()
                ended.set()
                ingest.join()
            self.raise_failures()
            reader.ingest(["landings"], until_empty=True)
        self.raise_failures()

    def raise_failures(self) -> None:
        """What ended a writer or the reader."""
        if self.failures:
            raise self.failures[0]

    def _noted(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised where the test sees it
            self.failures.append(error)

    def _events(self, writer: str) -> Iterator[list[dict[str, Any]]]:
        """Some events at a time; of older ones corrections and removals."""
        dice, old = random.Random(writer), list[dict[str, Any]]()
        while not self._stop.is_set():
            now = self.clock.now_us()
            fresh = [
                {
                    "plane": dice.randrange(PLANES), "at": now - dice.randrange(DAY_US),
                    "known_at": now, "id": f"{writer}{len(old) + n}", "op": "U",
                    "delay": dice.randrange(-50, 1_000), "gate": dice.randrange(GATES),
                }
                for n in range(4)
            ]  # fmt: skip
            changed = {
                row["id"]: row | {
                    "known_at": now, "delay": dice.randrange(1_000), "op": dice.choice("UUD"),
                }
                for row in dice.sample(old, min(len(old), 2))
            }  # fmt: skip
            old = [changed.get(row["id"], row) for row in old] + fresh
            yield [*fresh, *changed.values()]

    def _push(self, fs: FeatureStore, writer: str) -> None:
        for rows in self._events(writer):
            while True:
                try:
                    result = fs.push("landings", [_shown(row) for row in rows])
                    break
                except (StoreUnavailable, StoreTimeout) as error:
                    self.errors.append(error)
                    time.sleep(0.05)
            assert (result.rows, result.dead) == (len(rows), ())
            self.rows += rows
            self.pushes += 1

    def _send(self) -> None:
        """Messages that a replica has: what only a master had is lost with it, and is the sender's
        to send again."""
        for rows in self._events("s"):
            for row in rows:
                while not self._sent(json.dumps(_shown(row))):
                    time.sleep(0.05)
                self.rows.append(row)
                self.messages += 1

    def _sent(self, message: str) -> bool:
        try:
            return self.master().send_safely("XADD", STREAM, "*", "json", message)
        except (OSError, LookupError, StopIteration):
            return False  # nobody is the master just now

    # --- what is right ----------------------------------------------------------------------------

    def check(self) -> None:
        """Online and offline are the oracle's, to the event."""
        history = History(
            rows=settle_all(self.rows, SHAPE), event_id="id", correction_horizon_us=HORIZON_US
        )
        planes = list(range(PLANES))
        with self.open() as fs:
            online = fs.get_online_features("model", {"plane": planes})
            at_us = online.request_time_us
            at = pa.array([at_us] * PLANES, pa.timestamp("us", "UTC"))
            frame = pa.table({"plane": planes, "event_timestamp": at})
            offline = fs.get_historical_features(frame, "model").to_arrow()
        for plane, served, trained in zip(
            planes, to_rows(online.to_arrow()), to_rows(offline), strict=True
        ):
            events = history.events((plane,), at_us)
            wanted = window_answer(history, (plane,), at_us, WINDOWS).values
            for name, window in WINDOWS.items():
                inputs = inputs_of(events, at_us, window, "id")
                for side, found in (("online", served), ("offline", trained)):
                    assert agrees(found[name], wanted[name], inputs, window), (
                        f"{side} {name} of {plane} is {found[name]}, not {wanted[name]}"
                    )


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: format_instant(row[name]) for name in ("at", "known_at")}

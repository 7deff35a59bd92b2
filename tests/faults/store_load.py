"""Mixed load on an online store, every answer of which is checked.

Versions of each key only grow. A writer notes what it is about to write, and what was acknowledged.
So an answered read is right if it is no older than what was acknowledged before it began, and no
newer than what anybody has begun to write; and if the row is that key's own.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from patience import ALONE, WAITS_S_MAX

from featurestore.errors import FeatureStoreError, ServerTimeout, StoreTimeout
from featurestore.stores.online.base import KeyFields, OnlineStore, RowBatch
from featurestore.testing.online_rows import FIELD, PREFIX, row
from featurestore.wire.rows import row_head

KEYS = 60
KEYS_PER_CALL = 20
PAUSE_S = 0.003
LATE: set[type[FeatureStoreError]] = set() if ALONE else {StoreTimeout, ServerTimeout}
"""What says nothing about the store where the machine is busy with other tests."""

Read = Callable[[Sequence[int]], list[int | None]]
"""Reads keys by number; returns their versions, None where there is no row."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: when it began and ended (of `time.monotonic`), and what it raised."""

    kind: str
    began: float
    ended: float
    error: FeatureStoreError | None


@dataclass
class Load:
    """What was written and acknowledged of each key, and all calls in the order they ended."""

    kinds: set[str] = field(default_factory=set)
    broken: BaseException | None = None
    calls: list[Call] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=lambda: [0] * KEYS)
    begun: list[int] = field(default_factory=lambda: [0] * KEYS)

    def errors(self, kind: str = "", *, since: float = 0.0) -> list[FeatureStoreError]:
        """What was raised by calls that began after `since`."""
        return [
            call.error
            for call in self.calls
            if call.error is not None and call.began >= since and call.kind.startswith(kind)
        ]

    def slowest_s(self) -> float:
        """The longest that a call took."""
        return max(call.ended - call.began for call in self.calls)

    def wait_for_success(self, since: float) -> float:
        """Wait until a call of each kind that began after `since` has succeeded; returns how long
        after `since` the last of them ended."""
        until = time.monotonic() + WAITS_S_MAX
        while True:
            ended: dict[str, float] = {}
            for call in self.calls[:]:
                if call.error is None and call.began >= since:
                    ended.setdefault(call.kind, call.ended)
            if ended.keys() == self.kinds:
                return max(ended.values()) - since
            if self.broken is not None:
                raise self.broken
            missing = self.kinds - ended.keys()
            assert time.monotonic() < until, (missing, self.errors()[-3:])
            time.sleep(0.01)

    def settle(self, seconds: float) -> None:
        """Go on for some time and see that nothing fails any more (on a busy machine a call may
        still be late)."""
        since = time.monotonic()
        time.sleep(seconds)
        assert self.raised(since=since) == set()

    def raised(self, kind: str = "", *, since: float = 0.0) -> set[type[FeatureStoreError]]:
        """What calls raised that not only a busy machine can cause."""
        return {type(error) for error in self.errors(kind, since=since)} - LATE

    def _checked_read(self, kind: str, read: Read, numbers: Sequence[int]) -> None:
        floor = [self.acknowledged[number] for number in numbers]
        found = self._timed(kind, lambda: read(numbers))
        for number, least, version in zip(numbers, floor, found or (), strict=bool(found)):
            if version is None or not least <= version <= self.begun[number]:
                most = self.begun[number]
                self.wrong.append(f"{kind}: key {number}: {least} <= {version} <= {most}")

    def _timed(self, kind: str, call: Callable[[], list[int | None]]) -> list[int | None] | None:
        began, error, found = time.monotonic(), None, None
        try:
            found = call()
        except FeatureStoreError as raised:
            error = raised
        self.calls.append(Call(kind, began, time.monotonic(), error))
        return found


def store_key(number: int) -> bytes:
    """The store key with this number."""
    return PREFIX + b"load-%d" % number


def version_row(number: int, version: int) -> bytes:
    """The row of a version; its text is the key's own."""
    return row(version, text=f"key {number}")


def read_versions(found: Sequence[list[bytes | None]], numbers: Sequence[int]) -> list[int | None]:
    """The versions of rows that were read; raises where a row is another key's."""
    versions: list[int | None] = []
    for number, (stored,) in zip(numbers, found, strict=True):
        versions.append(None if stored is None else row_head(stored)[0])
        assert stored in (None, version_row(number, versions[-1] or 0))
    return versions


def reads_of(numbers: Sequence[int]) -> list[KeyFields]:
    """The reads of keys by number."""
    return [KeyFields(store_key(number), (FIELD,)) for number in numbers]


class _Worker(threading.Thread):
    """Does one thing until it is told to stop; what it should not raise ends the test."""

    def __init__(self, load: Load, work: Callable[[random.Random], None], seed: int) -> None:
        super().__init__()
        self._load = load
        self._work = work
        self._chance = random.Random(seed)
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            while not self.stop.wait(PAUSE_S):
                self._work(self._chance)
        except BaseException as error:  # noqa: BLE001 (raised again by `under_load`)
            self._load.broken = error


@contextmanager
def under_load(
    open_store: Callable[[], OnlineStore],
    *,
    write_row: Callable[[OnlineStore, Sequence[int], Sequence[int]], None] | None = None,
    other_reads: dict[str, Read] | None = None,
    reads: bool = True,
    writers: int = 1,
) -> Iterator[Load]:
    """Load on a store by blocking and asynchronous readers and by writers, each with keys of its
    own, until the block ends. Then asserts that no answer was wrong."""
    load = Load()
    with ExitStack() as stack:
        store = stack.enter_context(open_store())
        put = write_row or _put
        put(store, range(KEYS), [0] * KEYS)
        works = [_writer(load, store, put, share, writers) for share in range(writers)]
        readers = dict(other_reads or {})
        if reads:
            readers["read"] = lambda numbers: read_versions(store.read(reads_of(numbers)), numbers)
            readers["async"] = stack.enter_context(_async_reads(store))
        load.kinds = {"write", *readers}
        works += [_reader(load, kind, read) for kind, read in readers.items()]
        workers = [_Worker(load, work, seed) for seed, work in enumerate(works)]
        for worker in workers:
            worker.start()
        try:
            load.wait_for_success(time.monotonic())
            yield load
        finally:
            for worker in workers:
                worker.stop.set()
            for worker in workers:
                worker.join()
    if load.broken is not None:
        raise load.broken
    assert load.wrong == []


def _put(store: OnlineStore, numbers: Sequence[int], versions: Sequence[int]) -> None:
    rows = [version_row(number, v) for number, v in zip(numbers, versions, strict=True)]
    store.write(RowBatch(field=FIELD, keys=[store_key(n) for n in numbers], rows=rows))


def _writer(
    load: Load,
    store: OnlineStore,
    put: Callable[[OnlineStore, Sequence[int], Sequence[int]], None],
    share: int,
    writers: int,
) -> Callable[[random.Random], None]:
    mine = range(share, KEYS, writers)

    def work(chance: random.Random) -> None:
        numbers = chance.sample(mine, min(KEYS_PER_CALL, len(mine)))
        versions = [load.begun[number] + 1 for number in numbers]
        for number, version in zip(numbers, versions, strict=True):
            load.begun[number] = version

        def call() -> list[int | None]:
            put(store, numbers, versions)
            return []

        if load._timed("write", call) is not None:
            for number, version in zip(numbers, versions, strict=True):
                load.acknowledged[number] = version

    return work


def _reader(load: Load, kind: str, read: Read) -> Callable[[random.Random], None]:
    def work(chance: random.Random) -> None:
        load._checked_read(kind, read, chance.sample(range(KEYS), KEYS_PER_CALL))

    return work


@contextmanager
def _async_reads(store: OnlineStore) -> Iterator[Read]:
    """Reads through an event loop that lives as long as the block, as a server's does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def read(numbers: Sequence[int]) -> list[int | None]:
        many = asyncio.run_coroutine_threadsafe(store.read_async(reads_of(numbers)), loop)
        return read_versions(many.result(), numbers)

    try:
        yield read
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

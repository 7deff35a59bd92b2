"""What many threads, processes, tasks and forked children may do to one online store at once."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from featurestore.errors import StoreTimeout
from featurestore.stores.online.base import (
    KeyFields,
    OnlineStore,
    RowBatch,
)
from featurestore.testing.online_rows import (
    FIELD,
    OTHER_FIELD,
    OnlineStoreOpener,
    get,
    numbered,
    put,
    row,
    rows,
)
from featurestore.wire.rows import row_head


def write_shuffled(opener: OnlineStoreOpener, seed: int, keys: list[bytes], top: int) -> None:
    """Write versions 0 to `top` of every key in an order of one's own, one batch per version."""
    order = list(range(top + 1))
    random.Random(seed).shuffle(order)  # noqa: S311 (no secret)
    with opener.open() as store:
        for version in order:
            store.write(RowBatch(field=FIELD, keys=keys, rows=[row(version)] * len(keys)))


class OnlineCrowds:
    """Many callers at once. Mixed into `OnlineStoreContract`; needs its fixtures."""

    def test_threads_that_write_the_same_keys_end_at_the_newest(
        self, opener: OnlineStoreOpener, store: OnlineStore
    ) -> None:
        keys = numbered(50)
        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(write_shuffled, opener, s, keys, 20) for s in range(8)]:
                done.result()
        assert store.read([KeyFields(key, (FIELD,)) for key in keys]) == [[row(20)]] * 50

    @pytest.mark.slow
    def test_processes_that_write_the_same_keys_end_at_the_newest(
        self, opener: OnlineStoreOpener, store: OnlineStore
    ) -> None:
        keys = numbered(50)
        put(store, keys[0], row(-1))
        with ProcessPoolExecutor(4, mp_context=get_context("forkserver")) as processes:
            jobs = [processes.submit(write_shuffled, opener, s, keys, 50) for s in range(4)]
            seen = -1
            while not all(job.done() for job in jobs):
                found = get(store, keys[0])
                assert found is not None
                event_us, _ = row_head(found)
                assert event_us >= seen
                seen = event_us
                time.sleep(0.001)  # leave the machine to the writers
            for job in jobs:
                job.result()
        assert store.read([KeyFields(key, (FIELD,)) for key in keys]) == [[row(50)]] * 50

    def test_one_store_object_serves_many_threads(self, store: OnlineStore) -> None:
        keys = numbered(200)
        values = rows([(i, i, f"text {i}") for i in range(200)])
        store.write(RowBatch(field=FIELD, keys=keys, rows=values))

        def check(seed: int) -> bool:
            order = random.Random(seed).sample(range(200), 100)  # noqa: S311 (no secret)
            put(store, keys[0], row(1_000 + seed))
            return all(get(store, keys[i]) == values[i] for i in order if i)

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(check, range(40)))
        assert get(store, keys[0]) == row(1_039)

    def test_async_reads_are_reads(self, store: OnlineStore) -> None:
        keys = numbered(100)
        values = rows([(i, i, f"text {i}") for i in range(100)])
        store.write(RowBatch(field=FIELD, keys=keys, rows=values))

        async def one(i: int) -> bool:
            asked = [KeyFields(keys[i], (FIELD, OTHER_FIELD)), KeyFields(keys[-1 - i], (FIELD,))]
            return await store.read_async(asked) == [[values[i], None], [values[-1 - i]]]

        async def many() -> list[bool]:
            return await asyncio.gather(*(one(i % 100) for i in range(1_000)))

        assert all(asyncio.run(many()))
        # Another loop, the same store.
        assert all(asyncio.run(many()))

    def test_reads_without_a_task_are_reads(self, store: OnlineStore) -> None:
        keys = numbered(50)
        values = rows([(i, i, f"text {i}") for i in range(50)])
        store.write(RowBatch(field=FIELD, keys=keys[1:], rows=values[1:]))
        reads = [[KeyFields(key, (FIELD, OTHER_FIELD))] for key in keys]

        async def main() -> None:
            loop = asyncio.get_running_loop()
            await store.read_async(reads[0])
            asked = [(i, loop.create_future()) for i in range(50)]
            taken = [
                (i, answer)
                for i, answer in asked
                if store.read_soon(reads[i], answer, timeout_ms=30_000)
            ]
            # A store takes what it can, and answers all that it took.
            for i, answer in taken:
                assert await answer == [[values[i] if i else None, None]]
            assert not any(answer.done() for i, answer in asked if (i, answer) not in taken)

        asyncio.run(main())

    def test_a_cancelled_read_leaves_the_others_in_order(self, store: OnlineStore) -> None:
        keys = numbered(50)
        values = rows([(i, i, f"text {i}") for i in range(50)])
        store.write(RowBatch(field=FIELD, keys=keys, rows=values))

        async def main() -> list[list[list[bytes | None]] | BaseException]:
            tasks = [
                asyncio.create_task(store.read_async([KeyFields(key, (FIELD,))])) for key in keys
            ]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

        for i, found in enumerate(asyncio.run(main())):
            if i % 2:
                assert found == [[values[i]]]

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_and_its_parent_go_on(self, store: OnlineStore) -> None:
        key, child_key = numbered(2)
        put(store, key, row(1))
        assert get(store, key) == row(1)
        child = os.fork()
        if child == 0:
            works = False
            try:
                put(store, child_key, row(7))
                works = get(store, key) is not None and get(store, child_key) == row(7)
            finally:
                os._exit(0 if works else 1)
        for version in range(2, 30):
            put(store, key, row(version))
            assert get(store, key) == row(version)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert get(store, child_key) == row(7)

    def test_a_deadline_is_kept_or_the_answer_is_right(self, store: OnlineStore) -> None:
        keys = numbered(5_000)
        values = rows([(i, i, f"text {i}") for i in range(len(keys))])
        store.write(RowBatch(field=FIELD, keys=keys, rows=values))
        reads, expected = [KeyFields(key, (FIELD,)) for key in keys], [[value] for value in values]
        calls: tuple[Callable[[int], list[list[bytes | None]]], ...] = (
            lambda limit_ms: store.read(reads, timeout_ms=limit_ms),
            lambda limit_ms: asyncio.run(store.read_async(reads, timeout_ms=limit_ms)),
        )
        for call in calls:
            for limit_ms in (1, 2, 5, 30_000):
                begun = time.monotonic()
                try:
                    assert call(limit_ms) == expected
                except StoreTimeout:
                    assert limit_ms < 30_000
                    # Generous: what is late is the machine, not the store.
                    assert time.monotonic() - begun < 20.0
            # What came too late is nobody's answer.
            assert get(store, keys[7]) == values[7]

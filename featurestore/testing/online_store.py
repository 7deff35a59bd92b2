"""The contract of every online store, as a pytest suite.

A store's test file gives the fixture `opener` and inherits the rest::

    class TestMyStore(OnlineStoreContract):
        @pytest.fixture
        def opener(self, tmp_path: Path) -> OnlineStoreOpener:
            return OnlineStoreOpener(MyStore, "my://store", tmp_path)
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pytest

from featurestore.config import OnlineSettings
from featurestore.dtypes import STRING
from featurestore.errors import LimitExceeded, StoreReadOnly, StoreTimeout
from featurestore.stores.online.base import (
    KEY_BYTES_MAX,
    ROWS_PER_WRITE_MAX,
    KeyFields,
    OnlineStore,
    RowBatch,
    Tie,
    WriteResult,
)
from featurestore.testing.online_swaps import OnlineSwapContract
from featurestore.wire.rows import RowLayout, encode_rows, key_prefix, row_head

FIELD, OTHER_FIELD, THIRD_FIELD = b"field--1", b"\0\xff\r\n *\t\x80", b"field--3"
LAYOUT = RowLayout((("text", STRING),), 0xFEED)
PREFIX = key_prefix("shop", "plane")
HOUR_US = 3_600_000_000

HOSTILE_KEYS = {
    "empty": b"",
    "nul": b"\0",
    "nuls": b"\0" * 40,
    "colon": b"a:b::",
    "slash": b"a/b//fs/",
    "glob": b"*?[a-z]\\{}",
    "line-end": b"\r\n$3\r\nGET\r\n",
    "not-ascii": "größe-😀".encode(),
    "not-utf8": b"\xff\xfe\x80",
    "493-bytes": b"k" * 493,
    "around-500-bytes": b"k" * 500,
    "600-bytes": b"k" * 600,
    "1-MB": b"k" * 2**20,
}

# Each pair: a later instant and an earlier one that differ where numbers are cut in halves, go
# through doubles, or leave what a calendar shows.
YEAR_9999_ENDS_US = 253_402_300_799_999_999
INSTANTS = [
    (1, 0),
    (0, -1),
    (2**31, 2**31 - 1),
    (2**32, 2**32 - 1),
    (-(2**32), -(2**32) - 1),
    (-1, -(2**32)),
    (2**53 + 1, 2**53),
    (YEAR_9999_ENDS_US, YEAR_9999_ENDS_US - 1),
    (YEAR_9999_ENDS_US + 1, YEAR_9999_ENDS_US),
    (2**63 - 1, 2**63 - 2),
    (-(2**63) + 1, -(2**63)),
    (2**63 - 1, -(2**63)),
    (-62_135_596_800_000_000, -62_135_596_800_000_001),
]


@dataclass(frozen=True, slots=True)
class OnlineStoreOpener:
    """How to open one and the same, at first empty, store again: from a test, a thread or another
    process."""

    store: type[OnlineStore]
    url: str
    root: Path

    def open(self, *, read_only: bool = False) -> OnlineStore:
        """A store object of its own on the data."""
        # The tests of deadlines set their own; a machine under load must not fail the others.
        settings = OnlineSettings(url=self.url, timeout_ms=30_000, map_size_mb=1)
        return self.store.open(settings, root=self.root, read_only=read_only)


def row(event_us: int, created_us: int | None = None, text: str | None = "") -> bytes:
    """A row of one text with these times."""
    return rows([(event_us, event_us if created_us is None else created_us, text)])[0]


def rows(times_and_texts: Sequence[tuple[int, int, str | None]]) -> list[bytes]:
    """Rows of one text each: (event time, created time, text)."""
    events, created, texts = zip(*times_and_texts, strict=True)
    return encode_rows(LAYOUT, events, created, [pa.array(texts, pa.string())])


def tombstone(event_us: int) -> bytes:
    """The row of a deleted key."""
    return encode_rows(LAYOUT, [event_us], [event_us], [pa.array([""])], [True])[0]


def numbered(count: int, *, prefix: bytes = PREFIX) -> list[bytes]:
    """`count` different keys."""
    return [prefix + b"key-%d" % i for i in range(count)]


def put(
    store: OnlineStore, key: bytes, value: bytes, *, field: bytes = FIELD, until: int | None = None
) -> WriteResult:
    """Write one row."""
    expiry = None if until is None else [until]
    return store.write(RowBatch(field=field, keys=[key], rows=[value], expire_at_us=expiry))


def get(store: OnlineStore, key: bytes, field: bytes = FIELD) -> bytes | None:
    """Read one row."""
    return store.read([KeyFields(key, (field,))])[0][0]


def now_us() -> int:
    """The machine's clock."""
    return time.time_ns() // 1000


def write_shuffled(opener: OnlineStoreOpener, seed: int, keys: list[bytes], top: int) -> None:
    """Write versions 0 to `top` of every key in an order of one's own, one batch per version."""
    order = list(range(top + 1))
    random.Random(seed).shuffle(order)  # noqa: S311 (no secret)
    with opener.open() as store:
        for version in order:
            store.write(RowBatch(field=FIELD, keys=keys, rows=[row(version)] * len(keys)))


class OnlineStoreContract(OnlineSwapContract):
    """What every online store does. Subclasses give the fixture `opener`."""

    @pytest.fixture
    def store(self, opener: OnlineStoreOpener) -> Iterator[OnlineStore]:
        """A store that may write, closed with the test."""
        with opener.open() as opened:
            yield opened

    # --- reads ------------------------------------------------------------------------------------

    def test_what_was_never_written_is_absent(self, store: OnlineStore) -> None:
        assert store.read([]) == []
        assert store.read([KeyFields(PREFIX, (FIELD, OTHER_FIELD))]) == [[None, None]]
        assert get(store, PREFIX + b"k" * 2000) is None

    def test_rows_come_in_the_order_of_the_request_repeats_included(
        self, store: OnlineStore
    ) -> None:
        keys = numbered(20)
        values = rows([(i, i, f"text {i}") for i in range(20)])
        store.write(RowBatch(field=FIELD, keys=keys, rows=values))
        asked = [3, 19, 3, 0, 7, 7, 7, 1]
        found = store.read([KeyFields(keys[i], (FIELD,)) for i in asked])
        assert found == [[values[i]] for i in asked]

    def test_absent_rows_keep_their_place(self, store: OnlineStore) -> None:
        keys = numbered(3)
        put(store, keys[1], row(1))
        reads = [KeyFields(key, (OTHER_FIELD, FIELD)) for key in keys]
        assert store.read(reads) == [[None, None], [None, row(1)], [None, None]]

    def test_fields_of_a_key_stand_side_by_side(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        for i, field in enumerate((FIELD, OTHER_FIELD, THIRD_FIELD)):
            put(store, key, row(i), field=field)
        asked = (THIRD_FIELD, FIELD, b"absent--", OTHER_FIELD, FIELD)
        assert store.read([KeyFields(key, asked)]) == [[row(2), row(0), None, row(1), row(0)]]

    def test_a_read_of_no_fields_is_empty(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(1))
        mixed = [KeyFields(key, ()), KeyFields(key, (FIELD,)), KeyFields(key, ())]
        assert store.read(mixed) == [[], [row(1)], []]
        assert store.read([KeyFields(key, ())]) == [[]]
        assert asyncio.run(store.read_async(mixed)) == [[], [row(1)], []]
        assert asyncio.run(store.read_async([])) == []

    def test_ten_thousand_keys_at_once_are_ten_thousand_reads(self, store: OnlineStore) -> None:
        keys = numbered(10_000)
        values = rows([(i, i, f"text {i}") for i in range(len(keys))])
        result = store.write(RowBatch(field=FIELD, keys=keys, rows=values))
        assert result == WriteResult(written=10_000, same=0, older=0)
        reads = [KeyFields(key, (FIELD,)) for key in keys]
        found = store.read(reads)
        assert found == [[value] for value in values]
        assert asyncio.run(store.read_async(reads)) == found
        for i in range(0, len(keys), 997):
            assert store.read([reads[i]]) == [found[i]]

    @pytest.mark.parametrize("key", HOSTILE_KEYS.values(), ids=HOSTILE_KEYS)
    def test_hostile_keys(self, store: OnlineStore, key: bytes) -> None:
        near = [PREFIX + key + b"x", PREFIX + key[:-1] + b"y", PREFIX + key + FIELD]
        put(store, PREFIX + key, row(5, text="mine"))
        assert get(store, PREFIX + key) == row(5, text="mine")
        for other in near:
            assert get(store, other) is None
            put(store, other, row(9, text="other"))
        assert put(store, PREFIX + key, row(5, text="mine")).same == 1
        assert put(store, PREFIX + key, row(4)).older == 1
        assert put(store, PREFIX + key, row(6, text="new")).written == 1
        assert get(store, PREFIX + key) == row(6, text="new")
        assert get(store, PREFIX + key, OTHER_FIELD) is None

    def test_a_key_and_a_field_do_not_run_into_each_other(self, store: OnlineStore) -> None:
        put(store, PREFIX + FIELD, row(1), field=OTHER_FIELD)
        assert get(store, PREFIX, FIELD) is None
        assert get(store, PREFIX + FIELD + OTHER_FIELD, FIELD) is None

    def test_large_rows(self, store: OnlineStore) -> None:
        keys = numbered(4)
        values = [row(1, text=letter * 3_000_000) for letter in "abcd"]
        store.write(RowBatch(field=FIELD, keys=keys, rows=values))
        assert store.read([KeyFields(key, (FIELD,)) for key in keys]) == [[v] for v in values]

    # --- conditional writes -----------------------------------------------------------------------

    def test_an_empty_batch(self, store: OnlineStore) -> None:
        empty = RowBatch(field=FIELD, keys=[], rows=[])
        assert store.write(empty) == WriteResult(written=0, same=0, older=0)

    @pytest.mark.parametrize(("later", "earlier"), INSTANTS)
    def test_the_later_event_wins_in_whatever_order(
        self, store: OnlineStore, later: int, earlier: int
    ) -> None:
        up, down = numbered(2)
        # The created times point the other way: they decide only between equal event times.
        new, old = row(later, 0), row(earlier, 7)
        assert put(store, up, old).written == put(store, up, new).written == 1
        assert put(store, down, new).written == put(store, down, old).older == 1
        assert get(store, up) == get(store, down) == new

    @pytest.mark.parametrize(("later", "earlier"), INSTANTS)
    def test_among_equal_events_the_later_created_wins(
        self, store: OnlineStore, later: int, earlier: int
    ) -> None:
        up, down = numbered(2)
        new, old = row(5, later), row(5, earlier)
        assert put(store, up, old).written == put(store, up, new).written == 1
        assert put(store, down, new).written == put(store, down, old).older == 1
        assert get(store, up) == get(store, down) == new

    def test_the_newest_of_one_batch_wins(self, store: OnlineStore) -> None:
        up, down = numbered(2)
        versions = [row(i) for i in range(5)]
        keys = [up] * 5 + [down] * 5
        result = store.write(RowBatch(field=FIELD, keys=keys, rows=versions + versions[::-1]))
        assert result == WriteResult(written=6, same=0, older=4)
        assert get(store, up) == get(store, down) == versions[4]

    def test_equal_times_with_other_bytes_are_ties_for_the_writer(self, store: OnlineStore) -> None:
        keys = numbered(1_500)
        first = rows([(5, 6, f"first {i}") for i in range(len(keys))])
        second = [*first]
        tied = [0, 3, 499, 500, 1_499]
        for i in tied:
            second[i] = row(5, 6, "second")
        store.write(RowBatch(field=FIELD, keys=keys, rows=first))
        result = store.write(RowBatch(field=FIELD, keys=keys, rows=second))
        ties = tuple(Tie(i, first[i]) for i in tied)
        assert result == WriteResult(written=0, same=1_495, older=0, ties=ties)
        assert [get(store, keys[i]) for i in tied] == [first[i] for i in tied]

    def test_ties_within_one_batch(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        result = store.write(
            RowBatch(field=FIELD, keys=[key, key], rows=[row(1, text="a"), row(1, text="b")])
        )
        assert result == WriteResult(written=1, same=0, older=0, ties=(Tie(1, row(1, text="a")),))

    def test_replace_is_compare_and_set(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        a, b, c = (row(1, text=text) for text in "abc")

        def swap(expected: bytes, new: bytes) -> bool:
            return store.replace(FIELD, key, expected=expected, row=new, expire_at_us=None)

        assert not swap(a, b)
        assert get(store, key) is None
        put(store, key, a)
        assert not swap(b, c)
        assert swap(a, b)
        assert not swap(a, c)
        assert get(store, key) == b
        assert get(store, key, OTHER_FIELD) is None

    @pytest.mark.parametrize("key", ["empty", "not-utf8", "493-bytes", "600-bytes", "1-MB"])
    def test_delete_is_compare_and_delete(self, store: OnlineStore, key: str) -> None:
        """Only the row that was seen goes, and nothing beside it; a key may come back."""
        place, seen, newer = PREFIX + HOSTILE_KEYS[key], row(5, text="seen"), row(6, text="newer")
        assert not store.delete(FIELD, place, expected=seen), "nothing is there"
        put(store, place, seen)
        put(store, place, seen, field=OTHER_FIELD)
        put(store, place + b"?", seen)
        assert not store.delete(FIELD, place, expected=newer)
        assert get(store, place) == seen
        assert store.delete(FIELD, place, expected=seen)
        assert get(store, place) is None
        assert not store.delete(FIELD, place, expected=seen), "it is gone"
        assert get(store, place, OTHER_FIELD) == seen
        assert get(store, place + b"?") == seen
        assert put(store, place, row(1, text="older")).written == 1
        assert store.delete(OTHER_FIELD, place, expected=seen)

    def test_one_replacer_wins(self, opener: OnlineStoreOpener, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(1, text="old"))

        def race(number: int) -> bool:
            with opener.open() as mine:
                new = row(1, text=str(number))
                return mine.replace(
                    FIELD, key, expected=row(1, text="old"), row=new, expire_at_us=None
                )

        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(race, range(8)))
        assert won.count(True) == 1
        assert get(store, key) == row(1, text=str(won.index(True)))

    def test_tombstones_compete_like_rows(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(1))
        assert put(store, key, tombstone(2)).written == 1
        assert put(store, key, row(1)).older == 1
        assert get(store, key) == tombstone(2)
        assert put(store, key, row(3)).written == 1
        assert put(store, key, tombstone(2)).older == 1
        assert get(store, key) == row(3)

    def test_what_is_no_row_loses_to_any(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, b"short")
        assert put(store, key, row(-(2**63))).written == 1
        assert get(store, key) == row(-(2**63))

    def test_a_field_written_does_not_touch_another(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(9), field=FIELD)
        assert put(store, key, row(1), field=OTHER_FIELD).written == 1
        assert store.read([KeyFields(key, (FIELD, OTHER_FIELD))]) == [[row(9), row(1)]]

    def test_limits_have_names(self, store: OnlineStore) -> None:
        with pytest.raises(LimitExceeded, match="KEY_BYTES_MAX"):
            put(store, b"k" * (KEY_BYTES_MAX + 1), row(1))
        count = ROWS_PER_WRITE_MAX + 1
        with pytest.raises(LimitExceeded, match="ROWS_PER_WRITE_MAX"):
            store.write(RowBatch(field=FIELD, keys=[PREFIX] * count, rows=[row(1)] * count))

    @pytest.mark.parametrize("until", [None, 4_000_000_000_000_000])
    @pytest.mark.parametrize("every", [1, 3, 700])
    def test_a_large_batch_decides_row_by_row(
        self, store: OnlineStore, every: int, until: int | None
    ) -> None:
        """Stores may write what is new in another way than what is there already: every so many
        keys have a row that is older, the same, newer or tied; two keys come twice."""
        keys, new = numbered(3_000), row(5, 5, "new")
        old = [row(4, 9, "old"), new, row(5, 6, "old"), row(5, 5, "old")]
        there = {key: old[i % 4] for i, key in enumerate(keys[every // 2 :: every])}
        self._write_all(store, there, until)
        twice = [keys[every // 2 + 1], keys[-1]]
        batch = [(key, new) for key in keys] + [(twice[0], row(7)), (twice[1], row(3))]
        result = self._write_all(store, batch, until)
        kinds = [old.index(there[key]) if key in there else -1 for key in keys]
        assert result.written == kinds.count(-1) + kinds.count(0) + 1
        assert result.same == kinds.count(1)
        assert result.older == kinds.count(2) + 1
        tied = [i for i, kind in enumerate(kinds) if kind == 3]
        assert result.ties == tuple(Tie(i, old[3]) for i in tied)
        wanted = [there[key] if kind > 1 else new for key, kind in zip(keys, kinds, strict=True)]
        wanted[keys.index(twice[0])] = row(7)
        assert store.read([KeyFields(key, (FIELD,)) for key in keys]) == [[w] for w in wanted]

    @staticmethod
    def _write_all(
        store: OnlineStore, pairs: dict[bytes, bytes] | list[tuple[bytes, bytes]], until: int | None
    ) -> WriteResult:
        items = list(pairs.items()) if isinstance(pairs, dict) else pairs
        keys, values = [key for key, _ in items], [value for _, value in items]
        expiry = None if until is None else [until] * len(items)
        return store.write(RowBatch(field=FIELD, keys=keys, rows=values, expire_at_us=expiry))

    # --- expiry -----------------------------------------------------------------------------------

    def test_rows_stay_until_they_expire(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(1), until=now_us() + HOUR_US)
        put(store, key, row(1), until=now_us() + HOUR_US, field=OTHER_FIELD)
        put(store, key, row(1), field=THIRD_FIELD)
        assert sum(self.sweep_expired(store)) == 0
        reads = [KeyFields(key, (FIELD, OTHER_FIELD, THIRD_FIELD))]
        assert store.read(reads) == [[row(1)] * 3]

    def test_expired_rows_are_freed(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(1), until=now_us() + 200_000)
        time.sleep(0.4)
        list(self.sweep_expired(store))
        assert get(store, key) is None

    def test_the_same_row_extends_its_expiry_and_never_shortens_it(
        self, store: OnlineStore
    ) -> None:
        longer, shorter, forever, mortal = numbered(4)
        soon, late = now_us() + 500_000, now_us() + HOUR_US
        for key, first, second in (
            (longer, soon, late),
            (shorter, late, soon),
            (forever, soon, None),
            (mortal, None, soon),
        ):
            put(store, key, row(1), until=first)
            assert put(store, key, row(1), until=second).same == 1
        time.sleep(0.8)
        list(self.sweep_expired(store))
        assert [get(store, k) for k in (longer, shorter, forever, mortal)] == [row(1)] * 4

    def test_expiries_beyond_any_calendar(self, store: OnlineStore) -> None:
        keys = numbered(3)
        for key, until in zip(keys, (2**62, 2**63 - 1, YEAR_9999_ENDS_US + 1), strict=True):
            put(store, key, row(1), until=until)
            assert put(store, key, row(1), until=until).same == 1
            assert put(store, key, row(2), until=until).written == 1
        list(self.sweep_expired(store))
        assert [get(store, key) for key in keys] == [row(2)] * 3

    def test_replaced_rows_have_the_new_expiry(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(1, text="a"), until=now_us() + 500_000)
        assert store.replace(
            FIELD,
            key,
            expected=row(1, text="a"),
            row=row(1, text="b"),
            expire_at_us=now_us() + HOUR_US,
        )
        time.sleep(0.8)
        list(self.sweep_expired(store))
        assert get(store, key) == row(1, text="b")

    def sweep_expired(self, store: OnlineStore) -> Iterator[int]:
        """Free what has expired by now, where the store does not do so by itself."""
        fields = (FIELD, OTHER_FIELD, THIRD_FIELD)
        return store.sweep(key_prefix("shop", "plane"), keep=fields, older_than_us=now_us())

    # --- sweeps, projects -------------------------------------------------------------------------

    def test_a_sweep_frees_the_fields_that_are_not_kept(self, store: OnlineStore) -> None:
        keys = [*numbered(2_000), PREFIX + b"k" * 600]
        for field in (FIELD, OTHER_FIELD, THIRD_FIELD):
            store.write(RowBatch(field=field, keys=keys, rows=[row(1)] * len(keys)))
        steps = list(store.sweep(b"fs/shop/", keep=[OTHER_FIELD]))
        assert sum(steps) == 2 * len(keys)
        fields = (FIELD, OTHER_FIELD, THIRD_FIELD)
        found = store.read([KeyFields(key, fields) for key in keys])
        assert found == [[None, row(1), None]] * len(keys)

    def test_a_sweep_of_an_empty_store(self, store: OnlineStore) -> None:
        assert sum(store.sweep(b"fs/shop/", keep=[])) == 0

    def test_a_scan_lists_the_keys_of_its_prefix(self, store: OnlineStore) -> None:
        assert list(chain.from_iterable(store.scan(PREFIX))) == []
        keys = {*numbered(30), PREFIX, PREFIX + b"*", PREFIX + b"k" * 1_000}
        others = {key_prefix("other", "plane") + b"1", key_prefix("shop", "plane2") + b"1"}
        for field in (FIELD, OTHER_FIELD):
            wanted = sorted(keys | others)
            store.write(RowBatch(field=field, keys=wanted, rows=[row(1)] * len(wanted)))
        assert set(chain.from_iterable(store.scan(PREFIX))) == keys

    @pytest.mark.parametrize("mine", ["p", "sho", "s*", "[a-z]", "?", "shop\\", "k" * 480])
    def test_projects_never_touch_each_other(self, store: OnlineStore, mine: str) -> None:
        names = [mine, "shop", "px", "k" * 479 + "x"]
        keys = [key_prefix(name, "e") + suffix for name in names for suffix in (b"", b"k" * 600)]
        for i, key in enumerate(keys):
            put(store, key, row(i))
        assert sum(store.sweep(f"fs/{mine}/".encode(), keep=[])) == 2
        assert [get(store, key) for key in keys] == [None, None, *(row(i) for i in range(2, 8))]

    # --- many at once -----------------------------------------------------------------------------

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
                    assert time.monotonic() - begun < 2.0
            # What came too late is nobody's answer.
            assert get(store, keys[7]) == values[7]

    # --- life -------------------------------------------------------------------------------------

    def test_rows_outlive_the_store_object(self, opener: OnlineStoreOpener) -> None:
        (key,) = numbered(1)
        with opener.open() as first:
            put(first, key, row(1))
        with opener.open() as second:
            assert get(second, key) == row(1)

    def test_what_one_object_writes_another_reads(
        self, opener: OnlineStoreOpener, store: OnlineStore
    ) -> None:
        (key,) = numbered(1)
        with opener.open(read_only=True) as reader:
            assert get(reader, key) is None
            put(store, key, row(1))
            assert get(reader, key) == row(1)

    def test_a_read_only_store_refuses_writes(self, opener: OnlineStoreOpener) -> None:
        (key,) = numbered(1)
        with opener.open(read_only=True) as reader:
            reader.ping()
            assert get(reader, key) is None
            with pytest.raises(StoreReadOnly):
                put(reader, key, row(1))
            with pytest.raises(StoreReadOnly):
                reader.replace(FIELD, key, expected=b"", row=row(1), expire_at_us=None)
            with pytest.raises(StoreReadOnly):
                list(reader.sweep(PREFIX, keep=[]))
        with opener.open() as store:
            assert get(store, key) is None

    def test_ping_and_closing_twice(self, opener: OnlineStoreOpener) -> None:
        store = opener.open()
        store.ping()
        store.close()
        store.close()

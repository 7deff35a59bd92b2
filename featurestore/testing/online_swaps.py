"""The part of the contract of online stores that windowed states need: two fields of one key
change together, if the first still has the revision that the writer saw."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest

from featurestore.errors import LimitExceeded, StoreReadOnly
from featurestore.stores.online.base import (
    KEY_BYTES_MAX,
    SWAPS_PER_CALL_MAX,
    KeyFields,
    OnlineStore,
    RowBatch,
    Swap,
    revision_of,
)
from featurestore.wire.layout import CREATED_TIME, EVENT_TIME, HEAD, VIEW_TAG
from featurestore.wire.rows import key_prefix

if TYPE_CHECKING:
    from featurestore.testing.online_rows import OnlineStoreOpener

FIELDS = (b"window-1", b"\0\xff\r\n *\x01\x80")
_REVISION = struct.Struct("<BQ")
_COUNT = struct.Struct("<Q")
_PREFIX = key_prefix("shop", "plane")
_HOUR_US = 3_600_000_000


def state(revision: int, payload: bytes = b"") -> bytes:
    """What begins as a windowed state does."""
    head = HEAD.pack(EVENT_TIME, 1, CREATED_TIME, 1, VIEW_TAG, 7)
    return head + _REVISION.pack(0x21, revision) + payload


def revision(number: int) -> bytes:
    """The revision of such a state."""
    return _COUNT.pack(number)


def add_one(store: OnlineStore, key: bytes, number: int) -> None:
    """Count one up in both fields, as a writer of windows does: read, swap, and again."""
    while True:
        ((old, _),) = store.read([KeyFields(key, FIELDS)])
        count = 0 if old is None else _COUNT.unpack_from(old, HEAD.size + _REVISION.size)[0]
        new = state(number, _COUNT.pack(count + 1))
        if store.swap(FIELDS, [Swap(key, revision_of(old), (new, new + b"2"))]) == [True]:
            return


def add_many(opener: OnlineStoreOpener, seed: int, keys: list[bytes], rounds: int) -> None:
    """Count every key up `rounds` times."""
    numbers = random.Random(seed)  # noqa: S311 (no secret)
    with opener.open() as store:
        for _ in range(rounds):
            for key in numbers.sample(keys, len(keys)):
                add_one(store, key, numbers.getrandbits(64))


class OnlineSwapContract:
    """What every store does with states; part of `OnlineStoreContract`."""

    def test_a_state_is_swapped_from_nothing_and_from_what_was_seen(
        self, store: OnlineStore
    ) -> None:
        key = _PREFIX + b"k"
        one, two = (state(1, b"a"), state(9, b"b")), (state(2, b"c"), b"no state")
        assert store.swap(FIELDS, [Swap(key, revision(1), one)]) == [False]
        assert store.read([KeyFields(key, FIELDS)]) == [[None, None]]
        assert store.swap(FIELDS, [Swap(key, b"", one)]) == [True]
        assert store.swap(FIELDS, [Swap(key, b"", two)]) == [False]
        assert store.swap(FIELDS, [Swap(key, revision(9), two)]) == [False]
        assert store.read([KeyFields(key, FIELDS)]) == [list(one)]
        assert store.swap(FIELDS, [Swap(key, revision(1), two)]) == [True]
        assert store.read([KeyFields(key, FIELDS)]) == [list(two)]

    def test_only_the_revision_is_compared(self, store: OnlineStore) -> None:
        key, other = _PREFIX + b"k", state(5, b"something else")
        store.swap(FIELDS, [Swap(key, b"", (state(5), state(5)))])
        assert store.swap(FIELDS, [Swap(key, revision(5), (other, other))]) == [True]
        assert store.read([KeyFields(key, FIELDS)]) == [[other, other]]

    @pytest.mark.parametrize("number", [0, 1, 2**32, 2**63, 2**64 - 1, 0x0A0D0A0D0A0D0A0D])
    def test_any_revision(self, store: OnlineStore, number: int) -> None:
        key = _PREFIX + b"k"
        assert store.swap(FIELDS, [Swap(key, b"", (state(number), b"x"))]) == [True]
        assert store.swap(FIELDS, [Swap(key, revision(number ^ 1), (state(3), b"x"))]) == [False]
        assert store.swap(FIELDS, [Swap(key, revision(number), (state(3), b"x"))]) == [True]

    def test_keys_are_decided_one_by_one_in_order(self, store: OnlineStore) -> None:
        keys = [_PREFIX + b"%d" % n for n in range(1_200)] + [_PREFIX + b"k" * 600]
        store.swap(FIELDS, [Swap(key, b"", (state(1), b"x")) for key in keys[::3]])
        new = (state(2, b"y" * 100), b"z")
        swapped = store.swap(FIELDS, [Swap(key, b"", new) for key in [*keys, keys[1]]])
        assert swapped == [n % 3 != 0 for n in range(len(keys))] + [False]
        found = store.read([KeyFields(key, FIELDS) for key in keys])
        old = [state(1), b"x"]
        assert found == [old if n % 3 == 0 else list(new) for n in range(len(keys))]

    def test_an_empty_value_removes_its_field(self, store: OnlineStore) -> None:
        key = _PREFIX + b"k"
        store.swap(FIELDS, [Swap(key, b"", (state(1), b"x"))])
        assert store.swap(FIELDS, [Swap(key, revision(1), (state(2), b""))]) == [True]
        assert store.read([KeyFields(key, FIELDS)]) == [[state(2), None]]
        assert store.swap(FIELDS, [Swap(key, revision(2), (b"", b""))]) == [True]
        assert store.read([KeyFields(key, FIELDS)]) == [[None, None]]
        assert store.swap(FIELDS, [Swap(key, b"", (state(3), b""))]) == [True]

    def test_what_has_no_revision_is_taken_for_nothing(self, store: OnlineStore) -> None:
        """A row of another release, or damaged bytes: they give way, and no revision that chance
        puts at the place of one is believed."""
        key, row = _PREFIX + b"k", state(1)[: HEAD.size] + b"\x22" + revision(4) + b"more"
        for bytes_there in (b"short", row, state(4)[:-1]):
            batch = RowBatch(field=FIELDS[0], keys=[key], rows=[bytes_there])
            store.write(batch)
            assert revision_of(bytes_there) == b""
            assert store.swap(FIELDS, [Swap(key, revision(4), (state(5), b"x"))]) == [False]
            assert store.swap(FIELDS, [Swap(key, b"", (state(5), b"x"))]) == [True]
            store.swap(FIELDS, [Swap(key, revision(5), (b"", b""))])

    def test_other_fields_are_left_alone(self, store: OnlineStore) -> None:
        key, other = _PREFIX + b"k", b"another-"[:8]
        store.swap((other,), [Swap(key, b"", (state(1, b"mine"),))])
        store.swap(FIELDS, [Swap(key, b"", (state(2), b"x"))])
        assert store.read([KeyFields(key, (other,))]) == [[state(1, b"mine")]]

    def test_large_states(self, store: OnlineStore) -> None:
        keys = [_PREFIX + b"%d" % n for n in range(5)]
        values = (state(1, b"a" * 2**20), b"b" * 2**21)
        assert store.swap(FIELDS, [Swap(key, b"", values) for key in keys]) == [True] * 5
        assert store.read([KeyFields(key, FIELDS) for key in keys]) == [list(values)] * 5

    def test_no_swaps(self, store: OnlineStore) -> None:
        assert store.swap(FIELDS, []) == []

    def test_swaps_have_limits(self, store: OnlineStore) -> None:
        ok = Swap(_PREFIX + b"k", b"", (state(1), b"x"))
        with pytest.raises(LimitExceeded, match="KEY_BYTES_MAX"):
            store.swap(FIELDS, [ok._replace(key=b"k" * (KEY_BYTES_MAX + 1))])
        with pytest.raises(LimitExceeded, match="SWAPS_PER_CALL_MAX"):
            store.swap(FIELDS, [ok] * (SWAPS_PER_CALL_MAX + 1))
        for fields, swap in (
            (FIELDS, ok._replace(values=(b"x",))),
            (FIELDS, ok._replace(expected=b"1234567")),
            ((b"short",), ok._replace(values=(b"x",))),
            ((), ok._replace(values=())),
        ):
            with pytest.raises(ValueError, match="a "):
                store.swap(fields, [swap])
        assert store.read([KeyFields(ok.key, FIELDS)]) == [[None, None]]

    def test_swapped_states_expire_together(self, store: OnlineStore) -> None:
        now = time.time_ns() // 1000
        soon, late = _PREFIX + b"soon", _PREFIX + b"late"
        values = (state(1), b"x")
        store.swap(
            FIELDS,
            [Swap(soon, b"", values, now + 200_000), Swap(late, b"", values, now + _HOUR_US)],
        )
        time.sleep(0.4)
        list(self.sweep_states(store))
        assert store.read([KeyFields(k, FIELDS) for k in (soon, late)]) == [
            [None, None],
            list(values),
        ]

    def sweep_states(self, store: OnlineStore) -> Iterator[int]:
        """Free what has expired by now, where the store does not do so by itself."""
        now = time.time_ns() // 1000
        return store.sweep(_PREFIX, keep=FIELDS, older_than_us=now)

    def test_threads_lose_no_update(self, opener: OnlineStoreOpener, store: OnlineStore) -> None:
        keys = [_PREFIX + b"%d" % n for n in range(3)]
        with ThreadPoolExecutor(6) as threads:
            for done in [threads.submit(add_many, opener, s, keys, 5) for s in range(6)]:
                done.result()
        self.check_counts(store, keys, 30)

    @pytest.mark.slow
    def test_processes_lose_no_update(self, opener: OnlineStoreOpener, store: OnlineStore) -> None:
        keys = [_PREFIX + b"%d" % n for n in range(3)]
        with ProcessPoolExecutor(3, mp_context=get_context("forkserver")) as processes:
            for done in [processes.submit(add_many, opener, s, keys, 20) for s in range(3)]:
                done.result()
        self.check_counts(store, keys, 60)

    def check_counts(self, store: OnlineStore, keys: list[bytes], count: int) -> None:
        """Both fields of each key hold this count, of one and the same writer."""
        for first, second in store.read([KeyFields(key, FIELDS) for key in keys]):
            assert first is not None
            assert second == first + b"2"
            assert _COUNT.unpack_from(first, HEAD.size + _REVISION.size) == (count,)

    def test_a_read_only_store_refuses_swaps(self, opener: OnlineStoreOpener) -> None:
        with opener.open() as writer:
            writer.swap(FIELDS, [Swap(_PREFIX + b"k", b"", (state(1), b"x"))])
        with opener.open(read_only=True) as store, pytest.raises(StoreReadOnly):
            store.swap(FIELDS, [Swap(_PREFIX + b"k", revision(1), (state(2), b"x"))])

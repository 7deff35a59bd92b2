"""What an online store must answer: rows in order, absent ones, hostile keys."""

from __future__ import annotations

import asyncio

import pytest

from featurestore.stores.online.base import (
    KeyFields,
    OnlineStore,
    RowBatch,
    WriteResult,
)
from featurestore.testing.online_rows import (
    FIELD,
    HOSTILE_KEYS,
    OTHER_FIELD,
    PREFIX,
    THIRD_FIELD,
    get,
    numbered,
    put,
    row,
    rows,
)


class OnlineReads:
    """Reads. Mixed into `OnlineStoreContract`; needs its fixture `store`."""

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

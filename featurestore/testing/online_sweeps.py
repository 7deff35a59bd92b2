"""What an online store must keep, free and list: expiry, sweeps, scans, projects side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain

import pytest

from featurestore.stores.online.base import (
    KeyFields,
    OnlineStore,
    RowBatch,
)
from featurestore.testing.online_rows import (
    FIELD,
    HOUR_US,
    OTHER_FIELD,
    PREFIX,
    THIRD_FIELD,
    YEAR_9999_ENDS_US,
    get,
    now_us,
    numbered,
    put,
    row,
)
from featurestore.wire.rows import key_prefix


class OnlineSweeps:
    """Expiry, sweeps and scans. Mixed into `OnlineStoreContract`; needs its fixture `store`."""

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

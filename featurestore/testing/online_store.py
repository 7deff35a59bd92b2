"""The contract of every online store, as a pytest suite.

A store's test file gives the fixture `opener` and inherits the rest::

    class TestMyStore(OnlineStoreContract):
        @pytest.fixture
        def opener(self, tmp_path: Path) -> OnlineStoreOpener:
            return OnlineStoreOpener(MyStore, "my://store", tmp_path)
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from featurestore.errors import StoreReadOnly
from featurestore.stores.online.base import OnlineStore
from featurestore.testing.online_crowds import OnlineCrowds
from featurestore.testing.online_reads import OnlineReads
from featurestore.testing.online_rows import (
    FIELD,
    PREFIX,
    OnlineStoreOpener,
    get,
    numbered,
    put,
    row,
)
from featurestore.testing.online_swaps import OnlineSwapContract
from featurestore.testing.online_sweeps import OnlineSweeps
from featurestore.testing.online_writes import OnlineWrites

__all__ = ["OnlineStoreContract", "OnlineStoreOpener"]


class OnlineStoreContract(
    OnlineReads, OnlineWrites, OnlineSwapContract, OnlineSweeps, OnlineCrowds
):
    """What every online store does. Subclasses give the fixture `opener`."""

    @pytest.fixture
    def store(self, opener: OnlineStoreOpener) -> Iterator[OnlineStore]:
        """A store that may write, closed with the test."""
        with opener.open() as opened:
            yield opened

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

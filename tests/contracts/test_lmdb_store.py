"""The embedded online store: the contract, and what only files can do."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from patience import promised

from featurestore.errors import StoreError, StoreTimeout, StoreUnavailable
from featurestore.stores.online import lmdb_environment
from featurestore.stores.online.base import KeyFields, RowBatch
from featurestore.stores.online.lmdb import LmdbStore
from featurestore.testing.online_rows import FIELD, PREFIX, get, numbered, put, row
from featurestore.testing.online_store import OnlineStoreContract, OnlineStoreOpener
from featurestore.wire.rows import row_head


@pytest.fixture
def opener(tmp_path: Path) -> OnlineStoreOpener:
    return OnlineStoreOpener(LmdbStore, "lmdb:deep/er/online", tmp_path)


class TestLmdbStore(OnlineStoreContract):
    """LMDB, embedded"""

    def test_reading_makes_no_files(self, opener: OnlineStoreOpener) -> None:
        with opener.open(read_only=True) as reader, opener.open() as writer:
            assert get(reader, PREFIX) is get(writer, PREFIX) is None
            writer.ping()
            assert sum(writer.sweep(b"fs/", keep=[])) == 0
        assert list(opener.root.iterdir()) == []

    @pytest.mark.parametrize("length", range(500, 506))
    def test_keys_around_the_longest_that_lmdb_takes(
        self, opener: OnlineStoreOpener, length: int
    ) -> None:
        key = PREFIX.ljust(length, b"k")
        with opener.open() as store:
            put(store, key, row(1))
            put(store, key + b"k", row(2))
            assert [get(store, key), get(store, key + b"k")] == [row(1), row(2)]
            assert sum(store.sweep(PREFIX, keep=[])) == 2


class TestSharedFiles:
    def test_stores_of_one_process_share_one_folder(
        self, opener: OnlineStoreOpener, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "deep")
        first = opener.open()
        second = LmdbStore(tmp_path / "link" / "er" / "online")
        put(first, PREFIX, row(1))
        assert get(second, PREFIX) == row(1)
        first.close()
        put(second, PREFIX, row(2))
        second.close()
        with opener.open() as third:
            assert get(third, PREFIX) == row(2)

    def test_the_map_grows_under_readers_of_this_process(self, opener: OnlineStoreOpener) -> None:
        keys = numbered(64)
        with opener.open() as store, ThreadPoolExecutor(4) as threads:
            put(store, keys[0], row(0))
            stop = threading.Event()

            def read() -> int:
                count = 0
                while not stop.is_set():
                    assert get(store, keys[0]) == row(0)
                    count += 1
                return count

            readers = [threads.submit(read) for _ in range(3)]
            try:
                for key in keys[1:]:
                    put(store, key, row(1, text="x" * 500_000))
            finally:
                stop.set()
            assert all(reader.result() for reader in readers)
            found = store.read([KeyFields(key, (FIELD,)) for key in keys[1:]])
        assert all(len(value or b"") > 500_000 for (value,) in found)

    def test_one_batch_larger_than_the_map(self, opener: OnlineStoreOpener) -> None:
        keys = numbered(40)
        big = [row(1, text="x" * 2_000_000)] * 40
        with opener.open() as store:
            assert store.write(RowBatch(field=FIELD, keys=keys, rows=big)).written == 40
            assert get(store, keys[-1]) == big[0]

    @pytest.mark.slow
    def test_the_map_grows_under_readers_of_another_process(
        self, opener: OnlineStoreOpener
    ) -> None:
        keys = numbered(2)
        with opener.open() as store:
            put(store, keys[0], row(0))
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                process.submit(grow, opener, 20).result()
                assert get(store, keys[0]) == row(0)
                assert get(store, PREFIX + b"grown-19") is not None
                process.submit(grow, opener, 60).result()
                # And a writer whose map is too small takes the larger one.
                put(store, keys[1], row(1))
                assert get(store, keys[1]) == row(1)

    @pytest.mark.slow
    def test_a_writer_that_is_killed_harms_nobody(self, opener: OnlineStoreOpener) -> None:
        keys = numbered(500)
        with opener.open() as store:
            put(store, keys[0], row(-1))
            for _ in range(3):
                writer = get_context("spawn").Process(target=write_forever, args=(opener, keys))
                before = get(store, keys[0])
                writer.start()
                while get(store, keys[0]) == before:
                    time.sleep(0.01)
                time.sleep(0.05)
                writer.kill()
                writer.join()
                found = store.read([KeyFields(key, (FIELD,)) for key in keys])
                assert len({value for (value,) in found}) == 1
                assert put(store, PREFIX + b"after", row(1)).older == 0


class TestTrouble:
    def test_a_full_disk(self, opener: OnlineStoreOpener) -> None:
        code = f"""
import resource
from pathlib import Path
from featurestore.errors import StoreUnavailable
from featurestore.stores.online.lmdb import LmdbStore
from featurestore.stores.online.base import RowBatch
from featurestore.testing.online_rows import FIELD, get, numbered, put, row

keys = numbered(100)
with LmdbStore({str(opener.root / "small")!r}, map_size_mb=1) as store:
    put(store, keys[0], row(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
    try:
        store.write(RowBatch(field=FIELD, keys=keys, rows=[row(2, text="x" * 200_000)] * 100))
    except StoreUnavailable as error:
        print(error)
    assert get(store, keys[0]) == row(1)
    put(store, keys[0], row(3))
    print(get(store, keys[0]) == row(3))
"""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        message, works = done.stdout.splitlines()
        assert "Free some disk space" in message
        assert works == "True"

    def test_a_folder_with_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "data.mdb").write_bytes(b"no database at all" * 1_000)
        with LmdbStore(tmp_path) as store:
            for call in (lambda: get(store, PREFIX), lambda: put(store, PREFIX, row(1))):
                with pytest.raises(StoreError, match="materialize --replace"):
                    call()

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        store = LmdbStore(tmp_path / "file" / "store")
        with store, pytest.raises(StoreUnavailable, match="file"):
            put(store, PREFIX, row(1))

    def test_a_busy_reader_does_not_outlast_the_deadline(self, opener: OnlineStoreOpener) -> None:
        with opener.open() as store:
            put(store, PREFIX, row(1))
            with lmdb_environment.acquire(opener.root / "deep/er/online", 1)._map_lock:
                begun = time.monotonic()
                with pytest.raises(StoreTimeout, match="busy for 50 ms"):
                    store.read([KeyFields(PREFIX, (FIELD,))], timeout_ms=50)
                assert time.monotonic() - begun < promised(0.5)
            lmdb_environment.release(store._shared)
            assert get(store, PREFIX) == row(1)


def grow(opener: OnlineStoreOpener, count: int) -> None:
    with opener.open() as store:
        for i in range(count):
            put(store, PREFIX + b"grown-%d" % i, row(i, text="x" * 300_000))


def write_forever(opener: OnlineStoreOpener, keys: list[bytes]) -> None:
    with opener.open() as store:
        version, found = 0, get(store, keys[0])
        while found is not None:
            version = max(version, row_head(found)[0]) + 1
            store.write(RowBatch(field=FIELD, keys=keys, rows=[row(version)] * len(keys)))

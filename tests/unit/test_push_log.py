"""The push log: drained once, merged, deduplicated by event id, swept; whoever reads sees whole
commits."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from featurestore.buckets import S3Options
from featurestore.errors import CorruptLog
from featurestore.stores.offline import push_log
from featurestore.stores.offline.folder import OfflineFolder
from featurestore.stores.offline.pinned import pinned_names, write_pins
from featurestore.stores.offline.wal import WalWriter

ROWS = push_log.rows_table("s")


@pytest.fixture
def offline(tmp_path: Path) -> OfflineFolder:
    return OfflineFolder.at("offline", tmp_path, S3Options(), wal="wal")


def table(*ids: int, event_id: bool = True) -> pa.Table:
    found = pa.table({"id": pa.array(ids, pa.int64()), "text": [f"{n}" for n in ids]})
    return found.replace_schema_metadata({push_log.EVENT_ID: "id"}) if event_id else found


def log(offline: OfflineFolder, *tables: pa.Table, into: str = ROWS) -> WalWriter:
    assert offline.wal is not None
    writer = WalWriter.create(offline.wal)
    for one in tables:
        writer.append([(into, push_log.encoded(one))])
    return writer


def rows(offline: OfflineFolder, name: str = ROWS) -> list[int]:
    files = push_log.logged_files(offline).get(name, ())
    found = [n for file in files for n in offline.read(file.name)["id"].to_pylist()]
    assert len(found) == sum(file.rows for file in files)
    return sorted(found)


def test_what_is_logged_is_drained_once(offline: OfflineFolder) -> None:
    writer = log(offline, table(1), table(2, 3))
    assert push_log.drain(offline, now_us=0).rows == {ROWS: 3}
    assert push_log.drain(offline, now_us=0).rows == {}
    writer.append([(ROWS, push_log.encoded(table(4))), ("dead/s", push_log.encoded(table(9)))])
    log(offline, table(5))
    assert push_log.drain(offline, now_us=0).rows == {ROWS: 2, "dead/s": 1}
    assert rows(offline) == [1, 2, 3, 4, 5]
    assert rows(offline, "dead/s") == [9]
    assert push_log.drained_places(offline)[writer.name] == writer.end


def test_a_commit_that_was_killed_before_its_manifest_is_done_again_and_swept(
    offline: OfflineFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(offline, table(1))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(push_log, "write_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            push_log.drain(offline, now_us=0)
    assert push_log.logged_files(offline) == {}
    push_log.drain(offline, now_us=0)
    assert rows(offline) == [1]
    assert len(offline.list(push_log.FOLDER)) == 3
    push_log.sweep(offline, now_us=0)
    assert len(offline.list(push_log.FOLDER)) == 2


def test_many_small_files_become_one_and_the_old_ones_stay_for_who_reads_them(
    offline: OfflineFolder,
) -> None:
    writer = log(offline)
    count = push_log.FILES_PER_TIER_MAX
    for number in range(count):
        writer.append([(ROWS, push_log.encoded(table(number)))])
        push_log.drain(offline, now_us=0)
    (file,) = push_log.logged_files(offline)[ROWS]
    assert file.rows == count
    assert rows(offline) == list(range(count))
    assert len(offline.list(push_log.FOLDER)) == count + 2
    push_log.sweep(offline, now_us=push_log.KEPT_US)
    assert len(offline.list(push_log.FOLDER)) == count + 2
    push_log.sweep(offline, now_us=push_log.KEPT_US + 1)
    assert len(offline.list(push_log.FOLDER)) == 2


def test_files_that_a_training_set_has_read_stay_until_it_goes(offline: OfflineFolder) -> None:
    writer = log(offline)
    for number in range(push_log.FILES_PER_TIER_MAX - 1):
        writer.append([(ROWS, push_log.encoded(table(number)))])
        push_log.drain(offline, now_us=0)
    read = [offline.url(file.name) for file in push_log.logged_files(offline)[ROWS]][:3]
    pins = write_pins(offline, "training_sets/a/1", [*read, "s3://elsewhere/x.parquet"])
    assert pins is not None
    assert write_pins(offline, "training_sets/a/2", ["s3://elsewhere/x.parquet"]) is None
    writer.append([(ROWS, push_log.encoded(table(99)))])
    push_log.drain(offline, now_us=0)
    push_log.sweep(offline, now_us=push_log.KEPT_US + 1)
    left = [file.url for file in offline.list(push_log.FOLDER)]
    assert set(read) < set(left)
    assert len(left) == 3 + 2  # those, what they were merged into, the manifest
    writer.append([(ROWS, push_log.encoded(table(100)))])
    push_log.drain(offline, now_us=2 * push_log.KEPT_US)
    assert pinned_names(offline) == {url.removeprefix(f"{offline.base}/") for url in read}
    offline.remove(pins)
    push_log.sweep(offline, now_us=3 * push_log.KEPT_US)
    assert not set(read) & {file.url for file in offline.list(push_log.FOLDER)}


def test_who_keeps_files_is_not_asked_with_every_commit(
    offline: OfflineFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        push_log, "pinned_names", lambda folder: asked.append(1) or pinned_names(folder)
    )
    writer = log(offline)
    for number in range(push_log.FILES_PER_TIER_MAX - 1):
        writer.append([(ROWS, push_log.encoded(table(number)))])
        push_log.drain(offline, now_us=0)
    (read, *_) = [offline.url(file.name) for file in push_log.logged_files(offline)[ROWS]]
    write_pins(offline, "training_sets/a/1", [read])
    for number in range(4):
        writer.append([(ROWS, push_log.encoded(table(100 + number)))])
        push_log.drain(offline, now_us=number and push_log.KEPT_US + number)
    assert len(asked) == 1
    assert read in {file.url for file in offline.list(push_log.FOLDER)}
    writer.append([(ROWS, push_log.encoded(table(200)))])
    push_log.drain(offline, now_us=3 * push_log.KEPT_US)
    assert len(asked) == 2


@pytest.mark.parametrize("event_id", [True, False])
def test_equal_rows_of_one_event_are_one(offline: OfflineFolder, event_id: bool) -> None:
    log(offline, table(1, event_id=event_id), table(1, 2, event_id=event_id))
    push_log.drain(offline, now_us=0)
    assert rows(offline) == ([1, 2] if event_id else [1, 1, 2])


def test_files_of_other_columns_stay_apart(offline: OfflineFolder) -> None:
    wider = table(2).append_column("more", pa.array([True]))
    log(offline, table(1), wider)
    push_log.drain(offline, now_us=0)
    assert [file.rows for file in push_log.logged_files(offline)[ROWS]] == [1, 1]


def test_who_can_not_wait_leaves_it_to_the_other(offline: OfflineFolder) -> None:
    assert offline.wal is not None
    log(offline, table(1))
    with push_log.locked(offline.wal, None):
        assert push_log.drain(offline, now_us=0, timeout_s=0).rows == {}
    assert push_log.drain(offline, now_us=0, timeout_s=0).rows == {ROWS: 1}


def test_a_damaged_manifest_is_named(offline: OfflineFolder) -> None:
    log(offline, table(1))
    push_log.drain(offline, now_us=0)
    (manifest,) = [f for f in offline.list(push_log.FOLDER) if f.name.endswith("manifest.parquet")]
    Path(manifest.url).write_bytes(b"PAR1 no")
    with pytest.raises(CorruptLog, match="manifest"):
        push_log.logged_files(offline)

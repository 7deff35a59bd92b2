"""The write-ahead log: whole records, torn tails, damage, ownership."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from featurestore.errors import CorruptLog, FileNotWritten
from featurestore.stores.offline.wal import WalWriter, log_files, read_entries

RECORDS = [("rows/a", b"one"), ("dead/b", b""), ("rows/a", b"x" * 70_000)]


def entries(path: Path, start: int = 0) -> list[tuple[str, bytes]]:
    return [(entry.table, entry.data) for entry in read_entries(path, start)]


def test_records_come_back_in_order_from_any_end(tmp_path: Path) -> None:
    log = WalWriter.create(tmp_path / "deep" / "log")
    ends = [log.append([record]) for record in RECORDS]
    assert entries(log.path) == RECORDS
    assert entries(log.path, ends[0]) == RECORDS[1:]
    assert [file.size for file in log_files(tmp_path / "deep" / "log")] == [ends[-1]]


def test_several_threads_share_a_file(tmp_path: Path) -> None:
    log = WalWriter.create(tmp_path)

    def work(number: int) -> None:
        for count in range(50):
            log.append([("rows/a", b"%d %d" % (number, count))])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [data for _, data in entries(log.path)]
    assert sorted(found) == sorted(b"%d %d" % (n, c) for n in range(8) for c in range(50))
    for number in range(8):
        mine = [int(data.split()[1]) for data in found if data.startswith(b"%d " % number)]
        assert mine == sorted(mine)


@pytest.mark.parametrize("kept", range(23))
def test_a_torn_tail_is_no_record_and_is_cut_when_adopted(tmp_path: Path, kept: int) -> None:
    log = WalWriter.create(tmp_path)
    whole = log.append([("rows/a", b"one")])
    log.append([("rows/a", b"two")])
    log.close()
    os.truncate(log.path, whole + kept)
    assert entries(log.path) == [("rows/a", b"one")]
    adopted = WalWriter.adopt(log.path)
    assert adopted is not None
    assert adopted.end == whole == log.path.stat().st_size
    adopted.append([("rows/a", b"three")])
    assert entries(log.path) == [("rows/a", b"one"), ("rows/a", b"three")]


@pytest.mark.parametrize("place", [0, 5, 9, 13, 20, 22])
def test_damage_in_the_middle_is_not_taken_for_a_torn_tail(tmp_path: Path, place: int) -> None:
    log = WalWriter.create(tmp_path)
    log.append([("rows/a", b"one")])
    log.append([("rows/a", b"two")])
    log.close()
    data = bytearray(log.path.read_bytes())
    data[place] ^= 1
    log.path.write_bytes(data)
    with pytest.raises(CorruptLog, match="damaged at byte 0"):
        entries(log.path)
    with pytest.raises(CorruptLog):
        WalWriter.adopt(log.path)


def test_a_living_writer_keeps_its_file(tmp_path: Path) -> None:
    log = WalWriter.create(tmp_path)
    assert WalWriter.adopt(log.path) is None
    log.close()
    adopted = WalWriter.adopt(log.path)
    assert adopted is not None
    assert WalWriter.adopt(log.path) is None
    adopted.remove()
    assert WalWriter.adopt(log.path) is None
    assert log_files(tmp_path) == []


def test_a_full_disk_takes_nothing_and_the_file_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, write = WalWriter.create(tmp_path), os.pwrite
    log.append([("rows/a", b"one")])

    def full(descriptor: int, data: bytes, place: int) -> int:
        if len(data) > 5:
            return write(descriptor, data[:5], place)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(FileNotWritten, match="No space left"):
        log.append([("rows/a", b"0" * 9)])
    monkeypatch.setattr(os, "pwrite", write)
    log.append([("rows/a", b"two")])
    assert entries(log.path) == [("rows/a", b"one"), ("rows/a", b"two")]


def test_after_a_failed_sync_the_file_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = WalWriter.create(tmp_path)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(FileNotWritten, match="Input/output"):
        log.append([("rows/a", b"one")])
    monkeypatch.undo()
    assert not log.usable
    with pytest.raises(FileNotWritten, match="takes no more"):
        log.append([("rows/a", b"two")])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotWritten, match=r"\[push\] path"):
        WalWriter.create(tmp_path / "file" / "log")

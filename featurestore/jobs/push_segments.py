"""This process's files of the write-ahead log: which one is written, and when one may go.

A file goes when all its rows stand in the push log and in the online store. It is busy while a row
of it is on its way to the store, or has to be tried again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featurestore.stores.offline.wal import WalWriter, log_files

if TYPE_CHECKING:
    from pathlib import Path

SEGMENT_BYTES_MAX = 32 * 1024 * 1024
"""How large a file of the write-ahead log grows."""


@dataclass(slots=True, eq=False)
class Segment:
    """One file: `busy` counts what of it is on its way to the store, `waiting` are the places where
    records end that are not drained, and their rows."""

    writer: WalWriter
    busy: int = 0
    waiting: dict[int, int] = field(default_factory=dict)


class Segments:
    """The files in `folder` that are ours. Safe in several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._current: Segment | None = None
        self._process = os.getpid()
        self._old: list[Segment] = []

    def append(self, records: Sequence[tuple[str, bytes]], rows: int) -> Segment:
        """Put records on the disk; the file is busy until `done`. Raises `FileNotWritten`."""
        with self._lock:
            segment = self._writable()
            segment.busy += 1
        try:
            end = segment.writer.append(records)
        except BaseException:
            self.done(segment)
            raise
        with self._lock:
            segment.waiting[end] = rows
        return segment

    def _writable(self) -> Segment:
        if self._process != os.getpid():
            # A child of a fork: the files are its parent's.
            self._process, self._current, self._old = os.getpid(), None, []
        current = self._current
        if current is not None and (
            not current.writer.usable or current.writer.end > SEGMENT_BYTES_MAX
        ):
            self._old.append(current)
            current = None
        if current is None:
            current = Segment(WalWriter.create(self._folder))
        self._current = current
        return current

    def done(self, segment: Segment) -> None:
        """What was appended last is in the store."""
        with self._lock:
            segment.busy -= 1

    def adopt(self) -> list[Segment]:
        """Files of writers that are gone, ours from now on, and busy: their rows may not be in the
        store. Raises `CorruptLog`, `FileNotWritten`."""
        with self._lock:
            mine = {segment.writer.name for segment in self._every()}
        found = [
            Segment(writer, busy=1)
            for file in log_files(self._folder)
            if file.name not in mine and (writer := WalWriter.adopt(file.path)) is not None
        ]
        with self._lock:
            self._old += found
        return found

    def backlog(self) -> int:
        """Rows that wait for the push log."""
        with self._lock:
            return sum(sum(segment.waiting.values()) for segment in self._every())

    def tidy(self, drained: Mapping[str, int]) -> None:
        """Forget what was drained, and remove old files of which nothing is left to do."""
        with self._lock:
            for segment in self._every():
                place = drained.get(segment.writer.name, 0)
                waiting = segment.waiting
                segment.waiting = {end: rows for end, rows in waiting.items() if end > place}
            gone = [segment for segment in self._old if _is_over(segment, drained)]
            self._old = [segment for segment in self._old if segment not in gone]
        for segment in gone:
            segment.writer.remove()

    def close(self, drained: Mapping[str, int]) -> None:
        """Remove what is over, and leave the rest to whoever adopts it."""
        with self._lock:
            segments, self._old, self._current = self._every(), [], None
        for segment in segments:
            if _is_over(segment, drained):
                segment.writer.remove()
            else:
                segment.writer.close()

    def _every(self) -> list[Segment]:
        return [*self._old, *([self._current] if self._current is not None else [])]


def _is_over(segment: Segment, drained: Mapping[str, int]) -> bool:
    return not segment.busy and drained.get(segment.writer.name, 0) >= segment.writer.end

"""Removing rows of the push log that a restore has hidden and that no state to be kept needs. Each
machine does it for its own files, which it rewrites without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featurestore.compiler.rel import COMMITTED
from featurestore.stores.offline.push_log import locked, write_rows, writer_id
from featurestore.stores.offline.push_manifest import (
    Commit,
    LoggedFile,
    Manifest,
    PushLog,
    with_commit,
    write_manifest,
)
from featurestore.stores.offline.push_states import Spans, State, common, without

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.stores.offline.folder import OfflineFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """What a vacuum of a table takes away from this machine's part: how many rows, and the files
    that are rewritten or dropped."""

    rows: int
    files: tuple[str, ...]


def vacuum(
    offline: OfflineFolder,
    table: str,
    *,
    kept: Callable[[PushLog], Sequence[State]],
    now_us: int,
    dry_run: bool,
) -> Removable:
    """Remove the hidden rows of `table` that count in none of the states `kept`; with `dry_run`
    only say which. Files that go stay for an hour, for jobs that read them, and those that a
    training set has read for ever.

    Raises `FileNotWritten`, `CorruptLog`, and what S3 does.
    """
    folder = offline.wal
    if folder is None or not folder.exists():
        return Removable(rows=0, files=())
    with locked(folder, None):
        writer, log = writer_id(folder), PushLog.read(offline)
        manifest = log.manifests.get(writer, Manifest())
        hidden = _removable(log, table, writer, kept(log))
        files = [file for file in manifest.tables.get(table, ()) if common(_span(file), hidden)]
        work = _Work(offline, writer, table, hidden, dry_run)
        left = [work.left_of(file) for file in files]
        if work.rows and not dry_run:
            kept_files = [file for file in manifest.tables[table] if file not in files]
            kept_files += [file for file in left if file is not None]
            manifest = replace(
                manifest,
                tables={**manifest.tables, table: tuple(kept_files)},
                retired=(*manifest.retired, *((file.name, now_us) for file in files)),
                vacuumed={
                    **manifest.vacuumed,
                    table: (*manifest.vacuumed.get(table, ()), *work.spans),
                },
            )
            at_us = max(now_us, manifest.last_us + 1)
            commit = Commit(at_us=at_us, operation="vacuum", rows={table: work.rows})
            write_manifest(offline, writer, with_commit(offline, writer, manifest, commit))
    return Removable(rows=work.rows, files=tuple(file.name for file in files))


def _removable(log: PushLog, table: str, writer: str, kept: Sequence[State]) -> Spans:
    now = log.now(table)
    hidden = () if now.restore is None else now.restore.hidden.get(writer, ())
    for state in kept:
        hidden = without(hidden, state.counted(writer))
    return hidden


def _span(file: LoggedFile) -> Spans:
    return ((file.first_us - 1, file.last_us),)


class _Work:
    """Takes commits away from files, and notes which were there."""

    def __init__(
        self, offline: OfflineFolder, writer: str, table: str, hidden: Spans, dry_run: bool
    ) -> None:
        self._offline, self._writer, self._table = offline, writer, table
        self._hidden, self._dry_run = hidden, dry_run
        self._gone: set[int] = set()
        self.rows = 0

    def left_of(self, file: LoggedFile) -> LoggedFile | None:
        """The file that holds the other rows; None where there are none (or nothing is done)."""
        import pyarrow.compute as pc

        data = self._offline.read(file.name)
        gone = self._hides(data)
        self.rows += pc.sum(gone).as_py() or 0
        if COMMITTED in data.column_names:
            self._gone.update(data[COMMITTED].filter(gone).unique().to_pylist())
        else:
            self._gone.add(0)
        left = data.filter(pc.invert(gone))
        if self._dry_run or not left.num_rows:
            return None
        return write_rows(self._offline, self._writer, self._table, left)

    def _hides(self, data: pa.Table) -> pa.ChunkedArray:
        """Which rows go."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if COMMITTED not in data.column_names:
            return pa.chunked_array([pa.repeat(True, data.num_rows)])
        commits = data[COMMITTED]
        found = pa.chunked_array([pa.repeat(False, data.num_rows)])
        for after, upto in self._hidden:
            inside = pc.and_(pc.greater(commits, after), pc.less_equal(commits, upto))
            found = pc.or_(found, inside)
        return found

    @property
    def spans(self) -> Spans:
        """The commits whose rows went, no wider than they were."""
        found = []
        for after, upto in self._hidden:
            inside = [one for one in self._gone if after < one <= upto]
            if inside:
                found.append((min(inside) - 1, max(inside)))
        return tuple(found)

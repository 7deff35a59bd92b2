"""The push log: what was pushed, as managed Parquet files that offline reads take beside a source's
own, and the dead letters.

Rows come here from the write-ahead log of this machine (`drain`), a commit at a time. Each machine
writes below a folder of its own, `pushed/{writer}/`: data files `{table}/{name}.parquet`, and a
manifest (`push_manifest`) that names those that count, with the place up to which each file of the
write-ahead log was drained. The manifest is replaced whole, so a commit is all or nothing, whatever
tables it has rows for; data files that it does not name are garbage of a commit that was killed.

Each row holds the instant of its commit (`COMMITTED`), which files that are merged keep, so that
any earlier state of a table can still be read (`push_states`).

A table is `rows/{source}` or `dead/{source}`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.compiler.rel import COMMITTED
from featurestore.errors import FileNotWritten
from featurestore.stores.offline.pinned import pinned_names
from featurestore.stores.offline.push_manifest import (
    FOLDER,
    Commit,
    LoggedFile,
    Manifest,
    PushLog,
    manifest_name,
    own_manifest,
    with_commit,
    write_manifest,
)
from featurestore.stores.offline.wal import log_files, read_entries

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.stores.offline.folder import OfflineFolder

FILES_PER_TIER_MAX = 16
"""So many files of about one size become one."""
TIER_ROWS = 10_000
"""Rows of the largest file of the lowest tier; each tier's files are `FILES_PER_TIER_MAX` times as
large, up to `TIERS` of them."""
TIERS = 4
KEPT_US = 3_600_000_000
"""How long files that were merged into others stay for jobs that read them."""
EVENT_ID = b"event_id"
"""Key of a table's metadata that names the column by which equal rows are one."""
ROWS = "rows"
_LOCK, _WRITER = "drain.lock", "writer"


def rows_table(source: str) -> str:
    """The table of a source's pushed rows."""
    return f"{ROWS}/{source}"


def dead_table(source: str) -> str:
    """The table of what was pushed to a source and could not be taken."""
    return f"dead/{source}"


def encoded(table: pa.Table) -> bytes:
    """A table as the data of a record of the write-ahead log."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What one drain did: `rows` committed, by table."""

    rows: Mapping[str, int]
    seconds: float


def logged_files(offline: OfflineFolder) -> dict[str, tuple[LoggedFile, ...]]:
    """The data files of all machines whose rows count now, by table. What lies in write-ahead logs
    is not among them. Raises `CorruptLog`, and what S3 does."""
    log = PushLog.read(offline)
    return {table: files for table in log.tables if (files := log.files(table, log.now(table)))}


def drain(offline: OfflineFolder, *, now_us: int, timeout_s: float | None = None) -> Drained:
    """Bring what this machine's write-ahead log holds into the push log. When it returns, every row
    that was acknowledged before the call stands in a file.

    `timeout_s` is how long to wait for another process that drains (without end by default); 0 does
    nothing where there is one. Raises `FileNotWritten`, `CorruptLog`, and what S3 does.
    """
    folder = offline.wal
    if folder is None or not _undrained(offline, folder):
        return Drained(rows={}, seconds=0.0)
    started = time.perf_counter()
    with locked(folder, timeout_s) as ours:
        rows = _drain(offline, folder, now_us) if ours else {}
    return Drained(rows=rows, seconds=time.perf_counter() - started)


def drained_places(offline: OfflineFolder) -> Mapping[str, int]:
    """How far each file of this machine's write-ahead log was drained, by its name."""
    folder = offline.wal
    if folder is None or not log_files(folder):
        return {}
    return own_manifest(offline, writer_id(folder)).drained


def sweep(offline: OfflineFolder, *, now_us: int) -> None:
    """Remove files of this machine that count no more: those that commits left which were killed,
    and those that were merged long ago."""
    folder = offline.wal
    if folder is None or not folder.exists():
        return
    with locked(folder, None):
        writer = writer_id(folder)
        manifest = own_manifest(offline, writer)
        known = manifest.names | {manifest_name(writer)}
        for kept in offline.list(f"{FOLDER}/{writer}"):
            if kept.name not in known:
                offline.remove(kept.name)
        _collect(offline, writer, manifest, now_us)


# --- draining -------------------------------------------------------------------------------------


def _undrained(offline: OfflineFolder, folder: Path) -> bool:
    files = [file for file in log_files(folder) if file.size]
    if not files:
        return False
    drained = own_manifest(offline, writer_id(folder)).drained
    return any(file.size > drained.get(file.name, 0) for file in files)


def _drain(offline: OfflineFolder, folder: Path, now_us: int) -> dict[str, int]:
    import pyarrow as pa

    writer = writer_id(folder)
    manifest = own_manifest(offline, writer)
    # Instants of commits only grow, whatever the clock does.
    at_us = max(now_us, manifest.last_us + 1)
    drained: dict[str, int] = {}
    batches: dict[str, dict[pa.Schema, list[pa.RecordBatch]]] = {}
    # Schemas are equal whatever their metadata, which says no more than the table's source does.
    for file in log_files(folder):
        end = manifest.drained.get(file.name, 0)
        with contextlib.suppress(FileNotFoundError):  # removed by its owner: all was drained
            for entry in read_entries(file.path, end):
                with pa.ipc.open_stream(entry.data) as stream:
                    batches.setdefault(entry.table, {}).setdefault(stream.schema, []).extend(stream)
                end = entry.end
            drained[file.name] = end
    if drained == manifest.drained:
        return {}
    tables, rows = dict(manifest.tables), dict[str, int]()
    for table, by_schema in batches.items():
        for schema, found in by_schema.items():
            data = _united(pa.Table.from_batches(found, schema))
            logged = write_rows(offline, writer, table, _committed(data, at_us))
            tables[table] = (*tables.get(table, ()), logged)
            rows[table] = rows.get(table, 0) + logged.rows
    manifest = replace(manifest, tables=tables, drained=drained)
    if rows:
        manifest = with_commit(offline, writer, manifest, Commit(at_us=at_us, rows=rows))
    for table in batches:
        manifest = _merged(offline, writer, manifest, table, now_us)
    write_manifest(offline, writer, manifest)
    _collect(offline, writer, manifest, now_us)
    return rows


def _united(table: pa.Table) -> pa.Table:
    """Equal rows of one event are one: a push that was sent twice."""
    column = (table.schema.metadata or {}).get(EVENT_ID)
    types = [str(kind) for kind in table.schema.types]
    if column is None or any("list" in kind for kind in types):
        return table
    distinct = table.group_by(table.column_names, use_threads=False).aggregate([])
    return distinct.select(table.column_names).cast(table.schema)


def _committed(table: pa.Table, at_us: int) -> pa.Table:
    """The rows with the instant of their commit."""
    import pyarrow as pa

    instants = pa.repeat(pa.scalar(at_us, pa.int64()), table.num_rows)
    return table.append_column(COMMITTED, instants)


def write_rows(offline: OfflineFolder, writer: str, table: str, data: pa.Table) -> LoggedFile:
    """Rows, with their commits, as a new data file of this machine; a manifest has to name it."""
    import pyarrow.compute as pc

    name = f"{FOLDER}/{writer}/{table}/{uuid.uuid4().hex}.parquet"
    offline.write(name, data.schema, data.to_batches())
    if COMMITTED not in data.column_names:  # merged from before commits had instants
        return LoggedFile(name=name, rows=data.num_rows)
    first, last = pc.min_max(data[COMMITTED]).values()
    return LoggedFile(name=name, rows=data.num_rows, first_us=first.as_py(), last_us=last.as_py())


def _merged(
    offline: OfflineFolder, writer: str, manifest: Manifest, table: str, now_us: int
) -> Manifest:
    """`manifest` with files of one size merged where they have become many. Equal rows of different
    commits stay apart: which of them count may differ."""
    import pyarrow as pa

    for tier in range(TIERS):
        files = manifest.tables[table]
        alike = [file for file in files if _tier(file.rows) == tier]
        if len(alike) < FILES_PER_TIER_MAX:
            continue
        by_schema: dict[pa.Schema, list[tuple[LoggedFile, pa.Table]]] = {}
        for file in alike:
            data = offline.read(file.name)
            by_schema.setdefault(data.schema, []).append((file, data))
        for found in by_schema.values():
            if len(found) > 1:
                whole = pa.concat_tables([data for _, data in found])
                old = [file for file, _ in found]
                kept = [file for file in manifest.tables[table] if file not in old]
                kept.append(write_rows(offline, writer, table, whole))
                retired = (*manifest.retired, *((file.name, now_us) for file in old))
                tables = {**manifest.tables, table: tuple(kept)}
                manifest = replace(manifest, tables=tables, retired=retired)
    return manifest


def _tier(rows: int) -> int:
    tier, most = 0, TIER_ROWS
    while rows > most:
        tier, most = tier + 1, most * FILES_PER_TIER_MAX
    return tier


def _collect(offline: OfflineFolder, writer: str, manifest: Manifest, now_us: int) -> None:
    """Remove files that were retired long ago, but for those that a training set has read: whether
    one still does is asked again after as long a time, not with every commit. The next manifest
    forgets the others."""
    old = {name for name, at_us in manifest.retired if at_us < now_us - KEPT_US}
    if not old:
        return
    pinned = old & pinned_names(offline)
    for name in old - pinned:
        offline.remove(name)
    left = [(name, now_us if name in pinned else at_us) for name, at_us in manifest.retired]
    retired = tuple((name, at_us) for name, at_us in left if name not in old - pinned)
    write_manifest(offline, writer, replace(manifest, retired=retired))


# --- this machine ---------------------------------------------------------------------------------


def writer_id(folder: Path) -> str:
    """This machine's name in the push log, made when first needed."""
    path = folder / _WRITER
    try:
        return path.read_text()
    except FileNotFoundError:
        pass
    part = folder / f".{uuid.uuid4().hex}.writer"
    try:
        part.write_text(uuid.uuid4().hex)
        # Of two that do this at once the first one counts.
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
        part.unlink()
        return path.read_text()
    except OSError as error:
        raise FileNotWritten(
            f"The push log's folder {folder} can't be written: {error.strerror or error}"
        ) from error


@contextlib.contextmanager
def locked(folder: Path, timeout_s: float | None) -> Iterator[bool]:
    """Hold the lock of whoever drains; yields whether it is ours."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise FileNotWritten(
            f"The push log's folder {folder} can't be written: {error.strerror or error}"
        ) from error
    try:
        yield _lock(descriptor, timeout_s)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, timeout_s: float | None) -> bool:
    if timeout_s is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)

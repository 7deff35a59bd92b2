"""Sorted copies of sources, for questions about few keys.

`optimize` writes the rows of a source, sorted by key and time, in small row groups below the
offline folder, and last of all a manifest: which files it copied, in which state, and which keys
each row group holds. A retrieval reads of it the row groups that can hold its keys, instead of all
files of the source, as long as the copied files are among the source's files in that very state;
files that landed since are read beside it. Where anything does not fit, the files themselves are
read: a copy makes answers faster, never different.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.compiler.rel import DataFiles, Sql
from featurestore.compiler.scans import source_rel
from featurestore.definitions.source import FileSource
from featurestore.dtypes import to_arrow
from featurestore.engines.sql import quote
from featurestore.errors import InvalidRequest, UnknownReference, suggest
from featurestore.jobs.project import MANAGED_FOLDER, MANIFEST, current_files, sorted_copy
from featurestore.jobs.snapshot import Snapshot
from featurestore.records import Record

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.typed import TypedSource
    from featurestore.jobs.materialize import Context
    from featurestore.stores.offline.folder import OfflineFolder

GROUP_ROWS = 4_096
"""Rows in a row group: what is read for one key."""
FILE_ROWS = 1_048_576
RECORD_KIND = "managed_table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    """What became of one source: its `rows` in the copy, sorted by `key`, of so many `files`; and
    whether the copy is new (`written`) or was current."""

    source: str
    key: str
    rows: int
    files: int
    written: bool


def optimize(context: Context, names: Sequence[str] | None = None) -> tuple[Optimized, ...]:
    """Copy the named sources (all files that views with keys read, by default); see
    `FeatureStore.optimize`."""
    if context.offline is None:
        raise InvalidRequest("a sorted copy needs an offline folder to be kept in")
    names = [names] if isinstance(names, str) else names
    keys = {
        source.name: key
        for source in _sources(context, names)
        if (key := sort_key(context, source)) is not None
    }
    for name in names or ():
        if name not in keys:
            raise InvalidRequest(
                f"no view reads source {name!r} by a join key that it has, so there is nothing to "
                "sort it by"
            )
    return tuple(_optimize(context, context.offline, name, key) for name, key in keys.items())


def _sources(context: Context, names: Sequence[str] | None) -> list[TypedSource]:
    known = context.repo.sources
    for name in names or ():
        if name not in known:
            raise UnknownReference(f"there is no source {name!r}.{suggest(str(name), known)}")
        if not isinstance(known[name].definition, FileSource):
            raise InvalidRequest(f"{name!r} is an SQL source; optimize the sources that it reads")
    chosen = dict.fromkeys(known if names is None else names)
    return [known[n] for n in chosen if isinstance(known[n].definition, FileSource)]


def sort_key(context: Context, source: TypedSource) -> str | None:
    """The join key by which most views read the source (the first in name order of as many)."""
    columns = {column.name for column in source.columns}
    counts = Counter(
        key.name
        for view in context.repo.views.values()
        for key in view.keys
        if view.source.name == source.name and key.name in columns
    )
    return min(counts, key=lambda name: (-counts[name], name), default=None)


def _optimize(context: Context, offline: OfflineFolder, name: str, key: str) -> Optimized:
    source = context.repo.sources[name]
    # A copy holds the source's own files; what was pushed is read beside it.
    files = current_files(context.repo, [source], context.root, offline, pushed=False)
    if len(files[name].marks) != len(files[name].paths):
        raise InvalidRequest(
            f"the format of source {name!r} does not tell one state of its files from another"
        )
    there = sorted_copy(source, files[name], offline)
    if there is not None and there.key == key and there.paths == frozenset(files[name].paths):
        rows = _rows_of(offline, name)
        return Optimized(
            source=name, key=key, rows=rows, files=len(files[name].paths), written=False
        )
    snapshot, folder = Snapshot.of(files, offline.s3), f"{MANAGED_FOLDER}/{name}/{uuid.uuid4().hex}"
    groups: list[tuple[str, int, Any, Any]] = []
    rows = 0
    for number, table in enumerate(_sorted(context, source, key, files)):
        part = f"{folder}/part-{number:05}.parquet"
        batches = table.to_batches(max_chunksize=GROUP_ROWS)
        offline.write(part, table.schema, batches, group_rows=GROUP_ROWS)
        for group, batch in enumerate(batches):
            column = batch.column(key)
            groups.append((part, group, column[0].as_py(), column[-1].as_py()))
        rows += table.num_rows
    snapshot.check()
    superseded = _folders(offline, name) - {folder}
    _write_manifest(offline, source, key, files[name], groups, rows=rows)
    body = {
        "source": name, "source_version": source.version, "pin": dict(files[name].pin),
        "key": key, "rows": rows, "folder": folder,
    }  # fmt: skip
    context.registry.commit(
        records=[Record(kind=RECORD_KIND, name=name, body=body)], reason=f"optimize {name}"
    )
    for old in superseded:
        _remove(offline, old)
    return Optimized(source=name, key=key, rows=rows, files=len(files[name].paths), written=True)


def _sorted(
    context: Context, source: TypedSource, key: str, files: dict[str, DataFiles]
) -> Iterator[pa.Table]:
    """The rows by key and time, `FILE_ROWS` at a time."""
    import pyarrow as pa

    rel = source_rel(source, context.repo, files)
    text = (
        f"SELECT * FROM s WHERE {quote(key)} IS NOT NULL "
        f"ORDER BY {quote(key)}, {quote(source.event_time)}"
    )
    reader = context.engine.stream(Sql(query=text, inputs={"s": rel}, dtypes=rel.schema))
    gathered: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        gathered.append(batch)
        rows += batch.num_rows
        if rows >= FILE_ROWS:
            yield pa.Table.from_batches(gathered, reader.schema).combine_chunks()
            gathered, rows = [], 0
    if rows:
        yield pa.Table.from_batches(gathered, reader.schema).combine_chunks()


def _write_manifest(
    offline: OfflineFolder,
    source: TypedSource,
    key: str,
    files: DataFiles,
    groups: Sequence[tuple[str, int, Any, Any]],
    *,
    rows: int,
) -> None:
    import pyarrow as pa

    kind = to_arrow(source.dtype(key))
    columns = list(zip(*groups, strict=True)) or [(), (), (), ()]
    about = {
        "version": source.version,
        "key": key,
        "rows": rows,
        "columns": {column.name: str(column.dtype) for column in source.columns},
        "files": list(zip(files.paths, files.marks, strict=True)),
    }
    table = pa.table(
        {
            "file": pa.array(columns[0], pa.string()),
            "group": pa.array(columns[1], pa.int64()),
            "least": pa.array(columns[2], kind),
            "greatest": pa.array(columns[3], kind),
        }
    ).replace_schema_metadata({"featurestore": json.dumps(about)})
    offline.write(f"{MANAGED_FOLDER}/{source.name}/{MANIFEST}", table.schema, table.to_batches())


def _rows_of(offline: OfflineFolder, name: str) -> int:
    table = offline.read(f"{MANAGED_FOLDER}/{name}/{MANIFEST}")
    return int(json.loads(table.schema.metadata[b"featurestore"])["rows"])


# --- what is superseded ---------------------------------------------------------------------------


def sweep_copies(context: Context) -> int:
    """Remove copies of sources that are no more, or have nothing to be sorted by; returns how many
    files went. Copies that `optimize` superseded it has removed itself."""
    if context.offline is None:
        return 0
    wanted = {s.name for s in _sources(context, None) if sort_key(context, s) is not None}
    gone = [
        file.name
        for file in context.offline.list(MANAGED_FOLDER)
        if file.name.split("/")[1] not in wanted
    ]
    for name in gone:
        context.offline.remove(name)
    return len(gone)


def _folders(offline: OfflineFolder, name: str) -> set[str]:
    """The folders of copies of a source that are there."""
    names = [file.name for file in offline.list(f"{MANAGED_FOLDER}/{name}")]
    return {n.rpartition("/")[0] for n in names if not n.endswith(f"/{MANIFEST}")}


def _remove(offline: OfflineFolder, folder: str) -> None:
    for file in offline.list(folder):
        offline.remove(file.name)

"""Snapshots: what a training set has read of each source, so that it can be read again.

Files are pinned by a manifest of all of them (path, size, SHA-256, rows, event times), which is
kept as a blob; a Delta table by its version, with the list of that version's files. A query over
sources is pinned by their snapshots, unless it says something that is not of them (the clock, a
random number, a sample). What can't be pinned is `unpinned`, and whatever is built from it says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.buckets import is_s3
from featurestore.compiler.queries import unsteady
from featurestore.compiler.rel import DataFiles, Scan, one_file
from featurestore.definitions.source import FileSource, SqlSource
from featurestore.dtypes import parse
from featurestore.fingerprint import canonical_json, fingerprint_bytes
from featurestore.records import Edge, Record
from featurestore.stores.offline.contents import Asked, Content, Facts, State, look_into
from featurestore.timeline import to_us

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo, TypedSource
    from featurestore.engines.base import Engine
    from featurestore.stores.offline.folder import OfflineFolder

MANIFEST_FORM = 1
QUERY = "query"
HASHED = ("files", "deletions", "stream")
"""Kinds of pins whose files may be overwritten, so that only their bytes say which they are."""
PINNABLE = (*HASHED, "delta")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """A file as it was: `path` is relative to the repository where it is below it; `sha256` is
    None for the files of a Delta version, which never change."""

    path: str
    size: int
    pushed: bool = False
    sha256: str | None = None
    rows: int | None = None
    min_event_time_us: int | None = None
    max_event_time_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that it takes to read a source's files again: the files, and how they are read."""

    files: tuple[ManifestFile, ...]
    data: DataFiles

    def to_bytes(self) -> bytes:
        """As a blob holds it; equal manifests are equal bytes."""
        data = self.data
        pushed = [file.path for file in self.files if file.pushed]
        counted = {
            path: data.counted[url]
            for path, url in zip(pushed, data.pushed, strict=True)
            if url in data.counted
        }
        return canonical_json(
            {
                "form": MANIFEST_FORM,
                "format": data.format,
                "files": [_file_json(file) for file in self.files],
                "schema": [[name, str(dtype)] for name, dtype in data.schema.items()],
                "partitions": [[[k, v] for k, v in one.items()] for one in data.partitions],
                "csv_options": dict(data.csv_options),
                "pin": dict(data.pin),
                **({"counted": counted} if counted else {}),
            }
        ).encode()

    @classmethod
    def from_bytes(cls, blob: bytes, *, root: Path) -> Manifest:
        """What `to_bytes` gave, its files below `root`."""
        value = json.loads(blob)
        files = tuple(ManifestFile(**one) for one in value["files"])
        paths = {pushed: tuple(absolute(f.path, root) for f in files if f.pushed is pushed)
                 for pushed in (False, True)}  # fmt: skip
        data = DataFiles(
            format=value["format"],
            paths=paths[False],
            schema={name: parse(text) for name, text in value["schema"]},
            partitions=tuple(dict(one) for one in value["partitions"]),
            csv_options=value["csv_options"],
            pin=value["pin"],
            pushed=paths[True],
            counted={
                absolute(path, root): tuple((after, upto) for after, upto in spans)
                for path, spans in value.get("counted", {}).items()
            },
        )
        return cls(files=files, data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshots:
    """The snapshots of a job: their records, each after those that it reads, the blobs that they
    name, and the sources that could not be pinned, with the reason."""

    records: tuple[Record, ...]
    blobs: tuple[bytes, ...]
    unpinned: Mapping[str, str]


def take(
    repo: TypedRepo,
    sources: Sequence[TypedSource],
    files: Mapping[str, DataFiles],
    states: Mapping[str, Mapping[str, State | None]],
    *,
    root: Path,
    offline: OfflineFolder,
    engine: Engine,
    parents: Mapping[str, Record],
) -> Snapshots:
    """The snapshots of `sources` (each after those that it reads), whose `files` are in these
    `states`, and of the deletions among the files. `parents` are the records of the sources and
    entities, by the name of the source or of the entity's deletions.

    Raises `SnapshotMissing` for a file that is gone, and what S3 does.
    """
    by_name = {source.name: source for source in sources}
    counting = _Counting(engine, files, by_name)
    contents = look_into(_asked(files, states, by_name), offline, count=counting.facts)
    records: dict[str, Record] = {}
    blobs: list[bytes] = []
    unpinned: dict[str, str] = {}
    order = [*(s.name for s in sources), *(name for name in files if name not in by_name)]
    for name in order:
        if name in files:
            body, blob = _of_files(name, files[name], states[name], contents, root)
            blobs.append(blob)
            inputs: tuple[Edge, ...] = ()
        else:
            body, inputs = _of_query(repo.sources[name], records)
        if not body["pinned"]:
            unpinned[name] = str(body["why"])
        edge = Edge(parent=parents[name].id, role=parents[name].kind)
        records[name] = Record(kind="snapshot", name=name, body=body, parents=(edge, *inputs))
    return Snapshots(records=tuple(records.values()), blobs=tuple(blobs), unpinned=unpinned)


def _asked(
    files: Mapping[str, DataFiles],
    states: Mapping[str, Mapping[str, State | None]],
    sources: Mapping[str, TypedSource],
) -> list[Asked]:
    """The files to look into: all that may be overwritten, and all of the push log."""
    asked: dict[str, Asked] = {}
    for name, data in files.items():
        hashed = data.every_path if data.pin.get("kind") in HASHED else data.pushed
        for path in hashed:
            state = states[name][path]
            if state is not None:
                asked[path] = Asked(path, state, _event_column(sources.get(name)))
    return list(asked.values())


@dataclass(frozen=True, slots=True)
class _Counting:
    """Asks the engine for what no footer says: CSV files have none."""

    engine: Engine
    files: Mapping[str, DataFiles]
    sources: Mapping[str, TypedSource]

    def facts(self, path: str) -> Facts:
        """Rows and event times of a file of one of the sources."""
        import pyarrow.compute as pc

        for name, data in self.files.items():
            source = self.sources.get(name)
            if source is None or path not in data.paths:
                continue
            column = _event_column(source) or ""
            scan = Scan(
                source=name,
                files=one_file(data, data.paths.index(path)),
                columns={source.event_time: column},
                dtypes={source.event_time: source.dtype(source.event_time)},
            )
            rows, found = 0, []
            for batch in self.engine.stream(scan):
                rows += batch.num_rows
                found += [_as_us(v) for v in pc.min_max(batch.column(0)).values()]
            known = [value for value in found if value is not None]
            return rows, min(known, default=None), max(known, default=None)
        return None, None, None


def _as_us(value: Any) -> int | None:
    """An instant or a day (an Arrow scalar) in µs."""
    found = value.as_py()
    return None if found is None else to_us(found)


def _event_column(source: TypedSource | None) -> str | None:
    if source is None:
        return None
    definition = source.definition
    mapping = definition.field_mapping if isinstance(definition, FileSource) else {}
    theirs = {ours: name for name, ours in mapping.items()}
    return theirs.get(source.event_time, source.event_time)


def _of_files(
    name: str,
    data: DataFiles,
    states: Mapping[str, State | None],
    contents: Mapping[str, Content],
    root: Path,
) -> tuple[dict[str, Any], bytes]:
    files = tuple(
        _manifest_file(path, states.get(path), contents.get(path), root, pushed=pushed)
        for paths, pushed in ((data.paths, False), (data.pushed, True))
        for path in paths
    )
    blob = Manifest(files=files, data=data).to_bytes()
    kind = str(data.pin.get("kind", "unknown"))
    body: dict[str, Any] = {
        "source": name,
        "kind": kind,
        "pinned": kind in PINNABLE,
        "pin": dict(data.pin),
        "manifest": fingerprint_bytes(blob),
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "rows": _known_sum(file.rows for file in files),
        "min_event_time_us": _extreme(min, (file.min_event_time_us for file in files)),
        "max_event_time_us": _extreme(max, (file.max_event_time_us for file in files)),
    }
    if not body["pinned"]:
        body["why"] = f"its format gives no pin that we know ({kind})"
    return body, blob


def _manifest_file(
    path: str, state: State | None, content: Content | None, root: Path, *, pushed: bool
) -> ManifestFile:
    return ManifestFile(
        path=relative(path, root),
        size=0 if state is None else state[0],
        pushed=pushed,
        sha256=None if content is None else content.sha256,
        rows=None if content is None else content.rows,
        min_event_time_us=None if content is None else content.min_event_time_us,
        max_event_time_us=None if content is None else content.max_event_time_us,
    )


def _of_query(
    source: TypedSource, records: Mapping[str, Record]
) -> tuple[dict[str, Any], tuple[Edge, ...]]:
    """The snapshot of a query is those of what it reads."""
    read = [records[name] for name in source.inputs]
    loose = [record.name for record in read if not record.body["pinned"]]
    query = source.definition.query if isinstance(source.definition, SqlSource) else ""
    why = unsteady(query) or (f"it reads {loose[0]!r}, which is not pinned" if loose else "")
    body: dict[str, Any] = {
        "source": source.name,
        "kind": QUERY,
        "pinned": not why,
        "pin": {"kind": QUERY, "inputs": {record.name: record.hash for record in read}},
        "manifest": None,
        "rows": None,
        "min_event_time_us": None,
        "max_event_time_us": None,
    }
    if why:
        body["why"] = why
    return body, tuple(Edge(parent=record.id, role="snapshot") for record in read)


def _known_sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if any(v is None for v in found) else sum(v for v in found if v is not None)


def _extreme(choose: Any, values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if not found or any(v is None for v in found) else choose(found)


def _file_json(file: ManifestFile) -> dict[str, Any]:
    return {name: getattr(file, name) for name in ManifestFile.__slots__}


def relative(path: str, root: Path) -> str:
    """`path` below the repository's folder `root`, where it is there."""
    if is_s3(path) or not Path(path).is_relative_to(root.absolute()):
        return path
    return Path(path).relative_to(root.absolute()).as_posix()


def absolute(path: str, root: Path) -> str:
    """What `relative` made of a path, as a path of this machine again."""
    return path if is_s3(path) else str(root.absolute() / path)

"""From a repository's folder to its typed form and its files: what every other job starts from."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore import plugins
from featurestore.buckets import S3Options, bucket_path, is_folder, is_s3, translated
from featurestore.compiler.deletions import DELETED_AT_US, deletions_name
from featurestore.compiler.rel import ARRIVED, DataFiles, SortedCopy
from featurestore.compiler.resolve import resolve, source_order
from featurestore.definitions.feature_test import FeatureTest
from featurestore.definitions.repo import load
from featurestore.definitions.source import FileSource, SqlSource, file_format, our_names
from featurestore.dtypes import INT64, TIMESTAMP
from featurestore.errors import FeatureStoreError, InvalidRepository
from featurestore.fingerprint import fingerprint
from featurestore.jobs.uncollected import uncollected
from featurestore.permissions import Identity
from featurestore.stores.offline import push_log
from featurestore.stores.offline.folder import KeptFile, OfflineFolder
from featurestore.stores.offline.push_manifest import LoggedFile, pin_of
from featurestore.timeline import SystemClock

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo, TypedSource
    from featurestore.config import OfflineSettings, OnlineSettings, Settings
    from featurestore.definitions.gates import Gates
    from featurestore.dtypes import DType
    from featurestore.engines.base import Engine
    from featurestore.stores.online.base import OnlineStore
    from featurestore.stores.registry.base import Registry
    from featurestore.timeline import Clock

DELETIONS_FOLDER = "deletions"
"""Below the offline folder; in it one folder for each entity."""
MANAGED_FOLDER = "managed"
"""Below the offline folder; in it one folder for each source: copies, and a manifest."""
MANIFEST = "manifest.parquet"
SPILL_BESIDE_S3 = ".featurestore/offline"
"""Where queries spill by default when the offline folder is on S3."""


def load_repo(settings: Settings, engine: Engine) -> TypedRepo:
    """Import the definition files, read the sources' schemas, and check everything.

    Raises `InvalidRepository` with all errors at once: those of the definitions, of sources whose
    files are missing or unreadable, and of everything that does not fit together.
    """
    with uncollected():
        definitions = load(settings.root)
        schemas: dict[str, Mapping[str, DType] | FeatureStoreError] = {}
        for source in source_order(definitions):
            try:
                schemas[source.name] = _schema(source, schemas, settings, engine)
            except FeatureStoreError as error:
                schemas[source.name] = error
        return resolve(definitions, schemas, project=settings.project.name)


def load_tests(settings: Settings) -> tuple[FeatureTest, ...]:
    """The feature tests of the definition files, which `load_repo` has found to be sound."""
    return load(settings.root).tests


def load_gates(settings: Settings) -> dict[str, Gates]:
    """The gates that the definition files declare, by model. Raises `InvalidRepository`."""
    definitions = load(settings.root)
    if definitions.errors:
        raise InvalidRepository(definitions.errors)
    return {gates.model: gates for gates in definitions.gates}


def _schema(
    source: FileSource | SqlSource,
    known: Mapping[str, Mapping[str, DType] | FeatureStoreError],
    settings: Settings,
    engine: Engine,
) -> Mapping[str, DType]:
    if isinstance(source, FileSource):
        files = files_of(source, settings.root, s3_options(settings.offline))
        return our_names(source, files.schema)
    inputs = {name: schema for name, schema in known.items() if not _failed(schema)}
    return engine.schema(source.query, inputs)  # type: ignore[arg-type]  # failures are left out


def _failed(schema: Mapping[str, DType] | FeatureStoreError) -> bool:
    return isinstance(schema, FeatureStoreError)


def s3_options(settings: OfflineSettings) -> S3Options:
    """Where the settings say S3 is. Raises `InvalidSettings`."""
    return S3Options(endpoint=settings.s3_endpoint, region=settings.s3_region)


def files_of(source: FileSource, root: Path, s3: S3Options | None = None) -> DataFiles:
    """The files of a source as they are now. Raises `SourceMissing`, `SourceSchemaChanged`, and on
    S3 `StoreAccessDenied`, `StoreUnavailable`, `StoreTimeout`."""
    name = file_format(source, root)
    if source.format is None and is_s3(source.path) and _is_delta(source, s3 or S3Options()):
        name = "delta"
    file_format_class = plugins.load("featurestore.file_formats", name)
    files: DataFiles = file_format_class().resolve(source, root=root, s3=s3)
    return files


def _is_delta(source: FileSource, s3: S3Options) -> bool:
    if "/" not in bucket_path(str(source.path)):
        return False
    with translated(f"Source {source.name!r}"):
        return is_folder(s3, f"{str(source.path).rstrip('/')}/_delta_log")


def current_files(
    repo: TypedRepo,
    sources: Iterable[TypedSource],
    root: Path,
    offline: OfflineFolder | None = None,
    *,
    pushed: bool = True,
) -> dict[str, DataFiles]:
    """The files, as they are now, of `sources` and of all that they read, by source name, and of
    what was deleted. What was `pushed` is among them: every row that this machine acknowledged.

    A job calls this once, so that all its queries see one state of the data.
    """
    found: dict[str, DataFiles] = {}
    todo = list(sources)
    while todo:
        source = todo.pop()
        if source.name in found:
            continue
        if isinstance(source.definition, FileSource):
            s3 = None if offline is None else offline.s3
            found[source.name] = files_of(source.definition, root, s3)
        todo.extend(repo.sources[name] for name in source.inputs)
    if offline is None:
        return found
    found = _with_pushed(found, offline) if pushed else found
    return found | deletion_files(repo, offline)


def _with_pushed(files: Mapping[str, DataFiles], offline: OfflineFolder) -> dict[str, DataFiles]:
    """`files` with those of the push log, which is first brought up to date."""
    push_log.drain(offline, now_us=SystemClock().now_us())
    logged = push_log.logged_files(offline)
    return {
        name: with_logged(data, logged.get(push_log.rows_table(name), ()), offline)
        for name, data in files.items()
    }


def with_logged(data: DataFiles, logged: Sequence[LoggedFile], offline: OfflineFolder) -> DataFiles:
    """The files of a source with these of its push log."""
    if not logged:
        return data
    return replace(
        data,
        schema={**data.schema, ARRIVED: TIMESTAMP},
        pin={**data.pin, "pushed": pin_of(logged)},
        pushed=tuple(offline.url(file.name) for file in logged),
        counted={
            offline.url(file.name): file.counted for file in logged if file.counted is not None
        },
    )


def with_copies(
    repo: TypedRepo, files: Mapping[str, DataFiles], offline: OfflineFolder
) -> dict[str, DataFiles]:
    """`files` with the sorted copies that are current. One that can't be read is none."""
    return {
        name: replace(data, copy=sorted_copy(repo.sources[name], data, offline))
        if name in repo.sources
        else data
        for name, data in files.items()
    }


def sorted_copy(source: TypedSource, files: DataFiles, offline: OfflineFolder) -> SortedCopy | None:
    """The copy of `source`, if it is one of its very definition and columns, and all files that it
    copied are still among `files`, in the state in which they were copied."""
    import pyarrow as pa

    try:
        manifest = offline.read(f"{MANAGED_FOLDER}/{source.name}/{MANIFEST}")
        about = json.loads(manifest.schema.metadata[b"featurestore"])
    except (OSError, pa.ArrowException, FeatureStoreError, KeyError, TypeError, ValueError):
        return None
    columns = {column.name: column.dtype for column in source.columns}
    marks = dict(zip(files.paths, files.marks, strict=False))
    if (
        about["version"] != source.version
        or about["columns"] != {name: str(dtype) for name, dtype in columns.items()}
        or any(marks.get(path) != mark for path, mark in about["files"])
    ):
        return None
    values = (manifest[name].to_pylist() for name in ("file", "group", "least", "greatest"))
    return SortedCopy(
        key=about["key"],
        columns=columns,
        groups=tuple(zip(*values, strict=True)),
        paths=frozenset(path for path, _ in about["files"]),
    )


def deletion_files(repo: TypedRepo, offline: OfflineFolder) -> dict[str, DataFiles]:
    """The deletions of each entity that has some, under `deletions_name`."""
    files: dict[str, list[KeptFile]] = {}
    for file in offline.list(DELETIONS_FOLDER):
        files.setdefault(file.name.split("/")[1], []).append(file)
    return {
        deletions_name(name): DataFiles(
            format="parquet",
            paths=tuple(file.url for file in files[name]),
            schema={key.name: key.dtype for key in entity.keys} | {DELETED_AT_US: INT64},
            pin={
                "kind": "deletions",
                "hash": fingerprint([[f.name, f.size, f.mtime_ns] for f in files[name]]),
                "files": len(files[name]),
            },
        )
        for name, entity in repo.entities.items()
        if name in files
    }


def offline_folder(settings: Settings) -> OfflineFolder:
    """Where jobs keep what they keep offline."""
    s3 = s3_options(settings.offline)
    return OfflineFolder.at(settings.offline.path, settings.root, s3, wal=settings.push.path)


def open_registry(settings: Settings, *, clock: Clock, author: str) -> Registry:
    """The registry that the settings name. Raises as `Registry.open` does."""
    scheme = plugins.scheme_of(settings.registry.url).partition("+")[0]
    opened: Registry = plugins.load("featurestore.registries", scheme).open(
        settings.registry.url,
        project=settings.project.name,
        root=settings.root,
        clock=clock,
        author=author,
    )
    opened.identity = Identity(author=author, host=socket.gethostname(), token=settings.own_token())
    return opened


def open_online_store(
    settings: OnlineSettings, *, root: Path, read_only: bool = False
) -> OnlineStore:
    """The online store that the settings name; remote ones connect when first used."""
    kind = plugins.load("featurestore.online_stores", plugins.scheme_of(settings.url))
    opened: OnlineStore = kind.open(settings, root=root, read_only=read_only)
    return opened


def open_engine(settings: OfflineSettings, *, root: Path) -> Engine:
    """The offline engine that the settings name, spilling below the offline path."""
    below = SPILL_BESIDE_S3 if is_s3(settings.path) else settings.path
    temp = settings.temp_directory or str(Path(below) / "tmp")
    kind = plugins.load("featurestore.engines", settings.engine)
    opened: Engine = kind.open(settings, temp_directory=str((root / temp).resolve()))
    return opened

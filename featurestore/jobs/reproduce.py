"""Rebuilding a training set from its pins, and what that shows.

Everything comes from what is on record: the definitions, the list of files of each source, the
entity frame (the set's own first columns), the instant until which rows were known. Files are
checked by their bytes before anything is built of them. The rows are digested as they come and
written nowhere; only where the digest differs they are built again, beside the recorded ones, to
say which columns and rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.compiler.definition_records import definition_records
from featurestore.compiler.recorded import (
    differences,
    recorded_definitions,
    recorded_schemas,
    uses_of,
)
from featurestore.compiler.rel import DataFiles
from featurestore.compiler.resolve import resolve, source_order
from featurestore.compiler.typed import Metadata, TypedService
from featurestore.definitions.source import FileSource, our_names
from featurestore.errors import (
    DefinitionError,
    InvalidRequest,
    RecordNotFound,
    SourceMissing,
)
from featurestore.jobs import (
    lineage_refs,
    pinning,
    set_files,
    training_set_creation,
    training_sets,
)
from featurestore.jobs.entity_frame import EntityFrame, Rows
from featurestore.jobs.frame_parts import batches_in_parts
from featurestore.jobs.row_digest import RowDigest
from featurestore.jobs.row_hash import hashes
from featurestore.jobs.snapshot import states_of
from featurestore.jobs.training import get_historical_features
from featurestore.lifecycle.datasets import (
    LibraryChange,
    Verdict,
    changed_libraries,
    verdict,
)
from featurestore.stores.offline.contents import Asked, State, digests

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.typed import TypedRepo
    from featurestore.definitions.repo import Definitions
    from featurestore.engines.base import Engine
    from featurestore.jobs.training import RetrievalJob
    from featurestore.jobs.training_sets import SetStore, TrainingSet
    from featurestore.records import Record

EXAMPLES_MAX = 5
"""So many rows that differ are shown of each column."""
COMPARED_ROWS = 65_536
_SERVICE = "reproduced"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredFile:
    """A file that a set was made of, and `why` it can't be used: `gone` or `changed`."""

    source: str
    path: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDifference:
    """A column that came out otherwise: in how many rows, with some examples (`row` counts from 0,
    `then` and `now` are its values)."""

    column: str
    rows: int
    examples: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What rebuilding a training set showed.

    `equal` is whether the rows were the same (None: they could not be rebuilt). `definitions` says
    where the features came from: `present` (the repository still has these very ones) or `records`.
    `redefined` are features that could not be had in the version of then, `problems` what stands in
    the way of building any.
    """

    training_set: str
    asked: str
    verdict: Verdict
    equal: bool | None
    rows: int
    row_digest: str
    rebuilt_digest: str | None = None
    definitions: str = "present"
    libraries: tuple[LibraryChange, ...] = ()
    expired: tuple[ExpiredFile, ...] = ()
    unpinned: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[ColumnDifference, ...] = ()
    redefined: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether the very same rows came out of the very same data."""
        return self.verdict in (Verdict.EXACT, Verdict.DIFFERENT_ENVIRONMENT)


def reproduce(
    ref: str,
    store: SetStore,
    *,
    engine: Engine,
    present: TypedRepo | None,
    project: str,
    at_us: int | None = None,
) -> Reproduction:
    """Rebuild the training set that `ref` names (named at `at_us`), or that the run or model it
    names was trained on. `present` are the folder's definitions, if it can be read.

    Raises `RecordNotFound`, `AmbiguousRecord`, `InvalidRequest` (nothing that was trained, or on
    more than one set), what S3 does, and what running a retrieval does beside what is a verdict.
    """
    found = training_sets.TrainingSet(record=trained_on(ref, store, at_us), store=store)
    work = _Work(ref, found, store, engine, present, project)
    return work.reproduction()


def trained_on(ref: str, store: SetStore, at_us: int | None = None) -> Any:
    """The record of a training set, or of the one that a run or a model hangs on; as of an
    instant."""
    registry = store.registry
    try:
        found = training_sets.find(ref, registry)
        if at_us is None or "@" in ref:
            return found
        # A name may have been another set's then.
        ref = f"{training_sets.KIND}/{ref.removeprefix(f'{training_sets.KIND}/')}"
    except (RecordNotFound, InvalidRequest):
        pass
    target = lineage_refs.find(registry, ref, at_us=at_us).newest
    if target.kind == training_sets.KIND:
        return registry.record(target.id)
    links = registry.walk(target.id, direction="up", past=(training_sets.KIND,))
    ids = [e.parent for e in target.parents if e.parent.startswith(f"{training_sets.KIND}:")]
    if not ids:
        ids = [link[1] for link in links if link[1].startswith(f"{training_sets.KIND}:")]
    ids = list(dict.fromkeys(ids))
    if not ids:
        raise InvalidRequest(f"{ref}: {target.id} hangs on no training set; there is none to build")
    if len(ids) > 1:
        listed = ", ".join(ids)
        raise InvalidRequest(f"{ref}: {target.id} hangs on {len(ids)} training sets; name one of "
                             f"{listed}")  # fmt: skip
    return registry.record(ids[0])


@dataclass(frozen=True, slots=True)
class _Work:
    ref: str
    found: TrainingSet
    store: SetStore
    engine: Engine
    present: TypedRepo | None
    project: str

    def reproduction(self) -> Reproduction:
        records = self._records()
        files, expired = self._files(records)
        unpinned = {
            r.name: str(r.body.get("why", "")) for r in records.values()
            if r.kind == "snapshot" and not r.body["pinned"]
        }  # fmt: skip
        libraries_now = training_set_creation.libraries()
        libraries = changed_libraries(self.found.body["libraries"], libraries_now)
        known = Reproduction(
            training_set=self.found.id,
            asked=self.ref,
            verdict=Verdict.DATA_EXPIRED,
            equal=None,
            rows=self.found.rows,
            row_digest=self.found.row_digest,
            libraries=libraries,
            expired=tuple(expired),
            unpinned=unpinned,
        )
        if expired:
            return known
        try:
            repo, where = self._repo(records, files)
            job = self._job(repo, files)
        except (DefinitionError, KeyError, ValueError) as error:
            problem = str(error)
            said = Verdict.UNPINNED if unpinned else Verdict.MISMATCH
            return replace(known, verdict=said, definitions="records", problems=(problem,))
        versions = {one["feature"]: one["version"] for one in self.found.request["columns"]}
        redefined = differences(repo.services[_SERVICE].uses, versions)
        digest = self._digest(job)
        equal = digest == self.found.row_digest
        said = verdict(unpinned=list(unpinned), expired=(), equal=equal, libraries=bool(libraries))
        return replace(
            known,
            verdict=said,
            equal=equal,
            rebuilt_digest=digest,
            definitions=where,
            redefined=redefined,
            differences=() if equal else tuple(self._differences(job)),
        )

    # --- definitions ---

    def _records(self) -> dict[str, Record]:
        """All above the set and its views, by id."""
        registry, seeds = self.store.registry, [self.found.id]
        seeds += self.found.request["views"].values()
        ids = dict.fromkeys(seeds)
        ids |= dict.fromkeys(link[1] for link in registry.walk(seeds, direction="up"))
        return {stored.id: stored.record for stored in registry.records(ids=list(ids))}

    def _repo(
        self, records: Mapping[str, Record], files: Mapping[str, DataFiles]
    ) -> tuple[TypedRepo, str]:
        """The definitions of then, with what was asked for as a service, and where they are
        from."""
        request, views = self.found.request, set(self.found.request["views"].values())
        repo, where = self.present, "present"
        if repo is None or not views <= {record.id for record in definition_records(repo)}:
            definitions = recorded_definitions(records.values(), self.store.registry.blob)
            schemas = self._schemas(definitions, records, files)
            repo, where = resolve(definitions, schemas, project=self.project), "records"
        service = TypedService(
            name=_SERVICE,
            uses=uses_of(repo, request["uses"]),
            version="",
            metadata=Metadata(),
        )
        return replace(repo, services={**repo.services, _SERVICE: service}), where

    def _schemas(
        self,
        definitions: Definitions,
        records: Mapping[str, Record],
        files: Mapping[str, DataFiles],
    ) -> dict[str, Any]:
        """The columns of each source: as recorded, or where they were too many, as its files and
        its query have them."""
        found: dict[str, Any] = dict(recorded_schemas(records.values()))
        for source in source_order(definitions):
            if source.name in found:
                continue
            if isinstance(source, FileSource) and source.name in files:
                found[source.name] = our_names(source, files[source.name].schema)
            elif not isinstance(source, FileSource):
                found[source.name] = self.engine.schema(source.query, found)
            else:
                problem = f"source {source.name!r}: its columns are not on record"
                found[source.name] = SourceMissing(problem)
        return found

    # --- files ---

    def _files(
        self, records: Mapping[str, Record]
    ) -> tuple[dict[str, DataFiles], list[ExpiredFile]]:
        """The files of each source as they were, and those that are not so any more, the set's own
        among them."""
        found: dict[str, DataFiles] = {}
        offline = self.store.offline
        wanted: list[tuple[str, str, int, str | None]] = [
            (self.found.name, offline.url(file.name), file.size, file.sha256)
            for file in self.found.files.files
        ]
        for record in records.values():
            if record.kind == "snapshot" and record.body["manifest"] is not None:
                blob = self.store.registry.blob(record.body["manifest"])
                manifest = pinning.Manifest.from_bytes(blob, root=self.store.root)
                found[record.name] = manifest.data
                for one in manifest.files:
                    path = pinning.absolute(one.path, self.store.root)
                    wanted.append((record.name, path, one.size, one.sha256))
        return found, list(self._expired(wanted))

    def _expired(self, wanted: Sequence[tuple[str, str, int, str | None]]) -> Iterator[ExpiredFile]:
        asked: list[Asked] = []
        hashed: list[tuple[str, str, str]] = []
        states: dict[str, State | None] = {}
        for source in dict.fromkeys(source for source, *_ in wanted):
            paths = [path for owner, path, *_ in wanted if owner == source]
            states |= states_of(source, paths, self.store.offline.s3)
        for source, path, size, digest in wanted:
            state = states[path]
            if state is None:
                yield ExpiredFile(source=source, path=path, why="gone")
            elif state[0] != size:
                yield ExpiredFile(source=source, path=path, why="changed")
            elif digest is not None:
                asked.append(Asked(path, state, None))
                hashed.append((source, path, digest))
        found = digests(asked, self.store.offline)
        for source, path, digest in hashed:
            if found[path] != digest:
                yield ExpiredFile(source=source, path=path, why="changed")

    # --- rows ---

    def _frame(self) -> EntityFrame:
        """The entity frame, which is the first columns of the set."""
        offline, files, own = self.store.offline, self.found.files, self._own_columns()

        @contextmanager
        def opened() -> Iterator[Rows]:
            yield Rows(
                self.found.rows,
                lambda: set_files.read_rows(offline, files, batch_rows=COMPARED_ROWS, columns=own),
            )

        schema = _chosen(files.schema, own)
        return EntityFrame(schema, self.found.rows, opened)

    def _own_columns(self) -> list[str]:
        """The columns that are neither features nor statuses."""
        body = self.found.body
        count = len(self.found.features)
        count += len(self.found.request["uses"]) if body["include_status"] else 0
        names = list(self.found.schema.names)
        return names[: len(names) - count]

    def _job(self, repo: TypedRepo, files: Mapping[str, DataFiles]) -> RetrievalJob:
        body = self.found.body
        job = get_historical_features(
            self._frame(),
            _SERVICE,
            repo=repo,
            files=files,
            engine=self.engine,
            offline=self.store.offline,
            as_of=body["as_of"],
            known_until_us=self.found.known_until_us,
            full_feature_names=body["full_feature_names"],
            include_status=body["include_status"],
            event_timestamp=body["entity_frame"]["time"],
        )
        return replace(job, check=None)

    def _digest(self, job: RetrievalJob) -> str:
        found = RowDigest(job.schema)
        for _ in set_files.behind(batches_in_parts(job, COMPARED_ROWS), found.add):
            pass
        return found.digest()

    def _differences(self, job: RetrievalJob) -> Iterator[ColumnDifference]:
        """Column by column, row by row: both come in the frame's order."""
        then = set_files.read_rows(self.store.offline, self.found.files, batch_rows=COMPARED_ROWS)
        counts: dict[str, int] = {}
        examples: dict[str, list[Mapping[str, Any]]] = {}
        start = 0
        for old, new in _side_by_side(then, batches_in_parts(job, COMPARED_ROWS)):
            for name in old.schema.names:
                if name not in new.schema.names:
                    counts[name] = counts.get(name, 0) + old.num_rows
                    continue
                for row in _rows_that_differ(old[name], new[name], name):
                    counts[name] = counts.get(name, 0) + 1
                    shown = examples.setdefault(name, [])
                    if len(shown) < EXAMPLES_MAX:
                        pair = {"then": old[name][row].as_py(), "now": new[name][row].as_py()}
                        shown.append({"row": start + int(row), **pair})
            start += old.num_rows
        for name, count in counts.items():
            yield ColumnDifference(column=name, rows=count, examples=tuple(examples.get(name, ())))


def _rows_that_differ(old: pa.Array, new: pa.Array, name: str) -> Any:
    left, right = hashes(old, name), hashes(new, name)
    return np.flatnonzero((left[0] != right[0]) | (left[1] != right[1]))


def _chosen(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([schema.field(name) for name in names])


def _side_by_side(
    left: Iterator[pa.RecordBatch], right: Iterator[pa.RecordBatch]
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Batches of the same rows of both."""
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        count = min(one.num_rows, other.num_rows)
        if count:
            yield one.slice(0, count), other.slice(0, count)
        one = one.slice(count) if one.num_rows > count else next(left, None)
        other = other.slice(count) if other.num_rows > count else next(right, None)

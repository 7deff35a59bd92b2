"""Training sets that stay: their rows are written once, and a record says what they were made of.

`create` writes the rows first, then commits everything at once: the definitions that the set uses,
the snapshots of what it has read, the set's own record, and last the alias `training_set/<name>`.
What a crash leaves behind is files that no record names.
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.compiler.definition_records import definition_records, function_blobs
from featurestore.compiler.deletions import deletions_name
from featurestore.compiler.program import program_of
from featurestore.compiler.selection import Features, output_names, select
from featurestore.compiler.typed import OnDemandUse, ViewUse
from featurestore.engines.base import BATCH_ROWS
from featurestore.errors import (
    FeatureStoreError,
    InvalidRequest,
    RecordNotFound,
    suggest,
)
from featurestore.fingerprint import canonical_json, fingerprint_bytes
from featurestore.jobs import pinning, retrieval, set_files
from featurestore.jobs.frame_parts import batches_in_parts
from featurestore.jobs.retrieved import Retrieved, note_retrieved
from featurestore.jobs.training import counted, files_for, get_historical_features, service_of
from featurestore.lifecycle.datasets import Splits, check_name, read_splits
from featurestore.records import Edge, Record, StoredRecord
from featurestore.stores.offline.pinned import SETS_FOLDER, write_pins

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.training import AsOf
    from featurestore.compiler.typed import TypedRepo, TypedSource, Use
    from featurestore.engines.base import Engine
    from featurestore.jobs.training import RetrievalJob
    from featurestore.stores.offline.folder import OfflineFolder
    from featurestore.stores.registry.base import Registry

KIND = "training_set"
LISTED_BYTES_MAX = 12 * 1024
"""Lists of a record's body that are longer stand in its blobs alone."""
_Taken = tuple[pinning.Snapshots, dict[str, Record]]
"""Snapshots, and the definitions that are used, by id."""
LIBRARIES = ("featurestore", "duckdb", "pyarrow", "numpy")
"""Those that can change a value, beside Python and the C library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStore:
    """Where training sets are kept: `root` is the repository's folder."""

    registry: Registry
    offline: OfflineFolder
    root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a set is asked for; see `FeatureStore.create_training_set`."""

    name: str
    entity_df: object
    features: Features
    label: str | None = None
    splits: Mapping[str, object] | None = None
    as_of: AsOf = "known"
    known_until_us: int
    full_feature_names: bool = False
    include_status: bool = False
    event_timestamp: str = "event_timestamp"


def libraries() -> dict[str, str]:
    """The versions of what can change a value."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    found["python"] = platform.python_version()
    libc = " ".join(platform.libc_ver())
    return {**found, "libc": libc.strip() or platform.system(), "machine": platform.machine()}


def create(asked: Asked, store: SetStore, *, repo: TypedRepo, engine: Engine) -> TrainingSet:
    """Write the rows, pin what was read, put it on record.

    Raises what `get_historical_features` does, `InvalidRequest` (name, label, splits),
    `FileNotWritten`, `SnapshotMissing`, and what S3 and the registry do. Nothing is on record then.
    """
    name = check_name(asked.name)
    uses = select(repo, asked.features)
    files = files_for(
        asked.entity_df, asked.features, repo=repo, root=store.root, offline=store.offline
    )
    job = get_historical_features(
        asked.entity_df,
        asked.features,
        repo=repo,
        files=files,
        engine=engine,
        offline=store.offline,
        as_of=asked.as_of,
        known_until_us=asked.known_until_us,
        full_feature_names=asked.full_feature_names,
        include_status=asked.include_status,
        event_timestamp=asked.event_timestamp,
    )
    label = _check_label(asked.label, job)
    keys = [key.column for key in job.run.compiled.keys]
    splits = None if asked.splits is None else read_splits(asked.splits, keys=keys)
    made = _Made(asked, store, repo, engine, uses, job, files)
    location = f"{SETS_FOLDER}/{name}/{uuid.uuid4().hex}"
    tally = set_files.Tally(
        job.schema,
        head=len(job.frame.schema),
        time_column=asked.event_timestamp,
        keys=keys,
        splits=splits,
    )
    found, written = _write(made, location, tally)
    # Whether a commit that fails has happened nobody knows, so the files stay: at worst as garbage.
    record = made.commit(found, written, location, label=label, splits=splits)
    return TrainingSet(record=store.registry.record(record.id), store=store)


def _write(made: _Made, location: str, tally: set_files.Tally) -> tuple[_Taken, set_files.Written]:
    """The rows as files, and the snapshots, taken side by side; nothing stays where one fails."""
    offline = made.store.offline
    job, undefined = counted(made.job)
    names: list[str] = []
    try:
        pushed = (path for data in made.files.values() for path in data.pushed)
        pins = write_pins(offline, location, pushed)
        names += [] if pins is None else [pins]
        with ThreadPoolExecutor(1, thread_name_prefix="snapshots") as thread:
            taken = thread.submit(made.snapshots)
            written = set_files.write_rows(
                offline, location, job.schema, batches_in_parts(job, BATCH_ROWS), tally
            )
            names += [file.name for file in written.files]
            found = taken.result()
        job.check_files()  # also what was hashed is what was read
    except BaseException:
        with suppress(FeatureStoreError, OSError):
            for name in names:
                offline.remove(name)
        raise
    if undefined:
        written = replace(written, profile={**written.profile, "undefined": undefined})
    return found, written


def _check_label(label: str | None, job: RetrievalJob) -> str | None:
    columns = job.schema.names
    if label is not None and label not in columns:
        raise InvalidRequest(
            f"label: neither the entity frame nor the features have a column {label!r}."
            f"{suggest(label, columns)}"
        )
    return label


@dataclass(frozen=True, slots=True)
class _Made:
    """A set while it is made: what goes on record with it."""

    asked: Asked
    store: SetStore
    repo: TypedRepo
    engine: Engine
    uses: Sequence[Use]
    job: RetrievalJob
    files: Mapping[str, DataFiles]

    def snapshots(self) -> _Taken:
        """What was read, and the definitions that are used, by id, each after its parents."""
        program = program_of(self.uses)
        sources = self._sources([use.view.source for use in program.joined])
        every = definition_records(self.repo)
        by_name = {(record.kind, record.name): record for record in every}
        views = [by_name["view", use.view.name] for use in program.joined]
        views += [by_name["on_demand_view", step.view.name] for step in program.steps]
        seeds = [*views, *self._features(by_name)]
        seeds += [by_name["source", source.name] for source in sources]
        service = self.service
        seeds += [by_name["service", service]] if service else []
        parents = {source.name: by_name["source", source.name] for source in sources}
        names = {s.name for s in sources}
        deletions = {deletions_name(entity): entity for entity in self.repo.entities}
        read = {n: f for n, f in self.files.items() if n in names or n in self.job.pins}
        for name in read:
            if name in deletions:
                parents[name] = by_name["entity", deletions[name]]
                seeds.append(parents[name])
        taken = pinning.take(
            self.repo,
            sources,
            read,
            self.job.states,
            root=self.store.root,
            offline=self.store.offline,
            engine=self.engine,
            parents=parents,
        )
        return taken, _with_parents(seeds, every)

    @property
    def service(self) -> str | None:
        """The service that was asked for."""
        return service_of(self.asked.features, self.repo)

    def _sources(self, roots: Sequence[TypedSource]) -> list[TypedSource]:
        """These sources and all that they read, each after those that it reads."""
        needed, todo = set(), list(roots)
        while todo:
            source = todo.pop()
            if source.name not in needed:
                needed.add(source.name)
                todo += [self.repo.sources[name] for name in source.inputs]
        return [source for source in self.repo.sources.values() if source.name in needed]

    def _features(self, records: Mapping[tuple[str, str], Record]) -> list[Record]:
        names = [f"{use.view.name}.{feature.name}" for use in self.uses for feature in use.features]
        return [records["feature", name] for name in dict.fromkeys(names)]

    def commit(
        self,
        taken: _Taken,
        written: set_files.Written,
        location: str,
        *,
        label: str | None,
        splits: Splits | None,
    ) -> Record:
        """Everything at once."""
        snapshots, definitions = taken
        by_name = {(r.kind, r.name): r for r in definitions.values()}
        files = set_files.SetFiles(files=written.files, schema=written.schema).to_bytes()
        profile = canonical_json(written.profile).encode()
        request = canonical_json(self._request(by_name)).encode()
        parents = [Edge(parent=r.id, role="feature") for r in self._features(by_name)]
        parents += [Edge(parent=r.id, role="snapshot") for r in snapshots.records]
        if self.service:
            parents.append(Edge(parent=by_name["service", self.service].id, role="service"))
        body = {
            **self._body(written, by_name),
            "location": location,
            "label": label,
            "splits": None if splits is None else {**splits.to_json(), "rows": written.splits},
            "profile": fingerprint_bytes(profile),
            "files": fingerprint_bytes(files),
            "request": fingerprint_bytes(request),
            "unpinned": list(snapshots.unpinned),
        }
        record = Record(kind=KIND, name=self.asked.name, body=body, parents=tuple(parents))
        self.store.registry.commit(
            records=[*definitions.values(), *snapshots.records, record],
            blobs=[*snapshots.blobs, files, profile, request, *function_blobs(self.repo)],
            aliases={f"{KIND}/{self.asked.name}": record.id},
            reason="create training set",
        )
        note_retrieved(
            Retrieved(
                training_set=record.id,
                features=self.job.features,
                pins=self.job.pins,
                service=self.service,
                at_us=self.asked.known_until_us,
            )
        )
        return record

    def _body(
        self, written: set_files.Written, records: Mapping[tuple[str, str], Record]
    ) -> dict[str, Any]:
        asked, frame = self.asked, self.job.frame.schema
        service = self.service
        return {
            "rows": written.rows,
            "columns": _listed([[f.name, str(f.type)] for f in written.schema]),
            "features": _listed(list(self.job.features)),
            "entity_frame": {
                "digest": written.frame_digest,
                "columns": _listed(list(frame.names)),
                "keys": [key.column for key in self.job.run.compiled.keys],
                "time": asked.event_timestamp,
            },
            "as_of": asked.as_of,
            "known_until_us": asked.known_until_us,
            "full_feature_names": asked.full_feature_names,
            "include_status": asked.include_status,
            "service": None
            if service is None
            else {"name": service, "version": records["service", service].body["version"]},
            "row_digest": written.row_digest,
            "bytes": sum(file.size for file in written.files),
            "libraries": libraries(),
        }

    def _request(self, records: Mapping[tuple[str, str], Record]) -> dict[str, Any]:
        """What was asked for, by the records of the definitions: enough to ask it again."""
        program = program_of(self.uses)
        named = output_names(self.uses, full_feature_names=self.asked.full_feature_names)
        views = [("view", use.view.name) for use in program.joined]
        views += [("on_demand_view", step.view.name) for step in program.steps]
        return {
            "uses": [_use(use) for use in self.uses],
            "views": {name: records[kind, name].id for kind, name in views},
            "columns": [
                {
                    "column": named[use.name, feature.name],
                    "feature": f"{use.view.name}.{feature.name}",
                    "version": feature.version,
                    "dtype": str(feature.dtype),
                }
                for use in self.uses
                for feature in use.features
            ],
        }


def _use(use: Use) -> dict[str, Any]:
    found = {
        "name": use.name,
        "kind": "on_demand_view" if isinstance(use, OnDemandUse) else "view",
        "view": use.view.name,
        "features": [feature.name for feature in use.features],
    }
    return found | {"join_key_map": dict(use.join_key_map) if isinstance(use, ViewUse) else {}}


def _listed(values: list[Any]) -> list[Any] | dict[str, Any]:
    """A list, or where it is too long for a record its length alone; blobs have it."""
    if len(canonical_json(values).encode()) <= LISTED_BYTES_MAX:
        return values
    return {"count": len(values)}


def _with_parents(seeds: Sequence[Record], every: Sequence[Record]) -> dict[str, Record]:
    """These records and all above them, in the order of `every`: parents first."""
    by_id = {record.id: record for record in every}
    needed, todo = set(), [record.id for record in seeds]
    while todo:
        record_id = todo.pop()
        if record_id not in needed:
            needed.add(record_id)
            todo += [edge.parent for edge in by_id[record_id].parents]
    return {record_id: record for record_id, record in by_id.items() if record_id in needed}


# --- sets on record -------------------------------------------------------------------------------


def training_set(ref: str, store: SetStore) -> TrainingSet:
    """The set that `ref` names: its name (the newest, or the one that was restored), `name/tag`,
    `name/3` (the third version), or a record's id, in full or short.

    Raises `RecordNotFound`, `AmbiguousRecord`, `InvalidRequest` for a record of another kind.
    """
    stored = find(ref, store.registry)
    found = TrainingSet(record=stored, store=store)
    note_retrieved(
        Retrieved(
            training_set=stored.id,
            features=found.features,
            service=(stored.record.body.get("service") or {}).get("name"),
            at_us=stored.created_at_us,
        )
    )
    return found


def find(ref: str, registry: Registry) -> StoredRecord:
    """The record of a training set. Raises as `training_set` does."""
    if not isinstance(ref, str):
        raise InvalidRequest(f"a training set is named by its name or id, not by {ref!r}")
    if "@" not in ref and not ref.startswith(f"{KIND}/"):
        known = {name.partition("/")[2] for name in registry.aliases(f"{KIND}/")}
        if ref not in known:
            return _by_number(ref, registry, known)
        ref = f"{KIND}/{ref}"
    elif "@" in ref and ":" not in ref:
        ref = f"{KIND}:{ref}"
    found = registry.record(ref)
    if found.record.kind != KIND:
        raise InvalidRequest(f"{ref} is a {found.record.kind}, not a training set")
    return found


def _by_number(ref: str, registry: Registry, known: set[str]) -> StoredRecord:
    name, _, number = ref.rpartition("/")
    if name in known and number.isascii() and number.isdigit() and len(number) < 10:
        versions = registry.records(kind=KIND, name=name)
        if 1 <= int(number) <= len(versions):
            return versions[int(number) - 1]
    raise RecordNotFound(ref, known=known)


def list_sets(registry: Registry, name: str | None = None) -> list[StoredRecord]:
    """The training sets on record (of one name), newest first."""
    return list(reversed(registry.records(kind=KIND, name=name)))


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A training set on record. Its rows are read from the files that were written once, in the
    order of the entity frame: the frame's columns, the features, and the statuses if asked for.

    Reading raises `SnapshotMissing` where a file is gone or damaged, and what S3 does.
    """

    record: StoredRecord
    store: SetStore

    @property
    def id(self) -> str:
        """The record's id, `training_set:<name>@<hash>`."""
        return self.record.id

    @property
    def name(self) -> str:
        """What it is called."""
        return self.record.record.name

    @property
    def body(self) -> Mapping[str, Any]:
        """What its record says."""
        return self.record.record.body

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.body["rows"])

    @property
    def row_digest(self) -> str:
        """The digest of all rows, whatever their order (see `jobs.row_digest`)."""
        return str(self.body["row_digest"])

    @property
    def label(self) -> str | None:
        """The column to learn, if one was named."""
        found = self.body["label"]
        return None if found is None else str(found)

    @property
    def known_until_us(self) -> int:
        """Nothing that became known later is in it (µs)."""
        return int(self.body["known_until_us"])

    @property
    def unpinned(self) -> tuple[str, ...]:
        """The sources that could not be pinned."""
        return tuple(self.body["unpinned"])

    @property
    def features(self) -> tuple[str, ...]:
        """The feature columns."""
        return tuple(one["column"] for one in self.request["columns"])

    @property
    def splits(self) -> dict[str, int]:
        """The rows of each split, by name."""
        found = self.body["splits"]
        return {} if found is None else {n: found["rows"].get(n, 0) for n in found["names"]}

    @cached_property
    def request(self) -> dict[str, Any]:
        """What was asked for: uses of views, and each feature with its version."""
        return self._blob("request")

    @cached_property
    def profile(self) -> dict[str, Any]:
        """What its columns are like; see the guide for the fields."""
        return self._blob("profile")

    @cached_property
    def files(self) -> set_files.SetFiles:
        """Its files, and the schema of its rows."""
        return set_files.SetFiles.from_bytes(self.store.registry.blob(self.body["files"]))

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of its rows."""
        return self.files.schema

    def to_batches(
        self, split: str | None = None, *, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The rows (of one split) in batches of at most `batch_rows`. Raises `InvalidRequest` for
        a split that there is not."""
        if batch_rows < 1:
            raise InvalidRequest(f"batch_rows must be positive, not {batch_rows}")
        splits, place = self._split(split)
        return self._batches(splits, place, batch_rows)

    def _split(self, split: str | None) -> tuple[Splits | None, int]:
        if split is None:
            return None, 0
        if self.body["splits"] is None:
            raise InvalidRequest(f"training set {self.name!r} has no splits; leave split out")
        splits = Splits.from_json(self.body["splits"])
        return splits, splits.index(split)

    def _batches(
        self, splits: Splits | None, place: int, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        time_column = self.body["entity_frame"]["time"]
        for batch in set_files.read_rows(self.store.offline, self.files, batch_rows=batch_rows):
            if splits is None:
                yield batch
            else:
                chosen = set_files.split_places(batch, splits, time_column) == place
                if chosen.any():
                    yield batch if chosen.all() else batch.filter(_mask(chosen))

    def to_arrow(self, split: str | None = None) -> pa.Table:
        """The rows (of one split) as an Arrow table."""
        import pyarrow as pa

        return pa.Table.from_batches(self.to_batches(split), self.schema)

    def to_pandas(self, split: str | None = None) -> pd.DataFrame:
        """The rows (of one split) as a DataFrame; integers stay exact beside NULLs."""
        return retrieval.to_pandas(self.to_arrow(split))

    def to_polars(self, split: str | None = None) -> pl.DataFrame:
        """The rows (of one split) as a polars DataFrame."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow(split))
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - of a table it always is
        return frame

    def to_parquet(self, path: str | Path, split: str | None = None) -> None:
        """Write the rows (of one split) to one Parquet file, here or on S3, in bounded memory."""
        retrieval.write_anywhere(
            path,
            self.schema,
            self.to_batches(split, batch_rows=set_files.GROUP_ROWS),
            s3=self.store.offline.s3,
        )

    def _blob(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.store.registry.blob(self.body[name]))
        return found


def _mask(chosen: Any) -> pa.Array:
    import pyarrow as pa

    return pa.array(chosen)


def sweep(store: SetStore, *, now_us: int) -> int:
    """Remove the files that no record names any more or yet; returns how many."""
    kept = set()
    for stored in store.registry.records(kind=KIND):
        _, _, build = set_files.check_location(stored.record.body["location"]).partition("/")
        kept.add(build)
    return set_files.sweep(store.offline, frozenset(kept), now_us=now_us)

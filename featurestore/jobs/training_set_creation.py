"""Making training sets: their rows are written once, and a record says what they were made of.

`create` writes the rows first, then commits everything at once: the definitions that the set uses,
the snapshots of what it has read, the set's own record, and last the alias `training_set/<name>`.
What a crash leaves behind is files that no record names.
"""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from featurestore.compiler.definition_records import function_blobs
from featurestore.compiler.program import program_of
from featurestore.compiler.selection import Features, output_names, select
from featurestore.compiler.typed import OnDemandUse, ViewUse
from featurestore.engines.base import BATCH_ROWS
from featurestore.errors import FeatureStoreError, InvalidRequest, suggest
from featurestore.fingerprint import canonical_json, fingerprint_bytes
from featurestore.jobs import set_files
from featurestore.jobs.frame_parts import batches_in_parts
from featurestore.jobs.retrieved import Retrieved, note_retrieved
from featurestore.jobs.taken_inputs import Taken, feature_records, take_inputs
from featurestore.jobs.training import counted, files_for, get_historical_features, service_of
from featurestore.jobs.training_sets import KIND, SetStore, TrainingSet
from featurestore.lifecycle.datasets import Splits, check_name, read_splits
from featurestore.records import Edge, Record
from featurestore.stores.offline.pinned import SETS_FOLDER, write_pins

if TYPE_CHECKING:
    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.training import AsOf
    from featurestore.compiler.typed import TypedRepo, Use
    from featurestore.engines.base import Engine
    from featurestore.jobs.training import RetrievalJob

LISTED_BYTES_MAX = 12 * 1024
"""Lists of a record's body that are longer stand in its blobs alone."""
LIBRARIES = ("featurestore", "duckdb", "pyarrow", "numpy")
"""Those that can change a value, beside Python and the C library."""


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


def _write(made: _Made, location: str, tally: set_files.Tally) -> tuple[Taken, set_files.Written]:
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

    def snapshots(self) -> Taken:
        """What was read, and the definitions that are used, by id, each after its parents."""
        return take_inputs(
            self.uses,
            self.job,
            self.files,
            repo=self.repo,
            engine=self.engine,
            root=self.store.root,
            offline=self.store.offline,
            service=self.service,
        )

    @property
    def service(self) -> str | None:
        """The service that was asked for."""
        return service_of(self.asked.features, self.repo)

    def commit(
        self,
        taken: Taken,
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
        parents = [Edge(parent=r.id, role="feature") for r in feature_records(self.uses, by_name)]
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

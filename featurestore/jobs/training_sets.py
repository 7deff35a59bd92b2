"""Training sets on record: finding them by name, tag, version or id, and reading their rows.

`training_set_creation` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.engines.base import BATCH_ROWS
from featurestore.errors import InvalidRequest, RecordNotFound
from featurestore.jobs import retrieval, set_files
from featurestore.jobs.retrieved import Retrieved, note_retrieved
from featurestore.lifecycle.datasets import Splits
from featurestore.records import StoredRecord
from featurestore.timeline import to_us

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from featurestore.stores.offline.folder import OfflineFolder
    from featurestore.stores.registry.base import Registry

KIND = "training_set"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStore:
    """Where training sets are kept: `root` is the repository's folder."""

    registry: Registry
    offline: OfflineFolder
    root: Path


def training_set(ref: str, store: SetStore) -> TrainingSet:
    """The set that `ref` names: its name (the newest, or the one that was restored), `name/tag`,
    `name/3` (the third version), `name/2026-11-26T18:00:00Z` (what the name meant then), or a
    record's id, in full or short.

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
            return _version(ref, registry, known)
        ref = f"{KIND}/{ref}"
    elif "@" in ref and ":" not in ref:
        ref = f"{KIND}:{ref}"
    found = registry.record(ref)
    if found.record.kind != KIND:
        raise InvalidRequest(f"{ref} is a {found.record.kind}, not a training set")
    return found


def _version(ref: str, registry: Registry, known: set[str]) -> StoredRecord:
    """By number or instant."""
    name, _, version = ref.rpartition("/")
    if name in known and version.isascii() and version.isdigit():
        versions = registry.records(kind=KIND, name=name)
        if len(version) < 10 and 1 <= int(version) <= len(versions):
            return versions[int(version) - 1]
    elif name in known:
        alias = f"{KIND}/{name}"
        with suppress(InvalidRequest):
            then = registry.aliases(alias, at_us=to_us(version)).get(alias)
            if then is not None:
                return registry.record(then.target)
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

"""The rows of a training set as files: written once, streaming, and read back.

    training_sets/<name>/<build>/part-00000.parquet …

The files come first and the record that names them later; a build that no record names is garbage,
which `sweep` removes when it is old enough that nobody can be writing it any more.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.dtypes import INT64
from featurestore.errors import (
    FeatureStoreError,
    InternalError,
    InvalidEntityFrame,
    SnapshotMissing,
)
from featurestore.fingerprint import canonical_json
from featurestore.jobs.entity_values import key_values, plain_values, times_us
from featurestore.jobs.profile import Profiler
from featurestore.jobs.row_digest import RowDigest, row_lanes
from featurestore.lifecycle.datasets import Splits
from featurestore.stores.offline.contents import sha256_of
from featurestore.stores.offline.pinned import SETS_FOLDER

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from featurestore.stores.offline.folder import OfflineFolder

FILE_ROWS = 1_048_576
GROUP_ROWS = 131_072
GARBAGE_KEPT_US = 86_400_000_000
"""A build that no record names stays for a day: it may be on its way."""
BEHIND_MAX = 2
"""So many batches may wait for their digest while others are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFile:
    """A file of a set: its name below the offline folder."""

    name: str
    size: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written: `splits` are the rows of each split, and of none."""

    files: tuple[SetFile, ...]
    schema: pa.Schema
    rows: int
    row_digest: str
    frame_digest: str
    profile: Mapping[str, Any]
    splits: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFiles:
    """The files of a set as its record's blob holds them, and the schema of its rows."""

    files: tuple[SetFile, ...]
    schema: pa.Schema

    def to_bytes(self) -> bytes:
        """As a blob holds it."""
        rows = [{n: getattr(one, n) for n in SetFile.__slots__} for one in self.files]
        text = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        return canonical_json({"files": rows, "schema": text}).encode()

    @classmethod
    def from_bytes(cls, blob: bytes) -> SetFiles:
        """What `to_bytes` gave."""
        import pyarrow as pa

        value = json.loads(blob)
        data = pa.py_buffer(base64.b64decode(value["schema"]))
        files = tuple(SetFile(**one) for one in value["files"])
        return cls(files=files, schema=pa.ipc.read_schema(data))


class Tally:
    """What is worked out of rows as they pass: digests, profile, rows per split."""

    def __init__(
        self,
        schema: pa.Schema,
        *,
        head: int,
        time_column: str,
        keys: Sequence[str],
        splits: Splits | None,
    ) -> None:
        self.digest = RowDigest(schema, head=head)
        self.profiler = Profiler(schema, keys=keys)
        self._time_column = time_column
        self._splits = splits
        self._counts = np.zeros(len(splits.names) + 1 if splits else 1, np.int64)

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at the rows of a batch."""
        self.digest.add(batch, self.profiler.see)
        self.profiler.add(batch)
        if self._splits is not None:
            places = split_places(batch, self._splits, self._time_column)
            self._counts += np.bincount(places, minlength=len(self._counts))

    def splits(self) -> dict[str, int]:
        """The rows of each split, and, where there are some, of none (under the empty name)."""
        if self._splits is None:
            return {}
        counts = dict(zip([*self._splits.names, ""], self._counts.tolist(), strict=True))
        return {name: count for name, count in counts.items() if name or count}


def write_rows(
    offline: OfflineFolder,
    folder: str,
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    tally: Tally,
) -> Written:
    """Write `batches` below `folder`, in files of `FILE_ROWS`, and tally them on the way. What was
    written is removed again where something fails.

    Raises `FileNotWritten`, `InvalidEntityFrame` (a type that no file can hold), what S3 does, and
    what `batches` raise.
    """
    schema = schema.remove_metadata()
    names: list[str] = []
    try:
        _write(offline, folder, schema, behind(batches, tally.add), names)
        files = tuple(_file(offline, name) for name in names)
    except BaseException:
        with suppress(FeatureStoreError, OSError):
            for name in [*names, f"{folder}/{_part(len(names))}"]:
                offline.remove(name)
        raise
    return Written(
        files=files,
        schema=schema,
        rows=tally.digest.rows,
        row_digest=tally.digest.digest(),
        frame_digest=tally.digest.head_digest(),
        profile=tally.profiler.profile(),
        splits=tally.splits(),
    )


def _part(number: int) -> str:
    return f"part-{number:05}.parquet"


def _write(
    offline: OfflineFolder,
    folder: str,
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    names: list[str],
) -> None:
    import pyarrow as pa

    first = next(batches, None)
    rest = batches if first is None else chain([first], batches)
    while first is not None or not names:
        name = f"{folder}/{_part(len(names))}"
        part = _Part(rest, FILE_ROWS)
        try:
            offline.write(name, schema, part, group_rows=GROUP_ROWS)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InvalidEntityFrame(
                f"Parquet can't hold {_unwritable(schema)}: {error}. Convert it or leave it out"
            ) from error
        names.append(name)
        first = next(rest, None) if part.is_full else None
        rest = rest if first is None else chain([first], rest)


def _unwritable(schema: pa.Schema) -> str:
    """The first column that Parquet has no type for."""
    import pyarrow as pa
    from pyarrow import parquet

    for field in schema:
        try:
            parquet.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
        except pa.ArrowException:
            return f"column {field.name!r} of the training set ({field.type})"
    return "a value of the training set"


class _Part:
    """The batches of one file, joined to row groups: from `source` until there are enough rows."""

    def __init__(self, source: Iterator[pa.RecordBatch], rows: int) -> None:
        self._source = source
        self._left = rows

    @property
    def is_full(self) -> bool:
        return self._left <= 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        waiting: list[pa.RecordBatch] = []
        count = 0
        for batch in self._source:
            waiting.append(batch)
            count += batch.num_rows
            self._left -= batch.num_rows
            if count >= GROUP_ROWS:
                yield pa.concat_batches(waiting)
                waiting, count = [], 0
            if self.is_full:
                break
        if waiting:
            yield pa.concat_batches(waiting)


def behind(
    batches: Iterable[pa.RecordBatch], look: Callable[[pa.RecordBatch], None]
) -> Iterator[pa.RecordBatch]:
    """The batches, while another thread looks at them: numpy leaves the interpreter to us."""
    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="tally") as thread:
        for batch in batches:
            waiting.append(thread.submit(look, batch))
            if len(waiting) > BEHIND_MAX:
                waiting.pop(0).result()
            yield batch
        for one in waiting:
            one.result()


def _file(offline: OfflineFolder, name: str) -> SetFile:
    from pyarrow import parquet

    with offline.open(name) as file:
        rows = parquet.ParquetFile(file).metadata.num_rows
        size = file.size()
    return SetFile(name=name, size=size, sha256=sha256_of(offline.url(name), offline.s3), rows=rows)


# --- reading --------------------------------------------------------------------------------------


def read_rows(
    offline: OfflineFolder,
    files: SetFiles,
    *,
    batch_rows: int,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows in the order in which they were written, in their own Arrow types.

    Raises `SnapshotMissing` for a file that is gone or damaged, and what S3 does.
    """
    import pyarrow as pa
    from pyarrow import parquet

    names = files.schema.names if columns is None else columns
    schema = pa.schema([files.schema.field(name) for name in names])
    for one in files.files:
        try:
            with offline.open(one.name) as file:
                opened = parquet.ParquetFile(file)
                for batch in opened.iter_batches(batch_size=batch_rows, columns=list(names)):
                    # A file without the column would be read without a word.
                    if batch.schema.names != list(names):
                        batch = batch.select(names)  # noqa: PLW2901 - the columns in our order
                    yield batch if batch.schema.equals(schema) else _typed(batch, schema)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise SnapshotMissing(
                f"{offline.url(one.name)}, a file of the training set, can't be read: {error}. "
                "Restore it from a backup, or create the set anew"
            ) from error


def _typed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in types that Parquet does not keep: seconds, dictionaries of what is no text."""
    import pyarrow as pa
    from pyarrow import types

    columns = []
    for column, kind in zip(batch.columns, schema.types, strict=True):
        if types.is_dictionary(kind) and not types.is_dictionary(column.type):
            found = column.cast(kind.value_type).dictionary_encode()
            indices = found.indices.cast(kind.index_type)
            columns.append(pa.DictionaryArray.from_arrays(indices, found.dictionary))
        else:
            columns.append(column.cast(kind))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def split_places(batch: pa.RecordBatch, splits: Splits, time_column: str) -> npt.NDArray[np.int64]:
    """Which split each row is in; the number of splits where it is in none."""
    import pyarrow as pa

    if splits.kind == "hash":
        keys = pa.RecordBatch.from_arrays(
            [_key(name, batch.column(name)) for name in splits.by], list(splits.by)
        )
        share = (row_lanes(keys) >> np.uint64(11)).astype(np.float64) / float(1 << 53)
        bounds = np.array([float(b or 0.0) for b in splits.bounds])
        return np.minimum(np.searchsorted(bounds, share, side="right"), len(bounds) - 1)
    times = times_us(time_column, plain_values(batch.column(time_column)), offset=0)
    values = times.to_numpy(zero_copy_only=False).astype(np.int64)
    ends = [np.iinfo(np.int64).max if b is None else int(b) for b in splits.bounds]
    places: npt.NDArray[np.int64] = np.searchsorted(np.array(ends), values, side="right")
    return places


def _key(name: str, values: pa.Array) -> pa.Array:
    """A key as it joins: a float that is whole is the integer."""
    from pyarrow import types

    values = plain_values(values)
    if types.is_integer(values.type) or types.is_floating(values.type):
        return key_values(name, values, INT64, offset=0)
    return values


# --- garbage --------------------------------------------------------------------------------------


def sweep(offline: OfflineFolder, kept: frozenset[str], *, now_us: int) -> int:
    """Remove the builds that are not among `kept` (`<name>/<build>`) and are older than
    `GARBAGE_KEPT_US`; returns how many files that were. Raises what S3 does."""
    by_build: dict[str, list[Any]] = {}
    for file in offline.list(SETS_FOLDER, ending=""):
        parts = file.name.split("/")
        if len(parts) == 4:
            by_build.setdefault(f"{parts[1]}/{parts[2]}", []).append(file)
    removed = 0
    for build, files in by_build.items():
        newest_us = max(file.mtime_ns for file in files) // 1_000
        if build not in kept and newest_us < now_us - GARBAGE_KEPT_US:
            for file in files:
                offline.remove(file.name)
                removed += 1
    return removed


def check_location(location: str) -> str:
    """A set's folder as its record says it, which must be one of ours."""
    if not location.startswith(f"{SETS_FOLDER}/") or ".." in location.split("/"):
        raise InternalError(f"{location!r} is no folder of training sets")
    return location

"""What is in a data file: its SHA-256, how many rows, from when to when.

A file is read from its first byte to its last once; what was found is remembered by its path, its
size and its state (modification time, or on S3 the ETag), so that the next question about a file
that did not change costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from featurestore.buckets import REMOTE_THREADS, S3Options, bucket_path, is_s3, translated
from featurestore.errors import FeatureStoreError, SnapshotMissing
from featurestore.timeline import SystemClock

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.stores.offline.folder import OfflineFolder
    from featurestore.timeline import Clock

MEMORY = "training_sets/contents.parquet"
"""Below the offline folder: what is known of files."""
REMEMBERED_FILES_MAX = 200_000
YOUNG_NS = 2_000_000_000
"""A file that changed so lately may change again within one tick of its clock; it is not
remembered."""
T = TypeVar("T")
CHUNK_BYTES = 8 * 1024 * 1024
_UNITS = {"milliseconds": 1_000, "microseconds": 1}

State = tuple[int, int | str]
"""Size in bytes, and modification time in ns or, on S3, ETag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What one file holds; `rows` and the event times (µs) are None where its footer does not say
    them."""

    sha256: str
    rows: int | None = None
    min_event_time_us: int | None = None
    max_event_time_us: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A file to look into: where, in which state, and the column of event times (None: none)."""

    path: str
    state: State
    event_column: str | None

    @property
    def key(self) -> str:
        """What it is remembered by."""
        return json.dumps([self.path, *self.state, self.event_column])


Facts = tuple[int | None, int | None, int | None]
"""Rows, and the least and the greatest event time (µs)."""


def look_into(
    asked: Sequence[Asked],
    offline: OfflineFolder,
    *,
    count: Callable[[str], Facts] | None = None,
    clock: Clock | None = None,
) -> dict[str, Content]:
    """The contents of files, by path. `count` is asked for the facts of those whose footers do not
    say them.

    Raises `SnapshotMissing` for a file that is gone, and what S3 does.
    """
    known = _remembered(offline)
    new = [one for one in asked if one.key not in known]
    found = {one.path: known[one.key] for one in asked if one.key in known}
    if not new:
        return found
    contents = _side_by_side(lambda one: _look(one, offline.s3, count), new)
    young_ns = (clock or SystemClock()).now_us() * 1_000 - YOUNG_NS
    for one, content in zip(new, contents, strict=True):
        found[one.path] = content
        if isinstance(one.state[1], str) or one.state[1] < young_ns:
            known[one.key] = content
    _remember(offline, known)
    return found


def digests(asked: Sequence[Asked], offline: OfflineFolder) -> dict[str, str]:
    """The SHA-256 of files as they are now, by path. Files of this machine are read whatever their
    size and time say, for disks rot without a trace; those on S3 are known by their ETags, which
    are of their contents.

    Raises `SnapshotMissing` for a file that is gone, and what S3 does.
    """
    known = _remembered(offline)
    hashed = {_of_state(key): content for key, content in known.items() if _is_remote(key)}
    by_state = [(one, hashed.get(_of_state(one.key))) for one in asked]
    found = {one.path: content.sha256 for one, content in by_state if content is not None}
    new = [one for one, content in by_state if content is None]
    read = _side_by_side(lambda one: sha256_of(one.path, offline.s3), new)
    found |= {one.path: digest for one, digest in zip(new, read, strict=True)}
    if remote := {one.key: Content(sha256=found[one.path]) for one in new if is_s3(one.path)}:
        _remember(offline, known | remote)
    return found


def _side_by_side(look: Callable[[Asked], T], asked: Sequence[Asked]) -> list[T]:
    if not asked:
        return []
    remote = any(is_s3(one.path) for one in asked)
    most = REMOTE_THREADS if remote else max(1, os.cpu_count() or 1)
    with ThreadPoolExecutor(min(most, len(asked)), thread_name_prefix="contents") as threads:
        return list(threads.map(look, asked))


def _is_remote(key: str) -> bool:
    return is_s3(json.loads(key)[0])


def _of_state(key: str) -> str:
    """A key without its column: the bytes are the same for all of them."""
    return json.dumps(json.loads(key)[:-1])


def sha256_of(path: str, s3: S3Options) -> str:
    """Of all bytes of a file. Raises `SnapshotMissing`, and what S3 does."""
    try:
        if not is_s3(path):
            with Path(path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        with (
            translated(f"Reading {path}"),
            s3.client().open_input_stream(bucket_path(path)) as data,
        ):
            while chunk := data.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()
    except OSError as error:
        raise SnapshotMissing(
            f"{path} can't be read: {error.strerror or error}. Make a new job, or restore the file"
        ) from error


def _look(one: Asked, s3: S3Options, count: Callable[[str], Facts] | None) -> Content:
    digest = sha256_of(one.path, s3)
    rows, least, greatest = _footer(one, s3)
    if count is not None and (rows is None or (rows and least is None)):
        rows, least, greatest = count(one.path)
    return Content(sha256=digest, rows=rows, min_event_time_us=least, max_event_time_us=greatest)


def _footer(one: Asked, s3: S3Options) -> Facts:
    """Rows and event times by a Parquet file's statistics."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        filesystem = s3.client() if is_s3(one.path) else None
        path = bucket_path(one.path) if is_s3(one.path) else one.path
        facts = parquet.read_metadata(path, filesystem=filesystem)
    except (pa.ArrowException, OSError):
        return None, None, None  # no Parquet file; its bytes are known all the same
    least, greatest = _span(facts, one.event_column)
    return facts.num_rows, least, greatest


def _span(facts: Any, column: str | None) -> tuple[int | None, int | None]:
    names = [facts.schema.column(n).path for n in range(facts.num_columns)]
    if column not in names:
        return None, None
    place = names.index(column)
    per_unit = _us_of(facts.schema.column(place))
    if per_unit is None:
        return None, None
    found = []
    for group in range(facts.num_row_groups):
        chunk = facts.row_group(group).column(place)
        stats = chunk.statistics if chunk.is_stats_set else None
        if stats is not None and stats.has_min_max:
            found.append((stats.min_raw, stats.max_raw))
        elif stats is None or stats.null_count != chunk.num_values:
            return None, None
    if not found:
        return None, None
    return per_unit(min(low for low, _ in found)), per_unit(max(high for _, high in found))


def _us_of(column: Any) -> Any:
    """How a raw statistic becomes µs; None for a column that is no instant."""
    about = json.loads(column.logical_type.to_json())
    if about.get("Type") == "Date":
        return lambda days: days * 86_400_000_000
    if about.get("Type") != "Timestamp" or column.physical_type != "INT64":
        return None
    if about["timeUnit"] == "nanoseconds":
        return lambda raw: raw // 1_000
    return lambda raw: raw * _UNITS[about["timeUnit"]]


# --- what is remembered ---------------------------------------------------------------------------


def _remembered(offline: OfflineFolder) -> dict[str, Content]:
    import pyarrow as pa

    try:
        rows = offline.read(MEMORY).to_pylist()
        return {row.pop("key"): Content(**row) for row in rows}
    except (OSError, pa.ArrowException, FeatureStoreError, KeyError, TypeError):
        return {}


def _remember(offline: OfflineFolder, known: Mapping[str, Content]) -> None:
    """Written whole; of two that do so at once one forgets what the other has found."""
    import pyarrow as pa

    newest = list(known.items())[-REMEMBERED_FILES_MAX:]
    schema = _schema()
    fields = [name for name in schema.names if name != "key"]
    rows = [{"key": key, **{n: getattr(one, n) for n in fields}} for key, one in newest]
    table = pa.Table.from_pylist(rows, schema=schema)
    offline.write(MEMORY, schema, table.to_batches())


def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers = ("rows", "min_event_time_us", "max_event_time_us")
    texts = [pa.field("key", pa.string()), pa.field("sha256", pa.string())]
    return pa.schema([*texts, *(pa.field(name, pa.int64()) for name in numbers)])

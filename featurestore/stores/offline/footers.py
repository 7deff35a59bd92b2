"""What files say of their rows without being read: counts, times and sizes, from the footers of
Parquet files, and guesses from the beginnings of CSV files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.buckets import (
    REMOTE_THREADS,
    S3Options,
    bucket_path,
    is_s3,
    is_storage_error,
    storage_error,
)
from featurestore.compiler.backfill import Part
from featurestore.compiler.rel import DataFiles
from featurestore.errors import SnapshotMissing
from featurestore.stores.offline.parquet import PACKED
from featurestore.timeline import DAY_US

FOOTERS_READ_MAX = 1_000
"""Of one source; of more files every so-many-th is asked, and counts for those beside it."""
CSV_GUESSED_BYTES = 64 * 1024
"""How much of a CSV file is read to guess its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of a file: its columns of event time and created time (None: a row is known
    when it happened), `at_end` for dates that stand for the end of their day, and the columns that
    are read (None: all). All by their names in the files."""

    event_time: str
    created_time: str | None
    at_end: bool = False
    columns: Collection[str] | None = None


def parts_of(
    files: DataFiles, wanted: Wanted, *, arrived: str, s3: S3Options | None = None
) -> tuple[list[Part], bool]:
    """What the files say of their rows, and whether all of them were asked. `arrived` is the column
    of the push log that says when a row came.

    Raises `SnapshotMissing` for a file that is gone or is no longer what it was, and what S3 does.
    """
    of_push_log = Wanted(
        event_time=wanted.event_time,
        created_time=wanted.created_time or arrived,
        at_end=wanted.at_end,
        columns=wanted.columns,
    )
    asked = [(path, files.format, wanted) for path in files.paths]
    asked += [(path, "parquet", of_push_log) for path in files.pushed]
    step = -(-len(asked) // FOOTERS_READ_MAX) or 1
    some = asked[::step]
    client = (s3 or S3Options()).client() if any(is_s3(path) for path, *_ in some) else None

    def look(one: tuple[str, str, Wanted]) -> list[Part]:
        path, kind, about = one
        try:
            with (
                client.open_input_file(bucket_path(path))
                if client is not None and is_s3(path)
                else pa.OSFile(path) as file
            ):
                if kind == "csv":
                    return [_csv_part(path, file, files)]
                return list(_row_groups(pq.read_metadata(file), about))
        except (OSError, pa.ArrowException) as error:
            if is_storage_error(error):
                raise storage_error(f"File {path}", str(error)) from error
            raise SnapshotMissing(f"{path} can't be read any more: {error}") from error

    if client is None:
        found = [look(one) for one in some]
    else:
        with ThreadPoolExecutor(REMOTE_THREADS, thread_name_prefix="s3") as threads:
            found = list(threads.map(look, some))
    parts = [part for parts in found for part in parts] * step
    return parts, step == 1


def _row_groups(footer: pq.FileMetaData, wanted: Wanted) -> Iterator[Part]:
    names = [footer.schema.column(index).path for index in range(footer.num_columns)]
    read = [
        index
        for index, name in enumerate(names)
        if wanted.columns is None or name.partition(".")[0] in wanted.columns
    ]
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        least, greatest, nulls = _bounds(group, names, wanted.event_time, at_end=wanted.at_end)
        known = greatest
        if wanted.created_time is not None:
            _, known, _ = _bounds(group, names, wanted.created_time, at_end=wanted.at_end)
        yield Part(
            rows=group.num_rows,
            bytes=sum(group.column(index).total_compressed_size for index in read),
            least_us=least,
            greatest_us=greatest,
            known_us=known,
            nulls=nulls,
        )


def _bounds(
    group: pq.RowGroupMetaData, names: list[str], name: str, *, at_end: bool
) -> tuple[int | None, int | None, int | None]:
    """The least and the greatest instant (µs) of a column, and how many are NULL."""
    if name not in names:
        return None, None, None
    statistics = group.column(names.index(name)).statistics
    if statistics is None:
        return None, None, None
    nulls = statistics.null_count if statistics.has_null_count else None
    logical = json.loads(statistics.logical_type.to_json())
    if not statistics.has_min_max or logical["Type"] not in ("Timestamp", "Date"):
        return None, None, nulls
    least, greatest = int(statistics.min_raw), int(statistics.max_raw)
    if logical["Type"] == "Date":
        return (least + at_end) * DAY_US, (greatest + at_end) * DAY_US, nulls
    match logical["timeUnit"]:
        case "milliseconds":
            return least * 1000, greatest * 1000, nulls
        case "nanoseconds":
            return least // 1000, greatest // 1000, nulls
        case _:
            return least, greatest, nulls


def _csv_part(path: str, file: pa.NativeFile, files: DataFiles) -> Part:
    """Rows by how many lines the beginning of the file has."""
    total = file.size()
    head = file.read(CSV_GUESSED_BYTES)
    packed = PACKED.get(PurePosixPath(path.lower()).suffix)
    text = _unpacked(head, packed) if packed else head
    lines = text.count(b"\n") + (text[-1:] not in (b"", b"\n"))
    rows = round(lines * total / len(head)) if head else 0
    if files.csv_options.get("header") == "true":
        rows = max(rows - 1, 0)
    return Part(rows=rows, bytes=total, counted=False)


def _unpacked(head: bytes, packed: str) -> bytes:
    """What the beginning of a packed file holds, as far as it can be unpacked."""
    found = bytearray()
    stream = pa.CompressedInputStream(pa.BufferReader(head), packed)
    try:
        while piece := stream.read(CSV_GUESSED_BYTES):
            found += piece
    except (OSError, pa.ArrowException):
        pass  # it ends within a block
    return bytes(found)

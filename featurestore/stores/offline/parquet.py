"""Parquet and CSV files: a path becomes a `DataFiles`.

`DataFiles.paths` are absolute and **literal**: an engine that expands globs must escape them.
`schema` are the columns as they stand in the files, hive partitions included (where a file has a
column of a partition's name too, the partition's value counts). Parquet timestamps are TIMESTAMP
whatever their unit and zone; columns of types that no feature can have are left out.

`DataFiles.csv_options` says all that is needed to read the files just as they were typed here:
`delimiter`; `header` (`true`, `false`); `null_texts` (JSON list: texts that are NULL, quoted or
not); `names` (JSON list: each file's column names, in the order of its fields); and `zoned` (JSON
list: the timestamp columns in whose texts a zone may stand; what has none is UTC). Quotes are `"`,
doubled inside quoted fields.
"""

from __future__ import annotations

import codecs
import io
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from featurestore.buckets import S3Options, is_storage_error, storage_error
from featurestore.compiler.rel import DataFiles
from featurestore.definitions.source import FileSource
from featurestore.dtypes import (
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    common,
    from_arrow,
)
from featurestore.errors import SourceSchemaChanged, suggest
from featurestore.stores.offline.base import FileFormat
from featurestore.stores.offline.files import (
    check_own_names,
    edge_mark,
    footer_mark,
    marks_of,
    partitions_of,
    pin_files,
    unite,
    unreadable,
)
from featurestore.stores.offline.listing import FoundFile, list_files

CSV_SAMPLE_BYTES_MAX = 64 * 1024 * 1024
"""How much of each CSV file is read to find its types."""


PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""How a file is packed, by the end of its name."""


class ParquetFiles(FileFormat):
    """Parquet: a file, a folder, a glob or hive partitions. Reads footers only."""

    name: ClassVar[str] = "parquet"

    def resolve(self, source: FileSource, *, root: Path, s3: S3Options | None = None) -> DataFiles:
        """See `FileFormat.resolve`."""
        listing = list_files(source, root, (".parquet",), s3)
        found = listing.each(lambda file: _parquet_footer(source, file))
        partitions, partition_types = partitions_of(source, listing)
        schemas = zip(listing.urls, (schema for schema, _ in found), strict=True)
        return DataFiles(
            format="parquet",
            paths=listing.urls,
            schema=unite(source, schemas) | partition_types,
            partitions=partitions,
            pin=pin_files(root, listing, [mark for _, mark in found]),
            marks=marks_of(listing, [mark for _, mark in found]),
        )


def _parquet_footer(source: FileSource, found: FoundFile) -> tuple[dict[str, DType], str]:
    """The columns of a file, and the mark of its footer."""
    if found.size == 0:
        raise unreadable(source, found.url, "it is empty (0 bytes)")
    try:
        with found.open() as file:
            arrow = pq.read_schema(file)
            mark = footer_mark(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if is_storage_error(error):
            raise storage_error(f"Source {source.name!r}", str(error)) from error
        raise unreadable(source, found.url, f"it is not a Parquet file ({error})") from error
    repeated = sorted({name for name in arrow.names if arrow.names.count(name) > 1})
    if repeated:
        raise SourceSchemaChanged(
            f"Source {source.name!r}: {found.url} has more than one column {repeated[0]!r}"
        )
    check_own_names(source, found.url, arrow.names)
    return feature_columns(arrow), mark


def feature_columns(arrow: pa.Schema) -> dict[str, DType]:
    """The columns of types that a feature can have; a column without a type (all NULL) counts as
    missing."""
    found = {}
    for field in arrow:
        try:
            found[field.name] = from_arrow(field.type)
        except ValueError:
            continue
    return found


# --- CSV ------------------------------------------------------------------------------------------


class CsvFiles(FileFormat):
    """CSV, plain or gzipped: a file, a folder, a glob or hive partitions.

    Types come from `column_types` where given, else from the texts of all files together (of each
    its first `CSV_SAMPLE_BYTES_MAX`): int64, float64, bool, date and timestamp where every text
    reads so, else string. An empty text is NULL, and so is `null_text`. Without a header the
    columns are the names of `column_types` if they are as many, else `column0`, `column1`, ….
    """

    name: ClassVar[str] = "csv"

    def resolve(self, source: FileSource, *, root: Path, s3: S3Options | None = None) -> DataFiles:
        """See `FileFormat.resolve`."""
        listing = list_files(source, root, (".csv", ".csv.gz"), s3)
        samples = listing.each(lambda file: _csv_sample(source, file))
        partitions, partition_types = partitions_of(source, listing)
        pairs = zip(listing.urls, (s.types for s in samples), strict=True)
        schema = unite(source, pairs, _text_join)
        names = {name for sample in samples for name in sample.names}
        for column, dtype in source.csv_dtypes.items():
            if column not in names:
                raise SourceSchemaChanged(
                    f"Source {source.name!r}: column_types names {column!r}, which is not in the "
                    f"files.{suggest(column, names)}"
                )
            schema[column] = dtype
        zoned = set().union(*(sample.zoned for sample in samples))
        return DataFiles(
            format="csv",
            paths=listing.urls,
            # a column of which no file has a value can be of any type
            schema={n: schema.get(n, STRING) for s in samples for n in s.names} | partition_types,
            partitions=partitions,
            pin=pin_files(root, listing, [sample.mark for sample in samples]),
            marks=marks_of(listing, [sample.mark for sample in samples]),
            csv_options={
                "delimiter": source.delimiter,
                "header": "true" if source.header else "false",
                "null_texts": json.dumps(_null_texts(source)),
                "names": json.dumps([sample.names for sample in samples]),
                "zoned": json.dumps(sorted(zoned)),
            },
        )


@dataclass(frozen=True, slots=True)
class _Sample:
    """A CSV file's column names in order, the types of those that have values, and which of them
    are timestamps with a zone in the text. `mark` is of its bytes."""

    names: list[str]
    types: dict[str, DType]
    zoned: set[str]
    mark: str


def _null_texts(source: FileSource) -> list[str]:
    return sorted({"", source.null_text})


def _text_join(left: DType, right: DType) -> DType | None:
    """The type that the texts of both read as; in the end all are texts."""
    return common(left, right) or STRING


def _csv_sample(source: FileSource, file: FoundFile) -> _Sample:
    data, whole, mark = _head(source, file)
    table = _read_csv(source, file.url, data, whole=whole)
    declared = source.csv_dtypes
    names = list(table.column_names)
    if not source.header:
        fits = len(declared) == len(names)
        names = list(declared) if fits else [f"column{i}" for i in range(len(names))]
    if len(set(names)) < len(names):
        raise unreadable(source, file.url, "its header names a column twice")
    types: dict[str, DType] = {}
    zoned: set[str] = set()
    for name, arrow in zip(names, table.schema.types, strict=True):
        if pa.types.is_timestamp(arrow) and arrow.tz is not None:
            zoned.add(name)
        if name not in declared and not pa.types.is_null(arrow):
            types[name] = _text_type(arrow)
    return _Sample(names, types, zoned, mark)


def _text_type(arrow: pa.DataType) -> DType:
    """What a type that pyarrow saw in the texts is to us; times of day stay text."""
    try:
        dtype = from_arrow(arrow)
    except ValueError:
        return STRING
    return dtype if dtype in (INT64, FLOAT64, BOOL, DATE, TIMESTAMP) else STRING


def _read_csv(source: FileSource, path: str, data: bytes, *, whole: bool) -> pa.Table:
    if not data.strip():
        raise unreadable(source, path, "it is empty")
    if source.header and data.removeprefix(codecs.BOM_UTF8)[:1] in (b"\n", b"\r"):
        # Arrow would skip it, DuckDB take it for the header.
        raise unreadable(source, path, "its first line is blank; it must be the header")
    try:
        return pa_csv.read_csv(
            io.BytesIO(data),
            read_options=pa_csv.ReadOptions(autogenerate_column_names=not source.header),
            parse_options=pa_csv.ParseOptions(
                delimiter=source.delimiter,
                newlines_in_values=True,
                # a sample that ends inside a quoted field has a broken last row
                invalid_row_handler=None if whole else lambda _: "skip",
            ),
            convert_options=pa_csv.ConvertOptions(
                null_values=_null_texts(source),
                strings_can_be_null=True,
                true_values=["true", "True", "TRUE"],
                false_values=["false", "False", "FALSE"],
            ),
        )
    except pa.ArrowException as error:
        raise unreadable(source, path, str(error)) from error


def _head(source: FileSource, found: FoundFile) -> tuple[bytes, bool, str]:
    """The first whole lines of a file, unpacked, whether that is all, and the file's mark."""
    packed = PACKED.get(PurePosixPath(found.url.lower()).suffix)
    try:
        with found.open() as file:
            mark = edge_mark(file)
            file.seek(0)
            stream = pa.CompressedInputStream(file, packed) if packed else file
            data = stream.read(CSV_SAMPLE_BYTES_MAX + 1)
    except (pa.ArrowException, OSError) as error:
        if is_storage_error(error):
            raise storage_error(f"Source {source.name!r}", str(error)) from error
        raise unreadable(source, found.url, str(error)) from error
    if len(data) <= CSV_SAMPLE_BYTES_MAX:
        return data, True, mark
    return data[: data.rfind(b"\n") + 1], False, mark

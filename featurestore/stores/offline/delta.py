"""Delta Lake tables: the log's latest version becomes a `DataFiles` of Parquet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from featurestore.buckets import S3Options, is_s3
from featurestore.compiler.rel import DataFiles
from featurestore.definitions.source import FileSource
from featurestore.errors import (
    FeatureStoreError,
    InvalidRequest,
    SourceMissing,
    StoreAccessDenied,
    StoreUnavailable,
    UnsupportedByEngine,
)
from featurestore.stores.offline.base import FileFormat
from featurestore.stores.offline.files import check_own_names, unreadable
from featurestore.stores.offline.parquet import feature_columns
from featurestore.timeline import HOUR_US


class DeltaFiles(FileFormat):
    """A Delta table, on this machine or on S3, at its latest version, which is the pin.

    Raises, besides what `FileFormat.resolve` does, `UnsupportedByEngine` for tables whose files
    can't be read as they are: with deletion vectors, or with column mapping.
    """

    name: ClassVar[str] = "delta"

    def resolve(self, source: FileSource, *, root: Path, s3: S3Options | None = None) -> DataFiles:
        """See `FileFormat.resolve`."""
        if is_s3(source.path):
            folder, options = str(source.path).rstrip("/"), (s3 or S3Options()).delta_options()
        else:
            folder, options = _local_folder(source, root), None
        try:
            table = DeltaTable(folder, storage_options=options)
            _check_features(source, table)
            actions = pa.table(table.get_add_actions(flatten=False))
            arrow = pa.schema(table.schema().to_arrow())
        except (DeltaError, OSError) as error:
            raise _failure(source, folder, error) from error
        partitioned = table.metadata().partition_columns
        check_own_names(source, folder, set(arrow.names) - set(partitioned))
        rows = sorted(_files(source, folder, actions, partitioned))
        return DataFiles(
            format="parquet",
            paths=tuple(path for path, _ in rows),
            schema=feature_columns(arrow),
            partitions=tuple(dict(values) for _, values in rows if values),
            pin={"kind": "delta", "version": table.version()},
            marks=("",) * len(rows),
        )


def vacuum_table(
    source: FileSource,
    root: Path,
    s3: S3Options,
    keep: Sequence[int],
    *,
    older_than_us: int,
    dry_run: bool,
) -> list[str]:
    """Remove (or list) the files that no version from `keep` on the list, nor the present one, has,
    and that were removed from the table longer than `older_than_us` ago: in whole hours, rounded
    up; less than an hour is none.

    Raises `InvalidRequest` for what is no Delta table, and where a version to keep is not in the
    log any more; `SourceMissing`, and what S3 does.
    """
    if is_s3(source.path):
        folder, options = str(source.path).rstrip("/"), s3.delta_options()
    else:
        try:
            folder, options = _local_folder(source, root), None
        except SourceMissing as error:
            raise InvalidRequest(error.message) from None
    for version in keep:
        try:
            DeltaTable(folder, version=version, storage_options=options)
        except (DeltaError, OSError) as error:
            raise InvalidRequest(
                f"Source {source.name!r}: a training set has read version {version} of {folder}, "
                f"which its log does not have any more ({error}), so nobody can say which files to "
                "keep. Nothing was removed"
            ) from error
    try:
        table = DeltaTable(folder, storage_options=options)
        files: list[str] = table.vacuum(
            # Whole hours are all that it knows: none is removed that is younger than asked.
            retention_hours=-(-older_than_us // HOUR_US) if older_than_us >= HOUR_US else 0,
            enforce_retention_duration=False,
            dry_run=dry_run,
            keep_versions=list(keep),
        )
    except (DeltaError, OSError) as error:
        raise _failure(source, folder, error) from error
    return sorted(files)


def _local_folder(source: FileSource, root: Path) -> str:
    folder = root.absolute() / str(source.path)
    if not (folder / "_delta_log").is_dir():
        raise SourceMissing(
            f"Source {source.name!r}: {folder} is no Delta table (it has no _delta_log). "
            "Correct `path` or `format`"
        )
    return str(folder)


def _failure(source: FileSource, folder: str, error: Exception) -> FeatureStoreError:
    """deltalake's words as one of our errors."""
    about = f"Source {source.name!r}"
    words = " ".join(_COLOURS.sub("", str(error)).split())
    if isinstance(error, TableNotFoundError):
        return SourceMissing(f"{about}: {folder} is no Delta table. Correct `path` or `format`")
    if not is_s3(folder):
        return unreadable(source, folder, str(error))
    if re.search(r"\b40[13]\b|privileges|credential", words):
        return StoreAccessDenied(
            f"{about}: S3 refuses our credentials for {folder}. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY to those of someone who may read it"
        )
    if re.search(r"NoSuchBucket|\b404\b", words):
        return SourceMissing(f"{about}: there is no bucket for {folder}. Correct the path")
    return StoreUnavailable(f"{about}: S3 can't be used now: {words}")


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_Partition = tuple[tuple[str, str | None], ...]


def _files(
    source: FileSource, folder: str, actions: pa.Table, keys: list[str]
) -> list[tuple[str, _Partition]]:
    """Absolute path and partition values of each live file. The log percent-encodes paths."""
    partitions = actions["partition"].to_pylist() if keys else [{}] * len(actions)
    rows: list[tuple[str, _Partition]] = []
    for raw, values in zip(actions["path"].to_pylist(), partitions, strict=True):
        path = _file(source, folder, unquote(raw))
        rows.append((path, tuple((key, partition_text(values[key])) for key in keys)))
    return rows


def _file(source: FileSource, folder: str, below: str) -> str:
    if is_s3(folder):  # whether it is there shows when it is read
        return below if is_s3(below) else f"{folder}/{below}"
    path = Path(folder) / below.removeprefix("file://")
    if not path.is_file():
        raise SourceMissing(
            f"Source {source.name!r}: the Delta log of {folder} names {path.name}, which is "
            "gone (vacuumed?). Restore it, or write a new version of the table"
        )
    return str(path)


def partition_text(value: object) -> str | None:
    """A partition value as text that casts back to it; instants in UTC without a zone."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return naive.isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def _check_features(source: FileSource, table: DeltaTable) -> None:
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mapping != "none":
        raise UnsupportedByEngine(
            f"Source {source.name!r}: the Delta table maps column names (delta.columnMapping.mode "
            f"= {mapping!r}), which is not read. Rewrite it without: "
            "SET TBLPROPERTIES ('delta.columnMapping.mode' = 'none')"
        )
    features = table.protocol().reader_features or []
    if "deletionVectors" in features and _has_deletion_vectors(table):
        raise UnsupportedByEngine(
            f"Source {source.name!r}: the Delta table has deletion vectors, which are not read. "
            "Rewrite its files with REORG TABLE … APPLY (PURGE)"
        )


def _has_deletion_vectors(table: DeltaTable) -> bool:
    return bool(pa.table(table.deletion_vectors()).num_rows)

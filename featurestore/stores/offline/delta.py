"""Delta Lake tables: the log's latest version becomes a `DataFiles` of Parquet."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from featurestore.compiler.rel import DataFiles
from featurestore.definitions.source import FileSource
from featurestore.errors import SourceMissing, UnsupportedByEngine
from featurestore.stores.offline.base import FileFormat
from featurestore.stores.offline.files import unreadable
from featurestore.stores.offline.parquet import feature_columns


class DeltaFiles(FileFormat):
    """A local Delta table at its latest version, which is the pin.

    Raises, besides what `FileFormat.resolve` does, `UnsupportedByEngine` for tables whose files
    can't be read as they are: with deletion vectors, or with column mapping.
    """

    name: ClassVar[str] = "delta"

    def resolve(self, source: FileSource, *, root: Path) -> DataFiles:
        """See `FileFormat.resolve`."""
        folder = root.absolute() / str(source.path)
        if not (folder / "_delta_log").is_dir():
            raise SourceMissing(
                f"Source {source.name!r}: {folder} is no Delta table (it has no _delta_log). "
                "Correct `path` or `format`"
            )
        try:
            table = DeltaTable(str(folder))
            _check_features(source, table)
            actions = pa.table(table.get_add_actions(flatten=False))
            schema = feature_columns(pa.schema(table.schema().to_arrow()))
        except (DeltaError, OSError) as error:
            raise unreadable(source, folder, str(error)) from error
        rows = sorted(_files(source, folder, actions, table.metadata().partition_columns))
        return DataFiles(
            format="parquet",
            paths=tuple(path for path, _ in rows),
            schema=schema,
            partitions=tuple(dict(values) for _, values in rows if values),
            pin={"kind": "delta", "version": table.version()},
        )


_Partition = tuple[tuple[str, str | None], ...]


def _files(
    source: FileSource, folder: Path, actions: pa.Table, keys: list[str]
) -> list[tuple[str, _Partition]]:
    """Absolute path and partition values of each live file. The log percent-encodes paths."""
    partitions = actions["partition"].to_pylist() if keys else [{}] * len(actions)
    rows: list[tuple[str, _Partition]] = []
    for raw, values in zip(actions["path"].to_pylist(), partitions, strict=True):
        path = folder / unquote(raw).removeprefix("file://")
        if not path.is_file():
            raise SourceMissing(
                f"Source {source.name!r}: the Delta log of {folder} names {path.name}, which is "
                "gone (vacuumed?). Restore it, or write a new version of the table"
            )
        rows.append((str(path), tuple((key, partition_text(values[key])) for key in keys)))
    return rows


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

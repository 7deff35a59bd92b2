"""Sources that have no files: all their rows come by a stream, and stand in the push log."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from featurestore.buckets import S3Options
from featurestore.compiler.rel import DataFiles
from featurestore.definitions.source import FileSource
from featurestore.stores.offline.base import FileFormat


class StreamedRows(FileFormat):
    """The columns that a `StreamSource` declares, and no file."""

    name: ClassVar[str] = "stream"

    def resolve(self, source: FileSource, *, root: Path, s3: S3Options | None = None) -> DataFiles:  # noqa: ARG002
        """See `FileFormat.resolve`."""
        return DataFiles(
            format="parquet", paths=(), schema=source.csv_dtypes, pin={"kind": "stream"}
        )

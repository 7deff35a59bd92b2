"""What a file format is: it turns a source's path into a resolved file list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from featurestore.buckets import S3Options
from featurestore.compiler.rel import DataFiles
from featurestore.definitions.source import FileSource


class FileFormat(ABC):
    """Resolves `FileSource.path` to files, schema and pin. Stateless."""

    name: ClassVar[str]

    @abstractmethod
    def resolve(self, source: FileSource, *, root: Path, s3: S3Options | None = None) -> DataFiles:
        """The files of `source` now (relative paths are below `root`; `s3` says where S3 is, by
        default where the environment says), read union by name.

        Raises `SourceMissing` where there is no file or one can't be read, `SourceSchemaChanged`
        where files of one source disagree beyond widening, and what S3 does: `StoreAccessDenied`,
        `StoreUnavailable`, `StoreTimeout`.
        """

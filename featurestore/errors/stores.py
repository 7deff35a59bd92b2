"""Stores, sources and files: what is away, full, damaged or not what it was."""

from __future__ import annotations

from featurestore.errors.base import FeatureStoreError


class StoreError(FeatureStoreError):
    code = "store-error"


class StoreUnavailable(StoreError):
    code = "store-unavailable"
    retryable = True


class StoreFull(StoreUnavailable):
    """The store has no room for what is written; it still answers reads."""

    code = "store-full"
    retryable = False


class StoreExhausted(StoreUnavailable):
    """The store's server runs and lacks something: connections, memory, what a limit of it allows.
    Passes by itself where others give it back."""

    code = "store-exhausted"


class StoreTimeout(StoreError):
    code = "store-timeout"
    retryable = True


class StoreAccessDenied(StoreError):
    """The store refuses our credentials; trying again does not help."""

    code = "store-access-denied"


class StoreReadOnly(StoreError):
    code = "store-read-only"


class CorruptRow(StoreError):
    code = "corrupt-row"


class CorruptPlan(StoreError):
    """Stored bytes that are not a serving plan (or one that a newer version wrote)."""

    code = "corrupt-plan"


class CorruptLog(StoreError):
    """The log of pushed rows is damaged; says in which file, and where."""

    code = "corrupt-log"


class SnapshotMissing(StoreError):
    code = "snapshot-missing"


class SourceMissing(StoreError):
    """A source names no file that exists, or an unreadable one."""

    code = "source-missing"


class SourceSchemaChanged(StoreError):
    """The files of a source no longer have the columns or types that the definitions need."""

    code = "source-schema-changed"


class InvalidValue(StoreError):
    """A value that its type cannot hold (1.7 as int64, an overflow); names column and row."""

    code = "invalid-value"


class FileNotWritten(StoreError):
    """A result or a temporary file can't be written: a full disk, missing permission. What stood
    there before is untouched."""

    code = "file-not-written"


class MemoryExceeded(StoreError):
    """A query does not fit into the memory limit, nor does what it spills fit onto the disk."""

    code = "memory-exceeded"

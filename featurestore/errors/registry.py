"""The registry: records, aliases and commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from featurestore.errors.base import FeatureStoreError, suggest


class RegistryError(FeatureStoreError):
    code = "registry-error"


class RecordNotFound(RegistryError):
    code = "record-not-found"

    def __init__(self, ref: str, *, known: Iterable[str] = (), at: str | None = None) -> None:
        """`at`: the instant at which there was none, of something that came later."""
        message = f"The registry has no {ref!r}.{suggest(ref, known)}"
        if at is not None:
            message = f"The registry had no {ref!r} yet at {at}"
        super().__init__(message)
        self.ref = ref


class AmbiguousRecord(RegistryError):
    """A shortened record id that more than one record has; write more digits."""

    code = "ambiguous-record"

    def __init__(self, ref: str, *, found: Sequence[str]) -> None:
        super().__init__(f"{ref!r} could be any of {', '.join(found)}; write more of its digits")
        self.ref = ref
        self.found = list(found)


class InvalidRecord(RegistryError):
    """A record that may not be written: unknown parents, too large a body, an ill-formed name."""

    code = "invalid-record"


class CommitConflict(RegistryError):
    """Another commit moved an alias first; read again and retry."""

    code = "commit-conflict"
    retryable = True

    def __init__(self, alias: str, *, expected: str | None, found: str | None) -> None:
        super().__init__(
            f"Alias {alias!r} is at {found or 'nothing'}, expected {expected or 'nothing'}: "
            "another commit was first. Read again and retry."
        )
        self.alias = alias
        self.expected = expected
        self.found = found


class SchemaTooNew(RegistryError):
    code = "schema-too-new"


class MigrationNeeded(RegistryError):
    code = "migration-needed"

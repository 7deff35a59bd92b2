"""Every error that a user can meet.

One base, one leaf per cause. A leaf has a stable `code` (what programs match on), typed attributes
(what programs read), a message that says what is wrong, where and what to do, and a class fact
`retryable`. Status codes of gRPC and HTTP are known only at the edges, in `serving`.

A missing or expired feature value is data (a status), not an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'trips_7day'?` for the closest of `known`, or what there is, or nothing."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    if not known:
        return ""
    shown = ", ".join(known[:8]) + (f", … ({len(known)} in all)" if len(known) > 8 else "")
    return f" There is: {shown}."


class FeatureStoreError(Exception):
    """Base of all errors. `str(error)` is the message followed by `[code]`."""

    code: ClassVar[str] = "feature-store-error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    @property
    def details(self) -> dict[str, object]:
        """The typed attributes as plain data, for `--json` and for the wire."""
        return {k: v for k, v in vars(self).items() if k != "message" and not k.startswith("_")}

    @classmethod
    def restore(cls, code: str, message: str, details: Mapping[str, object]) -> FeatureStoreError:
        """The error that another process raised, rebuilt from `code`, `message` and `details`.

        An unknown code (a newer server) becomes a plain `FeatureStoreError` with that message.
        """
        leaf = _by_code().get(code, FeatureStoreError)
        error = leaf.__new__(leaf)
        FeatureStoreError.__init__(error, message)
        error.adopt(details)
        return error

    def adopt(self, details: Mapping[str, Any]) -> None:
        """Take the typed attributes from plain data; for `restore`."""
        self.__dict__.update(details)

    def __reduce__(self) -> tuple[Any, ...]:
        # Leaves have constructors of their own; what crosses processes is what `restore` takes.
        return FeatureStoreError.restore, (self.code, self.message, self.details)


def _by_code() -> dict[str, type[FeatureStoreError]]:
    found: dict[str, type[FeatureStoreError]] = {}
    todo = [FeatureStoreError]
    while todo:
        error = todo.pop()
        found.setdefault(error.code, error)
        todo.extend(error.__subclasses__())
    return found


# --- what users wrote -----------------------------------------------------------------------------


class DefinitionError(FeatureStoreError):
    """Something in the repository (or its settings) is wrong; says in which file and line."""

    code = "definition-error"
    file: str | None = None
    line: int | None = None

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.line = line

    def __str__(self) -> str:
        return f"{self.where}{super().__str__()}"

    @property
    def where(self) -> str:
        """`flights.py:12: `, or nothing for a definition made outside a file."""
        if self.file is None:
            return ""
        return f"{self.file}:{self.line}: " if self.line else f"{self.file}: "


class InvalidRepository(DefinitionError):
    """All errors of one repository, in file and line order (`errors`)."""

    code = "invalid-repository"

    def __init__(self, errors: Sequence[DefinitionError]) -> None:
        self.errors = tuple(sorted(errors, key=lambda e: (e.file or "", e.line or 0)))
        count = len(self.errors)
        noun = "error" if count == 1 else "errors"
        super().__init__("\n".join([f"{count} {noun} in the repository", *map(str, self.errors)]))

    def __str__(self) -> str:
        first, _, rest = self.message.partition("\n")
        return f"{first} [{self.code}]\n{rest}"

    @property
    def details(self) -> dict[str, object]:
        return {
            "errors": [{"code": e.code, "message": e.message, **e.details} for e in self.errors]
        }

    def adopt(self, details: Mapping[str, Any]) -> None:
        self.errors = tuple(_definition_error(each) for each in details.get("errors", ()))


def _definition_error(details: Mapping[str, Any]) -> DefinitionError:
    rest = {name: value for name, value in details.items() if name not in ("code", "message")}
    error = FeatureStoreError.restore(str(details["code"]), str(details["message"]), rest)
    if isinstance(error, DefinitionError):
        return error
    return DefinitionError(error.message, file=rest.get("file"), line=rest.get("line"))


class InvalidName(DefinitionError):
    code = "invalid-name"


class DuplicateName(DefinitionError):
    code = "duplicate-name"


class UnknownReference(DefinitionError):
    code = "unknown-reference"


class CyclicReference(DefinitionError):
    code = "cyclic-reference"


class TypeMismatch(DefinitionError):
    """Types that do not go together; in an expression `position` counts characters from 0."""

    code = "type-mismatch"
    position: int | None = None

    def __init__(
        self,
        message: str,
        *,
        position: int | None = None,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message, file=file, line=line)
        if position is not None:
            self.position = position


class InvalidExpression(DefinitionError):
    """An SQL expression that is not in our language; `position` counts characters from 0."""

    code = "invalid-expression"

    def __init__(
        self,
        message: str,
        *,
        position: int | None = None,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message, file=file, line=line)
        self.position = position


class InvalidFunction(DefinitionError):
    """A Python function of an on-demand view that does not stand by itself, or cannot be loaded."""

    code = "invalid-function"


class InvalidSettings(DefinitionError):
    """An unknown or ill-typed key in `featurestore.toml`, the environment or the arguments."""

    code = "invalid-settings"


class InsecureSettings(InvalidSettings):
    """Settings by which secrets or features would travel in the clear, or checks mean nothing."""

    code = "insecure-settings"


# --- changes of definitions -----------------------------------------------------------------------


class ChangeError(FeatureStoreError):
    code = "change-error"


class DestructiveChange(ChangeError):
    """Something would be removed that models in use (`models`) need."""

    code = "destructive-change"

    def __init__(self, message: str, *, models: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.models = list(models)


class ProductionImpact(ChangeError):
    """Something would change below models in production (`models`), and no reason was given."""

    code = "production-impact"

    def __init__(self, message: str, *, models: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.models = list(models)


class StalePlan(ChangeError):
    """The environment moved after the plan was made; make a new plan."""

    code = "stale-plan"


class NotApplied(ChangeError):
    """The environment does not have this definition as it stands in the repository; apply first."""

    code = "not-applied"


class UnsupportedByEngine(ChangeError):
    code = "unsupported-by-engine"


# --- what a caller asked for ----------------------------------------------------------------------


class RequestError(FeatureStoreError):
    code = "request-error"


class InvalidRequest(RequestError):
    """An argument that is malformed as such: a wrong type, an unknown option, a bad instant."""

    code = "invalid-request"


class InvalidSearch(InvalidRequest):
    """A search for runs that can't be read; `position` counts characters of it from 0."""

    code = "invalid-search"

    def __init__(self, what: str, *, text: str, position: int) -> None:
        before, here = text[:position][-30:], text[position : position + 30]
        place = f"{before}▸{here}".strip()
        super().__init__(f"search, character {position + 1}: {what.rstrip('.')}. Here: {place}")
        self.position = position


class UnknownFeature(RequestError):
    code = "unknown-feature"

    def __init__(self, feature: str, *, view: str, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"{view} has no feature {feature!r}.{suggest(feature, known)}")
        self.feature = feature
        self.view = view


class UnknownView(RequestError):
    code = "unknown-view"

    def __init__(self, view: str, *, known: Iterable[str], hint: str = "") -> None:
        hint = f" {hint}" if hint else ""
        super().__init__(f"There is no feature view {view!r}.{suggest(view, known)}{hint}")
        self.view = view


class UnknownService(RequestError):
    code = "unknown-service"

    def __init__(self, service: str, *, known: Iterable[str], hint: str = "") -> None:
        hint = f" {hint}" if hint else ""
        super().__init__(f"There is no feature service {service!r}.{suggest(service, known)}{hint}")
        self.service = service


class UnknownSource(RequestError):
    code = "unknown-source"

    def __init__(self, source: str, *, known: Iterable[str]) -> None:
        super().__init__(f"There is no source {source!r}.{suggest(source, known)}")
        self.source = source


class InvalidRows(RequestError):
    """Pushed rows that their source can't have; nothing of the push was taken. Says which `column`
    and which `row` (from 0), where it is one."""

    code = "invalid-rows"

    def __init__(
        self, message: str, *, source: str, column: str | None = None, row: int | None = None
    ) -> None:
        super().__init__(message)
        self.source = source
        self.column = column
        self.row = row


class MissingJoinKey(RequestError):
    code = "missing-join-key"

    def __init__(self, key: str, *, needed_by: str, known: Iterable[str]) -> None:
        super().__init__(
            f"Join key {key!r}, needed by {needed_by}, is missing.{suggest(key, known)}"
        )
        self.key = key
        self.needed_by = needed_by


class InvalidJoinKey(RequestError):
    """A join key of the wrong type, or a value that does not fit it."""

    code = "invalid-join-key"

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"Join key {key!r}: {message}")
        self.key = key


class MissingRequestInput(RequestError):
    """A value that on-demand features need of every request was not sent."""

    code = "missing-request-input"

    def __init__(self, name: str, *, needed_by: str, known: Iterable[str]) -> None:
        super().__init__(
            f"Request input {name!r}, needed by {needed_by}, is missing.{suggest(name, known)}"
        )
        self.name = name
        self.needed_by = needed_by


class InvalidRequestInput(RequestError):
    """A request input of the wrong type, or not one value for each entity."""

    code = "invalid-request-input"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"Request input {name!r}: {message}")
        self.name = name


class InvalidEntityFrame(RequestError):
    code = "invalid-entity-frame"


class NameClash(RequestError):
    """Two output columns would have one name."""

    code = "name-clash"

    def __init__(self, names: Sequence[str], *, hint: str) -> None:
        listed = ", ".join(repr(n) for n in names)
        super().__init__(f"More than one output column would be named {listed}. {hint}")
        self.names = list(names)


class LimitExceeded(RequestError):
    """`limit` names the limit, `allowed` and `asked` are in its unit."""

    code = "limit-exceeded"

    def __init__(self, limit: str, *, asked: int, allowed: int, hint: str = "") -> None:
        hint = f" {hint}" if hint else ""
        super().__init__(f"{asked:,} is over {limit} = {allowed:,}.{hint}")
        self.limit = limit
        self.asked = asked
        self.allowed = allowed


class RequestTimeout(RequestError):
    """The request itself did not arrive in time."""

    code = "request-timeout"


class Unauthenticated(RequestError):
    """Nobody, or nobody that we know: no token, or one that is wrong, expired or revoked. Never
    says more of the token than that."""

    code = "unauthenticated"


class PermissionDenied(RequestError):
    """Somebody we know, who may not do this: `principal`, and the `grant` that is missing."""

    code = "permission-denied"

    def __init__(self, message: str, *, principal: str = "", grant: str = "") -> None:
        super().__init__(message)
        self.principal = principal
        self.grant = grant


# --- the registry ---------------------------------------------------------------------------------


class RegistryError(FeatureStoreError):
    code = "registry-error"


class RecordNotFound(RegistryError):
    code = "record-not-found"

    def __init__(self, ref: str, *, known: Iterable[str] = ()) -> None:
        super().__init__(f"The registry has no {ref!r}.{suggest(ref, known)}")
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


# --- stores and sources ---------------------------------------------------------------------------


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


# --- servers --------------------------------------------------------------------------------------


class ServerError(FeatureStoreError):
    code = "server-error"


class ServerUnavailable(ServerError):
    """No server answers at the target, or it is going away."""

    code = "server-unavailable"
    retryable = True


class ServerTimeout(ServerError):
    """The server did not answer before the deadline."""

    code = "server-timeout"
    retryable = True


class ServerOverloaded(ServerError):
    """The server answers as many requests as it may (`limit`, `allowed`) and turned this one away
    unread; the clients ask again after a pause."""

    code = "server-overloaded"
    retryable = True

    def __init__(self, limit: str, *, allowed: int, what: str = "requests") -> None:
        super().__init__(
            f"The server is busy with {limit} = {allowed:,} {what}; ask again after a pause."
        )
        self.limit = limit
        self.allowed = allowed


class AddressUnavailable(ServerError):
    """A server cannot listen where its settings say."""

    code = "address-unavailable"


# --- lifecycle ------------------------------------------------------------------------------------


class LifecycleError(FeatureStoreError):
    code = "lifecycle-error"


class ApprovalRequired(LifecycleError):
    """A promotion request that nobody, or not enough, or not the right ones have approved; an
    approval counts for the evidence that it was given for, and no other. `request` is its id."""

    code = "approval-required"

    def __init__(self, message: str, *, request: str) -> None:
        super().__init__(message)
        self.request = request


class GateFailed(LifecycleError):
    """A model did not pass its gates: `failed` names them, `request` is the promotion's id."""

    code = "gate-failed"

    def __init__(self, message: str, *, failed: Iterable[str], request: str = "") -> None:
        super().__init__(message)
        self.failed = list(failed)
        self.request = request


class IllegalTransition(LifecycleError):
    """Something that can't happen in a `state`; `allowed` is what can."""

    code = "illegal-transition"

    def __init__(self, *, state: str, event: str, allowed: Iterable[str], hint: str = "") -> None:
        allowed = list(allowed)
        possible = f"; possible: {', '.join(allowed)}" if allowed else ", which is final"
        hint = f". {hint}" if hint else ""
        super().__init__(f"It is {state}{possible}. Not possible: {event}{hint}")
        self.state = state
        self.event = event
        self.allowed = allowed


class LineageIncomplete(LifecycleError):
    """A model that can't be promoted, for it is not known what it was made of: `missing` says what
    was not recorded when it was registered."""

    code = "lineage-incomplete"

    def __init__(self, model: str, *, missing: Iterable[str]) -> None:
        self.model = model
        self.missing = list(missing)
        super().__init__(
            f"{model} can't be promoted, for its lineage is incomplete: {', '.join(self.missing)} "
            "missing. Register it again with run=, training_set= and service="
        )


class SignatureMismatch(LifecycleError):
    """A model that its feature service can't feed: `problems` says why, one by one."""

    code = "signature-mismatch"

    def __init__(self, model: str, *, service: str, problems: Iterable[str]) -> None:
        self.model = model
        self.service = service
        self.problems = list(problems)
        super().__init__(
            f"{model} does not fit the feature service {service}: {'; '.join(self.problems)}"
        )


class InternalError(FeatureStoreError):
    """A bug of ours; wraps a foreign exception at the edge with `raise … from`."""

    code = "internal-error"

"""What a caller asked for, and may not or can't have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from featurestore.errors.base import FeatureStoreError, suggest


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
        end = "" if what.endswith(("?", ".")) else "."
        super().__init__(f"search, character {position + 1}: {what}{end} Here: {place}")
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

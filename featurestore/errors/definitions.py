"""What users wrote: definitions and settings that are wrong, in which file and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featurestore.errors.base import FeatureStoreError


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

"""Where the steps of `resolve` put what is wrong, with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from featurestore.definitions.names import Definition
from featurestore.definitions.repo import Definitions
from featurestore.dtypes import FLOAT64, INT32, DType, Kind, widens
from featurestore.errors import (
    DefinitionError,
    DuplicateName,
    FeatureStoreError,
    UnknownReference,
    suggest,
)

Schemas = Mapping[str, Mapping[str, DType] | FeatureStoreError]
_AnyDefinition = TypeVar("_AnyDefinition", bound=Any)


@dataclass(frozen=True, slots=True)
class Work:
    """What all steps read, and the errors that they found."""

    definitions: Definitions
    schemas: Schemas
    errors: list[DefinitionError]

    def add(
        self,
        definition: Definition,
        message: str,
        error: type[DefinitionError] = DefinitionError,
    ) -> None:
        """Note an error at the place of `definition`."""
        self.errors.append(placed(error(message), definition))

    def has_column(
        self, user: Definition, schema: Mapping[str, DType], column: str, message: str
    ) -> bool:
        """Whether `schema` has `column`; where not, `message` is noted with a suggestion."""
        if column in schema:
            return True
        self.add(user, f"{message}.{suggest(column, schema)}", UnknownReference)
        return False

    def in_repo(self, user: Any, used: Any, known: Sequence[Any]) -> bool:
        """Whether `used` is one of the repository's own definitions (`known`); where not, that is
        noted, unless `used` is a duplicate and so noted already."""
        if any(used is one for one in known):
            return True
        first = next((one for one in known if one.name == used.name), None)
        what = f"{user.kind} {user.name!r} uses {used.kind} {used.name!r}"
        if first is None:
            message = "which is not at module level of any file; assign it to a name there"
            self.add(user, f"{what}, {message}", UnknownReference)
        elif not self._is_duplicate(used):
            message = f"but not the one that stands at {first.file}:{first.line}; use that one"
            self.add(user, f"{what}, {message}", UnknownReference)
        return False

    def _is_duplicate(self, definition: Any) -> bool:
        place = (definition.file or None, definition.line or None)
        return any(isinstance(e, DuplicateName) and (e.file, e.line) == place for e in self.errors)


def placed(error: DefinitionError, definition: Definition, about: str = "") -> DefinitionError:
    """`error`, moved to the place of `definition`, its message preceded by `about`."""
    error.file = definition.file or None
    error.line = definition.line or None
    error.message = f"{about}{error.message}"
    return error


def sound(found: Iterable[_AnyDefinition]) -> list[_AnyDefinition]:
    """The definitions free of errors, in name order."""
    return sorted((d for d in found if d.valid), key=lambda d: d.name)


def reads_as(narrow: DType, wide: DType) -> bool:
    """Whether a feature of type `narrow` may be declared as `wide`: every value stays the same."""
    if narrow.kind is Kind.LIST:
        return False
    if narrow.kind is Kind.DECIMAL and wide.kind is Kind.DECIMAL:
        scale, wide_scale = narrow.scale or 0, wide.scale or 0
        whole = (narrow.precision or 0) - scale
        return wide_scale >= scale and (wide.precision or 0) - wide_scale >= whole
    return widens(narrow, wide) or (narrow, wide) == (INT32, FLOAT64)

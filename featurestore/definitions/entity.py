"""Entities: what features are about, and the join keys that name one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from featurestore import dtypes
from featurestore.definitions.names import (
    Definition,
    check_mapping,
    check_name,
    check_texts,
    locate,
    name_problem,
    read_dtype,
    report,
    set_field,
)
from featurestore.dtypes import INT32, INT64, STRING, DType
from featurestore.errors import InvalidName, TypeMismatch


@dataclass(frozen=True, slots=True)
class Entity(Definition):
    """What features are about: a plane, an airport, a route.

    `join_keys` are the columns that name one, with their types (`int64`, `int32`, `string`,
    `bytes`); a list means strings; left out, it is one string column of the entity's name.

    Raises `InvalidName` and `TypeMismatch`; while a repository is loaded these are gathered.
    """

    kind: ClassVar[str] = "entity"

    name: str
    join_keys: Mapping[str, str] | Sequence[str] | None = field(default=None, hash=False)
    _: KW_ONLY
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_name(self, self.name)
        check_texts(self, "description", "owner")
        check_mapping(self, "tags")
        set_field(self, "join_keys", _keys_of(self))

    @property
    def keys(self) -> dict[str, DType]:
        """Join key → type, in the order declared; int32 keys are read as int64."""
        declared: Any = self.join_keys
        parsed = {name: dtypes.parse(text) for name, text in declared.items()}
        return {name: INT64 if dtype == INT32 else dtype for name, dtype in parsed.items()}


def _keys_of(entity: Entity) -> dict[str, str]:
    declared = entity.join_keys
    if declared is None:
        return {str(entity.name): str(STRING)}
    if isinstance(declared, str | bytes) or not isinstance(declared, Mapping | Sequence):
        report(
            entity,
            f"join_keys must be a list of columns or a mapping of column to type, not {declared!r}",
            TypeMismatch,
        )
        return {}
    pairs: Mapping[str, object]
    pairs = declared if isinstance(declared, Mapping) else dict.fromkeys(declared, str(STRING))
    if not pairs:
        report(entity, "join_keys is empty; a view without entities needs no entity at all")
    if len(pairs) < len(declared):
        report(entity, f"join_keys names a column twice: {list(declared)}")
    return {str(name): text for name, raw in pairs.items() if (text := _key(entity, name, raw))}


def _key(entity: Entity, name: object, raw: object) -> str | None:
    if problem := name_problem(name):
        report(entity, f"join key: {problem}", InvalidName)
        return None
    dtype = read_dtype(entity, raw, what=f"join key {name!r}")
    if dtype is None:
        return None
    if not (dtype.is_key or dtype == INT32):
        report(
            entity,
            f"join key {name!r} has type {dtype}; keys are int64, int32, string or bytes",
            TypeMismatch,
        )
        return None
    return str(dtype)

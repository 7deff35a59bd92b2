"""SQL scalar expressions as a small typed tree of our own: the same tree gives the engine's SQL,
the types, the column lineage and the canonical form for hashing."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.dtypes import DType


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the source, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; `dtype` is None for NULL."""

    value: bool | int | float | str | None
    dtype: DType | None


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator of our language applied to arguments (`add`, `eq`, `coalesce`, …)."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Cast:
    """A value read as another type; NULL where it does not fit."""

    argument: Expression
    dtype: DType


@dataclass(frozen=True, slots=True)
class Case:
    """CASE WHEN: the value of the first branch whose condition is true, else `default`."""

    branches: tuple[tuple[Expression, Expression], ...]
    default: Expression


Expression = Column | Literal | Call | Cast | Case

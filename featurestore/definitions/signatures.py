"""What the functions of feature expressions read their arguments as, and what they yield.

A rule takes the types of the arguments as they are written and says as which they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING, TIMESTAMP, DType, Kind, common

Types = tuple[DType | None, ...]
"""Types of arguments; None is the type of a bare NULL, which fits everywhere."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What the arguments are read as, and what comes out (None: a bare NULL)."""

    arguments: Types
    result: DType | None


Rule = Callable[[Types], Signature]
"""Raises `ValueError`, saying what was expected, for arguments that it does not take."""


def common_type(types: Types) -> DType | None:
    """The least type that all are read as; None where all are bare NULLs.

    Raises `ValueError` where there is none.
    """

    def join(left: DType | None, right: DType | None) -> DType | None:
        if left is None or right is None:
            return left or right
        found = common(left, right)
        if found is None:
            raise ValueError(f"{left} and {right} have no common type{_cast_hint(left, right)}")
        return found

    return reduce(join, types, None)


def _cast_hint(left: DType, right: DType) -> str:
    kinds = {left.kind, right.kind}
    if kinds == {Kind.STRING, Kind.DATE}:
        return "; write a date as DATE '2020-12-31'"
    if kinds == {Kind.STRING, Kind.TIMESTAMP}:
        return "; write an instant as TIMESTAMP '2020-12-31 10:00:00'"
    return "; CAST one of them"


def _takes(
    expected: str, accepts: Callable[[DType], bool], types: Types, *, first: int = 1
) -> None:
    for position, dtype in enumerate(types, first):
        if dtype is not None and not accepts(dtype):
            raise ValueError(f"argument {position} must be {expected}, not {dtype}")


def _is_number(dtype: DType) -> bool:
    return dtype.is_numeric


def _is_instant(dtype: DType) -> bool:
    return dtype.kind in (Kind.DATE, Kind.TIMESTAMP)


def fixed(*arguments: DType, result: DType) -> Rule:
    """Arguments of exactly these types; the last one repeats."""

    def rule(types: Types) -> Signature:
        wanted = tuple(arguments[min(i, len(arguments) - 1)] for i in range(len(types)))
        for position, (dtype, want) in enumerate(zip(types, wanted, strict=True), 1):
            if dtype is not None and dtype != want and not (want == INT64 and dtype.is_integer):
                raise ValueError(f"argument {position} must be {want}, not {dtype}")
        return Signature(wanted, result)

    return rule


def floats(types: Types) -> Signature:
    """Numbers, read as float64."""
    _takes("a number", _is_number, types)
    return Signature((FLOAT64,) * len(types), FLOAT64)


def arithmetic(types: Types) -> Signature:
    """int64 of ints, float64 of all else."""
    hint = ""
    if any(t is not None and _is_instant(t) for t in types):
        hint = " (for instants there are date_diff(unit, a, b) and epoch(a))"
    _takes(f"a number{hint}", _is_number, types)
    wide = INT64 if all(t is None or t.is_integer for t in types) else FLOAT64
    return Signature((wide,) * len(types), wide)


def integers(types: Types) -> Signature:
    """Integers only."""
    _takes("an integer (of others, write floor(a / b))", lambda t: t.is_integer, types)
    return Signature((INT64,) * len(types), INT64)


def rounded(types: Types) -> Signature:
    """A number, and to how many digits."""
    if len(types) == 1:
        return arithmetic(types)
    _takes("a number", _is_number, types[:1])
    _takes("an integer", lambda t: t.is_integer, types[1:], first=2)
    return Signature((FLOAT64, INT64), FLOAT64)


def sign(types: Types) -> Signature:
    """Of a number."""
    return Signature(arithmetic(types).arguments, INT64)


def compared(types: Types) -> Signature:
    """Read as their common type; lists and maps do not compare."""
    _takes("no list", lambda t: t.kind is not Kind.LIST, types)
    _takes("no map", _is_no_map, types)
    return Signature((common_type(types),) * len(types), BOOL)


def extreme(types: Types) -> Signature:
    """One of values that compare, as their common type."""
    arguments = compared(types).arguments
    return Signature(arguments, arguments[0])


def _is_no_map(dtype: DType) -> bool:
    return dtype.kind is not Kind.MAP


def shared(types: Types) -> Signature:
    """One of values of a common type, which need not compare."""
    _takes("no map", _is_no_map, types)
    wide = common_type(types)
    return Signature((wide,) * len(types), wide)


def anything(types: Types) -> Signature:
    """Any types as they are; whether something holds of them."""
    return Signature(types, BOOL)


def date_part(types: Types) -> Signature:
    """A number that is read off a date or timestamp."""
    _takes("a date or timestamp", _is_instant, types)
    return Signature((TIMESTAMP,) * len(types), INT64)


def epoch(types: Types) -> Signature:
    """Seconds of a date or timestamp, with their fraction."""
    return Signature(date_part(types).arguments, FLOAT64)


def date_trunc(types: Types) -> Signature:
    """A unit and a date or timestamp."""
    _takes("a date or timestamp", _is_instant, types[1:], first=2)
    return Signature((STRING, TIMESTAMP), TIMESTAMP)


def date_diff(types: Types) -> Signature:
    """A unit and two dates or timestamps."""
    _takes("a date or timestamp", _is_instant, types[1:], first=2)
    return Signature((STRING, TIMESTAMP, TIMESTAMP), INT64)


def instant_function(result: DType) -> Rule:
    """Of a date or timestamp."""
    return lambda types: Signature(date_part(types).arguments, result)


def date_add(types: Types) -> Signature:
    """A unit, how many of them, and a date or timestamp."""
    _takes("an integer", lambda t: t.is_integer, types[1:2], first=2)
    _takes("a date or timestamp", _is_instant, types[2:], first=3)
    return Signature((STRING, INT64, TIMESTAMP), TIMESTAMP)


def length(types: Types) -> Signature:
    """Of a string or a list."""
    _takes("a string or a list", lambda t: t.kind in (Kind.STRING, Kind.LIST), types)
    return Signature(tuple(t or STRING for t in types), INT64)


def _item(types: Types) -> DType | None:
    _takes("a list", lambda t: t.kind is Kind.LIST, types[:1])
    return types[0].item if types[0] is not None else None


def list_contains(types: Types) -> Signature:
    """A list of plain values, and one that may be in it."""
    item = _item(types)
    if item is not None and item.kind is Kind.LIST:
        raise ValueError("argument 1 must be a list of plain values")
    if item is not None and types[1] is not None and common(item, types[1]) != item:
        raise ValueError(f"argument 2 must be {item}, not {types[1]}")
    return Signature((types[0], item), BOOL)


def list_extract(types: Types) -> Signature:
    """A list and a place in it."""
    _takes("an integer", lambda t: t.is_integer, types[1:], first=2)
    return Signature((types[0], INT64), _item(types))

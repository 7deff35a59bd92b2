"""The functions of aggregations: one table of what each takes, yields and is told.

How a function is computed from parts is said by its `Partial` (`partials`); offline engines say
it again over whole columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.dtypes import (
    BOOL,
    DECIMAL_PRECISION_MAX,
    FLOAT64,
    INT64,
    MAP_KEYS,
    DType,
    Kind,
    map_of,
)

BUCKETS_PER_KEY_MAX = 1_000
"""So many buckets the map of an aggregation with `by` has at most; where a window holds more, its
value is NULL, like a sum that does not fit its type."""
LIST_SIZE_MAX = 1_000
"""The greatest `n` of `first_n`, `last_n` and `top_k`."""
ERROR_MAX = 0.25
"""The greatest error of a sketch that may be asked for."""
QUANTILE_ERROR_MIN = 0.001
DISTINCT_ERROR_MIN = 0.005

Parameters = Mapping[str, int | float]
"""What a function is told beside its values: `n`, `q`, `error`."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One row. `numeric`: takes numbers only. `parameters` maps what may be given to its default
    (None: must be given). `empty` is its value over no rows."""

    name: str
    doc: str
    numeric: bool = False
    parameters: Mapping[str, int | float | None] = ()  # type: ignore[assignment]
    empty: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", dict(self.parameters))


_ROWS = (
    Aggregate("count", "rows, of a column those where it is not NULL", empty=0),
    Aggregate("sum", "NULL where it does not fit its type", numeric=True),
    Aggregate("mean", "the arithmetic mean", numeric=True),
    Aggregate("min", "the least value"),
    Aggregate("max", "the greatest value"),
    Aggregate("var", "the variance of the population", numeric=True),
    Aggregate("std", "the standard deviation of the population", numeric=True),
    Aggregate("first", "the value of the oldest row"),
    Aggregate("last", "the value of the newest row"),
    Aggregate("first_n", "the values of the n oldest rows, oldest first", parameters={"n": None}),
    Aggregate("last_n", "the values of the n newest rows, oldest first", parameters={"n": None}),
    Aggregate("count_distinct", "how many different values, exactly", empty=0),
    Aggregate(
        "approx_count_distinct",
        "how many different values; `error` is the standard error, relative (HyperLogLog)",
        parameters={"error": 0.02},
        empty=0,
    ),
    Aggregate(
        "approx_quantile",
        "a value within `error`, relative, of the one at rank ⌊q·(count − 1)⌋ (DDSketch)",
        numeric=True,
        parameters={"q": None, "error": 0.01},
    ),
    Aggregate(
        "top_k",
        "the n values that are most frequent, the most frequent first, ties by value; exact",
        parameters={"n": None},
    ),
)
AGGREGATES: Mapping[str, Aggregate] = {row.name: row for row in _ROWS}
"""By name."""


def output_dtype(function: str, argument: DType | None) -> DType:
    """The type that `function` yields over values of `argument` (None: `count("*")`).

    Raises `ValueError`, saying what it takes, for a type that it does not take.
    """
    aggregate = AGGREGATES[function]
    if argument is None:
        if function != "count":
            raise ValueError(f'"*" is for count only; {function} needs a column')
        return INT64
    if function == "count":
        return INT64
    if argument.kind is Kind.MAP:
        raise ValueError(f"{function} takes no maps, and this is {argument}")
    if argument.item is not None:
        raise ValueError(f"{function} takes no lists, and this is {argument}")
    if aggregate.numeric and not argument.is_numeric:
        raise ValueError(f"{function} takes numbers, and this is {argument}")
    if function in ("count_distinct", "approx_count_distinct"):
        return INT64
    if function in ("mean", "var", "std", "approx_quantile"):
        return FLOAT64
    if function in ("first_n", "last_n", "top_k"):
        return DType(Kind.LIST, item=argument)
    return _sum_dtype(argument) if function == "sum" else argument


def bucket_dtype(by: DType) -> DType:
    """The type of the buckets that values of `by` name. Raises `ValueError`."""
    key = INT64 if by.is_integer else by
    if key.kind not in MAP_KEYS:
        raise ValueError(f"by must be a string, an integer or a bool, and this is {by}")
    return key


def bucketed(bucket: DType, argument: DType | None) -> DType:
    """The type of what a row brings into buckets: a map of one entry (for `count("*")`, which has
    no argument, to a bool that says nothing)."""
    return map_of(bucket, BOOL if argument is None else argument)


def empty_value(function: str, dtype: DType) -> int | dict[Any, Any] | None:
    """What a feature of type `dtype` holds over no rows; a map that nobody else has."""
    return {} if dtype.kind is Kind.MAP else AGGREGATES[function].empty


def _sum_dtype(argument: DType) -> DType:
    if argument.is_float:
        return FLOAT64
    if argument.kind is Kind.DECIMAL:
        return DType(Kind.DECIMAL, precision=DECIMAL_PRECISION_MAX, scale=argument.scale)
    return INT64


def checked_parameters(function: str, given: Mapping[str, object]) -> dict[str, int | float]:
    """The parameters of `function`: those that are `given` (None: left out), else its defaults.

    Raises `ValueError` for one that is missing, that it does not have, or out of range.
    """
    known = AGGREGATES[function].parameters
    for name, value in given.items():
        if value is not None and name not in known:
            raise ValueError(f"{function} has no {name}")
    found: dict[str, int | float] = {}
    for name, default in known.items():
        value = given.get(name)
        if value is None:
            value = default
        if value is None:
            raise ValueError(f"{function} needs {name}")
        found[name] = _in_range(function, name, value)
    return found


def _in_range(function: str, name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if name == "n":
        if not isinstance(value, int) or not 1 <= value <= LIST_SIZE_MAX:
            raise ValueError(f"n must be an integer from 1 to {LIST_SIZE_MAX}, not {value!r}")
        return value
    least = 0.0
    if name == "error":
        sketch = function == "approx_quantile"
        least = QUANTILE_ERROR_MIN if sketch else DISTINCT_ERROR_MIN
    greatest = 1.0 if name == "q" else ERROR_MAX
    if not least <= value <= greatest:
        raise ValueError(f"{name} must be from {least:g} to {greatest:g}, not {value!r}")
    return float(value)

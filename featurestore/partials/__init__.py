"""Partials: every aggregation as `add`, `merge`, `result` over a state.

`merge` is associative and commutative and `identity` its neutral element, so that any tiling of the
rows and any order of merging give the same result: exactly, but for float sums, which agree within
`1e-9 · Σ|x|`. Variance is merged as (n, mean, M2); nothing is ever taken off a state.

Values are plain Python, as rows carry them (timestamps µs, dates days, decimals `Decimal`); NULL
inputs are left out by the caller, except that `count("*")` is given any value. Sums and means that
are not finite are NULL, like everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from featurestore.aggregates import Parameters
from featurestore.dtypes import DType, Kind
from featurestore.partials.base import Order, Partial
from featurestore.partials.bybucket import Buckets
from featurestore.partials.chosen import First, FirstN, Greatest, Last, LastN, Least
from featurestore.partials.numbers import (
    INT64_MAX,
    INT64_MIN,
    Count,
    Deviation,
    Mean,
    Sum,
    Variance,
)
from featurestore.partials.sets import ApproximateDistinct, Distinct, Quantile, TopK

__all__ = ["INT64_MAX", "INT64_MIN", "Order", "Partial", "partial_of"]

_PARTIALS: dict[str, type[Partial[Any]]] = {
    "count": Count,
    "sum": Sum,
    "mean": Mean,
    "min": Least,
    "max": Greatest,
    "var": Variance,
    "std": Deviation,
    "first": First,
    "last": Last,
    "first_n": FirstN,
    "last_n": LastN,
    "count_distinct": Distinct,
    "approx_count_distinct": ApproximateDistinct,
    "approx_quantile": Quantile,
    "top_k": TopK,
}


def partial_of(function: str, dtype: DType | None, parameters: Parameters) -> Partial[Any]:
    """The partial of a function over an argument of `dtype` (None: `count("*")`); over maps, of
    which each row brings one with one entry, that of the function in each bucket."""
    return _partial_of(function, dtype, tuple(sorted(parameters.items())))


@lru_cache(maxsize=1_024)
def _partial_of(
    function: str, dtype: DType | None, parameters: tuple[tuple[str, int | float], ...]
) -> Partial[Any]:
    if dtype is not None and dtype.kind is Kind.MAP:
        return Buckets(dtype, dict(parameters), _partial_of(function, dtype.value, parameters))
    return _PARTIALS[function](dtype, dict(parameters))

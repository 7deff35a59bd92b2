"""Columns of a batch: numpy arrays, and what numpy does otherwise than the expression language.

A column is an array and a mask, True where it is NULL, or None where nothing is. Arrays are float64
(NaN where NULL), int64 of ints and instants, or bool (what stands where they are NULL means
nothing). `bad` is a mask of values that had no result, or None.

numpy's own sine, logarithm or power differ from the C library's in the last bit; those are computed
value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Mask = Bools | None
Array = Any
"""An array of one of the three, or a number in place of one that is the same for all rows."""

NAN = np.nan
where = np.where
isnan = np.isnan
floor = np.floor
ceil = np.ceil
trunc = np.trunc
absolute = np.abs
sqrt = np.sqrt
fmax = np.fmax
fmin = np.fmin
fmod = np.fmod
count = np.count_nonzero  # of masks: a fifth of the time of any() and all()


def quietly() -> np.errstate:
    """Without numpy's warnings of what we look at ourselves."""
    return np.errstate(all="ignore")


# --- in and out -----------------------------------------------------------------------------------


def floats_in(values: Sequence[Any]) -> tuple[Floats, Mask]:
    """Floats or None."""
    found = np.array(values, np.float64)
    mask = np.isnan(found)
    return found, mask if count(mask) else None


def ints_in(values: Sequence[Any]) -> tuple[Ints, Mask]:
    """Ints or None."""
    try:
        return np.array(values, np.int64), None
    except TypeError:
        wide = np.array(values, np.float64)  # reads None as NaN
    mask = np.isnan(wide)
    wide[mask] = 0.0
    if np.abs(wide).max() < 2**53:  # so that every int is exact
        return wide.astype(np.int64), mask
    return np.array([0 if value is None else value for value in values], np.int64), mask


def bools_in(values: Sequence[Any]) -> tuple[Bools, Mask]:
    """Truth values or None."""
    if None not in values:
        return np.array(values, np.bool_), None
    return np.array([value is True for value in values], np.bool_), np.array(
        [value is None for value in values], np.bool_
    )


def full(rows: int, value: float) -> Array:
    """A column of one value."""
    return np.full(rows, value)


def list_out(values: Array, mask: Mask) -> list[Any]:
    """Plain values, None where the mask is set."""
    found: list[Any] = values.tolist()
    if mask is not None:
        for row in mask.nonzero()[0].tolist():
            found[row] = None
    return found


# --- masks ----------------------------------------------------------------------------------------


def union(*masks: Mask) -> Mask:
    """Set where one is set."""
    found: Mask = None
    for mask in masks:
        if mask is not None:
            found = mask if found is None else found | mask
    return found


def both(left: Mask, right: Mask) -> Mask:
    """Set where both are set."""
    return None if left is None or right is None else left & right


def is_null(mask: Mask, rows: int) -> Bools:
    """The mask as a column."""
    return np.zeros(rows, np.bool_) if mask is None else mask


def is_true(values: Bools, mask: Mask) -> Bools:
    """Where a condition holds."""
    return values if mask is None else values & ~mask


def without(mask: Mask, other: Mask) -> Mask:
    """Set where `mask` is set and `other` is not; None where that is nowhere."""
    if mask is None:
        return None
    found = mask if other is None else mask & ~other
    return found if count(found) else None


def chosen(condition: Bools, then: Mask | bool, otherwise: Mask | bool) -> Mask:
    """`then` where the condition holds."""
    if then is None and otherwise is None:
        return None
    return np.where(condition, then is not None and then, otherwise is not None and otherwise)


def count_losses(losses: Any, position: int, nulls: Mask, *bad: Mask) -> None:
    """Count the NULLs of output `position` that come of want of a result."""
    lost = both(nulls, union(*bad))
    if lost is not None:
        losses.add(position, int(lost.sum()))


# --- floats ---------------------------------------------------------------------------------------


def settle(values: Floats, nulls: Mask) -> tuple[Floats, Mask, Mask]:
    """The end of a chain of float operations on arguments that are NULL at `nulls`: NULL for inf
    and NaN, 0.0 for -0.0. With what is NULL now, and what of it is bad."""
    found = values + 0.0
    finite = np.isfinite(found)
    if count(finite) == len(finite):
        return found, None, None
    mask = ~finite
    bad = mask if nulls is None else mask > nulls
    if not count(bad):
        return found, mask, None
    found[bad] = np.nan
    return found, mask, bad


def nulled(values: Floats, mask: Mask) -> Floats:
    """NaN where the mask is set."""
    return values if mask is None else np.where(mask, np.nan, values)


def floats(values: Array, mask: Mask) -> Floats:
    """Ints or truth values as floats."""
    found = values.astype(np.float64)
    if mask is not None:
        found[mask] = np.nan
    return found  # type: ignore[no-any-return]


def float32(values: Array) -> Floats:
    return values.astype(np.float32).astype(np.float64)  # type: ignore[no-any-return]


def float32_of_int(values: Array, mask: Mask) -> Floats:
    return floats(values.astype(np.float32), mask)


def round_away(values: Floats) -> Floats:
    """To the nearest whole number, halves away from 0."""
    whole = np.trunc(values)
    rest = values - whole
    return whole + (rest >= 0.5) - (rest <= -0.5)


def round_digits(values: Floats, scale: float) -> Floats:
    scaled = values * scale
    return np.where(np.isfinite(scaled), round_away(scaled) / scale, values)


def round_tens(values: Floats, scale: float) -> Floats:
    return round_away(values / scale) * scale


def mapped(function: Callable[..., float], *columns: Array) -> Floats:
    """A function of `math`, value by value."""
    rows = max(np.size(column) for column in columns)
    lists = [np.broadcast_to(column, rows).tolist() for column in columns]
    found = np.array(list(map(function, *lists)), np.float64)
    for column in columns if len(columns) > 1 else ():
        found[np.isnan(column)] = np.nan  # pow(nan, 0) is 1
    return found


# --- ints -----------------------------------------------------------------------------------------


def add(left: Array, right: Array) -> tuple[Ints, Mask]:
    """The sum, bad where it does not fit int64."""
    found = left + right
    return found, ((left ^ found) & (right ^ found)) < 0


def sub(left: Array, right: Array) -> tuple[Ints, Mask]:
    """The difference, bad where it does not fit int64."""
    found = left - right
    return found, ((left ^ right) & (left ^ found)) < 0


def mul(left: Array, right: Array) -> tuple[Ints, Mask]:
    """The product, bad where it does not fit int64."""
    found = left * right
    size = np.abs(np.multiply(left, right, dtype=np.float64))
    if not (size > 9.2e18).any():
        return found, None
    bad = size > 9.3e18
    lefts, rights = np.broadcast_arrays(left, right)
    for row in np.flatnonzero((size > 9.2e18) & ~bad).tolist():
        bad[row] = not -(2**63) <= int(lefts[row]) * int(rights[row]) < 2**63
    return found, bad


def neg(values: Ints) -> tuple[Ints, Mask]:
    return -values, values == -(2**63)


def absolute_int(values: Ints) -> tuple[Ints, Mask]:
    return np.abs(values), values == -(2**63)


def quotient(left: Array, right: Array) -> tuple[Ints, Mask]:
    """Cut toward 0; bad for a divisor of 0 and for the one that does not fit."""
    bad = (right == 0) | ((left == -(2**63)) & (right == -1))
    safe = np.where(bad, 1, right)
    found = left // safe
    return found + ((found * safe != left) & ((left < 0) != (safe < 0))), bad


def remainder(left: Array, right: Array) -> tuple[Ints, Mask]:
    """With the sign of the dividend; bad for a divisor of 0."""
    bad = np.equal(right, 0)
    found: Any = np.fmod(left, np.where(bad | np.equal(right, -1), 1, right))
    return found, np.broadcast_to(bad, found.shape)


def sign(values: Array) -> Ints:
    """-1, 0 or 1."""
    return np.sign(values).astype(np.int64)  # type: ignore[no-any-return]


def int_of_float(values: Floats, low: int, high: int) -> tuple[Ints, Mask]:
    """The nearest integer, halves to the even one; bad outside `low` to `high`."""
    found = np.rint(values)
    bad = ~((found >= float(low)) & (found < float(high + 1)))
    return np.where(bad, 0.0, found).astype(np.int64), bad


def narrowed(values: Ints, low: int, high: int) -> tuple[Ints, Mask]:
    """Bad outside `low` to `high`."""
    return values, (values < low) | (values > high)


def ints(values: Array) -> Ints:
    return np.asarray(values).astype(np.int64)


def coalesce(left: Array, left_mask: Mask, right: Array, right_mask: Mask) -> tuple[Array, Mask]:
    """The first; the second where that is NULL."""
    if left_mask is None:
        return left, None
    return np.where(left_mask, right, left), both(left_mask, right_mask)


def greatest(left: Array, left_mask: Mask, right: Array, right_mask: Mask) -> tuple[Ints, Mask]:
    """The greater; NULLs are left out."""
    return _extreme(left > right, left, left_mask, right, right_mask)


def least(left: Array, left_mask: Mask, right: Array, right_mask: Mask) -> tuple[Ints, Mask]:
    """The lesser; NULLs are left out."""
    return _extreme(left < right, left, left_mask, right, right_mask)


def _extreme(
    better: Bools, left: Array, left_mask: Mask, right: Array, right_mask: Mask
) -> tuple[Ints, Mask]:
    take = better if right_mask is None else better | right_mask
    take = take if left_mask is None else take & ~left_mask
    found: Any = np.where(take, left, right)
    return found, both(left_mask, right_mask)


# --- truth ----------------------------------------------------------------------------------------


def conjunction(left: Bools, left_mask: Mask, right: Bools, right_mask: Mask) -> tuple[Bools, Mask]:
    """AND: false where one is false, else NULL where one is."""
    if left_mask is None and right_mask is None:
        return left & right, None
    false = is_true(~left, left_mask) | is_true(~right, right_mask)
    return ~false, without(union(left_mask, right_mask), false)


def disjunction(left: Bools, left_mask: Mask, right: Bools, right_mask: Mask) -> tuple[Bools, Mask]:
    """OR: true where one is true, else NULL where one is."""
    true = is_true(left, left_mask) | is_true(right, right_mask)
    return true, without(union(left_mask, right_mask), true)


def among(values: Array, items: Sequence[float]) -> Bools:
    """Whether a value is one of the items."""
    return np.isin(values, items)


# --- instants -------------------------------------------------------------------------------------

_DAY_US = 86_400_000_000


def months(instants: Ints) -> Ints:
    """Months since 1970-01."""
    return _days(instants).astype("datetime64[M]").astype(np.int64)


def start_of_months(months: Ints) -> Ints:
    """The instant at which month `months` since 1970-01 begins."""
    found: Ints = months.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)
    return found


def day(instants: Ints) -> Ints:
    """The day of the month, 1 to 31."""
    days = _days(instants)
    first: Any = days.astype("datetime64[M]").astype("datetime64[D]")
    return _whole(days - first) + 1


def dayofyear(instants: Ints) -> Ints:
    """The day of the year, 1 to 366."""
    days = _days(instants)
    first: Any = days.astype("datetime64[Y]").astype("datetime64[D]")
    return _whole(days - first) + 1


def _whole(values: Any) -> Ints:
    found: Ints = values.astype(np.int64)
    return found


def _days(instants: Ints) -> npt.NDArray[np.datetime64]:
    return (instants // _DAY_US).astype("datetime64[D]")

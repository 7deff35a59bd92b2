"""Columns of values as numpy arrays, exactly: integers, floats, decimals in 32-bit limbs, and for
all else the place of each value among the different ones."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.dtypes import DECIMAL_PRECISION_MAX, TIMESTAMP, DType, Kind, to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]

_LIMB_BITS = 32
_LIMB_MASK = (1 << _LIMB_BITS) - 1
_INT_KINDS = (Kind.BOOL, Kind.INT32, Kind.INT64, Kind.TIMESTAMP, Kind.DATE)
_FLOAT_EXACT_MAX = 1 << 53
_TEN_EXPONENT_MAX = 22
"""Ten to this is the greatest power that a float holds exactly."""
_DECIMAL_END = 10**DECIMAL_PRECISION_MAX


def arrow_type(dtype: DType) -> pa.DataType:
    """The Arrow type of a column within the engine: timestamps have no zone."""
    import pyarrow as pa

    if dtype == TIMESTAMP:
        return pa.timestamp("us")
    if dtype.item is not None:
        return pa.list_(arrow_type(dtype.item))
    if dtype.key is not None and dtype.value is not None:
        return pa.map_(arrow_type(dtype.key), arrow_type(dtype.value))
    return to_arrow(dtype)


class Values:
    """The values of one column, in the order `order` of its rows. NULLs are where `valid` is
    False; what stands there in other arrays is not said."""

    def __init__(self, column: pa.ChunkedArray, dtype: DType, order: Ints) -> None:
        import pyarrow as pa

        self.dtype = dtype
        whole = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
        self._array = whole.cast(arrow_type(dtype))
        self._order = order
        self.valid: Bools | None = None
        if self._array.null_count:
            self.valid = np.asarray(self._array.is_valid())[order]

    @property
    def _is_exact(self) -> bool:
        """Whether one int64 holds each value."""
        return self.dtype.kind in _INT_KINDS or (
            self.dtype.kind is Kind.DECIMAL and self._narrow is not None
        )

    # --- numbers ----------------------------------------------------------------------------------

    @cached_property
    def _words(self) -> Ints:
        """Decimals as two words each, the lower first."""
        array = self._array
        raw = np.frombuffer(array.buffers()[1], dtype=np.int64)
        return raw[2 * array.offset : 2 * (array.offset + len(array))].reshape(-1, 2)

    @cached_property
    def _narrow(self) -> Ints | None:
        """Decimals in units of their last digit, where all fit into 64 bits."""
        low, high = self._words[:, 0], self._words[:, 1]
        wide = high != low >> 63
        if self._array.null_count:
            wide &= np.asarray(self._array.is_valid())
        return None if wide.any() else low

    @cached_property
    def integers(self) -> Ints:
        """Integers, times and narrow decimals."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.dtype.kind is Kind.DECIMAL:
            assert self._narrow is not None  # noqa: S101 - callers have asked
            return self._narrow[self._order]
        array = self._array
        if self.dtype.kind is Kind.BOOL:
            array = array.cast(pa.int8())
        if self.dtype.kind is Kind.DATE:
            array = array.cast(pa.int32())
        filled = pc.fill_null(array.cast(pa.int64()), 0)
        return np.asarray(filled)[self._order]

    @cached_property
    def floats(self) -> npt.NDArray[np.float64]:
        """The values as floats, as Python's `float` rounds them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.dtype.is_float:
            filled = pc.fill_null(self._array.cast(pa.float64()), 0.0)
            return np.asarray(filled)[self._order]
        scale = self.dtype.scale or 0
        if self._is_exact and (scale == 0 or self._is_short(scale)):
            # One division of two exact floats rounds once, like `float` of a decimal.
            return self.integers.astype(np.float64) / float(10**scale)
        found = np.array([0.0 if v is None else float(v) for v in self._array.to_pylist()])
        return found[self._order]

    def _is_short(self, scale: int) -> bool:
        """Whether floats hold the digits of all decimals, and the power of ten."""
        values = self.integers if self.valid is None else self.integers[self.valid]
        return scale <= _TEN_EXPONENT_MAX and bool((np.abs(values) < _FLOAT_EXACT_MAX).all())

    @cached_property
    def limbs(self) -> list[Ints]:
        """Integers and decimals as Σ limb · 2^(32 i), the last limb with the sign; one limb where
        sums of all of them fit into 64 bits."""
        if self._is_exact:
            values = self.integers
            largest = max(abs(int(values.max())), abs(int(values.min()))) if len(values) else 0
            if largest * max(len(values), 1) < 1 << 62:
                return [values]
            return [values & _LIMB_MASK, values >> _LIMB_BITS]
        words = self._words[self._order]
        low, high = words[:, 0], words[:, 1]
        upper = (low >> _LIMB_BITS) & _LIMB_MASK
        return [low & _LIMB_MASK, upper, high & _LIMB_MASK, high >> _LIMB_BITS]

    # --- order and equality -----------------------------------------------------------------------

    @cached_property
    def distinct(self) -> tuple[pa.Array, Ints]:
        """The different values in ascending order, and for each row the place of its own."""
        import pyarrow.compute as pc

        encoded = self._array.dictionary_encode()
        order = np.asarray(pc.sort_indices(encoded.dictionary))
        places = np.empty(len(order) + 1, dtype=np.int64)
        places[order] = np.arange(len(order))
        places[-1] = 0
        codes = np.asarray(pc.fill_null(encoded.indices.cast("int64"), len(order)))
        return encoded.dictionary.take(_indices(order)), places[codes][self._order]

    @cached_property
    def ranked(self) -> Numbers:
        """Numbers in the order of the values."""
        if self.dtype.is_float:
            return self.floats
        return self.integers if self._is_exact else self.distinct[1]

    def unranked(self, numbers: Numbers, missing: Bools) -> pa.Array:
        """The values of such numbers; NULL where `missing`."""
        import pyarrow as pa

        if self.dtype.is_float:
            return pa.array(numbers, pa.float64(), mask=missing).cast(arrow_type(self.dtype))
        if self.dtype.kind is Kind.DECIMAL and self._is_exact:
            return decimals(numbers, numbers >> 63, missing, self.dtype)
        if not self._is_exact:
            return self.distinct[0].take(pa.array(numbers, pa.int64(), mask=missing))
        array = pa.array(numbers, pa.int64(), mask=missing)
        if self.dtype.kind is Kind.DATE:
            array = array.cast(pa.int32())
        return array.cast(arrow_type(self.dtype))

    def take(self, index: Ints, missing: Bools) -> pa.Array:
        """The values of rows `index` (in `order`); NULL where `missing`."""
        import pyarrow as pa

        return self._array.take(pa.array(self._order[index], pa.int64(), mask=missing))


def _indices(order: Ints) -> pa.Array:
    import pyarrow as pa

    return pa.array(order, pa.int64())


# --- sums -----------------------------------------------------------------------------------------


def carried(limbs: list[Ints]) -> list[Ints]:
    """The same numbers with all limbs but the last from 0 to 2^32 − 1."""
    if len(limbs) == 1:
        return limbs
    found, carry = [], np.zeros_like(limbs[0])
    for limb in limbs[:-1]:
        whole = limb + carry
        found.append(whole & _LIMB_MASK)
        carry = whole >> _LIMB_BITS
    return [*found, limbs[-1] + carry]


def as_int64(limbs: list[Ints]) -> tuple[Ints, Bools]:
    """Carried limbs as int64, and where they do not fit."""
    if len(limbs) == 1:
        return limbs[0], np.zeros(len(limbs[0]), dtype=bool)
    value = (limbs[1] << _LIMB_BITS) | limbs[0]
    sign = value >> 63
    misfit = np.zeros(len(value), dtype=bool)
    if len(limbs) == 2:
        misfit = (limbs[1] < -(1 << 31)) | (limbs[1] >= 1 << 31)
    for limb in limbs[2:-1]:
        misfit |= limb != sign & _LIMB_MASK
    if len(limbs) > 2:
        misfit |= limbs[-1] != sign
    return value, misfit


def python_ints(limbs: list[Ints], index: Ints) -> list[int]:
    """The numbers at `index`, of any size."""
    parts = [limb[index].tolist() for limb in limbs]
    return [
        sum(part << (_LIMB_BITS * place) for place, part in enumerate(row))
        for row in zip(*parts, strict=True)
    ]


def decimal_sums(limbs: list[Ints], missing: Bools, dtype: DType) -> pa.Array:
    """Carried limbs as decimals; NULL where `missing` or beyond 38 digits."""
    if len(limbs) == 1:
        return decimals(limbs[0], limbs[0] >> 63, missing, dtype)
    if len(limbs) == 2:
        limbs = [limbs[0], limbs[1] & _LIMB_MASK, (limbs[1] >> 32) & _LIMB_MASK, limbs[1] >> 63]
    low = (limbs[1] << _LIMB_BITS) | limbs[0]
    high = (limbs[3] << _LIMB_BITS) | limbs[2]
    doubtful = np.flatnonzero(np.abs(limbs[3]) >= (_DECIMAL_END >> 96) - 1)
    beyond = [abs(whole) >= _DECIMAL_END for whole in python_ints(limbs, doubtful)]
    missing = missing.copy()
    missing[doubtful] |= np.array(beyond, dtype=bool)
    return decimals(low, high, missing, dtype)


def decimals(low: Ints, high: Ints, missing: Bools, dtype: DType) -> pa.Array:
    """Decimals from their two words."""
    import pyarrow as pa

    words = np.empty((len(low), 2), dtype=np.int64)
    words[:, 0], words[:, 1] = low, high
    words[missing] = 0
    valid = pa.array(~missing).buffers()[1] if missing.any() else None
    return pa.Array.from_buffers(arrow_type(dtype), len(low), [valid, pa.py_buffer(words)])

"""Digests of rows that do not depend on their order.

Each row has a hash of 128 bits: the sum of its columns' hashes (`row_hash`; each column has a seed
of its own) sent through a bijection. The digest is the **sum of all rows' hashes modulo 2^128**,
with their number and the columns' names. A sum does not know in which order, batches, row groups or
threads the rows came, and unlike an XOR it counts repetitions.

How sure: take the row hash for a random function. Two different collections of rows then have one
digest with a probability of at most d / 2^128, where d is the greatest power of two that divides
the difference of every row's number of copies (mostly 1, never more than the number of rows): below
1e-28 for any 10^10 rows. That is protection against accidents, bugs and bad disks; somebody who is
free to choose billions of rows could find two collections, as for every hash that adds up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from featurestore.fingerprint import fingerprint
from featurestore.jobs.row_hash import finished, hashes

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    See = Callable[[int, pa.Array, npt.NDArray[np.uint64]], None]

DIGEST_FORM = "rows1"
"""Names the construction; another one would have another name."""
SLICE_ROWS = 16_384
"""Rows that are hashed at a time: a column of them stays in the processor's cache."""
_MODULUS = 1 << 128
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


class RowDigest:
    """The digest of rows of `schema`, and of their first `head` columns by themselves."""

    def __init__(self, schema: pa.Schema, *, head: int = 0) -> None:
        self._names = list(schema.names)
        self._head = head
        self._sums = [0, 0]
        self.rows = 0

    def add(self, batch: pa.RecordBatch, see: See | None = None) -> None:
        """Count the rows of a batch. `see` is shown each column's part of it (its number, its
        values, a hash of each). Raises `InvalidEntityFrame` for a type that has no digest."""
        for start in range(0, batch.num_rows, SLICE_ROWS):
            self._add(batch.slice(start, SLICE_ROWS), see)

    def _add(self, batch: pa.RecordBatch, see: See | None) -> None:
        first = np.zeros(batch.num_rows, np.uint64)
        second = np.zeros(batch.num_rows, np.uint64)
        for number, (name, column) in enumerate(zip(self._names, batch.columns, strict=True)):
            if number == self._head:
                self._sums[0] += _total(*finished(first, second))
            a, b = hashes(column, name)
            first += a
            second += b
            if see is not None:
                see(number, column, a)
        if self._head == len(self._names):
            self._sums[0] += _total(*finished(first, second))
        self._sums[1] += _total(*finished(first, second))
        self.rows += batch.num_rows

    def head_digest(self) -> str:
        """Of the first `head` columns."""
        return _text(self._names[: self._head], self.rows, self._sums[0])

    def digest(self) -> str:
        """`rows1:` and 32 hex digits."""
        return _text(self._names, self.rows, self._sums[1])


def row_lanes(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """64 bits of each row's hash."""
    first = np.zeros(batch.num_rows, np.uint64)
    second = np.zeros(batch.num_rows, np.uint64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        a, b = hashes(column, name)
        first += a
        second += b
    return finished(first, second)[0]


def _total(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> int:
    """The sum of 128-bit numbers; halves of 32 bits can't overflow within a slice."""
    return (_sum(high) << 64) + _sum(low)


def _sum(lane: npt.NDArray[np.uint64]) -> int:
    return (int((lane >> _SHIFT).sum()) << 32) + int((lane & _LOW).sum())


def _text(names: list[str], rows: int, total: int) -> str:
    digest = fingerprint([DIGEST_FORM, names, rows, f"{total % _MODULUS:032x}"])
    return f"{DIGEST_FORM}:{digest[:32]}"

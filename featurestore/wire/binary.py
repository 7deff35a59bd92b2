"""Columns of byte strings, built and joined without a loop over rows.

The one currency is Arrow's `large_binary` (64-bit offsets), so that no batch can overflow them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

VARINT_BYTES_MAX = 5
"""A length fits in 35 bits: Protobuf messages end at 2 GB."""

Bytes2D = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


def ragged(offsets: Counts, data: Any) -> pa.LargeBinaryArray:
    """Element i is `data[offsets[i]:offsets[i + 1]]`; `data` is anything with a buffer."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def fixed(data: Bytes2D) -> pa.LargeBinaryArray:
    """Element i is row i of a two-dimensional array of bytes."""
    count, width = data.shape
    offsets = np.arange(count + 1, dtype=np.int64) * width
    return ragged(offsets, np.ascontiguousarray(data))


def leading(data: Bytes2D, widths: Counts) -> pa.LargeBinaryArray:
    """Element i is the first `widths[i]` bytes of row i."""
    kept = np.arange(data.shape[1]) < widths[:, None]
    return ragged(starts(widths), data[kept])


def starts(lengths: Counts) -> Counts:
    """Offsets of elements that have these lengths: one more than there are elements."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def constant(value: bytes, count: int) -> pa.LargeBinaryArray:
    """`count` times the same bytes."""
    return fixed(np.tile(np.frombuffer(value, dtype=np.uint8), (count, 1)))


def join(*parts: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    """Element i is the concatenation of the parts' elements i; NULL counts as empty."""
    separator = pa.scalar(b"", pa.large_binary())
    return pc.binary_join_element_wise(*parts, separator, null_handling="replace")


def lengths_of(column: pa.LargeBinaryArray) -> Counts:
    """The length of each element in bytes; 0 for NULL."""
    lengths = pc.binary_length(column)
    if lengths.null_count:
        lengths = lengths.fill_null(0)
    found: Counts = lengths.to_numpy(zero_copy_only=False)
    return found


def length_headers(tag: int, lengths: Counts, *, omit_zero: bool = False) -> pa.LargeBinaryArray:
    """Protobuf's field head: the tag byte, then the length as a varint; nothing for a length of 0
    with `omit_zero`."""
    count = len(lengths)
    if count and not omit_zero and int(lengths.max()) < 128:
        short = np.empty((count, 2), dtype=np.uint8)
        short[:, 0] = tag
        short[:, 1] = lengths
        return fixed(short)
    digits = np.arange(VARINT_BYTES_MAX, dtype=np.int64)
    wide = np.empty((count, 1 + VARINT_BYTES_MAX), dtype=np.uint8)
    wide[:, 0] = tag
    widths = 1 + (lengths[:, None] >= (1 << (7 * digits[1:]))).sum(axis=1)
    wide[:, 1:] = (lengths[:, None] >> (7 * digits)) & 0x7F
    wide[:, 1:] |= np.where(digits < widths[:, None] - 1, 0x80, 0).astype(np.uint8)
    return leading(wide, np.where((lengths == 0) & omit_zero, 0, 1 + widths))


def offsets_of(column: pa.Array) -> Counts:
    """The offsets of a `large_binary` array, also of a slice of one."""
    if not len(column):
        return np.zeros(1, dtype=np.int64)
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)
    return offsets[column.offset : column.offset + len(column) + 1]


def to_list(column: pa.LargeBinaryArray) -> list[bytes]:
    """The elements as `bytes`; NULL is empty."""
    if not len(column):
        return []
    offsets = offsets_of(column)
    data = column.buffers()[2]
    base, end = int(offsets[0]), int(offsets[-1])
    whole = data.slice(base, end - base).to_pybytes() if data else b""
    return [whole[start:stop] for start, stop in pairwise((offsets - base).tolist())]

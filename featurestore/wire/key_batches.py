"""Store keys of whole columns, without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from featurestore.errors import InvalidJoinKey
from featurestore.wire import binary


def encode_keys(columns: Sequence[Any], prefix: bytes) -> list[bytes]:
    """See `featurestore.wire.keys.encode_keys`."""
    if not columns:
        return [prefix]
    count = len(columns[0])
    if any(len(column) != count for column in columns):
        raise ValueError("key columns must have one length")
    parts = [binary.constant(prefix, count)]
    for place, column in enumerate(columns):
        parts += _parts(column, f"#{place + 1}", measured=place < len(columns) - 1)
    return binary.to_list(binary.join(*parts))


def _parts(column: Any, name: str, *, measured: bool) -> list[pa.LargeBinaryArray]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InvalidJoinKey(name, f"row {row:,} of the batch is NULL, and a key may not be")
    if types.is_integer(column.type):
        return [_integers(column, name)]
    if not _is_text_or_bytes(column.type):
        raise InvalidJoinKey(name, f"a column of {column.type} is not int64, string or bytes")
    values = column.cast(pa.large_binary())
    if not measured:
        return [values]
    lengths = binary.lengths_of(values).astype(">u4")
    return [binary.fixed(lengths.view(np.uint8).reshape(-1, 4)), values]


def _integers(column: pa.Array, name: str) -> pa.LargeBinaryArray:
    try:
        values = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise InvalidJoinKey(name, str(error)) from None
    ordered = (values.view(np.uint64) ^ np.uint64(1 << 63)).astype(">u8")
    return binary.fixed(ordered.view(np.uint8).reshape(-1, 8))


def _is_text_or_bytes(kind: pa.DataType) -> bool:
    checks = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
        types.is_fixed_size_binary,
    )
    return any(check(kind) for check in checks)

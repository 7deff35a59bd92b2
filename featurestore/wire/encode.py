"""The row encoder: Arrow columns in, protobuf bytes out, no loop over rows.

The fixed part of all rows is one block of memory, filled column by column through a packed numpy
dtype; blobs are joined on by Arrow. There is no other encoder, so equal values are equal bytes and
"written already" is a comparison of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.dtypes import DType, Kind, to_arrow
from featurestore.errors import InvalidValue
from featurestore.timeline import DAY_US, INSTANT_US_MAX, INSTANT_US_MIN
from featurestore.wire import binary
from featurestore.wire.layout import (
    BLOB,
    CREATED_TIME,
    DELETED,
    EVENT_TIME,
    HEAD,
    VIEW_TAG,
    RowLayout,
)

Mask = npt.NDArray[np.bool_]
ROWS_PER_BLOCK = 8_192
"""Rows that are filled at once: a block stays in the processor's cache while its columns, which
lie far apart, are written one after the other."""

# Field tags of ListValue, DecimalValue and MapValue.
_LENGTH, _ITEM_NULLS, _DOUBLES, _INTEGERS, _BLOBS = 0x08, 0x12, 0x1A, 0x22, 0x2A
_UNSCALED = 0x0A
_KEYS, _MAPPED = 0x0A, 0x12

_TOMBSTONE = np.dtype(
    [
        ("t1", "S1"),
        ("event", "<i8"),
        ("t2", "S1"),
        ("created", "<i8"),
        ("t3", "S1"),
        ("tag", "<u4"),
        ("deleted", "V2"),
    ]
)


def encode_rows(
    layout: RowLayout, event_us: Any, created_us: Any, columns: Sequence[Any], deleted: Any = None
) -> list[bytes]:
    """See `featurestore.wire.rows.encode_rows`."""
    events, created = _instants(event_us), _instants(created_us)
    if not len(columns) == len(layout.features):
        raise ValueError(f"{len(layout.features)} columns expected, {len(columns)} given")
    if any(len(part) != len(events) for part in (created, *columns)):
        raise ValueError("the columns and times of a batch must have one length")
    rows = _live_rows(layout, events, created, columns)
    if deleted is not None:
        gone = np.flatnonzero(_booleans(deleted))
        for index, row in zip(gone, _tombstones(layout, events[gone], created[gone]), strict=True):
            rows[index] = row
    return rows


def _live_rows(
    layout: RowLayout,
    events: binary.Counts,
    created: binary.Counts,
    columns: Sequence[Any],
) -> list[bytes]:
    count, width = len(events), layout.fixed_bytes
    values: dict[int, Any] = {}
    nulls: dict[int, Mask] = {}
    for index, ((name, dtype), column) in enumerate(zip(layout.features, columns, strict=True)):
        given = conform(column, dtype, name)
        values[index], missing = _VALUES[dtype.slot](given, dtype, name)
        if missing is not None:
            nulls[index] = missing
    block = np.empty((count, width), dtype=np.uint8)
    block[:] = np.frombuffer(layout.template, dtype=np.uint8)
    named = block.view(fixed_dtype(layout)).reshape(count)
    for start in range(0, count, ROWS_PER_BLOCK):
        part = slice(start, start + ROWS_PER_BLOCK)
        rows = named[part]
        rows["event"], rows["created"] = events[part], created[part]
        for slot, index in enumerate(layout.doubles):
            rows["doubles"][:, slot] = values[index][part]
        for slot, index in enumerate(layout.integers):
            rows["integers"][:, slot] = values[index][part]
        for index, missing in nulls.items():
            rows["nulls"][:, index // 8] |= missing[part].astype(np.uint8) << (index % 8)
    if not layout.blobs:
        whole: list[bytes] = block.view(f"V{width}").reshape(count).tolist()
        return whole
    parts = [binary.fixed(block)]
    for index in layout.blobs:
        parts += [binary.length_headers(BLOB, binary.lengths_of(values[index])), values[index]]
    return binary.to_list(binary.join(*parts))


def fixed_dtype(layout: RowLayout) -> np.dtype[Any]:
    """Names for what varies in the fixed part; the constant bytes between stay untouched."""
    nulls, doubles, integers = layout.offsets
    fields = (
        ("event", "<i8", 1, 1),
        ("created", "<i8", 1, 10),
        ("nulls", "u1", layout.null_bytes, nulls),
        ("doubles", "<f8", len(layout.doubles), doubles),
        ("integers", "<i8", len(layout.integers), integers),
    )
    present = [field for field in fields if field[2]]
    return np.dtype(
        {
            "names": [name for name, _, _, _ in present],
            "formats": [
                kind if at < HEAD.size else (kind, (width,)) for _, kind, width, at in present
            ],
            "offsets": [at for _, _, _, at in present],
            "itemsize": layout.fixed_bytes,
        }
    )


def _tombstones(layout: RowLayout, events: binary.Counts, created: binary.Counts) -> list[bytes]:
    rows = np.empty(len(events), dtype=_TOMBSTONE)
    rows["t1"], rows["t2"], rows["t3"] = EVENT_TIME, CREATED_TIME, VIEW_TAG
    rows["event"], rows["created"], rows["tag"] = events, created, layout.tag
    rows["deleted"] = np.void(DELETED)
    encoded: list[bytes] = rows.view(f"V{_TOMBSTONE.itemsize}").tolist()
    return encoded


# --- columns --------------------------------------------------------------------------------------


def conform(column: Any, dtype: DType, name: str) -> pa.Array:
    """`column` as one array of exactly the type's Arrow type.

    Raises `InvalidValue` where a value would not survive.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    wanted = to_arrow(dtype)
    if column.type == wanted:
        return column
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidValue(
            f"feature {name!r} is {dtype}, and its values are not: {error}"
        ) from None


def _doubles(column: pa.Array, _: DType, __: str) -> tuple[npt.NDArray[np.float64], Mask | None]:
    """Values with 0 for NULL, and the NULLs; NaN is NULL, and -0.0 is 0.0."""
    missing = _missing(column)
    wide = column.cast(pa.float64())
    if missing is not None:
        wide = wide.fill_null(0.0)
    values = wide.to_numpy(zero_copy_only=False) + 0.0
    nan = np.isnan(values)
    if nan.any():
        values[nan] = 0.0
        missing = nan if missing is None else missing | nan
    return values, missing


def _integers(
    column: pa.Array, dtype: DType, name: str
) -> tuple[npt.NDArray[np.int64], Mask | None]:
    missing = _missing(column)
    narrow = column.cast(pa.int32()) if dtype.kind is Kind.DATE else column
    wide = narrow.cast(pa.int64())
    if missing is not None:
        wide = wide.fill_null(0)
    values = wide.to_numpy(zero_copy_only=False)
    if dtype.kind in (Kind.DATE, Kind.TIMESTAMP):
        _check_years(values, DAY_US if dtype.kind is Kind.DATE else 1, name)
    return values, missing


def _check_years(values: npt.NDArray[np.int64], unit_us: int, name: str) -> None:
    low, high = INSTANT_US_MIN // unit_us, INSTANT_US_MAX // unit_us
    wrong = (values < low) | (values > high)
    if wrong.any():
        raise InvalidValue(
            f"feature {name!r}, row {int(np.argmax(wrong)):,} of the batch: "
            "the time lies outside the years 1 to 9999"
        )


def _blobs(column: pa.Array, dtype: DType, name: str) -> tuple[pa.LargeBinaryArray, Mask | None]:
    missing = _missing(column)
    if dtype.kind is Kind.DECIMAL:
        blobs = _decimals(column)
    elif dtype.item is not None:
        blobs = _lists(column.values, np.asarray(column.offsets), dtype.item, name)
    elif dtype.key is not None and dtype.value is not None:
        blobs = _maps(column, dtype.key, dtype.value, name)
    else:
        return column.cast(pa.large_binary()), missing
    if missing is not None:
        blobs = pa.compute.if_else(pa.array(missing), pa.scalar(b"", pa.large_binary()), blobs)
    return blobs, missing


_VALUES: dict[str, Any] = {"doubles": _doubles, "integers": _integers, "blobs": _blobs}


def _missing(column: pa.Array) -> Mask | None:
    if not column.null_count:
        return None
    mask: Mask = column.is_null().to_numpy(zero_copy_only=False)
    return mask


def _decimals(column: pa.Array) -> pa.LargeBinaryArray:
    """`DecimalValue`s: the unscaled value in as few bytes as keep its sign, at least one."""
    count = len(column)
    raw = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, 16)
    unscaled = raw[column.offset : column.offset + count]
    magnitude = unscaled ^ np.where(unscaled[:, 15:] & 0x80, 0xFF, 0).astype(np.uint8)
    used = np.where(magnitude != 0, np.arange(1, 17), 0).max(axis=1, initial=0)
    top = np.take_along_axis(magnitude, np.maximum(used - 1, 0)[:, None], axis=1)[:, 0]
    widths = np.maximum(used + (top >= 0x80), 1)
    message = np.empty((count, 18), dtype=np.uint8)
    message[:, 0], message[:, 1], message[:, 2:] = _UNSCALED, widths, unscaled
    return binary.leading(message, widths + 2)


def _maps(column: pa.MapArray, key: DType, value: DType, name: str) -> pa.LargeBinaryArray:
    """`MapValue`s. Entries come in the order of their keys, as `Buckets` and engines yield them."""
    offsets = np.asarray(column.offsets)
    keys = _lists(column.keys, offsets, key, name)
    values = _lists(column.items, offsets, value, name)
    return binary.join(
        binary.length_headers(_KEYS, binary.lengths_of(keys)),
        keys,
        binary.length_headers(_MAPPED, binary.lengths_of(values)),
        values,
    )


def _lists(items: pa.Array, offsets: Any, item: DType, name: str) -> pa.LargeBinaryArray:
    """`ListValue`s. The items of all lists lie one after the other in one child array, so that the
    encoded items of a list are one slice of the encoded child."""
    offsets = offsets.astype(np.int64)
    items = items.slice(offsets[0], offsets[-1] - offsets[0])
    offsets = offsets - offsets[0]
    lengths = np.diff(offsets)
    values, missing = _VALUES[item.slot](items, item, name)
    if item.slot == "blobs":
        headed = binary.join(binary.length_headers(_BLOBS, binary.lengths_of(values)), values)
        payload = [binary.ragged(binary.offsets_of(headed)[offsets], headed.buffers()[2] or b"")]
    else:
        tag = _DOUBLES if item.slot == "doubles" else _INTEGERS
        payload = [
            binary.length_headers(tag, 8 * lengths, omit_zero=True),
            binary.ragged(8 * offsets, np.ascontiguousarray(values)),
        ]
    return binary.join(
        binary.length_headers(_LENGTH, lengths, omit_zero=True),
        *([] if missing is None else _item_nulls(missing, offsets, lengths)),
        *payload,
    )


def _item_nulls(
    missing: Mask, offsets: binary.Counts, lengths: binary.Counts
) -> list[pa.LargeBinaryArray]:
    """`ListValue.nulls`, only for lists that have NULL items: one bit per item."""
    at = np.flatnonzero(missing)
    owner = np.searchsorted(offsets, at, side="right") - 1
    concerned = np.zeros(len(lengths), dtype=bool)
    concerned[owner] = True
    sizes = np.where(concerned, (lengths + 7) // 8, 0)
    begin = binary.starts(sizes)
    bits = np.zeros(int(begin[-1]), dtype=np.uint8)
    position = at - offsets[owner]
    np.bitwise_or.at(bits, begin[owner] + position // 8, (1 << (position % 8)).astype(np.uint8))
    headers = binary.length_headers(_ITEM_NULLS, sizes, omit_zero=True)
    return [headers, binary.ragged(begin, bits)]


def _instants(values: Any) -> binary.Counts:
    """Instants as int64 µs, from numpy, Arrow (int64 or timestamp[us]) or a sequence of ints."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", tz=values.type.tz))
        values = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    found = np.asarray(values)
    if len(found) and found.dtype.kind not in "iu":
        raise ValueError("times must be whole microseconds without NULLs")
    return found.astype(np.int64, copy=False)


def _booleans(values: Any) -> Mask:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        values = values.fill_null(False).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=bool)

"""Some values of a row, as rows carry them: what on-demand views read.

Timestamps stay int µs and dates int days, and what is not asked for is not decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from featurestore.dtypes import DType, Kind, map_of
from featurestore.wire.decode import MALFORMED, blob_bounds, converter, set_bits
from featurestore.wire.layout import HEAD, RowLayout

Pick = Callable[[bytes], Sequence[Any]]
_CARRIED_AS_INTS = (Kind.TIMESTAMP, Kind.DATE)
_INT64 = DType(Kind.INT64)


def row_picker(layout: RowLayout, indices: Sequence[int]) -> Pick:
    """A function from a row that is no tombstone to the values of the features at `indices`, in
    that order; None is NULL. It raises `CorruptRow` for bytes that are no row of `layout`."""
    chosen = tuple(indices)
    fixed = _struct(layout, set(chosen))
    unpack, size = fixed.unpack_from, layout.fixed_bytes
    order = [i for i in (*layout.doubles, *layout.integers) if i in chosen]
    place = {owner: 1 + number for number, owner in enumerate(order)}
    slot = {owner: number for number, owner in enumerate(layout.blobs)}
    fields = [(place.get(i, -1), slot.get(i, -1), _carried(layout.features[i][1])) for i in chosen]
    plain = all(at > 0 and convert is None for at, _, convert in fields)
    first, last = (fields[0][0], fields[-1][0] + 1) if fields else (1, 1)
    in_order = plain and [at for at, _, _ in fields] == list(range(first, last))
    no_nulls, blobs, corrupt = bytes(layout.null_bytes), len(layout.blobs), layout.corrupt
    with_blobs = any(at < 0 for at, _, _ in fields)

    def pick(row: bytes) -> Sequence[Any]:
        if len(row) < size or (not blobs and len(row) != size):
            raise corrupt(row)
        raw = unpack(row, HEAD.size)
        if in_order and raw[0] == no_nulls:
            return raw[first:last]
        missing = set(set_bits(raw[0])) if raw[0] != no_nulls else ()
        try:
            bounds = blob_bounds(row, size, blobs) if with_blobs else ()
            values: list[Any] = []
            for index, (at, number, convert) in zip(chosen, fields, strict=True):
                if index in missing:
                    values.append(None)
                    continue
                value = raw[at] if at > 0 else row[bounds[number][1] : bounds[number][2]]
                values.append(value if convert is None else convert(value))
        except MALFORMED as error:
            raise corrupt(row, str(error)) from error
        return values

    return pick


def _struct(layout: RowLayout, wanted: set[int]) -> struct.Struct:
    """What follows the head: the nulls, and the wanted ones of the numbers."""
    nulls, doubles, integers = layout.heads
    form = f"<{len(nulls)}x{layout.null_bytes}s{len(doubles)}x"
    form += "".join("d" if i in wanted else "8x" for i in layout.doubles)
    form += f"{len(integers)}x"
    form += "".join("q" if i in wanted else "8x" for i in layout.integers)
    return struct.Struct(form)


def _carried(dtype: DType) -> Callable[[Any], Any] | None:
    if dtype.kind in _CARRIED_AS_INTS:
        return None
    return converter(_as_carried(dtype))


def _as_carried(dtype: DType) -> DType:
    """The type with int64 for all that is carried as an int."""
    if dtype.item is not None:
        return DType(Kind.LIST, item=_as_carried(dtype.item))
    if dtype.key is not None and dtype.value is not None:
        return map_of(dtype.key, _as_carried(dtype.value))
    return _INT64 if dtype.kind in _CARRIED_AS_INTS else dtype

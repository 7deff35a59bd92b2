"""Row decoders, compiled once per layout: one `struct`, one `itemgetter`, no name look-ups.

A decoder checks every constant byte of a row, so bytes that another version (or another program)
wrote raise `CorruptRow` and never pass as values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from functools import partial
from operator import itemgetter
from typing import Any, assert_never

from google.protobuf.message import DecodeError

from featurestore.dtypes import DECIMAL_PRECISION_MAX, DType, Kind
from featurestore.wire.layout import (
    BLOB,
    CREATED_TIME,
    DELETED,
    EVENT_TIME,
    HEAD,
    TOMBSTONE_BYTES,
    VIEW_TAG,
    RowLayout,
)
from featurestore.wire.row_pb2 import ListValue, MapValue

Decoded = tuple[list[Any], int, int, bool]
Convert = Callable[[Any], Any]

MALFORMED = (ValueError, OverflowError, IndexError, DecodeError)
"""What reading bytes that are no row can raise; becomes `CorruptRow`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EXACT = Context(prec=2 * DECIMAL_PRECISION_MAX)
_UNSCALED = 0x0A


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to take a row's fixed part apart with one `struct`.

    `constants_at` are the places (in the unpacked tuple) of the bytes that must be `constants`,
    `nulls_at` that of the null bits, `places[i]` that of feature i; blobs follow the fixed part.
    """

    fixed: struct.Struct
    constants_at: tuple[int, ...]
    constants: tuple[bytes | int, ...]
    nulls_at: int
    places: tuple[int, ...]


def _plan(layout: RowLayout, double: str = "d", integer: str = "q") -> _Plan:
    form, count = "<1sq1sq1sI", 6
    constants_at, places = [0, 2, 4, 5], {}
    nulls, doubles, integers = layout.heads
    nulls_at = count + 1
    if nulls:
        constants_at.append(count)
        form, count = f"{form}{len(nulls)}s{layout.null_bytes}s", count + 2
    slots = ((doubles, layout.doubles, double), (integers, layout.integers, integer))
    for head, owners, code in slots:
        if head:
            constants_at.append(count)
            places.update({owner: count + 1 + slot for slot, owner in enumerate(owners)})
            form, count = f"{form}{len(head)}s{code * len(owners)}", count + 1 + len(owners)
    places.update({owner: count + slot for slot, owner in enumerate(layout.blobs)})
    return _Plan(
        struct.Struct(form),
        tuple(constants_at),
        (EVENT_TIME, CREATED_TIME, VIEW_TAG, layout.tag, *(h for h in layout.heads if h)),
        nulls_at,
        tuple(places[i] for i in range(len(layout.features))),
    )


def row_decoder(layout: RowLayout) -> Callable[[bytes], Decoded]:
    """See `featurestore.wire.rows.row_decoder`."""
    plan = _plan(layout)
    unpack, size = plan.fixed.unpack_from, plan.fixed.size
    constants_of, constants, nulls_at = (
        itemgetter(*plan.constants_at),
        plan.constants,
        plan.nulls_at,
    )
    pick = _picker(plan.places)
    features, blobs = len(layout.features), len(layout.blobs)
    converts = [(i, converter(dtype)) for i, (_, dtype) in enumerate(layout.features)]
    converters = [(i, convert) for i, convert in converts if convert is not None]
    no_nulls, corrupt = bytes(layout.null_bytes), layout.corrupt

    def decode(row: bytes) -> Decoded:
        if len(row) == TOMBSTONE_BYTES and is_tombstone(row):
            return [None] * features, *_checked_times(layout, row), True
        if len(row) < size:
            raise corrupt(row)
        raw = unpack(row)
        if constants_of(raw) != constants:
            raise corrupt(row)
        try:
            if blobs:
                raw += tuple(_blobs(row, size, blobs))
            elif len(row) != size:
                raise ValueError("bytes follow its end")
            values = list(pick(raw))
            if features and raw[nulls_at] != no_nulls:
                missing = set(set_bits(raw[nulls_at]))
                for i in missing:
                    values[i] = None
                for i, convert in converters:
                    if i not in missing:
                        values[i] = convert(values[i])
            else:
                for i, convert in converters:
                    values[i] = convert(values[i])
        except MALFORMED as error:
            raise corrupt(row, str(error)) from error
        return values, raw[1], raw[3], False

    return decode


def subset_encoder(layout: RowLayout, indices: Sequence[int]) -> Callable[[bytes], bytes]:
    """See `featurestore.wire.rows.subset_encoder`."""
    chosen = tuple(indices)
    wanted = layout.subset(chosen)
    # Values travel as the 8 bytes that they are: no NaN payload or rounding can change on the way.
    plan, target = _plan(layout, "8s", "8s"), _plan(wanted, "8s", "8s")
    unpack, size, pack = plan.fixed.unpack_from, plan.fixed.size, target.fixed.pack
    constants_of, constants, nulls_at = (
        itemgetter(*plan.constants_at),
        plan.constants,
        plan.nulls_at,
    )
    doubles = _picker([plan.places[chosen[i]] for i in wanted.doubles])
    integers = _picker([plan.places[chosen[i]] for i in wanted.integers])
    slot_of = {owner: slot for slot, owner in enumerate(layout.blobs)}
    kept_blobs = [slot_of[chosen[i]] for i in wanted.blobs]
    heads, blobs, width = wanted.heads, len(layout.blobs), wanted.null_bytes
    no_nulls, fewer_nulls = bytes(layout.null_bytes), bytes(width)
    corrupt = layout.corrupt

    def encode(row: bytes) -> bytes:
        if is_tombstone(row):
            _checked_times(layout, row)
            return row
        if len(row) < size:
            raise corrupt(row)
        raw = unpack(row)
        if constants_of(raw) != constants:
            raise corrupt(row)
        nulls = fewer_nulls
        if chosen and raw[nulls_at] != no_nulls:
            bits = int.from_bytes(raw[nulls_at], "little")
            kept = sum((bits >> old & 1) << new for new, old in enumerate(chosen))
            nulls = kept.to_bytes(width, "little")
        values = [*raw[:6]]
        if chosen:
            values += (heads[0], nulls)
        if heads[1]:
            values += (heads[1], *doubles(raw))
        if heads[2]:
            values += (heads[2], *integers(raw))
        try:
            bounds = blob_bounds(row, size, blobs)
        except MALFORMED as error:
            raise corrupt(row, str(error)) from error
        tail = [row[bounds[slot][0] : bounds[slot][2]] for slot in kept_blobs]
        return b"".join((pack(*values), *tail))

    return encode


def is_tombstone(row: bytes) -> bool:
    """Whether the row says that the source deleted its key. (No row with features is as short.)"""
    return len(row) == TOMBSTONE_BYTES and row[HEAD.size :] == DELETED


def _blobs(row: bytes, at: int, count: int) -> list[bytes]:
    """The data of the blobs of which `blob_bounds` gives the bounds."""
    found = []
    for _ in range(count):
        if row[at] != BLOB:
            raise ValueError("a text or list value is missing")
        length = row[at + 1]
        at += 2
        if length >= 0x80:
            length, at = _long_length(row, at - 1)
        found.append(row[at : at + length])
        at += length
    if at != len(row):
        raise ValueError("its length is wrong")
    return found


def blob_bounds(row: bytes, at: int, count: int) -> list[tuple[int, int, int]]:
    """For each of `count` blobs from offset `at` on: where its head, its data and its end are.

    Raises `ValueError` or `IndexError` where the rest of the row is not exactly `count` blobs.
    """
    bounds = []
    for _ in range(count):
        head = at
        if row[head] != BLOB:
            raise ValueError("a text or list value is missing")
        length, at = row[head + 1], head + 2
        if length >= 0x80:
            length, at = _long_length(row, head + 1)
        bounds.append((head, at, at + length))
        at += length
    if at != len(row):
        raise ValueError("its length is wrong")
    return bounds


def _long_length(row: bytes, at: int) -> tuple[int, int]:
    length, shift = 0, 0
    while shift < 35:
        byte = row[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, at
        shift += 7
    raise ValueError("a length has too many bytes")


def set_bits(nulls: bytes) -> Iterator[int]:
    """The positions of the bits that are set, least significant first."""
    bits = int.from_bytes(nulls, "little")
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _checked_times(layout: RowLayout, row: bytes) -> tuple[int, int]:
    one, event_us, two, created_us, three, tag = HEAD.unpack_from(row)
    if (one, two, three, tag) != (EVENT_TIME, CREATED_TIME, VIEW_TAG, layout.tag):
        raise layout.corrupt(row)
    return event_us, created_us


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Like `itemgetter`, and a sequence also for one place or none."""
    if len(places) == 1:
        only = places[0]
        return lambda raw: (raw[only],)
    return itemgetter(*places) if places else lambda _: ()


# --- values ---------------------------------------------------------------------------------------


def converter(dtype: DType) -> Convert | None:
    """How the stored form becomes the Python value; None where it is that already."""
    if dtype.item is not None:
        return _list_converter(dtype.item)
    if dtype.key is not None and dtype.value is not None:
        return _map_converter(dtype.key, dtype.value)
    match dtype.kind:
        case Kind.INT32 | Kind.INT64 | Kind.FLOAT32 | Kind.FLOAT64 | Kind.BYTES:
            return None
        case Kind.BOOL:
            return bool
        case Kind.TIMESTAMP:
            return _timestamp
        case Kind.DATE:
            return _date
        case Kind.STRING:
            return _text
        case Kind.DECIMAL:
            return partial(_decimal, -(dtype.scale or 0))
        case Kind.LIST:
            raise ValueError("a list type without an item type")
        case Kind.MAP:
            raise ValueError("a map type without key and value types")
        case _:
            assert_never(dtype.kind)


def _timestamp(instant_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=instant_us)


def _date(days: int) -> date:
    return date.fromordinal(_EPOCH_DAY + days)


def _text(blob: bytes) -> str:
    return blob.decode("utf-8")


def _decimal(exponent: int, blob: bytes) -> Decimal:
    if not blob:
        return Decimal(0)
    if blob[0] != _UNSCALED or len(blob) != blob[1] + 2:
        raise ValueError("a decimal is malformed")
    return Decimal(int.from_bytes(blob[2:], "little", signed=True)).scaleb(exponent, _EXACT)


def _list_converter(item: DType) -> Convert:
    read = _list_reader(item)
    return lambda blob: read(ListValue.FromString(blob))


def _map_converter(key: DType, value: DType) -> Convert:
    read_keys, read_values = _list_reader(key), _list_reader(value)

    def read(blob: bytes) -> dict[Any, Any]:
        message = MapValue.FromString(blob)
        keys, values = read_keys(message.keys), read_values(message.values)
        found = dict(zip(keys, values, strict=True))
        if len(found) != len(keys) or None in found:
            raise ValueError("a map has a key twice, or NULL")
        return found

    return read


def _list_reader(item: DType) -> Callable[[ListValue], list[Any]]:
    slot, convert = item.slot, converter(item)

    def read(message: ListValue) -> list[Any]:
        items: list[Any] = list(getattr(message, slot))
        if len(items) != message.length:
            raise ValueError("a list has not as many items as it says")
        if convert is not None:
            items = [convert(item) for item in items]
        for i in set_bits(message.nulls):
            items[i] = None
        return items

    return read

"""One row from plain Python values: what the request path makes of computed features.

The bytes are those that `encode_rows` makes of the same values. A function is generated for each
layout, once.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from featurestore.dtypes import DType, Kind
from featurestore.value_bytes import map_types, unscaled
from featurestore.wire.layout import (
    BLOB,
    CREATED_TIME,
    EVENT_TIME,
    VIEW_TAG,
    RowLayout,
    field_head,
)
from featurestore.wire.row_pb2 import DecimalValue, ListValue, MapValue

Encode = Callable[[int, int, Sequence[Any]], bytes]


def row_encoder(layout: RowLayout) -> Encode:
    """A function of event time, created time (µs) and the values in the layout's order: ints (of
    timestamps µs, of dates days), floats, bools, texts, bytes, decimals, lists and dicts of them,
    or None."""
    source, names = _source(layout)
    exec(compile(source, f"<rows of {layout.view}>", "exec"), names)  # noqa: S102 (our own)
    encode: Encode = names["encode"]
    return encode


def _source(layout: RowLayout) -> tuple[str, dict[str, Any]]:
    nulls, doubles, integers = layout.heads
    form = "<1sq1sq1sI"
    constants: list[str] = []
    if nulls:
        form += f"{len(nulls)}s{layout.null_bytes}s"
        constants += ["nulls_head", f"nulls.to_bytes({layout.null_bytes}, 'little')"]
    for slot_head, name, owners, code in (
        (doubles, "doubles_head", layout.doubles, "d"),
        (integers, "integers_head", layout.integers, "q"),
    ):
        if slot_head:
            form += f"{len(slot_head)}s{code * len(owners)}"
            constants += [name, *(f"v{n}" for n in owners)]
    names: dict[str, Any] = {
        "pack": struct.Struct(form).pack,
        "event_tag": EVENT_TIME,
        "created_tag": CREATED_TIME,
        "view_tag": VIEW_TAG,
        "tag": layout.tag,
        "nulls_head": nulls,
        "doubles_head": doubles,
        "integers_head": integers,
    }
    lines = ["def encode(event_us, created_us, values):"]
    if layout.features:
        lines.append(f"    {''.join(f'v{n}, ' for n in range(len(layout.features)))}= values")
    lines.append("    nulls = 0")
    for n, (_, dtype) in enumerate(layout.features):
        zero = {"doubles": "0.0", "integers": "0", "blobs": "EMPTY"}[dtype.slot]
        lines.append(f"    if v{n} is None: nulls |= {1 << n}; v{n} = {zero}")
        if dtype.slot == "doubles":
            # NaN is NULL, and −0.0 is 0.0.
            lines.append(f"    elif v{n} != v{n}: nulls |= {1 << n}; v{n} = 0.0")
            lines.append(f"    else: v{n} += 0.0")
        elif dtype.slot == "blobs":
            names[f"blob{n}"] = _blob_of(dtype)
            lines.append(f"    else: v{n} = blob{n}(v{n})")
    head = "event_tag, event_us, created_tag, created_us, view_tag, tag"
    packed = f"pack({', '.join([head, *constants])})"
    blobs = "".join(f", v{n}" for n in layout.blobs)
    lines.append(f"    return b''.join(({packed}{blobs}))" if blobs else f"    return {packed}")
    names["EMPTY"] = bytes([BLOB, 0])
    return "\n".join(lines), names


def _blob_of(dtype: DType) -> Callable[[Any], bytes]:
    """A function from a value to its field of `Row.blobs`."""
    data = blob_data(dtype)

    def blob(value: Any) -> bytes:
        raw = data(value)
        return field_head(BLOB, len(raw)) + raw if raw else bytes([BLOB, 0])

    return blob


def blob_data(dtype: DType) -> Callable[[Any], bytes]:
    """A function from a value to its bytes in `Row.blobs`."""
    match dtype.kind:
        case Kind.STRING:
            return str.encode
        case Kind.BYTES:
            return bytes
        case Kind.DECIMAL:
            scale = dtype.scale or 0
            return lambda value: _decimal(value, scale)
        case Kind.MAP:
            return _map_of(*map_types(dtype))
        case _:
            if dtype.item is None:
                raise ValueError(f"{dtype} is no blob")
            return _list_of(dtype.item)


def _decimal(value: Decimal, scale: int) -> bytes:
    """The unscaled value in as few bytes as keep its sign, at least one."""
    whole = unscaled(value, scale)
    width = (whole if whole >= 0 else ~whole).bit_length() // 8 + 1
    return DecimalValue(unscaled=whole.to_bytes(width, "little", signed=True)).SerializeToString()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _map_of(key: DType, value: DType) -> Callable[[Any], bytes]:
    keys_of, values_of = _list_message(key), _list_message(value)

    def encode(values: Mapping[Any, Any]) -> bytes:
        keys = sorted(values)
        message = MapValue(keys=keys_of(keys), values=values_of([values[key] for key in keys]))
        return message.SerializeToString()

    return encode


def _list_of(item: DType) -> Callable[[Any], bytes]:
    message_of = _list_message(item)
    return lambda values: message_of(values).SerializeToString()


def _list_message(item: DType) -> Callable[[Sequence[Any]], ListValue]:
    slot = item.slot
    data = blob_data(item) if slot == "blobs" else None
    zero: Any = {"doubles": 0.0, "integers": 0, "blobs": b""}[slot]

    def message_of(values: Sequence[Any]) -> ListValue:
        missing = [n for n, value in enumerate(values) if value is None or _is_nan(value)]
        items = [zero if n in missing else value for n, value in enumerate(values)]
        if data is not None:
            items = [zero if n in missing else data(value) for n, value in enumerate(values)]
        elif slot == "doubles":
            items = [value + 0.0 for value in items]
        else:
            items = list(map(int, items))
        message = ListValue(length=len(items))
        getattr(message, slot).extend(items)
        if missing:
            bits = sum(1 << n for n in missing)
            message.nulls = bits.to_bytes((len(items) + 7) // 8, "little")
        return message

    return message_of

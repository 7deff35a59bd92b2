"""The row codec over random schemas and values, held against protobuf's own code."""

from __future__ import annotations

import contextlib
import math
import struct
from datetime import UTC
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import dtypes
from featurestore.dtypes import DType, Kind, to_arrow
from featurestore.errors import CorruptRow
from featurestore.wire import row_pb2
from featurestore.wire.keys import decode_key
from featurestore.wire.rows import (
    RowLayout,
    decode_columns,
    encode_key,
    encode_keys,
    encode_rows,
    key_encoder,
    row_decoder,
    row_head,
    subset_encoder,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
PLAIN = {
    dtypes.BOOL: st.booleans(),
    dtypes.INT32: st.integers(-(2**31), 2**31 - 1),
    dtypes.INT64: INT64,
    dtypes.FLOAT32: st.floats(width=32, allow_nan=False).map(lambda x: x + 0.0),
    dtypes.FLOAT64: st.floats(allow_nan=False).map(lambda x: x + 0.0),
    dtypes.STRING: st.text(st.characters(exclude_categories=("Cs",)), max_size=200),
    dtypes.BYTES: st.binary(max_size=200),
    dtypes.TIMESTAMP: st.datetimes().map(lambda t: t.replace(tzinfo=UTC)),
    dtypes.DATE: st.dates(),
}


def _decimals(dtype: DType) -> st.SearchStrategy[Decimal]:
    limit = 10 ** (dtype.precision or 0) - 1
    digits = st.integers(-limit, limit)
    return digits.map(lambda n: Decimal((n < 0, _digits(n), -(dtype.scale or 0))))


def _digits(number: int) -> tuple[int, ...]:
    return tuple(int(c) for c in str(abs(number)))


@st.composite
def dtype_strategy(draw: st.DrawFn, depth: int = 2) -> DType:
    kinds = ["plain"] * 6 + ["decimal"] + (["list", "map"] if depth else [])
    match draw(st.sampled_from(kinds)):
        case "decimal":
            precision = draw(st.integers(1, 38))
            scale = draw(st.integers(0, precision))
            return DType(Kind.DECIMAL, precision=precision, scale=scale)
        case "list":
            return DType(Kind.LIST, item=draw(dtype_strategy(depth - 1)))
        case "map":
            key = draw(st.sampled_from([dtypes.STRING, dtypes.INT64, dtypes.BOOL]))
            return dtypes.map_of(key, draw(dtype_strategy(depth - 1)))
        case _:
            return draw(st.sampled_from(list(PLAIN)))


def values_of(dtype: DType) -> st.SearchStrategy[Any]:
    if dtype.item is not None:
        return st.none() | st.lists(values_of(dtype.item), max_size=20)
    if dtype.key is not None and dtype.value is not None:
        entries = st.dictionaries(PLAIN[dtype.key], values_of(dtype.value), max_size=9)
        return st.none() | entries.map(lambda found: dict(sorted(found.items())))
    if dtype.kind is Kind.DECIMAL:
        return st.none() | _decimals(dtype)
    return st.none() | PLAIN[dtype]


@st.composite
def batches(draw: st.DrawFn) -> tuple[RowLayout, list[list[Any]], list[tuple[int, int, bool]]]:
    """A layout, its columns, and (event, created, deleted) per row."""
    kinds = draw(st.lists(dtype_strategy(), max_size=12))
    tag = draw(st.integers(0, 2**32 - 1))
    layout = RowLayout(tuple((f"f{i}", kind) for i, kind in enumerate(kinds)), tag, "view")
    heads = draw(
        st.lists(st.tuples(INT64, INT64, st.sampled_from([False] * 4 + [True])), max_size=5)
    )
    count = len(heads)
    columns = [draw(st.lists(values_of(k), min_size=count, max_size=count)) for k in kinds]
    return layout, columns, heads


def encoded(batch: tuple[RowLayout, list[list[Any]], list[tuple[int, int, bool]]]) -> list[bytes]:
    layout, columns, heads = batch
    arrays = [
        pa.array(values, to_arrow(kind))
        for values, (_, kind) in zip(columns, layout.features, strict=True)
    ]
    events, created, deleted = ([head[i] for head in heads] for i in range(3))
    return encode_rows(layout, events, created, arrays, deleted)


@given(batches())
def test_bytes_are_what_protobuf_itself_writes(batch: Any) -> None:
    layout, _, heads = batch
    for row, (event_us, created_us, deleted) in zip(encoded(batch), heads, strict=True):
        message = row_pb2.Row.FromString(row)
        assert message.SerializeToString() == row
        assert (message.event_time_us, message.created_time_us) == (event_us, created_us)
        assert message.view_tag == layout.tag
        assert message.deleted is deleted
        assert row_head(row) == (event_us, created_us)
        assert struct.unpack_from("<xqxq", row) == (event_us, created_us)
        if not deleted:
            assert len(message.doubles) == len(layout.doubles)
            assert len(message.integers) == len(layout.integers)
            assert len(message.blobs) == len(layout.blobs)


@given(batches())
def test_decoding_gives_back_every_value(batch: Any) -> None:
    layout, columns, heads = batch
    decode = row_decoder(layout)
    for i, row in enumerate(encoded(batch)):
        wanted = [None if heads[i][2] else values[i] for values in columns]
        values, event_us, created_us, deleted = decode(row)
        assert values == wanted
        assert [type(v) for v in values] == [type(v) for v in wanted]
        assert (event_us, created_us, deleted) == heads[i]


@given(batches(), st.data())
def test_columns_are_the_decoded_values(batch: Any, data: st.DataObject) -> None:
    layout, _, _ = batch
    rows: list[bytes | None] = [*encoded(batch)]
    for place in data.draw(st.lists(st.integers(0, len(rows)), max_size=3)):
        rows.insert(place, None)
    decode = row_decoder(layout)
    wanted = [[None] * len(layout.features) if r is None else decode(r)[0] for r in rows]
    columns = decode_columns(layout, rows)
    assert [c.type for c in columns] == [to_arrow(kind) for _, kind in layout.features]
    for i, column in enumerate(columns):
        kind = layout.features[i][1]
        assert [_plain(v, kind) for v in column.to_pylist()] == [values[i] for values in wanted]


@given(batches(), st.data())
def test_a_subset_is_the_row_of_fewer_features(batch: Any, data: st.DataObject) -> None:
    layout, _, _ = batch
    places = st.integers(0, max(0, len(layout.features) - 1))
    indices = data.draw(st.lists(places, unique=True) if layout.features else st.just([]))
    encode, wanted = subset_encoder(layout, indices), layout.subset(tuple(indices))
    full, few = row_decoder(layout), row_decoder(wanted)
    for row in encoded(batch):
        values, *head = full(row)
        smaller = encode(row)
        assert few(smaller) == ([values[i] for i in indices], *head)
        assert row_pb2.Row.FromString(smaller).SerializeToString() == smaller


@settings(max_examples=examples(300))
@given(batches(), st.data())
def test_damaged_rows_are_errors_or_other_values_never_crashes(
    batch: Any, data: st.DataObject
) -> None:
    layout, _, _ = batch
    rows = encoded(batch)
    if not rows:
        return
    row = bytearray(data.draw(st.sampled_from(rows)))
    match data.draw(st.sampled_from(["cut", "flip", "append", "garbage"])):
        case "cut":
            del row[data.draw(st.integers(0, len(row) - 1)) :]
        case "flip":
            row[data.draw(st.integers(0, len(row) - 1))] ^= data.draw(st.integers(1, 255))
        case "append":
            row += data.draw(st.binary(min_size=1, max_size=9))
        case _:
            row = bytearray(data.draw(st.binary(max_size=80)))
    damaged = bytes(row)
    outcomes = [_outcome(lambda: row_decoder(layout)(damaged)[0])]
    outcomes.append(_outcome(lambda: _first_row(layout, damaged)))
    if len(damaged) < min(map(len, rows)):
        assert outcomes[0] is CorruptRow
    # An Arrow column is stricter: it also sees that a number does not fit its type.
    assert outcomes[1] is CorruptRow or _same(outcomes[0], outcomes[1])
    indices = tuple(range(len(layout.features)))
    assert _outcome(lambda: subset_encoder(layout, indices)(damaged)) is not None


def _first_row(layout: RowLayout, row: bytes) -> list[Any]:
    columns = zip(decode_columns(layout, [row]), layout.features, strict=True)
    return [_plain(column[0].as_py(), kind) for column, (_, kind) in columns]


def _plain(value: Any, kind: DType) -> Any:
    """Arrow's maps, lists of pairs, as dicts, at any depth."""
    if value is not None and kind.item is not None:
        return [_plain(item, kind.item) for item in value]
    if value is not None and kind.value is not None:
        return {key: _plain(one, kind.value) for key, one in value}
    return value


def _outcome(call: Any) -> Any:
    try:
        return call()
    except CorruptRow:
        return CorruptRow


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, float) and isinstance(right, float):
        # Damage can put into a float32's slot what only a float64 holds; a column rounds it.
        return bool(left == right or np.float32(left) == np.float32(right))
    return bool(left == right)


KEY_KINDS = {
    dtypes.INT64: INT64,
    dtypes.STRING: PLAIN[dtypes.STRING],
    dtypes.BYTES: st.binary(max_size=20),
}


@st.composite
def key_columns(draw: st.DrawFn) -> tuple[list[DType], list[tuple[Any, ...]]]:
    kinds = draw(st.lists(st.sampled_from(list(KEY_KINDS)), min_size=1, max_size=4))
    rows = draw(st.lists(st.tuples(*(KEY_KINDS[k] for k in kinds)), min_size=1, max_size=8))
    return kinds, rows


@given(key_columns(), st.binary(max_size=10))
def test_keys_one_by_one_and_in_columns_are_the_same(drawn: Any, prefix: bytes) -> None:
    kinds, rows = drawn
    columns = [pa.array([r[i] for r in rows], to_arrow(k)) for i, k in enumerate(kinds)]
    encode = key_encoder(kinds, prefix)
    keys = encode_keys(columns, prefix)
    assert keys == [encode(row) for row in rows] == [encode_key(r, kinds, prefix) for r in rows]
    assert all(key.startswith(prefix) for key in keys)


@given(key_columns(), st.binary(max_size=10), st.binary(max_size=30))
def test_keys_are_decoded_to_their_values(drawn: Any, prefix: bytes, other: bytes) -> None:
    kinds, rows = drawn
    encode = key_encoder(kinds, prefix)
    assert [decode_key(encode(row), kinds, prefix) for row in rows] == [tuple(r) for r in rows]
    with contextlib.suppress(CorruptRow):
        assert encode(decode_key(other, kinds, prefix)) == other


@given(key_columns())
def test_different_keys_are_different_bytes(drawn: Any) -> None:
    kinds, rows = drawn
    encode = key_encoder(kinds, b"fs/p/e/")
    assert len({encode(row) for row in rows}) == len(set(rows))


@given(st.lists(INT64, min_size=2, max_size=2))
def test_integer_keys_sort_as_numbers(pair: list[int]) -> None:
    encode = key_encoder([dtypes.INT64], b"")
    assert sorted(pair) == sorted(pair, key=lambda value: encode((value,)))


@pytest.mark.parametrize("kind", [dtypes.FLOAT32, dtypes.parse("list<float32>")])
def test_float32_is_rounded_once(kind: DType) -> None:
    layout = RowLayout((("f", kind),), 1)
    value: Any = 0.1 if kind is dtypes.FLOAT32 else [0.1]
    rounded = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    wide = pa.float64() if kind is dtypes.FLOAT32 else pa.list_(pa.float64())
    (row,) = encode_rows(layout, [0], [0], [pa.array([value], wide)])
    assert row_decoder(layout)(row)[0] == [rounded if kind is dtypes.FLOAT32 else [rounded]]

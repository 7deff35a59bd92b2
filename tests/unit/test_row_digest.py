"""The row digest knows rows, and nothing of how they are stored."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidEntityFrame
from featurestore.jobs import row_digest
from featurestore.jobs.row_digest import RowDigest

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def digest(table: pa.Table, rows: int = 65_536) -> str:
    found = RowDigest(table.schema)
    for batch in table.to_batches(max_chunksize=rows):
        found.add(batch)
    return found.digest()


def of(values: list[Any], kind: pa.DataType) -> str:
    return digest(pa.table({"x": pa.array(values, kind)}))


COLUMNS: dict[str, tuple[list[Any], pa.DataType]] = {
    "bool": ([True, False, None], pa.bool_()),
    "int8": ([1, -1, None], pa.int8()),
    "uint64": ([1, 2**64 - 1, None], pa.uint64()),
    "float32": ([0.5, float("nan"), None], pa.float32()),
    "float64": ([1.5, float("inf"), None], pa.float64()),
    "half": ([np.float16(0.5), np.float16(2), None], pa.float16()),
    "text": (["", "ß" * 200, None], pa.string()),
    "long": (["x" * 1_000, "x" * 999 + "y", None], pa.large_string()),
    "bytes": ([b"\0", b"\0\0", None], pa.binary()),
    "fixed": ([b"ab", b"cd", None], pa.binary(2)),
    "day": ([date(2024, 1, 1), date(1900, 1, 1), None], pa.date32()),
    "at": ([NOON, NOON + timedelta(seconds=1), None], pa.timestamp("ms", tz="UTC")),
    "time": ([1, 2, None], pa.time64("us")),
    "span": ([1, 2, None], pa.duration("s")),
    "money": ([Decimal("1.10"), Decimal("-2.25"), None], pa.decimal128(10, 2)),
    "wide": ([Decimal("1.1"), Decimal("-2.2"), None], pa.decimal256(40, 1)),
    "list": ([[1, None], [], None], pa.list_(pa.int64())),
    "pair": ([[1, 2], [3, 4], None], pa.list_(pa.int64(), 2)),
    "nested": ([[["a"], []], [None], None], pa.list_(pa.list_(pa.string()))),
    "map": ([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    "struct": ([{"a": 1, "b": "x"}, {"a": None, "b": "x"}, None],
               pa.struct([("a", pa.int64()), ("b", pa.string())])),
    "nothing": ([None, None, None], pa.null()),
}  # fmt: skip


def everything(copies: int = 1) -> pa.Table:
    return pa.table({n: pa.array(v * copies, kind) for n, (v, kind) in COLUMNS.items()})


def test_neither_order_nor_batches_nor_row_groups_matter(tmp_path: Any) -> None:
    table = everything(copies=40)
    order = list(range(table.num_rows))
    random.Random(3).shuffle(order)
    shuffled = table.take(order)
    expected = digest(table)
    assert digest(shuffled) == expected
    for rows in (1, 7, 64):
        assert digest(shuffled, rows) == expected
    without = table.drop_columns(["half", "fixed", "pair", "wide", "nothing"])
    pq.write_table(without.take(order), tmp_path / "rows.parquet", row_group_size=5)
    assert digest(pq.read_table(tmp_path / "rows.parquet")) == digest(without)


def test_slices_of_a_batch_are_hashed_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digest(everything(copies=5))
    monkeypatch.setattr(row_digest, "SLICE_ROWS", 2)
    assert digest(everything(copies=5)) == expected
    assert digest(pa.concat_tables([everything(), everything(copies=4)]).slice(0)) == expected


@pytest.mark.parametrize("name", sorted(set(COLUMNS) - {"nothing"}))
def test_every_value_of_a_type_differs_from_the_others(name: str) -> None:
    values, kind = COLUMNS[name]
    found = {of([value], kind) for value in values}
    assert len(found) == len(values)
    assert of(values, kind) == of(values[::-1], kind)
    assert of([values[0]] * 2, kind) != of([values[0]] * 4, kind)


def test_equal_values_of_different_widths_are_equal() -> None:
    assert of([1, -5], pa.int8()) == of([1, -5], pa.int64())
    assert of([0.5], pa.float32()) == of([0.5], pa.float64())
    assert of(["a"], pa.string()) == of(["a"], pa.large_string()) == of(["a"], pa.string_view())
    encoded = pa.table({"x": pa.array(["a", None, "b", "a"]).dictionary_encode()})
    assert digest(encoded) == of(["a", None, "b", "a"], pa.string())
    assert of([Decimal("1.10")], pa.decimal128(10, 2)) == of([Decimal("1.1")], pa.decimal256(50, 2))
    at = {of([NOON], pa.timestamp(unit, tz="UTC")) for unit in ("s", "ms", "us", "ns")}
    assert at == {of([NOON.replace(tzinfo=None)], pa.timestamp("us"))}
    nanoseconds = pa.array([1_000_000_001], pa.timestamp("ns"))
    assert digest(pa.table({"x": nanoseconds})) != of([1_000_000], pa.timestamp("us"))
    assert of([date(2024, 1, 1)], pa.date32()) == of([date(2024, 1, 1)], pa.date64())


def test_nan_and_zero_are_one_value_and_null_is_none() -> None:
    odd = np.array([0x7FF8000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)
    assert digest(pa.table({"x": odd})) == of([float("nan")] * 2, pa.float64())
    assert of([-0.0], pa.float64()) == of([0.0], pa.float64())
    assert of([float("nan")], pa.float64()) != of([None], pa.float64())
    assert of([""], pa.string()) != of([None], pa.string())
    assert of([[]], pa.list_(pa.int64())) != of([[None]], pa.list_(pa.int64()))


def test_kinds_columns_and_places_in_lists_differ() -> None:
    assert len({of([1], pa.int64()), of([1.0], pa.float64()), of([True], pa.bool_()),
                of(["1"], pa.string()), of([b"1"], pa.binary())}) == 5  # fmt: skip
    lists = pa.list_(pa.int64())
    assert of([[1, 2]], lists) != of([[2, 1]], lists)
    assert of([[1], [2]], lists) != of([[1, 2], []], lists)
    swapped = {"a": [1, 3], "b": [2, 4]}, {"a": [2, 3], "b": [1, 4]}
    assert digest(pa.table(swapped[0])) != digest(pa.table(swapped[1]))
    # The same values in each column, otherwise paired.
    assert digest(pa.table({"a": [1, 2], "b": [1, 2]})) != digest(
        pa.table({"a": [1, 2], "b": [2, 1]})
    )
    maps = pa.map_(pa.string(), pa.int64())
    assert of([[("a", 1), ("b", 2)]], maps) == of([[("b", 2), ("a", 1)]], maps)
    assert of([[("a", 2), ("b", 1)]], maps) != of([[("a", 1), ("b", 2)]], maps)


def test_a_head_has_a_digest_of_its_own() -> None:
    table = pa.table({"key": ["a", "b"], "value": [1, 2]})
    found = RowDigest(table.schema, head=1)
    whole = RowDigest(table.schema, head=2)
    for one in (found, whole):
        one.add(table.to_batches()[0])
    assert found.head_digest() == digest(table.select(["key"]))
    assert found.digest() == whole.digest() == whole.head_digest() == digest(table)


def test_repetitions_count() -> None:
    # An XOR of the rows would be 0 for both.
    assert of([1, 1], pa.int64()) != of([2, 2], pa.int64())
    assert of([], pa.int64()) != of([1, 1], pa.int64())


@given(st.lists(st.text(max_size=40)), st.lists(st.text(max_size=40)))
def test_texts_are_equal_exactly_where_their_digests_are(left: list[str], right: list[str]) -> None:
    same = sorted(left) == sorted(right)
    assert (of(left, pa.string()) == of(right, pa.string())) == same


def test_bits_of_the_lanes_are_even() -> None:
    """No bit of a row's hash follows the values, which count up by one."""
    batch = pa.record_batch({"x": np.arange(40_000), "y": np.zeros(40_000)})
    lane = row_digest.row_lanes(batch)
    assert len(np.unique(lane)) == 40_000
    ones = [(lane >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(64)]
    assert max(abs(one - 0.5) for one in ones) < 0.02


def test_a_type_without_a_digest_is_refused() -> None:
    array = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    with pytest.raises(InvalidEntityFrame, match="'x' has type month_day_nano_interval"):
        digest(pa.table({"x": array}))
    huge = pa.array([Decimal(10) ** 39], pa.decimal256(40, 0))
    with pytest.raises(InvalidEntityFrame, match="more than 38 digits"):
        digest(pa.table({"x": huge}))

"""The row codec and the keys: what they refuse, and the corners that no random value meets."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore import dtypes
from featurestore.dtypes import BYTES, FLOAT64, INT64, STRING, to_arrow
from featurestore.errors import CorruptRow, InvalidJoinKey, InvalidValue
from featurestore.wire import row_pb2
from featurestore.wire.rows import (
    RowLayout,
    decode_columns,
    encode_key,
    encode_keys,
    encode_rows,
    key_encoder,
    key_prefix,
    row_decoder,
    row_head,
    subset_encoder,
)

LAYOUT = RowLayout((("temp", FLOAT64), ("city", STRING), ("visits", INT64)), 0xCAFE, "weather")
COLUMNS = [pa.array([1.5, None]), pa.array(["Ulm", None]), pa.array([2**53 + 1, None])]


def rows_of(layout: RowLayout, *columns: Any) -> list[bytes]:
    zeros = np.zeros(len(columns[0]), dtype=np.int64)
    return encode_rows(layout, zeros, zeros, columns)


class TestEncoding:
    def test_a_batch(self) -> None:
        rows = encode_rows(LAYOUT, [1, -1], [2, -2], COLUMNS)
        decode = row_decoder(LAYOUT)
        assert decode(rows[0]) == ([1.5, "Ulm", 2**53 + 1], 1, 2, False)
        assert decode(rows[1]) == ([None, None, None], -1, -2, False)

    def test_an_empty_batch(self) -> None:
        assert rows_of(LAYOUT, *(column[:0] for column in COLUMNS)) == []
        assert [len(c) for c in decode_columns(LAYOUT, [])] == [0, 0, 0]

    def test_a_view_without_features(self) -> None:
        layout = RowLayout((), 1)
        (row,) = encode_rows(layout, [5], [6], [])
        assert row_decoder(layout)(row) == ([], 5, 6, False)
        assert subset_encoder(layout, ())(row) == row

    def test_nan_is_null_and_minus_zero_is_zero(self) -> None:
        rows = rows_of(RowLayout((("x", FLOAT64),), 1), pa.array([float("nan"), -0.0, 0.0, None]))
        values = [row_decoder(RowLayout((("x", FLOAT64),), 1))(row)[0][0] for row in rows]
        assert [str(value) for value in values] == ["None", "0.0", "0.0", "None"]
        assert rows[1] == rows[2]
        assert rows[0] == rows[3]

    def test_nan_in_a_list_is_a_null_item(self) -> None:
        layout = RowLayout((("x", dtypes.parse("list<float64>")),), 1)
        (row,) = rows_of(layout, pa.array([[1.0, float("nan"), None]]))
        assert row_decoder(layout)(row)[0] == [[1.0, None, None]]

    @pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
    def test_lengths_around_every_varint(self, size: int) -> None:
        layout = RowLayout((("a", STRING), ("b", BYTES)), 1)
        (row,) = rows_of(layout, pa.array(["x" * size]), pa.array([bytes(size)]))
        assert row_pb2.Row.FromString(row).SerializeToString() == row
        assert row_decoder(layout)(row)[0] == ["x" * size, bytes(size)]

    def test_tombstones_hold_times_and_nothing_else(self) -> None:
        rows = encode_rows(LAYOUT, [1, 3], [2, 4], COLUMNS, pa.array([True, False]))
        assert len(rows[0]) == 25
        assert row_decoder(LAYOUT)(rows[0]) == ([None, None, None], 1, 2, True)
        assert row_decoder(LAYOUT)(rows[1])[3] is False
        assert [c.to_pylist() for c in decode_columns(LAYOUT, rows)] == [[None, None]] * 3
        assert subset_encoder(LAYOUT, (0,))(rows[0]) == rows[0]

    def test_slices_dictionaries_and_chunks_are_read_as_their_values(self) -> None:
        layout = RowLayout((("s", STRING), ("l", dtypes.parse("list<string>"))), 1)
        texts, lists = ["no", "a", None, "b"], [["no"], ["x", None], None, []]
        plain = rows_of(layout, pa.array(texts[1:]), pa.array(lists[1:], pa.list_(pa.string())))
        sliced = rows_of(
            layout,
            pa.chunked_array([pa.array(texts).dictionary_encode()[1:]]),
            pa.array(lists, pa.list_(pa.string()))[1:],
        )
        assert sliced == plain

    @pytest.mark.parametrize("number", [0, 1, -1, 127, 128, -128, -129, 10**38 - 1, 1 - 10**38])
    def test_decimals_take_as_few_bytes_as_keep_their_sign(self, number: int) -> None:
        layout = RowLayout((("d", dtypes.parse("decimal(38,4)")),), 1)
        value = Decimal((number < 0, tuple(map(int, str(abs(number)))), -4))
        (row,) = rows_of(layout, pa.array([value], pa.decimal128(38, 4)))
        (blob,) = row_pb2.Row.FromString(row).blobs
        unscaled = row_pb2.DecimalValue.FromString(blob).unscaled
        magnitude = number if number >= 0 else ~number
        assert len(unscaled) == magnitude.bit_length() // 8 + 1
        assert int.from_bytes(unscaled, "little", signed=True) == number
        assert row_decoder(layout)(row)[0] == [value]

    def test_naive_timestamps_are_utc(self) -> None:
        layout = RowLayout((("t", dtypes.TIMESTAMP),), 1)
        naive = pa.array([datetime(2020, 1, 1, tzinfo=UTC)], pa.timestamp("us"))
        (row,) = rows_of(layout, naive)
        assert row_decoder(layout)(row)[0] == [datetime(2020, 1, 1, tzinfo=UTC)]

    def test_lossy_casts_are_errors(self) -> None:
        with pytest.raises(InvalidValue, match=r"feature 'visits' is int64.*1\.7"):
            rows_of(LAYOUT, pa.array([1.0]), pa.array(["a"]), pa.array([1.7]))

    @pytest.mark.parametrize("kind", ["timestamp", "date", "list<timestamp>"])
    def test_times_that_no_calendar_shows_are_errors(self, kind: str) -> None:
        dtype = dtypes.parse(kind)
        far: Any = pa.array([0, 2**31 - 1], pa.int32()).cast(pa.date32())
        if kind != "date":
            far = pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
        if dtype.item:
            far = pa.ListArray.from_arrays([0, 1, 2], far)
        with pytest.raises(InvalidValue, match=r"'x', row 1 of the batch: .* years 1 to 9999"):
            rows_of(RowLayout((("x", dtype),), 1), far)

    def test_columns_that_do_not_fit_the_batch_are_a_bug_of_the_caller(self) -> None:
        with pytest.raises(ValueError, match="3 columns expected, 2 given"):
            rows_of(LAYOUT, *COLUMNS[:2])
        with pytest.raises(ValueError, match="one length"):
            encode_rows(LAYOUT, [0], [0], COLUMNS)
        with pytest.raises(ValueError, match="whole microseconds"):
            encode_rows(LAYOUT, [0.5, 1], [0, 0], COLUMNS)

    def test_times_may_be_arrow_timestamps(self) -> None:
        times = pa.chunked_array([pa.array([7, 8], pa.timestamp("us", tz="UTC"))])
        rows = encode_rows(LAYOUT, times, times.chunk(0), COLUMNS)
        assert [row_head(row) for row in rows] == [(7, 7), (8, 8)]


class TestCorruptRows:
    def corrupt(self, row: bytes, layout: RowLayout = LAYOUT) -> str:
        with pytest.raises(CorruptRow) as caught:
            row_decoder(layout)(row)
        for other in (subset_encoder(layout, (1, 0)), lambda r: decode_columns(layout, [r])):
            with pytest.raises(CorruptRow):
                other(row)
        return str(caught.value)

    def test_a_row_of_another_version(self) -> None:
        (row,) = encode_rows(LAYOUT, [1], [1], [c[:1] for c in COLUMNS])
        message = self.corrupt(row, RowLayout(LAYOUT.features, 0xBEEF, "weather"))
        assert message == (
            f"A stored row of view 'weather' ({len(row)} bytes) cannot be read: its view tag is "
            "0000cafe, not 0000beef; another version wrote it. "
            "Write its view anew: featurestore materialize --replace [corrupt-row]"
        )

    def test_a_tombstone_of_another_version(self) -> None:
        (row,) = encode_rows(LAYOUT, [1], [1], [c[:1] for c in COLUMNS], [True])
        assert "another version" in self.corrupt(row, RowLayout(LAYOUT.features, 1))

    def test_every_truncation(self) -> None:
        (row,) = encode_rows(LAYOUT, [1], [1], [c[:1] for c in COLUMNS])
        for end in range(len(row)):
            assert "materialize --replace" in self.corrupt(row[:end])

    @pytest.mark.parametrize("garbage", [b"", b"\0" * 100, b"\xff" * 200, b"hello" * 30])
    def test_garbage(self, garbage: bytes) -> None:
        assert "cannot be read" in self.corrupt(garbage)

    def test_bytes_after_the_end(self) -> None:
        numbers = RowLayout((("a", INT64), ("b", INT64)), 1)
        (row,) = rows_of(numbers, pa.array([1]), pa.array([2]))
        self.corrupt(row + b"\0", numbers)
        (row,) = encode_rows(LAYOUT, [1], [1], [c[:1] for c in COLUMNS])
        self.corrupt(row + b"\x3a\0")

    def test_text_that_is_not_utf8(self) -> None:
        layout = RowLayout((("b", BYTES), ("x", INT64)), 1)
        (row,) = rows_of(layout, pa.array([b"\xff"]), pa.array([1]))
        texts = RowLayout((("b", STRING), ("x", INT64)), 1)
        for read in (row_decoder(texts), lambda r: decode_columns(texts, [r])):
            with pytest.raises(CorruptRow):
                read(row)

    def test_a_head_that_is_too_short(self) -> None:
        with pytest.raises(CorruptRow, match="17 bytes"):
            row_head(bytes(17))


class TestKeys:
    PREFIX = key_prefix("shop", "plane")

    def test_the_prefix_names_project_and_entity(self) -> None:
        assert self.PREFIX == b"fs/shop/plane/"

    def test_a_single_text_is_the_text_itself(self) -> None:
        assert encode_key(("N14228",), [STRING], self.PREFIX) == b"fs/shop/plane/N14228"

    def test_numbers_are_eight_bytes_that_sort(self) -> None:
        assert encode_key((-1,), [INT64], b"") == bytes.fromhex("7fffffffffffffff")
        assert encode_key((0,), [INT64], b"") == bytes.fromhex("8000000000000000")

    @pytest.mark.parametrize(
        ("left", "right"), [((1, 23), (12, 3)), (("a", "bc"), ("ab", "c")), (("", "a"), ("a", ""))]
    )
    def test_parts_are_kept_apart(self, left: tuple[Any, Any], right: tuple[Any, Any]) -> None:
        kinds = [STRING, STRING] if isinstance(left[0], str) else [INT64, INT64]
        assert encode_key(left, kinds, b"") != encode_key(right, kinds, b"")

    @pytest.mark.parametrize("text", ["", "\0", "a\0b", "größe", "😀", ":/{}*?[]\\", "x" * 2**20])
    def test_hostile_texts(self, text: str) -> None:
        for kinds, values in (([STRING], (text,)), ([STRING, STRING, INT64], (text, text, 1))):
            columns = [pa.array([v], to_arrow(k)) for k, v in zip(kinds, values, strict=True)]
            assert encode_keys(columns, b"p/") == [encode_key(values, kinds, b"p/")]

    def test_narrow_integers_and_dictionaries(self) -> None:
        plain = encode_keys([pa.array([1, 2]), pa.array(["a", "b"])], b"")
        narrow = [pa.array([1, 2], pa.int8()), pa.array(["a", "b"]).dictionary_encode()]
        chunked = [pa.chunked_array([part[:1], part[1:]]) for part in narrow]
        assert encode_keys(narrow, b"") == encode_keys(chunked, b"") == plain

    def test_no_columns_are_one_key(self) -> None:
        assert encode_keys([], self.PREFIX) == [key_encoder([], self.PREFIX)(())] == [self.PREFIX]

    def test_numpy_integers_are_integers(self) -> None:
        assert encode_key((np.int64(5),), [INT64], b"") == encode_key((5,), [INT64], b"")

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (INT64, "5"),
            (INT64, 5.0),
            (INT64, True),
            (INT64, None),
            (INT64, 2**63),
            (INT64, -(2**63) - 1),
            (STRING, 5),
            (STRING, b"x"),
            (STRING, "\ud800"),
            (BYTES, "x"),
        ],
    )
    def test_values_of_another_type(self, kind: Any, value: Any) -> None:
        with pytest.raises(InvalidJoinKey, match=f"'k': .* is not {kind}"):
            key_encoder([kind], b"", names=["k"])((value,))
        with pytest.raises(InvalidJoinKey, match=f"'k': .* is not {kind}"):
            key_encoder([INT64, kind], b"", names=["n", "k"])((1, value))

    def test_too_few_values(self) -> None:
        with pytest.raises(InvalidJoinKey):
            key_encoder([INT64, INT64], b"")((1,))

    def test_columns_of_another_type(self) -> None:
        with pytest.raises(InvalidJoinKey, match="row 1 of the batch is NULL"):
            encode_keys([pa.array([1, None])], b"")
        with pytest.raises(InvalidJoinKey, match="double is not int64, string or bytes"):
            encode_keys([pa.array([1.5])], b"")
        with pytest.raises(InvalidJoinKey):
            encode_keys([pa.array([2**64 - 1], pa.uint64())], b"")


def test_decoding_rows_loads_no_arrow() -> None:
    import subprocess
    import sys

    code = "import sys, featurestore.wire.rows; print({'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_golden_bytes() -> None:
    """The stored form never changes: servers, clients and stores of other versions read it."""
    layout = RowLayout(
        (
            ("temp", FLOAT64),
            ("city", STRING),
            ("visits", INT64),
            ("price", dtypes.parse("decimal(12,2)")),
            ("tags", dtypes.parse("list<string>")),
            ("vector", dtypes.parse("list<float32>")),
            ("raw", BYTES),
            ("open", dtypes.BOOL),
            ("seen", dtypes.TIMESTAMP),
            ("day", dtypes.DATE),
        ),
        0x12345678,
    )
    values = [
        [21.5, "Größe", -7, Decimal("-12.34"), ["a", None], [0.5, None], b"\0", True, 1, 1],
        [None] * 10,
        [0.0, "", 0, Decimal("0.00"), [], [], b"", False, 0, 0],
        [None] * 10,
    ]
    columns = []
    for i, (_, kind) in enumerate(layout.features):
        given = [row[i] for row in values]
        columns.append(pa.array(given, to_arrow(kind)))
    rows = encode_rows(
        layout,
        [1_372_680_000_000_000, -1, 253_402_300_799_999_999, 5],
        [1_372_680_000_000_001, -1, 253_402_300_799_999_999, 6],
        columns,
        [False, False, False, True],
    )
    golden = Path(__file__).parents[1] / "golden" / "rows.hex"
    assert [row.hex() for row in rows] == golden.read_text().split()

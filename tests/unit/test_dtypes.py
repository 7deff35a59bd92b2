"""Types: one table, and every map that derives from it."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import pytest

from featurestore import dtypes
from featurestore.dtypes import (
    BOOL,
    BYTES,
    DATE,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    Kind,
    common,
    from_arrow,
    from_duckdb,
    parse,
    to_arrow,
    widens,
)

PLAIN = [BOOL, INT32, INT64, FLOAT32, FLOAT64, STRING, BYTES, TIMESTAMP, DATE]
DECIMAL = parse("decimal(12,2)")
LIST = parse("list<int64>")
MAP = parse("map<string,list<int64>>")
ALL = [*PLAIN, DECIMAL, LIST, parse("list<list<decimal(38,0)>>"), parse("list<timestamp>")]


class TestConstruction:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"kind": Kind.DECIMAL},
            {"kind": Kind.DECIMAL, "precision": 5},
            {"kind": Kind.DECIMAL, "precision": 0, "scale": 0},
            {"kind": Kind.DECIMAL, "precision": 39, "scale": 0},
            {"kind": Kind.DECIMAL, "precision": 5, "scale": 6},
            {"kind": Kind.DECIMAL, "precision": 5, "scale": -1},
            {"kind": Kind.DECIMAL, "precision": 5, "scale": 1, "item": INT64},
            {"kind": Kind.LIST},
            {"kind": Kind.INT64, "item": INT64},
            {"kind": Kind.INT64, "precision": 5},
            {"kind": Kind.LIST, "item": INT64, "scale": 5},
            {"kind": Kind.MAP},
            {"kind": Kind.MAP, "key": STRING},
            {"kind": Kind.MAP, "value": INT64},
            {"kind": Kind.MAP, "key": FLOAT64, "value": INT64},
            {"kind": Kind.LIST, "item": INT64, "key": STRING, "value": INT64},
        ],
        ids=str,
    )
    def test_parameters_belong_to_their_kind(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"decimal|list|map"):
            DType(**arguments)

    def test_facts(self) -> None:
        assert [d for d in ALL if d.is_key] == [INT64, STRING, BYTES]
        assert [d for d in ALL if d.is_integer] == [INT32, INT64]
        assert [d for d in ALL if d.is_float] == [FLOAT32, FLOAT64]
        assert [d for d in ALL if d.is_numeric] == [INT32, INT64, FLOAT32, FLOAT64, DECIMAL]
        assert {d.slot for d in PLAIN} == {"doubles", "integers", "blobs"}
        assert (FLOAT32.slot, DATE.slot, DECIMAL.slot) == ("doubles", "integers", "blobs")


class TestText:
    @pytest.mark.parametrize("dtype", ALL, ids=str)
    def test_a_type_reads_back(self, dtype: DType) -> None:
        assert parse(str(dtype)) == dtype

    def test_spaces_are_allowed(self) -> None:
        assert parse(" decimal( 12 , 2 ) ") == DECIMAL
        assert parse("list< int64 >") == LIST
        assert parse(" map< string , list<int64> >") == MAP

    @pytest.mark.parametrize("key", ["string", "int64", "bool"])
    def test_a_map_reads_back(self, key: str) -> None:
        text = f"map<{key},map<string,decimal(12,2)>>"
        assert str(parse(text)) == text

    def test_the_keys_of_maps(self) -> None:
        with pytest.raises(ValueError, match="the keys of a map are string, int64, bool, not date"):
            parse("map<date,int64>")

    @pytest.mark.parametrize(
        "text", ["double", "", "list", "list<>", "decimal", "INT64", "int64[]"]
    )
    def test_other_text_is_no_type(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a type; the types are bool, bytes, date"):
            parse(text)


class TestArrow:
    @pytest.mark.parametrize("dtype", ALL, ids=str)
    def test_a_type_reads_back(self, dtype: DType) -> None:
        assert from_arrow(to_arrow(dtype)) == dtype

    @pytest.mark.parametrize(
        ("arrow", "dtype"),
        [
            (pa.int8(), INT32),
            (pa.uint16(), INT32),
            (pa.uint32(), INT64),
            (pa.float16(), FLOAT32),
            (pa.large_string(), STRING),
            (pa.string_view(), STRING),
            (pa.large_binary(), BYTES),
            (pa.timestamp("ns"), TIMESTAMP),
            (pa.timestamp("s", tz="Europe/Berlin"), TIMESTAMP),
            (pa.date64(), DATE),
            (pa.dictionary(pa.int32(), pa.string()), STRING),
            (pa.large_list(pa.int8()), parse("list<int32>")),
            (pa.list_(pa.float64(), 3), parse("list<float64>")),
        ],
        ids=str,
    )
    def test_types_that_are_read_as_ours(self, arrow: pa.DataType, dtype: DType) -> None:
        assert from_arrow(arrow) == dtype

    def test_maps_are_written_and_not_read(self) -> None:
        """No source has any."""
        arrow = to_arrow(MAP)
        assert arrow == pa.map_(pa.string(), pa.list_(pa.int64()))
        with pytest.raises(ValueError, match="has no feature type"):
            from_arrow(arrow)
        rows = duckdb.sql(f"describe select cast(null as {MAP.duckdb}) as x").fetchall()
        with pytest.raises(ValueError, match="has no feature type"):
            from_duckdb(rows[0][1])

    @pytest.mark.parametrize(
        "arrow",
        [pa.uint64(), pa.null(), pa.struct({"a": pa.int64()}), pa.time64("us"), pa.duration("s")],
        ids=str,
    )
    def test_types_that_no_feature_has(self, arrow: pa.DataType) -> None:
        with pytest.raises(ValueError, match="has no feature type"):
            from_arrow(arrow)


class TestDuckDB:
    @pytest.mark.parametrize("dtype", ALL, ids=str)
    def test_a_type_reads_back_through_the_engine(self, dtype: DType) -> None:
        rows = duckdb.sql(f"describe select cast(null as {dtype.duckdb}) as x").fetchall()
        assert from_duckdb(rows[0][1]) == dtype

    @pytest.mark.parametrize(
        ("text", "dtype"),
        [
            ("TINYINT", INT32),
            ("usmallint", INT32),
            ("UINTEGER", INT64),
            ("REAL", FLOAT32),
            ("TIMESTAMP", TIMESTAMP),
            ("TIMESTAMP_NS", TIMESTAMP),
            ("TIMESTAMP WITH TIME ZONE", TIMESTAMP),
            ("VARCHAR[][]", parse("list<list<string>>")),
        ],
    )
    def test_types_that_are_read_as_ours(self, text: str, dtype: DType) -> None:
        assert from_duckdb(text) == dtype

    @pytest.mark.parametrize(
        "text", ["HUGEINT", "UBIGINT", "STRUCT(a INTEGER)", "TIME", "INTEGER[3]"]
    )
    def test_types_that_no_feature_has(self, text: str) -> None:
        with pytest.raises(ValueError, match="has no feature type"):
            from_duckdb(text)


class TestWidening:
    @pytest.mark.parametrize(
        ("narrow", "wide", "expected"),
        [
            (INT32, INT64, True),
            (FLOAT32, FLOAT64, True),
            (INT64, INT64, True),
            (parse("list<int32>"), LIST, True),
            (INT64, INT32, False),
            (INT64, FLOAT64, False),
            (INT32, FLOAT64, False),
            (DATE, TIMESTAMP, False),
            (INT64, LIST, False),
            (LIST, parse("list<string>"), False),
        ],
    )
    def test_what_is_read_without_being_asked(
        self, narrow: DType, wide: DType, expected: bool
    ) -> None:
        assert widens(narrow, wide) is expected

    @pytest.mark.parametrize(
        ("left", "right", "expected"),
        [
            (INT32, INT64, INT64),
            (INT64, FLOAT64, FLOAT64),
            (INT64, FLOAT32, FLOAT64),
            (FLOAT32, FLOAT64, FLOAT64),
            (DECIMAL, INT64, FLOAT64),
            (DATE, TIMESTAMP, TIMESTAMP),
            (STRING, STRING, STRING),
            (STRING, INT64, None),
            (BOOL, INT64, None),
        ],
    )
    def test_the_common_type_is_symmetric(
        self, left: DType, right: DType, expected: DType | None
    ) -> None:
        assert common(left, right) == common(right, left) == expected


def test_every_kind_has_its_row() -> None:
    assert {dtype.kind for dtype in [*ALL, MAP]} == set(Kind) == set(dtypes._TABLE)

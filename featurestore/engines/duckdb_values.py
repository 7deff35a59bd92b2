"""How a column that DuckDB reads becomes one of our types: exactly, or with an error.

NaN reads as NULL and −0.0 as 0.0, also inside lists; every timestamp becomes a naive `TIMESTAMP`
in UTC, nanoseconds floored; numbers change their type only where no value is lost. A value that
does not fit makes the query fail with `LOSSY` and the column's name, which the engine's door turns
into `InvalidValue`.
"""

from __future__ import annotations

from featurestore.dtypes import BYTES, DATE, FLOAT32, INT64, STRING, TIMESTAMP, DType, Kind, widens
from featurestore.dtypes import from_duckdb as _from_duckdb
from featurestore.engines.sql import literal, sql_type

LOSSY = "lossy value: "
"""How the message of a value that does not fit its type begins."""

MISREAD_NANOSECONDS = "TIMESTAMP WITH TIME ZONE, OF NANOSECONDS"
"""Our name for the type of a zoned ns column that DuckDB reads as µs, as 1.5 does; it gets instants
before 1970 wrong then."""

_NULL = '"NULL"'
_WIDE_INTEGERS = ("HUGEINT", "UHUGEINT", "UBIGINT")


def from_duckdb(text: str) -> DType:
    """The type that a query's column is read as; sums of integers (HUGEINT) are int64.

    Raises `ValueError` for types that no feature can have.
    """
    return INT64 if text.upper() == "HUGEINT" else _from_duckdb(text)


def readable(found: str, wanted: DType) -> bool:
    """Whether a column of DuckDB type `found` may be read as `wanted`, value by value."""
    if found == _NULL:
        return True
    if wanted.kind is Kind.MAP:
        return found == sql_type(wanted)
    if found.endswith("[]") and wanted.item is not None:
        return readable(found[:-2], wanted.item)
    if found.upper() in _WIDE_INTEGERS:
        return wanted.is_numeric
    try:
        have = _from_duckdb(found)
    except ValueError:
        return False
    if have == wanted or (have.is_numeric and wanted.is_numeric):
        return True
    return have == DATE and wanted == TIMESTAMP


def read(value: str, found: str, wanted: DType, *, what: str) -> str:
    """SQL for `value`, a column of DuckDB type `found` for which `readable` holds, as `wanted`.

    `what` is SQL text that names column, file and row in the error.
    """
    if found.startswith(_NULL):
        return f"CAST({value} AS {sql_type(wanted)})"
    if wanted.item is not None:
        item, item_found = wanted.item, found[:-2]
        if not _changes(item_found, item):
            return value
        body = read("x", item_found, item, what=what)
        return f"list_transform({value}, lambda x: {body})"
    if found == MISREAD_NANOSECONDS:
        return _after_1970(value, what)
    if wanted == TIMESTAMP:
        return _instant(value, found.upper())
    if wanted.is_float:
        return _float(value, found, wanted, what)
    if found.upper() in _WIDE_INTEGERS:
        return _exact(value, found, wanted, what)
    have = _from_duckdb(found)
    if widens(have, wanted) or not wanted.is_numeric:
        return value if found == wanted.duckdb else f"CAST({value} AS {wanted.duckdb})"
    return _exact(value, found, wanted, what)


def read_text(value: str, wanted: DType, *, what: str) -> str:
    """SQL for `value`, a text (of a CSV file or a directory's name), as `wanted`."""
    if wanted == STRING:
        return value
    if wanted == BYTES:
        return f"encode({value})"
    if wanted == TIMESTAMP:
        # Texts may carry an offset; without one they are UTC, the session's time zone.
        cast = f"TRY_CAST({value} AS TIMESTAMPTZ)"
        return _instant(_or_lossy(cast, f"{cast} IS NOT NULL", value, wanted, what), "TIMESTAMPTZ")
    kind = sql_type(wanted)
    cast = f"TRY_CAST({value} AS {kind})"
    if wanted.is_float:
        checked = _or_lossy(cast, f"{cast} IS NOT NULL", value, wanted, what)
        return _no_nan(checked)
    fits = f"{cast} IS NOT NULL"
    if wanted.is_numeric:
        # DuckDB rounds '1.7' to 2 without a word.
        fits = f"CAST({cast} AS DOUBLE) = TRY_CAST({value} AS DOUBLE)"
    return _or_lossy(cast, fits, value, wanted, what)


def lossless(value: str, have: DType, wanted: DType, *, what: str) -> str:
    """SQL for `value`, which an expression of type `have` yields, as `wanted`."""
    return value if have == wanted else read(value, sql_type(have), wanted, what=what)


def order_key(value: str, dtype: DType) -> str:
    """What `value` sorts by where NULL is lowest also inside lists (DuckDB has it highest)."""
    if dtype.item is None:
        return value
    inner = order_key("x", dtype.item)
    return f"list_transform({value}, lambda x: {{'k': x IS NOT NULL, 'v': {inner}}})"


def _changes(found: str, wanted: DType) -> bool:
    return found != sql_type(wanted) or wanted.is_float or wanted.item is not None


def _float(value: str, found: str, wanted: DType, what: str) -> str:
    have = INT64 if found.upper() in _WIDE_INTEGERS else _from_duckdb(found)
    if have.is_float:
        clean = _no_nan(value)
        if have == wanted:
            return clean
        if wanted == FLOAT32:
            fits = f"isinf({value}) OR NOT isinf(TRY_CAST({value} AS FLOAT))"
            return _or_lossy(f"TRY_CAST({clean} AS FLOAT)", fits, clean, wanted, what)
        return f"CAST({clean} AS DOUBLE)"
    if have.kind is Kind.INT64 or wanted == FLOAT32:
        return _exact(value, found, wanted, what)
    return f"CAST({value} AS {wanted.duckdb})"


def _no_nan(value: str) -> str:
    # DuckDB believes a Parquet file's minimum and maximum, which leave NaN out, and answers
    # isnan(x) and x = 'nan' from them without looking. x + 0 turns −0.0 into 0.0.
    return f"CASE WHEN {_is_number(value)} THEN {value} + 0 END"


def _is_number(value: str) -> str:
    return f"isfinite({value}) OR isinf({value})"


def _exact(value: str, found: str, wanted: DType, what: str) -> str:
    cast = f"TRY_CAST({value} AS {wanted.duckdb})"
    back = f"TRY_CAST({cast} AS {found})"
    if found in ("FLOAT", "DOUBLE"):
        value = f"CASE WHEN {_is_number(value)} THEN {value} END"
    if wanted.is_float:
        # 2⁶³ rounds up and does not come back; as DECIMAL it does, and differs.
        back = f"TRY_CAST({cast} AS HUGEINT)"
    return _or_lossy(cast, f"{back} = {value}", value, wanted, what)


def _or_lossy(cast: str, fits: str, value: str, wanted: DType, what: str) -> str:
    text = f"{literal(LOSSY)} || {what} || ': ' || CAST({value} AS VARCHAR)"
    problem = f"error({text} || {literal(f' is not an exact {wanted}')})"
    return f"CASE WHEN {value} IS NULL THEN NULL WHEN {fits} THEN {cast} ELSE {problem} END"


def _instant(value: str, found: str) -> str:
    if found == "TIMESTAMP":
        return value
    if found.endswith("_NS"):
        nanoseconds = f"epoch_ns({value})"
        floored = f"{nanoseconds} // 1000 - CAST({nanoseconds} % 1000 < 0 AS BIGINT)"
        return f"make_timestamp({floored})"
    if "TIME ZONE" in found or found == "TIMESTAMPTZ":
        return f"make_timestamp(epoch_us({value}))"
    return f"CAST({value} AS TIMESTAMP)"


def _after_1970(value: str, what: str) -> str:
    text = f"{literal(LOSSY)} || {what} || ': ' || CAST({value} AS VARCHAR)"
    hint = literal(
        " is before 1970, and this DuckDB misreads such instants in nanoseconds with a zone; "
        "update to duckdb 2 or write microseconds"
    )
    instant = _instant(value, "TIMESTAMPTZ")
    return f"CASE WHEN epoch_us({value}) < 0 THEN error({text} || {hint}) ELSE {instant} END"

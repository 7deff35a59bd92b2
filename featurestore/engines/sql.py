"""Names, types and constants as DuckDB text.

**All timestamps inside engine SQL are naive `TIMESTAMP` in UTC.** Columns come in so (scans convert
zoned ones to UTC and drop the zone), expressions keep it so, and the output edge alone makes
`timestamp[us, UTC]` of it. `TIMESTAMPTZ` in between would make results depend on the session's
time zone. `sql_type` says the DuckDB type that a column of our type has under this rule.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import assert_never

from featurestore.dtypes import DType, Kind
from featurestore.errors import InternalError

Value = bool | int | float | str | bytes | date | datetime | None


def quote(name: str) -> str:
    """An identifier, always in double quotes: `"größe"`, `"select"`."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def sql_type(dtype: DType) -> str:
    """The DuckDB type of a column of `dtype` inside engine SQL (timestamps are naive UTC)."""
    if dtype.item is not None:
        return f"{sql_type(dtype.item)}[]"
    if dtype.key is not None and dtype.value is not None:
        return f"MAP({sql_type(dtype.key)}, {sql_type(dtype.value)})"
    return "TIMESTAMP" if dtype.kind is Kind.TIMESTAMP else dtype.duckdb


def literal(value: Value) -> str:
    """A constant with its type: ints are BIGINT, floats DOUBLE, datetimes TIMESTAMP in UTC.

    Raises `InternalError` for inf and NaN, which no value of ours is.
    """
    match value:
        case None:
            return "NULL"
        case bool():
            return "TRUE" if value else "FALSE"
        case int():
            return f"CAST({value} AS BIGINT)"
        case float():
            return _float_literal(value)
        case str():
            return _text_literal(value)
        case bytes():
            return "'" + "".join(f"\\x{byte:02X}" for byte in value) + "'::BLOB"
        case datetime():
            naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            return f"TIMESTAMP '{naive.isoformat(sep=' ')}'"
        case date():
            return f"DATE '{value.isoformat()}'"
        case _:
            assert_never(value)


def _float_literal(value: float) -> str:
    if not math.isfinite(value):
        raise InternalError(f"{value} has no literal")
    text = repr(value) if "e" in repr(value) else f"{value!r}e0"
    return f"({text})" if value < 0 else text  # two minus signs in a row begin a comment


def _text_literal(value: str) -> str:
    """DuckDB's lexer ends at a NUL, so that one is spelled as `chr(0)`."""
    parts = [f"'{part}'" for part in value.replace("'", "''").split("\0")]
    return parts[0] if len(parts) == 1 else f"({' || chr(0) || '.join(parts)})"

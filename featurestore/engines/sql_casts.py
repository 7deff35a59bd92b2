"""CAST of our language as DuckDB text, the same whichever DuckDB reads it."""

from __future__ import annotations

from featurestore.dtypes import BOOL, DATE, FLOAT32, FLOAT64, INT32, STRING, TIMESTAMP, DType, Kind
from featurestore.engines.sql import literal, sql_type
from featurestore.engines.sql_texts import Text, read_as, settled, where
from featurestore.exprlib.casts import FLOAT_TEXT, INSTANT_TEXT, INTEGER_TEXT, WHITE

YEARS = {
    DATE: "{0} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31'",
    TIMESTAMP: (
        "{0} BETWEEN TIMESTAMP '0001-01-01 00:00:00' AND TIMESTAMP '9999-12-31 23:59:59.999999'"
    ),
}
"""What our instants can be; 'infinity' and the year 10000 are outside."""

_ZONE = "(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
_TO_ZONED = (
    # every text gets a zone; the added one goes where the text had its own
    (rf"(:[0-9.]+) ?{_ZONE}\+00$", r"\1\2"),
    # what TIMESTAMPTZ can't read with a zone: a bare date, and hours and minutes without seconds
    (r"^([0-9]+-[0-9]+-[0-9]+)\+00$", r"\1 00:00:00+00"),
    (r"^([0-9]+-[0-9]+-[0-9]+[ T][0-9]+:[0-9]+)(Z|[+-])", r"\1:00\2"),
    # digits after the microsecond
    (r"([.][0-9]{6})[0-9]+", r"\1"),
)


def cast_sql(value: Text, target: DType) -> Text:
    """CAST of our language: rounds as DuckDB does (halves of floats to even), NULL where the value
    does not fit or can't be read."""
    source = value.dtype
    if source is None or source == target:
        return read_as(value, target)
    value = settled(value)
    if source == STRING:
        return _cast_text(value, target)
    if source == FLOAT32 and target == FLOAT64:
        return read_as(value, FLOAT64)
    if source == FLOAT32 and target.kind is Kind.DECIMAL:
        value = read_as(value, FLOAT64)
    if source == BOOL and target.kind is Kind.DECIMAL:
        # DuckDB 1.5 makes 0.0001 of true where there are no digits before the point.
        value = Text(f"CAST({value.text} AS INTEGER)", INT32, guarded=value.guarded)
    if source.kind is Kind.DECIMAL and target == FLOAT32:
        value = Text(f"CAST({value.text} AS DOUBLE)", FLOAT64, guarded=value.guarded)
    return _narrowed(value, target)


def _narrowed(value: Text, target: DType) -> Text:
    text = f"TRY_CAST({value.text} AS {sql_type(target)})"
    return Text(text, target, loose=target.is_float, guarded=value.guarded)


def _cast_text(value: Text, target: DType) -> Text:
    """Only texts of our patterns are read: what else DuckDB reads differs between its versions."""
    if target in YEARS:
        instant = _instant_of_text(_matching(value, INSTANT_TEXT))
        return instant if target == TIMESTAMP else _narrowed(instant, DATE)
    if target == BOOL:
        return _narrowed(value, BOOL)
    if not target.is_float:
        return _narrowed(_matching(value, INTEGER_TEXT), target)
    number = _narrowed(_matching(value, FLOAT_TEXT), FLOAT64)
    return number if target == FLOAT64 else _narrowed(settled(number), FLOAT32)


def _matching(value: Text, pattern: str) -> Text:
    return where(value, f"regexp_full_match({{0}}, {_in_format(pattern)})")


def _in_format(pattern: str) -> str:
    return "'" + pattern.replace("{", "{{").replace("}", "}}") + "'"


def _instant_of_text(value: Text) -> Text:
    """Text without a zone is UTC. TRY_CAST to TIMESTAMP would ignore the zone of a text that has
    one, and to TIMESTAMPTZ would take the session's zone for one that has none."""
    text = f"trim({value.text}, {literal(WHITE)}) || '+00'"
    for pattern, replacement in _TO_ZONED:
        text = f"regexp_replace({text}, '{pattern}', '{replacement}')"
    text = f"make_timestamp(epoch_us(TRY_CAST({text} AS TIMESTAMPTZ)))"
    return where(Text(text, TIMESTAMP, guarded=True), YEARS[TIMESTAMP])

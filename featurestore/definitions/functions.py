"""The functions and operators of feature expressions: one table.

A row says how many arguments a function takes, which types its arguments are read as and what it
yields (`signature`), what it makes of NULLs, and one line for the docs. Engines and generated code
add only how to compute it; a test holds each of them against this table.

Rules for all: arithmetic is int64 or float64 (int32 widens; decimals count as float64), instants
are UTC, text is a sequence of Unicode code points. Where a result does not exist, does not fit its
type, or is infinite or NaN, it is NULL.
CAST (TRY_CAST, `::`) rounds floats to the nearest integer, halves to the even one, reads text as
DuckDB does, and takes the text of an instant without a zone as UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.definitions import signatures as sig
from featurestore.dtypes import BOOL, DATE, INT64, STRING, TIMESTAMP

STRICT = "NULL if any argument is NULL"
MANY = 1_000
"""The most arguments of functions that take any number."""

DATE_UNITS = (
    "year",
    "quarter",
    "month",
    "week",
    "day",
    "hour",
    "minute",
    "second",
    "millisecond",
    "microsecond",
)
ROUND_DIGITS_MAX = 15
PADDED_MAX = 10_000
"""The most code points that `lpad` and `rpad` make."""
MONTHS_MAX = 120_000
"""The most months that `date_add` moves an instant; no more fit into the years 1 to 9999."""


@dataclass(frozen=True, slots=True)
class Function:
    """One row: `symbol` is how an operator is written; `minimum` to `maximum` arguments."""

    name: str
    minimum: int
    maximum: int
    signature: sig.Rule
    doc: str
    nulls: str = STRICT
    symbol: str | None = None


_TEXT = sig.fixed(STRING, result=STRING)
_TEST = sig.fixed(STRING, result=BOOL)
_LOGIC = sig.fixed(BOOL, result=BOOL)

_ROWS = (
    Function("add", 2, 2, sig.arithmetic, "Sum.", symbol="+"),
    Function("sub", 2, 2, sig.arithmetic, "Difference.", symbol="-"),
    Function("mul", 2, 2, sig.arithmetic, "Product.", symbol="*"),
    Function("div", 2, 2, sig.floats, "Quotient as float64; NULL for a divisor of 0.", symbol="/"),
    Function("intdiv", 2, 2, sig.integers, "Integer quotient, cut toward 0.", symbol="//"),
    Function("mod", 2, 2, sig.arithmetic, "Remainder, with the sign of the dividend.", symbol="%"),
    Function("neg", 1, 1, sig.arithmetic, "Negation.", symbol="-"),
    Function("eq", 2, 2, sig.compared, "Equal.", symbol="="),
    Function("ne", 2, 2, sig.compared, "Not equal.", symbol="<>"),
    Function("lt", 2, 2, sig.compared, "Less; text by code point.", symbol="<"),
    Function("le", 2, 2, sig.compared, "Less or equal.", symbol="<="),
    Function("gt", 2, 2, sig.compared, "Greater.", symbol=">"),
    Function("ge", 2, 2, sig.compared, "Greater or equal.", symbol=">="),
    Function(
        "and", 2, 2, _LOGIC, "Both.", "false if one is false, else NULL if one is", symbol="AND"
    ),
    Function(
        "or", 2, 2, _LOGIC, "Either.", "true if one is true, else NULL if one is", symbol="OR"
    ),
    Function("not", 1, 1, _LOGIC, "The opposite.", symbol="NOT"),
    Function(
        "is_distinct",
        2,
        2,
        sig.compared,
        "Whether they differ, where NULL is a value like any other.",
        "never NULL",
        symbol="IS DISTINCT FROM",
    ),
    Function("is_null", 1, 1, sig.anything, "Whether it is NULL.", "never NULL", symbol="IS NULL"),
    Function(
        "between",
        3,
        3,
        sig.compared,
        "a >= low AND a <= high.",
        "as the AND of both comparisons",
        symbol="BETWEEN",
    ),
    Function(
        "in",
        2,
        MANY,
        sig.compared,
        "Equal to one of the literals.",
        "NULL if a is NULL, or if none is equal and one is NULL",
        symbol="IN",
    ),
    Function(
        "like",
        2,
        2,
        _TEST,
        "Matches a pattern: % is any text, _ any character; there is no escape.",
        symbol="LIKE",
    ),
    Function("coalesce", 1, MANY, sig.shared, "The first that is not NULL.", "NULL if all are"),
    Function("nullif", 2, 2, sig.extreme, "NULL if a = b, else a.", "NULL if a is NULL"),
    Function("greatest", 1, MANY, sig.extreme, "The greatest, NULLs left out.", "NULL if all are"),
    Function("least", 1, MANY, sig.extreme, "The least, NULLs left out.", "NULL if all are"),
    Function("abs", 1, 1, sig.arithmetic, "Absolute value."),
    Function(
        "round",
        1,
        2,
        sig.rounded,
        f"To so many digits (a literal of ±{ROUND_DIGITS_MAX}), halves away from 0.",
    ),
    Function("floor", 1, 1, sig.arithmetic, "The greatest whole number that is not greater."),
    Function("ceil", 1, 1, sig.arithmetic, "The least whole number that is not less."),
    Function("trunc", 1, 1, sig.arithmetic, "Without what stands behind the point."),
    Function("sign", 1, 1, sig.sign, "-1, 0 or 1."),
    Function("sqrt", 1, 1, sig.floats, "Square root; NULL below 0."),
    Function("ln", 1, 1, sig.floats, "Natural logarithm; NULL at 0 and below."),
    Function("log10", 1, 1, sig.floats, "Logarithm to base 10; NULL at 0 and below."),
    Function("log2", 1, 1, sig.floats, "Logarithm to base 2; NULL at 0 and below."),
    Function("exp", 1, 1, sig.floats, "e to the power of a."),
    Function("power", 2, 2, sig.floats, "a to the power of b."),
    Function("cbrt", 1, 1, sig.floats, "Cube root."),
    Function("sin", 1, 1, sig.floats, "Sine of an angle in radians."),
    Function("cos", 1, 1, sig.floats, "Cosine of an angle in radians."),
    Function("tan", 1, 1, sig.floats, "Tangent of an angle in radians."),
    Function("asin", 1, 1, sig.floats, "The angle of a sine, in radians; NULL beyond ±1."),
    Function("acos", 1, 1, sig.floats, "The angle of a cosine, in radians; NULL beyond ±1."),
    Function("atan", 1, 1, sig.floats, "The angle of a tangent, in radians."),
    Function("atan2", 2, 2, sig.floats, "The angle of the point (b, a), in radians, -π to π."),
    Function("radians", 1, 1, sig.floats, "Degrees as radians."),
    Function("degrees", 1, 1, sig.floats, "Radians as degrees."),
    Function("lower", 1, 1, _TEXT, "Lower case, one code point for one."),
    Function("upper", 1, 1, _TEXT, "Upper case, one code point for one (ß is ẞ)."),
    Function("length", 1, 1, sig.length, "Number of code points, or of a list's items."),
    Function("trim", 1, 2, _TEXT, "Without the spaces, or characters of b, at both ends."),
    Function("ltrim", 1, 2, _TEXT, "Without the spaces, or characters of b, at the left end."),
    Function("rtrim", 1, 2, _TEXT, "Without the spaces, or characters of b, at the right end."),
    Function(
        "substring",
        2,
        3,
        sig.fixed(STRING, INT64, result=STRING),
        "From code point b (1 is the first, -1 the last), c of them; NULL beyond ±(2**32 - 1).",
    ),
    Function(
        "concat", 1, MANY, _TEXT, "The texts joined, NULLs left out.", "never NULL ('' of NULLs)"
    ),
    Function("join_text", 2, 2, _TEXT, "Two texts joined.", symbol="||"),
    Function("replace", 3, 3, _TEXT, "Every b in a replaced by c; a where b is ''."),
    Function("starts_with", 2, 2, _TEST, "Whether a starts with b."),
    Function("ends_with", 2, 2, _TEST, "Whether a ends with b."),
    Function("contains", 2, 2, _TEST, "Whether b stands in a."),
    Function(
        "left",
        2,
        2,
        sig.fixed(STRING, INT64, result=STRING),
        "The first b code points; all but the last -b where b < 0; NULL beyond ±(2**32 - 1).",
    ),
    Function(
        "right",
        2,
        2,
        sig.fixed(STRING, INT64, result=STRING),
        "The last b code points; all but the first -b where b < 0; NULL beyond ±(2**32 - 1).",
    ),
    Function(
        "lpad",
        3,
        3,
        sig.fixed(STRING, INT64, STRING, result=STRING),
        "a cut, or filled on the left with c, to b code points; "
        f"NULL where c is '' or b outside 0 to {PADDED_MAX}.",
    ),
    Function(
        "rpad",
        3,
        3,
        sig.fixed(STRING, INT64, STRING, result=STRING),
        "a cut, or filled on the right with c, to b code points; "
        f"NULL where c is '' or b outside 0 to {PADDED_MAX}.",
    ),
    Function(
        "strpos",
        2,
        2,
        sig.fixed(STRING, result=INT64),
        "Where in a, counted in code points from 1, b first begins; 0 where it does not.",
    ),
    Function(
        "split_part",
        3,
        3,
        sig.fixed(STRING, STRING, INT64, result=STRING),
        "Part c (1 is the first, -1 the last) of a split at each b; '' where there is none; "
        "NULL where b is '' or c beyond ±(2**31 - 1).",
    ),
    Function(
        "concat_ws",
        2,
        MANY,
        _TEXT,
        "The texts after the first joined with it between them, NULLs left out.",
        "NULL if a is NULL",
    ),
    Function("list_contains", 2, 2, sig.list_contains, "Whether b is an item of the list a."),
    Function(
        "list_extract",
        2,
        2,
        sig.list_extract,
        "Item b (1 is the first, -1 the last) of the list a.",
        "NULL where there is none, too",
    ),
    Function("year", 1, 1, sig.date_part, "Year."),
    Function("quarter", 1, 1, sig.date_part, "Quarter, 1 to 4."),
    Function("month", 1, 1, sig.date_part, "Month, 1 to 12."),
    Function("week", 1, 1, sig.date_part, "Week of the year by ISO 8601, 1 to 53."),
    Function("day", 1, 1, sig.date_part, "Day of the month, 1 to 31."),
    Function("hour", 1, 1, sig.date_part, "Hour, 0 to 23, UTC."),
    Function("minute", 1, 1, sig.date_part, "Minute, 0 to 59."),
    Function("second", 1, 1, sig.date_part, "Whole second, 0 to 59."),
    Function("dayofweek", 1, 1, sig.date_part, "Day of the week, 0 (Sunday) to 6."),
    Function("isodow", 1, 1, sig.date_part, "Day of the week, 1 (Monday) to 7."),
    Function("dayofyear", 1, 1, sig.date_part, "Day of the year, 1 to 366."),
    Function("epoch", 1, 1, sig.epoch, "Seconds since 1970-01-01 00:00 UTC, with their fraction."),
    Function("epoch_ms", 1, 1, sig.date_part, "Whole milliseconds since 1970-01-01 00:00 UTC."),
    Function("epoch_us", 1, 1, sig.date_part, "Microseconds since 1970-01-01 00:00 UTC."),
    Function(
        "dayname",
        1,
        1,
        sig.instant_function(STRING),
        "The English name of the day: Monday, Tuesday and so on.",
    ),
    Function(
        "monthname",
        1,
        1,
        sig.instant_function(STRING),
        "The English name of the month: January, February and so on.",
    ),
    Function("last_day", 1, 1, sig.instant_function(DATE), "The last day of the month, as a date."),
    Function(
        "make_date",
        3,
        3,
        sig.fixed(INT64, result=DATE),
        "The date of a year (1 to 9999), month and day; NULL where there is none.",
    ),
    Function(
        "make_timestamp",
        1,
        1,
        sig.fixed(INT64, result=TIMESTAMP),
        "The instant so many microseconds after 1970-01-01; NULL outside years 1 to 9999.",
    ),
    Function(
        "date_trunc",
        2,
        2,
        sig.date_trunc,
        "The start of the unit ('hour', 'day', 'week' from Monday, …) as a timestamp.",
    ),
    Function(
        "date_diff",
        3,
        3,
        sig.date_diff,
        "How many starts of the unit lie after the second and up to the third argument.",
    ),
    Function(
        "date_add",
        3,
        3,
        sig.date_add,
        "c moved by b units, as a timestamp; months keep the day where they have it, else end; "
        "NULL outside years 1 to 9999. Also written c + INTERVAL 3 DAY, c - INTERVAL '2 hours'.",
    ),
    Function(
        "request_time",
        0,
        0,
        lambda _: sig.Signature((), TIMESTAMP),
        "The time of the request online, of the entity row offline; in on-demand views only.",
        "never NULL",
    ),
)

FUNCTIONS: Mapping[str, Function] = {row.name: row for row in _ROWS}
"""The table, by the name that stands in trees and hashes."""

CAN_FAIL = frozenset(
    {"add", "sub", "mul", "div", "intdiv", "mod", "neg", "abs", "round", "power", "exp", "sqrt"}
    | {"ln", "log10", "log2", "substring", "left", "right", "date_diff", "asin", "acos"}
    | {"degrees", "lpad", "rpad", "split_part", "make_date", "make_timestamp", "date_add"}
)
"""The functions that may be NULL where none of their arguments is, for want of a result (`nullif`
is so by intent)."""

ALIASES: Mapping[str, str] = {
    "array_contains": "list_contains",
    "array_extract": "list_extract",
    "ceiling": "ceil",
    "datediff": "date_diff",
    "datetrunc": "date_trunc",
    "dow": "dayofweek",
    "doy": "dayofyear",
    "element": "list_extract",
    "ifnull": "coalesce",
    "instr": "strpos",
    "isnull": "is_null",
    "len": "length",
    "list_element": "list_extract",
    "list_has": "list_contains",
    "log": "log10",
    "pow": "power",
    "substr": "substring",
    "weekofyear": "week",
}
"""Other spellings that are read as a function of the table."""

CALLABLE: tuple[str, ...] = tuple(
    sorted(
        [r.name for r in _ROWS if r.symbol is None or r.name == "mod"]
        + [*ALIASES, "if", "pi", "date_part"]
    )
)
"""All that can be written as `name(…)`."""

OPERATORS: tuple[str, ...] = tuple(dict.fromkeys(r.symbol for r in _ROWS if r.symbol))
"""All that is written otherwise, in the order of the table."""

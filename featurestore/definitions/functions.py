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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

from featurestore.dtypes import BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, DType, Kind, common

Types = tuple[DType | None, ...]
"""Types of arguments; None is the type of a bare NULL, which fits everywhere."""

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
class Signature:
    """What the arguments are read as, and what comes out (None: a bare NULL)."""

    arguments: Types
    result: DType | None


Rule = Callable[[Types], Signature]
"""Raises `ValueError`, saying what was expected, for arguments that it does not take."""


@dataclass(frozen=True, slots=True)
class Function:
    """One row: `symbol` is how an operator is written; `minimum` to `maximum` arguments."""

    name: str
    minimum: int
    maximum: int
    signature: Rule
    doc: str
    nulls: str = STRICT
    symbol: str | None = None


def common_type(types: Types) -> DType | None:
    """The least type that all are read as; None where all are bare NULLs.

    Raises `ValueError` where there is none.
    """

    def join(left: DType | None, right: DType | None) -> DType | None:
        if left is None or right is None:
            return left or right
        found = common(left, right)
        if found is None:
            raise ValueError(f"{left} and {right} have no common type{_cast_hint(left, right)}")
        return found

    return reduce(join, types, None)


def _cast_hint(left: DType, right: DType) -> str:
    kinds = {left.kind, right.kind}
    if kinds == {Kind.STRING, Kind.DATE}:
        return "; write a date as DATE '2020-12-31'"
    if kinds == {Kind.STRING, Kind.TIMESTAMP}:
        return "; write an instant as TIMESTAMP '2020-12-31 10:00:00'"
    return "; CAST one of them"


def _takes(
    expected: str, accepts: Callable[[DType], bool], types: Types, *, first: int = 1
) -> None:
    for position, dtype in enumerate(types, first):
        if dtype is not None and not accepts(dtype):
            raise ValueError(f"argument {position} must be {expected}, not {dtype}")


def _is_number(dtype: DType) -> bool:
    return dtype.is_numeric


def _is_instant(dtype: DType) -> bool:
    return dtype.kind in (Kind.DATE, Kind.TIMESTAMP)


def _fixed(*arguments: DType, result: DType) -> Rule:
    """Arguments of exactly these types; the last one repeats."""

    def rule(types: Types) -> Signature:
        wanted = tuple(arguments[min(i, len(arguments) - 1)] for i in range(len(types)))
        for position, (dtype, want) in enumerate(zip(types, wanted, strict=True), 1):
            if dtype is not None and dtype != want and not (want == INT64 and dtype.is_integer):
                raise ValueError(f"argument {position} must be {want}, not {dtype}")
        return Signature(wanted, result)

    return rule


def _floats(types: Types) -> Signature:
    _takes("a number", _is_number, types)
    return Signature((FLOAT64,) * len(types), FLOAT64)


def _arithmetic(types: Types) -> Signature:
    """int64 of ints, float64 of all else."""
    hint = ""
    if any(t is not None and _is_instant(t) for t in types):
        hint = " (for instants there are date_diff(unit, a, b) and epoch(a))"
    _takes(f"a number{hint}", _is_number, types)
    wide = INT64 if all(t is None or t.is_integer for t in types) else FLOAT64
    return Signature((wide,) * len(types), wide)


def _integers(types: Types) -> Signature:
    _takes("an integer (of others, write floor(a / b))", lambda t: t.is_integer, types)
    return Signature((INT64,) * len(types), INT64)


def _round(types: Types) -> Signature:
    if len(types) == 1:
        return _arithmetic(types)
    _takes("a number", _is_number, types[:1])
    _takes("an integer", lambda t: t.is_integer, types[1:], first=2)
    return Signature((FLOAT64, INT64), FLOAT64)


def _sign(types: Types) -> Signature:
    return Signature(_arithmetic(types).arguments, INT64)


def _compared(types: Types) -> Signature:
    """Read as their common type; lists and maps do not compare."""
    _takes("no list", lambda t: t.kind is not Kind.LIST, types)
    _takes("no map", _is_no_map, types)
    return Signature((common_type(types),) * len(types), BOOL)


def _extreme(types: Types) -> Signature:
    arguments = _compared(types).arguments
    return Signature(arguments, arguments[0])


def _is_no_map(dtype: DType) -> bool:
    return dtype.kind is not Kind.MAP


def _shared(types: Types) -> Signature:
    _takes("no map", _is_no_map, types)
    wide = common_type(types)
    return Signature((wide,) * len(types), wide)


def _any(types: Types) -> Signature:
    return Signature(types, BOOL)


def _date_part(types: Types) -> Signature:
    _takes("a date or timestamp", _is_instant, types)
    return Signature((TIMESTAMP,) * len(types), INT64)


def _epoch(types: Types) -> Signature:
    return Signature(_date_part(types).arguments, FLOAT64)


def _date_trunc(types: Types) -> Signature:
    _takes("a date or timestamp", _is_instant, types[1:], first=2)
    return Signature((STRING, TIMESTAMP), TIMESTAMP)


def _date_diff(types: Types) -> Signature:
    _takes("a date or timestamp", _is_instant, types[1:], first=2)
    return Signature((STRING, TIMESTAMP, TIMESTAMP), INT64)


def _instant_function(result: DType) -> Rule:
    """Of a date or timestamp."""
    return lambda types: Signature(_date_part(types).arguments, result)


def _date_add(types: Types) -> Signature:
    _takes("an integer", lambda t: t.is_integer, types[1:2], first=2)
    _takes("a date or timestamp", _is_instant, types[2:], first=3)
    return Signature((STRING, INT64, TIMESTAMP), TIMESTAMP)


def _length(types: Types) -> Signature:
    _takes("a string or a list", lambda t: t.kind in (Kind.STRING, Kind.LIST), types)
    return Signature(tuple(t or STRING for t in types), INT64)


def _item(types: Types) -> DType | None:
    _takes("a list", lambda t: t.kind is Kind.LIST, types[:1])
    return types[0].item if types[0] is not None else None


def _list_contains(types: Types) -> Signature:
    item = _item(types)
    if item is not None and item.kind is Kind.LIST:
        raise ValueError("argument 1 must be a list of plain values")
    if item is not None and types[1] is not None and common(item, types[1]) != item:
        raise ValueError(f"argument 2 must be {item}, not {types[1]}")
    return Signature((types[0], item), BOOL)


def _list_extract(types: Types) -> Signature:
    _takes("an integer", lambda t: t.is_integer, types[1:], first=2)
    return Signature((types[0], INT64), _item(types))


_TEXT = _fixed(STRING, result=STRING)
_TEST = _fixed(STRING, result=BOOL)
_LOGIC = _fixed(BOOL, result=BOOL)

_ROWS = (
    Function("add", 2, 2, _arithmetic, "Sum.", symbol="+"),
    Function("sub", 2, 2, _arithmetic, "Difference.", symbol="-"),
    Function("mul", 2, 2, _arithmetic, "Product.", symbol="*"),
    Function("div", 2, 2, _floats, "Quotient as float64; NULL for a divisor of 0.", symbol="/"),
    Function("intdiv", 2, 2, _integers, "Integer quotient, cut toward 0.", symbol="//"),
    Function("mod", 2, 2, _arithmetic, "Remainder, with the sign of the dividend.", symbol="%"),
    Function("neg", 1, 1, _arithmetic, "Negation.", symbol="-"),
    Function("eq", 2, 2, _compared, "Equal.", symbol="="),
    Function("ne", 2, 2, _compared, "Not equal.", symbol="<>"),
    Function("lt", 2, 2, _compared, "Less; text by code point.", symbol="<"),
    Function("le", 2, 2, _compared, "Less or equal.", symbol="<="),
    Function("gt", 2, 2, _compared, "Greater.", symbol=">"),
    Function("ge", 2, 2, _compared, "Greater or equal.", symbol=">="),
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
        _compared,
        "Whether they differ, where NULL is a value like any other.",
        "never NULL",
        symbol="IS DISTINCT FROM",
    ),
    Function("is_null", 1, 1, _any, "Whether it is NULL.", "never NULL", symbol="IS NULL"),
    Function(
        "between",
        3,
        3,
        _compared,
        "a >= low AND a <= high.",
        "as the AND of both comparisons",
        symbol="BETWEEN",
    ),
    Function(
        "in",
        2,
        MANY,
        _compared,
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
    Function("coalesce", 1, MANY, _shared, "The first that is not NULL.", "NULL if all are"),
    Function("nullif", 2, 2, _extreme, "NULL if a = b, else a.", "NULL if a is NULL"),
    Function("greatest", 1, MANY, _extreme, "The greatest, NULLs left out.", "NULL if all are"),
    Function("least", 1, MANY, _extreme, "The least, NULLs left out.", "NULL if all are"),
    Function("abs", 1, 1, _arithmetic, "Absolute value."),
    Function(
        "round",
        1,
        2,
        _round,
        f"To so many digits (a literal of ±{ROUND_DIGITS_MAX}), halves away from 0.",
    ),
    Function("floor", 1, 1, _arithmetic, "The greatest whole number that is not greater."),
    Function("ceil", 1, 1, _arithmetic, "The least whole number that is not less."),
    Function("trunc", 1, 1, _arithmetic, "Without what stands behind the point."),
    Function("sign", 1, 1, _sign, "-1, 0 or 1."),
    Function("sqrt", 1, 1, _floats, "Square root; NULL below 0."),
    Function("ln", 1, 1, _floats, "Natural logarithm; NULL at 0 and below."),
    Function("log10", 1, 1, _floats, "Logarithm to base 10; NULL at 0 and below."),
    Function("log2", 1, 1, _floats, "Logarithm to base 2; NULL at 0 and below."),
    Function("exp", 1, 1, _floats, "e to the power of a."),
    Function("power", 2, 2, _floats, "a to the power of b."),
    Function("cbrt", 1, 1, _floats, "Cube root."),
    Function("sin", 1, 1, _floats, "Sine of an angle in radians."),
    Function("cos", 1, 1, _floats, "Cosine of an angle in radians."),
    Function("tan", 1, 1, _floats, "Tangent of an angle in radians."),
    Function("asin", 1, 1, _floats, "The angle of a sine, in radians; NULL beyond ±1."),
    Function("acos", 1, 1, _floats, "The angle of a cosine, in radians; NULL beyond ±1."),
    Function("atan", 1, 1, _floats, "The angle of a tangent, in radians."),
    Function("atan2", 2, 2, _floats, "The angle of the point (b, a), in radians, -π to π."),
    Function("radians", 1, 1, _floats, "Degrees as radians."),
    Function("degrees", 1, 1, _floats, "Radians as degrees."),
    Function("lower", 1, 1, _TEXT, "Lower case, one code point for one."),
    Function("upper", 1, 1, _TEXT, "Upper case, one code point for one (ß is ẞ)."),
    Function("length", 1, 1, _length, "Number of code points, or of a list's items."),
    Function("trim", 1, 2, _TEXT, "Without the spaces, or characters of b, at both ends."),
    Function("ltrim", 1, 2, _TEXT, "Without the spaces, or characters of b, at the left end."),
    Function("rtrim", 1, 2, _TEXT, "Without the spaces, or characters of b, at the right end."),
    Function(
        "substring",
        2,
        3,
        _fixed(STRING, INT64, result=STRING),
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
        _fixed(STRING, INT64, result=STRING),
        "The first b code points; all but the last -b where b < 0; NULL beyond ±(2**32 - 1).",
    ),
    Function(
        "right",
        2,
        2,
        _fixed(STRING, INT64, result=STRING),
        "The last b code points; all but the first -b where b < 0; NULL beyond ±(2**32 - 1).",
    ),
    Function(
        "lpad",
        3,
        3,
        _fixed(STRING, INT64, STRING, result=STRING),
        "a cut, or filled on the left with c, to b code points; "
        f"NULL where c is '' or b outside 0 to {PADDED_MAX}.",
    ),
    Function(
        "rpad",
        3,
        3,
        _fixed(STRING, INT64, STRING, result=STRING),
        "a cut, or filled on the right with c, to b code points; "
        f"NULL where c is '' or b outside 0 to {PADDED_MAX}.",
    ),
    Function(
        "strpos",
        2,
        2,
        _fixed(STRING, result=INT64),
        "Where in a, counted in code points from 1, b first begins; 0 where it does not.",
    ),
    Function(
        "split_part",
        3,
        3,
        _fixed(STRING, STRING, INT64, result=STRING),
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
    Function("list_contains", 2, 2, _list_contains, "Whether b is an item of the list a."),
    Function(
        "list_extract",
        2,
        2,
        _list_extract,
        "Item b (1 is the first, -1 the last) of the list a.",
        "NULL where there is none, too",
    ),
    Function("year", 1, 1, _date_part, "Year."),
    Function("quarter", 1, 1, _date_part, "Quarter, 1 to 4."),
    Function("month", 1, 1, _date_part, "Month, 1 to 12."),
    Function("week", 1, 1, _date_part, "Week of the year by ISO 8601, 1 to 53."),
    Function("day", 1, 1, _date_part, "Day of the month, 1 to 31."),
    Function("hour", 1, 1, _date_part, "Hour, 0 to 23, UTC."),
    Function("minute", 1, 1, _date_part, "Minute, 0 to 59."),
    Function("second", 1, 1, _date_part, "Whole second, 0 to 59."),
    Function("dayofweek", 1, 1, _date_part, "Day of the week, 0 (Sunday) to 6."),
    Function("isodow", 1, 1, _date_part, "Day of the week, 1 (Monday) to 7."),
    Function("dayofyear", 1, 1, _date_part, "Day of the year, 1 to 366."),
    Function("epoch", 1, 1, _epoch, "Seconds since 1970-01-01 00:00 UTC, with their fraction."),
    Function("epoch_ms", 1, 1, _date_part, "Whole milliseconds since 1970-01-01 00:00 UTC."),
    Function("epoch_us", 1, 1, _date_part, "Microseconds since 1970-01-01 00:00 UTC."),
    Function(
        "dayname",
        1,
        1,
        _instant_function(STRING),
        "The English name of the day: Monday, Tuesday and so on.",
    ),
    Function(
        "monthname",
        1,
        1,
        _instant_function(STRING),
        "The English name of the month: January, February and so on.",
    ),
    Function("last_day", 1, 1, _instant_function(DATE), "The last day of the month, as a date."),
    Function(
        "make_date",
        3,
        3,
        _fixed(INT64, result=DATE),
        "The date of a year (1 to 9999), month and day; NULL where there is none.",
    ),
    Function(
        "make_timestamp",
        1,
        1,
        _fixed(INT64, result=TIMESTAMP),
        "The instant so many microseconds after 1970-01-01; NULL outside years 1 to 9999.",
    ),
    Function(
        "date_trunc",
        2,
        2,
        _date_trunc,
        "The start of the unit ('hour', 'day', 'week' from Monday, …) as a timestamp.",
    ),
    Function(
        "date_diff",
        3,
        3,
        _date_diff,
        "How many starts of the unit lie after the second and up to the third argument.",
    ),
    Function(
        "date_add",
        3,
        3,
        _date_add,
        "c moved by b units, as a timestamp; months keep the day where they have it, else end; "
        "NULL outside years 1 to 9999. Also written c + INTERVAL 3 DAY, c - INTERVAL '2 hours'.",
    ),
    Function(
        "request_time",
        0,
        0,
        lambda _: Signature((), TIMESTAMP),
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

"""Expressions and values as DuckDB SQL.

**All timestamps inside engine SQL are naive `TIMESTAMP` in UTC.** Columns come in so (scans convert
zoned ones to UTC and drop the zone), expressions keep it so, and the output edge alone makes
`timestamp[us, UTC]` of it. `TIMESTAMPTZ` in between would make results depend on the session's
time zone. `sql_type` says the DuckDB type that a column of our type has under this rule.

**No row makes a query fail.** Where DuckDB would raise or yield inf or NaN, the text yields NULL:
by computing wider and narrowing with TRY_CAST, or by guarding an argument. Inside a chain of float
operations inf and NaN may run on (they never turn finite again there); they become NULL where the
chain ends. Nothing relies on session settings.

A text that must be mentioned twice (`CASE WHEN isfinite(x) THEN x END`) would double with every
level of nesting; the second level is therefore said by a list and a lambda, which mention it once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import assert_never

from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Inferred,
    Literal,
    case_type,
    infer,
    signature,
)
from featurestore.definitions.functions import MONTHS_MAX, PADDED_MAX, Signature
from featurestore.dtypes import (
    BOOL,
    DATE,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    Kind,
)
from featurestore.errors import InternalError, InvalidExpression
from featurestore.exprlib.casts import FLOAT_TEXT, INSTANT_TEXT, INTEGER_TEXT, WHITE
from featurestore.exprlib.instants import INSTANT_MAX, INSTANT_MIN

_OFFSET_MAX = 2**32 - 1
"""DuckDB's substring, left and right raise beyond it."""

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


def expression_sql(expression: Expression, schema: Mapping[str, DType]) -> str:
    """DuckDB text for `expression` over columns of `schema`, of the type `infer` says (as
    `sql_type` writes it). It never raises at run time, whatever the row.

    Raises `InvalidExpression` and `TypeMismatch` as `infer` does, and for `request_time()`, which
    `with_request_time` replaces by a column where rows have one.
    """
    infer(expression, schema)
    return _settled(_compile(expression, schema)).text


@dataclass(frozen=True, slots=True)
class _Value:
    """SQL text of type `dtype` (None: a bare NULL). `loose`: inf and NaN in it stand for NULL, and
    -0.0 for 0.0. `guarded`: it is long or says some text twice, so it may not be said twice itself.
    `integer`: the value of an integer literal."""

    text: str
    dtype: Inferred
    loose: bool = False
    guarded: bool = False
    integer: int | None = None


def _where(value: _Value, condition: str) -> _Value:
    """`value` where `condition` (with `{0}` for it) is true, else NULL."""
    if value.guarded:
        held = f"lambda v: {condition.format('v')}"
        return _Value(f"list_filter([{value.text}], {held})[1]", value.dtype, guarded=True)
    text = f"CASE WHEN {condition.format(value.text)} THEN {value.text} END"
    return _Value(text, value.dtype, guarded=True)


def _repeated(template: str, value: _Value) -> str:
    """`template`, which says its `{0}` more than once, of `value`."""
    if not value.guarded:
        return template.format(value.text)
    return f"list_transform([{value.text}], lambda v: {template.format('v')})[1]"


def _settled(value: _Value) -> _Value:
    """`value` with NULL for inf and NaN, and 0.0 for -0.0 (which adding 0.0 gives)."""
    if not value.loose:
        return value
    zero = "0e0" if value.dtype == FLOAT64 else "CAST(0 AS FLOAT)"
    plus = _Value(f"({value.text} + {zero})", value.dtype, guarded=value.guarded)
    return _where(plus, "isfinite({0})")


def _read_as(value: _Value, dtype: Inferred) -> _Value:
    """`value` widened to `dtype`, which holds all its values (but for a DATE far in the future)."""
    if dtype is None or value.dtype == dtype:
        return value
    if value.integer is not None and dtype == FLOAT64:
        return _Value(literal(float(value.integer)), dtype)
    cast = "TRY_CAST" if value.dtype == DATE else "CAST"
    return _Value(f"{cast}({value.text} AS {sql_type(dtype)})", dtype, value.loose, value.guarded)


def _compile(expression: Expression, schema: Mapping[str, DType]) -> _Value:
    match expression:
        case Column(name=name):
            return _Value(quote(name), schema[name])
        case Literal():
            return _literal_value(expression)
        case Call(arguments=arguments):
            values = [_compile(a, schema) for a in arguments]
            read = signature(expression, tuple(v.dtype for v in values))
            values = [_read_as(v, t) for v, t in zip(values, read.arguments, strict=True)]
            return _FORMS[expression.function](expression, values, read)
        case Cast(argument=argument, dtype=dtype):
            return _cast(_compile(argument, schema), dtype)
        case Case():
            return _case(expression, schema)
        case _:
            assert_never(expression)


def _literal_value(node: Literal) -> _Value:
    if node.dtype in (DATE, TIMESTAMP):
        instant = datetime.fromisoformat(str(node.value))
        return _Value(literal(instant.date() if node.dtype == DATE else instant), node.dtype)
    integer = int(node.value) if node.dtype == INT64 and node.value is not None else None
    return _Value(literal(node.value), node.dtype, integer=integer)


def _case(case: Case, schema: Mapping[str, DType]) -> _Value:
    whens = [_settled(_read_as(_compile(when, schema), BOOL)) for when, _ in case.branches]
    thens = [_settled(_compile(then, schema)) for _, then in case.branches]
    default = _settled(_compile(case.default, schema))
    dtype = case_type(case, (*(v.dtype for v in thens), default.dtype))
    pairs = " ".join(
        f"WHEN {when.text} THEN {_read_as(then, dtype).text}"
        for when, then in zip(whens, thens, strict=True)
    )
    text = f"CASE {pairs} ELSE {_read_as(default, dtype).text} END"
    return _Value(text, dtype, guarded=any(v.guarded for v in (*whens, *thens, default)))


# --- casts ----------------------------------------------------------------------------------------

_YEARS = {
    DATE: "{0} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31'",
    TIMESTAMP: (
        "{0} BETWEEN TIMESTAMP '0001-01-01 00:00:00' AND TIMESTAMP '9999-12-31 23:59:59.999999'"
    ),
}
"""What our instants can be; 'infinity' and the year 10000 are outside."""

_INSTANTS = f"{{0}} BETWEEN {INSTANT_MIN} AND {INSTANT_MAX}"

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


def _cast(value: _Value, target: DType) -> _Value:
    """CAST of our language: rounds as DuckDB does (halves of floats to even), NULL where the value
    does not fit or can't be read."""
    source = value.dtype
    if source is None or source == target:
        return _read_as(value, target)
    value = _settled(value)
    if source == STRING:
        return _cast_text(value, target)
    if source == FLOAT32 and target.kind is Kind.DECIMAL:
        value = _read_as(value, FLOAT64)
    if source == BOOL and target.kind is Kind.DECIMAL:
        # DuckDB 1.5 makes 0.0001 of true where there are no digits before the point.
        value = _Value(f"CAST({value.text} AS INTEGER)", INT32, guarded=value.guarded)
    if source.kind is Kind.DECIMAL and target == FLOAT32:
        value = _Value(f"CAST({value.text} AS DOUBLE)", FLOAT64, guarded=value.guarded)
    return _narrowed(value, target)


def _narrowed(value: _Value, target: DType) -> _Value:
    text = f"TRY_CAST({value.text} AS {sql_type(target)})"
    return _Value(text, target, loose=target.is_float, guarded=value.guarded)


def _cast_text(value: _Value, target: DType) -> _Value:
    """Only texts of our patterns are read: what else DuckDB reads differs between its versions."""
    if target in _YEARS:
        instant = _instant_of_text(_matching(value, INSTANT_TEXT))
        return instant if target == TIMESTAMP else _narrowed(instant, DATE)
    if target == BOOL:
        return _narrowed(value, BOOL)
    if not target.is_float:
        return _narrowed(_matching(value, INTEGER_TEXT), target)
    number = _narrowed(_matching(value, FLOAT_TEXT), FLOAT64)
    return number if target == FLOAT64 else _narrowed(_settled(number), FLOAT32)


def _matching(value: _Value, pattern: str) -> _Value:
    return _where(value, f"regexp_full_match({{0}}, {_in_format(pattern)})")


def _in_format(pattern: str) -> str:
    return "'" + pattern.replace("{", "{{").replace("}", "}}") + "'"


def _instant_of_text(value: _Value) -> _Value:
    """Text without a zone is UTC. TRY_CAST to TIMESTAMP would ignore the zone of a text that has
    one, and to TIMESTAMPTZ would take the session's zone for one that has none."""
    text = f"trim({value.text}, {literal(WHITE)}) || '+00'"
    for pattern, replacement in _TO_ZONED:
        text = f"regexp_replace({text}, '{pattern}', '{replacement}')"
    text = f"make_timestamp(epoch_us(TRY_CAST({text} AS TIMESTAMPTZ)))"
    return _where(_Value(text, TIMESTAMP, guarded=True), _YEARS[TIMESTAMP])


# --- functions ------------------------------------------------------------------------------------

Form = Callable[[Call, Sequence[_Value], Signature], _Value]


def _apply(template: str, values: Sequence[_Value], dtype: Inferred, *, loose: bool) -> _Value:
    texts = [v.text for v in values]
    text = template.format(*texts, all=", ".join(texts), rest=", ".join(texts[1:]))
    return _Value(text, dtype, loose, any(v.guarded for v in values))


def _plain(template: str) -> Form:
    """A function that is total on settled arguments and never yields inf or NaN."""

    def form(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
        return _apply(template, [_settled(v) for v in values], read.result, loose=False)

    return form


def _float(template: str, *, settle: frozenset[int] = frozenset()) -> Form:
    """A float function: inf and NaN run through, but for the arguments `settle`, of which an
    infinite one could give a finite result."""

    def form(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
        ready = [_settled(v) if i in settle else v for i, v in enumerate(values)]
        return _apply(template, ready, read.result, loose=True)

    return form


def _finite(name: str) -> Form:
    """A float function that gives a finite result of an infinite argument, or raises for one."""
    return _float(f"{name}({{0}})", settle=frozenset({0}))


def _either(integer: Form, floating: Form) -> Form:
    """By the type that the arguments are read as."""

    def form(call: Call, values: Sequence[_Value], read: Signature) -> _Value:
        chosen = integer if read.arguments[0] == INT64 else floating
        return chosen(call, values, read)

    return form


def _guarded(name: str, condition: str) -> Form:
    """A float function of the arguments for which `condition` is true."""

    def form(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
        return _apply(f"{name}({{0}})", [_where(values[0], condition)], read.result, loose=True)

    return form


def _slice(template: str) -> Form:
    """A function of a text and offsets; an offset that DuckDB does not take gives NULL."""

    def form(call: Call, values: Sequence[_Value], read: Signature) -> _Value:
        ready = [values[0]]
        for node, value in zip(call.arguments[1:], values[1:], strict=True):
            constant = node.value if isinstance(node, Literal) else None
            fits = isinstance(constant, int) and abs(constant) <= _OFFSET_MAX
            bounds = f"{{0}} BETWEEN -{_OFFSET_MAX} AND {_OFFSET_MAX}"
            ready.append(value if fits else _where(value, bounds))
        return _apply(template, ready, read.result, loose=False)

    return form


def _round(call: Call, values: Sequence[_Value], read: Signature) -> _Value:
    if len(values) == 1:
        return _either(_plain("{0}"), _float("round({0})"))(call, values, read)
    digits = call.arguments[1]
    if not isinstance(digits, Literal):
        raise InternalError(f"round takes its digits as a literal, not {digits!r}")
    # DuckDB's own rounding to digits is another one in 1.5 than in 2.0 (0.95 to 1.0 or 0.9), so
    # only its rounding to whole numbers is used.
    places = int(str(digits.value))
    scale = f"{10.0 ** abs(places)!r}::DOUBLE"
    if places < 0:
        return _apply(f"(round({{0}} / {scale}) * {scale})", values, read.result, loose=True)
    scaled = f"{{0}} * {scale}"
    text = f"CASE WHEN isfinite({scaled}) THEN round({scaled}) / {scale} ELSE {{0}} END"
    return _Value(_repeated(text, values[0]), read.result, loose=True, guarded=True)


def _date_diff(call: Call, values: Sequence[_Value], read: Signature) -> _Value:
    """DuckDB's weeks begin on Thursdays here (1970-01-01 was one); ours on Mondays, as date_trunc
    has them. TRY is for microseconds between instants 290,000 years apart, which overflow."""
    unit = call.arguments[0]
    if unit == Literal("week", STRING):
        mondays = "date_trunc('week', {1}), date_trunc('week', {2})"
        return _plain(f"(date_diff('day', {mondays}) // 7)")(call, values, read)
    return _plain("TRY(date_diff({0}, {1}, {2}))")(call, values, read)


_UNITS_US = {
    "week": 7 * 86_400_000_000,
    "day": 86_400_000_000,
    "hour": 3_600_000_000,
    "minute": 60_000_000,
    "second": 1_000_000,
    "millisecond": 1_000,
    "microsecond": 1,
}
_MONTHS = {"year": 12, "quarter": 3, "month": 1}


def _date_add(call: Call, values: Sequence[_Value], _: Signature) -> _Value:
    unit = str(call.arguments[0].value) if isinstance(call.arguments[0], Literal) else ""
    if unit in _MONTHS:
        most = MONTHS_MAX // _MONTHS[unit]
        count = _where(values[1], f"{{0}} BETWEEN -{most} AND {most}")
        text = f"TRY({values[2].text} + to_months(CAST({count.text} * {_MONTHS[unit]} AS INTEGER)))"
    else:
        moved = (
            f"CAST({values[1].text} AS HUGEINT) * {_UNITS_US[unit]} + epoch_us({values[2].text})"
        )
        bounded = _where(_Value(f"TRY_CAST({moved} AS BIGINT)", INT64, guarded=True), _INSTANTS)
        text = f"make_timestamp({bounded.text})"
    return _where(_Value(text, TIMESTAMP, guarded=True), _YEARS[TIMESTAMP])


def _make_timestamp(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
    return _apply("make_timestamp({0})", [_where(values[0], _INSTANTS)], read.result, loose=False)


def _make_date(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
    """DuckDB raises for what does not fit 32 bits, before TRY can catch it."""
    parts = [_where(values[0], "{0} BETWEEN 1 AND 9999")]
    parts += [_where(value, "{0} BETWEEN 1 AND 31") for value in values[1:]]
    return _apply("TRY(make_date({all}))", parts, read.result, loose=False)


def _pad(template: str) -> Form:
    def form(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
        count = _where(values[1], f"{{0}} BETWEEN 0 AND {PADDED_MAX}")
        text = _Value(f"CAST({count.text} AS INTEGER)", INT32, guarded=count.guarded)
        return _apply(template, [values[0], text, values[2]], read.result, loose=False)

    return form


def _split_part(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
    index = _where(values[2], "{0} BETWEEN -2147483647 AND 2147483647")
    return _apply(
        "split_part({0}, NULLIF({1}, ''), {2})", [*values[:2], index], read.result, loose=False
    )


def _list_contains(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
    """DuckDB finds no NULL in an empty list, where the rule is NULL."""
    items, wanted = (_settled(value) for value in values)
    if wanted.guarded:
        found = f"lambda w: list_contains({items.text}, w)"
        text = f"list_transform(list_filter([{wanted.text}], lambda w: w IS NOT NULL), {found})[1]"
    else:
        found = f"list_contains({items.text}, {wanted.text})"
        text = f"CASE WHEN {wanted.text} IS NOT NULL THEN {found} END"
    return _Value(text, read.result, guarded=True)


def _list_extract(_: Call, values: Sequence[_Value], read: Signature) -> _Value:
    index = _where(values[1], "{0} BETWEEN -2147483647 AND 2147483647")
    return _apply("list_extract({0}, {1})", [values[0], index], read.result, loose=False)


def _wide(template: str) -> Form:
    """int64 arithmetic computed as HUGEINT, which can't overflow here, and narrowed."""
    return _plain(f"TRY_CAST({template} AS BIGINT)")


def _request_time(_: Call, __: Sequence[_Value], ___: Signature) -> _Value:
    raise InvalidExpression(
        "request_time() has no value in stored rows; it may stand in on-demand views"
    )


_HUGE = "CAST({0} AS HUGEINT)"
_FORMS: Mapping[str, Form] = {
    "add": _either(_wide(f"{_HUGE} + {{1}}"), _float("({0} + {1})")),
    "sub": _either(_wide(f"{_HUGE} - {{1}}"), _float("({0} - {1})")),
    "mul": _either(_wide(f"{_HUGE} * {{1}}"), _float("({0} * {1})")),
    "div": _float("({0} / {1})", settle=frozenset({1})),
    "intdiv": _wide(f"{_HUGE} // NULLIF({{1}}, 0)"),
    "mod": _either(
        _wide(f"{_HUGE} % NULLIF({{1}}, 0)"),
        _float("({0} % NULLIF({1}, 0e0))", settle=frozenset({1})),
    ),
    "neg": _either(_wide(f"-{_HUGE}"), _float("(-{0})")),
    "eq": _plain("({0} = {1})"),
    "ne": _plain("({0} <> {1})"),
    "lt": _plain("({0} < {1})"),
    "le": _plain("({0} <= {1})"),
    "gt": _plain("({0} > {1})"),
    "ge": _plain("({0} >= {1})"),
    "and": _plain("({0} AND {1})"),
    "or": _plain("({0} OR {1})"),
    "not": _plain("(NOT {0})"),
    "is_distinct": _plain("({0} IS DISTINCT FROM {1})"),
    "is_null": _plain("({0} IS NULL)"),
    "between": _plain("({0} BETWEEN {1} AND {2})"),
    "in": _plain("({0} IN ({rest}))"),
    "like": _plain("({0} LIKE {1})"),
    "coalesce": _plain("coalesce({all})"),
    "nullif": _plain("NULLIF({0}, {1})"),
    "greatest": _plain("greatest({all})"),
    "least": _plain("least({all})"),
    "abs": _either(_wide(f"abs({_HUGE})"), _float("abs({0})")),
    "round": _round,
    "floor": _either(_plain("{0}"), _float("floor({0})")),
    "ceil": _either(_plain("{0}"), _float("ceil({0})")),
    "trunc": _either(_plain("{0}"), _float("trunc({0})")),
    "sign": _plain("CAST(sign({0}) AS BIGINT)"),
    "sqrt": _guarded("sqrt", "{0} >= 0"),
    "ln": _guarded("ln", "{0} > 0"),
    "log10": _guarded("log10", "{0} > 0"),
    "log2": _guarded("log2", "{0} > 0"),
    "exp": _float("exp({0})", settle=frozenset({0})),
    "power": _float("pow({0}, {1})", settle=frozenset({0, 1})),
    "cbrt": _float("cbrt({0})"),
    "sin": _finite("sin"),
    "cos": _finite("cos"),
    "tan": _finite("tan"),
    "asin": _guarded("asin", "{0} BETWEEN -1 AND 1"),
    "acos": _guarded("acos", "{0} BETWEEN -1 AND 1"),
    "atan": _finite("atan"),
    "atan2": _float("atan2({0}, {1})", settle=frozenset({0, 1})),
    "radians": _float("radians({0})"),
    "degrees": _float("degrees({0})"),
    "lower": _plain("lower({0})"),
    "upper": _plain("upper({0})"),
    "length": _plain("length({0})"),
    "trim": _plain("trim({all})"),
    "ltrim": _plain("ltrim({all})"),
    "rtrim": _plain("rtrim({all})"),
    "substring": _slice("substring({all})"),
    "concat": _plain("concat({all})"),
    "join_text": _plain("({0} || {1})"),
    "replace": _plain("replace({all})"),
    "starts_with": _plain("starts_with({all})"),
    "ends_with": _plain("ends_with({all})"),
    "contains": _plain("contains({all})"),
    "left": _slice("left({all})"),
    "right": _slice("right({all})"),
    "lpad": _pad("lpad({0}, {1}, NULLIF({2}, ''))"),
    "rpad": _pad("rpad({0}, {1}, NULLIF({2}, ''))"),
    "strpos": _plain("strpos({0}, {1})"),
    "split_part": _split_part,
    "concat_ws": _plain("concat_ws({all})"),
    "list_contains": _list_contains,
    "list_extract": _list_extract,
    "year": _plain("year({0})"),
    "quarter": _plain("quarter({0})"),
    "month": _plain("month({0})"),
    "week": _plain("week({0})"),
    "day": _plain("day({0})"),
    "hour": _plain("hour({0})"),
    "minute": _plain("minute({0})"),
    "second": _plain("second({0})"),
    "dayofweek": _plain("dayofweek({0})"),
    "isodow": _plain("isodow({0})"),
    "dayofyear": _plain("dayofyear({0})"),
    "epoch": _plain("(CAST(epoch_us({0}) AS DOUBLE) / 1e6)"),
    # date_trunc floors, where epoch_ms cuts toward 1970
    "epoch_ms": _plain("(epoch_us(date_trunc('millisecond', {0})) // 1000)"),
    "epoch_us": _plain("epoch_us({0})"),
    "dayname": _plain("dayname({0})"),
    "monthname": _plain("monthname({0})"),
    "last_day": _plain("last_day({0})"),
    "make_date": _make_date,
    "make_timestamp": _make_timestamp,
    "date_add": _date_add,
    "date_trunc": _plain("date_trunc({0}, {1})"),
    "date_diff": _date_diff,
    "request_time": _request_time,
}

FORMS = frozenset(_FORMS)
"""The functions that this target can compute; a test holds it against the table."""

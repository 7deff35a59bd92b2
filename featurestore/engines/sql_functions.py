"""What each function of our language is as DuckDB text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from featurestore.definitions.expression import Call, Inferred, Literal
from featurestore.definitions.functions import MONTHS_MAX, PADDED_MAX
from featurestore.definitions.signatures import Signature
from featurestore.dtypes import INT32, INT64, STRING, TIMESTAMP
from featurestore.engines.sql_casts import YEARS
from featurestore.engines.sql_texts import Text, repeated, settled, where
from featurestore.errors import InternalError, InvalidExpression
from featurestore.exprlib.instants import INSTANT_MAX, INSTANT_MIN

_OFFSET_MAX = 2**32 - 1
"""DuckDB's substring, left and right raise beyond it."""
_INSTANTS = f"{{0}} BETWEEN {INSTANT_MIN} AND {INSTANT_MAX}"

Form = Callable[[Call, Sequence[Text], Signature], Text]


def _apply(template: str, values: Sequence[Text], dtype: Inferred, *, loose: bool) -> Text:
    texts = [v.text for v in values]
    text = template.format(*texts, all=", ".join(texts), rest=", ".join(texts[1:]))
    return Text(text, dtype, loose, any(v.guarded for v in values))


def _plain(template: str) -> Form:
    """A function that is total on settled arguments and never yields inf or NaN."""

    def form(_: Call, values: Sequence[Text], read: Signature) -> Text:
        return _apply(template, [settled(v) for v in values], read.result, loose=False)

    return form


def _float(template: str, *, settle: frozenset[int] = frozenset()) -> Form:
    """A float function: inf and NaN run through, but for the arguments `settle`, of which an
    infinite one could give a finite result."""

    def form(_: Call, values: Sequence[Text], read: Signature) -> Text:
        ready = [settled(v) if i in settle else v for i, v in enumerate(values)]
        return _apply(template, ready, read.result, loose=True)

    return form


def _add(call: Call, values: Sequence[Text], read: Signature) -> Text:
    """Only of two -0.0 the sum is -0.0."""
    made = _float("({0} + {1})")(call, values, read)
    return replace(made, plain_zero=any(v.has_plain_zero for v in values))


def _subtract(call: Call, values: Sequence[Text], read: Signature) -> Text:
    """Only from -0.0 the difference to 0.0 is -0.0."""
    made = _float("({0} - {1})")(call, values, read)
    return replace(made, plain_zero=values[0].has_plain_zero)


def _absolute(call: Call, values: Sequence[Text], read: Signature) -> Text:
    return replace(_float("abs({0})")(call, values, read), not_negative=True)


def _square_root(call: Call, values: Sequence[Text], read: Signature) -> Text:
    if not values[0].not_negative:
        return _guarded("sqrt", "{0} >= 0")(call, values, read)
    return replace(_float("sqrt({0})")(call, values, read), not_negative=True)


def _finite(name: str) -> Form:
    """A float function that gives a finite result of an infinite argument, or raises for one."""
    return _float(f"{name}({{0}})", settle=frozenset({0}))


def _either(integer: Form, floating: Form) -> Form:
    """By the type that the arguments are read as."""

    def form(call: Call, values: Sequence[Text], read: Signature) -> Text:
        chosen = integer if read.arguments[0] == INT64 else floating
        return chosen(call, values, read)

    return form


def _guarded(name: str, condition: str) -> Form:
    """A float function of the arguments for which `condition` is true."""

    def form(_: Call, values: Sequence[Text], read: Signature) -> Text:
        return _apply(f"{name}({{0}})", [where(values[0], condition)], read.result, loose=True)

    return form


def _slice(template: str) -> Form:
    """A function of a text and offsets; an offset that DuckDB does not take gives NULL."""

    def form(call: Call, values: Sequence[Text], read: Signature) -> Text:
        ready = [values[0]]
        for node, value in zip(call.arguments[1:], values[1:], strict=True):
            constant = node.value if isinstance(node, Literal) else None
            fits = isinstance(constant, int) and abs(constant) <= _OFFSET_MAX
            bounds = f"{{0}} BETWEEN -{_OFFSET_MAX} AND {_OFFSET_MAX}"
            ready.append(value if fits else where(value, bounds))
        return _apply(template, ready, read.result, loose=False)

    return form


def _round(call: Call, values: Sequence[Text], read: Signature) -> Text:
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
    return Text(repeated(text, values[0]), read.result, loose=True, guarded=True)


def _date_diff(call: Call, values: Sequence[Text], read: Signature) -> Text:
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


def _date_add(call: Call, values: Sequence[Text], _: Signature) -> Text:
    unit = str(call.arguments[0].value) if isinstance(call.arguments[0], Literal) else ""
    if unit in _MONTHS:
        most = MONTHS_MAX // _MONTHS[unit]
        count = where(values[1], f"{{0}} BETWEEN -{most} AND {most}")
        text = f"TRY({values[2].text} + to_months(CAST({count.text} * {_MONTHS[unit]} AS INTEGER)))"
    else:
        moved = (
            f"CAST({values[1].text} AS HUGEINT) * {_UNITS_US[unit]} + epoch_us({values[2].text})"
        )
        bounded = where(Text(f"TRY_CAST({moved} AS BIGINT)", INT64, guarded=True), _INSTANTS)
        text = f"make_timestamp({bounded.text})"
    return where(Text(text, TIMESTAMP, guarded=True), YEARS[TIMESTAMP])


def _make_timestamp(_: Call, values: Sequence[Text], read: Signature) -> Text:
    return _apply("make_timestamp({0})", [where(values[0], _INSTANTS)], read.result, loose=False)


def _make_date(_: Call, values: Sequence[Text], read: Signature) -> Text:
    """DuckDB raises for what does not fit 32 bits, before TRY can catch it."""
    parts = [where(values[0], "{0} BETWEEN 1 AND 9999")]
    parts += [where(value, "{0} BETWEEN 1 AND 31") for value in values[1:]]
    return _apply("TRY(make_date({all}))", parts, read.result, loose=False)


def _pad(template: str) -> Form:
    def form(_: Call, values: Sequence[Text], read: Signature) -> Text:
        count = where(values[1], f"{{0}} BETWEEN 0 AND {PADDED_MAX}")
        text = Text(f"CAST({count.text} AS INTEGER)", INT32, guarded=count.guarded)
        return _apply(template, [values[0], text, values[2]], read.result, loose=False)

    return form


def _split_part(_: Call, values: Sequence[Text], read: Signature) -> Text:
    index = where(values[2], "{0} BETWEEN -2147483647 AND 2147483647")
    return _apply(
        "split_part({0}, NULLIF({1}, ''), {2})", [*values[:2], index], read.result, loose=False
    )


def _list_contains(_: Call, values: Sequence[Text], read: Signature) -> Text:
    """DuckDB finds no NULL in an empty list, where the rule is NULL."""
    items, wanted = (settled(value) for value in values)
    if wanted.guarded:
        found = f"lambda w: list_contains({items.text}, w)"
        text = f"list_transform(list_filter([{wanted.text}], lambda w: w IS NOT NULL), {found})[1]"
    else:
        found = f"list_contains({items.text}, {wanted.text})"
        text = f"CASE WHEN {wanted.text} IS NOT NULL THEN {found} END"
    return Text(text, read.result, guarded=True)


def _list_extract(_: Call, values: Sequence[Text], read: Signature) -> Text:
    index = where(values[1], "{0} BETWEEN -2147483647 AND 2147483647")
    return _apply("list_extract({0}, {1})", [values[0], index], read.result, loose=False)


def _wide(template: str) -> Form:
    """int64 arithmetic computed as HUGEINT, which can't overflow here, and narrowed."""
    return _plain(f"TRY_CAST({template} AS BIGINT)")


def _request_time(_: Call, __: Sequence[Text], ___: Signature) -> Text:
    raise InvalidExpression(
        "request_time() has no value in stored rows; it may stand in on-demand views"
    )


_HUGE = "CAST({0} AS HUGEINT)"
FORMS: Mapping[str, Form] = {
    "add": _either(_wide(f"{_HUGE} + {{1}}"), _add),
    "sub": _either(_wide(f"{_HUGE} - {{1}}"), _subtract),
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
    "abs": _either(_wide(f"abs({_HUGE})"), _absolute),
    "round": _round,
    "floor": _either(_plain("{0}"), _float("floor({0})")),
    "ceil": _either(_plain("{0}"), _float("ceil({0})")),
    "trunc": _either(_plain("{0}"), _float("trunc({0})")),
    "sign": _plain("CAST(sign({0}) AS BIGINT)"),
    "sqrt": _square_root,
    "ln": _guarded("ln", "{0} > 0"),
    "log10": _guarded("log10", "{0} > 0"),
    "log2": _guarded("log2", "{0} > 0"),
    "exp": _float("exp({0})", settle=frozenset({0})),
    "power": _float("pow({0}, {1})", settle=frozenset({0, 1})),
    "cbrt": _float("cbrt({0})"),
    **{name: _guarded(name, "isfinite({0})") for name in ("sin", "cos", "tan")},
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
"""A test holds them against the table of functions."""

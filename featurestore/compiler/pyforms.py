"""How generated Python computes each function of the expression language.

A form is a text with `{0}` for the first argument (`{all}` for all of them) and `@name` for
`exprlib.name`. Its arguments are read as the function's table says and are not NULL.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from featurestore.definitions.expression import Call, Expression, Literal
from featurestore.definitions.signatures import Types
from featurestore.dtypes import INT64, DType, Kind
from featurestore.errors import InternalError
from featurestore.exprlib import instants

Bounds = tuple[int, int]
"""The least and the greatest value of an int."""


@dataclass(frozen=True, slots=True)
class Form:
    """`loose`: inf and NaN in it mean that there is no value. `chain`: the arguments in which inf
    and NaN may run on, for they never come out finite. `maybe`: it is None where there is no value,
    which is no loss if `quiet`. `twice`: it mentions an argument twice. `fails`: a condition on the
    arguments for which there is no value. `bounds`: those of an int result by those of the
    arguments; beyond int64 there is no value."""

    text: str
    loose: bool = False
    chain: tuple[int, ...] = ()
    maybe: bool = False
    quiet: bool = False
    twice: bool = False
    fails: str = ""
    bounds: Callable[..., Bounds] | None = None


def _corners(operation: Callable[[int, int], int]) -> Callable[[Bounds, Bounds], Bounds]:
    def bounds(left: Bounds, right: Bounds) -> Bounds:
        corners = [operation(a, b) for a in left for b in right]
        return min(corners), max(corners)

    return bounds


def _quotient(left: Bounds, _: Bounds) -> Bounds:
    most = max(map(abs, left))
    return -most, most


def _remainder(left: Bounds, right: Bounds) -> Bounds:
    most = min(max(map(abs, left)), max(map(abs, right)))
    return -most if left[0] < 0 else 0, most


def _same(bounds: Bounds, *_: Bounds) -> Bounds:
    return bounds


def _within(low: int, high: int) -> Callable[..., Bounds]:
    return lambda *_: (low, high)


_DAY, _HOUR, _MINUTE = instants.DAY_US, 3_600_000_000, 60_000_000
_YEARS = _within(1, 9999)
UNITS_US: Mapping[str, int] = {
    "week": 7 * _DAY,
    "day": _DAY,
    "hour": _HOUR,
    "minute": _MINUTE,
    "second": 1_000_000,
    "millisecond": 1_000,
    "microsecond": 1,
}
_MONTHS = {"year": 12, "quarter": 3, "month": 1}


def _float(text: str) -> Form:
    return Form(text, loose=True, chain=(0, 1))


def _finite(text: str) -> Form:
    return Form(text, loose=True)


INTEGERS: Mapping[str, Form] = {
    "add": Form("({0} + {1})", bounds=_corners(operator.add)),
    "sub": Form("({0} - {1})", bounds=_corners(operator.sub)),
    "mul": Form("({0} * {1})", bounds=_corners(operator.mul)),
    "intdiv": Form("@quotient({0}, {1})", fails="{1} == 0", bounds=_quotient, twice=True),
    "mod": Form("@remainder({0}, {1})", fails="{1} == 0", bounds=_remainder, twice=True),
    "neg": Form("(-{0})", bounds=lambda a: (-a[1], -a[0])),
    "abs": Form("@absolute({0})", bounds=lambda a: (0, max(map(abs, a)))),
    "round": Form("{0}", bounds=_same),
    "floor": Form("{0}", bounds=_same),
    "ceil": Form("{0}", bounds=_same),
    "trunc": Form("{0}", bounds=_same),
}
"""Forms over int64 of functions that have others over float64."""

FORMS: Mapping[str, Form] = {
    "add": _float("({0} + {1})"),
    "sub": _float("({0} - {1})"),
    "mul": _float("({0} * {1})"),
    "div": Form("({0} / {1})", loose=True, chain=(0,), fails="{1} == 0.0", twice=True),
    "mod": _finite("@modulo({0}, {1})"),
    "neg": _float("(-{0})"),
    "eq": Form("({0} == {1})"),
    "ne": Form("({0} != {1})"),
    "lt": Form("({0} < {1})"),
    "le": Form("({0} <= {1})"),
    "gt": Form("({0} > {1})"),
    "ge": Form("({0} >= {1})"),
    "not": Form("(not {0})"),
    "like": Form("@like({0}, {1})"),
    "abs": _float("@absolute({0})"),
    "round": _float("@round_away({0})"),
    "floor": _float("({0} // 1.0)"),
    "ceil": _float("(-(-{0} // 1.0))"),
    "trunc": _float("@cut({0})"),
    "sign": Form("(({0} > 0) - ({0} < 0))", twice=True, bounds=_within(-1, 1)),
    "sqrt": _float("@sqrt({0})"),
    "ln": _float("@ln({0})"),
    "log10": _float("@log10({0})"),
    "log2": _float("@log2({0})"),
    "exp": _finite("@exp({0})"),
    "power": _finite("@power({0}, {1})"),
    "cbrt": _float("@cbrt({0})"),
    **{name: _finite(f"@{name}({{0}})") for name in ("sin", "cos", "tan", "asin", "acos", "atan")},
    "atan2": _finite("@atan2({0}, {1})"),
    "radians": _float(f"({{0}} * {math.pi / 180.0!r})"),
    "degrees": _float(f"({{0}} * {180.0 / math.pi!r})"),
    "lower": Form("@lower({0})"),
    "upper": Form("@upper({0})"),
    "length": Form("@length({0})", bounds=_within(0, 2**40)),
    "substring": Form("@substring({all})", maybe=True),
    "join_text": Form("({0} + {1})"),
    "replace": Form("@replace({all})"),
    "starts_with": Form("{0}.startswith({1})"),
    "ends_with": Form("{0}.endswith({1})"),
    "contains": Form("({1} in {0})"),
    "left": Form("@left({0}, {1})", maybe=True),
    "right": Form("@right({0}, {1})", maybe=True),
    "lpad": Form("@lpad({all})", maybe=True),
    "rpad": Form("@rpad({all})", maybe=True),
    "strpos": Form("({0}.find({1}) + 1)", bounds=_within(0, 2**40)),
    "split_part": Form("@split_part({all})", maybe=True),
    "list_contains": Form("({1} in {0})"),
    "list_extract": Form("@list_extract({0}, {1})", maybe=True, quiet=True),
    "year": Form("@year({0})", bounds=_YEARS),
    "quarter": Form("((@month({0}) + 2) // 3)", bounds=_within(1, 4)),
    "week": Form("@week({0})", bounds=_within(1, 53)),
    "month": Form("@month({0})", bounds=_within(1, 12)),
    "day": Form("@day({0})", bounds=_within(1, 31)),
    "hour": Form(f"({{0}} // {_HOUR} % 24)", bounds=_within(0, 23)),
    "minute": Form(f"({{0}} // {_MINUTE} % 60)", bounds=_within(0, 59)),
    "second": Form("({0} // 1000000 % 60)", bounds=_within(0, 59)),
    "dayofweek": Form(f"(({{0}} // {_DAY} + 4) % 7)", bounds=_within(0, 6)),
    "isodow": Form(f"(({{0}} // {_DAY} + 3) % 7 + 1)", bounds=_within(1, 7)),
    "dayofyear": Form("@dayofyear({0})", bounds=_within(1, 366)),
    "epoch": Form("({0} / 1000000.0)"),
    "epoch_ms": Form("({0} // 1000)"),
    "epoch_us": Form("{0}"),
    "dayname": Form(f"@DAY_NAMES[({{0}} // {_DAY} + 3) % 7]"),
    "monthname": Form("@MONTH_NAMES[@month({0}) - 1]"),
    "last_day": Form("@last_day({0})"),
    "make_date": Form("@make_date({all})", maybe=True),
    "make_timestamp": Form(
        "{0}", fails=f"not {instants.INSTANT_MIN} <= {{0}} <= {instants.INSTANT_MAX}"
    ),
}


def trim_form(function: str, count: int) -> Form:
    """Of `trim`, `ltrim` and `rtrim`, by the number of their arguments."""
    method = {"trim": "strip", "ltrim": "lstrip", "rtrim": "rstrip"}[function]
    return Form(f"{{0}}.{method}({'@SPACES' if count == 1 else '{1}'})")


def round_form(digits: int) -> Form:
    """Of `round` with digits, a literal."""
    if digits < 0:
        return _finite(f"@round_tens({{0}}, {10.0**-digits!r})")
    return _float(f"@round_digits({{0}}, {10.0**digits!r})")


def date_trunc_form(unit: str) -> Form:
    """Of `date_trunc` to `unit`; its argument is `{0}`."""
    if unit in instants.CALENDAR_TRUNC:
        return Form(f"@trunc_{unit}({{0}})")
    return Form(f"({{0}} // {UNITS_US[unit]} * {UNITS_US[unit]})")


def date_diff_form(unit: str) -> Form:
    """Of `date_diff` in `unit`; its arguments are `{0}` and `{1}`."""
    if unit in _MONTHS:
        step = _MONTHS[unit]
        return Form(f"(@months({{1}}) // {step} - @months({{0}}) // {step})")
    if unit == "week":
        weeks = [f"(({part} // {_DAY} + 3) // 7)" for part in ("{1}", "{0}")]
        return Form(f"({' - '.join(weeks)})")
    return Form(f"({{1}} // {UNITS_US[unit]} - {{0}} // {UNITS_US[unit]})")


def date_add_form(unit: str) -> Form:
    """Of `date_add` in `unit`; its arguments are the number `{0}` and the instant `{1}`."""
    if unit in _MONTHS:
        return Form(f"@add_months({{1}}, {{0}}, {_MONTHS[unit]})", maybe=True)
    return Form(f"@add_us({{1}}, {{0}} * {UNITS_US[unit]})", maybe=True)


SPECIAL = frozenset(
    (
        "and",
        "or",
        "is_null",
        "between",
        "in",
        "coalesce",
        "nullif",
        "greatest",
        "least",
        "concat",
        "concat_ws",
        "is_distinct",
        "request_time",
    )
)
"""Functions whose NULLs follow rules of their own; the generators know them."""

BY_LITERAL = frozenset(("trim", "ltrim", "rtrim", "date_trunc", "date_diff", "date_add"))
"""Functions whose form depends on a literal or on the number of arguments."""

ONE_LINE = frozenset(
    name
    for name, form in FORMS.items()
    if not (form.loose or form.maybe or form.twice or form.fails or name in INTEGERS)
) | frozenset(("and", "or"))
"""Functions whose value is one text that needs no test."""

PYTHON_FORMS = frozenset(FORMS) | frozenset(INTEGERS) | SPECIAL | BY_LITERAL
"""The functions that generated Python computes; a test holds it against the table."""


def form_of(call: Call, read: Types) -> tuple[Form, slice]:
    """A strict call's form, and which of its arguments the form takes; `read`: their types."""
    name, arguments = call.function, call.arguments
    match name:
        case "trim" | "ltrim" | "rtrim":
            return trim_form(name, len(arguments)), slice(None)
        case "date_trunc":
            return date_trunc_form(constant(arguments[0])), slice(1, None)
        case "date_add":
            return date_add_form(constant(arguments[0])), slice(1, None)
        case "date_diff":
            return date_diff_form(constant(arguments[0])), slice(1, None)
        case "round" if len(arguments) == 2:
            return round_form(int(constant(arguments[1]))), slice(0, 1)
        case "div" if isinstance(arguments[1], Literal) and arguments[1].value:
            return _float("({0} / {1})"), slice(None)
        case _ if name in INTEGERS and read[0] == INT64:
            return INTEGERS[name], slice(None)
        case _:
            return FORMS[name], slice(None)


def constant(node: Expression) -> str:
    """The text of a literal argument."""
    if not isinstance(node, Literal):
        raise InternalError(f"a literal is due, not {node!r}")
    return str(node.value)


_FAR = 2**1100
_ANY_INT = _within(-_FAR, _FAR)


def cast_form(source: DType, target: DType) -> Form | None:
    """Of CAST between two types; None where values stay as they are. An int that does not fit its
    type is found out by whoever holds it."""
    have, want = source.kind, target.kind
    match have, want:
        case _ if source == target:
            return None
        case (Kind.INT32, Kind.INT64) | (Kind.FLOAT32, Kind.FLOAT64):
            return None
        case Kind.DECIMAL, Kind.FLOAT64:
            return Form(f"@decimal_float({{0}}, {source.scale})")
        case Kind.DECIMAL, Kind.FLOAT32:
            return _finite(f"@float32(@decimal_float({{0}}, {source.scale}))")
        case Kind.DECIMAL, Kind.STRING:
            return Form(f"@text_of_decimal({{0}}, {source.precision}, {source.scale})")
        case Kind.STRING, Kind.DECIMAL:
            text = f"@decimal_of_text({{0}}, {target.precision}, {target.scale})"
            return Form(text, maybe=True)
        case _, Kind.DECIMAL:
            origin = {Kind.FLOAT32: "float", Kind.FLOAT64: "float"}.get(have, "")
            name = "decimal_of_float" if origin else "decimal_of"
            return Form(f"@{name}({{0}}, {target.precision}, {target.scale})", maybe=True)
        case _:
            return _CASTS[have, want]


_AS_THEY_ARE = Form("{0}", bounds=_same)
_TO_TEXT = {
    Kind.BOOL: "bool",
    Kind.INT32: "int",
    Kind.INT64: "int",
    Kind.FLOAT32: "float32",
    Kind.FLOAT64: "float",
    Kind.DATE: "date",
    Kind.TIMESTAMP: "instant",
}
_INT_KINDS, _FLOAT_KINDS = (Kind.INT32, Kind.INT64), (Kind.FLOAT32, Kind.FLOAT64)
_CASTS: Mapping[tuple[Kind, Kind], Form] = {
    **{(kind, Kind.STRING): Form(f"@text_of_{name}({{0}})") for kind, name in _TO_TEXT.items()},
    **{(a, b): _AS_THEY_ARE for a in _INT_KINDS for b in _INT_KINDS},
    **{(a, Kind.FLOAT64): Form("({0} + 0.0)") for a in (*_INT_KINDS, Kind.BOOL)},
    **{(a, Kind.FLOAT32): Form("@float32_of_int({0})") for a in (*_INT_KINDS, Kind.BOOL)},
    **{
        (a, b): Form("@int_of_float({0})", bounds=_ANY_INT)
        for a in _FLOAT_KINDS
        for b in _INT_KINDS
    },
    **{(Kind.BOOL, b): Form("({0} + 0)", bounds=_within(0, 1)) for b in _INT_KINDS},
    **{(a, Kind.BOOL): Form("({0} != 0)") for a in (*_INT_KINDS, *_FLOAT_KINDS, Kind.DECIMAL)},
    **{(Kind.DECIMAL, b): Form("@int_of_decimal({0})", bounds=_ANY_INT) for b in _INT_KINDS},
    **{
        (Kind.STRING, b): Form("@int_of_text({0})", maybe=True, bounds=_ANY_INT) for b in _INT_KINDS
    },
    (Kind.FLOAT64, Kind.FLOAT32): _finite("@float32({0})"),
    (Kind.STRING, Kind.FLOAT64): _finite("@float_of_text({0})"),
    (Kind.STRING, Kind.FLOAT32): _finite("@float32(@float_of_text({0}))"),
    (Kind.STRING, Kind.BOOL): Form("@bool_of_text({0})", maybe=True),
    (Kind.STRING, Kind.DATE): Form("@date_of_text({0})", maybe=True),
    (Kind.STRING, Kind.TIMESTAMP): Form("@instant_of_text({0})", maybe=True),
    (Kind.DATE, Kind.TIMESTAMP): Form(f"({{0}} * {_DAY})"),
    (Kind.TIMESTAMP, Kind.DATE): Form(f"({{0}} // {_DAY})"),
}

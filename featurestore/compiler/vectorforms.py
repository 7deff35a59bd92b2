"""How generated numpy computes functions of the expression language over columns.

As `pyforms`; `@name` is `exprlib.vectors.name`, `$name` any other name of `exprlib`.
"""

from __future__ import annotations

from collections.abc import Mapping

from featurestore.compiler.pyforms import FORMS, INTEGERS, Form, date_trunc_form
from featurestore.dtypes import Kind
from featurestore.exprlib.instants import CALENDAR_TRUNC, DAY_US

FLOATS = frozenset((Kind.FLOAT32, Kind.FLOAT64))
INTS = frozenset((Kind.INT32, Kind.INT64, Kind.TIMESTAMP, Kind.DATE))
VECTOR_KINDS = FLOATS | INTS | {Kind.BOOL}


def _chain(text: str) -> Form:
    return Form(text, loose=True, chain=(0, 1))


def _finite(text: str) -> Form:
    return Form(text, loose=True)


def _like_row(*names: str) -> dict[str, Form]:
    return {name: FORMS[name] for name in names}


VECTOR_FORMS: Mapping[str, Form] = {
    **_like_row("add", "sub", "mul", "neg", "eq", "ne", "lt", "le", "gt", "ge"),
    **_like_row("hour", "minute", "second", "dayofweek", "isodow", "epoch", "epoch_ms", "epoch_us"),
    **_like_row("radians", "degrees"),
    "trunc": _chain("@trunc({0})"),
    "div": Form("({0} / {1})", loose=True, chain=(0,)),
    "mod": _finite("@fmod({0}, {1})"),
    "not": Form("(~{0})"),
    "abs": _chain("@absolute({0})"),
    "round": _chain("@round_away({0})"),
    "floor": _chain("@floor({0})"),
    "ceil": _chain("@ceil({0})"),
    "sign": Form("@sign({0})", bounds=FORMS["sign"].bounds),
    "sqrt": _chain("@sqrt({0})"),
    **{name: _chain(f"@mapped(${name}, {{0}})") for name in ("ln", "log10", "log2", "cbrt")},
    **{
        name: _finite(f"@mapped(${name}, {{all}})")
        for name in ("exp", "power", "sin", "cos", "tan", "asin", "acos", "atan", "atan2")
    },
    "year": Form("(@months({0}) // 12 + 1970)", bounds=FORMS["year"].bounds),
    "month": Form("(@months({0}) % 12 + 1)", bounds=FORMS["month"].bounds),
    "quarter": Form("(@months({0}) % 12 // 3 + 1)", bounds=FORMS["quarter"].bounds),
    "day": Form("@day({0})", bounds=FORMS["day"].bounds),
    "dayofyear": Form("@dayofyear({0})", bounds=FORMS["dayofyear"].bounds),
}

CHECKED: Mapping[str, str] = {
    "add": "@add({0}, {1})",
    "sub": "@sub({0}, {1})",
    "mul": "@mul({0}, {1})",
    "neg": "@neg({0})",
    "abs": "@absolute_int({0})",
    "intdiv": "@quotient({0}, {1})",
    "mod": "@remainder({0}, {1})",
}
"""Functions over int64 that may have no result: the texts give values and where they are none."""

VECTOR_INTEGERS: Mapping[str, Form] = {
    **{
        name: INTEGERS[name]
        for name in ("add", "sub", "mul", "neg", "round", "floor", "ceil", "trunc")
    },
    "abs": Form("@absolute({0})", bounds=INTEGERS["abs"].bounds),
    "intdiv": INTEGERS["intdiv"],
    "mod": INTEGERS["mod"],
}

VECTOR_SPECIAL = frozenset(
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
        "request_time",
    )
)

_MONTHS = {"year": 12, "quarter": 3, "month": 1}
VECTOR_FUNCTIONS = (
    frozenset(VECTOR_FORMS)
    | frozenset(VECTOR_INTEGERS)
    | VECTOR_SPECIAL
    | {"date_trunc", "date_diff"}
)
"""What numpy computes of numbers, instants and truth values; a loop over the rows does the rest."""


def vector_trunc_form(unit: str) -> Form:
    """Of `date_trunc` to `unit`."""
    if unit == "week":
        return Form(f"({{0}} // {DAY_US} - ({{0}} // {DAY_US} + 3) % 7) * {DAY_US}", twice=True)
    if unit in CALENDAR_TRUNC:
        step = _MONTHS[unit]
        return Form(f"@start_of_months(@months({{0}}) // {step} * {step})")
    return date_trunc_form(unit)

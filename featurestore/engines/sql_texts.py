"""The text of a part of an expression, and what is known of it while a whole is made of parts.

**No row makes a query fail.** Where DuckDB would raise or yield inf or NaN, the text yields NULL:
by computing wider and narrowing with TRY_CAST, or by guarding an argument. Inside a chain of float
operations inf and NaN may run on (they never turn finite again there); they become NULL where the
chain ends. Nothing relies on session settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from featurestore.definitions.expression import Inferred
from featurestore.dtypes import DATE, FLOAT64
from featurestore.engines.sql import literal, sql_type


@dataclass(frozen=True, slots=True)
class Text:
    """SQL text of type `dtype` (None: a bare NULL). `loose`: inf and NaN in it stand for NULL, and
    -0.0 for 0.0. `guarded`: it is long or says some text twice, so it may not be said twice itself.
    `integer`: the value of an integer literal. `plain_zero`: it is known never to be -0.0,
    `not_negative`: nor below zero."""

    text: str
    dtype: Inferred
    loose: bool = False
    guarded: bool = False
    integer: int | None = None
    plain_zero: bool = False
    not_negative: bool = False

    @property
    def has_plain_zero(self) -> bool:
        return not self.loose or self.plain_zero or self.not_negative


def where(value: Text, condition: str) -> Text:
    """`value` where `condition` (with `{0}` for it) is true, else NULL."""
    if value.guarded:
        held = f"lambda v: {condition.format('v')}"
        return Text(f"list_filter([{value.text}], {held})[1]", value.dtype, guarded=True)
    text = f"CASE WHEN {condition.format(value.text)} THEN {value.text} END"
    return Text(text, value.dtype, guarded=True)


def repeated(template: str, value: Text) -> str:
    """`template`, which says its `{0}` more than once, of `value`."""
    if not value.guarded:
        return template.format(value.text)
    return f"list_transform([{value.text}], lambda v: {template.format('v')})[1]"


def settled(value: Text) -> Text:
    """`value` with NULL for inf and NaN, and 0.0 for -0.0."""
    return where(with_plain_zero(value), "isfinite({0})") if value.loose else value


def with_plain_zero(value: Text) -> Text:
    """`value` with 0.0 for -0.0, which adding 0.0 gives."""
    if value.has_plain_zero:
        return value
    zero = "0e0" if value.dtype == FLOAT64 else "CAST(0 AS FLOAT)"
    return replace(value, text=f"({value.text} + {zero})", plain_zero=True)


def read_as(value: Text, dtype: Inferred) -> Text:
    """`value` widened to `dtype`, which holds all its values (but for a DATE far in the future)."""
    if dtype is None or value.dtype == dtype:
        return value
    if value.integer is not None and dtype == FLOAT64:
        return Text(literal(float(value.integer)), dtype)
    cast = "TRY_CAST" if value.dtype == DATE else "CAST"
    text = f"{cast}({value.text} AS {sql_type(dtype)})"
    return replace(value, text=text, dtype=dtype, integer=None)

"""Expressions as DuckDB text.

A text that must be mentioned twice (`CASE WHEN isfinite(x) THEN x END`) would double with every
level of nesting. Where a projection can stand below (`shared_sql`) it becomes a column of that, and
costs what it costs once; elsewhere (`expression_sql`) the second level is said by a list and a
lambda, which mention it once and are dear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Literal,
    case_type,
    infer,
    signature,
)
from featurestore.dtypes import BOOL, DATE, INT64, TIMESTAMP, DType
from featurestore.engines.sql import literal, quote
from featurestore.engines.sql_casts import cast_sql
from featurestore.engines.sql_functions import FORMS
from featurestore.engines.sql_texts import Text, read_as, settled


def expression_sql(expression: Expression, schema: Mapping[str, DType]) -> str:
    """DuckDB text for `expression` over columns of `schema`, of the type `infer` says (as
    `sql_type` writes it). It never raises at run time, whatever the row.

    Raises `InvalidExpression` and `TypeMismatch` as `infer` does, and for `request_time()`, which
    `with_request_time` replaces by a column where rows have one.
    """
    infer(expression, schema)
    return settled(_Compiler(schema).value(expression)).text


@dataclass(frozen=True, slots=True)
class Shared:
    """`texts` of expressions over columns, and over the columns that `layers` add (quoted name →
    text): each layer a projection that keeps all columns of what it reads."""

    texts: Mapping[str, str]
    layers: Sequence[Mapping[str, str]]


def shared_sql(expressions: Mapping[str, Expression], schema: Mapping[str, DType]) -> Shared:
    """As `expression_sql`, of several expressions by name. What would be said twice in them stands
    in a layer, and what several have in common of that stands there once.

    Raises as `expression_sql` does.
    """
    layers = _Layers(taken={name.casefold() for name in schema})
    compiler = _Compiler(schema, layers)
    texts = {}
    for name, expression in expressions.items():
        infer(expression, schema)
        texts[name] = settled(compiler.value(expression)).text
    return Shared(texts, [{name: text for text, name in one.items()} for one in layers.found])


@dataclass(slots=True)
class _Layers:
    """What has been put into projections: for each of them the quoted name of each text."""

    taken: set[str]
    found: list[dict[str, str]] = field(default_factory=list)

    def hold(self, text: str, layer: int) -> str:
        """The name of `text` as a column of the projection `layer`."""
        if layer == len(self.found):
            self.found.append({})
        names = self.found[layer]
        if text not in names:
            count = sum(map(len, self.found))
            while (name := f"part {count}") in self.taken:
                count += 1
            self.taken.add(name)
            names[text] = quote(name)
        return names[text]


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Expressions over columns of `schema`, and over those of `layers`, where there are any."""

    schema: Mapping[str, DType]
    layers: _Layers | None = None

    def value(self, expression: Expression) -> Text:
        return self._compiled(expression)[0]

    def _compiled(self, expression: Expression) -> tuple[Text, int]:
        """The value, and how many layers it stands above."""
        match expression:
            case Column(name=name):
                return Text(quote(name), self.schema[name]), 0
            case Literal():
                return _literal_value(expression), 0
            case Call(arguments=arguments):
                made, layer = self._all(arguments)
                read = signature(expression, tuple(v.dtype for v in made))
                made = [read_as(v, t) for v, t in zip(made, read.arguments, strict=True)]
                value = FORMS[expression.function](expression, made, read)
            case Cast(argument=argument, dtype=dtype):
                made, layer = self._all((argument,))
                value = cast_sql(made[0], dtype)
            case Case(branches=branches, default=default):
                made, layer = self._all([*(one for pair in branches for one in pair), default])
                value = _case(expression, made)
            case _:
                assert_never(expression)
        if value.guarded and self.layers is not None:
            name = self.layers.hold(value.text, layer)
            return replace(value, text=name, guarded=False), layer + 1
        return value, layer

    def _all(self, expressions: Sequence[Expression]) -> tuple[list[Text], int]:
        found = [self._compiled(one) for one in expressions]
        return [value for value, _ in found], max((layer for _, layer in found), default=0)


def _literal_value(node: Literal) -> Text:
    if node.dtype in (DATE, TIMESTAMP):
        instant = datetime.fromisoformat(str(node.value))
        return Text(literal(instant.date() if node.dtype == DATE else instant), node.dtype)
    integer = int(node.value) if node.dtype == INT64 and node.value is not None else None
    value = node.value + 0.0 if isinstance(node.value, float) else node.value  # no -0.0
    return Text(literal(value), node.dtype, integer=integer)


def _case(case: Case, values: Sequence[Text]) -> Text:
    """`values`: of each branch the condition and the value, then the default."""
    *pairs, default = map(settled, values)
    whens = [settled(read_as(when, BOOL)) for when in pairs[::2]]
    thens = pairs[1::2]
    dtype = case_type(case, (*(v.dtype for v in thens), default.dtype))
    branches = " ".join(
        f"WHEN {when.text} THEN {read_as(then, dtype).text}"
        for when, then in zip(whens, thens, strict=True)
    )
    text = f"CASE {branches} ELSE {read_as(default, dtype).text} END"
    return Text(text, dtype, guarded=any(v.guarded for v in (*whens, *thens, default)))

"""SQL text → our tree, by way of sqlglot: what is not listed here does not exist.

sqlglot reads every `name(…)` as a plain call (the dialect below knows no function), so that names
are looked up in our table alone, whatever sqlglot knows of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError

from featurestore import timeline
from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Literal,
    place,
)
from featurestore.definitions.functions import (
    ALIASES,
    CALLABLE,
    DATE_UNITS,
    FUNCTIONS,
    OPERATORS,
    ROUND_DIGITS_MAX,
)
from featurestore.dtypes import BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, DType, Kind
from featurestore.dtypes import parse as parse_dtype
from featurestore.errors import InvalidExpression, InvalidRequest, suggest

EXPRESSION_CHARACTERS_MAX = 10_000
EXPRESSION_DEPTH_MAX = 100
"""Levels of nesting; a chain `a + b + c` nests once for each operator."""

_INT64 = range(-(2**63), 2**63)
_AGGREGATES = {"avg", "count", "max", "mean", "median", "min", "std", "stddev", "sum", "variance"}
_CLOCKS = {"current_date", "current_timestamp", "get_current_timestamp", "now", "today"}
_ALLOWED = (
    f"Allowed are columns, literals, {' '.join(OPERATORS)}, CASE, CAST and the functions "
    f"{', '.join(name for name in CALLABLE if name not in ALIASES)}."
)


class _FeatureSql(DuckDB):
    """DuckDB's syntax without DuckDB's functions."""

    class Parser(DuckDB.Parser):  # type: ignore[misc, valid-type]  # an alias, made by sqlglot
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: DuckDB.Parser.FUNCTION_PARSERS[name] for name in ("CAST", "TRY_CAST")
        }
        NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            "CASE": DuckDB.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]
        }


def parse(text: str) -> Expression:
    """See `expression.parse_expression`."""
    return parse_with_positions(text)[0]


def parse_with_positions(text: str) -> tuple[Expression, Callable[[Expression], int | None]]:
    """The tree, and a function that tells where in the text a node of it (itself, not an equal one)
    begins."""
    if len(text) > EXPRESSION_CHARACTERS_MAX:
        raise InvalidExpression(
            f"The expression has {len(text):,} characters, more than "
            f"EXPRESSION_CHARACTERS_MAX = {EXPRESSION_CHARACTERS_MAX:,}; split it into features"
        )
    if not text.strip():
        raise InvalidExpression("The expression is empty", position=0)
    converter = _Converter(text)
    try:
        tree = converter.convert(_syntax(text), 1)
    except RecursionError:
        raise _too_deep(text) from None
    return tree, converter.position_of


def _too_deep(text: str) -> InvalidExpression:
    return InvalidExpression(
        f"{_excerpt(text)}: nested more than EXPRESSION_DEPTH_MAX = {EXPRESSION_DEPTH_MAX} deep; "
        "split it into features"
    )


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else line[:79] + "…")


def _syntax(text: str) -> exp.Expression:
    """sqlglot's tree. Its errors show a context of the text, from which comes the position."""
    try:
        dialect = _FeatureSql()
        trees = dialect.parser(error_message_context=len(text)).parse(dialect.tokenize(text), text)
    except SqlglotError as error:
        details = getattr(error, "errors", None) or [{}]
        before = details[0].get("start_context")
        position = len(before) if before is not None else None
        found = details[0].get("highlight")
        where = f" {place(text, position)}" if position is not None else ""
        near = f", near {found!r}" if found else ""
        raise InvalidExpression(
            f"{_excerpt(text)} is not an SQL expression: it can't be read{where}{near}",
            position=position,
        ) from None
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, exp.Expression):
        raise InvalidExpression(f"{_excerpt(text)} is not one SQL expression", position=0)
    return tree


_BINARY: dict[type[exp.Expression], str] = {
    exp.Add: "add",
    exp.Sub: "sub",
    exp.Mul: "mul",
    exp.Div: "div",
    exp.IntDiv: "intdiv",
    exp.Mod: "mod",
    exp.EQ: "eq",
    exp.NEQ: "ne",
    exp.LT: "lt",
    exp.LTE: "le",
    exp.GT: "gt",
    exp.GTE: "ge",
    exp.And: "and",
    exp.Or: "or",
    exp.DPipe: "join_text",
    exp.Like: "like",
    exp.NullSafeNEQ: "is_distinct",
    exp.Pow: "power",
}


class _Converter:
    """Converts one text's nodes; holds the text for messages."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._nodes: dict[int, exp.Expression] = {}

    def convert(self, node: exp.Expression, depth: int) -> Expression:
        """The tree of `node`, `depth` levels below the top."""
        found = self._convert(node, depth)
        self._nodes.setdefault(id(found), node)
        return found

    def position_of(self, made: Expression) -> int | None:
        """Where in the text a node that was made begins."""
        node = self._nodes.get(id(made))
        return None if node is None else _position(node)

    def _convert(self, node: exp.Expression, depth: int) -> Expression:  # noqa: C901, PLR0911, PLR0912
        if depth > EXPRESSION_DEPTH_MAX:
            raise _too_deep(self._text)
        if isinstance(node, exp.Paren):
            return self.convert(node.this, depth)

        def part(child: exp.Expression) -> Expression:
            return self.convert(child, depth + 1)

        if isinstance(node, exp.Add | exp.Sub) and isinstance(node.expression, exp.Interval):
            return self._moved(node, node.expression, part)
        if type(node) in _BINARY:
            return self._binary(node, part)
        match node:
            case exp.Column():
                return self._column(node)
            case exp.Literal():
                return self._literal(node, negative=False)
            case exp.Boolean():
                return Literal(bool(node.this), BOOL)
            case exp.Null():
                return Literal(None, None)
            case exp.Neg():
                return self._negation(node, part)
            case exp.Not():
                return Call("not", (part(node.this),))
            case exp.Is() if isinstance(node.expression, exp.Null):
                return Call("is_null", (part(node.this),))
            case exp.Is() if isinstance(node.expression, exp.Boolean):
                distinct = Call("is_distinct", (part(node.this), part(node.expression)))
                return Call("not", (distinct,))
            case exp.NullSafeEQ():
                sides = (part(node.this), part(node.expression))
                return Call("not", (Call("is_distinct", sides),))
            case exp.ILike():
                sides = (part(node.this), part(node.expression))
                matches = Call("like", tuple(Call("lower", (side,)) for side in sides))
                return Call("not", (matches,)) if node.args.get("negate") else matches
            case exp.Between():
                ends = (node.args["low"], node.args["high"])
                return Call("between", (part(node.this), *map(part, ends)))
            case exp.In():
                return self._in(node, part)
            case exp.Case():
                return self._case(node, part)
            case exp.Cast():
                return self._cast(node, part)
            case exp.Anonymous():
                return self._call(node, part)
            case exp.Interval():
                hint = "Write t + INTERVAL 3 DAY, or date_add('day', 3, t)."
                what = "an INTERVAL is not allowed but beside + and -"
                raise self._refuse(node, what, hint=hint)
            case _:
                raise self._refuse(node, f"{_words(node)} is not allowed in an expression")

    def _refuse(
        self, node: exp.Expression, what: str, *, hint: str = _ALLOWED
    ) -> InvalidExpression:
        position = _position(node)
        where = f" ({place(self._text, position)})" if position is not None else ""
        return InvalidExpression(
            f"{_excerpt(self._text)}: {what}{where}. {hint}".rstrip(), position=position
        )

    def _binary(self, node: exp.Expression, part: Callable[[exp.Expression], Expression]) -> Call:
        call = Call(_BINARY[type(node)], (part(node.this), part(node.expression)))
        return Call("not", (call,)) if node.args.get("negate") else call

    def _moved(
        self,
        node: exp.Expression,
        interval: exp.Interval,
        part: Callable[[exp.Expression], Expression],
    ) -> Call:
        """`t + INTERVAL 3 DAY`."""
        unit = str(interval.args["unit"] or "").lower().removesuffix("s")
        amount: Expression | None = part(interval.this) if interval.this is not None else None
        if isinstance(amount, Literal) and amount.dtype == STRING:
            text = str(amount.value).strip()
            whole = text.lstrip("+-").isdigit() and int(text) in _INT64
            amount = Literal(int(text), INT64) if whole else None
        if unit not in DATE_UNITS or amount is None:
            raise self._refuse(
                node, "the interval is not readable", hint="Write INTERVAL 3 DAY or '3 days'."
            )
        if isinstance(node, exp.Sub):
            if isinstance(amount, Literal) and isinstance(amount.value, int):
                amount = Literal(-amount.value, INT64)
            else:
                amount = Call("neg", (amount,))
        return Call("date_add", (Literal(unit, STRING), amount, part(node.this)))

    def _column(self, node: exp.Column) -> Column:
        if not isinstance(node.this, exp.Identifier):
            raise self._refuse(node, "`*` is not allowed in an expression")
        if len(node.parts) > 1:
            name = ".".join(part.name for part in node.parts)
            raise self._refuse(
                node, f"{name!r} is qualified", hint="Write a column by its own name."
            )
        return Column(node.name)

    def _literal(self, node: exp.Literal, *, negative: bool) -> Literal:
        if node.is_string:
            return Literal(node.this, STRING)
        text = f"-{node.this}" if negative else str(node.this)
        if text.lstrip("-").isdigit():
            if int(text) not in _INT64:
                raise self._refuse(node, f"{text} does not fit int64", hint=f"Write {text}.0.")
            return Literal(int(text), INT64)
        number = float(text)
        if not math.isfinite(number):
            raise self._refuse(node, f"{text} does not fit float64", hint="")
        return Literal(number + 0.0, FLOAT64)

    def _negation(self, node: exp.Neg, part: Callable[[exp.Expression], Expression]) -> Expression:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return self._literal(node.this, negative=True)
        return Call("neg", (part(node.this),))

    def _in(self, node: exp.In, part: Callable[[exp.Expression], Expression]) -> Call:
        items = [part(item) for item in node.expressions]
        if not items or not all(isinstance(item, Literal) for item in items):
            raise self._refuse(node, "IN takes a list of literals", hint="")
        return Call("in", (part(node.this), *items))

    def _case(self, node: exp.Case, part: Callable[[exp.Expression], Expression]) -> Case:
        subject = part(node.this) if node.this is not None else None

        def condition(when: exp.Expression) -> Expression:
            value = part(when)
            return value if subject is None else Call("eq", (subject, value))

        default = node.args.get("default")
        return Case(
            tuple((condition(b.this), part(b.args["true"])) for b in node.args["ifs"]),
            Literal(None, None) if default is None else part(default),
        )

    def _cast(self, node: exp.Cast, part: Callable[[exp.Expression], Expression]) -> Expression:
        dtype = self._dtype(node, node.args["to"])
        argument = part(node.this)
        if isinstance(argument, Literal) and argument.dtype == STRING:
            if dtype == DATE:
                return Literal(self._date(node, str(argument.value)), DATE)
            if dtype == TIMESTAMP:
                return Literal(self._instant(node, str(argument.value)), TIMESTAMP)
        return Cast(argument, dtype)

    def _date(self, node: exp.Expression, text: str) -> str:
        instant = self._instant(node, text)
        if len(text.strip()) != len("2020-12-31"):
            raise self._refuse(node, f"{text!r} is not a date", hint="Write DATE '2020-12-31'.")
        return instant[: len("2020-12-31")]

    def _instant(self, node: exp.Expression, text: str) -> str:
        try:
            return timeline.format_instant(timeline.to_us(text.strip()))
        except InvalidRequest:
            raise self._refuse(
                node,
                f"{text!r} is not an instant",
                hint="Write DATE '2020-12-31' or TIMESTAMP '2020-12-31 10:00:00'.",
            ) from None

    def _dtype(self, node: exp.Cast, to: exp.Expression) -> DType:
        kind = getattr(to.this, "value", str(to.this))
        if kind in _SQL_TYPES:
            return _SQL_TYPES[kind]
        sizes = [int(p.name) for p in to.expressions if p.name.isdigit()]
        if kind == "DECIMAL" and len(sizes) == 2:
            try:
                return DType(Kind.DECIMAL, precision=sizes[0], scale=sizes[1])
            except ValueError as error:
                raise self._refuse(node, str(error), hint="") from None
        written = str(to.args.get("kind") or kind).lower()
        if to.args.get("kind") is not None and written in _OWN_TYPES:
            return parse_dtype(written)
        raise self._refuse(
            node,
            f"{written!r} is not a type to cast to",
            hint=suggest(written, _OWN_TYPES).strip()
            or f"The types are {', '.join(_OWN_TYPES)}, decimal(p,s).",
        )

    def _call(
        self, node: exp.Anonymous, part: Callable[[exp.Expression], Expression]
    ) -> Expression:
        written = str(node.this)
        name = written.lower()
        if name not in CALLABLE:
            raise self._unknown(node, written)
        arguments = tuple(part(argument) for argument in node.expressions)
        if name == "if":
            self._count(node, arguments, 2, 3)
            default = arguments[2] if len(arguments) == 3 else Literal(None, None)
            return Case(((arguments[0], arguments[1]),), default)
        if name == "pi":
            self._count(node, arguments, 0, 0)
            return Literal(math.pi, FLOAT64)
        if name == "date_part":
            return self._date_part(node, arguments)
        row = FUNCTIONS[ALIASES.get(name, name)]
        self._count(node, arguments, row.minimum, row.maximum)
        if row.name in ("date_trunc", "date_diff", "date_add"):
            arguments = (self._unit(node, arguments[0]), *arguments[1:])
        if row.name == "round" and len(arguments) == 2:
            self._check_digits(node, arguments[1])
        return Call(row.name, arguments)

    def _date_part(self, node: exp.Anonymous, arguments: Sequence[Expression]) -> Call:
        """`date_part('hour', t)` is `hour(t)`."""
        self._count(node, arguments, 2, 2)
        unit = arguments[0].value if isinstance(arguments[0], Literal) else None
        name = ALIASES.get(str(unit).lower(), str(unit).lower())
        if not isinstance(unit, str) or name not in _DATE_PARTS:
            shown = ", ".join(f"'{part}'" for part in _DATE_PARTS)
            raise self._refuse(node, f"the part must be one of {shown}", hint="")
        return Call(name, (arguments[1],))

    def _unknown(self, node: exp.Anonymous, written: str) -> InvalidExpression:
        what = f"{written}() is not a function of expressions"
        if written.lower() in _CLOCKS:
            what += " (the time of the request is request_time())"
        if written.lower() in _AGGREGATES:
            what += " (an expression sees one row; to aggregate, write an SqlSource)"
        hint = suggest(written.lower(), CALLABLE).strip()
        return self._refuse(node, what, hint=hint if hint.startswith("Did") else _ALLOWED)

    def _count(
        self, node: exp.Anonymous, arguments: Sequence[Expression], low: int, high: int
    ) -> None:
        if not low <= len(arguments) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise self._refuse(
                node, f"{node.this}() takes {wanted} arguments, not {len(arguments)}", hint=""
            )

    def _unit(self, node: exp.Expression, argument: Expression) -> Literal:
        unit = argument.value if isinstance(argument, Literal) else None
        if not isinstance(unit, str) or unit.lower() not in DATE_UNITS:
            shown = ", ".join(f"'{u}'" for u in DATE_UNITS)
            raise self._refuse(node, f"the unit must be one of {shown}", hint="")
        return Literal(unit.lower(), STRING)

    def _check_digits(self, node: exp.Expression, argument: Expression) -> None:
        digits = argument.value if isinstance(argument, Literal) else None
        if not isinstance(digits, int) or abs(digits) > ROUND_DIGITS_MAX:
            raise self._refuse(
                node, f"round() takes its digits as a literal of ±{ROUND_DIGITS_MAX}", hint=""
            )


_DATE_PARTS = (
    *("year", "quarter", "month", "week", "day", "hour", "minute", "second"),
    *("dayofweek", "isodow", "dayofyear", "epoch"),
)
_SQL_TYPES = {
    "BIGINT": INT64,
    "BOOLEAN": BOOL,
    "DATE": DATE,
    "DOUBLE": FLOAT64,
    "FLOAT": DType(Kind.FLOAT32),
    "INT": DType(Kind.INT32),
    "TEXT": STRING,
    "TIMESTAMP": TIMESTAMP,
    "TIMESTAMPNTZ": TIMESTAMP,
    "TIMESTAMPTZ": TIMESTAMP,
    "VARCHAR": STRING,
}
_OWN_TYPES = ("bool", "int32", "int64", "float32", "float64", "string", "timestamp", "date")


def _position(node: exp.Expression) -> int | None:
    """Where the text of `node` begins: the least position that sqlglot noted in it."""
    if isinstance(node, exp.Alias):
        node = node.args["alias"]
    starts = [n.meta["start"] for n in node.walk() if "start" in n.meta]
    return min(starts, default=None)


def _words(node: exp.Expression) -> str:
    """What a refused node is called: `a -> b` is "JSONExtract"."""
    names = {exp.Alias: "a second expression", exp.Subquery: "a query", exp.Select: "a query"}
    return names.get(type(node), f"{type(node).__name__} ({_excerpt(node.sql('duckdb'))})")

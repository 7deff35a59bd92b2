"""SQL scalar expressions as a small typed tree of our own: the same tree gives the engine's SQL,
the types, the column lineage and the canonical form for hashing.

A tree is made by `parse_expression` (or by hand: `Column("temp")` for a plain feature) and means
the same everywhere; what each function does is said in `definitions.functions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

from featurestore.definitions.functions import FUNCTIONS
from featurestore.definitions.signatures import Signature, common_type
from featurestore.dtypes import BOOL, DType, Kind, parse
from featurestore.errors import InvalidExpression, TypeMismatch, suggest
from featurestore.records import Transformation


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the source, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; `dtype` is None for NULL. Dates and timestamps are held as ISO text in UTC
    (`2013-07-01`, `2013-07-01T12:00:00Z`)."""

    value: bool | int | float | str | None
    dtype: DType | None


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator of our language applied to arguments (`add`, `eq`, `coalesce`, …)."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Cast:
    """A value read as another type; NULL where it does not fit."""

    argument: Expression
    dtype: DType


@dataclass(frozen=True, slots=True)
class Case:
    """CASE WHEN: the value of the first branch whose condition is true, else `default`."""

    branches: tuple[tuple[Expression, Expression], ...]
    default: Expression


Expression = Column | Literal | Call | Cast | Case

Inferred = DType | None
"""A type, or None for what is NULL whatever the row."""


def parse_expression(text: str) -> Expression:
    """The tree of an SQL scalar expression.

    Raises `InvalidExpression` with the position (characters from 0) of what is not in our language.
    """
    from featurestore.definitions.parsing import parse  # sqlglot, loaded by who needs it

    return parse(text)


def read_expression(text: str, schema: Mapping[str, DType]) -> tuple[Expression, Inferred]:
    """The tree of `text` over columns of `schema`, and its type (None: a bare NULL). As
    `parse_expression` and `inferred`, but errors of types, too, say where in the text they are.

    Raises `InvalidExpression` and `TypeMismatch`, with `position`.
    """
    from featurestore.definitions.parsing import parse_with_positions

    tree, position_of = parse_with_positions(text)
    try:
        return tree, inferred(tree, schema)
    except (InvalidExpression, TypeMismatch) as error:
        culprit = _culprit(tree, schema)
        position = None if culprit is None else position_of(culprit)
        where = "" if position is None else f" ({place(text, position)})"
        raise type(error)(f"{error.message}{where}", position=position) from None


def place(text: str, position: int) -> str:
    """Where in an expression a position (characters from 0) is, in words; of lines, in which."""
    line, begin = text.count("\n", 0, position), text.rfind("\n", 0, position) + 1
    if "\n" not in text.strip():
        return f"at character {position}"
    return f"at line {line + 1}, character {position - begin}"


def _culprit(node: Expression, schema: Mapping[str, DType]) -> Expression | None:
    """The first innermost node that has no type."""
    for child in children(node):
        if found := _culprit(child, schema):
            return found
    try:
        inferred(node, schema)
    except (InvalidExpression, TypeMismatch):
        return node
    return None


def children(expression: Expression) -> tuple[Expression, ...]:
    """The direct parts of a node, in the order of the text."""
    match expression:
        case Column() | Literal():
            return ()
        case Call(arguments=arguments):
            return arguments
        case Cast(argument=argument):
            return (argument,)
        case Case(branches=branches, default=default):
            return (*(part for branch in branches for part in branch), default)
        case _:
            assert_never(expression)


def walk(expression: Expression) -> Iterator[Expression]:
    """The node and all below it, parents first, in the order of the text."""
    todo = [expression]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(reversed(children(node)))


def columns_of(expression: Expression) -> tuple[str, ...]:
    """The names of the columns that it reads, each once, in the order of first use."""
    return tuple(dict.fromkeys(n.name for n in walk(expression) if isinstance(n, Column)))


def column_lineage(expression: Expression | str) -> dict[str, Transformation]:
    """The columns that an expression (or its text) reads, in the order of first use, and how, in
    OpenLineage's words. `DIRECT`: the value is computed from the column's; that is so for arguments
    of all functions and operators, comparisons included, and for every result of CASE, `if` and
    `coalesce`. `INDIRECT`: the column only decides which value is taken: the conditions of CASE and
    `if`, and the second argument of `nullif`. A column that is read in both ways is DIRECT.

    Raises `InvalidExpression` as `parse_expression` does.
    """
    tree = parse_expression(expression) if isinstance(expression, str) else expression
    found: dict[str, Transformation] = {}
    for name, kind in _reads(tree, "DIRECT"):
        if found.get(name) != "DIRECT":
            found[name] = kind
    return found


def _reads(node: Expression, kind: Transformation) -> Iterator[tuple[str, Transformation]]:
    deciding = asked_only(node)
    if isinstance(node, Column):
        yield node.name, kind
    for position, child in enumerate(children(node)):
        yield from _reads(child, "INDIRECT" if position in deciding else kind)


def asked_only(node: Expression) -> frozenset[int]:
    """Which of `children(node)` are asked for a choice only: their values never become its."""
    match node:
        case Case(branches=branches):
            return frozenset(range(0, 2 * len(branches), 2))
        case Call(function="nullif"):
            return frozenset((1,))
        case _:
            return frozenset()


def uses_request_time(expression: Expression) -> bool:
    """Whether `request_time()` stands in it."""
    return any(n == _REQUEST_TIME for n in walk(expression))


def with_request_time(expression: Expression, instant: Expression) -> Expression:
    """The expression with `instant`, a timestamp, in place of `request_time()`: offline that is the
    column of the entity row's time."""
    part = partial(with_request_time, instant=instant)
    match expression:
        case Column() | Literal():
            return expression
        case Call(function=function, arguments=arguments):
            found = Call(function, tuple(map(part, arguments)))
            return instant if found == _REQUEST_TIME else found
        case Cast(argument=argument, dtype=dtype):
            return Cast(part(argument), dtype)
        case Case(branches=branches, default=default):
            pairs = tuple((part(when), part(then)) for when, then in branches)
            return Case(pairs, part(default))
        case _:
            assert_never(expression)


_REQUEST_TIME = Call("request_time", ())


def canonical(expression: Expression) -> list[Any]:
    """The tree as JSON-able lists: equal for texts that differ in layout, case of keywords,
    redundant parentheses or spelling (`<>` and `!=`, `::` and CAST) only."""
    match expression:
        case Column(name=name):
            return ["column", name]
        case Literal(value=value, dtype=dtype):
            return ["literal", str(dtype) if dtype else None, value]
        case Call(function=function, arguments=arguments):
            return ["call", function, *map(canonical, arguments)]
        case Cast(argument=argument, dtype=dtype):
            return ["cast", str(dtype), canonical(argument)]
        case Case(branches=branches, default=default):
            pairs = [[canonical(when), canonical(then)] for when, then in branches]
            return ["case", pairs, canonical(default)]
        case _:
            assert_never(expression)


def from_canonical(tree: Any) -> Expression:
    """The tree of which `canonical` made these lists. Raises `ValueError` for other lists."""
    match tree:
        case ["column", str(name)]:
            return Column(name)
        case ["literal", dtype, value]:
            return Literal(value, None if dtype is None else parse(dtype))
        case ["call", str(function), *arguments]:
            return Call(function, tuple(map(from_canonical, arguments)))
        case ["cast", str(dtype), argument]:
            return Cast(from_canonical(argument), parse(dtype))
        case ["case", pairs, default]:
            branches = tuple((from_canonical(when), from_canonical(then)) for when, then in pairs)
            return Case(branches, from_canonical(default))
        case _:
            raise ValueError(f"{tree!r} is no expression")


def show(expression: Expression) -> str:
    """The tree as text, for messages: every operation in parentheses, names as they are."""
    match expression:
        case Column(name=name):
            return name if name.isidentifier() else f'"{name}"'
        case Literal(value=value, dtype=dtype):
            return _show_literal(value, dtype)
        case Call(function=function, arguments=arguments):
            return _show_call(function, [show(a) for a in arguments])
        case Cast(argument=argument, dtype=dtype):
            return f"CAST({show(argument)} AS {dtype})"
        case Case(branches=branches, default=default):
            whens = " ".join(f"WHEN {show(when)} THEN {show(then)}" for when, then in branches)
            return f"CASE {whens} ELSE {show(default)} END"
        case _:
            assert_never(expression)


def _show_literal(value: bool | float | str | None, dtype: DType | None) -> str:
    if value is None or dtype is None:
        return "NULL"
    if isinstance(value, str):
        prefix = "" if dtype.kind is Kind.STRING else f"{dtype.kind.value.upper()} "
        quoted = value.replace("'", "''")
        return f"{prefix}'{quoted}'"
    return repr(value).upper() if isinstance(value, bool) else repr(value)


def _show_call(function: str, arguments: list[str]) -> str:
    symbol = FUNCTIONS[function].symbol
    match function, arguments:
        case "is_null", [only]:
            return f"({only} IS NULL)"
        case "between", [value, low, high]:
            return f"({value} BETWEEN {low} AND {high})"
        case "in", [value, *items]:
            return f"({value} IN ({', '.join(items)}))"
        case _, [left, right] if symbol:
            return f"({left} {symbol} {right})"
        case _, [only] if symbol:
            return f"({symbol} {only})"
        case _:
            return f"{function}({', '.join(arguments)})"


def infer(expression: Expression, schema: Mapping[str, DType]) -> DType:
    """The type of the expression's values over columns of `schema`.

    Raises `InvalidExpression` for a column that is not there, `TypeMismatch` where an argument
    has a type that its function does not take, or where all is NULL.
    """
    dtype = inferred(expression, schema)
    if dtype is None:
        raise TypeMismatch(
            f"{show(expression)} is always NULL and has no type; "
            "write CAST(NULL AS float64), or the type that is meant"
        )
    return dtype


def inferred(expression: Expression, schema: Mapping[str, DType]) -> Inferred:
    """As `infer`, but None for an expression that is a bare NULL."""
    match expression:
        case Column(name=name):
            if name not in schema:
                raise InvalidExpression(f"There is no column {name!r}.{suggest(name, schema)}")
            return schema[name]
        case Literal(dtype=dtype):
            return dtype
        case Call(arguments=arguments):
            return signature(expression, tuple(inferred(a, schema) for a in arguments)).result
        case Cast(argument=argument, dtype=dtype):
            _check_cast(expression, inferred(argument, schema))
            return dtype
        case Case(branches=branches, default=default):
            _check_conditions(expression, tuple(inferred(when, schema) for when, _ in branches))
            values = (*(then for _, then in branches), default)
            return case_type(expression, tuple(inferred(value, schema) for value in values))
        case _:
            assert_never(expression)


def signature(call: Call, types: tuple[Inferred, ...]) -> Signature:
    """What `call` reads arguments of `types` as, and what it yields. Raises `TypeMismatch`."""
    try:
        return FUNCTIONS[call.function].signature(types)
    except ValueError as error:
        raise TypeMismatch(f"{show(call)}: {error}") from None


def case_type(case: Case, types: tuple[Inferred, ...]) -> Inferred:
    """The type that all values of `case` are read as. Raises `TypeMismatch`."""
    try:
        return common_type(types)
    except ValueError as error:
        raise TypeMismatch(f"{show(case)}: {error}") from None


def _check_conditions(case: Case, types: tuple[Inferred, ...]) -> None:
    for (when, _), dtype in zip(case.branches, types, strict=True):
        if dtype not in (None, BOOL):
            raise TypeMismatch(f"{show(case)}: {show(when)} must be bool, not {dtype}")


_NUMBERS = {Kind.INT32, Kind.INT64, Kind.FLOAT32, Kind.FLOAT64, Kind.DECIMAL}
_CASTS: dict[Kind, set[Kind]] = {
    **{kind: _NUMBERS | {Kind.BOOL, Kind.STRING} for kind in _NUMBERS},
    Kind.BOOL: _NUMBERS | {Kind.STRING},
    Kind.STRING: _NUMBERS | {Kind.BOOL, Kind.DATE, Kind.TIMESTAMP},
    Kind.DATE: {Kind.TIMESTAMP, Kind.STRING},
    Kind.TIMESTAMP: {Kind.DATE, Kind.STRING},
}


def castable(source: DType) -> set[Kind]:
    """What a value of `source` may be cast to."""
    return _CASTS.get(source.kind, set())


def _check_cast(cast: Cast, source: Inferred) -> None:
    if source is None or source == cast.dtype:
        return
    if cast.dtype.kind not in castable(source):
        hint = "; epoch(a) gives seconds" if source.kind in (Kind.DATE, Kind.TIMESTAMP) else ""
        raise TypeMismatch(f"{show(cast)}: {source} can't be cast to {cast.dtype}{hint}")

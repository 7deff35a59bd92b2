"""How the expressions and clauses of a query read: which columns become a value, which only decide.

The same reading as `definitions.expression.column_lineage` has of our own expressions: arguments of
functions and operators are DIRECT; conditions, orders and keys are INDIRECT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from featurestore.records import Transformation

_Node = Any  # sqlglot's classes, whose names differ between its releases

# By class of sqlglot: the arguments that decide and never become the value.
_DECIDING: Mapping[str, tuple[str, ...]] = {
    "If": ("this",),
    "Case": ("this",),
    "Nullif": ("expression",),
    "Filter": ("expression",),
    "Window": ("partition_by", "order", "spec"),
    "Order": ("expressions",),
    "ArgMax": ("expression",),
    "ArgMin": ("expression",),
    "Exists": ("this",),
}


class Unresolved(Exception):
    """What a column comes from can't be told; the message says why."""


def reads(
    node: _Node, how: Transformation, windows: Mapping[str, _Node]
) -> Iterator[tuple[_Node, Transformation]]:
    """The columns, the whole rows and the subqueries that an expression reads, and how. `windows`:
    those that the SELECT names, by name. Raises `Unresolved`."""
    from sqlglot import exp

    if isinstance(node, exp.Column):
        if node.is_star:
            raise Unresolved("a * stands for columns that are not known")
        yield node, how
        return
    if isinstance(node, exp.Query | exp.TableColumn):
        yield node, how
        return
    if isinstance(node, exp.Comprehension):
        raise Unresolved("it has a list comprehension")
    kind = type(node).__name__
    deciding = _DECIDING.get(kind, ())
    if kind == "Window":
        for named in _begins_with(node, windows):
            yield from _parts(named, "INDIRECT", windows, skip=("this",))
    for name, child in _children(node):
        if kind == "WithinGroup" and name == "expression":
            # WITHIN GROUP (ORDER BY x) names the values by their order.
            yield from _parts(child, how, windows)
        else:
            yield from reads(child, "INDIRECT" if name in deciding else how, windows)


def _parts(
    node: _Node, how: Transformation, windows: Mapping[str, _Node], skip: tuple[str, ...] = ()
) -> Iterator[tuple[_Node, Transformation]]:
    for name, child in _children(node):
        if name not in skip:
            yield from reads(child, how, windows)


def _children(node: _Node) -> Iterator[tuple[str, _Node]]:
    for name, value in node.args.items():
        for child in value if isinstance(value, list) else [value]:
            if hasattr(child, "args") and hasattr(child, "parent"):
                yield name, child


def named_windows(select: _Node) -> dict[str, _Node]:
    """The windows of a SELECT's WINDOW clause, by name."""
    return {window.name: window for window in select.args.get("windows") or ()}


def _begins_with(window: _Node, windows: Mapping[str, _Node]) -> list[_Node]:
    """The windows that a window builds on, nearest first: `OVER w`, `w AS (v ORDER BY ts)`."""
    found: list[_Node] = []
    while (window := windows.get(window.alias)) is not None and window not in found:
        found.append(window)
    return found


def has_star(select: _Node) -> bool:
    """Whether a projection stands for columns that are not named: `*`, `* LIKE 'a%'`,
    `COLUMNS(…)`. Those of `count(*)` do not."""
    from sqlglot import exp

    stars = (star for star in select.find_all(exp.Star) if not isinstance(star.parent, exp.Count))
    return any(stars) or any(_called(f) == "COLUMNS" for f in select.find_all(exp.Func))


def _called(function: _Node) -> str:
    from sqlglot import exp

    anonymous = isinstance(function, exp.Anonymous)
    return str(function.name if anonymous else function.sql_name()).upper()


def deciding(scope: _Node) -> Iterator[_Node]:
    """The expressions of a scope's own clauses that decide which rows there are, those of its
    sources and of its subqueries left out, and `ordering` too. Raises `Unresolved`."""
    from sqlglot import exp

    node = scope.expression
    for clause in ("where", "having", "qualify", "group", "limit", "offset"):
        if found := node.args.get(clause):
            yield found
    if not isinstance(node, exp.Select):
        return
    for join in scope.find_all(exp.Join):
        yield from _joined(join)
    group, distinct = node.args.get("group"), node.args.get("distinct")
    if group is not None and group.args.get("all"):
        yield from (select for select in node.selects if not select.find(exp.AggFunc))
    if distinct is not None and not distinct.args.get("on"):
        yield from node.selects
    for select in node.selects:
        yield from select.find_all(exp.Unnest, exp.Explode)  # a row for each element


def ordering(scope: _Node) -> Iterator[_Node]:
    """The keys of DISTINCT ON and ORDER BY, which may name output columns, where they decide on
    rows: where rows are cut off, and inside another query, for DuckDB keeps the order of a
    subquery and what is outside may follow it (LIMIT, `list(x)`, `row_number() OVER ()`)."""
    from sqlglot import exp

    node = scope.expression
    distinct, order = node.args.get("distinct"), node.args.get("order")
    on = distinct.args.get("on") if isinstance(distinct, exp.Distinct) else None
    if on is not None:
        yield from on.expressions
    cut = on is not None or any(node.args.get(name) for name in ("limit", "offset"))
    if order is not None and (cut or scope.parent is not None):
        yield from (key.this for key in order.expressions)


def is_by_all(key: _Node) -> bool:
    """Whether a key of an ORDER BY is ALL."""
    return bool(getattr(key, "name", "").upper() == "ALL")


def _joined(join: _Node) -> Iterator[_Node]:
    if join.method == "NATURAL" or join.args.get("using"):
        raise Unresolved("it joins on columns that are not known")
    if join.args.get("on"):
        yield join.args["on"]

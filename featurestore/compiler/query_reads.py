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
    """The columns and the subqueries that an expression reads, and how. `windows`: those that the
    SELECT names, by name. Raises `Unresolved`."""
    from sqlglot import exp

    if isinstance(node, exp.Column):
        if node.is_star:
            raise Unresolved("a * stands for columns that are not known")
        yield node, how
        return
    if isinstance(node, exp.Query):
        yield node, how
        return
    if isinstance(node, exp.Comprehension):
        raise Unresolved("it has a list comprehension")
    kind = type(node).__name__
    deciding = _DECIDING.get(kind, ())
    if kind == "Window" and (named := windows.get(node.alias)):
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


def has_star(select: _Node) -> bool:
    """Whether a projection stands for columns that are not named."""
    from sqlglot import exp

    bare = select.unalias()
    if isinstance(bare, exp.Star) or (isinstance(bare, exp.Column) and bare.is_star):
        return True
    return any(function.name.upper() == "COLUMNS" for function in select.find_all(exp.Anonymous))


def deciding(scope: _Node) -> Iterator[_Node]:
    """The expressions of a SELECT's scope that decide which rows there are, those of its sources
    and of its subqueries left out. Raises `Unresolved`."""
    from sqlglot import exp

    node = scope.expression
    for clause in ("where", "having", "qualify", "group"):
        if found := node.args.get(clause):
            yield found
    for join in scope.find_all(exp.Join):
        yield from _joined(join)
    group, distinct, order = (node.args.get(name) for name in ("group", "distinct", "order"))
    if group is not None and group.args.get("all"):
        yield from (select for select in node.selects if not select.find(exp.AggFunc))
    on = None if distinct is None else distinct.args.get("on")
    if on is not None:
        yield on
    elif distinct is not None:
        yield from node.selects
    cut = on is not None or any(node.args.get(name) for name in ("limit", "offset"))
    if cut and order is not None:
        by_all = any(getattr(key.this, "name", "").upper() == "ALL" for key in order.expressions)
        yield from node.selects if by_all else order.expressions
    for select in node.selects:
        yield from select.find_all(exp.Unnest, exp.Explode)  # a row for each element


def _joined(join: _Node) -> Iterator[_Node]:
    if join.method == "NATURAL" or join.args.get("using"):
        raise Unresolved("it joins on columns that are not known")
    if join.args.get("on"):
        yield join.args["on"]

"""From which columns the columns of a query come: by value (DIRECT), or as what decides which rows
there are and which value is taken (INDIRECT).

What can't be resolved is said, never guessed: `unresolved` names the output column (`*`: the rows,
hence all of them) and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from featurestore.compiler.queries import parse_query
from featurestore.compiler.query_reads import (
    Unresolved,
    deciding,
    has_star,
    is_by_all,
    named_windows,
    ordering,
    reads,
)
from featurestore.records import Transformation

ROWS = "*"
"""In `unresolved`: what decides which rows there are."""
QUERIES_REMEMBERED = 2_000
"""A plan and the apply after it ask about the same queries."""

_STAR = "a * stands for columns that are not known"

_Node = Any  # sqlglot's classes, whose names differ between its releases
_Found = dict[tuple[str, str], Transformation]
"""By input and its column, in lower case: how it enters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLineage:
    """What a query's columns come from. Inputs are written `source.column`.

    `columns`: for each output column, the inputs that its value is computed or chosen from.
    `rows`: the inputs that decide which rows there are (filters, joins, groups, limits): INDIRECT
    for every output column. `unresolved`: what is not known, and why, by output column or `*`.
    """

    columns: Mapping[str, Mapping[str, Transformation]] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    unresolved: Mapping[str, str] = field(default_factory=dict)


def query_lineage(
    query: str, inputs: Mapping[str, Iterable[str] | None], outputs: Iterable[str]
) -> QueryLineage:
    """Where the columns of `query` come from.

    Args:
        query: one SELECT that the repository's checks have passed.
        inputs: the sources that it reads, with the names of their columns in the order in which a
            * stands for them (None: not known, and what reads them is unresolved).
        outputs: the columns that the engine says the query has.
    """
    given = sorted((name, tuple(columns or ())) for name, columns in inputs.items())
    return _remembered(query, tuple(given), tuple(outputs))


@lru_cache(maxsize=QUERIES_REMEMBERED)
def _remembered(
    query: str, inputs: tuple[tuple[str, tuple[str, ...]], ...], outputs: tuple[str, ...]
) -> QueryLineage:
    from sqlglot.errors import SqlglotError

    try:
        return _analysed(query, inputs, outputs)
    except Unresolved as error:
        return QueryLineage(unresolved={ROWS: str(error)})
    # sqlglot fails in many ways at what it does not know, and lineage must never stop a job.
    except (SqlglotError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as no:
        return QueryLineage(unresolved={ROWS: f"the query can't be analysed ({type(no).__name__})"})


def _analysed(
    query: str, inputs: Iterable[tuple[str, tuple[str, ...]]], outputs: Iterable[str]
) -> QueryLineage:
    names = {name.lower(): name for name, _ in inputs}
    columns_of = {name.lower(): {c.lower(): c for c in columns} for name, columns in inputs}

    def shown(at: tuple[str, str]) -> str:
        return f"{names[at[0]]}.{columns_of[at[0]][at[1]]}"

    root, reader = _root(query, columns_of), _Reader(columns_of)
    columns, rows, unresolved = dict[str, dict[str, Transformation]](), _Found(), dict[str, str]()
    for output in outputs:
        try:
            found = reader.output(root, _place(output, root, reader.names(root)))
            columns[output] = {shown(at): found[at] for at in sorted(found)}
        except Unresolved as error:
            unresolved[output] = str(error)
    try:
        rows = reader.rows(root)
    except Unresolved as error:
        unresolved[ROWS] = str(error)
    return QueryLineage(
        columns=columns, rows=tuple(map(shown, sorted(rows))), unresolved=unresolved
    )


def _place(output: str, root: _Node, names: Sequence[str]) -> int:
    """Which of the query's columns an output is; the first one that has its name."""
    for place, name in enumerate(names):
        if name.lower() == output.lower():
            return place
    hidden = any(has_star(select) for select in root.expression.selects)
    raise Unresolved(_STAR if hidden else "the query itself has no name for it")


def _root(query: str, columns_of: Mapping[str, Mapping[str, str]]) -> _Node:
    """The outermost scope of the query, its names qualified and its stars expanded."""
    from sqlglot import exp
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope

    tree = parse_query(query)
    if tree.find(exp.Pivot):
        raise Unresolved("it has a PIVOT or UNPIVOT")
    if any(clause.recursive for clause in tree.find_all(exp.With)):
        raise Unresolved("it has a recursive query")
    known: dict[str, object] = {
        name: dict.fromkeys(cs, "UNKNOWN") for name, cs in columns_of.items() if cs
    }
    qualified = qualify(
        tree,
        dialect="duckdb",
        schema=known,
        validate_qualify_columns=False,
        quote_identifiers=False,
    )
    scope = build_scope(qualified)
    if scope is None:
        raise Unresolved("it is not a SELECT")
    return scope


class _Reader:
    """Walks the scopes of one query, each once."""

    def __init__(self, columns_of: Mapping[str, Mapping[str, str]]) -> None:
        self._columns_of = columns_of
        self._outputs: dict[tuple[int, int], _Found] = {}
        self._rows: dict[int, _Found] = {}

    def names(self, scope: _Node) -> list[str]:
        """The output columns of a scope, in order. A star that is left is no name."""
        from sqlglot import exp

        match scope.expression:
            case exp.SetOperation():
                left, right = map(self.names, scope.set_operation_scopes)
                by_name = scope.expression.args.get("by_name")
                return [*left, *(name for name in right if by_name and name not in left)]
            case exp.Subquery():
                return self.names(_inner(scope))
            case node:
                return [select.alias_or_name for select in node.selects]

    def output(self, scope: _Node, place: int) -> _Found:
        """What the output column at `place` comes from, besides what decides on rows."""
        key = id(scope), place
        if key not in self._outputs:
            self._outputs[key] = self._output(scope, place)
        return self._outputs[key]

    def rows(self, scope: _Node) -> _Found:
        """What decides which rows a scope has."""
        if id(scope) not in self._rows:
            self._rows[id(scope)] = self._rows_of(scope)
        return self._rows[id(scope)]

    def _output(self, scope: _Node, place: int) -> _Found:
        from sqlglot import exp

        match scope.expression:
            case exp.SetOperation():
                return self._set_output(scope, place)
            case exp.Subquery():
                return self.output(_inner(scope), place)
            case node:
                before = node.selects[: place + 1]
                if any(has_star(select) for select in before):
                    raise Unresolved(_STAR)
                return self._read(scope, [node.selects[place]], "DIRECT")

    def _set_output(self, scope: _Node, place: int) -> _Found:
        from sqlglot import exp

        left, right = scope.set_operation_scopes
        if scope.expression.args.get("by_name"):
            found, name = _Found(), self.names(scope)[place]
            for side, names in ((side, self.names(side)) for side in (left, right)):
                if name in names:
                    _add(found, self.output(side, names.index(name)), "DIRECT")
            return found
        found = dict(self.output(left, place))
        # What an EXCEPT takes away becomes no value.
        taken = isinstance(scope.expression, exp.Except)
        _add(found, self.output(right, place), "INDIRECT" if taken else "DIRECT")
        return found

    def _rows_of(self, scope: _Node) -> _Found:
        from sqlglot import exp

        node, found = scope.expression, _Found()
        if isinstance(node, exp.SetOperation):
            sides = scope.set_operation_scopes
            if node.args.get("distinct", True) or not isinstance(node, exp.Union):
                for side in sides:
                    for place in range(len(self.names(side))):
                        _add(found, self.output(side, place), "INDIRECT")
        elif isinstance(node, exp.Subquery):
            sides = [_inner(scope)]
        else:
            sides = []
            for source in _sources_read(scope):
                if isinstance(source, exp.Table):
                    _add(found, self._table_function(scope, source), "INDIRECT")
                elif isinstance(source.expression, exp.UDTF):
                    _add(found, self._read(source, [source.expression], "INDIRECT"), "INDIRECT")
                else:
                    sides.append(source)
        _add(found, self._read(scope, deciding(scope), "INDIRECT"), "INDIRECT")
        _add(found, self._order(scope), "INDIRECT")
        for side in sides:
            _add(found, self.rows(side), "INDIRECT")
        return found

    def _order(self, scope: _Node) -> _Found:
        """What the order of a scope comes from, where that decides on its rows."""
        from sqlglot import exp

        found, names = _Found(), self.names(scope)
        named: Sequence[int]
        for key in ordering(scope):
            if is_by_all(key):
                named = range(len(names))
            elif isinstance(key, exp.Column) and not key.table and key.name in names:
                named = [names.index(key.name)]
            else:
                _add(found, self._read(scope, [key], "INDIRECT"), "INDIRECT")
                continue
            for place in named:
                _add(found, self.output(scope, place), "INDIRECT")
        return found

    def _read(self, scope: _Node, nodes: Iterable[_Node], how: Transformation) -> _Found:
        from sqlglot import exp

        found = _Found()
        windows = named_windows(scope.expression)
        for node in nodes:
            # An UNNEST in FROM is read for its arguments; its alias names what comes out.
            parts = node.expressions if isinstance(node, exp.Unnest) else [node]
            for part in parts:
                for read, kind in reads(part, how, windows):
                    _add(found, self._origin(scope, read), kind)
        return found

    def _origin(self, scope: _Node, node: _Node) -> _Found:
        """What a column, or a subquery in an expression, comes from."""
        from sqlglot import exp

        if isinstance(node, exp.TableColumn):  # SELECT t FROM t: the row
            return self._of_source(*_visible(scope, node.name), None)
        if not isinstance(node, exp.Column):
            return self._subquery(scope, node)
        home, source = _visible(scope, node.table)
        if source is None:
            shown = f"{node.table}.{node.name}" if node.table else node.name
            raise Unresolved(f"{shown} can't be told to be a column of one of its sources")
        return self._of_source(home, source, node.name)

    def _of_source(self, home: _Node, source: _Node, column: str | None) -> _Found:
        """What a column (None: any of them) of one of a scope's sources comes from."""
        from sqlglot import exp

        if isinstance(source, exp.Table):
            if isinstance(source.this, exp.Func):
                return self._table_function(home, source)
            return self._leaf(source, column)
        if isinstance(source.expression, exp.UDTF):
            return self._read(source, [source.expression], "DIRECT")
        names, found = self.names(source), _Found()
        if column is not None and column not in names:
            raise Unresolved(_STAR)
        for place in range(len(names)) if column is None else [names.index(column)]:
            _add(found, self.output(source, place), "DIRECT")
        return found

    def _leaf(self, table: _Node, column: str | None) -> _Found:
        known = list(self._columns_of.get(table.name, ()))
        if column is None and known:
            return {(table.name, name): "DIRECT" for name in known}
        renamed = table.alias_column_names  # FROM t AS x(a, b): the first ones get these names
        visible = [*renamed, *known[len(renamed) :]]
        if column not in visible:
            raise Unresolved(f"{table.name} has no column {column!r} that is known")
        return {(table.name, known[visible.index(column)]): "DIRECT"}

    def _table_function(self, scope: _Node, table: _Node) -> _Found:
        from sqlglot import exp

        return self._read(scope, [table.this], "DIRECT") if isinstance(table.this, exp.Func) else {}

    def _subquery(self, scope: _Node, query: _Node) -> _Found:
        """Its columns as what it is worth, its rows as what decides on that."""
        inner = _subscope(scope, query)
        if inner is None:
            raise Unresolved("it has a subquery in a place that is not looked into")
        found = dict(self.rows(inner))
        for place in range(len(self.names(inner))):
            _add(found, self.output(inner, place), "DIRECT")
        return found


def _add(found: _Found, more: _Found, how: Transformation) -> None:
    for at, kind in more.items():
        if found.get(at) != "DIRECT":
            found[at] = "DIRECT" if kind == how == "DIRECT" else "INDIRECT"


def _inner(scope: _Node) -> _Node:
    """The scope of a query in parentheses, which have a scope of their own."""
    inner = [*scope.subquery_scopes, *scope.derived_table_scopes]
    if len(inner) != 1:
        raise Unresolved("it has parentheses that are not looked into")
    return inner[0]


def _sources_read(scope: _Node) -> Iterator[_Node]:
    """The tables and queries of FROM and JOIN. (`sources` holds all CTEs that are visible, too.)"""
    for name, _ in scope.references:
        if name in scope.sources:
            yield scope.sources[name]


def _visible(scope: _Node, table: str) -> tuple[_Node, _Node | None]:
    """What `table` means here, or in a query around this one, and the scope that says so."""
    around = scope
    while around is not None:
        if table and table in around.sources:
            return around, around.sources[table]
        around = around.parent
    return scope, None


def _subscope(scope: _Node, query: _Node) -> _Node | None:
    around = scope
    while around is not None:
        for inner in around.subquery_scopes:
            if inner.expression is query or inner.expression is query.unnest():
                return inner
        around = around.parent
    return None

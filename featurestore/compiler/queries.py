"""The queries of SQL sources: what they read, and the form of them that is hashed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from featurestore.errors import InvalidExpression

_Node = Any  # sqlglot's base class, whose name differs between its releases

TABLE_FUNCTIONS = ("generate_series", "range", "unnest")
"""The functions that a query may read from; others (`read_parquet`, …) would escape lineage."""


def tables_of(query: str) -> tuple[str, ...]:
    """The tables that `query` reads, in name order, its own CTEs left out.

    Raises `InvalidExpression` for what is not one SELECT, for a table with a schema or catalog
    before its name, and for table functions other than `TABLE_FUNCTIONS`.
    """
    from sqlglot import exp

    tables = [table for table in parse_query(query).find_all(exp.Table) if not _is_cte(table)]
    return tuple(sorted({name for table in tables if (name := _name(table))}))


def canonical_query(query: str) -> str:
    """`query` without its layout, comments and letter case of keywords: equal meaning as far as
    the syntax shows it gives equal text. Raises `InvalidExpression` as `tables_of` does."""
    text: str = parse_query(query).sql(
        dialect="duckdb", identify=True, comments=False, normalize_functions="upper"
    )
    return text


def parse_query(query: str) -> _Node:
    """The tree of one SELECT, in DuckDB's SQL. Raises `InvalidExpression`."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import ParseError, SqlglotError

    try:
        statements = sqlglot.parse(query, dialect="duckdb")
    except ParseError as error:
        at = error.errors[0] if error.errors else {}
        where = f" at line {at['line']}, column {at['col']}" if at else ""
        what = at.get("description") or str(error)
        raise InvalidExpression(f"the query is not valid SQL{where}: {what}") from None
    except SqlglotError as error:
        raise InvalidExpression(f"the query is not valid SQL: {error}") from None
    found = [statement for statement in statements if statement is not None]
    if len(found) != 1 or not isinstance(found[0], exp.Query | exp.Pivot):
        raise InvalidExpression("the query must be one SELECT statement")
    return found[0]


def _name(table: _Node) -> str:
    """The plain name of a table; nothing for an allowed table function."""
    from sqlglot import exp

    if isinstance(table.this, exp.Func):
        anonymous = isinstance(table.this, exp.Anonymous)
        function = table.this.name if anonymous else table.this.sql_name()
        if function.lower() in TABLE_FUNCTIONS:
            return ""
        raise InvalidExpression(
            f"the query reads from the function {function.lower()}; "
            "define what it reads as a FileSource and name that as a table"
        )
    if table.db or table.catalog:
        raise InvalidExpression(
            f"the query reads {table.sql(dialect='duckdb')!r}; "
            "a table is the plain name of a source"
        )
    name: str = table.name
    return name


def _is_cte(table: _Node) -> bool:
    """Whether a CTE that is visible at `table` has its name."""
    name = table.name.casefold()
    return not table.db and any(cte.alias.casefold() == name for cte in _visible_ctes(table))


def _visible_ctes(node: _Node) -> Iterator[_Node]:
    from sqlglot import exp

    child = node
    while (parent := child.parent) is not None:
        if isinstance(parent, exp.With):
            own = child.index
            yield from parent.expressions if parent.recursive else parent.expressions[:own]
        elif not isinstance(child, exp.With):
            for clause in parent.args.values():
                if isinstance(clause, exp.With):
                    yield from clause.expressions
        child = parent


_CLOCKS = """now today get_current_timestamp get_current_time transaction_timestamp current_date
    current_time current_timestamp current_localtime current_localtimestamp localtime
    localtimestamp"""
_CHANCE = "random rand uuid gen_random_uuid uuidv4 uuidv7 setseed reservoir_quantile"
_PLACE = "nextval currval txid_current getenv current_user current_setting"
UNSTEADY_FUNCTIONS = frozenset(f"{_CLOCKS} {_CHANCE} {_PLACE}".split())
"""Functions whose answer is not of the rows that a query reads."""


def unsteady(query: str) -> str:
    """Why `query` may give other rows over the same ones next time: `it asks now()`; empty where it
    does not. Raises `InvalidExpression` as `tables_of` does."""
    from sqlglot import exp

    tree = parse_query(query)
    for node in tree.walk():
        if why := _takes_any_row(node):
            return why
        if isinstance(node, exp.Func):
            anonymous = isinstance(node, exp.Anonymous)
            name = (node.name if anonymous else node.sql_name()).lower()
            # Of one instant: its age today.
            if name in UNSTEADY_FUNCTIONS or (name == "age" and len(node.expressions) == 1):
                return f"it asks {name}()"
    return ""


def _takes_any_row(node: _Node) -> str:
    """Why which rows `node` takes depends on the order in which they happen to come."""
    from sqlglot import exp

    above: _Node = node.parent
    match node:
        case exp.TableSample():
            return "it takes a sample"
        case exp.Limit() | exp.Fetch() if not above.args.get("order"):
            return "it has a LIMIT without an ORDER BY"
        case exp.Distinct() if node.args.get("on") and not above.args.get("order"):
            return "it has a DISTINCT ON without an ORDER BY"
        case exp.Window() if isinstance(node.this, exp.RowNumber) and not node.args.get("order"):
            return "it has a row_number() without an ORDER BY"
        case _:
            return ""

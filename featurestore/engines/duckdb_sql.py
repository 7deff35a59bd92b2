"""Rel → one DuckDB query: each node becomes a common table expression.

Pure text; nothing here touches DuckDB, which compares identifiers without regard to case. Ours may
differ by case alone, so every relation carries a map from our column names to identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from featurestore.compiler.rel import (
    CREATED_US,
    DELETED,
    EVENT_US,
    AsOfJoin,
    Derive,
    Erased,
    Filter,
    Input,
    Latest,
    Limit,
    Project,
    Rel,
    Scan,
    Sql,
    Stamped,
    Union,
)
from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Literal,
    columns_of,
    infer,
)
from featurestore.dtypes import DATE, DType
from featurestore.engines import duckdb_values as values
from featurestore.engines.duckdb_scans import Describe, scan_sql
from featurestore.engines.sql import expression_sql, literal, quote, sql_type
from featurestore.timeline import DAY_US

Span = Callable[[str, str], tuple[int, int] | None]
"""`(table, column) → least and greatest value`, None where the table is empty."""
ROW = "__row"
"""The column of an input's table that holds the position of each row, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A relation that the text can name. `columns` map our names to quoted identifiers.

    `row` is the identifier of a column with the position of each row, where there is an order to
    keep. A `stable` relation gives the same rows whenever it is read and costs no recomputing.
    A `loaded` one is there before the query runs.
    """

    name: str
    columns: Mapping[str, str]
    row: str | None = None
    stable: bool = False
    loaded: bool = False

    def of(self, alias: str, column: str) -> str:
        """`column` of this table where the text calls the table `alias`."""
        return f"{alias}.{self.columns[column]}"

    def select(self, alias: str, columns: Iterable[str]) -> str:
        """The list of `columns` under their own identifiers."""
        return ", ".join(self.of(alias, name) for name in columns)


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """Quoted identifiers for `names`: the names themselves, numbered where they differ by case
    alone, are empty or would hide `ROW`."""
    found: dict[str, str] = {}
    taken = {ROW}
    for name in names:
        wanted, number = name or "_", 2
        while wanted.casefold() in taken:
            wanted, number = f"{name}_{number}", number + 1
        taken.add(wanted.casefold())
        found[name] = quote(wanted)
    return found


def to_sql(rel: Rel, describe: Describe, span: Span) -> str:
    """The query that yields the rows of `rel`, its columns in the order of `rel.schema`.

    An `Input` is read from a table named `input_table(name)`. Rows keep the order of the input
    that stands leftmost below as-of joins. Raises `SourceSchemaChanged`.
    """
    query = Query(describe, span)
    if isinstance(rel, Sql):
        table = _sql(query, rel, materialized=False)
    else:
        table = query.table(rel, frozenset(rel.schema))
    order = "" if table.row is None else f"\nORDER BY {table.row}"
    columns = ", ".join(table.columns[name] for name in rel.schema)
    return f"{query.ctes()}SELECT {columns}\nFROM {table.name}{order}"


def input_table(name: str) -> str:
    """The quoted name of the table that holds the data of `Input(name)`."""
    return quote(f"input {name}")


@dataclass(slots=True)
class Query:
    """The text while it is being written."""

    describe: Describe
    span: Span
    _ctes: list[str] = field(default_factory=list)

    def add(self, label: str, sql: str, *, materialized: bool = False) -> str:
        """Append a common table expression; returns its quoted name."""
        name = quote(f"{len(self._ctes) + 1} {label}")
        how = "MATERIALIZED" if materialized else "NOT MATERIALIZED"
        self._ctes.append(f"{name} AS {how} (\n{sql}\n)")
        return name

    def ctes(self) -> str:
        """The WITH clause."""
        listed = ",\n".join(self._ctes)
        return f"WITH {listed}\n" if listed else ""

    def table(self, rel: Rel, needed: Collection[str]) -> Table:  # noqa: PLR0911 - one per node
        """Write `rel`; the result has at least the columns `needed`."""
        from featurestore.engines.duckdb_winners import as_of_join, latest

        match rel:
            case Scan():
                return _scan(self, rel)
            case Input():
                columns = identifiers(rel.dtypes)
                return Table(
                    name=input_table(rel.name),
                    columns=columns,
                    row=quote(ROW),
                    stable=True,
                    loaded=True,
                )
            case Sql():
                return _sql(self, rel)
            case Filter():
                return _filter(self, rel, needed)
            case Project():
                return _project(self, rel, needed)
            case Derive():
                return _derive(self, rel, needed)
            case Stamped():
                return _stamped(self, rel)
            case Latest():
                return latest(self, rel, needed)
            case AsOfJoin():
                return as_of_join(self, rel, needed)
            case Union():
                return _union(self, rel)
            case Limit():
                return _limit(self, rel, needed)
            case _:
                assert_never(rel)

    def least_and_greatest(self, table: Table, column: str) -> tuple[str, str]:
        """SQL for the bounds of an int64 column: constants, which DuckDB plans with, where the
        table is loaded."""
        identifier = table.columns[column]
        if table.loaded:
            low, high = self.span(table.name, identifier) or (0, 0)
            return str(low), str(high)
        least, greatest = (
            f"(SELECT {name}(l.{identifier}) FROM {table.name} AS l)" for name in ("min", "max")
        )
        return least, greatest

    def rows(self, label: str, inner: Table, columns: Mapping[str, str], *clauses: str) -> Table:
        """`SELECT columns FROM inner AS r clauses`, the order kept; `columns` map our names to
        SQL text over `r`."""
        names = identifiers(columns)
        items = [f"{sql} AS {names[name]}" for name, sql in columns.items()]
        if inner.row is not None:
            items.append(f"r.{inner.row} AS {quote(ROW)}")
        text = "\n".join([f"SELECT {', '.join(items)}", f"FROM {inner.name} AS r", *clauses])
        row = None if inner.row is None else quote(ROW)
        return Table(name=self.add(label, text), columns=names, row=row)


# --- what is read ---------------------------------------------------------------------------------


def _scan(query: Query, scan: Scan) -> Table:
    names = identifiers(scan.columns)
    text = scan_sql(scan, names, query.describe)
    return Table(name=query.add(scan.source, text), columns=names)


def _sql(query: Query, rel: Sql, *, materialized: bool = True) -> Table:
    """The query sees its inputs, and nothing else, by name. It runs once: its rows are kept, unless
    nothing but the end reads them, which then has them in the query's own order."""
    inputs = []
    for name, inner in rel.inputs.items():
        table = query.table(inner, frozenset(inner.schema))
        listed = ", ".join(f"{table.columns[c]} AS {quote(c)}" for c in inner.schema)
        inputs.append(f"{quote(name)} AS NOT MATERIALIZED (SELECT {listed} FROM {table.name})")
    text = rel.query.strip().rstrip(";")
    given = f"WITH {', '.join(inputs)}\n" if inputs else ""
    inner_name = query.add("query", f"{given}SELECT * FROM (\n{text}\n)", materialized=materialized)
    names = identifiers(rel.dtypes)
    items = ", ".join(
        f"{_query_column(name, dtype)} AS {names[name]}" for name, dtype in rel.dtypes.items()
    )
    return Table(
        name=query.add("result", f"SELECT {items}\nFROM {inner_name} AS r"),
        columns=names,
        stable=True,
    )


def _query_column(name: str, dtype: DType) -> str:
    kind = sql_type(dtype)
    return values.read(f"CAST(r.{quote(name)} AS {kind})", kind, dtype, what=literal(name))


# --- plain nodes ----------------------------------------------------------------------------------


def _renamed(expression: Expression, names: Mapping[str, str]) -> Expression:
    """`expression` over identifiers instead of our names."""
    match expression:
        case Column(name):
            return Column(names[name])
        case Literal():
            return expression
        case Call(function, arguments):
            return Call(function, tuple(_renamed(a, names) for a in arguments))
        case Cast(argument, dtype):
            return Cast(_renamed(argument, names), dtype)
        case Case(branches, default):
            renamed = tuple((_renamed(c, names), _renamed(v, names)) for c, v in branches)
            return Case(renamed, _renamed(default, names))
        case _:
            assert_never(expression)


def _expression(expression: Expression, inner: Table, schema: Mapping[str, DType]) -> str:
    used = columns_of(expression)
    bare = {name: _bare(inner.columns[name]) for name in used}
    return expression_sql(_renamed(expression, bare), {bare[n]: schema[n] for n in used})


def _bare(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"')


def _filter(query: Query, rel: Filter, needed: Collection[str]) -> Table:
    inner = query.table(rel.input, {*needed, *columns_of(rel.predicate)})
    kept = {name: inner.of("r", name) for name in inner.columns}
    condition = _expression(rel.predicate, inner, rel.input.schema)
    return query.rows("filter", inner, kept, f"WHERE {condition}")


def _project(query: Query, rel: Project, needed: Collection[str]) -> Table:
    kept = {out: name for out, name in rel.columns.items() if out in needed}
    inner = query.table(rel.input, frozenset(kept.values()))
    return query.rows("project", inner, {out: inner.of("r", name) for out, name in kept.items()})


def _derive(query: Query, rel: Derive, needed: Collection[str]) -> Table:
    derived = {name: column for name, column in rel.columns.items() if name in needed}
    used = {column for expression, _ in derived.values() for column in columns_of(expression)}
    inner = query.table(rel.input, {*used, *(set(needed) - derived.keys())})
    schema = rel.input.schema
    columns = {n: inner.of("r", n) for n in inner.columns if n not in rel.columns}
    for name, (expression, dtype) in derived.items():
        text = _expression(expression, inner, schema)
        have = infer(expression, schema)
        columns[name] = values.lossless(text, have, dtype, what=literal(f"column {name!r}"))
    return query.rows("derive", inner, columns)


def _stamped(query: Query, rel: Stamped) -> Table:
    schema = rel.input.schema
    inner = query.table(rel.input, frozenset(schema))
    event = _instant_us(inner.of("r", rel.event_time), schema[rel.event_time], rel.event_time_is)
    created = event
    if rel.created_time is not None:
        at = inner.of("r", rel.created_time)
        known = _instant_us(at, schema[rel.created_time], rel.event_time_is)
        created = f"coalesce({known}, {event})"
    deleted = "false"
    if rel.op is not None:
        deleted = f"coalesce({inner.of('r', rel.op)} = 'D', false)"
    columns = {name: inner.of("r", name) for name in inner.columns}
    columns |= {EVENT_US: event, CREATED_US: created, DELETED: deleted}
    skipped = [f"{inner.of('r', name)} IS NOT NULL" for name in (*rel.keys, rel.event_time)]
    known = f"greatest({event}, {created})"
    gone = [_anti_join(query, one, inner, known, n) for n, one in enumerate(rel.erased)]
    return query.rows("stamped", inner, columns, *gone, f"WHERE {' AND '.join(skipped)}")


def _anti_join(query: Query, erased: Erased, inner: Table, known: str, number: int) -> str:
    """Leaves the rows `r` of `inner` that nobody deleted. One instant per key is kept, and beside
    it the rows of the view: few against many."""
    table = query.table(erased.rows, frozenset(erased.rows.schema))
    keys = [table.of("d", name) for name in erased.keys]
    named = ", ".join(f"{key} AS k{n}" for n, key in enumerate(keys))
    until = f"max({table.of('d', erased.known_until_us)}) AS until"
    text = f"SELECT {named}, {until}\nFROM {table.name} AS d\nGROUP BY {', '.join(keys)}"
    name = query.add("deleted", text, materialized=True)
    same = [f"{inner.of('r', key)} = d{number}.k{n}" for n, key in enumerate(erased.keys)]
    return f"ANTI JOIN {name} AS d{number} ON {' AND '.join(same)} AND {known} <= d{number}.until"


def _instant_us(value: str, dtype: DType, event_time_is: str | None) -> str:
    if dtype != DATE:
        return f"epoch_us({value})"
    midnight = f"epoch_us(CAST({value} AS TIMESTAMP))"
    return f"{midnight} + {DAY_US}" if event_time_is == "end" else midnight


def _union(query: Query, rel: Union) -> Table:
    names = list(rel.schema)
    tables = [query.table(inner, frozenset(names)) for inner in rel.inputs]
    columns = identifiers(names)
    texts = []
    for table in tables:
        items = ", ".join(f"{table.of('r', name)} AS {columns[name]}" for name in names)
        texts.append(f"SELECT {items} FROM {table.name} AS r")
    return Table(name=query.add("union", "\nUNION ALL\n".join(texts)), columns=columns)


def _limit(query: Query, rel: Limit, needed: Collection[str]) -> Table:
    inner = query.table(rel.input, needed)
    listed = inner.select("r", inner.columns)
    row = "" if inner.row is None else f", r.{inner.row} AS {quote(ROW)}"
    text = f"SELECT {listed}{row}\nFROM {inner.name} AS r\nLIMIT {rel.rows}"
    return Table(
        name=query.add("limit", text, materialized=True),
        columns=inner.columns,
        row=None if inner.row is None else quote(ROW),
        stable=True,
    )

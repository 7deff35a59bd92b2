"""Rel → one DuckDB query: each node becomes a common table expression.

Pure text; nothing here touches DuckDB, which compares identifiers without regard to case. Ours may
differ by case alone, so every relation carries a map from our column names to identifiers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

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
    WindowChanges,
    WindowJoin,
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
from featurestore.engines.duckdb_scans import (
    Describe,
    Within,
    can_bound,
    groups_of,
    place_width,
    scan_sql,
)
from featurestore.engines.duckdb_shared import shared_sources
from featurestore.engines.sql import literal, quote, sql_type
from featurestore.engines.sql_expressions import expression_sql, shared_sql
from featurestore.timeline import DAY_US

if TYPE_CHECKING:
    from featurestore.engines.duckdb_windows import Workbench

Ask = Callable[[str], Sequence[int | None]]
"""The one row of a query over tables that are loaded and files that are there: numbers by which
the text is chosen."""
ROW = "__row"
"""The column of an input's table that holds the position of each row, from 0."""
PLACE = ("__file_row", "__file_number")
"""The columns that say where a row stands in the files of its source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A relation that the text can name. `columns` map our names to quoted identifiers.

    `row` is the identifier of a column with the position of each row, where there is an order to
    keep. A `stable` relation gives the same rows whenever it is read and costs no recomputing.
    A `loaded` one is there before the query runs. `place` are the identifiers of columns that
    together name the physical row, where that is known; rows are fetched fastest by them. In a
    `bounded` one no row is outside the interval that was asked for.
    """

    name: str
    columns: Mapping[str, str]
    row: str | None = None
    stable: bool = False
    loaded: bool = False
    place: tuple[str, ...] = ()
    bounded: bool = False

    def of(self, alias: str, column: str) -> str:
        """`column` of this table where the text calls the table `alias`."""
        return f"{alias}.{self.columns[column]}"

    def select(self, alias: str, columns: Iterable[str]) -> str:
        """The list of `columns` under their own identifiers."""
        return ", ".join(self.of(alias, name) for name in columns)


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """Quoted identifiers for `names`: the names themselves, numbered where they differ by case
    alone, are empty or would hide `ROW` or `PLACE`."""
    found: dict[str, str] = {}
    taken = {ROW, *PLACE}
    for name in names:
        wanted, number = name or "_", 2
        while wanted.casefold() in taken:
            wanted, number = f"{name}_{number}", number + 1
        taken.add(wanted.casefold())
        found[name] = quote(wanted)
    return found


def to_sql(rel: Rel, describe: Describe, ask: Ask, bench: Workbench | None = None) -> str:
    """The query that yields the rows of `rel`, its columns in the order of `rel.schema`.

    An `Input` is read from a table named `input_table(name)`. Rows keep the order of the input
    that stands leftmost below joins; where something is computed after they were put in order, a
    last column has their positions. Windows are computed on `bench` while the text is written.
    Raises `SourceSchemaChanged`.
    """
    if bench is not None:
        bench.shared = shared_sources(rel)
    query = Query(describe, functools.cache(ask), bench, sorted_at=_below_derivations(rel))
    if isinstance(rel, Sql):
        table = _sql(query, rel, materialized=False)
    else:
        table = query.table(rel, frozenset(rel.schema))
    columns = [table.columns[name] for name in rel.schema]
    order = _order(table)
    if query.is_sorted and table.row is not None:
        columns, order = [*columns, table.row], ""
    return f"{query.ctes()}SELECT {', '.join(columns)}\nFROM {table.name}{order}"


def _below_derivations(rel: Rel) -> Rel | None:
    """The relation whose rows are put in order: what is computed from them then need not be moved
    by the sort. None where nothing is computed at the end."""
    while isinstance(rel, Project):
        rel = rel.input
    if not isinstance(rel, Derive):
        return None
    while isinstance(rel, Derive):
        rel = rel.input
    return rel


def _order(table: Table) -> str:
    return "" if table.row is None else f"\nORDER BY {table.row}"


def input_table(name: str) -> str:
    """The quoted name of the table that holds the data of `Input(name)`."""
    return quote(f"input {name}")


@dataclass(slots=True)
class Query:
    """The text while it is being written."""

    describe: Describe
    ask: Ask
    bench: Workbench | None = None
    sorted_at: Rel | None = None
    is_sorted: bool = False
    _ctes: list[str] = field(default_factory=list)
    _shared: dict[str, str] = field(default_factory=dict)

    def add(self, label: str, sql: str, *, materialized: bool = False) -> str:
        """Append a common table expression; returns its quoted name."""
        name = quote(f"{len(self._ctes) + 1} {label}")
        how = "MATERIALIZED" if materialized else "NOT MATERIALIZED"
        self._ctes.append(f"{name} AS {how} (\n{sql}\n)")
        return name

    def once(self, label: str, sql: str) -> str:
        """`add`, materialized, but one expression where the same text is asked for again."""
        if sql not in self._shared:
            self._shared[sql] = self.add(label, sql, materialized=True)
        return self._shared[sql]

    def ctes(self) -> str:
        """The WITH clause."""
        listed = ",\n".join(self._ctes)
        return f"WITH {listed}\n" if listed else ""

    def table(self, rel: Rel, needed: Collection[str], within: Within | None = None) -> Table:
        """Write `rel`; the result has at least the columns `needed`. Rows that are not `within`
        are left out where that costs nothing, and the result is `bounded`."""
        table = self._table(rel, needed, within)
        if rel is not self.sorted_at or table.row is None:
            return table
        self.is_sorted = True
        return _sorted(self, table, needed)

    def _table(  # noqa: PLR0911 - one per node
        self, rel: Rel, needed: Collection[str], within: Within | None
    ) -> Table:
        from featurestore.engines.duckdb_window_changes import window_changes
        from featurestore.engines.duckdb_windows import window_join
        from featurestore.engines.duckdb_winners import as_of_join, latest

        match rel:
            case Scan():
                return _scan(self, rel, within)
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
                return _derive(self, rel, needed, within)
            case Stamped():
                return _stamped(self, rel, within)
            case Latest():
                return latest(self, rel, needed)
            case AsOfJoin():
                return as_of_join(self, rel, needed)
            case WindowJoin():
                return window_join(self, rel, needed)
            case WindowChanges():
                return window_changes(self, rel)
            case Union():
                return _union(self, rel)
            case Limit():
                return _limit(self, rel, needed)
            case _:
                assert_never(rel)

    def bounds(self, table: Table, column: str) -> tuple[int, int] | None:
        """The least and the greatest value of an int64 column, where the table is loaded."""
        if not table.loaded:
            return None
        identifier = table.columns[column]
        least, greatest = self.ask(f"SELECT min({identifier}), max({identifier}) FROM {table.name}")
        return (least or 0, greatest or 0)

    def rows(self, label: str, inner: Table, columns: Mapping[str, str], *clauses: str) -> Table:
        """`SELECT columns FROM inner AS r clauses`, the order kept; `columns` map our names to
        SQL text over `r`."""
        names = identifiers(columns)
        items = [f"{sql} AS {names[name]}" for name, sql in columns.items()]
        if inner.row is not None:
            items.append(f"r.{inner.row} AS {quote(ROW)}")
        items += [f"r.{name}" for name in inner.place]
        text = "\n".join([f"SELECT {', '.join(items)}", f"FROM {inner.name} AS r", *clauses])
        row = None if inner.row is None else quote(ROW)
        name = self.add(label, text)
        return Table(name=name, columns=names, row=row, place=inner.place, bounded=inner.bounded)


def _sorted(query: Query, table: Table, needed: Collection[str]) -> Table:
    """The rows in their order, which projections above keep."""
    columns = {name: text for name, text in table.columns.items() if name in needed}
    listed = ", ".join([*columns.values(), f"{table.row} AS {quote(ROW)}"])
    name = query.add("sorted", f"SELECT {listed}\nFROM {table.name}{_order(table)}")
    return Table(name=name, columns=columns, row=quote(ROW))


# --- what is read ---------------------------------------------------------------------------------


def _scan(query: Query, scan: Scan, within: Within | None) -> Table:
    names = identifiers(scan.columns)
    groups = groups_of(scan, query.describe)
    place = tuple(quote(name) for name in PLACE[: place_width(scan, groups)])
    bounded = within is not None and can_bound(scan, groups, within)
    text = scan_sql(scan, names, groups, place=place, within=within if bounded else None)
    name = query.add(scan.source, text)
    return Table(name=name, columns=names, place=place, bounded=bounded)


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


def _expressions(
    query: Query, expressions: Mapping[str, Expression], inner: Table, schema: Mapping[str, DType]
) -> tuple[Table, Mapping[str, str]]:
    """The texts of `expressions`, and what they are over: `inner` with more columns, perhaps."""
    bare = {name: _bare(inner.columns[name]) for name in inner.columns}
    renamed = {name: _renamed(one, bare) for name, one in expressions.items()}
    shared = shared_sql(renamed, {bare[name]: schema[name] for name in bare})
    for layer in shared.layers:
        items = "".join(f", {text} AS {name}" for name, text in layer.items())
        name = query.add("parts", f"SELECT *{items}\nFROM {inner.name} AS r")
        inner = replace(inner, name=name, loaded=False)
    return inner, shared.texts


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


def _derive(query: Query, rel: Derive, needed: Collection[str], within: Within | None) -> Table:
    derived = {name: column for name, column in rel.columns.items() if name in needed}
    used = {column for expression, _ in derived.values() for column in columns_of(expression)}
    if within is not None and within.column in rel.columns:
        within = None
    inner = query.table(rel.input, {*used, *(set(needed) - derived.keys())}, within)
    schema = rel.input.schema
    columns = {n: inner.of("r", n) for n in inner.columns if n not in rel.columns}
    trees = {name: expression for name, (expression, _) in derived.items()}
    inner, texts = _expressions(query, trees, inner, schema)
    for name, (expression, dtype) in derived.items():
        have, what = infer(expression, schema), literal(f"column {name!r}")
        columns[name] = values.lossless(texts[name], have, dtype, what=what)
    return query.rows("derive", inner, columns)


def _stamped(query: Query, rel: Stamped, within: Within | None) -> Table:
    """`within` speaks of `EVENT_US` here."""
    schema = rel.input.schema
    if within is not None:
        within = replace(within, column=rel.event_time)
    inner = query.table(rel.input, frozenset(schema), within)
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

"""`WindowJoin` in DuckDB: tables of requests and events by SQL, the functions over them as arrays,
and a table of answers beside the left rows.

SQL gives each key that is asked for a number, leaves out what no request can see, and decides which
row of an event counts from when to when. Both tables are DuckDB's, which spills; they are read part
by part, all rows of a key in one, so that memory is bounded by `EVENTS_AT_ONCE` (or by the rows of
the hottest key) and not by the source.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.aggregates import BUCKETS_PER_KEY_MAX
from featurestore.compiler.rel import AsOfJoin, Input, Rel, WindowJoin
from featurestore.engines.base import BucketsExceededWarning, SumOverflowWarning
from featurestore.engines.duckdb_shared import Shared
from featurestore.engines.duckdb_sql import ROW, Query, Table, identifiers
from featurestore.engines.duckdb_window_events import Happened
from featurestore.engines.sql import quote, sql_type
from featurestore.errors import InternalError
from featurestore.statuses import Status

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from featurestore.engines.window_answers import Lost

EVENTS_AT_ONCE = 4_000_000
"""So many events, or cells of answers, are in memory at a time, where keys allow."""
_ARRIVING = "answers arriving"


class Workbench:
    """The statements that run on a cursor before the query itself: temporary tables, and what is
    computed between them. `texts` are those that read sources, for `explain`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._tables = 0
        self.texts: list[str] = []
        self.shared: dict[str, Shared] = {}
        self._kept: set[str] = set()

    def keep(self, table: str, write: Callable[[], str]) -> None:
        """Make a table of a quoted name from the query that `write` writes, if it is not there."""
        if table not in self._kept:
            self._kept.add(table)
            text = write()
            self._cursor.execute(f"CREATE TEMP TABLE {table} AS\n{text}")
            self.note(table, text)

    def note(self, label: str, select: str) -> None:
        """Keep the text of a query that need not run."""
        self.texts.append(f"-- {label}\n{select}")

    def store(self, label: str, select: str) -> str:
        """Keep the rows of a query; returns the quoted name of their table."""
        self._tables += 1
        name = quote(f"{label} {self._tables}")
        self._cursor.execute(f"CREATE TEMP TABLE {name} AS\n{select}")
        self.note(label, select)
        return name

    def drop(self, name: str) -> None:
        """Forget a table."""
        self._cursor.execute(f"DROP TABLE {name}")

    def numbers(self, select: str) -> Sequence[Any]:
        """The one row of a query."""
        (row,) = self._cursor.sql(select).fetchall()
        return row

    def read(self, select: str) -> pa.Table:
        """The rows of a query."""
        import pyarrow as pa

        return pa.table(self._cursor.sql(select).to_arrow_table())

    def insert(self, name: str, rows: pa.Table) -> None:
        """Append rows to a table, by position."""
        self._cursor.register(_ARRIVING, rows)
        self._cursor.execute(f"INSERT INTO {name} SELECT * FROM {quote(_ARRIVING)}")
        self._cursor.unregister(_ARRIVING)

    def create(self, label: str, columns: Mapping[str, str]) -> str:
        """An empty table of identifiers and types."""
        self._tables += 1
        name = quote(f"{label} {self._tables}")
        listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        self._cursor.execute(f"CREATE TEMP TABLE {name} ({listed})")
        return name


def window_join(query: Query, rel: WindowJoin, needed: Collection[str]) -> Table:
    """The left rows with the functions' values and the status beside them."""
    bench = query.bench
    if bench is None:
        raise InternalError("windows are computed on a cursor, and there is none")
    kept = {*needed, *rel.keys, rel.left_time} & rel.left.schema.keys()
    left = query.table(rel.left, kept)
    root = _root(rel)
    asked = left if root is rel.left else query.table(root, {*rel.keys, rel.left_time})
    if left.row is None or not isinstance(root, Input):
        left = asked = _stored(query, bench, left)
    search = _Search(query=query, bench=bench, rel=rel, left=asked)
    names = identifiers(rel.schema)
    answers = search.answers(names)
    columns = {name: left.of("l", name) for name in left.columns}
    columns |= {name: f"w.{names[name]}" for name in (*rel.functions, rel.status)}
    items = [f"{text} AS {names[name]}" for name, text in columns.items()]
    items.append(f"l.{left.row} AS {quote(ROW)}")
    text = (
        f"SELECT {', '.join(items)}\nFROM {left.name} AS l\n"
        f"JOIN {answers} AS w ON w.{quote(ROW)} = l.{left.row}"
    )
    kept_names = {name: names[name] for name in columns}
    return Table(name=query.add("windows", text), columns=kept_names, row=quote(ROW))


def _root(rel: WindowJoin) -> Rel:
    """The relation below the joins to the left, if it has the keys and the time itself."""
    root = rel.left
    while isinstance(root, AsOfJoin | WindowJoin):
        root = root.left
    wanted = {*rel.keys, rel.left_time}
    return root if wanted <= root.schema.keys() else rel.left


def _stored(query: Query, bench: Workbench, left: Table) -> Table:
    position = "row_number() OVER () - 1" if left.row is None else f"r.{left.row}"
    listed = left.select("r", left.columns)
    text = f"{query.ctes()}SELECT {listed}, {position} AS {quote(ROW)}\nFROM {left.name} AS r"
    name = bench.store("left", text)
    return Table(name=name, columns=left.columns, row=quote(ROW), stable=True, loaded=True)


@dataclass(slots=True, kw_only=True)
class _Search:
    """One window join. In its tables keys are numbers `g`, left rows `r` and their times `t`; what
    happened is as `Happened` says."""

    query: Query
    bench: Workbench
    rel: WindowJoin
    left: Table

    def answers(self, names: Mapping[str, str]) -> str:
        """The table of answers: one row for each left row."""
        rel = self.rel
        kinds = {quote(ROW): "BIGINT"}
        kinds |= {names[out]: sql_type(f.dtype) for out, f in rel.functions.items()}
        kinds[names[rel.status]] = "INTEGER"
        answers = self.bench.create("answers", kinds)
        keys = self._keys()
        requests = self._requests(keys)
        asked, without, *times = self.bench.numbers(
            f"SELECT count(*), count(*) - count(g), min(t), max(t) FROM {requests}"
        )
        first, last = times if asked else (0, 0)
        happened = Happened(self.query, self.bench, rel, first_us=first, last_us=last, keys=keys)
        columns = happened.columns
        if without < asked:
            events = happened.table()
            sums = maps = 0
            for part, found in self._parts(requests, events, asked, columns):
                rows, more = _answer(rel, part, found, columns)
                self.bench.insert(answers, rows)
                sums, maps = sums + more.sums, maps + more.maps
            _warn(sums, maps)
            self.bench.drop(events)
        elif not asked:
            self.bench.note("events", happened.text())
        if without:
            nobody = self.bench.read(f"SELECT r FROM {requests} WHERE g IS NULL")
            self.bench.insert(answers, _unanswered(rel, nobody))
        self.bench.drop(keys)
        self.bench.drop(requests)
        return answers

    # --- what is asked ----------------------------------------------------------------------------

    @property
    def _left_keys(self) -> list[str]:
        by_right = {right: left for left, right in self.rel.keys.items()}
        return [self.left.of("l", by_right[name]) for name in self.rel.right.keys]

    def _keys(self) -> str:
        keys = self._left_keys
        if not keys:
            return self.bench.store("keys", "SELECT 0 AS g")
        listed = ", ".join(f"{key} AS k{n}" for n, key in enumerate(keys))
        there = " AND ".join(f"{key} IS NOT NULL" for key in keys)
        inner = f"SELECT DISTINCT {listed} FROM {self.left.name} AS l WHERE {there}"
        return self.bench.store("keys", f"SELECT *, row_number() OVER () - 1 AS g FROM ({inner})")

    def _requests(self, keys: str) -> str:
        same = [f"q.k{n} = {key}" for n, key in enumerate(self._left_keys)] or ["true"]
        time = self.left.of("l", self.rel.left_time)
        return self.bench.store(
            "requests",
            f"SELECT l.{self.left.row} AS r, q.g, {time} AS t\nFROM {self.left.name} AS l\n"
            f"LEFT JOIN {keys} AS q ON {' AND '.join(same)}",
        )

    # --- part by part -----------------------------------------------------------------------------

    def _parts(
        self, requests: str, events: str, asked: int, columns: Mapping[str, str]
    ) -> Iterator[tuple[pa.Table, pa.Table]]:
        (count,) = self.bench.numbers(f"SELECT count(*) FROM {events}")
        cells = asked * (len(self.rel.functions) + 1)
        parts = max(1, -(-count // EVENTS_AT_ONCE), -(-cells // (4 * EVENTS_AT_ONCE)))
        event_id = ["id"] if self.rel.event_id is not None else []
        listed = ", ".join(["e", "k", "u", *event_id, *columns.values()])
        for part in range(parts):
            here = f"WHERE g % {parts} = {part}"
            asking = self.bench.read(f"SELECT r, g // {parts} AS g, t FROM {requests} {here}")
            if asking.num_rows:
                happened = f"SELECT g // {parts} AS g, {listed} FROM {events} {here}"
                yield asking, self.bench.read(happened)


def _answer(
    rel: WindowJoin, requests: pa.Table, events: pa.Table, columns: Mapping[str, str]
) -> tuple[pa.Table, Lost]:
    """The answers to `requests`, as rows of the table of answers, and what does not fit."""
    import pyarrow as pa

    from featurestore.engines.window_answers import answer

    dtypes = {name: rel.right.schema[name] for name in columns}
    found, lost = answer(
        rel,
        requests,
        events,
        columns={name: (short, dtypes[name]) for name, short in columns.items()},
        event_id=None if rel.event_id is None else ("id", rel.right.schema[rel.event_id]),
    )
    names = [f"o{n}" for n in range(len(found))]
    return pa.table(dict(zip(names, found, strict=True))), lost


def _warn(sums: int, maps: int) -> None:
    if maps:
        warnings.warn(
            f"{maps:,} maps of windows would have more than {BUCKETS_PER_KEY_MAX:,} entries and "
            "are NULL; say by=… something coarser, or leave rows out with where",
            BucketsExceededWarning,
            stacklevel=2,
        )
    if sums:
        warnings.warn(
            f"{sums:,} sums in windows do not fit int64 (or 38 digits) and are NULL; sum a "
            "smaller unit, or CAST(… AS float64)",
            SumOverflowWarning,
            stacklevel=2,
        )


def _unanswered(rel: WindowJoin, rows: pa.Table) -> pa.Table:
    """What is said of a key with a NULL in it."""
    import pyarrow as pa

    from featurestore.engines.window_answers import empty

    size = rows.num_rows
    found = [rows.column("r"), *(empty(f, size) for f in rel.functions.values())]
    found.append(pa.array([int(Status.NOT_FOUND)] * size, pa.int32()))
    return pa.table({f"o{n}": column for n, column in enumerate(found)})

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
from functools import partial
from typing import TYPE_CHECKING, Any

from featurestore.aggregates import BUCKETS_PER_KEY_MAX
from featurestore.compiler.rel import (
    CREATED_US,
    DELETED,
    EVENT_US,
    AsOfJoin,
    Input,
    Rel,
    WindowJoin,
)
from featurestore.engines.base import BucketsExceededWarning, SumOverflowWarning
from featurestore.engines.duckdb_scans import Within
from featurestore.engines.duckdb_shared import Shared, of_shared
from featurestore.engines.duckdb_sql import ROW, Query, Table, identifiers, input_table
from featurestore.engines.duckdb_values import order_key
from featurestore.engines.sql import quote, sql_type
from featurestore.errors import InternalError
from featurestore.statuses import Status
from featurestore.timeline import INSTANT_US_MIN

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
    """One window join. In its tables keys are numbers `g`, event times `e`, created times `c`,
    known times `k`, event ids `id`; `u` is when a row is replaced, `v0`, `v1`, … are columns."""

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
        columns = self._columns()
        if without < asked:
            events = self._events(keys, columns, times)
            sums = maps = 0
            for part, found in self._parts(requests, events, asked, columns):
                rows, more = _answer(rel, part, found, columns)
                self.bench.insert(answers, rows)
                sums, maps = sums + more.sums, maps + more.maps
            _warn(sums, maps)
            self.bench.drop(events)
        elif not asked:
            self.bench.note("events", self._events_text(keys, columns, (0, 0)))
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

    # --- what happened ----------------------------------------------------------------------------

    def _columns(self) -> dict[str, str]:
        """The right side's columns that functions read, as `v0`, `v1`, …"""
        functions = self.rel.functions.values()
        read = [name for f in functions for name in (f.value, f.condition, f.bucket) if name]
        return {name: f"v{n}" for n, name in enumerate(dict.fromkeys(read))}

    def _events(self, keys: str, columns: Mapping[str, str], times: Sequence[int]) -> str:
        """The rows that some request may see: `g`, `e`, `k`, `u`, `id` (where there are ids) and
        the columns."""
        events = self.bench.store("events", self._events_text(keys, columns, times))
        return events if self.rel.event_id is None else self._versions(events, columns)

    def _events_text(self, keys: str, columns: Mapping[str, str], times: Sequence[int]) -> str:
        rel = self.rel
        inner = self._query()
        used = frozenset(rel.right.schema)
        right, shared = of_shared(rel.right, self.bench.shared)
        if shared is not None:
            self.bench.keep(input_table(shared.input.name), partial(self._shared_text, shared))
        low, high = self._event_bounds(times)
        if low is None and high is None:
            rows = inner.table(right, used)
        else:
            within = Within(EVENT_US, INSTANT_US_MIN if low is None else low, times[1])
            rows = inner.table(right, used, within)
        event, created = rows.of("s", EVENT_US), rows.of("s", CREATED_US)
        known = f"greatest({event}, {created})"
        limits = [f"{event} >= {low}"] if low is not None else []
        limits += [f"{event} <= {high}"] if high is not None else []
        limits += [f"{known} <= {times[1]}"] if rel.as_of == "known" else []
        limits += [f"{known} <= {rel.known_until_us}"] if rel.known_until_us is not None else []
        items = ["q.g", f"{event} AS e", f"{known} AS k"]
        items += [f"{rows.of('s', name)} AS {short}" for name, short in columns.items()]
        if rel.event_id is None:
            limits.append(f"NOT {rows.of('s', DELETED)}")
            items.append("CAST(NULL AS BIGINT) AS u")
        else:
            limits.append(f"{rows.of('s', rel.event_id)} IS NOT NULL")
            items += [f"{rows.of('s', rel.event_id)} AS id", f"{created} AS c"]
            items.append(f"{rows.of('s', DELETED)} AS d")
            items += self._ties(rows)
        same = [f"{rows.columns[name]} = q.k{n}" for n, name in enumerate(rel.right.keys)]
        on = " AND ".join(f"s.{one}" for one in same) or "true"
        where = f"\nWHERE {' AND '.join(limits)}" if limits else ""
        return (
            f"{inner.ctes()}SELECT {', '.join(items)}\nFROM {rows.name} AS s\n"
            f"JOIN {keys} AS q ON {on}{where}"
        )

    def _query(self) -> Query:
        return Query(self.query.describe, self.query.ask, self.bench)

    def _shared_text(self, shared: Shared) -> str:
        inner = self._query()
        rows = inner.table(shared.rel, frozenset(shared.rel.schema))
        names = identifiers(shared.input.dtypes)
        items = [f"{rows.of('s', name)} AS {names[name]}" for name in shared.input.dtypes]
        listed = ", ".join([*items, f"row_number() OVER () - 1 AS {quote(ROW)}"])
        return f"{inner.ctes()}SELECT {listed}\nFROM {rows.name} AS s"

    def _event_bounds(self, times: Sequence[int]) -> tuple[int | None, int | None]:
        """The event times that can matter. Where rows replace each other, so can one that matters
        not: by known time its event time is at most its known time, and that at most T."""
        rel = self.rel
        if rel.event_id is not None:
            return None, (times[1] if rel.as_of == "known" else None)
        low = None if rel.reach_us is None else times[0] - rel.reach_us
        return low, times[1]

    def _ties(self, rows: Table) -> list[str]:
        schema = self.rel.right.schema
        return [
            f"{order_key(rows.of('s', name), schema[name])} AS t{n}"
            for n, name in enumerate(self.rel.right.tiebreak)
        ]

    def _versions(self, events: str, columns: Mapping[str, str]) -> str:
        """From when to when each row counts. Only the rows of ids that have several are sorted.

        A row that comes too late is the first of its known time; `dead` goes by known times alone,
        since rows that are the same in all else may stand in another order in each window.
        """
        rel = self.rel
        repeated = self.bench.store(
            "repeated", f"SELECT g, id FROM {events} GROUP BY g, id HAVING count(*) > 1"
        )
        ties = "".join(f", t{n} NULLS FIRST" for n in range(len(rel.right.tiebreak)))
        turn = f"PARTITION BY g, id ORDER BY k, c, e, d{ties}"
        kept = ", ".join(["g", "e", "k", "id", *columns.values()])
        late = f"k - lag(k) OVER v > {rel.correction_horizon_us}"
        last = "row_number() OVER x = 1" if rel.as_of == "event" else "true"
        until = "CAST(NULL AS BIGINT)" if rel.as_of == "event" else "lead(k) OVER v"
        backwards = "ORDER BY k DESC, c DESC, e DESC, d DESC" + "".join(
            f", t{n} DESC NULLS LAST" for n in range(len(rel.right.tiebreak))
        )
        text = (
            f"SELECT {kept}, CAST(NULL AS BIGINT) AS u FROM {events} AS s\n"
            f"ANTI JOIN {repeated} AS q ON q.g = s.g AND q.id = s.id\nWHERE NOT d\nUNION ALL\n"
            f"SELECT {kept}, u FROM (\n"
            f"SELECT *, {until} AS u, {last} AS last FROM (\n"
            f"SELECT *, sum(CAST(late AS INTEGER)) OVER (PARTITION BY g, id ORDER BY k) AS dead\n"
            f"FROM (\n"
            f"SELECT s.*, coalesce({late}, false) AS late FROM {events} AS s\n"
            f"SEMI JOIN {repeated} AS q ON q.g = s.g AND q.id = s.id\n"
            f"WINDOW v AS ({turn})\n)\n"
            f") WHERE dead = 0\n"
            f"WINDOW v AS ({turn}), x AS (PARTITION BY g, id {backwards})\n"
            f") WHERE last AND NOT d"
        )
        found = self.bench.store("versions", text)
        self.bench.drop(repeated)
        self.bench.drop(events)
        return found

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

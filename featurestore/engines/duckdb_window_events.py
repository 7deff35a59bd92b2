"""The rows that windows are over, as a table of DuckDB: which rows of a view's source count, and
from when to when, where rows of one event replace each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from featurestore.compiler.rel import (
    CREATED_US,
    DELETED,
    EVENT_US,
    WindowChanges,
    WindowFunction,
    WindowJoin,
)
from featurestore.engines.duckdb_scans import Within
from featurestore.engines.duckdb_shared import Shared, of_shared
from featurestore.engines.duckdb_sql import ROW, Query, Table, identifiers, input_table
from featurestore.engines.duckdb_values import order_key
from featurestore.engines.sql import quote
from featurestore.timeline import INSTANT_US_MAX, INSTANT_US_MIN

if TYPE_CHECKING:
    from featurestore.engines.duckdb_windows import Workbench


def inputs_of(function: WindowFunction) -> list[str]:
    """The right side's columns that a function reads."""
    return [name for name in (function.value, function.condition, function.bucket) if name]


@dataclass(frozen=True, slots=True)
class Happened:
    """The rows that count at some T of `[first_us, last_us]` (None: open). In their table event
    times are `e`, created times `c`, known times `k`, event ids `id`; `u` is when a row is
    replaced, `columns` are those that functions read, as `v0`, `v1`, …

    `keys` is a table of the keys that are asked for, `k0`, `k1`, … with a number `g` each, by which
    rows then know theirs; without it every key counts, and they have its columns.
    """

    query: Query
    bench: Workbench
    rel: WindowJoin | WindowChanges
    first_us: int | None
    last_us: int | None
    keys: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """The right side's columns that functions read, by the names they have in the table."""
        read = [name for function in self.rel.functions.values() for name in inputs_of(function)]
        return {name: f"v{n}" for n, name in enumerate(dict.fromkeys(read))}

    @property
    def by(self) -> list[str]:
        """The columns of the table that say whose a row is."""
        return ["g"] if self.keys else [f"k{n}" for n in range(len(self.rel.right.keys))]

    def table(self) -> str:
        """Make the table: `by`, `e`, `k`, `u`, `id` (where there are ids) and `columns`."""
        events = self.bench.store("events", self.text())
        return events if self.rel.event_id is None else self._versions(events)

    def text(self) -> str:
        """The query for the rows, before it is settled which of them replaces which."""
        rel = self.rel
        inner = self._query()
        used = frozenset(rel.right.schema)
        right, shared = of_shared(rel.right, self.bench.shared)
        if shared is not None:
            self.bench.keep(input_table(shared.input.name), partial(self._shared_text, shared))
        low, high = self._event_bounds()
        if low is None and high is None:
            rows = inner.table(right, used)
        else:
            least = INSTANT_US_MIN if low is None else low
            most = INSTANT_US_MAX if self.last_us is None else self.last_us
            rows = inner.table(right, used, Within(EVENT_US, least, most))
        event, created = rows.of("s", EVENT_US), rows.of("s", CREATED_US)
        known = f"greatest({event}, {created})"
        items = [f"{event} AS e", f"{known} AS k"]
        items += [f"{rows.of('s', name)} AS {short}" for name, short in self.columns.items()]
        limits = [f"{event} >= {low}"] if low is not None else []
        limits += [f"{event} <= {high}"] if high is not None else []
        limits += [f"{known} <= {bound}" for bound in self._known_bounds()]
        if rel.event_id is None:
            limits.append(f"NOT {rows.of('s', DELETED)}")
            items.append("CAST(NULL AS BIGINT) AS u")
        else:
            limits.append(f"{rows.of('s', rel.event_id)} IS NOT NULL")
            items += [f"{rows.of('s', rel.event_id)} AS id", f"{created} AS c"]
            items.append(f"{rows.of('s', DELETED)} AS d")
            items += self._ties(rows)
        where = f"\nWHERE {' AND '.join(limits)}" if limits else ""
        return self._whose(inner, rows, items) + where

    def _whose(self, inner: Query, rows: Table, items: list[str]) -> str:
        """`items` of the rows, beside what says whose they are."""
        keys = [rows.of("s", name) for name in self.rel.right.keys]
        if self.keys is None:
            listed = ", ".join([*(f"{k} AS k{n}" for n, k in enumerate(keys)), *items])
            return f"{inner.ctes()}SELECT {listed}\nFROM {rows.name} AS s"
        on = " AND ".join(f"{key} = q.k{n}" for n, key in enumerate(keys)) or "true"
        listed = ", ".join(["q.g", *items])
        return (
            f"{inner.ctes()}SELECT {listed}\nFROM {rows.name} AS s\nJOIN {self.keys} AS q ON {on}"
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

    def _event_bounds(self) -> tuple[int | None, int | None]:
        """The event times that can matter. Where rows replace each other, so can one that matters
        not: by known time its event time is at most its known time, and that at most T."""
        rel = self.rel
        if rel.event_id is not None:
            return None, (self.last_us if rel.as_of == "known" else None)
        if rel.reach_us is None or self.first_us is None:
            return None, self.last_us
        return self.first_us - rel.reach_us, self.last_us

    def _known_bounds(self) -> list[int]:
        rel = self.rel
        found = [self.last_us if rel.as_of == "known" else None, rel.known_until_us]
        return [bound for bound in found if bound is not None]

    def _ties(self, rows: Table) -> list[str]:
        schema = self.rel.right.schema
        return [
            f"{order_key(rows.of('s', name), schema[name])} AS t{n}"
            for n, name in enumerate(self.rel.right.tiebreak)
        ]

    def _versions(self, events: str) -> str:
        """From when to when each row counts. Only the rows of ids that have several are sorted.

        A row that comes too late is the first of its known time; `dead` goes by known times alone,
        since rows that are the same in all else may stand in another order in each window.
        """
        rel = self.rel
        whose = ", ".join([*self.by, "id"])
        same = " AND ".join(f"q.{name} = s.{name}" for name in (*self.by, "id"))
        repeated = self.bench.store(
            "repeated", f"SELECT {whose} FROM {events} GROUP BY {whose} HAVING count(*) > 1"
        )
        ties = "".join(f", t{n} NULLS FIRST" for n in range(len(rel.right.tiebreak)))
        turn = f"PARTITION BY {whose} ORDER BY k, c, e, d{ties}"
        kept = ", ".join([*self.by, "e", "k", "id", *self.columns.values()])
        late = f"k - lag(k) OVER v > {rel.correction_horizon_us}"
        last = "row_number() OVER x = 1" if rel.as_of == "event" else "true"
        until = "CAST(NULL AS BIGINT)" if rel.as_of == "event" else "lead(k) OVER v"
        backwards = "ORDER BY k DESC, c DESC, e DESC, d DESC" + "".join(
            f", t{n} DESC NULLS LAST" for n in range(len(rel.right.tiebreak))
        )
        text = (
            f"SELECT {kept}, CAST(NULL AS BIGINT) AS u FROM {events} AS s\n"
            f"ANTI JOIN {repeated} AS q ON {same}\nWHERE NOT d\nUNION ALL\n"
            f"SELECT {kept}, u FROM (\n"
            f"SELECT *, {until} AS u, {last} AS last FROM (\n"
            f"SELECT *, sum(CAST(late AS INTEGER)) OVER (PARTITION BY {whose} ORDER BY k) AS dead\n"
            f"FROM (\n"
            f"SELECT s.*, coalesce({late}, false) AS late FROM {events} AS s\n"
            f"SEMI JOIN {repeated} AS q ON {same}\n"
            f"WINDOW v AS ({turn})\n)\n"
            f") WHERE dead = 0\n"
            f"WINDOW v AS ({turn}), x AS (PARTITION BY {whose} {backwards})\n"
            f") WHERE last AND NOT d"
        )
        found = self.bench.store("versions", text)
        self.bench.drop(repeated)
        self.bench.drop(events)
        return found

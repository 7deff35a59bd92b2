"""`Latest` and `AsOfJoin` as DuckDB text: which row wins, and then its columns.

Both work in two steps, so that wide columns are read for winners only. First keys and times alone
decide which instants win:

* `Latest`: per key the greatest event time.
* `AsOfJoin`: an ASOF join on the event time, a BIGINT. Where rows become known late, it is joined
  on `known = max(event, created)` instead, against those rows alone whose event time is the
  greatest of their key so far; among the others none can win at any T.

Then the rows at the winning instants are fetched by a hash join. Nearly always there is one per
instant. Where there are more, and only then, a third pass over the rows reads `created_us` and the
tiebreak columns and keeps the greatest; DuckDB leaves that pass at once when no instant needs it.

Every step is linear (or a sort) in rows of the source plus rows of the left side: a hot key costs
no more than a cold one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US, AsOfJoin, Latest, Rel, Stamped
from featurestore.engines.duckdb_sql import ROW, Query, Table, identifiers
from featurestore.engines.duckdb_values import order_key
from featurestore.engines.sql import quote
from featurestore.statuses import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class _Right:
    """The right side while it is searched. In the tables of this module its keys are `k0`, `k1`,
    …, its event time `e`, the instant it was known `a` (where `late`), its columns `v0`, `v1`, …"""

    table: Table
    stamped: Stamped
    late: bool

    @property
    def keys(self) -> list[str]:
        return [self.table.columns[name] for name in self.stamped.keys]

    @property
    def event(self) -> str:
        return self.table.columns[EVENT_US]

    def known(self, alias: str) -> str:
        return f"greatest({alias}.{self.event}, {self.table.of(alias, CREATED_US)})"

    @property
    def instant(self) -> list[str]:
        """The columns that name a winning instant of a key."""
        keys = [f"k{number}" for number in range(len(self.keys))]
        return [*keys, "e", *(["a"] if self.late else [])]

    def at(self, alias: str) -> list[str]:
        """What `instant` is of the row `alias` of the right side."""
        found = [f"{alias}.{name}" for name in [*self.keys, self.event]]
        return [*found, *([self.known(alias)] if self.late else [])]

    def is_at(self, alias: str, instant: str) -> str:
        """The condition that row `alias` stands at the row `instant` of winning instants."""
        pairs = zip(self.at(alias), self.instant, strict=True)
        return " AND ".join(f"{have} = {instant}.{name}" for have, name in pairs)

    @property
    def order(self) -> list[str]:
        """The order of the rows at one instant, the winner first."""
        schema = self.stamped.schema
        ties = [order_key(self.table.of("s", n), schema[n]) for n in self.stamped.tiebreak]
        return [f"{self.table.of('s', CREATED_US)} DESC", *(f"{t} DESC NULLS LAST" for t in ties)]


def latest(query: Query, rel: Latest, needed: Collection[str]) -> Table:
    """The winning row of each key."""
    right = _Right(table=_bounded(query, rel), stamped=rel.input, late=False)
    keys = [f"s.{name} AS k{number}" for number, name in enumerate(right.keys)]
    listed = "".join(f"{key}, " for key in keys)
    group = f"\nGROUP BY {', '.join(f's.{name}' for name in right.keys)}" if keys else ""
    text = f"SELECT {listed}max(s.{right.event}) AS e\nFROM {right.table.name} AS s{group}"
    columns = [name for name in rel.schema if name in needed]
    newest = query.add("newest", text, materialized=True)
    settled = _settled(query, right, newest, columns)
    names = identifiers(columns)
    items = ", ".join(f"v{number} AS {names[name]}" for number, name in enumerate(columns))
    items = items or "1 AS nothing"
    return Table(name=query.add("latest", f"SELECT {items}\nFROM {settled}"), columns=names)


def _bounded(query: Query, rel: Latest) -> Table:
    inner = query.table(rel.input, frozenset(rel.input.schema))
    event, created = inner.of("r", EVENT_US), inner.of("r", CREATED_US)
    known = f"greatest({event}, {created})"
    bounds = (
        (f"{known} >", rel.known_after_us),
        (f"{known} <=", rel.known_until_us),
        (f"{event} >=", rel.event_from_us),
        (f"{event} <", rel.event_to_us),
    )
    return _where(query, inner, [f"{text} {us}" for text, us in bounds if us is not None])


def _where(query: Query, inner: Table, conditions: Sequence[str]) -> Table:
    if not conditions:
        return inner
    kept = {name: inner.of("r", name) for name in inner.columns}
    return query.rows("bounded", inner, kept, f"WHERE {' AND '.join(conditions)}")


def as_of_join(query: Query, rel: AsOfJoin, needed: Collection[str]) -> Table:
    """Joins in a row whose keys and time come from one left side are found side by side, and put
    beside its rows at the end, by position."""
    root, joins = _chain(rel)
    left = _left(query, root, joins, needed)
    found = [_winners(query, left, join) for join in joins]
    names = identifiers(rel.schema)
    columns = {name: left.of("l", name) for name in left.columns}
    for number, (join, answers) in enumerate(zip(joins, found, strict=True)):
        columns |= {name: answers.of(f"j{number}", name) for name in join.columns}
        status = answers.of(f"j{number}", join.status)
        columns[join.status] = f"coalesce({status}, {int(Status.NOT_FOUND)})"
    items = [f"{text} AS {names[name]}" for name, text in columns.items()]
    items.append(f"l.{left.row} AS {quote(ROW)}")
    beside = [
        f"LEFT JOIN {answers.name} AS j{number} ON j{number}.{answers.row} = l.{left.row}"
        for number, answers in enumerate(found)
    ]
    text = "\n".join([f"SELECT {', '.join(items)}", f"FROM {left.name} AS l", *beside])
    kept = {name: names[name] for name in columns}
    return Table(name=query.add("joined", text), columns=kept, row=quote(ROW))


def _chain(rel: AsOfJoin) -> tuple[Rel, list[AsOfJoin]]:
    joins = [rel]
    root = rel.left
    while isinstance(root, AsOfJoin):
        own = {*root.columns, root.status}
        if any(own & {*join.keys, join.left_time} for join in joins):
            break
        joins.append(root)
        root = root.left
    return root, joins[::-1]


def _left(query: Query, root: Rel, joins: Sequence[AsOfJoin], needed: Collection[str]) -> Table:
    used = {name for join in joins for name in (*left_keys(join), join.left_time)}
    left = query.table(root, {*used, *(set(needed) & root.schema.keys())})
    if left.stable and left.row is not None:
        return left
    position = "row_number() OVER ()" if left.row is None else f"r.{left.row}"
    listed = left.select("r", left.columns)
    text = f"SELECT {listed}, {position} AS {quote(ROW)}\nFROM {left.name} AS r"
    name = query.add("left", text, materialized=True)
    return Table(name=name, columns=left.columns, row=quote(ROW), stable=True)


def left_keys(join: AsOfJoin) -> list[str]:
    """The left columns that hold the right side's keys, in the order of those."""
    by_right = {right: left for left, right in join.keys.items()}
    return [by_right[name] for name in join.right.keys]


def _winners(query: Query, left: Table, join: AsOfJoin) -> Table:
    """The columns and the status that `join` adds, with the position of the left row, for the left
    rows that have a winner."""
    late = join.as_of == "known" and join.right.created_time is not None
    inner = query.table(join.right, frozenset(join.right.schema))
    if join.known_until_us is not None:
        known = f"greatest({inner.of('r', EVENT_US)}, {inner.of('r', CREATED_US)})"
        inner = _where(query, inner, [f"{known} <= {join.known_until_us}"])
    right = _Right(table=inner, stamped=join.right, late=late)
    found = _instants(query, left, join, right)
    columns = list(dict.fromkeys([*join.columns.values(), DELETED]))
    settled = _settled(query, right, found, columns, beside=(quote(ROW), "t"))
    names = identifiers([*join.columns, join.status])
    places = {name: f"v{number}" for number, name in enumerate(columns)}
    present = f"CASE WHEN status = {int(Status.PRESENT)} THEN {{}} END"
    items = [
        f"{present.format(places[name])} AS {names[out]}" for out, name in join.columns.items()
    ]
    items += [f"status AS {names[join.status]}", quote(ROW)]
    status = _status(join, deleted=places[DELETED])
    text = f"SELECT {', '.join(items)}\nFROM (SELECT *, {status} AS status FROM {settled})"
    return Table(name=query.add("answers", text), columns=names, row=quote(ROW))


def _instants(query: Query, left: Table, join: AsOfJoin, right: _Right) -> str:
    """The instant (key, event time, known time) of the winner of each left row that has one."""
    narrow = _candidates(query, left, join, right)
    on = "a" if right.late else "e"
    if right.late:
        keys = "".join(f"{name}, " for name in right.instant if name.startswith("k"))
        by = f"PARTITION BY {keys[:-2]} " if keys else ""
        running = f"SELECT *, max(e) OVER ({by}ORDER BY a) AS newest FROM {narrow}"
        text = f"SELECT {keys}e, a\nFROM ({running})\nWHERE e = newest"
        narrow = query.add("records", text)
    keys_left = [left.of("l", name) for name in left_keys(join)]
    same = [f"{have} = r.k{number}" for number, have in enumerate(keys_left)]
    at = left.of("l", join.left_time)
    items = [f"{have} AS k{number}" for number, have in enumerate(keys_left)]
    items += [f"l.{left.row} AS {quote(ROW)}", f"{at} AS t", "r.e", *(["r.a"] if on == "a" else [])]
    conditions = " AND ".join([*same, f"{at} >= r.{on}"])
    text = (
        f"SELECT {', '.join(items)}\nFROM {left.name} AS l\nASOF JOIN {narrow} AS r ON {conditions}"
    )
    return query.add("as of", text, materialized=True)


def _candidates(query: Query, left: Table, join: AsOfJoin, right: _Right) -> str:
    """Keys and times of the right rows that can win: of keys that are asked for, not after the
    last time asked about, not too old for the first."""
    first, last = query.least_and_greatest(left, join.left_time)
    event = f"s.{right.event}"
    conditions = [f"{right.known('s') if right.late else event} <= {last}"]
    if join.ttl_us is not None:
        reach = join.ttl_us + (join.ttl_us if join.grace_us is None else join.grace_us)
        conditions.append(f"{event} >= {first} - {reach}")
    names = zip(right.at("s"), right.instant, strict=True)
    items = ", ".join(f"{have} AS {name}" for have, name in names)
    semi = ""
    if right.keys:
        pairs = zip(right.keys, left_keys(join), strict=True)
        same = " AND ".join(f"s.{have} = l.{left.columns[name]}" for have, name in pairs)
        semi = f"\nSEMI JOIN {left.name} AS l ON {same}"
    text = f"SELECT {items}\nFROM {right.table.name} AS s{semi}\nWHERE {' AND '.join(conditions)}"
    return query.add("candidates", text)


def _settled(
    query: Query, right: _Right, winners: str, columns: Sequence[str], *, beside: Sequence[str] = ()
) -> str:
    """The rows at the instants in `winners`: its columns `beside` and `e`, and `columns` of the
    right side as `v0`, `v1`, …"""
    instant, rows = right.instant, right.table.name
    items = "".join(f", {right.table.of('s', name)} AS v{n}" for n, name in enumerate(columns))
    at = ", ".join(f"{have} AS {n}" for have, n in zip(right.at("s"), instant, strict=True))
    text = (
        f"SELECT {', '.join(instant)}\nFROM (SELECT {at} FROM {rows} AS s\n"
        f"SEMI JOIN {winners} AS w ON {right.is_at('s', 'w')})\n"
        f"GROUP BY {', '.join(instant)}\nHAVING count(*) > 1"
    )
    tied = query.add("tied", text, materialized=True)
    listed = ", ".join(f"w.{name}" for name in instant)
    text = (
        f"SELECT *\nFROM (SELECT {listed}{items}, row_number() OVER ("
        f"PARTITION BY {listed} ORDER BY {', '.join(right.order)}) AS place\n"
        f"FROM {rows} AS s\nJOIN {tied} AS w ON {right.is_at('s', 'w')})\nWHERE place = 1"
    )
    best = query.add("best", text)
    same = " AND ".join(f"x.{name} = w.{name}" for name in instant)
    kept = ", ".join(f"w.{name}" for name in (*beside, "e"))
    plain = "".join(f", x.v{n}" for n in range(len(columns)))
    text = (
        f"SELECT {kept}{items}\nFROM {rows} AS s\n"
        f"JOIN (SELECT w.* FROM {winners} AS w ANTI JOIN {tied} AS x ON {same}) AS w "
        f"ON {right.is_at('s', 'w')}\nUNION ALL\n"
        f"SELECT {kept}{plain}\nFROM {winners} AS w\nJOIN {best} AS x ON {same}"
    )
    return query.add("settled", text)


def _status(join: AsOfJoin, *, deleted: str) -> str:
    present, outside, missing = (
        int(s) for s in (Status.PRESENT, Status.OUTSIDE_MAX_AGE, Status.NOT_FOUND)
    )
    gone = f"WHEN {deleted} THEN {missing}"
    if join.ttl_us is None:
        return f"CAST(CASE {gone} ELSE {present} END AS INTEGER)"
    grace = join.ttl_us if join.grace_us is None else join.grace_us
    age = "t - e"
    return (
        f"CAST(CASE {gone} WHEN {age} <= {join.ttl_us} THEN {present} "
        f"WHEN {age} <= {join.ttl_us + grace} THEN {outside} ELSE {missing} END AS INTEGER)"
    )

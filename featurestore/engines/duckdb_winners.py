"""`Latest` and `AsOfJoin` as DuckDB text: which row wins, and then its columns.

Both work in two steps, so that wide columns are read for winners only. First keys and times alone
decide which rows win:

* `Latest`: per key the row of the greatest event time.
* `AsOfJoin`, in one of two forms, of which `_is_thin` chooses by counting the pairs of a left row
  and a right row of its key. Where they are few, a **range join** makes them all and keeps the
  greatest event time of each left row. Where they are many, since both sides have rows of a hot
  key, an **ASOF join** finds the last row at or before the time. Where rows become known late, it
  is joined on `known = max(event, created)`, against those rows alone whose event time is the
  greatest of their key so far; among the others none can win at any T.

Both searches note whether a winner is `tied`: whether it shares its key and event time with
another row. `duckdb_ties.py` settles those and fetches the columns of all.

Every step is linear (or a sort) in rows of the source plus rows of the left side: a hot key costs
no more than a cold one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US, AsOfJoin, Latest, Rel
from featurestore.engines.duckdb_scans import Within
from featurestore.engines.duckdb_sql import ROW, Query, Table, identifiers
from featurestore.engines.duckdb_ties import (
    Right,
    Winners,
    count_ties,
    greatest_place,
    settle,
    with_place,
)
from featurestore.engines.sql import quote
from featurestore.statuses import Status
from featurestore.timeline import INSTANT_US_MIN

PAIRS_PER_ROW_MAX = 4
"""Up to so many pairs for each row that takes part, a range join is faster than an ASOF join."""
ASKED_PER_KEY_MAX = 16
"""Up to so many left rows of each key, pairs can't be too many."""


def latest(query: Query, rel: Latest, needed: Collection[str]) -> Table:
    """The winning row of each key."""
    right = Right(table=_bounded(query, rel), stamped=rel.input, late=False)
    keys = [f"s.{name} AS k{number}" for number, name in enumerate(right.keys)]
    listed = "".join(f"{key}, " for key in keys)
    group = f"\nGROUP BY {', '.join(f's.{name}' for name in right.keys)}" if keys else ""
    event = f"s.{right.event}"
    greatest = greatest_place(event, right.place("s")) if right.has_place else f"max({event}) AS e"
    text = f"SELECT {listed}{greatest}\nFROM {right.table.name} AS s{group}"
    if right.has_place:
        text = with_place(text)
        newest = query.add("newest", text, materialized=True)
    else:
        newest = count_ties(query, right, query.add("newest", text, materialized=True))
    columns = [name for name in rel.schema if name in needed]
    won = Winners(name=newest, instant=right.instant, contends=right.is_at("s", "w"))
    settled = settle(query, right, won, columns)
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
    found = [_winners(query, left, join, with_status=join.status in needed) for join in joins]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """One as-of join while its winners are searched: `keys` and `time` are SQL over the left row
    `l`, `reach_us` how far back a row can stand to be of interest."""

    left: Table
    right: Right
    keys: Sequence[str]
    time: str
    reach_us: int | None

    @property
    def same_key(self) -> list[str]:
        return [f"s.{r} = {left}" for r, left in zip(self.right.keys, self.keys, strict=True)]

    @property
    def asked(self) -> list[str]:
        """What is kept of a left row."""
        keys = [f"{have} AS k{number}" for number, have in enumerate(self.keys)]
        return [*keys, f"{self.time} AS t"]


def _winners(query: Query, left: Table, join: AsOfJoin, *, with_status: bool) -> Table:
    """The columns and the status that `join` adds, with the position of the left row, for the left
    rows that have a winner. Without `with_status`, rows beyond the ttl are left out."""
    reach = join.ttl_us
    if reach is not None and with_status:
        reach += reach if join.grace_us is None else join.grace_us
    right = _right(query, left, join, reach)
    search = _Search(
        left=left,
        right=right,
        keys=[left.of("l", name) for name in left_keys(join)],
        time=left.of("l", join.left_time),
        reach_us=reach,
    )
    won = _by_range(query, search) if _is_thin(query, search) else _by_as_of(query, search)
    columns = list(dict.fromkeys([*join.columns.values(), DELETED]))
    settled = settle(query, right, won, columns, beside=(quote(ROW), "t"))
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


def _right(query: Query, left: Table, join: AsOfJoin, reach: int | None) -> Right:
    """The rows that can win by their event time: not after the last time asked about, not too old
    for the first."""
    late = join.as_of == "known" and join.right.created_time is not None
    columns = frozenset(join.right.schema)
    bounds = query.bounds(left, join.left_time)
    if bounds is not None:
        earliest = INSTANT_US_MIN if reach is None else bounds[0] - reach
        inner = query.table(join.right, columns, Within(EVENT_US, earliest, bounds[1]))
    else:
        inner = query.table(join.right, columns)
    conditions = []
    if not inner.bounded:
        least, greatest = (
            f"(SELECT {name}({left.of('l', join.left_time)}) FROM {left.name} AS l)"
            for name in ("min", "max")
        )
        event = inner.of("r", EVENT_US)
        conditions.append(f"{event} <= {greatest}")
        conditions += [f"{event} >= {least} - {reach}"] if reach is not None else []
    if join.known_until_us is not None:
        known = f"greatest({inner.of('r', EVENT_US)}, {inner.of('r', CREATED_US)})"
        conditions.append(f"{known} <= {join.known_until_us}")
    return Right(table=_where(query, inner, conditions), stamped=join.right, late=late)


def _is_thin(query: Query, search: _Search) -> bool:
    """Whether a range join is the faster form. Left rows with few of each key settle that alone;
    else the pairs of a key are counted, all of them: a sample may miss the one hot key, whose
    rows can stand at any places."""
    right, left = search.right, search.left
    if not (right.keys and right.has_place and left.loaded):
        return False
    keys = [f"{have} AS k{number}" for number, have in enumerate(search.keys)]
    asked = f"SELECT {', '.join(keys)}, count(*) AS asked FROM {left.name} AS l GROUP BY ALL"
    (most,) = query.ask(f"SELECT max(asked) FROM ({asked})")
    if (most or 0) <= ASKED_PER_KEY_MAX:
        return True
    same = " AND ".join(f"s.{name} = k{number}" for number, name in enumerate(right.keys))
    (thin,) = query.ask(
        f"{query.ctes()}SELECT CAST(sum(asked) <= {PAIRS_PER_ROW_MAX} * count(*) AS INTEGER)\n"
        f"FROM {right.table.name} AS s\nJOIN ({asked}) ON {same}"
    )
    return thin != 0


def _by_range(query: Query, search: _Search) -> Winners:
    """All pairs of a left row and a right row that it may see, and the greatest of each."""
    right, time = search.right, search.time
    names = [*right.instant, "place"]
    narrow = _candidates(query, search, names, materialized=True)
    known = "a" if right.late else "e"
    keys = [f"k{number}" for number in range(len(search.keys))]
    same = [f"s.{name} = {have}" for name, have in zip(keys, search.keys, strict=True)]
    conditions = [*same, f"s.{known} <= {time}"]
    if search.reach_us is not None:
        conditions.append(f"s.e >= {time} - {search.reach_us}")
    asked = ", ".join(f"any_value({item.replace(' AS ', ') AS ')}" for item in search.asked)
    row = f"l.{search.left.row}"
    text = with_place(
        f"SELECT {row} AS {quote(ROW)}, {asked}, {greatest_place('s.e', 's.place')}\n"
        f"FROM {narrow} AS s\n"
        f"JOIN {search.left.name} AS l ON {' AND '.join(conditions)}\nGROUP BY {row}"
    )
    same = [f"s.{name} = w.{name}" for name in [*keys, "e"]]
    return Winners(
        name=query.add("in range", text, materialized=True),
        instant=[quote(ROW), *keys, "e", "t"],
        contends=" AND ".join([*same, f"s.{known} <= w.t"]),
        among=narrow,
    )


def _by_as_of(query: Query, search: _Search) -> Winners:
    """The last of the rows that can win, at or before the time."""
    right = search.right
    names = [*right.instant, *(["place"] if right.has_place else [])]
    narrow = _candidates(query, search, names)
    if right.late:
        keys = ", ".join(name for name in names if name.startswith("k"))
        window = f"{f'PARTITION BY {keys} ' if keys else ''}ORDER BY a"
        running = (
            "SELECT *, max(e) OVER known AS newest, "
            "coalesce(a = lag(a) OVER known, false) OR coalesce(a = lead(a) OVER known, false) "
            f"AS tied\nFROM {narrow} WINDOW known AS ({window})"
        )
        text = f"SELECT * EXCLUDE (newest)\nFROM ({running})\nWHERE e = newest"
        narrow = query.add("records", text)
        names = [*names, "tied"]
    same = [f"{have} = r.k{number}" for number, have in enumerate(search.keys)]
    found = [f"r.{name}" for name in names if not name.startswith("k")]
    items = [f"l.{search.left.row} AS {quote(ROW)}", *search.asked, *found]
    conditions = " AND ".join([*same, f"{search.time} >= r.{'a' if right.late else 'e'}"])
    text = (
        f"SELECT {', '.join(items)}\nFROM {search.left.name} AS l\n"
        f"ASOF JOIN {narrow} AS r ON {conditions}"
    )
    name = query.add("as of", text, materialized=True)
    if not right.late:
        name = count_ties(query, right, name)
    return Winners(name=name, instant=right.instant, contends=right.is_at("s", "w"))


def _candidates(
    query: Query, search: _Search, names: Sequence[str], *, materialized: bool = False
) -> str:
    """Keys, times and places of the right rows whose keys are asked for."""
    right = search.right
    values = [*right.at("s"), *([right.place("s")] if right.has_place else [])]
    items = ", ".join(f"{value} AS {name}" for value, name in zip(values, names, strict=True))
    same = " AND ".join(search.same_key)
    semi = f"\nSEMI JOIN {search.left.name} AS l ON {same}" if same else ""
    text = f"SELECT {items}\nFROM {right.table.name} AS s{semi}"
    return query.add("candidates", text, materialized=materialized)


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

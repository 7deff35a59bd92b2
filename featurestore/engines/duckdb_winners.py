"""`Latest` and `AsOfJoin` as DuckDB text: which row wins, and then its columns.

Both work in two steps, so that wide columns are read for winners only. First keys and times alone
decide which rows win:

* `Latest`: per key the row of the greatest event time.
* `AsOfJoin`, in one of three forms (`_search`). Where the pairs of a left row and a right row of
  its key are few, a **range join** makes them all and keeps the greatest event time of each left
  row. Where both sides have many rows of a hot key, both are put into **one order** and run through
  (`duckdb_order.py`). For what has no place in a file, and where numbers do not fit, an **ASOF
  join** finds the last row at or before the time. Where rows become known late, it is joined on
  `known = max(event, created)`, against those rows alone whose event time is the greatest of their
  key so far; among the others none can win at any T.

All note whether a winner is `tied`: whether it shares its key and event time with another row.
`duckdb_ties.py` settles those and fetches the columns of all.

Every step is linear (or a sort) in rows of the source plus rows of the left side: a hot key costs
no more than a cold one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US, AsOfJoin, Latest, Rel
from featurestore.engines.duckdb_order import by_order, packing_of
from featurestore.engines.duckdb_scans import Within
from featurestore.engines.duckdb_search import Search
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
"""Up to so many left rows of each key, pairs can't be too many. Where a left row finds more of its
own key on average, they are."""
KEPT_ROWS_MAX = 10_000
"""Up to so many left rows, the right rows of their keys are few and kept for the ties."""


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


def _winners(query: Query, left: Table, join: AsOfJoin, *, with_status: bool) -> Table:
    """The columns and the status that `join` adds, with the position of the left row, for the left
    rows that have a winner. Without `with_status`, rows beyond the ttl are left out."""
    reach = join.ttl_us
    if reach is not None and with_status:
        reach += reach if join.grace_us is None else join.grace_us
    plain = not with_status and join.right.op is None
    search = Search(
        left=left,
        right=_right(query, left, join, reach),
        keys=[left.of("l", name) for name in left_keys(join)],
        time=left.of("l", join.left_time),
        reach_us=reach,
        bounds=query.bounds(left, join.left_time),
        with_time=not plain,
    )
    won = _search(query, search)
    columns = list(dict.fromkeys([*join.columns.values(), *([] if plain else [DELETED])]))
    settled = settle(query, search.right, won, columns, beside=search.beside, at_once=True)
    names = identifiers([*join.columns, join.status])
    places = {name: f"v{number}" for number, name in enumerate(columns)}
    if plain:
        # All that was found is there.
        items = [f"{places[name]} AS {names[out]}" for out, name in join.columns.items()]
        items += [f"{int(Status.PRESENT)} AS {names[join.status]}", quote(ROW)]
        text = f"SELECT {', '.join(items)}\nFROM {settled}"
        return Table(name=query.add("answers", text), columns=names, row=quote(ROW))
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


def _search(query: Query, search: Search) -> Winners:
    """By the form that is the fastest for these rows."""
    if search.right.keys and search.right.has_place and search.left.loaded:
        asked = _asked(query, search)
        if _is_thin(query, search, asked):
            return _by_range(query, search, keep=asked.rows <= KEPT_ROWS_MAX)
        if (packing := packing_of(search, asked.rows)) is not None:
            return by_order(query, search, packing)
    return _by_as_of(query, search)


@dataclass(frozen=True, slots=True)
class _Asked:
    """How many left rows there are, how many at most of one key, and how many a left row finds of
    its own key on average."""

    rows: int
    most: int
    alike: float


def _asked(query: Query, search: Search) -> _Asked:
    grouped = _grouped(search)
    rows, most, squares = query.ask(
        f"SELECT sum(asked), max(asked), sum(asked * asked)\nFROM ({grouped})"
    )
    return _Asked(rows or 0, most or 0, (squares or 0) / max(rows or 0, 1))


def _grouped(search: Search) -> str:
    listed = ", ".join(search.asked_keys)
    return f"SELECT {listed}, count(*) AS asked FROM {search.left.name} AS l GROUP BY ALL"


def _is_thin(query: Query, search: Search, asked: _Asked) -> bool:
    """Whether a range join is the fastest form. Where the left rows don't settle that alone, the
    pairs of a key are counted, all of them: a sample may miss the one hot key, whose rows can stand
    at any places."""
    if asked.most <= ASKED_PER_KEY_MAX:
        return True
    if asked.alike > ASKED_PER_KEY_MAX:
        return False
    right = search.right
    same = [f"s.{r} = {name}" for r, name in zip(right.keys, search.key_names, strict=True)]
    (thin,) = query.ask(
        f"{query.ctes()}SELECT CAST(sum(asked) <= {PAIRS_PER_ROW_MAX} * count(*) AS INTEGER)\n"
        f"FROM {right.table.name} AS s\nJOIN ({_grouped(search)}) ON {' AND '.join(same)}"
    )
    return thin != 0


def _by_range(query: Query, search: Search, *, keep: bool) -> Winners:
    """All pairs of a left row and a right row that it may see, and the greatest of each. The right
    rows of the keys are kept for a further look where they are few."""
    right, left, time = search.right, search.left, search.time
    event, known = f"s.{right.event}", right.known("s")
    source, place, same = f"{right.table.name} AS s", right.place("s"), search.same_key
    among = ""
    if keep:
        among = _candidates(query, search, [*right.instant, "place"], materialized=True)
        event, known, place = "s.e", "s.a" if right.late else "s.e", "s.place"
        source = f"{among} AS s"
        same = [f"s.{n} = {have}" for n, have in zip(search.key_names, search.keys, strict=True)]
    conditions = [*same, f"{known} <= {time}"]
    if search.reach_us is not None:
        conditions.append(f"{event} >= {time} - {search.reach_us}")
    row = f"l.{left.row}"
    asked = f", any_value({time}) AS t" if search.with_time else ""
    text = with_place(
        f"SELECT {row} AS {quote(ROW)}{asked}, {greatest_place(event, place)}\n"
        f"FROM {source}\nJOIN {left.name} AS l ON {' AND '.join(conditions)}\nGROUP BY {row}"
    )
    name = query.add("in range", text, materialized=True)
    tied = (
        f"SELECT w.{quote(ROW)}, w.e, {', '.join(search.asked_keys)}, {time} AS t\n"
        f"FROM {name} AS w\nJOIN {left.name} AS l ON {row} = w.{quote(ROW)}\nWHERE w.tied"
    )
    have = search.key_names if keep else right.keys
    same = [f"s.{one} = w.{name}" for one, name in zip(have, search.key_names, strict=True)]
    return Winners(
        name=name,
        instant=[quote(ROW)],
        contends=" AND ".join([*same, f"{event} = w.e", f"{known} <= w.t"]),
        among=among,
        tied=tied,
    )


def _by_as_of(query: Query, search: Search) -> Winners:
    """The last of the rows that can win, at or before the time."""
    right = search.right
    names = [*right.instant, *(["place"] if right.has_place else [])]
    narrow = _candidates(query, search, names)
    if right.late:
        keys = ", ".join(search.key_names)
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
    asked = [*search.asked_keys, f"{search.time} AS t"]
    items = [f"l.{search.left.row} AS {quote(ROW)}", *asked, *found]
    conditions = " AND ".join([*same, f"{search.time} >= r.{'a' if right.late else 'e'}"])
    text = (
        f"SELECT {', '.join(items)}\nFROM {search.left.name} AS l\n"
        f"ASOF JOIN {narrow} AS r ON {conditions}"
    )
    if search.reach_us is not None:
        text += f"\nWHERE r.e >= {search.time} - {search.reach_us}"
    name = query.add("as of", text, materialized=True)
    if not right.late:
        name = count_ties(query, right, name)
    return Winners(name=name, instant=right.instant, contends=right.is_at("s", "w"))


def _candidates(
    query: Query, search: Search, names: Sequence[str], *, materialized: bool = False
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

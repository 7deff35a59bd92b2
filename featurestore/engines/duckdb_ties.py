"""The rows that have won, and among them those that are tied: one file for `Latest` and `AsOfJoin`.

A search (`duckdb_winners.py`) yields `Winners`, and `settle` fetches their columns by their place
in the files, which lets DuckDB skip what it need not decode (where a source has no places, as CSV
and queries, by key and times). Those that are `tied` are settled in one of two ways:

* at once (`_at_once`): all rows that are tied are fetched together with those that are alone, and
  ordered then. That holds the rows, and is for as-of joins whose features are most of the columns
  that decide.
* by further passes over `created_us` and a few tiebreak columns, then over all of them, which
  DuckDB leaves at once when nothing is tied any more. That streams, and is for `Latest` and for
  few features of a wide source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurestore.compiler.rel import CREATED_US, EVENT_US, Derive, Stamped
from featurestore.definitions.expression import Column
from featurestore.engines.duckdb_sql import Query, Table
from featurestore.engines.duckdb_values import order_key

TIES_FIRST = 2
"""So many tiebreak columns are read at first; nearly always they decide."""
EXTRA_MAX = 4
"""So many columns at most are fetched for the order alone, beside those that are asked for."""
_PLACE_BITS, _FILE_BITS = 63, 22
ROW_BITS = _PLACE_BITS - 1 - _FILE_BITS
"""What the number of a row in its file has of a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """The right side while it is searched. In the tables of this module its keys are `k0`, `k1`,
    …, its event time `e`, the instant it was known `a` (where `late`), its place `place`, its
    columns `v0`, `v1`, …"""

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
        """When row `alias` was known, where that matters, else its event time."""
        event = f"{alias}.{self.event}"
        return f"greatest({event}, {self.table.of(alias, CREATED_US)})" if self.late else event

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
    def has_place(self) -> bool:
        return bool(self.table.place)

    def place(self, alias: str) -> str:
        """The place of row `alias` as one BIGINT: the file, then the row in it."""
        row, *file = (f"{alias}.{name}" for name in self.table.place)
        return f"(CAST({file[0]} AS BIGINT) * {1 << ROW_BITS} + {row})" if file else row

    def stands(self, alias: str, winner: str) -> str:
        """The condition that row `alias` has the place of `winner`, on the columns themselves,
        which DuckDB can then skip by."""
        place = f"{winner}.place"
        parts = [place]
        if len(self.table.place) > 1:
            parts = [f"{place} % {1 << ROW_BITS}", f"{place} // {1 << ROW_BITS}"]
        pairs = zip(self.table.place, parts, strict=True)
        return " AND ".join(f"{alias}.{name} = {part}" for name, part in pairs)

    def values(self, columns: Sequence[str]) -> str:
        """The values of `columns` of the row `s`, each after a comma."""
        return "".join(f", {self.table.of('s', name)} AS v{n}" for n, name in enumerate(columns))

    @property
    def order(self) -> list[str]:
        """The order of the rows at one instant, the winner first."""
        return self._order(self.stamped.tiebreak)

    @property
    def first_order(self) -> list[str]:
        """The beginning of `order`, without the columns that are equal at one instant. (Created
        times are not: NULL counts as the event time there, and as lowest here.)"""
        equal = {*self.stamped.keys, self.stamped.event_time}
        return self._order([n for n in self.stamped.tiebreak if n not in equal][:TIES_FIRST])

    def _order(self, tiebreak: Sequence[str]) -> list[str]:
        schema = self.stamped.schema
        ties = [order_key(self.table.of("s", name), schema[name]) for name in tiebreak]
        return [f"{self.table.of('s', CREATED_US)} DESC", *(f"{t} DESC NULLS LAST" for t in ties)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Winners:
    """A table of winning rows: `instant`, the columns that say among which rows each has won,
    `contends`, the condition that row `s` of the right side is one of those of `w`, the column
    `tied`, whether there is more than one, and `place` if the right side has places."""

    name: str
    instant: Sequence[str]
    contends: str
    among: str = ""
    tied: str = ""

    @property
    def tied_text(self) -> str:
        """The instants at which there is more than one, with all that `contends` speaks of."""
        distinct = f"SELECT DISTINCT {', '.join(self.instant)}\nFROM {self.name} WHERE tied"
        return self.tied or distinct


def greatest_place(event: str, place: str) -> str:
    """Aggregates for `with_place`: the greatest event time, and the greatest and the least place
    of the rows that have it."""
    high = f"CAST({event} AS HUGEINT) * {1 << _PLACE_BITS}"
    return f"max({event}) AS e, max({high} + {place}) AS last, max({high} - {place}) AS first"


def with_place(greatest: str) -> str:
    """The places that `greatest_place` has packed, and whether there is more than one."""
    high = f"CAST(e AS HUGEINT) * {1 << _PLACE_BITS}"
    return (
        f"SELECT * EXCLUDE (first, last), CAST(last - {high} AS BIGINT) AS place, "
        f"last - {high} <> {high} - first AS tied\nFROM (\n{greatest})"
    )


def count_ties(query: Query, right: Right, found: str) -> str:
    """`found` and whether its instants are `tied`, by a pass that counts the rows at them."""
    instant = ", ".join(right.instant)
    at = ", ".join(f"{have} AS {n}" for have, n in zip(right.at("s"), right.instant, strict=True))
    text = (
        f"SELECT {instant}\nFROM (SELECT {at} FROM {right.table.name} AS s\n"
        f"SEMI JOIN {found} AS w ON {right.is_at('s', 'w')})\n"
        f"GROUP BY {instant}\nHAVING count(*) > 1"
    )
    several = query.add("several", text, materialized=True)
    same = _same(right.instant)
    text = (
        f"SELECT w.*, x.e IS NOT NULL AS tied\nFROM {found} AS w\n"
        f"LEFT JOIN {several} AS x ON {same}"
    )
    return query.add("counted", text, materialized=True)


def settle(
    query: Query,
    right: Right,
    won: Winners,
    columns: Sequence[str],
    *,
    beside: Sequence[str] = (),
    at_once: bool = False,
) -> str:
    """The winning rows: the columns `beside` and `e` of `won`, and `columns` of the right side as
    `v0`, `v1`, … `at_once`: in one pass, which holds them all, where that reads little more."""
    tied = query.add("tied", won.tied_text, materialized=True)
    if at_once and right.has_place and (order := _order_among(right, columns)) is not None:
        return _at_once(query, right, won, columns, beside=beside, order=order, tied=tied)
    kept = [*beside, "e"]
    if right.has_place:
        rivals, leaders = _leaders(query, right, won, tied)
        best = _best(query, right, won, columns, rivals=rivals, rival=right.stands("s", "w"))
        text = (
            f"SELECT {_of('w', [*kept, 'place'])}\nFROM {won.name} AS w WHERE NOT tied\n"
            f"UNION ALL\nSELECT {_of('w', kept)}, x.place\nFROM {won.name} AS w\n"
            f"JOIN {leaders} AS x ON {_same(won.instant)}\nWHERE w.tied AND NOT x.tied"
        )
        clear, found = query.add("places", text), right.stands("s", "w")
    else:
        best = _best(query, right, won, columns, rivals=tied, rival=won.contends)
        clear, found = f"(SELECT * FROM {won.name} WHERE NOT tied)", right.is_at("s", "w")
    plain = "".join(f", x.v{number}" for number in range(len(columns)))
    text = (
        f"SELECT {_of('w', kept)}{right.values(columns)}\nFROM {right.table.name} AS s\n"
        f"JOIN {clear} AS w ON {found}\nUNION ALL\n"
        f"SELECT {_of('w', kept)}{plain}\nFROM {won.name} AS w\n"
        f"JOIN {best} AS x ON {_same(won.instant)}\nWHERE w.tied"
    )
    return query.add("settled", text)


def _at_once(
    query: Query,
    right: Right,
    won: Winners,
    columns: Sequence[str],
    *,
    beside: Sequence[str],
    order: _Order,
    tied: str,
) -> str:
    """The rows that are alone and all that are tied are fetched in one pass, and the tied ones are
    ordered then."""
    place = "s.place" if won.among else right.place("s")
    text = (
        f"SELECT {_of('w', won.instant)}, {place} AS place\n"
        f"FROM {won.among or right.table.name} AS s\nJOIN {tied} AS w ON {won.contends}"
    )
    rivals = query.add("tied places", text, materialized=True)
    kept = [name for name in (*beside, "e") if name not in won.instant]
    names = [*kept, *won.instant]
    alone = [f"w.{n}" if n in (*beside, "e") else f"NULL AS {n}" for n in names]
    several = [f"NULL AS {n}" if n in kept else f"w.{n}" for n in names]
    text = (
        f"SELECT {', '.join(alone)}, w.place, false AS tied\nFROM {won.name} AS w WHERE NOT tied\n"
        f"UNION ALL\nSELECT {', '.join(several)}, w.place, true\nFROM {rivals} AS w"
    )
    extra = "".join(f", s.{name} AS o{number}" for number, name in enumerate(order.extra))
    text = (
        f"SELECT {_of('w', [*names, 'tied'])}{right.values(columns)}{extra}\n"
        f"FROM {right.table.name} AS s\nJOIN (\n{text}) AS w ON {right.stands('s', 'w')}"
    )
    fetched = query.add("fetched", text, materialized=True)
    by = f" ORDER BY {', '.join(order.terms)}" if order.terms else ""
    best = (
        f"SELECT *\nFROM {fetched} WHERE tied\n"
        f"QUALIFY row_number() OVER (PARTITION BY {', '.join(won.instant)}{by}) = 1"
    )
    found = [f"v{number}" for number in range(len(columns))]
    text = (
        f"SELECT {', '.join([*beside, 'e', *found])}\nFROM {fetched} WHERE NOT tied\nUNION ALL\n"
        f"SELECT {', '.join([_of('w', [*beside, 'e']), *(f'x.{name}' for name in found)])}\n"
        f"FROM {won.name} AS w\nJOIN (\n{best}) AS x ON {_same(won.instant)}\nWHERE w.tied"
    )
    return query.add("settled", text)


@dataclass(frozen=True, slots=True)
class _Order:
    """How tied rows are ordered when they are fetched: `terms` over their values and over the
    columns `extra` of the right side, which are `o0`, `o1`, …"""

    extra: Sequence[str]
    terms: Sequence[str]


def _order_among(right: Right, columns: Sequence[str]) -> _Order | None:
    """The whole order, as far as it can differ at one instant, where nearly all that it speaks of
    is fetched anyway; None where more than `EXTRA_MAX` columns would come on top."""
    stamped = right.stamped
    derived = stamped.input.columns if isinstance(stamped.input, Derive) else {}
    have: dict[str, str] = {}
    for number, name in enumerate(columns):
        expression, dtype = derived.get(name, (Column(name), stamped.schema[name]))
        same = isinstance(expression, Column) and stamped.schema[expression.name] == dtype
        if isinstance(expression, Column) and same and expression.name not in derived:
            have.setdefault(expression.name, f"v{number}")
    wanted = [] if stamped.created_time is None else [CREATED_US]
    wanted += [n for n in stamped.tiebreak if n not in {*stamped.keys, stamped.event_time}]
    extra = [name for name in wanted if name not in have]
    if len(extra) > EXTRA_MAX:
        return None
    have |= {name: f"o{number}" for number, name in enumerate(extra)}
    terms = [f"{order_key(have[n], stamped.schema[n])} DESC NULLS LAST" for n in wanted]
    return _Order([right.table.columns[name] for name in extra], terms)


def _leaders(query: Query, right: Right, won: Winners, tied: str) -> tuple[str, str]:
    """Two tables: the rows that are first by created time and the first few tiebreak columns among
    those that are tied, by place, where more than one is, and for each tied instant the place of
    such a row and whether there are more."""
    instant = _of("w", won.instant)
    place = "s.place" if won.among else right.place("s")
    text = (
        f"SELECT {instant}, {place} AS place\n"
        f"FROM {won.among or right.table.name} AS s\nJOIN {tied} AS w ON {won.contends}"
    )
    places = query.add("tied places", text, materialized=True)
    text = (
        f"SELECT {instant}, w.place, rank() OVER (PARTITION BY {instant} "
        f"ORDER BY {', '.join(right.first_order)}) AS rank\n"
        f"FROM {right.table.name} AS s\nJOIN {places} AS w ON {right.stands('s', 'w')}"
    )
    rivals = query.add("rivals", text, materialized=True)
    listed = ", ".join(won.instant)
    text = (
        f"SELECT {listed}, max(place) AS place, count(*) > 1 AS tied\n"
        f"FROM {rivals}\nWHERE rank = 1\nGROUP BY {listed}"
    )
    leaders = query.add("leaders", text, materialized=True)
    text = (
        f"SELECT {instant}, w.place\nFROM {rivals} AS w\n"
        f"SEMI JOIN (SELECT * FROM {leaders} WHERE tied) AS x ON {_same(won.instant)}\n"
        "WHERE w.rank = 1"
    )
    return query.add("equals", text, materialized=True), leaders


def _best(
    query: Query, right: Right, won: Winners, columns: Sequence[str], *, rivals: str, rival: str
) -> str:
    """For each instant in `rivals` the first of the rows for which `rival` holds."""
    instant = _of("w", won.instant)
    text = (
        f"SELECT *\nFROM (SELECT {instant}{right.values(columns)}, row_number() OVER ("
        f"PARTITION BY {instant} ORDER BY {', '.join(right.order)}) AS rank\n"
        f"FROM {right.table.name} AS s\nJOIN {rivals} AS w ON {rival})\nWHERE rank = 1"
    )
    return query.add("best", text)


def _of(alias: str, names: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


def _same(names: Sequence[str]) -> str:
    return " AND ".join(f"x.{name} = w.{name}" for name in names)

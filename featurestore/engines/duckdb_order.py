"""The search of an as-of join where both sides have many rows of a hot key.

Right rows (at the instant they became known) and left rows (at their time) are put into one order,
by key and instant, and run through once: the greatest (key, event time, place) so far is the winner
of each left row that comes by. The three numbers are packed into one HUGEINT, with a dense number
for the key, so that the maximum starts anew with each key.

The maximum is a window without PARTITION and ORDER over an ordered subquery, which DuckDB runs as a
stream; the same window with PARTITION and ORDER costs twice as much, as it builds a segment tree.
That the rows do come in order is checked on the way.

A right row whose event time is the greatest so far once more is noted: left rows that see it are
tied. They are few, nearly always; their instants are found by an as-of join among those.
"""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.compiler.rel import Scan, walk
from featurestore.engines.duckdb_search import Search
from featurestore.engines.duckdb_sql import ROW, Query
from featurestore.engines.duckdb_ties import ROW_BITS, Winners
from featurestore.engines.sql import literal, quote
from featurestore.timeline import INSTANT_US_MIN

_HUGEINT_BITS = 126
_SO_FAR = "OVER (ROWS UNBOUNDED PRECEDING)"


@dataclass(frozen=True, slots=True)
class Packing:
    """A key's number, then `event_bits` of the event time counted from `first_us`, then
    `place_bits`."""

    first_us: int
    event_bits: int
    place_bits: int

    @property
    def key_unit(self) -> int:
        return 1 << (self.event_bits + self.place_bits)

    def key(self, number: str) -> str:
        """SQL for the least packed number of a key."""
        return f"CAST({number} AS HUGEINT) * {self.key_unit}"

    def instant(self, number: str, event: str) -> str:
        """SQL for the least packed number of a key and an event time."""
        event = f"CAST({event} - ({self.first_us}) AS HUGEINT) * {1 << self.place_bits}"
        return f"{self.key(number)} + {event}"

    def event(self, packed: str, number: str) -> str:
        """SQL for the event time in `packed`, whose key is known."""
        high = f"({packed} - {self.key(number)}) >> {self.place_bits}"
        return f"CAST({high} AS BIGINT) + ({self.first_us})"

    def place(self, packed: str, number: str) -> str:
        """SQL for the place in `packed`, whose key is known."""
        low = f"({packed} - {self.key(number)}) & {(1 << self.place_bits) - 1}"
        return f"CAST({low} AS BIGINT)"


def packing_of(search: Search, left_rows: int) -> Packing | None:
    """How the numbers are packed; None where they need too many bits."""
    if search.bounds is None:
        return None
    first, last = search.bounds
    first = INSTANT_US_MIN if search.reach_us is None else first - search.reach_us
    scans = (node for node in walk(search.right.stamped) if isinstance(node, Scan))
    files = sum(len(scan.files.every_path) for scan in scans)
    place_bits = ROW_BITS + max(files - 1, 0).bit_length()
    event_bits = max(last - first, 0).bit_length()
    if left_rows.bit_length() + event_bits + place_bits > _HUGEINT_BITS:
        return None
    return Packing(first, event_bits, place_bits)


def by_order(query: Query, search: Search, packing: Packing) -> Winners:
    """See the module."""
    keys, run = _run(query, search, packing)
    event, place = (part("top", "id") for part in (packing.event, packing.place))
    reach = f"\nWHERE e >= t - {search.reach_us}" if search.reach_us is not None else ""
    text = (
        f"SELECT *\nFROM (\nSELECT number AS {quote(ROW)}, id, (at_twice - 1) // 2 AS t, "
        f"{event} AS e, {place} AS place\n"
        f"FROM {run} WHERE e IS NULL AND top >= {packing.key('id')}){reach}"
    )
    found = query.add("found", text, materialized=True)
    again = f"(SELECT id, e, at_twice // 2 AS a FROM {run} WHERE e IS NOT NULL)"
    text = (
        f"SELECT w.{quote(ROW)}, x.a\n"
        f"FROM (SELECT * FROM {found} AS w SEMI JOIN {again} AS x "
        "ON x.id = w.id AND x.e = w.e) AS w\n"
        f"ASOF JOIN {again} AS x ON x.id = w.id AND x.e = w.e AND w.t >= x.a"
    )
    seen = query.add("seen again", text, materialized=True)
    text = (
        f"SELECT w.*, x.a, x.a IS NOT NULL AS tied\nFROM {found} AS w\n"
        f"LEFT JOIN {seen} AS x ON x.{quote(ROW)} = w.{quote(ROW)}"
    )
    name = query.add("in order", text, materialized=True)
    instant = ["id", "e", "a"]
    listed = ", ".join(f"y.{key}" for key in search.key_names)
    tied = (
        f"SELECT w.*, {listed}\n"
        f"FROM (SELECT DISTINCT {', '.join(instant)} FROM {name} WHERE tied) AS w\n"
        f"JOIN {keys} AS y ON y.id = w.id"
    )
    right = search.right
    same = [f"s.{r} = w.{k}" for r, k in zip(right.keys, search.key_names, strict=True)]
    contends = [*same, f"s.{right.event} = w.e", f"{right.known('s')} = w.a"]
    return Winners(name=name, instant=instant, contends=" AND ".join(contends), tied=tied)


def _run(query: Query, search: Search, packing: Packing) -> tuple[str, str]:
    """The numbers of the keys, and what is kept of both sides in their order: the left rows, whose
    `e` is NULL, and the right rows whose event time is the greatest so far once more. `number` is
    the position or the place, `at_twice` odd for left rows, which come after right rows of their
    instant, `top` the greatest packed number so far."""
    right, left = search.right, search.left
    text = (
        f"SELECT *, row_number() OVER () - 1 AS id\n"
        f"FROM (SELECT DISTINCT {', '.join(search.asked_keys)} FROM {left.name} AS l)"
    )
    keys = query.once("keys", text)
    same = [f"y.{k} = {have}" for k, have in zip(search.key_names, search.keys, strict=True)]
    text = (
        f"SELECT y.id, {search.time} * 2 + 1 AS at_twice, CAST(NULL AS BIGINT) AS e, "
        f"l.{left.row} AS number\n"
        f"FROM {left.name} AS l\nJOIN {keys} AS y ON {' AND '.join(same)}"
    )
    asked = query.once("asked", text)
    same = [f"y.{k} = s.{have}" for k, have in zip(search.key_names, right.keys, strict=True)]
    event = f"s.{right.event}"
    text = (
        f"SELECT y.id, {right.known('s')} * 2 AS at_twice, {event} AS e, "
        f"{right.place('s')} AS number\n"
        f"FROM {right.table.name} AS s\nJOIN {keys} AS y ON {' AND '.join(same)}\n"
        f"WHERE {event} >= {packing.first_us}\nUNION ALL\nSELECT * FROM {asked}"
    )
    ordered = f"SELECT * FROM (\n{text})\nORDER BY id, at_twice"
    text = (
        f"SELECT *, max(instant + number) {_SO_FAR} AS top, "
        "lag(id) OVER () AS id_before, lag(at_twice) OVER () AS at_before\n"
        f"FROM (SELECT *, {packing.instant('id', 'e')} AS instant FROM (\n{ordered}))"
    )
    again = f"before >= instant AND before < instant + {1 << packing.place_bits}"
    wrong = "id_before > id OR (id_before = id AND at_before > at_twice)"
    error = f"error({literal('rows came out of their order')})"
    text = (
        "SELECT id, at_twice, e, number, top\n"
        f"FROM (SELECT *, lag(top) OVER () AS before FROM (\n{text}))\n"
        f"WHERE CASE WHEN {wrong} THEN {error} ELSE e IS NULL OR ({again}) END"
    )
    return keys, query.add("run", text, materialized=True)

"""`WindowChanges` in DuckDB: the instants at which a row enters a window or leaves one."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.compiler.rel import WindowChanges, WindowFunction
from featurestore.engines.duckdb_sql import Query, Table, identifiers
from featurestore.engines.duckdb_window_events import Happened
from featurestore.errors import InternalError

_FOREVER = 2**63 - 1


def window_changes(query: Query, rel: WindowChanges) -> Table:
    """Each key with each of its instants, once."""
    bench = query.bench
    if bench is None:
        raise InternalError("windows are computed on a cursor, and there is none")
    first = None if rel.start_us is None else rel.start_us - 1  # what has just left changes it
    last = None if rel.end_us is None else rel.end_us - 1
    happened = Happened(query, bench, rel, first_us=first, last_us=last)
    events = happened.table()
    known = "k" if rel.as_of == "known" else "e"
    stays = [
        f"SELECT DISTINCT {_listed(happened.by, enters, leaves)}\nFROM {events}{where}"
        for enters, leaves, where in _stays(rel, happened, known)
    ]
    points = [
        f"SELECT {_listed(happened.by, 'unnest([a, z]) AS t')} FROM (\n{stay}\n) WHERE a < z"
        for stay in stays
    ]
    if rel.with_status:
        leaves = "NULL" if rel.reach_us is None else f"e + {rel.reach_us + 1}"
        seen = query.add(
            "seen",
            f"SELECT {_listed(happened.by, f'greatest({known}, e) AS a', _end(leaves))}\n"
            f"FROM {events}",
        )
        points += _islands(seen, happened.by)
    limits = [f"t < {_FOREVER if rel.end_us is None else rel.end_us}"]
    limits += [f"t >= {rel.start_us}"] if rel.start_us is not None else []
    found = query.add("points", "\nUNION ALL\n".join(points))
    names = identifiers(rel.schema)
    by_key = dict(zip(rel.right.keys, happened.by, strict=True))
    items = [f"{by_key[key]} AS {names[out]}" for out, key in rel.keys.items()]
    listed = ", ".join([*items, f"t AS {names[rel.at]}"])
    text = f"SELECT DISTINCT {listed}\nFROM {found}\nWHERE {' AND '.join(limits)}"
    return Table(name=query.add("changes", text), columns=names)


def _stays(rel: WindowChanges, happened: Happened, known: str) -> list[tuple[str, str, str]]:
    """From when (`a`) to when (`z`) a row is in a window, and for which rows; once for functions
    that look at the same rows."""
    found: dict[tuple[str, str, str], None] = {}
    for function in rel.functions.values():
        enters = f"greatest({known}, e + {function.delay_us + 1}) AS a"
        counts = _counts(function, happened)
        where = f"\nWHERE {' AND '.join(counts)}" if counts else ""
        found[enters, _end(_leaves(function)), where] = None
    return list(found)


def _leaves(function: WindowFunction) -> str:
    """The first instant at which the left end of the window has passed the event."""
    if function.window_us is None:
        return "NULL"
    hop = max(function.hop_us, 1)
    # The remainder of a negative number is negative in SQL.
    tile = f"e - ((e % {hop}) + {hop}) % {hop}"
    return f"{tile} + {hop + function.delay_us + function.window_us}"


def _end(leaves: str) -> str:
    """`z`, where a row may be replaced before; never is far away."""
    return f"coalesce(least(u, {leaves}), {_FOREVER}) AS z"


def _counts(function: WindowFunction, happened: Happened) -> list[str]:
    columns = happened.columns
    found = [f"{columns[name]} IS NOT NULL" for name in (function.value, function.bucket) if name]
    return found + ([columns[function.condition]] if function.condition else [])


def _islands(seen: str, by: Sequence[str]) -> list[str]:
    """Where what `[a, z)` of a key cover begins and ends."""
    order = f"{f'PARTITION BY {_listed(by)} ' if by else ''}ORDER BY a, z"
    before = f"max(z) OVER ({order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before"
    group = f" GROUP BY {_listed(by)}" if by else ""
    gaps = (
        f"SELECT {_listed(by, 'unnest([a, before]) AS t')} FROM (\n"
        f"SELECT {_listed(by, 'a', before)} FROM {seen} WHERE a < z\n"
        ") WHERE before IS NULL OR before < a"
    )
    return [gaps, f"SELECT {_listed(by, 'max(z) AS t')} FROM {seen} WHERE a < z{group}"]


def _listed(by: Sequence[str], *items: str) -> str:
    return ", ".join([*by, *items])

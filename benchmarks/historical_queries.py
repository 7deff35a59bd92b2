"""Queries that a DuckDB expert would write by hand for what `bench_historical.py` measures.

For each row of a frame: the row of its key that wins by (event time, created time, all columns)
among those known by its time and not older than the ttl.

Each form is the SQL of one view, of which `hand_written` makes the query for all of them. They give
the same answer and differ in speed with the shape, so the fastest counts:

* `wide`: reduces the rows with a window and joins them as of the time, as they are.
* `narrow`: finds the winners by keys and times first, and fetches their columns then.
* `by place`: the same, and fetches by the number of the row in its file. Ties are settled apart.
* `repair`: joins as of the event time, and again, by known time, only where that row was not known
  yet or is not alone.
* `range`: joins all rows of the ttl's interval and keeps the greatest. Its pairs explode where both
  sides have many rows of a key, so it is asked of uniform keys only.
"""

from __future__ import annotations

from pathlib import Path

TIMES = 'epoch_us("at") AS e, epoch_us(known) AS c, greatest(epoch_us("at"), epoch_us(known)) AS a'
FRAME = """frame AS MATERIALIZED (
    SELECT row_number() OVER () AS rn, key, epoch_us(event_timestamp) AS t FROM '{frame}')"""
WITHIN = """"at" >= (SELECT make_timestamp(min(t) - {ttl})::TIMESTAMPTZ FROM frame)
        AND "at" <= (SELECT make_timestamp(max(t))::TIMESTAMPTZ FROM frame)"""

WIDE = """reduced{n} AS (
    SELECT * FROM (
        SELECT *, max(e) OVER (PARTITION BY key ORDER BY a) AS newest FROM (
            SELECT key, {times}, {columns} FROM {rows} WHERE key IN (SELECT key FROM frame)))
    WHERE e = newest
    QUALIFY row_number() OVER (PARTITION BY key, a ORDER BY c DESC, {ties}) = 1),
view{n} AS (
    SELECT rn, {features}
    FROM frame ASOF JOIN reduced{n} AS r ON frame.key = r.key AND frame.t >= r.a
    WHERE t - e <= {ttl})"""

NARROW = """times{n} AS (
    SELECT key, {times} FROM {rows} WHERE key IN (SELECT key FROM frame)),
records{n} AS (
    SELECT key, e, a FROM (
        SELECT *, max(e) OVER (PARTITION BY key ORDER BY a) AS newest FROM times{n})
    WHERE e = newest),
winners{n} AS MATERIALIZED (
    SELECT rn, frame.key, t, e, r.a
    FROM frame ASOF JOIN records{n} AS r ON frame.key = r.key AND frame.t >= r.a
    WHERE t - e <= {ttl}),
view{n} AS (
    SELECT rn, {features}
    FROM winners{n} AS r JOIN {rows} AS s ON s.key = r.key AND epoch_us("at") = e
        AND greatest(epoch_us("at"), epoch_us(known)) = a
    QUALIFY row_number() OVER (PARTITION BY rn ORDER BY known DESC, {ties}) = 1)"""

BY_PLACE = """times{n} AS (
    SELECT key, {times}, file_row_number AS place FROM {rows}
    WHERE key IN (SELECT key FROM frame)),
records{n} AS (
    SELECT key, e, a, place, tied FROM (
        SELECT *, max(e) OVER known AS newest, coalesce(a = lag(a) OVER known, false)
            OR coalesce(a = lead(a) OVER known, false) AS tied
        FROM times{n} WINDOW known AS (PARTITION BY key ORDER BY a))
    WHERE e = newest),
winners{n} AS MATERIALIZED (
    SELECT rn, frame.key, e, r.a, place, tied
    FROM frame ASOF JOIN records{n} AS r ON frame.key = r.key AND frame.t >= r.a
    WHERE t - e <= {ttl}),
view{n} AS (
    SELECT rn, {features}
    FROM (SELECT rn, place FROM winners{n} WHERE NOT tied) AS r
    JOIN {rows} AS s ON s.file_row_number = r.place
    UNION ALL
    SELECT rn, {features}
    FROM (SELECT rn, key, e, a FROM winners{n} WHERE tied) AS r
    JOIN {rows} AS s ON s.key = r.key AND epoch_us("at") = e
        AND greatest(epoch_us("at"), epoch_us(known)) = a
    QUALIFY row_number() OVER (PARTITION BY rn ORDER BY known DESC, {ties}) = 1)"""

REPAIR = """times{n} AS (
    SELECT key, epoch_us("at") AS e FROM {rows}
    WHERE key IN (SELECT key FROM frame) AND {within}),
first{n} AS MATERIALIZED (
    SELECT rn, frame.key, t, e
    FROM frame ASOF JOIN times{n} AS r ON frame.key = r.key AND t >= e WHERE t - e <= {ttl}),
found{n} AS MATERIALIZED (
    SELECT rn, epoch_us(known) <= t AS is_known, {columns}
    FROM first{n} AS r JOIN {rows} AS s ON s.key = r.key AND epoch_us("at") = e),
good{n} AS MATERIALIZED (
    SELECT rn FROM found{n} GROUP BY rn HAVING count(*) = 1 AND bool_and(is_known)),
bad{n} AS MATERIALIZED (
    SELECT rn, key, t FROM first{n} WHERE rn NOT IN (SELECT rn FROM good{n})),
reduced{n} AS (
    SELECT * FROM (
        SELECT *, max(e) OVER (PARTITION BY key ORDER BY a) AS newest FROM (
            SELECT key, {times}, {columns} FROM {rows}
            WHERE key IN (SELECT key FROM bad{n}) AND {within}))
    WHERE e = newest
    QUALIFY row_number() OVER (PARTITION BY key, a ORDER BY c DESC, {ties}) = 1),
view{n} AS (
    SELECT rn, {features} FROM found{n} SEMI JOIN good{n} USING (rn)
    UNION ALL
    SELECT rn, {features}
    FROM bad{n} AS b ASOF JOIN reduced{n} AS r ON b.key = r.key AND t >= a WHERE t - e <= {ttl})"""

RANGE = """times{n} AS (
    SELECT key, epoch_us("at") AS e, epoch_us(known) AS c FROM {rows} WHERE {within}),
winners{n} AS MATERIALIZED (
    SELECT rn, any_value(frame.key) AS key, max((e, c)) AS w
    FROM frame JOIN times{n} AS s ON s.key = frame.key AND e BETWEEN t - {ttl} AND t AND c <= t
    GROUP BY rn),
view{n} AS (
    SELECT rn, {features}
    FROM winners{n} AS r JOIN {rows} AS s
        ON s.key = r.key AND epoch_us("at") = w[1] AND epoch_us(known) = w[2]
    QUALIFY row_number() OVER (PARTITION BY rn ORDER BY {ties}) = 1)"""

FORMS = {"wide": WIDE, "narrow": NARROW, "by place": BY_PLACE, "repair": REPAIR, "range": RANGE}


def hand_written(form: str, frame: Path, views: list[Path], columns: list[str], ttl_us: int) -> str:
    """The query for all `views` in one of the forms: their columns as `v0__f0`, …, in the order of
    the frame's rows."""
    parts = [FRAME.format(frame=frame)]
    for number, path in enumerate(views):
        parts.append(
            FORMS[form].format(
                n=number,
                rows=f"read_parquet('{path}', file_row_number = true)",
                times=TIMES,
                within=WITHIN.format(ttl=ttl_us),
                columns=", ".join(columns),
                features=", ".join(f"{name} AS v{number}__{name}" for name in columns),
                ties=", ".join(f"{name} DESC" for name in columns),
                ttl=ttl_us,
            )
        )
    wanted = ", ".join(f"v{n}__{name}" for n in range(len(views)) for name in columns)
    joins = " ".join(f"LEFT JOIN view{n} USING (rn)" for n in range(len(views)))
    ctes = ",\n".join(parts)
    return f"WITH {ctes}\nSELECT {wanted} FROM frame {joins} ORDER BY rn"

"""Where the columns of a query come from: said case by case, and held against what DuckDB answers
when a column of an input changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import duckdb
import pytest

from featurestore.compiler.queries import unsteady
from featurestore.compiler.query_lineage import ROWS, QueryLineage, query_lineage

INPUTS = {
    "orders": {
        "Id": "int64",
        "customer": "string",
        "amount": "float64",
        "paid": "bool",
        "ts": "timestamp",
        "tags": "string",
    },
    "customers": {
        "customer": "string",
        "country": "string",
        "since": "timestamp",
        "score": "int64",
    },
    "notes": {"id": "int64", "text": "string"},
}

ROWS_OF = {
    "orders": """
        SELECT i % 5 AS "Id", 'c' || (i % 3) AS customer, i * 1.5 AS amount, i % 4 = 0 AS paid,
               TIMESTAMP '2024-01-01' + to_hours(i::INT) AS ts, 't' || (i % 2) AS tags
        FROM range(12) r(i)""",
    "customers": """
        SELECT 'c' || i AS customer, 'L' || (i % 2) AS country,
               TIMESTAMP '2023-01-01' + to_days(i::INT) AS since, i * 7 AS score
        FROM range(4) r(i)""",
    "notes": "SELECT i AS id, 'n' || i AS text FROM range(4) r(i)",
}
# For each type what a value becomes, in two ways: another one of its kind, and one out of line.
OTHERS = {
    "int64": ("({c} * 3 + 1) % 7", "-{c} - 1000"),
    "string": ("'c' || ((ascii(right({c}, 1)) + 1) % 3)", "'z' || {c}"),
    "float64": ("100 - {c} * 2", "-{c}"),
    "bool": ("NOT {c}", "TRUE"),
    "timestamp": (
        "TIMESTAMP '2024-02-01' - (({c}) - TIMESTAMP '2024-01-01')",
        "{c} - to_days(900)",
    ),
}

# Query → what each column comes from (`=` DIRECT, `~` INDIRECT) and, after |, what decides on rows.
CASES: dict[str, str] = {
    "SELECT id, amount * 2 AS double FROM orders": "id: =orders.Id; double: =orders.amount |",
    "SELECT * FROM notes": "id: =notes.id; text: =notes.text |",
    "FROM notes SELECT text": "text: =notes.text |",
    "SELECT * EXCLUDE (text) FROM notes WHERE text LIKE 'n%'": "id: =notes.id | notes.text",
    "SELECT * REPLACE (id + 1 AS id) FROM notes": "id: =notes.id; text: =notes.text |",
    "SELECT o.amount, c.country FROM orders o JOIN customers c ON o.customer = c.customer": (
        "amount: =orders.amount; country: =customers.country | customers.customer orders.customer"
    ),
    "SELECT customer, score FROM orders LEFT JOIN customers USING (customer)": (
        "customer: =customers.customer =orders.customer; score: =customers.score | "
        "customers.customer orders.customer"
    ),
    "SELECT id, score FROM orders NATURAL JOIN customers": (
        "id: =orders.Id; score: =customers.score | customers.customer orders.customer"
    ),
    "SELECT amount FROM orders SEMI JOIN customers USING (customer)": (
        "amount: =orders.amount | customers.customer orders.customer"
    ),
    "SELECT o.amount, n.text FROM orders o ASOF JOIN customers c ON o.ts >= c.since, notes n": (
        "amount: =orders.amount; text: =notes.text | customers.since orders.ts"
    ),
    "WITH big AS (SELECT customer AS who, amount FROM orders WHERE paid) "
    "SELECT who, sum(amount) AS total FROM big GROUP BY who HAVING count(*) > 1": (
        "who: =orders.customer; total: =orders.amount | orders.customer orders.paid"
    ),
    "WITH a AS (SELECT 1 AS one, id FROM notes), b AS (SELECT * FROM a) SELECT one, id FROM b": (
        "one: ; id: =notes.id |"
    ),
    "WITH unused AS (SELECT * FROM customers WHERE score > 3) SELECT id FROM notes": (
        "id: =notes.id |"
    ),
    "SELECT CASE WHEN paid THEN amount ELSE 0 END AS money, nullif(amount, id) AS n FROM orders": (
        "money: =orders.amount ~orders.paid; n: =orders.amount ~orders.Id |"
    ),
    "SELECT CASE country WHEN 'L0' THEN score END AS s FROM customers": (
        "s: =customers.score ~customers.country |"
    ),
    "SELECT id, row_number() OVER (PARTITION BY customer ORDER BY ts) AS n, "
    "sum(amount) OVER w AS s FROM orders WINDOW w AS (PARTITION BY customer ORDER BY ts)": (
        "id: =orders.Id; n: ~orders.customer ~orders.ts; "
        "s: =orders.amount ~orders.customer ~orders.ts |"
    ),
    "SELECT amount FROM orders QUALIFY row_number() OVER (PARTITION BY customer ORDER BY ts) = 1": (
        "amount: =orders.amount | orders.customer orders.ts"
    ),
    "SELECT sum(amount) FILTER (WHERE paid) AS s, count(*) AS n, arg_max(id, ts) AS last "
    "FROM orders": "s: =orders.amount ~orders.paid; n: ; last: =orders.Id ~orders.ts |",
    "SELECT quantile_cont(amount, 0.5) AS m, string_agg(tags, ',' ORDER BY ts) AS t FROM orders": (
        "m: =orders.amount; t: =orders.tags ~orders.ts |"
    ),
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount) AS m FROM orders": (
        "m: =orders.amount |"
    ),
    "SELECT amount + 1 AS more, more * 2 AS most FROM orders": (
        "more: =orders.amount; most: =orders.amount |"
    ),
    "SELECT customer, max(ts) AS last FROM orders GROUP BY ALL": (
        "customer: =orders.customer; last: =orders.ts | orders.customer"
    ),
    "SELECT customer AS who, count(*) AS n FROM orders GROUP BY 1": (
        "who: =orders.customer; n:  | orders.customer"
    ),
    "SELECT DISTINCT country FROM customers": "country: =customers.country | customers.country",
    "SELECT DISTINCT ON (customer) id FROM orders ORDER BY ts DESC": (
        "id: =orders.Id | orders.customer orders.ts"
    ),
    "SELECT id FROM orders ORDER BY amount LIMIT 3": "id: =orders.Id | orders.amount",
    "SELECT id FROM orders ORDER BY amount": "id: =orders.Id |",
    "SELECT id, text FROM notes UNION ALL SELECT score, country FROM customers WHERE score > 0": (
        "id: =customers.score =notes.id; text: =customers.country =notes.text | customers.score"
    ),
    "SELECT text AS t, id FROM notes UNION ALL BY NAME SELECT score AS id FROM customers": (
        "t: =notes.text; id: =customers.score =notes.id |"
    ),
    "SELECT customer FROM orders UNION SELECT customer FROM customers": (
        "customer: =customers.customer =orders.customer | customers.customer orders.customer"
    ),
    "SELECT customer FROM orders EXCEPT SELECT customer FROM customers WHERE score > 3": (
        "customer: =orders.customer ~customers.customer | "
        "customers.customer customers.score orders.customer"
    ),
    "SELECT id FROM orders WHERE customer IN (SELECT customer FROM customers WHERE score > 3)": (
        "id: =orders.Id | customers.customer customers.score orders.customer"
    ),
    "SELECT id FROM orders o WHERE EXISTS "
    "(SELECT 1 FROM customers c WHERE c.customer = o.customer AND c.score > 3)": (
        "id: =orders.Id | customers.customer customers.score orders.customer"
    ),
    "SELECT id, (SELECT max(score) FROM customers c WHERE c.customer = o.customer) AS s "
    "FROM orders o": ("id: =orders.Id; s: =customers.score ~customers.customer ~orders.customer |"),
    "SELECT x.m FROM (SELECT customer, max(amount) AS m FROM orders GROUP BY customer) x "
    "JOIN (customers c JOIN notes n ON n.id = c.score) ON x.customer = c.customer": (
        "m: =orders.amount | customers.customer customers.score notes.id orders.customer"
    ),
    "SELECT id, part FROM orders, unnest(string_split(tags, 't')) AS u(part)": (
        "id: =orders.Id; part: =orders.tags | orders.tags"
    ),
    "SELECT id, unnest(string_split(tags, 't')) AS part FROM orders": (
        "id: =orders.Id; part: =orders.tags | orders.tags"
    ),
    "SELECT n.id, r.i FROM notes n, range(0, n.id) r(i)": "id: =notes.id; i: =notes.id | notes.id",
    "SELECT d.day, n.id FROM range(3) d(day), notes n": "day: ; id: =notes.id |",
    "SELECT v.a, n.id FROM notes n, (VALUES (1, 2)) v(a, b)": "a: ; id: =notes.id |",
    "SELECT list_transform([amount, id], lambda x: x + score) AS l FROM orders, customers": (
        "l: =customers.score =orders.Id =orders.amount |"
    ),
    "SELECT {'a': amount, 'b': id}.a AS a FROM orders": "a: =orders.Id =orders.amount |",
    "SELECT id FROM notes WHERE id > (SELECT avg(score) FROM customers WHERE since > "
    "(SELECT min(ts) FROM orders))": (
        "id: =notes.id | customers.score customers.since notes.id orders.ts"
    ),
    "SELECT id FROM (SELECT id FROM notes UNION ALL SELECT score FROM customers) "
    "ORDER BY ALL LIMIT 4": ("id: =customers.score =notes.id | customers.score notes.id"),
    "(SELECT id FROM notes WHERE text > 'n1') LIMIT 2": "id: =notes.id | notes.text",
    "SELECT a.id FROM notes a, LATERAL (SELECT score FROM customers WHERE score > a.id) b": (
        "id: =notes.id | customers.score notes.id"
    ),
    'SELECT "ID" AS "Mixed Case", Orders.AMOUNT FROM Orders': (
        "Mixed Case: =orders.Id; amount: =orders.amount |"
    ),
    "SELECT * FROM customers UNION ALL SELECT customer, tags, ts, id FROM orders": (
        "customer: =customers.customer =orders.customer; country: =customers.country =orders.tags; "
        "since: =customers.since =orders.ts; score: =customers.score =orders.Id |"
    ),
    "SELECT id FROM notes UNION BY NAME SELECT score AS id FROM customers "
    "UNION ALL BY NAME SELECT text FROM notes": (
        "id: =customers.score =notes.id; text: =notes.text | customers.score notes.id"
    ),
    "SELECT id AS x, text AS y FROM notes UNION ALL SELECT score, country FROM customers "
    "ORDER BY 2 DESC LIMIT 3": (
        "x: =customers.score =notes.id; y: =customers.country =notes.text | "
        "customers.country notes.text"
    ),
    "SELECT id FROM (SELECT id FROM orders ORDER BY amount DESC) LIMIT 3": (
        "id: =orders.Id | orders.amount"
    ),
    "WITH o AS (SELECT * FROM orders ORDER BY ts DESC) "
    "SELECT customer, first(id) AS f FROM o GROUP BY customer": (
        "customer: =orders.customer; f: =orders.Id | orders.customer orders.ts"
    ),
    "(SELECT id FROM notes ORDER BY text DESC) LIMIT 2": "id: =notes.id | notes.text",
    "SELECT id AS amount, customer FROM orders ORDER BY amount LIMIT 3": (
        "amount: =orders.Id; customer: =orders.customer | orders.Id"
    ),
    "SELECT id AS i, max(amount) AS m FROM orders GROUP BY 1 ORDER BY m DESC LIMIT 2": (
        "i: =orders.Id; m: =orders.amount | orders.amount orders.Id"
    ),
    "SELECT DISTINCT ON (1) id, amount FROM orders ORDER BY id, ts DESC": (
        "id: =orders.Id; amount: =orders.amount | orders.Id orders.ts"
    ),
    "SELECT id FROM orders ORDER BY ts LIMIT (SELECT count(*) FROM customers WHERE score > 9)": (
        "id: =orders.Id | customers.score orders.ts"
    ),
    "SELECT max(amount) OVER w AS m, rank() OVER (v ORDER BY id) AS r FROM orders "
    "WINDOW v AS (PARTITION BY customer), w AS (v ORDER BY ts)": (
        "m: =orders.amount ~orders.customer ~orders.ts; r: ~orders.Id ~orders.customer |"
    ),
    "SELECT to_json(n) AS j, count(DISTINCT n) OVER () AS c FROM notes n": (
        "j: =notes.id =notes.text; c: =notes.id =notes.text |"
    ),
    "SELECT t FROM (SELECT id AS a, score FROM notes, customers) t": (
        "t: =customers.score =notes.id |"
    ),
    "SELECT n.a, text FROM notes AS n(a)": "a: =notes.id; text: =notes.text |",
    "SELECT s.a.b AS x FROM (SELECT {'a': {'b': amount}, 'c': id} AS s FROM orders)": (
        "x: =orders.Id =orders.amount |"
    ),
    "SELECT epoch(ts - lag(ts) OVER (ORDER BY ts)) AS gap, coalesce(amount, id) AS c FROM orders": (
        "gap: =orders.ts; c: =orders.Id =orders.amount |"
    ),
}


def database(
    changed: str | None = None, column: str = "", how: str = ""
) -> duckdb.DuckDBPyConnection:
    """The inputs as tables; one column of one of them changed."""
    made = duckdb.connect(config={"threads": 1})
    for name, rows in ROWS_OF.items():
        picked = f'* REPLACE ({how.format(c=f"{chr(34)}{column}{chr(34)}")} AS "{column}")'
        made.execute(
            f"CREATE TABLE {name} AS SELECT {picked if name == changed else '*'} FROM ({rows})"
        )
    return made


@pytest.fixture(scope="module")
def plain() -> duckdb.DuckDBPyConnection:
    return database()


@pytest.fixture(scope="module")
def varied() -> list[tuple[str, duckdb.DuckDBPyConnection]]:
    return [
        (f"{table}.{column}", database(table, column, how))
        for table, columns in INPUTS.items()
        for column, dtype in columns.items()
        for how in OTHERS[dtype]
    ]


def outputs(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    return [row[0] for row in connection.execute(f"DESCRIBE {query}").fetchall()]


def values(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Counter[str]]:
    found = connection.execute(query)
    names = [column[0] for column in found.description or ()]
    columns = list(zip(*found.fetchall(), strict=True)) or [()] * len(names)
    return {name: Counter(map(repr, column)) for name, column in zip(names, columns, strict=True)}


def shown(lineage: QueryLineage) -> str:
    def line(name: str, found: Mapping[str, str]) -> str:
        signs = [("=" if how == "DIRECT" else "~") + at for at, how in found.items()]
        return f"{name}: {' '.join(sorted(signs))}"

    columns = "; ".join(line(name, found) for name, found in lineage.columns.items())
    return f"{columns} | {' '.join(lineage.rows)}".rstrip()


@pytest.mark.parametrize("query", CASES, ids=lambda query: query[:60])
def test_a_query(query: str, plain: duckdb.DuckDBPyConnection) -> None:
    found = query_lineage(query, INPUTS, outputs(plain, query))
    assert found.unresolved == {}
    assert shown(found).lower() == CASES[query].lower()


@pytest.mark.parametrize("query", CASES, ids=lambda query: query[:60])
def test_what_changes_a_column_is_among_what_it_comes_from(
    query: str,
    plain: duckdb.DuckDBPyConnection,
    varied: list[tuple[str, duckdb.DuckDBPyConnection]],
) -> None:
    found = query_lineage(query, INPUTS, outputs(plain, query))
    before = values(plain, query)
    for changed, connection in varied:
        after = values(connection, query)
        for name, was in before.items():
            if after[name] != was:
                assert changed in found.columns[name] or changed in found.rows, (changed, name)


@pytest.mark.parametrize(
    ("query", "unresolved"),
    [
        ("PIVOT orders ON customer USING sum(amount)", {ROWS: "it has a PIVOT or UNPIVOT"}),
        (
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) FROM r",
            {ROWS: "it has a recursive query"},
        ),
        (
            "SELECT COLUMNS('i.*') FROM notes",
            {"id": "a * stands for columns that are not known"},
        ),
        ("SELECT * LIKE 'i%' FROM notes", {"id": "a * stands for columns that are not known"}),
        ("SELECT max(id) FROM notes", {"max(id)": "the query itself has no name for it"}),
        ("SELECT [x + 1 FOR x IN [id]] AS l FROM notes", {"l": "it has a list comprehension"}),
        (
            "SELECT rowid AS r FROM notes",
            {"r": "rowid can't be told to be a column of one of its sources"},
        ),
    ],
)
def test_what_is_not_resolved_is_said(
    query: str, unresolved: Mapping[str, str], plain: duckdb.DuckDBPyConnection
) -> None:
    assert query_lineage(query, INPUTS, outputs(plain, query)).unresolved == unresolved


def test_sources_whose_columns_are_not_known() -> None:
    """A star over them is unresolved, and so is a column that could be theirs."""
    inputs = INPUTS | {"notes": None}
    found = query_lineage("SELECT * FROM notes", inputs, ["id", "text"])
    assert set(found.unresolved) == {"id", "text"}
    natural = "SELECT amount FROM orders NATURAL JOIN notes"
    assert ROWS in query_lineage(natural, inputs, ["amount"]).unresolved
    after = query_lineage("SELECT *, 1 AS one FROM notes", inputs, ["id", "text", "one"])
    assert set(after.unresolved) == {"id", "text", "one"}
    inside = "SELECT s.text FROM (SELECT * FROM notes) s"
    assert set(query_lineage(inside, inputs, ["text"]).unresolved) == {"text"}
    alone = query_lineage("SELECT text FROM notes", inputs, ["text"])
    assert alone.columns == {}
    both = "SELECT o.amount, text FROM orders o JOIN notes n ON o.id = n.id"
    found = query_lineage(both, inputs, ["amount", "text"])
    assert found.columns == {"amount": {"orders.amount": "DIRECT"}}
    assert set(found.unresolved) == {"text", ROWS}


def test_columns_that_the_query_does_not_name_are_unresolved() -> None:
    found = query_lineage("SELECT id FROM notes", INPUTS, ["id", "other"])
    assert set(found.columns) == {"id"}
    assert set(found.unresolved) == {"other"}


def test_a_deep_query_does_not_stop_a_job() -> None:
    deep = f"SELECT {'(' * 3000}id{')' * 3000} AS id FROM notes"
    found = query_lineage(deep, INPUTS, ["id"])
    assert found.columns == {"id": {"notes.id": "DIRECT"}} or ROWS in found.unresolved


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT now() AS n FROM t", "it asks now()"),
        ("SELECT current_date AS n FROM t", "it asks current_date()"),
        ("SELECT age(at) AS a FROM t", "it asks age()"),
        ("SELECT age(at, told) AS a FROM t", ""),
        ("SELECT reservoir_quantile(x, 0.5) FROM t", "it asks reservoir_quantile()"),
        ("SELECT * FROM t USING SAMPLE 10%", "it takes a sample"),
        ("SELECT * FROM t LIMIT 5", "it has a LIMIT without an ORDER BY"),
        ("SELECT * FROM t ORDER BY x LIMIT 5", ""),
        ("SELECT DISTINCT ON (k) k, x FROM t", "it has a DISTINCT ON without an ORDER BY"),
        ("SELECT DISTINCT ON (k) k, x FROM t ORDER BY k, x", ""),
        ("SELECT DISTINCT k FROM t", ""),
        (
            "SELECT k FROM t QUALIFY row_number() OVER (PARTITION BY k) = 1",
            "it has a row_number() without an ORDER BY",
        ),
        ("SELECT row_number() OVER (PARTITION BY k ORDER BY x) AS n FROM t", ""),
    ],
)
def test_queries_that_answer_otherwise_next_time(query: str, why: str) -> None:
    assert unsteady(query) == why

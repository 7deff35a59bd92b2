"""Expressions and values as DuckDB SQL: quoting, literals, exact types, poison rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from featurestore.definitions.expression import Call, Column, Literal, parse_expression
from featurestore.dtypes import (
    BOOL,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    parse,
    to_arrow,
)
from featurestore.engines.sql import literal, quote, sql_type
from featurestore.engines.sql_expressions import expression_sql
from featurestore.errors import InternalError, InvalidExpression, TypeMismatch


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as con:
        yield con


def one(con: duckdb.DuckDBPyConnection, text: str) -> Any:
    return con.sql(f"SELECT {text}").fetchall()[0][0]


@pytest.mark.parametrize("name", ["x", "select", "größe", 'a"b', "a b", "rn", "", "🤦", "a.b", "*"])
def test_quote(con: duckdb.DuckDBPyConnection, name: str) -> None:
    if name:
        relation = con.sql(f"SELECT {quote(name)} FROM (SELECT 1 AS {quote(name)})")
        assert relation.columns == [name]
    assert quote("größe") == '"größe"'
    assert quote('a"b') == '"a""b"'


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (True, "BOOLEAN"),
        (False, "BOOLEAN"),
        (0, "BIGINT"),
        (-5, "BIGINT"),
        (2**63 - 1, "BIGINT"),
        (-(2**63), "BIGINT"),
        (0.1, "DOUBLE"),
        (-2.0, "DOUBLE"),
        (5e-324, "DOUBLE"),
        (1.7976931348623157e308, "DOUBLE"),
        (1e22, "DOUBLE"),
        ("", "VARCHAR"),
        ('it\'s \\ "quoted" %', "VARCHAR"),
        ("größe\n🤦", "VARCHAR"),
        ("nul\0 and\0", "VARCHAR"),
        (b"\x00'\xff\\x", "BLOB"),
        (b"", "BLOB"),
        (date(1969, 12, 31), "DATE"),
    ],
)
def test_literal_reads_back_with_its_type(
    con: duckdb.DuckDBPyConnection, value: Any, dtype: str
) -> None:
    relation = con.sql(f"SELECT {literal(value)}")
    assert relation.fetchall() == [(value,)]
    assert str(relation.types[0]) == dtype
    assert literal(None) == "NULL"


def test_literal_instants_become_naive_utc(con: duckdb.DuckDBPyConnection) -> None:
    zoned = datetime(2024, 1, 1, 2, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert literal(zoned) == "TIMESTAMP '2024-01-01 00:00:00.000005'"
    assert literal(zoned.astimezone(UTC)) == literal(zoned)
    naive = zoned.astimezone(UTC).replace(tzinfo=None)
    assert literal(naive) == literal(zoned)
    assert one(con, literal(zoned)) == naive


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_has_no_literal(value: float) -> None:
    with pytest.raises(InternalError):
        literal(value)


def test_negative_literals_keep_apart(con: duckdb.DuckDBPyConnection) -> None:
    """Two minus signs in a row would begin a comment."""
    negated = Call("neg", (Literal(-2.0, FLOAT64),))
    assert one(con, expression_sql(negated, {})) == 2.0
    assert one(con, expression_sql(parse_expression("3 - -2.5 - -1"), {})) == 6.5


def test_sql_type() -> None:
    assert sql_type(TIMESTAMP) == "TIMESTAMP"
    assert sql_type(parse("list<timestamp>")) == "TIMESTAMP[]"
    assert sql_type(parse("decimal(12,2)")) == "DECIMAL(12,2)"
    assert sql_type(INT64) == "BIGINT"


def test_plain_text_for_plain_expressions() -> None:
    """What people see in `explain()`."""
    schema = {"wind_speed": FLOAT64, "order": INT32, "s": STRING, "a": INT64}
    texts = {
        "wind_speed": '"wind_speed"',
        '"order" > 15': '(CAST("order" AS BIGINT) > CAST(15 AS BIGINT))',
        "s LIKE 'a%'": "(\"s\" LIKE 'a%')",
        "a + 1": 'TRY_CAST(CAST("a" AS HUGEINT) + CAST(1 AS BIGINT) AS BIGINT)',
        "wind_speed > 1": '("wind_speed" > 1.0e0)',
        "coalesce(wind_speed, 0)": 'coalesce("wind_speed", 0.0e0)',
    }
    for text, sql in texts.items():
        assert expression_sql(parse_expression(text), schema) == sql


def test_errors_are_those_of_infer() -> None:
    with pytest.raises(InvalidExpression, match="no column 'y'"):
        expression_sql(parse_expression("y + 1"), {"x": INT64})
    with pytest.raises(TypeMismatch, match="must be a number"):
        expression_sql(parse_expression("x + 1"), {"x": STRING})
    with pytest.raises(TypeMismatch, match="has no type"):
        expression_sql(Literal(None, None), {})


POISON = {
    "a / b": FLOAT64,
    "a // b": INT64,
    "a % b": INT64,
    "a * a * a": INT64,
    "-a": INT64,
    "abs(a)": INT64,
    "exp(x)": FLOAT64,
    "power(x, 3)": FLOAT64,
    "ln(x)": FLOAT64,
    "sqrt(x)": FLOAT64,
    "log10(b)": FLOAT64,
    "x * x": FLOAT64,
    "x % b": FLOAT64,
    "s::int64": INT64,
    "s::timestamp": TIMESTAMP,
    "s::date": parse("date"),
    "s::float64": FLOAT64,
    "s::bool": BOOL,
    "x::int32": INT32,
    "x::float32": parse("float32"),
    "x::decimal(5,2)": parse("decimal(5,2)"),
    "substr(s, a, a)": STRING,
    "left(s, a)": STRING,
    "date_diff('microsecond', t, TIMESTAMP '9999-12-31')": INT64,
}


@pytest.mark.parametrize("text", POISON)
def test_one_poison_row_never_fails_a_batch(con: duckdb.DuckDBPyConnection, text: str) -> None:
    """Values that DuckDB raises for, in the midst of good ones, in one vector and as a filter."""
    good = {"a": 3, "b": 2, "x": 1.5, "s": "1", "t": datetime(2024, 1, 1, tzinfo=UTC)}
    bad = [
        {"a": -(2**63), "b": -1, "x": -1e308, "s": "💥", "t": None},
        {"a": 2**63 - 1, "b": 0, "x": 1e308, "s": "99999999999999999999", "t": None},
    ]
    types = {"a": INT64, "b": INT64, "x": FLOAT64, "s": STRING}
    rows = [good] * 3000 + bad + [good] * 3000
    columns = {
        name: pa.array([row[name] for row in rows], to_arrow(t)) for name, t in types.items()
    }
    columns["t"] = pa.array([row["t"] for row in rows]).cast(pa.timestamp("us"))
    relation = con.from_arrow(pa.table(columns))
    sql = expression_sql(parse_expression(text), {**types, "t": TIMESTAMP})
    result = relation.select(duckdb.SQLExpression(sql).alias("r"))
    assert str(result.types[0]) == sql_type(POISON[text])
    values = result.to_arrow_table().column(0).to_pylist()
    assert len(values) == len(rows)
    assert values[0] == values[-1]
    kept = relation.filter(duckdb.SQLExpression(f"({sql}) IS NULL")).to_arrow_table()
    assert kept.num_rows == values.count(None)


def test_a_column_may_have_any_name(con: duckdb.DuckDBPyConnection) -> None:
    for name in ["v", "lambda", "select", 'a"b', "größe", "x y"]:
        node = Call("div", (Literal(1.0, FLOAT64), Call("exp", (Column(name),))))
        sql = expression_sql(node, {name: FLOAT64})
        [(value,)] = con.sql(f"SELECT {sql} FROM (SELECT 0e0 AS {quote(name)})").fetchall()
        assert value == 1.0

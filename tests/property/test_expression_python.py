"""Generated Python functions against DuckDB: every function on edges and on random values, casts,
and random trees, bit for bit."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from effort import examples
from expression_reference import REQUEST_TIME, TRIALS, VALUES, Trial, instant_us
from hypothesis import given, settings
from hypothesis import strategies as st
from test_expression_functions import STRATEGIES, compute, name
from test_expression_trees import CASTS, SCHEMA, TREES

from featurestore import exprlib
from featurestore.compiler.pysource import python_batch, python_function
from featurestore.definitions.expression import Expression, infer, inferred, parse_expression
from featurestore.definitions.functions import FUNCTIONS, STRICT
from featurestore.dtypes import FLOAT64, DType, parse, to_arrow
from featurestore.engines.sql import expression_sql

NOW_US = instant_us(REQUEST_TIME)
Rows = Sequence[tuple[Any, ...]]
Values = Callable[[Sequence[tuple[Any, ...]]], list[Any]]


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as con:
        yield con


def plain(value: Any) -> Any:
    """A value as rows carry it: instants in µs, dates in days since 1970."""
    if isinstance(value, datetime):
        return instant_us(value)
    return (value - date(1970, 1, 1)).days if isinstance(value, date) else value


def bits(value: Any) -> Any:
    """What tells any two different values apart: 1 from True and 1.0, 0.0 from -0.0."""
    return type(value), struct.pack("d", value) if isinstance(value, float) else value


def row_function(text: str, types: Sequence[DType]) -> Callable[..., tuple[Any, ...]]:
    schema = dict(zip("abc", types, strict=False))
    tree = parse_expression(text)
    source = python_function("one", schema, [("r", tree, infer(tree, schema))])
    return exprlib.load(source, "one")


def by_row(text: str, types: Sequence[DType]) -> Values:
    """The values of `text` over columns a, b, c, by a generated function row by row."""
    function = row_function(text, types)
    return lambda rows: [function(NOW_US, *map(plain, row))[0] for row in rows]


def batch_function(text: str, types: Sequence[DType]) -> Callable[..., tuple[list[Any], ...]]:
    schema = dict(zip("abc", types, strict=False))
    tree = parse_expression(text)
    source = python_batch("many", schema, [("r", tree, infer(tree, schema))])
    return exprlib.load(source, "many")


def in_batch(text: str, types: Sequence[DType]) -> Values:
    """As `by_row`, by a generated function over columns."""
    function = batch_function(text, types)

    def values(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        columns = [[plain(row[i]) for row in rows] for i in range(len(types))]
        return function(NOW_US, len(rows), *columns)[0]

    return values


def check(
    con: duckdb.DuckDBPyConnection, text: str, types: Sequence[DType], rows: Sequence[Any]
) -> None:
    want = compute(con, text, types, rows)
    for form in (by_row, in_batch):
        got = form(text, types)(rows)
        for row, mine, theirs in zip(rows, got, want, strict=True):
            assert bits(mine) == bits(plain(theirs)), (
                f"{form.__name__}: {text} of {row}: DuckDB gives {theirs!r}, Python {mine!r}"
            )


def strategy(types: Sequence[DType]) -> st.SearchStrategy[Any]:
    columns = st.tuples(*(st.none() | STRATEGIES[dtype] for dtype in types))
    return st.lists(columns, min_size=1, max_size=60)


@pytest.mark.parametrize("trial", TRIALS, ids=name)
def test_function(con: duckdb.DuckDBPyConnection, trial: Trial) -> None:
    edges = itertools.product(*(VALUES[dtype] for dtype in trial.types))
    check(con, trial.text, trial.types, list(edges))

    @settings(max_examples=examples(6), deadline=None)
    @given(strategy(trial.types))
    def run(rows: list[tuple[Any, ...]]) -> None:
        check(con, trial.text, trial.types, rows)

    run()


@pytest.mark.parametrize(("source", "target"), [(s, t) for s, t, _ in CASTS])
def test_cast(con: duckdb.DuckDBPyConnection, source: str, target: str) -> None:
    types = (parse(source),)
    text = f"CAST(a AS {target})"
    check(con, text, types, [(v,) for v in VALUES[types[0]]])

    @settings(max_examples=examples(10), deadline=None)
    @given(strategy(types))
    def run(rows: list[tuple[Any, ...]]) -> None:
        check(con, text, types, rows)

    run()


@pytest.mark.parametrize("trial", TRIALS, ids=name)
def test_values_without_a_result_are_counted(trial: Trial) -> None:
    rows = list(itertools.product(*(VALUES[dtype] for dtype in trial.types)))
    failed = sum(trial.expected(row) is None and None not in row for row in rows)
    if FUNCTIONS[trial.function].nulls != STRICT:
        failed = 0  # such a NULL is meant
    function, batch = row_function(trial.text, trial.types), batch_function(trial.text, trial.types)
    for each in (function, batch):
        exprlib.losses(each).take()
    for row in rows:
        function(NOW_US, *map(plain, row))
    assert sum(exprlib.losses(function).take().values()) == failed
    batch(NOW_US, len(rows), *([plain(row[i]) for row in rows] for i in range(len(trial.types))))
    assert sum(exprlib.losses(batch).take().values()) == failed


def test_a_loss_counts_where_it_makes_a_null() -> None:
    schema = {"a": FLOAT64, "b": FLOAT64, "c": FLOAT64}
    texts = ["a / b + 1", "a / b", "coalesce(a / b, 0)", "CASE WHEN b <> 0 THEN c / b END", "c"]
    outputs = [(t, parse_expression(t), FLOAT64) for t in texts]
    rows = [(1.0, 0.0, None), (1.0, 2.0, None), (None, 0.0, 1.0)]
    function = exprlib.load(python_function("some", schema, outputs), "some")
    for row in rows:
        function(NOW_US, *row)
    assert exprlib.losses(function).take() == {"a / b + 1": 1, "a / b": 1}
    assert exprlib.losses(function).take() == {}
    batch = exprlib.load(python_batch("some", schema, outputs), "some")
    batch(NOW_US, len(rows), *zip(*rows, strict=True))
    assert exprlib.losses(batch).take() == {"a / b + 1": 1, "a / b": 1}


# --- whole trees ----------------------------------------------------------------------------------


def check_tree(con: duckdb.DuckDBPyConnection, trees: Sequence[Expression], rows: Rows) -> None:
    """All trees in one function, so that they share what they have in common."""
    outputs = [(f"o{i}", tree, infer(tree, SCHEMA)) for i, tree in enumerate(trees)]
    function = exprlib.load(python_function("one", SCHEMA, outputs), "one")
    batch = exprlib.load(python_batch("many", SCHEMA, outputs), "many")
    table = pa.table(
        {n: pa.array([r[i] for r in rows], to_arrow(t)) for i, (n, t) in enumerate(SCHEMA.items())}
    )
    texts = [duckdb.SQLExpression(expression_sql(t, SCHEMA)).alias(n) for n, t, _ in outputs]
    want = con.from_arrow(table).select(*texts).fetchall()
    by_row = [function(NOW_US, *row) for row in rows]
    in_batch = list(zip(*batch(NOW_US, len(rows), *zip(*rows, strict=True)), strict=True))
    for got in (by_row, in_batch):
        assert [[*map(bits, row)] for row in got] == [[*map(bits, row)] for row in want]
    losses = exprlib.losses(function).take(), exprlib.losses(batch).take()
    assert losses[0].keys() == losses[1].keys()


ROWS = st.lists(
    st.tuples(*(st.none() | STRATEGIES[dtype] for dtype in SCHEMA.values())), min_size=1, max_size=8
)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(TREES.filter(lambda t: inferred(t, SCHEMA) is not None), min_size=1, max_size=3), ROWS
)
def test_random_trees(trees: list[Expression], rows: Rows) -> None:
    with duckdb.connect(config={"threads": 1}) as con:
        check_tree(con, trees, rows)

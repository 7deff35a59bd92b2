"""Generated Python functions against DuckDB: every function on edges and on random values, casts,
and random trees, bit for bit."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from decimal import Context, Decimal
from typing import Any

import duckdb
import pytest
from effort import examples
from expression_reference import REQUEST_TIME, TRIALS, VALUES, Trial, instant_us
from hypothesis import given, settings
from hypothesis import strategies as st
from test_expression_functions import STRATEGIES, compute, name

from featurestore import exprlib
from featurestore.compiler.pysource import VECTOR_ROWS_MIN, python_batch, python_function
from featurestore.definitions.expression import (
    castable,
    infer,
    parse_expression,
)
from featurestore.definitions.functions import FUNCTIONS, STRICT
from featurestore.dtypes import FLOAT32, FLOAT64, STRING, DType, parse
from featurestore.exprlib import casts

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
    """As `by_row`, by a generated function over columns: few rows, and many (which take another
    way)."""
    function = batch_function(text, types)

    def values(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        few, many = (
            function(NOW_US, len(r), *columns(r, len(types)))[0] for r in (rows, enough(rows))
        )
        assert [*map(bits, many)] == [*map(bits, enough(few))]
        return few

    return values


def enough(rows: Sequence[Any]) -> list[Any]:
    """The rows, again and again, until they are so many that numpy computes them."""
    return [*rows] * -(-VECTOR_ROWS_MIN // max(len(rows), 1))


def columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[plain(row[i]) for row in rows] for i in range(count)]


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


def decimals(dtype: DType) -> st.SearchStrategy[Decimal]:
    most, scale = 10 ** (dtype.precision or 0) - 1, dtype.scale or 0
    return st.integers(-most, most).map(lambda n: Decimal(n).scaleb(-scale, Context(prec=60)))


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


INFINITIES = (float("inf"), float("-inf"))
OF_FLOATS = [trial for trial in TRIALS if {FLOAT32, FLOAT64} & {*trial.types}]


@pytest.mark.parametrize("trial", OF_FLOATS, ids=name)
def test_function_of_what_is_infinite(con: duckdb.DuckDBPyConnection, trial: Trial) -> None:
    """No function makes such a value, but a source or a request may hold one."""
    edges = [[*INFINITIES, *VALUES[t]] if t.is_float else VALUES[t] for t in trial.types]
    rows = [row for row in itertools.product(*edges) if {*INFINITIES} & {*row}]
    check(con, trial.text, trial.types, rows)


MONEY, WIDE, SMALL = parse("decimal(9,2)"), parse("decimal(38,10)"), parse("decimal(4,4)")
DECIMALS = (MONEY, WIDE, SMALL)
NUMERIC_TEXTS = [
    *("12", " -7 ", "+5", "\t3\n", "2.5", "-0.5", "-2.5", ".5", "1.", ".", "", "-", "+-5", "1e3"),
    *(
        "1E-1",
        "1e400",
        "-1e-400",
        "0x1F",
        "1_000",
        "1,5",
        "inf",
        "nan",
        "９",
        "9223372036854775807",
    ),
    *("9223372036854775807.4", "9223372036854775807.5", "-9223372036854775808.5", "00012", "1 2"),
    *("3.4028235e38", "3.4028236e38", "0.1", "0.30000000000000004", "123456789.005", "99.99995"),
    *("true", "T", "yes", "N", " true ", "1", "0", "2", "falſe"),
]
INSTANT_TEXTS = [
    *("2024-02-29", "2024-2-9", "2023-02-29", "2024-13-01", "0000-01-01", "0001-01-01", "epoch"),
    *("9999-12-31 23:59:59.999999", "9999-12-31 23:59:59-01", "0001-01-01 00:00:00+01", "24-02-29"),
    *("12024-01-01", "2024-02-29 10:11", "2024-02-29T1:11", "2024-02-29 10:11:12.1234567Z"),
    *("2024-02-29 10:11:12.999999999", "2024-02-29 24:00:00", "2024-02-29 23:60:00", "2024/02/29"),
    *(
        "2024-02-29 10:11:12+02",
        "2024-02-29T10:11:12.25-0130",
        "2024-02-29T10:11+02:30",
        "infinity",
    ),
    *(
        "2024-02-29 10:11:60",
        " 2024-02-29 10:11:12.5 ",
        "2024-02-29T10:11Z",
        "1969-12-31 23:59:59.9",
    ),
    *(
        "2024-02-29 10:11:12 +02",
        "2024-02-29Z",
        "2024-02-29 ",
        "2024-02-29x",
        "-0044-03-15",
        "soon",
    ),
    *("2024-02-29 10:11:12+99", "2024-02-29 10:11:12+15:59", "2024-02-29 10:11:12-16:00"),
]
SOURCES: dict[DType, tuple[list[Any], st.SearchStrategy[Any]]] = {
    **{dtype: (VALUES[dtype], STRATEGIES[dtype]) for dtype in STRATEGIES if dtype.item is None},
    **{dtype: ([None, Decimal(0)], decimals(dtype)) for dtype in DECIMALS},
    STRING: (
        [*VALUES[STRING], *NUMERIC_TEXTS, *INSTANT_TEXTS],
        st.from_regex(casts.FLOAT_TEXT, fullmatch=True, alphabet="0123456789+-.eE \t")
        | st.from_regex(casts.INSTANT_TEXT, fullmatch=True, alphabet="0123456789+-.: TZ")
        | st.text("0123456789+-.:eE TZ", max_size=12)
        | st.floats().map(repr)
        | st.datetimes().map(str),
    ),
}
TARGETS = (*SOURCES,)
PAIRS = [(s, t) for s in SOURCES for t in TARGETS if t.kind in castable(s) and s != t]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_cast(con: duckdb.DuckDBPyConnection, source: DType, target: DType) -> None:
    known, strategy = SOURCES[source]
    known = [*known, *INFINITIES] if source.is_float else known
    text = f"CAST(a AS {target})"
    check(con, text, (source,), [(value,) for value in known])

    @settings(max_examples=examples(8), deadline=None)
    @given(st.lists(st.tuples(st.none() | strategy), min_size=1, max_size=60))
    def run(rows: list[tuple[Any, ...]]) -> None:
        check(con, text, (source,), rows)

    run()


@pytest.mark.parametrize("dtype", [*DECIMALS, FLOAT32], ids=str)
@pytest.mark.parametrize("text", ["a + 1", "a * 2.5", "a > 1", "coalesce(a, a)", "greatest(a, 0)"])
def test_decimals_and_float32_in_arithmetic(
    con: duckdb.DuckDBPyConnection, dtype: DType, text: str
) -> None:
    @settings(max_examples=examples(8), deadline=None)
    @given(st.lists(st.tuples(st.none() | SOURCES[dtype][1]), min_size=1, max_size=40))
    def run(rows: list[tuple[Any, ...]]) -> None:
        check(con, text, (dtype,), rows)

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
    many = enough(rows)
    batch(NOW_US, len(many), *columns(many, len(trial.types)))
    assert sum(exprlib.losses(batch).take().values()) == failed * (len(many) // len(rows))


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
    for some in (rows, enough(rows)):
        batch(NOW_US, len(some), *zip(*some, strict=True))
        times = len(some) // len(rows)
        assert exprlib.losses(batch).take() == {"a / b + 1": times, "a / b": times}


@pytest.mark.parametrize("text", ["lower(a)", "upper(a)", "trim(a)", "length(a)"])
def test_every_character(con: duckdb.DuckDBPyConnection, text: str) -> None:
    """All planes that have cased letters or spaces; surrogates are none."""
    rows = [(f"{chr(c)}.",) for c in range(1, 0x20000) if not 0xD800 <= c < 0xE000]
    check(con, text, (STRING,), rows)

"""Random programs of several expressions, of all types, that share parts: generated Python row by
row and in batches against DuckDB, bit for bit, losses included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_expressions import computed
from test_expression_functions import STRATEGIES, arrow_type
from test_expression_python import NOW_US, bits, columns, enough, plain

from featurestore import exprlib
from featurestore.compiler.pysource import python_batch, python_function
from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Literal,
    infer,
    inferred,
    parse_expression,
)
from featurestore.definitions.undefined import undefined
from featurestore.dtypes import (
    BOOL,
    DATE,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
)

SCHEMA = {
    "i": INT64,
    "j": INT32,
    "x": FLOAT64,
    "y": FLOAT64,
    "r": FLOAT32,
    "s": STRING,
    "u": STRING,
    "b": BOOL,
    "t": TIMESTAMP,
    "d": DATE,
}
Rows = Sequence[tuple[Any, ...]]
Trees = st.SearchStrategy[Expression]
LITERALS: dict[DType, list[Any]] = {
    INT64: [0, 1, -1, 3, 60, 2**62],
    FLOAT64: [0.0, 0.5, -2.0, 1e200, 1e-300],
    STRING: ["", "a", "aß", "%a", "12", "2024-02-29"],
    BOOL: [True, False],
}


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as con:
        yield con


def leaves(dtype: DType) -> Trees:
    found: list[Expression] = [Column(name) for name, kind in SCHEMA.items() if kind == dtype]
    found += [Literal(value, dtype) for value in LITERALS.get(dtype, [])]
    if dtype == TIMESTAMP:
        found.append(Literal("2024-02-29T12:30:00Z", TIMESTAMP))
    return st.sampled_from([*found, Literal(None, None)])


def call(function: str, *parts: Trees) -> Trees:
    return st.tuples(*parts).map(lambda arguments: Call(function, arguments))


def calls(functions: str, *parts: Trees) -> Trees:
    return st.one_of(*(call(function, *parts) for function in functions.split()))


def unit() -> Trees:
    units = ["year", "quarter", "month", "week", "day", "hour", "minute", "microsecond"]
    return st.sampled_from(units).map(lambda name: Literal(name, STRING))


def any_type(draw: Callable[[DType], Trees], shape: Callable[..., Trees]) -> Trees:
    """`shape` over parts of one type, of any."""
    return st.sampled_from([INT64, FLOAT64, STRING, BOOL, TIMESTAMP]).flatmap(
        lambda dtype: shape(draw(dtype))
    )


def compare(part: Trees) -> Trees:
    return calls("eq ne lt le gt ge is_distinct", part, part) | call("between", part, part, part)


def texts(dtype: DType, of: Callable[[DType], Trees]) -> Trees:
    match dtype:
        case _ if dtype == INT64:
            number = of(INT64) | leaves(INT32)
            return (
                calls("add sub mul mod intdiv", number, number)
                | calls("neg abs floor", number)
                | calls("sign", of(FLOAT64))
                | calls("length", of(STRING))
                | calls("hour dayofweek month week epoch_ms", of(TIMESTAMP) | leaves(DATE))
                | call("date_diff", unit(), of(TIMESTAMP), of(TIMESTAMP))
                | (of(FLOAT64) | of(BOOL) | of(STRING)).map(lambda part: Cast(part, INT64))
            )
        case _ if dtype == FLOAT64:
            number = of(FLOAT64) | of(FLOAT64) | of(INT64) | leaves(FLOAT32)
            return (
                calls("add sub mul div mod", of(FLOAT64), number)
                | calls("div power", number, number)
                | calls("neg abs floor round sqrt ln sin radians trunc", of(FLOAT64))
                | call(
                    "round", of(FLOAT64), st.sampled_from([-2, 2]).map(lambda n: Literal(n, INT64))
                )
                | call("epoch", of(TIMESTAMP))
                | number.map(lambda part: Cast(part, FLOAT64))
            )
        case _ if dtype == STRING:
            return (
                calls("join_text concat", of(STRING), of(STRING))
                | calls("lower upper trim", of(STRING))
                | call("substring", of(STRING), of(INT64), of(INT64))
                | call("left", of(STRING), of(INT64))
                | st.one_of(*map(of, (INT64, FLOAT64, BOOL, TIMESTAMP))).map(
                    lambda part: Cast(part, STRING)
                )
            )
        case _ if dtype == BOOL:
            items = st.lists(
                st.sampled_from([Literal(v, INT64) for v in (0, 1, 3)] + [Literal(None, None)]),
                min_size=1,
            )
            return (
                any_type(of, compare)
                | calls("and or", of(BOOL), of(BOOL))
                | call("not", of(BOOL))
                | any_type(of, lambda part: call("is_null", part))
                | calls("like starts_with contains", of(STRING), of(STRING))
                | st.tuples(of(INT64), items).map(lambda p: Call("in", (p[0], *p[1])))
            )
        case _:
            return (
                call("date_add", unit(), of(INT64), of(TIMESTAMP))
                | call("date_trunc", unit(), of(TIMESTAMP) | leaves(DATE))
                | (of(STRING) | leaves(DATE)).map(lambda part: Cast(part, TIMESTAMP))
                | call("make_timestamp", of(INT64))
            )


@lru_cache
def trees(dtype: DType, depth: int) -> Trees:
    """Expressions of a type (or of a bare NULL), at most so deep."""
    if depth == 0:
        return leaves(dtype)

    def of(kind: DType) -> Trees:
        return trees(kind, depth - 1)

    same = of(dtype)
    branches = st.lists(st.tuples(of(BOOL), same), min_size=1, max_size=3).map(tuple)
    extremes = "coalesce nullif" if dtype == BOOL else "coalesce nullif greatest least"
    return (
        leaves(dtype)
        | texts(dtype, of)
        | texts(dtype, of)
        | calls(extremes, same, same)
        | st.builds(Case, branches, same)
    )


def compute(con: duckdb.DuckDBPyConnection, program: Sequence[Expression], rows: Rows) -> Any:
    table = pa.table(
        {
            n: pa.array([r[i] for r in rows], arrow_type(t))
            for i, (n, t) in enumerate(SCHEMA.items())
        }
    )
    trees = {f"o{position}": tree for position, tree in enumerate(program)}
    found = computed(con.from_arrow(table), trees, SCHEMA)
    return [tuple(row.values()) for row in found.to_pylist()]


def check(con: duckdb.DuckDBPyConnection, program: Sequence[Expression], rows: Rows) -> None:
    """All in one function, so that they share what they have in common."""
    outputs = [(f"o{i}", tree, infer(tree, SCHEMA)) for i, tree in enumerate(program)]
    function = exprlib.load(python_function("one", SCHEMA, outputs), "one")
    batch = exprlib.load(python_batch("many", SCHEMA, outputs), "many")
    want = [[bits(plain(value)) for value in row] for row in compute(con, program, rows)]
    mine = [tuple(map(plain, row)) for row in rows]
    got = [[*map(bits, function(NOW_US, *row))] for row in mine]
    assert got == want
    losses = exprlib.losses(function).take()
    for some in (mine, enough(mine)):
        values = batch(NOW_US, len(some), *columns(some, len(SCHEMA)))
        assert [[*map(bits, row)] for row in zip(*values, strict=True)][: len(want)] == want
        times = len(some) // len(mine)
        assert exprlib.losses(batch).take() == {n: c * times for n, c in losses.items()}
    for (output, tree, _), count in ((o, losses.get(o[0], 0)) for o in outputs):
        condition = undefined(tree)
        counted = [] if condition is None else compute(con, [condition], rows)
        assert count <= sum(row[0] for row in counted), output


ROWS = st.lists(
    st.tuples(*(st.none() | STRATEGIES[dtype] for dtype in SCHEMA.values())), min_size=1, max_size=8
)
ROOTS = (INT64, FLOAT64, STRING, BOOL, TIMESTAMP)


def typed(tree: Expression) -> bool:
    return tree != Literal(None, None)


@pytest.mark.slow
def test_random_programs(con: duckdb.DuckDBPyConnection) -> None:
    one = st.sampled_from(ROOTS).flatmap(lambda dtype: trees(dtype, 3)).filter(typed)

    @settings(max_examples=examples(40), deadline=None)
    @given(st.lists(one, min_size=1, max_size=4), ROWS)
    def run(program: list[Expression], rows: Rows) -> None:
        check(con, [tree for tree in program if _has_type(tree)], rows)

    run()


def _has_type(tree: Expression) -> bool:
    return inferred(tree, SCHEMA) is not None


def nested(depth: int, text: str) -> str:
    found = "x"
    for level in range(depth):
        found = text.format(found, level)
    return found


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("CASE WHEN x > {1} THEN y WHEN {0} > 1 THEN 2.0 ELSE x END", 45),
        ("CASE WHEN {0} > 1 THEN y ELSE x END", 45),
        ("CASE WHEN y > 1 THEN {0} ELSE x END", 42),
        ("CASE WHEN y > 1 THEN x ELSE 1 / {0} END", 20),
        ("coalesce(1 / x, 1 / {0})", 15),
        ("if({0} > 1 AND b OR y > {1}, x, y)", 15),
        ("greatest({0}, y)", 30),
        ("nullif({0}, y)", 8),
    ],
)
def test_deep_nesting(con: duckdb.DuckDBPyConnection, text: str, depth: int) -> None:
    """As deep as an expression may be, and deeper than Python's blocks go."""
    program = [parse_expression(nested(depth, text))]
    rows = [
        (1, 2, x, y, 0.5, "a", "b", b, None, None)
        for x in (None, 0.0, 1e308, -2.5)
        for y in (None, 3.0, 44.0)
        for b in (None, True)
    ]
    check(con, program, rows)


@pytest.mark.parametrize("function", ["add", "mul", "neg", "abs", "sqrt"])
def test_deep_arithmetic(con: duckdb.DuckDBPyConnection, function: str) -> None:
    tree: Expression = Column("x")
    for _ in range(30):
        tree = Call(function, (tree, Column("y")) if function in ("add", "mul") else (tree,))
    check(con, [tree], [(1, 2, 1.5, y, 0.5, "a", "b", True, None, None) for y in (None, 0.5, 2.0)])


def test_a_case_of_many_branches(con: duckdb.DuckDBPyConnection) -> None:
    whens = " ".join(f"WHEN {n} THEN '{n}'" for n in range(400))
    hard = " ".join(f"WHEN i / {n} > 5 THEN {n}" for n in range(1, 200))
    program = [parse_expression(f"CASE i {whens} END"), parse_expression(f"CASE {hard} END")]
    rows = [
        (i, None, None, None, None, None, None, None, None, None) for i in (None, 0, 7, 399, 999)
    ]
    check(con, program, rows)

"""Whole expressions: casts, and random trees, computed by DuckDB against obvious Python."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from effort import examples
from expression_reference import VALUES, naive, remainder, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_expressions import computed
from test_expression_functions import STRATEGIES, compute

from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Literal,
    inferred,
    signature,
)
from featurestore.definitions.undefined import undefined
from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING, DType, parse, to_arrow
from featurestore.engines.sql_expressions import expression_sql


@pytest.fixture(scope="module")
def con() -> Any:
    with duckdb.connect(config={"threads": 1}) as con:
        yield con


# --- casts ----------------------------------------------------------------------------------------


def to_int(bits: int) -> Any:
    def reference(x: float) -> int | None:
        whole = round(x)
        return whole if -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1) else None

    return reference


def to_float32(x: float) -> float | None:
    try:
        return settle(struct.unpack("f", struct.pack("f", x))[0])
    except OverflowError:
        return None


def show_float(x: float) -> str:
    return repr(x)


def show_instant(t: datetime) -> str:
    text = t.isoformat(sep=" ")
    return text.rstrip("0") if "." in text else text


CASTS: list[tuple[str, str, Any]] = [
    ("float64", "int64", to_int(64)),
    ("float64", "int32", to_int(32)),
    ("int64", "int32", to_int(32)),
    ("int64", "float64", float),
    ("int32", "int64", int),
    ("float64", "float32", to_float32),
    ("bool", "int64", int),
    ("bool", "float64", float),
    ("int64", "bool", bool),
    ("float64", "bool", bool),
    ("bool", "string", lambda b: str(b).lower()),
    ("int64", "string", str),
    ("float64", "string", show_float),
    ("timestamp", "string", show_instant),
    ("date", "string", date.isoformat),
    ("timestamp", "date", datetime.date),
    ("date", "timestamp", lambda d: naive(d.year, d.month, d.day)),
]


@pytest.mark.parametrize(("source", "target", "reference"), CASTS)
def test_cast(con: duckdb.DuckDBPyConnection, source: str, target: str, reference: Any) -> None:
    dtype = parse(source)

    def check(values: Sequence[Any]) -> None:
        got = compute(con, f"CAST(a AS {target})", (dtype,), [(v,) for v in values])
        want = [None if v is None else reference(v) for v in values]
        assert got == want
        assert not any(isinstance(g, float) and g == 0 and math.copysign(1, g) < 0 for g in got)

    check(VALUES[dtype])

    @settings(max_examples=examples(10), deadline=None)
    @given(st.lists(STRATEGIES[dtype], min_size=1, max_size=30))
    def run(values: list[Any]) -> None:
        check(values)

    run()


@pytest.mark.parametrize(
    ("target", "text", "want"),
    [
        ("int64", "12", 12),
        ("int64", " -7 ", -7),
        ("int64", "9223372036854775808", None),
        ("int64", "", None),
        ("int64", "abc", None),
        ("int32", "3000000000", None),
        ("float64", "1.5e300", 1.5e300),
        ("float64", "inf", None),
        ("float64", "-Infinity", None),
        ("float64", "nan", None),
        ("float64", "-0", 0.0),
        ("float64", "1e999", None),
        ("float32", "1e39", None),
        ("bool", "true", True),
        ("bool", "f", False),
        ("bool", "perhaps", None),
        ("date", "2024-02-29", date(2024, 2, 29)),
        ("date", "2023-02-29", None),
        ("date", "infinity", None),
        ("date", "10000-01-01", None),
        ("timestamp", "2024-02-29", naive(2024, 2, 29)),
        ("timestamp", "2024-02-29 10:11", naive(2024, 2, 29, 10, 11)),
        ("timestamp", "2024-02-29T10:11Z", naive(2024, 2, 29, 10, 11)),
        ("timestamp", "2024-02-29 10:11:12", naive(2024, 2, 29, 10, 11, 12)),
        ("timestamp", " 2024-02-29 10:11:12.5 ", naive(2024, 2, 29, 10, 11, 12, 500_000)),
        ("timestamp", "2024-02-29T10:11:12Z", naive(2024, 2, 29, 10, 11, 12)),
        ("timestamp", "2024-02-29T10:11:12+02:00", naive(2024, 2, 29, 8, 11, 12)),
        ("timestamp", "2024-02-29T10:11:12.25-0130", naive(2024, 2, 29, 11, 41, 12, 250_000)),
        ("timestamp", "2024-02-29 10:11:12 +02", naive(2024, 2, 29, 8, 11, 12)),
        ("timestamp", "1969-12-31 23:59:59.999999", naive(1969, 12, 31, 23, 59, 59, 999_999)),
        ("timestamp", "2024-02-29 25:00:00", None),
        ("timestamp", "infinity", None),
        ("timestamp", "epoch", None),
        ("timestamp", "99999-01-01", None),
        ("timestamp", "yesterday", None),
        ("timestamp", "", None),
        ("decimal(6,2)", "1234.567", 1234.57),
        ("decimal(6,2)", "12345.6", None),
        ("decimal(6,2)", "x", None),
    ],
)
def test_cast_of_text(con: duckdb.DuckDBPyConnection, target: str, text: str, want: object) -> None:
    [got, null] = compute(con, f"a::{target}", (STRING,), [(text,), (None,)])
    assert null is None
    assert (float(got) if target.startswith("decimal") and got is not None else got) == want


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
def test_the_session_time_zone_changes_nothing(con: duckdb.DuckDBPyConnection, zone: str) -> None:
    texts = ["2024-03-10 02:30:00", "2024-03-10 02:30:00+01:00", "2024-07-01", "1950-01-01 00:00"]
    moments = [datetime.fromisoformat(t) for t in texts]
    want = [(m.astimezone(UTC) if m.tzinfo else m).replace(tzinfo=None) for m in moments]
    con.execute(f"SET TimeZone = '{zone}'")
    try:
        rows = [(t,) for t in texts]
        got = compute(con, "CAST(a AS timestamp)", (STRING,), rows)
        assert got == want
        [hour, shown] = (
            compute(con, e, (parse("timestamp"),), [(m,) for m in got])
            for e in ("hour(a)", "CAST(a AS string)")
        )
        assert hour == [m.hour for m in want]
        assert shown == [show_instant(m) for m in want]
        day = compute(con, "a >= DATE '2024-07-01'", (parse("timestamp"),), [(m,) for m in got])
        assert day == [m >= naive(2024, 7, 1) for m in want]
    finally:
        con.execute("RESET TimeZone")


# --- random trees ---------------------------------------------------------------------------------

SCHEMA: Mapping[str, DType] = {"i": INT64, "j": parse("int32"), "x": FLOAT64, "y": FLOAT64}
_ARITHMETIC = ("add", "sub", "mul", "div", "mod")
_LEAVES: st.SearchStrategy[Expression] = st.sampled_from(
    [Column(name) for name in SCHEMA]
) | st.sampled_from(
    [Literal(0, INT64), Literal(-1, INT64), Literal(2**62, INT64)]
    + [Literal(v, FLOAT64) for v in (0.0, 0.5, -2.0, 1e200)]
    + [Literal(None, None)]
)


def _grow(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    def call(functions: Sequence[str], count: int) -> st.SearchStrategy[Expression]:
        return st.builds(
            Call,
            st.sampled_from(functions),
            st.tuples(*[inner] * count),
        )

    condition = call(("lt", "eq"), 2) | call(("is_null",), 1)
    return (
        call(_ARITHMETIC, 2)
        | call(("neg", "abs", "sqrt", "floor", "ceil", "round", "sign"), 1)
        | call(("coalesce", "nullif", "greatest", "least"), 2)
        | st.builds(lambda c, a, b: Case(((c, a),), b), condition, inner, inner)
        | st.builds(Cast, inner, st.sampled_from([INT64, FLOAT64]))
    )


TREES = st.recursive(_LEAVES, _grow, max_leaves=12)


def _away(x: float) -> float:
    whole = math.floor(abs(x))
    return math.copysign(whole + (abs(x) - whole >= 0.5), x)


_MEANING: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "mod": lambda a, b: remainder(a, b) if isinstance(a, int) else math.fmod(a, b),
    "neg": lambda a: -a,
    "abs": abs,
    "sqrt": math.sqrt,
    "floor": lambda a: a if isinstance(a, int) else float(math.floor(a)),
    "ceil": lambda a: a if isinstance(a, int) else float(math.ceil(a)),
    "round": lambda a: a if isinstance(a, int) else _away(a),
    "sign": lambda a: (a > 0) - (a < 0),
    "lt": lambda a, b: a < b,
    "eq": lambda a, b: a == b,
}


def _read(value: Any, dtype: DType | None) -> Any:
    return float(value) if value is not None and dtype == FLOAT64 else value


def evaluate(node: Expression, row: Mapping[str, Any]) -> Any:
    """The value of a tree, step by step: NULL as soon as a step has no finite, fitting value."""
    match node:
        case Column(name=name):
            return row[name]
        case Literal(value=value):
            return value
        case Cast(argument=argument, dtype=dtype):
            value = evaluate(argument, row)
            if value is None:
                return None
            return settle(round(value)) if dtype == INT64 else float(value)
        case Case(branches=((condition, value),), default=default):
            chosen = value if evaluate(condition, row) else default
            return _read(evaluate(chosen, row), inferred(node, SCHEMA))
        case Call():
            return _call(node, row)
    raise AssertionError(node)


def _call(node: Call, row: Mapping[str, Any]) -> Any:
    read = signature(node, tuple(inferred(a, SCHEMA) for a in node.arguments))
    values = [
        _read(evaluate(a, row), t) for a, t in zip(node.arguments, read.arguments, strict=True)
    ]
    known = [v for v in values if v is not None]
    match node.function:
        case "is_null":
            return values[0] is None
        case "coalesce":
            return known[0] if known else None
        case "greatest":
            return max(known) if known else None
        case "least":
            return min(known) if known else None
        case "nullif":
            return None if values[0] == values[1] else values[0]
    if len(known) < len(values):
        return None
    try:
        return settle(_MEANING[node.function](*values))
    except (ZeroDivisionError, OverflowError, ValueError):
        return None


@settings(max_examples=examples(150), deadline=None)
@given(
    TREES.filter(lambda tree: inferred(tree, SCHEMA) is not None),
    st.lists(
        st.tuples(*(st.none() | STRATEGIES[dtype] for dtype in SCHEMA.values())),
        min_size=1,
        max_size=8,
    ),
)
def test_random_trees(tree: Expression, rows: list[tuple[Any, ...]]) -> None:
    named = [dict(zip(SCHEMA, row, strict=True)) for row in rows]
    text = expression_sql(tree, SCHEMA)
    with duckdb.connect(config={"threads": 1}) as con:
        table = pa.Table.from_pylist(
            named, schema=pa.schema([(n, to_arrow(t)) for n, t in SCHEMA.items()])
        )
        got = computed(con.from_arrow(table), {"r": tree}, SCHEMA).column(0).to_pylist()
    assert got == [evaluate(tree, row) for row in named], text


def is_undefined(node: Expression, row: Mapping[str, Any]) -> bool:
    """Whether the value is NULL, and a step on the way to it had arguments but no result."""
    if evaluate(node, row) is not None:
        return False
    match node:
        case Case(branches=((condition, value),), default=default):
            return is_undefined(value if evaluate(condition, row) else default, row)
        case Call(function="nullif", arguments=(value, _)):
            return is_undefined(value, row)
        case Cast(argument=argument):
            arguments: tuple[Expression, ...] = (argument,)
        case Call(arguments=arguments):
            pass
        case _:
            return False
    failed = all(evaluate(argument, row) is not None for argument in arguments)
    return failed or any(is_undefined(argument, row) for argument in arguments)


@settings(max_examples=examples(100), deadline=None)
@given(
    TREES.filter(lambda tree: inferred(tree, SCHEMA) is not None),
    st.lists(
        st.tuples(*(st.none() | STRATEGIES[dtype] for dtype in SCHEMA.values())),
        min_size=1,
        max_size=8,
    ),
)
def test_undefined_values_of_random_trees(tree: Expression, rows: list[tuple[Any, ...]]) -> None:
    named = [dict(zip(SCHEMA, row, strict=True)) for row in rows]
    want = [is_undefined(tree, row) for row in named]
    condition = undefined(tree)
    if condition is None:
        assert not any(want)
        return
    text = expression_sql(condition, SCHEMA)
    with duckdb.connect(config={"threads": 1}) as con:
        table = pa.Table.from_pylist(
            named, schema=pa.schema([(n, to_arrow(t)) for n, t in SCHEMA.items()])
        )
        relation = con.from_arrow(table).select(duckdb.SQLExpression(text).alias("r"))
        assert relation.to_arrow_table().column(0).to_pylist() == want, text


def test_text_grows_linearly_with_nesting() -> None:
    """A guard mentions its operand twice; nested, that must not double again and again."""
    node: Expression = Column("x")
    lengths = []
    for _ in range(30):
        node = Call("coalesce", (Call("div", (Literal(1.0, FLOAT64), node)), Column("y")))
        lengths.append(len(expression_sql(node, SCHEMA)))
    steps = [b - a for a, b in itertools.pairwise(lengths[5:])]
    assert max(steps) == min(steps)


@settings(max_examples=examples(30), deadline=None)
@given(
    st.datetimes(naive(1, 1, 2), naive(9999, 12, 30)),
    st.integers(-14 * 60, 14 * 60).map(lambda m: timedelta(minutes=m)),
)
def test_a_zoned_text_is_converted_to_utc(moment: datetime, offset: timedelta) -> None:
    sign = "-" if offset < timedelta(0) else "+"
    minutes = abs(offset) // timedelta(minutes=1)
    text = f"{moment.isoformat()}{sign}{minutes // 60:02}:{minutes % 60:02}"
    with duckdb.connect(config={"threads": 1}) as con:
        assert compute(con, "CAST(a AS timestamp)", (STRING,), [(text,)]) == [moment - offset]


def test_boolean_conditions_may_be_null(con: duckdb.DuckDBPyConnection) -> None:
    text = "CASE WHEN a THEN 'yes' WHEN NOT a THEN 'no' ELSE 'unknown' END"
    rows = [(True,), (False,), (None,)]
    assert compute(con, text, (BOOL,), rows) == ["yes", "no", "unknown"]
    assert compute(con, "if(a AND NULL, 1, 0)", (BOOL,), rows) == [0, 0, 0]

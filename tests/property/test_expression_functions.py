"""Every function of the table, computed by DuckDB, against obvious Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from effort import examples
from expression_reference import INT_LIST, REQUEST_TIME, TEXT_LIST, TRIALS, VALUES, Trial, naive
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_expressions import computed

from featurestore.definitions.expression import (
    Expression,
    Literal,
    infer,
    parse_expression,
    with_request_time,
)
from featurestore.definitions.functions import CAN_FAIL, FUNCTIONS, STRICT
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
    to_arrow,
)
from featurestore.engines.sql_functions import FORMS

_TEXT = st.text(alphabet="aA-\u0301bBßÄöÉéİΣ🤦%_ \t\u00a0\u2003\0'\"\\", max_size=6)
STRATEGIES: dict[DType, st.SearchStrategy[Any]] = {
    INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20),
    INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-20, 20),
    FLOAT64: (st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1000, 1000)).map(
        lambda x: x + 0.0
    ),
    FLOAT32: st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda x: x + 0.0),
    STRING: _TEXT,
    BOOL: st.booleans(),
    TIMESTAMP: st.datetimes() | st.datetimes(naive(1969, 12, 30), naive(1970, 1, 3)),
    INT_LIST: st.lists(st.none() | st.integers(-3, 3), max_size=4),
    TEXT_LIST: st.lists(st.none() | _TEXT, max_size=3),
    DATE: st.dates() | st.dates(date(1969, 12, 1), date(1970, 2, 1)),
}


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as con:
        yield con


def arrow_type(dtype: DType) -> pa.DataType:
    """As engine SQL holds it: timestamps are naive UTC."""
    return pa.timestamp("us") if dtype == TIMESTAMP else to_arrow(dtype)


def compute(
    con: duckdb.DuckDBPyConnection,
    text: str,
    types: Sequence[DType],
    rows: Sequence[tuple[Any, ...]],
) -> list[Any]:
    """The values of `text` for `rows` of columns a, b, c; its type is checked too."""
    return evaluate(con, parse_expression(text), types, rows)


def evaluate(
    con: duckdb.DuckDBPyConnection,
    expression: Expression,
    types: Sequence[DType],
    rows: Sequence[tuple[Any, ...]],
) -> list[Any]:
    """As `compute`, of a tree."""
    schema = dict(zip("abc", types, strict=False))
    moment = Literal(REQUEST_TIME.isoformat() + "Z", TIMESTAMP)
    expression = with_request_time(expression, moment)
    columns = {
        name: pa.array([row[i] for row in rows], arrow_type(dtype))
        for i, (name, dtype) in enumerate(schema.items())
    }
    found = computed(con.from_arrow(pa.table(columns)), {"r": expression}, schema)
    assert found.schema.types == [arrow_type(infer(expression, schema))]
    return list(found.column(0).to_pylist())


def check(con: duckdb.DuckDBPyConnection, trial: Trial, rows: Sequence[tuple[Any, ...]]) -> None:
    for row, got in zip(rows, compute(con, trial.text, trial.types, rows), strict=True):
        want = trial.expected(row)
        same = got == want and type(got) is type(want)
        if isinstance(want, float) and isinstance(got, float):
            assert math.copysign(1, got) == 1 or got < 0, f"-0.0 for {trial.text} of {row}"
            same = got == want or (
                not trial.exact and math.isclose(got, want, rel_tol=1e-12, abs_tol=1e-300)
            )
        assert same, f"{trial.text} of {row}: DuckDB gives {got!r}, Python {want!r}"


def name(trial: Trial) -> str:
    return f"{trial.text} of {','.join(map(str, trial.types))}"


def test_every_function_is_tried_and_computed() -> None:
    assert {trial.function for trial in TRIALS} == set(FUNCTIONS)
    assert set(FUNCTIONS) == set(FORMS)


@pytest.mark.parametrize("trial", TRIALS, ids=name)
def test_function_on_every_pair_of_edges(con: duckdb.DuckDBPyConnection, trial: Trial) -> None:
    rows = list(itertools.product(*(VALUES[dtype] for dtype in trial.types)))
    check(con, trial, rows)


@pytest.mark.parametrize("trial", TRIALS, ids=name)
def test_a_value_without_a_result_is_told_from_other_nulls(
    con: duckdb.DuckDBPyConnection, trial: Trial
) -> None:
    rows = list(itertools.product(*(VALUES[dtype] for dtype in trial.types)))
    failed = [trial.expected(row) is None and None not in row for row in rows]
    condition = undefined(parse_expression(trial.text))
    if condition is None:
        strict = FUNCTIONS[trial.function].nulls == STRICT
        assert trial.function not in CAN_FAIL
        assert not (strict and any(failed)), [r for r, f in zip(rows, failed, strict=True) if f]
    else:
        assert evaluate(con, condition, trial.types, rows) == failed


@pytest.mark.parametrize("trial", TRIALS, ids=name)
def test_function_on_random_values(con: duckdb.DuckDBPyConnection, trial: Trial) -> None:
    columns = st.tuples(*(st.none() | STRATEGIES[dtype] for dtype in trial.types))

    @settings(max_examples=examples(8), deadline=None)
    @given(st.lists(columns, min_size=1, max_size=30))
    def run(rows: list[tuple[Any, ...]]) -> None:
        check(con, trial, rows)

    run()

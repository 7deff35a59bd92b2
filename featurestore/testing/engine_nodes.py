"""What every engine must answer for the plain relational nodes: filter, project, derive, SQL and so
on."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore.compiler.rel import (
    Derive,
    Filter,
    Input,
    Limit,
    Project,
    Sql,
    Union,
)
from featurestore.definitions.expression import Column, parse_expression
from featurestore.dtypes import (
    BOOL,
    DATE,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    parse,
)
from featurestore.engines.base import Engine
from featurestore.errors import (
    InvalidExpression,
)
from featurestore.testing.compare import check_same_rows, run
from featurestore.testing.engine_reads import BIG, column, table
from featurestore.timeline import DAY_US


class NodesContract:
    """The plain nodes. Subclasses give the fixture `engine`."""

    def test_filter_keeps_rows_for_which_it_is_true(self, engine: Engine, tmp_path: Path) -> None:
        rows = table(tmp_path, v=(INT64, [1, 2, 3, None]), w=(INT64, [1, 1, None, 1]))
        rel = Filter(input=rows, predicate=parse_expression("v * w >= 2"))
        assert run(engine, rel) == [{"v": 2, "w": 1}]

    def test_project_orders_renames_and_repeats(self, engine: Engine, tmp_path: Path) -> None:
        rows = table(tmp_path, a=(INT64, [1]), b=(STRING, ["x"]), c=(INT64, [3]))
        rel = Project(input=rows, columns={"b": "a", "a": "b", "again": "a"})
        assert run(engine, rel) == [{"b": 1, "a": "x", "again": 1}]

    def test_what_has_no_result_is_null(self, engine: Engine, tmp_path: Path) -> None:
        """Beside values that have one: where the answer alone reads it, under whatever
        name, and where another expression or a condition does."""
        values = [1e308, -1e308, 0.0, None, 3.0]
        rows = table(tmp_path, n=(INT64, list(range(5))), a=(FLOAT64, values))
        first = Derive(
            input=rows,
            columns={
                "twice": (parse_expression("a * 2"), FLOAT64),
                "inverse": (parse_expression("3.0 / a"), FLOAT64),
                "ten": (parse_expression("a * 10"), FLOAT64),
            },
        )
        second = Derive(
            input=first,
            columns={
                "is_null": (parse_expression("ten IS NULL"), BOOL),
                "narrow": (parse_expression("CAST(a AS float32) * 2"), parse("float32")),
                "ten": (parse_expression("0.0 - ten"), FLOAT64),
            },
        )
        names = {"n": "n", "double": "twice", "inverse": "inverse", "again": "twice"}
        rel = Project(input=second, columns={**names, "ten": "ten", "is_null": "is_null"})
        expected = [
            (None, 3.0 / 1e308, None, True),
            (None, 3.0 / -1e308, None, True),
            (0.0, None, 0.0, False),
            (None, None, None, True),
            (6.0, 1.0, -30.0, False),
        ]
        found = sorted(run(engine, rel), key=lambda row: str(row["n"]))
        assert [(r["double"], r["inverse"], r["ten"], r["is_null"]) for r in found] == expected
        assert [repr(row["again"]) for row in found] == [repr(row["double"]) for row in found]
        assert repr(found[2]["ten"]) == "0.0"
        narrow = Project(input=second, columns={"n": "n", "narrow": "narrow"})
        found = sorted(run(engine, narrow), key=lambda row: str(row["n"]))
        assert [row["narrow"] for row in found] == [None, None, 0.0, None, 6.0]
        kept = Filter(input=second, predicate=parse_expression("inverse > 0"))
        assert sorted(str(row["n"]) for row in run(engine, kept)) == ["0", "4"]

    def test_derive_adds_columns(self, engine: Engine, tmp_path: Path) -> None:
        rows = table(tmp_path, a=(FLOAT64, [3.0, 1.0, None]), b=(FLOAT64, [2.0, 0.0, 1.0]))
        rel = Derive(
            input=rows,
            columns={
                "ratio": (parse_expression("a / b"), FLOAT64),
                "select": (parse_expression("coalesce(a, -1.0)"), FLOAT64),
                "same": (Column("b"), FLOAT64),
            },
        )
        check_same_rows(
            run(engine, rel),
            [
                {"a": 3.0, "b": 2.0, "ratio": 1.5, "select": 3.0, "same": 2.0},
                {"a": 1.0, "b": 0.0, "ratio": None, "select": 1.0, "same": 0.0},
                {"a": None, "b": 1.0, "ratio": None, "select": -1.0, "same": 1.0},
            ],
        )

    def test_derive_reads_the_input_not_its_own_columns(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        rows = table(tmp_path, a=(INT64, [1]), b=(INT64, [2]))
        rel = Derive(
            input=rows,
            columns={"a": (parse_expression("b"), INT64), "c": (parse_expression("a + 0"), INT64)},
        )
        assert run(engine, rel) == [{"a": 2, "b": 2, "c": 1}]

    def test_union_keeps_repetitions(self, engine: Engine, tmp_path: Path) -> None:
        one = table(tmp_path, "one", v=(INT64, [1, 2]))
        two = table(tmp_path, "two", v=(INT64, [2, None]))
        assert column(engine, Union(inputs=(one, two, one)), "v") == [1, 1, 2, 2, 2, None]

    def test_limit(self, engine: Engine, tmp_path: Path) -> None:
        rows = table(tmp_path, v=(INT64, range(100)))
        for most, count in ((0, 0), (7, 7), (1_000, 100)):
            found = run(engine, Limit(input=rows, rows=most))
            assert len({row["v"] for row in found}) == len(found) == count

    def test_sql_reads_named_relations(self, engine: Engine, tmp_path: Path) -> None:
        flights = table(
            tmp_path,
            "flights",
            plane=(STRING, ["a", "a", "b", None]),
            at=(TIMESTAMP, [0, DAY_US, -1, 5]),
            delay=(FLOAT64, [1.0, float("nan"), -0.0, 4.0]),
        )
        planes = table(tmp_path, "planes", plane=(STRING, ["a", "b"]), seats=(INT32, [50, 100]))
        rel = Sql(
            query="""
                SELECT plane, max("at") AS "last", count(delay) AS delays, any_value(seats) AS seats
                FROM flights JOIN "order" USING (plane) GROUP BY plane
            """,
            inputs={"flights": flights, "order": planes},
            dtypes={"plane": STRING, "last": TIMESTAMP, "delays": INT64, "seats": INT32},
        )
        check_same_rows(
            run(engine, rel),
            [
                {"plane": "a", "last": DAY_US, "delays": 1, "seats": 50},
                {"plane": "b", "last": -1, "delays": 1, "seats": 100},
            ],
        )

    def test_sql_results_are_read_like_scans(self, engine: Engine, tmp_path: Path) -> None:
        rows = table(tmp_path, v=(FLOAT64, [1.0]))
        rel = Sql(
            query="SELECT 'NaN'::DOUBLE AS a, -0.0::DOUBLE AS b, DATE '1970-01-02'::TIMESTAMP AS c"
            " FROM t",
            inputs={"t": rows},
            dtypes={"a": FLOAT64, "b": FLOAT64, "c": TIMESTAMP},
        )
        check_same_rows(run(engine, rel), [{"a": None, "b": 0.0, "c": DAY_US}])

    def test_the_schema_of_a_query(self, engine: Engine) -> None:
        inputs = {"t": {"a": INT32, "at": TIMESTAMP, "d": parse("decimal(12,2)"), "select": DATE}}
        query = 'SELECT a, a + 0.5::DOUBLE AS b, "at" AS "order", d, [a] AS l, "select" FROM t'
        assert engine.schema(query, inputs) == {
            "a": INT32,
            "b": FLOAT64,
            "order": TIMESTAMP,
            "d": parse("decimal(12,2)"),
            "l": parse("list<int32>"),
            "select": DATE,
        }

    @pytest.mark.parametrize("query", ["SELECT nothing FROM t", "SELEKT 1", "SELECT 1 FROM gone"])
    def test_a_wrong_query(self, engine: Engine, query: str) -> None:
        with pytest.raises(InvalidExpression):
            engine.schema(query, {"t": {"a": INT64}})

    def test_input_takes_tables_and_readers(self, engine: Engine) -> None:
        import pyarrow as pa

        data = pa.table({"v": pa.array([BIG, None, -1], pa.int64())})
        rel = Input(name="left", dtypes={"v": INT64})
        for given in (data, data.to_reader(max_chunksize=1)):
            found = engine.stream(rel, inputs={"left": given}).read_all().column("v")
            assert sorted(found.drop_null().to_pylist()) == [-1, BIG]
            assert found.null_count == 1

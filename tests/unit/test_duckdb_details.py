"""What the DuckDB engine does beyond the contract: files as found, errors, its own life."""

from __future__ import annotations

import gc
import gzip
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.compiler.rel import (
    AsOfJoin,
    DataFiles,
    Derive,
    Input,
    Project,
    Scan,
    Sql,
    Stamped,
)
from featurestore.config import OfflineSettings
from featurestore.definitions.expression import Column, parse_expression
from featurestore.dtypes import (
    BOOL,
    BYTES,
    DATE,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    parse,
)
from featurestore.engines import duckdb_sql
from featurestore.engines.base import BATCH_ROWS
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.errors import (
    InternalError,
    InvalidExpression,
    InvalidSettings,
    InvalidValue,
    MemoryExceeded,
    SourceMissing,
    SourceSchemaChanged,
)

BIG = 2**53 + 1


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckDBEngine]:
    settings = OfflineSettings(memory_limit="1GB")
    with DuckDBEngine.open(settings, temp_directory=str(tmp_path / "spill")) as engine:
        yield engine


def parquet(folder: Path, *tables: pa.Table, schema: Mapping[str, DType]) -> DataFiles:
    paths = []
    for number, table in enumerate(tables):
        path = folder / f"part-{number}.parquet"
        pq.write_table(table, path)
        paths.append(str(path))
    return DataFiles(format="parquet", paths=tuple(paths), schema=schema)


def csv(
    folder: Path,
    *texts: str,
    schema: Mapping[str, DType],
    names: Sequence[Sequence[str]],
    **options: str,
) -> DataFiles:
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"part-{number}.csv"
        path.write_text(text)
        paths.append(str(path))
    given = {"names": json.dumps([list(each) for each in names]), **options}
    return DataFiles(format="csv", paths=tuple(paths), schema=schema, csv_options=given)


def scan(files: DataFiles, **dtypes: DType) -> Scan:
    wanted = dtypes or dict(files.schema)
    return Scan(source="rows", files=files, columns={n: n for n in wanted}, dtypes=wanted)


def rows(engine: DuckDBEngine, rel: Any, **inputs: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.stream(rel, inputs=inputs).read_all().to_pylist()
    return found


# --- Parquet --------------------------------------------------------------------------------------


def test_a_column_without_any_value_reads_as_any_type(engine: DuckDBEngine, tmp_path: Path) -> None:
    tables = pa.table({"n": [1], "v": pa.nulls(1)}), pa.table({"n": [2], "v": ["x"]})
    files = parquet(tmp_path, *tables, schema={"n": INT64, "v": STRING})
    found = sorted(rows(engine, scan(files)), key=lambda row: int(row["n"]))
    assert found == [{"n": 1, "v": None}, {"n": 2, "v": "x"}]


def test_files_in_nanoseconds_do_not_narrow_the_others(
    engine: DuckDBEngine, tmp_path: Path
) -> None:
    far = datetime(9999, 12, 31, tzinfo=UTC)
    tables = (
        pa.table({"at": pa.array([-1], pa.timestamp("ns"))}),
        pa.table({"at": pa.array([far], pa.timestamp("us", "UTC"))}),
    )
    files = parquet(tmp_path, *tables, schema={"at": TIMESTAMP})
    found = sorted(row["at"] for row in rows(engine, scan(files)))
    assert found == [datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), far]


def test_nan_is_null_even_where_the_statistics_of_the_file_leave_it_out(
    engine: DuckDBEngine, tmp_path: Path
) -> None:
    """Parquet's minimum and maximum ignore NaN, and DuckDB would believe them."""
    values = [float("nan"), -0.0, float("inf"), 1.5]
    for dtype, arrow in ((FLOAT64, pa.float64()), (FLOAT32, pa.float32())):
        table = pa.table({"v": pa.array(values, arrow)})
        found = rows(engine, scan(parquet(tmp_path, table, schema={"v": dtype})))
        assert [row["v"] for row in found] == [None, 0.0, float("inf"), 1.5]


def test_dictionaries_and_small_integers_widen(engine: DuckDBEngine, tmp_path: Path) -> None:
    table = pa.table(
        {
            "word": pa.array(["a", None]).dictionary_encode(),
            "tiny": pa.array([1, None], pa.int8()),
            "wide": pa.array([2**32 - 1, None], pa.uint32()),
        }
    )
    files = parquet(tmp_path, table, schema={"word": STRING, "tiny": INT32, "wide": INT64})
    assert rows(engine, scan(files)) == [
        {"word": "a", "tiny": 1, "wide": 2**32 - 1},
        {"word": None, "tiny": None, "wide": None},
    ]


@pytest.mark.parametrize(
    ("have", "value", "want", "expected"),
    [
        (FLOAT64, 2.0, INT32, 2),
        (INT64, 5, FLOAT64, 5.0),
        (INT64, 5, parse("decimal(6,2)"), Decimal("5.00")),
        (parse("decimal(6,3)"), Decimal("1.500"), parse("decimal(6,1)"), Decimal("1.5")),
        (parse("decimal(6,3)"), Decimal("2.000"), INT64, 2),
        (parse("decimal(6,3)"), Decimal("2.500"), FLOAT64, 2.5),
        (FLOAT64, 0.1, FLOAT32, pytest.approx(0.1)),
        (DATE, date(1970, 1, 2), TIMESTAMP, datetime(1970, 1, 2, tzinfo=UTC)),
    ],
    ids=str,
)
def test_casts_that_lose_nothing(
    engine: DuckDBEngine, tmp_path: Path, *, have: DType, value: Any, want: DType, expected: Any
) -> None:
    from featurestore.dtypes import to_arrow

    table = pa.table({"v": pa.array([value, None], to_arrow(have))})
    found = rows(engine, scan(parquet(tmp_path, table, schema={"v": have}), v=want))
    assert [row["v"] for row in found] == [expected, None]


@pytest.mark.parametrize(
    ("have", "value", "want"),
    [
        (INT64, BIG, FLOAT64),
        (INT64, 2**63 - 1, FLOAT64),
        (INT32, 2**24 + 1, FLOAT32),
        (FLOAT64, 1e300, FLOAT32),
        (FLOAT64, float("inf"), INT64),
        (parse("decimal(6,3)"), Decimal("1.234"), parse("decimal(6,2)")),
        (parse("list<float64>"), [1.0, 1.5], parse("list<int64>")),
    ],
    ids=str,
)
def test_a_lossy_cast_names_column_and_row(
    engine: DuckDBEngine, tmp_path: Path, have: DType, value: Any, want: DType
) -> None:
    from featurestore.dtypes import to_arrow

    table = pa.table({"v": pa.array([None, value], to_arrow(have))})
    rel = scan(parquet(tmp_path, table, schema={"v": have}), v=want)
    with pytest.raises(InvalidValue, match=r"(?s)'v' of source 'rows', row 1 of .*part-0"):
        rows(engine, rel)


def test_a_type_that_no_longer_reads(engine: DuckDBEngine, tmp_path: Path) -> None:
    table = pa.table({"v": [{"a": 1}], "w": ["x"]})
    files = parquet(tmp_path, table, schema={"v": INT64, "w": INT64})
    with pytest.raises(SourceSchemaChanged, match=r"'v' of source 'rows' is STRUCT"):
        rows(engine, scan(files, v=INT64))
    with pytest.raises(SourceSchemaChanged, match=r"'w' of source 'rows' is VARCHAR"):
        rows(engine, scan(files, w=INT64))


def test_a_column_that_is_not_needed_may_go(engine: DuckDBEngine, tmp_path: Path) -> None:
    files = parquet(tmp_path, pa.table({"v": [1]}), schema={"v": INT64, "gone": INT64})
    assert rows(engine, Project(input=scan(files), columns={"v": "v"})) == [{"v": 1}]
    with pytest.raises(SourceSchemaChanged, match="'gone'"):
        rows(engine, scan(files))


def test_a_file_that_is_cut_off(engine: DuckDBEngine, tmp_path: Path) -> None:
    files = parquet(tmp_path, pa.table({"v": list(range(10_000))}), schema={"v": INT64})
    path = Path(files.paths[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceMissing, match="'rows'"):
        rows(engine, scan(files))


def test_a_file_with_damaged_pages(engine: DuckDBEngine, tmp_path: Path) -> None:
    text = [f"{n * 7919} damaged" for n in range(50_000)]
    files = parquet(tmp_path, pa.table({"v": text}), schema={"v": STRING})
    path = Path(files.paths[0])
    content = bytearray(path.read_bytes())
    content[100:5_000] = b"\xff" * 4_900
    path.write_bytes(content)
    with pytest.raises(SourceMissing, match="'rows'"):
        rows(engine, scan(files))


def test_a_partition_wins_over_a_column_of_its_name(engine: DuckDBEngine, tmp_path: Path) -> None:
    plain = parquet(tmp_path, pa.table({"v": [1], "day": ["x"]}), schema={"v": INT64, "day": DATE})
    files = DataFiles(
        format="parquet",
        paths=plain.paths,
        schema=plain.schema,
        partitions=({"day": "2024-02-29"},),
    )
    assert rows(engine, scan(files)) == [{"v": 1, "day": date(2024, 2, 29)}]


def test_a_partition_that_is_no_value_of_its_type(engine: DuckDBEngine, tmp_path: Path) -> None:
    plain = parquet(tmp_path, pa.table({"v": [1]}), schema={"v": INT64, "n": INT64})
    files = DataFiles(
        format="parquet", paths=plain.paths, schema=plain.schema, partitions=({"n": "1.5"},)
    )
    with pytest.raises(InvalidValue, match=r"'n' of source 'rows': 1\.5 is not an exact int64"):
        rows(engine, scan(files))


# --- CSV ------------------------------------------------------------------------------------------


def test_csv_values_of_every_type(engine: DuckDBEngine, tmp_path: Path) -> None:
    schema: dict[str, DType] = {
        "i": INT64,
        "f": FLOAT64,
        "b": BOOL,
        "s": STRING,
        "x": BYTES,
        "t": TIMESTAMP,
        "d": DATE,
        "p": parse("decimal(6,2)"),
    }
    lines = (
        "i,f,b,s,x,t,d,p",
        f'{BIG},1e3,true,"a ""b"",\nc",xy,2024-03-01T02:00:00+02:00,2024-03-01,1.25',
        ",nan,,,,2024-03-01 00:00:00,,",
        "-1,-0.0,false,é,,2024-03-01T00:00:00.000001Z,1969-12-31,-1.5",
    )
    files = csv(tmp_path, "\n".join(lines) + "\n", schema=schema, names=[list(schema)])
    first, second, third = rows(engine, scan(files))
    midnight = datetime(2024, 3, 1, tzinfo=UTC)
    assert first == {
        "i": BIG, "f": 1000.0, "b": True, "s": 'a "b",\nc', "x": b"xy", "t": midnight,
        "d": date(2024, 3, 1), "p": Decimal("1.25"),
    }  # fmt: skip
    assert second == dict.fromkeys(schema) | {"t": midnight}
    assert third["i"] == -1
    assert str(third["f"]) == "0.0"
    assert third["t"] == midnight.replace(microsecond=1)


def test_csv_files_may_order_their_columns_differently(
    engine: DuckDBEngine, tmp_path: Path
) -> None:
    files = csv(
        tmp_path,
        "a,b\n1,x\n",
        "c,b,a\n2.5,y,2\n",
        schema={"a": INT64, "b": STRING, "c": FLOAT64},
        names=[["a", "b"], ["c", "b", "a"]],
    )
    found = sorted(rows(engine, scan(files)), key=lambda row: int(row["a"]))
    assert found == [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": "y", "c": 2.5}]


def test_csv_options(engine: DuckDBEngine, tmp_path: Path) -> None:
    files = csv(
        tmp_path,
        "1;NA\n;x\n",
        schema={"column0": INT64, "column1": STRING},
        names=[["column0", "column1"]],
        delimiter=";",
        header="false",
        null_texts='["", "NA"]',
    )
    assert rows(engine, scan(files)) == [
        {"column0": 1, "column1": None},
        {"column0": None, "column1": "x"},
    ]


def test_csv_files_may_be_gzipped_and_partitioned(engine: DuckDBEngine, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"v\n1\n"))
    files = DataFiles(
        format="csv",
        paths=(str(path),),
        schema={"v": INT64, "year": INT64},
        partitions=({"year": "2024"},),
        csv_options={"names": '[["v"]]'},
    )
    assert rows(engine, scan(files)) == [{"v": 1, "year": 2024}]


@pytest.mark.parametrize(
    ("text", "dtype"),
    [("1.7", INT64), ("x", FLOAT64), (str(2**63), INT64), ("1.255", parse("decimal(6,2)")),
     ("yes it is", BOOL), ("yesterday", TIMESTAMP), ("2024-02-30", DATE)],
)  # fmt: skip
def test_a_csv_text_that_is_no_value_of_its_type(
    engine: DuckDBEngine, tmp_path: Path, text: str, dtype: DType
) -> None:
    files = csv(tmp_path, f"v\n{text}\n", schema={"v": dtype}, names=[["v"]])
    with pytest.raises(InvalidValue, match=f"'v' of source 'rows': {text} is not an exact"):
        rows(engine, scan(files))


def test_a_csv_file_that_lost_a_field(engine: DuckDBEngine, tmp_path: Path) -> None:
    files = csv(tmp_path, "a\n1\n", schema={"a": INT64, "b": INT64}, names=[["a", "b"]])
    with pytest.raises(SourceSchemaChanged, match="rows"):
        rows(engine, scan(files))


# --- names ----------------------------------------------------------------------------------------


def test_names_may_differ_by_case_alone(engine: DuckDBEngine, tmp_path: Path) -> None:
    files = parquet(
        tmp_path, pa.table({"temp": [1], "__row": [2]}), schema={"temp": INT64, "__row": INT64}
    )
    rel = Derive(
        input=scan(files),
        columns={"Temp": (Column("temp"), INT64), "TEMP": (Column("__row"), INT64)},
    )
    assert rows(engine, rel) == [{"temp": 1, "__row": 2, "Temp": 1, "TEMP": 2}]


# --- SQL ------------------------------------------------------------------------------------------


def test_a_query_may_end_in_a_semicolon_or_a_comment(engine: DuckDBEngine) -> None:
    inputs = {"t": {"n": INT64}}
    assert engine.schema("SELECT n FROM t;", inputs) == {"n": INT64}
    assert engine.schema("SELECT n FROM t -- all of them", inputs) == {"n": INT64}


def test_a_sum_of_integers_is_int64(engine: DuckDBEngine, tmp_path: Path) -> None:
    query = "SELECT sum(n) AS total FROM t"
    assert engine.schema(query, {"t": {"n": INT64}}) == {"total": INT64}
    files = parquet(tmp_path, pa.table({"n": [BIG, 1]}), schema={"n": INT64})
    rel = Sql(query=query, inputs={"t": scan(files)}, dtypes={"total": INT64})
    assert rows(engine, rel) == [{"total": BIG + 1}]
    files = parquet(tmp_path, pa.table({"n": [2**62, 2**62]}), schema={"n": INT64})
    rel = Sql(query=query, inputs={"t": scan(files)}, dtypes={"total": INT64})
    with pytest.raises(InvalidValue):
        rows(engine, rel)


def test_a_query_column_that_no_feature_can_have(engine: DuckDBEngine) -> None:
    with pytest.raises(InvalidExpression, match=r"'s' .* STRUCT.*CAST"):
        engine.schema("SELECT {'a': 1} AS s", {})


def test_a_query_does_not_see_python(engine: DuckDBEngine) -> None:
    secrets = pa.table({"v": [1]})
    with pytest.raises(InvalidExpression, match="secrets"):
        engine.schema("SELECT * FROM secrets", {})
    assert secrets.num_rows == 1


def test_a_query_that_no_longer_fits_its_sources(engine: DuckDBEngine, tmp_path: Path) -> None:
    files = parquet(tmp_path, pa.table({"n": [1]}), schema={"n": INT64})
    rel = Sql(query="SELECT m FROM t", inputs={"t": scan(files)}, dtypes={"m": INT64})
    with pytest.raises(SourceSchemaChanged, match='"m"'):
        rows(engine, rel)


def test_a_query_alone_keeps_its_order(engine: DuckDBEngine) -> None:
    rel = Sql(
        query="SELECT range AS n FROM range(300000) ORDER BY n DESC",
        inputs={},
        dtypes={"n": INT64},
    )
    found = engine.stream(rel).read_all().column("n").to_pylist()
    assert found == list(range(299_999, -1, -1))


# --- inputs ---------------------------------------------------------------------------------------


def numbers(count: int) -> pa.Table:
    return pa.table({"n": pa.array(range(count), pa.int64())})


def test_streamed_inputs_of_many_batches_keep_their_order(
    engine: DuckDBEngine, tmp_path: Path
) -> None:
    count = 1_200_000
    table = pa.table({"n": numbers(count)["n"], "t": numbers(count)["n"]})
    files = parquet(
        tmp_path,
        pa.table({"at": pa.array([0], pa.timestamp("us")), "v": [7]}),
        schema={"at": TIMESTAMP, "v": INT64},
    )
    right = Stamped(
        input=scan(files),
        keys=(),
        event_time="at",
        created_time=None,
        event_time_is=None,
        op=None,
        tiebreak=("v",),
    )
    rel = AsOfJoin(
        left=Input(name="left", dtypes={"n": INT64, "t": INT64}),
        right=right,
        keys={},
        left_time="t",
        columns={"v": "v"},
        status="status",
        as_of="known",
        known_until_us=None,
        ttl_us=None,
        grace_us=None,
    )
    found = engine.stream(rel, inputs={"left": table.to_reader(max_chunksize=50_000)}).read_all()
    assert found.column("n").to_pylist() == list(range(count))
    assert found.column("v").unique().to_pylist() == [7]


def derived_of_a_join(tmp_path: Path) -> tuple[Derive, pa.Table]:
    """Something computed from the last value of each of many rows' keys, and the rows."""
    count, keys = 300_000, 1_000
    known = pa.table(
        {"k": range(keys), "at": pa.array([0] * keys, pa.timestamp("us")), "v": range(keys)}
    )
    files = parquet(tmp_path, known, schema={"k": INT64, "at": TIMESTAMP, "v": INT64})
    right = Stamped(
        input=scan(files), keys=("k",), event_time="at", created_time=None, event_time_is=None,
        op=None, tiebreak=(),
    )  # fmt: skip
    left = Input(name="left", dtypes={"n": INT64, "key": INT64, "t": INT64})
    joined = AsOfJoin(
        left=left, right=right, keys={"key": "k"}, left_time="t", columns={"v": "v"}, status="s",
        as_of="known", known_until_us=None, ttl_us=None, grace_us=None,
    )  # fmt: skip
    text = "round(sqrt(v * 1.5) / (v - 7), 3)"
    rel = Derive(input=joined, columns={"x": (parse_expression(text), FLOAT64)})
    data = {"n": range(count), "key": [n * 7 % keys for n in range(count)], "t": [1] * count}
    return rel, pa.table(data)


def test_what_is_computed_keeps_the_order_of_the_rows(tmp_path: Path) -> None:
    rel, data = derived_of_a_join(tmp_path)
    settings = OfflineSettings(memory_limit="1GB", threads=4)
    with DuckDBEngine.open(settings, temp_directory=str(tmp_path / "spill")) as engine:
        found = engine.stream(rel, inputs={"left": data}, batch_rows=10_000).read_all()
        sizes = [batch.num_rows for batch in engine.stream(rel, inputs={"left": data})]
    assert found.column("n").equals(data.column("n"))
    assert found.column("v").equals(data.column("key"))
    assert set(sizes[:-1]) == {BATCH_ROWS}  # else a training set copies every column
    values = found.column("x").to_pylist()
    assert values[1] is None
    assert values[2] == round(math.sqrt(14 * 1.5) / 7, 3)


def test_rows_out_of_their_order_are_noticed(
    engine: DuckDBEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rel, data = derived_of_a_join(tmp_path)
    monkeypatch.setattr(duckdb_sql, "_order", lambda table: f" ORDER BY {table.row} DESC")
    with pytest.raises(InternalError, match="out of their order"):
        engine.stream(rel, inputs={"left": data}).read_all()


def test_an_input_must_be_given(engine: DuckDBEngine) -> None:
    with pytest.raises(InternalError, match="'left'"):
        rows(engine, Input(name="left", dtypes={"n": INT64}))


def test_an_input_of_another_type(engine: DuckDBEngine) -> None:
    with pytest.raises(InvalidValue, match="'n' of 'left'"):
        rows(engine, Input(name="left", dtypes={"n": INT32}), left=pa.table({"n": [2**40]}))


def test_an_error_of_an_input_reader_comes_through(engine: DuckDBEngine) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield numbers(3).to_batches()[0]
        raise SourceMissing("the frame is gone")

    reader = pa.RecordBatchReader.from_batches(numbers(0).schema, batches())
    with pytest.raises(SourceMissing, match="the frame is gone"):
        rows(engine, Input(name="left", dtypes={"n": INT64}), left=reader)


# --- its own life ---------------------------------------------------------------------------------


def test_a_stream_that_is_dropped_stops(engine: DuckDBEngine) -> None:
    rel = Sql(query="SELECT range AS n FROM range(1000000000000)", inputs={}, dtypes={"n": INT64})
    reader = engine.stream(rel, batch_rows=10)
    assert reader.read_next_batch().num_rows == 10
    del reader
    gc.collect()
    engine.close()


def test_an_error_in_the_middle_of_a_stream(engine: DuckDBEngine) -> None:
    late = "CASE WHEN range = 3000000 THEN error('late') ELSE range END"
    query = f"SELECT {late} AS n FROM range(4000000)"
    rel = Sql(query=query, inputs={}, dtypes={"n": INT64})
    reader = engine.stream(rel)
    with pytest.raises(InternalError, match="late"):
        for _ in reader:
            pass


def test_what_does_not_fit_anywhere(tmp_path: Path) -> None:
    settings = OfflineSettings(memory_limit="20MB", threads=1)
    query = "SELECT list(range) AS l FROM range(100000000)"
    rel = Sql(query=query, inputs={}, dtypes={"l": parse("list<int64>")})
    with (
        DuckDBEngine.open(settings, temp_directory=str(tmp_path / "spill")) as engine,
        pytest.raises(MemoryExceeded, match=r"offline\.memory_limit"),
    ):
        rows(engine, rel)


def test_a_memory_limit_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="much"):
        DuckDBEngine.open(OfflineSettings(memory_limit="much"), temp_directory=str(tmp_path))


def test_spill_folders_of_the_dead_are_removed(tmp_path: Path) -> None:
    dead, alive = tmp_path / "duckdb-999999999-aa", tmp_path / f"duckdb-{os.getpid()}-aa"
    other = tmp_path / "notes"
    for folder in (dead, alive, other):
        folder.mkdir()
    with DuckDBEngine.open(OfflineSettings(), temp_directory=str(tmp_path)):
        assert not dead.exists()
        assert alive.exists()
        assert other.exists()


def test_explain_takes_an_empty_input_where_none_is_given(engine: DuckDBEngine) -> None:
    assert "input left" in engine.explain(Input(name="left", dtypes={"n": INT64}))

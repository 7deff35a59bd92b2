"""What every engine must answer about values: scans of files, types, batches."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from featurestore.compiler.rel import (
    COMMITTED,
    DataFiles,
    Limit,
    Rel,
    Scan,
)
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
from featurestore.engines.base import Engine
from featurestore.errors import (
    InvalidValue,
    SourceMissing,
    SourceSchemaChanged,
)
from featurestore.testing.compare import check_same_rows, run, scan
from featurestore.testing.data import parquet_files, to_array, write_parquet
from featurestore.testing.oracle import Value, read_value
from featurestore.timeline import DAY_US, to_us

BIG = 2**53 + 1
DECIMAL = parse("decimal(38,10)")

# One column of each type, as files hold the values.
TYPED: Mapping[str, tuple[DType, Sequence[Value]]] = {
    "flag": (BOOL, [True, False, None]),
    "small": (INT32, [2**31 - 1, -(2**31), None]),
    "big": (INT64, [BIG, None, -(2**63)]),
    "single": (FLOAT32, [0.5, float("nan"), None]),
    "double": (FLOAT64, [float("inf"), -0.0, float("nan")]),
    "price": (
        DECIMAL,
        [Decimal("1234567890123456789012345678.0123456789"), None, Decimal("0E-10")],
    ),
    "name": (STRING, ["größe", "", None]),
    "blob": (BYTES, [b"\0\xff", b"", None]),
    "at": (TIMESTAMP, [-1, 1_362_898_800_000_000, None]),
    "day": (DATE, [date(1969, 12, 31), date(9999, 12, 31), None]),
    "ints": (parse("list<int64>"), [[BIG, None], [], None]),
    "doubles": (parse("list<float64>"), [[float("nan"), -0.0], [None], None]),
    "names": (parse("list<string>"), [["", None, "🛫"], [], None]),
    "days": (parse("list<timestamp>"), [[-1, None], [0], None]),
}
# New York's clocks skip an hour, repeat an hour, and times on either side of 1970.
INSTANTS = sorted(
    map(
        to_us,
        (
            "1900-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00Z",
            "2013-03-10T06:59:59Z",
            "2013-03-10T07:00:00Z",
            "2013-11-03T05:30:00Z",
            "2013-11-03T06:30:00Z",
        ),
    )
)


def table(folder: Path, file: str = "rows", /, **columns: tuple[DType, Sequence[Value]]) -> Scan:
    """A Parquet file with the columns (type, values), scanned."""
    arrays = {column: to_array(values, dtype) for column, (dtype, values) in columns.items()}
    path = write_parquet(folder / f"{file}.parquet", arrays)
    return scan(parquet_files([path], {c: dtype for c, (dtype, _) in columns.items()}))


def column(engine: Engine, rel: Rel, name: str) -> list[Value]:
    """The values of one column, with NULLs last."""
    values = [row[name] for row in run(engine, rel)]
    return sorted(values, key=lambda value: (value is None, value if value is not None else 0))


def csv_files(
    paths: Sequence[Path], schema: Mapping[str, DType], names: Sequence[Sequence[str]]
) -> DataFiles:
    """CSV files with `;` between the fields, `NA` for NULL, and the columns `names` per file."""
    return DataFiles(
        format="csv",
        paths=tuple(map(str, paths)),
        schema=dict(schema),
        csv_options={
            "delimiter": ";",
            "header": "true",
            "null_texts": json.dumps(["NA"]),
            "names": json.dumps([list(columns) for columns in names]),
        },
    )


def row(dtypes: Mapping[str, DType], *values: Value) -> dict[str, Value]:
    """A row of the columns of `dtypes`."""
    return dict(zip(dtypes, values, strict=True))


class ReadsContract:
    """Rules of "Types" and "Time". Subclasses give the fixture `engine`."""

    # --- types ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", TYPED)
    def test_values_of_every_type_come_through(
        self, engine: Engine, tmp_path: Path, name: str
    ) -> None:
        dtype, values = TYPED[name]
        rel = table(tmp_path, n=(INT64, range(len(values))), v=(dtype, values))
        expected = [{"n": n, "v": read_value(v, dtype)} for n, v in enumerate(values)]
        check_same_rows(run(engine, rel), expected)

    def test_nan_reads_as_null_and_minus_zero_as_zero(self, engine: Engine, tmp_path: Path) -> None:
        doubles = parse("list<float64>")
        rel = table(
            tmp_path,
            n=(INT64, [1, 2]),
            f=(FLOAT64, [float("nan"), -0.0]),
            g=(FLOAT32, [float("nan"), -0.0]),
            h=(doubles, [[float("nan")], [-0.0]]),
        )
        first, second = sorted(run(engine, rel), key=lambda row: int(row["n"]))
        assert first == {"n": 1, "f": None, "g": None, "h": [None]}
        zeros = [second["f"], second["g"], *second["h"]]
        assert [math.copysign(1.0, zero) for zero in zeros] == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    def test_timestamps_of_every_unit_and_zone_read_the_same(
        self, engine: Engine, tmp_path: Path, unit: str, zone: str | None
    ) -> None:
        old = zone is None or unit != "ns"
        instants = [i for i in INSTANTS if i >= 0 or old]
        values = [*(i + (0 if unit == "s" else 123_000) for i in instants), None]
        array = to_array(values, TIMESTAMP, unit=unit, zone=zone)
        path = write_parquet(tmp_path / "t.parquet", {"at": array})
        rel = scan(parquet_files([path], {"at": TIMESTAMP}))
        assert column(engine, rel, "at") == values

    def test_zoned_nanoseconds_before_1970(self, engine: Engine, tmp_path: Path) -> None:
        array = to_array([-1_234_567, -1, 0], TIMESTAMP, unit="ns", zone="America/New_York")
        path = write_parquet(tmp_path / "t.parquet", {"at": array})
        rel = scan(parquet_files([path], {"at": TIMESTAMP}))
        assert column(engine, rel, "at") == [-1_234_567, -1, 0]

    def test_nanoseconds_are_floored_also_before_1970(self, engine: Engine, tmp_path: Path) -> None:
        import pyarrow as pa

        nanoseconds = [-1_001, -1_000, -999, -1, 0, 1, 999, 1_000]
        array = pa.array(nanoseconds, pa.timestamp("ns"))
        path = write_parquet(tmp_path / "t.parquet", {"at": array})
        rel = scan(parquet_files([path], {"at": TIMESTAMP}))
        assert column(engine, rel, "at") == [-2, -1, -1, -1, 0, 0, 0, 1]

    def test_files_of_one_source_may_differ_in_units(self, engine: Engine, tmp_path: Path) -> None:
        paths = [
            write_parquet(
                tmp_path / f"{unit}{number}.parquet",
                {"at": to_array([number * DAY_US], TIMESTAMP, unit=unit, zone=zone)},
            )
            for number, (unit, zone) in enumerate(
                [("ms", None), ("us", "UTC"), ("ns", None), ("s", "America/New_York")]
            )
        ]
        rel = scan(parquet_files(paths, {"at": TIMESTAMP}))
        assert column(engine, rel, "at") == [0, DAY_US, 2 * DAY_US, 3 * DAY_US]

    # --- files ------------------------------------------------------------------------------------

    def test_files_are_read_union_by_name(self, engine: Engine, tmp_path: Path) -> None:
        first = table(tmp_path, "first", a=(INT32, [1, None]), f=(FLOAT32, [0.5, 0.5]))
        second = table(tmp_path, "second", f=(FLOAT64, [0.1]), s=(STRING, ["x"]), a=(INT64, [BIG]))
        paths = [Path(path) for rel in (first, second) for path in rel.files.paths]
        rel = scan(parquet_files(paths, {"a": INT64, "f": FLOAT64, "s": STRING}))
        check_same_rows(
            run(engine, rel),
            [
                {"a": 1, "f": 0.5, "s": None},
                {"a": None, "f": 0.5, "s": None},
                {"a": BIG, "f": 0.1, "s": "x"},
            ],
        )
        backwards = scan(parquet_files(paths[::-1], {"a": INT64, "f": FLOAT64, "s": STRING}))
        check_same_rows(run(engine, backwards), run(engine, rel))

    def test_lists_widen_too(self, engine: Engine, tmp_path: Path) -> None:
        ints, bigs = parse("list<int32>"), parse("list<int64>")
        first = table(tmp_path, "first", v=(ints, [[1, None], None]))
        second = table(tmp_path, "second", v=(bigs, [[BIG]]))
        rel = scan(parquet_files([Path(r.files.paths[0]) for r in (first, second)], {"v": bigs}))
        check_same_rows(run(engine, rel), [{"v": [1, None]}, {"v": None}, {"v": [BIG]}])

    def test_a_scan_names_and_types_its_columns(self, engine: Engine, tmp_path: Path) -> None:
        files = table(tmp_path, a=(INT32, [1]), b=(STRING, ["x"]), c=(INT64, [2])).files
        rel = Scan(
            source="s",
            files=files,
            columns={"select": "b", "größe": "a", "rn": "a"},
            dtypes={"select": STRING, "größe": INT64, "rn": FLOAT64},
        )
        assert run(engine, rel) == [{"select": "x", "größe": 1, "rn": 1.0}]

    def test_of_the_push_log_only_what_counts(self, engine: Engine, tmp_path: Path) -> None:
        own = table(tmp_path, "own", v=(INT64, [1])).files
        commits = [10, 11, 20, 21, 30, 31]
        log = [
            str(
                write_parquet(
                    tmp_path / f"log{number}.parquet",
                    {
                        "v": to_array([number * 100 + one for one in commits], INT64),
                        COMMITTED: to_array(commits, INT64),
                    },
                )
            )
            for number in range(1, 4)
        ]
        counted = {log[0]: ((0, 10), (20, 30)), log[2]: ((30, 40),)}
        files = replace(own, pushed=tuple(log), counted=counted)
        check_same_rows(
            run(engine, scan(files)),
            [{"v": v} for v in (1, 110, 121, 130, *(200 + one for one in commits), 331)],
        )

    def test_columns_may_have_any_name(self, engine: Engine, tmp_path: Path) -> None:
        names = ["rn", "row_id", "select", "order", "größe", "a b", 'quo"te', "it's", "x;y", "?"]
        columns = {name: (INT64, [number]) for number, name in enumerate(names)}
        assert run(engine, table(tmp_path, "rows", **columns)) == [
            {name: number for number, name in enumerate(names)}
        ]

    def test_paths_may_have_any_name(self, engine: Engine, tmp_path: Path) -> None:
        for name in ("it's", "a b", "stern*", "[abc]", "größe", "x=1", "what?"):
            assert run(engine, table(tmp_path, name, v=(INT64, [1]))) == [{"v": 1}]

    def test_partition_values_are_columns(self, engine: Engine, tmp_path: Path) -> None:
        partitions = ({"day": "2013-03-10", "n": "01"}, {"day": None, "n": "-2"})
        paths = []
        for number, folder in enumerate(("day=2013-03-10", "day=__HIVE_DEFAULT_PARTITION__")):
            (tmp_path / folder).mkdir()
            paths.append(
                write_parquet(tmp_path / folder / "part.parquet", {"v": to_array([number], INT64)})
            )
        files = DataFiles(
            format="parquet",
            paths=tuple(map(str, paths)),
            schema={"v": INT64, "day": DATE, "n": INT64},
            partitions=partitions,
        )
        check_same_rows(
            run(engine, scan(files)),
            [{"v": 0, "day": date(2013, 3, 10), "n": 1}, {"v": 1, "day": None, "n": -2}],
        )

    def test_fields_of_csv_files_are_read_exactly(self, engine: Engine, tmp_path: Path) -> None:
        """Texts become values of the scan's types; files may order their columns differently."""
        one, two = tmp_path / "one.csv", tmp_path / "two.csv"
        one.write_text(
            "id;at;price;name\n"
            f'{BIG};2013-03-10 02:30:00;1.10;"a;b"\n'
            "NA;2013-03-10T02:30:00-05:00;NA;größe\n"
        )
        two.write_text('name;id\n"say ""hi""";-1\n')
        dtypes = {"id": INT64, "at": TIMESTAMP, "price": parse("decimal(12,2)"), "name": STRING}
        files = csv_files([one, two], dtypes, [["id", "at", "price", "name"], ["name", "id"]])
        check_same_rows(
            run(engine, scan(files)),
            [
                row(dtypes, BIG, to_us("2013-03-10T02:30:00Z"), Decimal("1.10"), "a;b"),
                row(dtypes, None, to_us("2013-03-10T07:30:00Z"), None, "größe"),
                row(dtypes, -1, None, None, 'say "hi"'),
            ],
        )

    @pytest.mark.parametrize(
        ("text", "dtype"), [("1.7", INT64), ("3000000000", INT32), ("soon", TIMESTAMP)], ids=str
    )
    def test_a_csv_field_that_does_not_fit(
        self, engine: Engine, tmp_path: Path, text: str, dtype: DType
    ) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(f"culprit\n{text}\n")
        with pytest.raises(InvalidValue, match="culprit"):
            run(engine, scan(csv_files([path], {"culprit": dtype}, [["culprit"]])))

    def test_no_rows(self, engine: Engine, tmp_path: Path) -> None:
        nothing: dict[str, tuple[DType, list[Value]]] = {n: (d, []) for n, (d, _) in TYPED.items()}
        rel = table(tmp_path, "rows", **nothing)
        assert run(engine, rel) == []

    def test_a_file_that_was_rewritten_is_read_anew(self, engine: Engine, tmp_path: Path) -> None:
        """Also at once, with the same size."""
        for number in range(10):
            name = "ab"[number % 2]
            assert run(engine, table(tmp_path, "rows", **{name: (INT64, [number])})) == [
                {name: number}
            ]

    def test_a_missing_file(self, engine: Engine, tmp_path: Path) -> None:
        rel = scan(parquet_files([tmp_path / "gone.parquet"], {"v": INT64}))
        with pytest.raises(SourceMissing, match="cases"):
            run(engine, rel)

    def test_a_file_that_is_none(self, engine: Engine, tmp_path: Path) -> None:
        path = tmp_path / "text.parquet"
        path.write_text("not Parquet at all")
        with pytest.raises(SourceMissing, match="cases"):
            run(engine, scan(parquet_files([path], {"v": INT64})))

    def test_a_column_that_is_gone(self, engine: Engine, tmp_path: Path) -> None:
        files = table(tmp_path, v=(INT64, [1])).files
        gone = DataFiles(format="parquet", paths=files.paths, schema={"v": INT64, "w": INT64})
        with pytest.raises(SourceSchemaChanged, match="w"):
            run(engine, scan(gone))

    @pytest.mark.parametrize(
        ("have", "value", "want"),
        [
            (FLOAT64, 1.7, INT64),
            (FLOAT64, 1e300, INT64),
            (INT64, 3_000_000_000, INT32),
            (STRING, "x", INT64),
        ],
        ids=str,
    )
    def test_a_cast_that_loses_something_is_an_error(
        self, engine: Engine, tmp_path: Path, have: DType, value: Value, want: DType
    ) -> None:
        """The error names the column."""
        files = table(tmp_path, n=(INT64, [1, 2]), culprit=(have, [None, value])).files
        rel = scan(files, {"n": INT64, "culprit": want})
        with pytest.raises((InvalidValue, SourceSchemaChanged), match="culprit"):
            run(engine, rel)

    def test_a_cast_that_loses_nothing(self, engine: Engine, tmp_path: Path) -> None:
        files = table(tmp_path, v=(FLOAT64, [float(2**53), -3.0, float("nan")])).files
        rel = scan(files, {"v": INT64})
        assert column(engine, rel, "v") == [-3, 2**53, None]

    # --- one answer, however it is computed -------------------------------------------------------

    @pytest.mark.parametrize("batch_rows", [1, 7, 1_000, 100_000])
    def test_batches_are_no_larger_than_asked(
        self, engine: Engine, tmp_path: Path, batch_rows: int
    ) -> None:
        rows = table(tmp_path, v=(INT64, range(3_000)))
        assert column(engine, rows, "v") == list(range(3_000))
        found = run(engine, rows, batch_rows=batch_rows)
        assert sorted(row["v"] for row in found) == list(range(3_000))

    def test_streams_may_be_read_side_by_side(self, engine: Engine, tmp_path: Path) -> None:
        rows = table(tmp_path, v=(INT64, range(1_000)))
        readers = [engine.stream(rows, batch_rows=100) for _ in range(3)]
        counts = [0, 0, 0]
        for _ in range(10):
            for number, reader in enumerate(readers):
                counts[number] += reader.read_next_batch().num_rows
        assert counts == [1_000] * 3
        assert run(engine, Limit(input=rows, rows=1))

    def test_a_stream_may_be_left_unread(self, engine: Engine, tmp_path: Path) -> None:
        rows = table(tmp_path, v=(INT64, range(1_000)))
        unread = engine.stream(rows, batch_rows=10)
        unread.read_next_batch()
        assert len(run(engine, rows)) == 1_000
        unread.close()
        assert len(run(engine, rows)) == 1_000

    def test_threads_share_an_engine(self, engine: Engine, tmp_path: Path) -> None:
        rows = table(tmp_path, v=(INT64, range(2_000)))
        counts: list[int] = []

        def read() -> None:
            counts.extend(len(run(engine, rows, batch_rows=100)) for _ in range(5))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [2_000] * 20

    def test_explain_is_for_people(self, engine: Engine, tmp_path: Path) -> None:
        text = engine.explain(table(tmp_path, v=(INT64, [1])))
        assert "rows.parquet" in text
        assert len(text.splitlines()) > 1

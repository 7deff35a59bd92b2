"""What every engine must answer about windows: `WindowJoin`, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featurestore.aggregates import BUCKETS_PER_KEY_MAX, checked_parameters, output_dtype
from featurestore.compiler.rel import (
    AsOfJoin,
    Input,
    Project,
    WindowChanges,
    WindowFunction,
    WindowJoin,
)
from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING, TIMESTAMP, DType, map_of, parse
from featurestore.engines.base import Engine
from featurestore.statuses import Status
from featurestore.testing.compare import run
from featurestore.testing.data import GRIDS_US, seeded, to_array
from featurestore.testing.engine_joins import source
from featurestore.testing.oracle import RowShape, Value
from featurestore.testing.window_data import compare_changes, compare_windows, make_window_case

PRESENT, NOT_FOUND = Status.PRESENT, Status.NOT_FOUND
WINDOW_SEEDS = range(60)
HOT_ROWS, HOT_REQUESTS = 100_000, 10_000

COLUMNS: Mapping[str, DType] = {
    "plane": STRING,
    "at": TIMESTAMP,
    "known": TIMESTAMP,
    "flight": INT64,
    "op": STRING,
    "v": INT64,
    "flag": BOOL,
}
Landing = tuple[int | None, int | None, int | None]
"""Event time, created time, value."""


def history(
    folder: Path,
    *rows: Sequence[Value],
    plane: str | None = "p",
    dtype: DType = INT64,
    op: str | None = None,
) -> Any:
    """Rows `(at, known, v)`, `(at, known, v, flight)` or `(at, known, v, flight, op)` of one plane,
    in µs; with a `flag` that is true for positive values."""
    dtypes = {**COLUMNS, "v": dtype}
    made = []
    for event, created, value, *rest in rows:
        flight, kind = (*rest, None, None)[:2]
        flag = None if value is None or isinstance(value, str) else value > 0
        made.append((plane, event, created, flight, kind, value, flag))
    shape = RowShape(keys=("plane",), event_time="at", created_time="known", op=op, tiebreak=("v",))
    return source(folder, dtypes, made, shape)


def over(
    function: str,
    window_us: int | None,
    *,
    dtype: DType = INT64,
    rows: bool = False,
    condition: str | None = None,
    delay_us: int = 0,
    hop_us: int = 0,
    **parameters: float,
) -> WindowFunction:
    """A function over `v`, or over rows."""
    argument = None if rows else dtype
    return WindowFunction(
        dtype=output_dtype(function, argument),
        function=function,
        value=None if rows else "v",
        argument=argument,
        condition=condition,
        window_us=window_us,
        delay_us=delay_us,
        hop_us=hop_us,
        parameters=checked_parameters(function, parameters),
    )


def into(bucket: str, function: WindowFunction) -> WindowFunction:
    """The function in each bucket of a column."""
    return replace(function, bucket=bucket, dtype=map_of(COLUMNS[bucket], function.dtype))


def windows(right: Any, *functions: WindowFunction, **options: Any) -> WindowJoin:
    """The functions as `f0`, `f1`, … at times `t`, by `plane`."""
    spans = [f.window_us for f in functions]
    longest = max((f.window_us or 0) + f.delay_us + f.hop_us for f in functions)
    defaults: dict[str, Any] = {
        "as_of": "known",
        "known_until_us": None,
        "event_id": None,
        "correction_horizon_us": 0,
        "reach_us": None if None in spans else longest,
    }
    return WindowJoin(
        left=Input(name="left", dtypes={"n": INT64, "t": INT64, "plane": STRING}),
        right=right,
        keys={"plane": "plane"},
        left_time="t",
        functions={f"f{n}": function for n, function in enumerate(functions)},
        status="status",
        **(defaults | options),
    )


def instants(
    engine: Engine,
    rel: WindowJoin,
    start_us: int | None = None,
    end_us: int | None = None,
    *,
    with_status: bool = False,
) -> list[int]:
    """When the answers of a relation change, of one plane."""
    changes = WindowChanges(
        right=rel.right,
        keys=rel.keys,
        functions=rel.functions,
        at="t",
        start_us=start_us,
        end_us=end_us,
        with_status=with_status,
        as_of=rel.as_of,
        known_until_us=rel.known_until_us,
        event_id=rel.event_id,
        correction_horizon_us=rel.correction_horizon_us,
        reach_us=rel.reach_us,
    )
    found = run(engine, changes)
    assert all(row["plane"] == "p" for row in found)
    at = [row["t"] for row in found]
    assert all(isinstance(one, int) for one in at)
    return sorted(one for one in at if isinstance(one, int))


def ask(
    engine: Engine, rel: WindowJoin, *times: int, plane: str | None = "p"
) -> list[tuple[Value, ...]]:
    """For each time the values, then the status."""
    found = rows_of(engine, rel, times, plane)
    names = [*rel.functions]
    return [(*(row[name] for name in names), Status(row["status"])) for row in found]


def rows_of(
    engine: Engine, rel: Any, times: Sequence[int], plane: str | None
) -> list[dict[str, Value]]:
    """The rows of a relation over such a left side, in its order."""
    import pyarrow as pa

    left = {
        "n": to_array(list(range(len(times))), INT64),
        "t": to_array(list(times), INT64),
        "plane": to_array([plane] * len(times), STRING),
    }
    found = run(engine, rel, inputs={"left": pa.table(left)})
    assert [row["n"] for row in found] == list(range(len(times)))
    return found


class WindowsContract:
    """Rules of "Windows". Subclasses give the fixture `engine`."""

    def test_closed_left_and_open_right(self, engine: Engine, tmp_path: Path) -> None:
        rel = windows(history(tmp_path, (100, None, 1)), over("count", 10))
        assert ask(engine, rel, 99, 100, 101, 110, 111) == [
            (0, NOT_FOUND),
            (0, PRESENT),
            (1, PRESENT),
            (1, PRESENT),
            (0, NOT_FOUND),
        ]

    def test_into_buckets(self, engine: Engine, tmp_path: Path) -> None:
        """In ascending order; a row without a value or a bucket is in none, and none are `{}`."""
        rows = [(10, 10, 5), (20, 60, -5), (30, 30, 7), (40, 40, None), (41, 41, 8), (55, 55, 5)]
        counts = into("flag", over("count", 50))
        sums = into("flag", over("sum", 20))
        rel = windows(history(tmp_path, *rows), counts, sums)
        assert ask(engine, rel, 10, 11, 50, 60, 61, 100, 200) == [
            ({}, {}, PRESENT),
            ({True: 1}, {True: 5}, PRESENT),
            ({True: 3}, {True: 15}, PRESENT),
            ({False: 1, True: 4}, {True: 13}, PRESENT),
            ({False: 1, True: 3}, {True: 13}, PRESENT),
            ({True: 1}, {}, PRESENT),
            ({}, {}, NOT_FOUND),
        ]
        found = ask(engine, windows(history(tmp_path, *rows), into("v", over("mean", 50))), 50)
        assert found == [({5: 5.0, 7: 7.0, 8: 8.0}, PRESENT)]
        assert ask(engine, rel, 50, plane=None) == [({}, {}, NOT_FOUND)]

    def test_too_many_buckets_are_null(self, engine: Engine, tmp_path: Path) -> None:
        rows = [(n, n, n) for n in range(BUCKETS_PER_KEY_MAX + 1)]
        rel = windows(history(tmp_path, *rows), into("v", over("count", 2_000)))
        (full, _), (crowded, status) = ask(engine, rel, len(rows) - 1, len(rows))
        assert full == dict.fromkeys(range(BUCKETS_PER_KEY_MAX), 1)
        assert (crowded, status) == (None, PRESENT)

    def test_a_window_has_two_times(self, engine: Engine, tmp_path: Path) -> None:
        """Neither a frame over event times nor one over known times gives 2 at 30."""
        rel = windows(history(tmp_path, (0, 0, 1), (10, 40, 1), (20, 25, 1)), over("count", 60))
        assert [found for found, _ in ask(engine, rel, 10, 24, 25, 30, 39, 40, 61)] == [
            1, 1, 2, 2, 2, 3, 2,
        ]  # fmt: skip
        by_event = replace(rel, as_of="event")
        assert [found for found, _ in ask(engine, by_event, 10, 11, 24, 30)] == [1, 2, 3, 3]
        until = replace(rel, as_of="event", known_until_us=25)
        assert [found for found, _ in ask(engine, until, 24, 60)] == [2, 2]

    def test_delay(self, engine: Engine, tmp_path: Path) -> None:
        rel = windows(history(tmp_path, (100, None, 1)), over("count", 10, delay_us=5))
        assert [found for found, _ in ask(engine, rel, 105, 106, 115, 116)] == [0, 1, 1, 0]

    def test_the_left_end_stands_on_a_hop(self, engine: Engine, tmp_path: Path) -> None:
        """At T = 13 the window of 10 begins at floor(3, 5) = 0, before 1970 as after."""
        rel = windows(
            history(tmp_path, (-7, None, 1), (-5, None, 1), (0, None, 1)),
            over("count", 10, hop_us=5),
            over("count", 10),
        )
        assert ask(engine, rel, 9, 10, 13, 14, 15, -2, 3, 4, 5) == [
            (2, 1, PRESENT),
            (1, 1, PRESENT),
            (1, 0, PRESENT),
            (1, 0, PRESENT),
            (0, 0, PRESENT),
            (2, 2, PRESENT),
            (3, 3, PRESENT),
            (3, 2, PRESENT),
            (2, 2, PRESENT),
        ]

    def test_an_empty_window(self, engine: Engine, tmp_path: Path) -> None:
        names = ["count", "count_distinct", "approx_count_distinct", "sum", "min", "var", "last"]
        functions = [over(name, 10) for name in names]
        functions += [over("last_n", 10, n=2), over("top_k", 10, n=2)]
        functions.append(over("approx_quantile", 10, q=0.5))
        rel = windows(history(tmp_path, (0, None, None)), *functions)
        values = (0, 0, 0, None, None, None, None, None, None, None)
        assert ask(engine, rel, 5, 100) == [(*values, PRESENT), (*values, NOT_FOUND)]
        assert ask(engine, rel, 5, plane=None) == [(*values, NOT_FOUND)]
        assert ask(engine, rel, 5, plane="q") == [(*values, NOT_FOUND)]

    def test_all_functions(self, engine: Engine, tmp_path: Path) -> None:
        right = history(tmp_path, *((n, None, v) for n, v in enumerate([5, -3, None, 5, 2])))
        rel = windows(
            right,
            over("count", None, rows=True),
            over("count", None),
            over("sum", None),
            over("mean", None),
            over("min", None),
            over("max", None),
            over("var", None),
            over("first", None),
            over("last", None),
            over("first_n", None, n=2),
            over("last_n", None, n=2),
            over("count_distinct", None),
            over("top_k", None, n=2),
            over("sum", None, condition="flag"),
            over("count", None, rows=True, condition="flag"),
        )
        (found,) = ask(engine, rel, 99)
        assert found == (
            5, 4, 9, 2.25, -3, 5, 10.6875, 5, 2, [5, -3], [5, 2], 3, [5, -3], 12, 3, PRESENT,
        )  # fmt: skip

    def test_ties_are_ordered_by_value_or_by_event_id(self, engine: Engine, tmp_path: Path) -> None:
        right = history(tmp_path, (5, None, 3, 1), (5, None, 1, 2), (5, None, 2, 3))
        functions = (over("first", 10), over("last", 10), over("last_n", 10, n=2))
        assert ask(engine, windows(right, *functions), 6) == [(1, 3, [2, 3], PRESENT)]
        by_id = windows(right, *functions, event_id="flight")
        assert ask(engine, by_id, 6) == [(3, 2, [1, 2], PRESENT)]

    def test_a_second_row_of_an_event_replaces_the_first(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        right = history(tmp_path, (0, 0, 1, 7), (5, 20, 2, 7), (1, 30, 4, 7, "D"), op="op")
        rel = windows(right, over("sum", 100), event_id="flight", correction_horizon_us=20)
        assert ask(engine, rel, 1, 19, 20, 29, 30) == [
            (1, PRESENT),
            (1, PRESENT),
            (2, PRESENT),
            (2, PRESENT),
            (None, NOT_FOUND),
        ]
        by_event = replace(rel, as_of="event")
        assert ask(engine, by_event, 10) == [(None, NOT_FOUND)]
        assert ask(engine, replace(by_event, known_until_us=29), 10) == [(2, PRESENT)]

    def test_a_correction_beyond_the_horizon_is_dropped(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        """The second comes in time after the first, the third not after the second."""
        right = history(tmp_path, (0, 0, 1, 7), (0, 10, 2, 7), (0, 21, 4, 7), (0, 22, 8, 7))
        rel = windows(right, over("sum", 100), event_id="flight", correction_horizon_us=10)
        assert [found for found, _ in ask(engine, rel, 5, 10, 99)] == [1, 2, 2]

    def test_repetitions_beyond_the_horizon_are_dropped(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        """Many rows that are the same in everything, of many events."""
        late = [(5, 90, 2, flight) for flight in range(40) for _ in range(9)]
        right = history(tmp_path, *((0, 0, 1, flight) for flight in range(40)), *late)
        rel = windows(
            right, over("sum", 200), event_id="flight", correction_horizon_us=10, as_of="event"
        )
        assert ask(engine, rel, 100) == [(40, PRESENT)]
        assert ask(engine, replace(rel, as_of="known"), 100) == [(40, PRESENT)]

    def test_a_tombstone_replaces_a_row_of_equal_times(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        right = history(tmp_path, (0, 0, 1, 7, "D"), (0, 0, 9, 7), (0, 0, 5, 8), op="op")
        rel = windows(right, over("sum", 100), event_id="flight")
        assert ask(engine, rel, 5) == [(5, PRESENT)]

    def test_the_oldest_row_that_counts(self, engine: Engine, tmp_path: Path) -> None:
        right = history(tmp_path, (90, None, 1), (89, None, 2))
        assert ask(engine, windows(right, over("sum", 10)), 100) == [(1, PRESENT)]
        assert ask(engine, windows(right, over("sum", 10)), 101) == [(None, NOT_FOUND)]
        rel = windows(right, over("sum", 10, delay_us=3, hop_us=2), over("count", 4))
        assert ask(engine, rel, 104) == [(1, 0, PRESENT)]
        assert ask(engine, rel, 105) == [(None, 0, PRESENT)]
        assert ask(engine, rel, 106) == [(None, 0, NOT_FOUND)]

    def test_a_row_without_an_id_counts_for_nothing(self, engine: Engine, tmp_path: Path) -> None:
        right = history(tmp_path, (0, 0, 1, None), (0, 0, 2, 7))
        rel = windows(right, over("sum", 100), event_id="flight")
        assert ask(engine, rel, 5) == [(2, PRESENT)]

    def test_sums_that_do_not_fit_are_null(self, engine: Engine, tmp_path: Path) -> None:
        most = 2**63 - 1
        right = history(tmp_path, (0, None, most), (1, None, 1), (2, None, -1))
        rel = windows(right, over("sum", 100), over("mean", 100))
        assert [found[:2] for found in ask(engine, rel, 1, 2, 3)] == [
            (most, 2.0**63),
            (None, 2.0**62),
            (most, 2.0**63 / 3),
        ]

    def test_decimals_are_exact(self, engine: Engine, tmp_path: Path) -> None:
        from decimal import Decimal

        kind = parse("decimal(38,2)")
        most, least = Decimal("9" * 36 + ".99"), Decimal("-" + "9" * 36 + ".99")
        right = history(
            tmp_path, (0, None, most), (1, None, Decimal("0.01")), (2, None, least), dtype=kind
        )
        rel = windows(
            right,
            over("sum", 100, dtype=kind),
            over("min", 100, dtype=kind),
            over("sum", 2, dtype=kind),
        )
        assert [found[:3] for found in ask(engine, rel, 1, 2, 3)] == [
            (most, most, most),
            (None, Decimal("0.01"), None),
            (Decimal("0.01"), least, Decimal("-" + "9" * 36 + ".98")),
        ]

    def test_floats_are_never_taken_off(self, engine: Engine, tmp_path: Path) -> None:
        right = history(tmp_path, (0, None, 1e300), (5, None, 1e-300), dtype=FLOAT64)
        rel = windows(right, over("sum", 4, dtype=FLOAT64), over("var", 4, dtype=FLOAT64))
        assert [found[:2] for found in ask(engine, rel, 1, 6)] == [(1e300, 0.0), (1e-300, 0.0)]

    def test_beside_other_joins(self, engine: Engine, tmp_path: Path) -> None:
        """Views of both kinds in one relation, the order of rows kept."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        right = history(tmp_path / "a", (0, None, 1), (5, None, 2))
        first = windows(right, over("count", 10))
        newest = AsOfJoin(
            left=first,
            right=history(tmp_path / "b", (3, None, 8)),
            keys={"plane": "plane"},
            left_time="t",
            columns={"newest": "v"},
            status="other",
            as_of="known",
            known_until_us=None,
            ttl_us=None,
            grace_us=None,
        )
        second = replace(first, left=newest, functions={"g": over("sum", 10)}, status="third")
        rel = Project(input=second, columns={name: name for name in ("n", "g", "newest", "f0")})
        found = rows_of(engine, rel, [6, 1, 20, 6], "p")
        assert [(row["f0"], row["newest"], row["g"]) for row in found] == [
            (2, 8, 3),
            (1, None, 1),
            (0, 8, None),
            (2, 8, 3),
        ]

    def test_no_requests_and_no_rows(self, engine: Engine, tmp_path: Path) -> None:
        rel = windows(history(tmp_path, (0, None, 1)), over("count", 10))
        assert ask(engine, rel) == []
        (tmp_path / "none").mkdir()
        rel = windows(history(tmp_path / "none"), over("count", 10), over("sum", 10))
        assert ask(engine, rel, 3) == [(0, None, NOT_FOUND)]

    def test_when_windows_change(self, engine: Engine, tmp_path: Path) -> None:
        """A row is in after its event time and the delay, and once it is known; it leaves when the
        left end comes to its hop."""
        right = history(tmp_path, (-3, None, 1), (12, 30, 2), (14, None, None))
        exact = windows(right, over("count", 10))
        assert instants(engine, exact) == [-2, 8], "the second was never in, the third is NULL"
        assert instants(engine, exact, 8, 8 + 1) == [8]
        assert instants(engine, exact, -1, 8) == []
        rows = windows(right, over("count", 10, rows=True))
        assert instants(engine, rows) == [-2, 8, 15, 25]
        assert instants(engine, replace(rows, as_of="event")) == [-2, 8, 13, 15, 23, 25]
        hops = windows(right, over("count", 20, delay_us=3, hop_us=5), over("sum", None))
        assert instants(engine, hops) == [-2, 1, 23, 30, 38]
        flagged = windows(right, over("count", 10, rows=True, condition="flag"))
        assert instants(engine, flagged) == [-2, 8], "NULL is not true"
        assert instants(engine, windows(right, into("v", over("count", 10, rows=True)))) == [-2, 8]

    def test_when_a_replaced_row_changes_windows(self, engine: Engine, tmp_path: Path) -> None:
        right = history(
            tmp_path, (0, 0, 1, 7), (5, 20, 2, 7), (5, 20, 2, 7), (1, 30, 4, 7, "D"), op="op"
        )
        rel = windows(right, over("sum", 100), event_id="flight", correction_horizon_us=20)
        assert instants(engine, rel) == [1, 20, 30]
        assert instants(engine, replace(rel, known_until_us=29)) == [1, 20, 106]
        assert instants(engine, replace(rel, correction_horizon_us=19)) == [1, 101]
        assert instants(engine, replace(rel, as_of="event")) == []

    def test_when_the_status_changes(self, engine: Engine, tmp_path: Path) -> None:
        """With its first row, and when the newest is too old: not by those between, nor where one
        comes in the very instant at which the last goes."""
        right = history(tmp_path, (0, None, 1), (4, None, 1), (15, 40, 1), (50, None, 1))
        rel = windows(right, over("count", 10))
        assert instants(engine, rel, with_status=True) == [0, 1, 5, 11, 15, 50, 51, 61]
        (tmp_path / "other").mkdir()
        beside = history(tmp_path / "other", (0, None, 1), (16, None, 1))
        rel = windows(beside, over("count", 10, hop_us=5))
        assert instants(engine, rel, with_status=True) == [0, 1, 15, 17, 30, 32]
        lifetime = windows(right, over("count", None))
        assert instants(engine, lifetime, 1, with_status=True) == [1, 5, 40, 51]

    @pytest.mark.parametrize("part", range(4))
    def test_changes_agree_with_the_oracle(self, engine: Engine, tmp_path: Path, part: int) -> None:
        for seed in WINDOW_SEEDS[part::4]:
            folder = tmp_path / str(seed)
            folder.mkdir()
            choose = seeded(seed)
            case = make_window_case(choose, grid_us=GRIDS_US[seed % len(GRIDS_US)])
            compare_changes(engine, case, folder, choose)

    @pytest.mark.parametrize("part", range(4))
    def test_windows_agree_with_the_oracle(self, engine: Engine, tmp_path: Path, part: int) -> None:
        for seed in WINDOW_SEEDS[part::4]:
            folder = tmp_path / str(seed)
            folder.mkdir()
            grid = GRIDS_US[seed % len(GRIDS_US)]
            compare_windows(engine, make_window_case(seeded(seed), grid_us=grid), folder)

    def test_many_late_rows_agree_with_the_oracle(self, engine: Engine, tmp_path: Path) -> None:
        """Cases with more rows, most of them known late."""
        for seed in range(4):
            folder = tmp_path / str(seed)
            folder.mkdir()
            case = make_window_case(seeded(seed), rows_max=150, requests_max=60, created=True)
            compare_windows(engine, case, folder, batch_rows=7)

    @pytest.mark.slow
    @pytest.mark.parametrize("late", [False, True])
    def test_windows_of_a_hot_key(self, engine: Engine, tmp_path: Path, late: bool) -> None:
        """Event n happens at 10 n and is known at once, or each third one 7,000 later, and 10,000
        requests ask for windows of 5,000 and of 200,000."""
        delays = [7_000 if late and n % 3 == 0 else 0 for n in range(HOT_ROWS)]
        right = history(tmp_path, *((10 * n, 10 * n + d, n) for n, d in enumerate(delays)))
        rel = windows(right, over("count", 5_000), over("max", 5_000), over("sum", 200_000))
        times = [97 * n for n in range(HOT_REQUESTS)]
        for at, (count, greatest, total, _) in zip(times, ask(engine, rel, *times), strict=True):
            first, end = (max(0, -(-(at - w) // 10)) for w in (5_000, 0))
            known = [n for n in range(first, end) if 10 * n + delays[n] <= at]
            assert (count, greatest) == (len(known), max(known, default=None))
            first = max(0, -(-(at - 200_000) // 10))
            whole = (end * (end - 1) - first * (first - 1)) // 2
            if late:
                # Those that are not known yet: every third from the last 7,000.
                newest = max(first, -(-(at - 6_999) // 10))
                whole -= sum(n for n in range(newest, end) if n % 3 == 0)
            assert (total or 0) == whole

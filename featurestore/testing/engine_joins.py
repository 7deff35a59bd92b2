"""What every engine must answer about times: `Stamped`, `Latest` and `AsOfJoin`, case by case."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from featurestore.compiler.rel import (
    AsOfJoin,
    Input,
    Stamped,
)
from featurestore.dtypes import BYTES, DATE, FLOAT64, INT64, STRING, TIMESTAMP, DType, parse
from featurestore.engines.base import Engine
from featurestore.statuses import Status
from featurestore.testing.compare import compare_as_of, compare_latest, run, scan, stamped
from featurestore.testing.data import (
    make_case,
    parquet_files,
    seeded,
    to_array,
    write_parquet,
)
from featurestore.testing.oracle import RowShape, Value
from featurestore.timeline import DAY_US, HOUR_US, to_us

NOON = to_us("2013-07-01T12:00:00Z")
PRESENT, NOT_FOUND = Status.PRESENT, Status.NOT_FOUND
OUTSIDE_MAX_AGE = Status.OUTSIDE_MAX_AGE
LIST = parse("list<int64>")
AS_OF_SEEDS = range(120)
PARTS = 8

# The source of most cases: (airport, observed, published, temp), times in hours from noon.
AIRPORTS: Mapping[str, DType] = {
    "airport": STRING,
    "observed_at": TIMESTAMP,
    "published_at": TIMESTAMP,
    "temp": FLOAT64,
}
AIRPORT_SHAPE = RowShape(
    keys=("airport",),
    event_time="observed_at",
    created_time="published_at",
    tiebreak=tuple(sorted(AIRPORTS)),
)
Observation = tuple[str | None, float | None, float | None, float | None]


def hours(count: float | None) -> int | None:
    """So many hours from noon, in µs."""
    return None if count is None else NOON + round(count * HOUR_US)


def source(
    folder: Path, dtypes: Mapping[str, DType], rows: Sequence[Sequence[Value]], shape: RowShape
) -> Stamped:
    """Rows (one value per column of `dtypes`) in a Parquet file, with their times settled."""
    values = {name: [row[i] for row in rows] for i, name in enumerate(dtypes)}
    path = write_parquet(
        folder / "source.parquet",
        {name: to_array(values[name], dtype) for name, dtype in dtypes.items()},
    )
    return stamped(scan(parquet_files([path], dtypes)), shape)


def weather(folder: Path, *rows: Observation) -> Stamped:
    """Observations of airports."""
    timed = [(key, hours(event), hours(created), temp) for key, event, created, temp in rows]
    return source(folder, AIRPORTS, timed, AIRPORT_SHAPE)


def join(right: Stamped, *, feature: str = "temp", **options: Any) -> AsOfJoin:
    """`feature` as of column `t`, found by the right side's keys under their own names."""
    dtypes = right.schema
    left = {"n": INT64, "t": INT64} | {key: dtypes[key] for key in right.keys}
    defaults: dict[str, Any] = {
        "as_of": "known",
        "known_until_us": None,
        "ttl_us": None,
        "grace_us": None,
    }
    return AsOfJoin(
        left=Input(name="left", dtypes=left),
        right=right,
        keys={key: key for key in right.keys},
        left_time="t",
        columns={"answer": feature},
        status="status",
        **(defaults | options),
    )


def ask(engine: Engine, rel: AsOfJoin, *requests: tuple[Value, ...]) -> list[tuple[Status, Value]]:
    """The statuses and answers to requests `(T in µs, *key)`, in their order."""
    import pyarrow as pa

    schema = rel.left.schema
    numbered = [(number, *request) for number, request in enumerate(requests)]
    columns = {
        name: to_array([row[position] for row in numbered], schema[name])
        for position, name in enumerate(schema)
    }
    found = {row["n"]: row for row in run(engine, rel, inputs={"left": pa.table(columns)})}
    assert {n: tuple(row[name] for name in schema) for n, row in found.items()} == {
        row[0]: row for row in numbered
    }
    return [(Status(found[n]["status"]), found[n]["answer"]) for n in range(len(requests))]


def ask_airport(
    engine: Engine, rel: AsOfJoin, *at_hours: float, airport: str | None = "EWR"
) -> list[tuple[Status, Value]]:
    """The answers for one airport at hours from noon."""
    return ask(engine, rel, *((hours(at), airport) for at in at_hours))


class JoinsContract:
    """Rules of "Latest features" and "Statuses". Subclasses give the fixture `engine`."""

    # --- which row wins ---------------------------------------------------------------------------

    def test_the_newest_row_up_to_the_request_time_wins(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        rel = join(weather(tmp_path, ("EWR", 1, None, 10.0), ("EWR", 2, None, 20.0)))
        microsecond = 1 / HOUR_US
        assert ask_airport(engine, rel, 1 - microsecond, 1, 2 - microsecond, 2, 99) == [
            (NOT_FOUND, None),
            (PRESENT, 10.0),
            (PRESENT, 10.0),
            (PRESENT, 20.0),
            (PRESENT, 20.0),
        ]

    def test_a_row_counts_from_the_moment_it_is_known(self, engine: Engine, tmp_path: Path) -> None:
        rel = join(weather(tmp_path, ("EWR", 1, 1, 10.0), ("EWR", 2, 4, 20.0)))
        microsecond = 1 / HOUR_US
        assert ask_airport(engine, rel, 2, 4 - microsecond, 4) == [
            (PRESENT, 10.0),
            (PRESENT, 10.0),
            (PRESENT, 20.0),
        ]

    def test_as_of_event_looks_at_the_event_time_only(self, engine: Engine, tmp_path: Path) -> None:
        rel = join(weather(tmp_path, ("EWR", 1, 1, 10.0), ("EWR", 2, 4, 20.0)), as_of="event")
        assert ask_airport(engine, rel, 1, 2, 4) == [
            (PRESENT, 10.0),
            (PRESENT, 20.0),
            (PRESENT, 20.0),
        ]

    def test_a_row_known_before_it_happens_counts_when_it_happens(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        rel = join(weather(tmp_path, ("EWR", 3, 1, 10.0)))
        assert ask_airport(engine, rel, 2, 3) == [(NOT_FOUND, None), (PRESENT, 10.0)]

    def test_a_late_row_never_hides_a_newer_one(self, engine: Engine, tmp_path: Path) -> None:
        rel = join(
            weather(
                tmp_path,
                ("EWR", 1, 1, 10.0),
                ("EWR", 5, 5, 50.0),
                ("EWR", 3, 7, 30.0),
                ("EWR", 4, 9, 40.0),
            )
        )
        assert ask_airport(engine, rel, 4, 5, 7, 9) == [
            (PRESENT, 10.0),
            (PRESENT, 50.0),
            (PRESENT, 50.0),
            (PRESENT, 50.0),
        ]

    def test_late_rows_wait_for_each_other(self, engine: Engine, tmp_path: Path) -> None:
        """Rows that become known in the reverse order of their event times."""
        rel = join(
            weather(tmp_path, ("EWR", 1, 9, 10.0), ("EWR", 2, 8, 20.0), ("EWR", 3, 7, 30.0)),
        )
        assert ask_airport(engine, rel, 6, 7, 8, 9) == [
            (NOT_FOUND, None),
            (PRESENT, 30.0),
            (PRESENT, 30.0),
            (PRESENT, 30.0),
        ]

    def test_known_until_hides_what_was_known_later(self, engine: Engine, tmp_path: Path) -> None:
        rows = weather(tmp_path, ("EWR", 1, 1, 10.0), ("EWR", 2, 4, 20.0))
        for as_of in ("known", "event"):
            before = join(rows, as_of=as_of, known_until_us=NOON + 4 * HOUR_US - 1)
            then = join(rows, as_of=as_of, known_until_us=NOON + 4 * HOUR_US)
            assert ask_airport(engine, before, 9) == [(PRESENT, 10.0)]
            assert ask_airport(engine, then, 9) == [(PRESENT, 20.0)]
        early = join(rows, known_until_us=NOON + 9 * HOUR_US)
        assert ask_airport(engine, early, 3) == [(PRESENT, 10.0)]

    def test_a_null_created_time_is_the_event_time(self, engine: Engine, tmp_path: Path) -> None:
        rel = join(weather(tmp_path, ("EWR", 1, None, 10.0), ("EWR", 1, 2, 20.0)))
        assert ask_airport(engine, rel, 1, 2) == [(PRESENT, 10.0), (PRESENT, 20.0)]

    def test_a_source_may_have_no_created_time(self, engine: Engine, tmp_path: Path) -> None:
        shape = RowShape(keys=("airport",), event_time="observed_at", tiebreak=("temp",))
        rows = [("EWR", hours(1), hours(9), 10.0), ("EWR", hours(1), hours(0), 20.0)]
        assert ask_airport(engine, join(source(tmp_path, AIRPORTS, rows, shape)), 1) == [
            (PRESENT, 20.0)
        ]

    def test_a_correction_wins_from_its_own_known_time(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        rel = join(weather(tmp_path, ("EWR", 1, 1, 10.0), ("EWR", 1, 5, 11.0)))
        assert ask_airport(engine, rel, 4, 5) == [(PRESENT, 10.0), (PRESENT, 11.0)]

    def test_a_tie_goes_to_the_greater_created_time_even_before_the_event(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        """Both rows are known at the event time, so only the created time itself decides."""
        rel = join(weather(tmp_path, ("EWR", 3, 2, 10.0), ("EWR", 3, 1, 20.0)))
        assert ask_airport(engine, rel, 3) == [(PRESENT, 10.0)]

    @pytest.mark.parametrize(
        ("dtype", "values"),
        [
            (INT64, [None, -(2**63), 2**53, 2**53 + 1]),
            (FLOAT64, [None, float("-inf"), 0.0, float("inf")]),
            (STRING, [None, "", "A", "a", "aa", "ß", "🛫"]),
            (BYTES, [None, b"", b"\0", b"a", b"\xff"]),
            (DATE, [None, date(1969, 12, 31), date(1970, 1, 1)]),
            (TIMESTAMP, [None, -1, 0]),
            (LIST, [None, [], [None], [None, 5], [1], [1, None], [1, 1], [2]]),
        ],
        ids=str,
    )
    def test_a_tie_goes_to_the_greater_tiebreak_column(
        self, engine: Engine, tmp_path: Path, dtype: DType, values: list[Value]
    ) -> None:
        """`values` ascend; whichever order the file has, the later one wins against the earlier."""
        dtypes = {"key": INT64, "at": TIMESTAMP, "v": dtype}
        shape = RowShape(keys=("key",), event_time="at", tiebreak=("v", "at", "key"))
        rows = []
        for i, (low, high) in enumerate(itertools.pairwise(values)):
            rows += [(2 * i, NOON, low), (2 * i, NOON, high)]
            rows += [(2 * i + 1, NOON, high), (2 * i + 1, NOON, low)]
        rel = join(source(tmp_path, dtypes, rows, shape), feature="v")
        asked = [(NOON, key) for key in range(2 * len(values) - 2)]
        expected = [(PRESENT, high) for high in values[1:] for _ in range(2)]
        assert ask(engine, rel, *asked) == expected

    def test_tiebreak_columns_decide_in_their_order(self, engine: Engine, tmp_path: Path) -> None:
        dtypes = {"key": INT64, "at": TIMESTAMP, "a": INT64, "b": INT64}
        rows = [(1, NOON, 1, 9), (1, NOON, 2, 8), (1, NOON, 2, 7)]
        for tiebreak, answer in ((("a", "b"), 8), (("b", "a"), 9)):
            shape = RowShape(keys=("key",), event_time="at", tiebreak=tiebreak)
            rel = join(source(tmp_path, dtypes, rows, shape), feature="b")
            assert ask(engine, rel, (NOON, 1)) == [(PRESENT, answer)]

    def test_a_column_that_is_not_asked_for_still_breaks_ties(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        dtypes = {"key": INT64, "at": TIMESTAMP, "a": INT64, "b": INT64}
        shape = RowShape(keys=("key",), event_time="at", tiebreak=("a", "at", "b", "key"))
        rows = [(1, NOON, 1, 9), (1, NOON, 2, None)]
        rel = join(source(tmp_path, dtypes, rows, shape), feature="b")
        assert ask(engine, rel, (NOON, 1)) == [(PRESENT, None)]

    def test_a_null_value_wins_like_any_other(self, engine: Engine, tmp_path: Path) -> None:
        rel = join(weather(tmp_path, ("EWR", 1, None, 10.0), ("EWR", 2, None, None)))
        assert ask_airport(engine, rel, 2) == [(PRESENT, None)]

    # --- statuses ---------------------------------------------------------------------------------

    def test_both_ends_of_ttl_and_grace_are_included(self, engine: Engine, tmp_path: Path) -> None:
        rows = weather(tmp_path, ("EWR", 0, None, 10.0))
        rel = join(rows, ttl_us=3 * HOUR_US, grace_us=2 * HOUR_US)
        microsecond = 1 / HOUR_US
        assert ask_airport(engine, rel, 0, 3, 3 + microsecond, 5, 5 + microsecond) == [
            (PRESENT, 10.0),
            (PRESENT, 10.0),
            (OUTSIDE_MAX_AGE, None),
            (OUTSIDE_MAX_AGE, None),
            (NOT_FOUND, None),
        ]

    def test_a_grace_of_nothing(self, engine: Engine, tmp_path: Path) -> None:
        rows = weather(tmp_path, ("EWR", 0, None, 10.0))
        rel = join(rows, ttl_us=3 * HOUR_US, grace_us=0)
        assert ask_airport(engine, rel, 3, 3 + 1 / HOUR_US) == [(PRESENT, 10.0), (NOT_FOUND, None)]

    def test_age_counts_from_the_event_time(self, engine: Engine, tmp_path: Path) -> None:
        rows = weather(tmp_path, ("EWR", 0, 2, 10.0))
        rel = join(rows, ttl_us=HOUR_US, grace_us=2 * HOUR_US)
        assert ask_airport(engine, rel, 1, 2, 3, 4) == [
            (NOT_FOUND, None),
            (OUTSIDE_MAX_AGE, None),
            (OUTSIDE_MAX_AGE, None),
            (NOT_FOUND, None),
        ]

    def test_without_a_ttl_nothing_is_too_old(self, engine: Engine, tmp_path: Path) -> None:
        rel = join(weather(tmp_path, ("EWR", -200 * 365 * 24, None, 10.0)))
        assert ask_airport(engine, rel, 0) == [(PRESENT, 10.0)]

    def test_unknown_and_null_keys_are_not_found(self, engine: Engine, tmp_path: Path) -> None:
        rel = join(weather(tmp_path, ("EWR", 0, None, 10.0), (None, 0, None, 20.0)))
        for airport in ("JFK", "", "ewr", None):
            assert ask_airport(engine, rel, 1, airport=airport) == [(NOT_FOUND, None)]

    def test_rows_without_an_event_time_are_skipped(self, engine: Engine, tmp_path: Path) -> None:
        rel = join(weather(tmp_path, ("EWR", 0, None, 10.0), ("EWR", None, 0, 20.0)))
        assert ask_airport(engine, rel, 1) == [(PRESENT, 10.0)]

    def test_a_tombstone_that_wins_reads_as_not_found(self, engine: Engine, tmp_path: Path) -> None:
        dtypes = {"key": INT64, "at": TIMESTAMP, "known": TIMESTAMP, "op": STRING, "v": INT64}
        shape = RowShape(
            keys=("key",),
            event_time="at",
            created_time="known",
            op="op",
            tiebreak=tuple(sorted(dtypes)),
        )
        rows = [
            (1, hours(1), hours(1), "U", 10),
            (1, hours(3), hours(5), "D", 99),
            (1, hours(2), hours(6), "U", 20),
            (1, hours(3), hours(7), None, 30),
            (1, hours(8), hours(8), "D", None),
        ]
        rel = join(
            source(tmp_path, dtypes, rows, shape), feature="v", ttl_us=DAY_US, grace_us=DAY_US
        )
        found = ask(engine, rel, *((hours(at), 1) for at in (4, 5, 6, 7, 8, 40)))
        assert found == [
            (PRESENT, 10),
            (NOT_FOUND, None),
            (NOT_FOUND, None),
            (PRESENT, 30),
            (NOT_FOUND, None),
            (NOT_FOUND, None),
        ]

    # --- keys, order, repetitions -----------------------------------------------------------------

    def test_every_left_row_comes_out_once(self, engine: Engine, tmp_path: Path) -> None:
        import pyarrow as pa

        rel = join(weather(tmp_path, ("EWR", 1, None, 10.0), ("EWR", 1, None, 10.0)))
        left = pa.table(
            {
                "n": [7, 8, 7, 9],
                "t": to_array([hours(1), hours(0), hours(1), hours(1)], INT64),
                "airport": ["EWR", "EWR", "EWR", None],
            }
        )
        found = sorted(
            (row["t"], row["airport"] or "", row["answer"] or 0)
            for row in run(engine, rel, inputs={"left": left})
        )
        assert found == [
            (hours(0), "EWR", 0),
            (hours(1), "", 0),
            (hours(1), "EWR", 10.0),
            (hours(1), "EWR", 10.0),
        ]

    def test_no_left_rows_and_no_right_rows(self, engine: Engine, tmp_path: Path) -> None:
        import pyarrow as pa

        rel = join(weather(tmp_path))
        none = pa.table({n: to_array([], dtype) for n, dtype in rel.left.schema.items()})
        assert run(engine, rel, inputs={"left": none}) == []
        assert ask_airport(engine, rel, 0) == [(NOT_FOUND, None)]

    def test_left_columns_come_through_untouched(self, engine: Engine, tmp_path: Path) -> None:
        import pyarrow as pa

        right = weather(tmp_path, ("EWR", 0, None, 10.0))
        dtypes = {"t": INT64, "airport": STRING, "rn": INT64, "select": LIST, "größe": TIMESTAMP}
        values: dict[str, list[Value]] = {
            "t": [NOON, NOON],
            "airport": ["EWR", "JFK"],
            "rn": [2**53 + 1, None],
            "select": [[1, None], None],
            "größe": [-1, None],
        }
        rel = AsOfJoin(
            left=Input(name="left", dtypes=dtypes),
            right=right,
            keys={"airport": "airport"},
            left_time="t",
            columns={"row_id": "temp", "order": "observed_at"},
            status="from",
            as_of="known",
            known_until_us=None,
            ttl_us=None,
            grace_us=None,
        )
        left = pa.table({n: to_array(v, dtypes[n]) for n, v in values.items()})
        found = run(engine, rel, inputs={"left": left})
        assert sorted(found, key=lambda row: str(row["airport"])) == [
            {**{n: v[0] for n, v in values.items()}, "row_id": 10.0, "order": NOON, "from": 1},
            {**{n: v[1] for n, v in values.items()}, "row_id": None, "order": None, "from": 3},
        ]

    def test_composite_keys_keep_their_parts_apart(self, engine: Engine, tmp_path: Path) -> None:
        dtypes = {"a": STRING, "b": STRING, "at": TIMESTAMP, "v": INT64}
        shape = RowShape(keys=("a", "b"), event_time="at", tiebreak=tuple(sorted(dtypes)))
        rows = [("1", "23", NOON, 1), ("12", "3", NOON, 2), ("", "123", NOON, 3), ("1", None, 9, 4)]
        rel = join(source(tmp_path, dtypes, rows, shape), feature="v")
        assert ask(
            engine, rel, (NOON, "1", "23"), (NOON, "12", "3"), (NOON, "", "123"), (NOON, "1", None)
        ) == [(PRESENT, 1), (PRESENT, 2), (PRESENT, 3), (NOT_FOUND, None)]

    def test_a_view_without_keys_has_one_row_for_all(self, engine: Engine, tmp_path: Path) -> None:
        dtypes = {"at": TIMESTAMP, "v": INT64}
        shape = RowShape(keys=(), event_time="at", tiebreak=("at", "v"))
        rel = join(source(tmp_path, dtypes, [(NOON, 1), (NOON + 5, 2)], shape), feature="v")
        assert ask(engine, rel, (NOON - 1,), (NOON + 4,), (NOON + 5,)) == [
            (NOT_FOUND, None),
            (PRESENT, 1),
            (PRESENT, 2),
        ]

    def test_one_view_under_two_aliases(self, engine: Engine, tmp_path: Path) -> None:
        import pyarrow as pa

        right = weather(tmp_path, ("EWR", 0, None, 10.0), ("JFK", 0, None, 20.0))
        rel: AsOfJoin | Input = Input(
            name="left", dtypes={"t": INT64, "origin": STRING, "dest": STRING}
        )
        for side in ("origin", "dest"):
            rel = AsOfJoin(
                left=rel,
                right=right,
                keys={side: "airport"},
                left_time="t",
                columns={f"{side}_temp": "temp"},
                status=f"{side}_status",
                as_of="known",
                known_until_us=None,
                ttl_us=None,
                grace_us=None,
            )
        left = pa.table({"t": [NOON], "origin": ["EWR"], "dest": ["JFK"]})
        [row] = run(engine, rel, inputs={"left": left})
        assert (row["origin_temp"], row["dest_temp"]) == (10.0, 20.0)

    # --- against the oracle -----------------------------------------------------------------------

    @pytest.mark.parametrize("part", range(PARTS))
    def test_as_of_joins_agree_with_the_oracle(
        self, engine: Engine, tmp_path: Path, part: int
    ) -> None:
        for seed in AS_OF_SEEDS[part::PARTS]:
            compare_as_of(engine, make_case(seeded(seed)), tmp_path)

    @pytest.mark.slow
    @pytest.mark.parametrize("block", range(10))
    def test_long_histories_agree_with_the_oracle(
        self, engine: Engine, tmp_path: Path, block: int
    ) -> None:
        for seed in range(block * 5, block * 5 + 5):
            case = make_case(seeded(seed), rows_max=400, requests_max=300)
            compare_as_of(engine, case, tmp_path)
            compare_latest(engine, case, tmp_path)

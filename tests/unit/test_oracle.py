"""The oracle itself, on cases small enough to check by eye."""

from __future__ import annotations

import itertools
from datetime import date
from decimal import Decimal

import pytest

from featurestore.dtypes import BOOL, FLOAT64, INT32, INT64, STRING, parse
from featurestore.statuses import Status
from featurestore.testing.oracle import (
    Inexact,
    OnlineTable,
    Row,
    RowShape,
    Use,
    answer,
    date_us,
    floor_us,
    latest,
    rank,
    read_value,
    same,
    settle,
    settle_all,
    status_of,
    training_rows,
    winner,
)
from featurestore.timeline import DAY_US


def row(event_us: int, value: object = None, *, known: int | None = None, key: str = "k") -> Row:
    return Row(
        key=(key,),
        event_us=event_us,
        created_us=event_us if known is None else known,
        values={"v": value},
        tie=(value,),
    )


# --- types ----------------------------------------------------------------------------------------


def test_values_are_read_exactly() -> None:
    assert read_value(None, STRING) is None
    assert read_value(float("nan"), FLOAT64) is None
    assert same(read_value(-0.0, FLOAT64), 0.0)
    assert same(read_value(3.0, INT64), 3)
    assert read_value(2**53 + 1, INT64) == 2**53 + 1
    assert read_value([float("nan"), None, -0.0], parse("list<float64>")) == [None, None, 0.0]
    assert read_value(True, BOOL) is True


@pytest.mark.parametrize("value", [1.7, 2**31, -(2**31) - 1, float("inf")])
def test_values_that_do_not_fit_are_refused(value: float) -> None:
    with pytest.raises(Inexact):
        read_value(value, INT32)


def test_nanoseconds_are_floored() -> None:
    assert [floor_us(ns) for ns in (-1_001, -1_000, -1, 0, 999, 1_000)] == [-2, -1, -1, 0, 0, 1]


def test_a_date_begins_and_ends_at_midnight() -> None:
    assert date_us(date(1970, 1, 2), "start") == DAY_US
    assert date_us(date(1969, 12, 31), "end") == 0


def test_sameness_is_of_type_and_bits() -> None:
    assert same(Decimal("1.1"), Decimal("1.10"))
    assert same([1, None], [1, None])
    assert not same(1, 1.0)
    assert not same(0.0, -0.0)
    assert not same(1, True)
    assert not same([1], [1, 1])


# --- rows -----------------------------------------------------------------------------------------


def test_a_row_is_settled() -> None:
    shape = RowShape(
        keys=("a", "b"), event_time="e", created_time="c", op="op", tiebreak=("v", "op")
    )
    raw = {"a": "x", "b": 1, "e": 5, "c": None, "op": "D", "v": 7}
    settled = settle(raw, shape)
    assert settled == Row(
        key=("x", 1), event_us=5, created_us=5, values=raw, tie=(7, "D"), deleted=True
    )
    assert settled.known_us == 5
    assert settle(raw | {"e": None}, shape) is None
    assert settle(raw | {"b": None}, shape) is None
    assert len(settle_all([raw, raw | {"a": None}, raw | {"op": None}], shape)) == 2


def test_a_date_row_is_known_when_its_created_time_says() -> None:
    shape = RowShape(keys=(), event_time="e", created_time="c", event_time_is="end")
    settled = settle({"e": date(1970, 1, 1), "c": 3 * DAY_US}, shape)
    assert settled is not None
    assert (settled.event_us, settled.known_us) == (DAY_US, 3 * DAY_US)


def test_rows_rank_by_event_then_created_then_tiebreak() -> None:
    ascending = [
        row(1, 9, known=9),
        row(2, 9, known=1),
        row(2, None, known=3),
        row(2, -5, known=3),
        row(2, 4, known=3),
    ]
    assert all(rank(low) < rank(high) for low, high in itertools.pairwise(ascending))


# --- winners and statuses -------------------------------------------------------------------------


def test_the_winner_is_the_newest_that_is_known() -> None:
    rows = [row(1, 10), row(3, 30, known=6), row(2, 20), row(4, 40, key="other")]
    assert winner(rows, ("k",), 0) is None
    assert winner(rows, ("k",), 5) == rows[2]
    assert winner(rows, ("k",), 6) == rows[1]
    assert winner(rows, ("k",), 5, as_of="event") == rows[1]
    assert winner(rows, ("k",), 9, known_until_us=5) == rows[2]
    assert winner(rows, (None,), 9) is None


@pytest.mark.parametrize(
    ("age_us", "status"),
    [
        (0, Status.PRESENT),
        (10, Status.PRESENT),
        (11, Status.OUTSIDE_MAX_AGE),
        (13, Status.OUTSIDE_MAX_AGE),
        (14, Status.NOT_FOUND),
    ],
)
def test_a_row_ages(age_us: int, status: Status) -> None:
    assert status_of(row(0), age_us, ttl_us=10, grace_us=3) == status


def test_the_grace_is_the_ttl_by_default() -> None:
    assert status_of(row(0), 20, ttl_us=10) is Status.OUTSIDE_MAX_AGE
    assert status_of(row(0), 21, ttl_us=10) is Status.NOT_FOUND
    assert status_of(row(0), 21, ttl_us=None) is Status.PRESENT


def test_values_show_only_while_present() -> None:
    assert answer(row(0, 7), 5, ["v"], ttl_us=10).values == {"v": 7}
    old = answer(row(0, 7), 11, ["v"], ttl_us=10)
    assert (old.status, old.values) == (Status.OUTSIDE_MAX_AGE, {"v": None})
    assert old.value_status("v") is Status.OUTSIDE_MAX_AGE
    null = answer(row(0, None), 5, ["v"], ttl_us=10)
    assert (null.status, null.value_status("v")) == (Status.PRESENT, Status.NULL_VALUE)
    assert answer(None, 5, ["v"], ttl_us=10).status is Status.NOT_FOUND


def test_a_training_set_has_the_entity_rows_in_their_order() -> None:
    rows = [row(1, 10, key="EWR"), row(1, 20, key="JFK")]
    uses = [
        Use(rows=rows, key_columns=("origin",), features={"from": "v"}, status="from_status"),
        Use(rows=rows, key_columns=("dest",), features={"to": "v"}),
        Use(
            rows=[Row(key=(), event_us=2, created_us=2, values={"v": 5})],
            key_columns=(),
            features={"all": "v"},
        ),
    ]
    asked = [
        {"origin": "JFK", "dest": "EWR", "event_timestamp": 1},
        {"origin": None, "dest": "EWR", "event_timestamp": 2},
        {"origin": "JFK", "dest": "EWR", "event_timestamp": 1},
    ]
    first = asked[0] | {"from": 20, "from_status": 1, "to": 10, "all": None}
    second = asked[1] | {"from": None, "from_status": 3, "to": 10, "all": 5}
    assert training_rows(asked, uses) == [first, second, first]


def test_latest_is_open_below_and_closed_above_in_known_time() -> None:
    rows = [row(1, 10), row(2, 20, known=5), row(3, 30)]
    assert latest(rows, known_after_us=3) == {("k",): rows[1]}
    assert latest(rows, known_after_us=5) == {}
    assert latest(rows, known_until_us=3, event_to_us=3) == {("k",): rows[0]}
    assert latest(rows, event_from_us=3) == {("k",): rows[2]}


# --- the online table -----------------------------------------------------------------------------


def held(table: OnlineTable) -> object:
    found = table.held.get(("k",))
    return found and found.values["v"]


def test_a_first_run_reaches_back_ttl_and_grace() -> None:
    table = OnlineTable(ttl_us=10, grace_us=5)
    table.incremental([row(84, 1, key="old"), row(85, 2), row(101, 3, key="future")], 100)
    assert set(table.held) == {("k",)}
    assert table.lookup(("k",), 100, ["v"]).status is Status.OUTSIDE_MAX_AGE
    assert table.lookup(("k",), 101, ["v"]).status is Status.NOT_FOUND
    assert table.watermark_us == 100


def test_late_rows_arrive_but_never_replace_newer_ones() -> None:
    table = OnlineTable(lateness_us=10)
    table.incremental([row(50, 1)], 100)
    table.incremental([row(50, 1), row(40, 2, known=120), row(50, 3, known=130)], 125)
    assert held(table) == 1
    table.incremental([row(50, 3, known=130)], 140)
    assert held(table) == 3


def test_lateness_is_how_long_files_may_be_late() -> None:
    """A file that turns up when the watermark has passed the known times of its rows."""
    for known_us, found in ((91, 1), (90, None)):
        table = OnlineTable(lateness_us=10)
        table.incremental([], 100)
        table.incremental([row(60, 1, known=known_us)], 110)
        assert held(table) == found


def test_the_end_is_now_at_the_latest_and_the_watermark_never_goes_back() -> None:
    table = OnlineTable()
    table.incremental([row(150, 1)], 100, end_us=200)
    assert (held(table), table.watermark_us) == (None, 100)
    table.incremental([row(150, 1)], 160, end_us=90)
    assert (held(table), table.watermark_us) == (None, 100)


def test_an_interval_is_of_event_times() -> None:
    rows = [row(10, 1), row(20, 2), row(30, 3)]
    table = OnlineTable()
    table.interval(rows, 100, start_us=10, end_us=20)
    assert (held(table), table.watermark_us) == (1, None)
    table.incremental(rows, 25)
    assert (held(table), table.watermark_us) == (2, 25)
    table.interval(rows, 100, start_us=26, end_us=40)
    assert (held(table), table.watermark_us) == (3, 25)


def test_an_interval_that_joins_the_watermark_moves_it_and_loses_no_late_row() -> None:
    table = OnlineTable()
    table.incremental([row(10, 1)], 20)
    table.interval([row(10, 1), row(12, 2, known=25)], 40, start_us=20, end_us=30)
    assert (held(table), table.watermark_us) == (2, 30)


def test_a_tombstone_is_held_and_reads_as_not_found() -> None:
    table = OnlineTable()
    gone = Row(key=("k",), event_us=5, created_us=5, values={"v": 1}, deleted=True)
    table.incremental([row(1, 1), gone], 10)
    assert table.lookup(("k",), 10, ["v"]).status is Status.NOT_FOUND
    table.incremental([row(1, 1), row(3, 2, known=12)], 20)
    assert table.lookup(("k",), 20, ["v"]).status is Status.NOT_FOUND


def test_replace_forgets_what_the_source_forgot() -> None:
    table = OnlineTable()
    table.incremental([row(50, "wrong")], 100)
    table.incremental([row(40, "right")], 110)
    assert held(table) == "wrong"
    table.replace([row(40, "right")], 120)
    assert (held(table), table.watermark_us) == ("right", 120)

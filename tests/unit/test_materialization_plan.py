"""What a materialization run reads and where it leaves the watermark, case by case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from featurestore.compiler.materialization import (
    RunPlan,
    Selection,
    TableState,
    plan_run,
    table_state,
)
from featurestore.errors import InvalidRequest
from featurestore.records import LedgerRow
from featurestore.timeline import DAY_US, HOUR_US

NOW = 1_000 * DAY_US


@dataclass(frozen=True)
class _Source:
    lateness_us: int = HOUR_US


@dataclass(frozen=True)
class _View:
    """The two facts of a view that the decision reads."""

    reach_us: int | None
    source: _Source = _Source()


def plan(reach_us: int | None, state: TableState, **options: Any) -> RunPlan:
    return plan_run(_View(reach_us), state, now_us=NOW, **options)  # type: ignore[arg-type]


def test_first_run_reaches_back_ttl_and_grace() -> None:
    found = plan(2 * DAY_US, TableState())
    assert found == RunPlan(
        mode="incremental",
        passes=(Selection(known_until_us=NOW, event_from_us=NOW - 2 * DAY_US),),
        start_us=NOW - 2 * DAY_US,
        end_us=NOW,
        watermark_us=NOW,
        reach_us=2 * DAY_US,
    )


def test_first_run_without_ttl_reads_everything() -> None:
    found = plan(None, TableState())
    assert found.passes == (Selection(known_until_us=NOW),)
    assert found.reach_us is None


def test_incremental_run_goes_by_known_time_less_lateness() -> None:
    watermark = NOW - DAY_US
    found = plan(2 * DAY_US, TableState(watermark_us=watermark, reach_us=2 * DAY_US))
    assert found.passes == (
        Selection(
            known_after_us=watermark - HOUR_US,
            known_until_us=NOW,
            event_from_us=NOW - 2 * DAY_US,
        ),
    )
    assert (found.start_us, found.end_us, found.watermark_us) == (watermark, NOW, NOW)


def test_end_is_clamped_to_now_and_never_moves_the_watermark_back() -> None:
    state = TableState(watermark_us=NOW - HOUR_US, reach_us=None)
    assert plan(None, state, end_us=NOW + DAY_US).end_us == NOW
    earlier = plan(None, state, end_us=NOW - DAY_US)
    assert earlier.watermark_us == NOW - HOUR_US


def test_a_longer_ttl_writes_the_whole_reach_again() -> None:
    state = TableState(watermark_us=NOW - HOUR_US, reach_us=DAY_US)
    found = plan(2 * DAY_US, state)
    assert found.passes == (Selection(known_until_us=NOW, event_from_us=NOW - 2 * DAY_US),)
    assert found.reach_us == 2 * DAY_US


def test_a_shorter_ttl_shortens_the_reach() -> None:
    state = TableState(watermark_us=NOW - HOUR_US, reach_us=2 * DAY_US)
    found = plan(DAY_US, state)
    assert found.passes[0].known_after_us is not None
    assert found.reach_us == DAY_US


def test_interval_goes_by_event_time_and_moves_no_watermark() -> None:
    start, end = NOW - 10 * DAY_US, NOW - 9 * DAY_US
    state = TableState(watermark_us=NOW - DAY_US, reach_us=None)
    found = plan(None, state, start_us=start, end_us=end)
    assert found.mode == "interval"
    assert found.passes == (Selection(known_until_us=NOW, event_from_us=start, event_to_us=end),)
    assert found.watermark_us is None


def test_interval_that_joins_the_watermark_moves_it_and_takes_late_rows_along() -> None:
    watermark = NOW - DAY_US
    state = TableState(watermark_us=watermark, reach_us=None)
    found = plan(None, state, start_us=watermark, end_us=NOW)
    assert found.watermark_us == NOW
    assert found.passes[1] == Selection(known_after_us=watermark - HOUR_US, known_until_us=NOW)


def test_interval_never_completes_an_empty_table() -> None:
    found = plan(None, TableState(), start_us=0, end_us=NOW)
    assert found.watermark_us is None


def test_replace_reads_the_whole_reach() -> None:
    state = TableState(watermark_us=NOW - DAY_US, reach_us=None)
    found = plan(None, state, replace=True)
    assert found.mode == "replace"
    assert found.passes == (Selection(known_until_us=NOW),)
    assert found.watermark_us == NOW


@pytest.mark.parametrize("bounds", [{"start_us": 5}, {"end_us": 5}])
def test_replace_takes_no_interval(bounds: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="whole new generation"):
        plan(None, TableState(), replace=True, **bounds)


def test_an_interval_must_not_be_empty() -> None:
    with pytest.raises(InvalidRequest, match="is empty"):
        plan(None, TableState(), start_us=NOW + 1)


def test_state_is_what_the_last_run_with_a_watermark_left() -> None:
    def row(watermark_us: int | None, reach_us: int | None) -> LedgerRow:
        return LedgerRow(
            run_id="r",
            view="v",
            view_version="0" * 64,
            table="t",
            generation=0,
            mode="incremental",
            start_us=None,
            end_us=0,
            watermark_us=watermark_us,
            reach_us=reach_us,
            rows_read=0,
            rows_written=0,
            rows_skipped=0,
            started_at_us=0,
            finished_at_us=0,
        )

    assert table_state([]) == TableState()
    assert not table_state([row(None, None)]).covers(1)
    state = table_state([row(5, DAY_US), row(9, HOUR_US), row(None, None)])
    assert state == TableState(watermark_us=9, reach_us=HOUR_US)
    assert state.covers(HOUR_US)
    assert not state.covers(HOUR_US + 1)
    assert not state.covers(None)
    assert table_state([row(5, None)]).covers(None)

"""States of windows: whatever comes in whatever batches, what a state holds at T is what the oracle
says of the rows known by T."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from window_spans import enters_us, leaves_us

from featurestore.aggregates import bucketed, empty_value, output_dtype
from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING, DType, map_of, parse, to_arrow
from featurestore.errors import CorruptRow
from featurestore.jobs.window_fold import ADDED, REPEATED, TOO_LATE, Folded, fold, nothing
from featurestore.jobs.window_turns import tie_bytes_of
from featurestore.serving.windows import Evaluate, window_evaluator
from featurestore.statuses import Status
from featurestore.testing.oracle import Row
from featurestore.testing.oracle_windows import (
    History,
    Windowed,
    agrees,
    inputs_of,
    window_answer,
)
from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from featurestore.wire.layout import RowLayout
from featurestore.wire.rows import row_decoder
from featurestore.wire.tile_decode import decode_states
from featurestore.wire.tiles import Events, no_events, value_column
from featurestore.wire.window_layout import (
    BEHIND_US,
    NEVER_US,
    WindowInput,
    WindowLayout,
    WindowOutput,
)
from featurestore.wire.window_state_pb2 import WindowState

PRICE = parse("decimal(9,2)")
COLUMNS = {"i": INT64, "f": FLOAT64, "s": STRING, "p": PRICE, "b": BOOL}
GRIDS = (1, 1_000, 1_000_000, 5 * MINUTE_US, HOUR_US, DAY_US)
BASE_US = 20_000 * DAY_US
FUNCTIONS: tuple[tuple[str, str | None, tuple[tuple[str, int | float], ...]], ...] = (
    ("count", None, ()),
    *((f, c, ()) for f in ("count", "sum", "mean", "min", "max") for c in ("i", "f", "p")),
    *((f, c, ()) for f in ("var", "std") for c in ("i", "f")),
    *((f, c, ()) for f in ("min", "max", "first", "last", "count_distinct") for c in ("s", "b")),
    *((f, "i", (("n", 2),)) for f in ("first_n", "last_n", "top_k")),
    ("approx_count_distinct", "s", (("error", 0.1),)),
    ("approx_quantile", "f", (("error", 0.05), ("q", 0.5))),
)


@dataclass(frozen=True)
class Case:
    """A view, the rows of one key, and when they are written."""

    layout: WindowLayout
    rows: RowLayout
    windows: dict[str, Windowed]
    history: History
    written: tuple[int, ...]
    requests: tuple[int, ...]


@st.composite
def cases(draw: st.DrawFn, *, with_ids: bool) -> Case:
    grid = draw(st.sampled_from(GRIDS))
    specs = draw(st.lists(st.sampled_from(FUNCTIONS), min_size=1, max_size=6))
    spans = [
        (60 * grid, 0, 0),
        (7 * grid, 2 * grid, max(grid, 1)),
        (50 * grid, 0, 5 * grid),
        (6 * HOUR_US, 0, 5 * MINUTE_US),
        (6 * HOUR_US, 0, MINUTE_US),
        (7 * DAY_US, 0, HOUR_US),
        (30 * DAY_US, DAY_US, DAY_US),
        (None, 0, DAY_US),
        (None, grid, 0),
    ]
    chosen = draw(st.lists(st.sampled_from(spans), min_size=1, max_size=3))
    horizon = draw(st.sampled_from([0, 3 * grid, 30 * grid, DAY_US]))
    inputs: list[tuple[str | None, ...]] = []
    outputs, windows = [], {}
    for function, column, parameters in specs:
        condition = draw(st.sampled_from([None, "b"]))
        bucket = draw(st.sampled_from([None, None, "s", "i", "b"]))
        read = (column, condition, bucket)
        if read not in inputs:
            inputs.append(read)
        for window, delay, hop in chosen:
            dtype = None if column is None else COLUMNS[column]
            windows[f"f{len(outputs)}"] = Windowed(
                function=function,
                value=column,
                dtype=dtype,
                condition=condition,
                window_us=window,
                delay_us=delay,
                hop_us=hop,
                parameters=dict(parameters),
                bucket=bucket,
            )
            outputs.append(
                WindowOutput(
                    function=function,
                    input=inputs.index(read),
                    window_us=window,
                    delay_us=delay,
                    hop_us=hop,
                    parameters=parameters,
                )
            )
    dtypes = tuple(map(dtype_of, windows.values()))
    layout = WindowLayout(
        inputs=tuple(WindowInput(input_dtype(column, bucket)) for column, _, bucket in inputs),
        outputs=tuple(outputs),
        dtypes=dtypes,
        tag=7,
        view="v",
        id_dtype=(draw(st.sampled_from([INT64, STRING])) if with_ids else None),
        correction_horizon_us=horizon if with_ids else 0,
    )
    count = draw(st.integers(1, 14))
    ages = st.integers(0, draw(st.sampled_from([3, 20, 70, 400])))
    ids = st.integers(0, draw(st.sampled_from([2, 6, 30])))
    mixed = draw(st.booleans())
    rows = []
    for n in range(count):
        event = (
            BASE_US
            - draw(ages) * grid
            - draw(st.sampled_from([0, 0, MINUTE_US, 3 * HOUR_US])) * mixed
        )
        created = event + draw(st.sampled_from([-2, 0, 0, 0, 1, 5, 40])) * grid
        one = draw(ids) if with_ids else n
        values = {
            "i": draw(st.sampled_from([None, 0, 1, -3, 2**62, -(2**62)])),
            "f": draw(st.sampled_from([None, 0.0, 0.1, -2.5, 1e6])),
            "s": draw(st.sampled_from([None, "", "a", "bé"])),
            "p": draw(st.sampled_from([None, Decimal("0.01"), Decimal("-3.50")])),
            "b": draw(st.sampled_from([None, True, False])),
        }
        rows.append(
            Row(
                key=(1,),
                event_us=event,
                created_us=created,
                tie=tuple(values.values()),
                deleted=with_ids and draw(st.sampled_from([False, False, False, True])),
                values={
                    "id": one if layout.id_dtype == INT64 else f"é{one}",
                    **values,
                },
            )
        )
    last = max(row.known_us for row in rows)
    steps = draw(st.lists(st.integers(0, 60), min_size=1, max_size=4))
    written = [last - sum(steps[n:]) * grid for n in range(len(steps))] + [last]
    # A server's clock may be a little behind the writer's.
    first = written[-1] - BEHIND_US
    turns = sorted({at for at in _turns(rows, outputs, layout.reach_us) if at >= first})
    requests = [written[-1], written[-1] + grid, written[-1] + HOUR_US, first]
    requests += draw(st.lists(st.sampled_from(turns), max_size=6)) if turns else []
    return Case(
        layout=layout,
        rows=RowLayout(tuple(zip(windows, dtypes, strict=True)), 7),
        windows=windows,
        history=History(
            rows=rows,
            event_id="id" if with_ids else None,
            correction_horizon_us=layout.correction_horizon_us,
        ),
        written=tuple(written),
        requests=tuple(requests),
    )


def _turns(rows: list[Row], outputs: list[WindowOutput], reach_us: int | None) -> Iterator[int]:
    """Instants at which answers change, and those just before."""
    for row in rows:
        known = [row.known_us]
        known += [] if reach_us is None else [row.event_us + reach_us + 1]
        for output in outputs:
            known.append(enters_us(row.event_us, output.delay_us))
            window = output.window_us, output.delay_us, output.hop_us
            leaves = leaves_us(row.event_us, *window)
            known += [] if leaves is None else [leaves]
        for at_us in known:
            yield from (at_us - 1, at_us)


def dtype_of(window: Windowed) -> DType:
    """What it yields."""
    plain = output_dtype(window.function, window.dtype)
    return plain if window.bucket is None else map_of(COLUMNS[window.bucket], plain)


def input_dtype(column: str | None, bucket: str | None) -> DType | None:
    """What rows bring in."""
    dtype = None if column is None else COLUMNS[column]
    return dtype if bucket is None else bucketed(COLUMNS[bucket], dtype)


def columns_of(case: Case, rows: list[Row]) -> Events:
    """The rows as a writer gets them."""
    layout, pairs = case.layout, input_pairs(case)
    ids = None
    if layout.id_dtype is not None:
        ids = value_column(layout.id_dtype, [row.values["id"] for row in rows])
    present, values = [], []
    for (column, condition, bucket), one in zip(pairs, layout.inputs, strict=True):
        there = [
            (condition is None or row.values[condition] is True)
            and (column is None or row.values[column] is not None)
            and (bucket is None or row.values[bucket] is not None)
            for row in rows
        ]
        zero: Any = {"doubles": 0.0, "integers": 0, "blobs": None}
        raw = [
            None
            if column is None
            else row.values[column]
            if row.values[column] is not None
            else zero[COLUMNS[column].slot]
            for row in rows
        ]
        if bucket is not None:
            brought = [True if column is None else row.values[column] for row in rows]
            raw = [{row.values[bucket]: v} for row, v in zip(rows, brought, strict=True)]
        present.append(np.array(there, bool))
        values.append(value_column(one.dtype, raw))
    return Events(
        np.zeros(len(rows), np.int64),
        np.array([row.event_us for row in rows], np.int64),
        np.array([row.created_us for row in rows], np.int64),
        np.full(len(rows), NEVER_US, np.int64),
        np.array([row.deleted for row in rows], bool),
        ids,
        None if ids is None else ties_of(rows),
        tuple(present),
        tuple(values),
    )


def ties_of(rows: list[Row]) -> Any:
    """What settles the turn of rows whose times are equal."""
    dtypes = list(COLUMNS.values())
    values = [pa.array([row.tie[n] for row in rows], to_arrow(d)) for n, d in enumerate(dtypes)]
    return tie_bytes_of(list(zip(dtypes, values, strict=True)), len(rows))


def input_pairs(case: Case) -> list[tuple[str | None, ...]]:
    """Column, condition and bucket of each input."""
    pairs: dict[int, tuple[str | None, ...]] = {}
    for output, window in zip(case.layout.outputs, case.windows.values(), strict=True):
        pairs[output.input] = (window.value, window.condition, window.bucket)
    return [pairs[n] for n in range(len(pairs))]


@dataclass(frozen=True)
class Code:
    """What is tested: a writer's and a server's part."""

    fold: Callable[..., Folded] = fold
    evaluator: Callable[..., Evaluate] = window_evaluator


def check(case: Case, state: bytes, at_us: int, known: list[Row], code: Code) -> None:
    """The state's answer at an instant is the oracle's."""
    evaluate = code.evaluator(case.layout, case.rows, range(len(case.windows)))
    history = History(
        rows=known,
        event_id=case.history.event_id,
        correction_horizon_us=case.history.correction_horizon_us,
    )
    row = evaluate(state, at_us) if state else None
    expected = window_answer(history, (1,), at_us, case.windows)
    status = Status.NOT_FOUND if row is None else Status.PRESENT
    assert status == expected.status
    values = [empty_value(w.function, dtype_of(w)) for w in case.windows.values()]
    if row is not None:
        values = row_decoder(case.rows)(row)[0]
    events = history.events((1,), at_us)
    for (name, window), found in zip(case.windows.items(), values, strict=True):
        inputs = inputs_of(events, at_us, window, history.event_id)
        wanted = expected.values[name]
        assert agrees(found, wanted, inputs, window), (name, window, found, wanted)


def in_batches(case: Case, code: Code) -> None:
    """Batch by batch, each row once it is due; of some batches the last rows come again."""
    kept: bytes | None = None
    served, done = b"", 0
    rows = sorted(case.history.rows, key=lambda row: row.known_us)
    for now_us in case.written:
        due = [row for row in rows if row.known_us <= now_us]
        new = due[max(0, done - 2) :]
        old = decode_states(case.layout, [kept])
        folded = code.fold(case.layout, old, columns_of(case, new), now_us=now_us, revisions=[5])
        done = len(due)
        served, kept = folded.served[0], folded.kept[0] or None
        check(case, served, now_us, due, code)
        assert set(folded.outcomes.tolist()) <= {ADDED, REPEATED, TOO_LATE}
    for at_us in case.requests:
        check(case, served, at_us, rows, code)


def at_once(case: Case, code: Code) -> None:
    """All rows known by then, as a materialization writes them."""
    rows = list(case.history.rows)
    now_us = case.written[-1]
    old = nothing(case.layout, 1)
    folded = code.fold(case.layout, old, columns_of(case, rows), now_us=now_us, revisions=[5])
    assert (folded.kept == [b""]) == (case.layout.id_dtype is None)
    for at_us in case.requests:
        check(case, folded.served[0], at_us, rows, code)


@given(case=cases(with_ids=True))
@settings(max_examples=examples(60), deadline=None)
def test_events_with_ids_in_batches(case: Case) -> None:
    in_batches(case, Code())


@given(case=cases(with_ids=True), data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_versions_of_an_open_event_count_in_whatever_order_they_come(
    case: Case, data: st.DataObject
) -> None:
    """One that was too late counts as soon as one comes that is between it and the others."""
    horizon_us = data.draw(st.sampled_from([0, SECOND_US, 3 * SECOND_US, 9 * SECOND_US]))
    places = st.integers(0, 9)
    steps = data.draw(st.lists(st.tuples(places, places), min_size=2, max_size=6))
    versions = case.history.rows
    rows = [
        replace(
            versions[n % len(versions)],
            event_us=BASE_US,
            created_us=BASE_US + step * SECOND_US,
            values={**versions[n % len(versions)].values, "id": 1},
        )
        for n, step in steps
    ]
    history = replace(case.history, rows=rows, correction_horizon_us=horizon_us)
    layout = replace(case.layout, correction_horizon_us=horizon_us)
    if layout.id_dtype != INT64:
        rows = [replace(row, values={**row.values, "id": "1"}) for row in rows]
    case = replace(case, layout=layout, history=history)
    kept: bytes | None = None
    now_us = BASE_US
    for n, row in enumerate(rows):
        now_us = max(now_us, row.known_us)
        old = decode_states(layout, [kept])
        folded = fold(layout, old, columns_of(case, [row]), now_us=now_us, revisions=[5])
        check(case, folded.served[0], now_us, rows[: n + 1], Code())
        counting = history.versions(rows[: n + 1])
        assert (folded.outcomes[0] == TOO_LATE) == (row not in counting)
        kept = folded.kept[0] or None


@given(case=cases(with_ids=True))
@settings(max_examples=examples(30), deadline=None)
def test_events_with_ids_at_once(case: Case) -> None:
    at_once(case, Code())


@given(case=cases(with_ids=False))
@settings(max_examples=examples(30), deadline=None)
def test_events_without_ids_at_once(case: Case) -> None:
    at_once(case, Code())


@given(case=cases(with_ids=True))
@settings(max_examples=examples(30), deadline=None)
def test_equal_events_make_equal_bytes(case: Case) -> None:
    """In whatever order they come within a batch, and again when they are read and written."""
    rows, layout, now_us = list(case.history.rows), case.layout, case.written[-1]
    made = [
        fold(
            layout,
            nothing(layout, 1),
            columns_of(case, order),
            now_us=now_us,
            revisions=[5],
        )
        for order in (rows, rows[::-1])
    ]
    sums = ("sum", "mean", "var", "std")
    exact = not any(
        w.function in sums and (w.dtype == FLOAT64 or w.function in sums[2:])
        for w in case.windows.values()
    )
    if exact:
        assert made[0].served == made[1].served
        assert made[0].kept == made[1].kept
    again = fold(
        layout,
        decode_states(layout, made[0].kept),
        no_events(layout),
        now_us=now_us,
        revisions=[5],
    )
    assert (again.served, again.kept) == (made[0].served, made[0].kept)
    for state in (*made[0].served, *made[0].kept):
        message = WindowState.FromString(state)
        assert message.SerializeToString(deterministic=True) == state
        assert state.startswith(layout.head(message.event_time_us, message.created_time_us, 5))


@given(case=cases(with_ids=True))
@settings(max_examples=examples(30), deadline=None)
def test_many_keys_are_written_as_each_alone(case: Case) -> None:
    """Their states are cut out of columns over all of them, and read back into such."""
    layout, now_us = case.layout, case.written[-1]
    shares: list[list[Row]] = [[], *(list(case.history.rows[n::3]) for n in range(3)), []]
    parts = [columns_of(case, rows) for rows in shares]
    owned = [replace(p, owner=np.full(len(p), n)) for n, p in enumerate(parts)]
    revisions = list(range(len(shares)))
    old = nothing(layout, len(shares))
    both = fold(layout, old, Events.join(owned), now_us=now_us, revisions=revisions)
    for n, part in enumerate(parts):
        alone = fold(layout, nothing(layout, 1), part, now_us=now_us, revisions=[n])
        assert (both.served[n], both.kept[n]) == (alone.served[0], alone.kept[0])
    read = decode_states(layout, [state or None for state in both.kept])
    again = fold(layout, read, no_events(layout), now_us=now_us, revisions=revisions)
    assert (again.served, again.kept) == (both.served, both.kept)
    kept = fold(layout, both.states, no_events(layout), now_us=now_us, revisions=revisions)
    assert (kept.served, kept.kept) == (both.served, both.kept)


@given(case=cases(with_ids=True), data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_damaged_states_are_noticed_or_read_as_states(case: Case, data: st.DataObject) -> None:
    """Never a crash of another kind, and never bytes of another view."""
    layout, now_us = case.layout, case.written[-1]
    rows = columns_of(case, list(case.history.rows))
    made = fold(layout, nothing(layout, 1), rows, now_us=now_us, revisions=[5])
    served, kept = made.served[0], made.kept[0]
    evaluate = window_evaluator(layout, case.rows, range(len(case.windows)))
    for state, read in (
        (served, lambda s: evaluate(s, now_us)),
        (kept, lambda s: decode_states(layout, [s])),
    ):
        damaged = bytearray(state)
        at = data.draw(st.integers(0, len(state) - 1))
        damaged[at] ^= data.draw(st.integers(1, 255))
        cut = data.draw(st.integers(0, len(state)))
        for wrong in (bytes(damaged), state[:cut], state + b"\xff"):
            with suppress(CorruptRow):
                read(wrong)
    other = replace(layout, tag=8)
    with pytest.raises(CorruptRow, match="another version"):
        decode_states(other, [kept])
    with pytest.raises(CorruptRow, match="another version"):
        window_evaluator(other, case.rows, range(len(case.windows)))(served, now_us)

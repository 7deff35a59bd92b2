"""Random windowed views that sit on boundaries: their rows, functions and requests, an engine's
answer and the oracle's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featurestore.aggregates import AGGREGATES, checked_parameters, output_dtype
from featurestore.compiler.rel import Input, WindowChanges, WindowFunction, WindowJoin
from featurestore.dtypes import BOOL, INT64, MAP_KEYS, STRING, TIMESTAMP, DType, map_of
from featurestore.engines.base import BATCH_ROWS, Engine
from featurestore.statuses import Status
from featurestore.testing.compare import (
    AT,
    ID,
    LEFT,
    STATUS,
    as_of_input,
    check_same_rows,
    run,
    scan,
    stamped,
)
from featurestore.testing.data import (
    GRIDS_US,
    KEY_SHAPES,
    KEY_VALUES,
    ORIGINS_US,
    VALUES,
    Asking,
    Case,
    Choose,
    Times,
    make_rows,
    write_case,
)
from featurestore.testing.oracle import RowShape, Value
from featurestore.testing.oracle_windows import (
    History,
    Windowed,
    agrees,
    counted,
    inputs_of,
    window_answer,
    window_changes,
)
from featurestore.timeline import INSTANT_US_MAX, INSTANT_US_MIN
from featurestore.windows import reach_us

SHOWN_MAX = 6_000
_FLAG, _ID = "flag", "event id"
_TYPES: tuple[DType, ...] = tuple(dtype for dtype in VALUES if dtype.item is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCase:
    """A source and requests (`case`), and a windowed view of it: its functions by output column.
    `event_id` is a column of the source, or None."""

    case: Case
    windows: Mapping[str, Windowed]
    event_id: str | None
    correction_horizon_us: int

    @property
    def history(self) -> History:
        """The source's rows as the oracle reads them."""
        return History(
            rows=self.case.settled(),
            event_id=self.event_id,
            correction_horizon_us=self.correction_horizon_us,
            as_of=self.case.as_of,
            known_until_us=self.case.known_until_us,
        )


def make_window_case(
    choose: Choose,
    *,
    rows_max: int = 24,
    requests_max: int = 16,
    grid_us: int | None = None,
    origin_us: int | None = None,
    created: bool | None = None,
) -> WindowCase:
    """A case of at most so many rows and requests, on the grid and from the origin given, or any
    others; with a created time in its source or not."""
    grid_us = choose(GRIDS_US) if grid_us is None else grid_us
    jitters = choose(((0,), (0,) * 6 + (1, -1)))
    origin_us = choose(ORIGINS_US) if origin_us is None else origin_us
    times = Times(choose, grid_us, origin_us, choose((4, 8, 16)), jitters)
    keys = choose(KEY_SHAPES)
    kinds = {f"v{n}": choose(_TYPES) for n in range(2)} | {"list": choose(tuple(VALUES))}
    event_id = choose((None, _ID, _ID))
    has_created = choose((True, True, False)) if created is None else created
    shape = RowShape(
        keys=tuple(keys),
        event_time="observed at",
        created_time="published at" if has_created else None,
        op=choose((None, "op")) if event_id is not None else None,
        tiebreak=tuple(sorted((*kinds, _FLAG))),
    )
    dtypes = {**keys, **kinds, _FLAG: BOOL, "observed at": TIMESTAMP}
    dtypes |= {name: TIMESTAMP for name in [shape.created_time] if name is not None}
    dtypes |= {name: STRING for name in [shape.op] if name is not None}
    dtypes |= {name: choose((INT64, STRING)) for name in [event_id] if name is not None}
    rows = make_rows(choose, times, shape, dtypes, choose(range(rows_max + 1)))
    rows = _with_few_ids(choose, rows, event_id, dtypes)
    windows = _windows(choose, kinds, grid_us)
    spans = (0, *(w.delay_us + 1 for w in windows.values()), *_leaving(windows, grid_us))
    asking = Asking(choose, times, shape, dtypes, rows)
    requests = asking.requests(spans, choose(range(1, requests_max + 1)))
    case = Case(
        dtypes=dtypes,
        shape=shape,
        features=(),
        rows=rows,
        requests=requests,
        as_of=choose(("known", "known", "event")),
        known_until_us=choose((None, None, times.asked())),
        ttl_us=None,
        grace_us=None,
        bounds={},
        unit="us",
        zone=None,
        files=choose((1, 2)),
    )
    return WindowCase(
        case=case,
        windows=windows,
        event_id=event_id,
        correction_horizon_us=choose((0, grid_us, 3 * grid_us, 100 * grid_us)),
    )


def _leaving(windows: Mapping[str, Windowed], grid_us: int) -> list[int]:
    spans = [w.window_us + w.delay_us for w in windows.values() if w.window_us is not None]
    return [span + extra for span in spans for extra in (0, 1, grid_us)]


def _with_few_ids(
    choose: Choose,
    rows: Sequence[Mapping[str, Value]],
    event_id: str | None,
    dtypes: Mapping[str, DType],
) -> tuple[Mapping[str, Value], ...]:
    """Few events, so that most of them are corrected."""
    if event_id is None:
        return tuple(rows)
    pool = KEY_VALUES[dtypes[event_id]]
    few = [choose(pool) for _ in range(3)] + list(pool[:2])
    return tuple({**row, event_id: choose(few)} for row in rows)


def _windows(choose: Choose, kinds: Mapping[str, DType], grid_us: int) -> dict[str, Windowed]:
    found = {}
    buckets = {**kinds, _FLAG: BOOL}
    for number in range(choose((1, 2, 4))):
        function, column = choose(tuple(AGGREGATES)), choose((*kinds, None))
        dtype = None if column is None else kinds[column]
        try:
            output_dtype(function, dtype)
        except ValueError:
            function = "count"
        given = {"n": choose((1, 2, 3)), "q": choose((0.5, 0.0, 0.9, 1.0)), "error": 0.1}
        wanted = {name: given[name] for name in AGGREGATES[function].parameters}
        window_us = choose((grid_us, 2 * grid_us, 3 * grid_us + 1, 5 * grid_us, None))
        hop_us = choose((0, grid_us, 2 * grid_us, max(grid_us // 2, 1)))
        found[f"o{number}"] = Windowed(
            function=function,
            value=column,
            dtype=dtype,
            condition=choose((None, None, _FLAG)),
            window_us=window_us,
            delay_us=choose((0, 0, 1, grid_us)),
            hop_us=hop_us if window_us is None else min(hop_us, window_us),
            parameters=checked_parameters(function, wanted),
            bucket=choose((None, None, *(n for n, t in buckets.items() if t.kind in MAP_KEYS))),
        )
    return found


# --- both answers ---------------------------------------------------------------------------------


def window_rel(wanted: WindowCase, folder: Path) -> WindowJoin:
    """The case's question. Its left columns are an id, the time, and the keys as `asked …`."""
    case = wanted.case
    keys = {f"asked {key}": key for key in case.shape.keys}
    left = {ID: INT64, AT: INT64} | {column: case.dtypes[key] for column, key in keys.items()}
    return WindowJoin(
        left=Input(name=LEFT, dtypes=left),
        right=stamped(scan(write_case(case, folder), case.dtypes), case.shape),
        keys=keys,
        left_time=AT,
        functions={
            out: WindowFunction(
                dtype=_output_dtype(window, case.dtypes),
                function=window.function,
                value=window.value,
                argument=window.dtype,
                condition=window.condition,
                window_us=window.window_us,
                delay_us=window.delay_us,
                hop_us=window.hop_us,
                parameters=window.parameters,
                bucket=window.bucket,
            )
            for out, window in wanted.windows.items()
        },
        status=STATUS,
        as_of=case.as_of,
        known_until_us=case.known_until_us,
        event_id=wanted.event_id,
        correction_horizon_us=wanted.correction_horizon_us,
        reach_us=reach_us(wanted.windows.values()),
    )


def changes_rel(
    wanted: WindowCase,
    folder: Path,
    *,
    start_us: int | None = None,
    end_us: int | None = None,
    with_status: bool = True,
) -> WindowChanges:
    """When the answers of `window_rel` change: its keys, and `AT`."""
    join = window_rel(wanted, folder)
    return WindowChanges(
        right=join.right,
        keys=join.keys,
        functions=join.functions,
        at=AT,
        start_us=start_us,
        end_us=end_us,
        with_status=with_status,
        as_of=join.as_of,
        known_until_us=join.known_until_us,
        event_id=join.event_id,
        correction_horizon_us=join.correction_horizon_us,
        reach_us=join.reach_us,
    )


def _output_dtype(window: Windowed, dtypes: Mapping[str, DType]) -> DType:
    plain = output_dtype(window.function, window.dtype)
    return plain if window.bucket is None else map_of(dtypes[window.bucket], plain)


def compare_windows(
    engine: Engine, wanted: WindowCase, folder: Path, *, batch_rows: int = BATCH_ROWS
) -> None:
    """Raise `AssertionError` where the engine's windows of the case are not the oracle's."""
    rel = window_rel(wanted, folder)
    asked = as_of_input(wanted.case)
    found = run(engine, rel, inputs={LEFT: asked}, batch_rows=batch_rows)
    assert len(found) == len(wanted.case.requests)
    history = wanted.history
    for row, request in zip(found, wanted.case.requests, strict=True):
        assert row[AT] == request.at_us, "the order of the left rows is another one"
        expected = window_answer(history, request.key, request.at_us, wanted.windows)
        events = history.events(request.key, request.at_us)
        about = f"{request}\n{wanted!r}"[:SHOWN_MAX]
        status = Status(row[STATUS])
        assert status is expected.status, f"{status}, not {expected.status}\n{about}"
        for name, window in wanted.windows.items():
            values = inputs_of(events, request.at_us, window, wanted.event_id)
            assert agrees(row[name], expected.values[name], values, window), (
                f"{name} {window} is {row[name]!r}, not {expected.values[name]!r}, "
                f"over {values}\n{about}"
            )


def compare_changes(engine: Engine, wanted: WindowCase, folder: Path, choose: Choose) -> None:
    """Raise `AssertionError` where the engine's instants, of a span that `choose` draws, are not
    the oracle's, or something else counts between two of them."""
    instants = sorted({r.at_us for r in wanted.case.requests})
    start_us = choose((None, *instants))
    end_us = choose((None, *(at + 1 for at in instants if start_us is None or at >= start_us)))
    with_status = choose((True, False))
    rel = changes_rel(wanted, folder, start_us=start_us, end_us=end_us, with_status=with_status)
    found = run(engine, rel)
    first_us = INSTANT_US_MIN if start_us is None else start_us
    last_us = 2 * INSTANT_US_MAX if end_us is None else end_us
    history, windows = wanted.history, list(wanted.windows.values())
    changes = {
        key: window_changes(
            history, key, windows, start_us=first_us, end_us=last_us, with_status=with_status
        )
        for key in {row.key for row in history.rows if None not in row.key}
    }
    expected = [
        dict(zip((*rel.keys, AT), (*key, at), strict=True))
        for key, ats in changes.items()
        for at in ats
    ]
    check_same_rows(found, expected, wanted)
    for request in wanted.case.requests:
        before = [at for at in changes.get(request.key, []) if at <= request.at_us]
        if not before or request.at_us >= last_us:
            continue
        now, then = (
            counted(history, request.key, at, windows, with_status=with_status)
            for at in (request.at_us, before[-1])
        )
        assert now == then, f"what counts at {request} is not what counted at {before[-1]}"

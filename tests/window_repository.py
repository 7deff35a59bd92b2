"""Random repositories of windowed views beside a latest one, all of one source: their definitions,
rows, and what the oracle answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from case_repository import SETTINGS, land

from featurestore.aggregates import AGGREGATES, checked_parameters, output_dtype
from featurestore.dtypes import BOOL, FLOAT64, INT32, INT64, MAP_KEYS, STRING, TIMESTAMP
from featurestore.statuses import Status
from featurestore.testing.data import (
    KEY_SHAPES,
    KEY_VALUES,
    VALUES,
    Case,
    Choose,
    Times,
    make_rows,
)
from featurestore.testing.oracle import (
    Key,
    Row,
    RowShape,
    Value,
    answer,
    read_value,
    settle,
    winner,
)
from featurestore.testing.oracle_windows import (
    History,
    Windowed,
    agrees,
    inputs_of,
    window_answer,
)
from featurestore.timeline import DAY_US
from featurestore.windows import HOP_AUTO, HOP_EXACT, auto_hop_us

EVENT, CREATED, EVENT_ID, OP, FLAG = "observed at", "published at", "event id", "op", "flag"
ARRIVED = "arrived"
"""In a row of a source without a created time: when it was pushed."""
HEADER = """\
from datetime import timedelta

from featurestore import (
    Aggregation, Entity, Feature, FeatureService, FeatureView, FileSource, OnDemandFeatureView
)

"""
ON_DEMAND = ("Feature('is_known', 'o0 IS NOT NULL')", "Feature('asked_at', 'request_time()')")
"""What is computed of a window when it is asked for: see `check_on_demand`."""
Raw = Mapping[str, Value]
"""A row as it is written or pushed."""
_SCALARS = tuple(dtype for dtype in VALUES if dtype.item is None)
_NUMBERS = (INT64, FLOAT64, INT32)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view of the source by some of its keys: windows, or (`windows` empty) the latest values of
    `features`. `hops` says how the hop of each window is written."""

    name: str
    keys: tuple[str, ...]
    windows: Mapping[str, Windowed]
    hops: Mapping[str, str]
    features: tuple[str, ...] = ()
    horizon_us: int = 0
    ttl_us: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its features."""
        return tuple(self.windows) or self.features


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source: its rows and how they are read (`case`), the declared tiebreak, the column of
    event ids (None: there is none)."""

    case: Case
    tiebreak: tuple[str, ...]
    event_id: str | None
    lateness_us: int

    def rows_of(self, view: View, raw: Sequence[Raw]) -> list[Row]:
        """Rows as the oracle reads them for a view: what decides between rows of equal times is
        first what the source declares."""
        others = _read_by(view) if view.windows else sorted(self.case.dtypes)
        tiebreak = tuple(dict.fromkeys((*self.tiebreak, *others)))
        shape = replace(self.case.shape, keys=view.keys, tiebreak=tiebreak)
        found = [self._settled(one, shape) for one in raw]
        return [row for row in found if row is not None]

    def known_us(self, raw: Raw) -> int | None:
        """When a row is known; None where every view skips it. (One without keys skips none for a
        key that is NULL.)"""
        row = self._settled(raw, replace(self.case.shape, keys=()))
        return None if row is None else row.known_us

    def arrived(self, raw: Raw, at_us: int) -> Raw:
        """A row that was pushed at an instant, which is its created time where it has none."""
        name = self.case.shape.created_time or ARRIVED
        return raw if raw.get(name) is not None else {**raw, name: at_us}

    def _settled(self, raw: Raw, shape: RowShape) -> Row | None:
        dtypes = self.case.dtypes
        row = settle({name: read_value(raw[name], dtypes[name]) for name in dtypes}, shape)
        if row is not None and ARRIVED in raw:
            row = replace(row, created_us=raw[ARRIVED])
        return row

    def history(self, view: View, rows: Sequence[Row]) -> History:
        """The rows with the rules of the view."""
        return History(rows=rows, event_id=self.event_id, correction_horizon_us=view.horizon_us)


def _read_by(view: View) -> list[str]:
    columns = [c for w in view.windows.values() for c in (w.value, w.condition, w.bucket)]
    return sorted({column for column in columns if column is not None})


# --- what is drawn --------------------------------------------------------------------------------


def make_source(
    choose: Choose, *, rows_max: int, grid_us: int, origin_us: int, with_ids: bool
) -> Source:
    """A source whose rows sit on the grid."""
    jitters = choose(((0,), (0,) * 6 + (1, -1)))
    times = Times(choose, grid_us, origin_us, choose((8, 4, 16)), jitters)
    keys = choose(KEY_SHAPES)
    kinds = {"v0": choose(_NUMBERS), "v1": choose(_SCALARS), "v2": choose(tuple(VALUES))}
    shape = RowShape(
        keys=tuple(keys),
        event_time=EVENT,
        created_time=choose((CREATED, CREATED, None)),
        op=choose((OP, None)) if with_ids else None,
    )
    dtypes = {**keys, **kinds, FLAG: BOOL, EVENT: TIMESTAMP}
    dtypes |= {CREATED: TIMESTAMP} if shape.created_time is not None else {}
    dtypes |= {OP: STRING} if shape.op is not None else {}
    dtypes |= {EVENT_ID: choose((INT64, STRING))} if with_ids else {}
    rows = make_rows(choose, times, shape, dtypes, choose(range(rows_max // 2, rows_max + 1)))
    if with_ids:
        # Few events, so that most of them are corrected.
        ids = [one for one in KEY_VALUES[dtypes[EVENT_ID]] if one is not None]
        rows = tuple({**row, EVENT_ID: choose((*ids, *ids, None))} for row in rows)
    case = Case(
        dtypes=dtypes,
        shape=shape,
        features=(),
        rows=rows,
        requests=(),
        as_of="known",
        known_until_us=None,
        ttl_us=None,
        grace_us=None,
        bounds={},
        unit="us",
        zone="UTC",
        files=1,
    )
    return Source(
        case=case,
        tiebreak=choose(((), ("v1",), (FLAG,))),
        event_id=EVENT_ID if with_ids else None,
        lateness_us=choose((0, 2 * grid_us, 20 * grid_us)),
    )


def make_view(choose: Choose, name: str, source: Source, grid_us: int) -> View:
    """A windowed view."""
    windows: dict[str, Windowed] = {}
    hops: dict[str, str] = {}
    kinds = {column: source.case.dtypes[column] for column in ("v0", "v1", "v2")}
    buckets = [n for n, dtype in {**kinds, FLAG: BOOL}.items() if dtype.kind in MAP_KEYS]
    for _ in range(choose((1, 2))):
        function, column = choose(tuple(AGGREGATES)), choose((*kinds, None))
        dtype = None if column is None else kinds[column]
        try:
            output_dtype(function, dtype)
        except ValueError:
            function = "count"
        given = {"n": choose((1, 2, 3)), "q": choose((0.5, 0.0, 0.9, 1.0)), "error": 0.1}
        wanted = {name: given[name] for name in AGGREGATES[function].parameters}
        condition, delay_us = choose((None, None, FLAG)), choose((0, 0, 1, grid_us))
        bucket = choose((None, None, None, *buckets))
        for _ in range(choose((1, 2))):
            window_us = choose((grid_us, 2 * grid_us, 3 * grid_us + 1, 5 * grid_us, None))
            hop_us, written = _hop(choose, window_us, grid_us)
            feature = f"o{len(windows)}"
            hops[feature] = written
            windows[feature] = Windowed(
                function=function,
                value=column,
                dtype=dtype,
                condition=condition,
                window_us=window_us,
                delay_us=delay_us,
                hop_us=hop_us,
                parameters=checked_parameters(function, wanted),
                bucket=bucket,
            )
    return View(
        name=name,
        keys=choose((source.case.shape.keys, source.case.shape.keys, ())),
        windows=windows,
        hops=hops,
        horizon_us=choose((0, grid_us, 3 * grid_us, 100 * grid_us)),
    )


def _hop(choose: Choose, window_us: int | None, grid_us: int) -> tuple[int, str]:
    kind = choose((HOP_AUTO, HOP_EXACT, "steps", "steps"))
    auto_us = auto_hop_us(window_us)
    if kind == HOP_AUTO and (window_us is None or auto_us <= window_us):
        return auto_us, repr(HOP_AUTO)
    if kind == HOP_EXACT:
        return 0, repr(HOP_EXACT)
    hop_us = choose((grid_us, 2 * grid_us, max(grid_us // 2, 1)))
    hop_us = hop_us if window_us is None else min(hop_us, window_us)
    return hop_us, _duration(hop_us)


def latest_view(choose: Choose, name: str, source: Source, grid_us: int) -> View:
    """A view of the latest values."""
    return View(
        name=name,
        keys=source.case.shape.keys,
        windows={},
        hops={},
        features=("v0", "v2"),
        ttl_us=choose((None, 2 * grid_us, 5 * grid_us)),
    )


# --- the repository -------------------------------------------------------------------------------


def write_definitions(
    folder: Path, source: Source, views: Sequence[View], *, project: str, online: str
) -> None:
    """A service `everything` of the views, and their source."""
    dtypes = source.case.dtypes
    keys = {view.keys: {key: str(dtypes[key]) for key in view.keys} for view in views if view.keys}
    lines = [f"e{n} = Entity('e{n}', join_keys={of!r})" for n, of in enumerate(keys.values())]
    entities = {of: f"e{n}" for n, of in enumerate(keys)}
    lines.append(_source_text(source))
    lines += [_view_text(view, entities.get(view.keys, "")) for view in views]
    lines.append(f"d0 = OnDemandFeatureView('d0', [w0], [{', '.join(ON_DEMAND)}])")
    listed = ", ".join(["d0", *(view.name for view in views)])
    lines.append(f"everything = FeatureService('everything', features=[{listed}])")
    (folder / "definitions.py").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    (folder / "featurestore.toml").write_text(SETTINGS.format(name=project, online=online))


def _source_text(source: Source) -> str:
    shape = source.case.shape
    given = ["'s0'", "'data/s0/*.parquet'", repr(EVENT)]
    given += [repr(shape.created_time)] if shape.created_time else []
    given += [f"op={OP!r}"] if shape.op else []
    given += [f"event_id={EVENT_ID!r}"] if source.event_id else []
    given.append(f"tiebreak={source.tiebreak!r}")
    given.append(f"lateness={_duration(source.lateness_us)}")
    return f"s0 = FileSource({', '.join(given)})"


def _view_text(view: View, entity: str) -> str:
    given = [repr(view.name), f"entities=[{entity}]", "source=s0"]
    if view.windows:
        given.append(f"features=[{', '.join(_feature_text(view, name) for name in view.windows)}]")
        given.append(f"correction_horizon={_duration(view.horizon_us)}")
    else:
        features = ", ".join(f"Feature({name!r})" for name in view.features)
        ttl = "None" if view.ttl_us is None else _duration(view.ttl_us)
        given += [f"features=[{features}]", f"ttl={ttl}"]
    return f"{view.name} = FeatureView({', '.join(given)})"


def _feature_text(view: View, name: str) -> str:
    window = view.windows[name]
    length = "'lifetime'" if window.window_us is None else _duration(window.window_us)
    given = [repr(window.value or "*"), repr(window.function), f"window={length}", f"name={name!r}"]
    given += [f"delay={_duration(window.delay_us)}", f"hop={view.hops[name]}"]
    given += [f"where={window.condition!r}"] if window.condition else []
    given += [f"by={window.bucket!r}"] if window.bucket else []
    given += [f"{key}={value!r}" for key, value in window.parameters.items()]
    return f"Aggregation({', '.join(given)})"


def _duration(duration_us: int) -> str:
    days, rest = divmod(duration_us, DAY_US)
    return f"timedelta(days={days}, microseconds={rest})"


def land_rows(folder: Path, source: Source, name: str, raw: Sequence[Raw]) -> None:
    """Rows as one more file of the source."""
    land(folder, 0, replace(source.case, rows=tuple(raw)), name, range(len(raw)))


# --- what is right --------------------------------------------------------------------------------


def check_answer(
    source: Source,
    view: View,
    rows: Sequence[Row],
    *,
    key: Key,
    at_us: int,
    found: Mapping[str, Any],
) -> None:
    """Raise `AssertionError` unless `found` (`status` and the view's features, and for online
    answers `{feature} status`) is what the oracle says."""
    history = source.history(view, rows)
    if view.windows:
        expected = window_answer(history, key, at_us, view.windows)
        events = history.events(key, at_us)
    else:
        best = winner(rows, key, at_us)
        expected = answer(best, at_us, view.features, ttl_us=view.ttl_us)
        events = []
    if "status" in found:
        assert found["status"] == expected.status.name, (view.name, key, at_us, expected)
    for name in view.names:
        window = view.windows.get(name) or Windowed(function="last", window_us=None)
        values = inputs_of(events, at_us, window, source.event_id) if view.windows else []
        wanted = expected.values[name]
        assert agrees(found[name], wanted, values, window), (
            f"{view.name}.{name} of {key} at {at_us} is {found[name]!r}, not {wanted!r}, over "
            f"{values}: {window}"
        )
        if f"{name} status" in found:
            null = expected.status is Status.PRESENT and found[name] is None
            status = Status.NULL_VALUE if null else expected.status
            assert found[f"{name} status"] == status.name, (view.name, name, key, at_us, expected)


def keys_of(source: Source) -> list[Key]:
    """The keys of all rows, and one that may have none."""
    names, dtypes = source.case.shape.keys, source.case.dtypes
    other = tuple(KEY_VALUES[dtypes[name]][1] for name in names)
    rows = source.case.rows
    return list(dict.fromkeys([*(tuple(row[name] for name in names) for row in rows), other]))


def check_on_demand(found: Mapping[str, Any], at_us: int) -> None:
    """Raise `AssertionError` unless what is on demand in a whole row follows from its windows."""
    assert found["d0__is_known"] is (found["w0__o0"] is not None), (at_us, found)
    assert found["d0__asked_at"] == at_us, found
    assert found.get("d0__is_known status", "PRESENT") == "PRESENT", (at_us, found)

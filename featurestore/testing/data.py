"""Random cases that sit on boundaries, and the Parquet files that hold them.

A case is drawn through a `Choose` function, so that the same generator serves seeded loops
(`random.Random(seed).choice`) and property tests (a draw that can be shrunk). Its event times and
request times fall on one grid, its ttl is a multiple of the grid, and there are ties, late rows,
repetitions, tombstones and NULLs: random milliseconds would hide every boundary bug.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from featurestore.compiler.rel import DataFiles
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
    Kind,
    parse,
    to_arrow,
)
from featurestore.testing.oracle import (
    AsOf,
    Key,
    Row,
    RowShape,
    Value,
    floor_us,
    read_value,
    settle_all,
)
from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US, SECOND_US

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

T = TypeVar("T")


class Choose(Protocol):
    """Picks one of a non-empty sequence; simpler options come first."""

    def __call__(self, options: Sequence[T], /) -> T: ...


def seeded(seed: int) -> Choose:
    """The choices of a random generator."""
    return random.Random(seed).choice  # noqa: S311 - test data, no secrets


# --- cases ----------------------------------------------------------------------------------------

GRIDS_US = (HOUR_US, DAY_US, 5 * MINUTE_US, 1_000, 1)
ORIGINS_US = (
    0,
    -5 * DAY_US,
    1_362_898_800 * SECOND_US,  # 2013-03-10T07:00Z: New York's clocks go forward
    1_383_458_400 * SECOND_US,  # 2013-11-03T06:00Z: they go back
    4_102_444_800 * SECOND_US,  # 2100-01-01
)
BESIDE_US = (0, 0, 0, 1, -1)
ZONES = (None, "UTC", "America/New_York")

KEY_SHAPES: tuple[Mapping[str, DType], ...] = (
    {"plane": STRING},
    {"number": INT64},
    {"origin": STRING, "dest": INT64},
    {"blob": BYTES},
    {},
)
KEY_VALUES: Mapping[DType, Sequence[Value]] = {
    STRING: ("1", "12", "1", "12", "", "ß\0", None),
    INT64: (3, 23, 3, 23, 2**53 + 1, -1, None),
    BYTES: (b"a", b"", b"a", b"\0", None),
}

VALUES: Mapping[DType, Sequence[Value]] = {
    INT64: (0, 1, 2**53 + 1, -(2**63), 2**63 - 1, None),
    INT32: (0, -1, 2**31 - 1, None),
    FLOAT64: (0.0, -0.0, 1.5, -1e308, float("inf"), float("nan"), None),
    FLOAT32: (0.0, -0.0, 0.5, float("-inf"), float("nan"), None),
    STRING: ("a", "", "A", "aa", "ß", "🛫", "a\0", None),
    BOOL: (False, True, None),
    BYTES: (b"", b"\0", b"\xff", None),
    DATE: (date(1970, 1, 1), date(1969, 12, 31), date(2013, 3, 10), None),
    TIMESTAMP: (0, -1_000_000, 1_362_898_800_000_000, None),
    parse("decimal(12,2)"): (Decimal("0.00"), Decimal("-1.10"), Decimal("9999999999.99"), None),
    parse("list<int64>"): ([], [1], [1, 2], [None], [2**53 + 1, None], None),
    parse("list<float64>"): ([0.0], [-0.0], [float("nan"), 1.0], [], [1.0, None], None),
    parse("list<string>"): (["a"], ["a", ""], [None, "a"], [], None),
}
COLUMN_NAMES = ("value", "rn", "select", "größe", "row_id", "order", "key")


@dataclass(frozen=True, slots=True)
class Request:
    """An entity row: the values of the join keys, and the time that is asked about."""

    key: Key
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A source, a view of it, and questions. `rows` hold the values as the files do (NaN and −0.0
    among them, instants as µs); `unit`, `zone` and `files` say how they are written."""

    dtypes: Mapping[str, DType]
    shape: RowShape
    features: tuple[str, ...]
    rows: tuple[Mapping[str, Value], ...]
    requests: tuple[Request, ...]
    as_of: AsOf
    known_until_us: int | None
    ttl_us: int | None
    grace_us: int | None
    bounds: Mapping[str, int | None]
    unit: str
    zone: str | None
    files: int

    def settled(self) -> list[Row]:
        """The rows as the oracle reads them."""
        read = [
            {name: read_value(row[name], dtype) for name, dtype in self.dtypes.items()}
            for row in self.rows
        ]
        return settle_all(read, self.shape)


@dataclass(frozen=True, slots=True)
class Times:
    """The instants of one case: a handful of points on a grid, and 1 µs beside them."""

    choose: Choose
    grid_us: int
    origin_us: int
    points: int
    jitters_us: Sequence[int]

    def of_row(self, *, nulls: int) -> int | None:
        """A time of a row: a point, or NULL so many times out of ten."""
        if self.choose((False,) * (10 - nulls) + (True,) * nulls):
            return None
        return self._point() + self.choose(self.jitters_us)

    def asked(self) -> int:
        """A time or a bound that is asked for: a point, or the instant before or after it."""
        return self._point() + self.choose(BESIDE_US)

    def span(self) -> int:
        return self.choose((1, 2, 3)) * self.grid_us

    def _point(self) -> int:
        return self.origin_us + self.choose(range(self.points)) * self.grid_us


def make_case(
    choose: Choose,
    *,
    rows_max: int = 24,
    requests_max: int = 16,
    grid_us: int | None = None,
    origin_us: int | None = None,
) -> Case:
    """A case of at most so many rows and requests, on the grid and from the origin given, or any
    others."""
    times = Times(
        choose,
        choose(GRIDS_US) if grid_us is None else grid_us,
        choose(ORIGINS_US) if origin_us is None else origin_us,
        choose((4, 8, 16)),
        choose(((0,), (0,) * 6 + (1, -1))),
    )
    keys = choose(KEY_SHAPES)
    names = list(dict.fromkeys((COLUMN_NAMES[0], choose(COLUMN_NAMES), choose(COLUMN_NAMES))))
    features = {name: choose(tuple(VALUES)) for name in names} | {names[0]: INT64}
    shape = _shape(choose, keys, features)
    dtypes = _columns(shape, keys, features)
    rows = make_rows(choose, times, shape, dtypes, choose(range(rows_max + 1)))
    ttl_us = choose((None, times.span(), times.span()))
    grace_us = None if ttl_us is None else choose((ttl_us, 0, times.span()))
    spans = (0, 0, ttl_us or 0, (ttl_us or 0) + (grace_us or 0))
    asking = Asking(choose, times, shape, dtypes, rows)
    unit = _unit(choose, dtypes, rows)
    return Case(
        dtypes=dtypes,
        shape=shape,
        features=tuple(features),
        rows=rows,
        requests=asking.requests(spans, choose(range(1, requests_max + 1))),
        as_of=choose(("known", "event")),
        known_until_us=choose((None, times.asked())),
        ttl_us=ttl_us,
        grace_us=grace_us,
        bounds=_bounds(choose, times, shape, rows),
        unit=unit,
        # What an engine makes of zoned ns before 1970 is a case of its own in the contract.
        zone=None if unit == "ns" else choose(ZONES),
        files=choose((1, 2, 3)),
    )


def _shape(choose: Choose, keys: Mapping[str, DType], features: Mapping[str, DType]) -> RowShape:
    created = choose(("published at", "published at", None))
    op = choose((None, "op"))
    columns = sorted({*keys, *features, "observed at", *filter(None, (created, op))})
    first = choose(columns)
    return RowShape(
        keys=tuple(keys),
        event_time="observed at",
        created_time=created,
        op=op,
        tiebreak=choose((tuple(columns), (first, *(c for c in columns if c != first)))),
    )


def _columns(
    shape: RowShape, keys: Mapping[str, DType], features: Mapping[str, DType]
) -> dict[str, DType]:
    columns = {**keys, **features, shape.event_time: TIMESTAMP}
    if shape.created_time is not None:
        columns[shape.created_time] = TIMESTAMP
    if shape.op is not None:
        columns[shape.op] = STRING
    return columns


def make_rows(
    choose: Choose, times: Times, shape: RowShape, dtypes: Mapping[str, DType], count: int
) -> tuple[Mapping[str, Value], ...]:
    """Rows of few keys, some of them there twice."""
    pools = {key: [choose(KEY_VALUES[dtypes[key]]) for _ in range(3)] for key in shape.keys}
    rows: list[Mapping[str, Value]] = []
    while len(rows) < count:
        repeat: bool = choose((False,) * 7 + (True,))
        if rows and repeat:
            rows.append(choose(rows))
            continue
        row = {name: choose(VALUES[dtype]) for name, dtype in dtypes.items()}
        row |= {key: choose(pools[key]) for key in shape.keys}
        row[shape.event_time] = times.of_row(nulls=1)
        if shape.created_time is not None:
            row[shape.created_time] = times.of_row(nulls=3)
        if shape.op is not None:
            row[shape.op] = choose(("U", "U", "D", None))
        rows.append(row)
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class Asking:
    """Makes requests: most of them for the key of a row, just when its answer changes."""

    choose: Choose
    times: Times
    shape: RowShape
    dtypes: Mapping[str, DType]
    rows: Sequence[Mapping[str, Value]]

    def requests(self, spans_us: Sequence[int], count: int) -> tuple[Request, ...]:
        """Requests at the times of rows and of the grid, or one of `spans_us` later."""
        made: list[Request] = []
        while len(made) < count:
            kind = self.choose(("row", "row", "grid", "again"))
            if kind == "again" and made:
                made.append(self.choose(made))
            elif kind == "row" and self.rows:
                made.append(self._about(self.choose(self.rows), self.choose(spans_us)))
            else:
                key = tuple(self.choose(KEY_VALUES[self.dtypes[k]]) for k in self.shape.keys)
                made.append(Request(key, self.times.asked() + self.choose(spans_us)))
        return tuple(made)

    def _about(self, row: Mapping[str, Value], span_us: int) -> Request:
        names = [name for name in (self.shape.event_time, self.shape.created_time) if name]
        instants = [row[name] for name in names if row[name] is not None]
        at_us: int = self.choose(instants or [self.times.asked()])
        key = tuple(row[name] for name in self.shape.keys)
        return Request(key, at_us + span_us + self.choose(BESIDE_US))


def _bounds(
    choose: Choose, times: Times, shape: RowShape, rows: Sequence[Mapping[str, Value]]
) -> dict[str, int | None]:
    """Bounds of the known and the event time, most of them at the times of rows."""
    settled = settle_all(rows, shape)
    known = [row.known_us for row in settled] or [times.asked()]
    events = [row.event_us for row in settled] or [times.asked()]
    bounds: dict[str, int | None] = {}
    for name, instants in (
        ("known_after_us", known),
        ("known_until_us", known),
        ("event_from_us", events),
        ("event_to_us", events),
    ):
        bounds[name] = choose((None, None, times.asked(), choose(instants), choose(instants) + 1))
    return bounds


def _unit(choose: Choose, dtypes: Mapping[str, DType], rows: Sequence[Mapping[str, Value]]) -> str:
    """A unit that holds all instants of the rows."""
    instants = [
        row[name] or 0 for row in rows for name, dtype in dtypes.items() if dtype == TIMESTAMP
    ]
    units = ["us", "ns"]
    if all(instant % 1_000 == 0 for instant in instants):
        units.append("ms")
    if all(instant % SECOND_US == 0 for instant in instants):
        units.append("s")
    return choose(units)


# --- Arrow and Parquet ----------------------------------------------------------------------------


def to_array(
    values: Sequence[Value], dtype: DType, *, unit: str = "us", zone: str | None = "UTC"
) -> pa.Array:
    """The values as Arrow; instants (given in µs) in `unit`, in ns with some nanoseconds more
    than the µs, which readers floor away."""
    import pyarrow as pa

    if dtype.kind is not Kind.TIMESTAMP:
        return pa.array(values, to_arrow(dtype))
    return pa.array([_scaled(value, unit) for value in values], pa.int64()).cast(
        pa.timestamp(unit, tz=zone)
    )


def _scaled(value_us: int | None, unit: str) -> int | None:
    if value_us is None:
        return None
    scales = {"s": value_us // SECOND_US, "ms": value_us // 1_000, "us": value_us}
    return scales[unit] if unit in scales else value_us * 1_000 + value_us % 7 * 142


def to_rows(table: pa.Table) -> list[dict[str, Value]]:
    """The rows of Arrow data as plain values, instants of any unit as µs."""
    columns = [_values(column) for column in table.columns]
    names = table.column_names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array | pa.ChunkedArray) -> list[Value]:
    import pyarrow as pa

    if pa.types.is_map(column.type):
        return _map_values(column)
    values: list[Value] = column.cast(_plain(column.type)).to_pylist()
    if not pa.types.is_timestamp(column.type) or column.type.unit == "us":
        return values
    scale = {"s": SECOND_US, "ms": 1_000, "ns": None}[column.type.unit]
    in_us = [None if v is None else floor_us(v) if scale is None else v * scale for v in values]
    return list(in_us)


def _map_values(column: pa.Array | pa.ChunkedArray) -> list[Value]:
    found: list[Value] = []
    for chunk in column.chunks if hasattr(column, "chunks") else [column]:
        keys, values = _values(chunk.keys), _values(chunk.items)
        offsets, there = chunk.offsets.to_pylist(), chunk.is_valid().to_pylist()
        for start, stop, is_there in zip(offsets[:-1], offsets[1:], there, strict=True):
            entries = zip(keys[start:stop], values[start:stop], strict=True)
            found.append(dict(entries) if is_there else None)
    return found


def _plain(arrow: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_timestamp(arrow):
        return pa.int64()
    if pa.types.is_list(arrow):
        return pa.list_(_plain(arrow.value_type))
    return arrow


def write_parquet(path: Path, columns: Mapping[str, Any], *, row_group_size: int = 1_000) -> Path:
    """Write Arrow arrays as one Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(dict(columns)), path, row_group_size=row_group_size)
    return path


def parquet_files(paths: Sequence[Path], schema: Mapping[str, DType]) -> DataFiles:
    """The files as a source's resolved file list."""
    return DataFiles(format="parquet", paths=tuple(map(str, paths)), schema=dict(schema))


def write_case(case: Case, folder: Path) -> DataFiles:
    """The case's rows, dealt out to its files. Every file but the first leaves out the columns in
    which it has only NULLs, and holds int64 as int32 where that fits."""
    paths = []
    for number in range(case.files):
        rows = case.rows[number :: case.files]
        columns = {}
        for name, dtype in case.dtypes.items():
            values = [row[name] for row in rows]
            if number and all(value is None for value in values):
                continue
            narrow = INT32 if number and dtype == INT64 and _fits(values) else dtype
            columns[name] = to_array(values, narrow, unit=case.unit, zone=case.zone)
        if columns:
            path = folder / f"part-{number}.parquet"
            paths.append(write_parquet(path, columns, row_group_size=3 + len(rows) // 10))
    return parquet_files(paths, case.dtypes)


def _fits(values: Sequence[int | None]) -> bool:
    return all(-(2**31) <= (value or 0) < 2**31 for value in values)

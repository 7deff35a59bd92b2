"""What the columns of a training set are like: counts, extremes, moments, quantiles, a histogram,
the most frequent values, how many different ones.

One pass, in bounded memory. Counts, extremes, means and deviations are of all rows; the number of
different values is estimated by HyperLogLog from the hashes that the row digest takes anyway
(±1.6 %); quantiles, histogram and frequent values are of a sample of up to `SAMPLE_ROWS_MAX` rows,
each row as likely as any other. Which rows those are hangs on their places alone, so a set that is
built again has the same profile, whatever its batches (but for the last bits of means).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.timeline import format_instant

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

SAMPLE_ROWS_MAX = 65_536
SAMPLE_CELLS_MAX = 4_194_304
"""A wide set has a smaller sample."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 20
TOP_VALUES = 10
TEXT_CHARS_MAX = 64
"""Longer values are cut in a profile."""
_REGISTERS, _INDEX_BITS = 4_096, np.uint64(52)
_MIX, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


class Profiler:
    """Looks at the rows of `schema` as they pass. Of `keys` it counts and never says a value: they
    name people, and profiles are kept for good."""

    def __init__(self, schema: pa.Schema, *, keys: Sequence[str] = ()) -> None:
        self._schema = schema
        self._keys = frozenset(keys)
        self._columns = [_Column() for _ in schema]
        self._sample = _Sample(schema)
        self._rows = 0

    def see(self, number: int, values: pa.Array, lane: npt.NDArray[np.uint64]) -> None:
        """A part of column `number`, and a hash of each of its values."""
        self._columns[number].add(values, lane)

    def add(self, batch: pa.RecordBatch) -> None:
        """The rows of a batch, whose columns were `see`n."""
        self._sample.add(batch, self._rows)
        self._rows += batch.num_rows

    def profile(self) -> dict[str, Any]:
        """`{"rows", "sample_rows", "columns": {name: {…}}}`, all of it plain JSON values."""
        sample = self._sample.table()
        columns = {}
        for name, one in zip(self._schema.names, self._columns, strict=True):
            kind = self._schema.field(name).type
            columns[name] = {"type": str(kind), **one.counts()}
            if name not in self._keys:
                columns[name] |= {**one.measures(kind), **_sampled(sample[name])}
        return {"rows": self._rows, "sample_rows": sample.num_rows, "columns": columns}


@dataclass(slots=True)
class _Column:
    """What is counted over all rows of a column."""

    rows: int = 0
    nulls: int = 0
    numbers: int = 0
    least: Any = None
    greatest: Any = None
    mean: float = 0.0
    squares: float = 0.0
    registers: npt.NDArray[np.uint64] = field(
        default_factory=lambda: np.full(_REGISTERS, ~np.uint64(0), np.uint64)
    )

    def add(self, values: pa.Array, lane: npt.NDArray[np.uint64]) -> None:
        self.rows += len(values)
        self.nulls += values.null_count
        if values.null_count:
            lane = lane[values.is_valid().to_numpy(zero_copy_only=False)]
        if len(lane):
            np.minimum.at(self.registers, (lane >> _INDEX_BITS).astype(np.int64), lane)
            self._measure(values)

    def _measure(self, values: pa.Array) -> None:
        if not _is_ordered(values.type):
            return
        numbers = as_numbers(values)
        finite = numbers[np.isfinite(numbers)] if numbers.dtype.kind == "f" else numbers
        if not len(finite):
            return
        low, high = finite.min().item(), finite.max().item()
        self.least = low if self.least is None else min(self.least, low)
        self.greatest = high if self.greatest is None else max(self.greatest, high)
        # Each part by itself and then merged, so that large means cost no digits.
        count, mean = len(finite), float(finite.mean())
        spread = float(((finite - mean) ** 2).sum())
        total, apart = self.numbers + count, mean - self.mean
        self.squares += spread + apart * apart * self.numbers * count / total
        self.mean += apart * count / total
        self.numbers = total

    def counts(self) -> dict[str, Any]:
        return {"count": self.rows, "nulls": self.nulls, "distinct": self._distinct()}

    def measures(self, kind: pa.DataType) -> dict[str, Any]:
        """Extremes, mean and deviation (of instants in seconds)."""
        if not self.numbers:
            return {}
        deviation = math.sqrt(self.squares / self.numbers)
        return {
            "min": shown(self.least, kind),
            "max": shown(self.greatest, kind),
            "mean": shown(self.mean, kind),
            "std": _finite(deviation / 1e6 if _is_instant(kind) else deviation),
        }

    def _distinct(self) -> int:
        """HyperLogLog (Flajolet et al., 2007), with linear counting below 2.5 m."""
        empty = int((self.registers == ~np.uint64(0)).sum())
        if empty == _REGISTERS:
            return 0
        tails = self.registers & np.uint64((1 << 52) - 1)
        ranks = 53 - np.ceil(np.log2(tails.astype(np.float64) + 1.0))
        ranks[self.registers == ~np.uint64(0)] = 0
        alpha = 0.7213 / (1 + 1.079 / _REGISTERS)
        estimate = alpha * _REGISTERS**2 / float((2.0**-ranks).sum())
        if estimate <= 2.5 * _REGISTERS and empty:
            estimate = _REGISTERS * math.log(_REGISTERS / empty)
        return min(round(estimate), self.rows - self.nulls)


class _Sample:
    """The rows with the smallest priorities, which hang on their places."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._most = min(SAMPLE_ROWS_MAX, max(SAMPLE_CELLS_MAX // max(len(schema), 1), 1_000))
        self._bound = ~np.uint64(0)
        self._parts: list[pa.Table] = []
        self._priorities: list[npt.NDArray[np.uint64]] = []

    def add(self, batch: pa.RecordBatch, start: int) -> None:
        import pyarrow as pa

        priority = np.arange(start, start + batch.num_rows, dtype=np.uint64) * _MIX
        priority = (priority ^ (priority >> _HALF)) * _MIX
        chosen = np.flatnonzero(priority <= self._bound)
        if len(chosen):
            self._parts.append(pa.Table.from_batches([batch]).take(chosen))
            self._priorities.append(priority[chosen])
        if sum(map(len, self._priorities)) > 2 * self._most:
            self._shrink()

    def _shrink(self) -> None:
        import pyarrow as pa

        every = np.concatenate([np.empty(0, np.uint64), *self._priorities])
        table = pa.concat_tables([self._schema.empty_table(), *self._parts])
        if len(every) > self._most:
            kept = np.sort(np.argpartition(every, self._most - 1)[: self._most])
            every, table = every[kept], table.take(kept)
            self._bound = every.max()
        self._parts, self._priorities = [table], [every]

    def table(self) -> pa.Table:
        self._shrink()
        return self._parts[0]


# --- one column of the sample ---------------------------------------------------------------------


def _sampled(values: pa.ChunkedArray) -> dict[str, Any]:
    found: dict[str, Any] = {}
    kind = values.type
    if _is_ordered(kind):
        numbers = as_numbers(values.combine_chunks())
        if numbers.dtype.kind == "f":
            numbers = numbers[np.isfinite(numbers)]
        if len(numbers):
            found["quantiles"] = _quantiles(numbers, kind)
            found["histogram"] = _histogram(numbers, kind)
    if _is_countable(kind):
        found["top"] = _top(values)
    return found


def _quantiles(numbers: npt.NDArray[Any], kind: pa.DataType) -> dict[str, Any]:
    found = np.quantile(numbers, QUANTILES, method="inverted_cdf")
    return {f"{q:g}": shown(v.item(), kind) for q, v in zip(QUANTILES, found, strict=True)}


def _histogram(numbers: npt.NDArray[Any], kind: pa.DataType) -> dict[str, Any]:
    """Bins of equal width from the sample's least to its greatest value."""
    low, high = float(numbers.min()), float(numbers.max())
    if not low < high or not math.isfinite(high - low):
        return {"edges": [shown(low, kind), shown(high, kind)], "counts": [len(numbers)]}
    counts, edges = np.histogram(numbers.astype(np.float64), BINS, (low, high))
    return {"edges": [shown(edge, kind) for edge in edges.tolist()], "counts": counts.tolist()}


def _top(values: pa.ChunkedArray) -> list[dict[str, Any]]:
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    counted = values.drop_null().value_counts()
    pairs = [(-one["counts"].as_py(), _plain(one["values"].as_py())) for one in counted]
    most = sorted(pairs, key=lambda pair: (pair[0], str(pair[1])))[:TOP_VALUES]
    return [{"value": value, "count": -negative} for negative, value in most]


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int):
        return value
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[: TEXT_CHARS_MAX - 1]}…"


def as_numbers(values: pa.Array) -> npt.NDArray[Any]:
    """The values that are not NULL, as numbers: instants in µs, days in days."""
    import pyarrow as pa
    from pyarrow import types

    kind, values = values.type, values.drop_null()
    if types.is_decimal(kind):
        values = values.cast(pa.float64())
    elif types.is_boolean(kind):
        values = values.cast(pa.int8())
    elif types.is_timestamp(kind):
        values = values.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.int64())
    elif types.is_date(kind):
        values = values.cast(pa.date32()).cast(pa.int32())
    found: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return found


def shown(value: float, kind: pa.DataType) -> Any:
    """A number of a column as JSON: an instant in ISO 8601, a day as a date."""
    from datetime import date, timedelta

    from pyarrow import types

    if types.is_timestamp(kind):
        return format_instant(round(value))
    if types.is_date(kind):
        return (date(1970, 1, 1) + timedelta(days=round(value))).isoformat()
    return _finite(value)


def _finite(value: float) -> float | int | None:
    return value if math.isfinite(value) else None


def _is_instant(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_timestamp(kind))


def _is_ordered(kind: pa.DataType) -> bool:
    from pyarrow import types

    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return bool(number or types.is_boolean(kind) or types.is_timestamp(kind) or types.is_date(kind))


def _is_countable(kind: pa.DataType) -> bool:
    """Whether single values of it can come again: floats and instants mostly don't."""
    from pyarrow import types

    text = types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind)
    number = types.is_integer(kind) or types.is_boolean(kind) or types.is_date(kind)
    return bool(text or number or types.is_dictionary(kind) or types.is_decimal(kind))

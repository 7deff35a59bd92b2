"""Partials: every aggregation as `add`, `merge`, `result` over a state.

`merge` is associative and commutative and `identity` its neutral element, so that any tiling of the
rows and any order of merging give the same result: exactly, but for float sums, which agree within
`1e-9 · Σ|x|`. Variance is merged as (n, mean, M2); nothing is ever taken off a state.

Values are plain Python, as rows carry them (timestamps µs, dates days, decimals `Decimal`); NULL
inputs are left out by the caller, except that `count("*")` is given any value. Sums and means that
are not finite are NULL, like everywhere.
"""

# ruff: noqa: ARG002 - one signature for all functions

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Generic, TypeVar

from featurestore import sketches
from featurestore.aggregates import BUCKETS_PER_KEY_MAX, Parameters
from featurestore.dtypes import DECIMAL_PRECISION_MAX, DType, Kind
from featurestore.value_bytes import (
    Reader,
    map_types,
    put_count,
    put_float,
    put_int,
    put_value,
    scaled,
    unscaled,
    value_bytes,
)

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
_DECIMAL_END = 10**DECIMAL_PRECISION_MAX

Order = tuple[int, int | str | None]
"""Where a row stands in a window: event time in µs, event id (None where the source has none).
Rows that are equal in both are ordered by value."""

S = TypeVar("S")
T = TypeVar("T")


class Partial(ABC, Generic[S]):
    """One function over values of one type (`dtype`, the argument's), with its parameters.

    `add` and `merge` may change and return their first state, which the caller gives up; they never
    change another one.
    """

    def __init__(self, dtype: DType | None, parameters: Parameters) -> None:
        self._dtype = dtype
        self._parameters = parameters

    @property
    def _of(self) -> DType:
        if self._dtype is None:
            raise TypeError(f"{type(self).__name__} needs the type of its values")
        return self._dtype

    @abstractmethod
    def identity(self) -> S:
        """The state of no rows, a new one."""

    @abstractmethod
    def add(self, state: S, value: Any, order: Order) -> S:
        """The state with one row more."""

    @abstractmethod
    def merge(self, left: S, right: S) -> S:
        """The state of the rows of both."""

    @abstractmethod
    def result(self, state: S) -> Any:
        """The value, of the output type; None is NULL."""

    @abstractmethod
    def encode(self, state: S) -> bytes:
        """The state as bytes: the same for the same rows, in whatever order they were added and
        merged (float sums and variances aside)."""

    @abstractmethod
    def decode(self, data: bytes) -> S:
        """What `encode` wrote. Raises `CorruptRow`."""

    def merge_all(self, states: Iterable[S]) -> S:
        """The state of the rows of all."""
        found = self.identity()
        for state in states:
            found = self.merge(found, state)
        return found


def partial_of(function: str, dtype: DType | None, parameters: Parameters) -> Partial[Any]:
    """The partial of a function over an argument of `dtype` (None: `count("*")`); over maps, of
    which each row brings one with one entry, that of the function in each bucket."""
    return _partial_of(function, dtype, tuple(sorted(parameters.items())))


@lru_cache(maxsize=1_024)
def _partial_of(
    function: str, dtype: DType | None, parameters: tuple[tuple[str, int | float], ...]
) -> Partial[Any]:
    if dtype is not None and dtype.kind is Kind.MAP:
        return Buckets(dtype, dict(parameters), _partial_of(function, dtype.value, parameters))
    return _PARTIALS[function](dtype, dict(parameters))


# --- numbers --------------------------------------------------------------------------------------


class Count(Partial[int]):
    """How many rows."""

    def identity(self) -> int:
        return 0

    def add(self, state: int, value: Any, order: Order) -> int:
        return state + 1

    def merge(self, left: int, right: int) -> int:
        return left + right

    def result(self, state: int) -> int:
        return state

    def encode(self, state: int) -> bytes:
        out = bytearray()
        put_count(out, state)
        return bytes(out)

    def decode(self, data: bytes) -> int:
        return _read(data, Reader.count)


Total = tuple[int, int | float]
"""How many values, and their sum: of decimals, in units of their last digit."""


class _Totals(Partial[Total]):
    def __init__(self, dtype: DType | None, parameters: Parameters) -> None:
        super().__init__(dtype, parameters)
        self._scale = self._of.scale or 0
        self._is_decimal = self._of.kind is Kind.DECIMAL
        self._is_float = self._of.is_float

    def identity(self) -> Total:
        return 0, 0.0 if self._is_float else 0

    def add(self, state: Total, value: Any, order: Order) -> Total:
        if self._is_decimal:
            value = unscaled(value, self._scale)
        return state[0] + 1, state[1] + value

    def merge(self, left: Total, right: Total) -> Total:
        return left[0] + right[0], left[1] + right[1]

    def encode(self, state: Total) -> bytes:
        out = bytearray()
        put_count(out, state[0])
        (put_float if self._is_float else put_int)(out, state[1])  # type: ignore[arg-type]
        return bytes(out)

    def decode(self, data: bytes) -> Total:
        return _read(data, lambda r: (r.count(), r.float() if self._is_float else r.int()))


class Sum(_Totals):
    """Of integers int64, of decimals with all 38 digits; beyond, NULL."""

    def result(self, state: Total) -> int | float | Decimal | None:
        count, total = state
        if count == 0:
            return None
        if isinstance(total, float):
            return total + 0.0 if math.isfinite(total) else None
        if self._is_decimal:
            return scaled(total, self._scale) if abs(total) < _DECIMAL_END else None
        return total if INT64_MIN <= total <= INT64_MAX else None


class Mean(_Totals):
    """The sum, rounded to a float, by the count."""

    def result(self, state: Total) -> float | None:
        count, total = state
        if count == 0:
            return None
        found = float(total)
        if self._is_decimal:
            found /= float(10**self._scale)
        found /= count
        return found + 0.0 if math.isfinite(found) else None


Moments = tuple[int, float, float]
"""How many values, their mean, and the sum of squares of their distances to it."""


class Variance(Partial[Moments]):
    """Of the population. Merged as Chan, Golub and LeVeque do."""

    def identity(self) -> Moments:
        return 0, 0.0, 0.0

    def add(self, state: Moments, value: Any, order: Order) -> Moments:
        number = float(value)
        # An infinite value alone has no variance either.
        return self.merge(state, (1, number, 0.0 if math.isfinite(number) else math.inf))

    def merge(self, left: Moments, right: Moments) -> Moments:
        n, m = left[0], right[0]
        if n == 0 or m == 0:
            return left if m == 0 else right
        both = n + m
        delta = right[1] - left[1]
        mean = left[1] + delta * (m / both)
        return both, mean, left[2] + right[2] + delta * (delta * (n * (m / both)))

    def result(self, state: Moments) -> float | None:
        if state[0] == 0:
            return None
        found = state[2] / state[0]
        return found if math.isfinite(found) else None

    def encode(self, state: Moments) -> bytes:
        out = bytearray()
        put_count(out, state[0])
        put_float(out, state[1])
        put_float(out, state[2])
        return bytes(out)

    def decode(self, data: bytes) -> Moments:
        return _read(data, lambda r: (r.count(), r.float(), r.float()))


class Deviation(Variance):
    """The root of the variance."""

    def result(self, state: Moments) -> float | None:
        variance = super().result(state)
        return None if variance is None else math.sqrt(variance)


# --- one of the values ----------------------------------------------------------------------------


class Least(Partial[Any]):
    """The least value; None where there is none."""

    def identity(self) -> Any:
        return None

    def add(self, state: Any, value: Any, order: Order) -> Any:
        return self.merge(state, value)

    def merge(self, left: Any, right: Any) -> Any:
        if left is None or right is None:
            return right if left is None else left
        return min(right, left)

    def result(self, state: Any) -> Any:
        return state

    def encode(self, state: Any) -> bytes:
        return b"" if state is None else b"\1" + value_bytes(state, self._of)

    def decode(self, data: bytes) -> Any:
        return None if not data else _read(data[1:], lambda r: r.value(self._of))


class Greatest(Least):
    """The greatest value."""

    def merge(self, left: Any, right: Any) -> Any:
        if left is None or right is None:
            return right if left is None else left
        return max(right, left)


Placed = tuple[int, int | str, Any]
"""Event time, event id (0 where the source has none), value."""


def _placed(value: Any, order: Order) -> Placed:
    event_us, event_id = order
    return event_us, 0 if event_id is None else event_id, value


class FirstN(Partial[list[Placed]]):
    """The `n` oldest rows, oldest first."""

    def __init__(self, dtype: DType | None, parameters: Parameters) -> None:
        super().__init__(dtype, parameters)
        self._n = int(parameters.get("n", 1))

    def identity(self) -> list[Placed]:
        return []

    def add(self, state: list[Placed], value: Any, order: Order) -> list[Placed]:
        insort(state, _placed(value, order))
        return self._cut(state)

    def merge(self, left: list[Placed], right: list[Placed]) -> list[Placed]:
        left.extend(right)
        left.sort()
        return self._cut(left)

    def _cut(self, state: list[Placed]) -> list[Placed]:
        del state[self._n :]
        return state

    def result(self, state: list[Placed]) -> Any:
        return [value for _, _, value in state] or None

    def encode(self, state: list[Placed]) -> bytes:
        out = bytearray()
        put_count(out, len(state))
        for event_us, event_id, value in state:
            put_int(out, event_us)
            is_text = isinstance(event_id, str)
            out.append(is_text)
            if isinstance(event_id, str):
                raw = event_id.encode()
                put_count(out, len(raw))
                out += raw
            else:
                put_int(out, event_id)
            put_value(out, value, self._of)
        return bytes(out)

    def decode(self, data: bytes) -> list[Placed]:
        return _read(data, lambda r: [self._read_row(r) for _ in range(r.count())])

    def _read_row(self, reader: Reader) -> Placed:
        event_us = reader.int()
        is_text = reader.take(1) != b"\0"
        event_id = reader.take(reader.count()).decode() if is_text else reader.int()
        return event_us, event_id, reader.value(self._of)


class LastN(FirstN):
    """The `n` newest rows, oldest first."""

    def _cut(self, state: list[Placed]) -> list[Placed]:
        del state[: -self._n]
        return state


class First(FirstN):
    """The oldest row."""

    def result(self, state: list[Placed]) -> Any:
        return state[0][2] if state else None


class Last(LastN):
    """The newest row."""

    def result(self, state: list[Placed]) -> Any:
        return state[-1][2] if state else None


# --- sets of values -------------------------------------------------------------------------------


class Distinct(Partial[set[Any]]):
    """How many different values, exactly."""

    def identity(self) -> set[Any]:
        return set()

    def add(self, state: set[Any], value: Any, order: Order) -> set[Any]:
        state.add(value)
        return state

    def merge(self, left: set[Any], right: set[Any]) -> set[Any]:
        left |= right
        return left

    def result(self, state: set[Any]) -> int:
        return len(state)

    def encode(self, state: set[Any]) -> bytes:
        out = bytearray()
        put_count(out, len(state))
        for value in sorted(state):
            put_value(out, value, self._of)
        return bytes(out)

    def decode(self, data: bytes) -> set[Any]:
        return _read(data, lambda r: {r.value(self._of) for _ in range(r.count())})


class _Counts(Partial[dict[Any, int]]):
    """How often each key occurs."""

    def identity(self) -> dict[Any, int]:
        return {}

    def add(self, state: dict[Any, int], value: Any, order: Order) -> dict[Any, int]:
        state[value] = state.get(value, 0) + 1
        return state

    def merge(self, left: dict[Any, int], right: dict[Any, int]) -> dict[Any, int]:
        for key, count in right.items():
            left[key] = left.get(key, 0) + count
        return left


class TopK(_Counts):
    """The `n` most frequent values: the more frequent first, of two alike the lesser."""

    def result(self, state: dict[Any, int]) -> list[Any] | None:
        n = int(self._parameters["n"])
        ranked = sorted(sorted(state), key=lambda value: -state[value])
        return ranked[:n] or None

    def encode(self, state: dict[Any, int]) -> bytes:
        out = bytearray()
        put_count(out, len(state))
        for value in sorted(state):
            put_value(out, value, self._of)
            put_count(out, state[value])
        return bytes(out)

    def decode(self, data: bytes) -> dict[Any, int]:
        return _read(data, lambda r: {r.value(self._of): r.count() for _ in range(r.count())})


class Quantile(_Counts):
    """DDSketch: how many values each bucket holds."""

    def __init__(self, dtype: DType | None, parameters: Parameters) -> None:
        super().__init__(dtype, parameters)
        self._width = sketches.bucket_width(parameters["error"])

    def add(self, state: dict[Any, int], value: Any, order: Order) -> dict[Any, int]:
        return super().add(state, sketches.bucket_of(float(value), self._width), order)

    def result(self, state: dict[Any, int]) -> float | None:
        left = sketches.rank_of(self._parameters["q"], sum(state.values()))
        for bucket in sorted(state):
            left -= state[bucket]
            if left < 0:
                return sketches.value_of(bucket, self._width)
        return None

    def encode(self, state: dict[Any, int]) -> bytes:
        out = bytearray()
        put_count(out, len(state))
        for bucket in sorted(state):
            put_int(out, bucket)
            put_count(out, state[bucket])
        return bytes(out)

    def decode(self, data: bytes) -> dict[Any, int]:
        return _read(data, lambda r: {r.int(): r.count() for _ in range(r.count())})


class ApproximateDistinct(Partial[dict[int, int]]):
    """HyperLogLog: the greatest rank of each register that has one."""

    def __init__(self, dtype: DType | None, parameters: Parameters) -> None:
        super().__init__(dtype, parameters)
        self._precision = sketches.precision_of(parameters["error"])

    def identity(self) -> dict[int, int]:
        return {}

    def add(self, state: dict[int, int], value: Any, order: Order) -> dict[int, int]:
        hashed = sketches.hash64(value_bytes(value, self._of))
        register, rank = sketches.register_of(hashed, self._precision)
        if state.get(register, 0) < rank:
            state[register] = rank
        return state

    def merge(self, left: dict[int, int], right: dict[int, int]) -> dict[int, int]:
        for register, rank in right.items():
            if left.get(register, 0) < rank:
                left[register] = rank
        return left

    def result(self, state: dict[int, int]) -> int:
        histogram = [0] * (sketches.HASH_BITS - self._precision + 2)
        for rank in state.values():
            histogram[rank] += 1
        histogram[0] = (1 << self._precision) - len(state)
        return sketches.estimate(histogram, self._precision)

    def encode(self, state: dict[int, int]) -> bytes:
        """Registers and ranks one by one while there are few, else the ranks of all registers."""
        out = bytearray()
        registers = 1 << self._precision
        put_count(out, len(state))
        if len(state) * 3 < registers:
            for register in sorted(state):
                put_count(out, register)
                out.append(state[register])
        else:
            out += bytes(state.get(register, 0) for register in range(registers))
        return bytes(out)

    def decode(self, data: bytes) -> dict[int, int]:
        def read(reader: Reader) -> dict[int, int]:
            count, registers = reader.count(), 1 << self._precision
            if count * 3 < registers:
                return {reader.count(): reader.take(1)[0] for _ in range(count)}
            return {n: rank for n, rank in enumerate(reader.take(registers)) if rank}

        return _read(data, read)


# --- bucket by bucket -----------------------------------------------------------------------------

Bucketed = dict[Any, Any] | None
"""The state of each bucket; None where there are too many, whatever is added."""


class Buckets(Partial[Bucketed]):
    """Another partial in each bucket: what is added is a map of a bucket to a value. More than
    `BUCKETS_PER_KEY_MAX` buckets are NULL, like a sum that does not fit."""

    def __init__(self, dtype: DType, parameters: Parameters, inner: Partial[Any]) -> None:
        super().__init__(dtype, parameters)
        self._inner = inner
        self._key, _ = map_types(dtype)

    def identity(self) -> Bucketed:
        return {}

    def add(self, state: Bucketed, value: Any, order: Order) -> Bucketed:
        if state is None:
            return None
        for bucket, one in value.items():
            if bucket not in state:
                state[bucket] = self._inner.identity()
            state[bucket] = self._inner.add(state[bucket], one, order)
        return self._limited(state)

    def merge(self, left: Bucketed, right: Bucketed) -> Bucketed:
        if left is None or right is None:
            return None
        for bucket, one in right.items():
            mine = left[bucket] if bucket in left else self._inner.identity()
            left[bucket] = self._inner.merge(mine, one)
        return self._limited(left)

    @staticmethod
    def _limited(state: dict[Any, Any]) -> Bucketed:
        return state if len(state) <= BUCKETS_PER_KEY_MAX else None

    def result(self, state: Bucketed) -> dict[Any, Any] | None:
        if state is None:
            return None
        return {bucket: self._inner.result(state[bucket]) for bucket in sorted(state)}

    def encode(self, state: Bucketed) -> bytes:
        if state is None:
            return b""
        out = bytearray()
        put_count(out, len(state))
        for bucket in sorted(state):
            put_value(out, bucket, self._key)
            inner = self._inner.encode(state[bucket])
            put_count(out, len(inner))
            out += inner
        return bytes(out)

    def decode(self, data: bytes) -> Bucketed:
        if not data:
            return None
        return _read(data, lambda r: dict(self._read_bucket(r) for _ in range(r.count())))

    def _read_bucket(self, reader: Reader) -> tuple[Any, Any]:
        bucket = reader.value(self._key)
        return bucket, self._inner.decode(reader.take(reader.count()))


def _read(data: bytes, read: Callable[[Reader], T]) -> T:
    reader = Reader(data)
    found = read(reader)
    reader.end()
    return found


_PARTIALS: dict[str, type[Partial[Any]]] = {
    "count": Count,
    "sum": Sum,
    "mean": Mean,
    "min": Least,
    "max": Greatest,
    "var": Variance,
    "std": Deviation,
    "first": First,
    "last": Last,
    "first_n": FirstN,
    "last_n": LastN,
    "count_distinct": Distinct,
    "approx_count_distinct": ApproximateDistinct,
    "approx_quantile": Quantile,
    "top_k": TopK,
}

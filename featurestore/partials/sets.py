"""Different values, frequent ones and quantiles: exactly, and by sketches."""

# ruff: noqa: ARG002 - one signature for all functions

from __future__ import annotations

from typing import Any

from featurestore import sketches
from featurestore.aggregates import Parameters
from featurestore.dtypes import DType
from featurestore.partials.base import Order, Partial, read_state
from featurestore.value_bytes import Reader, put_count, put_int, put_value, value_bytes


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
        return read_state(data, lambda r: {r.value(self._of) for _ in range(r.count())})


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
        return read_state(data, lambda r: {r.value(self._of): r.count() for _ in range(r.count())})


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
        return read_state(data, lambda r: {r.int(): r.count() for _ in range(r.count())})


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

        return read_state(data, read)

"""One of the values, or a few: the least, the greatest, the oldest, the newest."""

# ruff: noqa: ARG002 - one signature for all functions

from __future__ import annotations

from bisect import insort
from typing import Any

from featurestore.aggregates import Parameters
from featurestore.dtypes import DType
from featurestore.partials.base import Order, Partial, read_state
from featurestore.value_bytes import Reader, put_count, put_int, put_value, value_bytes


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
        return None if not data else read_state(data[1:], lambda r: r.value(self._of))


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
        return read_state(data, lambda r: [self._read_row(r) for _ in range(r.count())])

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

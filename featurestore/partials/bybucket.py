"""Another partial in each bucket of a key."""

from __future__ import annotations

from typing import Any

from featurestore.aggregates import BUCKETS_PER_KEY_MAX, Parameters
from featurestore.dtypes import DType
from featurestore.partials.base import Order, Partial, read_state
from featurestore.value_bytes import Reader, map_types, put_count, put_value

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
        return read_state(data, lambda r: dict(self._read_bucket(r) for _ in range(r.count())))

    def _read_bucket(self, reader: Reader) -> tuple[Any, Any]:
        bucket = reader.value(self._key)
        return bucket, self._inner.decode(reader.take(reader.count()))

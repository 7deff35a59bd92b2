"""What a partial is, and where a row stands in a window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from featurestore.aggregates import Parameters
from featurestore.dtypes import DType
from featurestore.value_bytes import Reader

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


def read_state(data: bytes, read: Callable[[Reader], T]) -> T:
    """What `read` makes of all the bytes. Raises `CorruptRow`."""
    reader = Reader(data)
    found = read(reader)
    reader.end()
    return found

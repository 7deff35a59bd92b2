"""What generated functions call: the functions of the expression language over plain Python values.

Generated source names nothing else: `load` compiles it in a namespace that holds this module only.
Timestamps are int microseconds and dates int days since 1970 in UTC, decimals are `Decimal`, NULL
is None. The rules of each function stand in `definitions.functions`.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any

from featurestore.exprlib import casts, instants, numbers, texts

_MODULES = {"casts": casts, "instants": instants, "numbers": numbers, "texts": texts}


rows_of = zip
numbers_to = range


def __getattr__(name: str) -> Any:
    """`vectors` brings numpy, which only batches need."""
    if name != "vectors":
        raise AttributeError(f"module 'featurestore.exprlib' has no attribute {name!r}")
    return importlib.import_module("featurestore.exprlib.vectors")


def path_of(name: str) -> str:
    """`texts.lower` for `lower`: how generated source reaches a function. Raises `KeyError` for a
    name that no module has."""
    for place, module in _MODULES.items():
        if hasattr(module, name):
            return f"{place}.{name}"
    raise KeyError(name)


class Losses:
    """How often each output of a generated function was NULL for want of a result: a division by
    zero, an overflow, a cast of what does not fit. A NULL that comes of a NULL is none, nor one
    that `coalesce` or CASE takes care of.

    Rows without losses pay a test of one local variable for it.
    """

    __slots__ = ("_counts", "_lock", "_names")

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._counts = [0] * len(self._names)
        self._lock = threading.Lock()

    def count(self, lost: int, values: Sequence[Any]) -> None:
        """Of one row: count the outputs whose bits are set in `lost` and whose value is None."""
        with self._lock:
            for position, value in enumerate(values):
                self._counts[position] += value is None and lost >> position & 1

    def add(self, position: int, times: int) -> None:
        """Of a batch: count so many for one output."""
        with self._lock:
            self._counts[position] += times

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        return not any(self._counts)

    def take(self) -> dict[str, int]:
        """The counts by output name since the last `take`; zeros are left out."""
        with self._lock:
            found = {n: c for n, c in zip(self._names, self._counts, strict=True) if c}
            self._counts = [0] * len(self._names)
        return found


@lru_cache(maxsize=1_000)
def load(source: str, name: str) -> FunctionType:
    """The function `name` of generated `source`, compiled once per process for equal texts."""
    found: FunctionType = _namespace(source)[name]
    return found


@lru_cache(maxsize=1_000)
def _namespace(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"exprlib": sys.modules[__name__], "__builtins__": {}}
    exec(compile(source, "<expressions>", "exec"), namespace)  # noqa: S102  # our own generated text
    return namespace


def losses(function: FunctionType) -> Losses:
    """The counter that a function of `load` counts into."""
    found: Losses = function.__globals__["losses"]
    return found

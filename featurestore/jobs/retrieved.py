"""What this process has retrieved lately, for whoever records training beside us (MLflow)."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

RETRIEVED_MAX = 64
"""So many retrievals are remembered, the newest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """One retrieval: of a training set that is on record (`training_set` is its record's id), or
    one that wrote nothing. `pins` identify the files that were read, by source; `service` is None
    where single features were asked for; `at_us` is when it was made."""

    training_set: str | None
    features: tuple[str, ...]
    pins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    service: str | None = None
    at_us: int = 0


_lock = threading.Lock()
_retrieved: deque[Retrieved] = deque(maxlen=RETRIEVED_MAX)


def note_retrieved(one: Retrieved) -> None:
    """Remember a retrieval. One of the same training set takes the place of the one before, and
    keeps its pins."""
    with _lock:
        for old in [old for old in _retrieved if old.training_set and one.training_set]:
            if old.training_set == one.training_set:
                _retrieved.remove(old)
                one = one if one.pins else replace(one, pins=old.pins)
        _retrieved.append(one)
    if "mlflow" in sys.modules:  # only then can one of its runs be under way
        from featurestore.jobs import mlflow_guest

        mlflow_guest.tell(one)


def last_retrieved() -> tuple[Retrieved, ...]:
    """The retrievals of this process, oldest first, at most `RETRIEVED_MAX`."""
    with _lock:
        return tuple(_retrieved)


def forget_retrieved() -> None:
    """Begin anew."""
    with _lock:
        _retrieved.clear()

"""Training sets: how rows are split, and what a rebuilt set says of the recorded one.

A split belongs to a row by its time or by its entity, whatever the order, the number and the
neighbours of the rows, so nothing has to be kept of which row went where.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, Literal

from featurestore.errors import InvalidRequest, suggest
from featurestore.timeline import format_instant, to_us

SPLITS_MAX = 16
NAME_CHARS_MAX = 128
BY = "by"
"""The key of a split by entity that names its columns."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_SPLIT = re.compile(r"[a-z][a-z0-9_]{0,62}")


def check_name(name: object) -> str:
    """A training set's name, which is also a folder's. Raises `InvalidRequest`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > NAME_CHARS_MAX:
        raise InvalidRequest(
            f"{name!r} is not a training set's name: letters, digits, _, - and . (not first), at "
            f"most NAME_CHARS_MAX = {NAME_CHARS_MAX}"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The splits of a set, in order.

    `kind` is `time` (each split ends before its `bounds`, an instant in µs; None is open) or `hash`
    (each has the entities whose hash, a fraction of 1, is below its `bounds`, and not below the one
    before); `by` are the key columns that are hashed.
    """

    kind: Literal["time", "hash"]
    names: tuple[str, ...]
    bounds: tuple[float | int | None, ...]
    by: tuple[str, ...] = ()

    def index(self, name: str) -> int:
        """Which one it is. Raises `InvalidRequest`."""
        if name not in self.names:
            raise InvalidRequest(
                f"The training set has no split {name!r}.{suggest(name, self.names)}"
            )
        return self.names.index(name)

    def to_json(self) -> dict[str, Any]:
        """As a record holds it."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "bounds": list(self.bounds),
            "by": list(self.by),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Splits:
        """From what a record holds."""
        return cls(
            kind=value["kind"],
            names=tuple(value["names"]),
            bounds=tuple(value["bounds"]),
            by=tuple(value["by"]),
        )

    def describe(self) -> dict[str, str]:
        """Each split in words."""
        if self.kind == "time":
            ends = ["to the end" if b is None else _until(b) for b in self.bounds]
            return dict(zip(self.names, ends, strict=True))
        bounds = [0.0, *(float(b) for b in self.bounds if b is not None)]
        shares = [b - a for a, b in pairwise(bounds)]
        by = ", ".join(self.by)
        return {n: f"{s:.4g} of {by}" for n, s in zip(self.names, shares, strict=True)}


def _until(bound: float) -> str:
    return f"before {format_instant(int(bound))}"


def read_splits(spec: object, *, keys: Sequence[str]) -> Splits:
    """The splits that a caller means.

    `{"train": "2013-10-01", "test": None}` splits by time: each name with the instant before which
    it ends, in order; None is open. `{"train": 0.8, "test": 0.2}` splits by entity: fractions that
    make 1, of the join keys `keys`, or of those that `"by"` names. All rows of an entity are in one
    split, in every set that is split so.

    Raises `InvalidRequest`.
    """
    if not isinstance(spec, Mapping):
        raise InvalidRequest(f'splits is a dict like {{"train": 0.8, "test": 0.2}}, not {spec!r}')
    named: dict[Any, Any] = {name: value for name, value in spec.items() if name != BY}
    if not 1 <= len(named) <= SPLITS_MAX:
        raise InvalidRequest(f"splits names 1 to SPLITS_MAX = {SPLITS_MAX} splits")
    for name in named:
        if not isinstance(name, str) or not _SPLIT.fullmatch(name):
            raise InvalidRequest(f"{name!r} is not a split's name: small letters, digits and _")
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in named.values()):
        return _by_hash(named, spec.get(BY), keys)
    if BY in spec:
        raise InvalidRequest("splits by time have no 'by'; give fractions to split by entity")
    return _by_time(named)


def _by_time(named: Mapping[str, Any]) -> Splits:
    bounds: list[int | None] = []
    for name, value in named.items():
        if bounds and bounds[-1] is None:
            raise InvalidRequest(f"split {name!r} comes after one without an end; order them")
        bound = None if value is None else to_us(value)
        before = bounds[-1] if bounds else None
        if before is not None and bound is not None and bound <= before:
            raise InvalidRequest(f"split {name!r} ends before the one before it; order them")
        bounds.append(bound)
    return Splits(kind="time", names=tuple(named), bounds=tuple(bounds))


def _by_hash(named: Mapping[str, Any], by: object, keys: Sequence[str]) -> Splits:
    fractions = [float(value) for value in named.values()]
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise InvalidRequest("fractions of splits are between 0 and 1")
    if not math.isclose(sum(fractions), 1, abs_tol=1e-9):
        raise InvalidRequest(f"fractions of splits make 1, not {sum(fractions):g}")
    columns = (by,) if isinstance(by, str) else by
    if columns is None:
        columns = tuple(keys)
        if len(columns) != 1:
            raise InvalidRequest(
                f"the set has {len(columns)} join keys ({', '.join(keys) or 'none'}); say which "
                f'of them may not straddle: {{"by": ["{next(iter(keys), "key")}"], …}}'
            )
    if not isinstance(columns, Sequence) or not all(isinstance(c, str) for c in columns):
        raise InvalidRequest(f"'by' of splits names join keys, not {by!r}")
    unknown = [column for column in columns if column not in keys]
    if unknown or not columns:
        wrong = unknown[0] if unknown else ""
        raise InvalidRequest(
            f"splits: {wrong!r} is no join key of these features.{suggest(wrong, keys)}"
        )
    bounds = [math.fsum(fractions[: place + 1]) for place in range(len(fractions))]
    bounds[-1] = 1.0
    return Splits(kind="hash", names=tuple(named), bounds=tuple(bounds), by=tuple(columns))


# --- verdicts -------------------------------------------------------------------------------------


class Verdict(Enum):
    """What rebuilding a training set showed.

    `EXACT`: the same rows. `DIFFERENT_ENVIRONMENT`: the same rows, by other library versions.
    `DATA_EXPIRED`: files that it was made of are gone, or are not what they were. `UNPINNED`: it
    was made of something that nobody can read again. `MISMATCH`: other rows.
    """

    EXACT = "EXACT"
    DIFFERENT_ENVIRONMENT = "DIFFERENT_ENVIRONMENT"
    DATA_EXPIRED = "DATA_EXPIRED"
    UNPINNED = "UNPINNED"
    MISMATCH = "MISMATCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryChange:
    """A library that has another version now (None: it is not there)."""

    library: str
    then: str | None
    now: str | None


def changed_libraries(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[LibraryChange, ...]:
    """The libraries whose versions differ, in name order."""
    return tuple(
        LibraryChange(library=name, then=then.get(name), now=now.get(name))
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    )


def verdict(
    *, unpinned: Sequence[str], expired: Sequence[str], equal: bool | None, libraries: bool
) -> Verdict:
    """The verdict of a rebuild. `equal` is whether the rows were the same (None: they were not
    rebuilt), `libraries` whether some library has another version."""
    if expired:
        return Verdict.DATA_EXPIRED
    if unpinned:
        return Verdict.UNPINNED
    if not equal:
        return Verdict.MISMATCH
    return Verdict.DIFFERENT_ENVIRONMENT if libraries else Verdict.EXACT

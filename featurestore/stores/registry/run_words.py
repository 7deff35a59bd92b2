"""The words of experiment tracking: what a run is told, and what is known of it.

A run's record says what was known at its start and never changes; everything else about it are rows
of tables: parameters (set once), metric points (appended), tags, notes, artifacts, its status.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from featurestore.errors import InvalidRequest, LimitExceeded
from featurestore.fingerprint import canonical_json
from featurestore.timeline import SECOND_US

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
STATUSES: tuple[Status, ...] = get_args(Status)

CRASHED_AFTER_US = 30 * SECOND_US
"""A run that says RUNNING and has not been heard of for so long is KILLED for whoever looks."""
KEY_CHARS_MAX = 250
"""Of the name of a metric, a parameter or a tag."""
EXPERIMENT_CHARS_MAX = 256
RUN_NAME_CHARS_MAX = 256
VALUE_BYTES_MAX = 64 * 1024
"""Of one parameter, tag or note."""
METRICS_PER_RUN_MAX = 10_000
PARAMS_PER_RUN_MAX = 10_000
STEP_MAX = 2**63 - 1
RUN_ID_CHARS = 32


class Point(NamedTuple):
    """One value of a metric: NaN and infinities are values like others."""

    key: str
    step: int
    at_us: int
    value: float


PointRow = tuple[str, int, int, float]
"""The same without names, where there are many."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is known of a metric without its points. `value` is that of the greatest step (of those
    the latest); `least` and `greatest` leave NaN out, and are None where there is nothing else."""

    value: float
    step: int
    at_us: int
    least: float | None
    greatest: float | None
    points: int


@dataclass(frozen=True, slots=True)
class Note:
    """A remark: who wrote it, when (µs)."""

    at_us: int
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class RunArtifact:
    """A file or folder that a run kept: its path there, and what finds it."""

    path: str
    digest: str
    kind: Literal["file", "folder"]
    size: int
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run as a list shows it. Instants in µs; `error` is what ended a FAILED run."""

    run_id: str
    record_id: str
    experiment: str
    name: str
    status: Status
    started_at_us: int
    ended_at_us: int | None
    user: str
    error: str = ""
    parent: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    training_sets: tuple[str, ...] = ()

    @property
    def duration_us(self) -> int | None:
        """How long it took; None while it runs."""
        return None if self.ended_at_us is None else self.ended_at_us - self.started_at_us


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart:
    """What a new run begins with. `beats` is whether somebody will say that it lives."""

    run_id: str
    experiment: str
    name: str
    user: str
    started_at_us: int
    parent: str | None = None
    status: Status = "RUNNING"
    ended_at_us: int | None = None
    beats: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def check_key(key: object, what: str) -> str:
    """`key`, if a metric, parameter or tag can be called so. Raises `InvalidRequest`."""
    if not isinstance(key, str) or not key or len(key) > KEY_CHARS_MAX or not printable(key):
        raise InvalidRequest(
            f"{str(key)[:80]!r} is not the name of a {what}: 1 to {KEY_CHARS_MAX} printable "
            "characters"
        )
    return key


def check_experiment(name: str) -> str:
    """`name`, if an experiment can be called so. Raises `InvalidRequest`."""
    parts = name.split("/")
    if (
        not 1 <= len(name) <= EXPERIMENT_CHARS_MAX
        or not all(part and part == part.strip() for part in parts)
        or "@" in name
        or not printable(name)
    ):
        raise InvalidRequest(
            f"{name[:80]!r} is not the name of an experiment: 1 to {EXPERIMENT_CHARS_MAX} "
            "printable characters without @; / may divide parts that are not empty"
        )
    return name


def check_text(text: object, what: str) -> str:
    """`text` as a tag or a note holds it. Raises `LimitExceeded`, `InvalidRequest`."""
    text = str(text)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"a {what} holds {text[:40]!r}, which is no Unicode text") from error
    if size > VALUE_BYTES_MAX:
        raise LimitExceeded("VALUE_BYTES_MAX", asked=size, allowed=VALUE_BYTES_MAX)
    if "\0" in text:
        raise InvalidRequest(f"a {what} holds a NUL character; leave it out")
    return text


def printable(text: str) -> bool:
    """Whether every character can be shown (no controls, no halves of pairs)."""
    return text.isprintable()


class StoredValue(NamedTuple):
    """A parameter as its table holds it: the kind, the text, and a number to compare with."""

    kind: str
    text: str
    number: float | None

    @classmethod
    def of(cls, value: object) -> StoredValue:
        """From what a user gave: scalars keep their type, lists and dicts are JSON, anything else
        is its text. Raises `LimitExceeded`, `InvalidRequest`."""
        if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
            value = value.item()  # a scalar of numpy or of a tensor
        match value:
            case bool():
                return cls("bool", str(value).lower(), None)
            case int():
                return cls("int", check_text(value, "parameter"), _number(value))
            case float():
                return cls("float", repr(value), value if math.isfinite(value) else None)
            case None:
                return cls("none", "None", None)
            case list() | tuple() | dict():
                try:
                    return cls("json", check_text(canonical_json(value), "parameter"), None)
                except (TypeError, ValueError):
                    return cls("str", check_text(value, "parameter"), None)
            case _:
                return cls("str", check_text(value, "parameter"), None)

    def value(self) -> Any:
        """What the user gave."""
        import json

        match self.kind:
            case "bool":
                return self.text == "true"
            case "int":
                return int(self.text)
            case "float":
                return float(self.text)
            case "none":
                return None
            case "json":
                return json.loads(self.text)
            case _:
                return self.text


def _number(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None

"""How runs differ: parameters, metrics, tags, code and packages, and what they learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featurestore.records import show_id
from featurestore.stores.registry.run_words import RunFacts


@dataclass(frozen=True, slots=True)
class Difference:
    """A thing that runs differ in: its value in each run, in the runs' order (None: not there)."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A training set as a comparison needs it: its id, what its record says, its snapshots by
    source, and its features with their versions."""

    id: str
    body: Mapping[str, Any] = field(default_factory=dict)
    snapshots: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A run with what its record says, and what it learned from."""

    facts: RunFacts
    body: Mapping[str, Any] = field(default_factory=dict)
    learned: tuple[Learned, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """What runs differ in. Each list holds what is not the same in all of them; `training_data` is
    about the training sets, `surroundings` about code and packages."""

    runs: tuple[RunFacts, ...]
    params: tuple[Difference, ...]
    metrics: tuple[Difference, ...]
    tags: tuple[Difference, ...]
    training_data: tuple[Difference, ...]
    surroundings: tuple[Difference, ...]


def compare(runs: Sequence[Compared]) -> RunComparison:
    """What these runs differ in, by name."""
    facts = [run.facts for run in runs]
    return RunComparison(
        runs=tuple(facts),
        params=_differences([run.params for run in facts]),
        metrics=_differences(
            [{name: metric.value for name, metric in run.metrics.items()} for run in facts]
        ),
        tags=_differences([run.tags for run in facts]),
        training_data=_differences([_training_data(run.learned) for run in runs]),
        surroundings=_differences([_surroundings(run.body) for run in runs]),
    )


def _differences(sides: Sequence[Mapping[str, Any]]) -> tuple[Difference, ...]:
    names = sorted({name for side in sides for name in side})
    found = (Difference(name, tuple(side.get(name) for side in sides)) for name in names)
    return tuple(each for each in found if not _same(each.values))


def _same(values: Sequence[Any]) -> bool:
    first = values[0]
    return all(
        type(value) is type(first) and (value == first or (_nan(value) and _nan(first)))
        for value in values
    )


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _training_data(learned: Iterable[Learned]) -> dict[str, Any]:
    """What the training sets of one run say, with the set's name before it where there are more."""
    sets = list(learned)
    found: dict[str, Any] = {}
    for each in sets:
        prefix = "" if len(sets) == 1 else f"{_name(each.id)}: "
        found |= {f"{prefix}{name}": value for name, value in _of_set(each).items()}
    return found


def _of_set(learned: Learned) -> dict[str, Any]:
    body = learned.body
    found: dict[str, Any] = {"training set": show_id(learned.id)}
    plain: dict[str, Callable[[Any], Any]] = {
        "rows": int,
        "label": str,
        "as_of": str,
        "known_until_us": int,
        "row_digest": str,
    }
    for name, kind in plain.items():
        if body.get(name) is not None:
            found[name.removesuffix("_us")] = kind(body[name])
    if isinstance(body.get("entity_frame"), Mapping):
        found["entity frame"] = str(body["entity_frame"].get("digest", ""))[:8]
    if body.get("splits"):
        found["splits"] = str(body["splits"])
    found |= {f"snapshot of {source}": pin for source, pin in learned.snapshots.items()}
    return found | {f"feature {name}": version for name, version in learned.features.items()}


def _surroundings(body: Mapping[str, Any]) -> dict[str, Any]:
    code, environment = body.get("code", {}), body.get("environment", {})
    found = {name: code[name] for name in ("program", "commit", "diff_digest") if code.get(name)}
    for name in ("python", "system", "processors", "host"):
        if environment.get(name) is not None:
            found[name] = environment[name]
    if environment.get("lock"):
        found["lock"] = environment["lock"]["digest"][:8]
    packages = environment.get("packages", {})
    return found | {f"package {name}": version for name, version in packages.items()}


def _name(record_id: str) -> str:
    return record_id.partition(":")[2].rpartition("@")[0]

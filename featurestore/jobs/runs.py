"""What is asked about runs: lists, one in full, how they differ, what they kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidRequest, LimitExceeded, RecordNotFound
from featurestore.fingerprint import short
from featurestore.lifecycle.run_compare import Compared, Learned, RunComparison, compare
from featurestore.stores.offline.artifacts import Artifact, check_path
from featurestore.stores.registry.run_query import Both, Comparison, Field, Query, parse
from featurestore.stores.registry.run_words import Metric, Note, Point, RunArtifact, RunFacts
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.jobs.tracking import Tracker
    from featurestore.records import Record
    from featurestore.stores.registry.base import Registry

RUNS_PER_SEARCH_MAX = 10_000
RUNS_PER_COMPARISON_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run in full. `body` is what its record says: code, environment, user."""

    facts: RunFacts
    body: Mapping[str, Any]
    notes: tuple[Note, ...]
    artifacts: tuple[RunArtifact, ...]
    children: tuple[str, ...]


def search(
    tracker: Tracker,
    query: str = "",
    *,
    experiment: str | None = None,
    order_by: Sequence[str] | str = (),
    limit: int = 1_000,
) -> tuple[RunFacts, ...]:
    """The runs that `query` finds, the newest first unless it says otherwise.

    Raises `InvalidSearch`, `InvalidRequest`, `LimitExceeded`.
    """
    if limit < 1:
        raise InvalidRequest(f"a search finds 1 run or more, not {limit}")
    if limit > RUNS_PER_SEARCH_MAX:
        raise LimitExceeded("RUNS_PER_SEARCH_MAX", asked=limit, allowed=RUNS_PER_SEARCH_MAX)
    order = (order_by,) if isinstance(order_by, str) else tuple(order_by)
    parsed = parse(query, order)
    if experiment is not None:
        parsed = _in_experiment(parsed, experiment)
    now_us = tracker.clock.now_us()
    return tuple(tracker.registry.runs.find(parsed, now_us=now_us, limit=limit))


def _in_experiment(query: Query, experiment: str) -> Query:
    only = Comparison(Field("attributes", "experiment"), "=", (experiment,))
    return replace(query, where=only if query.where is None else Both("and", (only, query.where)))


def get(tracker: Tracker, run: str) -> Run:
    """One run by its id, the beginning of that, or its record's id.

    Raises `RecordNotFound`, `AmbiguousRecord`.
    """
    details = tracker.registry.runs.details(run, now_us=tracker.clock.now_us())
    return Run(
        facts=details.facts,
        body=tracker.registry.record(details.facts.record_id).record.body,
        notes=details.notes,
        artifacts=details.artifacts,
        children=details.children,
    )


def compare_runs(tracker: Tracker, runs: Sequence[str]) -> RunComparison:
    """What two or more runs differ in. Raises as `get` does, `InvalidRequest`, `LimitExceeded`."""
    if len(runs) < 2:
        raise InvalidRequest("two runs at least are compared; name them by their ids")
    if len(runs) > RUNS_PER_COMPARISON_MAX:
        raise LimitExceeded(
            "RUNS_PER_COMPARISON_MAX", asked=len(runs), allowed=RUNS_PER_COMPARISON_MAX
        )
    found = [get(tracker, run) for run in runs]
    return compare(
        [
            Compared(facts=run.facts, body=run.body, learned=_learned(tracker.registry, run.facts))
            for run in found
        ]
    )


def _learned(registry: Registry, facts: RunFacts) -> tuple[Learned, ...]:
    stored = registry.records(ids=facts.training_sets) if facts.training_sets else []
    return tuple(_of_set(registry, each.record) for each in stored)


def _of_set(registry: Registry, record: Record) -> Learned:
    """A training set with what its parents say of its sources and features."""
    parents = {role: [e.parent for e in record.parents if e.role == role] for role in _ROLES}
    snapshots, features = dict[str, str](), dict[str, str]()
    for stored in registry.records(ids=parents["snapshot"]) if parents["snapshot"] else []:
        body = stored.record.body
        pin = body.get("manifest") or body.get("pin") or stored.record.hash
        shown = short(pin) if isinstance(pin, str) else str(pin)
        snapshots[stored.record.name] = shown if body.get("pinned", True) else f"{shown} (unpinned)"
    for stored in registry.records(ids=parents["feature"]) if parents["feature"] else []:
        version = stored.record.body.get("version", stored.record.hash)
        features[stored.record.name] = short(str(version))
    return Learned(id=record.id, body=record.body, snapshots=snapshots, features=features)


_ROLES = ("snapshot", "feature")


def points(tracker: Tracker, run: str, metric: str) -> list[Point]:
    """The values of a metric by step. Raises as `get` does, `RecordNotFound` for no such metric."""
    found = tracker.registry.runs.points(run, metric)
    if not found:
        known = get(tracker, run).facts.metrics
        raise RecordNotFound(f"metric {metric}", known=[f"metric {name}" for name in known])
    return found


def fetch(tracker: Tracker, run: str, path: str, to: str | Path) -> Path:
    """Copy an artifact of a run to `to`, checked: one that was kept at `path`, or a file in it.

    Raises as `get` does, `RecordNotFound` for no such artifact, `SnapshotMissing`, `CorruptRow`,
    `FileNotWritten`.
    """
    kept = {artifact.path: artifact for artifact in get(tracker, run).artifacts}
    wanted = check_path(path)
    for place, artifact in kept.items():
        whole = Artifact(digest=artifact.digest, kind=artifact.kind, size=artifact.size)
        if wanted == place:
            return tracker.artifacts.fetch(whole, to)
        if artifact.kind == "folder" and wanted.startswith(f"{place}/"):
            for file in tracker.artifacts.files(whole):
                if f"{place}/{file.path}" == wanted:
                    one = Artifact(digest=file.digest, kind="file", size=file.size)
                    return tracker.artifacts.fetch(one, to)
    raise RecordNotFound(f"artifact {path}", known=[f"artifact {place}" for place in kept])


# --- JSON -----------------------------------------------------------------------------------------


def number_json(value: float | None) -> float | str | None:
    """A metric's value in JSON, which has no NaN: `"NaN"`, `"Infinity"`, `"-Infinity"`."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def value_json(value: Any) -> Any:
    """A parameter's value in JSON."""
    return number_json(value) if isinstance(value, float) else value


def facts_json(facts: RunFacts) -> dict[str, Any]:
    """A run of a list as plain data."""
    duration_us = facts.duration_us
    return {
        "run_id": facts.run_id,
        "experiment": facts.experiment,
        "name": facts.name,
        "status": facts.status,
        "started": format_instant(facts.started_at_us),
        "ended": None if facts.ended_at_us is None else format_instant(facts.ended_at_us),
        "duration_s": None if duration_us is None else duration_us / 1e6,
        "user": facts.user,
        "error": facts.error,
        "parent": facts.parent,
        "params": {name: value_json(value) for name, value in facts.params.items()},
        "metrics": {name: _metric_json(metric) for name, metric in facts.metrics.items()},
        "tags": dict(facts.tags),
        "training_sets": list(facts.training_sets),
        "record": facts.record_id,
    }


def _metric_json(metric: Metric) -> dict[str, Any]:
    return {
        "value": number_json(metric.value),
        "step": metric.step,
        "at": format_instant(metric.at_us),
        "least": number_json(metric.least),
        "greatest": number_json(metric.greatest),
        "points": metric.points,
    }


def run_json(run: Run) -> dict[str, Any]:
    """A run in full as plain data."""
    return facts_json(run.facts) | {
        "code": dict(run.body.get("code", {})),
        "environment": dict(run.body.get("environment", {})),
        "notes": [
            {"at": format_instant(note.at_us), "author": note.author, "text": note.text}
            for note in run.notes
        ],
        "artifacts": [
            {
                "path": kept.path,
                "kind": kept.kind,
                "size": kept.size,
                "digest": kept.digest,
                "at": format_instant(kept.at_us),
            }
            for kept in run.artifacts
        ],
        "children": list(run.children),
    }


def comparison_json(comparison: RunComparison) -> dict[str, Any]:
    """A comparison as plain data: by kind and name, the values in the order of `runs`."""
    kinds = ("params", "metrics", "tags", "training_data", "surroundings")
    return {"runs": [facts_json(run) for run in comparison.runs]} | {
        kind: {
            each.name: [value_json(value) for value in each.values]
            for each in getattr(comparison, kind)
        }
        for kind in kinds
    }

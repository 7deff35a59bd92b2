"""`featurestore sync mlflow`: MLflow's runs, models and aliases in our graph, and back the stages.

Bringing in is idempotent: a run keeps MLflow's id, a model version names the one it is a copy of,
and what was brought already stays. What can't be brought is reported, and the rest is. This is the
one place that imports mlflow, when it is asked for; its client reaches any of its stores.
"""

from __future__ import annotations

import importlib
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from featurestore.errors import (
    FeatureStoreError,
    InvalidRequest,
    RecordNotFound,
    StoreUnavailable,
)
from featurestore.jobs.mlflow_tags import told_by
from featurestore.jobs.tracking import Tracker
from featurestore.masking import mask, mask_url
from featurestore.records import Edge, Record
from featurestore.stores.registry.run_words import (
    EXPERIMENT_CHARS_MAX,
    KEY_CHARS_MAX,
    RUN_NAME_CHARS_MAX,
    PointRow,
    RunFacts,
    RunStart,
    Status,
    printable,
)

PAGE = 1_000
SKIPPED_SHOWN_MAX = 100
FLOAT_MAX = 1.7976931348623157e308
"""What MLflow's SQL store keeps for infinity."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_STATUSES: dict[str, Status] = {
    "RUNNING": "RUNNING",
    "SCHEDULED": "RUNNING",
    "FINISHED": "FINISHED",
    "FAILED": "FAILED",
    "KILLED": "KILLED",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a synchronization did. `mirrored` are the stages that MLflow was told; `skipped` says
    what could not be brought, and why."""

    tracking_uri: str
    runs_new: int = 0
    runs_changed: int = 0
    runs_same: int = 0
    models_new: tuple[str, ...] = ()
    models_same: int = 0
    aliases_moved: tuple[str, ...] = ()
    mirrored: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guest:
    """MLflow as we speak to it: its client, and where it is."""

    client: Any
    shown: str

    @classmethod
    def at(cls, tracking_uri: str | None) -> Guest:
        """The MLflow at that address; by default the one that MLflow itself would take.

        Raises `InvalidRequest` where it is not installed, `StoreUnavailable`.
        """
        try:
            mlflow = importlib.import_module("mlflow")
        except ImportError as error:
            raise InvalidRequest(
                "this needs the package 'mlflow': pip install 'featurestore[mlflow]'"
            ) from error
        uri = tracking_uri or str(mlflow.get_tracking_uri())
        guest = cls(None, mask_url(uri))
        with guest.asked():
            client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=tracking_uri)
        return cls(client, guest.shown)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Raises `RecordNotFound` and `StoreUnavailable` for what MLflow and its stores raise."""
        try:
            yield
        except FeatureStoreError:
            raise
        except Exception as error:  # a foreign program's, and those of its databases
            words = (mask(str(error)).splitlines() or [type(error).__name__])[0]
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                raise RecordNotFound(f"in MLflow: {words}") from error
            raise StoreUnavailable(f"MLflow at {self.shown} can't be used: {words}") from error

    def pages(self, ask: Callable[[str | None], Any]) -> Iterator[Any]:
        """All items of a search that answers page by page."""
        token: str | None = None
        while True:
            with self.asked():
                page = ask(token)
            yield from page
            token = page.token
            if not token:
                return


@dataclass(frozen=True, slots=True)
class _Brought:
    """How often each thing happened to runs."""

    new: int = 0
    changed: int = 0
    same: int = 0
    skipped: tuple[str, ...] = ()


def sync_runs(tracker: Tracker, guest: Guest, experiments: Sequence[str]) -> Synced:
    """Bring the runs of these experiments (all, by default). Raises `StoreUnavailable`,
    `RecordNotFound` for an experiment that MLflow has not, `PermissionDenied`."""
    found = _Brought()
    for experiment in _experiments(guest, experiments):
        name = experiment_name(str(experiment.name))
        for run in guest.pages(_search(guest, str(experiment.experiment_id))):
            try:
                found = _counted(found, _bring(tracker, guest, run, name))
            except InvalidRequest as error:
                why = f"run {run.info.run_id}: {error.message}"
                found = replace(found, skipped=(*found.skipped, why))
    return Synced(
        tracking_uri=guest.shown,
        runs_new=found.new,
        runs_changed=found.changed,
        runs_same=found.same,
        skipped=found.skipped[:SKIPPED_SHOWN_MAX],
    )


def _search(guest: Guest, experiment_id: str) -> Callable[[str | None], Any]:
    return lambda token: guest.client.search_runs(
        [experiment_id], max_results=PAGE, order_by=["attributes.start_time"], page_token=token
    )


def _counted(found: _Brought, what: str) -> _Brought:
    match what:
        case "new":
            return replace(found, new=found.new + 1)
        case "changed":
            return replace(found, changed=found.changed + 1)
        case _:
            return replace(found, same=found.same + 1)


def _experiments(guest: Guest, wanted: Sequence[str]) -> list[Any]:
    everything = list(guest.pages(lambda token: guest.client.search_experiments(page_token=token)))
    by_name = {str(each.name): each for each in everything}
    for name in wanted:
        if name not in by_name:
            raise RecordNotFound(f"MLflow experiment {name}", known=by_name)
    return [by_name[name] for name in wanted] if wanted else everything


def experiment_name(name: str) -> str:
    """MLflow's name as one of ours: `/Users/ann@x/delay` is `Users/ann(at)x/delay`."""
    clean = "".join(c if c.isprintable() else " " for c in name.replace("@", "(at)"))
    parts = [part.strip() for part in clean.split("/")]
    return "/".join(part for part in parts if part)[:EXPERIMENT_CHARS_MAX].strip("/ ") or "mlflow"


def _bring(tracker: Tracker, guest: Guest, run: Any, experiment: str) -> str:
    """Bring one run; whether it is `new`, `changed` or the `same`."""
    run_id = str(run.info.run_id)
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidRequest("its id is not 32 hex digits")
    runs = tracker.registry.runs
    before = _facts(tracker, run_id)
    record = _record(tracker, guest, run, experiment if before is None else before.experiment)
    status = _STATUSES.get(str(run.info.status), "RUNNING")
    ended_us = None if not run.info.end_time else int(run.info.end_time) * 1000
    tags = {key: str(v) for key, v in run.data.tags.items() if _fits(key) and "\0" not in str(v)}
    params = {key: typed(str(v)) for key, v in run.data.params.items() if _fits(key)}
    if before is None:
        start = RunStart(
            run_id=run_id,
            experiment=experiment,
            name=str(record.body["name"]),
            user=str(record.body["user"]),
            started_at_us=int(run.info.start_time or 0) * 1000,
            status=status,
            ended_at_us=ended_us,
            beats=False,
            params=params,
            tags=tags,
        )
        key = runs.start(start, records=[record])
        _bring_points(tracker, guest, run, None)
        return "new"
    key = runs.key(run_id)
    changed = _bring_points(tracker, guest, run, before)
    if before.record_id != record.id and len(record.parents) > len(before.training_sets):
        runs.relate(key, record)
        changed = True
    if new_params := {name: v for name, v in params.items() if name not in before.params}:
        runs.set_params(key, new_params)
        changed = True
    if new_tags := {name: v for name, v in tags.items() if before.tags.get(name) != v}:
        runs.set_tags(key, new_tags)
        changed = True
    if (before.status, before.ended_at_us) != (status, ended_us):
        runs.set_status(key, status, ended_at_us=ended_us)
        changed = True
    return "changed" if changed else "same"


def _facts(tracker: Tracker, run_id: str) -> RunFacts | None:
    try:
        return tracker.registry.runs.details(run_id, now_us=tracker.clock.now_us()).facts
    except RecordNotFound:
        return None


def _record(tracker: Tracker, guest: Guest, run: Any, experiment: str) -> Record:
    """The run as a record: what MLflow knew at its start, and what its tags say it learned from."""
    tags, run_id = run.data.tags, str(run.info.run_id)
    name = tags.get("mlflow.runName") or getattr(run.info, "run_name", None) or run_id[:8]
    shown = "".join(c if printable(c) else " " for c in str(name))[:RUN_NAME_CHARS_MAX]
    body = {
        "experiment": experiment,
        "version": run_id,
        "name": shown.strip() or run_id[:8],
        "user": str(tags.get("mlflow.user") or getattr(run.info, "user_id", None) or "unknown"),
        "code": {
            "program": _words(tags.get("mlflow.source.name")),
            "commit": _words(tags.get("mlflow.source.git.commit")),
            "branch": _words(tags.get("mlflow.source.git.branch")),
        },
        "mlflow": {
            "tracking_uri": guest.shown,
            "artifact_uri": mask_url(str(run.info.artifact_uri or ""))[:2_000],
        },
    }
    return Record(
        kind="run", name=f"{experiment}/{run_id}", body=body, parents=tuple(_parents(tracker, tags))
    )


def _words(text: str | None) -> str | None:
    return None if text is None else mask(str(text))[:2_000]


def _parents(tracker: Tracker, tags: Any) -> Iterator[Edge]:
    """What the tags of our guest name, as far as this registry knows it."""
    told = told_by(tags)
    sets = dict.fromkeys(one.training_set for one in told if one.training_set)
    for stored in tracker.registry.records(ids=list(sets)) if sets else ():
        if stored.record.kind == "training_set":
            yield Edge(parent=stored.id, role="training_set")
    for service in dict.fromkeys(one.service for one in told if one.service):
        if found := tracker.registry.records(kind="service", name=service):
            yield Edge(parent=found[-1].id, role="service")


def _bring_points(tracker: Tracker, guest: Guest, run: Any, before: RunFacts | None) -> bool:
    """Append what MLflow has of each metric and we have not; whether there was any."""
    new = list[PointRow]()
    known = {} if before is None else before.metrics
    for metric in run.data.metrics:
        if not _fits(metric):
            continue
        with guest.asked():
            history = guest.client.get_metric_history(str(run.info.run_id), metric)
        there = known[metric].points if metric in known else 0
        points = [
            (metric, int(one.step), int(one.timestamp) * 1000, _value(float(one.value)))
            for one in history
        ]
        new += sorted(points, key=lambda point: (point[2], point[1]))[there:]
    if new:
        key = tracker.registry.runs.key(str(run.info.run_id))
        now_us = tracker.clock.now_us()
        tracker.registry.runs.log_points(key, uuid.uuid4().hex, 1, new, now_us=now_us)
    return bool(new)


def _value(value: float) -> float:
    return float("inf") * (1 if value > 0 else -1) if abs(value) == FLOAT_MAX else value


def _fits(key: object) -> bool:
    return isinstance(key, str) and 0 < len(key) <= KEY_CHARS_MAX and printable(key)


def typed(text: str) -> Any:
    """MLflow keeps parameters as text; those that are the text of a number are one."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            if repr(kind(text)) == text:
                return kind(text)
        except (ValueError, OverflowError):
            continue
    return text

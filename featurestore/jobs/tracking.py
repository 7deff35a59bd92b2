"""A run while it is under way: what a training program tells of itself.

Metrics go through a buffer; everything else is written when it is said. A run ends with its block:
FINISHED, FAILED by an exception, KILLED by an interrupt. One that nobody ends is ended when the
process is; one whose process dies is KILLED for whoever looks, for it is heard of no more.
"""

from __future__ import annotations

import atexit
import contextvars
import math
import numbers
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from featurestore.errors import FeatureStoreError, InvalidRequest, RecordNotFound
from featurestore.jobs.models import register
from featurestore.jobs.run_buffer import RunBuffer
from featurestore.jobs.surroundings import surroundings, user
from featurestore.masking import mask
from featurestore.records import Edge, Record
from featurestore.stores.offline.artifacts import Artifact, ArtifactStore, check_path
from featurestore.stores.registry.run_words import (
    RUN_NAME_CHARS_MAX,
    STEP_MAX,
    RunArtifact,
    RunStart,
    Status,
    check_experiment,
    check_key,
    printable,
)
from featurestore.timeline import to_us

if TYPE_CHECKING:
    from datetime import datetime

    from featurestore.jobs.models import Models
    from featurestore.jobs.openlineage_jobs import Telling
    from featurestore.lifecycle.models import ModelVersion
    from featurestore.stores.registry.base import Registry
    from featurestore.stores.registry.runs import RunKey
    from featurestore.timeline import Clock

ERROR_CHARS_MAX = 2_000
TRAINING_SET_ALIAS = "training_set/"

_current: contextvars.ContextVar[ActiveRun | None] = contextvars.ContextVar(
    "featurestore_run", default=None
)
_live: set[ActiveRun] = set()


@dataclass(frozen=True, slots=True)
class Tracker:
    """Where runs are kept: the registry, and the artifacts."""

    registry: Registry
    artifacts: ArtifactStore
    clock: Clock
    models: Callable[[], Models] | None = None
    """The model registry, for those that have one."""
    telling: Telling | None = None
    """Who is told of runs that are over."""

    def start(
        self,
        experiment: str,
        *,
        name: str | None = None,
        training_set: Any = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent: ActiveRun | str | None = None,
    ) -> ActiveRun:
        """Commit the record of a new run; it is RUNNING. See `FeatureStore.start_run`."""
        check_experiment(experiment)
        run_id = uuid.uuid4().hex
        name = run_id[:8] if name is None else _check_name(name)
        parent_id = self._parent(parent)
        now_us = self.clock.now_us()
        about, packages = surroundings()
        body = {"experiment": experiment, "version": run_id, "name": name, **about}
        edges = [
            Edge(parent=found, role="training_set") for found in self.training_sets(training_set)
        ]
        if parent_id is not None:
            of_parent = self.registry.runs.details(parent_id, now_us=now_us).facts
            edges.append(Edge(parent=of_parent.record_id, role="parent_run"))
        record = Record(kind="run", name=f"{experiment}/{run_id}", body=body, parents=tuple(edges))
        start = RunStart(
            run_id=run_id,
            experiment=experiment,
            name=name,
            user=user(),
            started_at_us=now_us,
            parent=parent_id,
            params=dict(params or {}),
            tags=dict(tags or {}),
        )
        key = self.registry.runs.start(start, records=[record], blobs=[packages])
        return ActiveRun(self, key, record, run_id=run_id, owner=True)

    def resume(self, run_id: str) -> ActiveRun:
        """Go on with a run that has ended, or whose process is gone: it is RUNNING again.

        Raises `RecordNotFound`, `AmbiguousRecord`.
        """
        run = self.join(run_id)
        now_us = self.clock.now_us()
        self.registry.runs.set_status(run.key, "RUNNING", ended_at_us=None, beat_us=now_us)
        run.own()
        return run

    def join(self, run_id: str) -> ActiveRun:
        """Log to a run of another process; how it ends is the other's to say. Raises as `resume`
        does."""
        key = self.registry.runs.key(run_id)
        facts = self.registry.runs.details(run_id, now_us=self.clock.now_us()).facts
        record = self.registry.record(facts.record_id).record
        return ActiveRun(self, key, record, run_id=facts.run_id, owner=False)

    def training_sets(self, given: Any) -> tuple[str, ...]:
        """The record ids of a training set, its name or id, or several of them.

        Raises `RecordNotFound`, `InvalidRequest`.
        """
        if given is None:
            return ()
        if isinstance(given, str):
            return (self._training_set(given),)
        if isinstance(found := getattr(given, "id", None), str):
            return (found,)
        if isinstance(given, Iterable):
            found_ids = [found for each in given for found in self.training_sets(each)]
            return tuple(dict.fromkeys(found_ids))
        raise InvalidRequest(
            f"a {type(given).__name__} is not a training set; give what create_training_set "
            "returned, or its name"
        )

    def _training_set(self, ref: str) -> str:
        try:
            found = self.registry.record(ref if "@" in ref else f"{TRAINING_SET_ALIAS}{ref}")
        except RecordNotFound as error:
            aliases = self.registry.aliases(TRAINING_SET_ALIAS)
            known = [f"training set {name.removeprefix(TRAINING_SET_ALIAS)}" for name in aliases]
            raise RecordNotFound(f"training set {ref}", known=known) from error
        if found.record.kind != "training_set":
            raise InvalidRequest(f"{ref} is a {found.record.kind}, not a training set")
        return found.id

    def _parent(self, parent: ActiveRun | str | None) -> str | None:
        if parent is None:
            around = _current.get()
            # A run of another store is none of ours.
            return around.run_id if around and around.tracker.registry is self.registry else None
        if isinstance(parent, ActiveRun):
            return parent.run_id
        return self.registry.runs.details(parent, now_us=self.clock.now_us()).facts.run_id


class ActiveRun:
    """A run that is under way. Use it as a block, or call `end`; threads may share it.

    `id` is its record's id, `run_id` what people call it by. Methods raise `StoreUnavailable` while
    the registry is away, `PermissionDenied`; metrics wait for it instead.
    """

    def __init__(
        self, tracker: Tracker, key: RunKey, record: Record, *, run_id: str, owner: bool
    ) -> None:
        self.tracker, self.key, self.record, self.run_id = tracker, key, record, run_id
        self._owner = owner
        self._ended = False
        self._lock = threading.Lock()
        self._tables = tracker.registry.runs
        self._buffer = RunBuffer(self._tables, key, tracker.clock)
        self._put, self._now_us = self._buffer.put, tracker.clock.now_us
        self._keys: set[str] = set()
        self._token: contextvars.Token[ActiveRun | None] | None = None
        _live.add(self)
        if owner:
            self._buffer.start()

    @property
    def id(self) -> str:
        """The id of the run's record: what a model names as its parent."""
        return self.record.id

    @property
    def experiment(self) -> str:
        """What the run belongs to."""
        return self.key.experiment

    @property
    def name(self) -> str:
        """What the run was called."""
        return str(self.record.body.get("name", ""))

    def log_metric(
        self,
        key: str,
        value: float,
        step: int = 0,
        at: datetime | str | int | None = None,
    ) -> None:
        """Append a value of a metric. NaN and infinities are kept; no comparison meets NaN.

        Returns at once; the value is in the registry half a second later. Raises `InvalidRequest`
        for what is no number, and later what the registry refused of what was logged before.
        """
        if type(value) is not float:
            value = _number(key, value)
        if type(step) is not int or not -STEP_MAX <= step <= STEP_MAX:
            step = _step(step)
        if key not in self._keys:
            self._keys.add(check_key(key, "metric"))
        if self._ended:
            raise self._over()
        self._put((key, step, self._now_us() if at is None else to_us(at), value))

    def log_metrics(
        self,
        metrics: Mapping[str, float],
        step: int = 0,
        at: datetime | str | int | None = None,
    ) -> None:
        """Append a value of each metric."""
        at_us = self._now_us() if at is None else to_us(at)
        for key, value in metrics.items():
            self.log_metric(key, value, step, at_us)

    def log_param(self, key: str, value: Any) -> None:
        """Set a parameter, once. Numbers, booleans and None keep their type."""
        self.log_params({key: value})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Set parameters. Raises `InvalidRequest` for another value of one that is set."""
        self._check()
        self._tables.set_params(self.key, params)

    def set_tag(self, key: str, value: str | None) -> None:
        """Set a tag, in place of one of that name; None removes it."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Set tags."""
        self._check()
        self._tables.set_tags(self.key, tags)

    def note(self, text: str) -> None:
        """Add a remark; earlier ones stay."""
        self._check()
        self._tables.add_note(self.key, text)

    def log_artifact(self, path: str | Path, to: str | None = None) -> Artifact:
        """Keep a file or a folder, at the path `to` of the run (by default its own name).

        Raises `InvalidRequest` for a path outside the run and for what is no file or folder,
        `FileNotWritten`.
        """
        self._check()
        source = Path(path)
        place = check_path(source.resolve().name if to is None else to)
        kept = self.tracker.artifacts.put(source)
        at_us = self._now_us()
        found = RunArtifact(place, kept.digest, kept.kind, kept.size, at_us)
        self._tables.add_artifacts(self.key, [found])
        return kept

    def log_artifacts(self, folder: str | Path, to: str | None = None) -> tuple[Artifact, ...]:
        """Keep each file and folder in `folder`, below the path `to` of the run."""
        self._check()
        root = Path(folder)
        if not root.is_dir():
            raise InvalidRequest(f"{root} is not a folder; log_artifact keeps a file")
        below = "" if to is None else f"{check_path(to)}/"
        rows, kept = list[RunArtifact](), list[Artifact]()
        for path in sorted(root.iterdir()):
            place = check_path(f"{below}{path.name}")
            each = self.tracker.artifacts.put(path)
            rows.append(RunArtifact(place, each.digest, each.kind, each.size, self._now_us()))
            kept.append(each)
        self._tables.add_artifacts(self.key, rows)
        return tuple(kept)

    def log_model(
        self,
        model: Any,
        name: str,
        *,
        training_set: Any = None,
        service: Any = None,
        signature: Any = None,
        metrics: Mapping[str, float] | None = None,
        flavor: str | None = None,
        description: str = "",
    ) -> ModelVersion:
        """Register a model that the run made as the next version of `name`; see
        `ModelRegistry.register`. Its metrics are by default the run's last finite ones."""
        self._check()
        if self.tracker.models is None:
            raise InvalidRequest("this run has no model registry; use fs.models.register(…, run=…)")
        return register(
            self.tracker.models(),
            name,
            model,
            run=self,
            training_set=training_set,
            service=service,
            signature=signature,
            metrics=self._last_metrics() if metrics is None else metrics,
            flavor=flavor,
            description=description,
        )

    def _last_metrics(self) -> dict[str, float]:
        self.flush()
        facts = self._tables.details(self.run_id, now_us=self._now_us()).facts
        last = {name: metric.value for name, metric in facts.metrics.items()}
        return {name: value for name, value in last.items() if math.isfinite(value)}

    def use(self, training_set: Any) -> None:
        """Say that the run learns from a training set that it was not started with. From now on
        the run has another record, which names it too."""
        self._check()
        with self._lock:
            there = {edge.parent for edge in self.record.parents}
            found = self.tracker.training_sets(training_set)
            new = [Edge(parent=each, role="training_set") for each in found if each not in there]
            if new:
                record = replace(self.record, parents=(*self.record.parents, *new))
                self._tables.relate(self.key, record)
                self.record = record

    def flush(self) -> None:
        """Write what was logged. Raises what the registry refused of it."""
        self._buffer.flush()
        self._buffer.check()

    def end(self, status: Status = "FINISHED", *, error: str = "") -> None:
        """Write the rest and say how the run ended; again is a no-op. Raises as `flush` does."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        _live.discard(self)
        try:
            self._buffer.close()
            self._buffer.check()
        finally:
            if self._owner:
                ended_us = self._now_us()
                self._tables.set_status(
                    self.key, status, ended_at_us=ended_us, error=_shortened(error)
                )
                if self.tracker.telling is not None:
                    self.tracker.telling.ended(self.id, status, ended_us=ended_us)

    def own(self) -> None:
        """Be the one who says how the run ends."""
        self._owner = True
        self._buffer.start()

    def after_fork(self) -> None:
        """In a forked child: what it logs is its own, how the run ends is its parent's to say."""
        self._lock = threading.Lock()
        self._owner = False
        self._buffer.after_fork()

    def _check(self) -> None:
        if self._ended:
            raise self._over()

    def _over(self) -> InvalidRequest:
        return InvalidRequest(
            f"run {self.run_id[:8]} has ended; go on with it by fs.runs.resume({self.run_id!r})"
        )

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
        status, words = _status_of(error)
        self.end(status, error=words)

    def __repr__(self) -> str:
        return f"<run {self.experiment}/{self.run_id[:8]}>"


def current_run() -> ActiveRun | None:
    """The run whose block we are in, in this thread or task."""
    return _current.get()


def _status_of(error: BaseException | None) -> tuple[Status, str]:
    """How a run ends that ends with `error`, and what it says of it."""
    match error:
        case None:
            return "FINISHED", ""
        case SystemExit() if error.code in (None, 0):
            return "FINISHED", ""
        case KeyboardInterrupt() | GeneratorExit():
            return "KILLED", type(error).__name__
        case _:
            return "FAILED", f"{type(error).__name__}: {error}".removesuffix(": ")


def _number(key: object, value: Any) -> float:
    """A number of any kind: of numpy, a tensor of one element, a Decimal."""
    if isinstance(value, str | bytes) or value is None:
        raise InvalidRequest(f"metric {str(key)[:80]!r} is {value!r}, which is no number")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError) as error:
        shown = f"{type(value).__name__} {str(value)[:60]!r}"
        raise InvalidRequest(f"metric {str(key)[:80]!r} is a {shown}: no number") from error


def _step(step: Any) -> int:
    if not isinstance(step, numbers.Integral) or not -STEP_MAX <= int(step) <= STEP_MAX:
        raise InvalidRequest(f"a step is a whole number of at most 63 bits, not {step!r:.60}")
    return int(step)


def _check_name(name: str) -> str:
    if not 1 <= len(name) <= RUN_NAME_CHARS_MAX or not printable(name):
        raise InvalidRequest(
            f"{name[:80]!r} is not the name of a run: 1 to {RUN_NAME_CHARS_MAX} printable "
            "characters"
        )
    return name


def _shortened(error: str) -> str:
    return re.sub(r"\0", "", mask(error))[:ERROR_CHARS_MAX]


@atexit.register
def _end_all() -> None:
    """End the runs that nobody ended: as the program ended."""
    status, error = _status_of(getattr(sys, "last_value", None))
    for run in list(_live):
        try:
            run.end(status, error=error)
        except FeatureStoreError as failed:
            sys.stderr.write(f"featurestore: the end of {run!r} could not be written: {failed}\n")


def _after_fork() -> None:
    for run in list(_live):
        run.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

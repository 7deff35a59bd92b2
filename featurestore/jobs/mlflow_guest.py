"""MLflow's runs know what they learned from, without a line of the user's.

MLflow loads `RetrievedContext` (an entry point `mlflow.run_context_provider`) and asks it for tags
whenever a run starts, one of `autolog` too. What is retrieved while a run is under way is told by
`tell`, on a thread of its own, so that an MLflow server that is away holds up no training. Nothing
here imports mlflow: it looks only at one that the user has imported.
"""

from __future__ import annotations

import atexit
import logging
import queue
import sys
import threading
import time
from typing import Any

from featurestore.jobs.mlflow_tags import tags_of
from featurestore.jobs.retrieved import Retrieved, last_retrieved

TOLD_MAX = 256
"""Retrievals that wait to be told; more are not told."""
LEAVING_S_MAX = 5.0
"""How long the end of a process waits for MLflow."""

_log = logging.getLogger(__name__)


class _Taken:
    """Which retrievals went to which run: a run has those since the run before it, or, where there
    are none, the same as that one (many models are fitted to one training set)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seen: tuple[Retrieved, ...] = ()
        self.batch: tuple[Retrieved, ...] = ()
        self.fresh = False

    def for_new_run(self) -> tuple[Retrieved, ...]:
        with self.lock:
            now = last_retrieved()
            new = tuple(one for one in now if one not in self.seen)
            self.seen, self.fresh = now, bool(new)
            self.batch = new or self.batch
            return self.batch

    def for_live_run(self, one: Retrieved) -> tuple[Retrieved, ...]:
        """With one more. What the run only had because there was nothing newer goes."""
        with self.lock:
            others = (old for old in self.batch if old.training_set != one.training_set)
            kept = tuple(others) if one.training_set else self.batch
            self.batch = (*kept, one) if self.fresh else (one,)
            self.seen, self.fresh = last_retrieved(), True
            return self.batch


_taken = _Taken()


class RetrievedContext:
    """The tags that MLflow gives to each run that it starts in this process."""

    def in_context(self) -> bool:
        """Whether this process has retrieved anything."""
        return bool(last_retrieved())

    def tags(self) -> dict[str, str]:
        """What it retrieved since the run before."""
        return tags_of(_taken.for_new_run())


def tell(one: Retrieved) -> None:
    """Tag the MLflow run that is under way in this thread, if there is one. Returns at once."""
    mlflow = sys.modules.get("mlflow")
    active = getattr(mlflow, "active_run", None)
    if mlflow is None or active is None:
        return
    try:
        run = active()
        if run is not None:
            _teller.put(mlflow, str(run.info.run_id), tags_of(_taken.for_live_run(one)))
    except Exception as error:  # noqa: BLE001 # of a foreign program, which must stop no training
        _log.warning("MLflow's run was not told what was retrieved: %s", error)


class _Teller:
    """Writes tags, one after the other, away from the training."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[Any, str, str, dict[str, str]]] = queue.Queue(TOLD_MAX)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, mlflow: Any, run_id: str, tags: dict[str, str]) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="featurestore mlflow")
                self._thread.daemon = True
                self._thread.start()
                atexit.register(self.settle)
        try:
            self._waiting.put_nowait((mlflow, mlflow.get_tracking_uri(), run_id, tags))
        except queue.Full:
            _log.warning("MLflow is too slow: its run %s is not told what was retrieved", run_id)

    def settle(self, timeout_s: float = LEAVING_S_MAX) -> bool:
        """Wait until all is told; whether it was."""
        give_up = time.monotonic() + timeout_s
        while self._waiting.unfinished_tasks and time.monotonic() < give_up:
            time.sleep(0.01)
        return not self._waiting.unfinished_tasks

    def _run(self) -> None:
        while True:
            mlflow, uri, run_id, tags = self._waiting.get()
            try:
                client = mlflow.MlflowClient(tracking_uri=uri)
                for key, value in tags.items():
                    client.set_tag(run_id, key, value)
            except Exception as error:  # noqa: BLE001 # as above
                _log.warning("MLflow's run %s was not told what was retrieved: %s", run_id, error)
            finally:
                self._waiting.task_done()


_teller = _Teller()
settle = _teller.settle

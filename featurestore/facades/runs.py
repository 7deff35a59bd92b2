"""`fs.runs`: what can be asked of runs. One line per method; the work is in `jobs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.jobs import runs

if TYPE_CHECKING:
    from featurestore.jobs.mlflow_sync import Synced
    from featurestore.jobs.runs import Run
    from featurestore.jobs.tracking import ActiveRun, Tracker
    from featurestore.lifecycle.run_compare import RunComparison
    from featurestore.stores.registry.run_words import Point, RunFacts


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a project. A run is named by its id, the beginning of it, or its record's id."""

    tracker: Tracker

    def search(
        self,
        query: str = "",
        *,
        experiment: str | None = None,
        order_by: Sequence[str] | str = (),
        limit: int = 1_000,
    ) -> tuple[RunFacts, ...]:
        """The runs that a search finds: `"metrics.auc > 0.8 and params.depth = 6"`.

        Raises `InvalidSearch`, `LimitExceeded`.
        """
        return runs.search(
            self.tracker, query, experiment=experiment, order_by=order_by, limit=limit
        )

    def list(self, experiment: str | None = None, *, limit: int = 1_000) -> tuple[RunFacts, ...]:
        """The newest runs, of one experiment or of all."""
        return runs.search(self.tracker, experiment=experiment, limit=limit)

    def get(self, run: str) -> Run:
        """One run in full. Raises `RecordNotFound`, `AmbiguousRecord`."""
        return runs.get(self.tracker, run)

    def compare(self, *named: str) -> RunComparison:
        """What two or more runs differ in. Raises as `get` does."""
        return runs.compare_runs(self.tracker, named)

    def metric(self, run: str, key: str) -> Sequence[Point]:
        """All values of a metric by step: `key`, `step`, `at_us`, `value`."""
        return runs.points(self.tracker, run, key)

    def fetch(self, run: str, path: str, to: str | Path) -> Path:
        """Copy an artifact of a run, checked. Raises `RecordNotFound`, `CorruptRow`."""
        return runs.fetch(self.tracker, run, path, to)

    def plot(self, *named: str, to: str | Path, metrics: Sequence[str] = ()) -> Path:
        """Draw the metrics of runs (all, by default) into `to`, a `.png` or `.svg`. Needs the extra
        `plots`."""
        from featurestore.jobs.run_plots import plot

        return plot(self.tracker, named, to=Path(to), metrics=metrics)

    def resume(self, run: str) -> ActiveRun:
        """Go on with a run that has ended or was killed."""
        return self.tracker.resume(run)

    def join(self, run: str) -> ActiveRun:
        """Log to a run that another process started and will end."""
        return self.tracker.join(run)

    def sync_mlflow(
        self, tracking_uri: str | None = None, *, experiments: Sequence[str] = ()
    ) -> Synced:
        """Bring MLflow's runs (of these experiments; all, by default), models and aliases, and tell
        it which versions are in production and staging here. By default the MLflow that its own
        settings name. Raises `StoreUnavailable`, `RecordNotFound`, `InvalidRequest`."""
        from featurestore.jobs import mlflow_models, mlflow_sync

        guest = mlflow_sync.Guest.at(tracking_uri)
        done = mlflow_sync.sync_runs(self.tracker, guest, experiments)
        return mlflow_models.sync_models(self.tracker, guest, done)

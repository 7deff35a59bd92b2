"""Pages about runs: searched, one, several beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from featurestore.errors import FeatureStoreError
from featurestore.web import charts
from featurestore.web.charts import Plot
from featurestore.web.pages import show, site_of

if TYPE_CHECKING:
    from featurestore.stores.registry.run_words import RunFacts

router = APIRouter()

RUNS_SHOWN_MAX = 200
METRICS_SHOWN_MAX = 24
"""Of a page's plots; a run with more says so."""
COLUMNS_MAX = 6
"""Of params and of metrics, each, in the list of runs."""


@router.get("/runs")
def runs(request: Request, search: str = "", experiment: str = "") -> Response:
    """The runs that a search finds, newest first."""
    found: tuple[RunFacts, ...] = ()
    problem: FeatureStoreError | None = None
    facade = site_of(request).store.runs
    try:
        found = facade.search(search, experiment=experiment or None, limit=RUNS_SHOWN_MAX)
    except FeatureStoreError as error:
        problem = error
    params = list(dict.fromkeys(name for run in found for name in run.params))[:COLUMNS_MAX]
    metrics = list(dict.fromkeys(name for run in found for name in run.metrics))[:COLUMNS_MAX]
    return show(
        request, "runs.html", runs=found, problem=problem, search=search, experiment=experiment,
        experiments=sorted({run.experiment for run in found}), params=params, metrics=metrics,
        most=RUNS_SHOWN_MAX,
    )  # fmt: skip


@router.get("/runs-compared")
def compared(request: Request, run: Annotated[list[str] | None, Query()] = None) -> Response:
    """Several runs beside each other: what differs, and their metrics in one plot each."""
    found = site_of(request).store.runs.compare(*(run or ()))
    names = sorted({name for one in found.runs for name in one.metrics})
    plots = _plots(request, found.runs, names)
    return show(request, "runs_compared.html", found=found, plots=plots)


@router.get("/runs/{run_id}")
def run(request: Request, run_id: str) -> Response:
    """One run: what it was started with, its metrics as plots, its artifacts."""
    found = site_of(request).store.runs.get(run_id)
    names = sorted(found.facts.metrics)
    plots = _plots(request, [found.facts], names)
    return show(
        request, "run.html", run=found, facts_of=found.facts, plots=plots,
        hidden=max(0, len(names) - METRICS_SHOWN_MAX),
    )  # fmt: skip


def _plots(
    request: Request, runs: Sequence[RunFacts], metrics: list[str]
) -> list[tuple[str, Plot]]:
    """A plot for each metric that has more than one value in some run."""
    facade = site_of(request).store.runs
    made = []
    for metric in metrics[:METRICS_SHOWN_MAX]:
        series = [
            (one.name, [(float(p.step), p.value) for p in facade.metric(one.run_id, metric)])
            for one in runs
            if metric in one.metrics
        ]
        drawn = charts.plot(series)
        if drawn is not None and any(len(points) > 1 for _, points in series):
            made.append((metric, drawn))
    return made

"""Pictures of metrics, by matplotlib (the extra `plots`), which this file alone imports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import FileNotWritten, InvalidRequest, LimitExceeded, RecordNotFound
from featurestore.jobs.runs import RUNS_PER_COMPARISON_MAX, get
from featurestore.stores.registry.run_words import Point, RunFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featurestore.jobs.tracking import Tracker

PLOTTED_METRICS_MAX = 12
POINTS_PER_LINE_MAX = 5_000
"""A longer line is drawn by every n-th of its points."""
PANEL_INCHES = 5.2, 3.4
COLUMNS = 2
FORMATS = (".png", ".svg")


def plot(tracker: Tracker, runs: Sequence[str], *, to: Path, metrics: Sequence[str] = ()) -> Path:
    """Draw a panel for each metric, in it each run: a line over steps, or bars where no run has
    more than one value. Returns `to`.

    Raises `InvalidRequest` (no run, another kind of file, matplotlib is not installed),
    `RecordNotFound`, `LimitExceeded`, `FileNotWritten`.
    """
    if to.suffix.lower() not in FORMATS:
        raise InvalidRequest(f"{to} is drawn as .png or .svg; give it such a name")
    if not runs:
        raise InvalidRequest("no run is named; name those to draw")
    if len(runs) > RUNS_PER_COMPARISON_MAX:
        raise LimitExceeded(
            "RUNS_PER_COMPARISON_MAX", asked=len(runs), allowed=RUNS_PER_COMPARISON_MAX
        )
    facts = [get(tracker, run).facts for run in runs]
    names = _chosen(facts, metrics)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidRequest(
            "pictures need the package 'matplotlib': pip install 'featurestore[plots]'"
        ) from error
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for panel, name in zip(panels, names, strict=False):
        _draw(tracker, panel, name, facts)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    _legend(figure, panels[: len(names)])
    try:
        figure.savefig(to, dpi=144, metadata={"Date": None} if to.suffix == ".svg" else None)
    except OSError as error:
        raise FileNotWritten(f"{to} can't be written: {error.strerror or error}") from error
    return to


def _chosen(facts: Sequence[RunFacts], wanted: Sequence[str]) -> list[str]:
    known = sorted({name for run in facts for name in run.metrics})
    for name in wanted:
        if name not in known:
            raise RecordNotFound(f"metric {name}", known=[f"metric {each}" for each in known])
    if len(wanted) > PLOTTED_METRICS_MAX:
        raise LimitExceeded("PLOTTED_METRICS_MAX", asked=len(wanted), allowed=PLOTTED_METRICS_MAX)
    if not known:
        raise InvalidRequest("there is nothing to draw: these runs have no metric")
    return list(wanted or known)[:PLOTTED_METRICS_MAX]


def _draw(tracker: Tracker, panel: Axes, name: str, facts: Sequence[RunFacts]) -> None:
    panel.set_title(_plain(name), fontsize=10)
    panel.grid(visible=True, alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    if all(run.metrics[name].points == 1 for run in facts if name in run.metrics):
        _bars(panel, name, facts)
        return
    for number, run in enumerate(facts):
        if name not in run.metrics:
            continue
        points = tracker.registry.runs.points(run.run_id, name)
        stride = math.ceil(len(points) / POINTS_PER_LINE_MAX)
        _line(panel, points[:: stride or 1], _label(run), f"C{number % 10}")
    panel.set_xlabel("step", fontsize=9)


def _line(panel: Axes, points: Sequence[Point], label: str, color: str) -> None:
    """What is no number breaks the line. A metric that was always logged at one step is drawn in
    the order of time."""
    one_step = len({point.step for point in points}) == 1
    steps = list(range(len(points))) if one_step else [point.step for point in points]
    values = [point.value if math.isfinite(point.value) else math.nan for point in points]
    few: dict[str, Any] = {"marker": "o", "markersize": 3} if len(points) <= 50 else {}
    panel.plot(steps, values, label=label, color=color, linewidth=1.4, **few)


def _bars(panel: Axes, name: str, facts: Sequence[RunFacts]) -> None:
    for number, run in enumerate(facts):
        value = run.metrics[name].value if name in run.metrics else math.nan
        finite = value if math.isfinite(value) else 0.0
        panel.bar([number], [finite], label=_label(run), color=f"C{number % 10}", width=0.65)
        if name in run.metrics:
            panel.annotate(
                f"{value:.4g}", (number, finite), ha="center", va="bottom", fontsize=8,
                xytext=(0, 2), textcoords="offset points",
            )  # fmt: skip
    panel.margins(y=0.15)
    panel.set_xticks([])


def _legend(figure: Any, panels: Sequence[Axes]) -> None:
    """One for all panels: a run has the same colour in each."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=min(4, len(found)),
        fontsize=8, frameon=False,
    )  # fmt: skip


def _label(run: RunFacts) -> str:
    short = run.run_id[:8]
    return _plain(short if run.name == short else f"{run.name[:30]} {short}")


def _plain(text: str) -> str:
    """`$` begins a formula in matplotlib; names are no formulas."""
    return text.replace("$", r"\$")

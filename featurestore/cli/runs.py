"""`featurestore runs`: list, show, compare and fetch from the shell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.options import Json, Repo, open_store
from featurestore.cli.output import line, note, say, show_json, show_rows, show_table
from featurestore.records import show_id
from featurestore.timeline import SECOND_US, format_duration, format_instant

if TYPE_CHECKING:
    from featurestore.jobs.runs import Run
    from featurestore.lifecycle.run_compare import Difference, RunComparison
    from featurestore.stores.registry.run_words import RunFacts

runs = typer.Typer(help="Experiment tracking: list, show and compare runs.", no_args_is_help=True)

sync = typer.Typer(help="Bring what other tools know.", no_args_is_help=True)

LISTED_METRICS_MAX = 4
LISTED_PARAMS_MAX = 4


@runs.command("list")
def list_runs(
    query: Annotated[
        str, typer.Argument(help="Which: metrics.auc > 0.8 and params.depth = 6.")
    ] = "",
    *,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Only of this experiment.")
    ] = None,
    order_by: Annotated[
        list[str] | None,
        typer.Option("--order-by", metavar="FIELD", help="metrics.auc desc. Repeat."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """List runs, the newest first."""
    from featurestore.jobs.runs import facts_json

    with open_store(repo) as store:
        found = store.runs.search(
            query, experiment=experiment, order_by=order_by or (), limit=limit
        )
    if as_json:
        show_json([facts_json(run) for run in found])
        return
    metrics = _common([run.metrics for run in found], LISTED_METRICS_MAX)
    params = _common([run.params for run in found], LISTED_PARAMS_MAX)
    rows = [
        {
            "run": run.run_id[:8],
            "experiment": run.experiment,
            "name": run.name if run.name != run.run_id[:8] else "",
            "status": run.status,
            "started": format_instant(run.started_at_us // SECOND_US * SECOND_US),
            "took": _took(run),
        }
        | {f"params.{name}": run.params.get(name, "") for name in params}
        | {name: _number(run, name) for name in metrics}
        for run in found
    ]
    show_rows(rows, title="runs")


@runs.command()
def show(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")],
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Show one run in full."""
    from featurestore.jobs.runs import run_json

    with open_store(repo) as store:
        found = store.runs.get(run)
    if as_json:
        show_json(run_json(found))
    else:
        _show_run(found)


@runs.command()
def compare(
    named: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two runs or more.")],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the metrics: x.png or x.svg.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="With --plot: only these. Repeat.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Show what runs differ in: parameters, metrics, training data, code and packages."""
    from featurestore.jobs.runs import comparison_json

    with open_store(repo) as store:
        comparison = store.runs.compare(*named)
        if plot is not None:
            store.runs.plot(*named, to=plot, metrics=metric or ())
    if as_json:
        show_json(comparison_json(comparison))
    else:
        _show_comparison(comparison)
    if plot is not None:
        note(f"drawn: {plot}")


@runs.command()
def fetch(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")],
    path: Annotated[str, typer.Argument(help="The artifact's path in the run.")],
    to: Annotated[Path, typer.Option(metavar="PATH", help="Where to copy it.")],
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Copy an artifact of a run, checked against its hash."""
    with open_store(repo) as store:
        store.runs.fetch(run, path, to)
    if as_json:
        show_json({"run": run, "path": path, "to": str(to)})
    else:
        say(f"{path} of run {run} is at {to}.")


@sync.command()
def mlflow(
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", metavar="URI", help="By default, MLflow's own setting."),
    ] = None,
    experiment: Annotated[
        list[str] | None, typer.Option("--experiment", help="Only runs of this one. Repeat.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Bring MLflow's runs, models and aliases, and tell it what is in production here."""
    with open_store(repo) as store:
        done = store.runs.sync_mlflow(tracking_uri, experiments=experiment or ())
    if as_json:
        show_json(dataclasses.asdict(done))
        return
    say(f"MLflow at {done.tracking_uri}")
    say(f"  runs: {done.runs_new} new, {done.runs_changed} changed, {done.runs_same} as before")
    say(f"  model versions: {len(done.models_new)} new, {done.models_same} as before")
    for title, names in (
        ("new", done.models_new),
        ("aliases that moved", done.aliases_moved),
        ("told MLflow", done.mirrored),
    ):
        if names:
            say(f"  {title}: {', '.join(names)}")
    for why in done.skipped:
        note(f"skipped: {why}")


def _show_run(run: Run) -> None:
    facts = run.facts
    say(f"run {facts.run_id}")
    environment, code = run.body.get("environment", {}), run.body.get("code", {})
    about: list[tuple[str, Any]] = [
        ("experiment", facts.experiment),
        ("name", facts.name),
        ("status", f"{facts.status}: {facts.error}" if facts.error else facts.status),
        ("started", format_instant(facts.started_at_us)),
        ("ended", None if facts.ended_at_us is None else format_instant(facts.ended_at_us)),
        ("took", _took(facts)),
        ("user", facts.user),
        ("parent", facts.parent),
        ("nested", ", ".join(child[:8] for child in run.children)),
        ("learned from", ", ".join(map(show_id, facts.training_sets))),
        ("commit", _commit(code)),
        ("python", environment.get("python")),
        ("packages", environment.get("packages")),
        ("lock", (environment.get("lock") or {}).get("file")),
        ("machine", _machine(environment)),
        ("record", show_id(facts.record_id)),
    ]
    for name, value in about:
        if value not in (None, "", {}):
            say(f"  {name:<14}{line(value)}")
    _table("params", ("name", "value"), list(facts.params.items()))
    _table(
        "metrics",
        ("name", "value", "step", "least", "greatest", "points"),
        [
            (
                name,
                metric.value,
                metric.step,
                "—" if metric.least is None else metric.least,
                "—" if metric.greatest is None else metric.greatest,
                metric.points,
            )
            for name, metric in facts.metrics.items()
        ],
    )
    _table("tags", ("name", "value"), list(facts.tags.items()))
    _table(
        "artifacts",
        ("path", "kind", "bytes", "sha256"),
        [(kept.path, kept.kind, kept.size, kept.digest[:8]) for kept in run.artifacts],
    )
    _table(
        "notes",
        ("at", "author", "text"),
        [(format_instant(note.at_us), note.author, note.text) for note in run.notes],
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        say()
        show_table(columns, rows, title=title)


def _show_comparison(comparison: RunComparison) -> None:
    columns = ["", *(run.run_id[:8] for run in comparison.runs)]
    about = [
        ["name", *(run.name for run in comparison.runs)],
        ["experiment", *(run.experiment for run in comparison.runs)],
        ["status", *(run.status for run in comparison.runs)],
        ["took", *(_took(run) for run in comparison.runs)],
    ]
    show_table(columns, about, title="runs")
    for title, differences in (
        ("params that differ", comparison.params),
        ("metrics that differ", comparison.metrics),
        ("tags that differ", comparison.tags),
        ("training data that differs", comparison.training_data),
        ("surroundings that differ", comparison.surroundings),
    ):
        _table(title, columns, [_difference(each) for each in differences])


def _difference(difference: Difference) -> list[Any]:
    return [difference.name, *("—" if value is None else value for value in difference.values)]


def _common(sides: Sequence[Any], most: int) -> list[str]:
    """The names that most runs have."""
    count: dict[str, int] = {}
    for side in sides:
        for name in side:
            count[name] = count.get(name, 0) + 1
    return sorted(sorted(count, key=lambda name: (-count[name], name))[:most])


def _number(run: RunFacts, name: str) -> Any:
    return run.metrics[name].value if name in run.metrics else ""


def _took(run: RunFacts) -> str:
    if run.duration_us is None:
        return ""
    whole = max(run.duration_us, 0)
    unit = 1_000 if whole < SECOND_US else SECOND_US
    return format_duration(whole // unit * unit)


def _commit(code: Any) -> str:
    if not code.get("commit"):
        return ""
    return f"{code['commit'][:12]}{' with changes' if code.get('dirty') else ''}"


def _machine(environment: Any) -> str:
    if not environment:
        return ""
    memory = environment.get("memory_bytes")
    parts = [environment.get("host"), f"{environment.get('processors')} processors"]
    parts += [f"{memory / 2**30:.0f} GiB"] if memory else []
    return ", ".join([*map(str, parts), *environment.get("gpus", [])])

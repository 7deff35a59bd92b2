"""Commands of the model registry: models register, list, show, promote, approve, …"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.model_output import (
    comparison_json,
    dated,
    promotion_json,
    show_comparison,
    show_evaluation,
    show_gates,
    show_history,
    show_promotion,
    show_promotions,
    show_version,
    show_versions,
    version_json,
)
from featurestore.cli.options import At, Json, Repo, open_store
from featurestore.cli.output import note, say, show_json, working
from featurestore.errors import GateFailed, InvalidRequest

if TYPE_CHECKING:
    from featurestore.lifecycle.promotions import Promotion
    from featurestore.store import FeatureStore

models = typer.Typer(help="The model registry: versions, stages, promotions.")

Ref = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="delay (the newest), delay/3, delay/production or an id."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
Request = Annotated[str, typer.Argument(metavar="REQUEST", help="The promotion request's id.")]
By = Annotated[
    str | None,
    typer.Option(
        metavar="WHO", help="Who does it, where no token says so; else the system's user."
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load models that run code when loaded, to evaluate them.")
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")]
_REQUEST = re.compile(r"[0-9a-f]{10}")


@models.command("register")
def register(
    name: Name,
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="A file, a folder, or module:function.")
    ],
    *,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="The run that made it.")] = None,
    training_set: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it was trained on.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="NAME", help="The feature service that feeds it.")
    ] = None,
    signature: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='JSON: {"inputs": {"temp": "float64"}, "outputs": {}}.'),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME=VALUE", help="Repeat for more.")
    ] = None,
    flavor: Annotated[
        str | None,
        typer.Option(metavar="FLAVOR", help="joblib, skops, onnx, mlflow, file, folder."),
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What it is.")] = "",
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Keep a model as the next version of its name."""
    with open_store(repo) as store, working("registering"):
        version = store.models.register(
            name,
            artifact,
            run=run,
            training_set=training_set,
            service=service,
            signature=None if signature is None else _read_json(signature),
            metrics=_metrics(metric or []),
            flavor=flavor,
            description=description,
        )
    if as_json:
        show_json(version_json(version))
        return
    say(f"Registered {version.ref}.")
    if version.missing:
        note(f"Its lineage is incomplete, so it can't be promoted: {', '.join(version.missing)}.")
    else:
        say(f'Next: featurestore models promote {version.ref} --to production --reason "…"')


@models.command("list")
def list_versions(
    name: Annotated[str | None, typer.Argument(help="One model; all by default.")] = None,
    at: At = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """List versions with their stages."""
    with open_store(repo) as store:
        found = store.models.list(name, at=at)
    if as_json:
        show_json([version_json(one.version, stage=one.stage) for one in found])
    else:
        show_versions(found)


@models.command("show")
def show(ref: Ref, at: At = None, repo: Repo = Path(), as_json: Json = False) -> None:
    """Show a version, or a promotion request by its id."""
    with open_store(repo) as store:
        if _REQUEST.fullmatch(ref):
            _show_request(store, store.models.promotion(ref), as_json)
            return
        version = store.models.get(ref, at=at)
        staged = {one.version.id: one.stage for one in store.models.list(version.name, at=at)}
        requests = [one for one in store.models.promotions(version.name) if one.ref == version.ref]
        judged = [e for e in store.models.evaluations(version.name) if e.model_id == version.id]
    stage = staged.get(version.id, "development")
    if as_json:
        show_json(
            version_json(version, stage=stage)
            | {
                "evaluations": [dated(one) for one in judged],
                "promotions": [promotion_json(one) for one in requests],
            }
        )
        return
    show_version(version, stage)
    for evaluation in judged:
        show_evaluation(evaluation)
    show_promotions(requests)


@models.command("evaluate")
def evaluate(
    ref: Ref,
    *,
    on: Annotated[str, typer.Option("--on", metavar="SET", help="A training set, or set/split.")],
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What happened; else the set's label.")
    ] = None,
    trust: Trust = False,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Ask a version about the rows of a training set, and keep its answers."""
    with open_store(repo) as store, working("predicting"):
        found = store.models.evaluate(ref, on, label=label, trust=trust)
    if as_json:
        show_json(dated(found))
    else:
        show_evaluation(found)


@models.command("gates")
def check_gates(ref: Ref, trust: Trust = False, repo: Repo = Path(), as_json: Json = False) -> int:
    """Run the gates that the repository declares for a version.

    Exit status 1 where one fails.
    """
    with open_store(repo) as store, working("running gates"):
        report = store.models.check_gates(ref, trust=trust)
    if as_json:
        show_json(dated(report.to_dict()))
    else:
        show_gates(report)
    return 0 if report.passed else 1


@models.command("promote")
def promote(
    ref: Ref,
    *,
    to: Annotated[str, typer.Option("--to", metavar="STAGE", help="staging or production.")],
    reason: Reason,
    by: By = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long the request stays open: 7d.")
    ] = None,
    trust: Trust = False,
    break_glass: Annotated[
        bool,
        typer.Option("--break-glass", help="Put it there now, unchecked and unapproved."),
    ] = False,
    repo: Repo = Path(),
    as_json: Json = False,
) -> int:
    """Ask that a version comes into a stage, and run its gates.

    Production waits for the approval of somebody else. Exit status 1 where a gate fails.
    """
    with open_store(repo) as store:
        try:
            with working("running gates"):
                request = store.models.promote(
                    ref,
                    to,
                    reason=reason,
                    by=by,
                    expires=expires,
                    trust=trust,
                    break_glass=break_glass,
                )
        except GateFailed as error:
            _show_request(store, store.models.promotion(error.request), as_json)
            return 1
        _show_request(store, request, as_json)
    return 0


@models.command("check")
def check(
    request: Request, trust: Trust = False, repo: Repo = Path(), as_json: Json = False
) -> int:
    """Run the gates of a request again; earlier approvals are void.

    Exit status 1 where one fails.
    """
    with open_store(repo) as store:
        try:
            found = store.models.check(request, trust=trust)
        except GateFailed:
            _show_request(store, store.models.promotion(request), as_json)
            return 1
        _show_request(store, found, as_json)
    return 0


@models.command("approve")
def approve(
    request: Request,
    *,
    by: By = None,
    reason: Reason = "",
    no_apply: Annotated[
        bool, typer.Option("--no-apply", help="Leave the last step to: models apply.")
    ] = False,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Consent to a request as it was judged, and apply it when enough have."""
    with open_store(repo) as store:
        found = store.models.approve(request, by=by, reason=reason, apply=not no_apply)
        _show_request(store, found, as_json)


@models.command("apply")
def apply(request: Request, repo: Repo = Path(), as_json: Json = False) -> None:
    """Put the version of an approved request into its stage."""
    with open_store(repo) as store:
        _show_request(store, store.models.apply(request), as_json)


@models.command("reject")
def reject(
    request: Request, reason: Reason, by: By = None, repo: Repo = Path(), as_json: Json = False
) -> None:
    """Refuse a request, for good."""
    with open_store(repo) as store:
        _show_request(store, store.models.reject(request, reason=reason, by=by), as_json)


@models.command("withdraw")
def withdraw(
    request: Request,
    reason: Reason = "",
    by: By = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Take one's own request back."""
    with open_store(repo) as store:
        _show_request(store, store.models.withdraw(request, reason=reason, by=by), as_json)


@models.command("archive")
def archive(
    ref: Ref, reason: Reason, by: By = None, repo: Repo = Path(), as_json: Json = False
) -> None:
    """Take a version out of its stage; nobody takes its place."""
    with open_store(repo) as store:
        version = store.models.archive(ref, reason=reason, by=by)
    if as_json:
        show_json(version_json(version, stage="archived"))
    else:
        say(f"{version.ref} is archived.")


@models.command("history")
def history(name: Name, at: At = None, repo: Repo = Path(), as_json: Json = False) -> None:
    """Show who asked for, approved and applied each move of a stage, when and why."""
    with open_store(repo) as store:
        moves = store.models.history(name, at=at)
    if as_json:
        show_json([dated(move) for move in moves])
    else:
        show_history(moves)


@models.command("compare")
def compare(
    ref: Ref,
    champion: Annotated[
        str | None, typer.Option("--with", metavar="MODEL", help="Instead of that in production.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Show a version beside the one in production."""
    with open_store(repo) as store:
        found = store.models.compare(ref, champion)
    if as_json:
        show_json(comparison_json(found))
    else:
        show_comparison(found)


@models.command("download")
def download(
    ref: Ref,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where.")] = Path(),
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Copy a version's artifact, checked."""
    with open_store(repo) as store:
        found = store.models.download(ref, to)
    if as_json:
        show_json({"path": found})
    else:
        say(str(found))


def _show_request(store: FeatureStore, request: Promotion, as_json: bool) -> None:
    report = store.models.report(request.id)
    if as_json:
        gates = None if report is None else dated(report.to_dict())
        show_json(promotion_json(request) | {"gates": gates})
    else:
        show_promotion(request, report)


def _metrics(given: list[str]) -> dict[str, Any]:
    pairs = [text.partition("=") for text in given]
    if bad := [name for name, sign, _ in pairs if not sign]:
        raise typer.BadParameter(f"write a metric as name=value, not {bad[0]!r}")
    return {name: value for name, _, value in pairs}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} can't be read as JSON: {error}") from error

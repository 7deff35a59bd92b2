"""Commands about environments: env list, diff, promote, rollback, delete."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.definitions import CHANGES_PENDING, Impact, show_plan
from featurestore.cli.options import Json, Repo, open_store
from featurestore.cli.output import say, show_json, show_rows, working
from featurestore.records import show_id
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.jobs.environment_moves import Environment, Moved

env = typer.Typer(
    name="env",
    help="Environments: compare them, promote one to another, roll back.",
    no_args_is_help=True,
)

Source = Annotated[str, typer.Argument(help="The environment whose definitions are taken.")]
Target = Annotated[str, typer.Argument(help="The environment that gets them.")]
Name = Annotated[str, typer.Argument(help="Which environment.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the history.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")]


@env.command("list")
def list_environments(repo: Repo = Path(), as_json: Json = False) -> None:
    """List the environments: what each has, since when, by whom."""
    with open_store(repo) as store:
        found = store.environments.list()
    if as_json:
        show_json([_plain(one) for one in found])
    else:
        show_rows(
            [{**_plain(one), "repo": show_id(one.repo)} for one in found], title="environments"
        )


@env.command()
def diff(
    source: Source,
    target: Target,
    repo: Repo = Path(),
    as_json: Json = False,
    markdown: Markdown = False,
) -> int:
    """Show what promoting SOURCE to TARGET would change.

    Exit status: 0 nothing, 2 changes, 1 error.
    """
    with open_store(repo) as store, working("comparing"):
        plan = store.environments.diff(source, target)
    show_plan(plan, as_json=as_json, markdown=markdown)
    return 0 if plan.is_empty else CHANGES_PENDING


@env.command()
def promote(
    source: Source,
    target: Target,
    *,
    repo: Repo = Path(),
    reason: Reason = "",
    allow_production_impact: Impact = None,
    as_json: Json = False,
) -> None:
    """Bring TARGET (which may be new) to the definitions that SOURCE has. Copies no data."""
    with open_store(repo) as store, working("promoting"):
        done = store.environments.promote(
            source, target, reason=reason, allow_production_impact=allow_production_impact
        )
    _show_moved(done, as_json=as_json)


@env.command()
def rollback(
    environment: Name,
    *,
    repo: Repo = Path(),
    to: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="An earlier one: repo:shop@1a2b3c4d, or its digits."),
    ] = None,
    reason: Reason = "",
    allow_production_impact: Impact = None,
    as_json: Json = False,
) -> None:
    """Bring an environment back to the definitions that it had before. Copies no data."""
    with open_store(repo) as store, working("rolling back"):
        done = store.environments.rollback(
            environment, to=to, reason=reason, allow_production_impact=allow_production_impact
        )
    _show_moved(done, as_json=as_json)


@env.command()
def delete(
    environment: Name, repo: Repo = Path(), reason: Reason = "", as_json: Json = False
) -> None:
    """Remove an environment; its records and its history stay."""
    with open_store(repo) as store:
        gone = store.environments.delete(environment, reason=reason)
    if as_json:
        show_json(_plain(gone))
    else:
        say(f"Environment {gone.name!r} is deleted; it had {show_id(gone.repo)}.")
        say("Rows that nothing else needs are freed by: featurestore sweep")


def _plain(one: Environment) -> dict[str, Any]:
    """A dict with the instant in ISO 8601."""
    fields = asdict(one)
    at = format_instant(fields.pop("at_us"))
    return {"name": fields.pop("name"), "repo": fields.pop("repo"), "at": at, **fields}


def _show_moved(done: Moved, *, as_json: bool) -> None:
    plan, waiting = done.plan, sorted(name for name, there in done.serving.items() if not there)
    if as_json:
        moved = {"environment": plan.environment, "action": done.action, "repo": plan.target}
        show_json(moved | {"serving": done.serving, "plan": json.loads(plan.to_json())})
        return
    say(str(plan))
    if plan.moves:
        say(f"Environment {plan.environment!r} has {show_id(plan.target)} now.")
    if waiting:
        say(f"Not served before they are materialized: {', '.join(waiting)}.")
        say(f"Next, in environment {plan.environment!r}: featurestore materialize")

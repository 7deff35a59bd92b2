"""Commands about definitions: plan, apply, list, describe, info."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from featurestore.cli.options import Json, Repo, open_store
from featurestore.cli.output import line, say, show_json, show_rows, working
from featurestore.errors import InvalidRequest, suggest

if TYPE_CHECKING:
    from featurestore.compiler.changes import ChangePlan
    from featurestore.jobs.inventory import Kind

CHANGES_PENDING = 2


def _kinds() -> dict[str, Kind]:
    """What can be listed, as the shell spells it."""
    from featurestore.jobs.inventory import Kind

    return {str(kind).replace("_", "-"): kind for kind in get_args(Kind)}


def _kind(named: str) -> str:
    """What is meant; the singular is understood too."""
    known = _kinds()
    plural = "entities" if named == "entity" else named if named in known else f"{named}s"
    if plural not in known:
        raise typer.BadParameter(f"{named!r} is none.{suggest(named, known)}")
    return known[plural]


OfKind = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help="entities, sources, requests, views, on-demand or services.",
        callback=_kind,
        autocompletion=lambda: list(_kinds()),
    ),
]


def plan(
    repo: Repo = Path(),
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the plan to this file, for `apply`."),
    ] = None,
) -> int:
    """Show what `apply` would change, what it would build, and what lies downstream.

    Exit status: 0 nothing, 2 changes, 1 error.
    """
    with open_store(repo) as store, working("comparing the repository with the registry"):
        changes = store.plan()
    if output is not None:
        output.write_text(changes.to_json(), encoding="utf-8")
    show_plan(changes, as_json=as_json, markdown=markdown)
    return 0 if changes.is_empty else CHANGES_PENDING


def show_plan(plan: ChangePlan, *, as_json: bool, markdown: bool) -> None:
    """Print a plan in one of its three forms."""
    if as_json:
        show_json(json.loads(plan.to_json()))
    elif markdown:
        say(plan.to_markdown().rstrip("\n"))
    else:
        say(str(plan))


Impact = Annotated[
    str | None,
    typer.Option(
        "--allow-production-impact",
        metavar="REASON",
        help="Why a breaking change below a model in production is meant; it is recorded.",
    ),
]


def apply(
    plan_file: Annotated[
        Path | None,
        typer.Argument(metavar="[PLAN]", help="A plan's file: apply exactly that, or refuse."),
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
    serve_now: Annotated[
        bool,
        typer.Option("--serve-now", help="Serve new versions before they are materialized."),
    ] = False,
    allow_production_impact: Impact = None,
) -> None:
    """Commit the definitions to the registry."""
    with open_store(repo) as store, working("applying"):
        planned = None if plan_file is None else _read_plan(plan_file)
        result = store.apply(
            planned, serve_now=serve_now, allow_production_impact=allow_production_impact
        )
        environment = store.settings.project.environment
        waiting = sorted(name for name, moved in result.serving.items() if not moved)
    changes = result.plan
    if as_json:
        pending = {"environment": environment, "repo": result.repo, "serving": result.serving}
        show_json(pending | {"plan": json.loads(changes.to_json())})
        return
    say(str(changes))
    say(f"Applied to environment {environment!r}." if changes.moves else "Nothing to apply.")
    if waiting:
        say(f"Not served before they are materialized: {', '.join(waiting)}.")
        say("Next: featurestore materialize")


def _read_plan(path: Path) -> ChangePlan:
    from featurestore.compiler.changes import ChangePlan

    try:
        return ChangePlan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the plan {path} can't be read: {error}") from error


def list_objects(kind: OfKind, repo: Repo = Path(), as_json: Json = False) -> None:
    """List what the repository defines."""
    with open_store(repo) as store:
        rows = store.list(cast("Kind", kind))
    if as_json:
        show_json(rows)
    else:
        show_rows(rows, title=kind)


def describe(
    kind: OfKind,
    name: Annotated[str, typer.Argument(help="Which one.")],
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Show one definition in full."""
    with open_store(repo) as store:
        found = store.describe(cast("Kind", kind), name)
    if as_json:
        show_json(found)
    else:
        show_facts(found)


def info(repo: Repo = Path(), as_json: Json = False) -> None:
    """Show versions, settings and what answers."""
    with open_store(repo) as store:
        found = store.info()
    if as_json:
        show_json(found)
    else:
        show_facts(found)


def show_facts(facts: Mapping[str, Any]) -> None:
    """A mapping, a line per key; lists of dicts become tables below."""
    tables = {k: v for k, v in facts.items() if _is_table(v)}
    plain = {k: v for k, v in facts.items() if k not in tables and v not in ("", None, {}, [])}
    width = max((len(key) for key in plain), default=0)
    for key, value in plain.items():
        if isinstance(value, str) and "\n" in value.strip():
            say(f"{key}:")
            say(indent(dedent(value).strip("\n"), "    ").rstrip())
        elif isinstance(value, Mapping):
            say(f"{key}:")
            inner = max(len(str(k)) for k in value)
            for name, item in value.items():
                say(f"    {name!s:<{inner}}  {line(item)}")
        else:
            say(f"{key:<{width}}  {line(value)}")
    for key, rows in tables.items():
        say()
        show_rows(rows, title=key)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)

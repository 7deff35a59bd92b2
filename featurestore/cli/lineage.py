"""Questions about lineage: impact, who-uses, lineage, diff, freshness, blast, history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli import lineage_text
from featurestore.cli.online import entity_rows
from featurestore.cli.options import At, Json, Keys, KeysFile, Repo, open_store
from featurestore.cli.output import say, show_json, working
from featurestore.errors import InvalidRequest
from featurestore.facades.answers import to_plain

if TYPE_CHECKING:
    from featurestore.facades.lineage import LineageQuestions

Target = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help="source.column, view:feature, an alias (env/prod), a model (delay/production), a run, "
        "a record's id, kind:name, or a name.",
    ),
]


def answer(repo: Path, ask: Callable[[LineageQuestions], Any]) -> Any:
    """What `ask` gets from the lineage of the repository in folder `repo`."""
    with open_store(repo) as store:
        return ask(store.lineage)


def impact(target: Target, repo: Repo = Path(), at: At = None, as_json: Json = False) -> None:
    """Show what a change of a column, a source or a feature would touch."""
    found = answer(repo, lambda lineage: lineage.impact(target, at=at))
    show_json(to_plain(found)) if as_json else say(lineage_text.impact(found))


def who_uses(
    target: Target,
    repo: Repo = Path(),
    metrics: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A server's /metrics, for how often since its start."),
    ] = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show who uses a feature or a view, and when it was last trained on and asked for."""
    found = answer(repo, lambda lineage: lineage.who_uses(target, metrics=metrics, at=at))
    show_json(to_plain(found)) if as_json else say(lineage_text.uses(found))


def lineage(
    target: Target,
    *,
    up: Annotated[
        bool, typer.Option("--up/--down", help="What it was made of, or what was made of it.")
    ] = True,
    depth: Annotated[
        int | None, typer.Option(min=1, help="At most so many steps away; all by default.")
    ] = None,
    repo: Repo = Path(),
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show what something was made of, down to the columns, or what was made of it."""
    found = answer(repo, lambda lineage: lineage.of(target, up=up, depth=depth, at=at))
    show_json(to_plain(found)) if as_json else say(lineage_text.tree(found))


def diff(
    start: Annotated[
        str, typer.Argument(metavar="ALIAS@INSTANT", help="env/prod@2026-11-01T00:00:00Z")
    ],
    end: Annotated[
        str | None, typer.Argument(metavar="@INSTANT", help="Until when; by default now.")
    ] = None,
    repo: Repo = Path(),
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show what moved below an alias between two instants."""
    alias, _, since = start.rpartition("@")
    if not alias:
        raise InvalidRequest(f"{start!r} has no instant; write ALIAS@INSTANT, env/prod@2026-11-01")
    until = None if end is None else end.rpartition("@")[2]
    found = answer(repo, lambda lineage: lineage.diff(alias, since, until, at=at))
    show_json(to_plain(found)) if as_json else say(lineage_text.diff(found))


def history(
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="env/prod, training_set/delays, …")],
    repo: Repo = Path(),
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show the moves of an alias: who, when, to what, why."""
    found = answer(repo, lambda lineage: lineage.history(alias, at=at))
    show_json([to_plain(event) for event in found]) if as_json else lineage_text.show_events(found)


def freshness(
    service: Annotated[str, typer.Argument(help="A feature service of the environment.")],
    repo: Repo = Path(),
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show up to which instant what a service answers is known."""
    found = answer(repo, lambda lineage: lineage.freshness(service, at=at))
    show_json(to_plain(found)) if as_json else lineage_text.show_freshness(found)


def blast(
    target: Annotated[str, typer.Argument(metavar="WHAT", help="A snapshot's id, or a source.")],
    *,
    start: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="First bad event time of the source.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="The event time from which it is fine.")
    ] = None,
    repo: Repo = Path(),
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show which training sets, runs and models saw bad data."""
    found = answer(repo, lambda lineage: lineage.blast(target, start=start, end=end, at=at))
    show_json(to_plain(found)) if as_json else say(lineage_text.bad_data(found))


def erase(
    name: Annotated[str, typer.Argument(metavar="ENTITY", help="The entity, as it is defined.")],
    *,
    entity: Keys = None,
    entities: KeysFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show which training sets hold them.")
    ] = False,
    repo: Repo = Path(),
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show which training sets hold keys of an entity, and delete them, online and offline."""
    keys = entity_rows(entity or [], entities)
    with working("looking through training sets"):
        found = answer(repo, lambda lineage: lineage.erase(name, keys, dry_run=dry_run, at=at))
    show_json(to_plain(found)) if as_json else say(lineage_text.erasure(found))


def gc(
    older_than: Annotated[
        str, typer.Option(metavar="DURATION", help="Files must be older than that; 1h at least.")
    ] = "1d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    repo: Repo = Path(),
    at: At = None,
    as_json: Json = False,
) -> None:
    """Remove artifacts and files of training sets that nothing names."""
    found = answer(repo, lambda lineage: lineage.gc(older_than=older_than, dry_run=dry_run, at=at))
    show_json(to_plain(found)) if as_json else say(lineage_text.collected(found))

"""Commands of versions of data: data log, diff, restore, tag, vacuum; of training sets, and of what
was pushed (`pushed/<source>`)."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli import pushed_output
from featurestore.cli.options import Json, Repo, open_store
from featurestore.cli.output import note, say, show_json, show_rows, working
from featurestore.facades.answers import to_plain
from featurestore.records import show_id
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.jobs.data_versions import DataDiff, Version
    from featurestore.jobs.training_sets import TrainingSet

data = typer.Typer(
    help="Versions of training sets and of what was pushed, and a vacuum that keeps what is in use."
)

Ref = Annotated[
    str,
    typer.Argument(
        metavar="VERSION",
        help="A training set: name (what it means now), name/tag, name/3, name@1a2b; what was "
        "pushed: pushed/source/tag, pushed/source/2026-11-26T18:00:00Z.",
    ),
]


@data.command("log")
def log(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A training set's name, or pushed/source.")
    ],
    repo: Repo = Path(),
    limit: Annotated[int, typer.Option(min=1, help="So many versions, the newest.")] = 1_000,
    as_json: Json = False,
) -> None:
    """List the versions of a training set, or of what was pushed to a source, newest first."""
    from featurestore.jobs.data_versions import Version

    with open_store(repo) as store:
        found = store.data.log(name, limit=limit)
    sets = [one for one in found if isinstance(one, Version)]
    tables = [one for one in found if not isinstance(one, Version)]
    if as_json:
        show_json([*map(_version, sets), *map(to_plain, tables)])
    else:
        lines = [*map(_line, sets), *map(pushed_output.version_line, tables)]
        show_rows(lines, title=f"versions of {name}")


def _version(one: Version) -> dict[str, Any]:
    facts = asdict(one)
    return {"created_at": format_instant(facts.pop("at_us")), **facts}


def _line(one: Version) -> dict[str, Any]:
    return {
        "version": f"{one.number}{' (current)' if one.current else ''}",
        "set": show_id(one.id).partition(":")[2],
        "created": format_instant(one.at_us // 1_000_000 * 1_000_000),
        "author": one.author,
        "rows": one.rows,
        "tags": ", ".join(one.tags),
    }


@data.command("diff")
def diff(
    then: Annotated[str, typer.Argument(metavar="THEN", help="A version.")],
    now: Annotated[str, typer.Argument(metavar="NOW", help="Another one.")],
    repo: Repo = Path(),
    limit: Annotated[int, typer.Option(min=0, help="Of pushed rows: list so many keys.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what differs between two training sets, or two versions of what was pushed."""
    from featurestore.jobs.data_versions import DataDiff

    with open_store(repo) as store, working("comparing"):
        found = store.data.diff(then, now, limit=limit)
    if not isinstance(found, DataDiff):
        pushed_output.show_diff(found, as_json=as_json)
    elif as_json:
        show_json(asdict(found))
    else:
        _show_diff(found)


def _show_diff(found: DataDiff) -> None:
    say(f"{show_id(found.then)} → {show_id(found.now)}")
    if found.same_rows:
        say("the very same rows")
    else:
        say(f"rows         {found.rows[0]:,} → {found.rows[1]:,}")
        say(f"only then    {found.rows_only_then:,} rows, by the columns that both have")
        say(f"only now     {found.rows_only_now:,} rows")
    for name in found.columns_added:
        say(f"column       + {name}")
    for name in found.columns_removed:
        say(f"column       - {name}")
    for name in found.columns_changed or ():
        say(f"column       ~ {name}: other values for the same rows of the entity frame")
    for change in found.features:
        then, now = (_short(value) for value in (change.then, change.now))
        say(f"feature      {change.what}: {then} → {now}")
    for change in found.sources:
        say(f"source       {change.what}: {_pin(change.then)} → {_pin(change.now)}")
    for change in found.settings:
        say(f"setting      {change.what}: {_setting(change.what, change.then)} → "
            f"{_setting(change.what, change.now)}")  # fmt: skip


def _short(version: str | None) -> str:
    return "none" if version is None else version[:8]


def _pin(pin: dict[str, Any] | None) -> str:
    if pin is None:
        return "not read"
    if "version" in pin:
        return f"version {pin['version']}"
    if "files" in pin:
        return f"{pin['files']:,} files ({str(pin['hash'])[:8]})"
    return str(pin.get("kind"))


def _setting(name: str, value: Any) -> str:
    return format_instant(value) if name == "known_until_us" else str(value)


@data.command("restore")
def restore(
    ref: Ref,
    repo: Repo = Path(),
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "",
    live: Annotated[
        bool, typer.Option("--live", help="Also while a stream brings rows of the source.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a training set's name mean an earlier version again, or what was pushed what it was."""
    from featurestore.jobs.pushed_restore import OnlineDiffersWarning, RestoredTable

    with open_store(repo) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", OnlineDiffersWarning)  # said below
        found = store.data.restore(ref, reason=reason, live=live)
    if isinstance(found, RestoredTable):
        pushed_output.show_restored(found, as_json=as_json)
    else:
        _moved(found, "is", as_json=as_json)


@data.command("tag")
def tag(
    ref: Ref,
    name: Annotated[str, typer.Argument(metavar="TAG", help="audited, v2, …")],
    repo: Repo = Path(),
    move: Annotated[
        bool, typer.Option("--move", help="Also a tag that another version has.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give a version of a training set, or of what was pushed, a tag."""
    from featurestore.jobs.pushed_versions import TableState

    with open_store(repo) as store:
        found = store.data.tag(ref, name, move=move)
    if isinstance(found, TableState):
        pushed_output.show_tagged(found, name, as_json=as_json)
    else:
        _moved(found, f"/{name} is", as_json=as_json)


def _moved(found: TrainingSet, words: str, *, as_json: bool) -> None:
    if as_json:
        show_json({"id": found.id, "rows": found.rows})
    else:
        space = "" if words.startswith("/") else " "
        say(f"{found.name}{space}{words} {show_id(found.id)}, {found.rows:,} rows")


@data.command("vacuum")
def vacuum(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A Delta table's source, or pushed/source.")
    ],
    repo: Repo = Path(),
    older_than: Annotated[
        str, typer.Option(help="Only what was removed from it so long ago.")
    ] = "7d",
    yes: Annotated[bool, typer.Option("--yes", help="Remove them.")] = False,
    as_json: Json = False,
) -> None:
    """Clean a Delta table of what no training set has read, or pushed rows of what is hidden.

    Lists the files; with --yes removes them.
    """
    from featurestore.jobs.data_versions import Vacuumed

    with open_store(repo) as store, working("looking"):
        found = store.data.vacuum(source, older_than=older_than, dry_run=not yes)
    if not isinstance(found, Vacuumed):
        pushed_output.show_vacuumed(found, as_json=as_json)
        return
    if as_json:
        show_json(asdict(found))
        return
    for name in found.files:
        say(name)
    kept = ", ".join(map(str, found.kept_versions)) or "none"
    say(f"{len(found.files):,} files {'removed' if yes else 'to remove'}; versions kept for "
        f"training sets: {kept}")  # fmt: skip
    if not yes and found.files:
        note("nothing was removed; --yes removes them")

"""Commands of training sets that stay: training-set create, list, show, export; reproduce."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.data import read_entities
from featurestore.cli.options import (
    AsOf,
    AsOfRows,
    At,
    EventTimestamp,
    Features,
    FullFeatureNames,
    IncludeStatus,
    Json,
    Repo,
    ask,
    open_store,
)
from featurestore.cli.output import say, show_json, show_rows, working
from featurestore.errors import InvalidRequest
from featurestore.records import show_id
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.jobs.reproduce import Reproduction
    from featurestore.jobs.training_sets import TrainingSet
    from featurestore.records import StoredRecord

training_set = typer.Typer(help="Training sets on record: create, list, show, export.")

Ref = Annotated[
    str, typer.Argument(metavar="SET", help="Its name (the newest of it), or name@1a2b3c4d.")
]
SHOWN_COLUMNS = ("column", "type", "nulls", "distinct", "min", "mean", "max")


@training_set.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    *,
    entity: Annotated[
        str,
        typer.Option(
            "--entity",
            "-e",
            help="Keys and request times: a Parquet or CSV file, or SQL over the sources.",
        ),
    ],
    features: Features,
    label: Annotated[str | None, typer.Option(help="The column to learn.")] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="train=0.8 test=0.2 by entity, train=2026-01-01 test= by time; repeat it.",
        ),
    ] = None,
    split_by: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Join keys that may not straddle.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
    as_of: AsOfRows = AsOf.KNOWN,
    known_until: Annotated[
        str | None, typer.Option(help="See nothing that became known later; by default, than now.")
    ] = None,
    event_timestamp: EventTimestamp = "event_timestamp",
    full_feature_names: FullFeatureNames = False,
    include_status: IncludeStatus = False,
) -> None:
    """Write a training set once, with what it is made of on record.

    It can be built again from that: featurestore reproduce NAME.
    """
    splits = _splits(split or [], split_by or [])
    with open_store(repo) as store, working("joining"):
        make = partial(
            store.create_training_set,
            name,
            read_entities(entity),
            label=label,
            splits=splits,
            as_of=as_of.value,
            known_until=known_until,
            event_timestamp=event_timestamp,
            full_feature_names=full_feature_names,
            include_status=include_status,
        )
        made = ask(lambda asked: make(features=asked), features)
        _show(made, as_json=as_json)


def _splits(given: list[str], by: list[str]) -> dict[str, Any] | None:
    if not given:
        if by:
            raise InvalidRequest("--split-by needs --split NAME=FRACTION")
        return None
    found: dict[str, Any] = {"by": by} if by else {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f"--split {text!r}: write NAME=0.8, NAME=2026-01-01 or NAME=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            found[name.strip()] = value.strip() or None
    return found


@training_set.command("list")
def list_sets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Those of this name; all by default.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """List training sets, the newest first."""
    from featurestore.jobs.training_sets import list_sets as listed

    with open_store(repo) as store:
        found = listed(store.registry, name)
    if as_json:
        show_json([_facts(stored) for stored in found])
    else:
        show_rows([_line(stored) for stored in found], title="training sets")


def _facts(stored: StoredRecord) -> dict[str, Any]:
    body = dict(stored.record.body)
    until_us = body.pop("known_until_us")
    return {
        "id": stored.id,
        "name": stored.record.name,
        "created_at": format_instant(stored.created_at_us),
        "author": stored.author,
        "known_until": format_instant(until_us),
        **body,
    }


def _line(stored: StoredRecord) -> dict[str, Any]:
    body = stored.record.body
    features = body["features"]
    service = body["service"]
    return {
        "set": show_id(stored.id).partition(":")[2],
        "created": format_instant(stored.created_at_us // 1_000_000 * 1_000_000),
        "rows": body["rows"],
        "features": features["count"] if isinstance(features, dict) else len(features),
        "service": service["name"] if service else "—",
        "label": body["label"] or "—",
        "unpinned": ", ".join(body["unpinned"]) or "—",
    }


@training_set.command("show")
def show(ref: Ref, repo: Repo = Path(), as_json: Json = False) -> None:
    """Show a training set: what it is made of, its splits, its profile."""
    with open_store(repo) as store:
        _show(store.training_set(ref), as_json=as_json)


def _show(found: TrainingSet, *, as_json: bool) -> None:
    if as_json:
        profile, request = found.profile, found.request
        show_json({**_facts(found.record), "profile": profile, "request": request})
        return
    body = found.body
    service = body["service"]
    say(show_id(found.id))
    say(f"rows         {found.rows:,}")
    say(f"created      {format_instant(found.record.created_at_us)} by {found.record.author}")
    say(f"features     {service['name'] if service else ', '.join(found.features)}")
    say(f"as of        {body['as_of']}, nothing known after {format_instant(found.known_until_us)}")
    say(f"label        {found.label or '—'}")
    for name, words in _split_words(found).items():
        say(f"split        {name}: {words}")
    say(f"row digest   {found.row_digest}")
    say(f"rows are in  {found.store.offline.url(body['location'])}")
    if found.unpinned:
        say(f"unpinned     {', '.join(found.unpinned)}: it may not be possible to build it again")
    for feature, count in found.profile.get("undefined", {}).items():
        if count:
            say(f"undefined    {count:,} values of {feature} have no result (÷ 0, overflow)")
    columns = [(name, found.profile["columns"][name]) for name in found.schema.names]
    rows = [{**dict.fromkeys(SHOWN_COLUMNS), "column": n, **one} for n, one in columns]
    show_rows([{key: row[key] for key in SHOWN_COLUMNS} for row in rows], title="columns")


def _split_words(found: TrainingSet) -> dict[str, str]:
    from featurestore.lifecycle.datasets import Splits

    if found.body["splits"] is None:
        return {}
    words = Splits.from_json(found.body["splits"]).describe()
    return {name: f"{words[name]}, {rows:,} rows" for name, rows in found.splits.items()}


@training_set.command("export")
def export(
    ref: Ref,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", help="The Parquet file to write, here or s3://…")
    ],
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the rows of this split.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Write a training set's rows to one Parquet file."""
    with open_store(repo) as store, working(f"writing {output}"):
        found = store.training_set(ref)
        found.to_parquet(output, split=split)
    rows = found.rows if split is None else found.splits[split]
    if as_json:
        show_json({"id": found.id, "path": output, "rows": rows})
    else:
        say(f"{rows:,} rows, {len(found.schema)} columns → {output}")


def reproduce(
    ref: Annotated[
        str,
        typer.Argument(metavar="REF", help="A training set, or a run or model trained on one."),
    ],
    at: At = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> int:
    """Build a training set again from its record, and compare.

    Exit status 0 where the very same rows came out, else 1.
    """
    with open_store(repo) as store, working("rebuilding"):
        found = store.reproduce(ref, at=at)
    if as_json:
        show_json({**asdict(found), "verdict": found.verdict.value})
    else:
        show_reproduction(found)
    return 0 if found.is_same else 1


def show_reproduction(found: Reproduction) -> None:
    """What a rebuild found, a line per fact."""
    say(f"{found.verdict.value}  {show_id(found.training_set)}")
    match found.equal:
        case True:
            say(f"all {found.rows:,} rows came out again: {found.row_digest}")
        case False:
            say(f"other rows came out: {found.rebuilt_digest} instead of {found.row_digest}")
        case None:
            say("the rows were not built again")
    if found.equal is not None and found.definitions == "records":
        say("built from the definitions on record; the repository has others now")
    for file in found.expired:
        say(f"expired: {file.source}: {file.path} is {file.why}")
    for source, why in found.unpinned.items():
        say(f"unpinned: {source}: {why}")
    for one in found.differences:
        first = one.examples[0] if one.examples else {}
        shown = f"; row {first['row']}: {first['then']!r} → {first['now']!r}" if first else ""
        say(f"differs: {one.column} in {one.rows:,} of {found.rows:,} rows{shown}")
    for change in found.libraries:
        say(f"library: {change.library} {change.then or 'none'} → {change.now or 'none'}")
    for name in found.redefined:
        say(f"redefined: {name} is not what it was then")
    for problem in found.problems:
        say(f"problem: {problem}")

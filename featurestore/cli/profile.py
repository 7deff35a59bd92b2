"""`featurestore profile`: what the values of views are like, put on record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.options import Json, Repo, complete_view, open_store
from featurestore.cli.output import say, show_json, show_rows, working
from featurestore.records import show_id
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.jobs.view_profiles import ViewProfile

SHOWN_COLUMNS = ("feature", "type", "nulls", "distinct", "min", "mean", "median", "max")


def profile(
    views: Annotated[
        list[str] | None,
        typer.Argument(help="Views to look at; all by default.", autocompletion=complete_view),
    ] = None,
    *,
    repo: Repo = Path(),
    as_json: Json = False,
    start: Annotated[
        str | None, typer.Option(help="Values from here on (2013-07-01T00:00:00Z).")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Up to here; now by default.")] = None,
) -> None:
    """Put on record what features are like.

    Counts, NULLs, extremes, moments, quantiles, histograms, frequent values, for the page. Of each
    key at each instant at which its answer changed.
    """
    with open_store(repo) as store, working("looking"):
        found = store.profile(views or None, start=start, end=end)
    if as_json:
        show_json([_facts(one) for one in found])
        return
    for one in found:
        say(show_id(one.id))
        rows = [_row(name, column) for name, column in one.columns.items()]
        show_rows(rows, title=f"{one.view}: {one.rows:,} rows")
        for source in one.unpinned:
            say(f"not pinned  {source}")


def _facts(one: ViewProfile) -> dict[str, Any]:
    return {
        "id": one.id,
        "view": one.view,
        "rows": one.rows,
        "start": None if one.start_us is None else format_instant(one.start_us),
        "known_until": format_instant(one.known_until_us),
        "unpinned": list(one.unpinned),
        "versions": dict(one.versions),
        "columns": dict(one.columns),
    }


def _row(name: str, column: Any) -> dict[str, Any]:
    known = {**column, "feature": name, "median": column.get("quantiles", {}).get("0.5")}
    return {key: known.get(key) for key in SHOWN_COLUMNS}

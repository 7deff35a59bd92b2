"""`featurestore ui`: the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import Repo
from featurestore.cli.output import say
from featurestore.errors import InvalidSettings


def ui(
    repo: Repo = Path(),
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the page is; port 0 is any free one.")
    ] = "127.0.0.1:6570",
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Allow plain text where other machines can reach us."),
    ] = False,
) -> None:
    """Show the catalogue, lineage, training sets, runs, models and plan in a browser.

    Runs until it is told to stop.
    """
    from featurestore.config import load_settings

    try:
        from featurestore.web.run import run
    except ModuleNotFoundError as error:
        if error.name != "jinja2":
            raise
        raise InvalidSettings("the page needs jinja2: pip install 'featurestore[ui]'") from error

    overrides = {"serving.insecure": True} if insecure else {}
    run(load_settings(repo, overrides=overrides), listen, ready=lambda url: say(f"The page: {url}"))

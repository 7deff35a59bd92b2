"""`featurestore init`: a new repository that works, with comments and a little data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.ci_files import Pipeline, write_pipeline
from featurestore.cli.options import Json
from featurestore.cli.output import say, show_json
from featurestore.cli.shop import shop_tables
from featurestore.config import SETTINGS_FILE
from featurestore.errors import InvalidRequest
from featurestore.timeline import SystemClock

TEMPLATE = Path(__file__).parent / "template"
TEXTS = ("featurestore.toml", "features.py", "README.md")
IGNORE = ".featurestore/\n"


def init(
    folder: Annotated[Path, typer.Argument(help="Where; made if it is not there.")],
    ci: Annotated[
        Pipeline | None,
        typer.Option("--ci", help="Write a pipeline, too; a repository that is there stays."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a feature repository that works.

    With settings, definitions and a little data; nothing is overwritten.
    """
    is_new = ci is None or not (folder / SETTINGS_FILE).exists()
    written = write_repository(folder, now_us=SystemClock().now_us()) if is_new else []
    pipeline = [] if ci is None else write_pipeline(folder, ci)
    if as_json:
        files = [*written, *map(str, pipeline)]
        show_json({"folder": folder.resolve(), "files": files})
        return
    for path in pipeline:
        say(f"Wrote {path}")
    if not is_new:
        return
    say(f"Made the feature repository {folder}/ with")
    for name in written:
        say(f"    {name}")
    say("Next:")
    for command in ("plan", "apply", "materialize"):
        say(f"    featurestore {command} --repo {folder}")
    say(f"    featurestore get-online offer_model --entity customer_id:=1001 --repo {folder}")
    say(f"{folder}/README.md says how to go on.")


def write_repository(folder: Path, *, now_us: int) -> list[str]:
    """Write the example into `folder`; its data end at `now_us`. Returns the files' names.

    Raises `InvalidRequest`, before anything is written, where one of the files exists already.
    """
    project = _project_name(folder.resolve().name)
    texts = {
        name: (TEMPLATE / name).read_text(encoding="utf-8").replace("{project}", project)
        for name in TEXTS
    }
    texts[".gitignore"] = IGNORE
    tables = shop_tables(now_us)
    names = [*texts, *(table.path for table in tables)]
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise InvalidRequest(
            f"{folder} already has {', '.join(there)}; nothing was written. Choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for table in tables:
            table.write(folder)
    except OSError as error:
        raise InvalidRequest(f"{folder} can't be written: {error}") from error
    return names


def _project_name(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:63]
    return cleaned or "my_project"

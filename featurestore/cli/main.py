"""`featurestore`: the door for the shell.

Exit status 0 is fine, 1 an error (wrong usage too), 2 means that `plan` found changes, 130 that the
user interrupted. Errors are one line; `--debug`, anywhere, shows the traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
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
    push,
    runs,
    training_sets,
    ui,
)
from featurestore.cli import models as model_commands
from featurestore.cli.demo import command as demo
from featurestore.cli.output import note, say, show_error, show_json
from featurestore.errors import FeatureStoreError
from featurestore.masking import mask

INTERRUPTED = 130

# Typer brings its own copy of click in newer versions, so its base error has no fixed address.
UsageError: type[Any] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)

app = typer.Typer(
    name="featurestore",
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


@app.command()
def version(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    from featurestore import __version__

    if as_json:
        show_json({"version": __version__})
    else:
        say(f"featurestore {__version__}")


app.command()(init.init)
app.command()(definitions.plan)
app.command()(definitions.apply)
app.add_typer(environments.env, name="env")
app.command()(data.materialize)
app.command()(online.serve)
app.command()(push.push)
app.command()(push.ingest)
app.command("dead-letters")(push.dead_letters)
app.command("get-online")(online.get_online)
app.command("get-historical")(data.get_historical)
app.add_typer(training_sets.training_set, name="training-set")
app.add_typer(data_versions.data, name="data")
app.command()(training_sets.reproduce)
app.command("list")(definitions.list_objects)
app.command()(definitions.describe)
app.command("test")(feature_tests.run_tests)
app.command()(ci.ci)
app.command()(data.verify)
app.command()(data.optimize)
app.command()(data.sweep)
app.command("delete-entity")(online.delete_entity)
app.command()(lineage.impact)
app.command("who-uses")(lineage.who_uses)
app.command()(lineage.lineage)
app.command()(lineage.diff)
app.command()(lineage.history)
app.command()(lineage.freshness)
app.command()(lineage.blast)
app.command()(lineage.erase)
app.command()(lineage.gc)
app.add_typer(runs.runs, name="runs")
app.add_typer(runs.sync, name="sync")
app.add_typer(access.token, name="token")
app.add_typer(access.access, name="access")
app.add_typer(access.audit, name="audit")
app.add_typer(model_commands.models, name="models")
app.command()(ui.ui)
app.command()(definitions.info)
app.command()(doctor.doctor)
app.command()(demo.demo)


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

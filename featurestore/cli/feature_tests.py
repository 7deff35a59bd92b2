"""The command about feature tests: test."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import Json, Repo, open_store
from featurestore.cli.output import line, note, say, show_json
from featurestore.errors import InvalidRequest, suggest

if TYPE_CHECKING:
    from featurestore.feature_tests import TestOutcome


def run_tests(
    names: Annotated[
        list[str] | None, typer.Argument(help="Parts of names; all tests by default.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> int:
    """Run the examples beside the definitions.

    Each FeatureTest's rows are asked about offline and online. Exit status 1 where one fails.
    """
    from featurestore.feature_tests import run_all
    from featurestore.jobs.project import load_tests

    with open_store(repo) as store:
        definitions = store.repo
        tests = load_tests(store.settings)
        chosen = [t for t in tests if not names or any(part in t.name for part in names)]
        if names and not chosen:
            close = suggest(names[0], [t.name for t in tests])
            raise InvalidRequest(f"no test has {' or '.join(map(repr, names))} in its name.{close}")
        outcomes = []
        for outcome in run_all(definitions, chosen):
            outcomes.append(outcome)
            if not as_json:
                _show(outcome)
    failed = sum(not outcome.passed for outcome in outcomes)
    if as_json:
        show_json([asdict(outcome) | {"passed": outcome.passed} for outcome in outcomes])
    elif not outcomes:
        note("there are no tests; write FeatureTest(…) beside the definitions")
    else:
        values = sum(outcome.values for outcome in outcomes)
        say(f"{len(outcomes) - failed} passed, {failed} failed; {values:,} values compared")
    return 1 if failed else 0


def _show(outcome: TestOutcome) -> None:
    where = f"{outcome.file}:{outcome.line}"
    if outcome.passed:
        say(f"ok      {outcome.name}  ({outcome.values} values)")
        return
    say(f"FAILED  {outcome.name}  {where}")
    if outcome.error:
        say(f"        {outcome.error}")
    for one in outcome.mismatches:
        say(
            f"        {one.path}, expect[{one.number}] at {one.at}: {one.column} is "
            f"{line(one.found)}, expected {line(one.expected)}"
        )

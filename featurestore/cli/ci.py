"""`featurestore ci`: what a pull request must pass: definitions, feature tests, plan, gates."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli import ci_report
from featurestore.cli.ci_report import Check, Report
from featurestore.cli.options import Json, Repo, open_store
from featurestore.cli.output import line, note, say, show_json, working
from featurestore.errors import (
    DestructiveChange,
    FeatureStoreError,
    FileNotWritten,
    InvalidRepository,
    ProductionImpact,
)

if TYPE_CHECKING:
    from featurestore.compiler.changes import ChangePlan
    from featurestore.feature_tests import TestOutcome
    from featurestore.store import FeatureStore

OUTPUT = Path(".featurestore/ci")


def ci(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Models whose gates to run: delay, delay/3."),
    ] = None,
    *,
    environment: Annotated[
        str | None,
        typer.Option("--environment", metavar="NAME", help="Plan against it; else the settings'."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help=f"Where report.md, junit.xml and report.json go; {OUTPUT} in the repository.",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load models that run code, to evaluate them.")
    ] = False,
    allow_production_impact: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Why a change below a model in production is meant."),
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> int:
    """Check definitions, feature tests, plan and gates, and write reports.

    Exit status: 0 everything passed, 1 something did not.
    """
    overrides = {} if environment is None else {"project.environment": environment}
    with open_store(repo, overrides) as store:
        with working("checking"):
            report = run_checks(
                store, models or [], trust=trust, allowed_because=allow_production_impact
            )
        folder = output if output is not None else store.settings.root / OUTPUT
    write_reports(report, folder)
    if as_json:
        show_json(ci_report.to_json(report))
    else:
        _show(report)
        note(f"Reports: {folder}/report.md, junit.xml, report.json")
    return 0 if report.passed else 1


def run_checks(
    store: FeatureStore, models: list[str], *, trust: bool, allowed_because: str | None
) -> Report:
    """Everything that there is to check. What a check raises is its failure; what comes after
    definitions that are wrong is not looked at."""
    checks = list(_definitions(store))
    plan: ChangePlan | None = None
    if all(check.passed for check in checks):
        checks += _tests(store)
        found, plan = _plan(store, allowed_because)
        checks.append(found)
        for ref in models:
            checks += _gates(store, ref, trust=trust)
    return Report(
        project=store.settings.project.name,
        environment=store.settings.project.environment,
        at_us=store.clock.now_us(),
        checks=tuple(checks),
        plan="" if plan is None else plan.to_markdown(),
        changes={} if plan is None else json.loads(plan.to_json()),
    )


def write_reports(report: Report, folder: Path) -> None:
    """The three forms into a folder. Raises `FileNotWritten`."""
    texts = {
        "report.md": ci_report.to_markdown(report),
        "junit.xml": ci_report.to_junit(report),
        "report.json": json.dumps(ci_report.to_json(report), ensure_ascii=False, indent=2) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise FileNotWritten(f"{folder} can't be written: {error.strerror or error}") from error


def _definitions(store: FeatureStore) -> Iterator[Check]:
    began = time.perf_counter()
    try:
        repo = store.repo
    except InvalidRepository as error:
        for one in error.errors:
            yield Check(
                suite="definitions",
                group=one.file or "repository",
                line=one.line,
                name=one.code,
                passed=False,
                message=one.message,
            )
        return
    except FeatureStoreError as error:
        yield _failed("definitions", "repository", "load", error)
        return
    took = time.perf_counter() - began
    counted = f"{len(repo.views) + len(repo.on_demand)} views, {len(repo.services)} services"
    yield Check(
        suite="definitions",
        group="repository",
        name="load and resolve",
        passed=True,
        message=counted,
        seconds=took,
    )


def _tests(store: FeatureStore) -> Iterator[Check]:
    from featurestore.feature_tests import run_all
    from featurestore.jobs.project import load_tests

    began = time.perf_counter()
    for outcome in run_all(store.repo, load_tests(store.settings)):
        now = time.perf_counter()
        yield _of_test(outcome, now - began)
        began = now


def _of_test(outcome: TestOutcome, seconds: float) -> Check:
    said = [outcome.error] if outcome.error else []
    said += [
        f"{one.path}, expect[{one.number}] at {one.at}: {one.column} is {line(one.found)}, "
        f"expected {line(one.expected)}"
        for one in outcome.mismatches
    ]
    return Check(
        suite="tests",
        group=outcome.file,
        line=outcome.line,
        name=outcome.name,
        passed=outcome.passed,
        message="\n".join(said) if said else f"{outcome.values} values",
        seconds=seconds,
    )


def _plan(store: FeatureStore, allowed_because: str | None) -> tuple[Check, ChangePlan | None]:
    from featurestore.lifecycle.changes import check_allowed

    environment = store.settings.project.environment
    began = time.perf_counter()
    try:
        plan = store.plan()
    except FeatureStoreError as error:
        return _failed("plan", environment, "plan", error), None
    try:
        check_allowed(plan.affected, environment, reason=allowed_because)
    except (DestructiveChange, ProductionImpact) as error:
        return _failed("plan", environment, f"apply to environment {environment}", error), plan
    took = time.perf_counter() - began
    name = f"plan against environment {environment}"
    message = "nothing to change" if plan.is_empty else "there are changes"
    check = Check(
        suite="plan", group=environment, name=name, passed=True, message=message, seconds=took
    )
    return check, plan


def _gates(store: FeatureStore, ref: str, *, trust: bool) -> Iterator[Check]:
    began = time.perf_counter()
    try:
        report = store.models.check_gates(ref, trust=trust)
    except FeatureStoreError as error:
        yield _failed("gates", ref, "run the gates", error)
        return
    took = (time.perf_counter() - began) / max(1, len(report.results))
    for result in report.results:
        yield Check(
            suite="gates",
            group=report.model,
            name=result.name,
            passed=result.passed,
            message=result.message,
            seconds=took,
        )


def _failed(suite: str, group: str, name: str, error: FeatureStoreError) -> Check:
    return Check(suite=suite, group=group, name=name, passed=False, message=str(error))


def _show(report: Report) -> None:
    for check in report.checks:
        where = f"{check.group}:{check.line}" if check.line else check.group
        mark = "ok    " if check.passed else "FAILED"
        say(f"{mark}  {check.suite}  {where}: {check.name}")
        if not check.passed:
            for text in check.message.splitlines():
                say(f"        {text}")
    failed = len(report.failed)
    say(f"{len(report.checks) - failed} passed, {failed} failed")

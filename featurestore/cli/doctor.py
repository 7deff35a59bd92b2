"""`featurestore doctor`: looks at everything that a feature store needs, and says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from featurestore.cli.options import Json, Repo
from featurestore.cli.output import say, show_json
from featurestore.errors import FeatureStoreError, InvalidRepository
from featurestore.masking import mask

if TYPE_CHECKING:
    from featurestore.store import FeatureStore
    from featurestore.timeline import Clock

State = Literal["ok", "warning", "problem"]
_SIGNS: dict[State, str] = {"ok": "✓", "warning": "!", "problem": "✗"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found: `what` is so, `where`, and what `to_do` (nothing where it is fine)."""

    check: str
    state: State
    what: str
    where: str = ""
    to_do: str = ""


Check = Callable[["FeatureStore"], Iterator[Finding]]


def doctor(repo: Repo = Path(), as_json: Json = False) -> None:
    """Look for what is wrong: settings, versions, stores, clocks, permissions, tokens, freshness.

    Exit status 1 if there is a problem; warnings alone are 0. Writes nothing but a probe row in
    the online store, which it removes.
    """
    found = examine(repo)
    counts = {state: sum(finding.state == state for finding in found) for state in _SIGNS}
    if as_json:
        show_json({"counts": counts, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            _show(finding)
        problems, warnings = (_times(counts[state], state) for state in ("problem", "warning"))
        say(f"{problems}, {warnings}, {counts['ok']} ok")
    if counts["problem"]:
        raise typer.Exit(1)


def examine(repo: Path, *, clock: Clock | None = None) -> list[Finding]:
    """The findings on the repository in this folder; never raises one of our errors."""
    from featurestore.cli.doctor_machine import MACHINE_CHECKS
    from featurestore.cli.doctor_security import SECURITY_CHECKS
    from featurestore.cli.doctor_stores import STORE_CHECKS
    from featurestore.store import FeatureStore

    try:
        opened = FeatureStore(repo, clock=clock)
    except FeatureStoreError as error:
        return [failed("settings", error, where=str(repo))]
    found = [Finding(check="settings", state="ok", what="valid", where=str(opened.settings.root))]
    with opened as store:
        for name, check in {**MACHINE_CHECKS, **STORE_CHECKS, **SECURITY_CHECKS}.items():
            try:
                found += check(store)
            except InvalidRepository as error:
                found.append(_invalid(name, error, found))
            except FeatureStoreError as error:
                found.append(failed(name, error))
    return found


def _invalid(check: str, error: InvalidRepository, found: Sequence[Finding]) -> Finding:
    """Wrong definitions are said once; what needs right ones can't be looked at."""
    if any(finding.check == "definitions" and finding.state == "problem" for finding in found):
        return Finding(
            check=check,
            state="warning",
            what="not looked at, for want of definitions",
            to_do="correct them first",
        )
    return failed(check, error)


def failed(check: str, error: FeatureStoreError, *, where: str = "") -> Finding:
    """The finding that an error is."""
    to_do = "try again; if it stays, look at the server and the network" if error.retryable else ""
    return Finding(
        check=check,
        state="problem",
        what=mask(error.message),
        where=where,
        to_do=to_do or f"see {error.code} in docs/reference/errors.md",
    )


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _show(finding: Finding) -> None:
    where = f" ({finding.where})" if finding.where else ""
    what = finding.what.replace("\n", "\n    ")
    say(f"{_SIGNS[finding.state]} {finding.check}: {what}{where}")
    if finding.to_do:
        say(f"    → {finding.to_do}")

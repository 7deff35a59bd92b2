"""A plan as Markdown: what a pull request shows.

Texts of the repository stand in code spans, where neither Markdown nor HTML nor `@names` mean
anything, so a description can't break the table or call somebody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from featurestore.compiler.change_plan import Affected, Build, Category, Change, ChangePlan
from featurestore.compiler.change_text import (
    KINDS_SHOWN,
    backfill_text,
    kind_shown,
    through_text,
    totals,
)
from featurestore.fingerprint import short
from featurestore.records import show_id

MARKDOWN_CHARS_MAX = 60_000
"""GitHub refuses comments of 65,536 characters."""
ROWS_TRIED = (200, 50, 10, 0)
"""Rows of one table; the most with which the whole fits is taken."""
DETAILS_SHOWN_MAX = 6
"""Of one change."""
MARKS = {
    Category.METADATA: "⚪ METADATA",
    Category.ADDITIVE: "🟢 ADDITIVE",
    Category.BREAKING: "🟠 BREAKING",
    Category.REMOVAL: "🔴 REMOVAL",
}


def markdown(plan: ChangePlan) -> str:
    """The plan as Markdown of at most `MARKDOWN_CHARS_MAX` characters."""
    title = f"### Feature plan for {code(plan.environment)} of {code(plan.project)}"
    if plan.is_empty:
        return f"{title}\n\nNo changes.\n"
    whole = ""
    for rows_max in ROWS_TRIED:
        whole = "\n\n".join([title, *_sections(plan, rows_max)]) + "\n"
        if len(whole) <= MARKDOWN_CHARS_MAX:
            break
    return whole


def code(text: str) -> str:
    """`text` on one line as a code span that may stand in a table."""
    text = " ".join(text.split()) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _sections(plan: ChangePlan, rows_max: int) -> list[str]:
    since = f"since {code(show_id(plan.base))}" if plan.base else "for the first time"
    found = [f"**{totals(plan)}**, {since}."]
    if live := [one for one in plan.affected if one.kind == "model" and one.aliases]:
        names = ", ".join(code(f"{one.label} ({', '.join(one.aliases)})") for one in live[:10])
        more = f" and {len(live) - 10} more" if len(live) > 10 else ""
        found.append(f"> [!WARNING]\n> Models that are in use depend on this: {names}{more}")
    objects = [change for change in plan.changes if change.kind != "feature"]
    features = [change for change in plan.changes if change.kind == "feature"]
    if objects:
        found.append(_changes(objects, rows_max))
    if features:
        found.append(_details(f"Features ({len(features):,})", _changes(features, rows_max)))
    if plan.builds:
        found.append(_details(f"Online tables ({len(plan.builds):,})", _builds(plan, rows_max)))
    if plan.affected:
        table = _affected(plan.affected, rows_max)
        found.append(_details(f"Downstream ({_counted(plan.affected)})", table))
    return found


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], rows_max: int) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows[:rows_max]]
    more = len(rows) - rows_max
    text = "\n".join(lines)
    return text if more <= 0 else f"{text}\n\n… and {more:,} more: `featurestore plan --json`"


def _changes(changes: Iterable[Change], rows_max: int) -> str:
    rows = [
        [MARKS[change.category], kind_shown(change.kind), code(change.name), _what(change.details)]
        for change in changes
    ]
    return _table(("", "", "object", "what changes"), rows, rows_max)


def _what(details: Sequence[str]) -> str:
    more = len(details) - DETAILS_SHOWN_MAX
    shown = [code(detail) for detail in details[:DETAILS_SHOWN_MAX] if detail]
    return "<br>".join([*shown, *([f"{more} more"] if more > 0 else [])])


def _builds(plan: ChangePlan, rows_max: int) -> str:
    rows = [[code(build.view), _table_of(build), _reads(build)] for build in plan.builds]
    return _table(("view", "online table", "`featurestore materialize` reads"), rows, rows_max)


def _table_of(build: Build) -> str:
    text = code(short(build.storage_hash))
    if not build.is_new:
        return f"{text}, further back"
    return f"new: {text}" + (f" beside {code(short(build.beside))}" if build.beside else "")


def _reads(build: Build) -> str:
    return "" if build.backfill is None else backfill_text(build.backfill)


def _affected(every: Sequence[Affected], rows_max: int) -> str:
    rows = [
        [
            MARKS[one.category],
            one.transformation,
            kind_shown(kind),
            code(one.label),
            ", ".join(code(alias) for alias in one.aliases),
            code(through_text(one)) if one.through else "",
        ]
        for kind in KINDS_SHOWN
        for one in every
        if one.kind == kind
    ]
    return _table(("", "", "", "what", "in use as", "through"), rows, rows_max)


def _counted(every: Sequence[Affected]) -> str:
    counts = {kind: sum(one.kind == kind for one in every) for kind in KINDS_SHOWN}
    return ", ".join(
        f"{count:,} {kind_shown(kind) if count == 1 else KINDS_SHOWN[kind]}"
        for kind, count in counts.items()
        if count
    )

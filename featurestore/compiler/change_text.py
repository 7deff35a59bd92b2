"""A plan as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from featurestore.compiler.change_plan import (
    Affected,
    Backfill,
    Build,
    Category,
    Change,
    ChangePlan,
)
from featurestore.fingerprint import short
from featurestore.records import show_id
from featurestore.timeline import format_duration

FEATURES_SHOWN_MAX = 20
"""Of one view, in the text for people."""
AFFECTED_SHOWN_MAX = 20
"""Of one kind, in the text for people."""
THROUGH_SHOWN_MAX = 3
"""Changed features that stand beside one thing that they touch."""

SIGNS = {
    Category.METADATA: ".",
    Category.ADDITIVE: "+",
    Category.BREAKING: "!",
    Category.REMOVAL: "-",
}
KINDS_SHOWN = {
    "model": "models",
    "service": "services",
    "training_set": "training sets",
    "run": "runs",
}
"""What can be affected, in the order of its weight, and how we call it."""


def render(plan: ChangePlan) -> str:
    """The plan for people: a line per object, its features below each view, what will be built,
    what is affected downstream, and a count per category."""
    since = f"since {show_id(plan.base)}" if plan.base else "for the first time"
    if plan.is_empty:
        has = "this repository already" if not plan.moves else "the same in other words"
        return f"No changes: environment {plan.environment!r} has {has}."
    lines = [f"Changes to environment {plan.environment!r} of {plan.project}, {since}:"]
    lines += _changes(plan.changes)
    new = [build for build in plan.builds if build.is_new]
    if new:
        lines.append("New online tables, to be filled by: featurestore materialize")
        lines += [f"    {build_line(build)}" for build in new]
    if longer := [build for build in plan.builds if not build.is_new]:
        lines.append("Online tables that must reach further back: featurestore materialize")
        lines += [f"    {build_line(build)}" for build in longer]
    if plan.affected:
        lines.append("Downstream of what breaks or goes:")
        lines += _affected(plan.affected)
    lines.append(f"In all: {totals(plan)}.")
    return "\n".join(lines)


def totals(plan: ChangePlan) -> str:
    """How many changes of each category: `1 ADDITIVE, 4 BREAKING`."""
    counts = Counter(change.category for change in plan.changes)
    found = ", ".join(f"{counts[name]} {name}" for name in Category if counts[name])
    return found or "nothing that has a category"


def kind_shown(kind: str) -> str:
    """`on-demand view` for `on_demand_view`."""
    return kind.replace("_", " ").replace("on demand", "on-demand")


def build_line(build: Build) -> str:
    """An online table and what filling it reads: `weather (1a2b3c4d): the last 7d, 1,200 rows`."""
    text = f"{build.view} ({short(build.storage_hash)})"
    if build.beside is not None and build.is_new:
        text += f" beside ({short(build.beside)})"
    return text if build.backfill is None else f"{text}: {backfill_text(build.backfill)}"


def backfill_text(backfill: Backfill) -> str:
    """`the last 7d, 1,200 rows of the source (about 48 kB)`."""
    start = backfill.start_us
    span = "from the oldest row"
    if start is not None:
        span = f"the last {format_duration(backfill.end_us - start)}"
    rows = f"{backfill.rows:,} row{'' if backfill.rows == 1 else 's'}"
    about = "" if backfill.exact else "an estimated "
    return f"{span}, {about}{rows} of the source (about {size(backfill.bytes)})"


def size(count: int) -> str:
    """A number of bytes: `48 kB`."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return (
                f"{value:.0f} {unit}" if value >= 10 or unit == "bytes" else f"{value:.1f} {unit}"
            )
        value /= 1000
    return f"{value:,.1f} TB"


def through_text(affected: Affected) -> str:
    """The changed objects that it depends on: `weather.temp, weather.wind and 3 more`."""
    shown, more = affected.through[:THROUGH_SHOWN_MAX], len(affected.through) - THROUGH_SHOWN_MAX
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _changes(changes: Iterable[Change]) -> Iterator[str]:
    shown = Counter[str]()
    for change in changes:
        view = change.name.partition(".")[0] if change.kind == "feature" else ""
        shown[view] += 1
        if not view or shown[view] <= FEATURES_SHOWN_MAX:
            yield _change(change)
        elif shown[view] == FEATURES_SHOWN_MAX + 1:
            yield f"      … more features of {view}; --json lists them all"


def _change(change: Change) -> str:
    indent = "      " if change.kind == "feature" else "  "
    head = f"{indent}{SIGNS[change.category]} {change.category:<8} {kind_shown(change.kind)}"
    details = f": {'; '.join(change.details)}" if change.details else ""
    hit = ""
    if change.services and change.category in (Category.BREAKING, Category.REMOVAL):
        hit = f" [services: {', '.join(change.services)}]"
    return f"{head} {change.name}{details}{hit}"


def _affected(every: Iterable[Affected]) -> Iterator[str]:
    every = list(every)
    for kind, plural in KINDS_SHOWN.items():
        hits = [one for one in every if one.kind == kind]
        for one in hits[:AFFECTED_SHOWN_MAX]:
            where = f" ({', '.join(one.aliases)})" if one.aliases else ""
            through = f", through {through_text(one)}" if one.through else ""
            sign = SIGNS[one.category]
            yield f"  {sign} {one.transformation:<8} {kind_shown(kind)} {one.label}{where}{through}"
        if len(hits) > AFFECTED_SHOWN_MAX:
            yield f"    … {len(hits) - AFFECTED_SHOWN_MAX:,} more {plural}; --json lists them all"

"""What commands show of versions of pushed rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featurestore.cli.output import note, say, show_json
from featurestore.facades.answers import to_plain
from featurestore.timeline import format_instant, to_us

if TYPE_CHECKING:
    from featurestore.jobs.pushed_diff import KeyChange, TableDiff
    from featurestore.jobs.pushed_restore import RestoredTable, VacuumedTable
    from featurestore.jobs.pushed_versions import TableState, TableVersion

SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def version_line(one: TableVersion) -> dict[str, Any]:
    """A version as a line of a table."""
    rows = [f"+{one.rows_added:,}"] if one.rows_added else []
    rows += [f"-{one.rows_removed:,}"] if one.rows_removed else []
    return {
        "version": f"{format_instant(one.at_us)}{' (current)' if one.current else ''}",
        "operation": one.operation if one.target is None else f"restore {one.target}",
        "author": one.author,
        "rows": " ".join(rows) or "0",
        "tags": ", ".join(one.tags),
        "reason": one.reason,
    }


def show_diff(found: TableDiff, *, as_json: bool) -> None:
    """What differs between two versions."""
    if as_json:
        show_json(to_plain(found))
        return
    say(f"{found.then} → {found.now}")
    if not found.rows_added and not found.rows_removed:
        say("the very same rows")
        return
    say(f"rows         {found.rows_added:,} added, {found.rows_removed:,} removed")
    say(
        f"keys         {found.keys_added:,} added, {found.keys_removed:,} removed, "
        f"{found.keys_changed:,} changed, by {', '.join(found.key)}"
    )
    for change in found.changes:
        say(_change(change, found))
    more = found.keys_added + found.keys_removed + found.keys_changed - len(found.changes)
    if more:
        note(f"and {more:,} more; --limit lists them")


def _change(change: KeyChange, of: TableDiff) -> str:
    line = f"  {SIGNS[change.change]} {_texts(of.key, change.key)}"
    if change.change != "changed":
        return line
    rows = [f"    - {_texts(of.columns, row)}" for row in change.then]
    rows += [f"    + {_texts(of.columns, row)}" for row in change.now]
    return "\n".join([line, *rows])


def _texts(names: Sequence[str], values: Sequence[Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in zip(names, values, strict=True))


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return format_instant(to_us(value))
    return "NULL" if value is None else str(to_plain(value))


def show_restored(found: RestoredTable, *, as_json: bool) -> None:
    """What a restore did, and what has to follow."""
    if as_json:
        show_json(to_plain(found))
        return
    if not found.rows_added and not found.rows_removed:
        say(f"{found.id} is {found.target} already; nothing was done")
        return
    say(
        f"{found.id} is {found.target}: {found.rows_added:,} rows came back, "
        f"{found.rows_removed:,} went"
    )
    if found.to_materialize:
        note(
            f"online, {', '.join(found.to_materialize)} hold what was there before; "
            "featurestore materialize writes them anew"
        )


def show_tagged(found: TableState, name: str, *, as_json: bool) -> None:
    """Which version has a tag now."""
    if as_json:
        show_json({"id": found.id, "tag": name})
    else:
        say(f"pushed/{found.source}/{name} is {found.id}")


def show_vacuumed(found: VacuumedTable, *, as_json: bool) -> None:
    """What a vacuum took, or would take."""
    if as_json:
        show_json(to_plain(found))
        return
    for name in found.files:
        say(name)
    kept = ", ".join(found.kept_tags) or "none"
    done = "removed" if found.removed else "to remove"
    say(f"{found.rows:,} hidden rows {done}, of {len(found.files):,} files; tags kept: {kept}")
    if not found.removed and found.rows:
        note("nothing was removed; --yes removes them")

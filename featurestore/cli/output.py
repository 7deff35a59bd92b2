"""How the CLI prints: tables for people (with rich on a terminal, plain text elsewhere), JSON for
programs. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.masking import mask, visible
from featurestore.timeline import format_instant, to_us

CELL_CHARS_MAX = 60
"""Longer cells end in … (JSON never shortens)."""


def on_terminal() -> bool:
    """Whether people watch what is beside the result, so that progress may move."""
    return sys.stderr.isatty()


def say(text: str = "") -> None:
    """A line of the result."""
    sys.stdout.write(visible(text) + "\n")


def note(text: str) -> None:
    """A line beside the result (stderr): hints, warnings, what is being done."""
    sys.stdout.flush()
    sys.stderr.write(visible(text) + "\n")
    sys.stderr.flush()


def show_json(value: object) -> None:
    """`value` as JSON: instants in ISO 8601, bytes in base64, NaN as null, decimals as text."""
    say(json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False))


def show_error(error: FeatureStoreError, *, as_json: bool) -> None:
    """An error on stderr: `error: what, where, what to do [code]`, or the same as JSON."""
    if as_json:
        shown = {"code": error.code, "message": error.message, "retryable": error.retryable}
        details = plain(error.details)
        note(mask(json.dumps({"error": shown | {"details": details}}, ensure_ascii=False)))
    else:
        note(mask(f"error: {error}"))


def plain(value: Any) -> Any:
    """`value` in JSON's own types."""
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            return _instant(value)
        case date():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Mapping():
            return {_key(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case Decimal() | Path():
            return str(value)
        case _:
            return str(value)


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def line(value: Any) -> str:
    """`value` as one line of text."""
    match value:
        case None:
            text = "NULL"
        case bool():
            text = "true" if value else "false"
        case float():
            text = f"{value:.6g}"
        case datetime():
            text = _instant(value)
        case Mapping():
            text = ", ".join(f"{_key(key)}: {line(item)}" for key, item in value.items()) or "—"
        case list() | tuple():
            text = ", ".join(line(item) for item in value) or "—"
        case bytes():
            text = value.hex()
        case _:
            text = str(value)
    return visible(" ".join(text.split()))


def cell(value: Any) -> str:
    """`value` as a cell of a table: one line of at most `CELL_CHARS_MAX` characters."""
    text = line(value)
    return text if len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 1] + "…"


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """A table; `title` stands above it."""
    cells = [[cell(value) for value in row] for row in rows]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        _rich_table(columns, cells, numeric, title)
    else:
        _plain_table(columns, cells, numeric, title)


def show_rows(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """A table of dicts that share their keys; what is not there is —."""
    columns = list(rows[0]) if rows else []
    if not rows:
        say(f"{title}: none" if title else "none")
        return
    cells = [["—" if row[c] in (None, "") else row[c] for c in columns] for row in rows]
    show_table(columns, cells, title=title)


def _instant(value: datetime) -> str:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return format_instant(to_us(aware))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _plain_table(
    columns: Sequence[str], cells: list[list[str]], numeric: list[bool], title: str
) -> None:
    if title:
        say(title)
    widths = _widths(columns, cells)
    for row in [list(columns), *cells]:
        aligned = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        say("  ".join(aligned).rstrip())


def _widths(columns: Sequence[str], cells: list[list[str]]) -> list[int]:
    return [max(len(row[i]) for row in [columns, *cells]) for i in range(len(columns))]


def _rich_table(
    columns: Sequence[str], cells: list[list[str]], numeric: list[bool], title: str
) -> None:
    """On a terminal that is too narrow a plain table, whose lines go on below: rich would cut
    instants and names in pieces."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if sum(_widths(columns, cells)) + 3 * len(columns) + 1 > console.width:
        _plain_table(columns, cells, numeric, title)
        return
    if title:
        console.print(Text(title, style="bold"))
    table = Table(box=box.SIMPLE_HEAD)
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left")
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    console.print(table)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Says that something takes a while: a spinner on a terminal, nothing elsewhere."""
    if not on_terminal():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextmanager
def counting(
    noun: str, *, total: int | None = None, quiet: bool = False
) -> Iterator[Callable[[str, int], None]]:
    """Progress over named parts: yields `report(part, count)`, to be called as `count` grows.

    On a terminal a line per part moves; elsewhere a line is printed (stderr) when a part ends,
    that is when the next one begins. `total` is the number of parts.
    """
    if quiet:
        yield lambda _part, _count: None
    elif on_terminal():
        with _moving(noun, total) as report:
            yield report
    else:
        counts: dict[str, int] = {}

        def report_plainly(part: str, count: int) -> None:
            if part not in counts and counts:
                _print_last(counts, noun)
            counts[part] = count

        yield report_plainly
        if counts:
            _print_last(counts, noun)


def _print_last(counts: Mapping[str, int], noun: str) -> None:
    part = list(counts)[-1]
    note(f"{part}: {counts[part]:,} {noun}")


@contextmanager
def _moving(noun: str, total: int | None) -> Iterator[Callable[[str, int], None]]:
    """One line: the part under way and its count, and a bar over the parts if we know how many."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    started: set[str] = set()
    with Progress(
        SpinnerColumn(finished_text="✓"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task("", total=total)

        def report(part: str, count: int) -> None:
            started.add(part)
            done = len(started) - 1 if total else None
            progress.update(task, completed=done, description=f"{part}: {count:,} {noun}")

        yield report
        progress.update(task, total=total or 1, completed=total or 1)

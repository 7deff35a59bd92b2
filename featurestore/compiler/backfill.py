"""What filling an online table will read, by what the footers of files say: pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from featurestore.compiler.change_plan import Backfill


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows that a footer speaks of together: a row group, or a whole file.

    `bytes` are those of the columns that are asked for. `least_us` and `greatest_us` bound the
    event times, `known_us` is the greatest created time; None: the footer does not say (`nulls`:
    how many event times are NULL). `counted` is whether `rows` was counted, not guessed.
    """

    rows: int
    bytes: int
    least_us: int | None = None
    greatest_us: int | None = None
    known_us: int | None = None
    nulls: int | None = None
    counted: bool = True


def backfill(
    parts: Iterable[Part], *, start_us: int | None, end_us: int, exact: bool = True
) -> Backfill:
    """Rows and bytes of the event times in `[start_us, end_us]`. A part that lies across a bound
    counts by its share, as if its rows were spread evenly; `exact` False says that the parts are
    not all there is to know."""
    rows, read = 0.0, 0.0
    for part in parts:
        share, whole = _share(part, start_us, end_us)
        exact = exact and whole
        timed = part.rows - (part.nulls or 0)
        rows += timed * share
        read += part.bytes * share
    return Backfill(
        start_us=start_us, end_us=end_us, rows=round(rows), bytes=round(read), exact=exact
    )


def _share(part: Part, start_us: int | None, end_us: int) -> tuple[float, bool]:
    """How much of a part lies within the bounds, and whether that is known for sure."""
    least, greatest = part.least_us, part.greatest_us
    if part.rows in (0, part.nulls):
        return 0.0, part.counted
    if least is None or greatest is None:
        return 1.0, False
    start = least if start_us is None else max(start_us, least)
    end = min(end_us, greatest)
    if end < start:
        return 0.0, True
    if (start, end) != (least, greatest):
        return (end - start + 1) / (greatest - least + 1), False
    known = part.known_us is not None and part.known_us <= end_us
    return 1.0, part.counted and part.nulls is not None and known

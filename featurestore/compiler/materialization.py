"""What a materialization run reads, and where it leaves the watermark: pure decisions.

Incremental runs take rows by **known time** in `(watermark − lateness, end]`, so that rows which
arrive late reach the online store; an explicit interval takes them by event time. The first run of
a table reaches back `ttl + grace`, because a row of that age still decides between the statuses
OUTSIDE_MAX_AGE and NOT_FOUND.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from featurestore.compiler.rel import Latest, Stamped
from featurestore.compiler.typed import TypedView
from featurestore.errors import InvalidRequest
from featurestore.records import LedgerRow
from featurestore.timeline import format_instant

Mode = Literal["incremental", "interval", "replace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """What the ledger says of one online table after its last run.

    Every row known by `watermark_us` and not older than `reach_us` (None: of any age) has been
    written. `watermark_us` is None while no run has covered the whole reach.
    """

    watermark_us: int | None = None
    reach_us: int | None = None

    def covers(self, reach_us: int | None) -> bool:
        """Whether a view that looks back `reach_us` (None: without end) is completely there."""
        if self.watermark_us is None:
            return False
        return self.reach_us is None or (reach_us is not None and reach_us <= self.reach_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Bounds of the rows that one pass reads; None is open. Known time: `(after, until]`, event
    time: `[from, to)`. All in µs."""

    known_after_us: int | None = None
    known_until_us: int
    event_from_us: int | None = None
    event_to_us: int | None = None

    def of(self, rows: Stamped) -> Latest:
        """The newest row per key within the bounds."""
        return Latest(
            input=rows,
            known_after_us=self.known_after_us,
            known_until_us=self.known_until_us,
            event_from_us=self.event_from_us,
            event_to_us=self.event_to_us,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One run: the passes to read, and what the ledger will say when they are written."""

    mode: Mode
    passes: tuple[Selection, ...]
    start_us: int | None
    end_us: int
    watermark_us: int | None
    reach_us: int | None


def table_state(ledger: Sequence[LedgerRow]) -> TableState:
    """The state after the runs of one table, given oldest first."""
    for row in reversed(ledger):
        if row.watermark_us is not None:
            return TableState(watermark_us=row.watermark_us, reach_us=row.reach_us)
    return TableState()


def plan_run(
    view: TypedView,
    state: TableState,
    *,
    now_us: int,
    start_us: int | None = None,
    end_us: int | None = None,
    replace: bool = False,
) -> RunPlan:
    """Decide what to read. `end_us` is clamped to now; `start_us` makes it an explicit interval.

    Raises `InvalidRequest` for an interval that ends before it starts, and for `replace` with an
    interval (a new generation must be whole).
    """
    end = now_us if end_us is None else min(end_us, now_us)
    if replace:
        if start_us is not None or end_us is not None:
            raise InvalidRequest(
                "replace writes a whole new generation and takes no start or end; leave them out"
            )
        return _whole(view, mode="replace", end_us=now_us, now_us=now_us)
    if start_us is not None:
        if end <= start_us:
            raise InvalidRequest(
                f"the interval {format_instant(start_us)} to {format_instant(end)} is empty "
                "(the end is exclusive and never later than now)"
            )
        return _interval(view, state, start_us=start_us, end_us=end, now_us=now_us)
    if not state.covers(view.reach_us) or state.watermark_us is None:
        return _whole(view, mode="incremental", end_us=end, now_us=now_us)
    return RunPlan(
        mode="incremental",
        passes=(_since(view, state.watermark_us, end_us=end, now_us=now_us),),
        start_us=state.watermark_us,
        end_us=end,
        watermark_us=max(end, state.watermark_us),
        reach_us=_lesser(state.reach_us, view.reach_us),
    )


def _whole(view: TypedView, *, mode: Mode, end_us: int, now_us: int) -> RunPlan:
    oldest = _oldest(view, now_us)
    return RunPlan(
        mode=mode,
        passes=(Selection(known_until_us=end_us, event_from_us=oldest),),
        start_us=oldest,
        end_us=end_us,
        watermark_us=end_us,
        reach_us=view.reach_us,
    )


def _interval(
    view: TypedView, state: TableState, *, start_us: int, end_us: int, now_us: int
) -> RunPlan:
    """Event times `[start, end)`. Where it joins the watermark, a second pass by known time takes
    what became known meanwhile, so that the watermark may move without losing a late row."""
    interval = Selection(known_until_us=now_us, event_from_us=start_us, event_to_us=end_us)
    watermark, passes = None, [interval]
    joins = state.watermark_us is not None and start_us <= state.watermark_us < end_us
    if joins and state.covers(view.reach_us) and state.watermark_us is not None:
        passes.append(_since(view, state.watermark_us, end_us=end_us, now_us=now_us))
        watermark = end_us
    return RunPlan(
        mode="interval",
        passes=tuple(passes),
        start_us=start_us,
        end_us=end_us,
        watermark_us=watermark,
        reach_us=_lesser(state.reach_us, view.reach_us),
    )


def _since(view: TypedView, watermark_us: int, *, end_us: int, now_us: int) -> Selection:
    return Selection(
        known_after_us=watermark_us - view.source.lateness_us,
        known_until_us=end_us,
        event_from_us=_oldest(view, now_us),
    )


def _oldest(view: TypedView, now_us: int) -> int | None:
    """Rows before this instant can't change an answer any more."""
    return None if view.reach_us is None else now_us - view.reach_us


def _lesser(left: int | None, right: int | None) -> int | None:
    if left is None:
        return right
    return left if right is None else min(left, right)

"""Where a window begins and ends: the arithmetic that offline and online share.

At `T` a window of length `w` covers events with `floor(T − delay − w, hop) ≤ e < T − delay`: closed
left, open right. Division is floor division, right before 1970 too. A hop of 0 (`hop="exact"`)
floors nothing; a window of None is `lifetime` and has no left end. All in µs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US

LIFETIME = "lifetime"
"""How a window without a left end is written."""
HOP_EXACT = "exact"
HOP_AUTO = "auto"
HOPS_PER_WINDOW_MAX = 10_000
"""So many hops fit into a window at most: each is a tile of the online state."""


class Spanned(Protocol):
    """What has a window: an aggregation."""

    @property
    def window_us(self) -> int | None: ...
    @property
    def delay_us(self) -> int: ...
    @property
    def hop_us(self) -> int: ...


def auto_hop_us(window_us: int | None) -> int:
    """The hop of `hop="auto"`: 5 min for windows below 12 h, 1 h below 12 d, else 1 d."""
    if window_us is None or window_us >= 12 * DAY_US:
        return DAY_US
    return 5 * MINUTE_US if window_us < 12 * HOUR_US else HOUR_US


def tile_of(event_us: int, hop_us: int) -> int:
    """The beginning of the tile `[start, start + hop)` that holds an event; of hop 0, the event."""
    return event_us - event_us % hop_us if hop_us else event_us


def bounds(at_us: int, window_us: int | None, delay_us: int, hop_us: int) -> tuple[int | None, int]:
    """The window at `at_us`, half-open: `start ≤ e < end`; a start of None is open."""
    end = at_us - delay_us
    return (None if window_us is None else tile_of(end - window_us, hop_us)), end


def reach_us(spans: Iterable[Spanned]) -> int | None:
    """How old an event can be and still be in one of the windows: the longest of window + delay +
    hop; None where one is a lifetime."""
    longest = 0
    for span in spans:
        if span.window_us is None:
            return None
        longest = max(longest, span.window_us + span.delay_us + span.hop_us)
    return longest

"""When events enter windows and leave them: the instants at which answers change."""

from __future__ import annotations

from featurestore.windows import tile_of


def enters_us(event_us: int, delay_us: int) -> int:
    """The first instant at which an event is in a window (if it is known by then)."""
    return event_us + delay_us + 1


def leaves_us(event_us: int, window_us: int | None, delay_us: int, hop_us: int) -> int | None:
    """The first instant after that at which it is not; None for a lifetime window."""
    if window_us is None:
        return None
    # floor(T − delay − w, hop) ≤ e holds as long as T − delay − w < floor(e, hop) + hop.
    return tile_of(event_us, hop_us) + max(hop_us, 1) + delay_us + window_us

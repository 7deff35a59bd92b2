"""When a write to the store waits for more calls to go along with it. Nothing here does I/O.

Callers who come one by one each pay for a write, for waking the server and for being woken by its
answer, which together cost more than everything else that we do for them. Where many are known to
come, a millisecond's wait makes one write of a dozen, and nobody notices it behind so many others.
Where few come, it would be the longest part of their answer. How many there are is not to be seen
from here, as a server that is behind hands its requests on one by one; so now and then, while
calls come fast and overlap, one write waits to see how many gather.
"""

from __future__ import annotations

from typing import Final

HANDFUL: Final = 4
"""So many callers are no reason to wait."""
GROUP_CALLS: Final = 16
"""A write that waits goes when it has so many calls,"""
GROUP_S: Final = 0.001
"""or after so long."""
BUSY_S: Final = 0.02
"""How long after more than a handful were under way writes go on to wait."""
HURRY_S: Final = 0.01
"""Calls with less time left than this leave at once, and take along what waits."""
LOOK_CALLS: Final = 64
"""Every so many calls it is judged how fast they come;"""
FAST_S: Final = 0.03
"""this is fast."""
PAUSE_S: Final = (0.05, 1.0)
"""From one write that waited in vain, to see how many gather, to the next: at first and at most."""


class Pace:
    """The judgement on one connection. Instants are of its loop's clock."""

    __slots__ = ("_busy_until", "_counted", "_overlapped", "_pause_s", "_since", "_try_at")

    def __init__(self) -> None:
        self._busy_until = self._since = self._try_at = 0.0
        self._pause_s = PAUSE_S[0]
        self._counted = 0
        self._overlapped = False

    def holds(self, waiting: int, under_way: int, *, now: float, earliest: float) -> bool:
        """Whether to hold the `waiting` calls back for now. They are among the `under_way` that
        are not answered, and `earliest` is the first deadline of them."""
        if under_way > HANDFUL:
            self._busy_until = now + BUSY_S
        elif under_way > 1:
            self._overlapped = True
        if waiting > HANDFUL or earliest - now < HURRY_S:
            return False
        return now < self._busy_until or self._tries(waiting, now)

    def lets_go(self, waiting: int, under_way: int, *, now: float, earliest: float) -> bool:
        """Whether what was held back goes now."""
        if under_way > HANDFUL:
            self._busy_until, self._pause_s = now + BUSY_S, PAUSE_S[0]
        return waiting >= GROUP_CALLS or earliest - now < HURRY_S

    def _tries(self, waiting: int, now: float) -> bool:
        """Whether this is the time to see how many gather."""
        self._counted += waiting
        if self._counted < LOOK_CALLS:
            return False
        fast = self._overlapped and now - self._since < FAST_S
        self._counted, self._since, self._overlapped = 0, now, False
        if not fast or now < self._try_at:
            return False
        self._try_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_S[1])
        return True

"""How tests wait, and how long they let a thing take.

`make test` runs three processes of tests on two cores, so that any of them may stand still for a
second or more. What has to come true is therefore waited for, with a limit that tells a wait from a
hang and nothing else. What must be prompt is held to its time by `make faults`, which has the
machine to itself; elsewhere the limit is ten times as long.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

WAITS_S_MAX = 60.0
ALONE = "FAULT_ROUNDS" in os.environ
"""Whether nothing else runs beside the tests."""
BUSY_FACTOR = 10
STEADY_MS = 10_000
"""How long a server may be silent before the others elect a successor, where none is to fail."""


def promised(seconds: float) -> float:
    """The limit for what takes less than `seconds` on a machine that is not busy with others."""
    return seconds if ALONE else BUSY_FACTOR * seconds


def wait_for(condition: Callable[[], bool], *, within_s: float = WAITS_S_MAX) -> float:
    """Wait until it is so; returns how many seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"it is not so after {within_s:g} s"
        time.sleep(0.02)
    return time.monotonic() - began


async def until(condition: Callable[[], bool], *, within_s: float = WAITS_S_MAX) -> None:
    """The same in an event loop, which goes on meanwhile."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)

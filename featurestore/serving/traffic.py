"""What is under way in a server, through either door: so that it takes no more than it can answer,
and can end without losing a request.

Closing a listener resets the connections that the kernel holds ready for it, and gRPC's own
shutdown cancels what it has received but not yet handed to us (as CANCELLED, which no standard
client tries again). So a draining server first serves on until its queues are empty.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from featurestore.errors import ServerOverloaded

QUIET_TURNS, TURN_S = 10, 0.01
"""A draining server whose loop comes round so often without a request has none left in its queues.
(Turns, not time: whatever else holds up the loop holds up the requests behind it too.)"""
SERVE_ON_S_MAX, REFUSE_S_MAX = 2.0, 0.3
"""How long a draining server that never falls quiet goes on serving, and then refusing."""


class Admission:
    """A counter with a bound; `with admission:` is one request that has arrived whole and is
    being answered. Raises `ServerOverloaded` where there are as many as there may be.

    Requests that are still arriving do not count: who sends slowly would keep others out.
    """

    __slots__ = ("_admitted", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._admitted = 0

    def __enter__(self) -> None:
        if self._admitted >= self._most:
            raise ServerOverloaded("concurrent_requests_max", allowed=self._most)
        self._admitted += 1

    def __exit__(self, *_: object) -> None:
        self._admitted -= 1


class _Requests:
    """Counts what came and what is under way; `with requests:` is one. (One object for all of
    them: a generator for each would cost more than the rest of the counting.)"""

    __slots__ = ("received", "under_way")

    def __init__(self) -> None:
        self.received = 0
        self.under_way = 0

    def __enter__(self) -> None:
        self.received += 1
        self.under_way += 1

    def __exit__(self, *_: object) -> None:
        self.under_way -= 1


class Traffic:
    """Counts requests. Lives in one loop."""

    def __init__(self, *, concurrent_requests_max: int) -> None:
        self._requests = _Requests()
        self.admission = Admission(concurrent_requests_max)
        self.refusing = False
        self._acts: list[Callable[[], object]] = []

    def when_refusing(self, act: Callable[[], object]) -> None:
        """Call `act` when the doors begin to refuse (at once, if they do already)."""
        if self.refusing:
            act()
        self._acts.append(act)

    def forget(self, act: Callable[[], object]) -> None:
        """Do not call it after all."""
        self._acts.remove(act)

    def request(self) -> AbstractContextManager[None]:
        """One request, from its arrival to its answer."""
        return self._requests

    def begin(self) -> None:
        """One request has arrived; for who cannot say `with request()`."""
        requests = self._requests
        requests.received += 1
        requests.under_way += 1

    def end(self) -> None:
        """It is answered."""
        self._requests.under_way -= 1

    async def drain(self) -> None:
        """Wait until the queues are empty. If they never are, have the doors refuse what comes
        (`refusing`), so that clients turn elsewhere."""
        await self._quiet(SERVE_ON_S_MAX)
        self.refusing = True
        for act in self._acts:
            act()
        await self._quiet(REFUSE_S_MAX)

    async def _quiet(self, longest_s: float) -> None:
        requests = self._requests
        deadline, turns, received = time.monotonic() + longest_s, 0, requests.received
        while turns < QUIET_TURNS and time.monotonic() < deadline:
            await asyncio.sleep(TURN_S)
            quiet = not requests.under_way and received == requests.received
            turns, received = turns + 1 if quiet else 0, requests.received

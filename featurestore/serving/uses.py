"""What a server was asked for, told to the registry coarsely and beside the requests, so that
`who-uses` knows the last online use of a service or a view."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError
from featurestore.serving.logs import logger
from featurestore.timeline import SECOND_US

if TYPE_CHECKING:
    from featurestore.serving.metrics import Metrics
    from featurestore.stores.registry.base import Registry
    from featurestore.timeline import Clock

LOOK_S = 2
"""How often a server looks at what it was asked."""
NOTE_AGAIN_US = 3_600 * SECOND_US
"""A name is told to the registry at most that often, and tried again no sooner where that fails."""


class Uses:
    """The names that were asked for. Lives in one loop.

    `asked(names)` is what a request tells (`CompiledPlan.asked`): the method of a set, and nothing
    around it, for it is called by every request. All else happens beside them.
    """

    __slots__ = ("_names", "_tried_us", "_waiting", "asked")

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._waiting: dict[str, int] = {}
        self._tried_us: dict[str, int] = {}
        self.asked: Callable[[Iterable[str]], None] = self._names.update

    def due(self, *, now_us: int) -> dict[str, int]:
        """What is to be told now: names, and when each was last asked for. It counts as told."""
        self._waiting |= dict.fromkeys(self._names, now_us)
        self._names.clear()
        due = {
            name: at_us
            for name, at_us in self._waiting.items()
            if now_us - self._tried_us.get(name, -NOTE_AGAIN_US) >= NOTE_AGAIN_US
        }
        for name in due:
            del self._waiting[name]
            self._tried_us[name] = now_us
        return due

    def again(self, due: dict[str, int]) -> None:
        """It could not be told; it is due again when a name may be tried again."""
        self._waiting = due | self._waiting


async def tell(
    uses: Uses, registry: Registry, environment: str, *, clock: Clock, metrics: Metrics
) -> None:
    """Tell the registry for ever, in a thread; cancel to stop. A registry that is away, or that
    this server may not write, is counted and said once; requests do not notice."""
    failing = False
    while True:
        await asyncio.sleep(LOOK_S)
        due = uses.due(now_us=clock.now_us())
        if not due:
            continue
        try:
            await asyncio.to_thread(registry.note_uses, environment, due)
        except FeatureStoreError as error:
            uses.again(due)
            metrics.uses_told(len(due), failed=True)
            if not failing:
                logger().warning("last online uses are not noted", reason=str(error))
            failing = True
            continue
        metrics.uses_told(len(due), failed=False)
        failing = False

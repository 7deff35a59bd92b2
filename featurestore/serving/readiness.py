"""Whether a server should be sent requests: the store answers, and it is not going away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from featurestore.errors import StoreError
from featurestore.serving.logs import logger

if TYPE_CHECKING:
    from featurestore.serving.metrics import Metrics
    from featurestore.stores.online.base import OnlineStore

PING_INTERVAL_S = 1.0
PING_TIMEOUT_MS = 1_000

Listener = Callable[[bool], Awaitable[None]]


class Readiness:
    """Pings the store now and then, and at once when a request found it gone. Lives in one loop."""

    def __init__(self, store: OnlineStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._look = asyncio.Event()
        self._listeners: list[Listener] = []
        self._store_answers = False
        self._draining = False
        self._reason = "the store was not asked yet"

    @property
    def ready(self) -> bool:
        return self._store_answers and not self._draining

    @property
    def reason(self) -> str:
        """Why the server is not ready; nothing while it is."""
        return "draining" if self._draining else self._reason

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` told of every change."""
        self._listeners.append(listener)

    def look_now(self) -> None:
        """Ask the store without waiting for the next turn."""
        self._look.set()

    async def drain(self) -> None:
        """From now on the server is not ready."""
        self._draining = True
        await self._tell()

    async def look(self) -> None:
        """Ask the store once."""
        before, reason = self.ready, ""
        try:
            await asyncio.to_thread(self._store.ping, timeout_ms=PING_TIMEOUT_MS)
        except StoreError as error:
            reason = str(error)
        self._store_answers, self._reason = not reason, reason
        if self.ready != before:
            if reason:
                logger().warning("online store does not answer", reason=reason)
            else:
                logger().info("online store answers")
            await self._tell()

    async def watch(self) -> None:
        """Ask the store for ever; cancel to stop."""
        while True:
            await self.look()
            self._look.clear()
            try:
                await asyncio.wait_for(self._look.wait(), PING_INTERVAL_S)
            except TimeoutError:
                continue

    async def _tell(self) -> None:
        self._metrics.ready(self.ready)
        for listener in self._listeners:
            await listener(self.ready)

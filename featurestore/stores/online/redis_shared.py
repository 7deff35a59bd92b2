"""Blocking work that the callers of one event loop share: one run at a time, in a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from featurestore.errors import StoreError

T = TypeVar("T")


class SharedWork(Generic[T]):
    """`work` must end by itself: a caller whose deadline comes first goes away without it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], T]) -> None:
        self._loop = loop
        self._work = work
        self._run: asyncio.Task[T | StoreError] | None = None

    def begin(self) -> asyncio.Task[T | StoreError]:
        """The run under way, or a new one. What went wrong is a result: several callers may wait
        for it, or none."""
        if self._run is None:
            self._run = self._loop.create_task(self._do())
        return self._run

    async def _do(self) -> T | StoreError:
        try:
            return await asyncio.to_thread(self._work)
        except StoreError as error:
            return error
        finally:
            self._run = None

    async def result(self, deadline: float) -> T | None:
        """What it returns; None if that is later than `deadline` (of `time.monotonic`)."""
        run = self.begin()
        await asyncio.wait([run], timeout=max(0.0, deadline - time.monotonic()))
        if not run.done():
            return None
        outcome = run.result()
        if isinstance(outcome, StoreError):
            raise type(outcome)(outcome.message)
        return outcome

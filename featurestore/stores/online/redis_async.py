"""The asyncio connection to a Redis-protocol server: auto-pipelined.

All commands that one tick of the event loop submits leave in one write, which waits for those of
further ticks where that pays (`redis_pace.py`), and replies find their callers by their order.
There is one connection per event loop; a caller pays for a future and two list appends, not for a
pool, a lock and a stream reader.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, cast

import hiredis

from featurestore.errors import StoreError, StoreTimeout
from featurestore.stores.online.base import Waiter
from featurestore.stores.online.redis_pace import GROUP_S, Pace
from featurestore.stores.online.resp import (
    BROKEN,
    Target,
    check_greeting,
    failure,
    greeting,
    pack,
)

STALLED_S: Final = 1.0
"""A connection that lets a call time out and was silent for as long is given up."""
BACK_OFF_S: Final = (0.02, 0.25)
"""The first and the longest pause between two attempts to connect; calls fail at once in it. Two of
the longest, where a server that comes back fails the first attempt, still end within a second."""
OUTBOX_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes that the server has not taken yet; above it callers wait, each until its own deadline."""


class Call:
    """Commands that are under way. Their `count` replies, or the error, go to `waiter`, which may
    be a future or anything that takes them like one."""

    __slots__ = ("count", "deadline", "replies", "waiter")

    def __init__(self, waiter: Waiter[list[Any]], count: int, deadline: float) -> None:
        self.waiter = waiter
        self.count = count
        self.deadline = deadline
        self.replies: list[Any] = []

    def answered(self) -> None:
        """All replies are here."""
        if not self.waiter.done():
            self.waiter.set_result(self.replies)


class Link(asyncio.Protocol):
    """One connection. `broken` says why it is of no use any more."""

    def __init__(self, target: Target, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop
        self._reader = hiredis.Reader()
        self._calls: deque[Call] = deque()
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._due = False
        self._held: asyncio.TimerHandle | None = None
        self._pace = Pace()
        self._earliest = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._watched = math.inf
        self._heard = loop.time()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._lost = asyncio.Event()
        self.broken: StoreError | None = None

    def submit(self, payload: bytes, count: int, deadline: float) -> asyncio.Future[list[Any]]:
        """Send packed commands with the other calls of this tick; the future gets their `count`
        replies. `deadline` is an instant of the loop's clock."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._queue(payload, Call(future, count, deadline), self._collect)
        return future

    def send(self, payload: bytes, call: Call) -> None:
        """Send the packed commands of `call` with the others of this tick, and wait for no more:
        for those who bring their calls many at a time."""
        self._queue(payload, call, self._flush)

    def _queue(self, payload: bytes, call: Call, then: Callable[[], None]) -> None:
        if not self._calls:
            self._heard = self._loop.time()
        self._calls.append(call)
        if not self._due:
            self._due = True
            self._loop.call_soon(then)
        self._outbox.append(payload)
        self._earliest = min(self._earliest, call.deadline)
        self._outbox_bytes += len(payload)
        if self._outbox_bytes > OUTBOX_BYTES_MAX:
            self._drained.clear()
        if call.deadline < self._watched:
            self._watch(call.deadline)

    @property
    def is_full(self) -> bool:
        """Whether the server is behind with reading."""
        return not self._drained.is_set()

    async def drained(self, deadline: float) -> None:
        """Wait until it has caught up. Raises `StoreTimeout` at the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._drained.wait()
        except TimeoutError as error:
            raise failure(self._target, error) from error

    def abort(self) -> None:
        """Close at once; calls under way fail."""
        if self._transport is not None:
            self._transport.abort()

    async def closed(self) -> None:
        """Wait until the socket is closed."""
        await self._lost.wait()

    def _collect(self) -> None:
        """At the end of a tick: write, or wait for more calls (see `Pace`)."""
        self._due = False
        if not self._outbox:
            return
        waiting, under_way, now = len(self._outbox), len(self._calls), self._loop.time()
        if self._held is None:
            if self._pace.holds(waiting, under_way, now=now, earliest=self._earliest):
                self._held = self._loop.call_later(GROUP_S, self._flush)
            else:
                self._flush()
        elif self._pace.lets_go(waiting, under_way, now=now, earliest=self._earliest):
            self._flush()

    def _flush(self) -> None:
        self._due = False
        if self._held is not None:
            self._held.cancel()
            self._held = None
        self._earliest = math.inf
        outbox, self._outbox, self._outbox_bytes = self._outbox, [], 0
        if self._transport is None or self.broken is not None or not outbox:
            return
        self._transport.write(outbox[0] if len(outbox) == 1 else b"".join(outbox))
        if not self._paused:
            self._drained.set()

    # --- deadlines: one timer for the connection, at the earliest --------------------------------

    def _watch(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._watched = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer, self._watched = None, math.inf
        now, expired = self._loop.time(), False
        pending = [call for call in self._calls if not call.waiter.done()]
        for call in pending:
            if call.deadline <= now:
                # Its place in the queue stays: its replies may still come.
                call.waiter.set_exception(failure(self._target, TimeoutError()))
                expired = True
        if expired and now - self._heard >= STALLED_S:
            self.abort()
        elif ahead := [call.deadline for call in pending if not call.waiter.done()]:
            self._watch(min(ahead))

    # --- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ours."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=OUTBOX_BYTES_MAX)

    def data_received(self, data: bytes) -> None:
        """Give each complete reply to the call whose turn it is."""
        self._heard = self._loop.time()
        calls, gets = self._calls, self._reader.gets
        try:
            self._reader.feed(data)
            while (reply := gets()) is not False:
                call = calls[0]
                call.replies.append(reply)
                if len(call.replies) == call.count:
                    calls.popleft()
                    call.answered()
        except (*BROKEN, IndexError) as error:
            self._fail(error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._fail(exc or EOFError("the connection was closed"))
        self._lost.set()

    def _fail(self, cause: Exception) -> None:
        self.broken = self.broken or failure(self._target, cause)
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._watched = None, math.inf
        while self._calls:
            call = self._calls.popleft()
            if not call.waiter.done():
                call.waiter.set_exception(again(self.broken))
        self._drained.set()

    def pause_writing(self) -> None:
        """The transport holds `OUTBOX_BYTES_MAX`."""
        self._paused = True
        self._drained.clear()

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._paused = False
        self._drained.set()


class AsyncClient:
    """The connection of one event loop: made when first needed, and again when it broke, with a
    pause that grows and is never the same for two clients."""

    def __init__(
        self, target: Target, loop: asyncio.AbstractEventLoop, *, connect_timeout_ms: int
    ) -> None:
        self._target = target
        self._loop = loop
        self._timeout_s = connect_timeout_ms / 1000
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link | StoreError] | None = None
        self._keeper: AsyncGenerator[None, None] | None = None
        self._error: StoreError | None = None
        self._pause_s, self._retry_at = BACK_OFF_S[0], 0.0
        self._closed = False

    async def call(self, payload: bytes, count: int, timeout_ms: int) -> list[Any]:
        """The `count` replies to packed commands, within `timeout_ms`."""
        deadline = self._loop.time() + timeout_ms / 1000
        link = self._link
        if link is None or link.broken is not None:
            link = await self._connected(deadline)
        while link.is_full:
            await link.drained(deadline)
            if link.broken is not None:
                raise again(link.broken)
        return await link.submit(payload, count, deadline)

    def call_soon(self, payload: bytes, call: Call) -> bool:
        """Send `call` now, if the connection is there and has room. False: do it by `call`."""
        link = self._link
        if link is None or link.broken is not None or link.is_full:
            return False
        link.send(payload, call)
        return True

    async def _connected(self, deadline: float) -> Link:
        if self._connecting is None:
            if self._error is not None and self._loop.time() < self._retry_at:
                raise again(self._error)
            self._connecting = self._loop.create_task(self._connect())
        attempt = self._connecting
        await asyncio.wait([attempt], timeout=max(0.0, deadline - self._loop.time()))
        if not attempt.done():
            raise StoreTimeout(f"the online store {self._target.shown} did not answer in time")
        outcome = attempt.result()
        if isinstance(outcome, StoreError):
            raise again(outcome)
        return outcome

    async def _connect(self) -> Link | StoreError:
        """One attempt. What went wrong is a result: several callers may wait for it, or none."""
        link: Link | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                link = await self._open()
                if self._keeper is None:
                    self._keeper = self._keep()
                    await anext(self._keeper)
        except (*BROKEN, StoreError) as error:
            self._error = failure(self._target, error)
            self._retry_at = self._loop.time() + self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
            self._pause_s = min(2 * self._pause_s, BACK_OFF_S[1])
            return self._error
        finally:
            self._connecting = None
        self._link, self._error, self._pause_s = link, None, BACK_OFF_S[0]
        return link

    async def _open(self) -> Link:
        target = self._target
        context = target.ssl_context()
        link = Link(target, self._loop)
        try:
            # Cancelled in the moment when TLS is agreed on, this would close politely, which nobody
            # waits for; hence the abort.
            await self._loop.create_connection(
                lambda: link,
                target.host,
                target.port,
                ssl=context,
                server_hostname=target.host if context else None,
            )
            commands = greeting(target)
            deadline = self._loop.time() + self._timeout_s
            check_greeting(target, await link.submit(pack(commands), len(commands), deadline))
        except BaseException:
            link.abort()
            raise
        return link

    async def _keep(self) -> AsyncGenerator[None, None]:
        """Close the connection when the loop ends, whoever ends it: `asyncio.run` closes the
        asynchronous generators that its loop has begun, and nothing else would tell us."""
        try:
            yield
        finally:
            if self._link is not None:
                self._link.abort()
                await self._link.closed()

    def close(self) -> None:
        """Close the connection, from any thread."""
        if self._link is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._link.abort)


def again(error: StoreError) -> StoreError:
    """The same error as a new object: each caller's traceback is its own."""
    return type(error)(error.message)

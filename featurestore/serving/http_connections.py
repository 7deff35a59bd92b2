"""HTTP connections that may be anybody's: how many there are, and how long each may take.

A connection is waiting (for the first byte of a request), arriving (its request line and headers
have begun) or busy (a request is being answered). Each phase has a time limit. Where there are too
many connections, the one that has waited longest goes, so that opening ten thousand and sending
nothing keeps nobody out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from featurestore.errors import InvalidRequest, RequestTimeout

if TYPE_CHECKING:
    from featurestore.config import ServingSettings

HEADER_BYTES_MAX = 32 * 1024
"""The request line and all headers together."""
BUSY_S_MORE = 60.0
"""How much longer than `request_timeout_ms` an answer may take to be fetched by its reader."""
_LOOK_INTERVAL_S = 0.5


def _last_words(status: str, code: str, message: str) -> bytes:
    body = json.dumps({"code": code, "message": message, "details": {}}).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_TOO_SLOW = _last_words(
    "408 Request Timeout", RequestTimeout.code, "The request did not arrive in time."
)
_NO_REQUEST = _last_words("400 Bad Request", InvalidRequest.code, "This is no HTTP request.")


class _Phase:
    """Connections in the order in which they came into a phase."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[Connection, float] = {}

    def enter(self, connection: Connection, now: float) -> None:
        self._since[connection] = now

    def leave(self, connection: Connection) -> None:
        self._since.pop(connection, None)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._since

    def oldest(self) -> Connection | None:
        return next(iter(self._since), None)

    def late(self, now: float) -> Iterator[Connection]:
        """Those that have been in it for too long; each must leave before the next is asked for."""
        while (first := self.oldest()) is not None and now - self._since[first] > self._limit_s:
            yield first


class Connections:
    """All connections of one HTTP server. Lives in one loop."""

    def __init__(self, serving: ServingSettings) -> None:
        request_s = serving.request_timeout_ms / 1_000
        self._most = serving.connections_max
        self._open = 0
        self.waiting = _Phase(serving.connection_idle_timeout_ms / 1_000)
        self.arriving = _Phase(request_s)
        self.busy = _Phase(request_s + BUSY_S_MORE)

    def opened(self, connection: Connection, now: float) -> None:
        """A connection came: another may have to go for it."""
        self._open += 1
        self.waiting.enter(connection, now)
        if self._open > self._most:
            # `or connection`: where all are busy, it is the new one that goes.
            (self.waiting.oldest() or self.arriving.oldest() or connection).give_up()

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open -= 1
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """It is in no phase any more."""
        for phase in (self.waiting, self.arriving, self.busy):
            phase.leave(connection)

    async def watch(self) -> None:
        """Close what takes too long, for ever; cancel to stop."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            now = loop.time()
            for connection in self.arriving.late(now):
                connection.too_slow()
            for phase in (self.waiting, self.busy):
                for connection in phase.late(now):
                    connection.give_up()


class Connection(H11Protocol):
    """uvicorn's connection, whose phases are watched."""

    def __init__(self, connections: Connections, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._all = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._all.opened(self, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self in self._all.waiting:
            self._all.waiting.leave(self)
            self._all.arriving.enter(self, self.loop.time())
        super().data_received(data)
        if self in self._all.arriving and self._answers:
            self._all.arriving.leave(self)
            self._all.busy.enter(self, self.loop.time())

    def on_response_complete(self) -> None:
        self._all.forget(self)
        if not self.transport.is_closing():
            # What follows at once (pipelining) finds the connection where `data_received` does.
            self._all.waiting.enter(self, self.loop.time())
        super().on_response_complete()
        if self in self._all.waiting and self._answers:
            self._all.waiting.leave(self)
            self._all.busy.enter(self, self.loop.time())

    def too_slow(self) -> None:
        """Say that the request did not arrive in time, and close."""
        self._close_with(_TOO_SLOW)

    def send_400_response(self, _: str) -> None:
        """What arrived is no HTTP request (uvicorn's hook)."""
        self._close_with(_NO_REQUEST)

    def _close_with(self, last_words: bytes) -> None:
        self._all.forget(self)
        # Behind half an answer they would be taken for a part of it.
        if not (self._answers and self.cycle.response_started):
            self.transport.write(last_words)
        self.transport.close()

    def give_up(self) -> None:
        """Close at once."""
        self._all.forget(self)
        self.transport.abort()

    @property
    def _answers(self) -> bool:
        # uvicorn's type does not say that there is none before the first request.
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

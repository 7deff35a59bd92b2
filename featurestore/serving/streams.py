"""`StreamOnlineFeatures`: many requests on one call, answered in their order.

The requests of a stream are answered side by side, so that they share round trips to the store. At
most `UNDER_WAY_MAX` of them are under way; the stream is not read any further until the caller has
taken an answer. So whoever does not read cannot make us hold more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from featurestore.errors import FeatureStoreError, InvalidRequest, ServerUnavailable
from featurestore.serving.edge import DETAILS_KEY, to_grpc
from featurestore.wire.serving_raw_pb2 import RawStreamRequest, RawStreamResponse

if TYPE_CHECKING:
    from featurestore.serving.grpc_server import Context, Handler
    from featurestore.serving.traffic import Traffic

UNDER_WAY_MAX = 64
"""Requests of one stream that are read and whose answers the caller has not taken."""
GOING_AWAY = "The server is going away; ask again what it has not answered."


class _Refused(Exception):
    """A request ends with an error."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Any) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailers = trailers


class _RequestContext:
    """What a handler of single requests sees of a request that came in a stream."""

    __slots__ = ("_deadline", "_stream")

    def __init__(self, stream: Context, timeout_ms: int) -> None:
        self._stream = stream
        self._deadline = time.monotonic() + timeout_ms / 1_000 if timeout_ms else None

    def time_remaining(self) -> float | None:
        """Seconds until the request's deadline or the stream's, whichever comes first."""
        left_s = self._stream.time_remaining()
        if self._deadline is None:
            return left_s
        own_s = max(0.0, self._deadline - time.monotonic())
        return own_s if left_s is None else min(own_s, left_s)

    def invocation_metadata(self) -> Any:
        """That of the stream."""
        return self._stream.invocation_metadata()

    def peer(self) -> str:
        """The caller's address."""
        return self._stream.peer()

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Nothing: an answer in a stream has no trailers of its own."""

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        """End the request, not the stream."""
        raise _Refused(code, details, trailing_metadata)


class Streams:
    """Answers the streams of one server.

    Args:
        answer: the handler of single requests.
        admit: raises what a caller who may not stream at all is told.
        traffic: says when the server goes away.
    """

    def __init__(
        self, answer: Handler, admit: Callable[[Context], object], traffic: Traffic
    ) -> None:
        self._answer = answer
        self._admit = admit
        self._traffic = traffic

    async def handle(
        self, requests: AsyncIterable[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """`StreamOnlineFeatures`, bytes to bytes."""
        under_way = asyncio.Queue[asyncio.Task[bytes] | None]()
        room = asyncio.Semaphore(UNDER_WAY_MAX)
        reading = asyncio.ensure_future(self._begin_each(requests, context, under_way, room))
        self._traffic.when_refusing(reading.cancel)
        try:
            self._admit(context)
            while (task := await under_way.get()) is not None:
                yield await task
                room.release()
            if reading.cancelled():
                raise ServerUnavailable(GOING_AWAY)
            await reading
        except _Refused as end:
            await context.abort(end.code, end.details, end.trailers)
        except FeatureStoreError as error:
            status, text, details = to_grpc(error)
            await context.abort(status, text, ((DETAILS_KEY, details),))
        finally:
            self._traffic.forget(reading.cancel)
            reading.cancel()
            while not under_way.empty():
                if (left := under_way.get_nowait()) is not None:
                    left.cancel()

    async def _begin_each(
        self,
        requests: AsyncIterable[bytes],
        context: Context,
        under_way: asyncio.Queue[asyncio.Task[bytes] | None],
        room: asyncio.Semaphore,
    ) -> None:
        try:
            await room.acquire()
            async for data in requests:
                under_way.put_nowait(asyncio.ensure_future(self._answer_one(data, context)))
                await room.acquire()
        finally:
            under_way.put_nowait(None)

    async def _answer_one(self, data: bytes, context: Context) -> bytes:
        """The answer to one message, be it an error. Raises what ends the stream."""
        try:
            asked = RawStreamRequest.FromString(data)
        except DecodeError as error:
            raise InvalidRequest(
                f"{len(data):,} bytes are not a StreamOnlineFeaturesRequest: {error}"
            ) from error
        try:
            one = _RequestContext(context, asked.timeout_ms)
            found = await self._answer(asked.request, one)
            return RawStreamResponse(features=found).SerializeToString()
        except _Refused as refused:
            away = refused.code is grpc.StatusCode.UNAVAILABLE and self._traffic.refusing
            if away or refused.code is grpc.StatusCode.UNAUTHENTICATED:
                raise
            details = dict(refused.trailers)[DETAILS_KEY]
            return RawStreamResponse(error=details).SerializeToString()

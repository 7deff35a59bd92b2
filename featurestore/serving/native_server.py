"""The gRPC door on `pygrpc-native` (extra `native`): HTTP/2 in Rust, outside Python's lock.

The calls that come by the thousand are answered here, by the same handlers as in `grpc_server.py`
and on the same event loop. Everything else (health, reflection, streams) the library passes on to a
whole `GrpcServer` on a Unix socket behind it, so that both doors offer the same. There is no TLS,
and the library neither counts connections nor closes silent ones: it is for networks that are
trusted, which without TLS they had better be.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from featurestore.errors import AddressUnavailable
from featurestore.serving.grpc_server import (
    GOING_AWAY,
    KEEPALIVE_MS,
    PUSHBACK,
    SERVICE,
    STREAMS_PER_CONNECTION_MAX,
    GrpcServer,
    Metadata,
)
from featurestore.serving.native_lookups import LookupCall, Lookups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pygrpc_native._native import CallDetails, DetailedEvent

    from featurestore.serving.service import Collaborators

PACKAGE = "pygrpc_native"
LOOKUP = "GetOnlineFeatures"
_IO_THREADS = 1
"""One Rust thread keeps up with Python's one; a second only waits more often."""
_EVENTS_PER_TURN = 32
"""Calls that one turn of the event loop begins at most."""


def is_installed() -> bool:
    """Whether the extra `native` is here."""
    return importlib.util.find_spec(PACKAGE) is not None


class _Aborted(Exception):
    """A handler ended its call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Any) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailers = trailers


class _Context:
    """What a handler sees of its call; the part of `grpc.aio.ServicerContext` that ours use."""

    __slots__ = ("_deadline", "_metadata", "_peer", "trailers")

    def __init__(self, details: CallDetails) -> None:
        self.trailers: Any = None
        self._metadata, self._peer, remaining_s = details
        self._deadline = None if remaining_s is None else time.monotonic() + remaining_s

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None where it has none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What the caller sent beside the message."""
        return self._metadata

    def peer(self) -> str:
        """The caller's address."""
        return self._peer

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """What goes back behind an answer."""
        self.trailers = trailing_metadata

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        """End the call with this status."""
        raise _Aborted(code, details, trailing_metadata)


class NativeServer:
    """A server on one address. Create and use it within one running loop.

    Raises `AddressUnavailable`.
    """

    def __init__(self, parts: Collaborators, address: str) -> None:
        from pygrpc_native import NativeGrpcFront

        self._loop = asyncio.get_running_loop()
        self._folder = tempfile.TemporaryDirectory(prefix="featurestore-grpc-")
        self._socket = Path(self._folder.name) / "behind.sock"
        self._behind = GrpcServer(parts, f"unix:{self._socket}")
        methods = self._behind.methods
        self._handlers = list(methods.values())
        self._lookups = Lookups(self._behind.door, self, self._loop)
        # A span lives in a task's context.
        self._lookup_method = list(methods).index(LOOKUP) if parts.tracing is None else -1
        try:
            self._front = NativeGrpcFront(
                address,
                [(f"/{SERVICE}/{name}", False) for name in methods],
                call_details=True,
                reuse_port=True,
                keepalive_time_ms=KEEPALIVE_MS,
                keepalive_timeout_ms=parts.settings.serving.request_timeout_ms,
                max_concurrent_streams=STREAMS_PER_CONNECTION_MAX,
                io_threads=_IO_THREADS,
            )
        except OSError as error:
            self._folder.cleanup()
            raise AddressUnavailable(f"cannot listen on {address}: {error}") from error
        self._front.set_fallback(str(self._socket))
        self._calls: dict[int, asyncio.Task[None] | LookupCall] = {}
        self._idle = asyncio.Event()
        self._stopping = False
        self._receiver = threading.Thread(target=self._receive, name="native-grpc", daemon=True)

    async def start(self) -> None:
        """Take connections."""
        await self._behind.start()
        self._front.start()
        self._receiver.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new requests; let those under way finish, for at most `grace_s` seconds."""
        self._stopping = True
        behind = asyncio.ensure_future(self._behind.stop(grace_s))
        if self._calls:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_s)
        for call in list(self._calls.values()):
            call.cancel()
        await behind
        await asyncio.to_thread(self._front.close)
        await asyncio.to_thread(self._receiver.join)
        self._folder.cleanup()

    def _receive(self) -> None:
        """In a thread of its own: hand what arrives to the loop, until the front is closed."""
        while (events := self._front.recv_batch_details(_EVENTS_PER_TURN)) is not None:
            try:
                self._loop.call_soon_threadsafe(self._begin, events)
            except RuntimeError:
                # The loop has ended without `stop`.
                return

    def _begin(self, events: list[DetailedEvent]) -> None:
        for index, event in enumerate(events):
            try:
                self._begin_one(event)
            except BaseException:
                # A bug of ours ends its own call only.
                self._loop.call_soon(self._begin, events[index + 1 :])
                raise
        self._lookups.send()

    def _begin_one(self, event: DetailedEvent) -> None:
        _, call_id, method, payload, _, details = event
        if payload is None or details is None:
            # The caller has gone, or its deadline has passed.
            if (under_way := self._calls.get(call_id)) is not None:
                under_way.cancel()
        elif self._stopping:
            self._fail(call_id, grpc.StatusCode.UNAVAILABLE, GOING_AWAY)
        elif method == self._lookup_method:
            call = LookupCall(call_id, self._lookups)
            self._calls[call_id] = call
            call.begin(payload, _Context(details))
        else:
            answer = self._answer(call_id, method, payload, _Context(details))
            self._calls[call_id] = self._loop.create_task(answer)

    async def _answer(self, call_id: int, method: int, payload: bytes, context: _Context) -> None:
        try:
            answer = await self._handlers[method](payload, context)
            self.respond(call_id, answer, context.trailers)
        except _Aborted as end:
            self.fail(call_id, end.code, end.details, end.trailers)
        except BaseException:
            self.broke(call_id)
            raise

    # --- the ends of calls (`Answers`) ------------------------------------------------------------

    def respond(self, call_id: int, data: bytes, trailers: Metadata) -> None:
        """The call is answered."""
        self._front.respond(call_id, data, None, trailers)
        self._forget(call_id)

    def fail(
        self, call_id: int, code: grpc.StatusCode, details: str, trailers: Metadata = ()
    ) -> None:
        """The call ends with a status."""
        self._fail(call_id, code, details, trailers)
        self._forget(call_id)

    def broke(self, call_id: int) -> None:
        """The call ends because we failed, or because nobody waits for it."""
        self.fail(call_id, grpc.StatusCode.UNKNOWN, "The server failed; its log says why.")

    def _forget(self, call_id: int) -> None:
        del self._calls[call_id]
        if self._stopping and not self._calls:
            self._idle.set()

    def _fail(
        self, call_id: int, code: grpc.StatusCode, details: str, trailers: Metadata = ()
    ) -> None:
        # The library keeps this key for itself; callers then pause as they think fit.
        kept = [pair for pair in trailers if pair[0] != PUSHBACK[0]]
        self._front.fail(call_id, code.value[0], details, kept)

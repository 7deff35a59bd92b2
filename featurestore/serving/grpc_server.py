"""The gRPC door: bytes in, bytes out, on grpc.aio.

Handlers are generic (no protobuf object per row); the standard health service follows the online
store, reflection describes the contract, and errors carry our code (`serving/edge.py`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from featurestore.errors import (
    AddressUnavailable,
    FeatureStoreError,
    InvalidRequest,
    LimitExceeded,
    ServerOverloaded,
    ServerUnavailable,
)
from featurestore.serving.edge import DETAILS_KEY, to_grpc
from featurestore.serving.logs import SLOW_REQUEST_S, log_failure, log_slow
from featurestore.serving.request_ids import REQUEST_ID, begin
from featurestore.serving.requests import read_request
from featurestore.serving.service import Collaborators, Lookup, OnlineService
from featurestore.serving.streams import Streams
from featurestore.tracing import CARRIED
from featurestore.wire import serving_pb2 as pb

if TYPE_CHECKING:
    from featurestore.config import ServingSettings
    from featurestore.serving.gate import Caller, Gate
    from featurestore.serving.metrics import Metrics
    from featurestore.serving.push_service import PushService
    from featurestore.serving.traffic import Traffic
    from featurestore.stores.online.base import Rows
    from featurestore.tracing import Tracing

SERVICE = pb.DESCRIPTOR.services_by_name["OnlineFeatures"].full_name
STREAMS_PER_CONNECTION_MAX = 128
"""Requests that one connection may have open; clients keep more waiting on their side."""
PENDING_MIN = 1_000
"""The core refuses what waits beyond this as CANCELLED, without a word of ours: well above what a
moment's burst brings."""
_KEEPALIVE_PING_INTERVAL_MS_MIN = 5_000
"""Who pings more often is cut off."""
KEEPALIVE_MS = 60_000
"""After how long without a sign of life a peer is asked for one."""
AUTHORIZATION = "authorization"
PUSHBACK = ("grpc-retry-pushback-ms", "50")
"""Tells standard clients when to try again (by then on another connection)."""
_OUR_FAILURES = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED")
"""Statuses that are not the caller's doing."""
GOING_AWAY = "The server is going away; ask again."


class Context(Protocol):
    """The part of `grpc.aio.ServicerContext` that handlers use; each door brings its own."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline."""

    def invocation_metadata(self) -> Any:
        """Pairs of key and value."""

    def peer(self) -> str:
        """The caller's address."""

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Pairs of key and value that go back behind an answer."""

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> NoReturn:
        """End the call with this status."""


Handler = Callable[[bytes, Context], Awaitable[bytes]]
Metadata = tuple[tuple[str, str | bytes], ...]


class GrpcDoor:
    """The methods of `OnlineFeatures` on serialized messages."""

    def __init__(
        self,
        service: OnlineService,
        metrics: Metrics,
        traffic: Traffic,
        *,
        message_bytes_max: int,
        tracing: Tracing | None,
        push: PushService | None = None,
    ) -> None:
        self.service = service
        self.metrics = metrics
        self._message_bytes_max = message_bytes_max
        self.traffic = traffic
        self.tracing = tracing
        self._push = push

    async def get_online_features(self, data: bytes, context: Context) -> bytes:
        """`GetOnlineFeatures`, bytes to bytes."""
        lookup = self.begin_lookup(data, context)
        return self.finish_lookup(lookup, await self.service.read(lookup))

    def begin_lookup(self, data: bytes, context: Context) -> Lookup:
        """What `GetOnlineFeatures` does before it asks the store. Raises as `answer` does."""
        self.check_size(len(data), "Send fewer keys per request.")
        caller = self.admit("GetOnlineFeatures", context)
        what, full_feature_names, request = read_request(data)
        return self.service.begin(
            what,
            request,
            caller=caller,
            full_feature_names=full_feature_names,
            remaining_s=context.time_remaining(),
        )

    def finish_lookup(self, lookup: Lookup, rows: Rows) -> bytes:
        """What it does with the rows: the answer. Raises `CorruptRow`, `LimitExceeded`."""
        response = self.service.finish(lookup, rows)
        self.check_size(len(response), "Ask for fewer keys or features per request.")
        return response

    async def get_serving_info(self, _: bytes, context: Context) -> bytes:
        """`GetServingInfo`, bytes to bytes."""
        self.admit("GetServingInfo", context)
        return self.service.info().SerializeToString()

    async def push(self, data: bytes, context: Context) -> bytes:
        """`Push`, bytes to bytes."""
        self.check_size(len(data), "Push in parts.")
        caller = self.admit("Push", context)
        if self._push is None:
            raise InvalidRequest("this server takes no pushes ([push] server = false)")
        return await self._push.push_message(data, caller)

    def admit_push_stream(self, context: Context) -> None:
        """Whether the caller may open a stream of pushes."""
        self.admit("StreamPush", context)

    def admit_stream(self, context: Context) -> None:
        """Whether the caller may open a stream; each of its requests is then looked at alone."""
        self.admit("StreamOnlineFeatures", context)

    def admit(self, method: str, context: Context) -> Caller | None:
        """Whom a call comes from; None while the gate is open. Raises as `admit` does."""
        gate = self.service.gate
        return admit(gate, method, context) if gate.on else None

    def guarded(self, method: Handler, name: str) -> Handler:
        """`method` with its errors as statuses, its metrics, and a log line where it matters."""

        async def call(data: bytes, context: Context) -> bytes:
            started, code = time.perf_counter(), "UNKNOWN"
            with self.traffic.request():
                request_id = begin(metadatum(context, REQUEST_ID))
                context.set_trailing_metadata(((REQUEST_ID, request_id),))
                try:
                    if self.traffic.refusing:
                        raise ServerUnavailable(GOING_AWAY)
                    with self.traffic.admission:
                        response = await method(data, context)
                    code = "OK"
                except FeatureStoreError as error:
                    status, text, trailers = self.refusal(error)
                    code = status.name
                    trailers = (*trailers, (REQUEST_ID, request_id))
                    await context.abort(status, text, trailing_metadata=trailers)
                finally:
                    seconds = time.perf_counter() - started
                    self.metrics.request("grpc", code, seconds)
                    if seconds >= SLOW_REQUEST_S:
                        log_slow("grpc", code, seconds)
                    if self.tracing is not None:
                        failed = code if code in _OUR_FAILURES else ""
                        self.tracing.ended(
                            {
                                "rpc.response.status_code": code,
                                "featurestore.request_id": request_id,
                            },
                            failed=failed,
                        )
            return response

        return call if self.tracing is None else _traced(self.tracing, call, name)

    def refusal(self, error: FeatureStoreError) -> tuple[grpc.StatusCode, str, Metadata]:
        """How a call ends with this error: status, text and trailers. Logs and counts it."""
        status, text, details = to_grpc(error)
        busy = isinstance(error, ServerOverloaded)
        if busy:
            self.metrics.shed("grpc")
        log_failure(error, "grpc", status.name)
        trailers: Metadata = ((DETAILS_KEY, details),)
        return status, text, (*trailers, PUSHBACK) if busy or self.traffic.refusing else trailers

    def check_size(self, size: int, hint: str) -> None:
        """Raises `LimitExceeded` for a message that is too large."""
        if size > self._message_bytes_max:
            raise LimitExceeded(
                "message_bytes_max", asked=size, allowed=self._message_bytes_max, hint=hint
            )


class GrpcServer:
    """A grpc.aio server on one address. Create and use it within one running loop.

    `methods` are the handlers by name, and `door` what is behind them, for a door in front that
    answers them itself.
    """

    def __init__(self, parts: Collaborators, address: str) -> None:
        serving = parts.settings.serving
        limit = serving.message_bytes_max
        self.door = door = GrpcDoor(
            OnlineService(parts),
            parts.metrics,
            parts.traffic,
            message_bytes_max=limit,
            tracing=parts.tracing,
            push=parts.push,
        )
        self._server = grpc.aio.server(options=_options(serving))
        self.methods: dict[str, Handler] = {
            "GetOnlineFeatures": door.guarded(door.get_online_features, "GetOnlineFeatures"),
            "GetServingInfo": door.guarded(door.get_serving_info, "GetServingInfo"),
            "Push": door.guarded(door.push, "Push"),
        }
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(method)
            for name, method in self.methods.items()
        }
        streams = Streams(self.methods["GetOnlineFeatures"], door.admit_stream, parts.traffic)
        handlers["StreamOnlineFeatures"] = grpc.stream_stream_rpc_method_handler(streams.handle)
        # Its messages are those of the other stream, number by number.
        pushes = Streams(self.methods["Push"], door.admit_push_stream, parts.traffic)
        handlers["StreamPush"] = grpc.stream_stream_rpc_method_handler(pushes.handle)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflected = _Reflection(parts.gate, names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, self._server)
        parts.readiness.subscribe(self._set_health)
        self._readiness = parts.readiness
        try:
            self.port = (
                self._server.add_insecure_port(address)
                if parts.tls is None
                else self._server.add_secure_port(address, parts.tls.grpc_credentials())
            )
        except RuntimeError as error:
            raise AddressUnavailable(f"cannot listen on {address}: {error}") from error

    async def start(self) -> None:
        """Take connections."""
        await self._set_health(self._readiness.ready)
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new requests; let those under way finish, for at most `grace_s` seconds."""
        await self._server.stop(grace_s)

    async def _set_health(self, ready: bool) -> None:
        state = health_pb2.HealthCheckResponse.ServingStatus
        status = state.SERVING if ready else state.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)


def _options(serving: ServingSettings) -> list[tuple[str, Any]]:
    """What gRPC's core is to hold against callers who mean ill, or are just many."""
    limit = serving.message_bytes_max
    pending_max = max(PENDING_MIN, serving.concurrent_requests_max)
    return [
        ("grpc.so_reuseport", 1),
        # Twice the limit, so that what is just over it is refused in our words.
        ("grpc.max_receive_message_length", 2 * limit),
        ("grpc.max_send_message_length", 2 * limit),
        ("grpc.max_allowed_incoming_connections", serving.connections_max),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
        # A connection that does not get to HTTP/2's settings, goes silent, or is not used.
        ("grpc.server_handshake_timeout_ms", serving.request_timeout_ms),
        ("grpc.http2.settings_timeout", serving.request_timeout_ms),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", serving.request_timeout_ms),
        ("grpc.max_connection_idle_ms", serving.connection_idle_timeout_ms),
        # Requests that the core has read and we have not asked for yet.
        ("grpc.server.max_pending_requests", pending_max),
        ("grpc.server.max_pending_requests_hard_limit", 2 * pending_max),
        (
            "grpc.server_max_unrequested_time_in_server",
            max(1, serving.request_timeout_ms // 1_000),
        ),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_PING_INTERVAL_MS_MIN),
    ]


class _Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """Reflection for those whom the gate lets ask what is served."""

    def __init__(self, gate: Gate, names: Iterable[str]) -> None:
        super().__init__(names)
        self._gate = gate

    async def ServerReflectionInfo(  # noqa: N802 # gRPC's name
        self, request_iterator: AsyncIterable[Any], context: Context
    ) -> AsyncIterator[Any]:
        try:
            if self._gate.on:
                admit(self._gate, "ServerReflectionInfo", context)
        except FeatureStoreError as error:
            status, text, details = to_grpc(error)
            await context.abort(status, text, trailing_metadata=((DETAILS_KEY, details),))
        async for answer in super().ServerReflectionInfo(request_iterator, context):
            yield answer


def admit(gate: Gate, method: str, context: Context) -> Caller | None:
    """Whom a call comes from. Raises `Unauthenticated`, `PermissionDenied`."""
    found = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION]
    # More than one leave open who is meant; which of them a proxy checked we cannot know.
    given = str(found[0]) if len(found) == 1 else None
    return gate.admit(method, given, peer=context.peer)


def metadatum(context: Context, wanted: str) -> str | None:
    """What the caller sent under this key."""
    for key, value in context.invocation_metadata() or ():
        if key == wanted:
            return str(value)
    return None


def _traced(tracing: Tracing, call: Handler, name: str) -> Handler:
    """`call` within a span that is the child of the caller's."""
    known = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": name}

    async def traced(data: bytes, context: Context) -> bytes:
        carrier = {
            key: str(value) for key, value in context.invocation_metadata() or () if key in CARRIED
        }
        with tracing.request(f"{SERVICE}/{name}", carrier, known):
            return await call(data, context)

    return traced

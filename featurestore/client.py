"""Clients of a feature server over gRPC, for threads (`FeatureClient`) and for asyncio.

    with FeatureClient("localhost:6566") as client:
        client.get_online_features("delay_model", [{"tailnum": "N14228"}]).to_dict()

Errors come back as the classes that the server raised. A call has one deadline; within it, what a
server refuses as UNAVAILABLE, or because it is busy, is asked again after a growing, random pause.
So is what a server that went away in that moment cancelled. Nothing else is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import grpc

from featurestore.errors import InsecureSettings, InvalidRequest
from featurestore.serving.addresses import is_local_target
from featurestore.serving.edge import DETAILS_KEY, restore, restore_details
from featurestore.serving.stream_client import Answer, Asked, Words, ask_all, ask_all_async
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.entities import Entities, read_entities, to_message
from featurestore.wire.inputs import Inputs, read_inputs
from featurestore.wire.inputs import to_message as input_to_message
from featurestore.wire.pushes import PushResult, from_message, push_request
from featurestore.wire.response import OnlineResponse, ResponseSchema, read_response
from featurestore.wire.serving_raw_pb2 import RawStreamRequest, RawStreamResponse

if TYPE_CHECKING:
    from featurestore.errors import FeatureStoreError

TIMEOUT_MS = 5_000
RETRY_PAUSE_S, RETRY_PAUSE_S_MAX = 0.02, 0.5
SCHEMAS_HELD_MAX = 256
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
_KEEPALIVE_MS = 30_000
_SERVICE = pb.DESCRIPTOR.services_by_name["OnlineFeatures"].full_name
_GET, _INFO = f"/{_SERVICE}/GetOnlineFeatures", f"/{_SERVICE}/GetServingInfo"
_STREAM = f"/{_SERVICE}/StreamOnlineFeatures"
_PUSH, _STREAM_PUSH = f"/{_SERVICE}/Push", f"/{_SERVICE}/StreamPush"
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Our own retries know the deadline and jitter; gRPC's would multiply them.
    ("grpc.enable_retries", 0),
    # A server that comes back is found within this time, not after gRPC's default of up to 2 min.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class RequestBatch(NamedTuple):
    """One batch of a stream together with its request inputs, a row per entity."""

    entity_rows: Any
    request: Any


Metadata = tuple[tuple[str, str], ...]
What = str | tuple[str, ...]


class _Calls:
    """What both clients have in common: messages, schemas, retries, errors. Holds no connection."""

    def __init__(self, timeout_ms: int, token: str | None) -> None:
        self._timeout_ms = _positive(timeout_ms)
        self.metadata: Metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._schemas: dict[int, ResponseSchema] = {}
        self._schema_of: dict[tuple[Any, bool], int] = {}

    def deadline(self, timeout_ms: int | None) -> float:
        """When a call that begins now must have ended, in `time.monotonic()`'s seconds."""
        wanted_ms = self._timeout_ms if timeout_ms is None else _positive(timeout_ms)
        return time.monotonic() + wanted_ms / 1_000

    def request(
        self, what: What, entities: Entities, full: bool, inputs: Inputs | None = None
    ) -> tuple[bytes, dict[int, ResponseSchema]]:
        """The serialized request, which names the schema that the last answer to such a one had,
        and the schemas that were known when it was written."""
        schemas = self._schemas
        known_id = self._schema_of.get((what, full), 0)
        message = pb.GetOnlineFeaturesRequest(
            keys=[to_message(column) for column in entities.columns.values()],
            options=pb.Options(full_feature_names=full, event_times=True),
            schema_id=known_id if known_id in schemas else 0,
            entity_count=entities.count,
        )
        if isinstance(what, str):
            message.feature_service = what
        else:
            message.features.refs.extend(what)
        if inputs:
            message.request_inputs.extend(map(input_to_message, inputs.values()))
        return message.SerializeToString(), schemas

    def remember(self, found: OnlineResponse, what: What, full: bool) -> None:
        """Keep the schema of an answer for the next request like it."""
        if self._schema_of.get((what, full)) == found.schema_id:
            return
        if len(self._schema_of) >= SCHEMAS_HELD_MAX:
            # New dicts, not emptied ones: requests under way still need what they named.
            self._schemas, self._schema_of = {}, {}
        self._schemas[found.schema_id] = found.schema
        self._schema_of[(what, full)] = found.schema_id

    def words(self, what: What, full: bool, timeout_ms: int | None) -> Words:
        """How a stream speaks."""
        asked_ms = self._timeout_ms if timeout_ms is None else _positive(timeout_ms)

        def encode(rows: Any) -> tuple[bytes, Asked]:
            inputs = None
            if isinstance(rows, RequestBatch):
                rows, inputs = rows.entity_rows, read_inputs(rows.request)
            entities = read_entities(rows)
            request, schemas = self.request(what, entities, full, inputs)
            message = RawStreamRequest(request=request, timeout_ms=asked_ms)
            return message.SerializeToString(), Asked(entities, schemas)

        def decode(data: bytes, asked: Asked) -> Answer:
            answer = RawStreamResponse.FromString(data)
            if answer.WhichOneof("answer") == "error":
                return restore_details(answer.error)
            found = read_response(answer.features, asked.entities, schemas=asked.schemas)
            self.remember(found, what, full)
            return found

        return Words(encode, decode, _restored)

    def push_words(self, source: str, timeout_ms: int | None) -> Words:
        """How a stream of pushes speaks."""
        asked_ms = self._timeout_ms if timeout_ms is None else _positive(timeout_ms)

        def encode(rows: Any) -> tuple[bytes, None]:
            request = push_request(source, rows)
            message = pb.StreamPushRequest(request=request, timeout_ms=asked_ms)
            return message.SerializeToString(), None

        def decode(data: bytes, _: object) -> PushResult | FeatureStoreError:
            answer = pb.StreamPushResponse.FromString(data)
            if answer.WhichOneof("answer") == "error":
                return restore_details(answer.error)
            return from_message(answer.pushed, source)

        return Words(encode, decode, _restored)


def _positive(timeout_ms: int) -> int:
    if timeout_ms <= 0:
        raise InvalidRequest(f"timeout_ms must be positive, not {timeout_ms}")
    return timeout_ms


def _what(features: str | Sequence[str]) -> What:
    if isinstance(features, str):
        return (features,) if ":" in features else features
    what = tuple(features)
    if all(isinstance(ref, str) for ref in what):
        return what
    raise InvalidRequest("features are a feature service's name or a list of 'view:feature'")


def _pauses() -> Iterator[float]:
    """Seconds to wait before each retry: random, up to a bound that doubles."""
    bound = RETRY_PAUSE_S
    while True:
        yield random.uniform(0, bound)  # noqa: S311 # spreads load, guards nothing
        bound = min(2 * bound, RETRY_PAUSE_S_MAX)


def _retries(error: grpc.RpcError, pause_s: float, deadline: float) -> bool:
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            refused = True
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            # A busy server, or a message that is too large and stays so.
            refused = _restored(error).retryable
        case _:
            refused = False
    return refused and time.monotonic() + pause_s < deadline


def _restored(error: grpc.RpcError) -> FeatureStoreError:
    trailers: Any = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == DETAILS_KEY), None)
    return restore(error.code(), error.details() or "", details)


def _credentials(
    target: str,
    token: str | None,
    tls: bool | bytes,
    certificate: tuple[bytes, bytes] | None,
    *,
    insecure: bool,
) -> grpc.ChannelCredentials | None:
    """None is plain text."""
    if tls is False:
        if token is not None and not insecure and not is_local_target(target):
            raise InsecureSettings(
                f"The token would travel to {target} in plain text, for all on the way to read. "
                "Use TLS (tls=True, or your authorities; --tls, --tls-ca), or, in a network that "
                "encrypts by itself, say that it is meant: insecure=True (--insecure)"
            )
        if certificate is not None:
            raise InvalidRequest("a certificate is shown over TLS only; set tls too")
        return None
    chain, key = certificate or (None, None)
    return grpc.ssl_channel_credentials(None if tls is True else tls, key, chain)


class FeatureClient:
    """A connection to one feature server, usable by several threads.

    Args:
        target: `host:port`, or any gRPC name (`dns:///features.internal:6566`).
        timeout_ms: the deadline of a call that names none.
        token: sent as `authorization: Bearer …`.
        tls: True for the system's certificate authorities, or PEM bytes of your own; False is
            plain text.
        certificate: PEM bytes of our own certificate (chain) and its key, for servers that ask
            their clients for one.
        insecure: send the token in plain text to another machine, too.

    Raises `InsecureSettings` for a token, a target that is not this machine, and no TLS.

    Connects when first used. Use as a context manager, or call `close`.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_ms: int = TIMEOUT_MS,
        token: str | None = None,
        tls: bool | bytes = False,
        certificate: tuple[bytes, bytes] | None = None,
        insecure: bool = False,
    ) -> None:
        self._calls = _Calls(timeout_ms, token)
        credentials = _credentials(target, token, tls, certificate, insecure=insecure)
        self._channel = (
            grpc.insecure_channel(target, options=_OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=_OPTIONS)
        )
        unary = self._channel.unary_unary
        self._get: grpc.UnaryUnaryMultiCallable[bytes, bytes] = unary(_GET, None, None)
        self._info: grpc.UnaryUnaryMultiCallable[bytes, bytes] = unary(_INFO, None, None)
        self._push: grpc.UnaryUnaryMultiCallable[bytes, bytes] = unary(_PUSH, None, None)
        stream = self._channel.stream_stream
        self._stream: grpc.StreamStreamMultiCallable[bytes, bytes] = stream(_STREAM, None, None)
        self._push_stream: grpc.StreamStreamMultiCallable[bytes, bytes] = stream(
            _STREAM_PUSH, None, None
        )

    def get_online_features(
        self,
        features: str | Sequence[str],
        entity_rows: Any,
        *,
        request: Any = None,
        full_feature_names: bool = False,
        timeout_ms: int | None = None,
    ) -> OnlineResponse:
        """The newest features of each entity.

        Args:
            features: a feature service (`name` or `name@version`), `"view:feature"`, or a list of
                `"view:feature"` and `"view"`.
            entity_rows: `[{"tailnum": "N14228"}, …]`, `{"tailnum": […]}`, or a pandas, polars or
                Arrow table.
            request: what on-demand views read of the request, a row per entity, in the same forms:
                `[{"distance": 719.0}, …]`.
            full_feature_names: name features `view__feature`.
            timeout_ms: the deadline, retries included.

        Raises `UnknownService`, `UnknownView`, `UnknownFeature`, `NameClash`, `MissingJoinKey`,
        `InvalidJoinKey`, `MissingRequestInput`, `InvalidRequestInput`, `LimitExceeded`,
        `StoreUnavailable`, `StoreTimeout`, `CorruptRow`, `ServerUnavailable`, `ServerTimeout`.
        """
        what, entities = _what(features), read_entities(entity_rows)
        message, schemas = self._calls.request(
            what, entities, full_feature_names, read_inputs(request)
        )
        data = self._call(self._get, message, timeout_ms)
        response = read_response(data, entities, schemas=schemas)
        self._calls.remember(response, what, full_feature_names)
        return response

    def stream_online_features(
        self,
        features: str | Sequence[str],
        batches: Iterable[Any],
        *,
        full_feature_names: bool = False,
        timeout_ms: int | None = None,
    ) -> Iterator[OnlineResponse | FeatureStoreError]:
        """The newest features of the entities of each batch, in order, over one call: for callers
        that ask all the time.

        Args:
            features: as in `get_online_features`.
            batches: an iterable, without end if you like, of what `get_online_features` takes as
                `entity_rows`, or of `RequestBatch(entity_rows, request)`. Another thread takes
                from it, at most 64 batches ahead of you.
            full_feature_names: name features `view__feature`.
            timeout_ms: how long the server may take for each answer.

        Yields one answer per batch. Where a batch fails, its error stands in its place and the
        stream goes on. Raises what ends the stream: `ServerUnavailable` where the server goes away
        (ask again what has no answer yet), `Unauthenticated`, and what `batches` raises.
        """
        words = self._calls.words(_what(features), full_feature_names, timeout_ms)
        return ask_all(partial(self._stream, metadata=self._calls.metadata), batches, words)

    def push(self, source: str, rows: Any, *, timeout_ms: int | None = None) -> PushResult:
        """Push rows of a source. When this returns, the server's lookups answer with them.

        Args:
            source: the source's name.
            rows: dicts, a dict of columns, or a pandas, polars or Arrow table.
            timeout_ms: the deadline, retries included. What is sent again changes nothing where it
                was taken.

        Raises `UnknownSource`, `InvalidRows`, `InvalidRequest`, `LimitExceeded`, `NotApplied`,
        `PermissionDenied`, `ServerOverloaded`, `StoreUnavailable`, `ServerUnavailable`,
        `ServerTimeout`.
        """
        request = push_request(source, rows).SerializeToString()
        data = self._call(self._push, request, timeout_ms)
        return from_message(pb.PushResponse.FromString(data), source)

    def stream_push(
        self, source: str, batches: Iterable[Any], *, timeout_ms: int | None = None
    ) -> Iterator[PushResult | FeatureStoreError]:
        """Push batch after batch over one call, 64 ahead of the answers that you take.

        Yields one answer per batch, in order; where a batch is refused, its error stands in its
        place. Raises what ends the stream, and what `batches` raises.
        """
        words = self._calls.push_words(source, timeout_ms)
        return ask_all(partial(self._push_stream, metadata=self._calls.metadata), batches, words)

    def get_serving_info(self, *, timeout_ms: int | None = None) -> pb.GetServingInfoResponse:
        """What the server serves: services with their versions, keys and features, and limits."""
        data = self._call(self._info, b"", timeout_ms)
        return pb.GetServingInfoResponse.FromString(data)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Callable[..., Any], request: bytes, timeout_ms: int | None) -> bytes:
        deadline = self._calls.deadline(timeout_ms)
        pauses = _pauses()
        while True:
            try:
                left_s = max(deadline - time.monotonic(), 0.0)
                data: bytes = method(request, timeout=left_s, metadata=self._calls.metadata)
                return data
            except grpc.RpcError as error:
                pause_s = next(pauses)
                if not _retries(error, pause_s, deadline):
                    raise _restored(error) from error
            time.sleep(pause_s)


class AsyncFeatureClient:
    """`FeatureClient` for asyncio: the same arguments, answers and errors. Create and use it
    within one loop; use as an async context manager, or await `close`."""

    def __init__(
        self,
        target: str,
        *,
        timeout_ms: int = TIMEOUT_MS,
        token: str | None = None,
        tls: bool | bytes = False,
        certificate: tuple[bytes, bytes] | None = None,
        insecure: bool = False,
    ) -> None:
        self._calls = _Calls(timeout_ms, token)
        credentials = _credentials(target, token, tls, certificate, insecure=insecure)
        self._channel = (
            grpc.aio.insecure_channel(target, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        )
        unary = self._channel.unary_unary
        self._get: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = unary(_GET, None, None)
        self._info: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = unary(_INFO, None, None)
        self._push: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = unary(_PUSH, None, None)
        stream = self._channel.stream_stream
        self._stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = stream(_STREAM, None, None)
        self._push_stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = stream(
            _STREAM_PUSH, None, None
        )

    async def get_online_features(
        self,
        features: str | Sequence[str],
        entity_rows: Any,
        *,
        request: Any = None,
        full_feature_names: bool = False,
        timeout_ms: int | None = None,
    ) -> OnlineResponse:
        """The newest features of each entity; see `FeatureClient.get_online_features`."""
        what, entities = _what(features), read_entities(entity_rows)
        message, schemas = self._calls.request(
            what, entities, full_feature_names, read_inputs(request)
        )
        data = await self._call(self._get, message, timeout_ms)
        response = read_response(data, entities, schemas=schemas)
        self._calls.remember(response, what, full_feature_names)
        return response

    def stream_online_features(
        self,
        features: str | Sequence[str],
        batches: Iterable[Any] | AsyncIterable[Any],
        *,
        full_feature_names: bool = False,
        timeout_ms: int | None = None,
    ) -> AsyncIterator[OnlineResponse | FeatureStoreError]:
        """The features of each batch, in order; see `FeatureClient.stream_online_features`.
        `batches` may be asynchronous."""
        words = self._calls.words(_what(features), full_feature_names, timeout_ms)
        return ask_all_async(partial(self._stream, metadata=self._calls.metadata), batches, words)

    async def push(self, source: str, rows: Any, *, timeout_ms: int | None = None) -> PushResult:
        """Push rows of a source; see `FeatureClient.push`."""
        request = push_request(source, rows).SerializeToString()
        data = await self._call(self._push, request, timeout_ms)
        return from_message(pb.PushResponse.FromString(data), source)

    def stream_push(
        self,
        source: str,
        batches: Iterable[Any] | AsyncIterable[Any],
        *,
        timeout_ms: int | None = None,
    ) -> AsyncIterator[PushResult | FeatureStoreError]:
        """Push batch after batch over one call; see `FeatureClient.stream_push`."""
        words = self._calls.push_words(source, timeout_ms)
        call = partial(self._push_stream, metadata=self._calls.metadata)
        return ask_all_async(call, batches, words)

    async def get_serving_info(self, *, timeout_ms: int | None = None) -> pb.GetServingInfoResponse:
        """What the server serves; see `FeatureClient.get_serving_info`."""
        data = await self._call(self._info, b"", timeout_ms)
        return pb.GetServingInfoResponse.FromString(data)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(
        self, method: Callable[..., Any], request: bytes, timeout_ms: int | None
    ) -> bytes:
        deadline = self._calls.deadline(timeout_ms)
        pauses = _pauses()
        while True:
            try:
                left_s = max(deadline - time.monotonic(), 0.0)
                data: bytes = await method(request, timeout=left_s, metadata=self._calls.metadata)
                return data
            except grpc.RpcError as error:
                pause_s = next(pauses)
                if not _retries(error, pause_s, deadline):
                    raise _restored(error) from error
            await asyncio.sleep(pause_s)

"""The HTTP door: the same answers as JSON (FastAPI), health, metrics, OpenAPI.

JSON has fewer types than we do: bytes are base64 (keys too), timestamps and dates ISO 8601,
decimals text, infinities the texts `Infinity` and `-Infinity`. Integers are JSON numbers with all
their digits; readers that make doubles of them lose digits beyond 2^53.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import featurestore
from featurestore.dtypes import BYTES, STRING, Kind
from featurestore.errors import (
    FeatureStoreError,
    InvalidJoinKey,
    InvalidRequest,
    InvalidRequestInput,
    LimitExceeded,
    RequestTimeout,
    ServerOverloaded,
)
from featurestore.serving import request_ids
from featurestore.serving.assemble import Request
from featurestore.serving.edge import codes_of, to_json
from featurestore.serving.http_connections import HEADER_BYTES_MAX, Connection, Connections
from featurestore.serving.http_guard import CALLER, HttpGuard, challenge
from featurestore.serving.http_models import (
    Liveness,
    OnlineFeaturesRequest,
    OnlineFeaturesResponse,
    Problem,
    PushRequest,
    PushResponse,
    ReadinessAnswer,
    ServicesResponse,
)
from featurestore.serving.logs import SLOW_REQUEST_S, log_failure, log_slow
from featurestore.serving.push_service import DEAD_SHOWN_MAX
from featurestore.serving.request_ids import NamedRequests
from featurestore.serving.service import Collaborators, OnlineService
from featurestore.timeline import format_instant
from featurestore.tracing import CARRIED, REQUEST_KEY
from featurestore.wire.entities import Entities, KeyColumn, read_entities
from featurestore.wire.inputs import InputColumn, Inputs, read_inputs
from featurestore.wire.response import OnlineResponse, read_response

if TYPE_CHECKING:
    import socket

    from featurestore.serving.compiled import CompiledPlan
    from featurestore.serving.gate import Caller
    from featurestore.serving.reload import What
    from featurestore.serving.tls import ServerTls


_Model = TypeVar("_Model", bound=BaseModel)
SMALL_BODY_BYTES, LARGE_BODIES_MAX = 64 * 1024, 16
"""Bodies up to the first size are free; of the bytes of larger ones, no more are held while they
arrive than the second number of greatest bodies has."""
CALLER_GONE = 499
"""What metrics call a request whose caller hung up before it had arrived (nobody reads it)."""
_UNREAD = (LimitExceeded, RequestTimeout, ServerOverloaded)
"""Errors that may leave a part of the request unread, so that the connection ends with them."""


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 408, 429, 500, 503, 504)
}
_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "the metrics"}
}
_PUSH_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": PushRequest.model_json_schema()}},
    }
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": OnlineFeaturesRequest.model_json_schema()}},
    }
}


def build_app(parts: Collaborators) -> FastAPI:
    """The application; it serves as long as `parts` are open."""
    app = FastAPI(
        title="featurestore",
        version=featurestore.__version__,
        description="Online features over HTTP. " + (__doc__ or "").partition("\n\n")[2],
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.add_middleware(HttpGuard, gate=parts.gate, metrics=parts.metrics)
    app.add_middleware(NamedRequests)
    door = _HttpDoor(parts)

    @app.exception_handler(HTTPException)
    async def problem(_: HttpRequest, error: HTTPException) -> Response:
        body = {"code": "http-error", "message": str(error.detail), "details": {}}
        return _json(body, error.status_code, error.headers)

    @app.post(
        "/v1/online-features",
        response_model=OnlineFeaturesResponse,
        responses=_PROBLEMS,
        openapi_extra=_BODY,
    )
    async def online_features(request: HttpRequest) -> Response:
        """The newest features of each entity at the time of the request."""
        return await door.guarded(request, door.online_features)

    @app.post(
        "/v1/push", response_model=PushResponse, responses=_PROBLEMS, openapi_extra=_PUSH_BODY
    )
    async def push(request: HttpRequest) -> Response:
        """Take rows of a source: when this answers, they can be read."""
        return await door.guarded(request, door.push)

    @app.get("/v1/services", response_model=ServicesResponse, responses=_PROBLEMS)
    async def services(request: HttpRequest) -> Response:
        """What is served, with versions and limits."""
        return await door.guarded(request, door.services)

    @app.get("/healthz", response_model=Liveness)
    async def healthz() -> Response:
        """200 as long as the process answers."""
        return _json({"status": "ok"})

    @app.get("/readyz", response_model=ReadinessAnswer, responses={503: {"model": ReadinessAnswer}})
    async def readyz() -> Response:
        """200 while requests should be sent here, 503 while the store is away or on draining."""
        ready = parts.readiness.ready
        # It names the store's address, which is nobody's business where tokens are needed.
        reason = "" if ready or parts.gate.on else parts.readiness.reason
        return _json({"ready": ready, "reason": reason}, 200 if ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses=_METRICS)
    async def metrics() -> Response:
        """Prometheus' text format; all workers together."""
        text, content_type = parts.metrics.exposition()
        return Response(text, media_type=content_type)

    return app


class _HttpDoor:
    def __init__(self, parts: Collaborators) -> None:
        self._parts = parts
        self._service = OnlineService(parts)
        self._bytes_max = parts.settings.serving.message_bytes_max
        self._arrival_s = parts.settings.serving.request_timeout_ms / 1_000
        self._arriving = 0

    async def guarded(
        self, request: HttpRequest, method: Callable[[HttpRequest], Awaitable[Any]]
    ) -> Response:
        """`method`'s answer, or its error, as JSON; counted, and logged where it matters."""
        tracing = self._parts.tracing
        with self._parts.traffic.request():
            if tracing is None:
                return await self._answer(request, method)
            carrier = {key: request.headers[key] for key in CARRIED if key in request.headers}
            known = {
                "http.request.method": request.method,
                "url.path": request.url.path,
                REQUEST_KEY: request_ids.current.get(),
            }
            name = f"{request.method} {request.url.path}"
            with tracing.request(name, carrier, known):
                response = await self._answer(request, method)
                code = response.status_code
                tracing.ended(
                    {"http.response.status_code": code}, failed=str(code) if code >= 500 else ""
                )
                return response

    async def _answer(
        self, request: HttpRequest, method: Callable[[HttpRequest], Awaitable[Any]]
    ) -> Response:
        started, status = time.perf_counter(), 500
        try:
            response = _json(await method(request))
            status = 200
        except ClientDisconnect:
            status = CALLER_GONE
            response = Response(status_code=status)
        except FeatureStoreError as error:
            status = codes_of(error).http
            log_failure(error, "http", str(status))
            response = _json(to_json(error), status, challenge(error))
            if isinstance(error, _UNREAD):
                response.headers["Connection"] = "close"
            if isinstance(error, ServerOverloaded):
                self._parts.metrics.shed("http")
                response.headers["Retry-After"] = "1"
        finally:
            seconds = time.perf_counter() - started
            self._parts.metrics.request("http", str(status), seconds)
            if seconds >= SLOW_REQUEST_S:
                log_slow("http", str(status), seconds)
        return response

    async def online_features(self, request: HttpRequest) -> dict[str, Any]:
        """`POST /v1/online-features`."""
        body = await self._body(request)
        with self._parts.traffic.admission:
            return await self._online_features(
                _parse(body, OnlineFeaturesRequest), request.scope.get(CALLER)
            )

    async def _online_features(
        self, asked: OnlineFeaturesRequest, caller: Caller | None
    ) -> dict[str, Any]:
        what: What
        if (asked.feature_service is None) == (asked.features is None):
            raise InvalidRequest("name either feature_service or features")
        what = (
            tuple(asked.features or ())
            if asked.feature_service is None
            else (asked.feature_service)
        )
        self._service.check_read(caller, what)
        plan = self._parts.book.compiled(what, full_feature_names=asked.full_feature_names)
        entities = _decode_bytes(read_entities(asked.entities), plan)
        data = await self._service.answer(
            what,
            Request(
                count=entities.count,
                columns=entities.columns,
                event_times=True,
                inputs=_decode_inputs(read_inputs(asked.request), plan),
            ),
            caller=caller,
            full_feature_names=asked.full_feature_names,
            remaining_s=None,
        )
        return _response(read_response(data, entities))

    async def push(self, request: HttpRequest) -> dict[str, Any]:
        """`POST /v1/push`."""
        body = await self._body(request)
        if self._parts.push is None:
            raise InvalidRequest("this server takes no pushes ([push] server = false)")
        with self._parts.traffic.admission:
            asked = _parse(body, PushRequest)
            found = await self._parts.push.push(
                asked.source, lambda: asked.rows, request.scope.get(CALLER), from_json=True
            )
        return {
            "source": asked.source,
            "rows": found.rows,
            "dead_count": found.dead_count,
            "dead": [asdict(dead) for dead in found.dead[:DEAD_SHOWN_MAX]],
            "waiting_views": list(found.waiting_views),
        }

    async def services(self, _: HttpRequest) -> dict[str, Any]:
        """`GET /v1/services`."""
        with self._parts.traffic.admission:
            info = self._service.info()
        return {
            "project": info.project,
            "environment": info.environment,
            "server_version": info.server_version,
            "services": [
                {
                    "name": service.name,
                    "version": service.version,
                    "plan_version": service.plan_version,
                    "keys": {key.name: key.dtype for key in service.keys},
                    "request_inputs": {one.name: one.dtype for one in service.request_inputs},
                    "features": list(service.features),
                }
                for service in info.services
            ],
            "limits": dict(info.limits),
        }

    async def _body(self, request: HttpRequest) -> bytes:
        """The whole body, within its limits of size and time.

        Large bodies that are still arriving share `LARGE_BODIES_MAX` times the limit of one, so
        that callers who send slowly cannot fill our memory together.
        """
        length = request.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._bytes_max:
            raise LimitExceeded(
                "message_bytes_max", asked=int(length[:20]), allowed=self._bytes_max
            )
        body, charged = bytearray(), 0
        try:
            async with asyncio.timeout(self._arrival_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._bytes_max:
                        raise LimitExceeded(
                            "message_bytes_max", asked=len(body), allowed=self._bytes_max
                        )
                    if len(body) > SMALL_BODY_BYTES:
                        self._arriving += len(body) - charged
                        charged = len(body)
                        if self._arriving > LARGE_BODIES_MAX * self._bytes_max:
                            raise ServerOverloaded(
                                "large bodies at a time", allowed=LARGE_BODIES_MAX
                            )
        except TimeoutError as error:
            raise RequestTimeout(
                f"The body did not arrive within request_timeout_ms = {self._arrival_s:g} s."
            ) from error
        finally:
            self._arriving -= charged
        return bytes(body)


class _Config(uvicorn.Config):
    """uvicorn's settings, with TLS that can renew its certificate."""

    def __init__(self, app: FastAPI, tls: ServerTls | None, **options: Any) -> None:
        super().__init__(app, **options)
        self._tls = tls

    def load(self) -> None:
        super().load()
        if self._tls is not None:
            self.ssl = self._tls.context


class HttpServer(uvicorn.Server):
    """uvicorn within a loop and signal handling that are not its own, on connections of ours."""

    def __init__(self, parts: Collaborators, *, drain_s: float) -> None:
        serving = parts.settings.serving
        self._connections = Connections(serving)
        # uvicorn calls whatever makes a protocol; it asks for a class only in its types.
        protocol: Any = partial(Connection, self._connections)
        super().__init__(
            _Config(
                build_app(parts),
                parts.tls,
                http=protocol,
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                h11_max_incomplete_event_size=HEADER_BYTES_MAX,
                timeout_keep_alive=max(1, serving.connection_idle_timeout_ms // 1_000),
                timeout_graceful_shutdown=max(1, round(drain_s)),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the worker."""
        yield

    async def run_on(self, listener: socket.socket) -> None:
        """Serve on a bound socket until `should_exit` is set and requests have finished."""
        watching = asyncio.get_running_loop().create_task(self._connections.watch())
        try:
            await self.serve(sockets=[listener])
        finally:
            watching.cancel()


def _parse(body: bytes, model: type[_Model]) -> _Model:
    try:
        # Pydantic's own reading of JSON takes NaN and Infinity, which JSON does not have.
        return model.model_validate(from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        shown = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
            for problem in found[:5]
        )
        raise InvalidRequest(f"the body is not a request: {shown}") from error
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error


def _decode_bytes(entities: Entities, plan: CompiledPlan) -> Entities:
    """Keys of type bytes, which JSON holds as base64."""
    wanted = {name for name, dtype, _ in plan.keys if dtype.kind is Kind.BYTES}
    columns: dict[str, KeyColumn] = dict(entities.columns)
    for name in wanted & columns.keys():
        column = columns[name]
        if column.kind == "string":
            try:
                values = [
                    None if text is None else base64.b64decode(text, validate=True)
                    for text in column.values
                ]
            except binascii.Error as error:
                raise InvalidJoinKey(name, f"must be base64: {error}") from error
            columns[name] = column._replace(kind="bytes", values=values)
    return Entities(entities.count, columns, entities.given)


def _decode_inputs(inputs: Inputs | None, plan: CompiledPlan) -> Inputs | None:
    """Request inputs of type bytes, which JSON holds as base64."""
    wanted = {one.name for one in plan.plan.request_inputs if one.dtype.kind is Kind.BYTES}
    if inputs is None or not wanted & inputs.keys():
        return inputs
    found = dict(inputs)
    for name in wanted & inputs.keys():
        column = found[name]
        if column.dtype == STRING:
            try:
                values = [
                    None if text is None else base64.b64decode(text, validate=True)
                    for text in column.values
                ]
            except binascii.Error as error:
                raise InvalidRequestInput(name, f"must be base64: {error}") from error
            found[name] = InputColumn(name, BYTES, values)
    return found


def _response(found: OnlineResponse) -> dict[str, Any]:
    columns = found.to_dict()
    features = found.feature_names
    return {
        "plan_version": found.plan_version,
        "request_time": format_instant(found.request_time_us),
        "entities": {name: v for name, v in columns.items() if name not in features},
        "features": {
            name: {
                "values": [_value(value) for value in columns[name]],
                "statuses": found.statuses[name],
            }
            for name in features
        },
        "event_times": {
            view: [None if time is None else format_instant(time) for time in times]
            for view, times in found.event_times.items()
        },
    }


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) != float("inf") else f"{'-' if value < 0 else ''}Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {_key(key): _value(item) for key, item in value.items()}
    return value


def _key(key: Any) -> str:
    """A key of a map as JSON has it: always a text."""
    return str(key).lower() if isinstance(key, bool) else str(key)


def _json(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status_code=status, headers=headers, media_type="application/json")

"""The gate before the HTTP application: every path is behind it, also those that do not exist."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError, Unauthenticated
from featurestore.serving.edge import codes_of, to_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from featurestore.serving.gate import Gate
    from featurestore.serving.metrics import Metrics

CALLER = "featurestore.caller"
"""Where the scope of a request holds whom the gate admitted."""


class HttpGuard:
    """ASGI middleware that asks the gate by path and `authorization` header."""

    def __init__(self, app: ASGIApp, gate: Gate, metrics: Metrics) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gate.on and scope["type"] != "lifespan":
            try:
                scope[CALLER] = self._gate.admit(
                    scope["path"], _authorization(scope), peer=partial(_peer, scope)
                )
            except FeatureStoreError as error:
                self._metrics.request("http", str(codes_of(error).http), 0.0)
                await _refuse(error, send)
                return
        await self._app(scope, receive, send)


def challenge(error: FeatureStoreError) -> dict[str, str]:
    """The headers that an error's answer needs (RFC 6750)."""
    if isinstance(error, Unauthenticated):
        return {"www-authenticate": 'Bearer realm="featurestore"'}
    return {}


async def _refuse(error: FeatureStoreError, send: Send) -> None:
    body = json.dumps(to_json(error), ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= challenge(error)
    start: Message = {
        "type": "http.response.start",
        "status": codes_of(error).http,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _authorization(scope: Scope) -> str | None:
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    # More than one leave open who is meant; which of them a proxy checked we cannot know.
    return found[0].decode("latin-1") if len(found) == 1 else None


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else ""

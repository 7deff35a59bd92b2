"""The name of a request: the caller's, or one of ours. It is in every log line and error of the
request and goes back with the answer."""

from __future__ import annotations

import itertools
import re
import secrets
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
"""The metadata key and HTTP header that carries it, both ways."""
current: ContextVar[str] = ContextVar("featurestore_request_id", default="")
"""The request that this task answers; nothing outside one."""

_TAKEN = re.compile(r"[A-Za-z0-9._:/+=@,-]{1,128}")
"""What is taken of a caller: it goes into logs and headers."""
_process = secrets.token_hex(6)
_numbers = itertools.count(1)


def begin(given: str | None) -> str:
    """The id of the request that begins in this task: the caller's where it is fit to be one."""
    fit = given is not None and _TAKEN.fullmatch(given) is not None
    name = given if fit and given is not None else f"{_process}-{next(_numbers):x}"
    current.set(name)
    return name


class NamedRequests:
    """ASGI middleware that names every HTTP request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header = REQUEST_ID.encode()
        given = next((value for name, value in scope["headers"] if name == header), None)
        name = begin(None if given is None else given.decode("latin-1"))

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (header, name.encode())]
            await send(message)

        await self._app(scope, receive, named)

"""Redis streams: a consumer group, acknowledged by `XACK`.

Each reader is a consumer of its own. What it has read stays pending until it is acknowledged; when
it is gone, others claim what it left after `CLAIM_IDLE_MS`. (A consumer that is only slow loses its
messages in the same way; what is then written twice is written the same.)
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Sequence
from typing import Any, Self

from hiredis import ReplyError

from featurestore.errors import InvalidSettings, StoreUnavailable
from featurestore.stores.online.redis_blocking import Pool, deadline_in
from featurestore.stores.online.resp import Command, parse_target, refusal
from featurestore.stores.streams.base import (
    CLAIM_IDLE_MS,
    MESSAGES_PER_READ,
    Message,
    StreamReader,
    expanded,
)

TIMEOUT_MS = 10_000
_EXAMPLE = "redis://host:6379/0/stream"
_JSON_FIELDS = (b"json", b"data", b"value")
"""An entry that has one field alone, of one of these names, holds a JSON object in it."""


class RedisStream(StreamReader):
    """`redis://user:password@host:6379/0/stream`."""

    def __init__(self, url: str, *, group: str, claim_idle_ms: int = CLAIM_IDLE_MS) -> None:
        server, _, stream = expanded(url).partition("?")[0].rpartition("/")
        query = url.partition("?")[2]
        if not stream or "://" not in server:
            raise InvalidSettings(f"the URL of a Redis stream is {_EXAMPLE}")
        self._target = parse_target(f"{server}?{query}" if query else server, example=_EXAMPLE)
        self._pool = Pool(self._target)
        self._stream = stream.encode()
        self._group = group.encode()
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}".encode()
        self._claim_idle_ms = claim_idle_ms
        self._made = False

    @classmethod
    def open(cls, url: str, *, group: str) -> Self:
        """See `StreamReader`."""
        return cls(url, group=group)

    def read(self, *, wait_ms: int) -> list[Message]:
        """See `StreamReader`."""
        self._make_group()
        left = self._claim()
        if left:
            return left
        reply = self._call(
            (
                b"XREADGROUP", b"GROUP", self._group, self._consumer, b"COUNT", MESSAGES_PER_READ,
                b"BLOCK", max(1, wait_ms), b"STREAMS", self._stream, b">",
            ),
            timeout_ms=TIMEOUT_MS + wait_ms,
        )  # fmt: skip
        if not reply:
            return []
        entries = list(reply.values())[0] if isinstance(reply, dict) else reply[0][1]  # noqa: RUF015
        return [_message(entry) for entry in entries]

    def done(self, messages: Sequence[Message]) -> None:
        """See `StreamReader`."""
        places = [message.place.encode() for message in messages]
        if places:
            self._call((b"XACK", self._stream, self._group, *places))

    def lag(self) -> int | None:
        """See `StreamReader`: what nobody has read, and what was read and is not acknowledged."""
        for group in self._call((b"XINFO", b"GROUPS", self._stream)):
            about = group if isinstance(group, dict) else dict(zip(*[iter(group)] * 2, strict=True))
            if about[b"name"] == self._group:
                unread = about.get(b"lag")
                return int(unread or 0) + int(about[b"pending"])
        return None

    def close(self) -> None:
        """See `StreamReader`. A consumer that has left something pending stays for those who claim
        it."""
        try:
            if self._made:
                pending = self._call((b"XPENDING", self._stream, self._group, b"-", b"+", 1,
                                      self._consumer))  # fmt: skip
                if not pending:
                    self._call((b"XGROUP", b"DELCONSUMER", self._stream, self._group,
                                self._consumer))  # fmt: skip
        except StoreUnavailable:
            pass  # it is gone, and so is our connection to it
        finally:
            self._pool.close()

    def _make_group(self) -> None:
        if self._made:
            return
        command = (b"XGROUP", b"CREATE", self._stream, self._group, b"0", b"MKSTREAM")
        (reply,) = self._pool.call([command], deadline_in(TIMEOUT_MS))
        if isinstance(reply, ReplyError) and not str(reply).startswith("BUSYGROUP"):
            raise refusal(self._target, reply)
        self._made = True

    def _claim(self) -> list[Message]:
        """Messages that a consumer which is gone had read."""
        reply = self._call(
            (
                b"XAUTOCLAIM", self._stream, self._group, self._consumer, self._claim_idle_ms,
                b"0-0", b"COUNT", MESSAGES_PER_READ,
            )
        )  # fmt: skip
        # Entries that were deleted from the stream meanwhile come as nothing.
        return [_message(entry) for entry in reply[1] if entry and entry[1] is not None]

    def _call(self, command: Command, *, timeout_ms: int = TIMEOUT_MS) -> Any:
        (reply,) = self._pool.call([command], deadline_in(timeout_ms))
        if isinstance(reply, ReplyError):
            if str(reply).startswith("NOGROUP"):
                self._made = False
                raise StoreUnavailable(f"the stream at {self._target.shown} was deleted") from reply
            raise refusal(self._target, reply)
        return reply


def _message(entry: Any) -> Message:
    place, fields = entry[0].decode(), list(entry[1] or ())
    at_us = int(place.partition("-")[0]) * 1_000
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    if len(pairs) == 1 and pairs[0][0].lower() in _JSON_FIELDS:
        return Message(place, at_us, pairs[0][1])
    texts = {
        name.decode("utf-8", "replace"): text.decode("utf-8", "replace") for name, text in pairs
    }
    return Message(place, at_us, texts or None)

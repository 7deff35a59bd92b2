"""Redis streams: a consumer group, acknowledged by `XACK`.

Each reader is a consumer of its own. What it has read stays pending until it is acknowledged; when
it is gone, others claim what it left after `CLAIM_IDLE_MS`. (A consumer that is only slow loses its
messages in the same way; what is then written twice is written the same.)

A server that fails over may have forgotten what was acknowledged last, or the group: then messages
come again. What it had read to us when the connection broke is asked for first.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Self

from hiredis import ReplyError

from featurestore.errors import InvalidSettings, StoreTimeout, StoreUnavailable
from featurestore.stores.online.resp import Command
from featurestore.stores.streams.base import (
    CLAIM_IDLE_MS,
    MESSAGES_PER_READ,
    READ_BYTES_MAX,
    Message,
    StreamReader,
    bytes_of,
    expanded,
)
from featurestore.stores.streams.redis_servers import EXAMPLE, server_of

MESSAGES_PER_CALL = 2_500
"""Messages in one call: the server serves nobody else for about as many microseconds."""
_GONE = ("NOGROUP", "ERR no such key")
"""What a server answers that has no such stream or group (any more)."""
_JSON_FIELDS = (b"json", b"data", b"value")
"""An entry that has one field alone, of one of these names, holds a JSON object in it."""


class RedisStream(StreamReader):
    """`redis://user:password@host:6379/0/stream`,
    `redis+cluster://user:password@host:6379,host:6379/stream`,
    `redis+sentinel://user:password@sentinel:26379,sentinel:26379/master_name/0/stream`; with TLS
    `rediss…`."""

    reads_ahead = True

    def __init__(self, url: str, *, group: str, claim_idle_ms: int = CLAIM_IDLE_MS) -> None:
        address, _, query = expanded(url).partition("?")
        server, _, stream = address.rpartition("/")
        if not stream or "://" not in server:
            raise InvalidSettings(f"the URL of a Redis stream is {EXAMPLE}")
        self._stream = stream.encode()
        self._server = server_of(f"{server}?{query}" if query else server, self._stream)
        self._group = group.encode()
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}".encode()
        self._claim_idle_ms = claim_idle_ms
        self._made = False
        self._unsure = False
        """Whether a reply was lost, with what it brought."""
        self._under_way: set[str] = set()
        """What we have read and not acknowledged: it may be old enough to be claimed."""

    @classmethod
    def open(cls, url: str, *, group: str) -> Self:
        """See `StreamReader`."""
        return cls(url, group=group)

    def read(self, *, wait_ms: int) -> list[Message]:
        """See `StreamReader`."""
        self._make_group()
        try:
            left = self._lost() if self._unsure else self._claim()
            found = left or self._unread(wait_ms)
        except (StoreUnavailable, StoreTimeout):
            self._unsure = True
            raise
        self._under_way.update(message.place for message in found)
        return found

    def _unread(self, wait_ms: int) -> list[Message]:
        page = self._read(b">", b"BLOCK", max(1, wait_ms), wait_ms=wait_ms)
        found = _messages(page)
        size = bytes_of(found)
        try:
            while (
                len(page) == MESSAGES_PER_CALL
                and len(found) < MESSAGES_PER_READ
                and size < READ_BYTES_MAX
            ):
                page = self._read(b">")
                more = _messages(page)
                size += bytes_of(more)
                found += more
        except (StoreUnavailable, StoreTimeout):
            # What was read is ours to write, even if the server goes away now.
            self._unsure = True
        return found

    def _lost(self) -> list[Message]:
        """What was read to us and did not reach us: all that is pending and not under way."""
        page = self._read(b"0")
        while page:
            if found := self._not_under_way(page):
                return found
            page = self._read(page[-1][0])
        self._unsure = False
        return []

    def _read(self, after: bytes, *options: bytes | int, wait_ms: int = 0) -> list[Any]:
        reply = self._call(
            (
                b"XREADGROUP", b"GROUP", self._group, self._consumer, b"COUNT", MESSAGES_PER_CALL,
                *options, b"STREAMS", self._stream, after,
            ),
            wait_ms=wait_ms,
        )  # fmt: skip
        if not reply:
            return []
        entries = list(reply.values())[0] if isinstance(reply, dict) else reply[0][1]  # noqa: RUF015
        return list(entries)

    def done(self, messages: Sequence[Message]) -> None:
        """See `StreamReader`."""
        places = [message.place.encode() for message in messages]
        for start in range(0, len(places), MESSAGES_PER_CALL):
            part = places[start : start + MESSAGES_PER_CALL]
            self._call((b"XACK", self._stream, self._group, *part))
        self._under_way.difference_update(message.place for message in messages)

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
        except (StoreUnavailable, StoreTimeout):
            pass  # it is gone, and so is our connection to it
        finally:
            self._server.close()

    def _make_group(self) -> None:
        if self._made:
            return
        command = (b"XGROUP", b"CREATE", self._stream, self._group, b"0", b"MKSTREAM")
        self._server.call(command, wait_ms=0, expected=("BUSYGROUP",))
        self._made = True

    def _claim(self) -> list[Message]:
        """Messages that a consumer which is gone had read."""
        reply = self._call(
            (
                b"XAUTOCLAIM", self._stream, self._group, self._consumer, self._claim_idle_ms,
                b"0-0", b"COUNT", MESSAGES_PER_CALL,
            )
        )  # fmt: skip
        return self._not_under_way(reply[1])

    def _not_under_way(self, entries: Iterable[Any]) -> list[Message]:
        # Entries that were deleted from the stream meanwhile come as nothing.
        found = _messages(entry for entry in entries if entry and entry[1] is not None)
        return [message for message in found if message.place not in self._under_way]

    def _call(self, command: Command, *, wait_ms: int = 0) -> Any:
        reply = self._server.call(command, wait_ms=wait_ms, expected=_GONE)
        if isinstance(reply, ReplyError):
            self._made = False
            raise StoreUnavailable(
                f"the stream at {self._server.shown} was deleted, or is not there yet: {reply}"
            ) from reply
        return reply


def _messages(entries: Iterable[Any]) -> list[Message]:
    found = []
    for number, pairs in entries:
        place = number.decode()
        at_us = int(place[: place.index("-")]) * 1_000
        fields: Sequence[bytes] = pairs or ()
        if len(fields) == 2 and fields[0].lower() in _JSON_FIELDS:
            found.append(Message(place, at_us, fields[1]))
        else:
            found.append(Message(place, at_us, _texts(fields)))
    return found


def _texts(fields: Sequence[bytes]) -> dict[str, str] | None:
    """The columns of an entry."""
    texts = [text.decode("utf-8", "surrogateescape") for text in fields]
    return dict(zip(texts[::2], texts[1::2], strict=True)) or None

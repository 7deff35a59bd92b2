"""Compare-and-swap by revision, as calls of the script `SWAP`: many keys per call on one server,
one key per call in a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hiredis import ReplyError

from featurestore.stores.online.base import Swap
from featurestore.stores.online.redis_blocking import Connection
from featurestore.stores.online.redis_cluster_writes import Scripts
from featurestore.stores.online.redis_scripts import SWAP
from featurestore.stores.online.redis_slots import key_slot
from featurestore.stores.online.redis_writes import (
    ATTEMPTS,
    CALL_BYTES_MAX,
    Span,
    Writer,
    expiry_argument,
    is_forgotten,
)
from featurestore.stores.online.resp import Command, pack, pack_one, refusal

_SWAPPED = ord("1")


def swap_on(
    writer: Writer, connection: Connection, fields: tuple[bytes, ...], swaps: Sequence[Swap]
) -> list[bool]:
    """Swap on one server, a few calls under way at once."""
    swapped = [False] * len(swaps)
    todo = list(_spans(swaps, writer.rows_per_call))
    for _ in range(ATTEMPTS):
        mode = writer.prepare(connection)
        forgotten: list[Span] = []

        def send(span: Span, mode: bytes = mode) -> tuple[bytes, int]:
            return pack([_command(mode, fields, swaps[slice(*span)])]), 1

        def settle(span: Span, replies: Sequence[Any], forgotten: list[Span] = forgotten) -> None:
            (reply,) = replies
            if is_forgotten(reply):
                forgotten.append(span)
            else:
                codes = writer.checked(reply)
                swapped[slice(*span)] = [code == _SWAPPED for code in codes]

        writer.pipeline(connection, todo, send, settle)
        if not forgotten:
            return swapped
        # Someone emptied the server's script cache.
        connection.mode, todo = b"", forgotten
    raise refusal(writer.target, ReplyError("NOSCRIPT the server forgets its scripts at once"))


class Swaps(Scripts):
    """Swaps in a cluster, each by a call of its own; a reply is `1` where it was done."""

    def __init__(
        self, fields: tuple[bytes, ...], swaps: Sequence[Swap], *, timeout_ms: int
    ) -> None:
        super().__init__(timeout_ms)
        self.slots: Sequence[int] = [key_slot(swap.key) for swap in swaps]
        self._fields = fields
        self._swaps = swaps

    def pack(self, connection: Connection, indexes: Sequence[int]) -> Iterator[bytes]:
        """The calls."""
        for index in indexes:
            yield pack_one(_command(connection.mode, self._fields, [self._swaps[index]]))


def is_swapped(reply: bytes) -> bool:
    """What a reply to one of `Swaps` says."""
    return reply[0] == _SWAPPED


def _command(mode: bytes, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> Command:
    words: list[bytes | int] = [mode, len(fields), *fields]
    for swap in swaps:
        words += (swap.expected, expiry_argument(swap.expire_at_us), *swap.values)
    return (b"EVALSHA", SWAP.sha, len(swaps), *(swap.key for swap in swaps), *words)


def _spans(swaps: Sequence[Swap], rows_max: int) -> Iterator[Span]:
    start = size = 0
    for index, swap in enumerate(swaps):
        more = len(swap.key) + sum(map(len, swap.values))
        if index > start and (size + more > CALL_BYTES_MAX or index - start == rows_max):
            yield start, index
            start, size = index, 0
        size += more
    if start < len(swaps):
        yield start, len(swaps)

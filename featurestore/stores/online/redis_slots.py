"""Which node of a cluster has a key, and what a node's refusal asks of us. Nothing here does I/O.

`SlotMap` is what the nodes say; `Routing` is one request's commands, each of one key, on their way
to the right nodes: it says who is to be asked what, takes the answers, and keeps what is left.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hiredis import ReplyError

from featurestore.errors import StoreError, StoreUnavailable
from featurestore.stores.online.resp import Target, refusal

SLOTS = 16_384

_LATER = ("TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "NOSCRIPT")
"""What a node answers that has no answer now: soon it may, or another node."""
_REDIRECTION = re.compile(r"(MOVED|ASK) (\d+) (.*):(\d+)$")

Address = tuple[str, int]
Group = tuple[Address, bool]
"""A node, and whether it must be told ASKING first: it is receiving the slot."""


def key_slot(key: bytes) -> int:
    """The slot of a key: CRC-16 of it, or of what stands between its first `{` and the next `}`."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class SlotMap:
    """The master of each slot; None for a slot that nobody has. Single slots are corrected in place
    (`owners` is a list) as nodes say that they moved."""

    owners: list[Address | None]

    @property
    def masters(self) -> set[Address]:
        """The nodes that have slots."""
        return {owner for owner in self.owners if owner is not None}

    @classmethod
    def read(cls, reply: Sequence[Any], asked: Address) -> SlotMap:
        """The answer to CLUSTER SLOTS. A node without a host is at the one that we asked."""
        owners: list[Address | None] = [None] * SLOTS
        for first, last, master, *_ in reply:
            host = _host(master[0] or b"", asked)
            owners[first : last + 1] = [(host, master[1])] * (last + 1 - first)
        return cls(owners)


def _host(text: bytes, asked: Address) -> str:
    host = text.decode()
    return asked[0] if host in ("", "?") else host


def after_asking(replies: Sequence[Any]) -> list[Any]:
    """The replies to commands each of which came after ASKING; where that was refused, its own."""
    pairs = zip(replies[::2], replies[1::2], strict=True)
    return [asking if asking.__class__ is ReplyError else reply for asking, reply in pairs]


class Routing:
    """Commands of one key each, in the order of `slots`; `answers` are their replies.

    After a round, `todo` are those that must be sent again. `fatal` ends the request; `error` is
    why something is left, for when there will be no other round.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        self.answers: list[Any] = [None] * len(slots)
        self.todo: Sequence[int] = range(len(slots))
        self.fatal: StoreError | None = None
        self.error: StoreError | None = None
        self.outdated = False
        """Whether the map is to be read again before the next round."""
        self.at_once = False
        """Whether the next round needs no pause: a node said where to go."""
        self.forgotten = False
        """Whether a node does not know our scripts (any more)."""
        self._slots = slots
        self._asks: dict[int, Address] = {}

    @property
    def is_done(self) -> bool:
        """Whether all is answered. Raises what ends the request."""
        if self.fatal is not None:
            raise self.fatal
        return not self.todo

    @property
    def reason(self) -> StoreError:
        """Why something is left after the last round."""
        return self.error or StoreUnavailable("no node of the cluster answered")

    def groups(self, slot_map: SlotMap) -> dict[Group, list[int]]:
        """Whom to ask what, in this round."""
        slots, owners, asks = self._slots, slot_map.owners, self._asks
        found: dict[Group, list[int]] = {}
        left: list[int] = []
        for index in self.todo:
            owner = asks.get(index) if asks else None
            group = (owner, True) if owner is not None else (owners[slots[index]], False)
            if group[0] is None:
                left.append(index)
            else:
                found.setdefault((group[0], group[1]), []).append(index)
        self.todo, self._asks, self.outdated, self.at_once = left, {}, bool(left), False
        if left:
            slot = slots[left[0]]
            self.error = StoreUnavailable(f"no node of the cluster has slot {slot} of its keys")
        return found

    def settle(
        self, target: Target, indexes: Sequence[int], replies: Sequence[Any], slot_map: SlotMap
    ) -> None:
        """The replies of one node, one for each of `indexes`."""
        answers = self.answers
        for index, reply in zip(indexes, replies, strict=True):
            if reply.__class__ is ReplyError:
                self._refused(target, index, reply, slot_map)
            else:
                answers[index] = reply

    def failed(self, indexes: Sequence[int], error: StoreError) -> None:
        """A node did not answer these."""
        self.error = error
        if isinstance(error, StoreUnavailable) and error.retryable:
            self.todo = [*self.todo, *indexes]
            self.outdated, self.at_once = True, False
        else:
            self.fatal = error

    def _refused(self, target: Target, index: int, reply: ReplyError, slot_map: SlotMap) -> None:
        text = str(reply)
        if moved := _REDIRECTION.match(text):
            kind, slot, host, port = moved.groups()
            address = (_host(host.encode(), (target.host, target.port)), int(port))
            if kind == "ASK":
                self._asks[index] = address
            else:
                slot_map.owners[int(slot)] = address
                self.outdated = True
            self.at_once = True
            self.error = StoreUnavailable(
                f"the cluster sends us from node to node: {target.shown} answered: {text}"
            )
        elif text.split(" ", 1)[0] in _LATER:
            is_forgotten = text.startswith("NOSCRIPT")
            self.forgotten = self.forgotten or is_forgotten
            self.outdated = self.outdated or not is_forgotten
            error = refusal(target, reply)
            self.error = error if error.retryable else StoreUnavailable(error.message)
        else:
            self.fatal = refusal(target, reply)
            return
        self.todo = [*self.todo, index]

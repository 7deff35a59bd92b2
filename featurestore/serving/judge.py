"""What a stored row says at the time of a request: its status.

A row counts from the instant at which it is known, `max(event time, created time)`: one that is
ahead of the request is not there yet. From then on it is PRESENT for as long as its view's ttl,
then OUTSIDE_MAX_AGE for as long as the view's grace.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from featurestore.statuses import Status
from featurestore.wire.layout import TOMBSTONE_BYTES, RowLayout

HEAD = struct.Struct("<xqxqxI")
"""Event time, created time and view tag of a row, each behind its tag byte."""
_PRESENT, _NOT_FOUND = int(Status.PRESENT), int(Status.NOT_FOUND)
_STALE = int(Status.OUTSIDE_MAX_AGE)
_EVER_US = -(2**63)

Judge = Callable[[bytes, int], tuple[int, int]]
AllPresent = Callable[[Sequence[bytes], int], bool]


def judge_of(layout: RowLayout, ttl_us: int | None, grace_us: int) -> Judge:
    """A function of a row and the request's time that returns (status, event time or 0).

    It raises `CorruptRow` for bytes that are no row of `layout`.
    """
    unpack, tag, corrupt = HEAD.unpack_from, layout.tag, layout.corrupt
    shortest = HEAD.size

    def judge(row: bytes, now_us: int) -> tuple[int, int]:
        if len(row) < shortest:
            raise corrupt(row)
        event_us, created_us, found = unpack(row)
        if found != tag:
            raise corrupt(row)
        if event_us > now_us or created_us > now_us or len(row) == TOMBSTONE_BYTES:
            return _NOT_FOUND, 0
        if ttl_us is None or now_us - event_us <= ttl_us:
            return _PRESENT, event_us
        if now_us - event_us <= ttl_us + grace_us:
            return _STALE, event_us
        return _NOT_FOUND, 0

    return judge


def all_present_of(layout: RowLayout, ttl_us: int | None) -> AllPresent:
    """A function of some rows (not none) and the request's time: whether `judge` would find each
    of them PRESENT. It says so in a third of the time, and False where it is in doubt."""
    unpack, tag = HEAD.unpack_from, layout.tag

    def all_present(rows: Sequence[bytes], now_us: int) -> bool:
        if min(map(len, rows)) <= TOMBSTONE_BYTES:
            return False
        oldest_us = _EVER_US if ttl_us is None else now_us - ttl_us
        for event_us, created_us, found in map(unpack, rows):
            if found != tag or not oldest_us <= event_us <= now_us or created_us > now_us:
                return False
        return True

    return all_present

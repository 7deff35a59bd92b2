"""What the contract of online stores writes and reads: keys, rows, and a store to put them into."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from featurestore.config import OnlineSettings
from featurestore.dtypes import STRING
from featurestore.stores.online.base import (
    KeyFields,
    OnlineStore,
    RowBatch,
    WriteResult,
)
from featurestore.wire.rows import RowLayout, encode_rows, key_prefix

FIELD, OTHER_FIELD, THIRD_FIELD = b"field--1", b"\0\xff\r\n *\t\x80", b"field--3"
LAYOUT = RowLayout((("text", STRING),), 0xFEED)
PREFIX = key_prefix("shop", "plane")
HOUR_US = 3_600_000_000

HOSTILE_KEYS = {
    "empty": b"",
    "nul": b"\0",
    "nuls": b"\0" * 40,
    "colon": b"a:b::",
    "slash": b"a/b//fs/",
    "glob": b"*?[a-z]\\{}",
    "line-end": b"\r\n$3\r\nGET\r\n",
    "not-ascii": "größe-😀".encode(),
    "not-utf8": b"\xff\xfe\x80",
    "493-bytes": b"k" * 493,
    "around-500-bytes": b"k" * 500,
    "600-bytes": b"k" * 600,
    "1-MB": b"k" * 2**20,
}

# Each pair: a later instant and an earlier one that differ where numbers are cut in halves, go
# through doubles, or leave what a calendar shows.
YEAR_9999_ENDS_US = 253_402_300_799_999_999
INSTANTS = [
    (1, 0),
    (0, -1),
    (2**31, 2**31 - 1),
    (2**32, 2**32 - 1),
    (-(2**32), -(2**32) - 1),
    (-1, -(2**32)),
    (2**53 + 1, 2**53),
    (YEAR_9999_ENDS_US, YEAR_9999_ENDS_US - 1),
    (YEAR_9999_ENDS_US + 1, YEAR_9999_ENDS_US),
    (2**63 - 1, 2**63 - 2),
    (-(2**63) + 1, -(2**63)),
    (2**63 - 1, -(2**63)),
    (-62_135_596_800_000_000, -62_135_596_800_000_001),
]


@dataclass(frozen=True, slots=True)
class OnlineStoreOpener:
    """How to open one and the same, at first empty, store again: from a test, a thread or another
    process."""

    store: type[OnlineStore]
    url: str
    root: Path

    def open(self, *, read_only: bool = False) -> OnlineStore:
        """A store object of its own on the data."""
        # The tests of deadlines set their own; a machine under load must not fail the others.
        settings = OnlineSettings(url=self.url, timeout_ms=30_000, map_size_mb=1)
        return self.store.open(settings, root=self.root, read_only=read_only)


def row(event_us: int, created_us: int | None = None, text: str | None = "") -> bytes:
    """A row of one text with these times."""
    return rows([(event_us, event_us if created_us is None else created_us, text)])[0]


def rows(times_and_texts: Sequence[tuple[int, int, str | None]]) -> list[bytes]:
    """Rows of one text each: (event time, created time, text)."""
    events, created, texts = zip(*times_and_texts, strict=True)
    return encode_rows(LAYOUT, events, created, [pa.array(texts, pa.string())])


def tombstone(event_us: int) -> bytes:
    """The row of a deleted key."""
    return encode_rows(LAYOUT, [event_us], [event_us], [pa.array([""])], [True])[0]


def numbered(count: int, *, prefix: bytes = PREFIX) -> list[bytes]:
    """`count` different keys."""
    return [prefix + b"key-%d" % i for i in range(count)]


def put(
    store: OnlineStore, key: bytes, value: bytes, *, field: bytes = FIELD, until: int | None = None
) -> WriteResult:
    """Write one row."""
    expiry = None if until is None else [until]
    return store.write(RowBatch(field=field, keys=[key], rows=[value], expire_at_us=expiry))


def get(store: OnlineStore, key: bytes, field: bytes = FIELD) -> bytes | None:
    """Read one row."""
    return store.read([KeyFields(key, (field,))])[0][0]


def now_us() -> int:
    """The machine's clock."""
    return time.time_ns() // 1000

"""How the rows of one view version lie in bytes (`protos/featurestore/v1/row.proto`).

Pure arithmetic over the schema, without Arrow or numpy, so that a client that only decodes rows
stays light.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

from featurestore.dtypes import DType, Slot
from featurestore.errors import CorruptRow

# Field tags of `Row`: number << 3 | wire type.
EVENT_TIME, CREATED_TIME, VIEW_TAG = b"\x09", b"\x11", b"\x1d"
NULLS, DOUBLES, INTEGERS, BLOB = 0x22, 0x2A, 0x32, 0x3A
DELETED = b"\x40\x01"

HEAD = struct.Struct("<1sq1sq1sI")
"""The fixed head: event time, created time, view tag, each behind its tag byte."""
TIMES = struct.Struct("<xqxq")
TOMBSTONE_BYTES = HEAD.size + len(DELETED)


def varint(value: int) -> bytes:
    """Protobuf's base-128 form of a value that is not negative."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_head(tag: int, length: int) -> bytes:
    """The head of a length-delimited field; nothing for an empty one, as protobuf writes it."""
    return bytes([tag]) + varint(length) if length else b""


@dataclass(frozen=True)
class RowLayout:
    """The schema of a view version's rows.

    `features` are (name, type) in the view's order, `tag` is the view tag that every row carries,
    `view` names the view in messages.
    """

    features: tuple[tuple[str, DType], ...]
    tag: int
    view: str = ""

    @cached_property
    def doubles(self) -> tuple[int, ...]:
        """Positions of the features that ride in `Row.doubles`, in that field's order."""
        return self._in_slot("doubles")

    @cached_property
    def integers(self) -> tuple[int, ...]:
        """Positions of the features that ride in `Row.integers`."""
        return self._in_slot("integers")

    @cached_property
    def blobs(self) -> tuple[int, ...]:
        """Positions of the features that ride in `Row.blobs`."""
        return self._in_slot("blobs")

    def _in_slot(self, slot: Slot) -> tuple[int, ...]:
        return tuple(i for i, (_, dtype) in enumerate(self.features) if dtype.slot == slot)

    @cached_property
    def null_bytes(self) -> int:
        """Length of `Row.nulls`."""
        return (len(self.features) + 7) // 8

    @cached_property
    def heads(self) -> tuple[bytes, bytes, bytes]:
        """The constant bytes before the nulls, the doubles and the integers."""
        return (
            field_head(NULLS, self.null_bytes),
            field_head(DOUBLES, 8 * len(self.doubles)),
            field_head(INTEGERS, 8 * len(self.integers)),
        )

    @cached_property
    def template(self) -> bytes:
        """The fixed part of a row without values: all that is not a blob, every value 0."""
        nulls, doubles, integers = self.heads
        return b"".join(
            (
                HEAD.pack(EVENT_TIME, 0, CREATED_TIME, 0, VIEW_TAG, self.tag),
                nulls + bytes(self.null_bytes),
                doubles + bytes(8 * len(self.doubles)),
                integers + bytes(8 * len(self.integers)),
            )
        )

    @cached_property
    def offsets(self) -> tuple[int, int, int]:
        """Where the nulls, the doubles and the integers begin."""
        nulls, doubles, integers = self.heads
        first = HEAD.size + len(nulls)
        second = first + self.null_bytes + len(doubles)
        return first, second, second + 8 * len(self.doubles) + len(integers)

    @property
    def fixed_bytes(self) -> int:
        """Length of everything before the blobs."""
        return len(self.template)

    def subset(self, indices: tuple[int, ...]) -> RowLayout:
        """The layout of rows that hold only the features at `indices`, in that order."""
        return RowLayout(tuple(self.features[i] for i in indices), self.tag, self.view)

    def corrupt(self, row: bytes, reason: str = "") -> CorruptRow:
        """The error for bytes that are no row of this layout, with the cause as far as known."""
        subject = f"A stored row of view {self.view!r}" if self.view else "A stored row"
        size = f" ({len(row):,} bytes)" if row else ""
        reason = reason or self._why(row)
        return CorruptRow(
            f"{subject}{size} cannot be read: {reason}. "
            "Write its view anew: featurestore materialize --replace"
        )

    def _why(self, row: bytes) -> str:
        if len(row) < HEAD.size:
            return f"it ends within the first {HEAD.size} bytes"
        one, _, two, _, three, tag = HEAD.unpack_from(row)
        if (one, two, three) != (EVENT_TIME, CREATED_TIME, VIEW_TAG):
            return "it does not begin with its times, so it is no row"
        if tag != self.tag:
            return f"its view tag is {tag:08x}, not {self.tag:08x}; another version wrote it"
        if len(row) < self.fixed_bytes:
            return f"it ends within its {self.fixed_bytes:,} fixed bytes"
        return "its values do not lie where the view's schema puts them"

"""Rows → typed packed columns, for callers that ask for a table (`options.columns`).

Values keep the form that they have in a row (`Row.doubles`, `integers`, `blobs`), so nothing is
converted and no type is lost; texts alone become protobuf strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from featurestore.dtypes import Kind
from featurestore.statuses import Status
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.layout import RowLayout
from featurestore.wire.row_pb2 import Row

_BLANK: dict[str, Any] = {"doubles": 0.0, "integers": 0, "blobs": b""}


def pack_columns(
    layouts: Sequence[RowLayout], statuses: bytes, rows: Sequence[bytes]
) -> Iterator[pb.FeatureColumn]:
    """One column per feature, views in the order of `layouts`.

    `statuses` has one byte per entity × view, entity by entity; `rows` are the rows of the pairs
    that are PRESENT, in the same order, cut to their layouts.
    """
    views = len(layouts)
    by_view: list[list[Row | None]] = [[] for _ in layouts]
    remaining = iter(rows)
    for pair, status in enumerate(statuses):
        view = pair % views
        row = _parsed(layouts[view], next(remaining)) if status == Status.PRESENT else None
        by_view[view].append(row)
    for view, layout in enumerate(layouts):
        yield from _view_columns(layout, by_view[view], statuses[view::views])


def _parsed(layout: RowLayout, data: bytes) -> Row:
    try:
        row = Row.FromString(data)
        for blob, index in zip(row.blobs, layout.blobs, strict=True):
            if layout.features[index][1].kind is Kind.STRING:
                blob.decode("utf-8")
    except (DecodeError, ValueError) as error:
        raise layout.corrupt(data, str(error)) from error
    found = (len(row.nulls), len(row.doubles), len(row.integers), len(row.blobs))
    slots = (len(layout.doubles), len(layout.integers), len(layout.blobs))
    if found != (layout.null_bytes, *slots):
        raise layout.corrupt(data)
    return row


def _view_columns(
    layout: RowLayout, rows: Sequence[Row | None], statuses: bytes
) -> Iterator[pb.FeatureColumn]:
    taken = {"doubles": 0, "integers": 0, "blobs": 0}
    for index, (_, dtype) in enumerate(layout.features):
        slot = taken[dtype.slot]
        taken[dtype.slot] += 1
        values = [
            _BLANK[dtype.slot] if row is None else getattr(row, dtype.slot)[slot] for row in rows
        ]
        byte, bit = index // 8, 1 << index % 8
        own = bytes(
            Status.NULL_VALUE if row is not None and row.nulls[byte] & bit else status
            for row, status in zip(rows, statuses, strict=True)
        )
        yield _column(own, dtype.kind, dtype.slot, values)


def _column(statuses: bytes, kind: Kind, slot: str, values: list[Any]) -> pb.FeatureColumn:
    if slot == "doubles":
        return pb.FeatureColumn(statuses=statuses, doubles=pb.Doubles(values=values))
    if slot == "integers":
        return pb.FeatureColumn(statuses=statuses, integers=pb.Integers(values=values))
    if kind is Kind.STRING:
        texts = [value.decode("utf-8") for value in values]
        return pb.FeatureColumn(statuses=statuses, strings=pb.Strings(values=texts))
    return pb.FeatureColumn(statuses=statuses, blobs=pb.Blobs(values=values))

"""The row codec: what the online store holds is what a client receives.

A row is a protobuf message `Row` (`protos/featurestore/v1/row.proto`) whose fields stand at offsets
that the view's schema fixes. There is one encoder, so equal values are equal bytes. Decoders and
subset encoders are compiled once per layout and then called once per row; the batch functions load
Arrow when first called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.errors import CorruptRow
from featurestore.wire import decode as _decode
from featurestore.wire.decode import Decoded
from featurestore.wire.keys import encode_key, encode_keys, key_encoder, key_prefix
from featurestore.wire.layout import TIMES, RowLayout

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Decoded",
    "RowLayout",
    "decode_columns",
    "encode_key",
    "encode_keys",
    "encode_rows",
    "key_encoder",
    "key_prefix",
    "row_decoder",
    "row_head",
    "subset_encoder",
]


def encode_rows(
    layout: RowLayout, event_us: Any, created_us: Any, columns: Sequence[Any], deleted: Any = None
) -> list[bytes]:
    """The rows of a batch.

    Args:
        layout: the view's schema and tag.
        event_us, created_us: one instant per row in µs: int64 numpy or Arrow arrays, or Arrow
            timestamps. The created time equals the event time where the source has none.
        columns: one Arrow array per feature, in the layout's order; other widths of the type are
            cast, NaN is written as NULL and -0.0 as 0.0.
        deleted: which rows are tombstones (booleans), or None for none.

    Raises:
        InvalidValue: a value that its feature's type cannot hold.
    """
    from featurestore.wire.encode import encode_rows as encode

    return encode(layout, event_us, created_us, columns, deleted)


def row_decoder(layout: RowLayout) -> Callable[[bytes], Decoded]:
    """A function of one row that returns `(values, event_us, created_us, deleted)`.

    Values stand in the layout's order as int, float, bool, str, bytes, `Decimal`, `date`, aware
    UTC `datetime`, list or None; a tombstone has only None. The function raises `CorruptRow` for
    bytes that are no row of this layout.
    """
    return _decode.row_decoder(layout)


def subset_encoder(layout: RowLayout, indices: Sequence[int]) -> Callable[[bytes], bytes]:
    """A function from a row to the row that holds only the features at `indices`, in that order
    (its layout is `layout.subset(indices)`). A tombstone comes back as it is. The function raises
    `CorruptRow` for bytes that are no row of this layout."""
    return _decode.subset_encoder(layout, indices)


def decode_columns(layout: RowLayout, rows: Sequence[bytes | None]) -> list[pa.Array]:
    """One Arrow array per feature, of the feature's Arrow type and as long as `rows`; None and
    tombstones are NULL in all of them. Raises `CorruptRow`."""
    from featurestore.wire.columns import decode_columns as decode

    return decode(layout, rows)


def row_head(row: bytes) -> tuple[int, int]:
    """The row's event time and created time in µs. Raises `CorruptRow` for bytes too short."""
    if len(row) < TIMES.size:
        raise CorruptRow(
            f"A stored row has {len(row)} bytes, too few for its times. "
            "Write its view anew: featurestore materialize --replace"
        )
    event_us, created_us = TIMES.unpack_from(row)
    return event_us, created_us

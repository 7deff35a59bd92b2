"""What every online store checks of its arguments, in one place."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.errors import LimitExceeded
from featurestore.stores.online.base import (
    FIELD_BYTES,
    KEY_BYTES_MAX,
    REVISION_BYTES,
    ROWS_PER_WRITE_MAX,
    SWAPS_PER_CALL_MAX,
    RowBatch,
    Swap,
)


def check_batch(batch: RowBatch) -> None:
    """Raises `LimitExceeded` for too many rows or too long a key, `ValueError` where the parts of
    the batch do not fit together."""
    check_field(batch.field)
    count = len(batch.keys)
    if count > ROWS_PER_WRITE_MAX:
        raise LimitExceeded(
            "ROWS_PER_WRITE_MAX", asked=count, allowed=ROWS_PER_WRITE_MAX, hint="Write in parts."
        )
    expiries = count if batch.expire_at_us is None else len(batch.expire_at_us)
    if len(batch.rows) != count or expiries != count:
        raise ValueError("keys, rows and expiries of a batch must have one length")
    check_keys(batch.keys)


def check_keys(keys: Sequence[bytes]) -> None:
    """Raises `LimitExceeded` for a key over `KEY_BYTES_MAX`."""
    longest = max(map(len, keys), default=0)
    if longest > KEY_BYTES_MAX:
        raise LimitExceeded("KEY_BYTES_MAX", asked=longest, allowed=KEY_BYTES_MAX)


def check_field(field: bytes) -> None:
    """Raises `ValueError` for a field id that is not `FIELD_BYTES` long."""
    if len(field) != FIELD_BYTES:
        raise ValueError(f"a field id has {FIELD_BYTES} bytes, not {len(field)}")


def check_swaps(fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> None:
    """Raises `LimitExceeded` for too many or too long a key, `ValueError` for swaps whose parts do
    not fit together."""
    for field in fields:
        check_field(field)
    if not fields:
        raise ValueError("a swap needs a field")
    if len(swaps) > SWAPS_PER_CALL_MAX:
        raise LimitExceeded(
            "SWAPS_PER_CALL_MAX",
            asked=len(swaps),
            allowed=SWAPS_PER_CALL_MAX,
            hint="Swap in parts.",
        )
    for swap in swaps:
        if len(swap.values) != len(fields):
            raise ValueError("a swap has one value for each field")
        if len(swap.expected) not in (0, REVISION_BYTES):
            raise ValueError(f"a revision has {REVISION_BYTES} bytes")
    check_keys([swap.key for swap in swaps])

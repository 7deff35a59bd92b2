"""What every online store checks of its arguments, in one place."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.errors import LimitExceeded
from featurestore.stores.online.base import (
    FIELD_BYTES,
    KEY_BYTES_MAX,
    ROWS_PER_WRITE_MAX,
    RowBatch,
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

"""Why a feature value is what it is. The numbers are part of the wire contract (as in Feast)."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The status of one value, or of one view's row for one entity key."""

    PRESENT = 1
    """The row exists and the value is not NULL."""
    NULL_VALUE = 2
    """The row exists, the value is NULL."""
    NOT_FOUND = 3
    """There is no row, it was deleted, it is older than ttl + grace, or a key is NULL."""
    OUTSIDE_MAX_AGE = 4
    """The newest row is older than ttl, but not than ttl + grace; its value reads as NULL."""

"""Content hashes: the identity of everything that the registry keeps.

A fingerprint is SHA-256 over canonical JSON (sorted keys, no spaces, UTF-8), as 64 hex digits.
The first `SHOWN_DIGITS` are what people see.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

SHOWN_DIGITS = 8


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; equal values give equal text.

    Raises `ValueError` for NaN and infinities, `TypeError` for what JSON cannot hold.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def fingerprint(value: Any) -> str:
    """The SHA-256 of `canonical_json(value)`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def fingerprint_bytes(data: bytes) -> str:
    """The SHA-256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def short(digest: str) -> str:
    """The part of a fingerprint that people see."""
    return digest[:SHOWN_DIGITS]

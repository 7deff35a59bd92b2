"""Until when certificates are valid, read from their PEM files.

Python's `ssl` tells this of certificates that it has verified, which is too late for one that has
expired. The two instants stand at a fixed place in every X.509 certificate (RFC 5280, 4.1).
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from featurestore.errors import InvalidSettings
from featurestore.timeline import to_us

_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
_LONG = 0x80
"""Set in a length that says how many bytes hold it."""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is valid, both ends included; µs."""

    from_us: int
    to_us: int


def validities(path: Path) -> tuple[Validity, ...]:
    """Of each certificate in a PEM file, in its order.

    Raises `InvalidSettings` for a file that cannot be read or holds none.
    """
    try:
        blocks = _PEM.findall(path.read_text(encoding="latin-1"))
        found = tuple(_validity(ssl.PEM_cert_to_DER_cert(block)) for block in blocks)
    except OSError as error:
        raise InvalidSettings(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise InvalidSettings(f"{path} holds a damaged certificate") from error
    if not found:
        raise InvalidSettings(f"{path} holds no certificate (PEM)")
    return found


def _validity(der: bytes) -> Validity:
    _, certificate, _ = _element(der, 0)
    _, at, _ = _element(der, certificate)
    kind, _, end = _element(der, at)
    if kind == _VERSION:  # left out of certificates of version 1
        at = end
    for _ in ("serial number", "algorithm", "issuer"):
        at = _element(der, at)[2]
    _, at, _ = _element(der, at)
    start = _element(der, at)
    return Validity(_instant_us(der, start), _instant_us(der, _element(der, start[2])))


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Kind, and where the content of the element at `at` begins and ends."""
    length, start = der[at + 1], at + 2
    if length & _LONG:
        size = length & ~_LONG
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    return der[at], start, start + length


def _instant_us(der: bytes, element: tuple[int, int, int]) -> int:
    kind, start, end = element
    text = der[start:end].decode("ascii")
    if kind == _UTC_TIME:  # two digits of the year: 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    return to_us(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC))

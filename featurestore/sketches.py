"""HyperLogLog and DDSketch, as far as their arithmetic goes.

Both are bit for bit the same in pure Python (online) and over numpy arrays (offline): they use
nothing but a hash of canonical bytes and IEEE addition, multiplication, division and square roots,
which every machine rounds alike. Logarithms, which do not, are not taken.

Sources: Flajolet et al., "HyperLogLog" (2007), with the estimator of Ertl, "New cardinality
estimation algorithms for HyperLogLog sketches" (2017), section 4; Masson, Rim, Lee, "DDSketch"
(2019), with linear interpolation of the logarithm within each power of two.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

PRECISION_MIN, PRECISION_MAX = 4, 16
HASH_BITS = 64
ESTIMATE_MAX = (1 << 63) - 1
"""What all registers at their greatest rank say."""
CODE_ZERO = 1 << 21
"""Added to the bucket of a positive value: more than any bucket is below 0."""
CODE_INFINITE = 1 << 22
"""The bucket of infinity."""
ALPHA_INFINITE = 0.7213475204444817  # 1 / (2 ln 2)


# --- HyperLogLog ----------------------------------------------------------------------------------


def precision_of(error: float) -> int:
    """The least number of index bits with a standard error (1.04 / √registers) of at most `error`.

    Raises `ValueError` where none has."""
    for precision in range(PRECISION_MIN, PRECISION_MAX + 1):
        if 1.04 / math.sqrt(1 << precision) <= error:
            return precision
    raise ValueError(f"the least error is {1.04 / math.sqrt(1 << PRECISION_MAX):.4f}")


def hash64(value: bytes) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")


def register_of(hashed: int, precision: int) -> tuple[int, int]:
    """The register of a hash, and the rank that it offers: leading zeros of the rest, plus 1."""
    rest_bits = HASH_BITS - precision
    rest = hashed & ((1 << rest_bits) - 1)
    return hashed >> rest_bits, rest_bits - rest.bit_length() + 1


def estimate(histogram: Sequence[int], precision: int) -> int:
    """The number of distinct values. `histogram[r]` registers hold rank r, for 0 ≤ r ≤ 65 −
    precision. `engines.window_intervals` says this again over arrays, operation by operation."""
    registers = 1 << precision
    z = registers * _tau(1.0 - histogram[-1] / registers)
    for count in reversed(histogram[1:-1]):
        z = 0.5 * (z + count)
    z += registers * _sigma(histogram[0] / registers)
    if z in (0.0, math.inf):
        return ESTIMATE_MAX if z == 0.0 else 0
    return round(ALPHA_INFINITE * registers * registers / z)


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z = 1.0, x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z = 1.0, 1.0 - x
    while True:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) * (1.0 - x) * y
        if z == before:
            return z / 3.0


# --- DDSketch -------------------------------------------------------------------------------------


def bucket_width(error: float) -> float:
    """The width of a bucket in octaves, such that its middle is within `error` of all of it."""
    return 2.0 * error / (1.0 - error)


def bucket_of(value: float, width: float) -> int:
    """The bucket of a value: an int, the greater the greater the value, 0 for 0."""
    if value == 0.0:
        return 0
    if math.isinf(value):
        return CODE_INFINITE if value > 0 else -CODE_INFINITE
    mantissa, exponent = math.frexp(abs(value))
    code = math.floor((exponent + (mantissa + mantissa - 1.0)) / width) + CODE_ZERO
    return code if value > 0 else -code


def value_of(bucket: int, width: float) -> float:
    """The value that stands for a bucket."""
    if bucket == 0:
        return 0.0
    if abs(bucket) == CODE_INFINITE:
        return math.inf if bucket > 0 else -math.inf
    number = abs(bucket) - CODE_ZERO
    low, high = (_position(edge * width) for edge in (number, number + 1))
    half = 0.5 * low + 0.5 * high
    middle = low * (high / half) if half > 0.0 else high
    return middle if bucket > 0 else -middle


def _position(octaves: float) -> float:
    """The value whose exponent and mantissa make `octaves`."""
    exponent = math.floor(octaves)
    try:
        return math.ldexp((octaves - exponent + 1.0) * 0.5, exponent)
    except OverflowError:
        return 1.7976931348623157e308


def rank_of(quantile: float, count: int) -> int:
    """Which of `count` values in order, from 0, is the quantile."""
    return int(quantile * (count - 1))

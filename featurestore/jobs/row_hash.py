"""128-bit hashes of values, whole Arrow columns at a time.

A value's hash says what it is, not how it is stored: integers of any width, floats of either
width, timestamps of any unit and zone, texts whether plain, large or of a dictionary hash by their
value alone. NaN is one value whatever its bits, -0.0 is 0.0, NULL is none of the values of its
type. Decimals hash by their value at their column's scale, lists by their elements in order, maps
by their entries in any order. What kind of value a column holds is in its seed, so 1 and 1.0 and
"1" differ.

Two lanes of 64 bits are mixed with multiplications and shifts alone, as splitmix64 does it: numpy
does some 20 of those in the time in which a hash of bytes takes one value.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import InvalidEntityFrame

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    U64 = npt.NDArray[np.uint64]
    Lanes = tuple[U64, U64]

LONG_BYTES = 256
"""Longer texts are hashed one by one."""
_M1, _M2, _M3 = (np.uint64(n) for n in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15))
_M4, _M5 = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xC2B2AE3D27D4EB4F)
_S27, _S29, _S31, _S32 = (np.uint64(n) for n in (27, 29, 31, 32))
_NAN = np.uint64(0x7FF8000000000000)
_US_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}


def hashes(array: pa.Array, seed: str) -> Lanes:
    """Both lanes of each value's hash. `seed` tells columns apart.

    Raises `InvalidEntityFrame` for a type whose values can't be told apart so.
    """
    import pyarrow as pa
    from pyarrow import types

    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return hashes(array.storage, seed)
    if types.is_dictionary(kind):
        return _of_dictionary(array, seed)
    if types.is_null(kind):
        return _constants(len(array), f"{seed}/null")
    found = _fixed(array, seed)
    if found is None:
        found = _variable(array, seed)
    if found is None:
        raise InvalidEntityFrame(
            f"Column {seed!r} has type {kind}, whose values have no digest. Convert it to a "
            "number, text, timestamp, list or struct, or leave it out"
        )
    if array.null_count:
        nulls = array.is_null().to_numpy(zero_copy_only=False)
        for lane, constant in zip(found, _seeds(f"{seed}/null"), strict=True):
            lane[nulls] = constant
    return found


def finished(first: U64, second: U64) -> Lanes:
    """The lanes of rows from the sums of their columns' lanes: a bijection, so that nothing is
    lost, after which sums of different rows have nothing in common."""
    a = _mix(first + second * _M3)
    return a, _mix(second + a * _M5)


# --- values of one width --------------------------------------------------------------------------


def _fixed(array: pa.Array, seed: str) -> Lanes | None:
    """Numbers, times, booleans, decimals; None for anything else."""
    from pyarrow import types

    kind = array.type
    if types.is_boolean(kind):
        return _of_words(_numbers(array.cast("uint8"), np.uint8), f"{seed}/bool")
    if types.is_floating(kind):
        return _of_words(_floats(array), f"{seed}/float")
    if types.is_uint64(kind):
        return _of_words(_numbers(array, np.uint64), f"{seed}/uint64")
    if types.is_integer(kind):
        return _of_words(_numbers(array, kind.to_pandas_dtype()), f"{seed}/int")
    if types.is_timestamp(kind):
        return _timestamps(array, seed)
    if types.is_date(kind):
        return _of_words(_numbers(array.cast("date32"), np.int32), f"{seed}/date")
    if types.is_time(kind) or types.is_duration(kind):
        width = np.int32 if kind.bit_width == 32 else np.int64
        return _of_words(_numbers(array, width), f"{seed}/{kind}")
    if types.is_decimal(kind):
        return _decimals(array, seed)
    return None


def _numbers(array: pa.Array, dtype: Any) -> npt.NDArray[Any]:
    """The values as they lie in memory; what stands where a NULL is means nothing."""
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.zeros(len(array), dtype)
    width = np.dtype(dtype).itemsize
    return np.frombuffer(data, dtype, len(array), array.offset * width)


def _floats(array: pa.Array) -> U64:
    found = _numbers(array, array.type.to_pandas_dtype()).astype(np.float64) + 0.0
    words = found.view(np.uint64)
    odd = np.isnan(found)
    if odd.any():
        words[odd] = _NAN
    return words


def _timestamps(array: pa.Array, seed: str) -> Lanes:
    values = _numbers(array, np.int64)
    if array.type.unit != "ns":
        return _of_words(values * _US_PER_UNIT[array.type.unit], f"{seed}/timestamp")
    whole, rest = np.divmod(values, 1_000)
    words = whole.view(np.uint64)
    odd = rest != 0
    if odd.any():
        words[odd] ^= _mix(rest[odd].view(np.uint64))
    return _of_words(words, f"{seed}/timestamp")


def _decimals(array: pa.Array, seed: str) -> Lanes:
    import pyarrow as pa

    kind = array.type
    if kind.bit_width != 128:
        try:
            array = array.cast(pa.decimal128(min(kind.precision, 38), kind.scale))
        except pa.ArrowInvalid as error:
            raise InvalidEntityFrame(
                f"Column {seed!r} has decimals of more than 38 digits ({error}). Round them"
            ) from error
    pairs = _numbers(array, np.dtype([("low", "<u8"), ("high", "<u8")]))
    first, second = _begin(len(array), f"{seed}/decimal {kind.scale}")
    for half in ("low", "high"):
        first, second = _next(first, second, np.ascontiguousarray(pairs[half]))
    return _mix(first), _mix(second)


def _of_words(values: npt.NDArray[Any], seed: str) -> Lanes:
    words = values if values.dtype == np.uint64 else values.astype(np.int64).view(np.uint64)
    x = words + _seeds(seed)[0]
    x ^= x >> _S32
    x *= _M1
    x ^= x >> _S29
    x *= _M2
    x ^= x >> _S32
    y = x * _M4
    y ^= y >> _S31
    return x, y


def _mix(x: U64) -> U64:
    """The finalizer of splitmix64, a bijection."""
    x = (x ^ (x >> _S32)) * _M1
    x = (x ^ (x >> _S27)) * _M2
    return x ^ (x >> _S31)


# --- texts, lists, maps, structs ------------------------------------------------------------------


def _variable(array: pa.Array, seed: str) -> Lanes | None:
    import pyarrow as pa
    from pyarrow import types

    kind = array.type
    if types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view":
        return _texts(array.cast(pa.large_string()), f"{seed}/text")
    if _is_binary(kind):
        return _texts(array.cast(pa.large_binary()), f"{seed}/bytes")
    if types.is_map(kind):
        bounds = _bounds(array)
        keys = hashes(_between(array.keys, bounds), f"{seed}/key")
        items = hashes(_between(array.items, bounds), f"{seed}/value")
        entries = finished(keys[0] + items[0], keys[1] + items[1])
        return _gathered(bounds, entries, f"{seed}/map", ordered=False)
    if types.is_fixed_size_list(kind):
        array = array.cast(pa.large_list(kind.value_type))
    if types.is_list(array.type) or types.is_large_list(array.type):
        bounds = _bounds(array)
        elements = hashes(_between(array.values, bounds), f"{seed}/element")
        return _gathered(bounds, elements, f"{seed}/list", ordered=True)
    if types.is_struct(kind):
        first, second = _constants(len(array), f"{seed}/struct")
        for field, values in zip(kind, array.flatten(), strict=True):
            a, b = hashes(values, f"{seed}.{field.name}")
            first, second = first + a, second + b
        return finished(first, second)
    return None


def _is_binary(kind: pa.DataType) -> bool:
    from pyarrow import types

    plain = types.is_binary(kind) or types.is_large_binary(kind)
    return plain or types.is_fixed_size_binary(kind) or str(kind) == "binary_view"


def _of_dictionary(array: Any, seed: str) -> Lanes:
    import pyarrow.compute as pc

    if not 0 < len(array.dictionary) < len(array):
        return hashes(array.cast(array.type.value_type), seed)
    first, second = hashes(array.dictionary, seed)
    places = pc.fill_null(array.indices, 0).to_numpy(zero_copy_only=False)
    found = first[places], second[places]
    nulls = array.is_null().to_numpy(zero_copy_only=False)
    for lane, constant in zip(found, _seeds(f"{seed}/null"), strict=True):
        lane[nulls] = constant
    return found


def _texts(array: pa.Array, seed: str) -> Lanes:
    """Texts by eight bytes at a time, all of them side by side; zeros stand behind their ends, and
    their lengths are in their beginnings."""
    offsets = np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    first, second = _begin(len(array), seed)
    first += lengths.view(np.uint64) * _M3
    second ^= lengths.view(np.uint64) * _M5
    data = array.buffers()[2]
    if data is None or not len(array) or offsets[0] == offsets[-1]:
        return _mix(first), _mix(second)
    windows = _windows(data, int(offsets[0]), int(offsets[-1]))
    starts = starts - offsets[0]
    short = lengths <= LONG_BYTES
    place, todo = 0, np.flatnonzero(short & (lengths > 0))
    while len(todo):
        words = windows[starts[todo] + place].astype(np.uint64)
        left = lengths[todo] - place
        cut = left < 8
        if cut.any():
            words[cut] &= (np.uint64(1) << (left[cut] * 8).astype(np.uint64)) - np.uint64(1)
        first[todo], second[todo] = _next(first[todo], second[todo], words)
        place += 8
        todo = todo[left > 8]
    for row in np.flatnonzero(~short):
        text = memoryview(data)[offsets[row] : offsets[row + 1]]
        digest = hashlib.blake2b(text, digest_size=16, person=b"long text").digest()
        first[row] ^= np.uint64(int.from_bytes(digest[:8], "little"))
        second[row] ^= np.uint64(int.from_bytes(digest[8:], "little"))
    return _mix(first), _mix(second)


def _windows(data: pa.Buffer, start: int, end: int) -> Any:
    """The eight bytes from each place on."""
    padded = np.zeros(end - start + 8, np.uint8)
    padded[: end - start] = np.frombuffer(data, np.uint8, end - start, start)
    return np.ndarray((end - start + 1,), "<u8", padded, strides=(1,))


def _bounds(array: Any) -> npt.NDArray[np.int64]:
    """Where each list begins among the elements, and where the last one ends."""
    found: npt.NDArray[np.int64] = array.offsets.to_numpy().astype(np.int64)
    return found


def _between(elements: pa.Array, bounds: npt.NDArray[np.int64]) -> pa.Array:
    """The elements of a slice: those of the whole array are beside them."""
    return elements.slice(bounds[0], bounds[-1] - bounds[0])


def _gathered(bounds: npt.NDArray[np.int64], elements: Lanes, seed: str, *, ordered: bool) -> Lanes:
    """What lists are from what their elements are."""
    bounds = bounds - bounds[0]
    lengths = np.diff(bounds)
    first, second = elements
    if ordered:
        places = np.arange(len(first), dtype=np.int64) - np.repeat(bounds[:-1], lengths)
        step = places.view(np.uint64)
        first, second = _mix(first + step * _M3), _mix(second ^ (step * _M5))
    found = []
    for lane, constant in zip((first, second), _seeds(seed), strict=True):
        sums = np.zeros(len(lane) + 1, np.uint64)
        np.cumsum(lane, out=sums[1:])
        total = sums[bounds[1:]] - sums[bounds[:-1]]
        found.append(_mix(total + constant + lengths.view(np.uint64) * _M4))
    return found[0], found[1]


def _begin(count: int, seed: str) -> Lanes:
    return _constants(count, seed)


def _next(first: U64, second: U64, words: U64) -> Lanes:
    a = (first ^ words) * _M1
    b = (second ^ ((words << _S32) | (words >> _S32))) * _M2
    return a ^ (a >> _S32), b ^ (b >> _S29)


def _constants(count: int, seed: str) -> Lanes:
    a, b = _seeds(seed)
    return np.full(count, a, np.uint64), np.full(count, b, np.uint64)


@lru_cache(maxsize=4_096)
def _seeds(text: str) -> tuple[np.uint64, np.uint64]:
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    halves = digest[:8], digest[8:]
    first, second = (np.uint64(int.from_bytes(half, "little")) for half in halves)
    return first, second

"""Store keys: `fs/{project}/{key space}/` and then the key bytes of the join keys.

An int64 is 8 bytes, big-endian with the sign bit flipped, so that keys sort as numbers do. A string
(UTF-8) or bytes value stands behind its length (4 bytes, big-endian), except in the last place:
composite keys keep their parts apart, and a key of one string is the string itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index as as_integer
from typing import TYPE_CHECKING, Any

from featurestore.dtypes import DType, Kind
from featurestore.errors import CorruptRow, InvalidJoinKey

if TYPE_CHECKING:
    import pyarrow as pa

_SIGN = 1 << 63
Part = Callable[[Any], bytes]


def project_prefix(project: str) -> bytes:
    """`fs/{project}/`: how all keys of a project begin, and no other project's."""
    return f"fs/{project}/".encode()


def key_prefix(project: str, key_space: str) -> bytes:
    """`fs/{project}/{key_space}/` (no braces: a cluster would take them for a hash tag)."""
    return project_prefix(project) + f"{key_space}/".encode()


def key_encoder(
    dtypes: Sequence[DType], prefix: bytes, *, names: Sequence[str] = ()
) -> Callable[[Sequence[Any]], bytes]:
    """A function of one key's values, in storage order, that returns its store key.

    Args:
        dtypes: the types of the join keys: int64 (or int32), string, bytes. None at all is the
            one key of a view without entities.
        names: the join keys' names, for messages.

    The function raises `InvalidJoinKey` for a value that is not of its key's type.
    """
    last = len(dtypes) - 1
    shown = tuple(names) or tuple(f"#{i + 1}" for i in range(len(dtypes)))
    parts = tuple(_PARTS[dtype.kind] for dtype in dtypes)
    steps = tuple((part, i != last and part is not _integer) for i, part in enumerate(parts))

    def explain(values: Sequence[Any], cause: Exception) -> InvalidJoinKey:
        for name, dtype, part, value in zip(shown, dtypes, parts, values, strict=False):
            try:
                part(value)
            except (TypeError, ValueError, OverflowError):
                return InvalidJoinKey(name, f"{_short(value)} is not {dtype}")
        return InvalidJoinKey(", ".join(shown), str(cause))

    def encode(values: Sequence[Any]) -> bytes:
        try:
            pieces = [prefix]
            for (part, measured), value in zip(steps, values, strict=True):
                piece = part(value)
                if measured:
                    pieces.append(len(piece).to_bytes(4, "big"))
                pieces.append(piece)
            return b"".join(pieces)
        except (TypeError, ValueError, OverflowError) as error:
            raise explain(values, error) from None

    def encode_only(values: Sequence[Any]) -> bytes:
        try:
            (value,) = values
            return prefix + only(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise explain(values, error) from None

    if len(parts) == 1:
        (only,) = parts
        return encode_only
    return encode


def encode_key(values: Sequence[Any], dtypes: Sequence[DType], prefix: bytes) -> bytes:
    """The store key of one key's values; `key_encoder` is the form for many."""
    return key_encoder(dtypes, prefix)(values)


def decode_key(key: bytes, dtypes: Sequence[DType], prefix: bytes) -> tuple[Any, ...]:
    """The values of a store key that `encode_key` made. Raises `CorruptRow` for other bytes."""
    values, place = list[Any](), len(prefix)
    try:
        if not key.startswith(prefix):
            raise ValueError("another prefix")
        for index, dtype in enumerate(dtypes):
            if _PARTS[dtype.kind] is _integer:
                size = 8
            elif index == len(dtypes) - 1:
                size = len(key) - place
            else:
                size = int.from_bytes(key[place : place + 4], "big")
                place += 4
            part = key[place : place + size]
            if len(part) != size:
                raise ValueError("too short")
            values.append(_VALUES[dtype.kind](part))
            place += size
        if place != len(key):
            raise ValueError("too long")
    except ValueError as error:
        raise CorruptRow(f"{_short(key)} is no key below {_short(prefix)}: {error}") from None
    return tuple(values)


def encode_keys(columns: Sequence[pa.Array], prefix: bytes) -> list[bytes]:
    """The store key of every row of the join key columns (Arrow, in storage order).

    Narrower integers are widened and dictionaries decoded. Without columns there is one key, the
    prefix. Raises `InvalidJoinKey` for NULLs and for columns of another type.
    """
    from featurestore.wire.key_batches import encode_keys as encode

    return encode(columns, prefix)


def _integer(value: Any) -> bytes:
    if value.__class__ is not int:
        if isinstance(value, bool):
            raise TypeError("a bool is no key")
        value = as_integer(value)
    return int.to_bytes(value + _SIGN, 8, "big")


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value.encode("utf-8")


def _bytes(value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("not bytes")
    return bytes(value)


_PARTS: dict[Kind, Part] = {
    Kind.INT32: _integer,
    Kind.INT64: _integer,
    Kind.STRING: _text,
    Kind.BYTES: _bytes,
}

_VALUES: dict[Kind, Callable[[bytes], Any]] = {
    Kind.INT32: lambda part: int.from_bytes(part, "big") - _SIGN,
    Kind.INT64: lambda part: int.from_bytes(part, "big") - _SIGN,
    Kind.STRING: lambda part: part.decode("utf-8"),
    Kind.BYTES: bytes,
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

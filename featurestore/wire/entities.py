"""The entities of an online request, as columns: from whatever the caller holds to what is sent.

The in-process path, both clients and both servers read callers' values through this one file, so
that they accept and refuse the same things. A column is typed by its values; whether it is the type
that a view's key needs is for the one who knows the plan (`KeyColumn.as_dtype`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from featurestore.dtypes import DType
from featurestore.errors import InvalidJoinKey, InvalidRequest, MissingJoinKey
from featurestore.wire import serving_pb2 as pb

FLOAT_KEY_MAX = 2**53
"""Integral floats up to here are read as ints (pandas makes floats of ints beside NULLs)."""
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

KeyKind = Literal["string", "int64", "bytes", "null", "other"]
_KINDS: dict[type, KeyKind] = {str: "string", int: "int64", bytes: "bytes"}


class KeyColumn(NamedTuple):
    """One column of the caller: `values` hold str, int (of 64 bits), bytes or None, as `kind` says.

    `null` has only None; `other` holds no keys (`found` names the type that it holds) and may stand
    beside the keys as long as no view needs it. `nullable` is whether there is a None.
    """

    name: str
    kind: KeyKind
    values: Sequence[Any]
    nullable: bool
    found: str = ""

    def as_dtype(self, dtype: DType) -> Sequence[Any]:
        """The values, if they are keys of type `dtype`. Raises `InvalidJoinKey`."""
        if self.kind in ("null", dtype.kind._value_):
            return self.values
        found = self.found or f"{self.kind} values"
        raise InvalidJoinKey(self.name, f"must be {dtype}, the caller sent {found}")


@dataclass(slots=True)
class Entities:
    """The entities of a request: `columns` by name, each of `count` values; `given` are the
    caller's own values, to hand back beside the features. (Nobody changes one; see `Request`.)"""

    count: int
    columns: Mapping[str, KeyColumn]
    given: Mapping[str, Sequence[Any]]


def read_entities(rows: Any) -> Entities:
    """Entities from a list of dicts, a dict of columns, or a pandas, polars or Arrow table.

    Raises `MissingJoinKey` where one row lacks what another has, `InvalidJoinKey` for an int that
    does not fit 64 bits or a text that is not Unicode, `InvalidRequest` for columns of different
    lengths and for what is none of these forms.
    """
    if rows.__class__ is list and len(rows) == 1 and rows[0].__class__ is dict:
        return _one(rows[0])
    given = columns_of(rows)
    lengths = {name: len(values) for name, values in given.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidRequest(f"the entity columns have different lengths: {lengths}")
    # Rows say how many entities there are even where they are empty; a dict without columns is one
    # entity without keys.
    count = next(iter(lengths.values()), 1) if isinstance(rows, Mapping) else len(rows)
    columns = {name: key_column(name, values) for name, values in given.items()}
    return Entities(count, columns, {name: column.values for name, column in columns.items()})


def _one(row: dict[Any, Any]) -> Entities:
    """The entity of one dict, the most frequent request: columns of one value each."""
    columns = {_name(name): key_column(name, [value]) for name, value in row.items()}
    return Entities(1, columns, {name: column.values for name, column in columns.items()})


def key_column(name: str, values: Sequence[Any]) -> KeyColumn:
    """The column, typed by its values. NaN and the like are NULL; integral floats are ints.

    Raises `InvalidJoinKey` for an int over 64 bits or a text with lone surrogates.
    """
    types = set(map(type, values))
    nullable = type(None) in types
    if not types <= _PLAIN:
        values = [_plain(value) for value in values]
        types = set(map(type, values))
        nullable = type(None) in types
    types.discard(type(None))
    if not types:
        return KeyColumn(name, "null", values, nullable)
    kind = _KINDS.get(next(iter(types))) if len(types) == 1 else None
    if kind is None:
        found = " and ".join(sorted(f"{found.__name__} values" for found in types))
        return KeyColumn(name, "other", values, nullable, found)
    _check(name, kind, values)
    return KeyColumn(name, kind, values, nullable)


def to_message(column: KeyColumn) -> pb.KeyColumn:
    """The column as it is sent; one that holds no keys is sent without values."""
    message = pb.KeyColumn(name=column.name)
    values = column.values
    if column.nullable and column.kind != "other":
        message.nulls.extend(index for index, value in enumerate(values) if value is None)
        blank = {"int64": 0, "bytes": b""}.get(column.kind, "")
        values = [blank if value is None else value for value in values]
    match column.kind:
        case "string" | "null":
            message.strings.values.extend(values)
        case "int64":
            message.int64s.values.extend(values)
        case "bytes":
            message.bytes.values.extend(values)
        case "other":
            pass
    return message


def from_message(message: pb.KeyColumn) -> KeyColumn:
    """The column as it was sent. Raises `InvalidRequest` for NULLs outside the column.

    (A slice of a repeated field is a list, and made in half the time that `list` takes.)
    """
    match message.WhichOneof("values"):
        case "strings":
            kind, values = "string", cast("list[Any]", message.strings.values[:])
        case "int64s":
            kind, values = "int64", message.int64s.values[:]
        case "bytes":
            kind, values = "bytes", message.bytes.values[:]
        case _:
            return KeyColumn(message.name, "other", (), nullable=False, found="no keys")
    if not values:
        return KeyColumn(message.name, "null", values, nullable=False)
    if not message.nulls:
        return KeyColumn(message.name, _KIND_OF[kind], values, nullable=False)
    try:
        for index in message.nulls:
            values[index] = None
    except IndexError:
        raise InvalidRequest(
            f"column {message.name!r} has {len(values)} values, and a NULL at {index}"
        ) from None
    whole = "null" if len(set(message.nulls)) == len(values) else kind
    return KeyColumn(message.name, _KIND_OF[whole], values, nullable=True)


_KIND_OF: dict[str, KeyKind] = {
    "string": "string",
    "int64": "int64",
    "bytes": "bytes",
    "null": "null",
}
_PLAIN = {str, int, bytes, type(None)}


def columns_of(rows: Any) -> dict[str, Sequence[Any]]:
    """The columns of what a caller may hold, by name. Raises as `read_entities` does."""
    if isinstance(rows, Mapping):
        return {_name(name): _values(values) for name, values in rows.items()}
    if hasattr(rows, "to_pydict"):
        columns: dict[str, Sequence[Any]] = rows.to_pydict()
        return columns
    if hasattr(rows, "columns") and hasattr(rows, "__getitem__"):
        return {_name(name): _values(rows[name]) for name in rows.columns}
    if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        return _transposed(rows)
    raise InvalidRequest(
        "entities are a list of dicts, a dict of columns, or a pandas, polars or Arrow table, "
        f"not {type(rows).__name__}"
    )


def _transposed(rows: Sequence[Any]) -> dict[str, Sequence[Any]]:
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidRequest(f"entity {index} must be a dict, not {type(row).__name__}")
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    try:
        return {_name(name): [row[name] for row in rows] for name in names}
    except KeyError:
        index, row, name = next(
            (i, row, name) for i, row in enumerate(rows) for name in names if name not in row
        )
        raise MissingJoinKey(name, needed_by=f"entity {index}", known=map(str, row)) from None


def _name(name: Any) -> str:
    if isinstance(name, str):
        return name
    raise InvalidRequest(f"the names of entity columns must be text, not {name!r}")


def _values(values: Any) -> Sequence[Any]:
    """A sequence of Python values from a list, a tuple, a numpy array or a Series."""
    for method in ("tolist", "to_list", "to_pylist"):
        if hasattr(values, method):
            found = getattr(values, method)()
            if isinstance(found, list):
                return found
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)):
        return list(values)
    raise InvalidRequest(
        f"an entity column must be a list of values, not {type(values).__name__}; "
        'write e.g. {"tailnum": ["N14228"]}'
    )


def _plain(value: Any) -> Any:
    """One value as str, int, bytes or None where it is such by nature, else as it is."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() and abs(value) <= FLOAT_KEY_MAX else value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return value


def _check(name: str, kind: KeyKind, values: Sequence[Any]) -> None:
    """Refuse what has no bytes on the wire, before protobuf does it with less to say."""
    if kind == "int64":
        numbers = [value for value in values if value is not None]
        if min(numbers) < _INT64_MIN or max(numbers) > _INT64_MAX:
            wrong = next(n for n in numbers if not _INT64_MIN <= n <= _INT64_MAX)
            raise InvalidJoinKey(name, f"{wrong} does not fit 64 bits")
    elif kind == "string":
        for value in values:
            if value is not None and not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError as error:
                    raise InvalidJoinKey(name, f"{value!r} is not valid Unicode") from error

"""Request inputs, as columns: from whatever the caller holds to what is sent, and to the types that
the plan's on-demand views declare.

A column is typed by its values, and they have the form in which rows carry them (timestamps as int
µs, dates as int days). Decimals are sent as texts, for their digits alone say no precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from featurestore import dtypes
from featurestore.dtypes import (
    BOOL,
    BYTES,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    Kind,
)
from featurestore.errors import InvalidRequest, InvalidRequestInput, MissingRequestInput
from featurestore.plain_values import converting, reader
from featurestore.timeline import DAY_US, INSTANT_US_MAX, INSTANT_US_MIN
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.decode import MALFORMED, converter
from featurestore.wire.entities import columns_of
from featurestore.wire.one_row import blob_data

_OF_TYPE: Mapping[type, DType] = {
    bool: BOOL,
    int: INT64,
    float: FLOAT64,
    str: STRING,
    Decimal: STRING,
    bytes: BYTES,
    bytearray: BYTES,
    datetime: TIMESTAMP,
    date: DATE,
}
_BLANK: Mapping[str, Any] = {"doubles": 0.0, "integers": 0, "blobs": b""}


class InputColumn(NamedTuple):
    """One column of request inputs: values of `dtype` as rows carry them, None for NULL. A column
    of nothing but NULLs has no type."""

    name: str
    dtype: DType | None
    values: Sequence[Any]

    def as_dtype(self, dtype: DType, count: int) -> Sequence[Any]:
        """The values as those of `dtype`, if there are `count` of them and they are such.

        Raises `InvalidRequestInput`.
        """
        if len(self.values) != count:
            raise InvalidRequestInput(
                self.name,
                f"there must be one value for each entity: {count:,} of {dtype}, "
                f"the caller sent {len(self.values):,}",
            )
        if self.dtype is None or self.dtype == dtype:
            return self.values
        convert = converting(self.dtype, dtype)
        lists = dtype.item is not None and self.dtype.item is not None
        if convert is None and lists and not any(self.values):
            return self.values  # empty lists are of any type
        if convert is None:
            raise InvalidRequestInput(
                self.name, f"must be {dtype}, the caller sent {self.dtype} values"
            )
        try:
            return [None if value is None else convert(value) for value in self.values]
        except ValueError as error:
            raise InvalidRequestInput(self.name, f"must be {dtype}: {error}") from None


Inputs = Mapping[str, InputColumn]


def read_inputs(rows: Any) -> Inputs | None:
    """Request inputs from a list of dicts (one per entity), a dict of columns, or a pandas, polars
    or Arrow table; None for None.

    Raises `MissingRequestInput` where one row lacks what another has, `InvalidRequestInput` for
    values of different types or of one that no input has, `InvalidRequest` for what is none of
    these forms.
    """
    if rows is None:
        return None
    given = _transposed(rows) if isinstance(rows, list | tuple) else columns_of(rows)
    return {name: input_column(name, values) for name, values in given.items()}


def input_column(name: str, values: Sequence[Any]) -> InputColumn:
    """The column, typed by its values. NaN and the like are NULL, -0.0 is 0.0, naive datetimes are
    UTC. Raises `InvalidRequestInput`."""
    dtype = _dtype_of(name, values)
    if dtype is None:
        return InputColumn(name, None, [None] * len(values))
    read = reader(dtype)
    try:
        found = [
            None if value is None else read(str(value) if isinstance(value, Decimal) else value)
            for value in values
        ]
    except ValueError as error:
        raise InvalidRequestInput(name, str(error)) from None
    return InputColumn(name, dtype, found)


def to_message(column: InputColumn) -> pb.InputColumn:
    """The column as it is sent."""
    dtype = column.dtype or FLOAT64
    message = pb.InputColumn(name=column.name, dtype="" if column.dtype is None else str(dtype))
    message.nulls.extend(i for i, value in enumerate(column.values) if value is None)
    if dtype.kind is Kind.STRING:
        message.strings.values.extend("" if v is None else v for v in column.values)
        return message
    blank = _BLANK[dtype.slot]
    values = [blank if value is None else value for value in column.values]
    if dtype.slot == "doubles":
        message.doubles.values.extend(values)
    elif dtype.slot == "integers":
        message.integers.values.extend(map(int, values))
    else:
        data = blob_data(dtype)
        message.blobs.values.extend(b"" if v is None else data(v) for v in column.values)
    return message


def from_message(message: pb.InputColumn) -> InputColumn:
    """The column as it was sent. Raises `InvalidRequestInput`."""
    name = message.name
    try:
        dtype = dtypes.parse(message.dtype) if message.dtype else None
        field = message.WhichOneof("values")
        if field is None:
            return InputColumn(name, dtype, ())
        values: list[Any] = getattr(message, field).values[:]
        if dtype is not None:
            wanted = "strings" if dtype.kind is Kind.STRING else dtype.slot
            if field != wanted:
                raise ValueError(f"values of {dtype} are sent as {wanted}, not as {field}")
        nulls = set(message.nulls)
        if nulls and max(nulls) >= len(values):
            raise ValueError(f"it has {len(values)} values, and a NULL at {max(nulls)}")
        if len(nulls) == len(values):
            return InputColumn(name, None, [None] * len(values))
        if dtype is None:
            raise ValueError("it says no dtype")
        read, convert = reader(dtype), _carried(dtype)
        found = [
            None if i in nulls else _read(value, dtype, convert, read)
            for i, value in enumerate(values)
        ]
    except MALFORMED as error:
        raise InvalidRequestInput(name, str(error)) from None
    return InputColumn(name, dtype, found)


def _dtype_of(name: str, values: Sequence[Any]) -> DType | None:
    """The type of the values: one for all, ints beside floats as floats."""
    found: dict[DType, None] = {}
    for kind in {type(value) for value in values if value is not None}:
        example = next(value for value in values if type(value) is kind)
        dtype = _of_value(name, example, values)
        if dtype is not None:
            found[dtype] = None
    if len(found) > 1 and set(found) <= {INT64, FLOAT64}:
        return FLOAT64
    if len(found) > 1:
        listed = " and ".join(sorted(map(str, found)))
        raise InvalidRequestInput(name, f"its values are of different types: {listed}")
    return next(iter(found), None)


def _of_value(name: str, example: Any, values: Sequence[Any]) -> DType | None:
    if isinstance(example, list | tuple):
        items = [v for value in values if isinstance(value, list | tuple) for v in value]
        item = _dtype_of(name, items)
        return DType(Kind.LIST, item=FLOAT64 if item is None else item)
    for kind in type(example).__mro__:
        if kind in _OF_TYPE:
            return _OF_TYPE[kind]
    if type(example).__name__ in ("NAType", "NaTType"):
        return None
    item_of = getattr(example, "item", None)
    if callable(item_of) and getattr(example, "shape", None) == ():
        return _of_value(name, item_of(), values)
    raise InvalidRequestInput(name, f"{example!r} ({type(example).__name__}) is of no type of ours")


def _transposed(rows: Sequence[Any]) -> dict[str, Sequence[Any]]:
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            kind = type(row).__name__
            raise InvalidRequest(f"request inputs of entity {index} must be a dict, not {kind}")
    names = dict.fromkeys(name for row in rows for name in row)
    for index, row in enumerate(rows):
        for name in names:
            if name not in row:
                needed = f"entity {index}"
                raise MissingRequestInput(str(name), needed_by=needed, known=map(str, row))
    return {_text(name): [row[name] for row in rows] for name in names}


def _text(name: Any) -> str:
    if isinstance(name, str):
        return name
    raise InvalidRequest(f"the names of request inputs must be text, not {name!r}")


def _carried(dtype: DType) -> Any:
    if dtype.kind in (Kind.TIMESTAMP, Kind.DATE, Kind.STRING, Kind.BOOL):
        return None
    if dtype.item is not None and dtype.item.kind in (Kind.TIMESTAMP, Kind.DATE):
        return converter(DType(Kind.LIST, item=INT64))
    return converter(dtype)


def _read(value: Any, dtype: DType, convert: Any, read: Any) -> Any:
    """A value as it came over the wire, as rows carry it; NaN is NULL. Raises `ValueError`."""
    if convert is not None:
        value = convert(value)
    if dtype.kind is Kind.BOOL:
        if value not in (0, 1):
            raise ValueError(f"{value} is no bool")
        return bool(value)
    item = dtype.item.kind if dtype.item is not None else dtype.kind
    if item in (Kind.TIMESTAMP, Kind.DATE):
        _check_years(value if isinstance(value, list) else [value], item)
        return value
    return read(value)


def _check_years(values: Iterable[Any], kind: Kind) -> None:
    unit = DAY_US if kind is Kind.DATE else 1
    for value in values:
        if value is not None and not INSTANT_US_MIN <= value * unit <= INSTANT_US_MAX:
            raise ValueError("a time lies outside the years 1 to 9999")

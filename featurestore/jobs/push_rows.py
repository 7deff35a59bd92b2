"""Rows that somebody pushes, read into the types of their source, whole or not at all.

Rows are dicts, a dict of columns, or a pandas, polars or Arrow table; values are Python's own, or
what JSON has for them (ISO 8601 texts for instants and days, texts for decimals, base64 for bytes,
which `from_json` says). A value is taken exactly or refused with its column and row.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.definitions.source import SqlSource
from featurestore.dtypes import DATE, TIMESTAMP, DType, Kind, from_arrow, to_arrow
from featurestore.errors import (
    InternalError,
    InvalidRequest,
    InvalidRows,
    LimitExceeded,
    UnknownSource,
    suggest,
)
from featurestore.timeline import DAY_US, INSTANT_US_MAX, INSTANT_US_MIN, to_us

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo, TypedSource

OPERATIONS = ("U", "D")


def pushed_source(repo: TypedRepo, name: object) -> TypedSource:
    """The source that rows are pushed to. Raises `UnknownSource`, `InvalidRequest` for a query."""
    source = repo.sources.get(str(name))
    if source is None:
        raise UnknownSource(str(name), known=repo.sources)
    if isinstance(source.definition, SqlSource):
        listed = ", ".join(source.inputs) or "none"
        raise InvalidRequest(
            f"source {source.name!r} is a query, which takes no rows; push to what it reads: "
            f"{listed}"
        )
    return source


def read_rows(
    source: TypedSource, rows: object, *, rows_max: int, from_json: bool = False
) -> pa.Table:
    """The rows with all columns of `source`, under our names and in its types.

    A column that says when a row was created or what is done with it (`created_time`, `op`) may be
    left out. Raises `InvalidRows`, `InvalidRequest`, `LimitExceeded`.
    """
    given = _columns(source, rows)
    count = _count(given)
    if count > rows_max:
        raise LimitExceeded(
            "rows_per_push_max", asked=count, allowed=rows_max, hint="Push in parts."
        )
    _check_names(source, given)
    reader = _Reader(source.name, from_json)
    arrays = {
        column.name: reader.column(given[column.name], column.dtype, column.name)
        if column.name in given
        else pa.nulls(count, to_arrow(column.dtype))
        for column in source.columns
    }
    if source.op is not None:
        arrays[source.op] = pc.fill_null(arrays[source.op], OPERATIONS[0])
    table = pa.table(arrays)
    _check_rows(source, table)
    return table


# --- what is given --------------------------------------------------------------------------------


def _columns(source: TypedSource, rows: Any) -> dict[str, Any]:
    """Sequences of Python values, or Arrow arrays, by name."""
    if isinstance(rows, Mapping):
        found = {str(name): values for name, values in rows.items()}
        for name, values in found.items():
            if isinstance(values, str | bytes) or not isinstance(values, Iterable):
                raise InvalidRequest(
                    f"rows are a list of dicts or a dict of columns; {name!r} holds one value"
                )
        return {name: _sequence(values) for name, values in found.items()}
    table = _as_arrow(rows)
    if table is not None:
        return dict(zip(table.column_names, table.columns, strict=True))
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        return _transposed(source, rows)
    raise InvalidRequest(
        "rows are a list of dicts, a dict of columns, or a pandas, polars or Arrow table, not "
        f"{type(rows).__name__}"
    )


def _sequence(values: Any) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    for method in ("to_list", "tolist"):
        if hasattr(values, method):
            return getattr(values, method)()
    return list(values)


def _as_arrow(rows: Any) -> pa.Table | None:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    try:
        if hasattr(rows, "to_arrow"):
            return pa.table(rows.to_arrow())
        if hasattr(rows, "iloc"):
            return pa.Table.from_pandas(rows, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidRequest(f"the table can't be read: {error}") from error
    return None


def _transposed(source: TypedSource, rows: Sequence[Any]) -> dict[str, list[Any]]:
    # Looking whether each is a `Mapping` takes longer than reading it.
    plain = set(map(type, rows)) == {dict}
    for index, row in () if plain else enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidRows(
                f"row {index} of the push to source {source.name!r} is a dict of column and "
                f"value, not {type(row).__name__}",
                source=source.name,
                row=index,
            )
    names = dict.fromkeys(chain.from_iterable(rows))
    optional = _optional(source)
    columns: dict[str, list[Any]] = {}
    for name in names:
        try:
            columns[str(name)] = list(map(itemgetter(name), rows))
        except KeyError:
            if name in optional:
                columns[str(name)] = [row.get(name) for row in rows]
                continue
            index = next(i for i, row in enumerate(rows) if name not in row)
            raise InvalidRows(
                f"row {index} of the push to source {source.name!r} has no column {name!r}; write "
                "None where there is no value",
                source=source.name,
                column=str(name),
                row=index,
            ) from None
    return columns


def _count(given: Mapping[str, Any]) -> int:
    lengths = {name: len(values) for name, values in given.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidRequest(f"the columns have different lengths: {lengths}")
    return next(iter(lengths.values()), 0)


def _optional(source: TypedSource) -> set[str | None]:
    return {source.created_time, source.op}


def _check_names(source: TypedSource, given: Mapping[str, Any]) -> None:
    known = [column.name for column in source.columns]
    if not given:
        raise InvalidRows(f"no rows were given for source {source.name!r}", source=source.name)
    for name in given:
        if name not in known:
            raise InvalidRows(
                f"source {source.name!r} has no column {name!r}.{suggest(name, known)}",
                source=source.name,
                column=name,
            )
    for name in known:
        if name not in given and name not in _optional(source):
            raise InvalidRows(
                f"the push to source {source.name!r} lacks column {name!r} "
                f"({source.dtype(name)}); give None where a row has no value",
                source=source.name,
                column=name,
            )


# --- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reader:
    source: str
    from_json: bool

    def column(self, values: Any, dtype: DType, name: str) -> pa.Array:
        """The values as one array of exactly the type, NaN read as NULL and −0.0 as 0.0."""
        if isinstance(values, pa.Array | pa.ChunkedArray):
            array = self._arrow(values, dtype)
            if array is None:
                return self.column(values.to_pylist(), dtype, name)
        else:
            array = self._python(values, dtype, name)
        return _settled(array, dtype)

    def _arrow(self, values: Any, dtype: DType) -> pa.Array | None:
        """What Arrow casts exactly; None for what is looked at value by value."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
            if isinstance(values, pa.ChunkedArray):
                values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([])
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_null(values.type):
            return pa.nulls(len(values), to_arrow(dtype))
        try:
            found = from_arrow(values.type)
        except ValueError:
            return None
        if dtype == TIMESTAMP == found:
            return _floored(values)
        numbers = dtype.is_integer or dtype.is_float
        same = found == dtype or (numbers and (found.is_integer or found.is_float))
        if not same:
            return None
        try:
            if found.is_float and not dtype.is_float:
                nan = pc.is_nan(values)
                values = pc.if_else(nan, pa.scalar(None, values.type), values)
            return values.cast(to_arrow(dtype))
        except pa.ArrowException:
            return None

    def _python(self, values: Sequence[Any], dtype: DType, name: str) -> pa.Array:
        kinds = set(map(type, values)) - {type(None)}
        try:
            if kinds <= _PLAIN.get(dtype.kind, set()):
                return pa.array(values, to_arrow(dtype))
        except (pa.ArrowException, ValueError, OverflowError, TypeError):
            pass  # the value that is wrong is found below
        if dtype == TIMESTAMP and kinds == {str}:
            # Five times as fast, but for texts with a zone only.
            with suppress(pa.ArrowException, ValueError):
                return pa.array(values, pa.string()).cast(to_arrow(dtype))
        read = _value_reader(dtype, self.from_json)
        try:
            return pa.array([read(value) for value in values], to_arrow(dtype))
        except _UNREADABLE:
            raise self._wrong(values, dtype, name, read) from None

    def _wrong(
        self, values: Sequence[Any], dtype: DType, name: str, read: Callable[[Any], Any]
    ) -> InvalidRows:
        """The error for the first value that can't be read."""
        for index, value in enumerate(values):
            try:
                pa.array([read(value)], to_arrow(dtype))
            except _UNREADABLE:
                return InvalidRows(
                    f"row {index} of the push to source {self.source!r}: column {name!r} is "
                    f"{dtype}, which {_shown(value)} is not",
                    source=self.source,
                    column=name,
                    row=index,
                )
        raise InternalError(f"column {name!r} can be read value by value, but not as a whole")


_UNREADABLE = (
    pa.ArrowException,
    ValueError,
    OverflowError,
    TypeError,
    ArithmeticError,
    InvalidRequest,
)
_PLAIN: dict[Kind, set[type]] = {
    Kind.BOOL: {bool},
    Kind.INT32: {int},
    Kind.INT64: {int},
    Kind.FLOAT32: {float, int},
    Kind.FLOAT64: {float, int},
    Kind.DECIMAL: {Decimal, int},
    Kind.STRING: {str},
    Kind.TIMESTAMP: {datetime},
    Kind.DATE: {date},
}
"""What Arrow takes exactly as it is. (Bytes may be base64, and items of lists anything.)"""


def _value_reader(dtype: DType, from_json: bool) -> Callable[[Any], Any]:
    """A function of one value that gives what Arrow takes, or raises."""
    if dtype.item is not None:
        item = _value_reader(dtype.item, from_json)
        return lambda value: None if value is None else [item(one) for one in _items(value)]
    kind = {
        Kind.BOOL: _bool,
        Kind.INT32: _integer,
        Kind.INT64: _integer,
        Kind.FLOAT32: _float,
        Kind.FLOAT64: _float,
        Kind.DECIMAL: _decimal,
        Kind.STRING: _string,
        Kind.BYTES: _json_bytes if from_json else _bytes,
        Kind.TIMESTAMP: to_us,
        Kind.DATE: _day,
    }[dtype.kind]
    return lambda value: None if _is_null(value) else kind(_unboxed(value))


def _is_null(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def _unboxed(value: Any) -> Any:
    """numpy's scalars as Python's."""
    return value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
        return _plain_float(value)
    if int(float(value)) != int(value):
        raise ValueError
    return float(value)


def _plain_float(value: Any) -> float:
    if not isinstance(value, float):
        raise TypeError
    return value


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool | bytes):
        raise TypeError
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise ValueError from None


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError
    return bytes(value)


_URL_SAFE = str.maketrans("-_", "+/")


def _json_bytes(value: Any) -> bytes:
    try:
        # Either alphabet of base64.
        text = value.translate(_URL_SAFE) if isinstance(value, str) else None
        return _bytes(value) if text is None else base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError from None


def _day(value: Any) -> date:
    if isinstance(value, str):
        return date.fromisoformat(value)
    if isinstance(value, datetime) or not isinstance(value, date):
        raise TypeError
    return value


def _floored(values: pa.Array) -> pa.Array:
    """Instants in µs; nanoseconds are floored, naive ones are UTC."""
    unit = values.type.unit
    wanted = to_arrow(TIMESTAMP)
    if unit != "ns":
        return values.cast(pa.timestamp("us", tz=values.type.tz)).cast(wanted)
    ns = values.cast(pa.int64())
    us = pc.divide(pc.subtract(ns, _rest(ns)), 1_000)
    return us.cast(pa.timestamp("us")).cast(wanted)


def _rest(ns: pa.Array) -> pa.Array:
    """`ns` modulo 1,000, never negative."""
    truncated = pc.subtract(ns, pc.multiply(pc.divide(ns, 1_000), 1_000))
    return pc.if_else(pc.less(truncated, 0), pc.add(truncated, 1_000), truncated)


def _settled(array: pa.Array, dtype: DType) -> pa.Array:
    if dtype.is_float:
        null = pa.scalar(None, array.type)
        cleaned = pc.add(pc.if_else(pc.is_nan(array), null, array), pa.scalar(0.0, array.type))
        return cleaned.cast(to_arrow(dtype))
    if dtype.item is not None and dtype.item.is_float:
        rows = [
            None if row is None else [None if _is_null(v) else v + 0.0 for v in row]
            for row in array.to_pylist()
        ]
        return pa.array(rows, to_arrow(dtype))
    return array


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


# --- rows -----------------------------------------------------------------------------------------


def _check_rows(source: TypedSource, table: pa.Table) -> None:
    """What every row must have: an event time in the years that there are, an id where the source
    declares one, a known operation."""
    _no_nulls(source, table, source.event_time, "an event time")
    if source.definition.event_id is not None:
        _no_nulls(source, table, source.definition.event_id, "an event id")
    for name in (source.event_time, source.created_time):
        if name is not None:
            _check_years(source, table, name)
    if source.op is not None:
        known = pc.is_in(table[source.op], value_set=pa.array([*OPERATIONS, None], pa.string()))
        _refuse(source, source.op, pc.invert(known), "op is U (row) or D (delete)")


def _no_nulls(source: TypedSource, table: pa.Table, name: str, what: str) -> None:
    column = table[name]
    if column.null_count:
        _refuse(source, name, pc.is_null(column), f"every row needs {what}")


def _check_years(source: TypedSource, table: pa.Table, name: str) -> None:
    is_day = source.dtype(name) == DATE
    column = table[name].cast(pa.int32()) if is_day else table[name]
    instants = column.cast(pa.int64())
    unit = DAY_US if is_day else 1
    # The end of a day is the next day's first instant.
    low, high = -(-INSTANT_US_MIN // unit), INSTANT_US_MAX // unit - is_day
    outside = pc.or_(pc.less(instants, low), pc.greater(instants, high))
    _refuse(source, name, outside, "the time lies outside the years 1 to 9999")


def _refuse(source: TypedSource, column: str, wrong: Any, why: str) -> None:
    if pc.any(wrong).as_py():
        row = wrong.to_pylist().index(True)
        raise InvalidRows(
            f"row {row} of the push to source {source.name!r}, column {column!r}: {why}",
            source=source.name,
            column=column,
            row=row,
        )

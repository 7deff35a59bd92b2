"""The types of feature values: one table, from which every other mapping derives.

Arrow is the reference. An enum of our own stands for it so that definitions need no pyarrow
(0.3 s of import); `to_arrow` and `from_arrow` load it when first called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

DECIMAL_PRECISION_MAX = 38
PARSED_MAX = 1_024
"""Texts of types that are remembered: a plan or a signature names the same few again and again."""

Slot = Literal["doubles", "integers", "blobs"]
"""Which repeated field of `Row` a value rides in."""


class Kind(Enum):
    """The type constructors; `DType` adds parameters."""

    BOOL = "bool"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    DECIMAL = "decimal"
    STRING = "string"
    BYTES = "bytes"
    TIMESTAMP = "timestamp"
    DATE = "date"
    LIST = "list"
    MAP = "map"


MAP_KEYS = (Kind.STRING, Kind.INT64, Kind.BOOL)
"""What keys of maps may be."""
_MAP_KEY_NAMES = ", ".join(kind.value for kind in MAP_KEYS)


@dataclass(frozen=True, slots=True)
class _Facts:
    duckdb: str
    slot: Slot
    numeric: bool = False
    key: bool = False


_TABLE: dict[Kind, _Facts] = {
    Kind.BOOL: _Facts("BOOLEAN", "integers"),
    Kind.INT32: _Facts("INTEGER", "integers", numeric=True),
    Kind.INT64: _Facts("BIGINT", "integers", numeric=True, key=True),
    Kind.FLOAT32: _Facts("FLOAT", "doubles", numeric=True),
    Kind.FLOAT64: _Facts("DOUBLE", "doubles", numeric=True),
    Kind.DECIMAL: _Facts("DECIMAL", "blobs", numeric=True),
    Kind.STRING: _Facts("VARCHAR", "blobs", key=True),
    Kind.BYTES: _Facts("BLOB", "blobs", key=True),
    Kind.TIMESTAMP: _Facts("TIMESTAMPTZ", "integers"),
    Kind.DATE: _Facts("DATE", "integers"),
    Kind.LIST: _Facts("LIST", "blobs"),
    Kind.MAP: _Facts("MAP", "blobs"),
}
_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_LIST = re.compile(r"list<(.+)>")
_MAP = re.compile(r"map<\s*(\w+)\s*,(.+)>")


@dataclass(frozen=True, slots=True)
class DType:
    """A type: a `kind`, for decimals `precision` and `scale`, for lists the `item` type, for maps
    the types of `key` and `value`.

    Raises `ValueError` for parameters that do not belong to the kind.
    """

    kind: Kind
    precision: int | None = None
    scale: int | None = None
    item: DType | None = None
    key: DType | None = None
    value: DType | None = None

    def __post_init__(self) -> None:
        if self.kind is Kind.DECIMAL:
            if self.precision is None or self.scale is None:
                raise ValueError("a decimal needs precision and scale: decimal(12,2)")
            if not 1 <= self.precision <= DECIMAL_PRECISION_MAX:
                raise ValueError(f"decimal precision must be 1 to {DECIMAL_PRECISION_MAX}")
            if not 0 <= self.scale <= self.precision:
                raise ValueError("decimal scale must be 0 to the precision")
        elif self.precision is not None or self.scale is not None:
            raise ValueError("precision and scale are for decimals only: decimal(12,2)")
        if (self.kind is Kind.LIST) != (self.item is not None):
            raise ValueError("a list, and only a list, has an item type: list<int64>")
        typed = self.key is not None and self.value is not None
        if (self.kind is Kind.MAP) != typed or (self.key is None) != (self.value is None):
            raise ValueError("a map, and only a map, has key and value types: map<string,int64>")
        if self.key is not None and self.key.kind not in MAP_KEYS:
            raise ValueError(f"the keys of a map are {_MAP_KEY_NAMES}, not {self.key}")

    def __str__(self) -> str:
        if self.kind is Kind.DECIMAL:
            return f"decimal({self.precision},{self.scale})"
        if self.kind is Kind.LIST:
            return f"list<{self.item}>"
        if self.kind is Kind.MAP:
            return f"map<{self.key},{self.value}>"
        return str(self.kind.value)

    @property
    def slot(self) -> Slot:
        """Which repeated field of `Row` holds values of this type."""
        return _TABLE[self.kind].slot

    @property
    def is_numeric(self) -> bool:
        return _TABLE[self.kind].numeric

    @property
    def is_key(self) -> bool:
        """Whether a join key may have this type (int32 keys widen to int64 before)."""
        return _TABLE[self.kind].key

    @property
    def is_integer(self) -> bool:
        return self.kind in (Kind.INT32, Kind.INT64)

    @property
    def is_float(self) -> bool:
        return self.kind in (Kind.FLOAT32, Kind.FLOAT64)

    @property
    def duckdb(self) -> str:
        """The type as DuckDB SQL writes it."""
        if self.kind is Kind.DECIMAL:
            return f"DECIMAL({self.precision},{self.scale})"
        if self.item is not None:
            return f"{self.item.duckdb}[]"
        if self.key is not None and self.value is not None:
            return f"MAP({self.key.duckdb}, {self.value.duckdb})"
        return _TABLE[self.kind].duckdb


BOOL = DType(Kind.BOOL)
INT32 = DType(Kind.INT32)
INT64 = DType(Kind.INT64)
FLOAT32 = DType(Kind.FLOAT32)
FLOAT64 = DType(Kind.FLOAT64)
STRING = DType(Kind.STRING)
BYTES = DType(Kind.BYTES)
TIMESTAMP = DType(Kind.TIMESTAMP)
DATE = DType(Kind.DATE)


def map_of(key: DType, value: DType) -> DType:
    """The type of maps from `key` to `value`."""
    return DType(Kind.MAP, key=key, value=value)


def holds_map(dtype: DType) -> bool:
    """Whether it is a map, or a list of some."""
    return dtype.kind is Kind.MAP or (dtype.item is not None and holds_map(dtype.item))


@lru_cache(maxsize=PARSED_MAX)
def parse(text: str) -> DType:
    """The type that `str` of it gives back: `int64`, `decimal(12,2)`, `list<string>`.

    Raises `ValueError`, which names all types, for other text.
    """
    text = text.strip()
    if match := _DECIMAL.fullmatch(text):
        return DType(Kind.DECIMAL, precision=int(match[1]), scale=int(match[2]))
    if match := _LIST.fullmatch(text):
        return DType(Kind.LIST, item=parse(match[1]))
    if match := _MAP.fullmatch(text):
        return map_of(parse(match[1]), parse(match[2]))
    plain = {kind.value for kind in Kind} - {"decimal", "list", "map"}
    if text in plain:
        return DType(Kind(text))
    raise ValueError(
        f"{text!r} is not a type; the types are {', '.join(sorted(plain))}, decimal(p,s), list<…>, "
        "map<…,…>"
    )


def to_arrow(dtype: DType) -> pa.DataType:
    """The Arrow type; timestamps are µs in UTC."""
    import pyarrow as pa

    if dtype.kind is Kind.DECIMAL:
        return pa.decimal128(dtype.precision, dtype.scale)
    if dtype.item is not None:
        return pa.list_(to_arrow(dtype.item))
    if dtype.key is not None and dtype.value is not None:
        return pa.map_(to_arrow(dtype.key), to_arrow(dtype.value))
    return {
        Kind.BOOL: pa.bool_(),
        Kind.INT32: pa.int32(),
        Kind.INT64: pa.int64(),
        Kind.FLOAT32: pa.float32(),
        Kind.FLOAT64: pa.float64(),
        Kind.STRING: pa.string(),
        Kind.BYTES: pa.binary(),
        Kind.TIMESTAMP: pa.timestamp("us", tz="UTC"),
        Kind.DATE: pa.date32(),
    }[dtype.kind]


def from_arrow(arrow: pa.DataType) -> DType:
    """The type that values of an Arrow type are read as: small ints widen to int32, uint32 to
    int64, every timestamp becomes µs in UTC, dictionaries become their values.

    Raises `ValueError` for Arrow types that no feature can have (structs, maps, uint64, …).
    """
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(arrow):
        return from_arrow(arrow.value_type)
    if types.is_decimal128(arrow):
        return DType(Kind.DECIMAL, precision=arrow.precision, scale=arrow.scale)
    if types.is_list(arrow) or types.is_large_list(arrow) or types.is_fixed_size_list(arrow):
        return DType(Kind.LIST, item=from_arrow(arrow.value_type))
    if types.is_timestamp(arrow):
        return TIMESTAMP
    plain = {
        pa.bool_(): BOOL,
        pa.int8(): INT32,
        pa.int16(): INT32,
        pa.int32(): INT32,
        pa.uint8(): INT32,
        pa.uint16(): INT32,
        pa.int64(): INT64,
        pa.uint32(): INT64,
        pa.float16(): FLOAT32,
        pa.float32(): FLOAT32,
        pa.float64(): FLOAT64,
        pa.string(): STRING,
        pa.large_string(): STRING,
        pa.string_view(): STRING,
        pa.binary(): BYTES,
        pa.large_binary(): BYTES,
        pa.binary_view(): BYTES,
        pa.date32(): DATE,
        pa.date64(): DATE,
    }
    if arrow in plain:
        return plain[arrow]
    raise ValueError(f"Arrow type {arrow} has no feature type")


def from_duckdb(text: str) -> DType:
    """The type that a DuckDB column of type `text` (as DESCRIBE prints it) is read as.

    Raises `ValueError` for types that no feature can have.
    """
    text = text.strip().upper()
    if text.endswith("[]"):
        return DType(Kind.LIST, item=from_duckdb(text[:-2]))
    if text.startswith("DECIMAL("):
        return parse(text.lower())
    if text.startswith("TIMESTAMP"):
        return TIMESTAMP
    plain = {facts.duckdb: DType(kind) for kind, facts in _TABLE.items() if kind not in _PARAMETRIC}
    widened = {
        "TINYINT": INT32,
        "SMALLINT": INT32,
        "UTINYINT": INT32,
        "USMALLINT": INT32,
        "UINTEGER": INT64,
        "REAL": FLOAT32,
    }
    found = (plain | widened).get(text)
    if found is None:
        raise ValueError(f"DuckDB type {text} has no feature type")
    return found


_PARAMETRIC = (Kind.DECIMAL, Kind.LIST, Kind.MAP)
_WIDENS: dict[Kind, tuple[Kind, ...]] = {
    Kind.INT32: (Kind.INT64, Kind.FLOAT64),
    Kind.INT64: (Kind.FLOAT64,),
    Kind.FLOAT32: (Kind.FLOAT64,),
}


def widens(narrow: DType, wide: DType) -> bool:
    """Whether every value of `narrow` reads as the same value of `wide` without being asked
    (int32 → int64, float32 → float64; int64 → float64 is arithmetic's, not a file's)."""
    if narrow == wide:
        return True
    if (narrow.kind, wide.kind) in ((Kind.INT32, Kind.INT64), (Kind.FLOAT32, Kind.FLOAT64)):
        return True
    if narrow.item is not None and wide.item is not None:
        return widens(narrow.item, wide.item)
    return False


def common(left: DType, right: DType) -> DType | None:
    """The least type that both sides of an operator or all branches of a CASE are read as, or
    None where there is none."""
    if left == right:
        return left
    if right.kind in _WIDENS.get(left.kind, ()):
        return right
    if left.kind in _WIDENS.get(right.kind, ()):
        return left
    if left.is_numeric and right.is_numeric:
        return FLOAT64
    if {left.kind, right.kind} == {Kind.DATE, Kind.TIMESTAMP}:
        return TIMESTAMP
    return None

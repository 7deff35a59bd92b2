"""Rows that someone wrote out, as the files of a source: how `featurestore test` gives a
repository data of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.compiler.program import over_views
from featurestore.definitions.source import FileSource
from featurestore.dtypes import DType, Kind, to_arrow
from featurestore.errors import InvalidRequest, suggest
from featurestore.timeline import to_us

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.typed import TypedRepo

_INT_BITS = {Kind.INT32: 32, Kind.INT64: 64}


def literal(value: Any, dtype: DType) -> Any:
    """`value`, as someone would write it in Python, as a plain value of `dtype`: instants become
    int µs, dates `date`, decimals `Decimal`. Raises `ValueError`, saying what was expected."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if dtype.item is not None:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{value!r} is not a {dtype}")
        return [literal(item, dtype.item) for item in value]
    if dtype.key is not None and dtype.value is not None:
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} is not a {dtype}")
        pairs = value.items()
        return {literal(key, dtype.key): literal(one, dtype.value) for key, one in pairs}
    try:
        found = _scalar(value, dtype)
    except (InvalidRequest, InvalidOperation, TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is not of type {dtype}") from error
    return found


def _scalar(value: Any, dtype: DType) -> Any:
    match dtype.kind:
        case Kind.TIMESTAMP:
            return to_us(value)
        case Kind.DATE:
            if isinstance(value, datetime):
                raise TypeError
            return value if isinstance(value, date) else date.fromisoformat(value)
        case Kind.DECIMAL:
            return Decimal(value if isinstance(value, str | int) else str(value))
        case Kind.FLOAT32 | Kind.FLOAT64:
            if isinstance(value, bool):
                raise TypeError
            return float(value) + 0.0
        case Kind.INT32 | Kind.INT64:
            half = 1 << (_INT_BITS[dtype.kind] - 1)
            if isinstance(value, bool) or int(value) != value or not -half <= value < half:
                raise TypeError
            return int(value)
        case _:
            wanted: dict[Kind, type] = {Kind.BOOL: bool, Kind.STRING: str, Kind.BYTES: bytes}
            if not isinstance(value, wanted[dtype.kind]):
                raise TypeError
            return value


def column(values: Iterable[Any], dtype: DType) -> pa.Array:
    """Literals of one type as an Arrow array. Raises `ValueError`."""
    import pyarrow as pa

    return pa.array([literal(value, dtype) for value in values], type=to_arrow(dtype))


def table(rows: Sequence[Mapping[str, Any]], dtypes: Mapping[str, DType], *, what: str) -> pa.Table:
    """Rows as a table of exactly the columns `dtypes`; one that a row leaves out is NULL.

    Raises `InvalidRequest` that names row and column for a value of another type, and for a column
    that is not among `dtypes`.
    """
    import pyarrow as pa

    for number, row in enumerate(rows):
        for name, value in row.items():
            if name not in dtypes:
                close = suggest(name, dtypes)
                raise InvalidRequest(f"{what}, row {number}: there is no column {name!r}.{close}")
            try:
                literal(value, dtypes[name])
            except ValueError as error:
                raise InvalidRequest(f"{what}, row {number}, column {name!r}: {error}") from None
    return pa.table(
        {name: column([row.get(name) for row in rows], dtype) for name, dtype in dtypes.items()}
    )


def with_literal_rows(
    repo: TypedRepo, rows: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path
) -> TypedRepo:
    """`repo` with the files of all its file sources replaced by literal rows (none where `rows`
    has none), which are written below `folder`. Versions and hashes stay what they were.

    Raises `InvalidRequest` for a source that is unknown or no file source, and as `table` does.
    """
    from pyarrow import parquet

    swapped = dict(repo.sources)
    definitions = {
        name: source.definition
        for name, source in repo.sources.items()
        if isinstance(source.definition, FileSource)
    }
    for name in rows:
        if name not in definitions:
            raise InvalidRequest(f"there is no file source {name!r}.{suggest(name, definitions)}")
    for name, definition in definitions.items():
        source = swapped[name]
        dtypes = {one.name: one.dtype for one in source.columns}
        made = table(rows.get(name, ()), dtypes, what=f"rows of {name!r}")
        path = folder / f"{name}.parquet"
        parquet.write_table(made, path)
        swapped[name] = replace(source, definition=_reading(definition, path))
    views = {
        name: replace(view, source=swapped[view.source.name]) for name, view in repo.views.items()
    }
    computed = {name: over_views(view, views) for name, view in repo.on_demand.items()}
    return replace(repo, sources=swapped, views=views, on_demand=computed, services={})


def _reading(definition: FileSource, path: Path) -> FileSource:
    """The same source over our own file, whose columns have our names already."""
    return FileSource(
        definition.name,
        path=path,
        event_time=definition.event_time,
        created_time=definition.created_time,
        event_time_is=definition.event_time_is,
        tiebreak=definition.tiebreak,
        op=definition.op,
        event_id=definition.event_id,
        lateness=definition.lateness,
        format="parquet",
    )

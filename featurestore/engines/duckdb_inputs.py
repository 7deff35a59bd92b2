"""Arrow data that a caller hands in becomes tables of one DuckDB cursor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from featurestore.compiler.rel import Input
from featurestore.dtypes import TIMESTAMP, to_arrow
from featurestore.engines import duckdb_values as values
from featurestore.engines.duckdb_sql import ROW, identifiers, input_table
from featurestore.engines.sql import literal, quote, sql_type
from featurestore.errors import InternalError, InvalidValue

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

INPUT_ROWS = 1_000_000
"""Rows of a streamed input that are gathered before DuckDB takes them."""
_VIEW = "arriving"


def create_inputs(
    cursor: duckdb.DuckDBPyConnection,
    nodes: Mapping[str, Input],
    data: Mapping[str, pa.Table | pa.RecordBatchReader],
) -> None:
    """Make the temporary table of each input, its rows numbered from 0 in `ROW`.

    Raises `InvalidValue` for a value that the column's type cannot hold, and whatever a reader
    raises.
    """
    for name, node in nodes.items():
        if name not in data:
            raise InternalError(f"the data of input {name!r} is missing")
        position, table = 0, input_table(name)
        for chunk in _chunks(data[name]):
            arriving = _numbered(node, chunk, position)
            how = f"INSERT INTO {table}" if position else f"CREATE OR REPLACE TEMP TABLE {table} AS"
            cursor.register(_VIEW, arriving)
            cursor.execute(f"{how} SELECT {_columns(node)} FROM {_VIEW}")
            cursor.unregister(_VIEW)
            position += arriving.num_rows


def _chunks(data: pa.Table | pa.RecordBatchReader) -> Iterator[pa.Table]:
    """At least one table, the first one possibly empty."""
    import pyarrow as pa

    if isinstance(data, pa.Table):
        yield data
        return
    gathered: list[pa.RecordBatch] = []
    rows, first = 0, True
    for batch in data:
        gathered.append(batch)
        rows += batch.num_rows
        if rows >= INPUT_ROWS:
            yield pa.Table.from_batches(gathered, data.schema)
            gathered, rows, first = [], 0, False
    if rows or first:
        yield pa.Table.from_batches(gathered, data.schema)


def _numbered(node: Input, chunk: pa.Table, position: int) -> pa.Table:
    """The columns of `node` as `c0`, `c1`, …, in its types, and `ROW`."""
    import pyarrow as pa

    arrays = {}
    for number, (name, dtype) in enumerate(node.dtypes.items()):
        wanted = pa.timestamp("us") if dtype == TIMESTAMP else to_arrow(dtype)
        try:
            arrays[f"c{number}"] = chunk.column(name).cast(wanted)
        except pa.ArrowInvalid as error:
            raise InvalidValue(
                f"column {name!r} of {node.name!r} is no {dtype}: {error}"
            ) from error
    arrays[ROW] = pa.array(range(position, position + chunk.num_rows), pa.int64())
    return pa.table(arrays)


def _columns(node: Input) -> str:
    names = identifiers(node.dtypes)
    items = []
    for number, (name, dtype) in enumerate(node.dtypes.items()):
        kind = sql_type(dtype)
        value = values.read(f"c{number}", kind, dtype, what=literal(name))
        items.append(f"CAST({value} AS {kind}) AS {names[name]}")
    return ", ".join([*items, quote(ROW)])

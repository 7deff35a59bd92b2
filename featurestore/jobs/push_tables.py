"""Pushed rows as tables: with their arrival, as they stand in the log, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compiler.rel import ARRIVED
from featurestore.definitions.source import FileSource
from featurestore.dtypes import DATE, TIMESTAMP, to_arrow
from featurestore.stores.offline import push_log
from featurestore.timeline import DAY_US

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from featurestore.compiler.typed import TypedSource

_INSTANT = to_arrow(TIMESTAMP)


def with_arrival(
    source: TypedSource, rows: pa.Table, arrived_us: int | npt.NDArray[np.int64]
) -> pa.Table:
    """The rows with the instant of their arrival (or one each), which is also the created time of
    those that have none."""
    instants = arrived_us if isinstance(arrived_us, np.ndarray) else [arrived_us] * rows.num_rows
    arrived = pa.array(instants, pa.int64()).cast(_INSTANT)
    if source.created_time is not None:
        at = rows.column_names.index(source.created_time)
        filled = pc.coalesce(rows.column(at), arrived)
        rows = rows.set_column(at, source.created_time, filled)
    return rows.append_column(ARRIVED, arrived)


def known_us(source: TypedSource, rows: pa.Table) -> npt.NDArray[np.int64]:
    """When each row (with its arrival) became known: max(event time, created time), in µs."""
    created = rows[source.created_time or ARRIVED].cast(pa.int64()).to_numpy()
    found: npt.NDArray[np.int64] = np.maximum(event_us(source, rows), created)
    return found


def event_us(source: TypedSource, rows: pa.Table) -> npt.NDArray[np.int64]:
    """When each row happened, in µs."""
    event = rows[source.event_time]
    found: npt.NDArray[np.int64]
    if source.dtype(source.event_time) == DATE:
        days = event.cast(pa.int32()).cast(pa.int64()).to_numpy()
        found = (days + (source.event_time_is == "end")) * DAY_US
    else:
        found = event.cast(pa.int64()).to_numpy()
    return found


def to_log(source: TypedSource, rows: pa.Table) -> bytes:
    """The rows as a record of the log holds them: columns named as in the source's files."""
    names = _in_files(source)
    renamed = rows.rename_columns([names.get(name, name) for name in rows.column_names])
    event_id = source.definition.event_id
    if event_id is not None:
        renamed = renamed.replace_schema_metadata(
            {push_log.EVENT_ID: names.get(event_id, event_id)}
        )
    return push_log.encoded(renamed)


def from_log(source: TypedSource, data: bytes) -> pa.Table:
    """The rows of a record, with the columns that `source` has today: NULL where the record has
    none. Raises `pa.ArrowException` where a type no longer fits."""
    names = _in_files(source)
    with pa.ipc.open_stream(data) as stream:
        table = stream.read_all()
    columns = {column.name: to_arrow(column.dtype) for column in source.columns}
    arrays = {}
    for name, kind in {**columns, ARRIVED: _INSTANT}.items():
        theirs = names.get(name, name)
        there = theirs in table.column_names
        arrays[name] = table[theirs].cast(kind) if there else pa.nulls(table.num_rows, kind)
    return pa.table(arrays)


def _in_files(source: TypedSource) -> Mapping[str, str]:
    if isinstance(source.definition, FileSource):
        return {ours: theirs for theirs, ours in source.definition.field_mapping.items()}
    return {}

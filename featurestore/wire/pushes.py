"""Pushes on the wire: rows from whatever the caller holds, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featurestore.errors import InvalidRequest
from featurestore.wire import serving_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """A row that was not taken: its place in the push, a stable `reason`, and a message."""

    row: int
    reason: str
    message: str

    def at(self, row: int) -> Dead:
        """The same of another place."""
        return replace(self, row=row)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What became of a push: `rows` were taken and can be read; `dead` were not and stand in the
    dead letters, with the reason (of many a server names the first 100; `dead_count` are all).
    `waiting_views` are views over SQL sources that read this one: they have the rows only after the
    next `materialize`."""

    source: str
    rows: int
    dead: tuple[Dead, ...] = ()
    dead_count: int = 0
    waiting_views: tuple[str, ...] = ()


def to_message(found: PushResult, *, dead_max: int) -> pb.PushResponse:
    """The answer to a push; it names `dead_max` dead rows."""
    return pb.PushResponse(
        rows=found.rows,
        dead_count=found.dead_count,
        dead=[
            pb.DeadRow(row=dead.row, reason=dead.reason, message=dead.message)
            for dead in found.dead[:dead_max]
        ],
        waiting_views=found.waiting_views,
    )


def from_message(message: pb.PushResponse, source: str) -> PushResult:
    """The result that a server's answer says."""
    return PushResult(
        source=source,
        rows=message.rows,
        dead=tuple(
            Dead(row=dead.row, reason=dead.reason, message=dead.message) for dead in message.dead
        ),
        dead_count=message.dead_count,
        waiting_views=tuple(message.waiting_views),
    )


def push_request(source: str, rows: Any) -> pb.PushRequest:
    """The rows as they are sent: tables as an Arrow stream, dicts as JSON.

    Raises `InvalidRequest` for what is neither.
    """
    if isinstance(rows, Mapping) or (
        isinstance(rows, Sequence) and not isinstance(rows, str | bytes)
    ):
        return pb.PushRequest(source=source, json=_json(rows))
    return pb.PushRequest(source=source, arrow=_arrow(rows))


def _json(rows: Any) -> bytes:
    from pydantic_core import PydanticSerializationError, to_json

    if isinstance(rows, Mapping):
        rows = {name: _values(values) for name, values in rows.items()}
    try:
        return to_json(rows, bytes_mode="base64", inf_nan_mode="strings", fallback=_plain)
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidRequest(f"the rows hold what can't be sent: {error}") from error


def _values(values: Any) -> Any:
    for method in ("to_list", "tolist", "to_pylist"):
        if hasattr(values, method):
            return getattr(values, method)()
    return values


def _plain(value: Any) -> Any:
    """numpy's scalars and pandas' missing values as Python's."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "item"):
        return value.item()
    raise ValueError(f"a {type(value).__name__} is no value of a feature")


def _arrow(rows: Any) -> bytes:
    import pyarrow as pa

    try:
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        elif hasattr(rows, "to_arrow"):
            rows = pa.table(rows.to_arrow())
        elif hasattr(rows, "iloc"):
            rows = pa.Table.from_pandas(rows, preserve_index=False)
        if not isinstance(rows, pa.Table):
            raise InvalidRequest(
                "rows are a list of dicts, a dict of columns, or a pandas, polars or Arrow table, "
                f"not {type(rows).__name__}"
            )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidRequest(f"the table can't be sent: {error}") from error
    data: bytes = sink.getvalue().to_pybytes()
    return data

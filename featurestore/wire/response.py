"""OnlineResponse: the bytes of an answer, decoded when they are looked at.

The in-process path and both clients hand it out, so that an answer is the same whichever way it
came. Arrow, pandas and polars are loaded by the methods that need them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from featurestore import dtypes
from featurestore.dtypes import Kind
from featurestore.errors import InternalError, InvalidRequest, NameClash
from featurestore.statuses import Status
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.entities import Entities
from featurestore.wire.layout import RowLayout
from featurestore.wire.rows import decode_columns, row_decoder
from featurestore.wire.serving_raw_pb2 import RawOnlineFeaturesResponse

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

_PRESENT = int(Status.PRESENT)
_STATUS_OF = {int(status): status.name for status in Status}


class ResponseSchema:
    """A schema, read once: per view its name, its features' names, the layout of its rows and
    their decoder, and their values where nothing is found."""

    def __init__(self, schema: pb.Schema) -> None:
        self.views = tuple(view.name for view in schema.views)
        self.layouts = tuple(layout_of(view) for view in schema.views)
        self.decoders = tuple(row_decoder(layout) for layout in self.layouts)
        self.names = tuple(tuple(name for name, _ in layout.features) for layout in self.layouts)
        self._empty = tuple(
            [f.empty if f.HasField("empty") else None for f in view.features]
            for view in schema.views
        )
        self._maps = tuple(
            [i for i, (_, dtype) in enumerate(layout.features) if dtype.kind is Kind.MAP]
            for layout in self.layouts
        )
        self.feature_names = tuple(name for names in self.names for name in names)
        self._taken = frozenset(name.casefold() for name in self.feature_names)

    def empty(self, view: int) -> list[Any]:
        """The values of a view's features where nothing is found: a list, and maps, of the
        caller's own."""
        found: list[Any] = [*self._empty[view]]
        for index in self._maps[view]:
            found[index] = {}
        return found

    def check(self, columns: Iterable[str]) -> None:
        """Raises `NameClash` where one of `columns` has the name of a feature, in any case."""
        if clashes := sorted(name for name in columns if name.casefold() in self._taken):
            raise NameClash(clashes, hint="Ask with full_feature_names=True, or leave it out.")


class Answer(NamedTuple):
    """What a response says, its rows undecoded: the fields of `GetOnlineFeaturesResponse`, and the
    size of the message (0 where there was none)."""

    plan_version: str
    request_time_us: int
    schema_id: int
    statuses: bytes
    rows: Sequence[bytes]
    event_times_us: Sequence[int]
    size_bytes: int = 0


class OnlineResponse:
    """The features of some entities at one instant.

    Args:
        raw: the answer; its rows are undecoded bytes.
        schema: the schema that it was written with.
        entities: what was asked for; the caller's columns come first in every table.

    Raises `NameClash` where a caller's column has the name of a feature.
    """

    def __init__(self, raw: Answer, schema: ResponseSchema, entities: Entities) -> None:
        self._raw = raw
        self._entities = entities
        self._layouts = schema.layouts
        self.schema = schema
        schema.check(entities.given)

    @property
    def plan_version(self) -> str:
        """Hash of the ServingPlan that answered, 64 hex digits."""
        return self._raw.plan_version

    @property
    def schema_id(self) -> int:
        """What the caller may name to be spared the schema next time."""
        return self._raw.schema_id

    @property
    def request_time_us(self) -> int:
        """The instant (µs, UTC) for which ages and statuses were decided."""
        return self._raw.request_time_us

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The output columns of the features, in the service's order."""
        return self.schema.feature_names

    @property
    def received_bytes(self) -> int:
        """The size of the answer as it came over the wire; 0 within the process."""
        return self._raw.size_bytes

    def __len__(self) -> int:
        return self._entities.count

    def __repr__(self) -> str:
        shape = f"{len(self)} entities × {len(self.feature_names)} features"
        return f"<OnlineResponse {shape}, plan {self.plan_version[:8]}>"

    @cached_property
    def statuses(self) -> dict[str, list[str]]:
        """For each feature column the status of each entity's value, by name (`PRESENT`,
        `NULL_VALUE`, `NOT_FOUND`, `OUTSIDE_MAX_AGE`)."""
        found: dict[str, list[str]] = {}
        for view, layout in enumerate(self._layouts):
            names = [_STATUS_OF[status] for status in self._statuses_of(view)]
            for column, (name, _) in enumerate(layout.features):
                found[name] = list(names)
                for entity, values in enumerate(self._values[view]):
                    if values is not None and values[column] is None:
                        found[name][entity] = Status.NULL_VALUE.name
        return found

    @cached_property
    def event_times(self) -> dict[str, list[int | None]]:
        """For each view the event time (µs, UTC) of each entity's row; None where there is none,
        and everywhere in an answer that was asked for without event times."""
        times, views = self._raw.event_times_us, len(self._layouts)
        if not times:
            return {name: [None] * len(self) for name in self.schema.views}
        return {
            name: [
                None if status == Status.NOT_FOUND else time
                for status, time in zip(self._statuses_of(view), times[view::views], strict=True)
            ]
            for view, name in enumerate(self.schema.views)
        }

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns of Python values, one per entity: the caller's columns, then the features.

        Ints are exact; a missing value is None, and `statuses` says why.
        """
        columns = {name: list(values) for name, values in self._entities.given.items()}
        for view, (names, rows) in enumerate(zip(self.schema.names, self._values, strict=True)):
            there = [self.schema.empty(view) if values is None else values for values in rows]
            by_feature = zip(*there, strict=True) if there else repeat(())
            columns.update(zip(names, map(list, by_feature), strict=False))
        return columns

    def to_arrow(self) -> pa.Table:
        """The same as an Arrow table, features in their own types."""
        import pyarrow as pa

        columns = {name: _array(name, values) for name, values in self._entities.given.items()}
        for view, layout in enumerate(self._layouts):
            arrays = decode_columns(layout, self._rows[view])
            arrays = list(map(_filled, arrays, repeat(self._rows[view]), self.schema.empty(view)))
            columns.update(zip((name for name, _ in layout.features), arrays, strict=True))
        return pa.table(columns)

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas frame with Arrow-backed columns, so that ints beside NULLs stay
        ints."""
        import pandas as pd

        frame: pd.DataFrame = self.to_arrow().to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """The same as a polars frame."""
        import polars as pl

        return pl.DataFrame(self.to_arrow())

    def _statuses_of(self, view: int) -> bytes:
        return self._raw.statuses[view :: len(self._layouts)]

    @cached_property
    def _rows(self) -> list[list[bytes | None]]:
        """Per view, the row of each entity; None where its status is not PRESENT."""
        by_view: list[list[bytes | None]] = [[] for _ in self._layouts]
        rows = iter(self._raw.rows)
        for pair, status in enumerate(self._raw.statuses):
            row = next(rows) if status == _PRESENT else None
            by_view[pair % len(self._layouts)].append(row)
        return by_view

    @cached_property
    def _values(self) -> list[list[list[Any] | None]]:
        """Per view, the decoded values of each entity's row."""
        return [
            [None if row is None else decode(row)[0] for row in rows]
            for decode, rows in zip(self.schema.decoders, self._rows, strict=True)
        ]


def read_response(
    data: bytes, entities: Entities, *, schemas: Mapping[int, ResponseSchema] | None = None
) -> OnlineResponse:
    """The response that a server's bytes hold.

    `schemas` are the schemas that the caller has read already, by id.
    Raises `InternalError` for bytes that are no response to this request, `NameClash`.
    """
    try:
        raw = RawOnlineFeaturesResponse.FromString(data)
    except DecodeError as error:
        raise InternalError(f"{len(data):,} bytes are not a response: {error}") from error
    schema = (schemas or {}).get(raw.schema_id)
    if schema is None and raw.HasField("schema"):
        schema = ResponseSchema(raw.schema)
    if schema is None:
        raise InternalError("the server left out a schema that it was not told we have")
    answer = Answer(
        raw.plan_version,
        raw.request_time_us,
        raw.schema_id,
        raw.statuses,
        raw.rows,
        raw.event_times_us,
        len(data),
    )
    if len(answer.statuses) != entities.count * len(schema.views):
        raise InternalError(
            f"{len(answer.statuses):,} statuses came for {entities.count:,} entities × "
            f"{len(schema.views)} views"
        )
    if len(answer.rows) != answer.statuses.count(_PRESENT):
        raise InternalError(f"{len(raw.rows):,} rows came, and another number of PRESENT statuses")
    return OnlineResponse(answer, schema, entities)


def layout_of(view: pb.ViewSchema) -> RowLayout:
    """How the rows of a view lie in the response's bytes."""
    features = tuple((f.name, dtypes.parse(f.dtype)) for f in view.features)
    return RowLayout(features, view.view_tag, view.name)


def _filled(column: pa.Array, rows: Sequence[bytes | None], empty: Any) -> pa.Array:
    """The column with `empty` where there is no row."""
    if empty is None or None not in rows:
        return column
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pa.array([row is None for row in rows])
    return pc.if_else(missing, pa.scalar(empty, column.type), column)


def _array(name: str, values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except pa.ArrowException as error:
        raise InvalidRequest(f"column {name!r} has no Arrow type: {error}") from error

"""Plan × store → response. Pure, and without any framework.

A `ServingPlan` becomes a `CompiledPlan` once, when it is loaded (`compiled`). Then a request is
`prepare` (what to read), one read of the store by the caller, and `finish` (the bytes of the
response): no name is looked up, no row becomes an object. Where a service takes whole views the
rows go out as the very bytes that the store holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.dtypes import DType
from featurestore.errors import InvalidRequest, LimitExceeded, MissingJoinKey
from featurestore.serving.columns import pack_columns
from featurestore.serving.compiled import CompiledPlan, Group
from featurestore.serving.derive import (
    Judged,
    Judgements,
)
from featurestore.serving.judge import HEAD
from featurestore.statuses import Status
from featurestore.stores.online.base import KeyFields
from featurestore.wire.entities import KeyColumn
from featurestore.wire.inputs import Inputs
from featurestore.wire.serving_raw_pb2 import RawOnlineFeaturesResponse

if TYPE_CHECKING:
    from featurestore.config import ServingSettings

_PRESENT, _NOT_FOUND = int(Status.PRESENT), int(Status.NOT_FOUND)
_NO_READ = -1
_MANY = 4
"""From so many entities on it pays to look at the rows of a view together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    keys_per_request_max: int = 10_000
    features_per_request_max: int = 1_000

    @classmethod
    def of(cls, serving: ServingSettings) -> Limits:
        """The limits that the settings name."""
        return cls(
            keys_per_request_max=serving.keys_per_request_max,
            features_per_request_max=serving.features_per_request_max,
        )


@dataclass(slots=True, kw_only=True)
class Request:
    """A request, free of the door that it came through. `count` entities, key `columns` and
    request `inputs` by name.

    (Nobody changes one; frozen, it would cost each request 1 µs.)
    """

    count: int
    columns: Mapping[str, KeyColumn]
    event_times: bool = False
    as_columns: bool = False
    schema_id: int = 0
    inputs: Inputs | None = None


class Prepared(NamedTuple):
    """What to read: `reads` for the store, and for each group the index of each entity's read
    (-1 where a key is NULL, so that there is nothing to read). `inputs` are the request inputs that
    on-demand views read, in the plan's order."""

    reads: list[KeyFields]
    slots: list[Sequence[int]]
    inputs: Sequence[Sequence[Any]] = ()


Looked = tuple[bytes, Sequence[bytes], Sequence[int]]
"""Statuses and event times (0 where there is no row) per entity × view, entity by entity, and what
is sent of the rows that are PRESENT."""


def prepare(plan: CompiledPlan, request: Request, limits: Limits) -> Prepared:
    """What the store must be asked.

    Raises `LimitExceeded`, `MissingJoinKey`, `InvalidJoinKey`, `MissingRequestInput`,
    `InvalidRequestInput`, and `InvalidRequest` for columns of another length than the request's
    count.
    """
    if request.count > limits.keys_per_request_max:
        raise LimitExceeded(
            "keys_per_request_max",
            asked=request.count,
            allowed=limits.keys_per_request_max,
            hint="Ask in several requests.",
        )
    if plan.feature_count > limits.features_per_request_max:
        raise LimitExceeded(
            "features_per_request_max",
            asked=plan.feature_count,
            allowed=limits.features_per_request_max,
        )
    if not (request.count or any(len(column.values) for column in request.columns.values())):
        return Prepared([], [()] * len(plan.groups))
    columns = [_column(request, *key) for key in plan.keys]
    prepared = Prepared([], [])
    if plan.derivation is not None:
        inputs = plan.derivation.columns(request.inputs, request.count)
        prepared = Prepared([], [], inputs)
    for group in plan.groups:
        _add_reads(prepared, group, columns, request)
    return prepared


def finish(
    plan: CompiledPlan,
    request: Request,
    prepared: Prepared,
    found: Sequence[Sequence[bytes | None]],
    now_us: int,
) -> tuple[bytes, bytes]:
    """The response's bytes, and its statuses (one byte per entity × view, entity by entity).

    `found` is what the store answered to `prepared.reads`, `now_us` the request's time. Raises
    `CorruptRow` for a row that is not of its view's version.
    """
    statuses, rows, event_times = look_at(plan, request, prepared, found, now_us)
    response = RawOnlineFeaturesResponse(
        plan_version=plan.plan_version,
        request_time_us=now_us,
        schema_id=plan.schema_id,
        schema=plan.schema if request.schema_id != plan.schema_id else None,
        statuses=statuses,
        event_times_us=event_times if request.event_times else None,
    )
    if request.as_columns:
        response.columns.extend(pack_columns(plan.layouts, statuses, list(rows)))
    else:
        response.rows.extend(rows)
    return response.SerializeToString(), statuses


def look_at(
    plan: CompiledPlan,
    request: Request,
    prepared: Prepared,
    found: Sequence[Sequence[bytes | None]],
    now_us: int,
) -> Looked:
    """What `finish` puts into a message. Raises `CorruptRow`."""
    if plan.windows:
        found = _windows_at(plan, prepared, found, now_us)
    if plan.derivation is not None:
        return _derived(plan, request, prepared, found, now_us)
    look = _view_by_view if request.count >= _MANY else _entity_by_entity
    return look(plan, request, prepared, found, now_us)


def _windows_at(
    plan: CompiledPlan,
    prepared: Prepared,
    found: Sequence[Sequence[bytes | None]],
    now_us: int,
) -> list[list[bytes | None]]:
    """`found`, with the rows that states of windows make at the request's time in their place."""
    rows = list(map(list, found))
    for group, position, evaluate in plan.windows:
        for read in dict.fromkeys(prepared.slots[group]):
            if read != _NO_READ:
                state = rows[read][position]
                rows[read][position] = None if state is None else evaluate(state, now_us)
    return rows


def _entity_by_entity(
    plan: CompiledPlan,
    request: Request,
    prepared: Prepared,
    found: Sequence[Sequence[bytes | None]],
    now_us: int,
) -> Looked:
    statuses, rows, event_times = bytearray(), list[bytes](), list[int]()
    slots = prepared.slots
    for entity in range(request.count):
        for group, position, judge, cut in plan.steps:
            read = slots[group][entity]
            row = None if read == _NO_READ else found[read][position]
            status, event_us = (_NOT_FOUND, 0) if row is None else judge(row, now_us)
            statuses.append(status)
            event_times.append(event_us)
            if row is not None and status == _PRESENT:
                rows.append(row if cut is None else cut(row))
    return bytes(statuses), rows, event_times


def _derived(
    plan: CompiledPlan,
    request: Request,
    prepared: Prepared,
    found: Sequence[Sequence[bytes | None]],
    now_us: int,
) -> Looked:
    """As `_entity_by_entity`, with what on-demand views make of the rows."""
    if request.count >= _MANY:
        return _derived_by_view(plan, request, prepared, found, now_us)
    statuses, rows, event_times = bytearray(), list[bytes](), list[int]()
    slots, inputs, derivation = prepared.slots, prepared.inputs, plan.derivation
    assert derivation is not None  # noqa: S101 - the caller has seen it
    for entity in range(request.count):
        judged: list[Judged] = []
        for group, position, judge, _ in plan.steps:
            read = slots[group][entity]
            row = None if read == _NO_READ else found[read][position]
            judged.append((_NOT_FOUND, 0, None) if row is None else (*judge(row, now_us), row))
        values = [column[entity] for column in inputs]
        for status, event_us, sent in derivation.rows(judged, values, now_us):
            statuses.append(status)
            event_times.append(event_us)
            if sent is not None:
                rows.append(sent)
    return bytes(statuses), rows, event_times


def _derived_by_view(
    plan: CompiledPlan,
    request: Request,
    prepared: Prepared,
    found: Sequence[Sequence[bytes | None]],
    now_us: int,
) -> Looked:
    derivation = plan.derivation
    assert derivation is not None  # noqa: S101 - the caller has seen it
    judged: list[Judgements] = []
    for use in plan.uses:
        column = _rows_of(prepared.slots[use.group], found, use.position)
        pairs = [(_NOT_FOUND, 0) if row is None else use.judge(row, now_us) for row in column]
        judged.append(([s for s, _ in pairs], [event_us for _, event_us in pairs], column))
    answers = derivation.columns_of(judged, prepared.inputs, now_us)
    views = len(answers)
    statuses = bytearray(request.count * views)
    event_times = [0] * len(statuses)
    for index, (own, times, _) in enumerate(answers):
        statuses[index::views] = bytes(own)
        event_times[index::views] = times
    columns = [rows for _, _, rows in answers]
    rows = [row for row in chain.from_iterable(zip(*columns, strict=True)) if row is not None]
    return bytes(statuses), rows, event_times


def _view_by_view(
    plan: CompiledPlan,
    request: Request,
    prepared: Prepared,
    found: Sequence[Sequence[bytes | None]],
    now_us: int,
) -> Looked:
    count, views = request.count, len(plan.uses)
    statuses = bytearray((_PRESENT,)) * (count * views)
    event_times = [0] * len(statuses)
    sent: list[Sequence[bytes | None]] = []
    for index, use in enumerate(plan.uses):
        column = _rows_of(prepared.slots[use.group], found, use.position)
        there = [row for row in column if row is not None]
        if len(there) == count and use.all_present(there, now_us):
            sent.append(there if use.cut is None else list(map(use.cut, there)))
            if request.event_times:
                event_times[index::views] = [HEAD.unpack_from(row)[0] for row in there]
            continue
        judged = [(_NOT_FOUND, 0) if row is None else use.judge(row, now_us) for row in column]
        statuses[index::views] = bytes([status for status, _ in judged])
        event_times[index::views] = [event_us for _, event_us in judged]
        cut = use.cut or _whole
        sent.append(
            [
                None if row is None or status != _PRESENT else cut(row)
                for row, (status, _) in zip(column, judged, strict=True)
            ]
        )
    rows = [row for row in chain.from_iterable(zip(*sent, strict=True)) if row is not None]
    return bytes(statuses), rows, event_times


def _rows_of(
    slots: Sequence[int], found: Sequence[Sequence[bytes | None]], position: int
) -> list[bytes | None]:
    """Per entity the row of one view."""
    if slots.__class__ is range:
        return [rows[position] for rows in found[slots[0] : slots[-1] + 1]]
    return [None if slot == _NO_READ else found[slot][position] for slot in slots]


def _whole(row: bytes) -> bytes:
    return row


def _column(request: Request, name: str, dtype: DType, needed_by: str) -> Sequence[Any]:
    column = request.columns.get(name)
    if column is None:
        raise MissingJoinKey(name, needed_by=needed_by, known=request.columns)
    values = column.as_dtype(dtype)
    if len(values) != request.count:
        raise InvalidRequest(
            f"the entity columns have different lengths: {name!r} has {len(values)} values, "
            f"the request {request.count}"
        )
    return values


def _add_reads(
    prepared: Prepared, group: Group, columns: Sequence[Sequence[Any]], request: Request
) -> None:
    reads, encode, fields = prepared.reads, group.encode, group.fields
    first = len(reads)
    if not group.key_columns:
        reads.append(KeyFields(encode(()), fields))
        prepared.slots.append([first] * request.count)
        return
    picked = [columns[index] for index in group.key_columns]
    for column in picked:
        if None in column:
            break
    else:
        reads.extend(map(KeyFields, map(encode, zip(*picked, strict=True)), repeat(fields)))
        prepared.slots.append(range(first, len(reads)))
        return
    slots = []
    for key in zip(*picked, strict=True):
        if None in key:
            slots.append(_NO_READ)
        else:
            slots.append(len(reads))
            reads.append(KeyFields(encode(key), fields))
    prepared.slots.append(slots)

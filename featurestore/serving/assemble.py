"""Plan × store → response. Pure, and without any framework.

A `ServingPlan` becomes a `CompiledPlan` of closures and constants once, when it is loaded. Then a
request is `prepare` (what to read), one read of the store by the caller, and `finish` (the bytes of
the response): no name is looked up, no row becomes an object. Where a service takes whole views the
rows go out as the very bytes that the store holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.dtypes import DType
from featurestore.errors import InvalidJoinKey, InvalidRequest, LimitExceeded, MissingJoinKey
from featurestore.permissions import VIEWS
from featurestore.serving.columns import pack_columns
from featurestore.serving.derive import (
    Derivation,
    Judged,
    Judgements,
    derivation_of,
    features_read,
)
from featurestore.serving.judge import HEAD, AllPresent, Judge, all_present_of, judge_of
from featurestore.serving.windows import Evaluate, window_evaluator
from featurestore.statuses import Status
from featurestore.stores.online.base import KeyFields
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.entities import KeyColumn
from featurestore.wire.inputs import Inputs
from featurestore.wire.layout import RowLayout
from featurestore.wire.plans import (
    ALL_VIEWS,
    Lookup,
    OnDemand,
    Output,
    ServingPlan,
    output_columns,
)
from featurestore.wire.response import ResponseSchema
from featurestore.wire.rows import key_encoder, key_prefix, subset_encoder
from featurestore.wire.serving_raw_pb2 import RawOnlineFeaturesResponse
from featurestore.wire.window_layout import WindowLayout

if TYPE_CHECKING:
    from featurestore.config import ServingSettings

_PRESENT, _NOT_FOUND = int(Status.PRESENT), int(Status.NOT_FOUND)
_NO_READ = -1
_MANY = 4
"""From so many entities on it pays to look at the rows of a view together."""


Cut = Callable[[bytes], bytes]


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


@dataclass(frozen=True, slots=True)
class Group:
    """Views of one key space with the same key columns: one read per entity key for all of them.

    `key_columns` are indices into the plan's keys; none at all is the one key of views without
    entities, read once per request.
    """

    key_columns: tuple[int, ...]
    encode: Callable[[Sequence[Any]], bytes]
    fields: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """One view of a plan: where its row lies in the answer to a read, how its status follows from
    the row's age, and how the row is cut to the selected features (None: sent as it is)."""

    name: str
    group: int
    position: int
    judge: Judge
    all_present: AllPresent
    cut: Cut | None
    selected: RowLayout


@dataclass(frozen=True, kw_only=True)
class CompiledPlan:
    """A plan ready to answer. `keys` are (name, type, the views that need it); `windows` are group,
    position and evaluation of what is stored as states of windows. `uses` are all views that are
    read; where there is a `derivation`, it says which of them are sent."""

    plan: ServingPlan
    plan_version: str
    keys: tuple[tuple[str, DType, str], ...]
    groups: tuple[Group, ...]
    uses: tuple[Use, ...]
    windows: tuple[tuple[int, int, Evaluate], ...]
    schema: pb.Schema
    schema_id: int
    feature_count: int
    derivation: Derivation | None = None

    @cached_property
    def layouts(self) -> tuple[RowLayout, ...]:
        """How the rows lie that are sent, view by view."""
        return self.response_schema.layouts

    @cached_property
    def response_schema(self) -> ResponseSchema:
        """The schema as a reader within this process uses it."""
        return ResponseSchema(self.schema)

    @cached_property
    def steps(self) -> tuple[tuple[int, int, Judge, Cut | None], ...]:
        """What every entity needs of every use: `group`, `position`, `judge` and `cut`."""
        return tuple((use.group, use.position, use.judge, use.cut) for use in self.uses)

    @cached_property
    def use_names(self) -> tuple[str, ...]:
        """The names of the views that are sent, in order."""
        return tuple(use.name for use in self.plan.sent)

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """What a request for it uses: the service by its name, or else (`views/weather`) all views
        that are read and sent."""
        if self.plan.service != ALL_VIEWS:
            return (self.plan.service,)
        views = {use.view for use in self.plan.lookups} | {use.name for use in self.plan.sent}
        return tuple(f"{VIEWS}{view}" for view in sorted(views))


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


def compile_plan(
    plan: ServingPlan, *, full_feature_names: bool = False, plan_version: str | None = None
) -> CompiledPlan:
    """The closures and constants of `plan`.

    `plan_version` is what responses name (default: the plan's own hash; for a plan that was cut
    from another, the other's). Raises `NameClash`, and `InvalidJoinKey` where two of its views need
    one column as different types.
    """
    names = output_columns(plan, full_feature_names=full_feature_names)
    _check_key_types(plan)
    groups: dict[tuple[str, tuple[int, ...]], dict[bytes, int]] = {}
    places = []
    for use in plan.lookups:
        key = (use.key_space, use.keys)
        fields = groups.setdefault(key, {})
        position = fields.setdefault(use.field, len(fields))
        places.append((list(groups).index(key), position))
    uses = []
    windows: list[tuple[int, int, Evaluate]] = []
    held = []
    for use, place, read in zip(plan.lookups, places, features_read(plan), strict=True):
        features = tuple(range(len(use.stored)))
        if use.windows is not None and places.count(place) == 1:
            # Nobody else needs others of what is made of the state.
            features = tuple(dict.fromkeys((*use.selected, *read)))
        held.append(features)
        uses.append(_use(use, *place, held=features))
        if use.windows is not None and place not in [known[:2] for known in windows]:
            windows.append((*place, _evaluate(use, use.windows, features)))
    schema = _schema(plan, names)
    return CompiledPlan(
        plan=plan,
        plan_version=plan_version or plan.hash,
        keys=tuple(
            (key.name, key.dtype, ", ".join(u.name for u in plan.lookups if index in u.keys))
            for index, key in enumerate(plan.request_keys)
        ),
        groups=tuple(
            _group(plan, key_space, keys, tuple(fields))
            for (key_space, keys), fields in groups.items()
        ),
        uses=tuple(uses),
        windows=tuple(windows),
        schema=schema,
        schema_id=schema_id_of(schema),
        feature_count=sum(map(len, names)),
        derivation=derivation_of(plan, held, [use.cut for use in uses]),
    )


def schema_id_of(schema: pb.Schema) -> int:
    """The first 8 bytes of the schema's SHA-256 as a number that is not 0 (0: no schema)."""
    digest = hashlib.sha256(schema.SerializeToString(deterministic=True)).digest()
    return int.from_bytes(digest[:8], "little") or 1


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


def _group(
    plan: ServingPlan, key_space: str, keys: tuple[int, ...], fields: tuple[bytes, ...]
) -> Group:
    columns = [plan.request_keys[index] for index in keys]
    encode = key_encoder(
        [column.dtype for column in columns],
        key_prefix(plan.project, key_space),
        names=[column.name for column in columns],
    )
    return Group(keys, encode, fields)


def _layout(use: Lookup) -> RowLayout:
    return RowLayout(tuple((f.name, f.dtype) for f in use.stored), use.tag, use.name)


def _evaluate(use: Lookup, windows: WindowLayout, features: tuple[int, ...]) -> Evaluate:
    """What makes a row with `features` of a state."""
    return window_evaluator(windows, _layout(use).subset(features), features)


def _use(use: Lookup, group: int, position: int, *, held: tuple[int, ...]) -> Use:
    """`held`: the features that the row has which is found."""
    layout = _layout(use).subset(held)
    chosen = tuple(held.index(feature) for feature in use.selected)
    selected = layout.subset(chosen)
    cut = None if use.selected == held else subset_encoder(layout, chosen)
    return Use(
        name=use.name,
        group=group,
        position=position,
        judge=judge_of(layout, use.ttl_us, use.grace_us or 0),
        all_present=all_present_of(layout, use.ttl_us),
        cut=cut,
        selected=selected,
    )


def _schema(plan: ServingPlan, names: Sequence[Sequence[str]]) -> pb.Schema:
    return pb.Schema(
        views=[
            pb.ViewSchema(
                name=use.name,
                version=use.view_version,
                view_tag=use.tag,
                features=[
                    pb.FeatureSchema(name=name, dtype=str(feature.dtype), empty=empty)
                    for name, feature, empty in zip(columns, use.features, _empty(use), strict=True)
                ],
            )
            for use, columns in zip(plan.sent, names, strict=True)
        ]
    )


def _empty(use: Output) -> list[int | None]:
    """What the selected features hold where their key is not found, as far as it is a number; that
    a map has no entries is known from its type."""
    if isinstance(use, OnDemand) or use.windows is None:
        return [None] * len(use.selected)
    found = map(use.windows.empty, use.selected)
    return [value if isinstance(value, int) else None for value in found]


def _check_key_types(plan: ServingPlan) -> None:
    types: dict[str, DType] = {}
    for key in plan.request_keys:
        other = types.setdefault(key.name, key.dtype)
        if other != key.dtype:
            raise InvalidJoinKey(
                key.name,
                f"is {other} for one of these views and {key.dtype} for another; "
                "ask for them in two requests",
            )

"""A serving plan, compiled: all that a request needs of it, looked up and closed over once.

Reads of one key space with the same key columns are one read; how a row's status follows from its
age, how it is cut to what is sent, and what becomes of states of windows are closures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from featurestore.dtypes import DType
from featurestore.errors import InvalidJoinKey
from featurestore.permissions import VIEWS
from featurestore.serving.derive import Derivation, derivation_of, features_read
from featurestore.serving.judge import AllPresent, Judge, all_present_of, judge_of
from featurestore.serving.windows import Evaluate, window_evaluator
from featurestore.wire import serving_pb2 as pb
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
from featurestore.wire.window_layout import WindowLayout

Cut = Callable[[bytes], bytes]


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

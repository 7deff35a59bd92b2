"""From typed views to what serves them: the ids of online tables, and serving plans.

An online table is one (view storage hash, generation). Versions and generations live side by side
below each entity key; dropping one is forgetting its id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from featurestore.compiler.derived import step_code
from featurestore.compiler.program import OfRequest, OfStep, OfView, program_of
from featurestore.compiler.window_rows import window_layout
from featurestore.definitions.expression import columns_of
from featurestore.dtypes import INT32, INT64, DType
from featurestore.errors import TypeMismatch
from featurestore.fingerprint import fingerprint
from featurestore.wire.plans import (
    ALL_VIEWS,
    Lookup,
    OnDemand,
    Origin,
    RequestInput,
    RequestKey,
    ServingPlan,
    StoredFeature,
    row_tag,
)
from featurestore.wire.window_layout import WindowLayout

if TYPE_CHECKING:
    from featurestore.compiler.program import Program, Source, Step
    from featurestore.compiler.typed import TypedFeature, Use, ViewUse

__all__ = [
    "ALL_VIEWS",
    "all_views_version",
    "compile_serving_plan",
    "events_field",
    "field_id",
    "row_tag",
]

_FIELD_BYTES = 8


def field_id(storage_hash: str, generation: int) -> bytes:
    """The online table's field below each entity key: 8 bytes of SHA-256 over both."""
    return hashlib.sha256(f"{storage_hash}:{generation}".encode()).digest()[:_FIELD_BYTES]


def events_field(field: bytes) -> bytes:
    """The field beside an online table's own in which writers of windows keep events by id."""
    return hashlib.sha256(b"events of " + field).digest()[:_FIELD_BYTES]


def all_views_version(uses: Sequence[Use]) -> str:
    """The service version of the plan of all views: it moves when one of them does."""
    return fingerprint(sorted([use.name, use.view.version] for use in uses))


def compile_serving_plan(
    service: str,
    service_version: str,
    uses: Sequence[Use],
    *,
    project: str,
    tables: Mapping[str, tuple[int, bytes]],
) -> ServingPlan:
    """Resolve a service's views down to fields of the online store, and its on-demand views to
    functions.

    Args:
        service: its name, or `ALL_VIEWS` for the plan that feature lists are cut from.
        service_version: 64 hex digits (`all_views_version` for `ALL_VIEWS`).
        uses: its views, with their features in output order.
        tables: the current (generation, field) by storage hash; a view that has none yet reads
            generation 0, which is empty.

    Raises `TypeMismatch` where two views of a service read one column as different types; views of
    `ALL_VIEWS` never meet in one request unless it names both.
    """
    keys: dict[RequestKey, int] = {}
    program = program_of(uses)
    sent = len(program.views)
    lookups = tuple(
        _lookup(use, keys, tables, program.views[index].features if index < sent else ())
        for index, use in enumerate(program.joined)
    )
    if service != ALL_VIEWS:
        _check_key_types(service, keys)
    inputs = {RequestInput(r.name, r.dtype): i for i, r in enumerate(program.requests)}
    steps = [_step(step, lookups, inputs, program) for step in program.steps]
    outputs = _outputs(program, steps, len(lookups))
    return ServingPlan(
        project=project,
        service=service,
        service_version=service_version,
        request_keys=tuple(keys),
        lookups=lookups,
        request_inputs=tuple(inputs),
        on_demand=tuple(steps),
        outputs=outputs,
    )


def _outputs(program: Program, steps: list[OnDemand], lookups: int) -> tuple[int, ...]:
    """What is sent, in order; the steps among it get their names and selections. A view that is
    sent twice under two names is computed twice."""
    from featurestore.compiler.typed import OnDemandUse

    order = []
    for use, index in program.outputs:
        if not isinstance(use, OnDemandUse):
            order.append(index)
            continue
        names = [feature.name for feature in steps[index].computed]
        selected = tuple(names.index(feature.name) for feature in use.features)
        at = index
        if steps[index].selected:
            steps.append(steps[index])
            at = len(steps) - 1
        steps[at] = replace(steps[at], name=use.name, selected=selected)
        order.append(lookups + at)
    return tuple(order) if steps else ()


def _step(
    step: Step, lookups: Sequence[Lookup], inputs: Mapping[RequestInput, int], program: Program
) -> OnDemand:
    view = step.view

    def origin(source: Source) -> Origin:
        match source:
            case OfView(index, feature):
                stored = [f.name for f in lookups[index].stored]
                return Origin("lookup", index, stored.index(feature))
            case OfStep(index, feature):
                computed = [f.name for f in program.steps[index].features]
                return Origin("on_demand", index, computed.index(feature))
            case OfRequest(name, dtype):
                return Origin("request", inputs[RequestInput(name, dtype)])

    order = [argument.name for argument in step.arguments]
    every = tuple(range(len(order)))
    return OnDemand(
        name=view.name,
        view=view.name,
        view_version=view.version,
        code=step_code(step),
        origins=tuple(origin(step.sources[argument.name]) for argument in step.arguments),
        reads=tuple(
            every
            if view.function is not None
            else tuple(order.index(column) for column in columns_of(feature.expression))
            for feature in step.features
        ),
        computed=_stored(step.features),
        selected=(),
    )


def _lookup(
    use: ViewUse,
    keys: dict[RequestKey, int],
    tables: Mapping[str, tuple[int, bytes]],
    sent: Sequence[TypedFeature],
) -> Lookup:
    view = use.view
    wanted = [
        RequestKey(column, _key_type(key.dtype))
        for column, key in zip(use.key_columns, view.keys, strict=True)
    ]
    indices = tuple(keys.setdefault(key, len(keys)) for key in wanted)
    generation, field = tables.get(view.storage_hash, (0, field_id(view.storage_hash, 0)))
    index_of = {feature.name: index for index, feature in enumerate(view.features)}
    return Lookup(
        name=use.name,
        view=view.name,
        view_version=view.version,
        storage_hash=view.storage_hash,
        key_space=view.key_space,
        keys=indices,
        field=field,
        generation=generation,
        ttl_us=view.ttl_us,
        grace_us=view.grace_us,
        stored=_stored(view.features),
        selected=tuple(index_of[feature.name] for feature in sent),
        windows=_windows(use),
    )


def _windows(use: ViewUse) -> WindowLayout | None:
    """What serving needs to know of a view's states: nothing of ids."""
    if not use.view.is_windowed:
        return None
    layout = window_layout(use.view)
    return replace(layout, view=use.name, id_dtype=None, correction_horizon_us=0)


def _stored(features: Sequence[TypedFeature]) -> tuple[StoredFeature, ...]:
    return tuple(StoredFeature(f.name, f.dtype, f.version) for f in features)


def _key_type(dtype: DType) -> DType:
    return INT64 if dtype == INT32 else dtype


def _check_key_types(service: str, keys: Mapping[RequestKey, int]) -> None:
    types: dict[str, DType] = {}
    for key in keys:
        other = types.setdefault(key.name, key.dtype)
        if other != key.dtype:
            raise TypeMismatch(
                f"feature service {service}: column {key.name!r} would be {other} for one view and "
                f"{key.dtype} for another; rename one with with_join_key_map"
            )

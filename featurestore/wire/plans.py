"""ServingPlan: what a server needs to answer for one feature service version, and nothing else.

A frozen tree of names, types and ids, stored by the SHA-256 of its protobuf bytes
(`protos/featurestore/v1/serving_plan.proto`). Everything that a request could ask for is resolved
here; servers turn it into closures once (`serving/compiled.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, assert_never

from google.protobuf.message import DecodeError

from featurestore import dtypes
from featurestore.dtypes import DType
from featurestore.errors import CorruptPlan, NameClash
from featurestore.fingerprint import fingerprint_bytes
from featurestore.user_functions import StepCode
from featurestore.wire import serving_plan_pb2 as pb
from featurestore.wire.window_layout import WindowLayout

ALL_VIEWS = "*"
"""The service name of the plan of all materialized views, from which feature lists are cut."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A column that the caller sends; its type is int64, string or bytes."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class StoredFeature:
    """A feature as the rows of its view hold it; `version` is 64 hex digits."""

    name: str
    dtype: DType
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One view as the service uses it.

    `name` is the view's name or its alias, `keys` are indices into the plan's request keys in
    storage order, `field` is the online table (8 bytes), `stored` are all features of a row in the
    view's order, and `selected` are indices into `stored` in output order. `windows` says how the
    values of a windowed view follow from what is stored.
    """

    name: str
    view: str
    view_version: str
    storage_hash: str
    key_space: str
    keys: tuple[int, ...]
    field: bytes
    generation: int
    ttl_us: int | None
    grace_us: int | None
    stored: tuple[StoredFeature, ...]
    selected: tuple[int, ...]
    windows: WindowLayout | None = None

    @property
    def features(self) -> tuple[StoredFeature, ...]:
        """The selected features in output order."""
        return tuple(self.stored[index] for index in self.selected)

    @property
    def tag(self) -> int:
        """What every row of this view carries as `view_tag`."""
        return row_tag(self.storage_hash)


@dataclass(frozen=True, slots=True)
class RequestInput:
    """A value that every request brings, for on-demand views."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: feature number `feature` (of `Lookup.stored`, of
    `OnDemand.computed`) of the `lookup` or `on_demand` view number `index`, or the `request` input
    of that number; from `nowhere` comes NULL."""

    kind: Literal["lookup", "on_demand", "request", "nowhere"]
    index: int = 0
    feature: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemand:
    """One on-demand view: `code` yields `computed` of the values that `origins` name, in order;
    `selected` are indices into `computed` in output order. `reads` are for each of `computed` the
    indices of the origins that it hangs on."""

    name: str
    view: str
    view_version: str
    code: StepCode
    origins: tuple[Origin, ...]
    reads: tuple[tuple[int, ...], ...]
    computed: tuple[StoredFeature, ...]
    selected: tuple[int, ...]

    @property
    def features(self) -> tuple[StoredFeature, ...]:
        """The selected features in output order."""
        return tuple(self.computed[index] for index in self.selected)

    @property
    def tag(self) -> int:
        """What every row of this view carries as `view_tag`."""
        return row_tag(self.view_version)


Output = Lookup | OnDemand


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """One feature service version, resolved down to the fields of the online store.

    `outputs` say what is sent, in order: lookups by their index, on-demand views by the number of
    lookups plus theirs; empty where all lookups are sent and there is nothing else. A lookup that
    is not sent is read for on-demand views.
    """

    project: str
    service: str
    service_version: str
    request_keys: tuple[RequestKey, ...]
    lookups: tuple[Lookup, ...]
    request_inputs: tuple[RequestInput, ...] = ()
    on_demand: tuple[OnDemand, ...] = ()
    outputs: tuple[int, ...] = ()

    @cached_property
    def sent(self) -> tuple[Output, ...]:
        """What is sent, in order."""
        every: tuple[Output, ...] = (*self.lookups, *self.on_demand)
        return tuple(every[index] for index in self.outputs) if self.outputs else self.lookups

    def to_bytes(self) -> bytes:
        """Protobuf; equal plans give equal bytes."""
        return _to_message(self).SerializeToString(deterministic=True)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `to_bytes()`, 64 hex digits: the plan's version and the name of its blob."""
        return fingerprint_bytes(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> ServingPlan:
        """The plan that `to_bytes` wrote.

        Raises `CorruptPlan` for bytes that are no plan, or one that contradicts itself.
        """
        try:
            return _from_message(pb.ServingPlan.FromString(data))
        except (DecodeError, ValueError) as error:
            raise CorruptPlan(f"{len(data):,} bytes are not a serving plan: {error}") from error


def row_tag(storage_hash: str) -> int:
    """The first four bytes of a storage hash (64 hex digits) as a little-endian number."""
    return int.from_bytes(bytes.fromhex(storage_hash)[:4], "little")


def output_columns(plan: ServingPlan, *, full_feature_names: bool) -> tuple[tuple[str, ...], ...]:
    """The output column of each selected feature, a tuple per lookup: `feature`, or
    `view__feature`.

    Raises `NameClash` where two features, or a feature and a key column or request input, share a
    name. As offline, where SQL tells no cases apart, names that differ only in case are the same.
    """
    columns = tuple(
        tuple(f"{use.name}__{f.name}" if full_feature_names else f.name for f in use.features)
        for use in plan.sent
    )
    made = [name for names in columns for name in names]
    taken = {key.name.casefold() for key in plan.request_keys}
    taken |= {one.name.casefold() for one in plan.request_inputs}
    counts = Counter(name.casefold() for name in made) + Counter(taken)
    if clashes := sorted({name for name in made if counts[name.casefold()] > 1}):
        hint = (
            "Use each view once, or give it another name: view.with_name(…)."
            if full_feature_names
            else "Ask with full_feature_names=True, or leave one of them out."
        )
        raise NameClash(clashes, hint=hint)
    return columns


def _to_message(plan: ServingPlan) -> pb.ServingPlan:
    return pb.ServingPlan(
        project=plan.project,
        service=plan.service,
        service_version=plan.service_version,
        request_keys=[pb.RequestKey(name=k.name, dtype=str(k.dtype)) for k in plan.request_keys],
        lookups=[_lookup_message(use) for use in plan.lookups],
        request_inputs=[
            pb.RequestInput(name=r.name, dtype=str(r.dtype)) for r in plan.request_inputs
        ],
        on_demand=[_on_demand_message(use) for use in plan.on_demand],
        outputs=plan.outputs,
    )


def _on_demand_message(use: OnDemand) -> pb.OnDemand:
    return pb.OnDemand(
        name=use.name,
        view=use.view,
        view_version=use.view_version,
        arguments=[
            _argument_message(argument, origin)
            for argument, origin in zip(use.code.arguments, use.origins, strict=True)
        ],
        computed=_feature_messages(use.computed),
        selected=use.selected,
        function=use.code.name,
        source=use.code.source,
        is_function=use.code.is_function,
        parameters=[0 if index is None else index + 1 for index in use.code.parameters],
        reads=[pb.Reads(arguments=indices) for indices in use.reads],
        batch=use.code.batch,
    )


def _argument_message(argument: tuple[str, DType], origin: Origin) -> pb.Argument:
    message = pb.Argument(name=argument[0], dtype=str(argument[1]))
    match origin.kind:
        case "lookup":
            message.lookup.CopyFrom(pb.FeatureOf(view=origin.index, feature=origin.feature))
        case "on_demand":
            message.on_demand.CopyFrom(pb.FeatureOf(view=origin.index, feature=origin.feature))
        case "request":
            message.request_input = origin.index
        case "nowhere":
            pass
        case _:
            assert_never(origin.kind)
    return message


def _feature_messages(features: Iterable[StoredFeature]) -> list[pb.StoredFeature]:
    return [pb.StoredFeature(name=f.name, dtype=str(f.dtype), version=f.version) for f in features]


def _lookup_message(use: Lookup) -> pb.Lookup:
    return pb.Lookup(
        name=use.name,
        view=use.view,
        view_version=use.view_version,
        storage_hash=use.storage_hash,
        key_space=use.key_space,
        keys=use.keys,
        field=use.field,
        generation=use.generation,
        ttl_us=use.ttl_us,
        grace_us=use.grace_us,
        stored=_feature_messages(use.stored),
        selected=use.selected,
        windows=None if use.windows is None else use.windows.to_message(),
    )


def _from_message(message: pb.ServingPlan) -> ServingPlan:
    plan = ServingPlan(
        project=message.project,
        service=message.service,
        service_version=message.service_version,
        request_keys=tuple(RequestKey(k.name, dtypes.parse(k.dtype)) for k in message.request_keys),
        lookups=tuple(_lookup(use) for use in message.lookups),
        request_inputs=tuple(
            RequestInput(r.name, dtypes.parse(r.dtype)) for r in message.request_inputs
        ),
        on_demand=tuple(_on_demand(use) for use in message.on_demand),
        outputs=tuple(message.outputs),
    )
    for use in plan.lookups:
        _check_indices(use.keys, len(plan.request_keys), f"keys of {use.name}")
        _check_indices(use.selected, len(use.stored), f"selection of {use.name}")
    for number, step in enumerate(plan.on_demand):
        _check_step(plan, number, step)
    _check_indices(plan.outputs, len(plan.lookups) + len(plan.on_demand), "outputs")
    return plan


def _check_step(plan: ServingPlan, number: int, step: OnDemand) -> None:
    what = f"an argument of {step.name}"
    for origin in step.origins:
        match origin.kind:
            case "lookup":
                _check_indices([origin.index], len(plan.lookups), what)
                _check_indices([origin.feature], len(plan.lookups[origin.index].stored), what)
            case "on_demand":
                _check_indices([origin.index], number, what)
                _check_indices([origin.feature], len(plan.on_demand[origin.index].computed), what)
            case "request":
                _check_indices([origin.index], len(plan.request_inputs), what)
            case "nowhere":
                pass
            case _:
                assert_never(origin.kind)
    _check_indices(step.selected, len(step.computed), f"selection of {step.name}")
    if len(step.reads) != len(step.computed):
        raise ValueError(f"{step.name} does not say what its features hang on")
    for reads in step.reads:
        _check_indices(reads, len(step.origins), what)
    given = [index for index in step.code.parameters if index is not None]
    _check_indices(given, len(step.origins), f"parameters of {step.name}")


def _on_demand(message: pb.OnDemand) -> OnDemand:
    computed = _stored_features(message.computed)
    code = StepCode(
        name=message.function,
        source=message.source,
        is_function=message.is_function,
        arguments=tuple((a.name, dtypes.parse(a.dtype)) for a in message.arguments),
        parameters=tuple(index - 1 if index else None for index in message.parameters),
        outputs=tuple((f.name, f.dtype) for f in computed),
        batch=message.batch,
    )
    return OnDemand(
        name=message.name,
        view=message.view,
        view_version=message.view_version,
        code=code,
        origins=tuple(_origin(argument) for argument in message.arguments),
        reads=tuple(tuple(reads.arguments) for reads in message.reads),
        computed=computed,
        selected=tuple(message.selected),
    )


def _origin(argument: pb.Argument) -> Origin:
    match argument.WhichOneof("origin"):
        case "lookup":
            return Origin("lookup", argument.lookup.view, argument.lookup.feature)
        case "on_demand":
            return Origin("on_demand", argument.on_demand.view, argument.on_demand.feature)
        case "request_input":
            return Origin("request", argument.request_input)
        case _:
            return Origin("nowhere")


def _stored_features(messages: Iterable[pb.StoredFeature]) -> tuple[StoredFeature, ...]:
    return tuple(StoredFeature(f.name, dtypes.parse(f.dtype), f.version) for f in messages)


def _lookup(message: pb.Lookup) -> Lookup:
    windows = None
    if message.HasField("windows"):
        windows = WindowLayout.from_message(
            message.windows,
            tuple(dtypes.parse(f.dtype) for f in message.stored),
            tag=row_tag(message.storage_hash),
            view=message.name,
        )
    return Lookup(
        name=message.name,
        view=message.view,
        view_version=message.view_version,
        storage_hash=message.storage_hash,
        key_space=message.key_space,
        keys=tuple(message.keys),
        field=message.field,
        generation=message.generation,
        ttl_us=message.ttl_us if message.HasField("ttl_us") else None,
        grace_us=message.grace_us if message.HasField("grace_us") else None,
        stored=_stored_features(message.stored),
        selected=tuple(message.selected),
        windows=windows,
    )


def _check_indices(indices: Iterable[int], size: int, what: str) -> None:
    for index in indices:
        if index >= size:
            raise ValueError(f"{what}: index {index} of {size}")

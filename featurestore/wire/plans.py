"""ServingPlan: what a server needs to answer for one feature service version, and nothing else.

A frozen tree of names, types and ids, stored by the SHA-256 of its protobuf bytes
(`protos/featurestore/v1/serving_plan.proto`). Everything that a request could ask for is resolved
here; servers turn it into closures once (`serving/assemble.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from google.protobuf.message import DecodeError

from featurestore import dtypes
from featurestore.dtypes import DType
from featurestore.errors import CorruptPlan, NameClash, UnknownFeature, UnknownView
from featurestore.fingerprint import fingerprint_bytes
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


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """One feature service version, resolved down to the fields of the online store."""

    project: str
    service: str
    service_version: str
    request_keys: tuple[RequestKey, ...]
    lookups: tuple[Lookup, ...]

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

    Raises `NameClash` where two features, or a feature and a key column, share a name. As offline,
    where SQL tells no cases apart, names that differ only in case are the same.
    """
    columns = tuple(
        tuple(f"{use.name}__{f.name}" if full_feature_names else f.name for f in use.features)
        for use in plan.lookups
    )
    made = [name for names in columns for name in names]
    taken = {key.name.casefold() for key in plan.request_keys}
    counts = Counter(name.casefold() for name in made) + Counter(taken)
    if clashes := sorted({name for name in made if counts[name.casefold()] > 1}):
        hint = (
            "Use each view once, or give it another name: view.with_name(…)."
            if full_feature_names
            else "Ask with full_feature_names=True, or leave one of them out."
        )
        raise NameClash(clashes, hint=hint)
    return columns


def cut(plan: ServingPlan, refs: Sequence[str]) -> ServingPlan:
    """The part of `plan` that `refs` name: `"view:feature"`, or `"view"` for all its features.

    Views stand in the order of their first mention, features in the order asked; a repetition
    changes nothing. Raises `UnknownView`, `UnknownFeature` (each with what there is).
    """
    lookups = {use.name: use for use in plan.lookups}
    wanted: dict[str, dict[int, None]] = {}
    for ref in refs:
        view, colon, feature = ref.partition(":")
        if view not in lookups:
            raise UnknownView(
                view,
                known=lookups,
                hint="A view is served when it is applied and materialized.",
            )
        index_of = {f.name: i for i, f in enumerate(lookups[view].stored)}
        if colon and feature not in index_of:
            raise UnknownFeature(feature, view=view, known=index_of)
        indices = [index_of[feature]] if colon else lookups[view].selected
        wanted.setdefault(view, {}).update(dict.fromkeys(indices))
    chosen = [replace(lookups[view], selected=tuple(found)) for view, found in wanted.items()]
    used = list(dict.fromkeys(index for use in chosen for index in use.keys))
    renumbered = {old: new for new, old in enumerate(used)}
    return replace(
        plan,
        request_keys=tuple(plan.request_keys[index] for index in used),
        lookups=tuple(
            replace(use, keys=tuple(renumbered[index] for index in use.keys)) for use in chosen
        ),
    )


def _to_message(plan: ServingPlan) -> pb.ServingPlan:
    return pb.ServingPlan(
        project=plan.project,
        service=plan.service,
        service_version=plan.service_version,
        request_keys=[pb.RequestKey(name=k.name, dtype=str(k.dtype)) for k in plan.request_keys],
        lookups=[_lookup_message(use) for use in plan.lookups],
    )


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
        stored=[
            pb.StoredFeature(name=f.name, dtype=str(f.dtype), version=f.version) for f in use.stored
        ],
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
    )
    for use in plan.lookups:
        _check_indices(use.keys, len(plan.request_keys), f"keys of {use.name}")
        _check_indices(use.selected, len(use.stored), f"selection of {use.name}")
    return plan


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
        stored=tuple(
            StoredFeature(f.name, dtypes.parse(f.dtype), f.version) for f in message.stored
        ),
        selected=tuple(message.selected),
        windows=windows,
    )


def _check_indices(indices: Iterable[int], size: int, what: str) -> None:
    for index in indices:
        if index >= size:
            raise ValueError(f"{what}: index {index} of {size}")

"""Served views without definitions: plans and rows made by hand.

For tests and benchmarks of stores, servers and clients: no source, engine or repository is needed
to have something served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore import dtypes
from featurestore.config import (
    OnlineSettings,
    ProjectSettings,
    RegistrySettings,
    ServingSettings,
    Settings,
)
from featurestore.fingerprint import fingerprint
from featurestore.records import Record
from featurestore.stores.online.base import OnlineStore, RowBatch
from featurestore.wire.layout import RowLayout
from featurestore.wire.plans import ALL_VIEWS, Lookup, RequestKey, ServingPlan, StoredFeature
from featurestore.wire.rows import encode_rows, key_encoder, key_prefix

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry


@dataclass(frozen=True, kw_only=True)
class ServedView:
    """A view by its facts: `keys` and `features` are name → type, as text."""

    name: str
    keys: Mapping[str, str]
    features: Mapping[str, str]
    key_space: str = ""
    ttl_us: int | None = None
    grace_us: int | None = None
    generation: int = 0
    project: str = "served"

    @property
    def storage_hash(self) -> str:
        return fingerprint([self.name, dict(self.keys), dict(self.features)])

    @property
    def field(self) -> bytes:
        """The online table of this view's generation."""
        return bytes.fromhex(fingerprint([self.storage_hash, self.generation])[:16])

    @property
    def layout(self) -> RowLayout:
        features = tuple((name, dtypes.parse(text)) for name, text in self.features.items())
        tag = int.from_bytes(bytes.fromhex(self.storage_hash)[:4], "little")
        return RowLayout(features, tag, self.name)

    def lookup(self, keys: Sequence[RequestKey]) -> Lookup:
        """The view as a plan with these request keys holds it."""
        index_of = {key.name: index for index, key in enumerate(keys)}
        return Lookup(
            name=self.name,
            view=self.name,
            view_version=fingerprint([self.storage_hash, self.ttl_us]),
            storage_hash=self.storage_hash,
            key_space=self.key_space or "+".join(self.keys) or "-",
            keys=tuple(index_of[name] for name in self.keys),
            field=self.field,
            generation=self.generation,
            ttl_us=self.ttl_us,
            grace_us=self.grace_us,
            stored=tuple(
                StoredFeature(name, dtype, fingerprint([self.name, name]))
                for name, dtype in self.layout.features
            ),
            selected=tuple(range(len(self.features))),
        )

    def store_keys(self, keys: Sequence[tuple[Any, ...]]) -> list[bytes]:
        """The store keys of entity keys, values in the order of `keys`."""
        prefix = key_prefix(self.project, self.key_space or "+".join(self.keys) or "-")
        encode = key_encoder([dtypes.parse(text) for text in self.keys.values()], prefix)
        return [encode(key) for key in keys]

    def rows(
        self, values: Sequence[Mapping[str, Any] | None], event_us: Sequence[int]
    ) -> list[bytes]:
        """Encoded rows; features left out are NULL, and None instead of values is a tombstone."""
        import pyarrow as pa

        columns = [
            pa.array([(row or {}).get(name) for row in values], dtypes.to_arrow(dtype))
            for name, dtype in self.layout.features
        ]
        deleted = pa.array([row is None for row in values], pa.bool_())
        times = pa.array(event_us, pa.int64())
        return encode_rows(self.layout, times, times, columns, deleted)

    def write(
        self,
        store: OnlineStore,
        rows: Mapping[tuple[Any, ...], Mapping[str, Any] | None],
        *,
        event_us: int,
    ) -> None:
        """Put one row per entity key into the store, all with one event time."""
        encoded = self.rows(list(rows.values()), [event_us] * len(rows))
        store.write(RowBatch(field=self.field, keys=self.store_keys(list(rows)), rows=encoded))


def serving_plan(service: str, views: Sequence[ServedView]) -> ServingPlan:
    """The plan of a service of whole views."""
    keys = dict.fromkeys(
        RequestKey(name, dtypes.parse(text)) for view in views for name, text in view.keys.items()
    )
    lookups = tuple(view.lookup(list(keys)) for view in views)
    return ServingPlan(
        project=views[0].project,
        service=service,
        service_version=fingerprint([[use.name, use.view_version] for use in lookups]),
        request_keys=tuple(keys),
        lookups=lookups,
    )


def narrowed(plan: ServingPlan, selected: Mapping[str, Sequence[str]]) -> ServingPlan:
    """The same plan with only some features of some views, in the order given."""
    lookups = []
    for use in plan.lookups:
        index_of = {feature.name: index for index, feature in enumerate(use.stored)}
        names = selected.get(use.name, list(index_of))
        lookups.append(replace(use, selected=tuple(index_of[name] for name in names)))
    return replace(plan, lookups=tuple(lookups))


def publish_plans(registry: Registry, *plans: ServingPlan, environment: str = "prod") -> None:
    """Move the serving aliases to these plans, as a finished materialization does."""
    records = [
        Record(kind="serving_plan", name=_record_name(plan), body={"blob": plan.hash})
        for plan in plans
    ]
    registry.commit(
        records=records,
        blobs=[plan.to_bytes() for plan in plans],
        aliases={
            f"serving/{environment}/{plan.service}": record.id
            for plan, record in zip(plans, records, strict=True)
        },
    )


def served_settings(root: Path, *, online: str = "lmdb:online", **serving: Any) -> Settings:
    """Settings of a project without a folder of definitions, on free ports of this machine."""
    doors: dict[str, Any] = {
        "grpc": "127.0.0.1:0",
        "http": "127.0.0.1:0",
        "reload_interval_ms": 200,
    }
    return Settings(
        root=root,
        project=ProjectSettings(name="served"),
        registry=RegistrySettings(url="sqlite:///registry.db"),
        online=OnlineSettings(url=online),
        serving=ServingSettings(**doors | serving),
    )


def _record_name(plan: ServingPlan) -> str:
    return "all-views" if plan.service == ALL_VIEWS else plan.service

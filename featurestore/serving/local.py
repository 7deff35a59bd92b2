"""The request path without a network: what `FeatureStore.get_online_features` calls."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.view import FeatureSelection, FeatureView
from featurestore.errors import InvalidRequest, UnknownService, UnknownView
from featurestore.serving.assemble import Limits, Request, look_at, prepare
from featurestore.serving.gate import LocalGate
from featurestore.serving.reload import PlanBook, What
from featurestore.wire.entities import read_entities
from featurestore.wire.inputs import Inputs, read_inputs
from featurestore.wire.response import Answer, OnlineResponse

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.stores.online.base import OnlineStore
    from featurestore.stores.registry.base import Registry
    from featurestore.timeline import Clock


class LocalServer:
    """Answers from the online store within this process, by the plans that a server would use.

    The serving aliases are looked at again when `reload_interval_ms` have passed, and before a
    service or view is called unknown. The registry and the store belong to the caller.
    """

    def __init__(
        self, settings: Settings, registry: Registry, store: OnlineStore, clock: Clock
    ) -> None:
        serving = settings.serving
        self._store = store
        self._clock = clock
        self._limits = Limits.of(settings.serving)
        self._book = PlanBook(
            registry,
            settings.project.environment,
            features_max=serving.features_per_request_max,
        )
        self._gate = LocalGate(registry, settings.project.name, clock)
        self._interval_s = serving.reload_interval_ms / 1_000
        self._fresh_until = float("-inf")

    def get_online_features(
        self,
        features: Any,
        entity_rows: Any,
        *,
        request: Any = None,
        full_feature_names: bool = False,
    ) -> OnlineResponse:
        """The newest features of each entity now; see `FeatureStore.get_online_features`."""
        return self._answer(
            what_of(features),
            entity_rows,
            self._clock.now_us(),
            full=full_feature_names,
            inputs=read_inputs(request),
        )

    def get_online_features_at(
        self,
        refs: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
        at_us: int,
        request: Any = None,
    ) -> OnlineResponse:
        """The answer that a request at `at_us` (µs) gets from what the store holds now, features
        named `view__feature`."""
        return self._answer(tuple(refs), rows, at_us, full=True, inputs=read_inputs(request))

    def refresh(self) -> None:
        """Look at the serving aliases now."""
        self._book.refresh()
        self._gate.refresh()
        self._fresh_until = time.monotonic() + self._interval_s

    def close(self) -> None:
        """Nothing of its own to release."""

    def _answer(
        self, what: What, rows: Any, at_us: int, *, full: bool, inputs: Inputs | None
    ) -> OnlineResponse:
        entities = read_entities(rows)
        if time.monotonic() >= self._fresh_until:
            self.refresh()
        self._gate.check_read(what)
        try:
            plan = self._book.compiled(what, full_feature_names=full)
        except (UnknownService, UnknownView):
            self.refresh()
            plan = self._book.compiled(what, full_feature_names=full)
        request = Request(
            count=entities.count,
            columns=entities.columns,
            event_times=True,
            schema_id=plan.schema_id,
            inputs=inputs,
        )
        prepared = prepare(plan, request, self._limits)
        found = self._store.read(prepared.reads) if prepared.reads else []
        statuses, sent, times = look_at(plan, request, prepared, found, at_us)
        answer = Answer(plan.plan_version, at_us, plan.schema_id, statuses, sent, times)
        return OnlineResponse(answer, plan.response_schema, entities)


def what_of(features: Any) -> What:
    """A service's name, or feature refs, from names or definitions.

    Raises `InvalidRequest` for anything else, and for a selection under another name: only a
    service can say what an alias means to a server.
    """
    if isinstance(features, str):
        return (features,) if ":" in features else features
    if isinstance(features, FeatureService):
        return features.name
    if isinstance(features, (FeatureView, OnDemandFeatureView, FeatureSelection)):
        return tuple(_refs(features))
    if isinstance(features, Iterable):
        return tuple(ref for item in features for ref in _refs(item))
    raise InvalidRequest(
        "features are a feature service, its name, or a list of 'view:feature', "
        f"not {type(features).__name__}"
    )


def _refs(item: Any) -> Iterable[str]:
    if isinstance(item, str):
        return (item,)
    if isinstance(item, (FeatureView, OnDemandFeatureView)):
        return (item.name,)
    if isinstance(item, FeatureSelection):
        if item.alias is not None or item.join_key_map:
            raise InvalidRequest(
                f"{item.name}: a view under another name or with other join keys is served as "
                "part of a feature service; ask for the service"
            )
        names = item.features
        return (item.view.name,) if names is None else [f"{item.view.name}:{n}" for n in names]
    raise InvalidRequest(f"{item!r} is not a feature; write 'view:feature' or 'view'")

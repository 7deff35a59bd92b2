"""The plans that a server answers with, and how they change under it.

A `PlanBook` reads the registry's serving aliases when it is told to and swaps one immutable
`_Page` for another. A request takes the page that stands when it begins, so one that is under way
finishes on the plan that it started with; no request reads the registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from featurestore.errors import (
    CorruptPlan,
    FeatureStoreError,
    InvalidFunction,
    InvalidRequest,
    LimitExceeded,
    RecordNotFound,
    RegistryError,
    StoreError,
    UnknownService,
)
from featurestore.serving.compiled import CompiledPlan, compile_plan
from featurestore.serving.logs import logger
from featurestore.wire.plan_parts import cut
from featurestore.wire.plans import ALL_VIEWS, ServingPlan

if TYPE_CHECKING:
    from featurestore.serving.metrics import Metrics
    from featurestore.stores.registry.base import Registry

VERSIONS_HELD_MAX = 4
"""Plans of one service that stay answerable as `service@version`, besides those that models in use
pin: the current one and older."""
COMPILED_HELD_MAX = 512
"""Distinct (service or feature list, naming) that stay compiled; the least used goes first."""
VERSION_DIGITS_MIN = 8

What = str | tuple[str, ...]
"""What a request asks for: `service`, `service@version`, or feature refs."""


@dataclass(frozen=True, slots=True)
class Reload:
    """What a refresh did: services whose plan changed (or went), and those whose new plan could
    not be loaded and that stay on the old one, each with its error."""

    changed: tuple[str, ...] = ()
    failed: tuple[tuple[str, FeatureStoreError], ...] = ()


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Plans of one service, newest first, and the registry record of the newest."""

    record: str
    plans: tuple[ServingPlan, ...]


class _Page:
    """One immutable state of the book; compiles each thing asked for once."""

    def __init__(
        self,
        services: Mapping[str, _Loaded],
        features_max: int,
        pinned: Mapping[str, ServingPlan] | None = None,
    ) -> None:
        self.services = services
        self.pinned = pinned or {}
        """The plans of older versions that models in use pin, by the record of the plan."""
        self._features_max = features_max
        self.compiled = lru_cache(maxsize=COMPILED_HELD_MAX)(self._compile)

    def _compile(self, what: What, full_feature_names: bool) -> CompiledPlan:
        if isinstance(what, str):
            return compile_plan(self._service(what), full_feature_names=full_feature_names)
        if not what:
            raise InvalidRequest("no feature is asked for; name a feature service or features")
        if len(what) > self._features_max:
            raise LimitExceeded(
                "features_per_request_max", asked=len(what), allowed=self._features_max
            )
        whole = self._all_views()
        return compile_plan(
            cut(whole, what), full_feature_names=full_feature_names, plan_version=whole.hash
        )

    def _service(self, ref: str) -> ServingPlan:
        name, _, version = ref.partition("@")
        loaded = self.services.get(name) if name != ALL_VIEWS else None
        known = [service for service in self.services if service != ALL_VIEWS]
        pinned = [plan for plan in self.pinned.values() if plan.service == name]
        if loaded is None and not (version and pinned):
            raise UnknownService(
                ref,
                known=known,
                hint="A service is served when it is applied and its views are materialized.",
            )
        plans = (*(loaded.plans if loaded is not None else ()), *pinned)
        if not version:
            return plans[0]
        for plan in plans:
            if plan.service_version.startswith(version) and len(version) >= VERSION_DIGITS_MIN:
                return plan
        held = [f"{name}@{plan.service_version[:VERSION_DIGITS_MIN]}" for plan in plans]
        raise UnknownService(ref, known=held)

    def _all_views(self) -> ServingPlan:
        if ALL_VIEWS in self.services:
            return self.services[ALL_VIEWS].plans[0]
        return _NOTHING


_NOTHING = ServingPlan(
    project="", service=ALL_VIEWS, service_version="", request_keys=(), lookups=()
)


@dataclass(slots=True)
class PlanBook:
    """The served plans of one environment.

    Reading (`compiled`, `plans`) is safe from any thread while one other refreshes.
    """

    registry: Registry
    environment: str
    features_max: int = 1_000
    _page: _Page = field(init=False)

    def __post_init__(self) -> None:
        self._page = _Page({}, self.features_max)

    @property
    def plans(self) -> dict[str, ServingPlan]:
        """The current plan of each service, by name (without `ALL_VIEWS`)."""
        return {
            name: loaded.plans[0]
            for name, loaded in sorted(self._page.services.items())
            if name != ALL_VIEWS
        }

    def compiled(self, what: What, *, full_feature_names: bool = False) -> CompiledPlan:
        """The plan for what a request asks for.

        Raises `UnknownService`, `UnknownView`, `UnknownFeature`, `NameClash`, `LimitExceeded`, and
        `InvalidRequest` for an empty list.
        """
        return self._page.compiled(what, full_feature_names)

    def refresh(self) -> Reload:
        """Load what the serving aliases name now; where nothing moved, nothing happens.

        Raises what the registry raises while it is away; the plans at hand stay.
        """
        prefix = f"serving/{self.environment}/"
        wanted = {
            name.removeprefix(prefix): alias.target
            for name, alias in self.registry.aliases(prefix).items()
        }
        page = self._page
        old = page.services
        services: dict[str, _Loaded] = {}
        changed = [name for name in old if name not in wanted]
        failed = list[tuple[str, FeatureStoreError]]()
        for service, record in wanted.items():
            at_hand = old.get(service)
            if at_hand is not None and at_hand.record == record:
                services[service] = at_hand
                continue
            try:
                plan = self._load(record)
            except (CorruptPlan, RecordNotFound, InvalidFunction) as error:
                failed.append((service, error))
                if at_hand is not None:
                    services[service] = at_hand
                continue
            services[service] = _Loaded(record, _newest_first(plan, at_hand))
            changed.append(service)
        pinned, unread = self._pinned(page.pinned)
        if changed or pinned.keys() != page.pinned.keys():
            self._page = _Page(services, self.features_max, pinned)
        failed += unread
        return Reload(tuple(sorted(changed)), tuple(failed))

    def _pinned(
        self, at_hand: Mapping[str, ServingPlan]
    ) -> tuple[dict[str, ServingPlan], list[tuple[str, FeatureStoreError]]]:
        """The plans that are pinned now, and those that could not be loaded."""
        prefix = f"pinned/{self.environment}/"
        found, failed = dict[str, ServingPlan](), list[tuple[str, FeatureStoreError]]()
        for name, alias in self.registry.aliases(prefix).items():
            try:
                found[alias.target] = at_hand.get(alias.target) or self._load(alias.target)
            except (CorruptPlan, RecordNotFound, InvalidFunction) as error:
                failed.append((name.removeprefix(prefix).replace("/", "@"), error))
        return found, failed

    def _load(self, record: str) -> ServingPlan:
        body = self.registry.record(record).record.body
        plan = ServingPlan.from_bytes(self.registry.blob(str(body.get("blob"))))
        if plan.service != ALL_VIEWS:
            # Compiled before anyone asks, so that a plan that cannot answer is never swapped in.
            compile_plan(plan, full_feature_names=True)
        return plan


def _newest_first(plan: ServingPlan, at_hand: _Loaded | None) -> tuple[ServingPlan, ...]:
    older: Sequence[ServingPlan] = at_hand.plans if at_hand is not None else ()
    others = [other for other in older if other.hash != plan.hash]
    return (plan, *others)[:VERSIONS_HELD_MAX]


async def follow(book: PlanBook, interval_s: float, metrics: Metrics) -> None:
    """Refresh the book every `interval_s` in a thread, for ever; cancel to stop.

    While the registry is away the plans at hand go on serving; it is said once, and again when the
    registry is back.
    """
    away, refused = False, tuple[str, ...]()
    while True:
        await asyncio.sleep(interval_s)
        try:
            reload = await asyncio.to_thread(book.refresh)
        except (RegistryError, StoreError) as error:
            if not away:
                logger().warning("registry does not answer; plans stay", reason=str(error))
            away = True
            metrics.reloaded(0, 1, len(book.plans))
            continue
        if away:
            logger().info("registry answers again")
        away = False
        report(reload, book, metrics, told=refused)
        refused = tuple(service for service, _ in reload.failed)


def report(reload: Reload, book: PlanBook, metrics: Metrics, *, told: Sequence[str] = ()) -> None:
    """Log and count what a refresh did; failures of services in `told` were logged before."""
    metrics.reloaded(len(reload.changed), len(reload.failed), len(book.plans))
    plans = book.plans
    for service in reload.changed:
        if service in plans:
            version = plans[service].hash[:8]
            logger().info("serving plan loaded", service=service, plan_version=version)
        elif service != ALL_VIEWS:
            logger().info("service is no longer served", service=service)
    for service, error in reload.failed:
        if service not in told:
            logger().error("serving plan not loaded", service=service, reason=str(error))

"""`who-uses`: who reads a feature or a view, and when it was last trained on, filled and asked."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import InvalidRequest, ServerUnavailable
from featurestore.jobs.lineage import name_of
from featurestore.jobs.lineage_impact import Impact, Touched, impact_of
from featurestore.jobs.lineage_refs import Target, find
from featurestore.lifecycle.lineage import Blast
from featurestore.permissions import VIEWS

if TYPE_CHECKING:
    from featurestore.records import OnlineUse
    from featurestore.stores.registry.base import Registry

METRICS_TIMEOUT_S = 5
METRICS_BYTES_MAX = 16 * 1024 * 1024
LOOKUPS = "featurestore_view_statuses_total"
_BELOW_VIEWS = ("feature", "on_demand_view", "service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """Who uses `target`: other features that are computed from it, and services, training sets,
    runs and models, of all its versions.

    `last_trained_us` is the birth of the newest training set with it (None: there is none),
    `last_materialized_us` the end of the newest run that wrote one of its views. `last_online` is
    when servers were last asked, to the hour, for each service that has it and each view that is
    asked for by features; the newest first. `lookups` are rows that the server asked has looked up
    in its views since that server started; None: unknown, for no server was asked.
    """

    target: str
    at_us: int | None
    features: tuple[Touched, ...]
    blast: Blast
    last_trained_us: int | None
    last_training_set: str | None
    last_materialized_us: int | None
    last_online: tuple[OnlineUse, ...]
    lookups: int | None

    @property
    def is_unused(self) -> bool:
        """Whether nothing that is known of uses it."""
        return not (self.features or self.blast.every)


def who_uses(
    registry: Registry, target: str, *, at_us: int | None = None, metrics: str | None = None
) -> Uses:
    """Who uses a feature (`view:feature`), a view, or anything else that has a name.

    `metrics` is the address of a server's metrics (`http://127.0.0.1:6567/metrics`), which say how
    often its views were asked for since it started. Raises as `impact` does, `ServerUnavailable`,
    `InvalidRequest`.
    """
    with registry.session():
        asked = find(registry, target, at_us=at_us)
        found = impact_of(registry, asked, at_us=at_us)
        views = _views(registry, asked, found, at_us)
        sets = [hit.id for hit in found.blast.training_sets]
        trained = registry.glances(ids=sets, with_parents=False)
        last_materialized_us = _last_materialized(registry, views, at_us)
        last_online = tuple(registry.last_uses(_asked_by(asked, found), at_us=at_us))
    own = {name_of(record_id).replace(".", ":", 1) for record_id in asked.ids}
    newest = max(trained, key=lambda stored: stored.created_at_us, default=None)
    return Uses(
        target=target,
        at_us=at_us,
        features=tuple(feature for feature in found.features if feature.name not in own),
        blast=found.blast,
        last_trained_us=None if newest is None else newest.created_at_us,
        last_training_set=None if newest is None else newest.id,
        last_materialized_us=last_materialized_us,
        last_online=last_online,
        lookups=None if metrics is None else lookups_of(_fetched(metrics), views),
    )


def _views(registry: Registry, asked: Target, found: Impact, at_us: int | None) -> set[str]:
    """The views whose rows are read by what was asked for, or made of it where it is a source."""
    if asked.kind == "view":
        return {stored.name for stored in asked.records}
    if asked.kind in _BELOW_VIEWS:
        links = registry.walk(asked.ids, direction="up", at_us=at_us)
        features = [name_of(i) for i in (*asked.ids, *(link.parent for link in links)) if _read(i)]
        return {name.partition(".")[0] for name in features}
    return {feature.name.partition(":")[0] for feature in found.features}


def _read(record_id: str) -> bool:
    return record_id.startswith("feature:")


def _asked_by(asked: Target, found: Impact) -> set[str]:
    """The names under which servers are asked for something: services that have it, its view, and
    views that are computed from it."""
    own = {stored.name for stored in asked.records}
    views = {feature.name.partition(":")[0] for feature in found.features}
    if asked.kind == "feature":
        views |= {name.partition(".")[0] for name in own}
    elif asked.kind in ("view", "on_demand_view"):
        views |= own
    services = {hit.name for hit in found.blast.services}
    services |= own if asked.kind == "service" else set()
    return services | {f"{VIEWS}{view}" for view in views}


def _last_materialized(registry: Registry, views: Iterable[str], at_us: int | None) -> int | None:
    runs = registry.last_runs("view", sorted(views), at_us=at_us).values()
    return max((run.finished_at_us for run in runs), default=None)


def lookups_of(text: str, views: Iterable[str]) -> int:
    """The rows looked up in `views`, by metrics in Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families

    wanted = set(views)
    try:
        return sum(
            int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == LOOKUPS and sample.labels.get("view") in wanted
        )
    except ValueError as error:
        raise InvalidRequest(f"what the metrics address answers are no metrics ({error})") from None


def _fetched(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise InvalidRequest(
            f"{url!r} is no address of metrics; write http://HOST:PORT/metrics, as serve says"
        )
    try:
        with urllib.request.urlopen(url, timeout=METRICS_TIMEOUT_S) as answer:  # noqa: S310
            data: bytes = answer.read(METRICS_BYTES_MAX)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise ServerUnavailable(f"No metrics come from {url}: {error}") from error
    return data.decode(errors="replace")

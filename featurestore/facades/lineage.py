"""`fs.lineage`: questions about where things come from and what depends on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidRequest
from featurestore.timeline import to_us

if TYPE_CHECKING:
    from featurestore.jobs.access import Asker
    from featurestore.jobs.lineage_blast import BadData
    from featurestore.jobs.lineage_erase import Erasure
    from featurestore.jobs.lineage_freshness import Freshness
    from featurestore.jobs.lineage_gc import Collected
    from featurestore.jobs.lineage_history import Diff
    from featurestore.jobs.lineage_impact import Impact
    from featurestore.jobs.lineage_tree import Lineage
    from featurestore.jobs.lineage_uses import Uses
    from featurestore.jobs.materialize import Context
    from featurestore.jobs.openlineage import Tally
    from featurestore.jobs.openlineage_jobs import Telling
    from featurestore.jobs.training_sets import SetStore
    from featurestore.lifecycle.lineage import Direction
    from featurestore.records import AliasEvent
    from featurestore.stores.registry.base import Registry

Instant = datetime | str | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """How to reach what questions need; each opens when it is first called."""

    registry: Callable[[], Registry]
    context: Callable[[], Context]
    sets: Callable[[], SetStore]
    asker: Callable[[], Asker]
    telling: Callable[[], Telling]


class LineageQuestions:
    """The questions of `fs.lineage`. `at` has each answered as of that instant: aliases as they
    stood, records that were born by then. All raise `RecordNotFound` with what is close,
    `AmbiguousRecord` and `LimitExceeded`."""

    def __init__(
        self,
        doors: Doors,
        *,
        environment: str,
        now_us: Callable[[], int],
    ) -> None:
        self._doors = doors
        self._registry = doors.registry
        self._environment = environment
        self._now_us = now_us

    def impact(self, target: str, *, at: Instant = None) -> Impact:
        """What a change of a column (`"weather.temp"`), a source, a feature (`"view:feature"`) or
        anything else that has a name would touch: features, services, training sets, runs, models,
        each DIRECT or INDIRECT."""
        from featurestore.jobs.lineage_impact import impact

        return impact(self._registry(), target, at_us=_us(at))

    def who_uses(self, target: str, *, metrics: str | None = None, at: Instant = None) -> Uses:
        """Who uses a feature or a view, when it was last trained on, materialized and asked for
        online, and, where the address of a server's metrics is given, how often it was looked up
        there. Raises `ServerUnavailable` for metrics that do not come."""
        from featurestore.jobs.lineage_uses import who_uses

        return who_uses(self._registry(), target, metrics=metrics, at_us=_us(at))

    def of(
        self, target: str, *, up: bool = True, depth: int | None = None, at: Instant = None
    ) -> Lineage:
        """What something was made of (`up`), down to columns of sources, or else what was made of
        it; at most `depth` links away."""
        from featurestore.jobs.lineage_tree import lineage

        direction: Direction = "up" if up else "down"
        return lineage(self._registry(), target, direction=direction, depth=depth, at_us=_us(at))

    def diff(
        self,
        alias: str,
        start: datetime | str | int,
        end: Instant = None,
        *,
        at: Instant = None,
    ) -> Diff:
        """What moved below an alias (`"env/prod"`, `"model/delay/production"`) between two
        instants, until `at` (now) by default. Raises `InvalidRequest` for an end
        after `at` or before the start."""
        from featurestore.jobs.lineage_history import diff

        at_us = self._now_us() if at is None else to_us(at)
        end_us = at_us if end is None else to_us(end)
        if at is not None and end_us > at_us:
            raise InvalidRequest("a difference as of an instant does not end after it")
        if end_us < to_us(start):
            raise InvalidRequest(
                "a difference ends after it begins; give the earlier instant first"
            )
        return diff(self._registry(), alias, from_us=to_us(start), to_us=end_us)

    def history(self, alias: str, *, at: Instant = None) -> list[AliasEvent]:
        """The moves of an alias, oldest first: who, when, from, to, why."""
        from featurestore.jobs.lineage_history import history

        return history(self._registry(), alias, at_us=_us(at))

    def freshness(self, service: str, *, at: Instant = None) -> Freshness:
        """Up to which instant what a service answers is known: the least of what it reads. Raises
        `UnknownService` for one that the environment does not serve."""
        from featurestore.jobs.lineage_freshness import freshness

        at_us = self._now_us() if at is None else to_us(at)
        return freshness(self._registry(), service, environment=self._environment, at_us=at_us)

    def blast(
        self, target: str, *, start: Instant = None, end: Instant = None, at: Instant = None
    ) -> BadData:
        """Which training sets, runs and models saw a bad snapshot (its id), or rows of a source
        with event times in `[start, end)`. Raises `InvalidRequest`."""
        from featurestore.jobs.lineage_blast import bad_data

        return bad_data(self._registry(), target, from_us=_us(start), to_us=_us(end), at_us=_us(at))

    def erase(
        self, entity: str, keys: Any, *, dry_run: bool = False, at: Instant = None
    ) -> Erasure:
        """Which training sets hold these keys of an entity, and which runs and models were made of
        those; then delete the keys, online and offline (`dry_run`: don't). `keys` and what is
        raised as of `FeatureStore.delete_entity`. `at` is for the question alone: a deletion
        happens now (`InvalidRequest`)."""
        from featurestore.jobs import access
        from featurestore.jobs.lineage_erase import erase

        if at is not None and not dry_run:
            raise InvalidRequest(
                "a deletion happens now, not at another instant; ask what held the keys then with "
                "dry_run (in the shell: --dry-run)"
            )
        ask = access.check if dry_run else access.authorize
        ask(self._doors.asker(), "delete", str(entity))
        return erase(
            self._doors.context(),
            self._doors.sets(),
            entity,
            keys,
            dry_run=dry_run,
            now_us=self._now_us(),
            at_us=_us(at),
        )

    def gc(self, *, older_than: str = "1d", dry_run: bool = False, at: Instant = None) -> Collected:
        """Remove files of ours that nothing names, artifacts and those of training sets, once they
        are older than that (an hour at least); `dry_run` only lists them: those that would go now,
        or `at` an instant to come. Raises `InvalidRequest` (a past instant as well, for files have
        no history), `PermissionDenied`."""
        from featurestore.jobs import access
        from featurestore.jobs.lineage_gc import collect

        now_us = self._now_us()
        at_us = now_us if at is None else to_us(at)
        if at is not None and (not dry_run or at_us < now_us):
            raise InvalidRequest(
                "files are looked at and removed as they are now, for they have no history; with "
                "dry_run (in the shell: --dry-run) you may ask what would go at an instant to come"
            )
        ask = access.check if dry_run else access.authorize
        ask(self._doors.asker(), "delete", "gc")
        return collect(
            self._registry(),
            self._doors.sets().offline,
            now_us=at_us,
            older_than_us=access.duration_us(older_than),
            dry_run=dry_run,
        )

    def exported(self) -> Tally:
        """OpenLineage events of this process: `sent`, and `failed` ones, which stop nothing."""
        return self._doors.telling().tally


def _us(instant: Instant) -> int | None:
    return None if instant is None else to_us(instant)

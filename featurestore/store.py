"""`FeatureStore`: the door for Python. A method asks who may do it and hands over to `jobs` or
`serving`, where the work is; what it hands over is opened in `facades.opened`. It is long by what
its docstrings promise, which is what people read first."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from featurestore.errors import InvalidRepository
from featurestore.facades.access import AccessControl
from featurestore.jobs import project
from featurestore.timeline import to_us
from featurestore.tracing import job_span

if TYPE_CHECKING:
    import threading
    from datetime import datetime

    from featurestore.compiler.changes import ChangePlan
    from featurestore.compiler.spans import Span
    from featurestore.facades.data import DataVersions
    from featurestore.facades.environments import Environments
    from featurestore.facades.lineage import LineageQuestions
    from featurestore.facades.models import ModelRegistry
    from featurestore.facades.runs import Runs
    from featurestore.jobs.apply import ApplyResult
    from featurestore.jobs.deletions import Deletion
    from featurestore.jobs.gates import Bench
    from featurestore.jobs.ingest import Ingested
    from featurestore.jobs.inventory import Kind
    from featurestore.jobs.materialize import Progress
    from featurestore.jobs.optimize import Optimized
    from featurestore.jobs.reproduce import Reproduction
    from featurestore.jobs.tracking import ActiveRun
    from featurestore.jobs.training import RetrievalJob
    from featurestore.jobs.training_sets import TrainingSet
    from featurestore.jobs.verify import VerifyReport
    from featurestore.jobs.view_profiles import ViewProfile
    from featurestore.records import LedgerRow
    from featurestore.serving.ingest_metrics import IngestMetrics
    from featurestore.wire.pushes import PushResult
    from featurestore.wire.response import OnlineResponse

PUSH_CHECKED_S = 1.0
"""How long a push may go on after its permission was taken away."""
Rows = list[dict[str, Any]]
"""A list of plain dicts (`FeatureStore.list` hides the built-in name inside the class)."""


class FeatureStore(AccessControl):
    """A feature repository and its back ends, opened when first used.

    Args:
        repo: the repository's folder (with `featurestore.toml`), or ready-made `Settings`.
        overrides: settings that win over the file and the environment, keyed `"online.url"`.
        clock: where "now" comes from.
        definitions: a repository that is typed already, instead of the folder's.

    Use as a context manager, or call `close`. One store may be used by several threads.
    """

    @cached_property
    def lineage(self) -> LineageQuestions:
        """Where things come from, and what depends on them."""
        from featurestore.facades.lineage import Doors, LineageQuestions

        doors = Doors(
            registry=lambda: self.registry,
            context=self._context,
            sets=self._sets,
            asker=self._asker,
            telling=lambda: self._telling,
        )
        return LineageQuestions(
            doors, environment=self.settings.project.environment, now_us=self.clock.now_us
        )

    @cached_property
    def models(self) -> ModelRegistry:
        """The model registry."""
        from featurestore.facades.models import ModelRegistry

        return ModelRegistry(self._models, self._bench, lambda: project.load_gates(self.settings))

    @cached_property
    def environments(self) -> Environments:
        """The environments as a whole: `list`, `diff`, `promote`, `rollback`, `delete`."""
        from featurestore.facades.environments import Environments

        return Environments(lambda: self.registry, self._asker, self._refresh)

    def plan(self) -> ChangePlan:
        """What `apply` would change in the environment, what filling its tables would read, and all
        that lies downstream; changes nothing."""
        from featurestore.jobs import apply
        from featurestore.jobs.backfills import Estimates

        offline, now_us = project.offline_folder(self.settings), self.clock.now_us()
        return apply.plan(
            self.repo,
            self.registry,
            self.settings.project.environment,
            estimates=Estimates(root=self.settings.root, offline=offline, now_us=now_us),
        )

    def apply(
        self,
        plan: ChangePlan | None = None,
        *,
        serve_now: bool = False,
        allow_production_impact: str | None = None,
    ) -> ApplyResult:
        """Commit the definitions.

        Args:
            plan: only if nothing moved since (else `StalePlan`).
            serve_now: serve new versions before they are materialized.
            allow_production_impact: why a breaking change below a model in production is meant; it
                is recorded.

        Raises `StalePlan`; `DestructiveChange` where something goes that a model in use pins;
        `ProductionImpact` where something breaks below a model in production without a reason.
        """
        from featurestore.jobs import access, apply, store_identity

        environment = self.settings.project.environment
        where = f"env/{environment}"
        repo, telling = self.repo, self._telling
        access.authorize(self._asker(), "apply", where)
        with job_span(self._tracing, "apply", {"featurestore.environment": where}):
            store_identity.adopt(
                lambda: self.online_store,
                self.registry,
                project=self.settings.project.name,
                environment=environment,
            )
            result = apply.apply(
                repo,
                self.registry,
                environment,
                plan=plan,
                serve_now=serve_now,
                allow_production_impact=allow_production_impact,
            )
        self._refresh()
        telling.applied(result.plan, at_us=self.clock.now_us())
        return result

    def get_historical_features(
        self,
        entity_df: Any = None,
        features: Any = (),
        *,
        start: datetime | str | int | None = None,
        end: datetime | str | int | None = None,
        as_of: Literal["known", "event"] = "known",
        known_until: datetime | str | int | None = None,
        full_feature_names: bool = False,
        include_status: bool = False,
        event_timestamp: str = "event_timestamp",
    ) -> RetrievalJob:
        """Point-in-time-correct features for each row of `entity_df`; nothing runs until the job is
        asked for its rows.

        Args:
            entity_df: pandas, polars, Arrow, a Parquet path, or SQL over the repository's sources;
                join keys and a request time per row. None with `start` or `end`.
            features: a service (or its name), a view, or a list of `"view:feature"`.
            start, end: instead of an entity frame: the values as they became known in
                `[start, end)`, a row for each key and each instant at which its answer changed. No
                start is from the beginning, no end is until now. All views have the same keys.
            as_of: `known` (default) sees what serving could have known at the row's time; `event`
                also sees rows that became known later.
            known_until: see nothing that became known after this instant.
            full_feature_names: name columns `view__feature`.
            include_status: add a column `view__status` for each view.
            event_timestamp: the column of request times.

        Raises `UnknownService`, `UnknownView`, `UnknownFeature`, `NameClash`, `MissingJoinKey`,
        `InvalidJoinKey`, `InvalidEntityFrame`, `InvalidRequest` (a frame and a
        span, an empty span, keys that differ).
        """
        from featurestore.jobs import training
        from featurestore.jobs.retrieved import Retrieved, note_retrieved

        job = training.retrieve(
            entity_df,
            features,
            repo=self.repo,
            root=self.settings.root,
            offline=project.offline_folder(self.settings),
            engine=self.engine,
            as_of=as_of,
            known_until_us=None if known_until is None else to_us(known_until),
            full_feature_names=full_feature_names,
            include_status=include_status,
            event_timestamp=event_timestamp,
            span=self._span(start, end),
        )
        note_retrieved(
            Retrieved(
                training_set=None,
                features=job.features,
                pins=job.pins,
                service=training.service_of(features, self.repo),
                at_us=self.clock.now_us(),
            )
        )
        return job if self._tracing is None else dataclasses.replace(job, _tracing=self._tracing)

    def create_training_set(
        self,
        name: str,
        entity_df: Any,
        features: Any,
        *,
        label: str | None = None,
        splits: Mapping[str, Any] | None = None,
        as_of: Literal["known", "event"] = "known",
        known_until: datetime | str | int | None = None,
        full_feature_names: bool = False,
        include_status: bool = False,
        event_timestamp: str = "event_timestamp",
    ) -> TrainingSet:
        """Write a training set once, with a record of all that it was made of: feature versions,
        snapshots of the sources, the entity frame, a digest and a profile of its rows.

        Args:
            name: what it is called; `training_set(name)` is the newest of that name.
            entity_df, features, as_of, full_feature_names, include_status, event_timestamp: as of
                `get_historical_features`.
            known_until: see nothing that became known later; by default, than now.
            label: the column to learn.
            splits: by time `{"train": "2013-10-01", "test": None}` (each ends before its instant),
                or by entity `{"train": 0.8, "test": 0.2}` (`"by"` names the join keys).

        Raises what `get_historical_features` and its job do, `InvalidRequest` (name, label,
        splits), `FileNotWritten`, `SnapshotMissing`, `PermissionDenied`; then nothing is on record.
        """
        from featurestore.jobs import access, training_set_creation

        now_us, telling = self.clock.now_us(), self._telling
        access.authorize(self._asker(), "track", str(name), detail="training set")
        asked = training_set_creation.Asked(
            name=name,
            entity_df=entity_df,
            features=features,
            label=label,
            splits=splits,
            as_of=as_of,
            known_until_us=now_us if known_until is None else to_us(known_until),
            full_feature_names=full_feature_names,
            include_status=include_status,
            event_timestamp=event_timestamp,
        )
        with job_span(self._tracing, "training set", {"featurestore.name": str(name)}):
            made = training_set_creation.create(
                asked, self._sets(), repo=self.repo, engine=self.engine
            )
        telling.trained_on(made, started_us=now_us)
        return made

    def training_set(self, ref: str) -> TrainingSet:
        """The training set of that name (the newest), or with that id, in full or short.

        Raises `RecordNotFound`, `AmbiguousRecord`, `InvalidRequest` (a record of another kind).
        """
        from featurestore.jobs import training_sets

        return training_sets.training_set(ref, self._sets())

    def start_run(
        self,
        experiment: str,
        *,
        name: str | None = None,
        training_set: Any = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent: ActiveRun | str | None = None,
    ) -> ActiveRun:
        """A new run of an experiment, to be used as a block. What is recorded without asking: the
        commit of the code and what differs from it, Python, packages, lock file, machine, user.

        Args:
            name: what people call it; by default the beginning of its id.
            training_set: what it learns from: a `TrainingSet`, its name or id, or a list of them.
            params: parameters; each is set once, and keeps its type.
            tags: tags; they may change.
            parent: the run that it is nested in; by default that whose block we are in.

        Raises `InvalidRequest`, `RecordNotFound`, `LimitExceeded`, `PermissionDenied`.
        """
        return self.runs.tracker.start(
            experiment, name=name, training_set=training_set, params=params, tags=tags,
            parent=parent,
        )  # fmt: skip

    @cached_property
    def runs(self) -> Runs:
        """Experiment tracking: search, get, list, compare."""
        from featurestore.facades.runs import Runs
        from featurestore.jobs.tracking import Tracker
        from featurestore.stores.offline.artifacts import ArtifactStore

        artifacts = ArtifactStore(project.offline_folder(self.settings))
        return Runs(Tracker(self.registry, artifacts, self.clock, self._models, self._telling))

    @cached_property
    def data(self) -> DataVersions:
        """Versions of the data that we keep: `log`, `diff`, `restore`, `tag`, `vacuum`."""
        from featurestore.facades.data import DataVersions

        return DataVersions(self._sets, self._asker, self._context)

    def reproduce(self, ref: str, *, at: datetime | str | int | None = None) -> Reproduction:
        """Rebuild a training set from what its record pins, and compare: `ref` names it (named it
        `at` that instant), or a run or a model that was trained on it. Nothing is written.

        The verdict is `EXACT`, `DIFFERENT_ENVIRONMENT` (the same rows by other library versions),
        `DATA_EXPIRED` (files gone or changed), `UNPINNED` (sources that nobody can read again) or
        `MISMATCH` (which columns, in how many rows).

        Raises `RecordNotFound`, `AmbiguousRecord`, `InvalidRequest` (nothing that hangs on one
        training set).
        """
        from featurestore.jobs import reproduce

        present = None
        with suppress(InvalidRepository):  # then the records alone say what was meant
            present = self.repo
        with job_span(self._tracing, "reproduce", {"featurestore.name": str(ref)}):
            return reproduce.reproduce(
                ref,
                self._sets(),
                engine=self.engine,
                present=present,
                project=self.settings.project.name,
                at_us=None if at is None else to_us(at),
            )

    def materialize(
        self,
        views: Sequence[str] | None = None,
        *,
        start: datetime | str | int | None = None,
        end: datetime | str | int | None = None,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> tuple[LedgerRow, ...]:
        """Bring the online store up to date: incrementally by known time, or for event times
        `[start, end)`, or (`replace`) into a new generation beside the old one.

        Returns one ledger row per view. Raises `NotApplied` for views whose definition is not what
        the environment has, `UnknownView`, `SnapshotMissing` (files rewritten meanwhile),
        `StoreUnavailable`.
        """
        from featurestore.jobs import access, materialize

        where = f"env/{self.settings.project.environment}"
        named, telling = ", ".join(views or ()), self._telling
        who = access.admit(self._asker(), "materialize", where)
        with job_span(self._tracing, "materialize", {"featurestore.views": named}):
            rows = materialize.materialize(
                self._context(),
                views,
                now_us=self.clock.now_us(),
                start_us=None if start is None else to_us(start),
                end_us=None if end is None else to_us(end),
                replace=replace,
                progress=progress,
                begin=lambda: access.note(self.registry, who, "materialize", where, detail=named),
            )
        self._refresh()
        telling.materialized(rows)
        return rows

    def push(self, source: str, rows: Any, *, from_json: bool = False) -> PushResult:
        """Take rows of a source. When this returns they are on the disk, and `get_online_features`
        answers with them; offline reads of the source see them beside its own files.

        Args:
            source: a file or stream source.
            rows: dicts, a dict of columns, or a pandas, polars or Arrow table, with all columns of
                the source. Its created time may be left out (the rows are then known from now on),
                and so may `op` (`U`; `D` deletes). At most `push.rows_per_push_max` rows.
            from_json: the rows were JSON; their bytes are base64.

        All rows are checked before any is taken. Rows that are not due yet are held until they are,
        for `push.clock_skew_ms_max` at most; beyond, they are dead letters (`PushResult.dead`).

        Raises `UnknownSource`, `InvalidRows`, `InvalidRequest`, `LimitExceeded`, `NotApplied`,
        `PermissionDenied`, `FileNotWritten` (nothing was taken); `ServerOverloaded` while the store
        or the disk falls behind; `StoreUnavailable`, `StoreTimeout` (the rows are safe, and are
        written as soon as the store is back; pushing them again changes nothing).
        """
        self._may_push(source)
        return self._pusher.push(source, rows, from_json=from_json)

    def ingest(
        self,
        sources: Sequence[str] | None = None,
        *,
        until_empty: bool = False,
        stop: threading.Event | None = None,
        metrics: IngestMetrics | None = None,
    ) -> tuple[Ingested, ...]:
        """Take the messages of the streams that feed these sources (all, by default) until `stop`
        is set, or `until_empty` until none is left; what each stream has brought.

        Raises `UnknownSource`, `InvalidRequest` (no stream feeds it), `NotApplied`,
        `StoreAccessDenied`, `PermissionDenied`; what is away is waited for.
        """
        from featurestore.serving import ingest

        streams = ingest.streams_of(self.repo, sources)
        for stream in streams:
            self._may_push(stream.source)
        return ingest.run(
            streams,
            self._context(),
            self.settings,
            stop=stop,
            until_empty=until_empty,
            metrics=metrics,
        )

    def dead_letters(self, source: str) -> Rows:
        """What was pushed to a source and could not be taken, oldest first: `at`, `reason`,
        `message`, `origin` and the `row` as text. Raises `UnknownSource`."""
        from featurestore.jobs import push_letters, push_rows

        typed = push_rows.pushed_source(self.repo, source)
        return push_letters.dead_letters_of(self._context(), typed)

    def delete_entity(self, entity: str, keys: Any) -> Deletion:
        """Delete keys of an entity: `{"tailnum": "N1"}`, a list of such dicts, or a table.

        Their rows are removed online (of every view that has the entity, or has its join keys in a
        composite key), and what was known by now counts no more offline: training sets, also about
        the past, and later materializations leave it out. What becomes known later counts.

        Raises `InvalidRequest` (no such entity, no keys), `MissingJoinKey`, `InvalidJoinKey`,
        `LimitExceeded`, `FileNotWritten`, `StoreUnavailable`; it can be run again after any of
        them.
        """
        from featurestore.jobs import access, deletions

        access.authorize(self._asker(), "delete", str(entity))
        return deletions.delete_entity(self._context(), entity, keys, now_us=self.clock.now_us())

    def profile(
        self,
        views: Sequence[str] | None = None,
        *,
        start: datetime | str | int | None = None,
        end: datetime | str | int | None = None,
    ) -> tuple[ViewProfile, ...]:
        """Put on record what the features of these views (all, by default) are like: how many
        values, NULLs and different ones, extremes, mean, deviation, quantiles, a histogram, the
        most frequent. Of the rows that `get_historical_features` finds between `start` and `end`:
        each key at each instant at which its answer changed. The page shows the newest.

        Raises `UnknownView`, `InvalidRequest` (an empty span, a view that reads the request),
        `SnapshotMissing`, `LimitExceeded`, `PermissionDenied`.
        """
        from featurestore.jobs import access, view_profiles

        access.authorize(self._asker(), "track", None, detail="profile")
        return view_profiles.profile_views(
            views,
            self._between(start, end),
            self._sets(),
            repo=self.repo,
            engine=self.engine,
        )

    def optimize(self, sources: Sequence[str] | None = None) -> tuple[Optimized, ...]:
        """Write a copy of each source (all, by default), sorted by key, from which questions about
        few keys are answered without reading the source's files. A copy that is current stays; one
        that is superseded is removed. Answers never change by it.

        Raises `UnknownReference`, `InvalidRequest` (an SQL source, or one that no view reads by a
        key), `SnapshotMissing` (files rewritten meanwhile), `FileNotWritten`.
        """
        from featurestore.jobs import access, optimize

        access.authorize(self._asker(), "materialize", None, detail="optimize")
        return optimize.optimize(self._context(), sources)

    def sweep(self) -> int:
        """Free the bytes of online tables that nothing serves any more; returns rows freed."""
        from featurestore.jobs import access, materialize, optimize, training_sets
        from featurestore.stores.offline import push_log

        access.authorize(self._asker(), "materialize", None, detail="sweep")
        optimize.sweep_copies(self._context())
        push_log.sweep(project.offline_folder(self.settings), now_us=self.clock.now_us())
        training_sets.sweep(self._sets(), now_us=self.clock.now_us())
        return materialize.sweep(self._context(), now_us=self.clock.now_us())

    def get_online_features(
        self,
        features: Any,
        entity_rows: Any,
        *,
        request: Any = None,
        full_feature_names: bool = False,
    ) -> OnlineResponse:
        """The newest features of each entity now, as a server would answer.

        Args:
            features: a service (or its name) or a list of `"view:feature"`, as applied and
                materialized in the environment.
            entity_rows: `[{"tailnum": "N14228"}, …]` or `{"tailnum": […]}`.
            request: what on-demand views read of the request, one row per entity, in the same
                forms: `[{"distance": 719.0}, …]`.
            full_feature_names: name features `view__feature`.

        Raises `UnknownService`, `UnknownView`, `UnknownFeature`, `MissingJoinKey`,
        `InvalidJoinKey`, `MissingRequestInput`, `InvalidRequestInput`, `LimitExceeded`,
        `StoreTimeout`, `StoreUnavailable`, `CorruptRow`.
        """
        return self._local.get_online_features(
            features, entity_rows, request=request, full_feature_names=full_feature_names
        )

    def verify(
        self, service: str | None = None, *, samples: int = 1000, seed: int = 0
    ) -> VerifyReport:
        """Compare the online and the offline path at T = now on sampled entities."""
        from featurestore.jobs import verify

        self._refresh()
        return verify.verify(
            self._context(),
            read_online=self._local.get_online_features_at,
            service=service,
            samples=samples,
            seed=seed,
            now_us=self.clock.now_us(),
        )

    def list(self, kind: Kind) -> Rows:
        """The `entities`, `sources`, `views` or `services` of the repository, a dict each."""
        from featurestore.jobs import inventory

        return inventory.list_objects(self.repo, kind, root=self.settings.root)

    def describe(self, kind: Kind, name: str) -> dict[str, Any]:
        """One object of the repository in full. Raises `UnknownReference`."""
        from featurestore.jobs import inventory

        return inventory.describe(self._context(), kind, name)

    def info(self) -> dict[str, Any]:
        """Versions, settings (secrets masked), counts and the state of the back ends."""
        from featurestore.jobs import inventory

        return inventory.info(self.settings, self._context)

    @cached_property
    def _pushing(self) -> dict[str, float]:
        """The sources that we may push to, and when that was looked at; the audit log notes each
        once."""
        return {}

    def _may_push(self, source: str) -> None:
        from featurestore.jobs import access

        now, looked = time.monotonic(), self._pushing.get(source)
        if looked is not None and now - looked < PUSH_CHECKED_S:
            return
        ask = access.authorize if looked is None else access.check
        ask(self._asker(), "push", source)
        self._pushing[source] = now

    def _bench(self) -> Bench:
        from featurestore.jobs.gates import Bench

        return Bench(
            models=self._models(),
            context=self._context,
            verify=lambda service, samples, seed: self.verify(service, samples=samples, seed=seed),
        )

    def _span(
        self, start: datetime | str | int | None, end: datetime | str | int | None
    ) -> Span | None:
        return None if start is None and end is None else self._between(start, end)

    def _between(
        self, start: datetime | str | int | None, end: datetime | str | int | None
    ) -> Span:
        from featurestore.compiler.spans import Span

        return Span(
            start_us=None if start is None else to_us(start),
            end_us=self.clock.now_us() if end is None else to_us(end),
        )

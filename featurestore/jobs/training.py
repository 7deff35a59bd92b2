"""Training sets: point-in-time-correct features beside the rows of an entity frame.

The engine is given keys and times alone. The frame's own columns stay as they came, in their own
Arrow types, and the features are put beside them batch by batch, by position.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.buckets import S3Options
from featurestore.compiler.deletions import deleting, deletions_name
from featurestore.compiler.program import Program, program_of
from featurestore.compiler.rel import DataFiles
from featurestore.compiler.selection import Features, select
from featurestore.compiler.spans import Span, compile_changes
from featurestore.compiler.training import AsOf, TrainingSet, compile_training
from featurestore.definitions.service import FeatureService
from featurestore.engines.base import BATCH_ROWS
from featurestore.errors import InvalidEntityFrame, InvalidRequest, MissingJoinKey, suggest
from featurestore.jobs import retrieval
from featurestore.jobs.entity_frame import (
    EntityFrame,
    Rows,
    frame_of_changes,
    is_query,
    open_frame,
    query_sources,
)
from featurestore.jobs.entity_values import check_key_type, check_time_type
from featurestore.jobs.known_time import KnownTimeCheck, KnownTimeWarning
from featurestore.jobs.later_steps import FunctionWarning, LaterSteps
from featurestore.jobs.project import current_files, with_copies
from featurestore.jobs.request_inputs import check_input_type
from featurestore.jobs.snapshot import Snapshot
from featurestore.jobs.source_report import SourceReport, report_sources
from featurestore.stores.offline.contents import State
from featurestore.tracing import now_ns

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from featurestore.compiler.typed import TypedRepo, ViewUse
    from featurestore.engines.base import Engine
    from featurestore.stores.offline.folder import OfflineFolder
    from featurestore.tracing import Tracing

__all__ = [
    "FunctionWarning",
    "KnownTimeWarning",
    "RetrievalJob",
    "SourceReport",
    "get_historical_features",
    "retrieve",
]

ROW_GROUP_ROWS = 131_072
"""Rows per row group of a Parquet file that a job writes."""


def retrieve(
    entity_df: object,
    features: Features,
    *,
    repo: TypedRepo,
    root: Path,
    engine: Engine,
    offline: OfflineFolder | None = None,
    as_of: AsOf = "known",
    known_until_us: int | None = None,
    full_feature_names: bool = False,
    include_status: bool = False,
    event_timestamp: str = "event_timestamp",
    span: Span | None = None,
) -> RetrievalJob:
    """`get_historical_features` on the files that the sources have now."""
    return get_historical_features(
        entity_df,
        features,
        repo=repo,
        files=files_for(entity_df, features, repo=repo, root=root, offline=offline),
        engine=engine,
        offline=offline,
        as_of=as_of,
        known_until_us=known_until_us,
        full_feature_names=full_feature_names,
        include_status=include_status,
        event_timestamp=event_timestamp,
        span=span,
    )


def service_of(features: Features, repo: TypedRepo) -> str | None:
    """The service that was asked for, by its name or as an object; None for anything else."""
    name = features.name if isinstance(features, FeatureService) else features
    if not isinstance(name, str) or name not in repo.services:
        return None
    return name if repo.services[name].uses == select(repo, features) else None


def files_for(
    entity_df: object,
    features: Features,
    *,
    repo: TypedRepo,
    root: Path,
    offline: OfflineFolder | None = None,
) -> dict[str, DataFiles]:
    """The files, as they are now, of all sources that a retrieval reads."""
    sources = [use.view.source for use in program_of(select(repo, features)).joined]
    if is_query(entity_df):
        sources += [repo.sources[name] for name in query_sources(str(entity_df), repo)]
    files = current_files(repo, sources, root, offline)
    return files if offline is None else with_copies(repo, files, offline)


def get_historical_features(
    entity_df: object,
    features: Features,
    *,
    repo: TypedRepo,
    files: Mapping[str, DataFiles],
    engine: Engine,
    offline: OfflineFolder | None = None,
    as_of: AsOf = "known",
    known_until_us: int | None = None,
    full_feature_names: bool = False,
    include_status: bool = False,
    event_timestamp: str = "event_timestamp",
    span: Span | None = None,
) -> RetrievalJob:
    """A job that yields, for each row of `entity_df`, the row and the features as of its time; with
    a `span` instead of a frame, for each key and each instant at which its answer changed.

    Raises `UnknownService`, `UnknownView`, `UnknownFeature`, `NameClash`, `InvalidEntityFrame` (no
    such frame, no time column), `MissingJoinKey`, `InvalidJoinKey`. Values are looked at when the
    job runs, which raises `InvalidEntityFrame` for NULL times and `InvalidJoinKey` for odd keys.
    """
    uses, s3 = select(repo, features), offline.s3 if offline is not None else S3Options()
    program = program_of(uses)
    joined = program.joined
    if not isinstance(event_timestamp, str):
        raise InvalidRequest(f"event_timestamp is the name of a column, not {event_timestamp!r}")
    _check_one_of(entity_df, span)
    if span is None:
        frame = open_frame(
            entity_df, time_column=event_timestamp, repo=repo, files=files, engine=engine
        )
    else:
        _check_span(program)
        changes = compile_changes(
            joined,
            span,
            repo=repo,
            files=files,
            as_of=as_of,
            known_until_us=known_until_us,
            with_status=include_status,
        )
        frame = frame_of_changes(changes, time_column=event_timestamp, engine=engine)
    compiling = partial(
        compile_training,
        uses,
        frame.schema.names,
        repo=repo,
        files=files,
        known_until_us=known_until_us,
        full_feature_names=full_feature_names,
        include_status=include_status,
    )
    compiled = compiling(as_of=as_of)
    _check_columns(frame, compiled, event_timestamp)
    run = retrieval.Run(
        engine=engine, compiled=compiled, time_column=event_timestamp, offline=offline
    )
    check = counting = None
    if as_of == "known" and any(u.view.source.created_time is not None for u in joined):
        event = replace(run, compiled=compiling(as_of="event"))
        check = KnownTimeCheck(known=run, event=event, uses=joined)
    if program.steps:
        counting = replace(run, compiled=compiling(as_of=as_of, count_undefined=True))
    return RetrievalJob(
        frame=frame,
        run=run,
        check=check,
        counting=counting,
        pins=_pins(joined, repo, files),
        _snapshot=Snapshot.of(files, s3),
        _s3=s3,
        report=lambda: report_sources(joined, repo=repo, files=files, engine=engine),
    )


def _check_one_of(entity_df: object, span: Span | None) -> None:
    if entity_df is None and span is None:
        raise InvalidEntityFrame(
            "there is no entity_df; give one, or a start (and an end), between which all keys and "
            "the instants at which their values changed are found"
        )
    if entity_df is not None and span is not None:
        raise InvalidRequest(
            "start and end find the rows themselves and go without an entity_df; leave one out"
        )


def _check_span(program: Program) -> None:
    if program.requests:
        names = ", ".join(one.name for one in program.requests)
        raise InvalidRequest(
            f"start and end find keys and instants, but what a request brings ({names}) they can't "
            "know; give an entity_df with those columns"
        )
    if not program.joined:
        raise InvalidRequest("start and end need a feature view whose values change")


def _check_columns(frame: EntityFrame, compiled: TrainingSet, time_column: str) -> None:
    names = frame.schema.names
    if time_column not in names:
        raise InvalidEntityFrame(
            f"The entity frame has no column {time_column!r} with the request times."
            f"{suggest(time_column, names)} Name another one with event_timestamp=…"
        )
    for key in compiled.keys:
        if key.column not in names:
            raise MissingJoinKey(key.column, needed_by=key.needed_by, known=names)
    for one in compiled.inputs:
        if one.column not in names:
            raise InvalidEntityFrame(
                f"The entity frame has no column {one.column!r}, a request input that "
                f"{one.needed_by} reads.{suggest(one.column, names)}"
            )
    if frame.rows == 0:
        return  # pandas gives the columns of an empty frame any type
    check_time_type(time_column, frame.schema.field(time_column).type)
    for key in compiled.keys:
        arrow = frame.schema.field(key.column).type
        check_key_type(key.column, arrow, key.dtype, needed_by=key.needed_by)
    for one in compiled.inputs:
        arrow = frame.schema.field(one.column).type
        check_input_type(one.column, arrow, one.dtype, needed_by=one.needed_by)


def _pins(
    uses: Sequence[ViewUse], repo: TypedRepo, files: Mapping[str, DataFiles]
) -> dict[str, Mapping[str, object]]:
    found: dict[str, Mapping[str, object]] = {}
    todo = [use.view.source for use in uses]
    while todo:
        source = todo.pop()
        if source.name in files:
            found[source.name] = files[source.name].pin
        todo.extend(repo.sources[name] for name in source.inputs)
    for use in uses:
        for entity in deleting(use.view, repo, files):
            name = deletions_name(entity.name)
            found[name] = files[name].pin
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalJob:
    """A training set that has not run. Each of its methods runs it anew.

    The result has one row for each row of the entity frame, in the same order: the frame's columns
    as they came, then the features in the order they were asked for, then, if asked for, the
    status of each view (`PRESENT`, `OUTSIDE_MAX_AGE`, `NOT_FOUND`). `pins` identify the state of
    the files that are read, by source.

    Running raises `InvalidEntityFrame` (NULL times), `InvalidJoinKey` (odd keys), `SourceMissing`
    and `SourceSchemaChanged` (files that changed meanwhile), `SnapshotMissing` (files that were
    rewritten, which shows at the end), `InvalidValue`, `MemoryExceeded`; it
    warns with `KnownTimeWarning` where features are NULL because rows became known too late, and
    with `FunctionWarning` where they are because a Python function of theirs failed.
    """

    frame: EntityFrame
    run: retrieval.Run
    check: KnownTimeCheck | None
    counting: retrieval.Run | None
    pins: Mapping[str, Mapping[str, object]]
    _snapshot: Snapshot
    _s3: S3Options
    report: Callable[[], tuple[SourceReport, ...]]
    _tracing: Tracing | None = None
    _undefined: retrieval.Undefined | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The feature columns."""
        return tuple(self.run.compiled.features)

    @property
    def states(self) -> Mapping[str, Mapping[str, State | None]]:
        """What each file that is read looked like when the job was made, by source and path."""
        return self._snapshot.states

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the result."""
        return self.run.schema(self.frame)

    def check_files(self) -> None:
        """Raises `SnapshotMissing` where a file is not as it was when the job was made."""
        self._snapshot.check()

    def to_batches(self, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """The rows in batches of at most `batch_rows`, in bounded memory."""
        if batch_rows < 1:
            raise InvalidRequest(f"batch_rows must be positive, not {batch_rows}")
        began_ns, count = now_ns(), 0
        with self.frame.opened() as rows:
            nulls = retrieval.NullCount(self.features)
            later = LaterSteps(self.run.compiled) if self.run.compiled.later else None
            batches = self.run.batches(
                self.frame, rows, batch_rows=batch_rows, later=later, undefined=self._undefined
            )
            for batch in batches:
                nulls.add(batch)
                count += batch.num_rows
                yield batch
            self._snapshot.check()
            self._warn(rows, nulls)
            if later is not None:
                later.warn()
        if self._tracing is not None:
            facts = {"featurestore.rows": count, "featurestore.features": len(self.features)}
            self._tracing.step("training set", began_ns, now_ns(), facts)

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        import pyarrow as pa

        return pa.Table.from_batches(self.to_batches(), self.schema)

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a DataFrame. Integers and booleans with NULLs among them become pandas'
        nullable types (`Int64`, `Int32`, `boolean`), so that they stay exact."""
        return retrieval.to_pandas(self.to_arrow())

    def to_polars(self) -> pl.DataFrame:
        """The rows as a polars DataFrame."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - of a table it always is
        return frame

    def to_parquet(self, path: str | Path) -> None:
        """Write the rows to one Parquet file, on this machine or on S3 (`s3://bucket/key`), in
        bounded memory. A file of that name is replaced when all rows are written, not before."""
        batches = self.to_batches(ROW_GROUP_ROWS)
        retrieval.write_anywhere(path, self.schema, batches, s3=self._s3)

    def explain(self) -> str:
        """The query and the engine's plan for it, for people. Nothing runs."""
        return self.run.engine.explain(self.run.compiled.rel)

    def source_report(self) -> tuple[SourceReport, ...]:
        """What was skipped in the sources and why: rows with a NULL event time or key, and how
        many have a NULL created time. Reads those columns of the sources."""
        return self.report()

    def undefined_values(self) -> retrieval.Undefined:
        """Of the features that are computed on demand, by `view:feature`: how many of their values
        are NULL for want of a result (a division by zero, an overflow); those that always have one
        are left out. Runs the query, and computes about twice what a run without counting does."""
        job, found = counted(replace(self, check=None))
        for _ in job.to_batches():
            pass
        return found

    def _warn(self, rows: Rows, nulls: retrieval.NullCount) -> None:
        if self.check is None or not nulls.is_most:
            return
        message = self.check.cause(rows)
        if message is not None:
            warnings.warn(message, KnownTimeWarning, stacklevel=2)


def counted(job: RetrievalJob) -> tuple[RetrievalJob, retrieval.Undefined]:
    """The same job, counting `undefined_values` as its batches pass, and the counts."""
    if job.counting is None:
        return job, {}
    found = dict.fromkeys(job.counting.compiled.counted, 0)
    return replace(job, run=job.counting, _undefined=found), found

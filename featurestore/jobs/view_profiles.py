"""What the values of a view are like, on record: `featurestore profile`.

The rows are those of `get_historical_features` between two instants: each key at each instant at
which its answer changed, so that a profile says of a view what a training set's profile says of its
rows. They pass once and are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.compiler.definition_records import function_blobs
from featurestore.compiler.selection import select
from featurestore.compiler.spans import Span
from featurestore.engines.base import BATCH_ROWS
from featurestore.errors import UnknownView
from featurestore.fingerprint import canonical_json, fingerprint_bytes
from featurestore.jobs.frame_parts import batches_in_parts
from featurestore.jobs.set_files import Tally
from featurestore.jobs.taken_inputs import take_inputs
from featurestore.jobs.training import files_for, get_historical_features
from featurestore.records import Edge, Record

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedOnDemandView, TypedRepo, TypedView
    from featurestore.engines.base import Engine
    from featurestore.jobs.training import RetrievalJob
    from featurestore.jobs.training_sets import SetStore
    from featurestore.stores.registry.base import Registry

KIND = "view_profile"
TIME_COLUMN = "event_timestamp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewProfile:
    """The statistics of a view's features over `rows` rows, as of `known_until_us`. `columns` are
    by name, as of a training set's profile; `versions` those of the features."""

    id: str
    view: str
    rows: int
    start_us: int | None
    known_until_us: int
    columns: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]
    unpinned: tuple[str, ...] = ()


def profile_views(
    names: Sequence[str] | None,
    span: Span,
    store: SetStore,
    *,
    repo: TypedRepo,
    engine: Engine,
) -> tuple[ViewProfile, ...]:
    """Look at the rows of these views (all but those computed on request, by default) and put on
    record what they are like, view by view. Raises as `FeatureStore.profile` says, for unknown
    names before the first view is looked at."""
    known: dict[str, TypedView | TypedOnDemandView] = {**repo.views, **repo.on_demand}
    names = [names] if isinstance(names, str) else names
    wanted = list(repo.views if names is None else dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise UnknownView(name, known=known)
    return tuple(_profile(known[name], span, store, repo=repo, engine=engine) for name in wanted)


def _profile(
    view: TypedView | TypedOnDemandView,
    span: Span,
    store: SetStore,
    *,
    repo: TypedRepo,
    engine: Engine,
) -> ViewProfile:
    asked = [f"{view.name}:{feature.name}" for feature in view.features]
    files = files_for(None, asked, repo=repo, root=store.root, offline=store.offline)
    job = get_historical_features(
        None,
        asked,
        repo=repo,
        files=files,
        engine=engine,
        offline=store.offline,
        known_until_us=span.end_us,
        event_timestamp=TIME_COLUMN,
        span=span,
    )
    found = _look(job)
    found["versions"] = {feature.name: feature.version for feature in view.features}
    snapshots, definitions = take_inputs(
        select(repo, asked), job, files,
        repo=repo, engine=engine, root=store.root, offline=store.offline,
    )  # fmt: skip
    job.check_files()  # what goes on record as read is what was read
    blob = canonical_json(found).encode()
    body = {
        "rows": found["rows"],
        "start_us": span.start_us,
        "known_until_us": span.end_us,
        "profile": fingerprint_bytes(blob),
        "unpinned": list(snapshots.unpinned),
    }
    (of,) = (r for r in definitions.values() if r.kind in _KINDS and r.name == view.name)
    read = (Edge(parent=one.id, role="snapshot") for one in snapshots.records)
    parents = (Edge(parent=of.id, role="view"), *read)
    record = Record(kind=KIND, name=view.name, body=body, parents=parents)
    store.registry.commit(
        records=[*definitions.values(), *snapshots.records, record],
        blobs=[*snapshots.blobs, blob, *function_blobs(repo)],
        aliases={alias_of(view.name): record.id},
        reason="profile",
    )
    return _read(record.id, record.name, body, found)


_KINDS = ("view", "on_demand_view")


def _look(job: RetrievalJob) -> dict[str, Any]:
    """The profile of the rows' features. Keys and instants say nothing of a view's values."""
    frame = job.frame.schema.names
    tally = Tally(job.schema, head=len(frame), time_column=TIME_COLUMN, keys=frame, splits=None)
    for batch in batches_in_parts(job, BATCH_ROWS):
        tally.add(batch)
    found = tally.profiler.profile()
    columns = {name: one for name, one in found["columns"].items() if name not in frame}
    return {**found, "columns": columns}


def alias_of(view: str) -> str:
    """The alias of a view's newest profile."""
    return f"{KIND}/{view}"


def newest_profile(registry: Registry, view: str) -> tuple[ViewProfile, int] | None:
    """A view's newest profile and when it was made (µs); None where there is none."""
    name = alias_of(view)
    alias = registry.aliases(name).get(name)
    if alias is None:
        return None
    stored = registry.record(alias.target)
    body = stored.record.body
    found = json.loads(registry.blob(str(body["profile"])))
    return _read(stored.id, view, body, found), stored.created_at_us


def _read(
    record_id: str, view: str, body: Mapping[str, Any], found: Mapping[str, Any]
) -> ViewProfile:
    return ViewProfile(
        id=record_id,
        view=view,
        rows=int(body["rows"]),
        start_us=body["start_us"],
        known_until_us=int(body["known_until_us"]),
        columns=found["columns"],
        versions=found["versions"],
        unpinned=tuple(body["unpinned"]),
    )

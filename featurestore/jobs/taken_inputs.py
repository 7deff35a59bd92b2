"""What goes on record with rows that were read: the snapshots of their sources, and the definitions
that were used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.compiler.definition_records import definition_records
from featurestore.compiler.deletions import deletions_name
from featurestore.compiler.program import program_of
from featurestore.jobs import pinning
from featurestore.records import Record

if TYPE_CHECKING:
    from featurestore.compiler.rel import DataFiles
    from featurestore.compiler.typed import TypedRepo, TypedSource, Use
    from featurestore.engines.base import Engine
    from featurestore.jobs.training import RetrievalJob
    from featurestore.stores.offline.folder import OfflineFolder

Taken = tuple[pinning.Snapshots, dict[str, Record]]
"""Snapshots, and the definitions that are used, by id."""


def take_inputs(
    uses: Sequence[Use],
    job: RetrievalJob,
    files: Mapping[str, DataFiles],
    *,
    repo: TypedRepo,
    engine: Engine,
    root: Path,
    offline: OfflineFolder,
    service: str | None = None,
) -> Taken:
    """The snapshots of what `job` reads, and the definitions of what it is asked for (of `service`,
    too), by id, each after its parents. Raises what `pinning.take` does."""
    program = program_of(uses)
    sources = _sources([use.view.source for use in program.joined], repo)
    every = definition_records(repo)
    by_name = {(record.kind, record.name): record for record in every}
    views = [by_name["view", use.view.name] for use in program.joined]
    views += [by_name["on_demand_view", step.view.name] for step in program.steps]
    seeds = [*views, *feature_records(uses, by_name)]
    seeds += [by_name["source", source.name] for source in sources]
    seeds += [by_name["service", service]] if service else []
    parents = {source.name: by_name["source", source.name] for source in sources}
    names = {source.name for source in sources}
    deletions = {deletions_name(entity): entity for entity in repo.entities}
    read = {n: f for n, f in files.items() if n in names or n in job.pins}
    for name in read:
        if name in deletions:
            parents[name] = by_name["entity", deletions[name]]
            seeds.append(parents[name])
    taken = pinning.take(
        repo,
        sources,
        read,
        job.states,
        root=root,
        offline=offline,
        engine=engine,
        parents=parents,
    )
    return taken, _with_parents(seeds, every)


def _sources(roots: Sequence[TypedSource], repo: TypedRepo) -> list[TypedSource]:
    """These sources and all that they read, each after those that it reads."""
    needed, todo = set(), list(roots)
    while todo:
        source = todo.pop()
        if source.name not in needed:
            needed.add(source.name)
            todo += [repo.sources[name] for name in source.inputs]
    return [source for source in repo.sources.values() if source.name in needed]


def feature_records(uses: Sequence[Use], records: Mapping[tuple[str, str], Record]) -> list[Record]:
    """The records of the features that are asked for."""
    names = [f"{use.view.name}.{feature.name}" for use in uses for feature in use.features]
    return [records["feature", name] for name in dict.fromkeys(names)]


def _with_parents(seeds: Sequence[Record], every: Sequence[Record]) -> dict[str, Record]:
    """These records and all above them, in the order of `every`: parents first."""
    by_id = {record.id: record for record in every}
    needed, todo = set(), [record.id for record in seeds]
    while todo:
        record_id = todo.pop()
        if record_id not in needed:
            needed.add(record_id)
            todo += [edge.parent for edge in by_id[record_id].parents]
    return {record_id: record for record_id, record in by_id.items() if record_id in needed}

"""What there is: lists, descriptions and the state of a repository, as plain data for any door."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal, get_args

from featurestore.compiler.definition_records import show_aggregation
from featurestore.compiler.materialization import table_state
from featurestore.compiler.online import field_id
from featurestore.compiler.program import program_of
from featurestore.compiler.selection import named
from featurestore.definitions.expression import show
from featurestore.definitions.source import FileSource, file_format
from featurestore.errors import FeatureStoreError, InvalidRequest, UnknownReference, suggest
from featurestore.fingerprint import short
from featurestore.jobs.store_identity import ledger_of
from featurestore.masking import mask_url
from featurestore.timeline import format_duration, format_instant

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.compiler.typed import (
        Metadata,
        TypedEntity,
        TypedOnDemandView,
        TypedRepo,
        TypedRequestSource,
        TypedService,
        TypedSource,
        TypedView,
    )
    from featurestore.config import Settings
    from featurestore.jobs.materialize import Context

Kind = Literal["entities", "sources", "requests", "views", "on_demand", "services"]
LIBRARIES = (
    "duckdb",
    "pyarrow",
    "numpy",
    "lmdb",
    "sqlalchemy",
    "alembic",
    "sqlglot",
    "grpcio",
    "protobuf",
    "fastapi",
    "redis",
    "hiredis",
    "deltalake",
    "psycopg",
    "pandas",
    "polars",
)


def list_objects(repo: TypedRepo, kind: Kind, *, root: Path) -> list[dict[str, Any]]:
    """One short row per object of `kind`, in name order."""
    _check_kind(kind)
    rows: dict[Kind, Callable[[Any], dict[str, Any]]] = {
        "entities": _entity,
        "sources": lambda source: _source(source, root),
        "requests": _request,
        "views": _view,
        "on_demand": _on_demand,
        "services": _service,
    }
    return [rows[kind](item) for _, item in sorted(getattr(repo, kind).items())]


def describe(context: Context, kind: Kind, name: str) -> dict[str, Any]:
    """One object in full. Raises `UnknownReference` with a suggestion."""
    _check_kind(kind)
    objects = getattr(context.repo, kind)
    if name not in objects:
        raise UnknownReference(f"There are no {kind} named {name!r}.{suggest(name, objects)}")
    item = objects[name]
    details: dict[Kind, Callable[[Any], dict[str, Any]]] = {
        "entities": lambda entity: _entity(entity) | {"used_by": _views_of(context, entity)},
        "sources": lambda source: _source_details(source, context.root),
        "requests": _request,
        "views": lambda view: _view_details(view) | {"online": online_state(context, view)},
        "on_demand": _on_demand_details,
        "services": _service_details,
    }
    return details[kind](item) | _metadata(item.metadata)


def _check_kind(kind: str) -> None:
    kinds = get_args(Kind)
    if kind not in kinds:
        raise InvalidRequest(f"{kind!r} is no kind of object.{suggest(str(kind), kinds)}")


def online_state(context: Context, view: TypedView) -> list[dict[str, Any]]:
    """The online tables of a view: generation, watermark, whether it covers the view's ttl."""
    generations = {row.generation for row in context.registry.ledger(view=view.name)}
    found = []
    for generation in sorted(generations):
        field = field_id(view.storage_hash, generation)
        if ledger := ledger_of(context.registry, context.environment, field):
            state = table_state(ledger)
            found.append(
                {
                    "table": field.hex(),
                    "generation": generation,
                    "watermark": _instant(state.watermark_us),
                    "complete": state.covers(view.reach_us),
                    "runs": len(ledger),
                    "rows_written": sum(row.rows_written for row in ledger),
                }
            )
    return found


def info(settings: Settings, context: Callable[[], Context]) -> dict[str, Any]:
    """Versions, settings with secrets masked, counts, and what answers.

    A back end that is away is reported, not raised.
    """
    report: dict[str, Any] = {
        "featurestore": _version("featurestore"),
        "python": platform.python_version(),
        "libraries": {name: v for name in LIBRARIES if (v := _version(name))},
        "project": settings.project.name,
        "environment": settings.project.environment,
        "repository": str(settings.root),
        "registry": mask_url(settings.registry.url),
        "offline": f"{settings.offline.engine}, memory limit {settings.offline.memory_limit}",
        "online": mask_url(settings.online.url),
        "serving": {"grpc": settings.serving.grpc, "http": settings.serving.http},
    }
    try:
        opened = context()
    except FeatureStoreError as error:
        return report | {"problem": str(error)}
    kinds: tuple[Kind, ...] = get_args(Kind)
    report["objects"] = {kind: len(getattr(opened.repo, kind)) for kind in kinds}
    report["state"] = {
        "registry": _answers(lambda: opened.registry.aliases("env/")),
        "online": _answers(opened.store.ping),
    }
    return report


def _answers(probe: Callable[[], object]) -> str:
    try:
        probe()
    except FeatureStoreError as error:
        return str(error)
    return "ok"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _instant(instant_us: int | None) -> str | None:
    return None if instant_us is None else format_instant(instant_us)


def _duration(duration_us: int | None) -> str | None:
    return None if duration_us is None else format_duration(duration_us)


def _metadata(metadata: Metadata) -> dict[str, Any]:
    return {
        "description": metadata.description,
        "owner": metadata.owner,
        "tags": dict(metadata.tags),
        "defined_at": f"{metadata.file}:{metadata.line}" if metadata.file else None,
    }


def _entity(entity: TypedEntity) -> dict[str, Any]:
    keys = {key.name: str(key.dtype) for key in entity.keys}
    return {"name": entity.name, "join_keys": keys, "version": short(entity.version)}


def _source(source: TypedSource, root: Path) -> dict[str, Any]:
    definition = source.definition
    kind: str
    if isinstance(definition, FileSource):
        kind, reads = file_format(definition, root), [definition.path]
    else:
        kind, reads = "sql", list(source.inputs)
    return {
        "name": source.name,
        "kind": kind,
        "reads": reads,
        "event_time": source.event_time,
        "created_time": source.created_time,
        "version": short(source.version),
    }


def _view(view: TypedView) -> dict[str, Any]:
    return {
        "name": view.name,
        "entities": list(view.entities),
        "source": view.source.name,
        "features": len(view.features),
        "ttl": _duration(view.ttl_us),
        "owner": view.metadata.owner,
        "version": short(view.version),
    }


def _request(source: TypedRequestSource) -> dict[str, Any]:
    columns = {column.name: str(column.dtype) for column in source.columns}
    return {"name": source.name, "columns": columns, "version": short(source.version)}


def _on_demand(view: TypedOnDemandView) -> dict[str, Any]:
    return {
        "name": view.name,
        "inputs": list(view.inputs),
        "features": len(view.features),
        "computed_by": "expressions" if view.function is None else f"{view.function.name}()",
        "owner": view.metadata.owner,
        "version": short(view.version),
    }


def _on_demand_details(view: TypedOnDemandView) -> dict[str, Any]:
    program = program_of([named(view, view.features)])
    return _on_demand(view) | {
        "join_keys": sorted({key for use in program.joined for key in use.key_columns}),
        "request_inputs": {one.name: str(one.dtype) for one in program.requests},
        "reads": {argument.name: str(argument.dtype) for argument in view.arguments},
        "features": [
            {
                "name": feature.name,
                "dtype": str(feature.dtype),
                "expression": None if view.function else show(feature.expression),
                "version": short(feature.version),
                "description": feature.description,
            }
            for feature in view.features
        ],
        "function": None if view.function is None else view.function.source,
    }


def _service(service: TypedService) -> dict[str, Any]:
    return {
        "name": service.name,
        "views": [use.name for use in service.uses],
        "features": sum(len(use.features) for use in service.uses),
        "owner": service.metadata.owner,
        "version": short(service.version),
    }


def _views_of(context: Context, entity: TypedEntity) -> list[str]:
    return [view.name for view in context.repo.views.values() if entity.name in view.entities]


def _source_details(source: TypedSource, root: Path) -> dict[str, Any]:
    return _source(source, root) | {
        "columns": {column.name: str(column.dtype) for column in source.columns},
        "lateness": _duration(source.lateness_us),
        "tiebreak": list(source.tiebreak),
        "op": source.op,
        "query": getattr(source.definition, "query", None),
    }


def _view_details(view: TypedView) -> dict[str, Any]:
    windowed = {a.name: show_aggregation(a) for a in view.aggregations}
    features: list[Mapping[str, Any]] = [
        {
            "name": feature.name,
            "dtype": str(feature.dtype),
            "expression": windowed.get(feature.name) or show(feature.expression),
            "version": short(feature.version),
            "description": feature.description,
        }
        for feature in view.features
    ]
    keys = {key.name: str(key.dtype) for key in view.keys}
    return _view(view) | {
        "join_keys": keys,
        "grace": _duration(view.grace_us),
        "features": features,
    }


def _service_details(service: TypedService) -> dict[str, Any]:
    program = program_of(service.uses)
    return _service(service) | {
        "join_keys": sorted({key for use in program.joined for key in use.key_columns}),
        "request_inputs": {one.name: str(one.dtype) for one in program.requests},
        "features": {use.name: [feature.name for feature in use.features] for use in service.uses},
    }

"""From definitions and source schemas to the typed repository, or to all errors at once.

Pure: it reads no file and no clock. What a wrong definition leads to further down is not reported
again: whatever hangs on it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featurestore.compiler import hashing
from featurestore.compiler.aggregations import aggregated, feature_of
from featurestore.compiler.on_demand import typed_on_demand, typed_requests
from featurestore.compiler.problems import Schemas, Work, placed, reads_as, sound
from featurestore.compiler.program import input_problems, program_of
from featurestore.compiler.selection import (
    output_names,
    select,
    selection_problems,
    use_of,
)
from featurestore.compiler.sources import input_graph, typed_sources
from featurestore.compiler.typed import (
    Column,
    Metadata,
    TypedEntity,
    TypedFeature,
    TypedOnDemandView,
    TypedRepo,
    TypedService,
    TypedSource,
    TypedStream,
    TypedView,
    Use,
)
from featurestore.definitions import expression as expressions
from featurestore.definitions.entity import Entity
from featurestore.definitions.expression import Cast, Expression
from featurestore.definitions.names import name_problem, set_field
from featurestore.definitions.repo import Definitions
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import Source
from featurestore.definitions.stream import StreamSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.dtypes import DType, widens
from featurestore.errors import (
    DefinitionError,
    DuplicateName,
    InvalidExpression,
    InvalidName,
    InvalidRepository,
    TypeMismatch,
    UnknownReference,
)

__all__ = ["output_names", "resolve", "select", "source_order"]


def resolve(definitions: Definitions, schemas: Schemas, *, project: str) -> TypedRepo:
    """The typed repository.

    Args:
        definitions: what `repo.load` found, its errors included.
        schemas: for each source of `source_order` its columns by our names (after field mapping),
            or the error that reading them raised.
        project: the project's name.

    Raises `InvalidRepository` with every error there is, those of `definitions` included.
    """
    work = Work(definitions, schemas, list(definitions.errors))
    graph = input_graph(definitions)
    work.errors.extend(graph.errors)
    sources = typed_sources(work, graph)
    entities = {entity.name: _entity(entity) for entity in sound(definitions.entities)}
    views: dict[str, TypedView] = {}
    for view in sound(definitions.views):
        if typed := _view(work, view, sources, entities):
            views[view.name] = typed
    requests = typed_requests(work)
    on_demand = typed_on_demand(work, views, requests)
    every: dict[str, TypedView | TypedOnDemandView] = {**views, **on_demand}
    services: dict[str, TypedService] = {}
    for service in sound(definitions.services):
        if found := _service(work, service, every):
            services[service.name] = found
    streams = {s.name: _stream(work, s) for s in sound(definitions.streams)}
    if work.errors:
        raise InvalidRepository(work.errors)
    kinds: dict[str, Mapping[str, Any]]
    kinds = {"entity": entities, "source": sources, "view": views, "service": services}
    # Named only where there are some, so that a repository without them keeps its version.
    kinds |= {"request_source": requests} if requests else {}
    kinds |= {"on_demand_view": on_demand} if on_demand else {}
    return TypedRepo(
        project=project,
        entities=entities,
        sources=sources,
        views=views,
        services=services,
        requests=requests,
        on_demand=on_demand,
        version=hashing.repo_version(
            {kind: {n: o.version for n, o in named.items()} for kind, named in kinds.items()}
        ),
        streams=streams,
    )


def _stream(work: Work, stream: StreamSource) -> TypedStream:
    source = stream.source
    if source is not None:
        work.in_repo(stream, source, work.definitions.sources)
    return TypedStream(
        name=stream.name,
        url=stream.url,
        source="" if source is None else source.name,
        metadata=_metadata(stream),
    )


def source_order(definitions: Definitions) -> list[Source]:
    """The sources, each after the ones that its query reads.

    Left out are those that are wrong: in a circle, reading what is no source, with a query that
    cannot be parsed, or reading one of these. `resolve` says why.
    """
    return list(input_graph(definitions).order)


def _metadata(definition: Any) -> Metadata:
    return Metadata(
        description=definition.description,
        owner=definition.owner,
        tags=definition.tags,
        file=definition.file,
        line=definition.line,
    )


def _entity(entity: Entity) -> TypedEntity:
    keys = tuple(Column(name, dtype) for name, dtype in entity.keys.items())
    version = hashing.entity_version(entity.name, keys)
    return TypedEntity(name=entity.name, keys=keys, version=version, metadata=_metadata(entity))


# --- views ----------------------------------------------------------------------------------------


def _view(
    work: Work,
    view: FeatureView,
    sources: Mapping[str, TypedSource],
    entities: Mapping[str, TypedEntity],
) -> TypedView | None:
    errors_before = len(work.errors)
    own: Any = view.source
    used = [work.in_repo(view, entity, work.definitions.entities) for entity in view.keyed_by]
    used.append(work.in_repo(view, own, work.definitions.sources))
    keyed_by = [entities[n] for n in sorted(e.name for e in view.keyed_by) if n in entities]
    source = sources.get(own.name)
    if source is None or not all(used) or len(keyed_by) < len(view.keyed_by):
        return None
    keys = tuple(key for entity in keyed_by for key in entity.keys)
    _check_keys(work, view, source, keyed_by)
    aggregations = tuple(aggregated(work, view, source, keyed_by))
    typed = tuple(map(feature_of, aggregations))
    if not view.aggregations:
        typed = tuple(_features(work, view, source, keyed_by))
    if len(work.errors) > errors_before or not all(f.valid for f in view.features):
        return None
    names = tuple(entity.name for entity in keyed_by)
    return TypedView(
        name=view.name,
        entities=names,
        keys=keys,
        source=source,
        features=typed,
        ttl_us=view.ttl_us,
        grace_us=view.grace_us,
        version=hashing.view_version(view.name, typed),
        storage_hash=hashing.storage_hash(
            view.name,
            source=source,
            entities=names,
            keys=keys,
            features=typed,
            aggregations=aggregations,
            correction_horizon_us=view.correction_horizon_us,
        ),
        metadata=_metadata(view),
        aggregations=aggregations,
        correction_horizon_us=view.correction_horizon_us if aggregations else 0,
    )


def _check_keys(
    work: Work, view: FeatureView, source: TypedSource, entities: Sequence[TypedEntity]
) -> None:
    schema = {column.name: column.dtype for column in source.columns}
    for entity in entities:
        for key in entity.keys:
            about = f"join key {key.name!r} of entity {entity.name!r}"
            missing = f"feature view {view.name!r}: source {source.name!r} has no {about}"
            if not work.has_column(view, schema, key.name, missing):
                continue
            if not widens(schema[key.name], key.dtype):
                message = (
                    f"{about} is {key.dtype}, and {schema[key.name]} in source {source.name!r}"
                )
                work.add(view, f"feature view {view.name!r}: {message}", TypeMismatch)


def _features(
    work: Work, view: FeatureView, source: TypedSource, entities: Sequence[TypedEntity]
) -> Iterator[TypedFeature]:
    """The view's features as far as they are sound; errors go into `work`."""
    keys = tuple(key for entity in entities for key in entity.keys)
    key_names = {key.name.casefold() for key in keys}
    for feature in view.columns or _default_features(work, view, source, keys):
        if feature.name.casefold() in key_names:
            message = f"feature {feature.name!r} of {view.name!r} has the name of a join key"
            work.add(feature, f"{message}; callers have that column already", DuplicateName)
        elif feature.valid and (found := _expression(work, view, feature, source)):
            tree, dtype = found
            version = hashing.feature_version(
                tree,
                dtype,
                keys=keys,
                ages_us=(view.ttl_us, view.grace_us),
                source=source,
                entities=entities,
            )
            yield TypedFeature(
                name=feature.name,
                dtype=dtype,
                expression=tree,
                version=version,
                description=feature.description,
            )


def _default_features(
    work: Work, view: FeatureView, source: TypedSource, keys: Sequence[Column]
) -> list[Feature]:
    """All columns that are not key, time, `op` or `event_id`, in name order; those that begin with
    `__` are the file's own affair (pandas' index, say)."""
    used = {key.name for key in keys} | {
        source.event_time,
        source.created_time,
        source.op,
        source.definition.event_id,
    }
    names = [c.name for c in source.columns if c.name not in used and not c.name.startswith("__")]
    about = f"feature view {view.name!r} takes all columns of {source.name!r}"
    way_out = "rename it by field_mapping, or list the features"
    seen: set[str] = set()
    for name in names:
        if problem := name_problem(name):
            work.add(view, f"{about}: {problem}; {way_out}", InvalidName)
        if name.casefold() in seen:
            message = f"{name!r} differs from another one in case only, which SQL ignores"
            work.add(view, f"{about}: {message}; {way_out}", DuplicateName)
        seen.add(name.casefold())
    if not names:
        work.add(view, f"{about}, and it has none that is not a key or a time")
    return [_placed_feature(view, name) for name in names if not name_problem(name)]


def _placed_feature(view: FeatureView, name: str) -> Feature:
    feature = Feature(name)
    set_field(feature, "file", view.file)
    set_field(feature, "line", view.line)
    return feature


def _expression(
    work: Work, view: FeatureView, feature: Feature, source: TypedSource
) -> tuple[Expression, DType] | None:
    """The feature's tree, cast to the declared type, and its type; None after an error."""
    schema = {column.name: column.dtype for column in source.columns}
    about = f"feature {feature.name!r} of {view.name!r}"
    if feature.expression is None:
        missing = f"{about}: source {source.name!r} has no column {feature.name!r}"
        if not work.has_column(feature, schema, feature.name, missing):
            return None
    try:
        tree: Expression = expressions.Column(feature.name)
        found: DType | None = schema.get(feature.name)
        if feature.expression is not None:
            tree, found = expressions.read_expression(feature.expression, schema)
            if expressions.uses_request_time(tree):
                raise InvalidExpression(
                    "request_time() has no value in stored rows; "
                    "move the feature to an on-demand view"
                )
        wanted = feature.declared_dtype or found or expressions.infer(tree, schema)
    except DefinitionError as error:
        work.errors.append(placed(error, feature, f"{about}: "))
        return None
    if found == wanted:
        return tree, wanted
    if found is not None and not reads_as(found, wanted):
        message = f"{about} is {found}, which does not fit {wanted} without loss"
        text = feature.name if feature.expression is None else feature.expression
        hint = f"if that is meant, write CAST({text} AS {wanted.duckdb})"
        work.add(feature, f"{message}; {hint}", TypeMismatch)
        return None
    return Cast(tree, wanted), wanted


# --- services -------------------------------------------------------------------------------------


def _service(
    work: Work, service: FeatureService, views: Mapping[str, TypedView | TypedOnDemandView]
) -> TypedService | None:
    errors_before = len(work.errors)
    uses: list[Use] = []
    known = (*work.definitions.views, *work.definitions.on_demand)
    for selection in service.uses:
        if not work.in_repo(service, selection.view, known):
            continue
        view = views.get(selection.view.name)
        if view is None or not selection.valid:
            continue
        problems = list(selection_problems(view, selection))
        for problem in problems:
            message = f"feature service {service.name!r}: {problem.message}"
            work.add(selection, message, UnknownReference)
        if not problems:
            uses.append(use_of(view, selection))
    for clash in input_problems(program_of(uses)):
        work.add(service, f"feature service {service.name!r}: {clash.message}", TypeMismatch)
    if len(work.errors) > errors_before or len(uses) < len(service.uses):
        return None
    return TypedService(
        name=service.name,
        uses=tuple(uses),
        version=hashing.service_version(service.name, uses),
        metadata=_metadata(service),
    )

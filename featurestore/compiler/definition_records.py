"""A typed repository as records: what the registry keeps of definitions, and what lists show.

Bodies hold no file or line, so that moving a definition changes nothing. A record's id covers its
parents' ids, hence also their descriptions; what decides whether values change is `version` in the
body. A service that uses a whole view has the view as parent, one that uses some of its features
has those: a walk never reaches features that are not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, assert_never

from featurestore.compiler.hashing import source_version
from featurestore.compiler.query_lineage import query_lineage
from featurestore.compiler.typed import (
    Argument,
    Column,
    Metadata,
    OnDemandUse,
    TypedAggregation,
    TypedEntity,
    TypedFeature,
    TypedOnDemandView,
    TypedRepo,
    TypedRequestSource,
    TypedService,
    TypedSource,
    TypedView,
    Use,
    ViewUse,
)
from featurestore.definitions.expression import canonical, column_lineage, columns_of, show
from featurestore.definitions.python_function import PythonFunction
from featurestore.definitions.source import FileSource
from featurestore.fingerprint import canonical_json, fingerprint, fingerprint_bytes
from featurestore.records import RECORD_BODY_BYTES_MAX, Edge, Record, Transformation
from featurestore.timeline import format_duration
from featurestore.windows import LIFETIME

SHOWN_COLUMNS_BYTES_MAX = 32 * 1024
"""A source with a longer list of columns shows their number only."""

BODY_SEAM_BYTES = 8
"""Of the braces and commas between the parts of a body."""

METADATA_FIELDS = ("description", "owner", "tags")


def definition_records(repo: TypedRepo) -> tuple[Record, ...]:
    """The records of a repository, parents first; the last one is the `repo` record, whose parents
    are all the others.

    Raises `InvalidRecord` for a definition too large for a record.
    """
    entities = {e.name: entity_record(e) for e in repo.entities.values()}
    sources: dict[str, Record] = {}
    for source in repo.sources.values():
        sources[source.name] = source_record(source, sources, repo.sources)
    features: dict[str, dict[str, Record]] = {}
    views: dict[str, Record] = {}
    for view in repo.views.values():
        shared = [entities[name] for name in view.entities]
        source_of = sources[view.source.name]
        features[view.name] = {
            f.name: feature_record(view, f, source_of, shared) for f in view.features
        }
        views[view.name] = view_record(view, features[view.name], source_of, shared)
    requests = {r.name: request_record(r) for r in repo.requests.values()}
    computed = on_demand_records(repo, requests, features, views)
    services = [service_record(s, views, features) for s in repo.services.values()]
    every = (
        *entities.values(),
        *sources.values(),
        *requests.values(),
        *(record for named in features.values() for record in named.values()),
        *(view for name, view in views.items() if name not in computed),
        *(views[name] for name in computed),
        *services,
    )
    parents = tuple(Edge(parent=record.id, role=record.kind) for record in every)
    body = {"version": repo.version}
    return (*every, Record(kind="repo", name=repo.project, body=body, parents=parents))


def entity_record(entity: TypedEntity) -> Record:
    """`entity:plane@…`."""
    body = {
        "version": entity.version,
        "data_hash": entity.version,
        "join_keys": _columns(entity.keys),
        **_metadata(entity.metadata),
    }
    return Record(kind="entity", name=entity.name, body=body)


def source_record(
    source: TypedSource, inputs: Mapping[str, Record], typed: Mapping[str, TypedSource]
) -> Record:
    """`source:weather@…`; its parents are the sources that a query reads (`inputs` and `typed` have
    them by name), and `column_lineage` says from which of their columns its own come."""
    definition = source.definition
    body: dict[str, Any] = {
        "version": source.version,
        "data_hash": source_version(definition, {}),
        "event_time": source.event_time,
        "created_time": source.created_time,
        "event_time_is": source.event_time_is,
        "op": source.op,
        "event_id": definition.event_id,
        "tiebreak": list(definition.tiebreak_columns),
        "lateness_us": source.lateness_us,
        **_shown_columns(source.columns),
        **_metadata(source.metadata),
    }
    if isinstance(definition, FileSource):
        body |= {
            "path": str(definition.path),
            "format": definition.format,
            "field_mapping": dict(definition.field_mapping),
            "csv": {
                "delimiter": definition.delimiter,
                "header": definition.header,
                "null_text": definition.null_text,
                "column_types": {c: str(t) for c, t in definition.csv_dtypes.items()},
            },
        }
    else:
        body |= {"query": definition.query.strip(), "inputs": list(source.inputs)}
        body |= _column_lineage(source, body, typed)
    parents = tuple(Edge(parent=inputs[name].id, role="source") for name in source.inputs)
    return Record(kind="source", name=source.name, body=body, parents=parents)


def _column_lineage(
    source: TypedSource, body: Mapping[str, Any], typed: Mapping[str, TypedSource]
) -> dict[str, Any]:
    """What the columns of a query come from; nothing where that is too much for a record."""
    definition = source.definition
    if isinstance(definition, FileSource):
        return {}
    inputs = {name: [column.name for column in typed[name].columns] for name in source.inputs}
    columns = [column.name for column in source.columns]
    found = {"column_lineage": asdict(query_lineage(definition.query, inputs, columns))}
    size = len(canonical_json(dict(body)).encode()) + len(canonical_json(found).encode())
    return found if "columns" in body and size <= RECORD_BODY_BYTES_MAX - BODY_SEAM_BYTES else {}


def feature_record(
    view: TypedView, feature: TypedFeature, source: Record, entities: Sequence[Record]
) -> Record:
    """`feature:origin_weather.temp@…`: the source enters by value (its `columns`) and by time, the
    entities by key."""
    for aggregation in view.aggregations:
        if aggregation.name == feature.name:
            return aggregation_record(view, aggregation, source, entities)
    tree = canonical(feature.expression)
    columns = list(columns_of(feature.expression))
    body = {
        "version": feature.version,
        "data_hash": fingerprint([tree, str(feature.dtype)]),
        "view": view.name,
        "dtype": str(feature.dtype),
        "expression": show(feature.expression),
        "tree": tree,
        "columns": columns,
        **_metadata(Metadata(description=feature.description)),
    }
    parents = (
        *((Edge(parent=source.id, role="source"),) if columns else ()),
        Edge(parent=source.id, role="time", transformation="INDIRECT"),
        *_indirect(entities),
    )
    return Record(kind="feature", name=f"{view.name}.{feature.name}", body=body, parents=parents)


def aggregation_record(
    view: TypedView, aggregation: TypedAggregation, source: Record, entities: Sequence[Record]
) -> Record:
    """A windowed feature: its argument and its buckets enter by value, its condition indirectly,
    its times both as what is counted and as where it ends."""
    columns = list(columns_of(aggregation.argument)) if aggregation.argument is not None else []
    where = aggregation.where
    settings = {
        "function": aggregation.function,
        "window_us": aggregation.window_us,
        "delay_us": aggregation.delay_us,
        "hop_us": aggregation.hop_us,
        "parameters": dict(aggregation.parameters),
        "where": None if where is None else show(where),
    }
    by = aggregation.by
    settings |= {} if by is None else {"by": show(by)}
    tree = None if aggregation.argument is None else canonical(aggregation.argument)
    body = {
        "version": aggregation.version,
        "data_hash": fingerprint([tree, str(aggregation.dtype), settings]),
        "view": view.name,
        "dtype": str(aggregation.dtype),
        "expression": show_aggregation(aggregation),
        "tree": tree,
        "columns": columns,
        **settings,
        "where_columns": [] if where is None else list(columns_of(where)),
        **({} if by is None else {"by_columns": list(columns_of(by))}),
        **_metadata(Metadata(description=aggregation.description)),
    }
    parents = (
        *((Edge(parent=source.id, role="source"),) if columns or by is not None else ()),
        Edge(parent=source.id, role="time", transformation="INDIRECT"),
        *_indirect(entities),
    )
    name = f"{view.name}.{aggregation.name}"
    return Record(kind="feature", name=name, body=body, parents=parents)


def show_aggregation(aggregation: TypedAggregation) -> str:
    """An aggregation in a line: `mean(arr_delay) over 7d`."""
    argument = aggregation.argument
    parameters = [f"{name}={value:g}" for name, value in aggregation.parameters.items()]
    text = ", ".join(["*" if argument is None else show(argument), *parameters])
    window = aggregation.window_us
    text = f"{aggregation.function}({text})"
    if aggregation.by is not None:
        text += f" by {show(aggregation.by)}"
    text += " over "
    text += LIFETIME if window is None else format_duration(window)
    if aggregation.where is not None:
        text += f" where {show(aggregation.where)}"
    return text


def view_record(
    view: TypedView,
    features: Mapping[str, Record],
    source: Record,
    entities: Sequence[Record],
) -> Record:
    """`view:origin_weather@…`."""
    names = list(features)
    own = [view.source.name, view.entities, _columns(view.keys), view.ttl_us, view.grace_us, names]
    own += [view.correction_horizon_us] if view.is_windowed else []
    body = {
        "version": view.version,
        "data_hash": fingerprint(own),
        "storage_hash": view.storage_hash,
        "source": view.source.name,
        "entities": list(view.entities),
        "join_keys": _columns(view.keys),
        "ttl_us": view.ttl_us,
        "grace_us": view.grace_us,
        **({"correction_horizon_us": view.correction_horizon_us} if view.is_windowed else {}),
        **_metadata(view.metadata),
    }
    parents = (
        *(Edge(parent=record.id, role="feature") for record in features.values()),
        *_indirect([source, *entities]),
    )
    return Record(kind="view", name=view.name, body=body, parents=parents)


def request_record(source: TypedRequestSource) -> Record:
    """`request_source:booking@…`."""
    body = {
        "version": source.version,
        "data_hash": source.version,
        "columns": {column.name: str(column.dtype) for column in source.columns},
        **_metadata(source.metadata),
    }
    return Record(kind="request_source", name=source.name, body=body)


def on_demand_records(
    repo: TypedRepo,
    requests: Mapping[str, Record],
    features: dict[str, dict[str, Record]],
    views: dict[str, Record],
) -> list[str]:
    """Add the on-demand views' records to `features` and `views`, inputs first; their names."""
    done: list[str] = []

    def add(view: TypedOnDemandView) -> None:
        if view.name in done:
            return
        for argument in view.arguments:
            if isinstance(argument.origin, OnDemandUse):
                add(argument.origin.view)
        features[view.name] = {
            f.name: on_demand_feature_record(view, f, requests, features) for f in view.features
        }
        views[view.name] = on_demand_record(view, features[view.name])
        done.append(view.name)

    for view in repo.on_demand.values():
        add(view)
    return done


def on_demand_feature_record(
    view: TypedOnDemandView,
    feature: TypedFeature,
    requests: Mapping[str, Record],
    features: Mapping[str, Mapping[str, Record]],
) -> Record:
    """`feature:trip.delay_per_mile@…`: what it reads, features as themselves and request inputs by
    their source; `columns` are both, as the expression calls them. Into a function all enters by
    value, into an expression what only decides which value is taken enters indirectly."""
    function = view.function
    tree: list[Any] = canonical(feature.expression)
    if function is not None:
        tree = ["function", function_blob(function).hash]
        columns = [argument.name for argument in view.arguments]
    else:
        columns = list(columns_of(feature.expression))
    shown = show(feature.expression) if function is None else f"{function.name}()"
    body = {
        "version": feature.version,
        "data_hash": fingerprint([tree, str(feature.dtype)]),
        "view": view.name,
        "dtype": str(feature.dtype),
        "expression": shown,
        "tree": tree,
        "columns": columns,
        **_metadata(Metadata(description=feature.description)),
    }
    how = {} if function is not None else column_lineage(feature.expression)
    parents = dict.fromkeys(
        _parent(argument, requests, features, how.get(argument.name, "DIRECT"))
        for argument in view.arguments
        if argument.name in columns
    )
    return Record(
        kind="feature", name=f"{view.name}.{feature.name}", body=body, parents=tuple(parents)
    )


def _parent(
    argument: Argument,
    requests: Mapping[str, Record],
    features: Mapping[str, Mapping[str, Record]],
    how: Transformation,
) -> Edge:
    if isinstance(argument.origin, TypedRequestSource):
        record = requests[argument.origin.name]
    else:
        record = features[argument.origin.view.name][argument.feature]
    return Edge(parent=record.id, role=record.kind, transformation=how)


def on_demand_record(view: TypedOnDemandView, features: Mapping[str, Record]) -> Record:
    """`on_demand_view:trip@…`; the text of its function is a blob."""
    reads = {
        argument.name: {
            "input": argument.origin.name,
            "feature": argument.feature,
            "dtype": str(argument.dtype),
            **_of_view(argument.origin),
        }
        for argument in view.arguments
    }
    function = view.function
    blob = None if function is None else function_blob(function).hash
    body = {
        "version": view.version,
        "data_hash": fingerprint([list(view.inputs), reads, list(features), blob]),
        "inputs": list(view.inputs),
        "reads": reads,
        **({} if function is None else {"function": function.name, "blob": blob}),
        **_metadata(view.metadata),
    }
    parents = tuple(Edge(parent=record.id, role="feature") for record in features.values())
    return Record(kind="on_demand_view", name=view.name, body=body, parents=parents)


def _of_view(origin: ViewUse | OnDemandUse | TypedRequestSource) -> dict[str, Any]:
    match origin:
        case ViewUse():
            return {"view": origin.view.name, "join_key_map": dict(origin.join_key_map)}
        case OnDemandUse():
            return {"view": origin.view.name}
        case TypedRequestSource():
            return {}
        case _:
            assert_never(origin)


@dataclass(frozen=True, slots=True)
class FunctionBlob:
    """The text of a function as the registry keeps it."""

    hash: str
    data: bytes


def function_blob(function: PythonFunction) -> FunctionBlob:
    """The text of a function and its hash, which is the blob's name."""
    data = function.source.encode()
    return FunctionBlob(fingerprint_bytes(data), data)


def function_blobs(repo: TypedRepo) -> list[bytes]:
    """The texts of all functions of a repository."""
    functions = (view.function for view in repo.on_demand.values())
    return [function_blob(function).data for function in functions if function is not None]


def service_record(
    service: TypedService,
    views: Mapping[str, Record],
    features: Mapping[str, Mapping[str, Record]],
) -> Record:
    """`service:delay_model@…`."""
    uses = [
        {
            "name": use.name,
            "view": use.view.name,
            "features": [feature.name for feature in use.features],
            "join_key_map": dict(use.join_key_map) if isinstance(use, ViewUse) else {},
        }
        for use in service.uses
    ]
    body = {
        "version": service.version,
        "data_hash": fingerprint(uses),
        "uses": uses,
        **_metadata(service.metadata),
    }
    used = [record for use in service.uses for record in _used(use, views, features)]
    parents = tuple(
        Edge(parent=record_id, role=kind)
        for record_id, kind in dict.fromkeys((record.id, record.kind) for record in used)
    )
    return Record(kind="service", name=service.name, body=body, parents=parents)


def _used(
    use: Use, views: Mapping[str, Record], features: Mapping[str, Mapping[str, Record]]
) -> list[Record]:
    if {f.name for f in use.features} == {f.name for f in use.view.features}:
        return [views[use.view.name]]
    return [features[use.view.name][feature.name] for feature in use.features]


def _indirect(records: Iterable[Record]) -> list[Edge]:
    return [Edge(parent=r.id, role=r.kind, transformation="INDIRECT") for r in records]


def _columns(columns: Iterable[Column]) -> list[dict[str, str]]:
    return [{"name": column.name, "dtype": str(column.dtype)} for column in columns]


def _shown_columns(columns: Sequence[Column]) -> dict[str, Any]:
    shown = {column.name: str(column.dtype) for column in columns}
    if len(canonical_json(shown).encode()) > SHOWN_COLUMNS_BYTES_MAX:
        return {"columns_count": len(shown), "columns_hash": fingerprint(shown)}
    return {"columns": shown}


def _metadata(metadata: Metadata) -> dict[str, Any]:
    fields = {
        "description": metadata.description,
        "owner": metadata.owner,
        "tags": dict(metadata.tags),
    }
    return fields | {"metadata_hash": fingerprint(fields)}

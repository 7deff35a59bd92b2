"""Sources: which reads which, and their columns checked against what they declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from featurestore.compiler.hashing import source_version
from featurestore.compiler.problems import Work, placed, sound
from featurestore.compiler.queries import tables_of
from featurestore.compiler.query_lineage import query_lineage
from featurestore.compiler.rel import CREATED_US, DELETED, EVENT_US
from featurestore.compiler.typed import Column, Metadata, TypedSource
from featurestore.definitions.repo import Definitions
from featurestore.definitions.source import FileSource, Source, SqlSource
from featurestore.dtypes import DATE, INT32, INT64, STRING, TIMESTAMP, DType
from featurestore.errors import (
    CyclicReference,
    DefinitionError,
    FeatureStoreError,
    InternalError,
    InvalidExpression,
    InvalidName,
    TypeMismatch,
    UnknownReference,
    suggest,
)

_EVENT_IDS = (INT32, INT64, STRING)


@dataclass(slots=True)
class InputGraph:
    """The sources in an order in which each stands after its `inputs`, and what is wrong."""

    order: tuple[Source, ...] = ()
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    errors: list[DefinitionError] = field(default_factory=list)


def input_graph(definitions: Definitions) -> InputGraph:
    """Which source reads which. Sources that cannot be used, and those that read one of these, are
    not in the order."""
    graph = InputGraph()
    by_name = {source.name: source for source in definitions.sources}
    for source in sound(definitions.sources):
        inputs = _inputs(source, list(by_name), graph.errors)
        if inputs is not None:
            graph.inputs[source.name] = inputs
    cyclic = _report_cycles(graph, by_name)
    usable = {n: inputs for n, inputs in graph.inputs.items() if n not in cyclic}
    usable_order: dict[str, Source] = {}
    for name in TopologicalSorter(usable).static_order():
        if all(i in usable_order for i in usable.get(name, (name,))):
            usable_order[name] = by_name[name]
    graph.order = tuple(usable_order.values())
    return graph


def _inputs(
    source: Source, names: Sequence[str], errors: list[DefinitionError]
) -> tuple[str, ...] | None:
    """The sources that `source` reads; None, and errors, where its query cannot be used."""
    if isinstance(source, FileSource):
        return ()
    known = {name.casefold(): name for name in names}
    try:
        tables = tables_of(source.query)
    except DefinitionError as error:
        errors.append(placed(error, source, f"source {source.name!r}: "))
        return None
    unknown = [table for table in tables if table.casefold() not in known]
    for table in unknown:
        close = suggest(table, [name for name in names if name != source.name])
        message = f"source {source.name!r} reads {table!r}, which is no source.{close}"
        errors.append(placed(UnknownReference(message), source))
    return None if unknown else tuple(sorted({known[table.casefold()] for table in tables}))


def _report_cycles(graph: InputGraph, by_name: Mapping[str, Source]) -> set[str]:
    """Note each cycle at its first source in name order; returns all sources that are in one."""
    cyclic: set[str] = set()
    while True:
        left = {name: inputs for name, inputs in graph.inputs.items() if name not in cyclic}
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            path = list(reversed(error.args[1][1:]))
            start = path.index(min(path))
            circle = [*path[start:], *path[:start], path[start]]
            message = f"source {circle[0]!r} reads itself: {' → '.join(circle)}"
            graph.errors.append(placed(CyclicReference(message), by_name[circle[0]]))
            cyclic |= set(circle)
        else:
            return cyclic


def typed_sources(work: Work, graph: InputGraph) -> dict[str, TypedSource]:
    """The sources whose schema fits what they declare, inputs first; errors go into `work`."""
    sources: dict[str, TypedSource] = {}
    for definition in graph.order:
        inputs = graph.inputs[definition.name]
        if all(name in sources for name in inputs):
            versions = {name: sources[name].version for name in inputs}
            source = _typed(work, definition, versions)
            if source is not None:
                sources[definition.name] = source
    return sources


def _typed(work: Work, definition: Source, inputs: Mapping[str, str]) -> TypedSource | None:
    schema = work.schemas.get(definition.name)
    if schema is None:
        raise InternalError(f"no schema was read for source {definition.name!r}")
    if isinstance(schema, FeatureStoreError):
        work.errors.append(_unreadable(definition, schema))
        return None
    errors_before = len(work.errors)
    if isinstance(definition, SqlSource):
        _check_places(work, definition, inputs)
    _check_columns(work, definition, schema)
    if len(work.errors) > errors_before:
        return None
    columns = tuple(Column(name, dtype) for name, dtype in sorted(schema.items()))
    return TypedSource(
        name=definition.name,
        definition=definition,
        columns=columns,
        event_time=definition.event_time,
        created_time=definition.created_time,
        event_time_is=definition.event_time_is,
        op=definition.op,
        tiebreak=definition.tiebreak_columns or tuple(c.name for c in columns),
        lateness_us=definition.lateness_us,
        inputs=tuple(inputs),
        version=source_version(definition, inputs),
        metadata=Metadata(
            description=definition.description,
            owner=definition.owner,
            tags=definition.tags,
            file=definition.file,
            line=definition.line,
        ),
    )


def _unreadable(definition: Source, error: FeatureStoreError) -> DefinitionError:
    about = f"source {definition.name!r}: "
    if error.message.casefold().startswith(about.casefold()):
        about = ""  # what reads files says of which source
    if isinstance(error, DefinitionError):
        return placed(error, definition, about)
    return placed(DefinitionError(f"{about}{error}"), definition)


def _check_places(work: Work, source: SqlSource, inputs: Iterable[str]) -> None:
    """A query gets the columns of its inputs in the order of their names, so that files that are
    written with their columns in another order change no value. Note a query to which the order
    that the files have now makes a difference: its author counts on that."""
    schemas = {name: list(work.schemas[name]) for name in inputs}  # type: ignore[arg-type]  # typed
    outputs = list(work.schemas[source.name])  # type: ignore[arg-type]  # as well
    as_written = query_lineage(source.query, schemas, outputs)
    by_name = query_lineage(source.query, {n: sorted(c) for n, c in schemas.items()}, outputs)
    if as_written != by_name:
        message = f"source {source.name!r}: its query takes the columns of a * by their places"
        work.add(source, f"{message}; name them, or use UNION BY NAME", InvalidExpression)


def _check_columns(work: Work, source: Source, schema: Mapping[str, DType]) -> None:
    """Note declared columns that are missing, or of a type that cannot do their work."""
    roles: list[tuple[str, str | None, tuple[DType, ...] | None]] = [
        ("event_time", source.event_time, (TIMESTAMP, DATE)),
        ("created_time", source.created_time, (TIMESTAMP,)),
        ("op", source.op, (STRING,)),
        ("event_id", source.event_id, _EVENT_IDS),
        *(("tiebreak", column, None) for column in source.tiebreak_columns),
    ]
    for role, column, wanted in roles:
        missing = f"source {source.name!r} has no column {column!r} ({role})"
        if column is None or not work.has_column(source, schema, column, missing):
            continue
        if wanted is not None and schema[column] not in wanted:
            names = " or ".join(map(str, wanted))
            message = f"source {source.name!r}: {role} {column!r} is {schema[column]}, not {names}"
            work.add(source, f"{message}{_way_out(source)}", TypeMismatch)
    _check_day_edge(work, source, schema.get(source.event_time))
    for column in (EVENT_US, CREATED_US, DELETED):
        if column in schema:
            message = f"source {source.name!r} has a column {column!r}, a name of our own"
            work.add(source, f"{message}; rename it by field_mapping", InvalidName)


def _check_day_edge(work: Work, source: Source, event_time: DType | None) -> None:
    about = f"source {source.name!r}: event_time {source.event_time!r}"
    if event_time == DATE and source.event_time_is is None:
        message = f'{about} is a date; say which instant of the day: event_time_is="end" or "start"'
        work.add(source, message, TypeMismatch)
    if event_time == TIMESTAMP and source.event_time_is is not None:
        message = f"{about} is a timestamp; event_time_is is for dates only"
        work.add(source, message, TypeMismatch)


def _way_out(source: Source) -> str:
    if isinstance(source, FileSource) and str(source.path).lower().endswith(".csv"):
        return "; say so in column_types"
    return "; convert it with CAST in an SqlSource"

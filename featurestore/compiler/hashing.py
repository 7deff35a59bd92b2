"""Versions: hashes of all that can change a value, and of nothing else.

A version covers an object's own data and its parents' versions, so a change travels downstream and
never sideways: a new feature leaves its siblings' versions alone. Descriptions, owners, tags,
files, lines, `lateness` and the layout of SQL enter no version.

What a source leaves at its default is left out of its hash, so that a new option of a later release
re-versions nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from featurestore.compiler.queries import canonical_query
from featurestore.compiler.typed import (
    Argument,
    Column,
    TypedAggregation,
    TypedEntity,
    TypedFeature,
    TypedRequestSource,
    TypedSource,
    Use,
    ViewUse,
)
from featurestore.definitions.expression import Expression, canonical, columns_of
from featurestore.definitions.source import FileSource, SqlSource
from featurestore.fingerprint import fingerprint

if TYPE_CHECKING:
    from featurestore.dtypes import DType


def entity_version(name: str, keys: Sequence[Column]) -> str:
    """Of an entity: its name, and its keys with their types, in order."""
    return fingerprint(["entity", name, _columns(keys)])


def source_version(definition: FileSource | SqlSource, inputs: Mapping[str, str]) -> str:
    """Of a source: all of its declaration that can change a row. `inputs` are the versions of the
    sources that a query reads. Its columns are not in it (a feature hashes those that it reads),
    so a column added to the files re-versions nothing."""
    declared: dict[str, object] = {
        "name": definition.name,
        "event_time": definition.event_time,
        "created_time": definition.created_time,
        "event_time_is": definition.event_time_is,
        "tiebreak": list(definition.tiebreak_columns),
        "op": definition.op,
        "event_id": definition.event_id,
    }
    if isinstance(definition, FileSource):
        declared |= {
            "path": str(definition.path),
            "format": definition.format,
            "field_mapping": dict(definition.field_mapping),
            "delimiter": "" if definition.delimiter == "," else definition.delimiter,
            "no_header": not definition.header,
            "null_text": definition.null_text,
            "column_types": {c: str(t) for c, t in definition.csv_dtypes.items()},
        }
    else:
        declared |= {"query": canonical_query(definition.query), "inputs": dict(inputs)}
    return fingerprint(["source", {name: value for name, value in declared.items() if value}])


def feature_version(
    expression: Expression,
    dtype: DType,
    *,
    keys: Sequence[Column],
    ages_us: tuple[int | None, int | None],
    source: TypedSource,
    entities: Iterable[TypedEntity],
) -> str:
    """Of a feature: its canonical expression, its type and those of the columns that it reads, its
    view's keys, (ttl, grace), and the versions of source and entities."""
    inputs = _inputs(expression, source)
    own = [canonical(expression), str(dtype), inputs, _columns(keys), list(ages_us)]
    return fingerprint(["feature", own, source.version, sorted(e.version for e in entities)])


def aggregation_version(
    aggregation: TypedAggregation,
    *,
    keys: Sequence[Column],
    correction_horizon_us: int,
    source: TypedSource,
    entities: Iterable[TypedEntity],
) -> str:
    """Of a windowed feature: all that can change its value (not its name), its view's keys and
    correction horizon, and the versions of source and entities."""
    own = [_aggregation(aggregation, source), _columns(keys), correction_horizon_us]
    return fingerprint(["aggregation", own, source.version, sorted(e.version for e in entities)])


def view_version(name: str, features: Sequence[TypedFeature]) -> str:
    """Of a view: its name, and its features' names and versions, in order."""
    return fingerprint(["view", name, [[f.name, f.version] for f in features]])


def storage_hash(
    name: str,
    *,
    source: TypedSource,
    entities: Sequence[str],
    keys: Sequence[Column],
    features: Sequence[TypedFeature],
    aggregations: Sequence[TypedAggregation] = (),
    correction_horizon_us: int = 0,
) -> str:
    """Of what an online row of view `name` holds: source, keys, features in order. Neither ttl nor
    grace: a longer ttl needs more rows, not other ones. The view's name is in it, because two
    views keep rows for different times. A windowed view keeps the state of its aggregations."""
    if aggregations:
        state = [[a.name, _aggregation(a, source)] for a in aggregations]
        own = [source.version, list(entities), _columns(keys), state, correction_horizon_us]
        return fingerprint(["window storage", name, own])
    stored = [
        [f.name, str(f.dtype), canonical(f.expression), _inputs(f.expression, source)]
        for f in features
    ]
    return fingerprint(["storage", name, source.version, list(entities), _columns(keys), stored])


def request_version(name: str, columns: Sequence[Column]) -> str:
    """Of a request source: its name, and its columns with their types, in order."""
    return fingerprint(["request_source", name, _columns(columns)])


def on_demand_version(
    expression: Expression, dtype: DType, arguments: Sequence[Argument], code: str
) -> str:
    """Of a feature of an on-demand view: its canonical expression (or the function's text), its
    type, and what it reads: of a view the feature's version and the columns that its join keys are
    read from, of a request its type."""
    reads = {argument.name: _read(argument) for argument in arguments}
    return fingerprint(["on_demand", canonical(expression), str(dtype), reads, code])


def _read(argument: Argument) -> list[object]:
    own, origin = [argument.feature, str(argument.dtype)], argument.origin
    if isinstance(origin, TypedRequestSource):
        return [*own]
    version = origin.view.feature(argument.feature).version
    keys = origin.join_key_map if isinstance(origin, ViewUse) else {}
    return [*own, version, dict(keys)]


def service_version(name: str, uses: Sequence[Use]) -> str:
    """Of a service: its name, and of each use its name, view, features and join key map."""
    return fingerprint(
        [
            "service",
            name,
            [
                [
                    use.name,
                    use.view.name,
                    [[f.name, f.version] for f in use.features],
                    dict(use.join_key_map) if isinstance(use, ViewUse) else {},
                ]
                for use in uses
            ],
        ]
    )


def repo_version(versions: Mapping[str, Mapping[str, str]]) -> str:
    """Of a repository: the versions of all its objects, by kind and name."""
    return fingerprint(["repo", {kind: dict(named) for kind, named in versions.items()}])


def _inputs(expression: Expression, source: TypedSource) -> dict[str, str]:
    return {name: str(source.dtype(name)) for name in columns_of(expression)}


def _aggregation(aggregation: TypedAggregation, source: TypedSource) -> list[object]:
    trees = (aggregation.argument, aggregation.where, aggregation.by)
    return [
        aggregation.function,
        dict(aggregation.parameters),
        str(aggregation.dtype),
        [None if tree is None else [canonical(tree), _inputs(tree, source)] for tree in trees],
        [aggregation.window_us, aggregation.delay_us, aggregation.hop_us],
    ]


def _columns(columns: Iterable[Column]) -> list[list[str]]:
    return [[column.name, str(column.dtype)] for column in columns]

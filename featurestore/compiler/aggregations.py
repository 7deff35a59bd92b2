"""Aggregations of a windowed view, typed against its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from featurestore.aggregates import bucket_dtype, output_dtype
from featurestore.compiler import hashing
from featurestore.compiler.problems import Work, placed
from featurestore.compiler.typed import (
    TypedAggregation,
    TypedEntity,
    TypedFeature,
    TypedSource,
)
from featurestore.definitions import expression as expressions
from featurestore.definitions.aggregation import ROWS, Aggregation
from featurestore.definitions.expression import Expression, Literal
from featurestore.definitions.view import FeatureView
from featurestore.dtypes import BOOL, INT64, DType, map_of
from featurestore.errors import DefinitionError, DuplicateName, TypeMismatch


def aggregated(
    work: Work, view: FeatureView, source: TypedSource, entities: Sequence[TypedEntity]
) -> Iterator[TypedAggregation]:
    """The view's aggregations as far as they are sound, one for each window; errors go into
    `work`."""
    if not view.aggregations:
        return
    if source.op is not None and source.definition.event_id is None:
        message = f"feature view {view.name!r}: source {source.name!r} has op but no event_id"
        work.add(view, f"{message}, so that nobody knows which row a tombstone removes")
        return
    keys = tuple(key for entity in entities for key in entity.keys)
    key_names = {key.name.casefold() for key in keys}
    for aggregation in view.aggregations:
        if not aggregation.valid:
            continue
        about = f"aggregation {aggregation.title} in {view.name!r}"
        clashes = [w.name for w in aggregation.features if w.name.casefold() in key_names]
        for name in clashes:
            message = f"{about}: feature {name!r} has the name of a join key"
            work.add(aggregation, f"{message}; callers have that column already", DuplicateName)
        parts = None if clashes else _parts(work, aggregation, source, about)
        for typed in () if parts is None else _windows(aggregation, parts):
            version = hashing.aggregation_version(
                typed,
                keys=keys,
                correction_horizon_us=view.correction_horizon_us,
                source=source,
                entities=entities,
            )
            yield replace(typed, version=version)


def feature_of(aggregation: TypedAggregation) -> TypedFeature:
    """An aggregation as a feature of its view."""
    argument = aggregation.argument
    return TypedFeature(
        name=aggregation.name,
        dtype=aggregation.dtype,
        expression=Literal(1, INT64) if argument is None else argument,
        version=aggregation.version,
        description=aggregation.description,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an aggregation reads, typed: argument, condition, bucket; and what it yields."""

    argument: Expression | None
    argument_dtype: DType | None
    where: Expression | None
    by: Expression | None
    by_dtype: DType | None
    dtype: DType


def _parts(work: Work, aggregation: Aggregation, source: TypedSource, about: str) -> _Parts | None:
    """None after an error."""
    schema = {column.name: column.dtype for column in source.columns}
    argument: Expression | None = None
    dtype: DType | None = None
    where: Expression | None = None
    by: Expression | None = None
    by_dtype: DType | None = None
    try:
        if aggregation.column in schema:
            argument = expressions.Column(aggregation.column)
        elif aggregation.column.isidentifier():
            missing = f"{about}: source {source.name!r} has no column {aggregation.column!r}"
            work.has_column(aggregation, schema, aggregation.column, missing)
            return None
        elif aggregation.column != ROWS:
            argument, dtype = _read(aggregation.column, schema)
        if argument is not None:
            dtype = dtype or expressions.infer(argument, schema)
        if aggregation.where is not None:
            where, found = _read(aggregation.where, schema, "where: ")
            if found not in (None, BOOL):
                raise TypeMismatch(f"where must be true or false, and this is {found}")
        if aggregation.by is not None:
            if aggregation.by in schema:
                by = expressions.Column(aggregation.by)
            else:
                by, by_dtype = _read(aggregation.by, schema, "by: ")
            by_dtype = by_dtype or expressions.infer(by, schema)
    except DefinitionError as error:
        work.errors.append(placed(error, aggregation, f"{about}: "))
        return None
    try:
        output = output_dtype(aggregation.function, dtype)
        if by_dtype is not None:
            by_dtype = bucket_dtype(by_dtype)
            output = map_of(by_dtype, output)
    except ValueError as error:
        work.add(aggregation, f"{about}: {error}", TypeMismatch)
        return None
    wanted = aggregation.declared_dtype
    if wanted is not None and wanted != output:
        message = f"{about}: {aggregation.function} yields {output} here, not {wanted}"
        work.add(aggregation, message, TypeMismatch)
        return None
    return _Parts(argument, dtype, where, by, by_dtype, output)


def _read(
    text: str, schema: Mapping[str, DType], part: str = ""
) -> tuple[Expression, DType | None]:
    """`read_expression`; an aggregation has several texts, and errors say of which `part` they
    speak."""
    try:
        return expressions.read_expression(text, schema)
    except DefinitionError as error:
        error.message = f"{part}{error.message}"
        raise


def _windows(aggregation: Aggregation, parts: _Parts) -> Iterator[TypedAggregation]:
    for window in aggregation.features:
        yield TypedAggregation(
            name=window.name,
            dtype=parts.dtype,
            function=aggregation.function,
            argument=parts.argument,
            argument_dtype=parts.argument_dtype,
            where=parts.where,
            window_us=window.window_us,
            delay_us=aggregation.delay_us,
            hop_us=window.hop_us,
            parameters=aggregation.parameters,
            by=parts.by,
            by_dtype=parts.by_dtype,
            version="",
            description=aggregation.description,
        )

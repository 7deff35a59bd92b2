"""What a windowed view reads of its source's rows: the columns that its `view_rel` adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.compiler.rel import WindowFunction
from featurestore.compiler.typed import TypedSource, TypedView
from featurestore.definitions.expression import Expression, canonical, columns_of
from featurestore.dtypes import BOOL, DType
from featurestore.errors import InternalError
from featurestore.fingerprint import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowInputs:
    """`columns` maps each column to its expression over the source's columns and its type; equal
    expressions are one column. `values`, `conditions` and `buckets` name for each aggregation the
    column of its argument (None: `count("*")`), of its `where` and its `by` (None: it has none)."""

    columns: Mapping[str, tuple[Expression, DType]]
    values: tuple[str | None, ...]
    conditions: tuple[str | None, ...]
    buckets: tuple[str | None, ...]


def window_inputs(view: TypedView) -> WindowInputs:
    """What a windowed view's aggregations read, in their order."""
    columns: dict[str, tuple[Expression, DType]] = {}
    names: dict[str, str] = {}

    def column(kind: str, expression: Expression | None, dtype: DType | None) -> str | None:
        if expression is None:
            return None
        if dtype is None:
            raise InternalError(f"an aggregation of {view.name} has an argument without a type")
        name = names.setdefault(
            fingerprint([kind, canonical(expression), str(dtype)]), f"{kind}:{len(names)}"
        )
        columns[name] = (expression, dtype)
        return name

    values = tuple(column("value", a.argument, a.argument_dtype) for a in view.aggregations)
    conditions = tuple(column("where", a.where, BOOL) for a in view.aggregations)
    buckets = tuple(column("by", a.by, a.by_dtype) for a in view.aggregations)
    return WindowInputs(columns=columns, values=values, conditions=conditions, buckets=buckets)


def window_functions(view: TypedView) -> dict[str, WindowFunction]:
    """The functions over the columns of the view's `view_rel`, by feature."""
    inputs = window_inputs(view)
    return {
        a.name: WindowFunction(
            dtype=a.dtype,
            function=a.function,
            value=value,
            argument=a.argument_dtype,
            condition=condition,
            bucket=bucket,
            window_us=a.window_us,
            delay_us=a.delay_us,
            hop_us=a.hop_us,
            parameters=a.parameters,
        )
        for a, value, condition, bucket in zip(
            view.aggregations, inputs.values, inputs.conditions, inputs.buckets, strict=True
        )
    }


def version_order(view: TypedView) -> tuple[str, ...]:
    """The source's columns that decide between two rows of one event id with the same known,
    created and event time, where neither is a tombstone (which replaces any other) or both are:
    the row that is greater in them (NULL lowest) replaces the other.

    They are the declared `tiebreak`, then all that the aggregations read, in name order: what that
    leaves open changes no value.
    """
    source: TypedSource = view.source
    trees = [t for a in view.aggregations for t in (a.argument, a.where, a.by) if t is not None]
    read = sorted({name for tree in trees for name in columns_of(tree)})
    return tuple(dict.fromkeys((*source.definition.tiebreak_columns, *read)))

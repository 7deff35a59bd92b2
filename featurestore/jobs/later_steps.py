"""On-demand views that Python computes in a training set: batch after batch of what the engine
yields, row by row, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.compiler.training import TIME, TrainingSet
from featurestore.dtypes import DType, Kind, to_arrow
from featurestore.user_functions import Failures, batch_function, row_function
from featurestore.value_bytes import map_types

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.derived import LaterStep


class FunctionWarning(UserWarning):
    """A Python function failed on some rows, whose values are NULL."""


class LaterSteps:
    """The steps of one run. `failures` tell, by view, what went wrong so far."""

    def __init__(self, compiled: TrainingSet) -> None:
        self._compiled = compiled
        self.failures = {step.view: Failures() for step in compiled.later}
        self._functions = [
            row_function(step.code, self.failures[step.view]) for step in compiled.later
        ]

    def warn(self) -> None:
        """Tell of the failures."""
        for view, failed in self.failures.items():
            if failed.count or failed.first:
                warnings.warn(
                    f"{failed.count:,} values of {view} are NULL because its function failed. "
                    f"The first time: {failed.first}",
                    FunctionWarning,
                    stacklevel=3,
                )

    def reader(self, batches: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The features, statuses and what is `counted` of the engine's `batches`."""
        import pyarrow as pa

        known = dict(zip(batches.schema.names, batches.schema.types, strict=True))
        for step in self._compiled.later:
            outputs = zip(step.columns, step.code.outputs, strict=True)
            known |= {column: to_arrow(dtype) for column, (_, dtype) in outputs}
        names = (*self._compiled.features, *self._compiled.statuses, *self._compiled.counted)
        columns = self._compiled.columns
        schema = pa.schema([(n, known[c]) for n, c in zip(names, columns, strict=True)])
        return pa.RecordBatchReader.from_batches(schema, self._batches(batches, schema))

    def _batches(
        self, batches: pa.RecordBatchReader, schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
            times = arrays[TIME].to_pylist()
            for step, function in zip(self._compiled.later, self._functions, strict=True):
                arrays |= _computed(step, function, arrays, times)
            yield pa.RecordBatch.from_arrays(
                [arrays[column] for column in self._compiled.columns], schema=schema
            )


def _computed(
    step: LaterStep, function: Any, arrays: dict[str, pa.Array], times: Sequence[int]
) -> dict[str, pa.Array]:
    import pyarrow as pa

    dtypes = [dtype for _, dtype in step.code.arguments]
    given = [
        _row_values(arrays[column], dtype)
        for column, dtype in zip(step.arguments, dtypes, strict=True)
    ]
    outputs: Sequence[Sequence[Any]]
    if step.asks_time:
        rows = list(map(function, times, *given))
        outputs = list(zip(*rows, strict=True)) if rows else [() for _ in step.columns]
    else:
        outputs = batch_function(step.code, function)(0, len(times), *given)
    return {
        column: pa.array(values, to_arrow(dtype))
        for column, values, (_, dtype) in zip(step.columns, outputs, step.code.outputs, strict=True)
    }


def _row_values(column: pa.Array, dtype: DType) -> list[Any]:
    """Values as rows carry them: timestamps as int µs, dates as int days."""
    import pyarrow as pa

    if dtype.kind is Kind.TIMESTAMP:
        column = column.cast(pa.int64())
    elif dtype.kind is Kind.DATE:
        column = column.cast(pa.int32())
    elif dtype.item is not None and dtype.item.kind in (Kind.TIMESTAMP, Kind.DATE):
        plain = pa.int64() if dtype.item.kind is Kind.TIMESTAMP else pa.int32()
        column = column.cast(pa.list_(plain))
    elif dtype.kind is Kind.MAP:
        return _row_maps(column, dtype)
    values: list[Any] = column.to_pylist()
    return values


def _row_maps(column: pa.MapArray, dtype: DType) -> list[dict[Any, Any] | None]:
    """Maps as dicts, their values as rows carry them."""
    key, value = map_types(dtype)
    keys, values = _row_values(column.keys, key), _row_values(column.items, value)
    offsets = column.offsets.to_pylist()
    return [
        dict(zip(keys[start:stop], values[start:stop], strict=True)) if there else None
        for start, stop, there in zip(
            offsets[:-1], offsets[1:], column.is_valid().to_pylist(), strict=True
        )
    ]

"""What a data contract asks about a source or a training set, in one query of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore.compiler.rel import Input, Project, Rel, Sql
from featurestore.compiler.scans import source_rel
from featurestore.dtypes import FLOAT64, INT64, Kind, from_arrow
from featurestore.engines.sql import quote
from featurestore.errors import InvalidRequest, UnknownSource
from featurestore.jobs.project import current_files
from featurestore.lifecycle.gates import DataFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from featurestore.definitions.gates import DataContract
    from featurestore.dtypes import DType
    from featurestore.jobs.materialize import Context
    from featurestore.jobs.training_sets import TrainingSet

_NUMBERS = (Kind.INT32, Kind.INT64, Kind.FLOAT32, Kind.FLOAT64, Kind.DECIMAL, Kind.BOOL)


def source_facts(contract: DataContract, context: Context) -> DataFacts:
    """Of a source as its files are now. Raises `UnknownSource`, and what the engine does."""
    sources = context.repo.sources
    if contract.of not in sources:
        raise UnknownSource(str(contract.of), known=sources)
    source = sources[str(contract.of)]
    files = current_files(context.repo, [source], context.root, context.offline)
    rows = source_rel(source, context.repo, files)
    types = {column.name: column.dtype for column in source.columns}
    return _facts(contract, context, rows, types, time_column=source.event_time, inputs={})


def table_facts(contract: DataContract, context: Context, rows: TrainingSet) -> DataFacts:
    """Of a training set, which is read once. Raises `InvalidRequest` for a column of a type that we
    do not know."""
    import pyarrow as pa

    time_column = str(rows.body["entity_frame"]["time"])
    batches = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches())
    wanted = {*contract.null_rate_max, *contract.ranges, *contract.unique, time_column}
    types: dict[str, DType] = {}
    for field in batches.schema:
        if field.name in wanted:
            types[field.name] = _dtype(field)
    known = set(batches.schema.names)
    rel = Input(name="training_rows", dtypes=types)
    inputs = {"training_rows": _selected(batches, list(types))}
    facts = _facts(contract, context, rel, types, time_column=time_column, inputs=inputs)
    return replace(facts, columns=tuple(sorted(known)))


def _dtype(field: pa.Field) -> DType:
    try:
        return from_arrow(field.type)
    except ValueError as error:
        raise InvalidRequest(f"a contract can't look at column {field.name!r}: {error}") from error


def _selected(batches: pa.RecordBatchReader, names: Sequence[str]) -> pa.RecordBatchReader:
    import pyarrow as pa

    schema = pa.schema([batches.schema.field(name) for name in names])
    return pa.RecordBatchReader.from_batches(schema, (batch.select(names) for batch in batches))


def _facts(
    contract: DataContract,
    context: Context,
    rows: Rel,
    types: Mapping[str, DType],
    *,
    time_column: str,
    inputs: Mapping[str, Any],
) -> DataFacts:
    asked = [name for name in types if name in {*contract.null_rate_max, *contract.ranges}]
    ranged = [name for name in asked if name in contract.ranges and types[name].kind in _NUMBERS]
    items = {"rows": ("count(*)", INT64)}
    for number, name in enumerate(asked):
        items[f"nulls{number}"] = (f"count(*) - count({quote(name)})", INT64)
        if name in ranged:
            items[f"least{number}"] = (f"CAST(min({quote(name)}) AS DOUBLE)", FLOAT64)
            items[f"most{number}"] = (f"CAST(max({quote(name)}) AS DOUBLE)", FLOAT64)
    if time_column in types and types[time_column].kind is Kind.TIMESTAMP:
        items["newest"] = (f"epoch_us(max({quote(time_column)}))", INT64)
    known = [name for name in contract.unique if name in types]
    if known and len(known) == len(contract.unique):
        together = ", ".join(quote(name) for name in known)
        items["repeated"] = (f"count(*) - count(DISTINCT ({together}))", INT64)
    columns = ", ".join(f"{text} AS {name}" for name, (text, _) in items.items())
    used = {name: name for name in types if name in {*asked, *known, time_column}}
    rel = Sql(
        query=f"SELECT {columns} FROM data",
        inputs={"data": Project(input=rows, columns=used)},
        dtypes={name: dtype for name, (_, dtype) in items.items()},
    )
    (found,) = context.engine.stream(rel, inputs=inputs).read_all().to_pylist()
    return DataFacts(
        columns=tuple(types),
        rows=found["rows"],
        nulls={name: found[f"nulls{n}"] for n, name in enumerate(asked)},
        ranges={
            name: (found.get(f"least{n}"), found.get(f"most{n}")) for n, name in enumerate(asked)
        },
        repeated=found.get("repeated", 0),
        newest_us=found.get("newest"),
    )

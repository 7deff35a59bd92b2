"""The oracle keeps the contract itself: what the cases write out by hand is what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self, get_args

import pyarrow as pa
import pytest
from pyarrow import parquet

from featurestore.compiler.rel import (
    CREATED_US,
    DELETED,
    EVENT_US,
    AsOfJoin,
    Input,
    Latest,
    Rel,
    Scan,
    Stamped,
)
from featurestore.config import OfflineSettings
from featurestore.dtypes import DType
from featurestore.engines.base import BATCH_ROWS, Capabilities, Engine
from featurestore.errors import UnsupportedByEngine
from featurestore.testing.data import to_array, to_rows
from featurestore.testing.engine_joins import JoinsContract
from featurestore.testing.engine_latest import LatestContract
from featurestore.testing.oracle import (
    Row,
    RowShape,
    Use,
    Value,
    latest,
    read_value,
    settle_all,
    training_rows,
)

Rows = list[dict[str, Value]]


class OracleEngine(Engine):
    """Scans Parquet, settles, joins as of and takes the latest; nothing else."""

    capabilities: ClassVar[Capabilities] = Capabilities(spills_to_disk=False, streams=False)

    @classmethod
    def open(cls, settings: OfflineSettings, *, temp_directory: str) -> Self:
        return cls()

    def schema(self, query: str, inputs: Mapping[str, Mapping[str, DType]]) -> dict[str, DType]:
        raise UnsupportedByEngine("the oracle reads no SQL")

    def stream(
        self, rel: Rel, *, inputs: Mapping[str, Any] | None = None, batch_rows: int = BATCH_ROWS
    ) -> pa.RecordBatchReader:
        rows = rows_of(rel, dict(inputs or {}))
        columns = {n: to_array([row[n] for row in rows], dtype) for n, dtype in rel.schema.items()}
        return pa.table(columns).to_reader(max_chunksize=batch_rows)

    def explain(self, rel: Rel, *, inputs: Mapping[str, pa.Table] | None = None) -> str:
        return repr(rel)

    def close(self) -> None:
        return


def rows_of(rel: Rel, inputs: Mapping[str, pa.Table]) -> Rows:
    if isinstance(rel, Input):
        return to_rows(inputs[rel.name])
    if isinstance(rel, Scan):
        return scanned(rel)
    if isinstance(rel, Stamped):
        return [written(row) for row in settled(rel, inputs)]
    if isinstance(rel, Latest):
        bounds = ("known_after_us", "known_until_us", "event_from_us", "event_to_us")
        rows = settled(rel.input, inputs)
        return [written(r) for r in latest(rows, **{b: getattr(rel, b) for b in bounds}).values()]
    if isinstance(rel, AsOfJoin):
        use = Use(
            rows=settled(rel.right, inputs),
            key_columns=tuple({r: left for left, r in rel.keys.items()}[r] for r in rel.right.keys),
            features=rel.columns,
            ttl_us=rel.ttl_us,
            grace_us=rel.grace_us,
            status=rel.status,
        )
        return training_rows(
            rows_of(rel.left, inputs),
            [use],
            time=rel.left_time,
            as_of=rel.as_of,
            known_until_us=rel.known_until_us,
        )
    raise UnsupportedByEngine(f"the oracle has no {type(rel).__name__}; all are {get_args(Rel)}")


def scanned(rel: Scan) -> Rows:
    rows: Rows = []
    for path in rel.files.paths:
        for row in to_rows(parquet.read_table(path)):
            read = {out: row.get(name) for out, name in rel.columns.items()}
            rows.append({out: read_value(value, rel.dtypes[out]) for out, value in read.items()})
    return rows


def settled(rel: Stamped, inputs: Mapping[str, pa.Table]) -> list[Row]:
    shape = RowShape(
        keys=rel.keys,
        event_time=rel.event_time,
        created_time=rel.created_time,
        event_time_is=rel.event_time_is,
        op=rel.op,
        tiebreak=rel.tiebreak,
    )
    return settle_all(rows_of(rel.input, inputs), shape)


def written(row: Row) -> dict[str, Value]:
    times = {EVENT_US: row.event_us, CREATED_US: row.created_us, DELETED: row.deleted}
    return dict(row.values) | times


class TestOracle(LatestContract, JoinsContract):
    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        with OracleEngine() as engine:
            yield engine

"""An engine beside the oracle: run a case both ways, and say where they differ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.compiler.rel import (
    CREATED_US,
    DELETED,
    EVENT_US,
    AsOfJoin,
    DataFiles,
    Input,
    Latest,
    Rel,
    Scan,
    Stamped,
)
from featurestore.dtypes import INT64, DType, to_arrow
from featurestore.engines.base import BATCH_ROWS, BucketsExceededWarning, Engine, SumOverflowWarning
from featurestore.testing.data import Case, to_array, to_rows, write_case
from featurestore.testing.oracle import (
    Row,
    RowShape,
    Value,
    answer,
    latest,
    same,
    winner,
)

if TYPE_CHECKING:
    import pyarrow as pa

LEFT, ID, AT = "requests", "id", "asked at"
STATUS = "status of view"
SHOWN_MAX = 4_000


def run(
    engine: Engine,
    rel: Rel,
    *,
    inputs: Mapping[str, pa.Table] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> list[dict[str, Value]]:
    """The rows of `rel` as plain values. Checks that columns, types and batch sizes are as `rel`
    and `batch_rows` say."""
    import pyarrow as pa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SumOverflowWarning)
        warnings.simplefilter("ignore", BucketsExceededWarning)
        reader = engine.stream(rel, inputs=inputs, batch_rows=batch_rows)
    batches = list(reader)
    wanted = {name: to_arrow(dtype) for name, dtype in rel.schema.items()}
    found = dict(zip(reader.schema.names, reader.schema.types, strict=True))
    assert found == wanted, f"the columns are {found}, the relation says {wanted}"
    assert list(found) == list(wanted), f"the order of columns is {list(found)}"
    assert all(batch.num_rows <= batch_rows for batch in batches)
    return to_rows(pa.Table.from_batches(batches, reader.schema))


def scan(files: DataFiles, dtypes: Mapping[str, DType] | None = None) -> Scan:
    """All columns of the files, under their own names."""
    dtypes = dict(dtypes or files.schema)
    return Scan(source="cases", files=files, columns={n: n for n in dtypes}, dtypes=dtypes)


def stamped(rel: Rel, shape: RowShape) -> Stamped:
    """`rel` with its times settled."""
    return Stamped(
        input=rel,
        keys=shape.keys,
        event_time=shape.event_time,
        created_time=shape.created_time,
        event_time_is=shape.event_time_is,
        op=shape.op,
        tiebreak=shape.tiebreak,
    )


def as_of_rel(case: Case, files: DataFiles) -> AsOfJoin:
    """The case's question. Its left columns are an id, the time, and the keys as `asked …`."""
    keys = {f"asked {key}": key for key in case.shape.keys}
    left = {ID: INT64, AT: INT64} | {column: case.dtypes[key] for column, key in keys.items()}
    return AsOfJoin(
        left=Input(name=LEFT, dtypes=left),
        right=stamped(scan(files, case.dtypes), case.shape),
        keys=keys,
        left_time=AT,
        columns={f"found {name}": name for name in case.features},
        status=STATUS,
        as_of=case.as_of,
        known_until_us=case.known_until_us,
        ttl_us=case.ttl_us,
        grace_us=case.grace_us,
    )


def as_of_input(case: Case) -> pa.Table:
    """The case's requests as the left side of `as_of_rel`; ids count distinct requests, so that
    a repeated request is a repeated row."""
    import pyarrow as pa

    ids = {request: number for number, request in enumerate(dict.fromkeys(case.requests))}
    columns = {
        ID: pa.array([ids[request] for request in case.requests], pa.int64()),
        AT: pa.array([request.at_us for request in case.requests], pa.int64()),
    }
    for position, key in enumerate(case.shape.keys):
        values = [request.key[position] for request in case.requests]
        columns[f"asked {key}"] = to_array(values, case.dtypes[key])
    return pa.table(columns)


def as_of_expected(case: Case, rows: Sequence[Row] | None = None) -> list[dict[str, Value]]:
    """What the oracle answers to the case (of `rows`, by default its own), as rows of
    `as_of_rel`."""
    rows, expected = case.settled() if rows is None else rows, []
    for asked in to_rows(as_of_input(case)):
        key = tuple(asked[f"asked {name}"] for name in case.shape.keys)
        best = winner(rows, key, asked[AT], as_of=case.as_of, known_until_us=case.known_until_us)
        found = answer(best, asked[AT], case.features, ttl_us=case.ttl_us, grace_us=case.grace_us)
        values = {f"found {name}": value for name, value in found.values.items()}
        expected.append(asked | values | {STATUS: int(found.status)})
    return expected


def compare_as_of(
    engine: Engine, case: Case, folder: Path, *, batch_rows: int = BATCH_ROWS
) -> None:
    """Raise `AssertionError` where the engine's as-of join of the case is not the oracle's."""
    rel = as_of_rel(case, write_case(case, folder))
    found = run(engine, rel, inputs={LEFT: as_of_input(case)}, batch_rows=batch_rows)
    check_same_rows(found, as_of_expected(case), case)


def compare_latest(
    engine: Engine, case: Case, folder: Path, *, batch_rows: int = BATCH_ROWS
) -> None:
    """Raise `AssertionError` where the engine's latest rows of the case are not the oracle's."""
    source = stamped(scan(write_case(case, folder), case.dtypes), case.shape)
    found = run(engine, Latest(input=source, **case.bounds), batch_rows=batch_rows)
    winners = latest(case.settled(), **case.bounds).values()
    expected = [
        {
            **row.values,
            EVENT_US: row.event_us,
            CREATED_US: row.created_us,
            DELETED: row.deleted,
        }
        for row in winners
    ]
    check_same_rows(found, expected, case)


def check_same_rows(
    found: Sequence[Mapping[str, Value]], expected: Sequence[Mapping[str, Value]], about: Any = ""
) -> None:
    """Raise `AssertionError` where two lists of rows are not the same, in whatever order."""
    shown = repr(about)[:SHOWN_MAX]
    left, right = sorted(found, key=_sortable), sorted(expected, key=_sortable)
    assert len(left) == len(right), (
        f"{len(left)} rows, not {len(right)}; found {str(left)[:SHOWN_MAX]}\n{shown}"
    )
    for one, other in zip(left, right, strict=True):
        different = [name for name in other if not same(one.get(name), other[name])]
        assert one.keys() == other.keys()
        assert not different, (
            f"{different} differ:\n  found    {one}\n  expected {dict(other)}\n{shown}"
        )


def _sortable(row: Mapping[str, Value]) -> str:
    return repr([row[name] for name in sorted(row)])

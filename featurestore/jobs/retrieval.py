"""Running a compiled training set: the engine's features beside the frame's rows, and the forms in
which they leave."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.buckets import S3Options, bucket_path, is_s3, translated
from featurestore.compiler.rel import Scan, walk
from featurestore.compiler.training import FRAME, INSTANT, TrainingSet
from featurestore.dtypes import to_arrow
from featurestore.engines.base import BATCH_ROWS, Engine
from featurestore.errors import FileNotWritten, InternalError
from featurestore.jobs.copies import narrowed
from featurestore.jobs.entity_frame import EntityFrame, Rows
from featurestore.jobs.entity_values import key_values, null_times, plain_values, times_us
from featurestore.jobs.later_steps import LaterSteps
from featurestore.jobs.request_inputs import input_values
from featurestore.statuses import Status

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from featurestore.stores.offline.folder import OfflineFolder

FEW_ROWS = 10_000
"""Rows of a frame up to which it is worth while to look whether it has few keys."""
UPLOAD_BYTES = 8 * 1024 * 1024
"""What is sent to S3 at a time."""
Undefined = dict[str, int]
"""By feature that is computed on demand (`view:feature`), how many of its values are NULL for want
of a result (a division by zero, an overflow)."""
_STATUS_NAMES = [status.name for status in Status]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A compiled training set and what runs it."""

    engine: Engine
    compiled: TrainingSet
    time_column: str
    offline: OfflineFolder | None = None

    def schema(self, frame: EntityFrame) -> pa.Schema:
        """The frame's columns, the features, the statuses."""
        import pyarrow as pa

        features = [pa.field(n, to_arrow(d)) for n, d in self.compiled.features.items()]
        statuses = [pa.field(name, pa.string()) for name in self.compiled.statuses]
        return pa.schema([*frame.schema, *features, *statuses])

    def batches(
        self,
        frame: EntityFrame,
        rows: Rows,
        *,
        batch_rows: int,
        later: LaterSteps | None = None,
        undefined: Undefined | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The result in the frame's order, in batches of at most `batch_rows`; to `undefined` is
        added what the training set counts.

        Raises `InternalError` if the engine does not give one row for each row of the frame.
        """
        import pyarrow as pa

        schema = self.schema(frame)
        found = _Rechunked(self.features(rows, later))
        for whole in rows.batches():
            for start in range(0, whole.num_rows, batch_rows):
                own = whole.slice(start, batch_rows)
                beside = found.take(own.num_rows)
                if undefined is not None:
                    self._count(beside, undefined)
                yield pa.RecordBatch.from_arrays(
                    [*own.columns, *self._columns(beside)], schema=schema
                )
        if (extra := found.rest()) > 0:
            raise InternalError(f"{rows.rows} rows went in and {rows.rows + extra} came out")

    def features(self, rows: Rows, later: LaterSteps | None = None) -> pa.RecordBatchReader:
        """The answer: features, statuses (int32) and what is counted (bool), in the frame's order.
        `later` computes what the engine does not (one of its own by default)."""
        import pyarrow as pa

        keys = [key.name for key in self.compiled.keys]
        schema = pa.schema([(name, to_arrow(d)) for name, d in self.compiled.dtypes.items()])
        reader = pa.RecordBatchReader.from_batches(schema, self._narrow(schema, rows))
        frame: pa.Table | pa.RecordBatchReader = reader
        if later is None and self.compiled.later:
            later = LaterSteps(self.compiled)
        rel, inputs = self.compiled.rel, {}
        if rows.rows <= FEW_ROWS and self._has_copies():
            frame = reader.read_all()
            values = {key: set(frame[key].unique().to_pylist()) for key in keys}
            found = narrowed(rel, values, self.offline)
            rel, inputs = found.rel, dict(found.inputs)
        found = self.engine.stream(rel, inputs=inputs | {FRAME: frame}, batch_rows=BATCH_ROWS)
        return found if later is None else later.reader(found)

    def _has_copies(self) -> bool:
        scans = (node for node in walk(self.compiled.rel) if isinstance(node, Scan))
        return any(scan.files.copy is not None for scan in scans)

    def _narrow(self, schema: pa.Schema, rows: Rows) -> Iterator[pa.RecordBatch]:
        """Keys, times and request inputs. Where a time is NULL, the whole frame is looked at, to
        say how many."""
        import pyarrow as pa

        offset = 0
        for batch in rows.batches():
            times = plain_values(batch.column(self.time_column))
            if times.null_count:
                raise self._null_times(rows)
            columns = [
                key_values(key.column, batch.column(key.column), key.dtype, offset=offset)
                for key in self.compiled.keys
            ]
            instants = times_us(self.time_column, times, offset=offset)
            columns.append(instants)
            columns += [
                input_values(one.column, batch.column(one.column), one.dtype, offset=offset)
                for one in self.compiled.inputs
            ]
            if INSTANT in self.compiled.dtypes:
                columns.append(instants.cast(pa.timestamp("us", tz="UTC")))
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
            offset += batch.num_rows

    def _null_times(self, rows: Rows) -> Exception:
        count, first, offset = 0, None, 0
        for batch in rows.batches():
            nulls = plain_values(batch.column(self.time_column)).is_null()
            if first is None and nulls.true_count:
                first = offset + nulls.to_pylist().index(True)
            count += nulls.true_count
            offset += batch.num_rows
        return null_times(self.time_column, count, first or 0)

    def _columns(self, batch: pa.RecordBatch) -> list[pa.Array]:
        import pyarrow as pa
        import pyarrow.compute as pc

        names = pa.array(_STATUS_NAMES)
        first = int(min(Status))
        features = len(self.compiled.features)
        end = features + len(self.compiled.statuses)
        found = batch.columns[features:end]
        statuses = [names.take(pc.subtract(column, first)) for column in found]
        return [*batch.columns[:features], *statuses]

    def _count(self, batch: pa.RecordBatch, undefined: Undefined) -> None:
        names = self.compiled.counted
        for name, column in zip(
            names, batch.columns[batch.num_columns - len(names) :], strict=True
        ):
            undefined[name] = undefined.get(name, 0) + column.true_count


class _Rechunked:
    """Batches of any size, taken in the sizes asked for."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader
        self._left: pa.RecordBatch | None = None

    def take(self, count: int) -> pa.RecordBatch:
        """The next `count` rows; `InternalError` where there are fewer."""
        import pyarrow as pa

        parts, missing = [], count
        while missing:
            batch = self._left if self._left is not None else next(self._reader, None)
            if batch is None:
                raise InternalError(f"the engine gave {missing} rows fewer than went in")
            parts.append(batch.slice(0, missing))
            self._left = batch.slice(missing) if batch.num_rows > missing else None
            missing -= parts[-1].num_rows
        if len(parts) == 1:
            return parts[0]
        return pa.concat_batches(parts)

    def rest(self) -> int:
        """How many rows nobody took."""
        left = self._left.num_rows if self._left is not None else 0
        return left + sum(int(batch.num_rows) for batch in self._reader)


@dataclass(slots=True)
class NullCount:
    """How many of the feature values are NULL."""

    features: tuple[str, ...]
    values: int = field(default=0)
    nulls: int = field(default=0)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the values of one batch."""
        for name in self.features:
            self.nulls += batch.column(name).null_count
            self.values += batch.num_rows

    @property
    def is_most(self) -> bool:
        """Whether more than half of the values are NULL."""
        return 2 * self.nulls > self.values


# --- the forms in which results leave -------------------------------------------------------------


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A DataFrame in which integers and booleans stay exact beside NULLs."""
    import pandas as pd
    from pyarrow import types

    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas(integer_object_nulls=True)
    nullable: dict[str, Any] = {
        **{f"int{bits}": getattr(pd, f"Int{bits}Dtype")() for bits in (8, 16, 32, 64)},
        **{f"uint{bits}": getattr(pd, f"UInt{bits}Dtype")() for bits in (8, 16, 32, 64)},
        "bool": pd.BooleanDtype(),
    }
    for position, column in enumerate(table.columns):
        exact = types.is_integer(column.type) or types.is_boolean(column.type)
        if exact and column.null_count:
            array = nullable[str(column.type)].__from_arrow__(column)
            frame.isetitem(position, array)
    return frame


def write_anywhere(
    path: str | Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, s3: S3Options
) -> None:
    """Write one Parquet file on this machine or on S3. Raises as `write_parquet` and
    `upload_parquet` do."""
    if is_s3(path):
        upload_parquet(str(path), schema, batches, s3=s3)
    else:
        write_parquet(Path(path), schema, batches)


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a file beside `path`, then put it in its place: whole, or not at all. Raises
    `FileNotWritten`."""
    from pyarrow import parquet

    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            with parquet.ParquetWriter(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise FileNotWritten(
            f"{path} can't be written: {error.strerror or error}. Free some disk space, or check "
            "the folder's permissions; what was there before is untouched."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def upload_parquet(
    url: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, s3: S3Options
) -> None:
    """Write a file on this machine's disk, then put it to `url`, where it appears when it is whole.

    Raises what S3 does: `SourceMissing` (no such bucket), `StoreAccessDenied`, `StoreUnavailable`,
    `StoreTimeout`.
    """
    with tempfile.TemporaryDirectory(prefix="features-") as folder:
        part = Path(folder) / "part.parquet"
        write_parquet(part, schema, batches)
        with (
            translated(f"Writing {url}"),
            part.open("rb") as file,
            s3.client().open_output_stream(bucket_path(url)) as out,
        ):
            shutil.copyfileobj(file, out, UPLOAD_BYTES)

"""The entity frame: what a caller asks features for, whatever it comes as.

Every form becomes an `EntityFrame`, which can be read as often as needed in batches of its own
Arrow types. A Parquet file is streamed; what can be read only once (a reader) or only by running
something (SQL) is put down in a temporary Arrow file first.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.compiler.queries import tables_of
from featurestore.compiler.rel import Sql
from featurestore.compiler.scans import Files, source_rel
from featurestore.engines.base import BATCH_ROWS
from featurestore.errors import (
    FeatureStoreError,
    FileNotWritten,
    InvalidEntityFrame,
    InvalidExpression,
    InvalidRequest,
    LimitExceeded,
    suggest,
)
from featurestore.jobs.entity_values import instant_us

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.spans import Changes
    from featurestore.compiler.typed import TypedRepo
    from featurestore.engines.base import Engine

_SQL = re.compile(r"\s*(?:(?:select|with|from)\s|\()", re.IGNORECASE)
_ACCEPTED = (
    "a pandas or polars DataFrame, an Arrow table or reader, the path of a Parquet file, or a "
    "SELECT over the repository's sources"
)


@dataclass(frozen=True, slots=True)
class Rows:
    """An entity frame while it is read: `batches()` gives all of its rows, as often as it is
    called, in the same order."""

    rows: int
    batches: Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, slots=True)
class EntityFrame:
    """`schema` are the columns as they came; `rows` is None where they are not counted yet.
    `opened()` is a context manager for `Rows`."""

    schema: pa.Schema
    rows: int | None
    opened: Callable[[], AbstractContextManager[Rows]]


def is_query(entity_df: object) -> bool:
    """Whether `entity_df` is SQL text rather than a path."""
    return isinstance(entity_df, str) and _SQL.match(entity_df) is not None


def query_sources(query: str, repo: TypedRepo) -> tuple[str, ...]:
    """The sources that an SQL entity frame reads.

    Raises `InvalidEntityFrame` for invalid SQL and for tables that are no sources.
    """
    by_name = {name.casefold(): name for name in repo.sources}
    try:
        tables = tables_of(query)
    except InvalidExpression as error:
        raise InvalidEntityFrame(f"The SQL of the entity frame: {error.message}") from None
    for table in tables:
        if table.casefold() not in by_name:
            raise InvalidEntityFrame(
                f"The SQL of the entity frame reads {table!r}, which is no source."
                f"{suggest(table, repo.sources)}"
            )
    return tuple(by_name[table.casefold()] for table in tables)


def open_frame(
    entity_df: object, *, time_column: str, repo: TypedRepo, files: Files, engine: Engine
) -> EntityFrame:
    """The frame of any accepted form.

    Raises `InvalidEntityFrame` for other things, an unreadable file, invalid SQL, a column name
    that stands twice, and a pandas column of mixed values.
    """
    import pyarrow as pa

    match entity_df:
        case EntityFrame():
            return entity_df
        case pa.Table():
            return _checked(_of_table(entity_df))
        case pa.RecordBatch():
            return _checked(_of_table(pa.Table.from_batches([entity_df])))
        case pa.RecordBatchReader():
            return _checked(_of_reader(entity_df))
        case str() if is_query(entity_df):
            return _checked(_of_query(entity_df, repo, files, engine))
        case str() | Path():
            return _checked(_of_parquet(Path(entity_df)))
    package = type(entity_df).__module__.partition(".")[0]
    if package == "pandas" and hasattr(entity_df, "columns"):
        return _of_table(_table_of_pandas(entity_df, time_column))
    if package == "polars" and hasattr(entity_df, "collect"):
        entity_df = entity_df.collect()
    if package == "polars" and hasattr(entity_df, "to_arrow"):
        return _of_table(entity_df.to_arrow())
    raise InvalidEntityFrame(f"entity_df is {_ACCEPTED}, not {type(entity_df).__name__}")


def _checked(frame: EntityFrame) -> EntityFrame:
    _check_names(frame.schema.names)
    return frame


def _check_names(names: Iterable[object]) -> None:
    twice = [repr(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidEntityFrame(f"The entity frame has more than one column {', '.join(twice)}.")


# --- in memory ------------------------------------------------------------------------------------


def _of_table(table: pa.Table) -> EntityFrame:
    @contextmanager
    def opened() -> Iterator[Rows]:
        yield Rows(table.num_rows, lambda: iter(table.to_batches(max_chunksize=BATCH_ROWS)))

    return EntityFrame(table.schema, table.num_rows, opened)


def _table_of_pandas(frame: Any, time_column: str) -> pa.Table:
    """The columns of a DataFrame (not its index). Integers stay exact beside missing values."""
    import pyarrow as pa

    names = [str(name) for name in frame.columns]
    _check_names(names)
    arrays = []
    for position, name in enumerate(names):
        series = frame.iloc[:, position]
        try:
            arrays.append(pa.Array.from_pandas(series))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            if name == time_column:
                arrays.append(_instants(name, series))
                continue
            raise InvalidEntityFrame(
                f"Column {name!r} has no single type that Arrow knows ({error}). "
                "Convert it or leave it out."
            ) from error
    arrays = [a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in arrays]
    return pa.table(arrays, names=names)


def _instants(name: str, values: Iterable[object]) -> pa.Array:
    """Times of mixed kinds (texts among timestamps) as instants."""
    import pyarrow as pa

    found = []
    for row, value in enumerate(values):
        try:
            found.append(instant_us(value))
        except InvalidRequest as error:
            raise InvalidEntityFrame(f"{name!r} in row {row}: {error.message}") from None
    return pa.array(found, pa.timestamp("us", tz="UTC"))


# --- on disk --------------------------------------------------------------------------------------


def _of_parquet(path: Path) -> EntityFrame:
    import pyarrow as pa
    from pyarrow import parquet

    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        metadata = [parquet.read_metadata(each) for each in paths]
        schemas = [parquet.read_schema(each) for each in paths]
    except FileNotFoundError:
        raise InvalidEntityFrame(
            f"There is no file {path} (text that begins with SELECT or WITH is taken as SQL)"
        ) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidEntityFrame(f"{path} is no readable Parquet file: {error}") from error
    if not paths:
        raise InvalidEntityFrame(f"The folder {path} holds no Parquet files")
    for each, schema in zip(paths, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise InvalidEntityFrame(f"{each} has other columns or types than {paths[0]}")

    def batches() -> Iterator[pa.RecordBatch]:
        for each in paths:
            try:
                with parquet.ParquetFile(each) as file:
                    yield from file.iter_batches(batch_size=BATCH_ROWS)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise InvalidEntityFrame(f"{each} can't be read any more: {error}") from error

    count = sum(each.num_rows for each in metadata)

    @contextmanager
    def opened() -> Iterator[Rows]:
        yield Rows(count, batches)

    return EntityFrame(schemas[0].remove_metadata(), count, opened)


class _Spool:
    """Batches put down in a temporary Arrow file, which is deleted with this object. Raises
    `FileNotWritten`."""

    def __init__(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:

        self._file = tempfile.NamedTemporaryFile(prefix="entity-frame-", suffix=".arrow")  # noqa: SIM115 - lives as long as this object
        self.rows = 0
        try:
            self._write(schema, batches)
        except OSError as error:
            self.close()
            raise FileNotWritten(
                f"The entity frame can't be put down in {tempfile.gettempdir()}: "
                f"{error.strerror or error}. Free some disk space there, or set TMPDIR to a folder "
                "with more"
            ) from error
        except BaseException:
            self.close()
            raise

    def _write(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        import pyarrow as pa

        # The stream format, because dictionaries may change from batch to batch.
        with pa.OSFile(self._file.name, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    writer.write_batch(batch.slice(start, BATCH_ROWS))
                self.rows += batch.num_rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        with pa.memory_map(self._file.name) as source:
            yield from pa.ipc.open_stream(source)

    def close(self) -> None:
        self._file.close()


def _of_reader(reader: pa.RecordBatchReader) -> EntityFrame:
    """A reader can be read once; its rows stay on disk as long as the frame."""
    kept: list[_Spool] = []

    @contextmanager
    def opened() -> Iterator[Rows]:
        if not kept:
            kept.append(_Spool(reader.schema, reader))
        yield Rows(kept[0].rows, kept[0].batches)

    return EntityFrame(reader.schema, None, opened)


def _of_query(query: str, repo: TypedRepo, files: Files, engine: Engine) -> EntityFrame:
    """The query runs anew whenever the frame is opened."""
    import pyarrow as pa

    from featurestore.dtypes import to_arrow

    sources = {name: repo.sources[name] for name in query_sources(query, repo)}
    schemas = {name: {c.name: c.dtype for c in s.columns} for name, s in sources.items()}
    try:
        dtypes = engine.schema(query, schemas)
    except FeatureStoreError as error:
        raise InvalidEntityFrame(f"The SQL of the entity frame: {error.message}") from error
    inputs = {name: source_rel(source, repo, files) for name, source in sources.items()}
    rel = Sql(query=query, inputs=inputs, dtypes=dtypes)
    schema = pa.schema([(name, to_arrow(dtype)) for name, dtype in dtypes.items()])
    return _of_stream(schema, lambda: engine.stream(rel))


def frame_of_changes(changes: Changes, *, time_column: str, engine: Engine) -> EntityFrame:
    """Keys and instants that were found instead of given; they are found anew whenever the frame
    is opened.

    Raises `InvalidRequest` where a key has the name of the time column; opening the frame,
    `LimitExceeded` for more than `CHANGES_MAX` rows.
    """
    import pyarrow as pa

    from featurestore.dtypes import to_arrow

    if time_column in changes.keys:
        raise InvalidRequest(
            f"{time_column!r} is a join key; name the column of instants with event_timestamp=…"
        )
    keys = [pa.field(name, to_arrow(dtype)) for name, dtype in changes.keys.items()]
    schema = pa.schema([*keys, pa.field(time_column, pa.timestamp("us", tz="UTC"))])

    def found() -> Iterator[pa.RecordBatch]:
        count = 0
        for batch in engine.stream(changes.rel):
            count += batch.num_rows
            if changes.rows_max is not None and count > changes.rows_max:
                raise LimitExceeded(
                    "CHANGES_MAX",
                    asked=count,
                    allowed=changes.rows_max,
                    hint="Ask for a shorter span or for fewer windows at a time, or give an "
                    "entity_df with the times that matter",
                )
            *columns, at = batch.columns
            yield pa.RecordBatch.from_arrays([*columns, at.cast(schema.types[-1])], schema=schema)

    return _of_stream(schema, found)


def _of_stream(schema: pa.Schema, run: Callable[[], Iterable[pa.RecordBatch]]) -> EntityFrame:
    @contextmanager
    def opened() -> Iterator[Rows]:
        spool = _Spool(schema, run())
        try:
            yield Rows(spool.rows, spool.batches)
        finally:
            spool.close()

    return EntityFrame(schema, None, opened)

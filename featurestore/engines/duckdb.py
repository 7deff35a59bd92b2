"""The embedded engine: relations as DuckDB queries over Parquet, CSV and Arrow, in one process.

One in-memory database with a memory limit, which spills into a folder of its own; each stream has a
cursor of its own, so that streams may be read side by side and by several threads. This file and
its siblings `duckdb_*` work with DuckDB 1.5 and 2.0 alike.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from featurestore.buckets import S3Options, duckdb_filesystem, is_s3
from featurestore.compiler.passes import run_passes
from featurestore.compiler.rel import Input, Rel, Scan, walk
from featurestore.dtypes import DType, to_arrow
from featurestore.engines.base import BATCH_ROWS, Capabilities, Engine
from featurestore.engines.duckdb_errors import invalid_query, translated
from featurestore.engines.duckdb_files import check_headers, describe
from featurestore.engines.duckdb_inputs import create_inputs
from featurestore.engines.duckdb_sql import to_sql
from featurestore.engines.duckdb_values import from_duckdb
from featurestore.engines.duckdb_windows import Workbench
from featurestore.engines.sql import quote, sql_type
from featurestore.errors import InternalError, InvalidExpression, InvalidSettings

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from featurestore.config import OfflineSettings

_VECTOR_ROWS = 2_048
"""DuckDB's own batches; smaller ones are cut from them."""
_SPILL_PREFIX = "duckdb-"


class DuckDBEngine(Engine):
    """See `Engine`. Open with `DuckDBEngine.open(settings, temp_directory=…)`.

    A stream's query stops when its reader is dropped.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(spills_to_disk=True, streams=True)

    def __init__(self, connection: duckdb.DuckDBPyConnection, spill: Path, s3: S3Options) -> None:
        self._connection = connection
        self._spill = spill
        self._s3 = s3
        self._lock = threading.Lock()
        self._knows_s3 = False

    @classmethod
    def open(cls, settings: OfflineSettings, *, temp_directory: str) -> Self:
        """See `Engine`. Raises `InvalidSettings` for a memory limit that DuckDB does not read."""
        import duckdb

        spill = _spill_folder(Path(temp_directory))
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": settings.memory_limit,
            "temp_directory": str(spill),
            # Order is kept where it means something, by ORDER BY.
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            # It knows files by a time in seconds: one that was rewritten would be read as before.
            "enable_external_file_cache": "false",
        }
        if settings.threads:
            config["threads"] = str(settings.threads)
        try:
            connection = duckdb.connect(":memory:", config=config)
        except duckdb.Error as error:
            raise InvalidSettings(
                f"DuckDB refuses [offline] memory_limit = {settings.memory_limit!r}, threads = "
                f"{settings.threads}: {error}"
            ) from error
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        # It takes a left side that it believes to be short for one, and compares all pairs.
        connection.execute("SET GLOBAL asof_loop_join_threshold = 0")
        # Reading ahead holds a buffer per column and thread (270 of 490 MB for three views), and
        # brings nothing where the system's own cache is at hand. On S3 it is switched on again.
        connection.execute("SET GLOBAL disable_parquet_prefetching = true")
        # A query must not see the variables of the Python code around it as tables.
        connection.execute("SET GLOBAL python_enable_replacements = false")
        s3 = S3Options(endpoint=settings.s3_endpoint, region=settings.s3_region)
        return cls(connection, spill, s3)

    def schema(self, query: str, inputs: Mapping[str, Mapping[str, DType]]) -> dict[str, DType]:
        """See `Engine`."""
        import duckdb

        given = []
        for name, columns in inputs.items():
            nulls = (f"CAST(NULL AS {sql_type(d)}) AS {quote(c)}" for c, d in columns.items())
            given.append(f"{quote(name)} AS (SELECT {', '.join(nulls)} WHERE false)")
        ctes = f"WITH {', '.join(given)}\n" if given else ""
        text = f"{ctes}SELECT * FROM (\n{query.strip().rstrip(';')}\n)"
        with self._connection.cursor() as cursor:
            try:
                described = cursor.sql(f"DESCRIBE {text}").fetchall()
            except duckdb.Error as error:
                raise invalid_query(error) from error
        found = {}
        for name, kind, *_ in described:
            try:
                found[name] = from_duckdb(kind)
            except ValueError:
                raise InvalidExpression(
                    f"column {name!r} of the query has DuckDB type {kind}, which no feature can "
                    f"have; CAST it to one that can"
                ) from None
        return found

    def stream(
        self,
        rel: Rel,
        *,
        inputs: Mapping[str, pa.Table | pa.RecordBatchReader] | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> pa.RecordBatchReader:
        """See `Engine`. The inputs are taken in before this returns."""
        import pyarrow as pa

        fields = [(name, to_arrow(dtype)) for name, dtype in rel.schema.items()]
        schema = pa.schema(fields)
        rel = run_passes(rel)
        self._reach(rel)
        cursor = self._connection.cursor()
        with _closed_on_error(cursor), translated(rel):
            create_inputs(cursor, _inputs(rel), inputs or {})
            check_headers(cursor, rel)
            text = _text(cursor, rel, Workbench(cursor))
            reader = cursor.sql(text).to_arrow_reader(max(batch_rows, _VECTOR_ROWS))
        batches = _batches(cursor, reader, rel, schema, batch_rows)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def explain(self, rel: Rel, *, inputs: Mapping[str, pa.Table] | None = None) -> str:
        """See `Engine`. An input that is not given counts as empty."""
        rel = run_passes(rel)
        self._reach(rel)
        with self._connection.cursor() as cursor, translated(rel):
            nodes = _inputs(rel)
            empty = {name: _empty(node) for name, node in nodes.items()}
            create_inputs(cursor, nodes, {**empty, **(inputs or {})})
            bench = Workbench(cursor)
            text = _text(cursor, rel, bench)
            plan = cursor.sql(f"EXPLAIN {text}").fetchall()
        return "\n\n".join([*bench.texts, text, *(row[-1] for row in plan)])

    def _reach(self, rel: Rel) -> None:
        """Give DuckDB a way to S3 when a file is there."""
        scans = (node for node in walk(rel) if isinstance(node, Scan))
        if not any(is_s3(path) for scan in scans for path in scan.files.every_path):
            return
        with self._lock:
            if not self._knows_s3:
                self._connection.register_filesystem(duckdb_filesystem(self._s3))
                self._connection.execute("SET GLOBAL disable_parquet_prefetching = false")
                self._knows_s3 = True

    def close(self) -> None:
        """See `Engine`."""
        self._connection.close()
        shutil.rmtree(self._spill, ignore_errors=True)


def _spill_folder(parent: Path) -> Path:
    """A folder of this engine alone; DuckDB makes it when it spills. Folders that processes left
    behind when they were killed are removed."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSettings(
            f"The folder {parent} for what a query spills can't be made ({error.strerror}); "
            "correct [offline] path or temp_directory"
        ) from error
    for left in parent.glob(f"{_SPILL_PREFIX}*-*"):
        owner = left.name.removeprefix(_SPILL_PREFIX).partition("-")[0]
        if owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return parent / f"{_SPILL_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _closed_on_error(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        cursor.close()
        raise


def _batches(
    cursor: duckdb.DuckDBPyConnection,
    reader: pa.RecordBatchReader,
    rel: Rel,
    schema: pa.Schema,
    batch_rows: int,
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    last = -1
    try:
        while True:
            with translated(rel):
                batch = next(reader, None)
            if batch is None:
                return
            found = batch.columns
            if len(found) > len(schema):
                last = _in_order(found.pop(), after=last)
            columns = [
                column.cast(wanted) for column, wanted in zip(found, schema.types, strict=True)
            ]
            whole = pa.RecordBatch.from_arrays(columns, schema=schema)
            for start in range(0, whole.num_rows, batch_rows):
                yield whole.slice(start, batch_rows)
    finally:
        del reader
        cursor.close()


def _in_order(positions: pa.Array, *, after: int) -> int:
    """The last of `positions`. The query computes on rows that a sort has put in order, and that
    they stay so is DuckDB's way, not SQL's promise."""
    numbers = positions.to_numpy()
    if len(numbers) == 0:
        return after
    if numbers[0] <= after or (numbers[1:] <= numbers[:-1]).any():
        raise InternalError("rows came out of their order")
    return int(numbers[-1])


def _text(cursor: duckdb.DuckDBPyConnection, rel: Rel, bench: Workbench) -> str:
    """The query for `rel`, whose inputs are tables of `cursor` already."""

    def ask(query: str) -> Sequence[int | None]:
        (row,) = cursor.execute(query).fetchall()
        return row

    return to_sql(rel, lambda scan: describe(cursor, scan), ask, bench)


def _inputs(rel: Rel) -> dict[str, Input]:
    return {node.name: node for node in walk(rel) if isinstance(node, Input)}


def _empty(node: Input) -> pa.Table:
    import pyarrow as pa

    return pa.schema([(name, to_arrow(d)) for name, d in node.dtypes.items()]).empty_table()

"""What DuckDB raises, as our errors.

A query's first batches fail with DuckDB's exceptions, later ones with Arrow's, which carry nothing
but DuckDB's words; so the words, which begin with the kind of error, decide in both cases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from featurestore.buckets import storage_error
from featurestore.compiler.rel import Rel, Scan, Sql, walk
from featurestore.engines.duckdb_values import LOSSY
from featurestore.errors import (
    FeatureStoreError,
    InternalError,
    InvalidExpression,
    InvalidValue,
    MemoryExceeded,
    SourceMissing,
    SourceSchemaChanged,
)

SEARCH_BYTES_MAX = 4 * 1024**3
"""Files that are read through to find the damaged one, for its name in a message."""
_UNREADABLE = ("IO", "HTTP", "Permission", "Serialization", "Invalid")
_DAMAGED = ("magic bytes", "parquet", "snappy", "zstd", "gzip", "thrift", "corrupt", "truncated")
_SPILL = ("temp_directory", "duckdb_temp_", "No space left")


@contextlib.contextmanager
def translated(rel: Rel) -> Iterator[None]:
    """Raise our errors for what DuckDB raises while it works on `rel`."""
    import duckdb
    import pyarrow as pa

    try:
        yield
    except MemoryError as error:
        raise MemoryExceeded(
            f"The machine has too little memory for this query: {error}. Ask for "
            "fewer rows or keys at a time"
        ) from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _translate(rel, str(error)) from error


def invalid_query(error: Exception) -> InvalidExpression:
    """The error for an SQL source's query that DuckDB does not take."""
    words = str(error).split("\n\nLINE ")[0].partition(" Error: ")[2] or str(error)
    return InvalidExpression(f"the query is not valid: {words.strip()}")


def unreadable(scans: Sequence[Scan], words: str) -> FeatureStoreError:
    """The error for files that are gone or damaged, or on an S3 that says no."""
    if "AWS Error" in words:
        return storage_error(_sources(scans), words)
    named = [scan for scan in scans if any(path in words for path in scan.files.every_path)]
    found = None if named else _first_damaged(scans)
    if found is not None:
        named, words = [found[0]], f"{found[1]}: {words}"
    names = ", ".join(sorted({repr(scan.source) for scan in named or scans}))
    return SourceMissing(
        f"Source {names}: a file is missing or cannot be read. {_first_line(words)}. "
        "Bring it back, or correct the source's path."
    )


def _first_damaged(scans: Sequence[Scan]) -> tuple[Scan, str] | None:
    """Which Parquet file it is, where DuckDB does not say: each is read through, up to
    `SEARCH_BYTES_MAX` in all."""
    import pyarrow as pa
    from pyarrow import parquet

    left = SEARCH_BYTES_MAX
    for scan in scans:
        for path in scan.files.every_path if scan.files.format != "csv" else ():
            if "://" in path:
                continue
            try:
                left -= Path(path).stat().st_size
                if left < 0:
                    return None
                with parquet.ParquetFile(path) as file:
                    for _ in file.iter_batches(columns=sorted(set(scan.columns.values()))):
                        pass
            except (pa.ArrowException, OSError, UnicodeDecodeError):
                return scan, path
    return None


def _translate(rel: Rel, words: str) -> FeatureStoreError:
    if "AWS Error" in words:
        return storage_error(_sources([n for n in walk(rel) if isinstance(n, Scan)]), words)
    kind, _, rest = words.partition(" Error: ")
    text = _first_line(rest or words)
    scans = [node for node in walk(rel) if isinstance(node, Scan)]
    if LOSSY in rest:
        return InvalidValue(_capital(_first_line(rest.partition(LOSSY)[2])))
    if kind == "Out of Memory" or any(mark in words for mark in _SPILL):
        return MemoryExceeded(
            f"The query needs more than offline.memory_limit and what the temporary folder can "
            f"take: {text}. Raise offline.memory_limit or free space on that disk."
        )
    if "CSV Error" in words:
        return SourceSchemaChanged(_csv(scans, words))
    if kind in ("Conversion", "Out of Range"):
        return InvalidValue(f"{text}{_among(scans)}")
    # Words without a kind come from the libraries that DuckDB reads files with.
    of_reader = bool(scans) and not rest
    if kind in _UNREADABLE or of_reader or any(mark in words.lower() for mark in _DAMAGED):
        return unreadable(scans, rest or words)
    if kind == "Binder" and any(isinstance(node, Sql) for node in walk(rel)):
        return SourceSchemaChanged(
            f"A query no longer fits the sources it reads: {text}. Apply the definitions again."
        )
    return InternalError(f"DuckDB failed unexpectedly: {words}")


def _sources(scans: Sequence[Scan]) -> str:
    names = sorted({scan.source for scan in scans})
    return f"Source {', '.join(map(repr, names))}"


def _csv(scans: Sequence[Scan], words: str) -> str:
    lines = [line for line in words.splitlines() if line.strip()]
    shown = "; ".join(lines[:3])
    return f"A CSV file does not have the shape it had{_among(scans)}: {shown}"


def _among(scans: Sequence[Scan]) -> str:
    names = sorted({scan.source for scan in scans})
    return f" (while reading {', '.join(names)})" if names else ""


def _first_line(words: str) -> str:
    lines = words.strip().splitlines() or [words]
    # A traceback of Python code that DuckDB called says what happened at its end.
    return lines[-1 if lines[0].startswith("Traceback") else 0].rstrip(".")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

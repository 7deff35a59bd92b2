"""Commands that push rows, and that show those which could not be taken."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.online import client_of
from featurestore.cli.options import (
    Insecure,
    Json,
    Repo,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    TokenFile,
    open_store,
)
from featurestore.cli.output import note, say, show_json, show_rows
from featurestore.errors import InvalidRequest

if TYPE_CHECKING:
    from featurestore.wire.pushes import PushResult

ROWS_PER_PUSH = 10_000
"""Rows of a file that are pushed at a time."""


def push(
    source: Annotated[str, typer.Argument(help="The source that the rows are of.")],
    file: Annotated[
        str,
        typer.Argument(
            help='A Parquet file, or JSON: one object per line, [{"column": value}, …], or '
            '{"column": [values]}; - is stdin.'
        ),
    ],
    *,
    repo: Repo = Path(),
    as_json: Json = False,
    target: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Push to this server over gRPC."),
    ] = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
) -> None:
    """Push rows of a source: readable online when this returns, and offline.

    Rows are pushed in parts of 10,000; a part that is refused leaves the ones before it pushed.
    """
    results: list[PushResult] = []
    if target is None:
        with open_store(repo) as store:
            for rows in _parts(file):
                results.append(store.push(source, rows, from_json=True))  # noqa: PERF401
    else:
        pair = (tls_cert, tls_key)
        with client_of(target, tls, tls_ca, pair, token_file, insecure=insecure) as client:
            for rows in _parts(file):
                results.append(client.push(source, rows))  # noqa: PERF401
    taken, dead = sum(r.rows for r in results), sum(r.dead_count for r in results)
    waiting = sorted({view for result in results for view in result.waiting_views})
    if as_json:
        show_json({"source": source, "rows": taken, "dead": dead, "waiting_views": waiting})
    else:
        say(f"{taken:,} rows pushed to {source}")
        if dead:
            note(f"{dead:,} could not be taken; see: featurestore dead-letters {source}")
        if waiting:
            note(f"{', '.join(waiting)} will have them after: featurestore materialize")


def ingest(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Sources whose streams are read; all by default.")
    ] = None,
    *,
    repo: Repo = Path(),
    as_json: Json = False,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no message is left.")
    ] = False,
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics here.")
    ] = "",
) -> None:
    """Take the messages of streams into their sources, online and offline.

    Runs until SIGTERM or SIGINT; several may run side by side.
    """
    from featurestore.serving.collector import spare_the_collector
    from featurestore.serving.ingest_metrics import IngestMetrics
    from featurestore.serving.logs import configure

    stop = threading.Event()
    with open_store(repo) as store:
        configure(store.settings.serving.log_format)
        counted = IngestMetrics()
        if metrics:
            counted.serve(metrics)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        spare_the_collector()
        found = store.ingest(sources or None, until_empty=until_empty, stop=stop, metrics=counted)
    if as_json:
        show_json([asdict(one) for one in found])
    else:
        show_rows([asdict(one) for one in found], title="ingested")


def dead_letters(
    source: Annotated[str, typer.Argument(help="The source.")],
    *,
    repo: Repo = Path(),
    as_json: Json = False,
    newest: Annotated[
        int | None, typer.Option("--newest", min=1, help="Only the newest so many.")
    ] = None,
) -> None:
    """Show rows that were pushed and could not be taken, with the reason."""
    with open_store(repo) as store:
        letters = store.dead_letters(source)
    letters = letters if newest is None else letters[-newest:]
    if as_json:
        show_json(letters)
    elif letters:
        show_rows(letters, title=f"dead letters of {source}")
    else:
        say(f"{source} has no dead letters")


def _parts(file: str) -> Iterator[Any]:
    """The rows of a file, so many at a time."""
    if file != "-" and file.lower().endswith(".parquet"):
        yield from _parquet(file)
        return
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} can't be read: {error}") from error
    rows = _rows(text, file)
    if isinstance(rows, dict):
        yield rows
        return
    left = iter(rows)
    while part := list(islice(left, ROWS_PER_PUSH)):
        yield part


def _parquet(file: str) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            yield from opened.iter_batches(batch_size=ROWS_PER_PUSH)
    except (OSError, pa.ArrowException) as error:
        raise InvalidRequest(f"{file} can't be read: {error}") from error


def _rows(text: str, file: str) -> list[Any] | dict[str, Any]:
    """JSON, or an object on each line."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if isinstance(found, list):
        return found
    if isinstance(found, dict):
        columns = all(isinstance(column, list) for column in found.values())
        return found if columns else [found]
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InvalidRequest(f"{file}, line {number}: not JSON: {error}") from error
    return rows

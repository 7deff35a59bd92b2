"""Commands that move rows: materialize, get-historical, verify, sweep."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.options import (
    AsOf,
    AsOfRows,
    EventTimestamp,
    Features,
    FullFeatureNames,
    IncludeStatus,
    Json,
    Repo,
    ask,
    complete_service,
    complete_view,
    open_store,
)
from featurestore.cli.output import (
    counting,
    note,
    say,
    show_json,
    show_rows,
    show_table,
    working,
)
from featurestore.errors import InvalidEntityFrame
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.jobs.training import RetrievalJob
    from featurestore.records import LedgerRow

HEAD_ROWS = 10
"""Rows that `get-historical` prints where it writes no file."""


def materialize(
    views: Annotated[
        list[str] | None,
        typer.Argument(help="Views to write; all by default.", autocompletion=complete_view),
    ] = None,
    *,
    repo: Repo = Path(),
    as_json: Json = False,
    start: Annotated[
        str | None, typer.Option(help="Event times from here (2013-07-01T00:00:00Z); backfills.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Up to here; now by default.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write anew beside the old rows, then swap.")
    ] = False,
) -> None:
    """Bring the online store up to date.

    Writes, for each view, what became known since the last time; with --start and --end the rows
    of an interval of event times.
    """
    with open_store(repo) as store:
        total = len(views or store.repo.views)
        with counting("rows written", total=total, quiet=as_json) as report:
            runs = store.materialize(
                views or None, start=start, end=end, replace=replace, progress=report
            )
    if as_json:
        show_json([_run(run) for run in runs])
    else:
        show_rows([_run_summary(run) for run in runs], title="materialized")


def _run(run: LedgerRow) -> dict[str, Any]:
    instants = ("start_us", "end_us", "watermark_us", "started_at_us", "finished_at_us")
    names = [name for name in LEDGER if name not in instants]
    shown: dict[str, Any] = {name: getattr(run, name) for name in names}
    for name in instants:
        value = getattr(run, name)
        shown[name.removesuffix("_us")] = None if value is None else format_instant(value)
    return shown


LEDGER = (
    "run_id",
    "view",
    "view_version",
    "table",
    "generation",
    "mode",
    "start_us",
    "end_us",
    "watermark_us",
    "rows_read",
    "rows_written",
    "rows_skipped",
    "values_undefined",
    "started_at_us",
    "finished_at_us",
)


def _run_summary(run: LedgerRow) -> dict[str, Any]:
    return {
        "view": run.view,
        "mode": run.mode,
        "from": "the beginning" if run.start_us is None else _second(run.start_us),
        "until": _second(run.end_us),
        "rows read": run.rows_read,
        "written": run.rows_written,
        "skipped": run.rows_skipped,
        "undefined": run.values_undefined,
        "took": f"{(run.finished_at_us - run.started_at_us) / 1e6:.1f} s",
    }


def _second(instant_us: int) -> str:
    return format_instant(instant_us // 1_000_000 * 1_000_000)


def get_historical(
    *,
    entity_df: Annotated[
        str | None,
        typer.Option(
            "--entity-df",
            "-e",
            help="Keys and request times: a Parquet or CSV file, or SQL over the sources.",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Instead of --entity-df: every change from here (2013-07-01T00:00:00Z)."),
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="Every change before this instant; until now by default.")
    ] = None,
    features: Features,
    repo: Repo = Path(),
    as_json: Json = False,
    as_of: AsOfRows = AsOf.KNOWN,
    known_until: Annotated[
        str | None, typer.Option(help="See nothing that became known after this instant.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all rows to this Parquet file.")
    ] = None,
    event_timestamp: EventTimestamp = "event_timestamp",
    full_feature_names: FullFeatureNames = False,
    include_status: IncludeStatus = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows to print.")] = HEAD_ROWS,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the query instead of running it.")
    ] = False,
) -> None:
    """Build a training set without leaks.

    Each row of the entity frame gets the features that were known at its time. With --start and
    --end instead: a row for each key and each instant at which its features changed.
    """
    with open_store(repo) as store:
        retrieve = partial(
            store.get_historical_features,
            None if entity_df is None else read_entities(entity_df),
            start=start,
            end=end,
            as_of=as_of.value,
            known_until=known_until,
            full_feature_names=full_feature_names,
            include_status=include_status,
            event_timestamp=event_timestamp,
        )
        job = ask(retrieve, features)
        if explain:
            say(job.explain())
        elif output is not None:
            with working(f"writing {output}"):
                job.to_parquet(output)
            _written(output, as_json=as_json)
        else:
            _show_head(job, rows, as_json=as_json)


def read_entities(text: str) -> Any:
    """The entity frame that `text` names: a CSV file as an Arrow table; Parquet paths and SQL stay
    text. Raises `InvalidEntityFrame` for a file that is missing or malformed."""
    path = Path(text).expanduser()
    if path.suffix.lower() not in {".csv", ".parquet"} or " " in text.strip():
        return text
    if not path.is_file():
        raise InvalidEntityFrame(f"there is no file {path}")
    if path.suffix.lower() == ".parquet":
        return str(path.resolve())
    import pyarrow as pa
    from pyarrow import csv

    try:
        return csv.read_csv(path)
    except pa.ArrowInvalid as error:
        raise InvalidEntityFrame(f"{path} is not a readable CSV file: {error}") from error


def _written(output: Path, *, as_json: bool) -> None:
    from pyarrow import parquet

    metadata = parquet.read_metadata(output)
    if as_json:
        show_json(
            {
                "path": output,
                "rows": metadata.num_rows,
                "columns": parquet.read_schema(output).names,
            }
        )
    else:
        say(f"{metadata.num_rows:,} rows, {metadata.num_columns} columns → {output}")


def _show_head(job: RetrievalJob, rows: int, *, as_json: bool) -> None:
    """The first rows, read from the stream: a training set may be larger than memory."""
    with working("joining"):
        batches = job.to_batches()
        from featurestore.wire.columns import python_rows

        found = (row for batch in batches for row in python_rows(batch))
        head = list(islice(found, rows + 1))
    if as_json:
        show_json(head[:rows])
        return
    if not head:
        say("0 rows")
        return
    columns = list(head[0])
    show_table(columns, [[row[name] for name in columns] for row in head[:rows]])
    if len(head) > rows:
        note(f"the first {rows:,} rows; --output FILE.parquet writes all of them")


def verify(
    service: Annotated[
        str | None,
        typer.Argument(help="A service; all views by default.", autocompletion=complete_service),
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
    samples: Annotated[int, typer.Option(min=1, help="Entities per view.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed samples other entities.")] = 0,
) -> int:
    """Compare online and offline values.

    Samples entities and asks both paths for now. Exit status 1 where any value differs.
    """
    with open_store(repo) as store, working("comparing"):
        report = store.verify(service, samples=samples, seed=seed)
    if as_json:
        show_json(report.to_dict())
        return 0 if report.values and report.equal == report.values else 1
    show_rows(
        [
            {
                "view": view.view,
                "entities": view.entities,
                "values": view.values,
                "equal": view.equal,
                "watermark": view.watermark or "—",
                "lag": view.lag,
                "note": view.note,
            }
            for view in report.views
        ],
        title=f"online and offline at {report.at}",
    )
    for difference in report.to_dict()["differences"]:
        say("differs: " + ", ".join(f"{key}={value}" for key, value in difference.items()))
    if not report.values:
        note("error: nothing was compared. Run: featurestore materialize")
        return 1
    say(f"{report.equal:,} of {report.values:,} values agree ({report.rate:.4%})")
    return 0 if report.equal == report.values else 1


def optimize(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Sources to copy; all by default.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Sort copies of sources by key.

    Training sets about few keys are read from them, faster and with the same answer.
    """
    with open_store(repo) as store, working("sorting"):
        done = store.optimize(sources or None)
    if as_json:
        show_json([asdict(one) for one in done])
    elif not done:
        say("no view reads a source by a key; nothing to sort")
    else:
        show_rows(
            [
                {
                    "source": one.source,
                    "key": one.key,
                    "rows": one.rows,
                    "files": one.files,
                    "copy": "written" if one.written else "was current",
                }
                for one in done
            ],
            title="sorted copies",
        )


def sweep(repo: Repo = Path(), as_json: Json = False) -> None:
    """Free online rows that nothing serves.

    Those that expired, and those of versions that no service uses any more.
    """
    with open_store(repo) as store, working("sweeping"):
        freed = store.sweep()
    if as_json:
        show_json({"rows_freed": freed})
    else:
        say(f"{freed:,} rows freed")

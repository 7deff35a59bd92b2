"""What is done on a disk that has no room for it: importable by a fresh process.

Each job makes a repository's folder grow by megabytes. On a disk with room it returns what it left
behind; on one without it raises an error of ours.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kill_jobs
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.compiler.rel import Sql
from featurestore.dtypes import INT64, STRING
from featurestore.errors import FeatureStoreError
from featurestore.timeline import DAY_US, SystemClock

ROWS = 40_000
VIEWS = 250


def write_many(folder: Path) -> None:
    """Prices of many items, 2 MB of them; labels do not compress."""
    at = SystemClock().now_us() - DAY_US
    table = pa.table(
        {
            "item": pa.array(range(ROWS), pa.int64()),
            "at": pa.array([at] * ROWS, kill_jobs.INSTANT),
            "cents": pa.array(range(ROWS), pa.int64()),
            "label": pa.array([f"{hash(('label', number)):x}" for number in range(ROWS)]),
        }
    )
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(table, folder / "data" / "1.parquet")


def materialize(folder: Path) -> Any:
    """Into LMDB."""
    with FeatureStore(folder) as fs:
        fs.materialize(replace=True)
        answer = fs.get_online_features("shelf", {"item": [0, ROWS - 1]})
    return answer.to_dict()["cents"]


def apply(folder: Path) -> Any:
    """Hundreds of views, into SQLite."""
    lines = [kill_jobs.DEFINITIONS.format(cents="cents")]
    lines += [
        f"v{n} = FeatureView('v{n}', entities=[item], source=prices, tags={{'n': '{n:03d}' * 800}},"
        f" features=[Feature('cents', 'cents + {n}')])"
        for n in range(VIEWS)
    ]
    (folder / "definitions.py").write_text("\n".join(lines))
    with FeatureStore(folder) as fs:
        fs.apply()
        return len(fs.registry.records(kind="view"))


def training_set(folder: Path) -> Any:
    """Into a file beside the repository's."""
    with FeatureStore(folder) as fs:
        fs.get_historical_features(_frame(), "shelf").to_parquet(folder / "training.parquet")
    return pq.read_metadata(folder / "training.parquet").num_rows


def kept_set(folder: Path) -> Any:
    """A training set that stays; where it fails nothing does."""
    with FeatureStore(folder) as fs:
        try:
            return fs.create_training_set("kept", _frame(), "shelf").rows
        except FeatureStoreError:
            files = (folder / ".featurestore/offline/training_sets").rglob("*.parquet")
            assert [path.name for path in files if path.name != "contents.parquet"] == []
            assert fs.registry.aliases("training_set/") == {}
            raise


def spool(folder: Path) -> Any:
    """An entity frame that can be read only once, put down in the folder for temporary files."""
    with FeatureStore(folder) as fs:
        frame = _frame().to_reader()
        return fs.get_historical_features(frame, "shelf").to_arrow().num_rows


def spill(folder: Path) -> Any:
    """A sort that needs more memory than it may take."""
    overrides = {"offline.memory_limit": "64MB", "offline.threads": 1}
    query = "SELECT i, hash(i)::VARCHAR AS text FROM range(1_500_000) t(i) ORDER BY hash(i)"
    rel = Sql(query=query, inputs={}, dtypes={"i": INT64, "text": STRING})
    with FeatureStore(folder, overrides=overrides) as fs:
        return sum(batch.num_rows for batch in fs.engine.stream(rel))


def _frame() -> pa.Table:
    count = 3 * ROWS
    at = pa.array([SystemClock().now_us()] * count, kill_jobs.INSTANT)
    keys = pa.array([number * 7_919 % ROWS for number in range(count)], pa.int64())
    notes = pa.array([f"{hash(('note', number)):x}" for number in range(count)])
    return pa.table({"item": keys, "event_timestamp": at, "note": notes})


def with_small_files(job: Callable[[Path], Any], folder: Path, bytes_max: int, pipe: Any) -> None:
    """Run the job in a process that may write no file beyond a size, as on a disk that is full;
    send the name of the error and its text."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, resource.RLIM_INFINITY))
    try:
        outcome: tuple[str, Any] = ("", job(folder))
    except FeatureStoreError as error:
        outcome = (type(error).__name__, str(error))
    except BaseException as error:
        outcome = ("not one of ours", repr(error))
        raise
    finally:
        pipe.send(outcome)

"""Which files of ours training sets have read: those stay when they count no more.

Beside its rows each training set keeps a list of the managed files that it was built from. Whoever
removes files asks for all these lists; with a set its list goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from featurestore.errors import SourceMissing

if TYPE_CHECKING:
    from featurestore.stores.offline.folder import OfflineFolder

SETS_FOLDER = "training_sets"
"""Below the offline folder; in it one folder for each name, and in that one for each build."""
PINS = "pins.parquet"


def write_pins(offline: OfflineFolder, location: str, urls: Iterable[str]) -> str | None:
    """Keep those of these files that are ours for the build at `location`; the list's name, or None
    where none are. Raises `FileNotWritten`, and what S3 does."""
    import pyarrow as pa

    base = f"{offline.base}/"
    names = sorted(url.removeprefix(base) for url in urls if url.startswith(base))
    if not names:
        return None
    schema = pa.schema([("name", pa.string())])
    batch = pa.RecordBatch.from_arrays([pa.array(names, pa.string())], schema=schema)
    offline.write(f"{location}/{PINS}", schema, [batch])
    return f"{location}/{PINS}"


def pinned_names(offline: OfflineFolder) -> frozenset[str]:
    """The files that some training set was built from, by their names below the offline folder.
    Raises what S3 does."""
    found: set[str] = set()
    for kept in offline.list(SETS_FOLDER, ending=f"/{PINS}"):
        try:
            found.update(offline.read(kept.name)["name"].to_pylist())
        except (FileNotFoundError, SourceMissing):
            continue  # the set has gone since
    return frozenset(found)

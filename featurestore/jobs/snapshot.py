"""Whether the files that a job was made for are still the ones that it has read.

A file list is resolved when a job is made, and read when it runs. Files that appear meanwhile are
not of the list; files that were rewritten in place are reported, never silently used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from featurestore.buckets import REMOTE_THREADS, S3Options, bucket_path, etag_of, is_s3, translated
from featurestore.compiler.rel import DataFiles
from featurestore.errors import SnapshotMissing
from featurestore.stores.offline.contents import State


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of each file, by source and path."""

    states: Mapping[str, Mapping[str, State | None]]
    s3: S3Options

    @classmethod
    def of(cls, files: Mapping[str, DataFiles], s3: S3Options | None = None) -> Self:
        """As the files are now. Raises what S3 does."""
        s3 = s3 or S3Options()
        return cls({name: states_of(name, data.every_path, s3) for name, data in files.items()}, s3)

    def check(self, *, to_do: str = "Make a new job.") -> None:
        """Raises `SnapshotMissing` for the first file that is not as it was, which says `to_do`."""
        for source, states in self.states.items():
            for path, state in states_of(source, tuple(states), self.s3).items():
                if state != states[path]:
                    raise rewritten(source, path, to_do=to_do)


def rewritten(source: str, path: str, *, to_do: str = "Make a new job.") -> SnapshotMissing:
    """The error for a file that is not the one it was."""
    return SnapshotMissing(
        f"Source {source!r}: {path} was rewritten or removed after this job was "
        f"made, so its rows are not those that its pins name. {to_do}"
    )


def states_of(source: str, paths: Sequence[str], s3: S3Options) -> dict[str, State | None]:
    """What each of these files is like now (None: gone), those on S3 side by side. `source` says
    whose they are in errors. Raises what S3 does."""
    remote = [path for path in paths if is_s3(path)]
    found = {path: _state(path) for path in paths if not is_s3(path)}
    if not remote:
        return found
    client = s3.client()

    def look(path: str) -> State | None:
        with translated(f"Source {source!r}"):
            try:
                return etag_of(client, bucket_path(path))
            except FileNotFoundError:
                return None

    with ThreadPoolExecutor(REMOTE_THREADS, thread_name_prefix="s3") as threads:
        return found | dict(zip(remote, threads.map(look, remote), strict=True))


def _state(path: str) -> State | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns

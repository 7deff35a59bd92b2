"""Whether the files that a job was made for are still the ones that it has read.

A file list is resolved when a job is made, and read when it runs. Files that appear meanwhile are
not of the list; files that were rewritten in place are reported, never silently used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from featurestore.compiler.rel import DataFiles
from featurestore.errors import SnapshotMissing

State = tuple[int, int]
"""Size in bytes and modification time in ns."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of each file, by source and path."""

    states: Mapping[str, Mapping[str, State | None]]

    @classmethod
    def of(cls, files: Mapping[str, DataFiles]) -> Self:
        """As the files are now."""
        return cls(
            {name: {path: _state(path) for path in data.paths} for name, data in files.items()}
        )

    def check(self) -> None:
        """Raises `SnapshotMissing` for the first file that is not as it was."""
        for source, states in self.states.items():
            for path, state in states.items():
                if _state(path) != state:
                    raise SnapshotMissing(
                        f"Source {source!r}: {path} was rewritten or removed after this job was "
                        "made, so its rows are not those that its pins name. Make a new job."
                    )


def _state(path: str) -> State | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns

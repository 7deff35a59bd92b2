"""`gc`: files of ours that nothing names: artifacts and the files of training sets.

Records are kept for ever, so a file that a record, a run or a blob names is never garbage; what is
left over comes from crashes, from runs and training sets that were given up while they were
written, and from artifacts that were put and never told of. Everything is listed first; files that
are younger than a grace period stay, for whoever wrote them may be about to say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from featurestore.errors import InvalidRequest
from featurestore.stores.offline.artifacts import ArtifactStore
from featurestore.stores.offline.pinned import SETS_FOLDER
from featurestore.timeline import DAY_US, HOUR_US, format_duration

if TYPE_CHECKING:
    from featurestore.stores.offline.folder import KeptFile, OfflineFolder
    from featurestore.stores.registry.base import Registry

GRACE_US = DAY_US
"""How old a file must be, by default, before it counts as garbage."""
GRACE_US_MIN = HOUR_US
BUILD_DEPTH = 3
"""`training_sets/<name>/<build>/part-00000.parquet`."""
MANIFEST_BEGINS = b'{"files":['
MANIFEST_BYTES_MAX = 256 * 1024 * 1024


Kind = Literal["artifact", "training_set"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A file that nothing names: what it was (`artifact`, `training_set`), its name below the
    offline folder, its size, and since when it stands there (µs)."""

    kind: Kind
    name: str
    size: int
    written_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was found, and how many of those files were removed (none, if it was only asked).
    `kept` are the files of ours that something names, or that are too young."""

    files: tuple[Garbage, ...]
    removed: int
    kept: int

    @property
    def size(self) -> int:
        """The bytes of what was found."""
        return sum(file.size for file in self.files)


def collect(
    registry: Registry,
    offline: OfflineFolder,
    *,
    now_us: int,
    older_than_us: int = GRACE_US,
    dry_run: bool,
) -> Collected:
    """List what nothing names and is older than the grace period; remove it unless `dry_run`.

    Files are listed before the registry is read, so that what is named meanwhile is kept. Raises
    `InvalidRequest` for a grace period under `GRACE_US_MIN`, and what S3 and the registry do.
    """
    if older_than_us < GRACE_US_MIN:
        raise InvalidRequest(
            f"files younger than {format_duration(GRACE_US_MIN)} may be on their way; "
            "give a longer time"
        )
    artifacts = ArtifactStore(offline)
    listed = _list(artifacts)
    named = registry.mentions()
    named |= frozenset(_within(artifacts, [f for kind, f in listed if kind == "artifact"], named))
    files = tuple(
        Garbage(kind=kind, name=file.name, size=file.size, written_us=file.mtime_ns // 1_000)
        for kind, file in listed
        if _mark(kind, file) not in named and file.mtime_ns // 1_000 < now_us - older_than_us
    )
    removed = 0 if dry_run else _remove(artifacts, files)
    return Collected(files=files, removed=removed, kept=len(listed) - len(files))


def _list(artifacts: ArtifactStore) -> list[tuple[Kind, KeptFile]]:
    listed: list[tuple[Kind, KeptFile]] = [("artifact", file) for file in artifacts.list()]
    sets = artifacts.folder.list(SETS_FOLDER, ending="")
    # Beside the builds stands what is known of the contents of files; that is no garbage.
    return listed + [("training_set", f) for f in sets if f.name.count("/") == BUILD_DEPTH]


def _remove(artifacts: ArtifactStore, files: Iterable[Garbage]) -> int:
    """What was put again meanwhile is younger now, and stays."""
    now = {(file.name, file.mtime_ns // 1_000) for _, file in _list(artifacts)}
    old = [file for file in files if (file.name, file.written_us) in now]
    for file in old:
        artifacts.folder.remove(file.name)
    return len(old)


def _mark(kind: Kind, file: KeptFile) -> str:
    """What a file is named by: an artifact's digest, a training set's build."""
    return file.name.split("/")[-1 if kind == "artifact" else 2]


def _within(
    artifacts: ArtifactStore, files: Iterable[KeptFile], named: frozenset[str]
) -> Iterator[str]:
    """The digests in the manifests of folders that are named."""
    for file in files:
        digest = file.name.rpartition("/")[2]
        if digest in named and file.size <= MANIFEST_BYTES_MAX:
            with artifacts.open(digest) as opened:
                is_manifest = opened.read(len(MANIFEST_BEGINS)) == MANIFEST_BEGINS
            if is_manifest:
                yield from _listed(artifacts.read(digest))


def _listed(data: bytes) -> Iterator[str]:
    try:
        yield from (str(digest) for _, digest, _ in json.loads(data)["files"])
    except (ValueError, KeyError, TypeError):
        return  # a file that only begins like a manifest

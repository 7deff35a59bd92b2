"""Manifests of the push log: which data files count, what was committed when, and how far the
write-ahead log was drained. Each machine has one, `pushed/<writer>/manifest.parquet`, and is alone
in replacing it, whole.

A manifest lists the newest commits; older ones stand in files of their own, which it names.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from featurestore.errors import CorruptLog, SourceMissing
from featurestore.fingerprint import fingerprint
from featurestore.stores.offline.push_states import (
    Restore,
    Spans,
    State,
    common,
    read_restore,
    restores_among,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from featurestore.stores.offline.folder import OfflineFolder

FOLDER = "pushed"
"""Below the offline folder."""
MANIFEST = "manifest.parquet"
COMMITS_LISTED_MAX = 256
"""So many commits stand in a manifest; then they move to a file of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedFile:
    """A data file of the push log: its name below the offline folder, its rows, and its first and
    last commit. Of a file with `counted`, the rows of these commits alone count."""

    name: str
    rows: int
    first_us: int = 0
    last_us: int = 0
    counted: Spans | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one machine did to its part of the log at `at_us`: the rows that it pushed, or that a
    vacuum removed, by table."""

    at_us: int
    operation: Literal["push", "vacuum"] = "push"
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one machine has pushed: files by table, how far each file of its write-ahead log was
    drained, and files that count no more, with the instant since which.

    `commits` are the newest ones, `older` the files of those before, `last_us` the last one;
    `vacuumed` are, by table, commits whose rows are not there any more.
    """

    tables: Mapping[str, tuple[LoggedFile, ...]] = field(default_factory=dict)
    drained: Mapping[str, int] = field(default_factory=dict)
    retired: tuple[tuple[str, int], ...] = ()
    commits: tuple[Commit, ...] = ()
    older: tuple[str, ...] = ()
    last_us: int = 0
    vacuumed: Mapping[str, Spans] = field(default_factory=dict)
    host: str = ""

    @property
    def names(self) -> set[str]:
        """The files that it has a use for, besides itself."""
        found = {file.name for files in self.tables.values() for file in files}
        return found | {name for name, _ in self.retired} | set(self.older)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushLog:
    """The push log of all machines as it was read: manifests by machine, restores by table."""

    offline: OfflineFolder
    manifests: Mapping[str, Manifest]
    restored: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, offline: OfflineFolder) -> PushLog:
        """As it is now. Raises `CorruptLog`, and what S3 does."""
        names = [kept.name for kept in offline.list(FOLDER)]
        manifests = {
            name.split("/")[1]: read_manifest(offline, name)
            for name in names
            if name.endswith(f"/{MANIFEST}")
        }
        return cls(offline=offline, manifests=manifests, restored=restores_among(names))

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that hold rows, or did."""
        return tuple(sorted({table for one in self.manifests.values() for table in one.tables}))

    def restores(self, table: str) -> tuple[Restore, ...]:
        """All restores of a table, oldest first."""
        return tuple(read_restore(self.offline, name) for name in self.restored.get(table, ()))

    def now(self, table: str) -> State:
        """The present state of a table."""
        names = self.restored.get(table, ())
        return State(restore=read_restore(self.offline, names[-1]) if names else None)

    def files(self, table: str, state: State) -> tuple[LoggedFile, ...]:
        """The files whose rows count in a state of a table, all or some of them."""
        found = []
        for writer, manifest in self.manifests.items():
            counted = state.counted(writer)
            for file in manifest.tables.get(table, ()):
                whole = ((file.first_us - 1, file.last_us),)
                if seen := common(whole, counted):
                    found.append(file if seen == whole else replace(file, counted=seen))
        return tuple(found)

    def upto(self) -> dict[str, int]:
        """The last commit of each machine."""
        return {writer: manifest.last_us for writer, manifest in self.manifests.items()}

    def commits(self, manifest: Manifest, table: str) -> Iterator[Commit]:
        """What one machine has committed to a table, newest first."""
        return (one for one in _commits(self.offline, manifest) if table in one.rows)

    def vacuumed(self, table: str, state: State) -> bool:
        """Whether rows that count in this state are not there any more."""
        return any(
            common(manifest.vacuumed.get(table, ()), state.counted(writer))
            for writer, manifest in self.manifests.items()
        )


def pin_of(files: Iterable[LoggedFile]) -> dict[str, object]:
    """What tells one state of a table from another."""
    files = sorted(files, key=lambda file: file.name)
    names: list[object] = [file.name for file in files]
    names += [[file.name, file.counted] for file in files if file.counted is not None]
    return {"kind": "pushed", "hash": fingerprint(names), "files": len(files)}


def manifest_name(writer: str) -> str:
    """Where the manifest of a machine stands."""
    return f"{FOLDER}/{writer}/{MANIFEST}"


def own_manifest(offline: OfflineFolder, writer: str) -> Manifest:
    """The manifest of a machine; an empty one where it has pushed nothing yet."""
    try:
        return read_manifest(offline, manifest_name(writer))
    except (FileNotFoundError, SourceMissing):
        return Manifest()


def with_commit(
    offline: OfflineFolder, writer: str, manifest: Manifest, commit: Commit
) -> Manifest:
    """`manifest` after a commit; where it lists too many, they move to a file."""
    commits, older = (*manifest.commits, commit), manifest.older
    if len(commits) > COMMITS_LISTED_MAX:
        name = f"{FOLDER}/{writer}/commits/{commits[0].at_us:020}.parquet"
        _write_about(offline, name, {"commits": _commits_json(commits)})
        commits, older = (), (*older, name)
    return replace(manifest, commits=commits, older=older, last_us=commit.at_us)


def read_manifest(offline: OfflineFolder, name: str) -> Manifest:
    """Raises `CorruptLog`, what S3 does, and `OSError` where there is none."""
    about = _read_about(offline, name)
    try:
        spans = about.get("spans", {})
        return Manifest(
            tables={
                table: tuple(_file(one, rows, spans.get(one, (0, 0))) for one, rows in files)
                for table, files in about["tables"].items()
            },
            drained=about["drained"],
            retired=tuple((one, at_us) for one, at_us in about["retired"]),
            commits=_commits_of(about),
            older=tuple(about.get("older", ())),
            last_us=about.get("last_us", 0),
            vacuumed={
                table: tuple((a, b) for a, b in found)
                for table, found in about.get("vacuumed", {}).items()
            },
            host=about.get("host", ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(offline, name, error) from error


def write_manifest(offline: OfflineFolder, writer: str, manifest: Manifest) -> None:
    """Replace the manifest of this machine. Raises `FileNotWritten`, and what S3 does."""
    files = [file for found in manifest.tables.values() for file in found]
    about = {
        "tables": {t: [[f.name, f.rows] for f in found] for t, found in manifest.tables.items()},
        # Beside the tables, which older versions of ours read as well.
        "spans": {f.name: [f.first_us, f.last_us] for f in files if f.last_us},
        "drained": dict(manifest.drained),
        "retired": [list(pair) for pair in manifest.retired],
        "commits": _commits_json(manifest.commits),
        "older": list(manifest.older),
        "last_us": manifest.last_us,
        "vacuumed": {t: [list(span) for span in s] for t, s in manifest.vacuumed.items()},
        "host": socket.gethostname(),
    }
    _write_about(offline, manifest_name(writer), about)


def _file(name: str, rows: int, span: tuple[int, int]) -> LoggedFile:
    return LoggedFile(name=name, rows=rows, first_us=span[0], last_us=span[1])


def _commits(offline: OfflineFolder, manifest: Manifest) -> Iterator[Commit]:
    yield from reversed(manifest.commits)
    for name in reversed(manifest.older):
        about = _read_about(offline, name)
        try:
            yield from reversed(_commits_of(about))
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(offline, name, error) from error
    rows = {
        table: sum(file.rows for file in files if not file.last_us)
        for table, files in manifest.tables.items()
    }
    if any(rows.values()):  # from before commits had instants
        yield Commit(at_us=0, rows={table: count for table, count in rows.items() if count})


def _commits_json(commits: tuple[Commit, ...]) -> list[Any]:
    return [[one.at_us, one.operation, dict(one.rows)] for one in commits]


def _commits_of(about: Mapping[str, Any]) -> tuple[Commit, ...]:
    listed = about.get("commits", ())
    return tuple(Commit(at_us=at, operation=what, rows=rows) for at, what, rows in listed)


def _read_about(offline: OfflineFolder, name: str) -> dict[str, Any]:
    import pyarrow as pa

    try:
        found: dict[str, Any] = json.loads(offline.read(name).schema.metadata[b"featurestore"])
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _corrupt(offline, name, error) from error
    return found


def _write_about(offline: OfflineFolder, name: str, about: Mapping[str, Any]) -> None:
    import pyarrow as pa

    schema = pa.schema([], metadata={"featurestore": json.dumps(about)})
    offline.write(name, schema, [])


def _corrupt(offline: OfflineFolder, name: str, error: Exception) -> CorruptLog:
    return CorruptLog(
        f"The manifest {offline.url(name)} of the push log can't be read: {error}. "
        "Restore it from a backup."
    )

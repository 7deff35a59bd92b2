"""States of a table of the push log: which commits of which machine count.

A row says by which commit it came into the log; a commit is named by its instant (µs), which only
grows on one machine. So a state is, for each machine, a set of commits, and nothing is rewritten
to go back to one: a **restore** says which commits count no more, of those that it knew of. What is
committed later counts. All restores stay, each below `pushed/restored/<table>/` with its number;
that of the greatest number is in force.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore.errors import CorruptLog

if TYPE_CHECKING:
    from featurestore.stores.offline.folder import OfflineFolder

RESTORED = "pushed/restored"
"""Below the offline folder; in it a folder for each table."""
FOREVER = 2**63 - 1
"""Later than every commit."""
BEFORE = -1
"""Earlier than every commit; rows that were logged before commits had instants are of commit 0."""

Span = tuple[int, int]
"""Commits after the first instant, up to and with the second."""
Spans = tuple[Span, ...]
"""In order, apart from each other."""


def common(left: Iterable[Span], right: Iterable[Span]) -> Spans:
    """The commits that are in both."""
    right = tuple(right)
    found = [(max(a, c), min(b, d)) for a, b in left for c, d in right]
    return tuple(sorted((a, b) for a, b in found if a < b))


def without(spans: Iterable[Span], taken: Iterable[Span]) -> Spans:
    """The commits of `spans` that are not among `taken`."""
    left = list(spans)
    for after, upto in taken:
        parts = [((a, min(b, after)), (max(a, upto), b)) for a, b in left]
        left = [(a, b) for pair in parts for a, b in pair if a < b]
    return tuple(sorted(left))


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """A table as it was once, from now on. `upto` is the last commit of each machine that was known
    of, `hidden` are those of them that count no more. `target` is the state that was asked for,
    `rows_added` and `rows_removed` are the rows that came back and that went."""

    table: str
    number: int
    at_us: int
    target: str
    upto: Mapping[str, int]
    hidden: Mapping[str, Spans]
    rows_added: int
    rows_removed: int
    author: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a record and a file hold it."""
        spans = {writer: [list(span) for span in found] for writer, found in self.hidden.items()}
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "upto": dict(self.upto), "hidden": spans}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Restore:
        """What `to_json` gave."""
        hidden = {w: tuple((a, b) for a, b in spans) for w, spans in value["hidden"].items()}
        return cls(**{**value, "hidden": hidden})


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A table at one moment: the restore that was in force, and up to which commit each machine's
    rows count (`default`: those of the machines that are not listed)."""

    restore: Restore | None = None
    upto: Mapping[str, int] = field(default_factory=dict)
    default: int = FOREVER

    def counted(self, writer: str) -> Spans:
        """The commits of a machine that count."""
        hidden = () if self.restore is None else self.restore.hidden.get(writer, ())
        return without([(BEFORE, self.upto.get(writer, self.default))], hidden)


def state_at(restores: Sequence[Restore], at_us: int) -> State:
    """The state at an instant, of a table with these restores, oldest first."""
    before = [one for one in restores if one.at_us <= at_us]
    return State(restore=before[-1] if before else None, default=at_us)


def hidden_by(target: State, upto: Mapping[str, int]) -> dict[str, Spans]:
    """Which of the commits up to `upto` count no more where `target` is to be in force."""
    found = {
        writer: without([(BEFORE, last)], target.counted(writer)) for writer, last in upto.items()
    }
    return {writer: spans for writer, spans in found.items() if spans}


# --- restores as files ----------------------------------------------------------------------------


def restore_name(table: str, number: int) -> str:
    """Where a restore of a table is kept."""
    return f"{RESTORED}/{table}/{number:08}.parquet"


def restores_among(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names of restores among those of files below the offline folder: by table, oldest
    first."""
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(names):
        if name.startswith(f"{RESTORED}/"):
            table = name.removeprefix(f"{RESTORED}/").rpartition("/")[0]
            found[table] = (*found.get(table, ()), name)
    return found


def write_restore(offline: OfflineFolder, restore: Restore) -> None:
    """Put a restore in force. Raises `FileNotWritten`, and what S3 does."""
    import pyarrow as pa

    schema = pa.schema([], metadata={"featurestore": json.dumps(restore.to_json())})
    offline.write(restore_name(restore.table, restore.number), schema, [])


def read_restore(offline: OfflineFolder, name: str) -> Restore:
    """A restore by its file's name. Raises `CorruptLog`, and what S3 does."""
    import pyarrow as pa

    try:
        metadata = offline.read(name).schema.metadata
        return Restore.from_json(json.loads(metadata[b"featurestore"]))
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CorruptLog(
            f"{offline.url(name)}, a restore of the push log, can't be read: {error}. "
            "Restore the file from a backup."
        ) from error

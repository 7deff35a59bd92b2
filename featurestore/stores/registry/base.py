"""What a registry is: an append-only log of records and alias moves with all-or-nothing commits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, Self

from featurestore.permissions import Identity
from featurestore.records import (
    Alias,
    AliasEvent,
    AliasIs,
    Glance,
    LedgerRow,
    Link,
    OnlineUse,
    Record,
    StoredRecord,
)

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.stores.registry.runs import RunTables
    from featurestore.timeline import Clock

WALK_DEPTH_MAX = 1_000


class Registry(ABC):
    """The records of one project. Use as a context manager, or call `close`.

    Reads raise `RecordNotFound` for ids that are not there; every method raises
    `StoreUnavailable` while the database is away. `identity` is who we are: the author of what is
    committed, and the token that is needed where access control is on.
    """

    identity: Identity = Identity(author="unknown")

    @classmethod
    @abstractmethod
    def open(cls, url: str, *, project: str, root: Path, clock: Clock, author: str) -> Self:
        """Connect, and create or migrate the schema.

        Raises `SchemaTooNew` for a database that a newer version wrote, `StoreUnavailable`.
        """

    @abstractmethod
    def commit(
        self,
        *,
        requires: Sequence[AliasIs] = (),
        records: Sequence[Record] = (),
        blobs: Sequence[bytes] = (),
        aliases: Mapping[str, str | None] | None = None,
        ledger: Sequence[LedgerRow] = (),
        reason: str = "",
    ) -> None:
        """One transaction, all or nothing, exactly one winner of a race.

        `requires` is what the caller believes; `aliases` maps names to record ids (None removes
        one); a record that exists already is a no-op. Blobs are stored by their SHA-256.
        Raises `CommitConflict` where a belief is wrong, `InvalidRecord` for unknown parents,
        `RecordNotFound` for an alias to a record that neither exists nor is in this commit;
        where access control is on, `Unauthenticated` and `PermissionDenied`.
        """

    @abstractmethod
    def record(self, ref: str) -> StoredRecord:
        """A record by full id, by unambiguous shortened id (`view:x@1a2b3c4d`), or by alias."""

    @abstractmethod
    def records(
        self, *, kind: str | None = None, name: str | None = None, ids: Sequence[str] | None = None
    ) -> list[StoredRecord]:
        """Records by kind, name or ids, oldest first."""

    @abstractmethod
    def glances(
        self,
        *,
        kind: str | Sequence[str] | None = None,
        name: str | None = None,
        ids: Sequence[str] | None = None,
        newest: int | None = None,
        with_parents: bool = True,
    ) -> list[Glance]:
        """The same (of one `kind` or of several) without checking their hashes, which takes longer
        than reading them. `newest`: only so many, the youngest; without `with_parents` their
        parents are left out."""

    @abstractmethod
    def pointing(
        self, ids: Sequence[str], *, through_child: bool = False, at_us: int | None = None
    ) -> dict[str, tuple[str, ...]]:
        """By record id: the names of the aliases that point to it, or (`through_child`) to a record
        that has it as parent; as they stood at `at_us`. Ids that no alias points to are left
        out."""

    @abstractmethod
    def session(self) -> AbstractContextManager[None]:
        """All that this thread asks within the block is asked in one transaction, which is faster
        than one for each question."""

    @abstractmethod
    def aliases(self, prefix: str = "", *, at_us: int | None = None) -> dict[str, Alias]:
        """The aliases whose name begins with `prefix`, by name; as they stood at `at_us`."""

    @abstractmethod
    def history(self, alias: str) -> list[AliasEvent]:
        """All moves of an alias, oldest first."""

    @abstractmethod
    def histories(self, prefix: str) -> dict[str, list[AliasEvent]]:
        """The same of all aliases whose name begins with `prefix`, by name."""

    @abstractmethod
    def walk(
        self,
        record_id: str | Sequence[str],
        *,
        direction: Literal["up", "down"],
        depth_max: int = WALK_DEPTH_MAX,
        at_us: int | None = None,
        past: Sequence[str] = (),
    ) -> list[Link]:
        """Edges reachable from a record, or from several, nearest first: `up` towards parents,
        `down` towards children. Directed and cycle-safe.

        `at_us`: among the records that were born by then. `past`: records of these kinds are
        reached, but not walked past. Raises `LimitExceeded`.
        """

    @abstractmethod
    def twins(self, ids: Sequence[str]) -> list[str]:
        """These records and all that say the same: of the same kind and name, with the same
        `version` in the body. (A record's id covers its parents, hence also their descriptions.)
        Unknown ids are left out."""

    @abstractmethod
    def mentions(self) -> frozenset[str]:
        """Every digest (64 hex digits) and build (32) that anything in the database names, in any
        project: what garbage collection must keep. Reads everything."""

    @abstractmethod
    def blob(self, digest: str) -> bytes:
        """The blob with that SHA-256."""

    @abstractmethod
    def ledger(self, *, table: str | None = None, view: str | None = None) -> list[LedgerRow]:
        """Materialization runs, oldest first."""

    @abstractmethod
    def note_uses(self, environment: str, uses: Mapping[str, int]) -> None:
        """Remember when services (`delay_model`) and views (`views/weather`) were last asked for
        online (µs). What is known to be later stays.

        Raises, where access control is on, `Unauthenticated` and `PermissionDenied` for who has no
        grant in the project; neither is noted in the audit log.
        """

    @abstractmethod
    def last_uses(self, names: Collection[str], *, at_us: int | None = None) -> list[OnlineUse]:
        """The last use of each in each environment, the newest first; as of an instant, which is
        exact to a day."""

    @abstractmethod
    def last_runs(
        self,
        by: Literal["table", "view"],
        names: Sequence[str],
        *,
        with_watermark: bool = False,
        at_us: int | None = None,
    ) -> dict[str, LedgerRow]:
        """The newest run of each of these tables, or views, by its name: (`with_watermark`) the one
        that left a watermark, and (`at_us`) that had finished by then. Those without one are left
        out. It takes no longer when there were more runs."""

    @property
    @abstractmethod
    def runs(self) -> RunTables:
        """Experiment tracking: what is told of runs, and searched."""

    @abstractmethod
    def prune_audit(self, *, before_us: int, reason: str = "") -> int:
        """Delete the entries of the audit log that were written before `before_us`, and write one
        that says how many and `reason`, in one transaction. Returns how many. It is the only thing
        that a registry ever deletes.

        Raises, where access control is on, `Unauthenticated` and `PermissionDenied`: it takes
        `admin` on `audit`.
        """

    @abstractmethod
    def close(self) -> None:
        """Release connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

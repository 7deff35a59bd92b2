"""What an online store is: small, dumb, in batches; it declares what it cannot do.

A store key is `fs/{project}/{key space}/` + key bytes; below it one field (8 bytes) per
(view storage hash, generation), whose value is one encoded row. The store never decodes a row
beyond the fixed head that holds its two times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.config import OnlineSettings
    from featurestore.errors import StoreError

Answer_contra = TypeVar("Answer_contra", contravariant=True)

KEY_BYTES_MAX = 1024 * 1024 + 1024
ROWS_PER_WRITE_MAX = 100_000
SWAPS_PER_CALL_MAX = 100_000
FIELD_BYTES = 8
REVISION_BYTES = 8
_REVISION_AT = 24
_REVISION_TAG = 0x21
"""The byte before a revision: field 4 of a message, 8 bytes wide. A row has another one there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store declares of itself. `expires` is `field` (each row by itself), `key` (all rows
    of a key together) or `none` (the sweeper only). `ordered_writes`: rows in key order are
    written much faster than others."""

    expires: str
    shared: bool
    ordered_writes: bool = False
    key_bytes_max: int = KEY_BYTES_MAX


class KeyFields(NamedTuple):
    """One read: the whole store key, and the fields wanted below it."""

    key: bytes
    fields: tuple[bytes, ...]


Rows = list[list[bytes | None]]
"""What a read gives: per key, per field the row's bytes, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Rows of one field to write: parallel sequences of store keys and encoded rows.

    `expire_at_us` (µs, one per row, or None for rows that never expire) is the earliest instant at
    which the store may forget the row.
    """

    field: bytes
    keys: Sequence[bytes]
    rows: Sequence[bytes]
    expire_at_us: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Tie:
    """Row `index` of a batch has the times of the stored row `stored`, but other bytes."""

    index: int
    stored: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """`written` rows replaced an older one (or none); `same` stood there already, byte for byte;
    `older` lost to a newer stored row; `ties` were left for the writer to settle."""

    written: int
    same: int
    older: int
    ties: tuple[Tie, ...] = ()


class Swap(NamedTuple):
    """One compare-and-swap of what lies below a key: `values` has one value for each field, an
    empty one removes. `expected` is the revision that the first field is thought to have, or empty
    where it is thought to hold no state. `expire_at_us` is as in `RowBatch`; None is never."""

    key: bytes
    expected: bytes
    values: tuple[bytes, ...]
    expire_at_us: int | None = None


def revision_of(value: bytes | None) -> bytes:
    """The revision of a stored state; empty for what is none, damaged bytes too."""
    if value is None or len(value) < _REVISION_AT + REVISION_BYTES:
        return b""
    if value[_REVISION_AT - 1] != _REVISION_TAG:
        return b""
    return value[_REVISION_AT : _REVISION_AT + REVISION_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a store's server says of itself, for `featurestore doctor`; None where it does not say
    (or does not let us ask). `clock_us` was read at `asked_us` of our own clock, give or take half
    the round trip."""

    product: str
    version: str
    asked_us: int
    clock_us: int | None = None
    eviction: str | None = None
    used_bytes: int | None = None
    limit_bytes: int | None = None


@runtime_checkable
class Examined(Protocol):
    """A store that can be asked for its server's facts."""

    def facts(self, now_us: Callable[[], int]) -> ServerFacts:
        """Ask the server; `now_us` is our clock."""


class Waiter(Protocol[Answer_contra]):
    """What takes one answer, now or later: a future does, and so does anything like one."""

    def done(self) -> bool:
        """Whether nothing is waited for any more."""

    def set_result(self, result: Answer_contra, /) -> None:
        """The answer. Must not raise."""

    def set_exception(self, exception: StoreError, /) -> None:
        """What went wrong instead. Must not raise."""


class OnlineStore(ABC):
    """Reads and conditional writes of rows by key. Use as a context manager, or call `close`.

    All methods raise `StoreTimeout` past the deadline and `StoreUnavailable` while the store is
    gone; the object recovers by itself when the store returns.
    """

    capabilities: ClassVar[Capabilities]

    @classmethod
    @abstractmethod
    def open(cls, settings: OnlineSettings, *, root: Path, read_only: bool = False) -> Self:
        """Connect lazily: opening succeeds while a remote store is away."""

    @abstractmethod
    def read(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """Row bytes in the order asked; None where absent. One round trip."""

    @abstractmethod
    async def read_async(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """The same without blocking the loop; shares its round trip with other callers."""

    def read_soon(
        self,
        reads: Sequence[KeyFields],  # noqa: ARG002
        waiter: Waiter[Rows],  # noqa: ARG002
        *,
        timeout_ms: int,  # noqa: ARG002
    ) -> bool:
        """`read_async` without a task: `waiter` gets its result or error, within the running loop.
        False where that cannot be done now (nothing was sent); `read_async` always can."""
        return False

    @abstractmethod
    def write(self, batch: RowBatch) -> WriteResult:
        """Write the rows that are newer by (event time, created time) than what is stored.

        A row whose bytes are stored already has its expiry extended, never shortened.
        """

    @abstractmethod
    def replace(
        self, field: bytes, key: bytes, *, expected: bytes, row: bytes, expire_at_us: int | None
    ) -> bool:
        """Compare-and-set: write `row` if the stored bytes are still `expected`. False if not. An
        empty `row` removes what is stored."""

    def delete(self, field: bytes, key: bytes, *, expected: bytes) -> bool:
        """Remove the row if the stored bytes are still `expected`. False if not."""
        return self.replace(field, key, expected=expected, row=b"", expire_at_us=None)

    @abstractmethod
    def swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        """Compare-and-swap by revision, for each key by itself: where the first of `fields` still
        has the expected revision, all fields of the key change together; False where not. After a
        failure that was overcome, False may mean that it was done: read again."""

    @abstractmethod
    def sweep(
        self, prefix: bytes, *, keep: Iterable[bytes], older_than_us: int | None = None
    ) -> Iterator[int]:
        """Free fields below keys that begin with `prefix` whose id is not in `keep`, and rows that
        expired before `older_than_us`. Yields the number freed after each bounded step."""

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:  # noqa: ARG002
        """The keys that begin with `prefix`, a bounded step at a time; a key may come twice. Those
        written meanwhile may be missed. A store that cannot list its keys gives none."""
        yield from ()

    @abstractmethod
    def ping(self, *, timeout_ms: int | None = None) -> None:
        """Return if the store answers."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

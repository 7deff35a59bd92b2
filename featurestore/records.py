"""The registry's three words: records, aliases, commits.

A **record** is an immutable fact that names its parents. An **alias** is the only thing that moves.
A **commit** is one transaction of both; it states what it believed (`requires`) and either happens
whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from featurestore.errors import InvalidRecord
from featurestore.fingerprint import canonical_json, fingerprint, short

RECORD_BODY_BYTES_MAX = 64 * 1024
RECORD_NAME_CHARS_MAX = 512
_KIND = re.compile(r"[a-z][a-z_]*")

Transformation = Literal["DIRECT", "INDIRECT"]
"""How a parent enters its child: as a value, or as a filter, key, order or age limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One parent of a record: its id, its role there (`source`, `entity`, `feature`, …)."""

    parent: str
    role: str
    transformation: Transformation = "DIRECT"


class Link(NamedTuple):
    """An edge of the graph, both ends by id."""

    child: str
    parent: str
    role: str
    transformation: Transformation


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An immutable fact `kind:name@hash`.

    `hash` (64 hex digits) covers kind, name, body and parents, so the same fact has the same id
    everywhere and writing it twice is a no-op. The body is JSON of at most `RECORD_BODY_BYTES_MAX`
    bytes; what is larger goes into a blob that the body names.

    Raises `InvalidRecord` for an ill-formed kind or name, and for a body that is over the limit or
    no JSON (NaN, half a surrogate pair).
    """

    kind: str
    name: str
    body: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Edge, ...] = ()
    hash: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind):
            raise InvalidRecord(f"{self.kind!r} is not a record kind (small letters and _)")
        if not self.name or len(self.name) > RECORD_NAME_CHARS_MAX or "@" in self.name:
            raise InvalidRecord(
                f"{self.name!r} is not a record name: 1 to {RECORD_NAME_CHARS_MAX} characters, no @"
            )
        edges = sorted((e.parent, e.role, e.transformation) for e in self.parents)
        try:
            size = len(canonical_json(self.body).encode())
            digest = fingerprint([self.kind, self.name, self.body, edges])
        except (TypeError, ValueError) as error:
            raise InvalidRecord(
                f"{self.kind}:{self.name!r} holds what is no JSON of Unicode text: {error}"
            ) from error
        if size > RECORD_BODY_BYTES_MAX:
            raise InvalidRecord(
                f"The body of {self.kind}:{self.name} has {size:,} bytes, over "
                f"RECORD_BODY_BYTES_MAX = {RECORD_BODY_BYTES_MAX:,}; put the bulk into a blob"
            )
        object.__setattr__(self, "hash", digest)

    @property
    def id(self) -> str:
        """`kind:name@hash`, the hash in full."""
        return f"{self.kind}:{self.name}@{self.hash}"


def show_id(record_id: str) -> str:
    """`view:plane_history@1a2b3c4d`: a record id as people see it."""
    head, _, digest = record_id.rpartition("@")
    return f"{head}@{short(digest)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A record as the registry keeps it: with its id, its birth (µs) and its author."""

    id: str
    record: Record
    created_at_us: int
    author: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """A record as questions read it in bulk: not checked against its hash."""

    id: str
    kind: str
    name: str
    body: Mapping[str, Any]
    parents: tuple[Edge, ...]
    created_at_us: int
    author: str

    @property
    def hash(self) -> str:
        """The hash that its id ends with."""
        return self.id.rpartition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A name that points to a record; `serial` grows by one with every move."""

    name: str
    target: str
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasEvent:
    """One move of an alias: who, when (µs), from where, to where (None: removed), and why."""

    name: str
    serial: int
    previous: str | None
    target: str | None
    at_us: int
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class AliasIs:
    """What a commit believes: `alias` points to `target` (None: does not exist)."""

    alias: str
    target: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineUse:
    """When servers of an environment were last asked for something (µs, to the hour): a feature
    service by its `name`, or a view that was asked for by features (`views/weather`)."""

    environment: str
    name: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One materialization run of one online table. All instants in µs, UTC.

    `table` is the online table that was written: the store's id and the field. `mode` is
    `incremental`, `interval` or `replace`. An incremental or replace run covers the rows known in
    `(start_us, end_us]` and moves the watermark to `end_us`; an interval covers event times in
    `[start_us, end_us)`. `reach_us` is how old (`ttl + grace`) a row may be and still have been
    written; None is unbounded. `values_undefined` are feature values of the rows read that are NULL
    for want of a result (a division by zero, an overflow).
    """

    run_id: str
    view: str
    view_version: str
    table: str
    generation: int
    mode: Literal["incremental", "interval", "replace"]
    start_us: int | None
    end_us: int
    watermark_us: int | None
    reach_us: int | None
    rows_read: int
    rows_written: int
    rows_skipped: int
    started_at_us: int
    finished_at_us: int
    values_undefined: int = 0

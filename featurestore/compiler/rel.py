"""Rel: the relational form that engines translate. Frozen nodes, checked when they are made.

Training and materialization are compiled to these; an engine knows nothing else. Instants inside a
Rel are int64 µs; `Scan` already yields them so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from featurestore.definitions.expression import Expression
from featurestore.dtypes import INT64, DType
from featurestore.errors import InternalError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFiles:
    """The files of one source at one moment: what a scan reads, and what a pin names.

    `partitions` holds for each file the values of its directory columns (hive, Delta), as text.
    `schema` are the columns by name as they stand in the files (before field mapping), partition
    columns included, widened over all files. `pin` identifies the state: for Delta its version,
    for files a hash of (path, size, modification time, footer). `marks` tell for each file one
    state of it from another (none where a file never changes). `copy` is a sorted copy of some of
    these files, where there is a current one. `pushed` are the Parquet files of the source's push
    log: the same columns, all of them in the files, and `ARRIVED`. Of those in `counted` only the
    rows of certain commits count: after the first instant, up to and with the second (`COMMITTED`).
    """

    format: Literal["parquet", "csv"]
    paths: tuple[str, ...]
    schema: Mapping[str, DType]
    partitions: tuple[Mapping[str, str | None], ...] = ()
    pin: Mapping[str, object] = field(default_factory=dict)
    csv_options: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    copy: SortedCopy | None = None
    pushed: tuple[str, ...] = ()
    counted: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @property
    def every_path(self) -> tuple[str, ...]:
        """The source's own files and those of its push log."""
        return (*self.paths, *self.pushed)


def some_files(files: DataFiles, kept: Sequence[int]) -> DataFiles:
    """The files of these numbers, and those of the push log; without a copy."""
    options = dict(files.csv_options)
    if "names" in options:
        names = json.loads(options["names"])
        options["names"] = json.dumps([names[n] for n in kept])
    return replace(
        files,
        paths=tuple(files.paths[n] for n in kept),
        partitions=tuple(files.partitions[n] for n in kept) if files.partitions else (),
        marks=tuple(files.marks[n] for n in kept) if files.marks else (),
        csv_options=options,
        copy=None,
    )


def one_file(files: DataFiles, number: int) -> DataFiles:
    """One of the source's own files alone."""
    return replace(some_files(files, [number]), pushed=())


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedCopy:
    """A copy of the rows of a source whose `key` is not NULL, sorted by it, in row groups.

    `groups` are file, number of the row group in it, least and greatest key. `paths` are the files
    of the source whose rows it holds, `columns` its columns (our names).
    """

    key: str
    columns: Mapping[str, DType]
    groups: tuple[tuple[str, int, object, object], ...]
    paths: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Rows of a resolved file list. `columns` maps output name → name in the files; `dtypes` are
    the output types (values are widened or cast exactly; NaN reads as NULL, −0.0 as 0.0)."""

    source: str
    files: DataFiles
    columns: Mapping[str, str]
    dtypes: Mapping[str, DType]

    @property
    def schema(self) -> dict[str, DType]:
        return dict(self.dtypes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Arrow data that the caller hands to the engine under `name` (the entity frame)."""

    name: str
    dtypes: Mapping[str, DType]

    @property
    def schema(self) -> dict[str, DType]:
        return dict(self.dtypes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sql:
    """An opaque query over named relations: an SQL source. `dtypes` is what it yields."""

    query: str
    inputs: Mapping[str, Rel]
    dtypes: Mapping[str, DType]

    @property
    def schema(self) -> dict[str, DType]:
        return dict(self.dtypes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Rows for which `predicate` is true."""

    input: Rel
    predicate: Expression

    @property
    def schema(self) -> dict[str, DType]:
        return self.input.schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The named columns only, in order: output name → input name."""

    input: Rel
    columns: Mapping[str, str]

    def __post_init__(self) -> None:
        missing = set(self.columns.values()) - self.input.schema.keys()
        if missing:
            raise InternalError(f"Project of columns that are not there: {sorted(missing)}")

    @property
    def schema(self) -> dict[str, DType]:
        have = self.input.schema
        return {out: have[name] for out, name in self.columns.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Derive:
    """The input's columns and more, each by an expression over the input's columns."""

    input: Rel
    columns: Mapping[str, tuple[Expression, DType]]

    @property
    def schema(self) -> dict[str, DType]:
        return self.input.schema | {name: dtype for name, (_, dtype) in self.columns.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """Keys that were deleted: `rows` have the columns `keys`, named as those that they delete, and
    an int64 column `known_until_us`."""

    rows: Rel
    keys: tuple[str, ...]
    known_until_us: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """A source's rows with their times settled, the form that `Latest` and `AsOfJoin` read.

    Adds the int64 columns `event_us` (from `event_time`, by `event_time_is` for a DATE) and
    `created_us` (NULL created time counts as the event time), and `deleted` (bool, from `op`).
    Rows with a NULL event time or a NULL among `keys` are left out, and so are those whose key is
    `erased` with an instant by which they were known (max(event_us, created_us) ≤ it).
    """

    input: Rel
    keys: tuple[str, ...]
    event_time: str
    created_time: str | None
    event_time_is: str | None
    op: str | None
    tiebreak: tuple[str, ...]
    erased: tuple[Erased, ...] = ()

    @property
    def schema(self) -> dict[str, DType]:
        from featurestore.dtypes import BOOL

        return self.input.schema | {EVENT_US: INT64, CREATED_US: INT64, DELETED: BOOL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """Per key, the row with the greatest (event_us, created_us, tiebreak), of the rows with
    `known_after_us < known ≤ known_until_us` and `event_from_us ≤ event_us < event_to_us`
    (bounds of None are open; known = max(event_us, created_us))."""

    input: Stamped
    known_after_us: int | None = None
    known_until_us: int | None = None
    event_from_us: int | None = None
    event_to_us: int | None = None

    @property
    def schema(self) -> dict[str, DType]:
        return self.input.schema


@dataclass(frozen=True, slots=True, kw_only=True)
class AsOfJoin:
    """For each left row at time `left_time` (int64 µs): the right row of its key that wins by
    (event_us, created_us, tiebreak) among those with `event_us ≤ T` and, in mode `known`,
    `max(event_us, created_us) ≤ T`, and `≤ known_until_us` where that is given.

    `keys` map left columns to the right side's keys. Every left row comes out once, and where
    `left` is an `Input`, in its order. `columns` are the right columns to add (output name → input
    name); they are NULL, and `status` (int32, the value of `Status`) says why, where the winner is
    missing, deleted or older than `ttl_us`. A winner older than `ttl_us + grace_us` is NOT_FOUND.
    """

    left: Rel
    right: Stamped
    keys: Mapping[str, str]
    left_time: str
    columns: Mapping[str, str]
    status: str
    as_of: Literal["known", "event"]
    known_until_us: int | None
    ttl_us: int | None
    grace_us: int | None

    @property
    def schema(self) -> dict[str, DType]:
        from featurestore.dtypes import INT32

        right = self.right.schema
        added = {out: right[name] for out, name in self.columns.items()}
        return self.left.schema | added | {self.status: INT32}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFunction:
    """`function` over the right column `value` (of type `argument`; None: over rows) of those rows
    for which the bool column `condition` is true, within a window (`window_us` None: lifetime;
    `hop_us` 0: exact); `dtype` is what it yields.

    With a right column `bucket` it yields a map: from each value of it among these rows, in
    ascending order and NULL left out, to the function over the rows that have it. More than
    `BUCKETS_PER_KEY_MAX` of them are NULL, none an empty map.
    """

    dtype: DType
    function: str
    value: str | None
    argument: DType | None
    condition: str | None
    window_us: int | None
    delay_us: int
    hop_us: int
    parameters: Mapping[str, int | float] = field(default_factory=dict, hash=False)
    bucket: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowJoin:
    """For each left row at time `left_time` T (int64 µs): `functions` (by output column) over the
    right rows of its key with `floor(T − delay − window, hop) ≤ event_us < T − delay`, as they were
    known at T (mode `known`) or at all (`event`), and by `known_until_us` where that is given.

    Of the rows of one `event_id` (and key) each replaces the one before it, by (known, created_us,
    event_us, deleted, tiebreak), from the instant it is known; one that comes more than
    `correction_horizon_us` after that one is left out, with all that follow. A row that is deleted
    counts for nothing, and where there is an `event_id` so does one without. `status` (int32) is
    NOT_FOUND for a key without a row that counts with `T − reach_us ≤ event_us ≤ T` (`reach_us`
    None: that is as old as may be), else PRESENT. Every left row comes out once.
    """

    left: Rel
    right: Stamped
    keys: Mapping[str, str]
    left_time: str
    functions: Mapping[str, WindowFunction]
    status: str
    as_of: Literal["known", "event"]
    known_until_us: int | None
    event_id: str | None
    correction_horizon_us: int
    reach_us: int | None

    @property
    def schema(self) -> dict[str, DType]:
        from featurestore.dtypes import INT32

        added = {out: function.dtype for out, function in self.functions.items()}
        return self.left.schema | added | {self.status: INT32}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowChanges:
    """For each key of `right` the instants T with `start_us ≤ T < end_us` (None: open) at which the
    answer of a `WindowJoin` of the same fields changes: a row that counts for one of `functions`
    enters its window, leaves it, or is replaced; `with_status`, the status becomes another one.
    Between two of these instants all values stay what they are, except that a row which is replaced
    by one that is the same in everything makes an instant, too.

    `keys` map output columns to the right side's keys, `at` is the column of instants (int64 µs).
    Each pair comes out once, in no order.
    """

    right: Stamped
    keys: Mapping[str, str]
    functions: Mapping[str, WindowFunction]
    at: str
    start_us: int | None
    end_us: int | None
    with_status: bool
    as_of: Literal["known", "event"]
    known_until_us: int | None
    event_id: str | None
    correction_horizon_us: int
    reach_us: int | None

    @property
    def schema(self) -> dict[str, DType]:
        right = self.right.schema
        return {out: right[key] for out, key in self.keys.items()} | {self.at: INT64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Union:
    """The rows of all inputs, which have one schema."""

    inputs: tuple[Rel, ...]

    def __post_init__(self) -> None:
        if not self.inputs or any(i.schema != self.inputs[0].schema for i in self.inputs):
            raise InternalError("Union needs inputs of one schema")

    @property
    def schema(self) -> dict[str, DType]:
        return self.inputs[0].schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `rows` rows; which ones is not said."""

    input: Rel
    rows: int

    @property
    def schema(self) -> dict[str, DType]:
        return self.input.schema


Rel = (
    Scan
    | Input
    | Sql
    | Filter
    | Project
    | Derive
    | Stamped
    | Latest
    | AsOfJoin
    | WindowJoin
    | WindowChanges
    | Union
    | Limit
)

EVENT_US = "__event_us"
CREATED_US = "__created_us"
DELETED = "__deleted"
FILE_COLUMN = "__file"
"""What engines call the column that says which file a row stands in; no Parquet file may have one
of that name, in whatever case."""
ARRIVED = "__arrived"
"""A column of push logs alone: when a row arrived, which is its created time where it has none."""
COMMITTED = "__committed"
"""A column of push logs alone: by which commit a row came there (its instant in µs)."""


def children(rel: Rel) -> tuple[Rel, ...]:
    """The relations that `rel` reads, from left to right."""
    match rel:
        case Scan() | Input():
            return ()
        case Sql():
            return tuple(rel.inputs.values())
        case AsOfJoin() | WindowJoin():
            return (rel.left, rel.right)
        case Union():
            return rel.inputs
        case Stamped():
            return (rel.input, *(one.rows for one in rel.erased))
        case WindowChanges():
            return (rel.right,)
        case Filter() | Project() | Derive() | Latest() | Limit():
            return (rel.input,)
        case _:
            assert_never(rel)


def walk(rel: Rel) -> Iterator[Rel]:
    """`rel` and all that it reads."""
    yield rel
    for child in children(rel):
        yield from walk(child)

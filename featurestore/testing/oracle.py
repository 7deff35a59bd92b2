"""The executable specification: what every feature value means, in slow and obvious Python.

Everything here is a loop over rows of plain values, written to be read, not to be fast. Engines,
stores and servers are right when they agree with it. Instants are int µs since 1970, UTC, also as
feature values; the other values are Python's own (`int`, `float`, `Decimal`, `str`, `bytes`,
`date`, lists of them) and None for NULL.

In the order that a row travels: a value is read (`read_value`), a row gets its times (`settle`),
rows compete (`rank`, `winner`), the winner gets a status (`status_of`), and becomes the answer to
an entity row (`answer`, `training_rows`). `OnlineTable` says what materialization leaves in the
online store, and what a lookup then answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from featurestore.dtypes import DType, Kind
from featurestore.statuses import Status
from featurestore.timeline import DAY_US

Value = Any
Key = tuple[Value, ...]
AsOf = Literal["known", "event"]

_INT_BITS = {Kind.INT32: 32, Kind.INT64: 64}
_EPOCH = date(1970, 1, 1)


class Inexact(ValueError):
    """A value that its type cannot hold: 1.7 as int64, 3,000,000,000 as int32."""


# --- types ----------------------------------------------------------------------------------------


def read_value(value: Value, dtype: DType) -> Value:
    """`value` as a value of `dtype`: exactly, or `Inexact`.

    NaN reads as NULL and −0.0 as 0.0, also inside lists; a NULL inside a list is kept.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if dtype.item is not None:
        return [read_value(item, dtype.item) for item in value]
    if dtype.is_float:
        return float(value) + 0.0
    if dtype.is_integer:
        limit = 2 ** (_INT_BITS[dtype.kind] - 1)
        if not -limit <= value < limit or value != int(value):
            raise Inexact(f"{value!r} is not an {dtype}")
        return int(value)
    return value


def floor_us(nanoseconds: int) -> int:
    """An instant in ns as µs: floored, so that one ns before 1970 is µs −1, not 0."""
    return nanoseconds // 1_000


def date_us(day: date, event_time_is: Literal["start", "end"]) -> int:
    """A DATE as an instant: the midnight (UTC) that begins the day, or the one that ends it."""
    days = (day - _EPOCH).days
    return (days if event_time_is == "start" else days + 1) * DAY_US


# --- rows of a source -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a source, its times settled.

    `tie` are the values of the source's tiebreak columns in their order; `deleted` marks a
    tombstone.
    """

    key: Key
    event_us: int
    created_us: int
    values: Mapping[str, Value]
    tie: tuple[Value, ...] = ()
    deleted: bool = False

    @property
    def known_us(self) -> int:
        """When the row could first be used: it has happened, and its source knew it."""
        return max(self.event_us, self.created_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowShape:
    """Which columns of a source play which part."""

    keys: tuple[str, ...]
    event_time: str
    created_time: str | None = None
    event_time_is: Literal["start", "end"] | None = None
    op: str | None = None
    tiebreak: tuple[str, ...] = ()


def settle(raw: Mapping[str, Value], shape: RowShape) -> Row | None:
    """The row of a source that the values `raw` (read, by column) make.

    None where the event time or a key is NULL: such rows are skipped. A NULL created time counts
    as the event time.
    """
    event = raw[shape.event_time]
    key = tuple(raw[name] for name in shape.keys)
    if event is None or None in key:
        return None
    if shape.event_time_is is not None:
        event = date_us(event, shape.event_time_is)
    created = raw[shape.created_time] if shape.created_time is not None else None
    return Row(
        key=key,
        event_us=event,
        created_us=event if created is None else created,
        values=raw,
        tie=tuple(raw[name] for name in shape.tiebreak),
        deleted=shape.op is not None and raw[shape.op] == "D",
    )


def settle_all(raw_rows: Iterable[Mapping[str, Value]], shape: RowShape) -> list[Row]:
    """All rows that are not skipped."""
    settled = [settle(raw, shape) for raw in raw_rows]
    return [row for row in settled if row is not None]


def erase(rows: Iterable[Row], keys: Iterable[Key], at_us: int) -> list[Row]:
    """The rows that are left when `keys` were deleted at `at_us`: what was known of them by then is
    as if it had never been, at whatever time is asked about."""
    deleted = set(keys)
    return [row for row in rows if row.key not in deleted or row.known_us > at_us]


def rank(row: Row) -> tuple[Any, ...]:
    """What rows compete by: the greater event time wins, then the greater created time, then the
    greater tiebreak columns, in which NULL is lowest."""
    return (row.event_us, row.created_us, *(_order(value) for value in row.tie))


def _order(value: Value) -> tuple[Any, ...]:
    """A sort key with NULL below everything, in a list too; a list's beginning is below it."""
    if value is None:
        return (0,)
    if isinstance(value, list):
        return (1, tuple(_order(item) for item in value))
    return (1, value)


# --- latest features ------------------------------------------------------------------------------


def winner(
    rows: Iterable[Row],
    key: Key,
    at_us: int,
    *,
    as_of: AsOf = "known",
    known_until_us: int | None = None,
) -> Row | None:
    """The row that answers for `key` at `at_us`, whatever its age: the greatest of those that had
    happened by then and, unless `as_of` is "event", were known by then.

    `known_until_us` asks in either mode for rows known by that instant, so that the same question
    has the same answer tomorrow. A key with a NULL in it has no rows.
    """
    candidates = [
        row
        for row in rows
        if row.key == key
        and None not in key
        and row.event_us <= at_us
        and (as_of == "event" or row.known_us <= at_us)
        and (known_until_us is None or row.known_us <= known_until_us)
    ]
    return max(candidates, key=rank, default=None)


def status_of(
    row: Row | None, at_us: int, *, ttl_us: int | None, grace_us: int | None = None
) -> Status:
    """The status of a view whose winner at `at_us` is `row`; both ages are inclusive.

    Up to `ttl_us` old the row is PRESENT, up to `grace_us` (default: ttl) more OUTSIDE_MAX_AGE,
    then NOT_FOUND, like no row and like a tombstone. Without a ttl no row is too old.
    """
    if row is None or row.deleted:
        return Status.NOT_FOUND
    age_us = at_us - row.event_us
    if ttl_us is None or age_us <= ttl_us:
        return Status.PRESENT
    if age_us <= ttl_us + (ttl_us if grace_us is None else grace_us):
        return Status.OUTSIDE_MAX_AGE
    return Status.NOT_FOUND


@dataclass(frozen=True, slots=True)
class Answer:
    """What one view says for one key: its status, and its values by feature name."""

    status: Status
    values: dict[str, Value]

    def value_status(self, feature: str) -> Status:
        """The status of one value: a NULL of a row that is PRESENT is NULL_VALUE."""
        if self.status is Status.PRESENT and self.values[feature] is None:
            return Status.NULL_VALUE
        return self.status


def answer(
    row: Row | None,
    at_us: int,
    features: Sequence[str],
    *,
    ttl_us: int | None,
    grace_us: int | None = None,
) -> Answer:
    """The values of the winner `row` where it is PRESENT, else NULLs, and its status."""
    status = status_of(row, at_us, ttl_us=ttl_us, grace_us=grace_us)
    if row is None or status is not Status.PRESENT:
        return Answer(status, dict.fromkeys(features))
    return Answer(status, {name: row.values[name] for name in features})


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A view in a training set: its rows, and how this use reads and names them.

    `key_columns` are the entity frame's columns that hold the join keys, in the order of
    `Row.key`: an alias with a join-key map reads the same rows by other columns, and a view
    without entities has none, so that all its rows have the key `()`. `features` maps output
    column → feature; `status` names the output column of the status, if it is wanted.
    """

    rows: Sequence[Row]
    key_columns: tuple[str, ...]
    features: Mapping[str, str]
    ttl_us: int | None = None
    grace_us: int | None = None
    status: str | None = None


def training_rows(
    entity_rows: Sequence[Mapping[str, Value]],
    uses: Sequence[Use],
    *,
    time: str = "event_timestamp",
    as_of: AsOf = "known",
    known_until_us: int | None = None,
) -> list[dict[str, Value]]:
    """One row for each entity row, in the same order, repetitions included: the entity row's own
    columns first, then the features of each use."""
    out = []
    for entity_row in entity_rows:
        at_us = entity_row[time]
        row = dict(entity_row)
        for use in uses:
            key = tuple(entity_row[column] for column in use.key_columns)
            best = winner(use.rows, key, at_us, as_of=as_of, known_until_us=known_until_us)
            names = list(use.features.values())
            found = answer(best, at_us, names, ttl_us=use.ttl_us, grace_us=use.grace_us)
            row |= {column: found.values[name] for column, name in use.features.items()}
            if use.status is not None:
                row[use.status] = int(found.status)
        out.append(row)
    return out


def changes(
    uses: Sequence[Use],
    *,
    start_us: int | None = None,
    end_us: int | None = None,
    time: str = "event_timestamp",
    as_of: AsOf = "known",
    known_until_us: int | None = None,
) -> list[dict[str, Value]]:
    """The entity rows of a training set without an entity frame: each key at each instant of
    `[start_us, end_us)` at which one of the uses has another winner than 1 µs before. They come by
    time, then by key, in the key columns of the first use."""
    found = set()
    for use in uses:
        for row in use.rows:
            for at_us in (row.event_us, row.known_us):
                before, now = (
                    winner(use.rows, row.key, t, as_of=as_of, known_until_us=known_until_us)
                    for t in (at_us - 1, at_us)
                )
                inside = (start_us is None or start_us <= at_us) and (
                    end_us is None or at_us < end_us
                )
                if inside and now is not None and (before is None or rank(before) != rank(now)):
                    keys = dict(zip(use.key_columns, row.key, strict=True))
                    found.add((at_us, tuple(keys[name] for name in uses[0].key_columns)))
    return [
        dict(zip(uses[0].key_columns, key, strict=True)) | {time: at_us}
        for at_us, key in sorted(found)
    ]


def latest(
    rows: Iterable[Row],
    *,
    known_after_us: int | None = None,
    known_until_us: int | None = None,
    event_from_us: int | None = None,
    event_to_us: int | None = None,
) -> dict[Key, Row]:
    """Per key the greatest row, tombstones included, of those with `known_after_us < known ≤
    known_until_us` and `event_from_us ≤ event time < event_to_us`; a bound of None is open."""
    best: dict[Key, Row] = {}
    for row in rows:
        inside = (
            (known_after_us is None or known_after_us < row.known_us)
            and (known_until_us is None or row.known_us <= known_until_us)
            and (event_from_us is None or event_from_us <= row.event_us)
            and (event_to_us is None or row.event_us < event_to_us)
        )
        if inside and (row.key not in best or rank(row) > rank(best[row.key])):
            best[row.key] = row
    return best


# --- materialization ------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class OnlineTable:
    """What the online store holds of one view after a sequence of runs, and what it answers.

    Every run is given the rows that the source's files hold at that moment, and the clock. A row
    only ever gives way to a greater one, in whatever order they are written.
    """

    ttl_us: int | None = None
    grace_us: int | None = None
    lateness_us: int = 0
    watermark_us: int | None = None
    held: dict[Key, Row] = field(default_factory=dict)

    @property
    def reach_us(self) -> int | None:
        """How old a row may be and still decide between OUTSIDE_MAX_AGE and NOT_FOUND."""
        if self.ttl_us is None:
            return None
        return self.ttl_us + (self.ttl_us if self.grace_us is None else self.grace_us)

    def write(self, rows: Iterable[Row]) -> None:
        """Keep each row that is greater than what is held of its key."""
        for row in rows:
            if row.key not in self.held or rank(row) > rank(self.held[row.key]):
                self.held[row.key] = row

    def incremental(self, rows: Sequence[Row], now_us: int, *, end_us: int | None = None) -> None:
        """Take what became known in `(watermark − lateness, end]`; the watermark moves to `end`.

        The end is now at the latest. The first run takes all that is known by the end and young
        enough to change an answer.
        """
        end_us = now_us if end_us is None else min(end_us, now_us)
        if self.watermark_us is None:
            self._take_whole(rows, now_us, end_us)
            return
        self.write(
            latest(
                rows, known_after_us=self.watermark_us - self.lateness_us, known_until_us=end_us
            ).values()
        )
        self.watermark_us = max(end_us, self.watermark_us)

    def interval(self, rows: Sequence[Row], now_us: int, *, start_us: int, end_us: int) -> None:
        """Take the rows with an event time in `[start, end)`, as far as they are known by now.

        An interval that joins the watermark also takes what became known since, and moves it.
        """
        end_us = min(end_us, now_us)
        self.write(
            latest(rows, known_until_us=now_us, event_from_us=start_us, event_to_us=end_us).values()
        )
        if self.watermark_us is not None and start_us <= self.watermark_us < end_us:
            self.incremental(rows, now_us, end_us=end_us)

    def replace(self, rows: Sequence[Row], now_us: int) -> None:
        """Begin again in a new generation: what the source no longer holds is gone."""
        self.held = {}
        self._take_whole(rows, now_us, now_us)

    def lookup(self, key: Key, at_us: int, features: Sequence[str]) -> Answer:
        """The online answer at `at_us`: the held row's age is judged when it is read."""
        row = self.held.get(key)
        return answer(row, at_us, features, ttl_us=self.ttl_us, grace_us=self.grace_us)

    def _take_whole(self, rows: Sequence[Row], now_us: int, end_us: int) -> None:
        oldest = None if self.reach_us is None else now_us - self.reach_us
        self.write(latest(rows, known_until_us=end_us, event_from_us=oldest).values())
        self.watermark_us = end_us


# --- comparing ------------------------------------------------------------------------------------


def same(left: Value, right: Value) -> bool:
    """Whether two values are the same to the last bit and of one type: 1 is not 1.0, 0.0 is not
    −0.0, and the decimals 1.1 and 1.10 are one number."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Decimal) and isinstance(right, Decimal):
        return left == right
    return type(left) is type(right) and repr(left) == repr(right)

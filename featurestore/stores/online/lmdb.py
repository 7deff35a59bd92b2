"""The embedded online store: one LMDB environment in a folder, many reader processes, one writer
at a time.

An entry is one row. Its LMDB key is the store key followed by the field, so that all views of an
entity lie side by side; its value is the row behind its expiry (int64 µs, little endian).

LMDB's keys end at 511 bytes. A store key that is longer than 502 bytes is cut and hashed: its first
471 bytes, their SHA-256 and the field, 511 bytes together, a length that no other entry has. The
value then also holds the whole key (behind the expiry, after its length in 4 bytes), so that prefix
scans and reads compare the real one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from operator import add, lt
from pathlib import Path
from typing import ClassVar, Self

from featurestore.config import OnlineSettings
from featurestore.errors import InvalidSettings, StoreReadOnly
from featurestore.stores.online import lmdb_environment
from featurestore.stores.online.base import (
    FIELD_BYTES,
    Capabilities,
    KeyFields,
    OnlineStore,
    RowBatch,
    Swap,
    Tie,
    WriteResult,
    revision_of,
)
from featurestore.stores.online.checks import check_batch, check_field, check_keys, check_swaps
from featurestore.stores.online.lmdb_environment import Txn

LMDB_KEY_BYTES = 511
SHORT_KEY_BYTES_MAX = LMDB_KEY_BYTES - FIELD_BYTES - 1
_KEPT_BYTES = LMDB_KEY_BYTES - FIELD_BYTES - hashlib.sha256().digest_size

TRANSACTION_BYTES_MAX = 64 * 1024 * 1024
"""Rows written in one transaction: what is not committed yet is held in memory."""
SWEEP_ENTRIES_MAX = 10_000
"""Entries that one step of a sweep looks at; writers wait for as long."""

PROBES = 64
"""Entries that are looked up before a part of a batch is taken to be new."""

NEVER_US = 2**63 - 1
_EXPIRY = struct.Struct("<q")
_TIMES = struct.Struct("<xqxq")
_KEY_LENGTH = struct.Struct("<I")


class LmdbStore(OnlineStore):
    """The store in a folder. Several in one process may name one folder; they share its files."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        expires="none", shared=False, ordered_writes=True
    )

    def __init__(
        self,
        folder: str | Path,
        *,
        read_only: bool = False,
        map_size_mb: int = 256,
        timeout_ms: int = 1000,
    ) -> None:
        self._shared = lmdb_environment.acquire(Path(folder), map_size_mb * 1024 * 1024)
        self._read_only = read_only
        self._timeout_ms = timeout_ms
        self._open = True

    @classmethod
    def open(cls, settings: OnlineSettings, *, root: Path, read_only: bool = False) -> Self:
        """`lmdb:folder` or `lmdb://folder`, relative to `root`. Makes no files: the first write
        does. Raises `InvalidSettings` where the URL names no folder."""
        folder = settings.url.partition(":")[2].removeprefix("//")
        if not folder:
            raise InvalidSettings(f"{settings.url!r} names no folder; write lmdb:path/to/folder")
        return cls(
            root / folder,
            read_only=read_only,
            map_size_mb=settings.map_size_mb,
            timeout_ms=settings.timeout_ms,
        )

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._shared.folder

    def read(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """Row bytes in the order asked; None where absent. About 2 µs a key."""
        rows = self._shared.read(partial(_read, reads), timeout_ms=timeout_ms or self._timeout_ms)
        return [[None] * len(read.fields) for read in reads] if rows is None else rows

    async def read_async(
        self, reads: Sequence[KeyFields], *, timeout_ms: int | None = None
    ) -> list[list[bytes | None]]:
        """`read`, inline: handing 2 µs to another thread would take longer."""
        return self.read(reads, timeout_ms=timeout_ms)

    def write(self, batch: RowBatch) -> WriteResult:
        """Write the newer rows, in transactions of at most `TRANSACTION_BYTES_MAX`."""
        self._refuse_if_read_only()
        check_batch(batch)
        results = [self._write_part(batch, *part) for part in _parts(batch)]
        return WriteResult(
            written=sum(result.written for result in results),
            same=sum(result.same for result in results),
            older=sum(result.older for result in results),
            ties=tuple(tie for result in results for tie in result.ties),
        )

    def _write_part(self, batch: RowBatch, start: int, stop: int, size: int) -> WriteResult:
        items = _new_items(batch, start, stop)
        if items is not None:
            with suppress(_StoredAlready):
                return self._shared.write(partial(_write_new, *items), bytes_more=size)
        return self._shared.write(partial(_write, batch, start, stop), bytes_more=size)

    def replace(
        self, field: bytes, key: bytes, *, expected: bytes, row: bytes, expire_at_us: int | None
    ) -> bool:
        """Compare-and-set in one transaction."""
        self._refuse_if_read_only()
        check_field(field)
        check_keys([key])
        place, lead = _entry(key, field)
        expiry = NEVER_US if expire_at_us is None else expire_at_us

        def work(txn: Txn) -> bool:
            stored = txn.get(place)
            if stored is None or stored[8:] != lead + expected:
                return False
            if not row:
                return txn.delete(place)
            return txn.put(place, _EXPIRY.pack(expiry) + lead + row)

        return self._shared.write(work, bytes_more=len(row) + len(key))

    def swap(self, fields: tuple[bytes, ...], swaps: Sequence[Swap]) -> list[bool]:
        """Compare-and-swap by revision, in transactions of about `TRANSACTION_BYTES_MAX`."""
        self._refuse_if_read_only()
        check_swaps(fields, swaps)
        swapped: list[bool] = []
        start = size = 0
        for stop, swap in enumerate(swaps, 1):
            size += len(fields) * len(swap.key) + sum(map(len, swap.values))
            if size >= TRANSACTION_BYTES_MAX or stop == len(swaps):
                work = partial(_swap, fields, swaps[start:stop])
                swapped += self._shared.write(work, bytes_more=2 * size)
                start, size = stop, 0
        return swapped

    def sweep(
        self, prefix: bytes, *, keep: Iterable[bytes], older_than_us: int | None = None
    ) -> Iterator[int]:
        """Free rows of other fields than `keep`, and expired ones, a bounded step at a time."""
        self._refuse_if_read_only()
        return self._steps(prefix, frozenset(keep), older_than_us)

    def _steps(
        self, prefix: bytes, keep: frozenset[bytes], older_than_us: int | None
    ) -> Iterator[int]:
        place: bytes | None = prefix[:_KEPT_BYTES]
        limit_us = -NEVER_US if older_than_us is None else older_than_us
        while place is not None and self._shared.exists():
            work = partial(_sweep_step, prefix, keep, limit_us, place)
            freed, place = self._shared.write(work)
            yield freed

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        """The keys that begin with `prefix`, in the order of LMDB's keys."""
        place: bytes | None = prefix[:_KEPT_BYTES]
        while place is not None:
            work = partial(_scan_step, prefix, place)
            found = self._shared.read(work, timeout_ms=self._timeout_ms)
            if found is None:
                return
            keys, place = found
            yield keys

    def ping(self, *, timeout_ms: int | None = None) -> None:
        """Return if the files can be read (or are not there yet)."""
        self.read([], timeout_ms=timeout_ms)

    def close(self) -> None:
        """Give the environment back; the last store on it closes its files."""
        if self._open:
            self._open = False
            lmdb_environment.release(self._shared)

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise StoreReadOnly(f"the online store in {self._shared.folder} was opened read-only")


def _entry(key: bytes, field: bytes) -> tuple[bytes, bytes]:
    """The LMDB key of a row, and what its value holds between expiry and row."""
    if len(key) <= SHORT_KEY_BYTES_MAX:
        return key + field, b""
    digest = hashlib.sha256(key).digest()
    return key[:_KEPT_BYTES] + digest + field, _KEY_LENGTH.pack(len(key)) + key


def _read(reads: Sequence[KeyFields], txn: Txn) -> list[list[bytes | None]]:
    get = txn.get
    found: list[list[bytes | None]] = []
    for read in reads:
        key = read.key
        rows: list[bytes | None] = []
        if len(key) <= SHORT_KEY_BYTES_MAX:
            for field in read.fields:
                value = get(key + field)
                rows.append(None if value is None else value[8:])
        else:
            for field in read.fields:
                place, lead = _entry(key, field)
                value = get(place)
                mine = value is not None and value.startswith(lead, 8)
                rows.append(value[8 + len(lead) :] if value is not None and mine else None)
        found.append(rows)
    return found


def _parts(batch: RowBatch) -> Iterator[tuple[int, int, int]]:
    """The batch in runs (start, stop, bytes) of at most `TRANSACTION_BYTES_MAX`."""
    total = 2 * sum(map(len, batch.keys)) + sum(map(len, batch.rows))
    if batch.keys and total <= TRANSACTION_BYTES_MAX:
        yield 0, len(batch.keys), total
        return
    start, size = 0, 0
    for index, (key, row) in enumerate(zip(batch.keys, batch.rows, strict=True)):
        more = 2 * len(key) + len(row)
        if size + more > TRANSACTION_BYTES_MAX and size:
            yield start, index, size
            start, size = index, 0
        size += more
    if batch.keys:
        yield start, len(batch.keys), size


class _StoredAlready(Exception):
    """Not all rows are new; nothing was written."""


def _new_items(batch: RowBatch, start: int, stop: int) -> tuple[list[bytes], list[bytes]] | None:
    """Places and values of a part of the batch, in LMDB's order; None where a key is too long."""
    keys, rows, field = batch.keys[start:stop], batch.rows[start:stop], batch.field
    if max(map(len, keys)) > SHORT_KEY_BYTES_MAX:
        return None
    places = [key + field for key in keys]
    if batch.expire_at_us is None:
        never = _EXPIRY.pack(NEVER_US)
        values = [never + row for row in rows]
    else:
        expiries = map(_EXPIRY.pack, map(int, batch.expire_at_us[start:stop]))
        values = list(map(add, expiries, rows))
    if all(map(lt, places, islice(places, 1, None))):
        return places, values
    order = sorted(range(len(places)), key=places.__getitem__)
    return [places[i] for i in order], [values[i] for i in order]


def _write_new(places: list[bytes], values: list[bytes], txn: Txn) -> WriteResult:
    """Put entries none of which is there yet, without looking at each from Python. Raises
    `_StoredAlready`, which ends the transaction, where one is (or two have one key)."""
    if any(txn.get(place) is not None for place in places[:: -(-len(places) // PROBES)]):
        raise _StoredAlready
    with txn.cursor() as cursor:
        _, added = cursor.putmulti(zip(places, values, strict=True), overwrite=False)
    if added < len(places):
        raise _StoredAlready
    return WriteResult(written=added, same=0, older=0)


def _write(batch: RowBatch, start: int, stop: int, txn: Txn) -> WriteResult:
    """Decide for each row against what is stored or was decided before in this batch; then put
    the winners, in key order, which fills LMDB's pages one after the other."""
    get, times, field, expiries = txn.get, _TIMES.unpack_from, batch.field, batch.expire_at_us
    keys, rows = batch.keys, batch.rows
    written = same = older = 0
    ties: list[Tie] = []
    pending: dict[bytes, bytes] = {}
    for index in range(start, stop):
        place, lead = _entry(keys[index], field)
        row = rows[index]
        expiry = NEVER_US if expiries is None else int(expiries[index])
        stored = pending.get(place) or get(place)
        if stored is not None:
            skip = 8 + len(lead)
            old = stored[skip:]
            if old == row:
                same += 1
                if _EXPIRY.unpack_from(stored)[0] < expiry:
                    pending[place] = _EXPIRY.pack(expiry) + stored[8:]
                continue
            # What is too short to be a row loses to any.
            if len(old) >= _TIMES.size:
                was, now = times(old), times(row)
                if now <= was:
                    if now == was:
                        ties.append(Tie(index, old))
                    else:
                        older += 1
                    continue
        pending[place] = _EXPIRY.pack(expiry) + lead + row
        written += 1
    with txn.cursor() as cursor:
        cursor.putmulti(sorted(pending.items()))
    return WriteResult(written=written, same=same, older=older, ties=tuple(ties))


def _swap(fields: tuple[bytes, ...], swaps: Sequence[Swap], txn: Txn) -> list[bool]:
    swapped = []
    for key, expected, values, expire_at_us in swaps:
        entries = [_entry(key, field) for field in fields]
        place, lead = entries[0]
        stored = txn.get(place)
        state = stored[8 + len(lead) :] if stored is not None else None
        swapped.append(revision_of(state) == expected)
        if swapped[-1]:
            expiry = _EXPIRY.pack(NEVER_US if expire_at_us is None else expire_at_us)
            for (place, lead), value in zip(entries, values, strict=True):
                if value:
                    txn.put(place, expiry + lead + value)
                else:
                    txn.delete(place)
    return swapped


def _sweep_step(
    prefix: bytes, keep: frozenset[bytes], limit_us: int, place: bytes, txn: Txn
) -> tuple[int, bytes | None]:
    """Look at `SWEEP_ENTRIES_MAX` entries from `place` on: how many were freed, and where to go
    on (None: nowhere)."""
    freed = 0
    with txn.cursor() as cursor:
        there = cursor.set_range(place)
        for _ in range(SWEEP_ENTRIES_MAX):
            if not there or not cursor.key().startswith(prefix[:_KEPT_BYTES]):
                return freed, None
            entry, value = cursor.item()
            key = _store_key(entry, value)
            # What is too short to have an expiry is damaged, and stays to be reported.
            stale = entry[-FIELD_BYTES:] not in keep or (
                len(value) >= _EXPIRY.size and _EXPIRY.unpack_from(value)[0] < limit_us
            )
            if stale and key.startswith(prefix):
                freed += 1
                # Deleting moves the cursor to the next entry.
                cursor.delete()
                there = bool(cursor.key())
            else:
                there = cursor.next()
        return freed, cursor.key() if there else None


def _scan_step(prefix: bytes, place: bytes, txn: Txn) -> tuple[list[bytes], bytes | None]:
    """The keys among `SWEEP_ENTRIES_MAX` entries from `place` on, and where to go on."""
    keys = dict[bytes, None]()
    with txn.cursor() as cursor:
        there = cursor.set_range(place)
        for _ in range(SWEEP_ENTRIES_MAX):
            if not there or not cursor.key().startswith(prefix[:_KEPT_BYTES]):
                return list(keys), None
            key = _store_key(*cursor.item())
            if key.startswith(prefix):
                keys[key] = None
            there = cursor.next()
        return list(keys), cursor.key() if there else None


def _store_key(entry: bytes, value: bytes) -> bytes:
    if len(entry) < LMDB_KEY_BYTES:
        return entry[:-FIELD_BYTES]
    (length,) = _KEY_LENGTH.unpack_from(value, 8)
    return value[12 : 12 + length]

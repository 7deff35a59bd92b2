"""Which pushed rows are as if they had never been: their key was deleted after they were known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compiler.deletions import DELETED_AT_US, deleting, deletions_name
from featurestore.compiler.rel import ARRIVED
from featurestore.jobs.project import DELETIONS_FOLDER, deletion_files
from featurestore.jobs.push_tables import known_us

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedView
    from featurestore.jobs.materialize import Context

Until = dict[tuple[Any, ...], int]


class Erasure:
    """Leaves deleted rows of `view` out. What was deleted is read again when it has changed."""

    def __init__(self, context: Context, view: TypedView) -> None:
        self._context = context
        self._view = view
        self._known: dict[str, tuple[object, Until]] = {}

    def kept(self, rows: pa.Table) -> pa.Table:
        """The rows (the source's columns, and `ARRIVED`) that were not deleted."""
        known = known_us(self._view.source, rows)
        arrived = rows[ARRIVED].cast(pa.int64()).to_numpy()
        # Only what was known before it came can have been deleted by then.
        if not (known < arrived).any():
            return rows
        context, offline = self._context, self._context.offline
        if offline is None:
            return rows
        files = deletion_files(context.repo, offline)
        gone = np.zeros(rows.num_rows, dtype=bool)
        for entity in deleting(self._view, context.repo, files):
            until = self._deleted(entity.name, files[deletions_name(entity.name)].pin)
            columns = [rows[key.name].to_pylist() for key in entity.keys]
            for row, key in enumerate(zip(*columns, strict=True)):
                gone[row] |= int(known[row]) <= until.get(key, int(known[row]) - 1)
        return rows.filter(pc.invert(pa.array(gone))) if gone.any() else rows

    def _deleted(self, entity: str, pin: object) -> Until:
        """Until when the rows of each deleted key count as deleted."""
        seen = self._known.get(entity)
        if seen is not None and seen[0] == pin:
            return seen[1]
        offline, found = self._context.offline, Until()
        assert offline is not None  # noqa: S101 - `kept` has seen to that
        for kept in offline.list(f"{DELETIONS_FOLDER}/{entity}"):
            table = offline.read(kept.name)
            names = [key.name for key in self._context.repo.entities[entity].keys]
            keys = zip(*(table[name].to_pylist() for name in names), strict=True)
            for key, at_us in zip(keys, table[DELETED_AT_US].to_pylist(), strict=True):
                found[key] = max(at_us, found.get(key, at_us))
        self._known[entity] = (pin, found)
        return found

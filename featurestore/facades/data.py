"""`fs.data`: versions of the data that we keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.jobs.access import Asker
    from featurestore.jobs.data_versions import DataDiff, Vacuumed, Version
    from featurestore.jobs.materialize import Context
    from featurestore.jobs.pushed_diff import TableDiff
    from featurestore.jobs.pushed_restore import RestoredTable, VacuumedTable
    from featurestore.jobs.pushed_versions import TableState, TableVersion
    from featurestore.jobs.training_sets import SetStore, TrainingSet


class DataVersions:
    """The questions and moves of `fs.data`.

    Training sets are named by `name` (what it means now), `name/tag`, `name/3` or an id; what was
    pushed to a source by `pushed/<source>` (now), `pushed/<source>/<tag>`, or an instant,
    `pushed/<source>/2026-11-26T18:00:00Z`. All raise `RecordNotFound`; for pushed rows also
    `UnknownSource` (nothing was pushed to it) and `SnapshotMissing` (a version was vacuumed).
    """

    def __init__(
        self,
        sets: Callable[[], SetStore],
        asker: Callable[[], Asker],
        context: Callable[[], Context],
    ) -> None:
        self._sets = sets
        self._asker = asker
        self._context = context

    def log(
        self, name: str, *, limit: int = 1_000
    ) -> tuple[Version, ...] | tuple[TableVersion, ...]:
        """The newest `limit` versions of a training set or of pushed rows, newest first."""
        from featurestore.jobs import data_versions, pushed_versions

        if pushed_versions.is_pushed(name):
            return pushed_versions.log(name, self._context(), limit=limit)
        return data_versions.log(name, self._sets())[:limit]

    def diff(self, then: str, now: str, *, limit: int = 20) -> DataDiff | TableDiff:
        """What differs between two training sets (definitions, sources, settings, rows), or between
        two versions of pushed rows (rows and keys, of which the first `limit` are listed; shown to
        whoever may `read` what is called like the source)."""
        from featurestore.jobs import access, data_versions, pushed_diff, pushed_versions

        if pushed_versions.is_pushed(then):
            access.check(self._asker(), "read", pushed_versions.source_of(then))
            return pushed_diff.diff(then, now, self._context(), limit=limit)
        return data_versions.diff(then, now, self._sets())

    def restore(
        self, ref: str, *, reason: str = "", live: bool = False
    ) -> TrainingSet | RestoredTable:
        """Make a training set's name mean this version again, or pushed rows what they were; what
        came later stays on record.

        Pushed rows: online tables hold what was there until the next `materialize`; a warning
        (`OnlineDiffersWarning`) names their views. Raises `StreamWrites` where a stream brings
        rows, unless `live`; `CommitConflict` where another restore was first.
        """
        from featurestore.jobs import (
            access,
            data_versions,
            pushed_restore,
            pushed_versions,
            training_sets,
        )

        if pushed_versions.is_pushed(ref):
            source = pushed_versions.source_of(ref)
            asker = self._asker()
            who = access.admit(asker, "delete", source)
            access.note(asker.registry, who, "delete", source, detail=f"restore {ref}")
            return pushed_restore.restore(
                ref, self._context(), reason=reason, author=who, live=live
            )
        name = training_sets.find(ref, self._sets().registry).record.name
        access.authorize(self._asker(), "track", name, detail="restore")
        return data_versions.restore(ref, self._sets(), reason=reason)

    def tag(self, ref: str, tag: str, *, move: bool = False) -> TrainingSet | TableState:
        """Give a version a tag (`move`: also one that another version has)."""
        from featurestore.jobs import access, data_versions, pushed_versions, training_sets

        if pushed_versions.is_pushed(ref):
            source = pushed_versions.source_of(ref)
            access.authorize(self._asker(), "track", source, detail=f"tag {tag}")
            return pushed_versions.tag(ref, tag, self._context(), move=move)
        name = training_sets.find(ref, self._sets().registry).record.name
        access.authorize(self._asker(), "track", name, detail=f"tag {tag}")
        return data_versions.tag(ref, tag, self._sets(), move=move)

    def vacuum(
        self, source: str, *, older_than: str = "7d", dry_run: bool = True
    ) -> Vacuumed | VacuumedTable:
        """Remove the files of a source's Delta table that are not of its present version, are
        older, and were read by no training set on record; or, of `pushed/<source>`, the rows that a
        restore hides, but for those that a tag has or that counted since then. With `dry_run` only
        say which."""
        from featurestore.jobs import access, data_versions, pushed_restore, pushed_versions

        older_than_us = access.duration_us(older_than)
        context = self._context()
        if not dry_run:
            name = pushed_versions.source_of(source)
            access.authorize(self._asker(), "delete", name, detail="vacuum")
        if pushed_versions.is_pushed(source):
            return pushed_restore.vacuum(
                source, context, older_than_us=older_than_us, dry_run=dry_run
            )
        return data_versions.vacuum(
            source, self._sets(), context.repo, older_than_us=older_than_us, dry_run=dry_run
        )

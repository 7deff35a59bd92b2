"""`fs.data`: versions of the data that we keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.jobs.access import Asker
    from featurestore.jobs.data_versions import DataDiff, Vacuumed, Version
    from featurestore.jobs.training_sets import SetStore, TrainingSet


class DataVersions:
    """The questions and moves of `fs.data`. Training sets are named by `name` (what it means now),
    `name/tag`, `name/3` or an id; all raise `RecordNotFound`."""

    def __init__(
        self,
        sets: Callable[[], SetStore],
        asker: Callable[[], Asker],
        repo: Callable[[], TypedRepo],
    ) -> None:
        self._sets = sets
        self._asker = asker
        self._repo = repo

    def log(self, name: str) -> tuple[Version, ...]:
        """The versions of a training set, newest first."""
        from featurestore.jobs import data_versions

        return data_versions.log(name, self._sets())

    def diff(self, then: str, now: str) -> DataDiff:
        """What differs between two training sets: definitions, sources, settings, rows."""
        from featurestore.jobs import data_versions

        return data_versions.diff(then, now, self._sets())

    def restore(self, ref: str, *, reason: str = "") -> TrainingSet:
        """Make the name mean this version again; what came later stays on record."""
        from featurestore.jobs import access, data_versions, training_sets

        name = training_sets.find(ref, self._sets().registry).record.name
        access.authorize(self._asker(), "track", name, detail="restore")
        return data_versions.restore(ref, self._sets(), reason=reason)

    def tag(self, ref: str, tag: str, *, move: bool = False) -> TrainingSet:
        """Give a version a tag (`move`: also one that another version has)."""
        from featurestore.jobs import access, data_versions, training_sets

        name = training_sets.find(ref, self._sets().registry).record.name
        access.authorize(self._asker(), "track", name, detail=f"tag {tag}")
        return data_versions.tag(ref, tag, self._sets(), move=move)

    def vacuum(self, source: str, *, older_than: str = "7d", dry_run: bool = True) -> Vacuumed:
        """Remove the files of a Delta table that are not of its present version, are older, and
        were read by no training set on record; with `dry_run` only say which."""
        from featurestore.jobs import access, data_versions

        older_than_us = access.duration_us(older_than)
        if not dry_run:
            access.authorize(self._asker(), "delete", source, detail="vacuum")
        return data_versions.vacuum(
            source, self._sets(), self._repo(), older_than_us=older_than_us, dry_run=dry_run
        )

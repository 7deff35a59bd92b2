"""Deleted entities: which rows of a view are as if they had never been.

`delete-entity` writes a file of keys with the instant of their deletion, one set of files for each
entity. A row of such a key that was known by then counts no more, at whatever time is asked about,
in training sets and materializations alike; a row that becomes known later counts. These files
stand among a job's files under a name that no source can have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from featurestore.compiler.rel import DataFiles, Erased, Scan
from featurestore.compiler.typed import TypedEntity, TypedRepo, TypedView
from featurestore.dtypes import INT64

DELETED_AT_US = "deleted_at_us"
"""The column that stands beside the join keys."""
_PREFIX = "deletions of "


def deletions_name(entity: str) -> str:
    """The name under which a job's files hold the deletions of an entity."""
    return _PREFIX + entity


def reaches(entity: TypedEntity, view: TypedView) -> bool:
    """Whether deleting a key of `entity` deletes rows of `view`: it is one of the view's entities,
    or its join keys are a part of the view's composite key."""
    keys = {(key.name, key.dtype) for key in view.keys}
    own = {(key.name, key.dtype) for key in entity.keys}
    return entity.name in view.entities or own < keys


def erased(view: TypedView, repo: TypedRepo, files: Mapping[str, DataFiles]) -> tuple[Erased, ...]:
    """What is deleted of the rows of `view`, as far as `files` know."""
    return tuple(_erased(e, files[deletions_name(e.name)]) for e in deleting(view, repo, files))


def deleting(view: TypedView, repo: TypedRepo, names: Iterable[str]) -> tuple[TypedEntity, ...]:
    """The entities with deletions among `names` that reach `view`."""
    return tuple(
        entity
        for entity in repo.entities.values()
        if deletions_name(entity.name) in names and reaches(entity, view)
    )


def _erased(entity: TypedEntity, files: DataFiles) -> Erased:
    dtypes = {key.name: key.dtype for key in entity.keys} | {DELETED_AT_US: INT64}
    return Erased(
        rows=Scan(
            source=deletions_name(entity.name),
            files=files,
            columns={name: name for name in dtypes},
            dtypes=dtypes,
        ),
        keys=tuple(key.name for key in entity.keys),
        known_until_us=DELETED_AT_US,
    )

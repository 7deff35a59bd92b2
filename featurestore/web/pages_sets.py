"""Pages about training sets: what they hold, what they were made of, and rebuilding them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from featurestore.errors import RecordNotFound
from featurestore.lifecycle.datasets import Splits
from featurestore.records import StoredRecord
from featurestore.web.pages import show, site_of
from featurestore.web.profiles import figures, profile_of

router = APIRouter()

KIND = "training_set"
SETS_SHOWN_MAX = 200


@router.get("/training-sets")
def training_sets(request: Request) -> Response:
    """The newest sets, the newest of each name marked."""
    registry = site_of(request).store.registry
    newest = {alias.target for alias in registry.aliases(f"{KIND}/").values()}
    stored = registry.glances(kind=KIND, newest=SETS_SHOWN_MAX + 1, with_parents=False)[::-1]
    return show(
        request, "training_sets.html", sets=stored[:SETS_SHOWN_MAX], newest=newest,
        cut=len(stored) > SETS_SHOWN_MAX,
    )  # fmt: skip


@router.get("/training-sets/{name}")
def training_set(request: Request, name: str, version: str = "") -> Response:
    """One set: the newest of its name, or another `version`."""
    stored = _find(request, name, version)
    return _show(request, stored, rebuilt=None)


@router.post("/training-sets/{name}")
def rebuild(request: Request, name: str, version: str = "") -> Response:
    """Rebuild it from its pins and say whether it is the same."""
    stored = _find(request, name, version)
    store = site_of(request).acting(request.state.token)
    return _show(request, stored, rebuilt=store.reproduce(stored.id))


def _show(request: Request, stored: StoredRecord, *, rebuilt: Any) -> Response:
    store = site_of(request).store
    body = stored.record.body
    columns = [
        (name, str(column["type"]), figures(column))
        for name, column in profile_of(store.registry, body).items()
    ]
    splits = body.get("splits")
    parents = store.registry.records(ids=[edge.parent for edge in stored.record.parents])
    below = store.lineage.of(stored.id, up=False)
    return show(
        request, "training_set.html", stored=stored, body=body, columns=columns, rebuilt=rebuilt,
        splits=Splits.from_json(splits).describe() if splits else {},
        snapshots=[one for one in parents if one.record.kind == "snapshot"],
        services=[one for one in parents if one.record.kind == "service"],
        versions=store.registry.records(kind=KIND, name=stored.record.name)[::-1], below=below,
    )  # fmt: skip


def _find(request: Request, name: str, version: str) -> StoredRecord:
    registry = site_of(request).store.registry
    found = registry.records(kind=KIND, name=name)
    fitting = [one for one in found if one.record.hash.startswith(version)] if version else found
    if not fitting:
        known = {one.record.name for one in registry.records(kind=KIND)}
        raise RecordNotFound(f"training_set:{name}@{version}".rstrip("@"), known=known)
    return fitting[-1]

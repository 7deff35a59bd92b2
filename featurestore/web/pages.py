"""Pages about definitions: the catalogue, objects, the lineage graph, the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from featurestore.compiler.changes import Category
from featurestore.errors import FeatureStoreError, RecordNotFound
from featurestore.fingerprint import canonical_json, short
from featurestore.jobs.lineage_freshness import watermarks
from featurestore.timeline import format_duration
from featurestore.web import graph
from featurestore.web.catalogue import KINDS, Catalogue, Item
from featurestore.web.profiles import newest_profiles

if TYPE_CHECKING:
    from featurestore.records import StoredRecord
    from featurestore.web.render import Renderer
    from featurestore.web.site import Site

router = APIRouter()

VERSIONS_SHOWN_MAX = 20
SHOWN_CHARS_MAX = 200
_HASHES = ("version", "data_hash", "metadata_hash", "storage_hash", "columns_hash", "tree", "blob")


def site_of(request: Request) -> Site:
    """What is shown."""
    site: Site = request.app.state.site
    return site


def show(request: Request, template: str, **values: Any) -> HTMLResponse:
    """A page."""
    renderer: Renderer = request.app.state.renderer
    return renderer.page(request, template, **values)


@router.get("/")
def catalogue(request: Request, q: str = "", kind: str = "") -> Response:
    """What there is, searched."""
    found = site_of(request).catalogue()
    wanted = kind if kind in KINDS else ""
    if q or wanted:
        hits = found.search(q, kind=wanted)
    else:
        views = [*found.of("view"), *found.of("on_demand_view")]
        hits = type(found.search(""))(tuple(views), len(views))
    counts = {each: len(found.of(each)) for each in KINDS}
    template = "results.html" if request.headers.get("x-part") else "catalogue.html"
    return show(
        request, template, q=q, wanted_kind=wanted, hits=hits, counts=counts, catalogue=found,
        freshness=_watermarks(request),
    )  # fmt: skip


@router.get("/views/{name}")
def view(request: Request, name: str) -> Response:
    """A view, its features, their statistics, versions and users."""
    site, found = site_of(request), site_of(request).catalogue()
    item = found.get("view", name) or found.get("on_demand_view", name)
    if item is None:
        raise _unknown(found, name, "view", "on_demand_view")
    features = found.features.get(name, ())
    return show(
        request, "view.html", item=item, features=features, catalogue=found,
        users=sorted(found.users.get(name, ())), versions=versions_of(site, item),
        watermark=_watermarks(request).get(name),
        profiles=newest_profiles(site.store.registry, name, features),
    )  # fmt: skip


@router.get("/services/{name}")
def service(request: Request, name: str) -> Response:
    """A service: what it reads and how fresh that is."""
    site, found = site_of(request), site_of(request).catalogue()
    item = found.get("service", name)
    if item is None:
        raise _unknown(found, name, "service")
    return show(
        request, "service.html", item=item, catalogue=found, versions=versions_of(site, item),
        watermarks=_watermarks(request),
    )  # fmt: skip


@router.get("/sources/{name}")
def source(request: Request, name: str) -> Response:
    """A source and the views that read it."""
    site, found = site_of(request), site_of(request).catalogue()
    item = found.get("source", name) or found.get("request_source", name)
    if item is None:
        raise _unknown(found, name, "source", "request_source")
    readers = [one for one in found.of("view") if one.body.get("source") == name]
    readers += [one for one in found.of("on_demand_view") if name in one.body.get("inputs", ())]
    return show(
        request, "source.html", item=item, readers=readers, versions=versions_of(site, item)
    )


@router.get("/entities/{name}")
def entity(request: Request, name: str) -> Response:
    """An entity and the views that are about it."""
    site, found = site_of(request), site_of(request).catalogue()
    item = found.get("entity", name)
    if item is None:
        raise _unknown(found, name, "entity")
    views = [one for one in found.of("view") if name in one.body["entities"]]
    return show(request, "entity.html", item=item, views=views, versions=versions_of(site, item))


@router.get("/lineage")
def lineage(request: Request, focus: str = "") -> Response:
    """The graph; `graph.js` asks `/api/graph` for what it draws."""
    return show(request, "lineage.html", focus=focus, kinds=graph.KINDS)


@router.get("/plan")
def plan(request: Request) -> Response:
    """What an apply of the folder would change."""
    site = site_of(request)
    try:
        changes, problem = site.plan(), None
    except FeatureStoreError as error:
        changes, problem = None, error
    signs = {Category.METADATA: ".", Category.ADDITIVE: "+", Category.BREAKING: "!"}
    return show(request, "plan.html", plan=changes, problem=problem, signs=signs)


def versions_of(site: Site, item: Item) -> list[tuple[StoredRecord, list[str]]]:
    """The newest records of an object, newest first, each with what it changed in the one before.
    A record that differs by its parents alone says nothing of its own and is left out."""
    found: list[tuple[StoredRecord, list[str]]] = []
    before: Mapping[str, Any] | None = None
    for one in site.store.registry.records(kind=item.kind, name=item.name):
        body = one.record.body
        changes = [] if before is None else list(_changes(before, body))
        if before is None or changes:
            found.append((one, changes))
        before = body
    return found[::-1][:VERSIONS_SHOWN_MAX]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two bodies, in words."""
    for name in sorted(before.keys() | after.keys()):
        if name in _HASHES or before.get(name) == after.get(name):
            continue
        old, new = (_shown(name, body.get(name)) for body in (before, after))
        yield f"{name.removesuffix('_us').replace('_', ' ')}: {old} → {new}"
    if before.get("version") != after.get("version"):
        yield f"version {short(str(before.get('version')))} → {short(str(after.get('version')))}"


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_us") and isinstance(value, int):
        return format_duration(value)
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"


def _watermarks(request: Request) -> dict[str, int]:
    """Up to which instant each view that the environment serves is materialized."""
    site = site_of(request)
    now_us = site.store.clock.now_us()
    return watermarks(site.store.registry, environment=site.environment, at_us=now_us)


def _unknown(catalogue: Catalogue, name: str, *kinds: str) -> RecordNotFound:
    known = [one.name for kind in kinds for one in catalogue.of(kind)]
    return RecordNotFound(name, known=known)

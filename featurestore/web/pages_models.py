"""Pages about models: versions, stages, requests, and the buttons of those who decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from featurestore.lifecycle.promotions import is_open
from featurestore.web.pages import show, site_of

if TYPE_CHECKING:
    from featurestore.jobs.models import Staged

router = APIRouter()

Verb = Literal["approve", "reject", "withdraw"]


@router.get("/models")
def models(request: Request) -> Response:
    """Every model: its versions in their stages, and what waits for a decision."""
    store = site_of(request).store
    staged = store.models.list()
    names: dict[str, list[Staged]] = {}
    for one in staged:
        names.setdefault(one.version.name, []).append(one)
    waiting = [one for one in store.models.promotions() if is_open(one.state)]
    return show(request, "models.html", names=names, waiting=waiting)


@router.get("/models/{name}")
def model(request: Request, name: str) -> Response:
    """One model: versions, requests, history."""
    store = site_of(request).store
    staged = store.models.list(name)
    promotions = store.models.promotions(name)[::-1]
    reports = {one.id: store.models.report(one.id) for one in promotions if one.report}
    return show(
        request, "model.html", name=name, staged=staged[::-1], promotions=promotions,
        reports=reports, history=store.models.history(name)[::-1], is_open=is_open,
        asks_name=not site_of(request).needs_token(),
    )  # fmt: skip


@router.post("/promotions/{request_id}/{verb}")
def decide(request: Request, request_id: str, verb: Verb) -> Response:
    """Approve, reject or withdraw a request as whoever is signed in; without access control, as the
    name that the form gives."""
    site, form = site_of(request), request.state.form
    facade = site.acting(request.state.token).models
    by = None if site.needs_token() else form.get("by", "").strip() or None
    reason = form.get("reason", "").strip()
    match verb:
        case "approve":
            promotion = facade.approve(request_id, by=by, reason=reason)
        case "reject":
            promotion = facade.reject(request_id, by=by, reason=reason)
        case "withdraw":
            promotion = facade.withdraw(request_id, by=by, reason=reason)
    return RedirectResponse(f"/models/{promotion.name}#{promotion.id}", 303)

"""The same answers as JSON: graph, questions, training sets, runs, models, promotions, the plan.

Programs show a bearer token where access control is on; instants are ISO 8601.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from featurestore.facades.answers import to_plain
from featurestore.facades.lineage import LineageQuestions
from featurestore.jobs.pushed_restore import RestoredTable
from featurestore.jobs.pushed_versions import TableState
from featurestore.jobs.training_sets import TrainingSet
from featurestore.web import graph_reads
from featurestore.web.graph import url_of
from featurestore.web.pages import site_of
from featurestore.web.pages_sets import KIND as TRAINING_SET

router = APIRouter(prefix="/api")

FOUND_MAX = 20
RUNS_MAX = 1_000
VERSIONS_MAX = 1_000


class Decision(BaseModel):
    """`by` is asked where no access control proves who decides."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""
    by: str | None = None


class Move(BaseModel):
    """Why something is restored; `live`: also while a stream writes to it."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""
    live: bool = False


class Keys(BaseModel):
    """Keys of an entity: `[{"tailnum": "N1"}, …]`."""

    model_config = ConfigDict(extra="forbid")

    entity: str
    keys: list[dict[str, Any]]
    dry_run: bool = True
    at: str | None = None


class Drawn(BaseModel):
    """What to draw: all around `focus` (`kind:name`; all there is, by default), `features` not
    folded into their views, `direct` links only, only nodes of some `kind`."""

    focus: str = ""
    features: bool = False
    direct: bool = False
    depth: int | None = Field(None, ge=0)
    kind: list[str] = []


def answer(value: Any) -> JSONResponse:
    """Any answer of ours as JSON."""
    return JSONResponse(to_plain(value))


def questions(request: Request) -> LineageQuestions:
    """What answers."""
    return site_of(request).store.lineage


@router.get("/graph")
def graph(request: Request, asked: Annotated[Drawn, Query()]) -> JSONResponse:
    """The lineage graph of the environment, with the newest training sets, runs and models; of
    `focus` all that lies above and below it. Of more nodes than can be drawn, `hidden` are left
    out."""
    site = site_of(request)
    wanted = graph_reads.Wanted(
        features=asked.features,
        direct=asked.direct,
        kinds=frozenset(asked.kind),
        depth=asked.depth,
    )
    if asked.focus:
        made = graph_reads.around(site.store.registry, site.catalogue(), asked.focus, wanted)
    else:
        defined = site.definitions(features=asked.features)
        made = graph_reads.overview(site.store.registry, site.catalogue(), defined, wanted)
    return answer(made)


@router.get("/search")
def search(request: Request, q: str = "", kind: str = "", limit: int = FOUND_MAX) -> JSONResponse:
    """The objects of the catalogue that hold every word, best first: kind, name, page."""
    found = site_of(request).catalogue().search(q, kind=kind)
    hits = [
        {"kind": one.kind, "name": one.name, "url": url_of(one.kind, one.name)}
        for one in found.items[: max(0, limit)]
    ]
    return answer({"items": hits, "count": found.count})


@router.get("/impact")
def impact(request: Request, target: str, at: str | None = None) -> JSONResponse:
    """What a change of a column, a source or a feature would touch."""
    return answer(questions(request).impact(target, at=at))


@router.get("/who-uses")
def who_uses(request: Request, target: str, at: str | None = None) -> JSONResponse:
    """Who uses a feature or a view."""
    return answer(questions(request).who_uses(target, at=at))


@router.get("/lineage")
def lineage(
    request: Request,
    target: str,
    direction: Literal["up", "down"] = "up",
    depth: int | None = None,
    at: str | None = None,
) -> JSONResponse:
    """What something was made of, or what was made of it."""
    return answer(questions(request).of(target, up=direction == "up", depth=depth, at=at))


@router.get("/freshness")
def freshness(request: Request, service: str, at: str | None = None) -> JSONResponse:
    """Up to which instant what a service answers is known."""
    return answer(questions(request).freshness(service, at=at))


@router.get("/blast")
def blast(
    request: Request,
    target: str,
    start: str | None = None,
    end: str | None = None,
    at: str | None = None,
) -> JSONResponse:
    """Which training sets, runs and models saw a bad snapshot or interval."""
    return answer(questions(request).blast(target, start=start, end=end, at=at))


@router.get("/gc")
def garbage(request: Request, older_than: str = "1d", at: str | None = None) -> JSONResponse:
    """What a collection would remove, now or later."""
    facade = site_of(request).acting(request.state.token).lineage
    return answer(facade.gc(older_than=older_than, dry_run=True, at=at))


@router.post("/gc")
def collect(request: Request, older_than: str = "1d") -> JSONResponse:
    """Remove files of ours that nothing names."""
    return answer(site_of(request).acting(request.state.token).lineage.gc(older_than=older_than))


@router.post("/erase")
def erase(request: Request, keys: Keys) -> JSONResponse:
    """Which training sets hold keys of an entity; then delete the keys, online and offline."""
    facade = site_of(request).acting(request.state.token).lineage
    return answer(facade.erase(keys.entity, keys.keys, dry_run=keys.dry_run, at=keys.at))


@router.get("/history")
def history(request: Request, alias: str, at: str | None = None) -> JSONResponse:
    """The moves of an alias."""
    return answer(questions(request).history(alias, at=at))


@router.get("/diff")
def diff(
    request: Request, alias: str, start: str, end: str | None = None, at: str | None = None
) -> JSONResponse:
    """What moved below an alias between two instants."""
    return answer(questions(request).diff(alias, start, end, at=at))


@router.get("/plan")
def plan(request: Request) -> JSONResponse:
    """What an apply of the folder would change."""
    return JSONResponse(json.loads(site_of(request).plan().to_json()))


@router.get("/training-sets")
def training_sets(request: Request) -> JSONResponse:
    """The records of all training sets, oldest first."""
    stored = site_of(request).store.registry.glances(kind=TRAINING_SET, with_parents=False)
    return answer(
        [{"id": one.id, "created_at_us": one.created_at_us, **one.body} for one in stored]
    )


@router.post("/training-sets/reproduce")
def reproduce(request: Request, ref: str, at: str | None = None) -> JSONResponse:
    """Rebuild a training set (or that of a model or run) and say whether it is the same."""
    return answer(site_of(request).acting(request.state.token).reproduce(ref, at=at))


@router.get("/data/log")
def data_log(request: Request, name: str, limit: int = VERSIONS_MAX) -> JSONResponse:
    """The versions of a training set, or of what was pushed (`pushed/<source>`), newest first."""
    return answer(site_of(request).store.data.log(name, limit=min(limit, VERSIONS_MAX)))


@router.get("/data/diff")
def data_diff(request: Request, then: str, now: str, limit: int = 20) -> JSONResponse:
    """What differs between two versions of a training set, or of what was pushed."""
    facade = site_of(request).acting(request.state.token).data
    return answer(facade.diff(then, now, limit=limit))


@router.post("/data/restore")
def data_restore(request: Request, ref: str, move: Move) -> JSONResponse:
    """Make a training set, or what was pushed, what it was in a version."""
    facade = site_of(request).acting(request.state.token).data
    return answer(_named(facade.restore(ref, reason=move.reason, live=move.live)))


@router.post("/data/tag")
def data_tag(request: Request, ref: str, tag: str, move: bool = False) -> JSONResponse:
    """Give a version a tag (`move`: also one that another version has)."""
    facade = site_of(request).acting(request.state.token).data
    return answer(_named(facade.tag(ref, tag, move=move)))


@router.get("/data/vacuum")
def data_to_vacuum(request: Request, source: str, older_than: str = "7d") -> JSONResponse:
    """What a vacuum of a Delta table, or of what was pushed, would remove."""
    return answer(site_of(request).store.data.vacuum(source, older_than=older_than))


@router.post("/data/vacuum")
def data_vacuum(request: Request, source: str, older_than: str = "7d") -> JSONResponse:
    """Remove it."""
    facade = site_of(request).acting(request.state.token).data
    return answer(facade.vacuum(source, older_than=older_than, dry_run=False))


def _named(found: TrainingSet | RestoredTable | TableState) -> Any:
    """What was moved: a restore of pushed rows says more than which version it is."""
    if isinstance(found, TrainingSet):
        return {"id": found.id, "rows": found.rows}
    return found if isinstance(found, RestoredTable) else {"id": found.id}


@router.get("/runs")
def runs(
    request: Request, search: str = "", experiment: str | None = None, limit: int = RUNS_MAX
) -> JSONResponse:
    """The runs that a search finds, newest first."""
    found = site_of(request).store.runs
    return answer(found.search(search, experiment=experiment, limit=limit))


@router.get("/runs/{run_id}")
def run(request: Request, run_id: str) -> JSONResponse:
    """One run in full."""
    return answer(site_of(request).store.runs.get(run_id))


@router.get("/runs/{run_id}/metrics/{metric}")
def metric(request: Request, run_id: str, metric: str) -> JSONResponse:
    """All values of a metric, by step."""
    return answer(site_of(request).store.runs.metric(run_id, metric))


@router.get("/models")
def models(request: Request, name: str | None = None, at: str | None = None) -> JSONResponse:
    """Model versions with their stages."""
    return answer(site_of(request).store.models.list(name, at=at))


@router.get("/models/{name}/history")
def model_history(request: Request, name: str, at: str | None = None) -> JSONResponse:
    """The moves of a model's stages: who asked, who approved, who applied, and why."""
    return answer(site_of(request).store.models.history(name, at=at))


@router.get("/promotions")
def promotions(request: Request, name: str | None = None) -> JSONResponse:
    """Promotion requests as they stand."""
    return answer(site_of(request).store.models.promotions(name))


@router.post("/promotions/{request_id}/{verb}")
def decide(
    request: Request,
    request_id: str,
    verb: Literal["approve", "reject", "withdraw"],
    decision: Decision,
) -> JSONResponse:
    """Approve, reject or withdraw a request."""
    facade = site_of(request).acting(request.state.token).models
    match verb:
        case "approve":
            return answer(facade.approve(request_id, by=decision.by, reason=decision.reason))
        case "reject":
            return answer(facade.reject(request_id, by=decision.by, reason=decision.reason))
        case "withdraw":
            return answer(facade.withdraw(request_id, by=decision.by, reason=decision.reason))

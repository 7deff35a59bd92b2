"""Which version of a model left a stage, which came, and who is answerable: who asked, who approved
what was judged, who applied it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import RecordNotFound
from featurestore.jobs.environments import model_names
from featurestore.jobs.models import versions_of
from featurestore.jobs.promotion_records import move_reason
from featurestore.lifecycle.models import STAGES, check_model_name, model_alias
from featurestore.lifecycle.promotions import PROMOTION, Approval, Promotion, State

if TYPE_CHECKING:
    from featurestore.records import AliasEvent
    from featurestore.stores.registry.base import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMove:
    """One move of a stage: which version left it (None: nobody) and which came.

    `by` applied it, `reason` is what they or the request said. `request` is the promotion that it
    came by (None where a version was archived by hand), as it stood at that moment: who asked, the
    approvals that counted, whether the glass was broken instead, and the hash of the evidence.
    """

    stage: str
    at_us: int
    before: str | None
    after: str | None
    by: str
    reason: str
    request: str | None = None
    requester: str | None = None
    approvals: tuple[Approval, ...] = ()
    break_glass: bool = False
    evidence: str | None = None


def history(
    registry: Registry, name: str, *, environment: str, at_us: int | None = None
) -> tuple[StageMove, ...]:
    """All moves of the model's stages in an environment, oldest first, up to an instant."""
    check_model_name(name)
    refs = {version.id: version.ref for version in versions_of(registry, name)}
    if not refs:
        raise RecordNotFound(f"model {name}", known=model_names(registry))
    applied = _applied(registry, name, environment)
    moves = [
        _move(stage, event, refs, applied.get(event.reason))
        for stage in STAGES[1:]
        for event in registry.history(model_alias(name, stage, environment))
        if at_us is None or event.at_us <= at_us
    ]
    return tuple(sorted(moves, key=lambda move: (move.at_us, STAGES.index(move.stage))))


def _applied(registry: Registry, name: str, environment: str) -> dict[str, Promotion]:
    """The model's requests as they were when they were applied, by what the stage's history says of
    that commit."""
    states = map(Promotion.of, registry.records(kind=PROMOTION, name=name))
    return {
        move_reason(one): one
        for one in states
        if one.state is State.APPLIED and one.environment == environment
    }


def _move(
    stage: str, event: AliasEvent, refs: Mapping[str, str], promotion: Promotion | None
) -> StageMove:
    return StageMove(
        stage=stage,
        at_us=event.at_us,
        before=None if event.previous is None else refs.get(event.previous, event.previous),
        after=None if event.target is None else refs.get(event.target, event.target),
        by=event.author,
        reason=event.reason,
        request=None if promotion is None else promotion.id,
        requester=None if promotion is None else promotion.requester,
        approvals=() if promotion is None else promotion.valid_approvals,
        break_glass=promotion is not None and promotion.break_glass,
        evidence=None if promotion is None else promotion.evidence_hash,
    )

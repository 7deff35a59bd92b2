"""Promotions: a request, its checks, and what others decide about it.

Every step states what it believed of the request and moves the alias `promotion/<id>`, so that of
two that act at once one wins, and the other looks again. What follows from an approved request is
in `promotion_applying`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from featurestore.errors import (
    ApprovalRequired,
    InvalidRequest,
    LineageIncomplete,
    PermissionDenied,
)
from featurestore.jobs.models import Models, get, stages_of
from featurestore.jobs.promotion_applying import apply, break_the_glass
from featurestore.jobs.promotion_records import Rules, decision_of, evidence_of, read, record_of
from featurestore.jobs.promotion_steps import check_unmoved, live, move, retrying, who_acts
from featurestore.lifecycle.gates import check_passed
from featurestore.lifecycle.models import TARGETS, ModelVersion, check_text
from featurestore.lifecycle.promotions import (
    PROMOTION_LIFE_US,
    Approval,
    Event,
    Promotion,
    State,
    approval_problem,
    check_life,
)
from featurestore.records import AliasIs

if TYPE_CHECKING:
    from featurestore.jobs.gates import GateReport

Judge = Callable[[ModelVersion, str], "GateReport"]
"""Runs the gates of a version: `(version, environment) → report`."""


def promote(
    models: Models,
    ref: str,
    to: str,
    *,
    reason: str,
    judge: Judge,
    rules: Rules,
    by: str | None = None,
    life_us: int = PROMOTION_LIFE_US,
    break_glass: bool = False,
) -> Promotion:
    """Ask that a version comes into a stage, and run its checks. What needs no approval is applied
    at once. With `break_glass` it is applied unchecked and unapproved, by somebody who may approve,
    and an event of its own says so.

    Raises `LineageIncomplete`, `GateFailed` (the request is there and says so), `InvalidRequest`,
    `RecordNotFound`, `PermissionDenied`, `CommitConflict`.
    """
    if to not in TARGETS:
        raise InvalidRequest(f"a model is promoted to {' or '.join(TARGETS)}, not to {to!r}")
    why = check_text(reason, "reason")
    if not why:
        raise InvalidRequest("say why: a promotion needs a reason")
    version = get(models.registry, ref, environment=models.environment)
    if version.missing:
        raise LineageIncomplete(version.ref, missing=version.missing)
    who = who_acts(models, "approve" if break_glass else "track", version.name, by)
    stage = stages_of(models.registry, version.name, models.environment).get(version.id)
    now_us = models.clock.now_us()
    request = Promotion(
        id=uuid.uuid4().hex[:10],
        name=version.name,
        number=version.number,
        model=version.id,
        source=stage or "development",
        to=to,
        environment=models.environment,
        requester=who,
        reason=why,
        opened_at_us=now_us,
        expires_at_us=now_us + check_life(life_us),
        approvals_needed=rules.approvals_for(to),
        break_glass=break_glass,
    )
    if request.source == to:
        raise InvalidRequest(f"{version.ref} is in {to} of environment {models.environment!r}")
    if break_glass:
        return retrying(lambda: break_the_glass(models, request, rules))
    draft = record_of(request)
    running = record_of(request.after(Event.CHECK, at_us=now_us), before=draft.id)
    models.registry.commit(
        requires=[AliasIs(request.alias, None)],
        records=[draft, running],
        aliases={request.alias: running.id},
        reason=f"promote {request.ref} to {to}",
    )
    return _judge(models, read(models.registry, request.id), version, judge, rules)


def check(models: Models, request: str, *, judge: Judge, rules: Rules) -> Promotion:
    """Run a request's checks again; what was approved before is void. Raises as `promote` does."""
    before = live(models, request)
    who_acts(models, "track", before.name, None)
    version = get(models.registry, before.model, environment=before.environment)
    running = before.after(Event.CHECK, at_us=models.clock.now_us())
    running = replace(running, approvals_needed=rules.approvals_for(before.to))
    move(models, before, running, reason=f"check {before.ref}")
    return _judge(models, read(models.registry, request), version, judge, rules)


def _judge(
    models: Models, running: Promotion, version: ModelVersion, judge: Judge, rules: Rules
) -> Promotion:
    report = judge(version, running.environment)
    evidence = evidence_of(models, running, rules)
    event = Event.PASS if report.passed else Event.FAIL
    judged = running.after(
        event, evidence=evidence, report=report.record, at_us=models.clock.now_us()
    )
    move(models, running, judged, reason=f"checks of {running.ref}: {judged.state.value}")
    if not report.passed:
        check_passed(report.results, what=running.ref, request=running.id)
    if running.approvals_needed == 0:
        now_us = models.clock.now_us()
        before = read(models.registry, running.id)
        move(models, before, before.after(Event.APPROVE, at_us=now_us), reason="no approval needed")
        return apply(models, running.id, rules=rules)
    return read(models.registry, running.id)


# --- decisions ------------------------------------------------------------------------------------


def approve(
    models: Models,
    request: str,
    *,
    rules: Rules,
    by: str | None = None,
    reason: str = "",
    then_apply: bool = True,
) -> Promotion:
    """Consent to a request as it was judged. When as many as are needed have, it is applied, unless
    that is left for later.

    Raises `ApprovalRequired` where this approval can't count (one's own request, evidence that
    changed, a second time), `IllegalTransition`, `PermissionDenied`, `RecordNotFound`.
    """
    why = check_text(reason, "reason")
    approved = retrying(lambda: _approve(models, request, rules, by, why))
    if approved.state is State.APPROVED and then_apply:
        return apply(models, request, rules=rules)
    return approved


def _approve(models: Models, request: str, rules: Rules, by: str | None, reason: str) -> Promotion:
    before = live(models, request)
    who = who_acts(models, "approve", before.name, by)
    now_us = models.clock.now_us()
    if before.state is not State.PENDING_APPROVAL:
        before.after(Event.ENDORSE)  # raises, for it is possible in no other state
    now = evidence_of(models, before, rules)
    if problem := approval_problem(before, who, now):
        check_unmoved(models, before)
        raise ApprovalRequired(
            f"promotion {before.id} of {before.ref} can't be approved: {problem}",
            request=before.id,
        )
    approvals = (*before.approvals, Approval(who, now_us, now.hash, reason))
    endorsed = replace(before, approvals=approvals)
    event = Event.APPROVE if endorsed.is_approved else Event.ENDORSE
    after = before.after(event, approvals=approvals, at_us=now_us)
    consent = decision_of(before, who, now, decision="approve", reason=reason, at_us=now_us)
    move(models, before, after, consent, reason=f"approve {before.ref}")
    return read(models.registry, request)


def reject(models: Models, request: str, *, reason: str, by: str | None = None) -> Promotion:
    """Refuse a request, for good. Raises `IllegalTransition`, `InvalidRequest` without a reason,
    `PermissionDenied`."""
    why = check_text(reason, "reason")
    if not why:
        raise InvalidRequest("say why: a rejection needs a reason")

    def step() -> Promotion:
        before = live(models, request)
        who = who_acts(models, "approve", before.name, by)
        now_us = models.clock.now_us()
        after = before.after(Event.REJECT, note=why, at_us=now_us)
        refusal = decision_of(
            before, who, before.evidence, decision="reject", reason=why, at_us=now_us
        )
        move(models, before, after, refusal, reason=f"reject {before.ref}")
        return read(models.registry, request)

    return retrying(step)


def withdraw(models: Models, request: str, *, reason: str = "", by: str | None = None) -> Promotion:
    """Take one's own request back. Raises `IllegalTransition`, `PermissionDenied`."""
    why = check_text(reason, "reason")

    def step() -> Promotion:
        before = live(models, request)
        who = who_acts(models, "track", before.name, by)
        if who != before.requester:
            raise PermissionDenied(
                f"{before.requester} asked for promotion {before.id}; {who} can't withdraw it. "
                "Whoever may approve can reject it",
                principal=who,
            )
        after = before.after(Event.WITHDRAW, note=why, at_us=models.clock.now_us())
        move(models, before, after, reason=f"withdraw {before.ref}")
        return read(models.registry, request)

    return retrying(step)

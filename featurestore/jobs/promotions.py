"""Promotions: a request, its checks, its approvals, and the one commit that puts a version into its
stage.

Every step states what it believed of the request and moves the alias `promotion/<id>`; applying
states besides what stands in the stage, what the environment has and what was evaluated last. So of
two that act at once one wins, and the other looks again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from featurestore.errors import (
    ApprovalRequired,
    CommitConflict,
    IllegalTransition,
    InvalidRequest,
    LineageIncomplete,
    PermissionDenied,
    RecordNotFound,
)
from featurestore.fingerprint import fingerprint
from featurestore.jobs import access
from featurestore.jobs.environments import environment_alias
from featurestore.jobs.models import (
    Models,
    get,
    read_version,
    service_version_in,
    stages_of,
    target_at,
)
from featurestore.jobs.pins import pin
from featurestore.lifecycle.gates import check_passed
from featurestore.lifecycle.models import (
    TARGETS,
    ModelVersion,
    check_text,
    model_alias,
    parents_by_role,
)
from featurestore.lifecycle.promotions import (
    PROMOTION,
    PROMOTION_LIFE_US,
    Approval,
    Event,
    Evidence,
    Promotion,
    State,
    apply_promotion,
    approval_problem,
    check_life,
    expired_note,
    is_open,
)
from featurestore.records import AliasIs, Edge, Record

if TYPE_CHECKING:
    from featurestore.definitions.gates import Gates
    from featurestore.jobs.gates import GateReport
    from featurestore.permissions import Action
    from featurestore.stores.registry.base import Registry

ATTEMPTS_MAX = 16
"""How often a step looks again when somebody else moved the request meanwhile."""
EVALUATIONS_LISTED_MAX = 200
"""Of a version, in the record of a request."""
APPROVAL = "approval"
BREAK_GLASS = "break_glass"
EVALUATION = "evaluation"
Step = TypeVar("Step")

Judge = Callable[[ModelVersion, str], "GateReport"]
"""Runs the gates of a version: `(version, environment) → report`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the repository declares about a model's promotions: the hash of its gates (None: there
    are none), and how many must approve of production."""

    gates: str | None = None
    approvals: int = 1

    @classmethod
    def of(cls, gates: Gates | None) -> Rules:
        """From what the repository declares for the model."""
        return cls() if gates is None else cls(gates=gates.fingerprint, approvals=gates.approvals)

    def approvals_for(self, to: str) -> int:
        """Staging needs nobody's consent."""
        return self.approvals if to == "production" else 0


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
    who = _who(models, "approve" if break_glass else "track", version.name, by)
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
        return _retrying(lambda: _break_glass(models, request, rules))
    draft = _record(request)
    running = _record(request.after(Event.CHECK, at_us=now_us), before=draft.id)
    models.registry.commit(
        requires=[AliasIs(request.alias, None)],
        records=[draft, running],
        aliases={request.alias: running.id},
        reason=f"promote {request.ref} to {to}",
    )
    return _judge(models, read(models.registry, request.id), version, judge, rules)


def check(models: Models, request: str, *, judge: Judge, rules: Rules) -> Promotion:
    """Run a request's checks again; what was approved before is void. Raises as `promote` does."""
    before = _live(models, request)
    _who(models, "track", before.name, None)
    version = get(models.registry, before.model, environment=before.environment)
    running = before.after(Event.CHECK, at_us=models.clock.now_us())
    running = replace(running, approvals_needed=rules.approvals_for(before.to))
    _move(models, before, running, reason=f"check {before.ref}")
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
    _move(models, running, judged, reason=f"checks of {running.ref}: {judged.state.value}")
    if not report.passed:
        check_passed(report.results, what=running.ref, request=running.id)
    if running.approvals_needed == 0:
        now_us = models.clock.now_us()
        before = read(models.registry, running.id)
        _move(
            models, before, before.after(Event.APPROVE, at_us=now_us), reason="no approval needed"
        )
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
    approved = _retrying(lambda: _approve(models, request, rules, by, why))
    if approved.state is State.APPROVED and then_apply:
        return apply(models, request, rules=rules)
    return approved


def _approve(models: Models, request: str, rules: Rules, by: str | None, reason: str) -> Promotion:
    before = _live(models, request)
    who = _who(models, "approve", before.name, by)
    now_us = models.clock.now_us()
    if before.state is not State.PENDING_APPROVAL:
        before.after(Event.ENDORSE)  # raises, for it is possible in no other state
    now = evidence_of(models, before, rules)
    if problem := approval_problem(before, who, now):
        _check_unmoved(models, before)
        raise ApprovalRequired(
            f"promotion {before.id} of {before.ref} can't be approved: {problem}",
            request=before.id,
        )
    approvals = (*before.approvals, Approval(who, now_us, now.hash, reason))
    endorsed = replace(before, approvals=approvals)
    event = Event.APPROVE if endorsed.is_approved else Event.ENDORSE
    after = before.after(event, approvals=approvals, at_us=now_us)
    consent = _decision(before, who, now, decision="approve", reason=reason, at_us=now_us)
    _move(models, before, after, consent, reason=f"approve {before.ref}")
    return read(models.registry, request)


def reject(models: Models, request: str, *, reason: str, by: str | None = None) -> Promotion:
    """Refuse a request, for good. Raises `IllegalTransition`, `InvalidRequest` without a reason,
    `PermissionDenied`."""
    why = check_text(reason, "reason")
    if not why:
        raise InvalidRequest("say why: a rejection needs a reason")

    def step() -> Promotion:
        before = _live(models, request)
        who = _who(models, "approve", before.name, by)
        now_us = models.clock.now_us()
        after = before.after(Event.REJECT, note=why, at_us=now_us)
        refusal = _decision(
            before, who, before.evidence, decision="reject", reason=why, at_us=now_us
        )
        _move(models, before, after, refusal, reason=f"reject {before.ref}")
        return read(models.registry, request)

    return _retrying(step)


def withdraw(models: Models, request: str, *, reason: str = "", by: str | None = None) -> Promotion:
    """Take one's own request back. Raises `IllegalTransition`, `PermissionDenied`."""
    why = check_text(reason, "reason")

    def step() -> Promotion:
        before = _live(models, request)
        who = _who(models, "track", before.name, by)
        if who != before.requester:
            raise PermissionDenied(
                f"{before.requester} asked for promotion {before.id}; {who} can't withdraw it. "
                "Whoever may approve can reject it",
                principal=who,
            )
        after = before.after(Event.WITHDRAW, note=why, at_us=models.clock.now_us())
        _move(models, before, after, reason=f"withdraw {before.ref}")
        return read(models.registry, request)

    return _retrying(step)


# --- applying -------------------------------------------------------------------------------------


def apply(models: Models, request: str, *, rules: Rules) -> Promotion:
    """Put the version of an approved request into its stage, in one commit with all that follows
    from it. Raises `ApprovalRequired` where the evidence has changed since it was approved,
    `IllegalTransition`, `PermissionDenied`, `CommitConflict`."""
    return _retrying(lambda: _apply(models, request, rules))


def _apply(models: Models, request: str, rules: Rules) -> Promotion:
    before = _live(models, request)
    if before.state is State.APPLIED:
        return before  # the answer to the commit before was lost, not the commit
    if before.state is not State.APPROVED:
        before.after(Event.APPLY)  # raises
    _who(models, "approve" if before.to == "production" else "track", before.name, None)
    believed = _beliefs(models, before)
    now = evidence_of(models, before, rules)
    if before.evidence is None or before.evidence.hash != now.hash:
        _check_unmoved(models, before)
        changed = () if before.evidence is None else before.evidence.changes(now)
        raise ApprovalRequired(
            f"the evidence of promotion {before.id} changed after it was approved "
            f"({', '.join(changed)}), so that the approval is void; run its checks again: "
            f"featurestore models check {before.id}",
            request=before.id,
        )
    if not before.is_approved:
        raise ApprovalRequired(
            f"promotion {before.id} has {len(before.valid_approvals)} of "
            f"{before.approvals_needed} approvals",
            request=before.id,
        )
    _check_signed(models, before)
    return _put(models, before, Event.APPLY, champion=now.champion, believed=believed)


def _check_signed(models: Models, promotion: Promotion) -> None:
    """Where access control is on, approvals count only as the registry wrote down who gave them."""
    if not access.read_policy(models.registry).enforced:
        return
    signed = {
        stored.author
        for stored in models.registry.records(kind=APPROVAL, name=promotion.name)
        if stored.record.body["request"] == promotion.id
        and stored.record.body["decision"] == "approve"
    }
    unsigned = sorted({a.by for a in promotion.valid_approvals} - signed)
    if unsigned:
        raise ApprovalRequired(
            f"promotion {promotion.id} names {', '.join(unsigned)} as approving, whose token has "
            "not signed it",
            request=promotion.id,
        )


def _break_glass(models: Models, request: Promotion, rules: Rules) -> Promotion:
    believed = _beliefs(models, request)
    evidence = evidence_of(models, request, rules)
    now_us = models.clock.now_us()
    request = replace(request, evidence=evidence, note=request.reason, at_us=now_us)
    body = {
        "request": request.id,
        "by": request.requester,
        "reason": request.reason,
        "to": request.to,
        "environment": request.environment,
        "champion": evidence.champion,
        "at_us": now_us,
    }
    event = Record(
        kind=BREAK_GLASS,
        name=request.name,
        body=body,
        parents=(Edge(parent=request.model, role="model"),),
    )
    return _put(
        models,
        request,
        Event.BREAK_GLASS,
        champion=evidence.champion,
        believed=believed,
        also=event,
    )


def _put(
    models: Models,
    before: Promotion,
    event: Event,
    *,
    champion: str | None,
    believed: Sequence[AliasIs],
    also: Record | None = None,
) -> Promotion:
    registry, now_us = models.registry, models.clock.now_us()
    others = list_promotions(registry, before.name, environment=before.environment)
    done = apply_promotion(before, event=event, champion=champion, others=others)
    stated = {other.id: other for other in others}
    records = [] if also is None else [also]
    aliases: dict[str, str | None] = {}
    requires = [*believed, AliasIs(before.alias, before.record or None)]
    for promotion in done.promotions:
        earlier = stated.get(promotion.id)
        record = _record(replace(promotion, at_us=now_us), before=promotion.record or None)
        records.append(record)
        aliases[promotion.alias] = record.id
        if earlier is not None and promotion.id != before.id:
            requires.append(AliasIs(promotion.alias, earlier.record))
    for stage, model in done.stages.items():
        aliases[model_alias(before.name, stage, before.environment)] = model
    glass = "break-glass: " if event is Event.BREAK_GLASS else ""
    registry.commit(
        requires=requires,
        records=records,
        aliases=aliases,
        reason=f"{glass}{before.reason} (promotion {before.id})",
    )
    if before.to == "production":
        # Whoever puts into staging may not pin; the next sweep or publication does it first.
        pin(registry, before.environment)
    return read(registry, before.id)


def archive(models: Models, ref: str, *, reason: str, by: str | None = None) -> ModelVersion:
    """Take a version out of staging or production, where nobody takes its place.

    Raises `InvalidRequest` where it is in neither, `PermissionDenied`, `RecordNotFound`.
    """
    why = check_text(reason, "reason")
    if not why:
        raise InvalidRequest("say why: archiving needs a reason")

    def step() -> ModelVersion:
        registry, environment = models.registry, models.environment
        version = get(registry, ref, environment=environment)
        _who(models, "approve", version.name, by)
        aliases = {stage: model_alias(version.name, stage, environment) for stage in TARGETS}
        there = [a for a in aliases.values() if target_at(registry, a, None) == version.id]
        if not there:
            raise InvalidRequest(f"{version.ref} is in no stage of environment {environment!r}")
        over = [
            one.after(Event.SUPERSEDE, note=f"archived: {why}", at_us=models.clock.now_us())
            for one in list_promotions(registry, version.name, environment=environment)
            if one.model == version.id and one.state is State.APPLIED
        ]
        states = [_record(one, before=one.record) for one in over]
        moves: dict[str, str | None] = dict.fromkeys(there)
        moves |= {one.alias: state.id for one, state in zip(over, states, strict=True)}
        moves[model_alias(version.name, "archived", environment)] = version.id
        registry.commit(
            requires=[
                *(AliasIs(alias, version.id) for alias in there),
                *(AliasIs(one.alias, one.record) for one in over),
            ],
            records=states,
            aliases=moves,
            reason=f"archive {version.ref}: {why}",
        )
        return version

    return _retrying(step)


# --- reading --------------------------------------------------------------------------------------


def read(registry: Registry, request: str, *, now_us: int | None = None) -> Promotion:
    """A request as it stands, at an instant if one is given. Raises `RecordNotFound`."""
    alias = f"{PROMOTION}/{request}"
    found = registry.aliases(alias).get(alias)
    if found is None:
        known = [name.partition("/")[2] for name in registry.aliases(f"{PROMOTION}/")]
        raise RecordNotFound(f"promotion {request}", known=known)
    promotion = Promotion.of(registry.record(found.target))
    return promotion if now_us is None else promotion.at(now_us)


def list_promotions(
    registry: Registry,
    name: str | None = None,
    *,
    environment: str | None = None,
    now_us: int | None = None,
) -> tuple[Promotion, ...]:
    """The requests (of one model, of one environment) as they stand, oldest first."""
    # Every state moved the request's alias, so the last record of a request is where it stands.
    states = map(Promotion.of, registry.records(kind=PROMOTION, name=name))
    found = {promotion.id: promotion for promotion in states}
    chosen = [
        promotion if now_us is None else promotion.at(now_us)
        for promotion in found.values()
        if environment in (None, promotion.environment)
    ]
    return tuple(sorted(chosen, key=lambda promotion: (promotion.opened_at_us, promotion.id)))


def states_of(registry: Registry, request: str) -> tuple[Promotion, ...]:
    """All states that a request went through, oldest first."""
    newest = read(registry, request)
    chain, before = [newest], registry.record(newest.record).record
    while (above := parents_by_role(before).get(PROMOTION)) is not None:
        stored = registry.record(above)
        chain.append(Promotion.of(stored))
        before = stored.record
    return tuple(reversed(chain))


def evidence_of(models: Models, promotion: Promotion, rules: Rules) -> Evidence:
    """What the request would be judged by now."""
    version = read_version(models.registry, promotion.model)
    return Evidence(
        model=version.id,
        artifact=version.artifact.digest,
        training_set=version.training_set,
        evaluations=_judged_by(evaluations_of(models.registry, version)),
        service=version.service_name,
        service_version=service_version_in(
            models.registry, promotion.environment, version.service_name
        ),
        gates=rules.gates,
        champion=champion_of(models.registry, promotion.name, promotion.environment),
    )


def _judged_by(evaluations: list[str]) -> tuple[str, ...]:
    """The newest ones, and a hash of those before where a record could not list them all."""
    older = evaluations[:-EVALUATIONS_LISTED_MAX]
    listed = evaluations[-EVALUATIONS_LISTED_MAX:]
    return (*listed, *((f"older: {fingerprint(older)}",) if older else ()))


def champion_of(registry: Registry, name: str, environment: str) -> str | None:
    """The id of the version in production."""
    return target_at(registry, model_alias(name, "production", environment), None)


def evaluations_of(registry: Registry, version: ModelVersion) -> list[str]:
    """The ids of a version's evaluations, oldest first."""
    return [
        stored.id
        for stored in registry.records(kind=EVALUATION, name=version.name)
        if parents_by_role(stored.record).get("model") == version.id
    ]


# --- the parts of a step --------------------------------------------------------------------------


def _who(models: Models, action: Action, name: str, by: str | None) -> str:
    """Who acts: whom the token proves; without access control whoever they say they are, or the
    author of this process."""
    resource = f"model/{name}" if action == "approve" else name
    who = access.admit(models.asker(), action, resource)
    access.note(models.registry, who, action, resource, detail="promotion")
    if by is None or by == who:
        return who
    if access.read_policy(models.registry).enforced:
        raise PermissionDenied(f"the token is {who}'s, not {by}'s", principal=who)
    return check_text(by, "name")


def _live(models: Models, request: str) -> Promotion:
    """A request that may go on. One whose time is over is closed here, and raises."""
    promotion = read(models.registry, request)
    now_us = models.clock.now_us()
    if promotion.at(now_us).state is State.EXPIRED and is_open(promotion.state):
        after = promotion.after(Event.EXPIRE, at_us=now_us)
        _move(models, promotion, after, reason=f"promotion of {promotion.ref} expired")
        raise IllegalTransition(
            state=State.EXPIRED.value,
            event="anything",
            allowed=(),
            hint=f"Promotion {request}: {expired_note(promotion)}",
        )
    return promotion


def _beliefs(models: Models, promotion: Promotion) -> list[AliasIs]:
    """What the evidence rests on: who is in the stages, what the environment has, what was
    evaluated last. Read before the evidence, so that what moves meanwhile is noticed."""
    names = (
        *(model_alias(promotion.name, stage, promotion.environment) for stage in TARGETS),
        environment_alias(promotion.environment),
        f"{EVALUATION}/{promotion.name}",
    )
    found = {name: models.registry.aliases(name).get(name) for name in names}
    return [AliasIs(name, None if at is None else at.target) for name, at in found.items()]


def _move(models: Models, before: Promotion, after: Promotion, *also: Record, reason: str) -> None:
    record = _record(after, before=before.record)
    models.registry.commit(
        requires=[AliasIs(before.alias, before.record)],
        records=[record, *also],
        aliases={before.alias: record.id},
        reason=reason,
    )


def _record(promotion: Promotion, *, before: str | None = None) -> Record:
    parents = [Edge(parent=promotion.model, role="model")]
    if before:
        parents.append(Edge(parent=before, role=PROMOTION))
    if promotion.report is not None:
        parents.append(Edge(parent=promotion.report, role="gate_report"))
    if promotion.evidence is not None:
        listed = [one for one in promotion.evidence.evaluations if "@" in one]
        parents += [Edge(parent=one, role=EVALUATION) for one in listed]
    return Record(
        kind=PROMOTION, name=promotion.name, body=promotion.body(), parents=tuple(parents)
    )


def _decision(
    promotion: Promotion,
    who: str,
    evidence: Evidence | None,
    *,
    decision: str,
    reason: str,
    at_us: int,
) -> Record:
    body: Mapping[str, object] = {
        "request": promotion.id,
        "by": who,
        "decision": decision,
        "evidence_hash": None if evidence is None else evidence.hash,
        "reason": reason,
        "at_us": at_us,
    }
    parents = (
        Edge(parent=promotion.model, role="model"),
        Edge(parent=promotion.record, role=PROMOTION),
    )
    return Record(kind=APPROVAL, name=promotion.name, body=body, parents=parents)


def _check_unmoved(models: Models, before: Promotion) -> None:
    """Evidence that differs may be what somebody has just made of this very request, the new
    champion say. Raises `CommitConflict` where the request is no longer as it was read."""
    now = read(models.registry, before.id)
    if now.record != before.record:
        raise CommitConflict(before.alias, expected=before.record, found=now.record)


def _retrying(step: Callable[[], Step]) -> Step:
    """A step again, where another was first: it reads anew what it decides by."""
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return step()
        except CommitConflict:
            continue
    return step()

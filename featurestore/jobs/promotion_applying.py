"""Applying promotions: the one commit that puts a version into its stage, or takes it out.

It states what stands in the stages, what the environment has and what was evaluated last, and keeps
what the version reads. So of two that act at once one wins, and the other looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from featurestore.errors import ApprovalRequired, InvalidRequest
from featurestore.jobs import access
from featurestore.jobs.environments import environment_alias
from featurestore.jobs.models import Models, get, target_at
from featurestore.jobs.pins import Pins, pins_for
from featurestore.jobs.promotion_records import (
    APPROVAL,
    Rules,
    evidence_of,
    glass_record,
    list_promotions,
    move_reason,
    read,
    record_of,
)
from featurestore.jobs.promotion_steps import beliefs, check_unmoved, live, retrying, who_acts
from featurestore.lifecycle.models import TARGETS, ModelVersion, check_text, model_alias
from featurestore.lifecycle.promotions import Event, Promotion, State, apply_promotion
from featurestore.permissions import PINNERS
from featurestore.records import AliasIs, Record


def apply(models: Models, request: str, *, rules: Rules) -> Promotion:
    """Put the version of an approved request into its stage, in one commit with all that follows
    from it. Raises `ApprovalRequired` where the evidence has changed since it was approved,
    `IllegalTransition`, `PermissionDenied`, `CommitConflict`."""
    return retrying(lambda: _apply(models, request, rules))


def _apply(models: Models, request: str, rules: Rules) -> Promotion:
    before = live(models, request)
    if before.state is State.APPLIED:
        return before  # the answer to the commit before was lost, not the commit
    if before.state is not State.APPROVED:
        before.after(Event.APPLY)  # raises
    who_acts(models, "approve" if before.to == "production" else "track", before.name, None)
    believed = beliefs(models, before)
    now = evidence_of(models, before, rules)
    if before.evidence is None or before.evidence.hash != now.hash:
        check_unmoved(models, before)
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


def break_the_glass(models: Models, request: Promotion, rules: Rules) -> Promotion:
    """Put the version of a new request into its stage, unchecked and unapproved, and keep that as
    an event of its own. Raises `InvalidRequest` where there is no such environment,
    `CommitConflict`."""
    believed = beliefs(models, request)
    if AliasIs(environment_alias(request.environment), None) in believed:
        raise InvalidRequest(
            f"There is no environment {request.environment!r} in which a model could be in use; "
            "featurestore apply makes it"
        )
    evidence = evidence_of(models, request, rules)
    now_us = models.clock.now_us()
    request = replace(request, evidence=evidence, note=request.reason, at_us=now_us)
    glass = glass_record(request, champion=evidence.champion, at_us=now_us)
    return _put(
        models,
        request,
        Event.BREAK_GLASS,
        champion=evidence.champion,
        believed=believed,
        also=[glass],
    )


def _put(
    models: Models,
    before: Promotion,
    event: Event,
    *,
    champion: str | None,
    believed: Sequence[AliasIs],
    also: Sequence[Record] = (),
) -> Promotion:
    registry, now_us = models.registry, models.clock.now_us()
    others = list_promotions(registry, before.name, environment=before.environment)
    done = apply_promotion(before, event=event, champion=champion, others=others)
    stated = {other.alias: other.record for other in others if other.id != before.id}
    after = {one.alias: _record_after(one, at_us=now_us) for one in done.promotions}
    pins = pins_for(registry, before.environment, before.model) if _may_pin(models) else Pins()
    registry.commit(
        requires=[
            *believed,
            AliasIs(before.alias, before.record or None),
            *(AliasIs(alias, stated[alias]) for alias in after if alias in stated),
            *pins.requires,
        ],
        records=[*also, *after.values(), *pins.records],
        blobs=pins.blobs,
        aliases={
            **{alias: record.id for alias, record in after.items()},
            **{
                model_alias(before.name, stage, before.environment): model
                for stage, model in done.stages.items()
            },
            **pins.aliases,
        },
        reason=move_reason(before),
    )
    return read(registry, before.id)


def _record_after(promotion: Promotion, *, at_us: int) -> Record:
    return record_of(replace(promotion, at_us=at_us), before=promotion.record or None)


def _may_pin(models: Models) -> bool:
    """Whoever may only track brings a model into staging, and leaves pins to the next publication:
    a pin decides what servers answer. Nothing is lost by then, for whatever replaces or sweeps what
    is served publishes first."""
    return any(access.may(models.asker(), action, None) for action in PINNERS)


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
        who = who_acts(models, "approve", version.name, by)
        aliases = {stage: model_alias(version.name, stage, environment) for stage in TARGETS}
        there = [a for a in aliases.values() if target_at(registry, a, None) == version.id]
        if not there:
            raise InvalidRequest(f"{version.ref} is in no stage of environment {environment!r}")
        over = [
            one.after(Event.SUPERSEDE, note=f"archived: {why}", at_us=models.clock.now_us())
            for one in list_promotions(registry, version.name, environment=environment)
            if one.model == version.id and one.state is State.APPLIED
        ]
        states = [record_of(one, before=one.record) for one in over]
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
            reason=f"archive {version.ref}: {why}" + ("" if by is None else f" (by {who})"),
        )
        return version

    return retrying(step)

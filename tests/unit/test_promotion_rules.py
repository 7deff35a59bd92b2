"""Promotion requests as pure rules: every state against every event."""

from __future__ import annotations

from dataclasses import replace

import pytest

from featurestore.errors import IllegalTransition, InvalidRequest
from featurestore.lifecycle.promotions import (
    PROMOTION_LIFE_US_MAX,
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
    transition,
)
from featurestore.records import Record, StoredRecord

S, E = State, Event
ALLOWED = {
    S.DRAFT: {E.CHECK, E.BREAK_GLASS, E.WITHDRAW, E.EXPIRE},
    S.CHECKS_RUNNING: {E.CHECK, E.PASS, E.FAIL, E.WITHDRAW, E.EXPIRE},
    S.CHECKS_FAILED: {E.CHECK, E.WITHDRAW, E.EXPIRE},
    S.PENDING_APPROVAL: {
        E.ENDORSE, E.APPROVE, E.REJECT, E.CHECK, E.SUPERSEDE, E.WITHDRAW, E.EXPIRE,
    },
    S.APPROVED: {E.APPLY, E.REJECT, E.CHECK, E.SUPERSEDE, E.WITHDRAW, E.EXPIRE},
    S.APPLIED: {E.SUPERSEDE},
    S.REJECTED: set(), S.EXPIRED: set(), S.WITHDRAWN: set(), S.SUPERSEDED: set(),
}  # fmt: skip


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_state_and_every_event(state: State, event: Event) -> None:
    if event in ALLOWED[state]:
        assert transition(state, event) in State
        return
    with pytest.raises(IllegalTransition) as raised:
        transition(state, event)
    assert raised.value.state == state.value
    assert set(raised.value.allowed) == {one.value for one in ALLOWED[state]}


def test_nothing_reaches_production_without_checks_and_approval_but_by_breaking_the_glass() -> None:
    def paths(state: State, via: tuple[Event, ...]) -> set[tuple[Event, ...]]:
        if state is S.APPLIED:
            return {via}
        found = set()
        for event in ALLOWED[state]:
            following = transition(state, event)
            if event not in via:
                found |= paths(following, (*via, event))
        return found

    for path in paths(S.DRAFT, ()):
        assert path == (E.BREAK_GLASS,) or {E.CHECK, E.PASS, E.APPROVE, E.APPLY} <= set(path)


EVIDENCE = Evidence(
    model="model:delay@1", artifact="aa", training_set="training_set:t@1",
    evaluations=("evaluation:delay@1", "evaluation:delay@2"), service="delay_model",
    service_version="v1", gates="g1", champion=None,
)  # fmt: skip


def request(**changes: object) -> Promotion:
    base = Promotion(
        id="r1", name="delay", number=2, model="model:delay@1", source="development",
        to="production", environment="prod", requester="ann", reason="better",
        expires_at_us=100, approvals_needed=1, evidence=EVIDENCE, record="promotion:delay@1",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def test_evidence_says_what_changed() -> None:
    same = replace(EVIDENCE, evaluations=("evaluation:delay@2", "evaluation:delay@1"))
    assert same.hash == EVIDENCE.hash
    for name, value in (
        ("model", "x"), ("artifact", "x"), ("training_set", None), ("evaluations", ()),
        ("service_version", "v2"), ("gates", None), ("champion", "model:delay@0"),
    ):  # fmt: skip
        other = replace(EVIDENCE, **{name: value})
        assert other.hash != EVIDENCE.hash
        assert EVIDENCE.changes(other) == (name.replace("_", " "),)


def test_who_may_approve() -> None:
    pending = request(state=S.PENDING_APPROVAL)
    assert approval_problem(pending, "bob", EVIDENCE) is None
    assert "nobody approves their own" in str(approval_problem(pending, "ann", EVIDENCE))
    moved = replace(EVIDENCE, service_version="v2", champion="model:delay@0")
    assert "(service version, champion)" in str(approval_problem(pending, "bob", moved))
    unchecked = request(evidence=None)
    assert "have not run" in str(approval_problem(unchecked, "bob", EVIDENCE))
    approved = request(approvals=(Approval("bob", 1, EVIDENCE.hash),))
    assert "bob has approved it already" in str(approval_problem(approved, "bob", EVIDENCE))


def test_approvals_count_once_and_for_the_evidence_that_they_name() -> None:
    first, again = Approval("bob", 1, EVIDENCE.hash), Approval("bob", 2, EVIDENCE.hash)
    other = Approval("cem", 3, "another")
    two = request(approvals_needed=2, approvals=(first, again, other))
    assert [a.by for a in two.valid_approvals] == ["bob"]
    assert not two.is_approved
    assert replace(two, approvals=(first, Approval("cem", 3, EVIDENCE.hash))).is_approved
    assert request(evidence=None, approvals=(first,)).valid_approvals == ()


def test_a_new_check_voids_approvals() -> None:
    approved = request(state=S.APPROVED, approvals=(Approval("bob", 1, EVIDENCE.hash),))
    again = approved.after(E.CHECK)
    assert (again.approvals, again.evidence, again.state) == ((), None, S.CHECKS_RUNNING)


def test_it_expires_at_an_instant() -> None:
    pending = request(state=S.PENDING_APPROVAL)
    assert pending.at(99) is pending
    assert pending.at(100).state is S.EXPIRED
    assert request(state=S.APPLIED).at(100).state is S.APPLIED
    assert "1970" in expired_note(pending)
    assert not is_open(S.APPLIED)


def test_how_long_it_stays_open() -> None:
    assert check_life(1) == 1
    for bad in (0, -1, PROMOTION_LIFE_US_MAX + 1):
        with pytest.raises(InvalidRequest, match="PROMOTION_LIFE_US_MAX"):
            check_life(bad)


def test_a_request_is_its_record() -> None:
    pending = request(
        state=S.PENDING_APPROVAL, approvals=(Approval("bob", 1, EVIDENCE.hash, "ok"),)
    )
    record = Record(kind="promotion", name="delay", body=pending.body())
    stored = StoredRecord(id=record.id, record=record, created_at_us=7, author="cem")
    assert Promotion.of(stored) == replace(pending, record=record.id, at_us=7, by="cem")
    assert (pending.alias, pending.ref) == ("promotion/r1", "delay/2")
    draft = Record(kind="promotion", name="delay", body=request(evidence=None).body())
    stored = StoredRecord(id=draft.id, record=draft, created_at_us=7, author="cem")
    assert Promotion.of(stored).evidence is None


class TestApplying:
    approved = request(state=S.APPROVED)

    def test_the_champion_is_archived_and_its_rivals_are_superseded(self) -> None:
        before = request(id="r0", state=S.APPLIED)
        rival = request(id="r2", state=S.PENDING_APPROVAL)
        failed = request(id="r3", state=S.CHECKS_FAILED)
        staging = request(id="r4", state=S.APPLIED, to="staging")
        done = apply_promotion(
            self.approved,
            event=E.APPLY,
            champion="model:delay@0",
            others=[before, rival, failed, staging, self.approved],
        )
        assert {p.id: p.state for p in done.promotions} == {
            "r1": S.APPLIED,
            "r0": S.SUPERSEDED,
            "r2": S.SUPERSEDED,
        }
        assert done.stages == {"production": "model:delay@1", "archived": "model:delay@0"}

    def test_the_first_one_archives_nobody(self) -> None:
        done = apply_promotion(self.approved, event=E.APPLY, champion=None, others=())
        assert done.stages == {"production": "model:delay@1"}

    def test_staging_archives_nobody(self) -> None:
        staged = request(state=S.APPROVED, to="staging")
        done = apply_promotion(staged, event=E.APPLY, champion="model:delay@0", others=())
        assert done.stages == {"staging": "model:delay@1"}
